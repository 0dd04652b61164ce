// Protected mode of 32 bits without paging: segments, privilege levels, gates, events.
#include "protected32.h"

static void run(const char *name, void (*test)(void))
{
	legacy_reset();
	run_topic(name, test);
}

void rom_main(void)
{
	print("protected32\n");
	run("frames of exceptions", test_frames);
	run("loading data segments", test_data_segments);
	run("loading SS", test_stack_segments);
	run("accessed bits", test_accessed);
	run("limits of GDT and LDT", test_table_limits);
	run("null selectors", test_null_segments);
	run("segment limits", test_limits);
	run("stack segment limits", test_stack_limits);
	run("segment types", test_types);
	run("limits of code segments", test_fetch_limits);
	run("width of the stack", test_stack_width);
	run("LAR and LSL", test_lar_lsl);
	run("VERR and VERW", test_verr_verw);
	run("ARPL", test_arpl);
	run("far jumps", test_far_jumps);
	run("far calls", test_far_calls);
	run("call gates", test_call_gates);
	run("parameters of call gates", test_gate_parameters);
	run("stacks of call gates", test_gate_stacks);
	run("far returns", test_far_returns);
	run("data segments in outer rings", test_outer_returns);
	run("interrupt and trap gates", test_interrupt_gates);
	run("gates that refuse", test_bad_gates);
	run("gates to bad code segments", test_bad_targets);
	run("inner stacks", test_inner_stacks);
	run("EXT in error codes", test_external_bit);
	run("IRETD", test_iret);
	run("IRETD and flags", test_iret_flags);
	run("double faults by a task gate", test_double_faults);
	run("I/O permissions", test_io_permissions);
	run("IOPL", test_iopl);
	run("alignment checks", test_alignment);
	run("privileged instructions", test_privileged);
	run("control registers", test_control);
	run("entering long mode", test_entering_long_mode);
	run("16-bit code", test_code16);
	run("lengths and LOCK", test_lengths);
	run("strings and limits", test_strings);
	run("segment overrides", test_overrides);
	run("bit strings", test_bit_strings);
	run("bases that wrap", test_base_wrap);
	run("the top of memory", test_top_of_memory);
	run("half of ESP", test_half_stack_pointer);
	finish();
}
