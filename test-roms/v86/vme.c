// Virtual-8086 mode extensions, CR4.VME. SDM 3B "Class 2—Maskable Hardware Interrupt Handling in Virtual-8086 Mode Using the Virtual
// Interrupt Mechanism", "Class 3—Software Interrupt Handling in Virtual-8086 Mode".
#include "v86.h"

CODE16(cli_, "nop; cli")
CODE16(sti_, "nop; sti")
CODE16(pushf_, "nop; pushf")
CODE16(popf_, "push %ax; popf")
CODE16(pushfd, "nop; pushfl")
CODE16(popfd, "push %eax; popfl")
CODE16(iret_, "push %ax; push %cs; push $8; iretw; nop; nop; nop; nop")
CODE16(iretd, "nop; iretl")
CODE16(int_51, "nop; int $0x51; nop")
CODE16(int_3, "nop; int3")
CODE16(handler, "nop")

#define NONE ((struct legacy_regs){ 0 })

static bool vme(void)
{
	if (!(cpuid(1, 0).edx >> 1 & 1)) {
		skip("this processor has no VME");
		return false;
	}
	legacy.cr4 = CR4_VME;
	return true;
}

void test_virtual_flags(void)
{
	if (!vme())
		return;
	for (u32 iopl = 0; iopl < 3; iopl++) {
		u32 f = iopl << 12;
		passes("CLI", cli_, f | FLAG_IF | FLAG_VIF, NONE);
		check(event.eflags & FLAG_IF && !(event.eflags & FLAG_VIF), "CLI: EFLAGS %x", event.eflags);
		passes("STI", sti_, f, NONE);
		check(!(event.eflags & FLAG_IF) && event.eflags & FLAG_VIF, "STI: EFLAGS %x", event.eflags);
		expect_v86("STI with VIP", sti_, f | FLAG_VIP, NONE, VECTOR_GP, 0, 1);
		passes("CLI with VIP", cli_, f | FLAG_VIP, NONE);
		check((event.eflags & (FLAG_VIF | FLAG_VIP)) == FLAG_VIP, "CLI with VIP: EFLAGS %x", event.eflags);
		// Both at the beginning of an instruction are a fault, whatever it is.
		expect_v86("VIF and VIP", cli_, f | FLAG_VIP | FLAG_VIF, NONE, VECTOR_GP, 0, 0);
	}
	// With IOPL 3 they act on IF, and VIF and VIP mean nothing.
	passes("VIF and VIP, IOPL 3", cli_, FLAG_IOPL | FLAG_VIP | FLAG_VIF, NONE);
	passes("CLI, IOPL 3", cli_, FLAG_IOPL | FLAG_IF | FLAG_VIF, NONE);
	check(!(event.eflags & FLAG_IF) && event.eflags & FLAG_VIF, "CLI, IOPL 3: EFLAGS %x", event.eflags);
	passes("STI with VIP, IOPL 3", sti_, FLAG_IOPL | FLAG_VIP, NONE);
	check(event.eflags & FLAG_IF && !(event.eflags & FLAG_VIF), "STI, IOPL 3: EFLAGS %x", event.eflags);
}

void test_virtual_popf(void)
{
	if (!vme())
		return;
	for (u32 iopl = 0; iopl < 3; iopl++) {
		u32 f = iopl << 12;
		passes("PUSHF", pushf_, f | FLAG_VIF | FLAG_CF, NONE);
		check(stack16(0) == (FLAG_IOPL | FLAG_IF | FLAG_CF | FLAG_1), "PUSHF with VIF: %x", stack16(0));
		passes("PUSHF", pushf_, f | FLAG_IF, NONE);
		check(stack16(0) == (FLAG_IOPL | FLAG_1), "PUSHF without VIF: %x", stack16(0));
		passes("POPF", popf_, f, (struct legacy_regs){ .eax = FLAG_IF | FLAG_CF | FLAG_IOPL });
		check(event.eflags == (f | FLAG_VM | FLAG_VIF | FLAG_CF | FLAG_RF | FLAG_1), "POPF of IF: EFLAGS %x", event.eflags);
		passes("POPF", popf_, f | FLAG_VIF | FLAG_IF | FLAG_CF, NONE);
		check(event.eflags == (f | FLAG_VM | FLAG_IF | FLAG_RF | FLAG_1), "POPF of zeros: EFLAGS %x", event.eflags);
		expect_v86("POPF of IF with VIP", popf_, f | FLAG_VIP, (struct legacy_regs){ .eax = FLAG_IF }, VECTOR_GP, 0, 1);
		passes("POPF of zeros with VIP", popf_, f | FLAG_VIP, NONE);
		expect_v86("POPF of TF", popf_, f, (struct legacy_regs){ .eax = FLAG_TF }, VECTOR_GP, 0, 1);
		// The forms of 32 bits have no such help.
		expect_v86("PUSHFD", pushfd, f, NONE, VECTOR_GP, 0, 1);
		expect_v86("POPFD", popfd, f, NONE, VECTOR_GP, 0, 2);
	}
}

