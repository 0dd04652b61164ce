// What IRETQ refuses, and what it does to the flags. SDM 2A "IRET/IRETD/IRETQ".
#include "exceptions64.h"

SNIPPET(iret, "mov %rdi, %rsp; iretq")

struct frame { u64 rip, cs, rflags, rsp, ss; };

static struct frame *frame(u64 rip, u64 cs, u64 rflags, u64 rsp, u64 ss)
{
	// In the middle of the page, for the frame of the exception that IRETQ raises is pushed below it.
	struct frame *f = (struct frame *)(stack_frame + 2048);
	*f = (struct frame){ rip, cs, rflags | FLAG_1, rsp, ss };
	return f;
}

static void refused(const char *what, struct frame *f, int vector, u64 error_code)
{
	expect(what, iret, 0, (struct regs){ .rdi = STACK_PAGE + (u64)((u8 *)f - stack_frame) }, vector, error_code, 3);
}

void test_iret(void)
{
	u64 rip = CODE_PAGE + 5, rsp = STACK_END, *spare = &gdt[SPARE_SELECTOR / 8], s = SPARE_SELECTOR;	// +5: the INT 80h

	// What is right goes through.
	frame(rip, KERNEL_CS, 0, rsp, KERNEL_DS);
	int vector = run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	check(vector == VECTOR_USER_EXIT && trap.cs == KERNEL_CS && trap.ss == KERNEL_DS && trap.rsp == rsp, "to ring 0: %d", vector);
	frame(rip, USER_CS, 0, rsp, USER_DS);
	vector = run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	check(vector == VECTOR_USER_EXIT && trap.cs == USER_CS && trap.ss == USER_DS && trap.rsp == rsp, "to ring 3: %d", vector);
	frame(rip, KERNEL_CS, 0, rsp, 0);
	vector = run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	check(vector == VECTOR_USER_EXIT && trap.ss == 0, "to ring 0 with a null SS: %d, SS %lx", vector, trap.ss);

	refused("null CS", frame(rip, 0, 0, rsp, KERNEL_DS), VECTOR_GP, 0);
	refused("null CS with RPL 3", frame(rip, 3, 0, rsp, USER_DS), VECTOR_GP, 0);
	refused("CS beyond the GDT", frame(rip, 0x7ff8, 0, rsp, KERNEL_DS), VECTOR_GP, 0x7ff8);
	refused("CS that is data", frame(rip, KERNEL_DS, 0, rsp, KERNEL_DS), VECTOR_GP, KERNEL_DS);
	refused("CS that is the TSS", frame(rip, TSS_SELECTOR, 0, rsp, KERNEL_DS), VECTOR_GP, TSS_SELECTOR);
	refused("CS of ring 0 with RPL 3", frame(rip, KERNEL_CS | 3, 0, rsp, USER_DS), VECTOR_GP, KERNEL_CS);
	refused("CS of ring 3 with RPL 0", frame(rip, USER_CS & ~3ul, 0, rsp, KERNEL_DS), VECTOR_GP, USER_CS & ~3ul);
	refused("CS in an absent LDT", frame(rip, 4 | 8, 0, rsp, KERNEL_DS), VECTOR_GP, 4 | 8);
	*spare = 0x00af1b000000ffff;
	refused("CS that is not present", frame(rip, s, 0, rsp, KERNEL_DS), VECTOR_NP, s);

	refused("null SS for ring 3", frame(rip, USER_CS, 0, rsp, 0), VECTOR_GP, 0);
	refused("null SS with RPL 3 for ring 3", frame(rip, USER_CS, 0, rsp, 3), VECTOR_GP, 0);
	refused("SS of another RPL", frame(rip, USER_CS, 0, rsp, USER_DS & ~3ul), VECTOR_GP, USER_DS & ~3ul);
	refused("SS of ring 0 for ring 3", frame(rip, USER_CS, 0, rsp, KERNEL_DS | 3), VECTOR_GP, KERNEL_DS);
	refused("SS beyond the GDT", frame(rip, USER_CS, 0, rsp, 0x7ff8 | 3), VECTOR_GP, 0x7ff8);
	refused("SS that is code", frame(rip, USER_CS, 0, rsp, USER_CS), VECTOR_GP, USER_CS & ~3ul);
	refused("SS of ring 3 for ring 0", frame(rip, KERNEL_CS, 0, rsp, USER_DS & ~3ul), VECTOR_GP, USER_DS & ~3ul);
	*spare = 0x00cff1000000ffff;
	refused("SS that is read-only", frame(rip, USER_CS, 0, rsp, s | 3), VECTOR_GP, s);

	frame(rip, KERNEL_CS, 0, rsp, KERNEL_DS);
	expect("NT set", iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048, .rflags = FLAG_NT }, VECTOR_GP, 0, 3);

	// Data segments that ring 3 may not have become null on the way there, others stay.
	u16 ds, es;
	frame(rip, USER_CS, 0, rsp, USER_DS);
	asm volatile("mov %0, %%ds; mov %1, %%es" :: "r"(KERNEL_DS), "r"(USER_DS));
	run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	asm volatile("mov %%ds, %0; mov %%es, %1" : "=r"(ds), "=r"(es));
	check(ds == 0 && es == USER_DS, "DS and ES after a way to ring 3: %x, %x", ds, es);
	asm volatile("mov %0, %%ds; mov %0, %%es" :: "r"(KERNEL_DS));

	// The frame itself.
	expect("frame on an absent page", iret, 0, (struct regs){ .rdi = ABSENT }, VECTOR_DF, 0, 3);	// no stack for the #PF either
	idt_set(VECTOR_PF, vector_entry(VECTOR_PF), 0, IST_TEST);
	expect("frame on an absent page, #PF with a stack of its own", iret, 0, (struct regs){ .rdi = ABSENT }, VECTOR_PF, 0, 3);
	check(trap_cr2 >= ABSENT && trap_cr2 < ABSENT + 40, "frame on an absent page: CR2 %lx", trap_cr2);
	idt_set(VECTOR_PF, vector_entry(VECTOR_PF), 0, 0);

	// From ring 3 there is no way down.
	frame(rip, KERNEL_CS, 0, rsp, KERNEL_DS);
	expect("from ring 3 to ring 0", iret, 3, (struct regs){ .rdi = STACK_PAGE + 2048 }, VECTOR_GP, KERNEL_CS, 3);
	frame(rip, USER_CS, 0, rsp, USER_DS);
	expect("from ring 3 to ring 3", iret, 3, (struct regs){ .rdi = STACK_PAGE + 2048 }, VECTOR_USER_EXIT, 0, 7);
}

