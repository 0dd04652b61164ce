// x87: arithmetic on 80-bit values, control and status word, state instructions.
#include "golden.h"
#include "interrupts.h"
#include "selftest.h"

#define X87_IE 0x01
#define X87_DE 0x02
#define X87_ZE 0x04
#define X87_OE 0x08
#define X87_UE 0x10
#define X87_PE 0x20
#define X87_SF 0x40
#define X87_ES 0x80
#define X87_C0 0x0100
#define X87_C1 0x0200
#define X87_C2 0x0400
#define X87_C3 0x4000
#define X87_TOP 0x3800
#define X87_FLAGS 0x3f

// ST(0) = a, ST(1) = b; the result replaces a. The status is read after `text` but before `rest`, for FSTP clears C1.
#define X87(name, text, rest) \
	static u16 do_##name(u8 *a, const u8 *b, u16 control) \
	{ \
		u16 status; \
		asm volatile("fninit; fldt (%1); fldt (%2); fldcw %3; " text "; fnstsw %0; " rest "; fnclex; fninit" \
			     : "=&a"(status) : "r"(b), "r"(a), "m"(control) : "memory"); \
		return status; \
	}
X87(fadd, "fadd %%st(1), %%st", "fstpt (%2)")
X87(fsub, "fsub %%st(1), %%st", "fstpt (%2)")
X87(fsubr, "fsubr %%st(1), %%st", "fstpt (%2)")
X87(fmul, "fmul %%st(1), %%st", "fstpt (%2)")
X87(fdiv, "fdiv %%st(1), %%st", "fstpt (%2)")
X87(fdivr, "fdivr %%st(1), %%st", "fstpt (%2)")
X87(fsqrt, "fsqrt", "fstpt (%2)")
X87(frndint, "frndint", "fstpt (%2)")
X87(fst_single, "fsts (%2)", "")
X87(fst_double, "fstl (%2)", "")
X87(fist16, "fists (%2)", "")
X87(fist32, "fistl (%2)", "")
X87(fistp64, "fistpll (%2)", "")
X87(fbstp, "fbstp (%2)", "")
X87(fchs_fabs, "fchs; fadd %%st(1), %%st; fabs", "fstpt (%2)")
X87(fild_load, "fldl (%2); fadds (%1)", "fstpt (%2)")

#define X87_SQRT 6			// the last of those that the precision control concerns
#define X87_EXTENDED_MODES 4

const struct x87_entry x87_op[X87_OPS] = {
	{ "fadd", do_fadd }, { "fsub", do_fsub }, { "fsubr", do_fsubr }, { "fmul", do_fmul }, { "fdiv", do_fdiv }, { "fdivr", do_fdivr },
	{ "fsqrt", do_fsqrt }, { "frndint", do_frndint }, { "fst single", do_fst_single }, { "fst double", do_fst_double },
	{ "fist 16", do_fist16 }, { "fist 32", do_fist32 }, { "fistp 64", do_fistp64 }, { "fbstp", do_fbstp },
	{ "fchs, fadd, fabs", do_fchs_fabs }, { "fld double, fadd single", do_fild_load },
};

// Extended precision in the four rounding directions, then double and single precision.
const u16 x87_mode[X87_MODES] = { 0x037f, 0x077f, 0x0b7f, 0x0f7f, 0x027f, 0x007f };

struct extended { u64 significand; u16 sign_exponent; };

