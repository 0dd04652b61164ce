// SSE and SSE2 floating point. Single results are written out; beside them, hashes over all pairs of a set of telling
// values are compared with what silicon computes (golden_data.c, made by `make golden`).
#include "golden.h"
#include "interrupts.h"
#include "selftest.h"

#define MXCSR_IE 0x01
#define MXCSR_DE 0x02
#define MXCSR_ZE 0x04
#define MXCSR_OE 0x08
#define MXCSR_UE 0x10
#define MXCSR_PE 0x20
#define MXCSR_FLAGS 0x3f
#define MXCSR_DAZ 0x0040
#define MXCSR_MASKS 0x1f80
#define MXCSR_RC_DOWN 0x2000
#define MXCSR_RC_UP 0x4000
#define MXCSR_RC_ZERO 0x6000
#define MXCSR_FTZ 0x8000

typedef u64 sse_op(u64 a, u64 b, u32 *mxcsr);

#define SSE_OP(name) \
	static u64 do_##name(u64 a, u64 b, u32 *mxcsr) \
	{ \
		asm volatile("ldmxcsr %[m]; movq %[a], %%xmm0; movq %[b], %%xmm1; " #name " %%xmm1, %%xmm0; movq %%xmm0, %[a]; stmxcsr %[m]" \
			     : [a] "+r"(a), [m] "+m"(*mxcsr) : [b] "r"(b)); \
		return a; \
	}
SSE_OP(addsd) SSE_OP(subsd) SSE_OP(mulsd) SSE_OP(divsd) SSE_OP(minsd) SSE_OP(maxsd) SSE_OP(sqrtsd)
SSE_OP(addss) SSE_OP(subss) SSE_OP(mulss) SSE_OP(divss) SSE_OP(minss) SSE_OP(maxss) SSE_OP(sqrtss)
SSE_OP(cvtsd2ss) SSE_OP(cvtss2sd) SSE_OP(cvtps2dq) SSE_OP(cvttps2dq) SSE_OP(cvtpd2dq) SSE_OP(cvttpd2dq) SSE_OP(cvtdq2ps)
SSE_OP(cvtdq2pd) SSE_OP(cvtps2pd) SSE_OP(cvtpd2ps)

