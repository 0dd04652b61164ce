// Interrupts and exceptions in real mode: SDM 3B "Interrupt and Exception Handling", 2A "INT n" and "IRET".
#include "real16.h"

CODE16(int_51, "nop; int $0x51")
CODE16(int_51_there, "nop; int $0x51; mov $0x1234, %cx")
CODE16(handler_iret, "mov %sp, %bp; mov (%bp), %ax; mov 2(%bp), %bx; mov 4(%bp), %dx; pushf; pop %si; iret")
CODE16(handler_skip, "mov %sp, %bp; addw $2, (%bp); iret")
CODE16(flags_and_int, "push %ax; popf; int $0x51; pushf; pop %di; push $0; popf")
CODE16(div_, "xor %cl, %cl; div %cl; mov $0x55, %al")
CODE16(bound_, "bound %ax, (%bx)")
CODE16(into_, "mov $0x7f, %al; inc %al; into")
CODE16(int3_, "nop; int3")
CODE16(undefined, "nop; ud2")
CODE16(hlt_free, "nop")
CODE16(device, "nop; fnop")
CODE16(waiting, "nop; fwait")

#define HANDLER 0x400	// offset in the code's segment

static void install(u32 vector, struct code c)
{
	memcpy(low(V86_CODE, HANDLER), c.start, (size_t)(c.end - c.start));
	((u32 *)REAL_IVT)[vector] = V86_CODE << 16 | HANDLER;
}

void test_vectors(void)
{
	install(VECTOR_TEST, handler_iret);
	passes("INT and IRET", int_51_there, NONE);
	check((R.eax & 0xffff) == 3 && (R.ebx & 0xffff) == V86_CODE && (R.edx & 0xffff) == FLAG_1 && (R.ecx & 0xffff) == 0x1234 && event.esp == V86_SP, "INT and IRET: frame %x:%x flags %x",
	      R.ebx, R.eax, R.edx);
	// IF and TF are cleared in the handler, the others not; IRET restores them.
	u32 flags = FLAG_CF | FLAG_OF | FLAG_DF | FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_1;
	passes("flags", flags_and_int, (struct legacy_regs){ .eax = flags });
	check((R.edx & 0xffff) == flags && (R.edi & 0xffff) == flags, "flags: pushed %x, after IRET %x", R.edx, R.edi);
	check((R.esi & 0xffff) == (flags & ~(u32)FLAG_IF), "flags in the handler: %x", R.esi);
	expect_real("INT3", int3_, NONE, VECTOR_BP, 2);
	expect_real("INTO", into_, NONE, VECTOR_OF, 5);
}

void test_table(void)
{
	// IDTR counts here too: base and limit.
	u32 *other = (u32 *)0x6800;
	memcpy(other, (void *)REAL_IVT, 0x400);
	install(VECTOR_TEST, handler_iret);
	memcpy(other, (void *)REAL_IVT, 0x400);
	legacy.real_idtr.base = 0x6800;
	passes("table elsewhere", int_51_there, NONE);
	legacy.real_idtr.limit = VECTOR_TEST * 4 + 3;
	run_real(int_51_there, NONE);
	// INT 80h at its end is then beyond the limit: #GP.
	check(event.vector == VECTOR_GP && event.eip == END(int_51_there) - 2, "limit that has the vector: exception %d at %x", event.vector, event.eip);
	legacy.real_idtr.limit = VECTOR_TEST * 4 + 2;
	expect_real("limit that cuts the vector", int_51, NONE, VECTOR_GP, 1);
	check(event.esp == V86_SP, "limit that cuts the vector: SP %x", event.esp);
	// Where #GP has no vector either, it is a double fault, which has.
	legacy.real_idtr.limit = VECTOR_GP * 4 + 2;
	expect_real("limit that cuts the vector of #GP", int_51, NONE, VECTOR_DF, 1);
}

// No error codes, and the address of the instruction.
void test_exceptions(void)
{
	expect_real("#DE", div_, NONE, VECTOR_DE, 2);
	i16 bounds[2] = { -5, 5 };
	memcpy(low(V86_DATA, 0x40), bounds, 4);
	expect_real("#BR", bound_, (struct legacy_regs){ .eax = 6, .ebx = 0x40 }, VECTOR_BR, 0);
	passes("BOUND", bound_, (struct legacy_regs){ .eax = 0xfffb, .ebx = 0x40 });
	expect_real("#UD", undefined, NONE, VECTOR_UD, 1);
	legacy.cr0 |= CR0_EM;
	expect_real("#NM by EM", device, NONE, VECTOR_NM, 1);
	legacy.cr0 = (legacy.cr0 & ~(u32)CR0_EM) | CR0_TS;
	expect_real("#NM by TS", device, NONE, VECTOR_NM, 1);
	passes("FWAIT with TS without MP", waiting, NONE);
	legacy.cr0 |= CR0_MP;
	expect_real("FWAIT with TS and MP", waiting, NONE, VECTOR_NM, 1);
	legacy_reset();
	// A handler that goes on behind the instruction.
	install(VECTOR_DE, handler_skip);
	passes("#DE, handled", div_, NONE);
	check((R.eax & 0xff) == 0x55, "#DE, handled: AL %x", R.eax);
}

