// Integer arithmetic against a model that computes results and flags from carries, without looking at RFLAGS.
#include "interrupts.h"
#include "selftest.h"

static const u64 values[] = {
	0, 1, 2, 3, 7, 8, 0xf, 0x10, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xffff, 0x10000,
	0x55555555, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x123456789abcdef0, 0x7fffffffffffffff,
	0x8000000000000000, 0xaaaaaaaaaaaaaaaa, 0xfffffffffffffff0, 0xffffffffffffffff,
};

typedef u64 operation(u64 a, u64 b, u64 *flags);

// Destination in a register, and in memory; m is the operand modifier of the width.
#define BINARY_WIDTH(name, bits, m) \
	static u64 name##bits##_reg(u64 a, u64 b, u64 *flags) \
	{ \
		asm volatile("push %[f]; popfq; " #name " %" m "[b], %" m "[a]; pushfq; pop %[f]" \
			     : [a] "+r"(a), [f] "+r"(*flags) : [b] "r"(b) : "cc", "memory"); \
		return a; \
	} \
	static u64 name##bits##_mem(u64 a, u64 b, u64 *flags) \
	{ \
		static u64 cell; \
		cell = a; \
		asm volatile("push %[f]; popfq; " #name " %" m "[b], %[cell]; pushfq; pop %[f]" \
			     : [cell] "+m"(cell), [f] "+r"(*flags) : [b] "r"(b) : "cc", "memory"); \
		return cell; \
	}
#define BINARY(name) BINARY_WIDTH(name, 8, "b") BINARY_WIDTH(name, 16, "w") BINARY_WIDTH(name, 32, "k") BINARY_WIDTH(name, 64, "q")

BINARY(add)
BINARY(adc)
BINARY(sub)
BINARY(sbb)
BINARY(cmp)
BINARY(and)
BINARY(or)
BINARY(xor)
BINARY(test)

// One operand: b is not used.
#define UNARY_WIDTH(name, bits, m, suffix) \
	static u64 name##bits##_reg(u64 a, u64 b, u64 *flags) \
	{ \
		(void)b; \
		asm volatile("push %[f]; popfq; " #name " %" m "[a]; pushfq; pop %[f]" : [a] "+r"(a), [f] "+r"(*flags) :: "cc", "memory"); \
		return a; \
	} \
	static u64 name##bits##_mem(u64 a, u64 b, u64 *flags) \
	{ \
		static u64 cell; \
		(void)b; \
		cell = a; \
		asm volatile("push %[f]; popfq; " #name suffix " %[cell]; pushfq; pop %[f]" \
			     : [cell] "+m"(cell), [f] "+r"(*flags) :: "cc", "memory"); \
		return cell; \
	}
#define UNARY(name) \
	UNARY_WIDTH(name, 8, "b", "b") UNARY_WIDTH(name, 16, "w", "w") UNARY_WIDTH(name, 32, "k", "l") UNARY_WIDTH(name, 64, "q", "q")

UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not)

enum kind { ADD, ADC, SUB, SBB, CMP, AND, OR, XOR, TEST, INC, DEC, NEG, NOT };