// The last ODD_ENCODINGS are a pseudo-denormal, unnormals, a pseudo-infinity and a pseudo-NaN.
#define ODD_ENCODINGS 5
static const struct extended values[] = {
	{ 0, 0x0000 }, { 0, 0x8000 }, { 0x8000000000000000, 0x3fff }, { 0xc000000000000000, 0xbfff },	// 0, -0, 1, -1.5
	{ 0xc90fdaa22168c235, 0x4000 }, { 0x8000000000000001, 0x3fff }, { 0xaaaaaaaaaaaaaaab, 0x3ffd }, { 0xffffffffffffffff, 0xc000 },
	{ 0x8000000000000000, 0x0001 }, { 0xffffffffffffffff, 0x8001 }, { 0x0000000000000001, 0x0000 }, { 0x7fffffffffffffff, 0x8000 },
	{ 0xffffffffffffffff, 0x7ffe }, { 0x8000000000000000, 0xfffe }, { 0x8000000000000001, 0x5fff }, { 0xfffffffffffffffe, 0x1fff },
	{ 0xfffffffffffffc00, 0x43fe }, { 0xfffffffffffffbff, 0x43fe }, { 0xfffffe8000000000, 0x407e }, { 0x8000000000000401, 0x3c01 },
	{ 0xfffffffffffff800, 0x3bcd }, { 0xc000000000000000, 0x3f6a }, { 0xfffe000000000000, 0x400d }, { 0xffff000000000000, 0xc00e },
	{ 0xfffffffe00000000, 0x401d }, { 0xffffffffffffffff, 0x403d }, { 0x8000000000000000, 0xc03e }, { 0xde0b6b3a763fffff, 0x403a },
	{ 0x8000000000000000, 0x7fff }, { 0x8000000000000000, 0xffff }, { 0xc000000000000123, 0x7fff }, { 0xc000000000000000, 0xffff },
	{ 0x8000000000000456, 0x7fff }, { 0xa000000000000000, 0xffff },
	{ 0x8000000000000000, 0x0000 }, { 0x4000000000000000, 0x3fff }, { 0x0000000000000000, 0x4000 }, { 0x0000000000000000, 0x7fff },
	{ 0x4000000000000000, 0xffff },
};

static void store(u8 *to, struct extended v)
{
	memset(to, 0, 16);
	memcpy(to, &v.significand, 8);
	memcpy(to + 8, &v.sign_exponent, 2);
}

static struct extended load(const u8 *from)
{
	return (struct extended){ load64(from), load16(from + 8) };
}

u32 x87_hash(const struct x87_entry *e, u16 control, bool exact)
{
	size_t n = ARRAY_SIZE(values) - (exact ? 0 : ODD_ENCODINGS);
	u64 h = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++) {
			u8 a[16], b[16];
			store(a, values[i]);
			store(b, values[j]);
			u16 status = e->run(a, b, control) & (exact ? X87_FLAGS | X87_C1 : X87_FLAGS & ~X87_DE);
			h = (h ^ load64(a)) * 0x100000001b3;
			h = (h ^ h >> 29 ^ load16(a + 8)) * 0x100000001b3;
			h = (h ^ h >> 31 ^ status) * 0x100000001b3;
		}
	return (u32)(h ^ h >> 32);
}

static void check_hashes(const u32 golden[X87_OPS][X87_MODES], bool exact)
{
	for (int op = 0; op < X87_OPS; op++)
		for (int mode = 0; mode < (exact || op <= X87_SQRT ? X87_MODES : X87_EXTENDED_MODES); mode++) {
			u32 got = x87_hash(&x87_op[op], x87_mode[mode], exact);
			check(got == golden[op][mode], "%s, control %x: hash of all pairs %08x, should be %08x", x87_op[op].name, x87_mode[mode], got,
			      golden[op][mode]);
		}
}

struct x87_case { const char *name; u16 (*run)(u8 *, const u8 *, u16); struct extended a, b, want; u16 control, status; };

static void check_cases(const struct x87_case *c, size_t n, u16 status_bits)
{
	for (size_t i = 0; i < n; i++, c++) {
		u8 a[16], b[16];
		store(a, c->a);
		store(b, c->b);
		u16 status = c->run(a, b, c->control) & status_bits;
		struct extended got = load(a);
		check(got.significand == c->want.significand && got.sign_exponent == c->want.sign_exponent && status == c->status,
		      "%s, control %x: %04x:%016lx status %x, should be %04x:%016lx status %x", c->name, c->control, got.sign_exponent,
		      got.significand, status, c->want.sign_exponent, c->want.significand, c->status);
	}
}

#define ONE { 0x8000000000000000, 0x3fff }
#define TWO { 0x8000000000000000, 0x4000 }
#define THREE { 0xc000000000000000, 0x4000 }
#define INDEFINITE { 0xc000000000000000, 0xffff }

