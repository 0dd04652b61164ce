// Ticks that are counted: as many interrupts as periods have passed, no less and no more.
#include "clocks.h"

static u64 started_before, started_after;
static int tick_vector;

// 1,000 Hz by the PIT.
#define COUNT 1193
static void start_ticks(int mode)
{
	pit_stop();
	// OUT rises with the control word: that is not a tick.
	outb(0x43, (u8)(0x30 | mode << 1));
	let_in();
	irq_count[tick_vector] = 0;
	started_before = rdtsc();
	outb(0x40, (u8)COUNT);
	outb(0x40, COUNT >> 8);
	started_after = rdtsc();
}

// Compares the count with the time that has passed. A read of the timer lets it see what is due.
static void check_ticks(const char *what)
{
	u64 before, after, least, most;
	u32 count;
	u64 end = deadline_ms(1000);
	do {
		before = rdtsc();
		pit_latch(0);
		asm volatile("sti; nop; nop; nop; cli" ::: "memory");
		count = irq_count[tick_vector];
		after = rdtsc();
		least = mul_div(before - started_after, PIT_HZ, tsc_hz) / COUNT;
		most = mul_div(after - started_before, PIT_HZ, tsc_hz) / COUNT + 1;
	} while (count + 1 < least && !passed(end));
	check(count + 1 >= least && count <= most + 1, "%s: %u ticks, should be %lu", what, count, least);
}

static void check_after_pause(const char *what, u32 ms)
{
	// The ticks come at once, before the program goes on.
	u64 before, after, least, most;
	cli();
	wait_ms(ms);
	before = rdtsc();
	pit_latch(0);
	asm volatile("sti; nop; nop; nop; cli" ::: "memory");
	u32 count = irq_count[tick_vector];
	after = rdtsc();
	least = mul_div(before - started_after, PIT_HZ, tsc_hz) / COUNT;
	most = mul_div(after - started_before, PIT_HZ, tsc_hz) / COUNT + 1;
	check(count + 1 >= least && count <= most + 1, "%s, %u ms: %u ticks, should be %lu", what, ms, count, least);
}

static void ticks_in_mode(const char *what, int mode)
{
	start_ticks(mode);
	u64 end = deadline_ms(60);
	sti();
	while (!passed(end))
		relax();
	cli();
	check_ticks(what);
	check_after_pause(what, 5);
	check_after_pause(what, 40);
	check_ticks(what);
}

// A processor that was away (interrupts off, or its host busy) gets each tick of the PIT when it is back: the wire would have merged
// them, and time would be lost for those who count. QEMU 7.2 (TCG) merges them.
void test_pit_ticks(void)
{
	tick_vector = route_isa(0);
	if (tick_vector < 0) {
		skip("no I/O APIC");
		return;
	}
	ticks_in_mode("mode 2 by the I/O APIC", 2);
	ticks_in_mode("mode 3 by the I/O APIC", 3);

	// What was masked is not made up for.
	u32 gsi = isa_irq(0).gsi;
	start_ticks(2);
	ioapic_mask(gsi);
	u32 count = irq_count[tick_vector];
	wait_ms(30);
	pit_latch(0);
	route_isa(0);
	asm volatile("sti; nop; nop; nop; cli" ::: "memory");
	check(irq_count[tick_vector] <= count + 4, "masked for 30 ms: %u ticks", irq_count[tick_vector] - count);
	// Nor what was due when the timer is programmed anew.
	start_ticks(2);
	cli();
	wait_ms(30);
	pit_program(0, 2, 0);
	count = irq_count[tick_vector];
	let_in();
	check(irq_count[tick_vector] <= count + 2, "programmed anew after 30 ms: %u ticks", irq_count[tick_vector] - count);
	pit_stop();
	let_in();
	ioapic_mask(gsi);

	tick_vector = VECTOR_PIC;
	pic_unmask(0);
	ticks_in_mode("mode 2 by the PIC", 2);
	pit_stop();
	let_in();
	pic_mask_all();
}

void test_lapic_periodic(void)
{
	// Nothing is made up for here, but no more may come than periods have passed.
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | V);
	lapic_write(LAPIC_TIMER_INITIAL, ~0u);
	u32 first = lapic_read(LAPIC_TIMER_CURRENT);
	u64 start = rdtsc();
	wait_ms(10);
	u32 counted = first - lapic_read(LAPIC_TIMER_CURRENT);
	u64 hz = mul_div(counted, tsc_hz, rdtsc() - start);
	lapic_write(LAPIC_TIMER_INITIAL, 0);
	let_in();
	irq_count[V] = 0;
	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | V);
	start = rdtsc();
	lapic_write(LAPIC_TIMER_INITIAL, (u32)(hz / 1000));
	check(wait_irqs(V, 20, 2000), "%u interrupts", irq_count[V]);
	u64 passed_ms = mul_div(rdtsc() - start, 1000, tsc_hz);
	check(irq_count[V] <= passed_ms + passed_ms / 50 + 1, "%u interrupts in %lu ms", irq_count[V], passed_ms);
	lapic_write(LAPIC_TIMER_INITIAL, 0);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}
