// What code means in compatibility mode. SDM 1 "Compatibility Mode", 3A "Segmentation in IA-32e Mode".
#include "compat.h"

SNIPPET32(upper_halves, "mov %eax, %eax; inc %esi; lea (%edi, %edi), %ecx")
SNIPPET32(wrap_address, "mov $0xfff00000, %ebx; lea 0x100000(%edi), %ecx; mov (%ebx, %ecx), %edx")
SNIPPET32(inc_is_inc, "mov $5, %eax; .byte 0x48; .byte 0x40; mov %eax, %ebx")
SNIPPET32(pusha_popa, "pusha; mov %esp, 16(%esp); popa; mov %esp, %ecx")
SNIPPET32(daa_, "mov $0x19, %al; add $0x28, %al; daa; mov %al, %bl; aam; into; les (%edi), %ecx; push %cs; pop %ecx")
SNIPPET32(bound_, "nop; bound %eax, (%edi)")
SNIPPET32(arpl_, "mov $0x10, %ecx; mov $3, %edx; arpl %dx, %cx")
SNIPPET32(swapgs_, "nop; .byte 0x0f, 0x01, 0xf8")
SNIPPET32(sysret_, "nop; .byte 0x0f, 0x07")
SNIPPET32(rdfsbase_, "nop; .byte 0xf3, 0x0f, 0xae, 0xc0")
SNIPPET32(into_, "mov $0x7f, %al; inc %al; into")
SNIPPET(pusha64, "nop; .byte 0x60")
SNIPPET(push_es64, "nop; .byte 0x06")
SNIPPET(daa64, "nop; .byte 0x27")
SNIPPET(aam64, "nop; .byte 0xd4, 0x0a")
SNIPPET(into64, "nop; .byte 0xce")
SNIPPET(far_immediate64, "nop; .byte 0x9a, 0, 0, 0, 0, 0x40, 0")
SNIPPET(jmp_immediate64, "nop; .byte 0xea, 0, 0, 0, 0, 0x40, 0")
SNIPPET(alias82, "nop; .byte 0x82, 0xc0, 0x01")

void test_widths(void)
{
	for (int ring = 0; ring < 4; ring += 3) {
		int v = run_compat(upper_halves, ring, (struct regs){ .rax = 0x1122334455667788, .rsi = 0xffffffff, .rdi = 0x90000000 });
		// What a 32-bit result does to the upper half is what it does in 64-bit mode.
		check(v == VECTOR_USER_EXIT && trap.rax == 0x55667788 && (u32)trap.rsi == 0 && (u32)trap.rcx == 0x20000000, "ring %d: exception %d, RAX %lx RSI %lx RCX %lx", ring, v,
		      trap.rax, trap.rsi, trap.rcx);
		write32((u64)stack_frame, 0x12345678);
		v = run_compat(wrap_address, ring, (struct regs){ .rdi = COMPAT_STACK });
		check(v == VECTOR_USER_EXIT && trap.rdx == 0x12345678, "ring %d: address that wraps: exception %d, %lx", ring, v, trap.rdx);
		check(trap.cs == (ring ? USER_CS32 : KERNEL_CS32) && trap.rip == COMPAT_PAGE + (u64)LENGTH(wrap_address), "ring %d: CS %lx RIP %lx", ring, trap.cs, trap.rip);
		check(trap.ss == (ring ? USER_DS : KERNEL_DS) && trap.rsp == COMPAT_STACK_END, "ring %d: SS %lx RSP %lx", ring, trap.ss, trap.rsp);
	}
}