CODE16(iret_, "push %ax; push %cs; push $8; iret; nop; nop; nop; pushf; pop %bx; push $0; popf")
CODE16(iretd_, "pushl %eax; pushl %ebx; pushl %ecx; iretl; nop; nop; nop; nop; pushfl; popl %edx; push $0; popf")
CODE16(popf_, "push %ax; popf; pushf; pop %bx; push $0; popf")
CODE16(popfd_, "pushl %eax; popfl; pushfl; popl %ebx; pushl $0; popfl")

void test_iret(void)
{
	u32 all = FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_1;
	passes("IRET", iret_, (struct legacy_regs){ .eax = all });
	check((R.ebx & 0xffff) == all && event.esp == V86_SP, "IRET: flags %x", R.ebx);
	passes("POPF", popf_, (struct legacy_regs){ .eax = all });
	check((R.ebx & 0xffff) == all, "POPF: flags %x", R.ebx);
	// POPFD: VM, RF, VIF and VIP are not its to change.
	passes("POPFD", popfd_, (struct legacy_regs){ .eax = all | FLAG_AC | FLAG_ID | FLAG_VM | FLAG_RF | FLAG_VIF | FLAG_VIP });
	check(R.ebx == (all | FLAG_AC | FLAG_ID), "POPFD: flags %x", R.ebx);
	passes("IRETD", iretd_, (struct legacy_regs){ .eax = all | FLAG_AC | FLAG_ID, .ebx = V86_CODE, .ecx = 9 });
	check(R.edx == (all | FLAG_AC | FLAG_ID), "IRETD: flags %x", R.edx);
	expect_real("IRETD beyond the limit", iretd_, (struct legacy_regs){ .eax = 2, .ebx = V86_CODE, .ecx = 0x10000 }, VECTOR_GP, 6);
	check(event.esp == V86_SP - 12, "IRETD beyond the limit leaves SP: %x", event.esp);
}

CODE16(int_first, "int $0x51")

void test_stepping(void)
{
	legacy.eflags = FLAG_TF;
	expect_real("TF", hlt_free, NONE, VECTOR_DB, 1);
	check((legacy.out.dr6 & 0xe00f) == 0x4000 && event.eflags & FLAG_TF, "TF: DR6 %x, flags %x", legacy.out.dr6, event.eflags);
	legacy.eflags = 0;
	// INT clears TF: no trap behind it, the handler runs to its end.
	legacy.eflags = FLAG_TF;
	install(VECTOR_TEST, hlt_free);
	run_real(int_first, NONE);
	check(event.vector == VECTOR_USER_EXIT && event.eip == HANDLER + END(hlt_free), "INT with TF: exception %d at %x", event.vector, event.eip);
	legacy.eflags = 0;
}

CODE16(store_word, "mov %ax, (%bx); nop")
CODE16(in_port, "in $0x80, %al; nop")

void test_breakpoints(void)
{
	legacy.dr[0] = V86_CODE * 16 + 1;
	legacy.dr7 = 0x402;
	expect_real("instruction", int_51, NONE, VECTOR_DB, 1);
	check((legacy.out.dr6 & 0xe00f) == 1, "instruction: DR6 %x", legacy.out.dr6);
	legacy.dr[0] = V86_DATA * 16 + 0x100;
	legacy.dr7 = 0x402 | 5 << 16;	// writes of 2 bytes
	expect_real("store", store_word, (struct legacy_regs){ .ebx = 0x100 }, VECTOR_DB, 2);
	check((legacy.out.dr6 & 0xe00f) == 1, "store: DR6 %x", legacy.out.dr6);
	passes("store beside", store_word, (struct legacy_regs){ .ebx = 0x102 });
	legacy.dr[0] = 0x80;
	legacy.dr7 = 0x402 | 2 << 16;	// I/O
	legacy.cr4 = 1 << 3;		// DE
	expect_real("port", in_port, NONE, VECTOR_DB, 2);
}

