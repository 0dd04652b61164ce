// The benchmark: a few loops, timed by the TSC. Each has a checksum that is known from the start.
#include "clock.h"
#include "demo.h"
#include "interrupts.h"
#include "print.h"
#include "x86.h"

#define WANTED_MS 200
#define MAX_REPEATS 1000
#define BENCH_TRAP_VECTOR 0x81

u64 bench_integer(u64 rounds);
u64 bench_branches(u64 rounds);
u64 bench_memory(u64 rounds, u64 *words);
u64 bench_fibonacci(u64 n);
u64 bench_scalar_double(u64 rounds);
u64 bench_packed_double(u64 rounds);
u64 bench_copy(u64 unused, u64 *words, u64 rounds);
u64 bench_trap(u64 rounds);
void bench_trap_entry(void);

static u64 words[8192] ALIGNED(4096);

static void fill(void)
{
	for (u64 i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = i * 0x9e3779b97f4a7c15ul;
}

static u64 run_integer(void) { return bench_integer(500000); }
static u64 run_branches(void) { return bench_branches(10000); }
static u64 run_memory(void) { fill(); return bench_memory(200, words); }
static u64 run_calls(void) { return bench_fibonacci(24); }
static u64 run_scalar(void) { return bench_scalar_double(200000); }
static u64 run_packed(void) { return bench_packed_double(200000); }
static u64 run_copy(void) { fill(); return bench_copy(0, words, 64); }
static u64 run_traps(void) { return bench_trap(20000); }

struct bench {
	const char *name;
	u64 (*run)(void);
	u64 checksum;
	u64 work;		// of one run: instructions, bytes, or traps
	const char *unit;
};

static const struct bench benches[] = {
	{ "integer loop", run_integer, 0x7aaa3d8dd911f951, 500000 * 12, "MIPS" },
	{ "branches", run_branches, 849666, 567644 * 6 + 282022 * 5 + 10000 * 6, "MIPS" },
	{ "memory", run_memory, 0x716a74e4049ded21, 200 * (4096 * 7 + 4), "MIPS" },
	{ "calls", run_calls, 46368, 75025 * 4 + 75024 * 12, "MIPS" },
	{ "scalar double", run_scalar, 0x4105ff577087ebc5, 200000 * 11, "MIPS" },
	{ "packed double", run_packed, 0x00001076b71c2e45, 200000 * 8, "MIPS" },
	{ "string copy", run_copy, 0xc6be850c044acd11, 64 * 65536, "MB/s" },
	{ "traps", run_traps, 20000, 20000, "M/s" },
};

// value / us with three digits after the point
static void print_rate(u64 work, u64 us, const char *unit)
{
	u64 milli = us ? mul_div(work, 1000, us) : 0;
	print("%6lu.%03lu %-4s", milli / 1000, milli % 1000, unit);
}

static bool run_bench(const struct bench *b)
{
	b->run();	// warms up caches and translators
	u64 start = rdtsc(), end = deadline_ms(WANTED_MS), repeats = 0, sum;
	do {
		sum = b->run();
		repeats++;
	} while (sum == b->checksum && repeats < MAX_REPEATS && !passed(end));
	u64 us = ticks_to_us(rdtsc() - start);

	print("%-14s ", b->name);
	print_rate(b->work * repeats, us, b->unit);
	print("  %4lu times in %4lu.%lu ms  checksum %016lx %s\n", repeats, us / 1000, us / 100 % 10, sum,
	      sum == b->checksum ? "ok" : "WRONG");
	return sum == b->checksum;
}

void run_benchmark(void)
{
	u32 wrong = 0;
	idt_set(BENCH_TRAP_VECTOR, bench_trap_entry, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(benches); i++)
		wrong += !run_bench(&benches[i]);
	idt_set(BENCH_TRAP_VECTOR, vector_entry(BENCH_TRAP_VECTOR), 0, 0);
	print("Benchmark: %s\n", wrong ? "WRONG CHECKSUMS" : "all checksums right");
}