static void constants(void)
{
	static const struct { const char *name; struct extended want; } constant[] = {
		{ "fld1", ONE }, { "fldpi", { 0xc90fdaa22168c235, 0x4000 } }, { "fldl2e", { 0xb8aa3b295c17f0bc, 0x3fff } },
		{ "fldl2t", { 0xd49a784bcd1b8afe, 0x4000 } }, { "fldlg2", { 0x9a209a84fbcff799, 0x3ffd } },
		{ "fldln2", { 0xb17217f7d1cf79ac, 0x3ffe } }, { "fldz", { 0, 0 } },
	};
	u8 v[7][16];
	asm volatile("fninit; fld1; fstpt 0(%0); fldpi; fstpt 16(%0); fldl2e; fstpt 32(%0); fldl2t; fstpt 48(%0); fldlg2; fstpt 64(%0); "
		     "fldln2; fstpt 80(%0); fldz; fstpt 96(%0)" :: "r"(v) : "memory");
	for (size_t i = 0; i < ARRAY_SIZE(constant); i++) {
		struct extended got = load(v[i]);
		check(got.significand == constant[i].want.significand && got.sign_exponent == constant[i].want.sign_exponent, "%s: %04x:%016lx",
		      constant[i].name, got.sign_exponent, got.significand);
	}
}

void test_x87_arithmetic(void)
{
	static const struct x87_case cases[] = {
		{ "1 + 2", do_fadd, ONE, TWO, THREE, 0x37f, 0 },
		{ "1 / 3", do_fdiv, ONE, THREE, { 0xaaaaaaaaaaaaaaab, 0x3ffd }, 0x37f, X87_PE },
		{ "1 / 3 down", do_fdiv, ONE, THREE, { 0xaaaaaaaaaaaaaaaa, 0x3ffd }, 0x77f, X87_PE },
		{ "1 / 3 double precision", do_fdiv, ONE, THREE, { 0xaaaaaaaaaaaaa800, 0x3ffd }, 0x27f, X87_PE },
		{ "1 / 3 single precision", do_fdiv, ONE, THREE, { 0xaaaaab0000000000, 0x3ffd }, 0x07f, X87_PE },
		{ "sqrt 2", do_fsqrt, TWO, ONE, { 0xb504f333f9de6484, 0x3fff }, 0x37f, X87_PE },
		{ "1 / 0", do_fdiv, ONE, { 0, 0 }, { 0x8000000000000000, 0x7fff }, 0x37f, X87_ZE },
		{ "0 / 0", do_fdiv, { 0, 0 }, { 0, 0 }, INDEFINITE, 0x37f, X87_IE },
		{ "sqrt -1", do_fsqrt, { 0x8000000000000000, 0xbfff }, ONE, INDEFINITE, 0x37f, X87_IE },
		{ "NaN of the larger significand", do_fadd, { 0xc000000000000123, 0x7fff }, { 0xc000000000000124, 0x7fff },
		  { 0xc000000000000124, 0x7fff }, 0x37f, 0 },
		{ "overflow", do_fmul, { 0xffffffffffffffff, 0x7ffe }, TWO, { 0x8000000000000000, 0x7fff }, 0x37f, X87_OE | X87_PE },
		{ "round to integer up", do_frndint, { 0xa000000000000000, 0x3fff }, ONE, TWO, 0xb7f, X87_PE },
	};
	constants();
	check_cases(cases, ARRAY_SIZE(cases), X87_FLAGS & ~X87_DE);
	check_hashes(golden_x87, false);
	asm volatile("fninit");
}

static void stack_faults(void)
{
	u16 status;
	u8 a[16];
	asm volatile("fninit; fld %%st(1); fnstsw %0; fstpt %1" : "=&a"(status), "=m"(a));
	check((status & (X87_SF | X87_IE | X87_C1)) == (X87_SF | X87_IE) && load(a).sign_exponent == 0xffff, "stack underflow: status %x", status);
	asm volatile("fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fnstsw %0; fstpt %1" : "=&a"(status), "=m"(a));
	check((status & (X87_SF | X87_IE | X87_C1)) == (X87_SF | X87_IE | X87_C1) && load(a).sign_exponent == 0xffff,
	      "stack overflow: status %x", status);
	asm volatile("fninit");
}

