// Virtual-8086 mode without extensions. SDM 3B "Virtual-8086 Mode", 3A "Exception and Interrupt Handling in Virtual-8086 Mode".
#include "v86.h"

CODE16(nothing, "nop")
CODE16(undefined, "nop; ud2")
CODE16(see_segments, "mov %es, %ax; mov %ds, %bx; mov %fs, %cx; mov %gs, %dx; mov %ss, %si; mov %cs, %di")
CODE16(cli_, "nop; cli")
CODE16(sti_, "nop; sti")
CODE16(pushf_, "nop; pushf")
CODE16(popf_, "push %ax; popf")
CODE16(pushfd, "nop; pushfl")
CODE16(popfd, "push %eax; popfl")
CODE16(iret_, "nop; iretw")
CODE16(iretd, "nop; iretl")
CODE16(int_51, "nop; int $0x51")
CODE16(int_3, "nop; int3")
CODE16(int_3_long, "nop; .byte 0xcd, 3")
CODE16(int_o, "mov $0x7f, %al; inc %al; into")
CODE16(icebp, "nop; .byte 0xf1")

#define IOPL3 FLAG_IOPL

void test_entry(void)
{
	legacy.fs = 0;
	run_v86(see_segments, IOPL3 | FLAG_CF, (struct legacy_regs){ .ebp = 0xb1234567 });
	const struct legacy_regs *o = &legacy.out.regs;
	check(event.vector == VECTOR_USER_EXIT && (o->eax & 0xffff) == V86_DATA && (o->ebx & 0xffff) == V86_DATA && (o->ecx & 0xffff) == 0 && (o->esi & 0xffff) == V86_STACK
	      && (o->edi & 0xffff) == V86_CODE && o->ebp == 0xb1234567, "ES %x DS %x FS %x SS %x CS %x", o->eax, o->ebx, o->ecx, o->esi, o->edi);
	check(event.eflags == (IOPL3 | FLAG_CF | FLAG_VM | FLAG_1), "EFLAGS %x", event.eflags);
}