#define FORMS(name) \
	{ { name##8_reg, name##16_reg, name##32_reg, name##64_reg }, { name##8_mem, name##16_mem, name##32_mem, name##64_mem } }
static const struct { const char *name; enum kind kind; operation *form[2][4]; } operations[] = {
	{ "add", ADD, FORMS(add) }, { "adc", ADC, FORMS(adc) }, { "sub", SUB, FORMS(sub) }, { "sbb", SBB, FORMS(sbb) },
	{ "cmp", CMP, FORMS(cmp) }, { "and", AND, FORMS(and) }, { "or", OR, FORMS(or) }, { "xor", XOR, FORMS(xor) },
	{ "test", TEST, FORMS(test) }, { "inc", INC, FORMS(inc) }, { "dec", DEC, FORMS(dec) }, { "neg", NEG, FORMS(neg) },
	{ "not", NOT, FORMS(not) },
};

static bool even_parity(u64 v)
{
	v ^= v >> 4;
	return !(0x6996 >> (v & 15) & 1);
}

static u64 result_flags(u64 r, u64 top)
{
	return (r == 0 ? FLAG_ZF : 0) | (r & top ? FLAG_SF : 0) | (even_parity(r & 0xff) ? FLAG_PF : 0);
}

struct outcome { u64 value, flags, defined; };

static struct outcome model(enum kind kind, u64 a, u64 b, u64 flags_in, int bits)
{
	u64 mask = ~0ul >> (64 - bits), top = 1ul << (bits - 1);
	u64 carry = kind == ADC || kind == SBB ? flags_in & FLAG_CF : 0;
	struct outcome o = { 0, 0, FLAGS_STATUS };
	u64 r, carries, overflow;

	if (kind == INC || kind == DEC)
		b = 1;
	if (kind == NEG)
		b = a, a = 0;
	a &= mask;
	b &= mask;

	switch (kind) {
	case ADD: case ADC: case INC:
		r = (a + b + carry) & mask;
		carries = (a & b) | ((a | b) & ~r);
		overflow = (a ^ r) & (b ^ r);
		break;
	case SUB: case SBB: case CMP: case DEC: case NEG:
		r = (a - b - carry) & mask;
		carries = (~a & b) | (~(a ^ b) & r);
		overflow = (a ^ b) & (a ^ r);
		break;
	case NOT:
		return (struct outcome){ ~a & mask, flags_in & FLAGS_STATUS, FLAGS_STATUS };
	default:
		r = kind == OR ? a | b : kind == XOR ? a ^ b : a & b;
		carries = overflow = 0;
		o.defined &= ~FLAG_AF;
	}
	o.value = kind == CMP || kind == TEST ? a : r;
	o.flags = result_flags(r, top) | (carries & top ? FLAG_CF : 0) | (overflow & top ? FLAG_OF : 0)
		| ((a ^ b ^ r) & 0x10 ? FLAG_AF : 0);
	if (kind == INC || kind == DEC)
		o.flags = (o.flags & ~FLAG_CF) | (flags_in & FLAG_CF);
	o.flags &= o.defined;
	return o;
}

static void check_one(size_t op, int form, int width, u64 a, u64 b, u64 flags_in)
{
	int bits = 8 << width;
	u64 mask = ~0ul >> (64 - bits), flags = flags_in;
	u64 got = operations[op].form[form][width](a, b, &flags);
	struct outcome want = model(operations[op].kind, a, b, flags_in, bits);

	// A 32-bit register result clears the upper half, except that CMP and TEST write nothing; others keep what is above.
	bool writes = operations[op].kind != CMP && operations[op].kind != TEST;
	u64 above = form == 0 && bits == 32 && writes ? 0 : a & ~mask;
	if (got == (above | want.value) && (flags & want.defined) == want.flags)
		return;
	check(false, "%s%d %s a=%lx b=%lx flags=%lx: %lx flags %lx, should be %lx flags %lx", operations[op].name, bits,
	      form ? "memory" : "register", a, b, flags_in, got, flags & want.defined, above | want.value, want.flags);
}

void test_arithmetic(void)
{
	u64 none = FLAG_1, all = FLAG_1 | FLAGS_STATUS;

	for (size_t op = 0; op < ARRAY_SIZE(operations); op++)
		for (int width = 0; width < 4; width++)
			for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
				for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
					check_one(op, 0, width, values[i], values[j], (i + j) & 1 ? all : none);
					check_one(op, 0, width, values[i], values[j], (i + j) & 1 ? none : all);
				}
				check_one(op, 1, width, values[i], values[(i * 7) % ARRAY_SIZE(values)], i & 1 ? all : none);
				check(true, " ");
			}

	// All pairs of bytes, carry in by their parity.
	for (size_t op = 0; op < ARRAY_SIZE(operations) && operations[op].kind <= CMP; op++)
		for (u64 a = 0; a < 256; a++) {
			for (u64 b = 0; b < 256; b++)
				check_one(op, 0, 0, a, b, (a ^ b) & 1 ? all : none);
			check(true, " ");
		}

	// Sign-extended immediates, and the high byte registers.
	u64 r = 5;
	asm("addq $-7, %0" : "+r"(r) :: "cc");
	check_eq(r, -2, "add imm8");
	r = 0x100;
	asm("andl $-16, %k0" : "+r"(r) :: "cc");
	check_eq(r, 0x100, "and imm8");
	asm("cmpq $-0x80000000, %1; sete %b0" : "=q"(r) : "r"(0xffffffff80000000), "0"(0ul) : "cc");
	check_eq(r & 1, 1, "cmp imm32 sign-extended");
	asm("mov $0x1234, %%eax; mov $0x00f0, %%ebx; add %%bh, %%al; add %%bl, %%ah; mov %%rax, %0" : "=r"(r) :: "rax", "rbx", "cc");
	check_eq(r, 0x0234, "add ah, bl");
}

// ---- Multiplication

