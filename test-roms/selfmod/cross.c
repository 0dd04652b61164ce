// Code that one processor changes and another runs: SDM 3A "Handling Self- and Cross-Modifying Code".
#include "selfmod.h"

static volatile u32 round_made, round_seen, wrong, stop;
static u8 *function;

static void execute(void *argument)
{
	(void)argument;
	for (u32 i = 1; i <= 400; i++) {
		u64 end = deadline_ms(5000);
		while (round_made < i && !passed(end))
			relax();
		serialise();
		wrong += run(function) != i * 3;
		round_seen = i;
	}
}

// The handshake of the manual: the code is written, then a flag; the other waits for the flag and serialises.
void test_cross(void)
{
	if (cpu_count == 1) {
		skip("one processor");
		return;
	}
	static const u32 places[] = { 0, 61, 4093 };
	for (size_t p = 0; p < ARRAY_SIZE(places); p++) {
		function = code + places[p];
		round_made = round_seen = wrong = 0;
		put_return(function, 0);
		for (int i = 1; i < cpu_count; i++)
			round_seen = 0;
		smp_run(1, execute, 0);
		bool all = true;
		for (u32 i = 1; i <= 400 && all; i++) {
			put_return(function, i * 3);
			round_made = i;
			u64 end = deadline_ms(5000);
			while (round_seen < i && !passed(end))
				relax();
			all = round_seen == i;
		}
		check(all && smp_done(1, 10000), "at %u: the other processor does not end: round %u", places[p], round_seen);
		check(!wrong, "at %u: %u of 400 rounds ran old code", places[p], wrong);
	}
}

// ---- As kernels do it: a breakpoint first, all processors serialise, the rest, serialise, the first byte.

#define VECTOR_SYNC 0xa3
static volatile u32 synced, trapped, calls, bad;
static volatile u32 old_value, new_value;

static void sync(struct trap_frame *f)
{
	(void)f;
	serialise();
	__atomic_add_fetch(&synced, 1, __ATOMIC_SEQ_CST);
}

static bool on_trap(struct trap_frame *f)
{
	if (f->vector != VECTOR_BP || f->rip != (u64)function + 1)
		return smp_trap(f);
	__atomic_add_fetch(&trapped, 1, __ATOMIC_SEQ_CST);
	f->rax = old_value;
	f->rip = (u64)function + 5;	// the RET
	return true;
}

static void keep_calling(void *argument)
{
	(void)argument;
	sti();
	while (!stop) {
		u32 a = old_value, r = run(function), b = new_value;
		// Whatever is being changed meanwhile, it is one of the values between what was old before and what is new after.
		if (r < a || r > b)
			__atomic_add_fetch(&bad, 1, __ATOMIC_SEQ_CST);
		calls++;
	}
	cli();
}

static bool sync_all(void)
{
	synced = 0;
	lapic_icr(0, 3u << 18 | 1u << 14 | VECTOR_SYNC);
	u64 end = deadline_ms(5000);
	while (synced + 1 < (u32)cpu_count && !passed(end))
		relax();
	return synced + 1 == (u32)cpu_count;
}

void test_breakpoint_patching(void)
{
	if (cpu_count == 1) {
		skip("one processor");
		return;
	}
	static const u32 places[] = { 16, 62, 4094 };
	irq_handler[VECTOR_SYNC] = sync;
	trap_hook = on_trap;
	for (size_t p = 0; p < ARRAY_SIZE(places); p++) {
		function = code + places[p];
		old_value = new_value = 0x01010101;
		put_return(function, old_value);
		stop = calls = bad = 0;
		for (int i = 1; i < cpu_count; i++)
			smp_run(i, keep_calling, 0);
		bool all = true;
		for (u32 round = 2; round < 120 && all; round++) {
			u32 next = 0x01010101 * round;
			new_value = next;
			*(volatile u8 *)function = 0xcc;
			all &= sync_all();
			for (int i = 0; i < 4; i++)
				*(volatile u8 *)(function + 1 + i) = (u8)(next >> 8 * i);
			all &= sync_all();
			*(volatile u8 *)function = 0xb8;
			all &= sync_all();
			old_value = next;
		}
		stop = 1;
		check(all, "at %u: a processor does not answer", places[p]);
		for (int i = 1; i < cpu_count; i++)
			check(smp_done(i, 5000), "at %u: processor %d does not end", places[p], i);
		check(!bad, "at %u: %u of %u calls gave a mixture", places[p], bad, calls);
	}
	trap_hook = smp_trap;
	irq_handler[VECTOR_SYNC] = 0;
}
