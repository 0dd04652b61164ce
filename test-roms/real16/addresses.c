// Addresses in real mode: SDM 3B "Address Translation in Real-Address Mode", 1 "Operand-Size and Address-Size Attributes".
#include "real16.h"

CODE16(see, "pushf; pop %ax; mov %cs, %bx; mov %ds, %cx; mov %es, %dx; mov %ss, %si; smsw %di")
CODE16(all_segments, "mov %ax, %ds; mov %ax, %es; mov %ax, %fs; mov %ax, %gs; mov (0x10), %bl; mov %es:(0x11), %bh; mov %fs:(0x12), %cl; mov %gs:(0x13), %ch")
CODE16(mov_ss, "mov %ax, %ss; mov %ss:(0x10), %bl")

void test_entry(void)
{
	passes("registers", see, (struct legacy_regs){ .ebp = 0x87654321 });
	check((R.ebx & 0xffff) == V86_CODE && (R.ecx & 0xffff) == V86_DATA && (R.edx & 0xffff) == V86_DATA && (R.esi & 0xffff) == V86_STACK && R.ebp == 0x87654321,
	      "CS %x DS %x ES %x SS %x", R.ebx, R.ecx, R.edx, R.esi);
	check((R.eax & 0xffff) == FLAG_1 && !(R.edi & 1), "flags %x, CR0 %x", R.eax, R.edi);
}

void test_segments(void)
{
	u32 bytes = 0x44332211;
	// Any selector, whatever it would mean in protected mode.
	u32 selectors[] = { V86_DATA, V86_DATA + 1, V86_DATA + 3, V86_DATA + 0xfff };
	for (size_t i = 0; i < ARRAY_SIZE(selectors); i++) {
		memcpy(low(selectors[i], 0x10), &bytes, 4);
		passes("loads", all_segments, (struct legacy_regs){ .eax = selectors[i] });
		check((R.ebx & 0xffff) == 0x2211 && (R.ecx & 0xffff) == 0x4433 && legacy.out.ds == selectors[i] && legacy.out.gs == selectors[i], "selector %x: BX %x CX %x", selectors[i],
		      R.ebx, R.ecx);
		passes("SS", mov_ss, (struct legacy_regs){ .eax = selectors[i] });
		check((R.ebx & 0xff) == 0x11 && event.ss == selectors[i], "SS %x: BL %x", selectors[i], R.ebx);
	}
}

CODE16(load1, "mov (%bx), %al")
CODE16(load2, "mov (%bx), %ax")
CODE16(load4, "mov (%bx), %eax")
CODE16(store2, "mov %ax, (%bx)")
CODE16(store4, "mov %eax, (%bx)")
CODE16(load4_ss, "mov %ss:(%bx), %eax")
CODE16(load2_bp, "mov (%bp), %ax")
CODE16(load_ebx, "mov (%ebx), %al")
CODE16(load_sum, "mov (%ebx, %esi, 4), %eax")
CODE16(rmw, "addw $1, (%bx)")
CODE16(lds_, "lds (%bx), %ax")
CODE16(fild8, "fildll (%bx)")
CODE16(movups, "movups (%bx), %xmm0")

