// Timers and their interrupts: rates against the TSC, one-shot and periodic, by PIC and IOAPIC.
//
// The host may be busy, so a rate has some attempts to come out right. Every wait ends by the TSC.
#include "acpi.h"
#include "clock.h"
#include "demo.h"
#include "interrupts.h"
#include "print.h"
#include "selftest.h"

#define ATTEMPTS 40
#define RATE 50
#define RATE_PERIODS 12
#define PIT_HZ 1193182

// Waits for a count of interrupts with interrupts on. False: time is up.
static bool wait_for_irqs(int vector, u32 count, u32 ms)
{
	u64 end = deadline_ms(ms);
	bool all;
	sti();
	while (!(all = irq_count[vector] >= count) && !passed(end))
		relax();
	cli();
	return all;
}

static u32 count_irqs(int vector, u32 ms)
{
	wait_for_irqs(vector, ~0u, 1);	// what is pending already does not count
	irq_count[vector] = 0;
	wait_for_irqs(vector, ~0u, ms);
	return irq_count[vector];
}

static u64 arrival[RATE_PERIODS + 1];
static u32 arrivals;
static void (*acknowledge)(void);

static void note_arrival(struct trap_frame *f)
{
	(void)f;
	if (arrivals < ARRAY_SIZE(arrival))
		arrival[arrivals++] = rdtsc();
	if (acknowledge)
		acknowledge();
}

// A busy host delays some interrupts and loses others, so not all distances are asked to be right, but a quarter. Where it lets the
// guest run now and then only, they come some at a time: then it is all of them together. They must never come too fast.
static bool rate_is_right(u64 wanted)
{
	u32 near = 0;
	for (u32 i = 0; i < RATE_PERIODS; i++) {
		u64 distance = arrival[i + 1] - arrival[i];
		near += distance > wanted - wanted / 5 && distance < wanted + wanted / 5;
	}
	u64 all = arrival[RATE_PERIODS] - arrival[0];
	bool together = all < RATE_PERIODS * (wanted + wanted / 5);
	return (near >= RATE_PERIODS / 4 || together) && all > RATE_PERIODS * (wanted - wanted / 5);
}

// A periodic timer that runs already.
static bool check_rate(const char *what, int vector, u64 hz)
{
	u64 wanted = tsc_hz / hz;
	bool right = false;
	irq_handler[vector] = note_arrival;
	arrivals = RATE_PERIODS + 1;
	for (int attempt = 0; attempt < ATTEMPTS && !right && arrivals > RATE_PERIODS; attempt++) {
		arrivals = 0;
		irq_count[vector] = 0;
		wait_for_irqs(vector, RATE_PERIODS + 1, 2000);
		right = arrivals > RATE_PERIODS && rate_is_right(wanted);
	}
	irq_handler[vector] = 0;
	if (arrivals <= RATE_PERIODS)
		return check(false, "%s: %u interrupts in 2 seconds, should be %lu", what, arrivals, 2 * hz);
	return check(right, "%s: an interrupt each %lu us, should be %lu", what, ticks_to_us((arrival[RATE_PERIODS] - arrival[0]) / RATE_PERIODS),
		     ticks_to_us(wanted));
}

// Exactly one interrupt, not before `us` are over. `start` arms the timer.
static void check_one_shot(const char *what, int vector, void (*start)(u32 us), u32 us)
{
	u64 wanted = mul_div(tsc_hz, us, 1000000);
	u64 armed, begin, most = mul_div(tsc_hz, 30000, 1000000);
	int attempt = 0;
	do {
		armed = rdtsc();
		start(40000);	// what is pending from earlier comes now
		wait_for_irqs(vector, ~0u, 1);
		irq_count[vector] = 0;
		begin = rdtsc();
		start(us);
		// A guest that is held up meanwhile gets the interrupt that was to be far away, too.
	} while (rdtsc() - armed > most && ++attempt < ATTEMPTS);
	bool came = wait_for_irqs(vector, 1, us / 1000 + 300);
	u64 ticks = rdtsc() - begin;
	check(came, "%s: no interrupt", what);
	check(!came || ticks + wanted / 50 >= wanted, "%s: after %lu us, should be %u", what, ticks_to_us(ticks), us);
	wait_for_irqs(vector, 2, 3 * us / 1000 + 1);
	check(irq_count[vector] <= 1, "%s: %u interrupts", what, irq_count[vector]);
}

