// Data breakpoints. SDM 3B "Debug Registers", "Breakpoint Field Recognition", "Data Memory and I/O Breakpoint Exception Conditions".
#include "debug.h"

#define AREA (STACK_PAGE + 0x100)
SNIPPET(store_1, "mov %al, (%rdi); nop")
SNIPPET(store_2, "mov %ax, (%rdi); nop")
SNIPPET(store_4, "mov %eax, (%rdi); nop")
SNIPPET(store_8, "mov %rax, (%rdi); nop")
SNIPPET(store_16, "movups %xmm0, (%rdi); nop")
SNIPPET(load_1, "mov (%rdi), %al; nop")
SNIPPET(load_2, "mov (%rdi), %ax; nop")
SNIPPET(load_4, "mov (%rdi), %eax; nop")
SNIPPET(load_8, "mov (%rdi), %rax; nop")
SNIPPET(load_16, "movups (%rdi), %xmm0; nop")
SNIPPET(inc_4, "incl (%rdi); nop")
SNIPPET(lock_inc, "lock incl (%rdi); nop")
SNIPPET(xchg_, "xchg %eax, (%rdi); nop")
SNIPPET(cmpxchg_, "cmpxchg %ecx, (%rdi); nop")
SNIPPET(test_, "testl $1, (%rdi); nop")
SNIPPET(fild_, "fildl (%rdi); nop")
SNIPPET(prefetch_, "prefetcht0 (%rdi); lea (%rdi), %rax; nop")

static i64 first_length(struct snippet s)
{
	return LENGTH(s) - 3;	// NOP and INT 80h follow
}

// The access of `size` bytes at AREA + offset must hit if `hit`.
static void access(struct snippet s, u64 at, bool hit, const char *what, u32 length)
{
	int vector = stepped(s, 3, (struct regs){ .rdi = at });
	check(vector == VECTOR_USER_EXIT && step_count == hit, "%s at %lx, breakpoint of %u: exception %d after %u", what, at, length, vector, step_count);
	if (hit && step_count)
		check(steps[0].rip - CODE_PAGE == (u64)first_length(s) && (steps[0].dr6 & 0xe00f) == 1, "%s at %lx: at +%ld, DR6 %lx", what, at, steps[0].rip - CODE_PAGE, steps[0].dr6);
}

void test_data_sizes(void)
{
	struct { struct snippet s; u32 size; bool write; const char *what; } kinds[] = {
		{ store_1, 1, true, "store of 1" }, { store_2, 2, true, "store of 2" }, { store_4, 4, true, "store of 4" }, { store_8, 8, true, "store of 8" },
		{ store_16, 16, true, "store of 16" }, { load_1, 1, false, "load of 1" }, { load_2, 2, false, "load of 2" }, { load_4, 4, false, "load of 4" },
		{ load_8, 8, false, "load of 8" }, { load_16, 16, false, "load of 16" },
	};
	for (u32 length = 1; length <= 8; length *= 2)
		for (u64 low = 0; low < 2; low++) {
			// The lower bits of the address do not count.
			u64 start = AREA + 16, end = start + length;
			breakpoint(0, start + (low ? length - 1 : 0), ACCESS, length);
			for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
				for (u64 at = AREA; at < AREA + 32; at++)
					access(kinds[i].s, at, at < end && at + kinds[i].size > start, kinds[i].what, length);
		}
}

void test_data_kinds(void)
{
	struct { struct snippet s; bool write; const char *what; } kinds[] = {
		{ store_4, true, "store" }, { load_4, false, "load" }, { inc_4, true, "INC" }, { lock_inc, true, "LOCK INC" }, { xchg_, true, "XCHG" }, { cmpxchg_, true, "CMPXCHG" },
		{ test_, false, "TEST" }, { fild_, false, "FILD" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		breakpoint(0, AREA, WRITE, 4);
		access(kinds[i].s, AREA, kinds[i].write, kinds[i].what, 4);
		breakpoint(0, AREA, ACCESS, 4);
		access(kinds[i].s, AREA, true, kinds[i].what, 4);
	}
	asm volatile("fninit");
	expect_steps("PREFETCH and LEA", prefetch_, 3, (struct regs){ .rdi = AREA }, (const i64[]){ -1 }, 0);
	// Off, by the global bit, and each of the four.
	for (int n = 0; n < 4; n++) {
		no_breakpoints();
		breakpoint(n, AREA, WRITE, 4);
		expect_steps("DR0 to DR3", store_4, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 2, -1 }, 1ul << n);
		u64 dr7 = read_dr7();
		write_dr7(dr7 & ~0xfful);
		expect_steps("off", store_4, 3, (struct regs){ .rdi = AREA }, (const i64[]){ -1 }, 0);
		write_dr7((dr7 & ~0xfful) | 2ul << 2 * n);
		expect_steps("global", store_4, 0, (struct regs){ .rdi = AREA }, (const i64[]){ 2, -1 }, 1ul << n);
	}
	// Two that hit at once.
	no_breakpoints();
	breakpoint(1, AREA, WRITE, 1);
	breakpoint(3, AREA + 2, ACCESS, 2);
	expect_steps("two at once", store_4, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 2, -1 }, 1 << 1 | 1 << 3);
	// One byte on a page, the access begins on the page before.
	no_breakpoints();
	breakpoint(0, STACK_PAGE, WRITE, 1);
	expect_steps("access over two pages", store_8, 0, (struct regs){ .rdi = STACK_PAGE - 4 }, (const i64[]){ 3, -1 }, 1);
}