// QEMU 7.2 sets neither C1 nor DE nor the stack fault bit, takes invalid encodings for numbers, and lets the precision control
// concern FRNDINT.
void test_x87_exactly(void)
{
	static const struct x87_case cases[] = {
		{ "1 / 3 rounds up", do_fdiv, ONE, THREE, { 0xaaaaaaaaaaaaaaab, 0x3ffd }, 0x37f, X87_PE | X87_C1 },
		{ "1 / 3 rounds down", do_fdiv, ONE, THREE, { 0xaaaaaaaaaaaaaaaa, 0x3ffd }, 0x77f, X87_PE },
		{ "denormal operand", do_fadd, { 1, 0 }, { 1, 0 }, { 2, 0 }, 0x37f, X87_DE },
		{ "pseudo-denormal operand", do_fadd, { 0x8000000000000000, 0 }, { 0, 0 }, { 0x8000000000000000, 1 }, 0x37f, X87_DE },
		{ "unnormal operand", do_fadd, { 0x4000000000000000, 0x3fff }, ONE, INDEFINITE, 0x37f, X87_IE },
		{ "pseudo-infinity operand", do_fmul, { 0, 0x7fff }, ONE, INDEFINITE, 0x37f, X87_IE },
	};
	check_cases(cases, ARRAY_SIZE(cases), X87_FLAGS | X87_C1);
	check_hashes(golden_x87_exact, true);
	stack_faults();
	asm volatile("fninit");
}

// ---- Comparison, control, status

static u16 compare(struct extended x, struct extended y)
{
	u8 a[16], b[16];
	u16 status;
	store(a, x);
	store(b, y);
	asm volatile("fninit; fldt %2; fldt %1; fcompp; fnstsw %0; fnclex" : "=a"(status) : "m"(a), "m"(b));
	return status & (X87_C0 | X87_C2 | X87_C3 | X87_FLAGS);
}

static u64 compare_to_flags(struct extended x, struct extended y)
{
	u8 a[16], b[16];
	u64 flags;
	store(a, x);
	store(b, y);
	asm volatile("fninit; fldt %2; fldt %1; fucomip %%st(1), %%st; pushfq; pop %0; fninit" : "=r"(flags) : "m"(a), "m"(b) : "cc", "memory");
	return flags & (FLAG_ZF | FLAG_PF | FLAG_CF);
}

static u16 examine(struct extended x)
{
	u8 a[16];
	u16 status;
	store(a, x);
	asm volatile("fninit; fldt %1; fxam; fnstsw %0; fninit" : "=a"(status) : "m"(a));
	return status & (X87_C0 | X87_C1 | X87_C2 | X87_C3);
}

static void comparisons(void)
{
	struct extended one = ONE, two = TWO, nan = { 0xc000000000000000, 0x7fff }, signalling = { 0x8000000000000001, 0x7fff };
	check_eq(compare(one, two), X87_C0, "fcom less");
	check_eq(compare(two, one), 0, "fcom greater");
	check_eq(compare(two, two), X87_C3, "fcom equal");
	check_eq(compare(one, nan), X87_C0 | X87_C2 | X87_C3 | X87_IE, "fcom unordered");
	check_eq(compare_to_flags(one, two), FLAG_CF, "fucomip less");
	check_eq(compare_to_flags(two, two), FLAG_ZF, "fucomip equal");
	check_eq(compare_to_flags(two, signalling), FLAG_ZF | FLAG_PF | FLAG_CF, "fucomip unordered");
	check_eq(examine(one), X87_C2, "fxam normal");
	check_eq(examine((struct extended){ 0, 0x8000 }), X87_C3 | X87_C1, "fxam -0");
	check_eq(examine(nan), X87_C0, "fxam NaN");
	check_eq(examine((struct extended){ 0x8000000000000000, 0x7fff }), X87_C2 | X87_C0, "fxam infinity");
	check_eq(examine((struct extended){ 1, 0 }), X87_C3 | X87_C2, "fxam denormal");
	u16 status;
	asm volatile("fninit; fxam; fnstsw %0" : "=a"(status));
	check_eq(status & (X87_C0 | X87_C2 | X87_C3), X87_C3 | X87_C0, "fxam empty");
}

static void stack_moves(void)
{
	u16 status;
	u8 a[16];
	asm volatile("fninit; fld1; fldz; fincstp; fnstsw %0" : "=a"(status));
	check_eq(status & X87_TOP, 7 << 11, "fincstp");
	asm volatile("fninit; fld1; fldz; fxch; fnstsw %0; fstpt %1; fninit" : "=&a"(status), "=m"(a));
	check(load(a).sign_exponent == 0x3fff, "fxch");
}

static void divide_unmasked(void *argument)
{
	(void)argument;
	u16 control = 0x037b;
	asm volatile("fninit; fldcw %0; fldz; fld1; fdivp; nop" :: "m"(control));
}

static void wait(void *argument)
{
	(void)argument;
	asm volatile("fwait");
}

