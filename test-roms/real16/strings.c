// String instructions in real mode: SDM 1 "String Instructions", 2B "REP".
#include "real16.h"

CODE16(movsb, "rep movsb")
CODE16(movsw, "rep movsw")
CODE16(movsd, "rep movsl")
CODE16(stosb, "rep stosb")
CODE16(stosw, "rep stosw")
CODE16(lodsw, "lodsw")
CODE16(scasb, "repne scasb; pushf; pop %dx")
CODE16(cmpsb, "repe cmpsb; pushf; pop %dx")
CODE16(movsb_down, "std; rep movsb; cld")
CODE16(movsb_fs, "push $0x2800; pop %fs; rep movsb %fs:(%si), %es:(%di)")
CODE16(movsb_a32, "addr32 rep movsb")
CODE16(stosd_a32, "addr32 rep stosl")
CODE16(scasd_a32, "addr32 repne scasl; pushf; pop %dx")
CODE16(movsw_one, "movsw")
CODE16(stosw_one, "stosw")
CODE16(lodsw_one, "lodsw")
CODE16(cmpsw_one, "cmpsw")
CODE16(movsd_one, "movsl")

#define AT(offset) low(V86_DATA, offset)

static void fill(void)
{
	u8 *p = low(V86_DATA, 0);
	for (u32 i = 0; i < 0x10000; i++)
		p[i] = (u8)(i * 7 + (i >> 8));
}

void test_strings(void)
{
	fill();
	passes("REP MOVSB", movsb, (struct legacy_regs){ .ecx = 0xabcd0005, .esi = 0x12340100, .edi = 0x56780200 });
	check(R.ecx == 0xabcd0000 && R.esi == 0x12340105 && R.edi == 0x56780205 && !memcmp(AT(0x100), AT(0x200), 5) && memcmp(AT(0x105), AT(0x205), 1), "REP MOVSB: ECX %x ESI %x EDI %x",
	      R.ecx, R.esi, R.edi);
	passes("REP MOVSB of none", movsb, (struct legacy_regs){ .ecx = 0x10000, .esi = 1, .edi = 2 });
	check(R.ecx == 0x10000 && R.esi == 1 && R.edi == 2, "REP MOVSB of none: ECX %x ESI %x EDI %x", R.ecx, R.esi, R.edi);
	passes("REP MOVSW", movsw, (struct legacy_regs){ .ecx = 3, .esi = 0x300, .edi = 0x401 });
	check(R.esi == 0x306 && R.edi == 0x407 && !memcmp(AT(0x300), AT(0x401), 6), "REP MOVSW: ESI %x EDI %x", R.esi, R.edi);
	passes("REP MOVSD", movsd, (struct legacy_regs){ .ecx = 3, .esi = 0x300, .edi = 0x501 });
	check(R.esi == 0x30c && R.edi == 0x50d && !memcmp(AT(0x300), AT(0x501), 12), "REP MOVSD: ESI %x EDI %x", R.esi, R.edi);
	// Overlap: the first byte fills what follows.
	passes("overlapping REP MOVSB", movsb, (struct legacy_regs){ .ecx = 64, .esi = 0x600, .edi = 0x601 });
	for (u32 i = 0; i <= 64; i++)
		check(*(u8 *)AT(0x600 + i) == *(u8 *)AT(0x600), "overlapping REP MOVSB: byte %u", i);
	passes("REP MOVSB downwards", movsb_down, (struct legacy_regs){ .ecx = 4, .esi = 0x703, .edi = 0x803 });
	check(R.esi == 0x6ff && R.edi == 0x7ff && !memcmp(AT(0x700), AT(0x800), 4), "REP MOVSB downwards: ESI %x EDI %x", R.esi, R.edi);
	passes("REP MOVSB by FS", movsb_fs, (struct legacy_regs){ .ecx = 4, .esi = 0x10, .edi = 0x900 });
	check(!memcmp(low(0x2800, 0x10), AT(0x900), 4), "REP MOVSB by FS");
	passes("REP STOSB", stosb, (struct legacy_regs){ .eax = 0x5a, .ecx = 3, .edi = 0xa00 });
	check(load32(AT(0xa00)) << 8 == 0x5a5a5a00, "REP STOSB: %x", load32(AT(0xa00)));
	passes("LODSW", lodsw, (struct legacy_regs){ .eax = 0xffffffff, .esi = 0xb00 });
	check(R.eax == (0xffff0000 | load16(AT(0xb00))) && R.esi == 0xb02, "LODSW: %x", R.eax);
	memcpy(AT(0xc00), "abcdef", 6);
	memcpy(AT(0xd00), "abcxef", 6);
	passes("REPNE SCASB", scasb, (struct legacy_regs){ .eax = 'd', .ecx = 6, .edi = 0xc00 });
	check(R.edi == 0xc04 && R.ecx == 2 && R.edx & FLAG_ZF, "REPNE SCASB: EDI %x ECX %x", R.edi, R.ecx);
	passes("REPE CMPSB", cmpsb, (struct legacy_regs){ .ecx = 6, .esi = 0xc00, .edi = 0xd00 });
	check(R.esi == 0xc04 && R.ecx == 2 && !(R.edx & FLAG_ZF) && R.edx & FLAG_CF, "REPE CMPSB: ESI %x ECX %x", R.esi, R.ecx);
}