void test_frames(void)
{
	run_v86(undefined, FLAG_OF, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_UD && event.cs == V86_CODE && event.eip == 1 && event.ss == V86_STACK && event.esp == V86_SP, "#UD: exception %d at %x:%x, SS:SP %x:%x",
	      event.vector, event.cs, event.eip, event.ss, event.esp);
	check(event.es == V86_DATA && event.ds == V86_DATA && event.fs == 0 && event.gs == 0, "#UD: ES %x DS %x FS %x GS %x", event.es, event.ds, event.fs, event.gs);
	check(event.eflags == (FLAG_OF | FLAG_VM | FLAG_RF | FLAG_1) && legacy.out.esp == STACK_TOP(0) - 36, "#UD: EFLAGS %x, ESP of the handler %x", event.eflags, legacy.out.esp);
	// The handler has null segments.
	check(legacy.out.ds == 0 && legacy.out.es == 0 && legacy.out.fs == 0 && legacy.out.gs == 0, "#UD: the handler's DS %x ES %x FS %x GS %x", legacy.out.ds, legacy.out.es,
	      legacy.out.fs, legacy.out.gs);
	// #GP has its error code below.
	expect_v86("CLI", cli_, 0, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	check(legacy.out.esp == STACK_TOP(0) - 40 && event.eflags & FLAG_VM, "#GP: ESP of the handler %x", legacy.out.esp);
}

void test_sensitive(void)
{
	struct { const char *what; struct code code; i32 offset; } cases[] = {
		{ "CLI", cli_, 1 }, { "STI", sti_, 1 }, { "PUSHF", pushf_, 1 }, { "POPF", popf_, 1 }, { "PUSHFD", pushfd, 1 }, { "POPFD", popfd, 2 },
		{ "IRET", iret_, 1 }, { "IRETD", iretd, 1 }, { "INT 51h", int_51, 1 }, { "INT 3 of two bytes", int_3_long, 1 },
	};
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_CODE(0), legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(3), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		for (u32 iopl = 0; iopl < 3; iopl++)
			expect_v86(cases[i].what, cases[i].code, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_GP, 0, cases[i].offset);
	for (u32 iopl = 0; iopl < 4; iopl++) {
		expect_v86("INT3", int_3, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_BP, 0, 2);
		expect_v86("INTO", int_o, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_OF, 0, 5);
		expect_v86("ICEBP", icebp, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_DB, 0, 2);
	}
}

void test_flags(void)
{
	passes("CLI", cli_, IOPL3 | FLAG_IF, (struct legacy_regs){ 0 });
	check(!(event.eflags & FLAG_IF), "CLI: EFLAGS %x", event.eflags);
	passes("STI", sti_, IOPL3, (struct legacy_regs){ 0 });
	check(event.eflags & FLAG_IF, "STI: EFLAGS %x", event.eflags);
	passes("PUSHF", pushf_, IOPL3 | FLAG_NT | FLAG_CF, (struct legacy_regs){ 0 });
	check(event.esp == V86_SP - 2 && stack16(0) == (IOPL3 | FLAG_NT | FLAG_CF | FLAG_1), "PUSHF: %x", stack16(0));
	passes("PUSHFD", pushfd, IOPL3 | FLAG_AC, (struct legacy_regs){ 0 });
	// VM and RF are pushed as zeros.
	check(event.esp == V86_SP - 4 && stack16(1) == FLAG_AC >> 16, "PUSHFD: %x in the upper half", stack16(1));
	// POPF cannot change IOPL, and neither can it leave the mode.
	passes("POPF of zeros", popf_, IOPL3 | FLAG_IF | FLAG_CF, (struct legacy_regs){ 0 });
	check(event.eflags == (IOPL3 | FLAG_VM | FLAG_1), "POPF of zeros: EFLAGS %x", event.eflags);
	passes("POPFD", popfd, IOPL3, (struct legacy_regs){ .eax = FLAG_CF | FLAG_ID | FLAG_VIP | FLAG_VIF | FLAG_RF });
	check(event.eflags == (IOPL3 | FLAG_VM | FLAG_CF | FLAG_ID | FLAG_1), "POPFD: EFLAGS %x", event.eflags);
}

CODE16(iret_back, "push %ax; push %cs; push $8; iretw; nop; nop; nop; nop")

void test_interrupts(void)
{
	passes("INT 80h", nothing, IOPL3, (struct legacy_regs){ 0 });
	check(legacy.out.esp == STACK_TOP(0) - 36 && event.cs == V86_CODE, "INT 80h: ESP of the handler %x", legacy.out.esp);
	// The gate's DPL must be 3.
	for (u32 dpl = 0; dpl < 3; dpl++) {
		legacy_idt[VECTOR_TEST] = gate_descriptor(L_CODE(0), legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(dpl), 0);
		expect_v86("INT 51h by a gate of another DPL", int_51, IOPL3, (struct legacy_regs){ 0 }, VECTOR_GP, VECTOR_TEST * 8 + 2, 1);
	}
	legacy_idt[VECTOR_BP] = gate_descriptor(L_CODE(0), legacy_vector(VECTOR_BP), D_GATE_INT32, 0);
	expect_v86("INT3 by a gate of DPL 0", int_3, 0, (struct legacy_regs){ 0 }, VECTOR_GP, VECTOR_BP * 8 + 2, 1);
	// IRET stays in the mode and leaves IOPL alone.
	passes("IRET", iret_back, IOPL3, (struct legacy_regs){ .eax = FLAG_CF | FLAG_IF });
	check(event.eflags == (IOPL3 | FLAG_VM | FLAG_CF | FLAG_IF | FLAG_1) && event.esp == V86_SP, "IRET: EFLAGS %x, SP %x", event.eflags, event.esp);
}

// SDM 2A "INT n": from virtual-8086 mode only to code of DPL 0 that is not conforming.
void test_bad_gates(void)
{
	legacy_idt[VECTOR_TEST] = gate_descriptor((u32)L_CODE(1), legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(3), 0);
	expect_v86("gate to ring 1", int_51, IOPL3, (struct legacy_regs){ 0 }, VECTOR_GP, (u32)L_CODE(1) & ~3u, 1);
	legacy_idt[VECTOR_TEST] = gate_descriptor((u32)L_CODE(3), legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(3), 0);
	expect_v86("gate to ring 3", int_51, IOPL3, (struct legacy_regs){ 0 }, VECTOR_GP, (u32)L_CODE(3) & ~3u, 1);
	SPARE = descriptor(0, 0xfffff, D_CODE | D_CONFORMING | D_BIG | D_G);
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_SPARE, legacy_vector(VECTOR_TEST), D_GATE_INT32 | D_DPL(3), 0);
	expect_v86("gate to conforming code", int_51, IOPL3, (struct legacy_regs){ 0 }, VECTOR_GP, L_SPARE, 1);
	legacy_idt[VECTOR_UD] = legacy_idt[VECTOR_TEST];
	expect_v86("#UD by a gate to conforming code", undefined, 0, (struct legacy_regs){ 0 }, VECTOR_GP, L_SPARE + 1, 1);
}