#define CONVERT_TO_INT(name, w) \
	static u64 do_##name##w(u64 a, u64 b, u32 *mxcsr) \
	{ \
		asm volatile("ldmxcsr %[m]; movq %[b], %%xmm1; " #name " %%xmm1, %" #w "[a]; stmxcsr %[m]" : [a] "+r"(a), [m] "+m"(*mxcsr) : [b] "r"(b)); \
		return a; \
	}
CONVERT_TO_INT(cvtsd2si, k) CONVERT_TO_INT(cvtsd2si, q) CONVERT_TO_INT(cvttsd2si, k) CONVERT_TO_INT(cvttsd2si, q)
CONVERT_TO_INT(cvtss2si, k) CONVERT_TO_INT(cvtss2si, q) CONVERT_TO_INT(cvttss2si, k) CONVERT_TO_INT(cvttss2si, q)

#define CONVERT_FROM_INT(name, w) \
	static u64 do_##name##w(u64 a, u64 b, u32 *mxcsr) \
	{ \
		asm volatile("ldmxcsr %[m]; movq %[a], %%xmm0; " #name " %" #w "[b], %%xmm0; movq %%xmm0, %[a]; stmxcsr %[m]" \
			     : [a] "+r"(a), [m] "+m"(*mxcsr) : [b] "r"(b)); \
		return a; \
	}
CONVERT_FROM_INT(cvtsi2sd, k) CONVERT_FROM_INT(cvtsi2sd, q) CONVERT_FROM_INT(cvtsi2ss, k) CONVERT_FROM_INT(cvtsi2ss, q)

const struct sse_entry sse_scalar[SSE_SCALARS] = {
	{ "addsd", do_addsd, true }, { "subsd", do_subsd, true }, { "mulsd", do_mulsd, true }, { "divsd", do_divsd, true },
	{ "minsd", do_minsd, true }, { "maxsd", do_maxsd, true }, { "sqrtsd", do_sqrtsd, true },
	{ "addss", do_addss, false }, { "subss", do_subss, false }, { "mulss", do_mulss, false }, { "divss", do_divss, false },
	{ "minss", do_minss, false }, { "maxss", do_maxss, false }, { "sqrtss", do_sqrtss, false },
};

const struct sse_entry sse_conversion[SSE_CONVERSIONS] = {
	{ "cvtsd2si 32", do_cvtsd2sik, true }, { "cvtsd2si 64", do_cvtsd2siq, true }, { "cvttsd2si 32", do_cvttsd2sik, true },
	{ "cvttsd2si 64", do_cvttsd2siq, true }, { "cvtss2si 32", do_cvtss2sik, false }, { "cvtss2si 64", do_cvtss2siq, false },
	{ "cvttss2si 32", do_cvttss2sik, false }, { "cvttss2si 64", do_cvttss2siq, false }, { "cvtsi2sd 32", do_cvtsi2sdk, true },
	{ "cvtsi2sd 64", do_cvtsi2sdq, true }, { "cvtsi2ss 32", do_cvtsi2ssk, true }, { "cvtsi2ss 64", do_cvtsi2ssq, true },
	{ "cvtsd2ss", do_cvtsd2ss, true }, { "cvtss2sd", do_cvtss2sd, false }, { "cvtps2dq", do_cvtps2dq, false },
	{ "cvttps2dq", do_cvttps2dq, false }, { "cvtpd2dq", do_cvtpd2dq, true }, { "cvttpd2dq", do_cvttpd2dq, true },
	{ "cvtdq2ps", do_cvtdq2ps, false }, { "cvtdq2pd", do_cvtdq2pd, false }, { "cvtps2pd", do_cvtps2pd, false },
	{ "cvtpd2ps", do_cvtpd2ps, true },
};

// The rounding directions, then DAZ and FTZ.
#define SSE_ROUNDING_MODES 4
const u32 sse_mode[SSE_MODES] = { 0, MXCSR_RC_DOWN, MXCSR_RC_UP, MXCSR_RC_ZERO, MXCSR_DAZ, MXCSR_FTZ, MXCSR_DAZ | MXCSR_FTZ | MXCSR_RC_UP };

static const u64 doubles[] = {
	0x0000000000000000, 0x8000000000000000,				// zeros
	0x3ff0000000000000, 0xbff8000000000000, 0x400921fb54442d18,	// 1, -1.5, pi
	0x3ff0000000000001, 0x4008000000000000, 0x3fd5555555555555,	// 1 + 2^-52, 3, 1/3
	0x0010000000000000, 0x8010000000000001, 0x001fffffffffffff,	// about the smallest normal numbers
	0x0000000000000001, 0x800fffffffffffff, 0x0008000000000000,	// denormals
	0x7fefffffffffffff, 0xffe0000000000000, 0x5fe0000000000000, 0x2000000000000001, 0x1ff7ffffffffffff,
	0x41dfffffffc00000, 0x41dfffffffe00000, 0xc1e0000000100000, 0x43dfffffffffffff, 0xc3e0000000000000, 0x43e0000000000000,
	0x36a0000000000000, 0x380fffffe8000000, 0x47efffffefffffff, 0x47effffff0000000,	// about the ends of single precision
	0x7ff0000000000000, 0xfff0000000000000,				// infinities
	0x7ff8000000000123, 0xfff8000000000000, 0x7ff0000000000456, 0xfff4000000000000,	// quiet and signalling NaNs
};

static const u32 singles[] = {
	0x00000000, 0x80000000, 0x3f800000, 0xbfc00000, 0x40490fdb, 0x3f800001, 0x40400000, 0x3eaaaaab, 0x00800000, 0x80800001,
	0x00ffffff, 0x00000001, 0x807fffff, 0x00400000, 0x7f7fffff, 0xff000000, 0x5f800001, 0x1f800000, 0x20000001, 0x4effffff,
	0x4f000000, 0xcf000001, 0x5effffff, 0xdf000000, 0x3f000000, 0xbf000001, 0x7f800000, 0xff800000, 0x7fc00123, 0xffc00000,
	0x7f800456, 0xffa00000,
};

static u64 hash(u64 h, u64 v)
{
	h = (h ^ v) * 0x100000001b3;
	return h ^ h >> 29;
}

static bool is_nan(u64 v, bool is_double)
{
	return is_double ? (v << 1) > 0xffe0000000000000 : (u32)(v << 1) > 0xff000000;
}

u32 sse_hash(const struct sse_entry *e, u32 mode, bool exactly)
{
	u32 flags = exactly ? MXCSR_FLAGS : MXCSR_FLAGS & ~MXCSR_DE;
	size_t n = e->is_double ? ARRAY_SIZE(doubles) : ARRAY_SIZE(singles);
	u64 h = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++) {
			u64 a = e->is_double ? doubles[i] : 0x4242424200000000 | singles[i];
			u64 b = e->is_double ? doubles[j] : 0x3f80000000000000 | singles[j];
			u32 mxcsr = MXCSR_MASKS | mode;
			if (!exactly && is_nan(a, e->is_double) && is_nan(b, e->is_double))
				continue;
			h = hash(h, e->run(a, b, &mxcsr));
			h = hash(h, mxcsr & flags);
		}
	return (u32)(h ^ h >> 32);
}

