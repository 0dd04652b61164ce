// Shifts, rotates, bit instructions and conditions.
#include "selftest.h"

typedef u64 shifter(u64 a, u64 count, u64 *flags);

#define SHIFT_WIDTH(name, bits, m) \
	static u64 name##bits(u64 a, u64 count, u64 *flags) \
	{ \
		asm volatile("push %[f]; popfq; " #name " %%cl, %" m "[a]; pushfq; pop %[f]" \
			     : [a] "+r"(a), [f] "+r"(*flags) : "c"(count) : "cc", "memory"); \
		return a; \
	}
#define SHIFT(name) SHIFT_WIDTH(name, 8, "b") SHIFT_WIDTH(name, 16, "w") SHIFT_WIDTH(name, 32, "k") SHIFT_WIDTH(name, 64, "q")
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)

enum kind { SHL, SHR, SAR, ROL, ROR, RCL, RCR };
#define FORMS(name) { name##8, name##16, name##32, name##64 }
static const struct { const char *name; shifter *form[4]; } shifts[] = {
	[SHL] = { "shl", FORMS(shl) }, [SHR] = { "shr", FORMS(shr) }, [SAR] = { "sar", FORMS(sar) }, [ROL] = { "rol", FORMS(rol) },
	[ROR] = { "ror", FORMS(ror) }, [RCL] = { "rcl", FORMS(rcl) }, [RCR] = { "rcr", FORMS(rcr) },
};

static bool even_parity(u64 v)
{
	v ^= v >> 4;
	return !(0x6996 >> (v & 15) & 1);
}

struct outcome { u64 value, flags, defined; };

// One bit at a time. SDM 2B "SAL/SAR/SHL/SHR" and "RCL/RCR/ROL/ROR".
static struct outcome model(enum kind kind, u64 a, u64 count, u64 flags, int bits)
{
	u64 mask = ~0ul >> (64 - bits), top = 1ul << (bits - 1);
	struct outcome o = { a & mask, flags & FLAGS_STATUS, FLAGS_STATUS };
	count &= bits == 64 ? 63 : 31;
	if (!count)
		return o;

	u64 v = a & mask, carry = flags & FLAG_CF;
	for (u64 i = 0; i < count; i++) {
		u64 low = v & 1, high = v & top ? 1 : 0;
		switch (kind) {
		case SHL: v = v << 1; carry = high; break;
		case SHR: v = v >> 1; carry = low; break;
		case SAR: v = v >> 1 | (high ? top : 0); carry = low; break;
		case ROL: v = v << 1 | high; carry = high; break;
		case ROR: v = v >> 1 | (low ? top : 0); carry = low; break;
		case RCL: v = v << 1 | carry; carry = high; break;
		case RCR: v = v >> 1 | (carry ? top : 0); carry = low; break;
		}
		v &= mask;
	}
	bool is_shift = kind <= SAR;
	u64 sign = v & top ? 1 : 0, below = v & top >> 1 ? 1 : 0, overflow = 0;
	switch (kind) {
	case SHL: case ROL: case RCL: overflow = sign ^ carry; break;
	case SHR: overflow = a & top ? 1 : 0; break;
	case SAR: overflow = 0; break;
	case ROR: case RCR: overflow = sign ^ below; break;
	}
	o.value = v;
	o.flags &= ~(FLAG_CF | FLAG_OF);
	o.flags |= carry | (overflow ? FLAG_OF : 0);
	if (is_shift) {
		o.flags &= ~(FLAG_ZF | FLAG_SF | FLAG_PF);
		o.flags |= (v ? 0 : FLAG_ZF) | (sign ? FLAG_SF : 0) | (even_parity(v & 0xff) ? FLAG_PF : 0);
		o.defined &= ~FLAG_AF;
		if (count >= (u64)bits && kind != SAR)
			o.defined &= ~FLAG_CF;
	}
	if (count != 1)
		o.defined &= ~FLAG_OF;
	o.flags &= o.defined;
	return o;
}