CODE16(load_bx, "mov (%bx), %ax")
CODE16(load_bp, "mov (%bp), %ax")
CODE16(load_ebx, "mov (%ebx), %al")
CODE16(store_high, "mov $0xffff, %dx; mov %dx, %ds; movb $0x5a, 0x110")
CODE16(push_odd, "mov $1, %sp; push %ax")
CODE16(push_wrap, "mov $0, %sp; push %ax")
CODE16(mov_any_ss, "mov %ax, %ss; mov %ax, %ds; mov %ax, %es; mov %ax, %fs; mov %ax, %gs")

void test_segments(void)
{
	write32((u64)low(V86_DATA, 0xfffc), 0x12345678);
	passes("load at FFFEh", load_bx, IOPL3, (struct legacy_regs){ .ebx = 0xfffe });
	check((legacy.out.regs.eax & 0xffff) == 0x1234, "load at FFFEh: %x", legacy.out.regs.eax);
	expect_v86("load at FFFFh", load_bx, 0, (struct legacy_regs){ .ebx = 0xffff }, VECTOR_GP, 0, 0);
	expect_v86("load of the stack at FFFFh", load_bp, 0, (struct legacy_regs){ .ebp = 0xffff }, VECTOR_SS, 0, 0);
	expect_v86("load at 10000h", load_ebx, 0, (struct legacy_regs){ .ebx = 0x10000 }, VECTOR_GP, 0, 0);
	expect_v86("PUSH at 1", push_odd, 0, (struct legacy_regs){ 0 }, VECTOR_SS, 0, 3);
	passes("PUSH at 0", push_wrap, IOPL3, (struct legacy_regs){ 0 });
	check(event.esp == 0xfffe, "PUSH at 0: SP %x", event.esp);
	// Any selector will do, and there is no wrap at 1 MiB: FFFF:0110 is 100100h. That is a byte of the image's first page,
	// which is put back.
	u8 *byte = (u8 *)0x100100, was = *byte;
	passes("store above 1 MiB", store_high, IOPL3, (struct legacy_regs){ 0 });
	check(*(volatile u8 *)byte == 0x5a, "store above 1 MiB: %x", *byte);
	*byte = was;
	run_v86(mov_any_ss, IOPL3, (struct legacy_regs){ .eax = 0x4003 });
	check(event.vector == VECTOR_USER_EXIT && event.ss == 0x4003 && event.ds == 0x4003 && event.es == 0x4003 && event.fs == 0x4003 && event.gs == 0x4003, "selectors: exception %d, SS %x",
	      event.vector, event.ss);
}

CODE16(far_call, "nop; lcall $0x2000, $10; jmp 7f; nop; nop; mov %cs, %cx; lret; nop; nop; nop; nop; nop; nop; nop; nop; 7:")
CODE16(far_jump, "ljmp $0x1ff0, $0x108; nop; nop; nop; mov %cs, %cx")

// As in real mode: selectors are paragraphs, and the same bytes have many names.
void test_far(void)
{
	run_v86(far_call, IOPL3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(far_call) && event.esp == V86_SP && (legacy.out.regs.ecx & 0xffff) == V86_CODE, "CALL and RET: exception %d at %x",
	      event.vector, event.eip);
	run_v86(far_jump, IOPL3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.cs == 0x1ff0 && event.eip == END(far_jump) + 0x100 && (legacy.out.regs.ecx & 0xffff) == 0x1ff0, "JMP: exception %d at %x:%x", event.vector,
	      event.cs, event.eip);
}

CODE16(in_al, "mov $0x80, %dx; in %dx, %al")
CODE16(in_ax, "mov $0x80, %dx; in %dx, %ax")
CODE16(out_imm, "nop; nop; nop; out %al, $0x80")

// IOPL does not count for I/O here, the map always does.
void test_ports(void)
{
	u8 *map = &legacy_tss.ports[0x80 / 8];
	for (u32 iopl = 0; iopl < 4; iopl++) {
		*map = 0xff;
		expect_v86("IN, closed", in_al, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 3);
		expect_v86("OUT, closed", out_imm, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 3);
		*map = 0xfe;
		passes("IN, open", in_al, iopl << 12, (struct legacy_regs){ 0 });
		passes("OUT, open", out_imm, iopl << 12, (struct legacy_regs){ 0 });
		expect_v86("IN of a word, half open", in_ax, iopl << 12, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 3);
		*map = 0xfc;
		passes("IN of a word, open", in_ax, iopl << 12, (struct legacy_regs){ 0 });
	}
}

CODE16(hlt_, "nop; hlt")
CODE16(clts_, "nop; clts")
CODE16(lgdt_, "nop; lgdtw (%di)")
CODE16(lmsw_, "nop; lmsw %ax")
CODE16(mov_cr0_, "nop; mov %cr0, %eax")
CODE16(mov_dr7_, "nop; mov %dr7, %eax")
CODE16(rdmsr_, "nop; rdmsr")
CODE16(invlpg_, "nop; invlpg (%di)")
CODE16(sgdt_, "nop; sgdtw (%di)")
CODE16(smsw_, "nop; smsw %ax")
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