static void conversions(void)
{
	u8 bcd[16] = { 0 }, a[16];
	i64 n = -1234567890123456789;
	asm volatile("fninit; fildll %1; fbstp %0" : "=m"(bcd) : "m"(n));
	check(bcd[9] == 0xff && bcd[8] == 0xff && bcd[7] == 0xc0, "fbstp of too large a number is the BCD indefinite: %x %x %x", bcd[9], bcd[8], bcd[7]);
	n = -123456789012345678;
	asm volatile("fninit; fildll %1; fbstp %0" : "=m"(bcd) : "m"(n));
	check(bcd[9] == 0x80 && load64(bcd) == 0x3456789012345678 && bcd[8] == 0x12, "fbstp: %x %x %lx", bcd[9], bcd[8], load64(bcd));
	i64 back;
	asm volatile("fbld %1; fistpll %0" : "=m"(back) : "m"(bcd));
	check_eq(back, n, "fbld");
	i16 small = -7;
	asm volatile("filds %1; fstpt %0" : "=m"(a) : "m"(small));
	check(load(a).significand == 0xe000000000000000 && load(a).sign_exponent == 0xc001, "fild 16");
	u64 bits = 0x3fb999999999999a;		// 0.1
	asm volatile("fldl %1; fstpt %0" : "=m"(a) : "m"(bits));
	check(load(a).significand == 0xccccccccccccd000 && load(a).sign_exponent == 0x3ffb, "fld double");
	u16 control = 0x0f7f, old = 0x037f;
	asm volatile("fldl %1; fldcw %2; fistpll %0; fldcw %3" : "=m"(back) : "m"(*(u64[]){ 0xc00e000000000000 }), "m"(control), "m"(old));
	check_eq(back, -3ul, "fistp -3.75 towards zero");
	if (cpuid(1, 0).ecx & 1) {
		asm volatile("fldl %1; fisttpll %0" : "=m"(back) : "m"(*(u64[]){ 0xc00e000000000000 }));
		check_eq(back, -3ul, "fisttp -3.75");
	}
	u64 chosen;
	asm volatile("fninit; fldz; fld1; stc; fcmovb %%st(1), %%st; fistpll %0; fninit" : "=m"(chosen) :: "cc");
	check_eq(chosen, 0, "fcmovb");

	// 2^3 * 1.5 by FSCALE; 12 by FXTRACT; 17 mod 5 by FPREM with its quotient bits.
	u16 status;
	i64 x = 17, y = 5;
	asm volatile("fninit; fildll %3; fildll %2; fprem; fnstsw %1; fistpll %0; fninit" : "=m"(back), "=a"(status) : "m"(x), "m"(y));
	check(back == 2 && (status & (X87_C0 | X87_C1 | X87_C2 | X87_C3)) == (X87_C1 | X87_C3), "17 fprem 5: %ld, status %x", back, status);
	asm volatile("fninit; fildll %3; fildll %2; fprem1; fnstsw %1; fistpll %0; fninit" : "=m"(back), "=a"(status) : "m"(*(i64[]){ 18 }), "m"(y));
	check(back == -2, "18 fprem1 5: %ld", back);
	asm volatile("fninit; fildll %2; fildll %1; fscale; fistpll %0; fninit" : "=m"(back) : "m"(y), "m"(*(i64[]){ 3 }));
	check_eq(back, 40, "fscale");
	i64 exponent;
	asm volatile("fninit; fildll %2; fxtract; fmull %3; fistpll %0; fistpll %1; fninit" : "=m"(back), "=m"(exponent)
		     : "m"(*(i64[]){ 12 }), "m"(*(u64[]){ 0x4000000000000000 }));
	check(back == 3 && exponent == 3, "fxtract: significand %ld / 2, exponent %ld", back, exponent);
}

