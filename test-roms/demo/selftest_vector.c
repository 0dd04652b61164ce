// SSE and SSE2 on packed values: a few results written out, and hashes over pairs of vectors for each instruction.
#include "golden.h"
#include "interrupts.h"
#include "selftest.h"

// Each entry is one instruction on XMM0 = *a and XMM1 = *b.
#define VECTOR_OPS(V) \
	V(paddb, "paddb %%xmm1, %%xmm0") \
	V(paddw, "paddw %%xmm1, %%xmm0") \
	V(paddd, "paddd %%xmm1, %%xmm0") \
	V(paddq, "paddq %%xmm1, %%xmm0") \
	V(paddsb, "paddsb %%xmm1, %%xmm0") \
	V(paddsw, "paddsw %%xmm1, %%xmm0") \
	V(paddusb, "paddusb %%xmm1, %%xmm0") \
	V(paddusw, "paddusw %%xmm1, %%xmm0") \
	V(psubb, "psubb %%xmm1, %%xmm0") \
	V(psubw, "psubw %%xmm1, %%xmm0") \
	V(psubd, "psubd %%xmm1, %%xmm0") \
	V(psubq, "psubq %%xmm1, %%xmm0") \
	V(psubsb, "psubsb %%xmm1, %%xmm0") \
	V(psubsw, "psubsw %%xmm1, %%xmm0") \
	V(psubusb, "psubusb %%xmm1, %%xmm0") \
	V(psubusw, "psubusw %%xmm1, %%xmm0") \
	V(pmullw, "pmullw %%xmm1, %%xmm0") \
	V(pmulhw, "pmulhw %%xmm1, %%xmm0") \
	V(pmulhuw, "pmulhuw %%xmm1, %%xmm0") \
	V(pmuludq, "pmuludq %%xmm1, %%xmm0") \
	V(pmaddwd, "pmaddwd %%xmm1, %%xmm0") \
	V(psadbw, "psadbw %%xmm1, %%xmm0") \
	V(pavgb, "pavgb %%xmm1, %%xmm0") \
	V(pavgw, "pavgw %%xmm1, %%xmm0") \
	V(pminub, "pminub %%xmm1, %%xmm0") \
	V(pminsw, "pminsw %%xmm1, %%xmm0") \
	V(pmaxub, "pmaxub %%xmm1, %%xmm0") \
	V(pmaxsw, "pmaxsw %%xmm1, %%xmm0") \
	V(pcmpeqb, "pcmpeqb %%xmm1, %%xmm0") \
	V(pcmpeqw, "pcmpeqw %%xmm1, %%xmm0") \
	V(pcmpeqd, "pcmpeqd %%xmm1, %%xmm0") \
	V(pcmpgtb, "pcmpgtb %%xmm1, %%xmm0") \
	V(pcmpgtw, "pcmpgtw %%xmm1, %%xmm0") \
	V(pcmpgtd, "pcmpgtd %%xmm1, %%xmm0") \
	V(pand, "pand %%xmm1, %%xmm0") \
	V(pandn, "pandn %%xmm1, %%xmm0") \
	V(por, "por %%xmm1, %%xmm0") \
	V(pxor, "pxor %%xmm1, %%xmm0") \
	V(punpcklbw, "punpcklbw %%xmm1, %%xmm0") \
	V(punpcklwd, "punpcklwd %%xmm1, %%xmm0") \
	V(punpckldq, "punpckldq %%xmm1, %%xmm0") \
	V(punpcklqdq, "punpcklqdq %%xmm1, %%xmm0") \
	V(punpckhbw, "punpckhbw %%xmm1, %%xmm0") \
	V(punpckhwd, "punpckhwd %%xmm1, %%xmm0") \
	V(punpckhdq, "punpckhdq %%xmm1, %%xmm0") \
	V(punpckhqdq, "punpckhqdq %%xmm1, %%xmm0") \
	V(packsswb, "packsswb %%xmm1, %%xmm0") \
	V(packssdw, "packssdw %%xmm1, %%xmm0") \
	V(packuswb, "packuswb %%xmm1, %%xmm0") \
	V(psllw, "psllw %%xmm1, %%xmm0") \
	V(pslld, "pslld %%xmm1, %%xmm0") \
	V(psllq, "psllq %%xmm1, %%xmm0") \
	V(psrlw, "psrlw %%xmm1, %%xmm0") \
	V(psrld, "psrld %%xmm1, %%xmm0") \
	V(psrlq, "psrlq %%xmm1, %%xmm0") \
	V(psraw, "psraw %%xmm1, %%xmm0") \
	V(psrad, "psrad %%xmm1, %%xmm0") \
	V(psllw_0, "psllw $0, %%xmm0") \
	V(psllw_3, "psllw $3, %%xmm0") \
	V(psllw_15, "psllw $15, %%xmm0") \
	V(psllw_40, "psllw $40, %%xmm0") \
	V(psllw_64, "psllw $64, %%xmm0") \
	V(pslld_0, "pslld $0, %%xmm0") \
	V(pslld_3, "pslld $3, %%xmm0") \
	V(pslld_15, "pslld $15, %%xmm0") \
	V(pslld_40, "pslld $40, %%xmm0") \
	V(pslld_64, "pslld $64, %%xmm0") \
	V(psllq_0, "psllq $0, %%xmm0") \
	V(psllq_3, "psllq $3, %%xmm0") \
	V(psllq_15, "psllq $15, %%xmm0") \
	V(psllq_40, "psllq $40, %%xmm0") \
	V(psllq_64, "psllq $64, %%xmm0") \
	V(psrlw_0, "psrlw $0, %%xmm0") \
	V(psrlw_3, "psrlw $3, %%xmm0") \
	V(psrlw_15, "psrlw $15, %%xmm0") \
	V(psrlw_40, "psrlw $40, %%xmm0") \
	V(psrlw_64, "psrlw $64, %%xmm0") \
	V(psrld_0, "psrld $0, %%xmm0") \
	V(psrld_3, "psrld $3, %%xmm0") \
	V(psrld_15, "psrld $15, %%xmm0") \
	V(psrld_40, "psrld $40, %%xmm0") \
	V(psrld_64, "psrld $64, %%xmm0") \
	V(psrlq_0, "psrlq $0, %%xmm0") \
	V(psrlq_3, "psrlq $3, %%xmm0") \
	V(psrlq_15, "psrlq $15, %%xmm0") \
	V(psrlq_40, "psrlq $40, %%xmm0") \
	V(psrlq_64, "psrlq $64, %%xmm0") \
	V(psraw_0, "psraw $0, %%xmm0") \
	V(psraw_3, "psraw $3, %%xmm0") \
	V(psraw_15, "psraw $15, %%xmm0") \
	V(psraw_40, "psraw $40, %%xmm0") \
	V(psraw_64, "psraw $64, %%xmm0") \
	V(psrad_0, "psrad $0, %%xmm0") \
	V(psrad_3, "psrad $3, %%xmm0") \
	V(psrad_15, "psrad $15, %%xmm0") \
	V(psrad_40, "psrad $40, %%xmm0") \
	V(psrad_64, "psrad $64, %%xmm0") \
	V(pslldq_0, "pslldq $0, %%xmm0") \
	V(pslldq_5, "pslldq $5, %%xmm0") \
	V(pslldq_15, "pslldq $15, %%xmm0") \
	V(pslldq_16, "pslldq $16, %%xmm0") \
	V(psrldq_0, "psrldq $0, %%xmm0") \
	V(psrldq_5, "psrldq $5, %%xmm0") \
	V(psrldq_15, "psrldq $15, %%xmm0") \
	V(psrldq_16, "psrldq $16, %%xmm0") \
	V(pshufd_x1b, "pshufd $27, %%xmm1, %%xmm0") \
	V(pshufd_x4e, "pshufd $78, %%xmm1, %%xmm0") \
	V(pshufd_x93, "pshufd $147, %%xmm1, %%xmm0") \
	V(pshuflw_x1b, "pshuflw $27, %%xmm1, %%xmm0") \
	V(pshuflw_xb1, "pshuflw $177, %%xmm1, %%xmm0") \
	V(pshufhw_x1b, "pshufhw $27, %%xmm1, %%xmm0") \
	V(pshufhw_xb1, "pshufhw $177, %%xmm1, %%xmm0") \
	V(shufps_x1b, "shufps $27, %%xmm1, %%xmm0") \
	V(shufps_xe4, "shufps $228, %%xmm1, %%xmm0") \
	V(shufps_x4e, "shufps $78, %%xmm1, %%xmm0") \
	V(shufpd_x0, "shufpd $0, %%xmm1, %%xmm0") \
	V(shufpd_x1, "shufpd $1, %%xmm1, %%xmm0") \
	V(shufpd_x2, "shufpd $2, %%xmm1, %%xmm0") \
	V(shufpd_x3, "shufpd $3, %%xmm1, %%xmm0") \
	V(unpcklps, "unpcklps %%xmm1, %%xmm0") \
	V(unpckhps, "unpckhps %%xmm1, %%xmm0") \
	V(unpcklpd, "unpcklpd %%xmm1, %%xmm0") \
	V(unpckhpd, "unpckhpd %%xmm1, %%xmm0") \
	V(movhlps, "movhlps %%xmm1, %%xmm0") \
	V(movlhps, "movlhps %%xmm1, %%xmm0") \
	V(movss, "movss %%xmm1, %%xmm0") \
	V(movsd, "movsd %%xmm1, %%xmm0") \
	V(movq, "movq %%xmm1, %%xmm0") \
	V(andps, "andps %%xmm1, %%xmm0") \
	V(andnpd, "andnpd %%xmm1, %%xmm0") \
	V(orps, "orps %%xmm1, %%xmm0") \
	V(xorpd, "xorpd %%xmm1, %%xmm0") \
	V(addps, "addps %%xmm1, %%xmm0") \
	V(subps, "subps %%xmm1, %%xmm0") \
	V(mulps, "mulps %%xmm1, %%xmm0") \
	V(divps, "divps %%xmm1, %%xmm0") \
	V(minps, "minps %%xmm1, %%xmm0") \
	V(maxps, "maxps %%xmm1, %%xmm0") \
	V(sqrtps, "sqrtps %%xmm1, %%xmm0") \
	V(addpd, "addpd %%xmm1, %%xmm0") \
	V(subpd, "subpd %%xmm1, %%xmm0") \
	V(mulpd, "mulpd %%xmm1, %%xmm0") \
	V(divpd, "divpd %%xmm1, %%xmm0") \
	V(minpd, "minpd %%xmm1, %%xmm0") \
	V(maxpd, "maxpd %%xmm1, %%xmm0") \
	V(sqrtpd, "sqrtpd %%xmm1, %%xmm0") \
	V(cvtdq2ps, "cvtdq2ps %%xmm1, %%xmm0") \
	V(cvtdq2pd, "cvtdq2pd %%xmm1, %%xmm0") \
	V(cvtps2pd, "cvtps2pd %%xmm1, %%xmm0") \
	V(cvtpd2ps, "cvtpd2ps %%xmm1, %%xmm0") \
	V(cvtps2dq, "cvtps2dq %%xmm1, %%xmm0") \
	V(cvttps2dq, "cvttps2dq %%xmm1, %%xmm0") \
	V(cvtpd2dq, "cvtpd2dq %%xmm1, %%xmm0") \
	V(cvttpd2dq, "cvttpd2dq %%xmm1, %%xmm0") \
	V(cmpps_0, "cmpps $0, %%xmm1, %%xmm0") \
	V(cmpps_1, "cmpps $1, %%xmm1, %%xmm0") \
	V(cmpps_2, "cmpps $2, %%xmm1, %%xmm0") \
	V(cmpps_4, "cmpps $4, %%xmm1, %%xmm0") \
	V(cmppd_3, "cmppd $3, %%xmm1, %%xmm0") \
	V(cmppd_5, "cmppd $5, %%xmm1, %%xmm0") \
	V(cmppd_6, "cmppd $6, %%xmm1, %%xmm0") \
	V(cmppd_7, "cmppd $7, %%xmm1, %%xmm0")