// Interrupt 13 for most segments, 12 for SS; no error codes.
void test_offsets(void)
{
	passes("byte at FFFFh", load1, (struct legacy_regs){ .ebx = 0xffff });
	passes("word at FFFEh", load2, (struct legacy_regs){ .ebx = 0xfffe });
	passes("doubleword at FFFCh", load4, (struct legacy_regs){ .ebx = 0xfffc });
	struct { const char *what; struct code code; u32 offset; int vector; } cases[] = {
		{ "word at FFFFh", load2, 0xffff, VECTOR_GP },		 { "doubleword at FFFDh", load4, 0xfffd, VECTOR_GP },
		{ "doubleword at FFFFh", load4, 0xffff, VECTOR_GP },	 { "store of a word at FFFFh", store2, 0xffff, VECTOR_GP },
		{ "store of a doubleword at FFFEh", store4, 0xfffe, VECTOR_GP }, { "doubleword of SS at FFFDh", load4_ss, 0xfffd, VECTOR_SS },
		{ "byte at 10000h", load_ebx, 0x10000, VECTOR_GP },	 { "byte at FFFFFFFFh", load_ebx, 0xffffffff, VECTOR_GP },
		{ "ADD to a word at FFFFh", rmw, 0xffff, VECTOR_GP },	 { "LDS at FFFDh", lds_, 0xfffd, VECTOR_GP },
		{ "FILD of 8 at FFF9h", fild8, 0xfff9, VECTOR_GP },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct legacy_regs r = { .eax = 0x11223344, .ebx = cases[i].offset, .ebp = cases[i].offset };
		expect_real(cases[i].what, cases[i].code, r, cases[i].vector, 0);
		check(R.eax == r.eax && event.esp == V86_SP, "%s: EAX %x, SP %x", cases[i].what, R.eax, event.esp);
	}
	expect_real("word of BP at FFFFh", load2_bp, (struct legacy_regs){ .ebp = 0xffff }, VECTOR_SS, 0);
	passes("sum of 32 bits below 64 KiB", load_sum, (struct legacy_regs){ .ebx = 0xfffffff0, .esi = 8 });
	expect_real("sum of 32 bits above 64 KiB", load_sum, (struct legacy_regs){ .ebx = 0xfff0, .esi = 8 }, VECTOR_GP, 0);
	legacy.cr4 = CR4_OSFXSR;
	expect_real("MOVUPS at FFF1h", movups, (struct legacy_regs){ .ebx = 0xfff1 }, VECTOR_GP, 0);
	passes("MOVUPS at FFF0h", movups, (struct legacy_regs){ .ebx = 0xfff0 });
	legacy.cr4 = 0;
}

CODE16(load_bx_si, "mov (%bx, %si), %al")
CODE16(load_disp, "mov 0x7fff(%bx), %al")
CODE16(lea_wrap, "lea (%bx, %si), %eax; lea 0x10(%ebx, %esi), %ecx")
CODE16(near_jump, "jmp *%bx; nop; nop; nop; mov $1, %cl")
CODE16(jump_back, "jmp . - 0x200")
CODE16(jump_32, "jmpl *%ebx")
CODE16(call_32, "calll *%ebx")
CODE16(ret_32, "pushl %ebx; retl")

void test_wrap(void)
{
	*(u8 *)low(V86_DATA, 0x10) = 0x77;
	passes("BX + SI", load_bx_si, (struct legacy_regs){ .ebx = 0xfff0, .esi = 0x20 });
	check((R.eax & 0xff) == 0x77, "BX + SI: %x", R.eax);
	passes("BX and displacement", load_disp, (struct legacy_regs){ .ebx = 0x8011 });
	check((R.eax & 0xff) == 0x77, "BX and displacement: %x", R.eax);
	passes("LEA", lea_wrap, (struct legacy_regs){ .ebx = 0xfff0, .esi = 0x20 });
	check(R.eax == 0x10 && R.ecx == 0x10020, "LEA: %x, %x", R.eax, R.ecx);
	passes("JMP BX", near_jump, (struct legacy_regs){ .ebx = 0xffff0005, .ecx = 0 });
	check((R.ecx & 0xff) == 1, "JMP BX");
	// Relative jumps wrap within 64 KiB: where it goes is a NOP and INT 80h.
	memset(low(V86_CODE, 0xfe00), 0x90, 1);
	memcpy(low(V86_CODE, 0xfe01), "\xcd\x80", 2);
	run_real(jump_back, NONE);
	check(event.vector == VECTOR_USER_EXIT && event.eip == 0xfe03, "JMP to below 0: at %x", event.eip);
	// 32-bit operands: EIP must be within the limit.
	expect_real("JMP EBX", jump_32, (struct legacy_regs){ .ebx = 0x10000 }, VECTOR_GP, 0);
	expect_real("CALL EBX", call_32, (struct legacy_regs){ .ebx = 0x10000 }, VECTOR_GP, 0);
	check(event.esp == V86_SP, "CALL EBX leaves SP: %x", event.esp);
	expect_real("RETD", ret_32, (struct legacy_regs){ .ebx = 0x10000 }, VECTOR_GP, 2);
	// An instruction that the end of the segment cuts: #GP at its beginning. IP after the last byte is 10000h.
	u8 *end = low(V86_CODE, 0xfff0);
	memset(end, 0x90, 15);
	end[15] = 0xb8;		// MOV AX, imm16
	run_real(near_jump, (struct legacy_regs){ .ebx = 0xfff8 });
	check(event.vector == VECTOR_GP && event.eip == 0xffff, "instruction over the end of the segment: exception %d at %x", event.vector, event.eip);
}