CODE16(lldt_, "nop; lldt %ax")
CODE16(ltr_, "nop; ltr %ax")
CODE16(sldt_, "nop; sldt %ax")
CODE16(str_, "nop; str %ax")
CODE16(lar_, "nop; lar %ax, %cx")
CODE16(lsl_, "nop; lsl %ax, %cx")
CODE16(verr_, "nop; verr %ax")
CODE16(verw_, "nop; verw %ax")
CODE16(arpl_, "nop; arpl %ax, %cx")
CODE16(sysenter_, "nop; .byte 0x0f, 0x34")
CODE16(sysexit_, "nop; .byte 0x0f, 0x35")
CODE16(syscall_, "nop; .byte 0x0f, 0x05")
CODE16(lock_nop, "nop; .byte 0xf0, 0x90")
CODE16(lock_load, "nop; .byte 0xf0, 0x8b, 0x07")
CODE16(mov_cs, "nop; .byte 0x8e, 0xc8")
CODE16(mov_cr1, "nop; .byte 0x0f, 0x20, 0xc8")

void test_undefined(void)
{
	struct { const char *what; struct code code; int vector; } cases[] = {
		{ "LLDT", lldt_, VECTOR_UD }, { "LTR", ltr_, VECTOR_UD }, { "SLDT", sldt_, VECTOR_UD }, { "STR", str_, VECTOR_UD }, { "LAR", lar_, VECTOR_UD }, { "LSL", lsl_, VECTOR_UD },
		{ "VERR", verr_, VECTOR_UD }, { "VERW", verw_, VECTOR_UD }, { "ARPL", arpl_, VECTOR_UD }, { "SYSENTER", sysenter_, VECTOR_GP }, { "SYSEXIT", sysexit_, VECTOR_GP },
		{ "SYSCALL", syscall_, VECTOR_UD }, { "LOCK NOP", lock_nop, VECTOR_UD }, { "LOCK of a load", lock_load, VECTOR_UD }, { "MOV CS", mov_cs, VECTOR_UD },
		{ "MOV from CR1", mov_cr1, VECTOR_UD },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		expect_real(cases[i].what, cases[i].code, NONE, cases[i].vector, 1);
}

CODE16(tables, "sgdtl (%bx); lgdtl (%bx); sidtl 8(%bx); lidtl 8(%bx); smsw %ax; lmsw %ax")
CODE16(control, "mov %cr0, %eax; mov %eax, %cr0; mov %cr4, %ebx; mov %ebx, %cr4; mov %cr3, %ecx; mov %ecx, %cr3; clts; invlpg (0)")
CODE16(debug_registers, "mov %eax, %dr0; mov %dr0, %ebx; xor %eax, %eax; mov %eax, %dr0")
CODE16(msr, "mov $0x1b, %ecx; rdmsr; rdtsc; cpuid")
CODE16(invd, "wbinvd")
CODE16(there_and_back, "cli; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; smsw %bx; and $0xfe, %al; mov %eax, %cr0; smsw %cx; mov %ds:(0x20), %edx")
CODE16(fpu, "fninit; fld1; fld1; faddp; fistpl (%bx); fnstcw 8(%bx)")

// Everything is privileged enough here.
void test_system(void)
{
	passes("LGDT, LIDT, LMSW", tables, (struct legacy_regs){ .ebx = 0x100 });
	check(load16(low(V86_DATA, 0x108)) == 0x3ff && load32(low(V86_DATA, 0x10a)) == REAL_IVT, "SIDT: limit %x base %x", load16(low(V86_DATA, 0x108)), load32(low(V86_DATA, 0x10a)));
	passes("control registers", control, NONE);
	passes("debug registers", debug_registers, (struct legacy_regs){ .eax = 0x1234 });
	check(R.ebx == 0x1234, "DR0: %x", R.ebx);
	passes("RDMSR, RDTSC, CPUID", msr, NONE);
	passes("WBINVD", invd, NONE);
	// CR0.PE on and off without a far jump: the segments stay what they were.
	write32((u64)low(V86_DATA, 0x20), 0xfeedbeef);
	passes("CR0.PE on and off", there_and_back, NONE);
	check(R.ebx & 1 && !(R.ecx & 1) && R.edx == 0xfeedbeef, "CR0.PE on and off: %x %x %x", R.ebx, R.ecx, R.edx);
	passes("x87", fpu, (struct legacy_regs){ .ebx = 0x200 });
	check(load32(low(V86_DATA, 0x200)) == 2, "x87: %x", load32(low(V86_DATA, 0x200)));
}
