// Runs snippets.
#include "snippet.h"

static u8 code_frame[4096] ALIGNED(4096);
u8 stack_frame[4096] ALIGNED(4096);

void snippets_init(void)
{
	asm volatile("lldt %w0" :: "r"(0));	// after a reset the LDT is the first 64 KiB of memory
	map_page(CODE_PAGE, (u64)code_frame, PAGE_P | PAGE_RW | PAGE_US);
	map_page(STACK_PAGE, (u64)stack_frame, PAGE_P | PAGE_RW | PAGE_US);
	*page_entry(COMPAT_PAGE, 2) = 0;	// a large page of the identity map
	map_page(COMPAT_PAGE, (u64)code_frame, PAGE_P | PAGE_RW | PAGE_US);
	map_page(COMPAT_STACK, (u64)stack_frame, PAGE_P | PAGE_RW | PAGE_US);
}

static void enter(void *argument)
{
	enter_user(argument);
}

int run_snippet(struct snippet s, int ring, struct regs regs)
{
	memcpy(code_frame, s.start, (size_t)(s.end - s.start));
	struct user_entry e = {
		CODE_PAGE, ring ? USER_CS : KERNEL_CS, regs.rflags | FLAG_1, STACK_END, ring ? USER_DS : KERNEL_DS, regs.rax, regs.rsi, regs.rdi,
	};
	return catch_trap(enter, &e);
}

int run_compat_as(struct snippet s, u16 cs, u64 rip, u16 ss, struct regs regs)
{
	memcpy(code_frame, s.start, (size_t)(s.end - s.start));
	asm volatile("mov %0, %%ds; mov %0, %%es" :: "r"(USER_DS));	// which 64-bit code does not mind
	struct user_entry e = { rip, cs, regs.rflags | FLAG_1, COMPAT_STACK_END, ss, regs.rax, regs.rsi, regs.rdi };
	return catch_trap(enter, &e);
}

int run_compat(struct snippet s, int ring, struct regs regs)
{
	return run_compat_as(s, ring ? USER_CS32 : KERNEL_CS32, COMPAT_PAGE, ring ? USER_DS : KERNEL_DS, regs);
}

void expect_compat(const char *what, struct snippet s, int ring, struct regs regs, int vector, u64 error_code, i64 offset)
{
	int got = run_compat(s, ring, regs);
	check(got == vector && trap.error_code == error_code && trap.rip - COMPAT_PAGE == (u64)offset,
	      "%s: exception %d, error code %lx, at +%ld, should be %d, %lx, +%ld", what, got, trap.error_code, trap.rip - COMPAT_PAGE, vector, error_code, offset);
}

i64 trap_offset(void)
{
	return (i64)(trap.rip - CODE_PAGE);
}

void expect(const char *what, struct snippet s, int ring, struct regs regs, int vector, u64 error_code, i64 offset)
{
	int got = run_snippet(s, ring, regs);
	check(got == vector && trap.error_code == error_code && trap_offset() == offset,
	      "%s: exception %d, error code %lx, at +%ld, should be %d, %lx, +%ld", what, got, trap.error_code, trap_offset(), vector, error_code, offset);
}

void expect_vector(const char *what, struct snippet s, int ring, struct regs regs, int vector)
{
	int got = run_snippet(s, ring, regs);
	check(got == vector, "%s: exception %d, error code %lx, should be %d", what, got, trap.error_code, vector);
}

struct gate *gate_of(int vector)
{
	struct table_pointer idtr;
	asm volatile("sidt %0" : "=m"(idtr));
	return (struct gate *)idtr.base + vector;
}

bool is_tcg(void)
{
	return cpuid(1, 0).ecx >> 31 && cpuid(0x40000000, 0).ebx == 0x54474354;	// "TCGT"
}
