// Moves, the stack, string instructions, locked operations.
#include "interrupts.h"
#include "selftest.h"

static void extensions(void)
{
	u64 r, byte = 0x1122334455667788, word = 0x112233445566f788, dword = 0x11223344f5667788;
	asm("movzbl %b1, %k0" : "=r"(r) : "q"(byte));
	check_eq(r, 0x88, "movzx 8 to 32");
	asm("movsbq %b1, %0" : "=r"(r) : "q"(byte));
	check_eq(r, 0xffffffffffffff88, "movsx 8 to 64");
	r = 0x1111111111111111;
	asm("movsbw %b1, %w0" : "+r"(r) : "q"(byte));
	check_eq(r, 0x111111111111ff88, "movsx 8 to 16");
	asm("movswl %w1, %k0" : "=r"(r) : "r"(word));
	check_eq(r, 0xfffff788, "movsx 16 to 32");
	asm("movslq %k1, %0" : "=r"(r) : "r"(dword));
	check_eq(r, 0xfffffffff5667788, "movsxd");

	r = ~0ul;
	asm("mov $7, %k0" : "+r"(r));
	check_eq(r, 7, "mov to 32 bits clears the upper half");
	r = ~0ul;
	asm("mov $7, %w0" : "+r"(r));
	check_eq(r, 0xffffffffffff0007, "mov to 16 bits keeps the rest");
	r = ~0ul;
	asm("cmp %0, %0; cmovne %k1, %k0" : "+r"(r) : "r"(5ul) : "cc");
	check_eq(r, 0xffffffff, "cmov not taken clears the upper half too");
	r = ~0ul;
	asm("movabs $0x8070605040302010, %0" : "=r"(r));
	check_eq(r, 0x8070605040302010, "mov imm64");

	u64 d;
	asm("mov $0x80, %%eax; cbw; mov %%rax, %0" : "=r"(r) :: "rax");
	check_eq(r, 0xff80, "cbw");
	asm("mov $0x8000, %%eax; cwde; mov %%rax, %0" : "=r"(r) :: "rax");
	check_eq(r, 0xffff8000, "cwde");
	asm("mov $0x80000000, %%eax; cdqe; mov %%rax, %0" : "=r"(r) :: "rax");
	check_eq(r, 0xffffffff80000000, "cdqe");
	asm("mov $0x8000, %%eax; mov $-1, %%rdx; cwd" : "=d"(d) :: "rax");
	check_eq(d, ~0ul, "cwd");
	asm("mov $0x7fffffff, %%eax; mov $-1, %%rdx; cdq" : "=d"(d) :: "rax");
	check_eq(d, 0, "cdq");
	asm("mov $1, %%eax; shl $63, %%rax; cqo" : "=d"(d) :: "rax", "cc");
	check_eq(d, ~0ul, "cqo");
}

static void exchanges(void)
{
	u64 a = 1, b = 2;
	asm("xchg %0, %1" : "+r"(a), "+r"(b));
	check(a == 2 && b == 1, "xchg");
	a = ~0ul, b = 2;
	asm("xchg %k0, %k1" : "+r"(a), "+r"(b));
	check(a == 2 && b == 0xffffffff, "xchg32 clears upper halves: %lx %lx", a, b);
	a = 0x1234;
	asm("xchg %%al, %%ah" : "+a"(a));
	check_eq(a, 0x3412, "xchg al, ah");
	a = ~0ul;
	asm("nop" : "+a"(a));	// 90h is XCHG EAX, EAX but does not clear the upper half
	check_eq(a, ~0ul, "nop");

	static const u8 table[256] = { [0x42] = 0x99 };
	u64 index = 0x1142;
	asm("xlatb" : "+a"(index) : "b"(table), "m"(table));
	check_eq(index, 0x1199, "xlatb");

	u64 flags;
	asm("mov $0xd5d5, %%eax; sahf; pushfq; pop %0" : "=r"(flags) :: "rax", "cc");
	check_eq(flags & (FLAGS_STATUS & ~FLAG_OF), 0xd5, "sahf");
	asm("mov $0, %%eax; stc; lahf; mov %%rax, %0" : "=r"(flags) :: "rax", "cc");
	check_eq(flags & 0x2b00, 0x0300, "lahf: CF, bit 1, bits 3 and 5");
	asm("clc; cmc; pushfq; pop %0" : "=r"(flags) :: "cc");
	check_eq(flags & 1, 1, "cmc");
	u64 r;
	if (cpuid(1, 0).ecx >> 22 & 1) {
		static u64 cell;
		a = 0x0102030405060708;
		asm volatile("movbe %1, %0" : "=m"(cell) : "r"(a));
		check_eq(cell, 0x0807060504030201, "movbe store");
		asm volatile("movbe %1, %k0" : "=r"(r) : "m"(cell));
		check_eq(r, 0x01020304, "movbe load 32");
	}
}