// QEMU 7.2 takes a CS with L and D, goes to an address that is not canonical and faults there, and gives #NP for an absent SS.
void test_iret_exactly(void)
{
	u64 rip = CODE_PAGE + 5, rsp = STACK_END, *spare = &gdt[SPARE_SELECTOR / 8], s = SPARE_SELECTOR;
	*spare = 0x00ef9b000000ffff;
	refused("CS with L and D", frame(rip, s, 0, rsp, KERNEL_DS), VECTOR_GP, s);
	refused("RIP that is not canonical", frame(NON_CANONICAL, KERNEL_CS, 0, rsp, KERNEL_DS), VECTOR_GP, 0);
	*spare = 0x00cf73000000ffff;
	refused("SS that is not present", frame(rip, USER_CS, 0, rsp, s | 3), VECTOR_SS, s);
}

void test_iret_flags(void)
{
	u64 rip = CODE_PAGE + 5, rsp = STACK_END;
	u64 all = FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC | FLAG_ID | FLAG_NT;
	frame(rip, USER_CS, all | 1ul << 3 | 1ul << 5 | 1ul << 15 | 0xfful << 22, rsp, USER_DS);
	int vector = run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	check(vector == VECTOR_USER_EXIT && (trap.rflags & ~FLAG_RF) == (all | FLAG_1), "from ring 0: flags %lx, should be %lx", trap.rflags, all | FLAG_1);

	// At ring 3 IF and IOPL stay as they are.
	frame(rip, USER_CS, FLAG_IOPL | FLAG_CF, rsp, USER_DS);
	vector = run_snippet(iret, 3, (struct regs){ .rdi = STACK_PAGE + 2048, .rflags = FLAG_IF });
	check(vector == VECTOR_USER_EXIT && trap.rflags == (FLAG_1 | FLAG_IF | FLAG_CF), "from ring 3: flags %lx", trap.rflags);
	frame(rip, USER_CS, 0, rsp, USER_DS);
	vector = run_snippet(iret, 3, (struct regs){ .rdi = STACK_PAGE + 2048, .rflags = FLAG_IF | FLAG_IOPL });
	check(vector == VECTOR_USER_EXIT && trap.rflags == (FLAG_1 | FLAG_IOPL), "from ring 3 with IOPL 3: flags %lx", trap.rflags);

	// TF in the frame traps after the first instruction there: the snippet's own beginning, which is harmless.
	frame(CODE_PAGE, USER_CS, FLAG_TF, rsp, USER_DS);
	write_dr6(0xffff0ff0);
	vector = run_snippet(iret, 0, (struct regs){ .rdi = STACK_PAGE + 2048 });
	check(vector == VECTOR_DB && trap.cs == USER_CS && trap_offset() == 3 && (read_dr6() & 0xe00f) == 0x4000, "TF in the frame: %d at +%ld, DR6 %lx", vector,
	      trap_offset(), read_dr6());
	write_dr6(0xffff0ff0);
}