static const u64 values[] = {
	0, 1, 0x80, 0xff, 0x8000, 0x80000000, 0x8000000000000000, 0x7f7f7f7f7f7f7f7f, 0x123456789abcdef1, 0xfedcba9876543210,
	0xaaaaaaaaaaaaaaaa, 0x5555555555555555, 0xffffffffffffffff,
};

void test_shifts(void)
{
	for (enum kind kind = SHL; kind <= RCR; kind++)
		for (int width = 0; width < 4; width++)
			for (size_t i = 0; i < ARRAY_SIZE(values); i++)
				for (u64 count = 0; count < 68; count++) {
					int bits = 8 << width;
					u64 mask = ~0ul >> (64 - bits);
					u64 flags_in = FLAG_1 | ((count + i) & 1 ? FLAGS_STATUS : 0), flags = flags_in;
					u64 got = shifts[kind].form[width](values[i], count, &flags);
					struct outcome want = model(kind, values[i], count, flags_in, bits);
					u64 value = want.value | (bits == 32 ? 0 : values[i] & ~mask);
					check(got == value && (flags & want.defined) == want.flags,
					      "%s%d %lx, %lu flags %lx: %lx flags %lx, should be %lx flags %lx", shifts[kind].name, bits,
					      values[i], count, flags_in, got, flags & want.defined, value, want.flags);
				}

	// By 1 and by an immediate are opcodes of their own.
	u64 r = 0x8000000000000001;
	asm("rolq %0" : "+r"(r) :: "cc");
	check_eq(r, 3, "rol by 1");
	asm("shll $31, %k0" : "+r"(r) :: "cc");
	check_eq(r, 0x80000000, "shl imm8");
	asm("sarl $31, %k0" : "+r"(r) :: "cc");
	check_eq(r, 0xffffffff, "sar imm8");
	static u64 cell = 0xff00;
	asm("shrw $4, %0" : "+m"(cell) :: "cc");
	check_eq(cell, 0xff0, "shr memory");
}

#define DOUBLE_SHIFT(insn, m, a, b, count, flags) \
	asm volatile(insn " %%cl, %" m "2, %" m "0; pushfq; pop %1" : "+r"(a), "=r"(flags) : "r"(b), "c"(count) : "cc")

void test_double_shifts(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		for (u64 count = 1; count < 64; count++) {
			u64 a = values[i], b = values[(i + 5) % ARRAY_SIZE(values)], flags, r = a;
			DOUBLE_SHIFT("shld", "q", r, b, count, flags);
			check(r == (a << count | b >> (64 - count)) && (flags & FLAG_CF) == (a >> (64 - count) & 1), "shld64 %lx %lx %lu: %lx",
			      a, b, count, r);
			r = a;
			DOUBLE_SHIFT("shrd", "q", r, b, count, flags);
			check(r == (a >> count | b << (64 - count)) && (flags & FLAG_CF) == (a >> (count - 1) & 1), "shrd64 %lx %lx %lu: %lx",
			      a, b, count, r);
			u32 x = (u32)a, y = (u32)b;
			u64 n = count & 31;
			if (!n)
				continue;
			r = a;
			DOUBLE_SHIFT("shld", "k", r, b, count, flags);
			check(r == (u32)(x << n | y >> (32 - n)) && (flags & FLAG_CF) == (x >> (32 - n) & 1), "shld32 %x %x %lu: %lx", x, y, count, r);
			r = a;
			DOUBLE_SHIFT("shrd", "k", r, b, count, flags);
			check(r == (u32)(x >> n | y << (32 - n)) && (flags & FLAG_CF) == (x >> (n - 1) & 1), "shrd32 %x %x %lu: %lx", x, y, count, r);
			if (n > 15)
				continue;
			r = a;
			DOUBLE_SHIFT("shld", "w", r, b, count, flags);
			check(r == ((a & ~0xfffful) | (u16)((u16)x << n | (u16)y >> (16 - n))), "shld16 %x %x %lu: %lx", x, y, count, r);
		}

	u64 flags, r = 0x40000000;	// OF for a count of 1: the sign changed
	DOUBLE_SHIFT("shld", "k", r, 0ul, 1ul, flags);
	check(flags & FLAG_OF && flags & FLAG_SF, "shld32 by 1: flags %lx", flags);
}

