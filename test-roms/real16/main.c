// Real-address mode: SDM 3B "8086 Emulation", "Real-Address Mode".
#include "real16.h"

bool passes(const char *what, struct code c, struct legacy_regs regs)
{
	return expect_real(what, c, regs, VECTOR_USER_EXIT, (i32)END(c));
}

u32 stack16(u32 index)
{
	return load16(low(event.ss, (event.esp + 2 * index) & 0xffff));
}

static void run(const char *name, void (*test)(void))
{
	legacy_reset();
	run_topic(name, test);
}

void rom_main(void)
{
	print("real16\n");
	run("registers and flags", test_entry);
	run("segments are paragraphs", test_segments);
	run("limits of 64 KiB", test_offsets);
	run("offsets that wrap", test_wrap);
	run("addresses above 1 MiB", test_above_1m);
	run("unreal mode", test_unreal);
	run("unreal mode after segment loads", test_unreal_selectors);
	run("operand and address sizes", test_sizes);
	run("far transfers", test_far);
	run("stack", test_stack);
	run("interrupt vectors", test_vectors);
	run("table of interrupt vectors", test_table);
	run("exceptions", test_exceptions);
	run("IRET", test_iret);
	run("single step", test_stepping);
	run("breakpoints", test_breakpoints);
	run("instructions that are not there", test_undefined);
	run("system instructions", test_system);
	run("string instructions", test_strings);
	run("string instructions with other sizes", test_string_sizes);
	run("string instructions that wrap", test_string_wrap);
	run("faults of string instructions", test_string_faults);
	finish();
}
