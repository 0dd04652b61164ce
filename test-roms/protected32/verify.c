// LAR, LSL, VERR, VERW, ARPL: SDM 2A, 2B under these names.
#include "protected32.h"

CODE32(lar, "lar %eax, %ecx; pushf; pop %edx")
CODE32(lar16, "lar %ax, %cx; pushf; pop %edx")
CODE32(lsl, "lsl %eax, %ecx; pushf; pop %edx")
CODE32(lsl16, "lsl %ax, %cx; pushf; pop %edx")
CODE32(verr, "verr %ax; pushf; pop %edx")
CODE32(verw, "verw %ax; pushf; pop %edx")
CODE32(arpl, "arpl %ax, %cx; pushf; pop %edx")

#define UNTOUCHED 0x55555555

static bool zf(struct code c, u32 selector, u32 cpl)
{
	run_protected(c, (int)cpl, (struct legacy_regs){ .eax = selector, .ecx = UNTOUCHED });
	check(event.vector == VECTOR_USER_EXIT, "exception %d", event.vector);
	return legacy.out.regs.edx & FLAG_ZF;
}

// Present or not makes no difference to these.
static void each(void (*one)(u32 type, u32 dpl, u32 rpl, u32 cpl))
{
	for (u32 type = 0; type < 32; type++)
		for (u32 levels = 0; levels < 64; levels++) {
			SPARE = descriptor(SCRATCH, 0x12345, type | D_DPL(levels & 3) | (levels & 1) << 7 | D_BIG | D_G);
			one(type, levels & 3, levels >> 2 & 3, levels >> 4);
		}
}

static bool visible(u32 type, u32 dpl, u32 rpl, u32 cpl)
{
	return (type & 28) == 28 || (rpl <= dpl && cpl <= dpl);
}

static void lar_lsl(u32 type, u32 dpl, u32 rpl, u32 cpl)
{
	u32 lar_types = 0x1a3e, lsl_types = 0x0a0e;	// system types: 1 to 5, 9, 11, 12; 1 to 3, 9, 11
	bool seen = visible(type, dpl, rpl, cpl), is_lar = seen && (type & 16 || lar_types >> type & 1), is_lsl = seen && (type & 16 || lsl_types >> type & 1);
	u32 selector = L_SPARE | rpl, rights = (u32)(SPARE >> 32) & 0xf0ff00;
	bool z = zf(lar, selector, cpl);
	check(z == is_lar && (legacy.out.regs.ecx & ~0xf0000u) == (is_lar ? rights : UNTOUCHED & ~0xf0000), "LAR, type %x DPL %u RPL %u CPL %u: ZF %u, %x", type,
	      dpl, rpl, cpl, z, legacy.out.regs.ecx);
	z = zf(lsl, selector, cpl);
	check(z == is_lsl && legacy.out.regs.ecx == (is_lsl ? 0x12345fff : UNTOUCHED), "LSL, type %x DPL %u RPL %u CPL %u: ZF %u, %x", type, dpl, rpl, cpl, z,
	      legacy.out.regs.ecx);
}

void test_lar_lsl(void)
{
	each(lar_lsl);
	SPARE = descriptor(SCRATCH, 0x12345, D_DATA | D_BIG);
	check(zf(lsl, L_SPARE, 0) && legacy.out.regs.ecx == 0x12345, "LSL in bytes: %x", legacy.out.regs.ecx);
	check(zf(lsl16, L_SPARE, 0) && legacy.out.regs.ecx == (UNTOUCHED & 0xffff0000) + 0x2345, "LSL of 16 bits: %x", legacy.out.regs.ecx);
	check(zf(lar16, L_SPARE, 0) && legacy.out.regs.ecx == (UNTOUCHED & 0xffff0000) + 0x9200, "LAR of 16 bits: %x", legacy.out.regs.ecx);
	for (u32 null = 0; null < 4; null++)
		check(!zf(lar, null, 0) && !zf(lsl, null, 0) && !zf(verr, null, 0) && !zf(verw, null, 0), "null selector %u", null);
	check(!zf(lar, L_ENTRIES * 8, 0) && !zf(lsl, L_ENTRIES * 8, 0) && !zf(verr, L_ENTRIES * 8, 0), "beyond the GDT");
	check(!zf(lar, 4, 0) && !zf(verw, 12, 0), "LDT that was not loaded");
}

static void verify(u32 type, u32 dpl, u32 rpl, u32 cpl)
{
	bool seen = type & 16 && visible(type, dpl, rpl, cpl), r = seen && (!(type & 8) || type & 2), w = seen && !(type & 8) && type & 2;
	check(zf(verr, L_SPARE | rpl, cpl) == r, "VERR, type %x DPL %u RPL %u CPL %u", type, dpl, rpl, cpl);
	check(zf(verw, L_SPARE | rpl, cpl) == w, "VERW, type %x DPL %u RPL %u CPL %u", type, dpl, rpl, cpl);
}

void test_verr_verw(void)
{
	each(verify);
}

void test_arpl(void)
{
	for (u32 i = 0; i < 16; i++) {
		u32 source = 0x120 | (i & 3), target = 0xabcd4320 | i >> 2;
		run_protected(arpl, 3, (struct legacy_regs){ .eax = source, .ecx = target });
		bool raised = (target & 3) < (source & 3);
		u32 want = raised ? (target & ~3u) | (source & 3) : target;
		check(event.vector == VECTOR_USER_EXIT && legacy.out.regs.ecx == want && !(legacy.out.regs.edx & FLAG_ZF) == !raised, "ARPL of %x by %x: %x, ZF %u",
		      target, source, legacy.out.regs.ecx, legacy.out.regs.edx >> 6 & 1);
	}
}