struct sse_case { const char *name; sse_op *run; u64 a, b; u32 mode; u64 result; u32 flags; };

static void check_cases(const struct sse_case *c, size_t n)
{
	for (size_t i = 0; i < n; i++, c++) {
		u32 mxcsr = MXCSR_MASKS | c->mode;
		u64 got = c->run(c->a, c->b, &mxcsr);
		check(got == c->result && (mxcsr & MXCSR_FLAGS) == c->flags, "%s %lx, %lx, mode %x: %lx flags %x, should be %lx flags %x", c->name,
		      c->a, c->b, c->mode, got, mxcsr & MXCSR_FLAGS, c->result, c->flags);
	}
}

#define CASE(name, a, b, mode, result, flags) { #name, do_##name, a, b, mode, result, flags }

static const struct sse_case scalar_cases[] = {
	CASE(addsd, 0x3ff0000000000000, 0x4000000000000000, 0, 0x4008000000000000, 0),			// 1 + 2
	CASE(addsd, 0x3fb999999999999a, 0x3fc999999999999a, 0, 0x3fd3333333333334, MXCSR_PE),		// 0.1 + 0.2
	CASE(addsd, 0x3ff0000000000000, 0xbff0000000000000, 0, 0x0000000000000000, 0),			// 1 - 1 is +0
	CASE(addsd, 0x7ff0000000000000, 0xfff0000000000000, 0, 0xfff8000000000000, MXCSR_IE),		// inf - inf: default NaN
	CASE(addsd, 0x3ff0000000000000, 0x7ff0000000000001, 0, 0x7ff8000000000001, MXCSR_IE),
	CASE(addsd, 0x7ff8000000000123, 0x3ff0000000000000, 0, 0x7ff8000000000123, 0),
	CASE(mulsd, 0x7fefffffffffffff, 0x4000000000000000, 0, 0x7ff0000000000000, MXCSR_OE | MXCSR_PE),
	CASE(mulsd, 0x0010000000000000, 0x3fe0000000000000, 0, 0x0008000000000000, 0),			// exact denormal: no UE when masked
	CASE(mulsd, 0x0010000000000001, 0x3fe0000000000000, 0, 0x0008000000000000, MXCSR_UE | MXCSR_PE),
	CASE(mulsd, 0x0000000000000000, 0x7ff0000000000000, 0, 0xfff8000000000000, MXCSR_IE),
	CASE(divsd, 0x3ff0000000000000, 0x0000000000000000, 0, 0x7ff0000000000000, MXCSR_ZE),
	CASE(divsd, 0xbff0000000000000, 0x4008000000000000, 0, 0xbfd5555555555555, MXCSR_PE),		// -1/3
	CASE(divsd, 0x0000000000000000, 0x8000000000000000, 0, 0xfff8000000000000, MXCSR_IE),
	CASE(sqrtsd, 0, 0x4000000000000000, 0, 0x3ff6a09e667f3bcd, MXCSR_PE),
	CASE(sqrtsd, 0, 0x8000000000000000, 0, 0x8000000000000000, 0),
	CASE(sqrtsd, 0, 0xbff0000000000000, 0, 0xfff8000000000000, MXCSR_IE),
	CASE(minsd, 0x0000000000000000, 0x8000000000000000, 0, 0x8000000000000000, 0),			// equal: second operand
	CASE(maxsd, 0x0000000000000000, 0x8000000000000000, 0, 0x8000000000000000, 0),
	CASE(minsd, 0x7ff8000000000123, 0x3ff0000000000000, 0, 0x3ff0000000000000, MXCSR_IE),		// NaN: second operand
	CASE(maxsd, 0x3ff0000000000000, 0x7ff8000000000123, 0, 0x7ff8000000000123, MXCSR_IE),
	CASE(addss, 0x111111113f800000, 0x222222223f800000, 0, 0x1111111140000000, 0),			// the rest of the register stays
	CASE(divss, 0x3f800000, 0x40400000, 0, 0x3eaaaaab, MXCSR_PE),
	CASE(mulss, 0x7f7fffff, 0x7f7fffff, MXCSR_RC_DOWN, 0x7f7fffff, MXCSR_OE | MXCSR_PE),
};

