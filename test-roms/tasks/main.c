// Hardware task switches: SDM 3A "Task Management".
#include "tasks.h"

void task2(struct code c, u32 ring)
{
	memset(&legacy_tss2, 0, sizeof legacy_tss2);
	legacy_tss2.eip = address(c);
	legacy_tss2.eflags = FLAG_1;
	legacy_tss2.esp = STACK_TOP(2);
	legacy_tss2.cs = (u32)L_CODE(ring);
	legacy_tss2.ss = legacy_tss2.ds = legacy_tss2.es = (u32)L_DATA(ring);
	legacy_tss2.esp0 = STACK_TOP(0);
	legacy_tss2.ss0 = L_DATA(0);
	legacy_tss2.cr3 = (u32)(u64)legacy_pages;
	legacy_tss2.io_map = sizeof legacy_tss2;
	legacy_gdt[L_TSS2 / 8] = descriptor((u32)(u64)&legacy_tss2, sizeof legacy_tss2 - 1, D_TSS32);
}

bool is_busy(u32 selector)
{
	return legacy_gdt[selector / 8] & BUSY;
}

struct legacy_regs to_selector(u32 selector)
{
	struct { u32 offset; u16 selector; } PACKED p = { 0xdeadbeef, (u16)selector };
	memcpy(legacy_scratch, &p, sizeof p);
	return (struct legacy_regs){ .edi = SCRATCH };
}

static void run(const char *name, void (*test)(void))
{
	legacy_reset();
	run_topic(name, test);
}

void rom_main(void)
{
	print("tasks\n");
	run("JMP to a task", test_jump);
	run("CALL and IRET", test_call);
	run("task gates in the IDT", test_interrupt);
	run("state of tasks", test_state);
	run("LDT of a task", test_ldt);
	run("tasks of 16 bits", test_narrow);
	run("virtual-8086 tasks", test_v86);
	run("the T bit", test_trap_bit);
	run("CR0.TS", test_ts);
	run("CR3 of a task", test_cr3);
	run("rights to switch", test_rights);
	run("TSSs that are refused", test_bad_tss);
	run("task gates that are refused", test_bad_gate_targets);
	run("faults in the new task", test_bad_state);
	run("links that are refused", test_bad_links);
	run("error codes on the new stack", test_event_errors);
	run("TSS over two pages", test_split);
	run("page faults in switches", test_page_faults);
	finish();
}
