#include "compat.h"

struct regs far_pointer(u32 offset, u16 selector)
{
	struct { u32 offset; u16 selector; } PACKED p = { offset, selector };
	memcpy(stack_frame, &p, sizeof p);
	return (struct regs){ .rdi = COMPAT_STACK };
}

void rom_main(void)
{
	print("compat\n");
	run_topic("LDTR that was never loaded", test_ldt_never_loaded);
	snippets_init();
	run_topic("operands and addresses", test_widths);
	run_topic("opcodes of compatibility mode", test_opcodes);
	run_topic("segments", test_segments);
	run_topic("stacks", test_stacks);
	run_topic("16-bit code", test_code16);
	run_topic("far jumps", test_far_jumps);
	run_topic("far calls", test_far_calls);
	run_topic("far returns", test_far_returns);
	run_topic("IRET", test_iret);
	run_topic("code with L and D", test_long_and_big);
	run_topic("call gates", test_gates);
	run_topic("call gates that refuse", test_bad_gates);
	run_topic("SYSENTER", test_sysenter);
	run_topic("SYSEXIT", test_sysexit);
	run_topic("SYSCALL and SYSRET", test_syscall);
	run_topic("SYSENTER and SYSEXIT without long mode", test_sysenter32);
	run_topic("LDTR and TR", test_ldtr_tr);
	run_topic("LDTR and TR that refuse", test_bad_descriptors);
	run_topic("bases of FS and GS", test_bases);
	run_topic("bases of GDT and IDT", test_tables);
	run_topic("addresses at the edges", test_edges);
	run_topic("stack addresses at the edges", test_stack_edges);
	run_topic("57-bit addresses", test_la57);
	finish();
}