void test_sse_scalar(void)
{
	check_cases(scalar_cases, ARRAY_SIZE(scalar_cases));
	for (size_t op = 0; op < SSE_SCALARS; op++) {
		u32 got = sse_hash(&sse_scalar[op], 0, false);
		check(got == golden_scalar[op][0], "%s: hash of all pairs %08x, should be %08x", sse_scalar[op].name, got, golden_scalar[op][0]);
	}
}

// QEMU 7.2 sets DE never, prefers the quiet of two NaNs, and flushes some products and minima otherwise under FTZ and DAZ.
void test_sse_exactly(void)
{
	static const struct sse_case cases[] = {
		CASE(addsd, 0x0000000000000001, 0x0000000000000001, 0, 0x0000000000000002, MXCSR_DE),
		CASE(mulsd, 0x800fffffffffffff, 0x4000000000000000, 0, 0x801ffffffffffffe, MXCSR_DE),
		CASE(addsd, 0x0000000000000001, 0x0000000000000001, MXCSR_DAZ, 0, 0),
		CASE(addsd, 0x0000000000000001, 0x7ff8000000000000, 0, 0x7ff8000000000000, 0),	// a NaN goes before
		CASE(divsd, 0x0000000000000001, 0x0000000000000000, 0, 0x7ff0000000000000, MXCSR_ZE),
		CASE(sqrtsd, 0, 0x0000000000000001, 0, 0x1e60000000000000, MXCSR_DE),
		CASE(sqrtsd, 0, 0x8000000000000001, 0, 0xfff8000000000000, MXCSR_IE),
		CASE(maxsd, 0x0000000000000001, 0x0000000000000000, 0, 0x0000000000000001, MXCSR_DE),
		CASE(cvtss2sd, 0, 0x00000001, 0, 0x36a0000000000000, MXCSR_DE),
		CASE(addsd, 0x7ff0000000000456, 0x7ff8000000000123, 0, 0x7ff8000000000456, MXCSR_IE),	// the first operand, made quiet
		CASE(addsd, 0x7ff8000000000123, 0x7ff0000000000456, 0, 0x7ff8000000000123, MXCSR_IE),
		CASE(addsd, 0x7ff8000000000123, 0xfff8000000000456, 0, 0x7ff8000000000123, 0),
	};
	check_cases(cases, ARRAY_SIZE(cases));
	for (size_t op = 0; op < SSE_SCALARS; op++)
		for (int mode = 0; mode < SSE_MODES; mode++) {
			u32 got = sse_hash(&sse_scalar[op], sse_mode[mode], true);
			check(got == golden_scalar_exact[op][mode], "%s mode %x: hash of all pairs %08x, should be %08x", sse_scalar[op].name,
			      sse_mode[mode], got, golden_scalar_exact[op][mode]);
		}
	for (size_t op = 0; op < SSE_CONVERSIONS; op++)
		for (int mode = 0; mode < SSE_MODES; mode++) {
			u32 got = sse_hash(&sse_conversion[op], sse_mode[mode], true);
			check(got == golden_conversion_exact[op][mode], "%s mode %x: hash of all pairs %08x, should be %08x", sse_conversion[op].name,
			      sse_mode[mode], got, golden_conversion_exact[op][mode]);
		}
}