static void addressing(void)
{
	u64 r, base = 0x100000000, index = 0x10;
	asm("lea 0x20(%1,%2,8), %0" : "=r"(r) : "r"(base), "r"(index));
	check_eq(r, 0x1000000a0, "lea base + index * 8 + displacement");
	asm("lea -0x20(%1,%2,4), %k0" : "=r"(r) : "r"(base), "r"(index));
	check_eq(r, 0x20, "lea to 32 bits");
	asm("lea -0x10(%k1), %0" : "=r"(r) : "r"(base));
	check_eq(r, 0xfffffff0, "lea with 32-bit address");
	static u64 cells[4] = { 10, 11, 12, 13 };
	asm("mov 8(%1,%2,8), %0" : "=r"(r) : "r"(cells), "r"(2ul), "m"(cells));
	check_eq(r, 13, "load by base + index * 8 + 8");
	asm("movq cells_for_rip(%%rip), %0" : "=r"(r));
	check_eq(r, 0x4433221100ffeedd, "rip-relative load");
	asm("movabs cells_for_rip, %%rax; mov %%rax, %0" : "=r"(r) :: "rax");
	check_eq(r, 0x4433221100ffeedd, "load by 64-bit offset");
	asm("push %%r12; push %%r13; lea cells_for_rip(%%rip), %%r12; lea (%%r12), %%r13; mov (%%r13), %0; cmp %0, (%%r12); jne 1f; "
	    "mov (%%r12), %0; 1: pop %%r13; pop %%r12" : "=&a"(r) :: "cc", "memory");
	check_eq(r, 0x4433221100ffeedd, "r12 and r13 as bases");
	asm("mov $-8, %%rcx; lea cells_for_rip+8(%%rip), %%rdx; mov (%%rdx,%%rcx), %0" : "=r"(r) :: "rcx", "rdx");
	check_eq(r, 0x4433221100ffeedd, "negative index");

	// An access across a page boundary.
	static u8 pages[8192] ALIGNED(4096);
	u64 *across = (u64 *)(pages + 4091);
	asm volatile("mov %1, %0" : "=m"(*across) : "r"(0x1122334455667788ul));
	check(pages[4095] == 0x44 && pages[4096] == 0x33 && *across == 0x1122334455667788, "store across pages");
	asm volatile("lock addl $0x100, %0" : "+m"(*(u32 *)(pages + 4094)) :: "cc");
	check_eq(*across, 0x1122334555667788, "locked add across pages");
}
asm(".section .rodata; .balign 8; cells_for_rip: .quad 0x4433221100ffeedd; .text");

void test_moves(void)
{
	extensions();
	exchanges();
	addressing();
}

// ---- Stack