// Addresses of 32 bits use ESI, EDI and ECX, and the limits hold.
void test_string_sizes(void)
{
	fill();
	passes("REP MOVSB, 32-bit addresses", movsb_a32, (struct legacy_regs){ .ecx = 5, .esi = 0x100, .edi = 0x200 });
	check(R.ecx == 0 && R.esi == 0x105 && R.edi == 0x205 && !memcmp(AT(0x100), AT(0x200), 5), "REP MOVSB, 32-bit addresses: ECX %x", R.ecx);
	expect_real("REP MOVSB, 32-bit addresses beyond the limit", movsb_a32, (struct legacy_regs){ .ecx = 5, .esi = 0x10000, .edi = 0x200 }, VECTOR_GP, 0);
	check(R.ecx == 5 && R.esi == 0x10000, "REP MOVSB beyond the limit: ECX %x ESI %x", R.ecx, R.esi);
	expect_real("REP STOSD, 32-bit addresses up to the limit", stosd_a32, (struct legacy_regs){ .ecx = 5, .edi = 0xfff8 }, VECTOR_GP, 0);
	check(R.ecx == 3 && R.edi == 0x10000, "REP STOSD up to the limit: ECX %x EDI %x", R.ecx, R.edi);
	write32((u64)AT(0x310), 0x12345678);
	passes("REPNE SCASD, 32-bit addresses", scasd_a32, (struct legacy_regs){ .eax = 0x12345678, .ecx = 0x100, .edi = 0x300 });
	check(R.edi == 0x314 && R.ecx == 0xfb, "REPNE SCASD: EDI %x ECX %x", R.edi, R.ecx);
	// Unreal: beyond 64 KiB.
	legacy.real_data = L_DATA(0);
	u32 offset = SCRATCH - V86_DATA * 16;
	memset(legacy_scratch, 0, 64);
	passes("REP MOVSB in unreal mode", movsb_a32, (struct legacy_regs){ .ecx = 33, .esi = 0x100, .edi = offset });
	check(!memcmp(AT(0x100), legacy_scratch, 33) && !legacy_scratch[33] && R.edi == offset + 33, "REP MOVSB in unreal mode: EDI %x", R.edi);
}

void test_string_wrap(void)
{
	fill();
	// SI and DI wrap at 64 KiB.
	passes("REP MOVSB over the end", movsb, (struct legacy_regs){ .ecx = 8, .esi = 0xfffc, .edi = 0x4000 });
	check(R.esi == 4 && !memcmp(AT(0xfffc), AT(0x4000), 4) && !memcmp(AT(0), AT(0x4004), 4), "REP MOVSB over the end: ESI %x", R.esi);
	passes("REP STOSB over the end", stosb, (struct legacy_regs){ .eax = 0x99, .ecx = 4, .edi = 0xfffe });
	check(R.edi == 2 && load16(AT(0xfffe)) == 0x9999 && load16(AT(0)) == 0x9999 && load16(low(V86_DATA + 0x1000, 0)) != 0x9999, "REP STOSB over the end: EDI %x", R.edi);
	passes("REP STOSW over the end", stosw, (struct legacy_regs){ .eax = 0x8877, .ecx = 2, .edi = 0xfffe });
	check(R.edi == 2 && load16(AT(0xfffe)) == 0x8877 && load16(AT(0)) == 0x8877, "REP STOSW over the end: EDI %x", R.edi);
	passes("REP MOVSB downwards over 0", movsb_down, (struct legacy_regs){ .ecx = 4, .esi = 1, .edi = 0x5003 });
	check(R.esi == 0xfffd && *(u8 *)AT(0x5003) == *(u8 *)AT(1) && *(u8 *)AT(0x5000) == *(u8 *)AT(0xfffe), "REP MOVSB downwards over 0: ESI %x", R.esi);
}

// An element that the limit cuts faults, with the registers as they were before it.
void test_string_faults(void)
{
	fill();
	expect_real("MOVSW from FFFFh", movsw_one, (struct legacy_regs){ .esi = 0xffff, .edi = 0x100 }, VECTOR_GP, 0);
	check(R.esi == 0xffff && R.edi == 0x100, "MOVSW from FFFFh: ESI %x EDI %x", R.esi, R.edi);
	expect_real("MOVSW to FFFFh", movsw_one, (struct legacy_regs){ .esi = 0x100, .edi = 0xffff }, VECTOR_GP, 0);
	check(R.esi == 0x100 && R.edi == 0xffff, "MOVSW to FFFFh: ESI %x EDI %x", R.esi, R.edi);
	expect_real("STOSW to FFFFh", stosw_one, (struct legacy_regs){ .edi = 0xffff }, VECTOR_GP, 0);
	expect_real("LODSW from FFFFh", lodsw_one, (struct legacy_regs){ .esi = 0xffff }, VECTOR_GP, 0);
	expect_real("CMPSW with FFFFh", cmpsw_one, (struct legacy_regs){ .esi = 0x100, .edi = 0xffff }, VECTOR_GP, 0);
	expect_real("MOVSD from FFFDh", movsd_one, (struct legacy_regs){ .esi = 0xfffd, .edi = 0x100 }, VECTOR_GP, 0);
	expect_real("REP MOVSW that comes to FFFFh", movsw, (struct legacy_regs){ .ecx = 4, .esi = 0xfffb, .edi = 0x100 }, VECTOR_GP, 0);
	check(R.ecx == 2 && R.esi == 0xffff && R.edi == 0x104, "REP MOVSW that comes to FFFFh: ECX %x ESI %x EDI %x", R.ecx, R.esi, R.edi);
}