void test_sse_rounding(void)
{
	static const struct sse_case cases[] = {
		CASE(addsd, 0x3ff0000000000000, 0x3c00000000000000, 0, 0x3ff0000000000000, MXCSR_PE),
		CASE(addsd, 0x3ff0000000000000, 0x3c00000000000000, MXCSR_RC_UP, 0x3ff0000000000001, MXCSR_PE),
		CASE(addsd, 0xbff0000000000000, 0xbc00000000000000, MXCSR_RC_DOWN, 0xbff0000000000001, MXCSR_PE),
		CASE(addsd, 0xbff0000000000000, 0xbc00000000000000, MXCSR_RC_ZERO, 0xbff0000000000000, MXCSR_PE),
		CASE(addsd, 0x3ff0000000000000, 0xbff0000000000000, MXCSR_RC_DOWN, 0x8000000000000000, 0),	// 1 - 1 is -0
		CASE(mulsd, 0x0010000000000000, 0x3fe0000000000000, MXCSR_FTZ, 0, MXCSR_UE | MXCSR_PE),
		CASE(mulsd, 0x8010000000000000, 0x3fe0000000000000, MXCSR_FTZ, 0x8000000000000000, MXCSR_UE | MXCSR_PE),
		CASE(mulsd, 0x0000000000000001, 0x7fe0000000000000, MXCSR_DAZ, 0, 0),
		CASE(divsd, 0x3ff0000000000000, 0x8000000000000001, MXCSR_DAZ, 0xfff0000000000000, MXCSR_ZE),
	};
	check_cases(cases, ARRAY_SIZE(cases));
	for (size_t op = 0; op < SSE_SCALARS; op++)
		for (int mode = 1; mode < SSE_ROUNDING_MODES; mode++) {
			u32 got = sse_hash(&sse_scalar[op], sse_mode[mode], false);
			check(got == golden_scalar[op][mode], "%s mode %x: hash of all pairs %08x, should be %08x", sse_scalar[op].name, sse_mode[mode], got,
			      golden_scalar[op][mode]);
		}
}

// ---- Comparisons

#define COMPARE_FLAGS(insn, a, b, flags, mxcsr) \
	asm volatile("ldmxcsr %1; movq %2, %%xmm0; movq %3, %%xmm1; push %4; popfq; " insn " %%xmm1, %%xmm0; pushfq; pop %0; stmxcsr %1" \
		     : "=r"(flags), "+m"(mxcsr) : "r"(a), "r"(b), "r"(FLAG_1 | FLAGS_STATUS) : "cc", "memory")

#define PREDICATE(n) \
	static u64 do_cmpsd##n(u64 a, u64 b, u32 *mxcsr) \
	{ \
		asm volatile("ldmxcsr %[m]; movq %[a], %%xmm0; movq %[b], %%xmm1; cmpsd $" #n ", %%xmm1, %%xmm0; movq %%xmm0, %[a]; stmxcsr %[m]" \
			     : [a] "+r"(a), [m] "+m"(*mxcsr) : [b] "r"(b)); \
		return a; \
	}
PREDICATE(0) PREDICATE(1) PREDICATE(2) PREDICATE(3) PREDICATE(4) PREDICATE(5) PREDICATE(6) PREDICATE(7)
static sse_op *const predicates[] = { do_cmpsd0, do_cmpsd1, do_cmpsd2, do_cmpsd3, do_cmpsd4, do_cmpsd5, do_cmpsd6, do_cmpsd7 };

enum relation { LESS, EQUAL, GREATER, UNORDERED };