void test_stack(void)
{
	u64 r, before, after;
	asm("mov %%rsp, %1; push $-2; mov %%rsp, %2; pop %0" : "=r"(r), "=&r"(before), "=&r"(after) :: "memory");
	check(r == -2ul && before - after == 8, "push imm8: %lx, %lu bytes", r, before - after);
	asm("mov %%rsp, %1; pushw $0x1234; mov %%rsp, %2; xor %0, %0; popw %w0" : "=&r"(r), "=&r"(before), "=&r"(after) :: "memory", "cc");
	check(r == 0x1234 && before - after == 2, "push 16 bits: %lx, %lu bytes", r, before - after);
	asm("mov %%rsp, %1; push %%rsp; pop %0" : "=r"(r), "=&r"(before) :: "memory");
	check_eq(r, before, "push rsp pushes the old value");
	// POP computes an address with RSP as it is after the increment.
	asm("push $1; push $77; pop (%%rsp); pop %0" : "=r"(r) :: "memory");
	check_eq(r, 77, "pop (rsp)");

	asm("mov %%rsp, %%rdx; mov %%rbp, %%rcx; mov $0x5a, %%ebp; enter $16, $0; mov %%rbp, %%rax; sub %%rsp, %%rax; mov (%%rbp), %1; leave; "
	    "sub %%rsp, %%rdx; xchg %%rbp, %%rcx; mov %%rdx, %2" : "=&a"(r), "=&b"(before), "=&S"(after) :: "rcx", "rdx", "memory", "cc");
	check(r == 16 && before == 0x5a && after == 0, "enter and leave: %lu bytes, rbp %lx", r, before);

	asm("lea 2f(%%rip), %%rdx; xor %%eax, %%eax; call *%%rdx; 1: jmp 3f; 2: lea 1b(%%rip), %%rcx; cmp %%rcx, (%%rsp); sete %%al; ret; 3:"
	    : "=a"(r) :: "rcx", "rdx", "memory", "cc");
	check_eq(r, 1, "call pushes the address of the next instruction");
	asm("mov %%rsp, %%rdx; push $1; push $2; call 1f; jmp 2f; 1: ret $16; 2: xor %%eax, %%eax; cmp %%rsp, %%rdx; sete %%al; mov %%rdx, %%rsp"
	    : "=a"(r) :: "rdx", "memory", "cc");
	check_eq(r, 1, "ret imm16 drops arguments");

	// PUSHF and POPF: reserved bits, and IOPL and IF at ring 0.
	write_flags(FLAG_1 | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | FLAGS_STATUS);
	u64 flags = read_flags();
	write_flags(FLAG_1);
	check_eq(flags, FLAG_1 | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | FLAGS_STATUS, "popf of all flags");
	check_eq(read_flags() & ~FLAGS_STATUS, FLAG_1, "popf of none");
	write_flags(FLAG_1 | 1ul << 3 | 1ul << 5 | 1ul << 15 | 1ul << 22 | 0xfffffffful << 32 | 1ul << 31);
	check_eq(read_flags() & ~FLAGS_STATUS, FLAG_1, "reserved flags stay 0");
	write_flags(FLAG_1);
}

// ---- Strings

static u8 from[256], to[256], expected[256];

static void fill(void)
{
	for (int i = 0; i < 256; i++) {
		from[i] = (u8)(i * 7 + 1);
		to[i] = expected[i] = 0xee;
	}
}

struct string_regs { u64 rsi, rdi, rcx, rax, flags; };

#define STRING(insn, r) \
	asm volatile(insn "; pushfq; pop %4; cld" : "+S"((r).rsi), "+D"((r).rdi), "+c"((r).rcx), "+a"((r).rax), "=r"((r).flags) \
		     :: "memory", "cc")

static void moves_and_fills(void)
{
	fill();
	struct string_regs r = { (u64)from, (u64)to, 100, 0, 0 };
	STRING("cld; rep movsb", r);
	memcpy(expected, from, 100);
	check(!memcmp(to, expected, 256) && r.rcx == 0 && r.rsi == (u64)from + 100 && r.rdi == (u64)to + 100, "rep movsb");

	fill();
	r = (struct string_regs){ (u64)from + 99, (u64)to + 99, 100, 0, 0 };
	STRING("std; rep movsb", r);
	memcpy(expected, from, 100);
	check(!memcmp(to, expected, 256) && r.rcx == 0 && r.rsi == (u64)from - 1 && r.rdi == (u64)to - 1, "rep movsb backward");

	fill();
	r = (struct string_regs){ (u64)from + 3, (u64)to + 1, 9, 0, 0 };
	STRING("cld; rep movsq", r);
	memcpy(expected + 1, from + 3, 72);
	check(!memcmp(to, expected, 256) && r.rdi == (u64)to + 73, "rep movsq, unaligned");

	fill();
	r = (struct string_regs){ (u64)from + 64, (u64)to + 64, 9, 0, 0 };
	STRING("std; rep movsl", r);
	memcpy(expected + 32, from + 32, 36);
	check(!memcmp(to, expected, 256) && r.rdi == (u64)to + 28, "rep movsd backward");

	// Source and destination overlap by one byte: a pattern is repeated.
	fill();
	from[0] = 0x42;
	r = (struct string_regs){ (u64)from, (u64)from + 1, 50, 0, 0 };
	STRING("cld; rep movsb", r);
	check(from[50] == 0x42 && from[51] == (u8)(51 * 7 + 1), "rep movsb onto itself");
	fill();
	r = (struct string_regs){ (u64)from, (u64)from + 3, 30, 0, 0 };
	STRING("cld; rep movsq", r);
	u8 pattern[256];
	for (int i = 0; i < 256; i++)
		pattern[i] = (u8)(i * 7 + 1);
	for (int i = 0; i < 30; i++) {
		u64 v = load64(pattern + 8 * i);
		memcpy(pattern + 8 * i + 3, &v, 8);
	}
	check(!memcmp(from, pattern, 256), "rep movsq, overlapping by 5 bytes");

	fill();
	r = (struct string_regs){ (u64)from, (u64)to, 0, 0, 0 };
	STRING("cld; rep movsb", r);
	check(!memcmp(to, expected, 256) && r.rdi == (u64)to, "rep movsb of 0 bytes");

	r = (struct string_regs){ 0, (u64)to + 5, 0x100000003, 0x1122334455667788, 0 };
	STRING("cld; addr32 rep stosw", r);
	for (int i = 0; i < 6; i += 2)
		expected[5 + i] = 0x88, expected[6 + i] = 0x77;
	check(!memcmp(to, expected, 256) && r.rcx == 0, "rep stosw by ECX: rcx %lx", r.rcx);

	r = (struct string_regs){ 0, (u64)to + 80, 8, 0x1122334455667788, 0 };
	STRING("std; rep stosq", r);
	check(load64(to + 24) == r.rax && load64(to + 80) == r.rax && to[23] == 0xee && to[88] == 0xee && r.rdi == (u64)to + 16,
	      "rep stosq backward");

	r = (struct string_regs){ (u64)from + 1, 0, 3, 0xffffffffffffffff, 0 };
	STRING("cld; rep lodsb", r);
	check((r.rax & 0xff) == from[3] && r.rax >> 8 == ~0ul >> 8 && r.rsi == (u64)from + 4, "rep lodsb: %lx", r.rax);
	STRING("lodsl", r);
	check(r.rax == load32(from + 4), "lodsd: %lx", r.rax);
}