// ---- Clocks

static void check_clock(const struct reference_clock *reference)
{
	u64 hz = 0;
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		hz = measure_tsc(reference, 10);
		if (hz > tsc_hz - tsc_hz / 200 && hz < tsc_hz + tsc_hz / 200)
			break;
	}
	check(hz > tsc_hz - tsc_hz / 200 && hz < tsc_hz + tsc_hz / 200, "the TSC by the %s has %lu kHz, by the %s %lu", reference->name, hz / 1000,
	      tsc_source, tsc_hz / 1000);
}

void test_clocks(void)
{
	if (!tsc_hz) {
		check(false, "no clock tells the TSC's frequency");
		return;
	}
	pit_start_channel2();
	check_clock(&pit_clock);
	if (pm_timer_present())
		check_clock(&pm_timer_clock);
	if (hpet_present())
		check_clock(&hpet_clock);
}

// ---- PIT

static void pit_periodic(u32 hz)
{
	u32 count = (PIT_HZ + hz / 2) / hz;
	outb(0x43, 0x34);	// channel 0, both bytes, mode 2
	outb(0x40, (u8)count);
	outb(0x40, (u8)(count >> 8));
}

static void pit_one_shot(u32 us)
{
	u32 count = (u32)mul_div(us, PIT_HZ, 1000000);
	outb(0x43, 0x30);	// mode 0
	outb(0x40, (u8)count);
	outb(0x40, (u8)(count >> 8));
}

void test_pit(void)
{
	pit_periodic(RATE);
	pic_unmask(0);
	bool works = check_rate("periodic by the PIC", VECTOR_PIC, RATE);
	check_one_shot("one shot by the PIC", VECTOR_PIC, pit_one_shot, 5000);
	pic_mask_all();
	pit_periodic(RATE);
	check(count_irqs(VECTOR_PIC, 25) == 0, "interrupts while masked in the PIC");

	// A halted processor wakes up. This comes only after the PIT's interrupts have been seen, for HLT has no time-out.
	if (works) {
		pic_unmask(0);
		irq_count[VECTOR_PIC] = 0;
		int halts = 0;
		for (; halts < 10; halts++) {
			sti_hlt();
			cli();
		}
		check(irq_count[VECTOR_PIC] >= 5, "HLT: %u interrupts woke it %d times", irq_count[VECTOR_PIC], halts);
		pic_mask_all();
	}

	struct isa_irq irq = isa_irq(0);
	if (ioapic_route(irq.gsi, irq.level, irq.active_low)) {
		int vector = (int)(VECTOR_IOAPIC + irq.gsi);
		pit_periodic(RATE);
		check_rate("periodic by the IOAPIC", vector, RATE);
		check_one_shot("one shot by the IOAPIC", vector, pit_one_shot, 5000);
		ioapic_mask(irq.gsi);
		pit_periodic(RATE);
		check(count_irqs(vector, 25) == 0, "interrupts while masked in the IOAPIC");
	}
	pit_one_shot(0);	// long, and masked: quiet
}

// ---- LAPIC timer

static u64 lapic_hz;	// with divisor 16

static void lapic_one_shot(u32 us)
{
	lapic_write(LAPIC_LVT_TIMER, VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INITIAL, (u32)mul_div(lapic_hz, us, 1000000));
}

static void tsc_deadline(u32 us)
{
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + mul_div(tsc_hz, us, 1000000));
}