#define DEFINE(name, text) \
	static void vector_##name(u128 *a, const u128 *b) \
	{ \
		asm volatile("movups %0, %%xmm0; movups %1, %%xmm1; " text "; movups %%xmm0, %0" : "+m"(*a) : "m"(*b)); \
	}
#define ENTRY(name, text) { #name, vector_##name },

VECTOR_OPS(DEFINE)
const struct vector_entry vector_op[] = { VECTOR_OPS(ENTRY) };
const int vector_op_count = ARRAY_SIZE(vector_op);
_Static_assert(ARRAY_SIZE(vector_op) <= VECTOR_OPS_MAX, "golden_vector is too short");

static const u64 vectors[][2] = {
	{ 0, 0 }, { ~0ul, ~0ul }, { 0x8000800080008000, 0x7fff7fff7fff7fff }, { 0x0102030405060708, 0x090a0b0c0d0e0f10 },
	{ 0x8080808080808080, 0x7f7f7f7f7f7f7f7f }, { 0x0000000000000003, 0xffffffffffffffff }, { 0x8000000000000000, 0x7fffffffffffffff },
	{ 0x3f800000bf800000, 0x40490fdb7f800000 }, { 0x3ff0000000000000, 0xc00921fb54442d18 }, { 0x0000001100000010, 1 },
	{ 0x123456789abcdef0, 0x0fedcba987654321 }, { 0x7fc00001ff800001, 0x4f0000003eaaaaab }, { 0x0080000000000001, 0x7f7fffff80000000 },
	{ 0x7ff0000000000001, 0xfff8000000000123 },
};

