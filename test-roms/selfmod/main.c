// Self-modifying and cross-modifying code.
#include "selfmod.h"
#include "print.h"

void rom_main(void)
{
	print("selfmod\n");
	topic("processors");
	check(smp_init(), "%d of the processors came", cpu_count);
	topic_end();
	run_topic("stores of all kinds", test_stores);
	run_topic("the next instruction", test_next_instruction);
	run_topic("loops", test_loops);
	run_topic("data beside code", test_neighbours);
	run_topic("instructions over two pages", test_page_crossing);
	run_topic("instructions over two pages, faults", test_page_crossing_faults);
	run_topic("whole pages", test_whole_page);
	run_topic("several addresses", test_alias);
	run_topic("position", test_position);
	run_topic("pages that change places", test_remapped);
	run_topic("code in a page table", test_page_table_code);
	trap_hook = smp_trap;
	run_topic("another processor", test_cross);
	trap_hook = smp_trap;
	run_topic("another processor, breakpoint first", test_breakpoint_patching);
	finish();
}