static void check_lapic_timer(const char *mode)
{
	char text[64];
	lapic_write(LAPIC_TIMER_DIVIDE, 3);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INITIAL, ~0u);
	u64 start = rdtsc();
	wait_ms(10);
	u32 counted = ~0u - lapic_read(LAPIC_TIMER_CURRENT);
	u64 ticks = rdtsc() - start;
	lapic_hz = mul_div(counted, tsc_hz, ticks);
	if (!check(lapic_hz > 10000, "%s: the counter moved by %u in 10 ms", mode, counted))
		return;

	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INITIAL, (u32)(lapic_hz / RATE));
	format(text, sizeof text, "%s: periodic", mode);
	check_rate(text, VECTOR_TIMER, RATE);
	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | LVT_MASKED | VECTOR_TIMER);
	check(count_irqs(VECTOR_TIMER, 25) == 0, "%s: interrupts while masked", mode);
	lapic_write(LAPIC_TIMER_INITIAL, 0);
	format(text, sizeof text, "%s: one shot", mode);
	check_one_shot(text, VECTOR_TIMER, lapic_one_shot, 3000);
	check_eq(lapic_read(LAPIC_TIMER_CURRENT), 0, "current count after one shot");

	if (cpuid(1, 0).ecx >> 24 & 1) {
		lapic_write(LAPIC_LVT_TIMER, LVT_TSC_DEADLINE | VECTOR_TIMER);
		asm volatile("mfence" ::: "memory");
		format(text, sizeof text, "%s: TSC deadline", mode);
		check_one_shot(text, VECTOR_TIMER, tsc_deadline, 3000);
		check_eq(rdmsr(MSR_TSC_DEADLINE), 0, "TSC deadline after it fired");
		irq_count[VECTOR_TIMER] = 0;
		wrmsr(MSR_TSC_DEADLINE, 1);	// long past: at once
		check(wait_for_irqs(VECTOR_TIMER, 1, 50), "%s: a deadline in the past does not fire", mode);
		tsc_deadline(5000);
		wrmsr(MSR_TSC_DEADLINE, 0);
		check(count_irqs(VECTOR_TIMER, 8) == 0, "%s: a cancelled deadline fires", mode);
	}
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

static void to_x2apic(void *argument)
{
	(void)argument;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1ul << 10);
}

void test_lapic_timer(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	check_lapic_timer("xAPIC");
	if (!(cpuid(1, 0).ecx >> 21 & 1) || lapic_is_x2apic())
		return;
	u32 id = lapic_id();
	if (!check(catch_trap(to_x2apic, 0) == NO_TRAP, "x2APIC mode is refused"))
		return;
	lapic_enable();
	check(lapic_is_x2apic() && lapic_id() == id, "x2APIC id %u, was %u", lapic_id(), id);
	check_lapic_timer("x2APIC");
	irq_count[VECTOR_TEST] = 0;
	wrmsr(0x83f, VECTOR_TEST);	// SELF IPI
	check(wait_for_irqs(VECTOR_TEST, 1, 50), "SELF IPI register");
	// Back to xAPIC goes by way of off.
	u64 base = rdmsr(MSR_APIC_BASE);
	wrmsr(MSR_APIC_BASE, base & ~(3ul << 10));
	wrmsr(MSR_APIC_BASE, (base & ~(3ul << 10)) | 1ul << 11);
	lapic_enable();
	check(!lapic_is_x2apic() && lapic_id() == id, "xAPIC id %u after x2APIC, was %u", lapic_id(), id);
}

// ---- HPET

#define HPET_TIMER_CONFIG 0x100
#define HPET_TIMER_COMPARATOR 0x108
#define T_INT_ENB (1ul << 2)
#define T_PERIODIC (1ul << 3)
#define T_PERIODIC_CAPABLE (1ul << 4)
#define T_VAL_SET (1ul << 6)
#define T_32MODE (1ul << 8)

static u64 hpet_route;

static void hpet_one_shot(u32 us)
{
	hpet_write(HPET_TIMER_CONFIG, hpet_route | T_32MODE | T_INT_ENB);
	hpet_write(HPET_TIMER_COMPARATOR, (u32)(hpet_read(0xf0) + mul_div(hpet_clock.hz, us, 1000000)));
}