void test_sse_compare(void)
{
	static const struct { u64 a, b; enum relation relation; bool signalling; } pairs[] = {
		{ 0x3ff0000000000000, 0x4000000000000000, LESS, false }, { 0x4000000000000000, 0x3ff0000000000000, GREATER, false },
		{ 0x0000000000000000, 0x8000000000000000, EQUAL, false }, { 0xbff0000000000000, 0x3ff0000000000000, LESS, false },
		{ 0xfff0000000000000, 0xffefffffffffffff, LESS, false }, { 0x7ff0000000000000, 0x7ff0000000000000, EQUAL, false },
		{ 0x7ff8000000000000, 0x3ff0000000000000, UNORDERED, false }, { 0x3ff0000000000000, 0x7ff8000000000000, UNORDERED, false },
		{ 0x7ff0000000000001, 0x3ff0000000000000, UNORDERED, true }, { 0x7ff8000000000000, 0xfff0000000000001, UNORDERED, true },
	};
	// SDM 2A "COMISD": ZF, PF, CF; OF, SF and AF become 0.
	static const u64 expected[] = { [LESS] = FLAG_CF, [EQUAL] = FLAG_ZF, [GREATER] = 0, [UNORDERED] = FLAG_ZF | FLAG_PF | FLAG_CF };

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		u64 flags;
		u32 mxcsr = MXCSR_MASKS;
		enum relation r = pairs[i].relation;
		COMPARE_FLAGS("ucomisd", pairs[i].a, pairs[i].b, flags, mxcsr);
		check((flags & FLAGS_STATUS) == expected[r] && (mxcsr & MXCSR_FLAGS) == (pairs[i].signalling ? MXCSR_IE : 0),
		      "ucomisd %lx, %lx: flags %lx MXCSR %x", pairs[i].a, pairs[i].b, flags & FLAGS_STATUS, mxcsr);
		mxcsr = MXCSR_MASKS;
		COMPARE_FLAGS("comisd", pairs[i].a, pairs[i].b, flags, mxcsr);
		check((flags & FLAGS_STATUS) == expected[r] && (mxcsr & MXCSR_FLAGS) == (r == UNORDERED ? MXCSR_IE : 0),
		      "comisd %lx, %lx: flags %lx MXCSR %x", pairs[i].a, pairs[i].b, flags & FLAGS_STATUS, mxcsr);

		bool truth[] = { r == EQUAL, r == LESS, r == LESS || r == EQUAL, r == UNORDERED };
		for (int predicate = 0; predicate < 8; predicate++) {
			mxcsr = MXCSR_MASKS;
			u64 got = predicates[predicate](pairs[i].a, pairs[i].b, &mxcsr);
			bool want = truth[predicate & 3] != (predicate >= 4);
			bool quiet = (predicate & 3) == 0 || (predicate & 3) == 3;	// EQ, UNORD, NEQ, ORD signal for SNaN only
			bool invalid = pairs[i].signalling || (!quiet && r == UNORDERED);
			check(got == (want ? ~0ul : 0) && (mxcsr & MXCSR_FLAGS) == (invalid ? MXCSR_IE : 0), "cmpsd %d %lx, %lx: %lx MXCSR %x",
			      predicate, pairs[i].a, pairs[i].b, got, mxcsr);
		}
	}
}

// ---- Conversions

void test_sse_convert(void)
{
	static const struct sse_case cases[] = {
		{ "cvtsd2si 64", do_cvtsd2siq, 0, 0x4004000000000000, 0, 2, MXCSR_PE },			// 2.5 to even
		{ "cvtsd2si 64", do_cvtsd2siq, 0, 0x4004000000000000, MXCSR_RC_UP, 3, MXCSR_PE },
		{ "cvttsd2si 64", do_cvttsd2siq, 0, 0xc007333333333333, 0, -2ul, MXCSR_PE },			// -2.9
		{ "cvttsd2si 32", do_cvttsd2sik, ~0ul, 0xbff0000000000000, 0, 0xffffffff, 0 },
		{ "cvtsd2si 32", do_cvtsd2sik, 0, 0x41e0000000000000, 0, 0x80000000, MXCSR_IE },		// 2^31: integer indefinite
		{ "cvtsd2si 64", do_cvtsd2siq, 0, 0x7ff8000000000000, 0, 0x8000000000000000, MXCSR_IE },
		{ "cvttsd2si 64", do_cvttsd2siq, 0, 0xc3e0000000000000, 0, 0x8000000000000000, 0 },		// -2^63 fits
		{ "cvtsi2sd 64", do_cvtsi2sdq, 0, 0x7fffffffffffffff, 0, 0x43e0000000000000, MXCSR_PE },
		{ "cvtsi2sd 32", do_cvtsi2sdk, 0, 0xffffffff, 0, 0xbff0000000000000, 0 },
		{ "cvtsi2ss 32", do_cvtsi2ssk, 0x5555555500000000, 0x01000001, 0, 0x555555554b800000, MXCSR_PE },
		CASE(cvtsd2ss, 0, 0x3ff0000010000000, 0, 0x3f800000, MXCSR_PE),			// tie to even
		CASE(cvtsd2ss, 0, 0x47f0000000000000, 0, 0x7f800000, MXCSR_OE | MXCSR_PE),
		CASE(cvtsd2ss, 0, 0x7ff0000020000000, 0, 0x7fc00001, MXCSR_IE),
		CASE(cvtss2sd, 0, 0x7f800001, 0, 0x7ff8000020000000, MXCSR_IE),
		CASE(cvtps2dq, 0, 0x4f00000040200000, 0, 0x8000000000000002, MXCSR_IE | MXCSR_PE),
		CASE(cvtpd2dq, 0, 0x4004000000000000, 0, 2, MXCSR_PE),
	};
	check_cases(cases, ARRAY_SIZE(cases));
	for (size_t op = 0; op < SSE_CONVERSIONS; op++)
		for (int mode = 0; mode < SSE_MODES - 1; mode++) {
			u32 got = sse_hash(&sse_conversion[op], sse_mode[mode], false);
			check(got == golden_conversion[op][mode], "%s mode %x: hash of all pairs %08x, should be %08x", sse_conversion[op].name,
			      sse_mode[mode], got, golden_conversion[op][mode]);
		}
}

