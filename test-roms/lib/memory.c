// The loader's memory map and the guest's own page tables.
#include "memory.h"
#include "x86.h"

struct boot_info boot_info;

// Offsets in the zero page: "The Linux/x86 Boot Protocol" and "Zero Page".
#define ZP_ACPI_RSDP 0x070
#define ZP_EXT_CMD_LINE 0x0c8
#define ZP_E820_COUNT 0x1e8
#define ZP_LOADER 0x210
#define ZP_CMD_LINE 0x228
#define ZP_E820_TABLE 0x2d0

// Copies what is needed of the zero page, for it may lie in memory that tests use.
void boot_info_init(const u8 *zero_page)
{
	boot_info.rsdp = load64(zero_page + ZP_ACPI_RSDP);
	boot_info.loader = zero_page[ZP_LOADER];
	boot_info.e820_count = zero_page[ZP_E820_COUNT];
	if (boot_info.e820_count > 128)
		boot_info.e820_count = 128;
	memcpy(boot_info.e820, zero_page + ZP_E820_TABLE, (size_t)boot_info.e820_count * sizeof boot_info.e820[0]);

	u64 line = load32(zero_page + ZP_CMD_LINE) | (u64)load32(zero_page + ZP_EXT_CMD_LINE) << 32;
	if (line && line < 4ul << 30) {
		const char *from = (const char *)line;
		for (size_t i = 0; i < sizeof boot_info.command_line - 1 && from[i]; i++)
			boot_info.command_line[i] = from[i];
	}
}

const char *e820_type_name(u32 type)
{
	switch (type) {
	case 1: return "RAM";
	case 2: return "reserved";
	case 3: return "ACPI data";
	case 4: return "ACPI NVS";
	case 5: return "unusable";
	case 7: return "persistent";
	default: return "other";
	}
}

u64 ram_total(void)
{
	u64 total = 0;
	for (int i = 0; i < boot_info.e820_count; i++)
		if (boot_info.e820[i].type == E820_RAM)
			total += boot_info.e820[i].size;
	return total;
}

static bool is_memory(u64 from, u64 bytes)
{
	for (int i = 0; i < boot_info.e820_count; i++) {
		const struct e820_entry *e = &boot_info.e820[i];
		if (e->type != 2 && from < e->address + e->size && e->address < from + bytes)
			return true;
	}
	return from < 1ul << 20;
}

#define POOL_FRAMES 96
static u64 pool[POOL_FRAMES][512] ALIGNED(4096);
static int pool_used;
static u64 *pml4;

u64 *frame_new(void)
{
	if (pool_used == POOL_FRAMES)
		return 0;
	u64 *frame = pool[pool_used++];
	memset(frame, 0, PAGE_SIZE);
	return frame;
}

void frame_free_all_above(u64 *first)
{
	pool_used = (int)((u64 (*)[512])first - pool);
}

u64 *page_entry(u64 linear, int level)
{
	u64 *table = pml4;
	for (int l = 4;; l--) {
		u64 *entry = &table[linear >> (12 + 9 * (l - 1)) & 511];
		if (l == level)
			return entry;
		if (!(*entry & PAGE_P)) {
			u64 *next = frame_new();
			if (!next)
				return 0;
			*entry = (u64)next | PAGE_P | PAGE_RW | PAGE_US;
		}
		table = (u64 *)(*entry & PAGE_ADDRESS);
	}
}

void map_page(u64 linear, u64 physical_address, u64 flags)
{
	u64 *entry = page_entry(linear, 1);
	if (entry)
		*entry = physical_address | flags;
	invlpg(linear);
}

static bool map_large(u64 address)
{
	u64 *entry = page_entry(address, 2);
	if (!entry)
		return false;
	if (!(*entry & PAGE_P)) {
		u64 uncached = is_memory(address, LARGE_PAGE) ? 0 : PAGE_PCD | PAGE_PWT;
		*entry = address | uncached | PAGE_P | PAGE_RW | PAGE_PS;
	}
	return true;
}

void *physical(u64 address, u64 bytes)
{
	if (!bytes || address + bytes < address || address + bytes > TEST_WINDOW)
		return 0;
	for (u64 a = address & ~(LARGE_PAGE - 1); a < address + bytes; a += LARGE_PAGE)
		if (a >= 4ul << 30 && !map_large(a))
			return 0;
	return (void *)address;
}

void memory_init(void)
{
	pml4 = frame_new();
	for (u64 a = 0; a < 4ul << 30; a += LARGE_PAGE)
		map_large(a);
	write_cr3((u64)pml4);
}
