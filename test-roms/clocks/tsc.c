// The TSC: its MSRs, and what several processors see. SDM 3B "Time-Stamp Counter".
#include "clocks.h"

#define MSR_TSC 0x10
#define MSR_TSC_ADJUST 0x3b

static u64 rdtscp(u32 *aux)
{
	u32 low, high;
	asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(*aux) :: "memory");
	return (u64)high << 32 | low;
}

// QEMU 7.2 (TCG) reads IA32_TIME_STAMP_COUNTER as 0, and has no invariant TSC.
void test_tsc(void)
{
	check(cpuid_checked(0x80000007, 0).edx >> 8 & 1, "the TSC is not invariant");
	u32 aux = 0;
	wrmsr(MSR_TSC_AUX, 0x12345678);
	u64 before = rdtsc(), at = rdtscp(&aux), msr = rdmsr(MSR_TSC), after = rdtsc();
	check(before <= at && at <= msr && msr <= after, "RDTSC %lx, RDTSCP %lx, RDMSR %lx, RDTSC %lx", before, at, msr, after);
	check_eq(aux, 0x12345678, "IA32_TSC_AUX by RDTSCP");
	wrmsr(MSR_TSC_AUX, 0);
	if (!(cpuid_checked(7, 0).ebx >> 1 & 1))
		return;
	// A write of either MSR moves the other.
	u64 saved = rdmsr(MSR_TSC_ADJUST), second = tsc_hz;
	before = rdtsc();
	wrmsr(MSR_TSC_ADJUST, saved + second);
	after = rdtsc();
	check(after - before >= second && after - before < second + second / 2, "IA32_TSC_ADJUST moves the TSC by %lu, should be %lu", after - before, second);
	wrmsr(MSR_TSC_ADJUST, saved);
	before = rdtsc();
	wrmsr(MSR_TSC, before - second);
	u64 adjust = rdmsr(MSR_TSC_ADJUST) - saved;
	check((i64)adjust <= -(i64)second && (i64)adjust > -(i64)(second + second / 2), "a TSC that was set back: IA32_TSC_ADJUST moves by %ld", (i64)adjust);
	wrmsr(MSR_TSC_ADJUST, saved);
}

// A time stamp goes round the processors; none may see one from its future.
static volatile u64 stamp ALIGNED(64);
static volatile u32 turn ALIGNED(64), future;
static u32 processors;

static void pass_on(void *argument)
{
	(void)argument;
	u32 self = (u32)smp_self();
	for (u32 i = 0; i < 3000; i++) {
		while (turn % processors != self) {
			if (turn == ~0u)
				return;
			relax();
		}
		u64 now = rdtsc();
		future += now < stamp;
		stamp = now;
		__atomic_add_fetch(&turn, 1, __ATOMIC_SEQ_CST);
	}
}

void test_tsc_processors(void)
{
	if (cpu_count == 1) {
		skip("one processor");
		return;
	}
	processors = (u32)cpu_count;
	stamp = turn = future = 0;
	check(smp_run_all(pass_on, 20000), "a processor does not end");
	check(!future, "%u time stamps of %u came from the future", future, turn);
}