CODE16(load_high, "mov $0xffff, %dx; mov %dx, %ds; mov (%bx), %eax")

void test_above_1m(void)
{
	// FFFF:0010 is 100000h with A20 open, no wrap to 0.
	for (u32 offset = 0x10; offset <= 0xfff0; offset += 0x770) {
		passes("load", load_high, (struct legacy_regs){ .ebx = offset });
		check(R.eax == load32((void *)(u64)(0xffff0 + offset)), "load at FFFF:%x: %x, should be %x", offset, R.eax, load32((void *)(u64)(0xffff0 + offset)));
	}
}

CODE16(load_far, "mov (%ebx), %eax; mov %es:(%ebx), %ecx; mov %ss:(%ebx), %edx; mov %gs:(%ebx), %esi")
CODE16(load_far_reloaded, "mov %ax, %ds; mov %ax, %es; mov %ax, %fs; mov (%ebx), %ecx; mov %fs:(%ebx), %edx; pop %ax; push %ax; mov $0x4000, %ax; mov %ax, %ss; movl %ss:(%ebx), %esi")

// Limits survive CR0.PE. SDM 3A "Switching Back to Real-Address Mode" has them reloaded for that reason.
void test_unreal(void)
{
	legacy.real_data = legacy.real_stack = L_DATA(0);
	u32 address = SCRATCH, pattern = 0x5eedf00d;
	for (u32 base = 0; base < 2; base++) {
		u64 linear = (u64)address + V86_DATA * 16;
		u32 was = read32(linear);
		write32(linear, pattern);
		passes("loads by 32-bit addresses", load_far, (struct legacy_regs){ .ebx = address });
		check(R.eax == pattern && R.ecx == pattern, "DS %x ES %x", R.eax, R.ecx);
		write32(linear, was);
		address += 0x12345;
	}
	passes("an offset of 4 GiB - 4 wraps to below the segment", load_far, (struct legacy_regs){ .ebx = 0u - V86_DATA * 16 + V86_CODE * 16 });
	check(R.eax == load32(low(V86_CODE, 0)), "wrap: %x", R.eax);
	// Limits of less than 64 KiB survive as well.
	legacy_gdt[L_SPARE / 8] = descriptor(0, 0xff, D_DATA);
	legacy.real_data = L_SPARE;
	legacy.real_stack = L_DATA16;
	expect_real("limit of FFh", load_ebx, (struct legacy_regs){ .ebx = 0x100 }, VECTOR_GP, 0);
}

void test_unreal_selectors(void)
{
	legacy.real_data = legacy.real_stack = L_DATA(0);
	u64 linear = SCRATCH + 0x500 * 16;
	u32 was = read32(linear);
	write32(linear, 0xc001d00d);
	passes("after loads of the registers", load_far_reloaded, (struct legacy_regs){ .eax = 0x500, .ebx = SCRATCH });
	check(R.ecx == 0xc001d00d && R.edx == 0xc001d00d, "DS %x FS %x", R.ecx, R.edx);
	write32(linear, was);
	// Exceptions leave them alone too: the second run has the table's handler between, which loads nothing.
	legacy_reset();
	expect_real("big limits are gone after a plain entry", load_ebx, (struct legacy_regs){ .ebx = 0x10000 }, VECTOR_GP, 0);
}

CODE16(sizes, "mov $0x12345678, %eax; mov $0x9abc, %bx; push $-2; pop %cx; pushl $-3; popl %edx; movw $0x1111, %si; addl $0x22220000, %esi")
CODE16(both_prefixes, "movl $0xaabbccdd, (%ebx); movw (%ebx), %cx; movb 2(%ebx), %dl; .byte 0x67, 0x66, 0x8b, 0x33")
CODE16(loops, "mov $0x10002, %ecx; 1: inc %ax; loop 1b; mov $0x10002, %ecx; jcxz 2f; 2: mov $0x3, %ecx; 3: inc %bx; addr32 loop 3b")
CODE16(jecxz, "mov $0x10000, %ecx; jcxz 1f; mov $1, %al; 1: jecxz 2f; mov $2, %ah; 2:")