// ---- Bits

#define BIT_REG(insn, m, v, bit, flags) \
	asm volatile("stc; " insn " %" m "2, %" m "0; pushfq; pop %1" : "+r"(v), "=r"(flags) : "r"(bit) : "cc")
#define BIT_MEM(insn, v, bit, flags) \
	asm volatile(insn " %q2, %0; pushfq; pop %1" : "+m"(v), "=r"(flags) : "r"(bit) : "cc", "memory")

static void bit_strings(void)
{
	// A register bit offset addresses memory beyond the operand, before it when negative.
	static u64 area[5];
	for (i64 bit = -128; bit < 192; bit += 13) {
		u64 flags, index = (u64)(bit + 128) / 64, single = 1ul << ((u64)bit & 63);
		for (int i = 0; i < 5; i++)
			area[i] = 0;
		BIT_MEM("btsq", area[2], bit, flags);
		check(!(flags & FLAG_CF) && area[index] == single, "bts memory, bit %ld: %lx", bit, area[index]);
		BIT_MEM("btq", area[2], bit, flags);
		check(flags & FLAG_CF, "bt memory, bit %ld", bit);
		BIT_MEM("btcq", area[2], bit, flags);
		check(flags & FLAG_CF && area[index] == 0, "btc memory, bit %ld: %lx", bit, area[index]);
		area[index] = ~0ul;
		BIT_MEM("lock btrq", area[2], bit, flags);
		check(flags & FLAG_CF && area[index] == ~single, "btr memory, bit %ld: %lx", bit, area[index]);
	}
}