static void default_mxcsr(void)
{
	u32 mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" :: "m"(mxcsr));
}

u32 vector_hash(const struct vector_entry *e)
{
	u64 h = 0;
	default_mxcsr();
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++)
		for (size_t j = 0; j < ARRAY_SIZE(vectors); j++) {
			u128 a = (u128)vectors[i][1] << 64 | vectors[i][0];
			u128 b = (u128)vectors[j][1] << 64 | vectors[j][0];
			e->run(&a, &b);
			h = (h ^ (u64)a) * 0x100000001b3;
			h = (h ^ h >> 29 ^ (u64)(a >> 64)) * 0x100000001b3;
			h ^= h >> 31;
		}
	return (u32)(h ^ h >> 32);
}

struct vector_case { const char *name; void (*run)(u128 *, const u128 *); u64 a[2], b[2], want[2]; };

// Low half first.
static const struct vector_case cases[] = {
	{ "paddb", vector_paddb, { 0x00000000000000ff, 0x80 }, { 2, 0x80 }, { 1, 0 } },
	{ "paddsb", vector_paddsb, { 0x7f80, 0 }, { 0x01ff, 0 }, { 0x7f80, 0 } },
	{ "paddusw", vector_paddusw, { 0xfff0fff0, 0 }, { 0x00200001, 0 }, { 0xfffffff1, 0 } },
	{ "psubusb", vector_psubusb, { 0x1005, 0 }, { 0x0510, 0 }, { 0x0b00, 0 } },
	{ "pmuludq", vector_pmuludq, { 0x11111111ffffffff, 3 }, { 0x22222222ffffffff, 5 }, { 0xfffffffe00000001, 15 } },
	{ "pmulhw", vector_pmulhw, { 0x80007fff, 0 }, { 0x80007fff, 0 }, { 0x40003fff, 0 } },
	{ "pmaddwd", vector_pmaddwd, { 0x8000800000020003, 0 }, { 0x8000800000050007, 0 }, { 0x800000000000001f, 0 } },
	{ "psadbw", vector_psadbw, { 0x00ff00ff00ff00ff, 1 }, { 0, 3 }, { 1020, 2 } },
	{ "pavgb", vector_pavgb, { 0xff01, 0 }, { 0xfe02, 0 }, { 0xff02, 0 } },
	{ "packsswb", vector_packsswb, { 0x7fff8000007fff80, 0 }, { 0x0001000200030004, 0 }, { 0x000000007f807f80, 0x0000000001020304 } },
	{ "packuswb", vector_packuswb, { 0x7fff800000ff0100, 0 }, { 0, 0 }, { 0xff00ffff, 0 } },
	{ "punpcklbw", vector_punpcklbw, { 0x0706050403020100, 0 }, { 0x1716151413121110, 0 }, { 0x1303120211011000, 0x1707160615051404 } },
	{ "pshufd 1bh", vector_pshufd_x1b, { 0, 0 }, { 0x0000000100000000, 0x0000000300000002 }, { 0x0000000200000003, 0x0000000000000001 } },
	{ "pcmpgtd", vector_pcmpgtd, { 0x00000001ffffffff, 5 }, { 0x0000000000000000, 5 }, { 0xffffffff00000000, 0 } },
	{ "psraw", vector_psraw, { 0x8000400080014001, 0 }, { 1, 0 }, { 0xc0002000c0002000, 0 } },
	{ "psllq, count over 63", vector_psllq, { 1, 1 }, { 64, 0 }, { 0, 0 } },
	{ "psrad, count over 31", vector_psrad, { 0x80000000, 0x7fffffff }, { 0x100000000, 0 }, { 0xffffffff, 0 } },
	{ "pslldq 5", vector_pslldq_5, { 0x1122334455667788, 0 }, { 0, 0 }, { 0x6677880000000000, 0x1122334455 } },
	{ "addps", vector_addps, { 0x3f80000040000000, 0x4040000040800000 }, { 0x3f8000003f800000, 0x3f8000003f800000 },
	  { 0x4000000040400000, 0x4080000040a00000 } },
	{ "divpd", vector_divpd, { 0x3ff0000000000000, 0x4000000000000000 }, { 0x4008000000000000, 0x4000000000000000 },
	  { 0x3fd5555555555555, 0x3ff0000000000000 } },
	{ "movhlps", vector_movhlps, { 1, 2 }, { 3, 4 }, { 4, 2 } },
	{ "movlhps", vector_movlhps, { 1, 2 }, { 3, 4 }, { 1, 3 } },
	{ "movsd between registers", vector_movsd, { 1, 2 }, { 3, 4 }, { 3, 2 } },
	{ "movq clears the upper half", vector_movq, { 1, 2 }, { 3, 4 }, { 3, 0 } },
};