static void check_mul(const char *what, u64 low, u64 high, u64 flags, u128 want, bool overflow, int bits)
{
	u64 mask = ~0ul >> (64 - bits);
	check((low & mask) == ((u64)want & mask) && (high & mask) == ((u64)(want >> bits) & mask)
	      && !!(flags & FLAG_CF) == overflow && !!(flags & FLAG_OF) == overflow,
	      "%s%d: %lx:%lx flags %lx, should be %lx:%lx overflow %d", what, bits, high & mask, low & mask,
	      flags & (FLAG_CF | FLAG_OF), (u64)(want >> bits) & mask, (u64)want & mask, overflow);
}

static i64 sign_extend(u64 v, int bits)
{
	return (i64)(v << (64 - bits)) >> (64 - bits);
}

#define MUL(insn, m, low, high, flags) \
	asm volatile(insn " %" m "[b]; pushfq; pop %[f]" : "+a"(low), "=d"(high), [f] "=r"(flags) : [b] "r"(b), "d"(0ul) : "cc")

static void multiply_pair(u64 a, u64 b)
{
	for (int bits = 16; bits <= 64; bits *= 2) {
		u64 mask = ~0ul >> (64 - bits), low = a, high, flags;
		u128 want = (u128)(a & mask) * (b & mask);
		if (bits == 16) MUL("mul", "w", low, high, flags);
		else if (bits == 32) MUL("mul", "k", low, high, flags);
		else MUL("mul", "q", low, high, flags);
		check_mul("mul", low, high, flags, want, want >> bits != 0, bits);

		low = a;
		__int128 product = (__int128)sign_extend(a, bits) * sign_extend(b, bits);
		bool overflow = product != (__int128)sign_extend((u64)product, bits);
		if (bits == 16) MUL("imul", "w", low, high, flags);
		else if (bits == 32) MUL("imul", "k", low, high, flags);
		else MUL("imul", "q", low, high, flags);
		check_mul("imul", low, high, flags, (u128)product, overflow, bits);

		u64 two = a;
		if (bits == 16)
			asm volatile("imul %w2, %w0; pushfq; pop %1" : "+r"(two), "=r"(flags) : "r"(b) : "cc");
		else if (bits == 32)
			asm volatile("imul %k2, %k0; pushfq; pop %1" : "+r"(two), "=r"(flags) : "r"(b) : "cc");
		else
			asm volatile("imul %q2, %q0; pushfq; pop %1" : "+r"(two), "=r"(flags) : "r"(b) : "cc");
		check((two & mask) == ((u64)product & mask) && !!(flags & FLAG_CF) == overflow && !!(flags & FLAG_OF) == overflow,
		      "imul%d two operands %lx * %lx: %lx flags %lx", bits, a, b, two, flags);
	}
}

void test_multiply(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		for (size_t j = 0; j < ARRAY_SIZE(values); j++)
			multiply_pair(values[i], values[j]);

	for (u64 a = 0; a < 256; a += 5)
		for (u64 b = 0; b < 256; b += 3) {
			u64 r = a, flags;
			asm volatile("mulb %b2; pushfq; pop %1" : "+a"(r), "=r"(flags) : "q"(b) : "cc");
			check((u16)r == a * b && !!(flags & FLAG_CF) == (a * b > 255), "mul8 %lx * %lx: %lx", a, b, r);
			r = a;
			asm volatile("imulb %b2; pushfq; pop %1" : "+a"(r), "=r"(flags) : "q"(b) : "cc");
			int product = (i8)a * (i8)b;
			check((i16)r == product && !!(flags & FLAG_CF) == (product != (i8)product), "imul8 %lx * %lx: %lx", a, b, r);
		}

	u64 r;
	asm("imul $-3, %1, %0" : "=r"(r) : "r"(0x123456789ul) : "cc");
	check_eq(r, (u64)-0x369d0369b, "imul imm8");
	asm("imul $100000, %k1, %k0" : "=r"(r) : "r"(0xffffffff00010000ul) : "cc");
	check_eq(r, (u32)(0x10000u * 100000u), "imul imm32, 32 bits");
}

// ---- Division

struct division { u64 low, high, divisor; };

#define DIVISION(name, insn, m) \
	static void name(void *p) \
	{ \
		struct division *d = p; \
		asm volatile(insn " %" m "2" : "+a"(d->low), "+d"(d->high) : "r"(d->divisor) : "cc"); \
	}