void test_privileged(void)
{
	struct { const char *what; struct code code; int vector; } cases[] = {
		{ "HLT", hlt_, VECTOR_GP }, { "CLTS", clts_, VECTOR_GP }, { "LGDT", lgdt_, VECTOR_GP }, { "LMSW", lmsw_, VECTOR_GP }, { "MOV from CR0", mov_cr0_, VECTOR_GP },
		{ "MOV from DR7", mov_dr7_, VECTOR_GP }, { "RDMSR", rdmsr_, VECTOR_GP }, { "INVLPG", invlpg_, VECTOR_GP }, { "SYSEXIT", sysexit_, VECTOR_GP },
		{ "SYSENTER without its MSR", sysenter_, VECTOR_GP },
		{ "LLDT", lldt_, VECTOR_UD }, { "LTR", ltr_, VECTOR_UD }, { "SLDT", sldt_, VECTOR_UD }, { "STR", str_, VECTOR_UD }, { "LAR", lar_, VECTOR_UD },
		{ "LSL", lsl_, VECTOR_UD }, { "VERR", verr_, VECTOR_UD }, { "VERW", verw_, VECTOR_UD }, { "ARPL", arpl_, VECTOR_UD },
	};
	wrmsr(0x174, 0);	// IA32_SYSENTER_CS
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		for (u32 iopl = 0; iopl < 4; iopl += 3)
			expect_v86(cases[i].what, cases[i].code, iopl << 12, (struct legacy_regs){ .edi = 0x100 }, cases[i].vector, 0, 1);
	passes("SGDT", sgdt_, IOPL3, (struct legacy_regs){ .edi = 0x100 });
	passes("SMSW", smsw_, IOPL3, (struct legacy_regs){ 0 });
}

void test_stepping(void)
{
	expect_v86("TF", nothing, IOPL3 | FLAG_TF, (struct legacy_regs){ 0 }, VECTOR_DB, 0, 1);
	check((legacy.out.dr6 & 0xe00f) == 0x4000 && event.eflags & FLAG_VM, "TF: DR6 %x, EFLAGS %x", legacy.out.dr6, event.eflags);
	legacy.dr[0] = V86_CODE * 16;
	legacy.dr7 = 0x402;
	expect_v86("instruction breakpoint", nothing, IOPL3, (struct legacy_regs){ 0 }, VECTOR_DB, 0, 0);
	check((legacy.out.dr6 & 0xe00f) == 1, "instruction breakpoint: DR6 %x", legacy.out.dr6);
}

void test_paging(void)
{
	legacy_paging();
	u32 *table = legacy_split(0);
	passes("paging", nothing, IOPL3, (struct legacy_regs){ 0 });
	u32 page = V86_DATA * 16 >> 12;
	table[page] &= ~(u32)PAGE_US;
	expect_v86("page of the supervisor", load_bx, 0, (struct legacy_regs){ .ebx = 0x10 }, VECTOR_PF, 5, 0);
	check(legacy.out.cr2 == V86_DATA * 16 + 0x10, "page of the supervisor: CR2 %x", legacy.out.cr2);
	table[page] = 0;
	expect_v86("absent page", load_bx, 0, (struct legacy_regs){ .ebx = 0x10 }, VECTOR_PF, 4, 0);
}

CODE32(iretd32, "mov %edi, %esp; iretl")

void test_iret_to_v86(void)
{
	u32 f[] = { 0, V86_CODE, FLAG_VM | FLAG_1, V86_SP, V86_STACK, V86_DATA, V86_DATA, 0, 0 }, *at = (u32 *)(legacy_stack[0] + 1024);
	memcpy(low(V86_CODE, 0), undefined.start, 4);
	memcpy(at, f, sizeof f);
	struct legacy_regs r = { .edi = (u32)(u64)at };
	run_protected(iretd32, 0, r);
	check(event.vector == VECTOR_UD && event.eflags & FLAG_VM && event.cs == V86_CODE && event.eip == 1, "from ring 0: exception %d, EFLAGS %x", event.vector, event.eflags);
	// Outside of ring 0 VM is no flag that IRETD changes: what follows is a selector.
	for (int ring = 1; ring < 4; ring++)
		expect32("from an outer ring", iretd32, ring, r, VECTOR_GP, V86_CODE & ~3, 2);
	at[0] = 0x10000;
	expect32("EIP beyond 64 KiB", iretd32, 0, r, VECTOR_GP, 0, 2);
}