void test_x87_control(void)
{
	comparisons();
	stack_moves();
	conversions();

	u16 control, status;
	asm volatile("fninit; fnstcw %0; fnstsw %1" : "=m"(control), "=a"(status));
	check(control == 0x037f && status == 0, "after fninit: control %x status %x", control, status);

	check_eq(catch_trap(divide_unmasked, 0), NO_TRAP, "an unmasked exception waits for the next waiting instruction");
	asm volatile("fnstsw %0" : "=a"(status));
	check_eq(status & (X87_ES | X87_ZE), X87_ES | X87_ZE, "status after an unmasked division by zero");
	check_eq(catch_trap(wait, 0), VECTOR_MF, "fwait with an exception pending");
	asm volatile("fnclex");
	check_eq(catch_trap(wait, 0), NO_TRAP, "fwait after fnclex");
	asm volatile("fninit");

	write_cr0(read_cr0() | CR0_TS);
	check_eq(catch_trap(wait, 0), VECTOR_NM, "fwait with CR0.TS and CR0.MP");
	asm volatile("clts");
	write_cr0(read_cr0() | CR0_EM);
	check_eq(catch_trap(divide_unmasked, 0), VECTOR_NM, "x87 with CR0.EM");
	write_cr0(read_cr0() & ~CR0_EM);
	asm volatile("fninit");
}

// ---- State

static u8 area[512] ALIGNED(16), again[512] ALIGNED(16);

static void fxsave_misaligned(void *argument)
{
	asm volatile("fxsave (%0)" :: "r"(argument) : "memory");
}

void test_x87_state(void)
{
	u64 r;
	memset(area, 0, sizeof area);
	asm volatile("fninit; fldpi; fld1; movq %1, %%xmm9; fxsaveq %0" : "=m"(area) : "r"(0x1234567890abcdeful));
	check_eq(load16(area), 0x037f, "fxsave: control word");
	check_eq(load16(area + 2) & X87_TOP, 6 << 11, "fxsave: top of stack");
	check_eq(area[4], 0xc0, "fxsave: abridged tags");
	check_eq(load32(area + 24), 0x1f80, "fxsave: MXCSR");
	check((load32(area + 28) & 0xffbf) == 0xffbf, "fxsave: MXCSR mask %x", load32(area + 28));
	check_eq(load64(area + 32), 0x8000000000000000, "fxsave: ST(0)");
	check_eq(load64(area + 48), 0xc90fdaa22168c235, "fxsave: ST(1)");
	check_eq(load64(area + 160 + 9 * 16), 0x1234567890abcdef, "fxsave: XMM9");

	memcpy(again, area, 512);
	again[160 + 9 * 16] = 0x55;
	u16 environment[14];
	asm volatile("fninit; fxrstorq %2; movq %%xmm9, %0; fnstenv %1" : "=r"(r), "=m"(environment) : "m"(again));
	check_eq(r, 0x1234567890abcd55, "fxrstor: XMM9");
	check_eq(environment[4], 0x0fff, "fxrstor: tags, from the values in registers");

	// FNSAVE initialises; FRSTOR brings everything back.
	u16 status;
	asm volatile("fninit; fldpi; fldz; fnsave %1; fnstsw %0" : "=&a"(status), "=m"(area));
	check(status == 0 && load16(area + 8) == 0x1fff, "fnsave: status %x tags %x", status, load16(area + 8));
	asm volatile("frstor %1; fnstsw %0; fninit" : "=&a"(status) : "m"(area));
	check_eq(status & X87_TOP, 6 << 11, "frstor");

	check_eq(catch_trap(fxsave_misaligned, area + 8), VECTOR_GP, "fxsave misaligned");

	if (!(cpuid(1, 0).ecx >> 26 & 1))
		return;
	static u8 extended[1024] ALIGNED(64);
	u32 low;
	memset(extended, 0, sizeof extended);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	check(cpuid(1, 0).ecx >> 27 & 1, "CPUID does not show CR4.OSXSAVE");
	asm volatile("xsetbv" :: "a"(3), "d"(0), "c"(0));
	asm volatile("xgetbv" : "=a"(low), "=d"(r) : "c"(0));
	check_eq(low, 3, "xgetbv");
	check(cpuid(0xd, 0).ebx == 576, "CPUID 0Dh: area for x87 and SSE is %u bytes", cpuid(0xd, 0).ebx);
	asm volatile("fninit; fld1; movq %1, %%xmm2; xsave %0" : "=m"(extended) : "r"(77ul), "a"(3), "d"(0));
	check((load64(extended + 512) & 3) == 3 && load64(extended + 160 + 32) == 77, "xsave: XSTATE_BV %lx", load64(extended + 512));
	// A clear bit in XSTATE_BV brings back the initial state.
	extended[512] = 1;
	asm volatile("xrstor %1; movq %%xmm2, %0" : "=r"(r) : "m"(extended), "a"(3), "d"(0));
	check_eq(r, 0, "xrstor of the initial SSE state");
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	asm volatile("fninit");
}