void test_opcodes(void)
{
	int v = run_compat(inc_is_inc, 3, NONE);
	check(v == VECTOR_USER_EXIT && trap.rbx == 5, "48h and 40h: exception %d, %lx, should be DEC and INC", v, trap.rbx);
	v = run_compat(pusha_popa, 3, NONE);
	check(v == VECTOR_USER_EXIT && trap.rbx == COMPAT_STACK_END - 32 && trap.rcx == COMPAT_STACK_END, "PUSHA, POPA: exception %d, ESP %lx, %lx", v, trap.rbx, trap.rcx);
	memset(stack_frame, 0, 64);
	v = run_compat(daa_, 3, (struct regs){ .rdi = COMPAT_STACK });
	check(v == VECTOR_USER_EXIT && (trap.rbx & 0xff) == 0x47 && trap.rcx == USER_CS32, "DAA and others: exception %d, BL %lx, ECX %lx", v, trap.rbx, trap.rcx);
	v = run_compat(arpl_, 3, NONE);
	check(v == VECTOR_USER_EXIT && trap.rcx == 0x13, "63h is ARPL: exception %d, %lx", v, trap.rcx);
	i32 bounds[2] = { -1, 1 };
	memcpy(stack_frame, bounds, 8);
	expect_compat("BOUND", bound_, 3, (struct regs){ .rax = 2, .rdi = COMPAT_STACK }, VECTOR_BR, 0, 1);
	expect_compat("SWAPGS", swapgs_, 0, NONE, VECTOR_UD, 0, 1);
	expect_compat("SYSRET", sysret_, 0, NONE, VECTOR_UD, 0, 1);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	expect_compat("RDFSBASE", rdfsbase_, 3, NONE, VECTOR_UD, 0, 1);
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	idt_set(VECTOR_OF, vector_entry(VECTOR_OF), 3, 0);
	expect_compat("INTO", into_, 3, NONE, VECTOR_OF, 0, 5);
	struct { const char *what; const struct snippet *s; } gone[] = {
		{ "PUSHA", &pusha64 }, { "PUSH ES", &push_es64 }, { "DAA", &daa64 }, { "AAM", &aam64 }, { "INTO", &into64 }, { "far CALL of a constant", &far_immediate64 },
		{ "far JMP of a constant", &jmp_immediate64 }, { "opcode 82h", &alias82 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		expect(gone[i].what, *gone[i].s, 3, (struct regs){ .rdi = STACK_PAGE }, VECTOR_UD, 0, 1);
}

SNIPPET32(load_fs, "mov %eax, %fs; mov %fs:(%edi), %ebx")
SNIPPET32(load_ds, "mov %eax, %ds; mov (%edi), %ebx")
SNIPPET32(store_cs, "nop; nop; mov %eax, %cs:(%edi)")
SNIPPET(load_fs64, "mov %eax, %fs; mov %fs:(%rdi), %ebx")
SNIPPET(load_ds64, "mov %eax, %ds; mov (%rdi), %ebx")

// Limits, bases and types count again.
void test_segments(void)
{
	u32 selector = SPARE_SELECTOR | 3;
	write32((u64)stack_frame + 0xfc, 0xabcdef01);
	*SPARE = descriptor(COMPAT_STACK, 0xff, D_DATA | D_DPL(3) | D_BIG);
	int v = run_compat(load_fs, 3, (struct regs){ .rax = selector, .rdi = 0xfc });
	check(v == VECTOR_USER_EXIT && trap.rbx == 0xabcdef01, "base and limit: exception %d, %lx", v, trap.rbx);
	expect_compat("beyond the limit", load_fs, 3, (struct regs){ .rax = selector, .rdi = 0xfd }, VECTOR_GP, 0, 2);
	expect_compat("DS beyond the limit", load_ds, 3, (struct regs){ .rax = selector, .rdi = 0x100 }, VECTOR_GP, 0, 2);
	expect_compat("null DS", load_ds, 3, (struct regs){ .rax = 0, .rdi = 0 }, VECTOR_GP, 0, 2);
	expect_compat("store to code", store_cs, 3, (struct regs){ .rdi = COMPAT_STACK }, VECTOR_GP, 0, 2);
	// 64-bit mode looks at none of these, but FS has its base.
	expect_vector("limit in 64-bit mode", load_fs64, 3, (struct regs){ .rax = selector, .rdi = 0x200 }, VECTOR_USER_EXIT);
	expect_vector("DS in 64-bit mode", load_ds64, 3, (struct regs){ .rax = selector, .rdi = STACK_PAGE }, VECTOR_USER_EXIT);
	// Expand-down.
	*SPARE = descriptor(COMPAT_STACK, 0xff, D_DATA | D_DOWN | D_DPL(3) | D_BIG);
	expect_compat("expand-down, at its limit", load_fs, 3, (struct regs){ .rax = selector, .rdi = 0xff }, VECTOR_GP, 0, 2);
	v = run_compat(load_fs, 3, (struct regs){ .rax = selector, .rdi = 0x100 });
	check(v == VECTOR_USER_EXIT, "expand-down, above its limit: exception %d", v);
	*SPARE = 0;
}

SNIPPET32(stack16, "mov $0xdead0100, %esp; push %eax; mov %esp, %ebx; pop %eax")
SNIPPET32(push_beyond, "mov $0x1002, %esp; push %eax")

void test_stacks(void)
{
	u16 ss = SPARE_SELECTOR | 3;
	*SPARE = descriptor(COMPAT_STACK, 0xffff, D_DATA | D_DPL(3));
	int v = run_compat_as(stack16, USER_CS32, COMPAT_PAGE, ss, (struct regs){ .rax = 0x5555aaaa });
	check(v == VECTOR_USER_EXIT && (u32)trap.rbx == 0xdead00fc && load32(stack_frame + 0xfc) == 0x5555aaaa, "16-bit stack: exception %d, ESP %lx", v, trap.rbx);
	*SPARE = descriptor(COMPAT_STACK, 0xfff, D_DATA | D_DPL(3) | D_BIG);
	v = run_compat_as(push_beyond, USER_CS32, COMPAT_PAGE, ss, NONE);
	check(v == VECTOR_SS && trap.error_code == 0, "PUSH beyond the limit: exception %d, error code %lx", v, trap.error_code);
	*SPARE = 0;
}

SNIPPET16(code16, "mov %eax, %ecx; mov $0x1234, %bx; addl $0x10000, %ecx; push %ax; mov %esp, %edx; pop %ax")
SNIPPET16(end16, "nop")

void test_code16(void)
{
	*SPARE = descriptor(COMPAT_PAGE, 0xffff, D_CODE | D_DPL(3));
	int v = run_compat_as(code16, SPARE_SELECTOR | 3, 0, USER_DS, (struct regs){ .rax = 0x89abcdef });
	check(v == VECTOR_USER_EXIT && trap.rip == (u64)LENGTH(code16) && trap.cs == (SPARE_SELECTOR | 3), "exception %d at %lx:%lx", v, trap.cs, trap.rip);
	check((u32)trap.rcx == 0x89accdef && (trap.rbx & 0xffff) == 0x1234 && (u32)trap.rdx == COMPAT_STACK_END - 2, "ECX %lx BX %lx ESP %lx", trap.rcx, trap.rbx, trap.rdx);
	*SPARE = descriptor(COMPAT_PAGE, 0, D_CODE | D_DPL(3));
	v = run_compat_as(end16, SPARE_SELECTOR | 3, 0, USER_DS, NONE);
	check(v == VECTOR_GP && trap.rip == 1, "code beyond the limit: exception %d at %lx", v, trap.rip);
	*SPARE = 0;
}
