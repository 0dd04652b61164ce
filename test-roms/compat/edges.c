// Accesses at 0, below 0, and around the hole of addresses that are not canonical. SDM 1 "Canonical Addressing", 3A "Interrupt
// 12—Stack Fault Exception (#SS)", "Interrupt 13—General Protection Exception (#GP)".
#include "compat.h"

SNIPPET(load_1, "mov (%rdi), %al")
SNIPPET(load_2, "mov (%rdi), %ax")
SNIPPET(load_4, "mov (%rdi), %eax")
SNIPPET(load_8, "mov (%rdi), %rax")
SNIPPET(load_10, "fldt (%rdi)")
SNIPPET(load_16, "movups (%rdi), %xmm0")
SNIPPET(store_1, "mov %al, (%rdi)")
SNIPPET(store_2, "mov %ax, (%rdi)")
SNIPPET(store_4, "mov %eax, (%rdi)")
SNIPPET(store_8, "mov %rax, (%rdi)")
SNIPPET(store_16, "movups %xmm0, (%rdi)")
SNIPPET(add8, "addq $1, (%rdi)")
SNIPPET(lock_add8, "lock addq $1, (%rdi)")
SNIPPET(xchg8, "xchg %rax, (%rdi)")
SNIPPET(cmpxchg16, "lock cmpxchg16b (%rdi)")
SNIPPET(lodsq, "mov %rdi, %rsi; lodsq")
SNIPPET(stosq, "stosq")
SNIPPET(rip_load, "jmp *(%rdi)")

struct access { const char *what; const struct snippet *s; u32 size; bool write; i64 offset; };
static const struct access accesses[] = {
	{ "load of 1", &load_1, 1, false, 0 },	 { "load of 2", &load_2, 2, false, 0 },	      { "load of 4", &load_4, 4, false, 0 },
	{ "load of 8", &load_8, 8, false, 0 },	 { "FLD of 10", &load_10, 10, false, 0 },	      { "load of 16", &load_16, 16, false, 0 },
	{ "store of 1", &store_1, 1, true, 0 },	 { "store of 2", &store_2, 2, true, 0 },	      { "store of 4", &store_4, 4, true, 0 },
	{ "store of 8", &store_8, 8, true, 0 },	 { "store of 16", &store_16, 16, true, 0 },	      { "ADD to 8", &add8, 8, true, 0 },
	{ "LOCK ADD to 8", &lock_add8, 8, true, 0 }, { "XCHG of 8", &xchg8, 8, true, 0 },     { "LODSQ", &lodsq, 8, false, 3 },
	{ "STOSQ", &stosq, 8, true, 0 },	 { "JMP by memory", &rip_load, 8, false, 0 },
};

static u32 width = 48;

static bool canonical(u64 a)
{
	return (u64)((i64)(a << (64 - width)) >> (64 - width)) == a;
}

static void one(const struct access *a, u64 at, int ring)
{
	u64 last = at + a->size - 1;
	// FLD may look at the significand first, and so find an absent page before the end that is not canonical.
	if (a->size == 10 && canonical(at + 7) != canonical(last))
		return;
	bool good = canonical(at) && canonical(last);
	int v = run_snippet(*a->s, ring, (struct regs){ .rdi = at });
	u64 error = good ? (u64)(a->write ? 2 : 0) | (ring ? 4 : 0) : 0;
	check(v == (good ? VECTOR_PF : VECTOR_GP) && trap.error_code == error && trap_offset() == a->offset && (!good || trap_cr2 == at),
	      "%s at %lx, ring %d: exception %d, error code %lx at +%ld, CR2 %lx, should be %d", a->what, at, ring, v, trap.error_code, trap_offset(), trap_cr2, good ? VECTOR_PF : VECTOR_GP);
}

static void all(u64 first_wrong)
{
	// Nothing is mapped below 0 or around the hole.
	u64 edges[] = { 0, first_wrong, ~first_wrong + 1 };
	for (size_t i = 0; i < ARRAY_SIZE(accesses); i++)
		for (size_t e = 0; e < ARRAY_SIZE(edges); e++)
			for (i64 d = -22; d < (e ? 18 : 0); d++) {
				// Below 0 an access may reach around to 0, whose page is there: the first byte's page counts.
				one(&accesses[i], edges[e] + (u64)d, 0);
				if ((d & 3) == 3)
					one(&accesses[i], edges[e] + (u64)d, 3);
			}
}

void test_edges(void)
{
	all(NON_CANONICAL);
	// Not aligned and not canonical: which comes first is not told for CMPXCHG16B; aligned it is #GP alike.
	expect("CMPXCHG16B not canonical", cmpxchg16, 0, (struct regs){ .rdi = NON_CANONICAL }, VECTOR_GP, 0, 0);
	expect("CMPXCHG16B that is not aligned", cmpxchg16, 0, (struct regs){ .rdi = STACK_PAGE + 8 }, VECTOR_GP, 0, 0);
	// 0 is an address like any other.
	for (size_t i = 0; i < 6; i++)
		expect_vector(accesses[i].what, *accesses[i].s, 0, (struct regs){ .rdi = 0 }, VECTOR_USER_EXIT);
	asm volatile("fninit");
}