static void hpet_periodic(u64 hz)
{
	u64 period = hpet_clock.hz / hz;
	hpet_write(0x10, hpet_read(0x10) & ~1ul);
	hpet_write(HPET_TIMER_CONFIG, hpet_route | T_32MODE | T_INT_ENB | T_PERIODIC | T_VAL_SET);
	hpet_write(HPET_TIMER_COMPARATOR, (u32)(hpet_read(0xf0) + period));
	hpet_write(HPET_TIMER_COMPARATOR, period);
	hpet_write(0x10, hpet_read(0x10) | 1);
}

static void check_hpet(const char *mode, u32 gsi)
{
	char text[64];
	int vector = (int)(VECTOR_IOAPIC + gsi);
	format(text, sizeof text, "%s: one shot", mode);
	check_one_shot(text, vector, hpet_one_shot, 3000);
	if (hpet_read(HPET_TIMER_CONFIG) & T_PERIODIC_CAPABLE) {
		hpet_periodic(RATE);
		format(text, sizeof text, "%s: periodic", mode);
		check_rate(text, vector, RATE);
	}
	hpet_write(HPET_TIMER_CONFIG, hpet_route | T_32MODE);
	check(count_irqs(vector, 25) == 0, "%s: interrupts while disabled", mode);
}

void test_hpet(void)
{
	if (!hpet_present() || !ioapic_present()) {
		skip(hpet_present() ? "no IOAPIC" : "no HPET");
		return;
	}
	// A line of the IOAPIC that no ISA device has, if the comparator may use one.
	u32 routes = (u32)(hpet_read(HPET_TIMER_CONFIG) >> 32), gsi = 16;
	while (gsi < 32 && !(routes >> gsi & 1))
		gsi++;
	if (gsi < 32 && ioapic_route(gsi, false, false)) {
		hpet_route = (u64)gsi << 9;
		check_hpet("by the IOAPIC", gsi);
		ioapic_mask(gsi);
	}
	hpet_route = 0;

	// Legacy replacement: comparator 0 takes the PIT's place on IOAPIC input 2.
	if (hpet_read(0) >> 15 & 1 && ioapic_route(2, false, false)) {
		hpet_write(0x10, 3);
		check_hpet("legacy replacement", 2);
		hpet_write(0x10, 1);
		ioapic_mask(2);
	}
}

// ---- RTC

static void read_register_c(void)
{
	cmos_read(0x0c);
}

void test_rtc(void)
{
	struct rtc_time t;
	if (!check(rtc_read(&t), "no two equal readings"))
		return;
	check(t.month >= 1 && t.month <= 12 && t.day >= 1 && t.day <= 31 && t.hour < 24 && t.minute < 60 && t.second < 60 && t.year >= 2020,
	      "%u-%u-%u %u:%u:%u", t.year, t.month, t.day, t.hour, t.minute, t.second);
	check(cmos_read(0x0d) & 0x80, "register D: no valid RAM and time");

	u64 end = deadline_ms(1300);
	u32 second = t.second;
	while (rtc_read(&t) && t.second == second && !passed(end))
		relax();
	check(t.second == (second + 1) % 60, "the second goes from %u to %u within 1.3 s", second, t.second);

	// The periodic interrupt, 64 Hz with rate 10; register C must be read for the next one to come.
	struct isa_irq irq = isa_irq(8);
	if (!ioapic_route(irq.gsi, irq.level, irq.active_low))
		return;
	int vector = (int)(VECTOR_IOAPIC + irq.gsi);
	acknowledge = read_register_c;
	u8 a = cmos_read(0x0a), b = cmos_read(0x0b);
	cmos_write(0x0a, (a & 0xf0) | 10);
	cmos_write(0x0b, b | 0x40);
	cmos_read(0x0c);
	check_rate("periodic interrupt at 64 Hz", vector, 64);
	cmos_write(0x0b, b);
	cmos_write(0x0a, a);
	cmos_read(0x0c);
	ioapic_mask(irq.gsi);
	acknowledge = 0;
}