void test_virtual_iret(void)
{
	if (!vme())
		return;
	for (u32 iopl = 0; iopl < 3; iopl++) {
		u32 f = iopl << 12;
		passes("IRET", iret_, f, (struct legacy_regs){ .eax = FLAG_IF | FLAG_CF | FLAG_IOPL });
		check(event.eflags == (f | FLAG_VM | FLAG_VIF | FLAG_CF | FLAG_RF | FLAG_1), "IRET to IF: EFLAGS %x", event.eflags);
		passes("IRET", iret_, f | FLAG_IF | FLAG_VIF, NONE);
		check(event.eflags == (f | FLAG_VM | FLAG_IF | FLAG_RF | FLAG_1), "IRET to zeros: EFLAGS %x", event.eflags);
		expect_v86("IRET to IF with VIP", iret_, f | FLAG_VIP, (struct legacy_regs){ .eax = FLAG_IF }, VECTOR_GP, 0, 4);
		expect_v86("IRET to TF", iret_, f, (struct legacy_regs){ .eax = FLAG_TF }, VECTOR_GP, 0, 4);
		expect_v86("IRETD", iretd, f, NONE, VECTOR_GP, 0, 1);
	}
}

// The vector table of the program is at linear 0; what the BIOS has there is put back.
static u32 set_vector(u32 vector, u32 target)
{
	volatile u32 *entry = (u32 *)(u64)(vector * 4);
	asm("" : "+r"(entry));
	u32 was = *entry;
	*entry = target;
	return was;
}

#define HANDLER 0x100	// offset in the code's segment

static void redirect(u32 vector, bool to_program)
{
	u8 *byte = &legacy_tss.redirection[vector / 8];
	*byte = (u8)(to_program ? *byte & ~(1u << vector % 8) : *byte | 1u << vector % 8);
}

void test_redirection(void)
{
	if (!vme())
		return;
	u32 was = set_vector(VECTOR_TEST, V86_CODE << 16 | HANDLER);
	memcpy(low(V86_CODE, HANDLER), handler.start, (size_t)(handler.end - handler.start));
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_CODE(0), legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(3), 0);
	for (u32 iopl = 0; iopl < 4; iopl++) {
		u32 f = iopl << 12;
		bool open = iopl == 3;
		// Set bits: as without VME.
		redirect(VECTOR_TEST, false);
		if (open)
			expect_v86("bit set", int_51, f, NONE, VECTOR_TEST, 0, 3);
		else
			expect_v86("bit set", int_51, f, NONE, VECTOR_GP, 0, 1);
		// Clear bits: the program's own handler. There it ends by INT 80h, whose bit is set.
		redirect(VECTOR_TEST, true);
		for (u32 flag = 0; flag < 2; flag++) {
			u32 image = flag ? FLAG_IF | FLAG_VIF : 0;
			run_v86(int_51, f | image | FLAG_CF, NONE);
			u32 ending = HANDLER + END(handler);
			check(event.cs == V86_CODE && (open ? event.vector == VECTOR_USER_EXIT && event.eip == ending : event.vector == VECTOR_GP && event.eip == ending - 2) && event.eflags & FLAG_VM,
			      "bit clear, IOPL %u: exception %d at %x:%x", iopl, event.vector, event.cs, event.eip);
			check(event.esp == V86_SP - 6 && stack16(0) == 3 && stack16(1) == V86_CODE, "bit clear, IOPL %u: return to %x:%x", iopl, stack16(1), stack16(0));
			check(stack16(2) == (FLAG_IOPL | FLAG_CF | FLAG_1 | (flag ? FLAG_IF : 0)), "bit clear, IOPL %u: flags on the stack %x", iopl, stack16(2));
			// IOPL 3 clears IF itself, less clears VIF.
			u32 want = open ? image & FLAG_VIF : image & FLAG_IF;
			check((event.eflags & (FLAG_IF | FLAG_VIF)) == want, "bit clear, IOPL %u: EFLAGS in the handler %x", iopl, event.eflags);
		}
	}
	// INT3 has no redirection.
	redirect(VECTOR_BP, true);
	expect_v86("INT3", int_3, 0, NONE, VECTOR_BP, 0, 2);
	set_vector(VECTOR_TEST, was);
}

void test_redirection_map(void)
{
	if (!vme())
		return;
	u32 was = set_vector(VECTOR_TEST, V86_CODE << 16 | HANDLER);
	memcpy(low(V86_CODE, HANDLER), handler.start, (size_t)(handler.end - handler.start));
	// The bit is that of the vector and of no other.
	for (u32 v = 0x48; v < 0x5a; v++) {
		memset(legacy_tss.redirection, 0xff, sizeof legacy_tss.redirection);
		redirect(v, true);
		run_v86(int_51, 0, NONE);
		check(event.vector == VECTOR_GP && event.eip == (v == VECTOR_TEST ? HANDLER + 1 : 1), "bit of vector %x: exception %d at %x", v, event.vector, event.eip);
	}
	set_vector(VECTOR_TEST, was);
}