static bool has_two_nans(int op)
{
	return starts_with(vector_op[op].name, "add") || starts_with(vector_op[op].name, "sub") || starts_with(vector_op[op].name, "mul")
		|| starts_with(vector_op[op].name, "div");
}

static void check_hashes(bool two_nans)
{
	for (int op = 0; op < vector_op_count; op++) {
		if (has_two_nans(op) != two_nans)
			continue;
		u32 got = vector_hash(&vector_op[op]);
		check(got == golden_vector[op], "%s: hash of all pairs %08x, should be %08x", vector_op[op].name, got, golden_vector[op]);
	}
}

// QEMU 7.2 prefers the quiet of two NaNs, silicon the first operand.
void test_sse_packed_exactly(void)
{
	check_hashes(true);
}

void test_sse_packed(void)
{
	default_mxcsr();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct vector_case *c = &cases[i];
		u128 a = (u128)c->a[1] << 64 | c->a[0], b = (u128)c->b[1] << 64 | c->b[0];
		c->run(&a, &b);
		check((u64)a == c->want[0] && (u64)(a >> 64) == c->want[1], "%s: %016lx%016lx, should be %016lx%016lx", c->name, (u64)(a >> 64),
		      (u64)a, c->want[1], c->want[0]);
	}
	check_hashes(false);
}

