// Rates against one another, and that nothing goes back.
#include "clocks.h"

bool near(u64 a, u64 b, u64 permille)
{
	u64 slack = b / 1000 * permille;
	return a + slack >= b && a <= b + slack;
}

int route_isa(int irq)
{
	struct isa_irq i = isa_irq(irq);
	return ioapic_route(i.gsi, i.level, i.active_low) ? (int)(VECTOR_IOAPIC + i.gsi) : -1;
}

void let_in(void)
{
	u64 end = deadline_us(200);
	sti();
	while (!passed(end))
		relax();
	cli();
}

bool wait_irqs(int vector, u32 count, u32 ms)
{
	u64 end = deadline_ms(ms);
	sti();
	while (irq_count[vector] < count && !passed(end))
		relax();
	// What came while the host was away is not too late.
	asm volatile("nop; nop; cli" ::: "memory");
	return irq_count[vector] >= count;
}

static u64 lapic_count(void)
{
	return (u32)~lapic_read(LAPIC_TIMER_CURRENT);
}

static void check_rate(const struct reference_clock *c)
{
	u64 hz = 0;
	for (int attempt = 0; attempt < ATTEMPTS && !near(hz, tsc_hz, 1); attempt++)
		hz = measure_tsc(c, 20);
	check(near(hz, tsc_hz, 1), "the TSC has %lu kHz by the %s, %lu by %s", hz / 1000, c->name, tsc_hz / 1000, tsc_source);
}

void test_rates(void)
{
	pit_start_channel2();
	check_rate(&pit_clock);
	if (pm_timer_present())
		check_rate(&pm_timer_clock);
	if (hpet_present())
		check_rate(&hpet_clock);
	// The APIC timer: what CPUID 15h says of the crystal, else what it showed first.
	u64 crystal = cpuid_checked(0x15, 0).ecx, ticks = 0;
	struct reference_clock apic = { "APIC timer", crystal, 0xffffffff, lapic_count };
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | V);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER_INITIAL, ~0u);
	if (!crystal) {
		for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
			u64 start = rdtsc(), first = lapic_count();
			wait_ms(10);
			ticks = lapic_count() - first;
			apic.hz = mul_div(ticks, tsc_hz, rdtsc() - start);
		}
	}
	check_rate(&apic);
	lapic_write(LAPIC_TIMER_INITIAL, 0);
}

static void check_forward(const char *name, u64 (*read)(void), u64 mask)
{
	u64 then = rdtsc(), last = read(), back = 0, moved = 0;
	for (int i = 0; i < 20000; i++) {
		u64 before = rdtsc(), now = read(), step = (now - last) & mask;
		// A counter that is read too late may have gone round.
		back += step > mask / 2 && rdtsc() - then < tsc_hz / 100;
		then = before;
		moved += step != 0;
		last = now;
	}
	check(!back && moved, "%s went back %lu times, forth %lu", name, back, moved);
}

void test_monotonic(void)
{
	check_forward("TSC", rdtsc, ~0ul);
	if (pm_timer_present())
		check_forward("PM timer", pm_timer_clock.read, pm_timer_clock.mask);
	if (hpet_present())
		check_forward("HPET", hpet_clock.read, hpet_clock.mask);
	pit_start_channel2();
	check_forward("PIT", pit_clock.read, pit_clock.mask);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | V);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER_INITIAL, ~0u);
	check_forward("APIC timer", lapic_count, 0xffffffff);
	lapic_write(LAPIC_TIMER_INITIAL, 0);
}
