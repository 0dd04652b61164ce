// Virtual-8086 mode, plain and with its extensions: SDM 3B "8086 Emulation".
#include "v86.h"

bool passes(const char *what, struct code c, u32 eflags, struct legacy_regs regs)
{
	bool open = (eflags & FLAG_IOPL) == FLAG_IOPL;
	return expect_v86(what, c, eflags, regs, open ? VECTOR_USER_EXIT : VECTOR_GP, 0, (i32)(END(c) - (open ? 0 : 2)));
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
	print("v86\n");
	run("entry by IRETD", test_entry);
	run("frames of exceptions", test_frames);
	run("instructions that want IOPL 3", test_sensitive);
	run("flags", test_flags);
	run("software interrupts", test_interrupts);
	run("gates that refuse", test_bad_gates);
	run("segments", test_segments);
	run("far transfers", test_far);
	run("I/O ports", test_ports);
	run("instructions that are refused", test_privileged);
	run("single step", test_stepping);
	run("page faults", test_paging);
	run("IRETD that does not enter", test_iret_to_v86);
	run("VME: IF is VIF", test_virtual_flags);
	run("VME: PUSHF and POPF", test_virtual_popf);
	run("VME: IRET", test_virtual_iret);
	run("VME: interrupt redirection", test_redirection);
	run("VME: the redirection map", test_redirection_map);
	finish();
}