void test_sizes(void)
{
	passes("immediates", sizes, (struct legacy_regs){ .ebx = 0xffff0000, .ecx = 0, .edx = 0, .esi = 0 });
	check(R.eax == 0x12345678 && R.ebx == 0xffff9abc && R.ecx == 0xfffe && R.edx == 0xfffffffd && R.esi == 0x22221111, "immediates: %x %x %x %x %x", R.eax, R.ebx, R.ecx, R.edx, R.esi);
	passes("both prefixes", both_prefixes, (struct legacy_regs){ .ebx = 0x200, .ecx = 0, .edx = 0 });
	check(R.ecx == 0xccdd && R.edx == 0xbb && R.esi == 0xaabbccdd, "both prefixes: %x %x %x", R.ecx, R.edx, R.esi);
	passes("LOOP", loops, NONE);
	check(R.eax == 2 && R.ebx == 3 && R.ecx == 0, "LOOP by CX %u times, by ECX %u times, ECX %x", R.eax, R.ebx, R.ecx);
	passes("JCXZ and JECXZ", jecxz, NONE);
	check((R.eax & 0xffff) == 0x200, "JCXZ and JECXZ: %x", R.eax);
}

CODE16(far_call, "nop; lcall $0x2000, $10; jmp 7f; nop; nop; mov %cs, %cx; lret; nop; nop; nop; nop; nop; nop; nop; nop; 7:")
CODE16(far_call32, "nop; lcalll $0x2000, $13; jmp 7f; nop; nop; mov %cs, %cx; lretl; nop; nop; nop; nop; nop; nop; nop; nop; 7:")
CODE16(far_jump, "ljmp $0x1ff0, $0x108; nop; nop; nop; mov %cs, %cx")
CODE16(far_jump32, "ljmpl $0x2000, $0x10000")
CODE16(far_jump_memory, "ljmp *(%bx); nop; nop; mov %cs, %cx")

void test_far(void)
{
	run_real(far_call, NONE);
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(far_call) && event.esp == V86_SP && (R.ecx & 0xffff) == V86_CODE, "CALL and RET: at %x", event.eip);
	run_real(far_call32, NONE);
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(far_call32) && event.esp == V86_SP, "CALL and RET of 32 bits: %d at %x", event.vector, event.eip);
	run_real(far_jump, NONE);
	check(event.vector == VECTOR_USER_EXIT && event.cs == 0x1ff0 && event.eip == END(far_jump) + 0x100 && (R.ecx & 0xffff) == 0x1ff0, "JMP: at %x:%x", event.cs, event.eip);
	expect_real("JMP of 32 bits beyond the limit", far_jump32, NONE, VECTOR_GP, 0);
	u16 pointer[2] = { 4, V86_CODE };
	memcpy(low(V86_DATA, 0x80), pointer, 4);
	passes("JMP by memory", far_jump_memory, (struct legacy_regs){ .ebx = 0x80 });
	check((R.ecx & 0xffff) == V86_CODE, "JMP by memory: CS %x", R.ecx);
}

CODE16(push_one, "mov %bx, %sp; push %ax")
CODE16(pop_one, "mov %bx, %sp; pop %ax")
CODE16(push_sp, "push %sp; pop %ax; pushl %esp; popl %ebx")
CODE16(esp_upper, "mov $0xabcd1000, %esp; push %ax; mov %esp, %ebx; pop %ax; mov $0x1000, %esp")

void test_stack(void)
{
	passes("PUSH at 0", push_one, (struct legacy_regs){ .ebx = 0 });
	check((event.esp & 0xffff) == 0xfffe, "PUSH at 0: SP %x", event.esp);
	// A push that wraps in the middle of a word cannot be told: the exception has no stack either, and the processor shuts down.
	expect_real("POP at FFFFh", pop_one, (struct legacy_regs){ .ebx = 0xffff }, VECTOR_SS, 2);
	passes("PUSH SP", push_sp, NONE);
	check((R.eax & 0xffff) == V86_SP && R.ebx == V86_SP, "PUSH SP: %x, %x", R.eax, R.ebx);
	passes("upper half of ESP", esp_upper, NONE);
	check(R.ebx == 0xabcd0ffe, "upper half of ESP: %x", R.ebx);
}