static void compares_and_scans(void)
{
	fill();
	memcpy(to, from, 256);
	to[77] ^= 1;
	struct string_regs r = { (u64)from, (u64)to, 256, 0, 0 };
	STRING("cld; repe cmpsb", r);
	check(r.rcx == 256 - 78 && r.rsi == (u64)from + 78 && !(r.flags & FLAG_ZF), "repe cmpsb stops at the difference: rcx %lu", r.rcx);
	check(!!(r.flags & FLAG_CF) == (from[77] < to[77]), "cmpsb compares source with destination");

	r = (struct string_regs){ (u64)from + 255, (u64)to + 255, 256, 0, 0 };
	STRING("std; repe cmpsb", r);
	check(r.rcx == 77 && r.rsi == (u64)from + 76, "repe cmpsb backward: rcx %lu", r.rcx);

	r = (struct string_regs){ (u64)from, (u64)to, 9, 0, 0 };
	STRING("cld; repe cmpsq", r);
	check(r.rcx == 0 && r.flags & FLAG_ZF, "repe cmpsq of equals: rcx %lu", r.rcx);
	r = (struct string_regs){ (u64)from, (u64)to, 256, 0, 0 };
	STRING("cld; repne cmpsw", r);
	check(r.rcx == 255 && r.flags & FLAG_ZF, "repne cmpsw: rcx %lu", r.rcx);

	for (int i = 0; i < 256; i++)
		to[i] = 'x';
	to[200] = 0;
	r = (struct string_regs){ 0, (u64)to, ~0ul, 0, 0 };
	STRING("cld; repne scasb", r);
	check(~r.rcx - 1 == 200 && r.rdi == (u64)to + 201 && r.flags & FLAG_ZF, "repne scasb: rcx %lx", r.rcx);
	r = (struct string_regs){ 0, (u64)to, 100, 'x', 0 };
	STRING("cld; repe scasb", r);
	check(r.rcx == 0 && r.flags & FLAG_ZF, "repe scasb: rcx %lx", r.rcx);
	r = (struct string_regs){ 0, (u64)to, 0, 'y', 0 };
	STRING("cmp %%eax, %%eax; cld; repe scasb", r);
	check(r.flags & FLAG_ZF && r.rdi == (u64)to, "repe scasb of 0 bytes keeps the flags");
}

void test_strings(void)
{
	moves_and_fills();
	compares_and_scans();
}

// ---- Atomics

static u64 wide_words[3] ALIGNED(16);
#define wide (*(u128 *)wide_words)

static void cmpxchg16b_misaligned(void *argument)
{
	(void)argument;
	asm volatile("lock cmpxchg16b %0" : "+m"(*(u128 *)(wide_words + 1)) : "a"(0ul), "d"(0ul), "b"(0ul), "c"(0ul) : "cc");
}