DIVISION(div8, "div", "b")
DIVISION(div16, "div", "w")
DIVISION(div32, "div", "k")
DIVISION(div64, "div", "q")
DIVISION(idiv8, "idiv", "b")
DIVISION(idiv16, "idiv", "w")
DIVISION(idiv32, "idiv", "k")
DIVISION(idiv64, "idiv", "q")

static void (*const unsigned_division[])(void *) = { div8, div16, div32, div64 };
static void (*const signed_division[])(void *) = { idiv8, idiv16, idiv32, idiv64 };

static void expect_quotient(void (*divide)(void *), const char *what, u64 high, u64 low, u64 divisor, u64 quotient, u64 remainder)
{
	struct division d = { low, high, divisor };
	int vector = catch_trap(divide, &d);
	check(vector == NO_TRAP && d.low == quotient && d.high == remainder,
	      "%s %lx:%lx / %lx: %lx rest %lx (exception %d), should be %lx rest %lx", what, high, low, divisor, d.low, d.high,
	      vector, quotient, remainder);
}

static void expect_de(void (*divide)(void *), const char *what, u64 high, u64 low, u64 divisor)
{
	struct division d = { low, high, divisor };
	int vector = catch_trap(divide, &d);
	check(vector == VECTOR_DE && d.low == low && d.high == high, "%s %lx:%lx / %lx: exception %d, should be #DE", what, high, low,
	      divisor, vector);
}

void test_divide(void)
{
	// 64 and 32 bits: quotient * divisor + remainder is the dividend again.
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		for (size_t j = 1; j < ARRAY_SIZE(values); j++) {
			u64 divisor = values[j];
			struct division d = { values[i], values[(i + j) % ARRAY_SIZE(values)] % divisor, divisor };
			u128 dividend = (u128)d.high << 64 | d.low;
			check(catch_trap(div64, &d) == NO_TRAP && d.high < divisor && (u128)d.low * divisor + d.high == dividend,
			      "div64 %lx:%lx / %lx", (u64)(dividend >> 64), (u64)dividend, divisor);
			u64 small = divisor & 0xffffffff;
			if (!small)
				continue;
			d = (struct division){ values[i] & 0xffffffff, values[i] % small, small };
			u64 dividend32 = d.high << 32 | d.low;
			check(catch_trap(div32, &d) == NO_TRAP && d.high < small && d.low * small + d.high == dividend32,
			      "div32 %lx / %lx: %lx rest %lx", dividend32, small, d.low, d.high);
		}

	// Signed division truncates; the remainder has the dividend's sign.
	expect_quotient(idiv64, "idiv64", 0, 7, -2ul, -3ul, 1);
	expect_quotient(idiv64, "idiv64", ~0ul, -7ul, 2, -3ul, -1ul);
	expect_quotient(idiv64, "idiv64", ~0ul, -7ul, -2ul, 3, -1ul);
	expect_quotient(idiv64, "idiv64", ~0ul, 1ul << 63, 1, 1ul << 63, 0);
	expect_quotient(idiv64, "idiv64", 0x3fffffffffffffff, ~0ul, 0x8000000000000000, 0x8000000000000001, 0x7fffffffffffffff);
	expect_quotient(idiv32, "idiv32", 0xffffffff, 0xfffffff9, 2, 0xfffffffd, 0xffffffff);
	expect_quotient(idiv16, "idiv16", 0x1111111111110000, 0x2222222222220064, 0xfff9, 0x222222222222fff2, 0x1111111111110002);
	// 8 bits: AX / divisor, quotient to AL, remainder to AH.
	expect_quotient(div8, "div8", 5, 0x1234567812340064, 7, 0x123456781234020e, 5);
	expect_quotient(idiv8, "idiv8", 5, 0xff9c, 7, 0xfef2, 5);

	for (int width = 0; width < 4; width++) {
		u64 top = 1ul << ((8 << width) - 1);
		expect_de(unsigned_division[width], "div by 0", 0, 1, 0);
		expect_de(signed_division[width], "idiv by 0", 0, 1, 0);
		if (width == 0) {
			expect_de(div8, "div8 overflow", 0, 0x200, 2);
			expect_de(idiv8, "idiv8 overflow", 0, 0xff80, 0xff);
			expect_de(idiv8, "idiv8 overflow", 0, 0x80, 1);
			continue;
		}
		expect_de(unsigned_division[width], "div overflow", 2, 0, 2);
		expect_de(signed_division[width], "idiv overflow", ~0ul >> (64 - (8 << width)), top, ~0ul >> (64 - (8 << width)));
		expect_de(signed_division[width], "idiv overflow", 0, top, 1);
	}
}
