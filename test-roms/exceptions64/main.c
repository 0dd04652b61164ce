// Exceptions in 64-bit mode: which one comes first, its error code, what the frame holds, and what makes a double fault.
#include "exceptions64.h"
#include "print.h"

void rom_main(void)
{
	print("exceptions64\n");
	snippets_init();
	run_topic("frames", test_frames);
	run_topic("resume flag in frames exactly", test_resume_flag_exactly);
	run_topic("IRETQ", test_iret);
	run_topic("IRETQ exactly", test_iret_exactly);
	run_topic("IRETQ and flags", test_iret_flags);
	run_topic("addresses that are not canonical", test_canonical);
	run_topic("stack and other segments exactly", test_canonical_exactly);
	run_topic("double faults", test_double_faults);
	run_topic("error codes of second exceptions exactly", test_double_fault_codes_exactly);
	run_topic("priorities", test_priorities);
	run_topic("priorities exactly", test_priorities_exactly);
	run_topic("single step", test_debug);
	run_topic("debug exceptions exactly", test_debug_exactly);
	run_topic("alignment checks exactly", test_alignment_exactly);
	run_topic("SYSCALL and flags exactly", test_syscall_flags_exactly);
	run_topic("illegal vector of an IPI exactly", test_illegal_vector_exactly);
	run_topic("NMI", test_nmi);
	run_topic("IDT limit exactly", test_idt_limit);
	run_topic("call gates", test_call_gates);
	run_topic("call gates exactly", test_call_gates_exactly);
	run_topic("LDT", test_ldt);
	run_topic("I/O permissions", test_io_permissions);
	run_topic("MSRs exactly", test_msrs_exactly);
	run_topic("control registers exactly", test_control_exactly);
	finish();
}