// ---- Exceptions

static void divide_unmasked(void *argument)
{
	u32 mxcsr = MXCSR_MASKS & ~(MXCSR_ZE << 7);
	u64 *result = argument, one = 0x3ff0000000000000;
	asm volatile("movq %1, %%xmm0; xorpd %%xmm1, %%xmm1; ldmxcsr %0; divsd %%xmm1, %%xmm0" :: "m"(mxcsr), "r"(one));
	*result = 0;
}

static void load_bad_mxcsr(void *argument)
{
	(void)argument;
	u32 mxcsr = 0x00011f80;
	asm volatile("ldmxcsr %0" :: "m"(mxcsr));
}

static void add(void *argument)
{
	(void)argument;
	asm volatile("addpd %%xmm0, %%xmm0" ::);
}

static void aligned_load(void *argument)
{
	asm volatile("movaps (%0), %%xmm0" :: "r"(argument));
}

static void aligned_operand(void *argument)
{
	asm volatile("paddd (%0), %%xmm0" :: "r"(argument));
}

static void unaligned_load(void *argument)
{
	asm volatile("movups (%0), %%xmm0" :: "r"(argument));
}

static void set_mxcsr(u32 mxcsr)
{
	asm volatile("ldmxcsr %0" :: "m"(mxcsr));
}

// QEMU 7.2 raises no unmasked SSE exceptions, and takes any MXCSR.
void test_sse_unmasked(void)
{
	static u64 result;
	u32 mxcsr;
	int vector = catch_trap(divide_unmasked, &result);
	u64 low;
	asm volatile("stmxcsr %0; movq %%xmm0, %1" : "=m"(mxcsr), "=r"(low));
	check(vector == VECTOR_XM && (mxcsr & MXCSR_FLAGS) == MXCSR_ZE, "unmasked division by zero: exception %d, MXCSR %x", vector, mxcsr);
	check_eq(low, 0x3ff0000000000000, "destination after an unmasked exception");
	set_mxcsr(MXCSR_MASKS);

	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	check_eq(catch_trap(divide_unmasked, &result), VECTOR_UD, "unmasked exception without OSXMMEXCPT");
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	check_eq(catch_trap(load_bad_mxcsr, 0), VECTOR_GP, "ldmxcsr with reserved bits");
	set_mxcsr(MXCSR_MASKS);
}

void test_sse_faults(void)
{
	static u64 memory[4] ALIGNED(16);
	check_eq(catch_trap(aligned_load, (u8 *)memory + 8), VECTOR_GP, "movaps misaligned");
	check_eq(catch_trap(aligned_operand, (u8 *)memory + 8), VECTOR_GP, "paddd misaligned");
	check_eq(catch_trap(aligned_load, memory), NO_TRAP, "movaps aligned");
	check_eq(catch_trap(unaligned_load, (u8 *)memory + 3), NO_TRAP, "movups misaligned");

	write_cr0(read_cr0() | CR0_TS);
	check_eq(catch_trap(add, 0), VECTOR_NM, "SSE with CR0.TS");
	asm volatile("clts");
	write_cr0(read_cr0() | CR0_EM);
	check_eq(catch_trap(add, 0), VECTOR_UD, "SSE with CR0.EM");
	write_cr0(read_cr0() & ~CR0_EM);
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	check_eq(catch_trap(add, 0), VECTOR_UD, "SSE without CR4.OSFXSR");
	write_cr4(read_cr4() | CR4_OSFXSR);
	check_eq(catch_trap(add, 0), NO_TRAP, "SSE switched on again");
}