// Moves between register files and memory, masks, inserts and extracts.
void test_sse_moves(void)
{
	static u128 cell ALIGNED(16);
	u64 r, low = 0x8877665544332211, high = 0x00ff80017f8100fe;
	cell = (u128)high << 64 | low;

	asm volatile("movdqa %1, %%xmm3; pmovmskb %%xmm3, %k0" : "=r"(r) : "m"(cell));
	check_eq(r, 0x6580, "pmovmskb");
	asm volatile("movmskps %%xmm3, %k0" : "=r"(r));
	check_eq(r, 2, "movmskps");
	asm volatile("movmskpd %%xmm3, %k0" : "=r"(r));
	check_eq(r, 1, "movmskpd");
	asm volatile("pextrw $5, %%xmm3, %k0" : "=r"(r));
	check_eq(r, 0x7f81, "pextrw");
	asm volatile("mov $0xabcd, %%eax; pinsrw $7, %%eax, %%xmm3; movhlps %%xmm3, %%xmm4; movq %%xmm4, %0" : "=r"(r) :: "rax");
	check_eq(r, 0xabcd80017f8100fe, "pinsrw");
	asm volatile("movd %k1, %%xmm5; movq %%xmm5, %0" : "=r"(r) : "r"(~0ul));
	check_eq(r, 0xffffffff, "movd from a register clears the rest");
	asm volatile("movdqa %1, %%xmm6; movss %1, %%xmm6; movhlps %%xmm6, %%xmm7; movq %%xmm7, %0" : "=r"(r) : "m"(cell));
	check_eq(r, 0, "movss from memory clears the rest");
	asm volatile("movdqa %1, %%xmm8; movlpd %1, %%xmm8; movhpd %1, %%xmm8; movhlps %%xmm8, %%xmm15; movq %%xmm15, %0" : "=r"(r) : "m"(cell));
	check_eq(r, low, "movhpd from memory");
	asm volatile("movq %2, %%xmm9; movhpd %%xmm9, %0; movlps %%xmm9, 8+%0; movdqa %0, %%xmm9; movq %%xmm9, %1" : "=m"(cell), "=r"(r) : "r"(7ul));
	check_eq(r, 0, "movhpd to memory");
	check_eq(cell >> 64, 7, "movlps to memory");
	asm volatile("movq %1, %%xmm1; movlhps %%xmm1, %%xmm1; movntdq %%xmm1, %0; movnti %1, %0; sfence" : "=m"(cell) : "r"(0x55aaul));
	check((u64)cell == 0x55aa && (u64)(cell >> 64) == 0x55aa, "movntdq and movnti");

	// MASKMOVDQU stores the bytes whose mask has bit 7.
	cell = 0;
	asm volatile("movq %0, %%xmm1; movq %1, %%xmm2; maskmovdqu %%xmm2, %%xmm1" :: "r"(0x1122334455667788ul), "r"(0x80007f00ff008000ul), "D"(&cell)
		     : "memory");
	check_eq((u64)cell, 0x1100000055007700, "maskmovdqu");

	// MMX shares its registers with x87, and leaves the x87 tags full until EMMS.
	u16 status[14];
	asm volatile("movq %1, %%mm0; paddusb %%mm0, %%mm0; movq %%mm0, %0; fnstenv %2; emms" : "=r"(r) : "r"(0x80ff7f0102030405ul), "m"(status)
		     : "memory");
	check_eq(r, 0xfffffe020406080a, "paddusb on MMX");
	check(status[4] != 0xffff, "x87 tag word after MMX: all empty");
	asm volatile("fnstenv %0" : "=m"(status));
	check_eq(status[4], 0xffff, "x87 tag word after EMMS");
	asm volatile("movq %1, %%mm7; movq2dq %%mm7, %%xmm0; movdq2q %%xmm0, %%mm1; pmaddwd %%mm1, %%mm7; movq %%mm7, %0; emms" : "=r"(r)
		     : "r"(0x0001000200030004ul));
	check_eq(r, 0x0000000500000019, "pmaddwd on MMX");
	asm volatile("fninit");
}