static void lock_on_register(void *argument)
{
	(void)argument;
	asm volatile(".byte 0xf0, 0x01, 0xc0");		// lock add eax, eax
}

void test_atomics(void)
{
	u64 flags, a;
	static u64 cell;
	cell = 5, a = 5;
	asm volatile("lock cmpxchg %3, %0; pushfq; pop %2" : "+m"(cell), "+a"(a), "=r"(flags) : "r"(9ul) : "cc");
	check(cell == 9 && a == 5 && flags & FLAG_ZF, "cmpxchg64 equal");
	a = 7;
	asm volatile("lock cmpxchg %3, %0; pushfq; pop %2" : "+m"(cell), "+a"(a), "=r"(flags) : "r"(1ul) : "cc");
	check(cell == 9 && a == 9 && !(flags & FLAG_ZF) && flags & FLAG_CF, "cmpxchg64 different: flags as of CMP");
	a = 0xaaaaaaaa00000009;
	asm volatile("lock cmpxchg %k3, %k0; pushfq; pop %2" : "+m"(cell), "+a"(a), "=r"(flags) : "r"(1ul) : "cc");
	check(cell == 1 && flags & FLAG_ZF, "cmpxchg32 equal: %lx", cell);
	cell = 0x1122334455667788, a = 0x77;
	asm volatile("cmpxchg %b3, %b0; pushfq; pop %2" : "+m"(cell), "+a"(a), "=r"(flags) : "q"(1ul) : "cc");
	check(cell == 0x1122334455667788 && a == 0x88, "cmpxchg8 different: al %lx", a);

	u64 low = 0x55667788, high = 0x11223344;
	asm volatile("lock cmpxchg8b %0; pushfq; pop %3" : "+m"(cell), "+a"(low), "+d"(high), "=r"(flags) : "b"(1ul), "c"(2ul) : "cc");
	check(cell == 0x200000001 && flags & FLAG_ZF, "cmpxchg8b equal: %lx", cell);
	low = high = ~0ul;
	asm volatile("lock cmpxchg8b %0; pushfq; pop %3" : "+m"(cell), "+a"(low), "+d"(high), "=r"(flags) : "b"(7ul), "c"(7ul) : "cc");
	check(cell == 0x200000001 && low == 1 && high == 2 && !(flags & FLAG_ZF), "cmpxchg8b different: %lx %lx", high, low);

	if (cpuid(1, 0).ecx >> 13 & 1) {
		wide = (u128)4 << 64 | 3;
		low = 3, high = 4;
		asm volatile("lock cmpxchg16b %0; pushfq; pop %3" : "+m"(wide), "+a"(low), "+d"(high), "=r"(flags) : "b"(5ul), "c"(6ul) : "cc");
		check(wide == ((u128)6 << 64 | 5) && flags & FLAG_ZF, "cmpxchg16b equal");
		asm volatile("cmpxchg16b %0; pushfq; pop %3" : "+m"(wide), "+a"(low), "+d"(high), "=r"(flags) : "b"(0ul), "c"(0ul) : "cc");
		check(low == 5 && high == 6 && !(flags & FLAG_ZF), "cmpxchg16b different: %lx %lx", high, low);
		check_eq(catch_trap(cmpxchg16b_misaligned, 0), VECTOR_GP, "cmpxchg16b misaligned");
	}

	cell = 10, a = 5;
	asm volatile("lock xadd %1, %0" : "+m"(cell), "+r"(a) :: "cc");
	check(cell == 15 && a == 10, "xadd");
	asm volatile("xchg %1, %0" : "+m"(cell), "+r"(a));
	check(cell == 10 && a == 15, "xchg with memory");
	asm volatile("lock incl %0; lock decq %0; lock negw %0; lock notb %0" : "+m"(cell) :: "cc");
	check_eq(cell, (0xfff6 & 0xff00) | (u8)~0xf6, "lock inc, dec, neg, not");
	cell = 0xf0;
	asm volatile("lock orq $0x0f, %0; lock andl $0x3c, %0; lock xorb $0xff, %0; lock subq $3, %0; setc %b1" : "+m"(cell), "=q"(a) :: "cc");
	check_eq(cell, 0xc0, "lock or, and, xor, sub");

	check_eq(catch_trap(lock_on_register, 0), VECTOR_UD, "lock with a register destination");
}