SNIPPET(rep_stosb, "mov $4, %ecx; rep stosb; nop")
SNIPPET(rep_movsb, "mov $4, %ecx; rep movsb; nop")
SNIPPET(movsq_, "movsq; nop")
SNIPPET(rep_lodsb, "mov $4, %ecx; rep lodsb; nop")

// The trap follows the iteration; where the string goes on, RIP is still at it.
void test_data_strings(void)
{
	breakpoint(0, AREA + 1, WRITE, 1);
	expect_steps("REP STOSB", rep_stosb, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 5, -1 }, 1);
	check(trap.rdi == AREA + 4 && trap.rcx == 0, "REP STOSB: RDI %lx RCX %lx", trap.rdi, trap.rcx);
	expect_steps("REP STOSB, the last", rep_stosb, 3, (struct regs){ .rdi = AREA - 2 }, (const i64[]){ 7, -1 }, 1);
	expect_steps("REP STOSB beside it", rep_stosb, 3, (struct regs){ .rdi = AREA + 2 }, (const i64[]){ -1 }, 0);
	expect_steps("REP MOVSB, the source", rep_movsb, 3, (struct regs){ .rsi = AREA, .rdi = AREA + 64 }, (const i64[]){ -1 }, 0);
	breakpoint(0, AREA + 1, ACCESS, 1);
	expect_steps("REP MOVSB, the source", rep_movsb, 3, (struct regs){ .rsi = AREA, .rdi = AREA + 64 }, (const i64[]){ 5, -1 }, 1);
	expect_steps("REP LODSB", rep_lodsb, 3, (struct regs){ .rsi = AREA }, (const i64[]){ 5, -1 }, 1);
	breakpoint(1, AREA + 64, WRITE, 8);
	expect_steps("MOVSQ", movsq_, 3, (struct regs){ .rsi = AREA, .rdi = AREA + 64 }, (const i64[]){ 2, -1 }, 3);
}

SNIPPET(push_, "push %rax; pop %rcx; nop")
SNIPPET(call_ret, "call 1f; nop; jmp 2f; 1: ret; 2: nop")
SNIPPET(pop_memory, "push %rax; pop (%rdi); nop")

void test_data_stack(void)
{
	u64 top = STACK_END - 8;
	breakpoint(0, top, WRITE, 8);
	expect_steps("PUSH", push_, 3, NONE, (const i64[]){ 1, -1 }, 1);
	expect_steps("CALL", call_ret, 3, NONE, (const i64[]){ 8, -1 }, 1);
	breakpoint(0, top, ACCESS, 8);
	expect_steps("PUSH and POP", push_, 3, NONE, (const i64[]){ 1, 2, -1 }, 1);
	expect_steps("CALL and RET", call_ret, 3, NONE, (const i64[]){ 8, 5, -1 }, 1);
	no_breakpoints();
	breakpoint(0, AREA, WRITE, 8);
	expect_steps("POP to memory", pop_memory, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 3, -1 }, 1);
}

SNIPPET(store_absent, "mov %eax, (%rdi)")

void test_data_and_step(void)
{
	breakpoint(0, AREA, WRITE, 4);
	int vector = stepped(store_4, 3, (struct regs){ .rdi = AREA, .rflags = FLAG_TF });
	check(vector == VECTOR_USER_EXIT && step_count == 2 && (steps[0].dr6 & 0xe00f) == (DR6_BS | 1) && (steps[1].dr6 & 0xe00f) == DR6_BS, "%u debug exceptions, DR6 %lx, %lx", step_count,
	      steps[0].dr6, steps[1].dr6);
	// An access that faults has not been made.
	breakpoint(0, ABSENT, WRITE, 4);
	vector = stepped(store_absent, 3, (struct regs){ .rdi = ABSENT });
	check(vector == VECTOR_PF && step_count == 0 && (read_dr6() & 0xf) == 0, "store that faults: exception %d after %u, DR6 %lx", vector, step_count, read_dr6());
}
