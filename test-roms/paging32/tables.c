// Page tables of the 32-bit formats, and one access under them.
#include "paging32.h"

const struct format formats[4] = {
	{ "32-bit, 4 KiB", false, false },
	{ "32-bit, 4 MiB", false, true },
	{ "PAE, 4 KiB", true, false },
	{ "PAE, 2 MiB", true, true },
};
const char *const access_name[ACCESSES] = { "read", "write", "run", "modify" };

u8 frame_a[4096] ALIGNED(4096), frame_b[4096] ALIGNED(4096);
static u8 user_frame[4096] ALIGNED(4096);

// Room for the larger format: four directories, eight tables for the low 16 MiB, and one each for window and user page.
static u32 top[1024] ALIGNED(4096);
static u8 directory[4][4096] ALIGNED(4096), low[8][4096] ALIGNED(4096), window_table[4096] ALIGNED(4096), user_table[4096] ALIGNED(4096);

extern u8 code_start[], code_read[], code_write[], code_run[], code_modify[], code_end[];
asm(".text\n.code32\n"
    "code_start:\n"
    "code_read: mov (%edi), %al; int $0x80\n"
    "code_write: movb $0xc3, (%edi); int $0x80\n"
    "code_run: call *%edi; int $0x80\n"
    "code_modify: orb $0, (%edi); int $0x80\n"
    "code_end:\n"
    ".code64\n");
static const u8 *const access_code[ACCESSES] = { code_read, code_write, code_run, code_modify };

static u64 *entry64(u32 linear, int level)
{
	if (level == 3)
		return (u64 *)top + (linear >> 30);
	u64 *pde = (u64 *)directory[linear >> 30] + (linear >> 21 & 511);
	return level == 2 ? pde : (u64 *)(*pde & PAGE_ADDRESS) + (linear >> 12 & 511);
}

static u32 *entry32(u32 linear, int level)
{
	u32 *pde = top + (linear >> 22);
	return level == 2 ? pde : (u32 *)(u64)(*pde & 0xfffff000) + (linear >> 12 & 1023);
}

u64 entry_address(const struct format *f, u32 linear, int level)
{
	return f->pae ? (u64)entry64(linear, level) : (u64)entry32(linear, level);
}

u64 entry_read(const struct format *f, u32 linear, int level)
{
	return f->pae ? *entry64(linear, level) : *entry32(linear, level);
}

void entry_write(const struct format *f, u32 linear, int level, u64 value)
{
	if (f->pae)
		*entry64(linear, level) = value;
	else
		*entry32(linear, level) = (u32)value;
}

void tables_build(const struct format *f)
{
	u64 all = PAGE_P | PAGE_RW | PAGE_US;
	u32 span = f->pae ? 2u << 20 : 4u << 20;
	memset(top, 0, sizeof top);
	memset(directory, 0, sizeof directory);
	memset(low, 0, sizeof low);
	memset(window_table, 0, sizeof window_table);
	memset(user_table, 0, sizeof user_table);
	for (u32 i = 0; f->pae && i < 4; i++)
		((u64 *)top)[i] = (u64)directory[i] | PAGE_P;
	for (u32 a = 0; a < 16u << 20; a += span)
		entry_write(f, a, 2, (u64)low[a / span] | PAGE_P | PAGE_RW);
	for (u32 a = 0; a < 16u << 20; a += PAGE_SIZE)
		entry_write(f, a, 1, a | PAGE_P | PAGE_RW);
	if (!f->large)
		entry_write(f, WINDOW, 2, (u64)window_table | all);
	entry_write(f, USER_PAGE, 2, (u64)user_table | all);
	entry_write(f, USER_PAGE, 1, (u64)user_frame | all);
	memcpy(user_frame, code_start, (size_t)(code_end - code_start));
	memset(frame_a, 0xc3, PAGE_SIZE);
	memset(frame_b, 0xc3, PAGE_SIZE);
}

u32 tables_cr3(const struct format *f)
{
	(void)f;
	return (u32)(u64)top;
}

int leaf_level(const struct format *f)
{
	return f->large ? 2 : 1;
}

static u64 large_mask(const struct format *f)
{
	return f->pae ? (2ul << 20) - 1 : (4ul << 20) - 1;
}

u64 leaf_value(const struct format *f, u64 flags)
{
	return f->large ? ((u64)frame_a & ~large_mask(f)) | PAGE_PS | flags : (u64)frame_a | flags;
}

u32 window_address(const struct format *f)
{
	return f->large ? WINDOW + (u32)((u64)frame_a & large_mask(f)) : WINDOW;
}

struct paged32 prepare(const struct format *f, struct mode m)
{
	return (struct paged32){
		.cr0 = (u32)(read_cr0() & ~CR0_WP) | (m.wp ? (u32)CR0_WP : 0),
		.cr3 = tables_cr3(f),
		.cr4 = (f->pae ? (u32)CR4_PAE : 0) | (f->large || m.pse ? (u32)CR4_PSE : 0) | (m.smep ? (u32)CR4_SMEP : 0) | (m.smap ? (u32)CR4_SMAP : 0)
			| (m.pge ? (u32)CR4_PGE : 0),
		.efer = m.nxe ? (u32)EFER_NXE : 0,
		.flags = (u32)FLAG_1 | (m.ac ? (u32)FLAG_AC : 0),
		.stack = USER_PAGE + PAGE_SIZE,
	};
}

struct paged32 try_access(const struct format *f, struct mode m, enum access access, bool user, u32 address)
{
	struct paged32 r = prepare(f, m);
	r.user = user;
	r.code = user ? USER_PAGE + (u32)(access_code[access] - code_start) : (u32)(u64)access_code[access];
	r.edi = address;
	paged32(&r);
	return r;
}

struct paged32 run_code(const struct format *f, struct mode m, const u8 *code, u32 eax, u32 esi, u32 edi)
{
	struct paged32 r = prepare(f, m);
	r.code = (u32)(u64)code;
	r.eax = eax;
	r.esi = esi;
	r.edi = edi;
	paged32(&r);
	return r;
}

void expect_fault(const char *what, const struct paged32 *r, u32 error_code, u32 cr2)
{
	check(r->vector == VECTOR_PF && r->error_code == error_code && r->cr2 == cr2,
	      "%s: exception %u, error code %x, CR2 %x at %x, should be #PF, %x, %x", what, r->vector, r->error_code, r->cr2, r->end_eip, error_code, cr2);
}

void expect_none(const char *what, const struct paged32 *r)
{
	check(r->vector == PAGED32_END, "%s: exception %u, error code %x, CR2 %x at %x", what, r->vector, r->error_code, r->cr2, r->end_eip);
}

bool has_smep(void)
{
	return cpuid_checked(7, 0).ebx >> 7 & 1;
}

bool has_smap(void)
{
	return cpuid_checked(7, 0).ebx >> 20 & 1;
}

u32 physical_bits(void)
{
	u32 bits = cpuid_checked(0x80000008, 0).eax & 0xff;
	return bits ? bits : 36;
}