static void bit_scans(void)
{
	for (u64 bit = 0; bit < 64; bit++) {
		u64 r, flags, v = 1ul << bit | 1ul << 63;
		asm("bsf %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(v) : "cc");
		check(r == bit && !(flags & FLAG_ZF), "bsf %lx: %lu", v, r);
		v = 1ul << bit | 1;
		asm("bsr %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(v) : "cc");
		check(r == bit && !(flags & FLAG_ZF), "bsr %lx: %lu", v, r);
	}
	u64 r = 1, flags;
	asm volatile("bsf %2, %0; pushfq; pop %1" : "+r"(r), "=r"(flags) : "r"(0ul) : "cc");
	check(flags & FLAG_ZF, "bsf 0: flags %lx", flags);

	if (cpuid(1, 0).ecx >> 23 & 1) {
		asm("popcnt %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(0xf0f0f0f0f0f0f0f1ul) : "cc");
		check(r == 33 && !(flags & FLAGS_STATUS), "popcnt: %lu flags %lx", r, flags);
		asm("popcnt %w2, %w0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(0xffff0000ul), "0"(~0ul) : "cc");
		check(r == 0xffffffffffff0000 && (flags & FLAGS_STATUS) == FLAG_ZF, "popcnt16 0: %lx flags %lx", r, flags);
	}
	if (cpuid_checked(0x80000001, 0).ecx >> 5 & 1) {
		asm("lzcnt %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(0x0000f00000000000ul) : "cc");
		check(r == 16 && !(flags & (FLAG_CF | FLAG_ZF)), "lzcnt: %lu flags %lx", r, flags);
		asm("lzcnt %k2, %k0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(0ul) : "cc");
		check(r == 32 && flags & FLAG_CF, "lzcnt32 0: %lu flags %lx", r, flags);
	}
	if (cpuid_checked(7, 0).ebx >> 3 & 1) {
		asm("tzcnt %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(0x0000f00000000000ul) : "cc");
		check(r == 44 && !(flags & (FLAG_CF | FLAG_ZF)), "tzcnt: %lu flags %lx", r, flags);
		asm("tzcnt %2, %0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(1ul) : "cc");
		check(r == 0 && (flags & (FLAG_CF | FLAG_ZF)) == FLAG_ZF, "tzcnt 1: %lu flags %lx", r, flags);
	}
}

void test_bit_operations(void)
{
	for (u64 bit = 0; bit < 200; bit += 7) {
		u64 flags, v = 0x5555555555555555, single = 1ul << (bit & 63), was = v & single ? FLAG_CF : 0;
		BIT_REG("bt", "q", v, bit, flags);
		check((flags & FLAG_CF) == was && v == 0x5555555555555555, "bt %lu", bit);
		BIT_REG("bts", "q", v, bit, flags);
		check((flags & FLAG_CF) == was && v == (0x5555555555555555 | single), "bts %lu: %lx", bit, v);
		BIT_REG("btr", "q", v, bit, flags);
		check(flags & FLAG_CF && v == (0x5555555555555555 & ~single), "btr %lu: %lx", bit, v);
		v = 0xffffffff00000000;
		BIT_REG("btc", "k", v, bit, flags);
		check(v == 1ul << (bit & 31), "btc32 %lu: %lx", bit, v);
	}
	bit_strings();
	bit_scans();

	u64 r = 0x0123456789abcdef;
	asm("bswap %0" : "+r"(r));
	check_eq(r, 0xefcdab8967452301, "bswap64");
	asm("bswap %k0" : "+r"(r));
	check_eq(r, 0x01234567, "bswap32");
}

// ---- Conditions: SETcc gives bit 0, CMOVcc bit 1, Jcc bit 2.

#define CONDITION(cc) \
	static u64 condition_##cc(u64 flags) \
	{ \
		u64 r = 0, m = 0; \
		asm volatile("push %[f]; popfq; set" #cc " %b[r]; cmov" #cc " %[two], %[m]; j" #cc " 1f; jmp 2f; 1: lea 4(%[m]), %[m]; 2:" \
			     : [r] "+q"(r), [m] "+r"(m) : [f] "r"(flags), [two] "r"(2ul) : "cc", "memory"); \
		return r | m; \
	}
CONDITION(o) CONDITION(no) CONDITION(b) CONDITION(ae) CONDITION(e) CONDITION(ne) CONDITION(be) CONDITION(a)
CONDITION(s) CONDITION(ns) CONDITION(p) CONDITION(np) CONDITION(l) CONDITION(ge) CONDITION(le) CONDITION(g)

static u64 (*const conditions[16])(u64) = {
	condition_o, condition_no, condition_b, condition_ae, condition_e, condition_ne, condition_be, condition_a,
	condition_s, condition_ns, condition_p, condition_np, condition_l, condition_ge, condition_le, condition_g,
};

static bool condition_model(int n, u64 flags)
{
	bool c = flags & FLAG_CF, z = flags & FLAG_ZF, s = flags & FLAG_SF, o = flags & FLAG_OF, p = flags & FLAG_PF;
	bool even[] = { o, c, z, c || z, s, p, s != o, z || s != o };
	return even[n / 2] != (n & 1);
}

void test_conditions(void)
{
	static const u64 bits[] = { FLAG_CF, FLAG_PF, FLAG_ZF, FLAG_SF, FLAG_OF };
	for (u64 combination = 0; combination < 32; combination++) {
		u64 flags = FLAG_1;
		for (u64 i = 0; i < 5; i++)
			flags |= combination >> i & 1 ? bits[i] : 0;
		for (int n = 0; n < 16; n++) {
			u64 got = conditions[n](flags);
			check(got == (condition_model(n, flags) ? 7 : 0), "condition %x, flags %lx: %lx", n, flags, got);
		}
	}

	u64 r, count;
	asm("mov $5, %%ecx; xor %%eax, %%eax; 1: inc %%eax; loop 1b" : "=a"(r), "=c"(count) :: "cc");
	check(r == 5 && count == 0, "loop: %lu rounds", r);
	asm("mov $9, %%ecx; xor %%eax, %%eax; 1: inc %%eax; cmp $3, %%eax; loopne 1b" : "=a"(r), "=c"(count) :: "cc");
	check(r == 3 && count == 6, "loopne: %lu rounds, rcx %lu", r, count);
	asm("mov $0x100000000, %%rcx; xor %%eax, %%eax; jrcxz 1f; inc %%eax; jecxz 1f; inc %%eax; 1:" : "=a"(r), "=c"(count) :: "cc");
	check_eq(r, 1, "jrcxz and jecxz");
}
