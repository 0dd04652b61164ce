// Memory ordering, LOCK, and shared page tables of several processors.
#include "litmus.h"
#include "print.h"

static void (*job)(u32);

static void work_of(void *argument)
{
	job((u32)(u64)argument);
}

bool together(u32 n, void (*work)(u32 processor))
{
	bool all = true;
	job = work;
	for (u32 i = 1; i < n; i++)
		smp_run((int)i, work_of, (void *)(u64)i);
	work(0);
	for (u32 i = 1; i < n; i++)
		all &= check(smp_done((int)i, 10000), "processor %u does not end", i);
	return all;
}

// A topic that failed has taken the hook away. One processor alone has nothing to show.
static void run(const char *name, void (*test)(void))
{
	if (cpu_count == 1) {
		topic(name);
		skip("one processor");
		topic_end();
		return;
	}
	trap_hook = smp_trap;
	run_topic(name, test);
	for (int i = 1; i < cpu_count; i++)
		if (cpus[i].exceptions)
			print("    processor %d: exception %lu, error code %lx, at %lx\n", i, cpus[i].exception.vector, cpus[i].exception.error_code, cpus[i].exception.rip);
}

void rom_main(void)
{
	print("litmus\n");
	topic("processors");
	check(smp_init(), "%d of the processors came", cpu_count);
	topic_end();
	run("store buffering", test_store_buffering);
	run("store buffering with MFENCE", test_store_buffering_mfence);
	run("store buffering with LOCK", test_store_buffering_locked);
	run("message passing", test_message_passing);
	run("load buffering", test_load_buffering);
	run("two writers", test_two_writers);
	run("independent reads", test_independent_reads);
	run("coherence", test_coherence);
	run("aligned accesses are whole", test_whole_accesses);
	run("accesses within a line are whole", test_unaligned_accesses);
	run("LOCK, counters", test_locked_counters);
	run("LOCK, not aligned", test_locked_unaligned);
	run("LOCK, over two pages", test_locked_page_crossing);
	run("LOCK, operands that overlap", test_locked_overlapping);
	run("LOCK, 16 bytes", test_locked_wide);
	run("LOCK, device registers", test_locked_mmio);
	run("locks and bits", test_spinlock);
	run("TLB shoot-down", test_shootdown);
	run("dirty bits", test_dirty_bits);
	run("new entries", test_present_without_flush);
	finish();
}