SNIPPET(push_, "mov %rdi, %rsp; push %rax")
SNIPPET(push16, "mov %rdi, %rsp; push %ax")
SNIPPET(pushf_, "mov %rdi, %rsp; pushfq")
SNIPPET(push_imm, "mov %rdi, %rsp; push $1")
SNIPPET(call_, "mov %rdi, %rsp; call 1f; 1:")
SNIPPET(pop_, "mov %rdi, %rsp; pop %rax")
SNIPPET(popf_, "mov %rdi, %rsp; popfq")
SNIPPET(ret_, "mov %rdi, %rsp; ret")
SNIPPET(lret_, "mov %rdi, %rsp; lretq")
SNIPPET(iret_, "mov %rdi, %rsp; iretq")
SNIPPET(leave_, "mov %rdi, %rbp; leave")
SNIPPET(enter_, "mov %rdi, %rsp; enter $0, $0")
SNIPPET(by_rsp, "mov %rdi, %rsp; mov (%rsp), %al")
SNIPPET(by_rbp, "mov %rdi, %rbp; mov (%rbp), %al")
SNIPPET(by_rbp_index, "mov %rdi, %rbp; mov (%rbp, %rsi), %al")
SNIPPET(by_index_rbp, "mov %rdi, %rbp; mov (%rsi, %rbp), %al")
SNIPPET(by_r12, "mov %rdi, %r12; mov (%r12), %al")
SNIPPET(by_r13, "mov %rdi, %r13; mov (%r13), %al")
SNIPPET(by_fs_rbp, "mov %rdi, %rbp; mov %fs:(%rbp), %al")
SNIPPET(push_mem, "mov %rdi, %rbx; push (%rbx)")
SNIPPET(pop_mem, "mov %rdi, %rbx; pop (%rbx)")
SNIPPET(store_rsp, "mov %rdi, %rsp; lock incq (%rsp)")
SNIPPET(movups_rbp, "mov %rdi, %rbp; movups (%rbp), %xmm0")
SNIPPET(fld_rbp, "mov %rdi, %rbp; fldl (%rbp)")

void test_stack_edges(void)
{
	u64 nc = NON_CANONICAL;
	struct { const char *what; const struct snippet *s; u64 at; int vector; u64 cr2; } cases[] = {
		{ "PUSH below 0", &push_, 0, VECTOR_PF, -8ul },
		{ "PUSH of 2 below 0", &push16, 0, VECTOR_PF, -2ul },
		{ "PUSH at 4", &push_, 4, VECTOR_PF, -4ul },
		{ "PUSH into the last of the lower half", &push_, nc, VECTOR_PF, nc - 8 },
		{ "PUSH over the end of the lower half", &push_, nc + 4, VECTOR_SS, 0 },
		{ "PUSH behind the lower half", &push_, nc + 8, VECTOR_SS, 0 },
		{ "PUSH before the upper half", &push_, -nc, VECTOR_SS, 0 },
		{ "PUSH into the first of the upper half", &push_, -nc + 8, VECTOR_PF, -nc },
		{ "PUSHF", &pushf_, nc + 8, VECTOR_SS, 0 },
		{ "PUSH of a constant", &push_imm, nc + 8, VECTOR_SS, 0 },
		{ "CALL", &call_, nc + 8, VECTOR_SS, 0 },
		{ "ENTER", &enter_, nc + 8, VECTOR_SS, 0 },
		{ "POP", &pop_, nc, VECTOR_SS, 0 },
		{ "POP over the end", &pop_, nc - 4, VECTOR_SS, 0 },
		{ "POP of the last", &pop_, nc - 8, VECTOR_PF, nc - 8 },
		{ "POPF", &popf_, nc, VECTOR_SS, 0 },
		{ "RET", &ret_, nc, VECTOR_SS, 0 },
		{ "far RET", &lret_, nc, VECTOR_SS, 0 },
		{ "IRETQ", &iret_, nc, VECTOR_SS, 0 },
		{ "LEAVE", &leave_, nc, VECTOR_SS, 0 },
		{ "load by RSP", &by_rsp, nc, VECTOR_SS, 0 },
		{ "load by RBP", &by_rbp, nc, VECTOR_SS, 0 },
		{ "load by RBP and an index", &by_rbp_index, nc, VECTOR_SS, 0 },
		{ "load by another base with RBP as index", &by_index_rbp, nc, VECTOR_GP, 0 },
		{ "load by R12", &by_r12, nc, VECTOR_GP, 0 },
		{ "load by R13", &by_r13, nc, VECTOR_GP, 0 },
		{ "load by FS and RBP", &by_fs_rbp, nc, VECTOR_GP, 0 },
		{ "PUSH of memory", &push_mem, nc, VECTOR_GP, 0 },
		{ "POP to memory", &pop_mem, nc, VECTOR_GP, 0 },
		{ "LOCK INC by RSP", &store_rsp, nc, VECTOR_SS, 0 },
		{ "MOVUPS by RBP", &movups_rbp, nc, VECTOR_SS, 0 },
		{ "FLD by RBP", &fld_rbp, nc, VECTOR_SS, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int v = run_snippet(*cases[i].s, 3, (struct regs){ .rdi = cases[i].at });
		u64 error = v == VECTOR_PF ? trap.error_code & ~2ul : trap.error_code;
		check(v == cases[i].vector && error == (v == VECTOR_PF ? 4 : 0) && trap_offset() >= 3 && trap_offset() <= 4 && (v != VECTOR_PF || trap_cr2 == cases[i].cr2),
		      "%s: exception %d, error code %lx at +%ld, CR2 %lx, should be %d", cases[i].what, v, trap.error_code, trap_offset(), trap_cr2, cases[i].vector);
	}
}

// With wider addresses the hole is elsewhere.
void edges_of_width(u32 bits);
void edges_of_width(u32 bits)
{
	width = bits;
	all(1ul << (bits - 1));
	width = 48;
}
