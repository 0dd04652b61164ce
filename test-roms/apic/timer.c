// The timer of the local APIC: SDM 3A "APIC Timer". Rates are the clocks ROM's affair.
#include "apic.h"

#define V 0xa3

static void start(u32 mode, u32 count)
{
	lapic_write(LAPIC_LVT_TIMER, mode | V);
	lapic_write(LAPIC_TIMER_INITIAL, count);
}

void test_timer(void)
{
	smp_count_irqs(V);
	smp_clear_counts();
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	start(LVT_MASKED, ~0u);
	u32 first = lapic_read(LAPIC_TIMER_CURRENT);
	wait_ms(1);
	u32 second = lapic_read(LAPIC_TIMER_CURRENT);
	check(second < first, "current count %x, then %x", first, second);
	check_eq(lapic_read(LAPIC_TIMER_INITIAL), 0xffffffff, "initial count");
	u32 ticks = first - second;	// about a millisecond's
	start(0, 0);
	check_eq(lapic_read(LAPIC_TIMER_CURRENT), 0, "current count after an initial count of 0");

	start(0, ticks);
	check(wait_count(&cpus[0].irqs[V], 1, 3000), "one shot: no interrupt");
	let_in();
	check(cpus[0].irqs[V] == 1 && lapic_read(LAPIC_TIMER_CURRENT) == 0, "one shot: %u interrupts, count %x", cpus[0].irqs[V], lapic_read(LAPIC_TIMER_CURRENT));
	smp_clear_counts();
	start(LVT_PERIODIC, ticks);
	check(wait_count(&cpus[0].irqs[V], 4, 2000), "periodic: %u interrupts", cpus[0].irqs[V]);
	// The mask stops the interrupts, not the counting.
	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | LVT_MASKED | V);
	let_in();
	u32 before = cpus[0].irqs[V];
	wait_ms(3);
	let_in();
	check(cpus[0].irqs[V] == before, "periodic, masked: %u interrupts", cpus[0].irqs[V] - before);
	u32 count = lapic_read(LAPIC_TIMER_CURRENT);
	bool moved = false;
	for (int i = 0; i < 1000 && !moved; i++)
		moved = lapic_read(LAPIC_TIMER_CURRENT) != count;
	check(moved, "periodic, masked: the count stands");
	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | V);
	check(wait_count(&cpus[0].irqs[V], before + 2, 2000), "periodic, unmasked: %u interrupts", cpus[0].irqs[V] - before);
	start(LVT_PERIODIC, 0);
	let_in();
	before = cpus[0].irqs[V];
	wait_ms(3);
	let_in();
	check(cpus[0].irqs[V] == before, "initial count 0: %u interrupts", cpus[0].irqs[V] - before);

	// Eight divisors: each counts half as fast as the one before. The TSC says how long.
	static const u32 divisor[8] = { 0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa };
	u64 rate[8] = { 0 };
	for (int i = 0; i < 8; i++) {
		bool right = false;
		for (int attempt = 0; attempt < 8 && !right; attempt++) {
			u64 before = rate[i];
			lapic_write(LAPIC_TIMER_DIVIDE, divisor[i]);
			start(LVT_MASKED, ~0u);
			u64 tsc = rdtsc();
			u32 at = lapic_read(LAPIC_TIMER_CURRENT);
			wait_ms(1);
			u32 counted = at - lapic_read(LAPIC_TIMER_CURRENT);
			rate[i] = mul_div((u64)counted << i, tsc_hz, rdtsc() - tsc);
			// The first is what the others are compared with: two measurements must agree on it, as the host may stop us in one.
			u64 known = i == 0 ? before : rate[0];
			u64 margin = known / (i == 0 ? 100 : 20);
			right = rate[i] > known - margin && rate[i] < known + margin;
		}
		check(right, "divisor %u: %lu kHz, times 2^%d, should be %lu", divisor[i], rate[i] / 1000, i, rate[0] / 1000);
	}
	start(LVT_MASKED, 0);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
}

void test_timer_deadline(void)
{
	if (!(cpuid(1, 0).ecx >> 24 & 1)) {
		skip("no TSC deadline");
		return;
	}
	smp_count_irqs(V);
	smp_clear_counts();
	u64 ms = tsc_hz / 1000;
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | V);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000 * ms);
	check_eq(rdmsr(MSR_TSC_DEADLINE), 0, "deadline in one-shot mode");

	lapic_write(LAPIC_LVT_TIMER, LVT_TSC_DEADLINE | V);
	asm volatile("mfence" ::: "memory");
	lapic_write(LAPIC_TIMER_INITIAL, 1000);
	check_eq(lapic_read(LAPIC_TIMER_CURRENT), 0, "current count in deadline mode");
	let_in();
	check(cpus[0].irqs[V] == 0, "an initial count fires in deadline mode");
	u64 deadline = rdtsc() + ms;
	wrmsr(MSR_TSC_DEADLINE, deadline);
	check(rdmsr(MSR_TSC_DEADLINE) == deadline || passed(deadline), "the deadline reads %lx, should be %lx", rdmsr(MSR_TSC_DEADLINE), deadline);
	check(wait_count(&cpus[0].irqs[V], 1, 3000) && passed(deadline), "no interrupt, or too early");
	check_eq(rdmsr(MSR_TSC_DEADLINE), 0, "deadline after it fired");
	wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1);
	check(wait_count(&cpus[0].irqs[V], 2, 3000), "a deadline in the past");
	// Another mode disarms it.
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 3 * ms);
	lapic_write(LAPIC_LVT_TIMER, V);
	lapic_write(LAPIC_LVT_TIMER, LVT_TSC_DEADLINE | V);
	asm volatile("mfence" ::: "memory");
	check_eq(rdmsr(MSR_TSC_DEADLINE), 0, "deadline after a change of mode");
	wait_ms(5);
	let_in();
	check(cpus[0].irqs[V] == 2, "it fires after a change of mode");
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}
