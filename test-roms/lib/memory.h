// The memory map that the loader gave, and the guest's own 4-level page tables.
#pragma once

#include "types.h"

#define PAGE_SIZE 4096ul
#define LARGE_PAGE (2ul << 20)
#define HUGE_PAGE (1ul << 30)

#define PAGE_P (1ul << 0)
#define PAGE_RW (1ul << 1)
#define PAGE_US (1ul << 2)
#define PAGE_PWT (1ul << 3)
#define PAGE_PCD (1ul << 4)
#define PAGE_A (1ul << 5)
#define PAGE_D (1ul << 6)
#define PAGE_PS (1ul << 7)
#define PAGE_G (1ul << 8)
#define PAGE_NX (1ul << 63)
#define PAGE_ADDRESS 0x000ffffffffff000ul

// Nothing is mapped here until a test maps it.
#define TEST_WINDOW 0x0000400000000000ul

struct e820_entry { u64 address, size; u32 type; } PACKED;
#define E820_RAM 1

struct boot_info {
	u64 rsdp;		// 0 if the loader did not say
	int e820_count;
	struct e820_entry e820[128];
	char command_line[512];
	u8 loader;		// type_of_loader of the setup header
};
extern struct boot_info boot_info;

void boot_info_init(const u8 *zero_page);
const char *e820_type_name(u32 type);
// Bytes of all entries of type RAM.
u64 ram_total(void);

// Builds and loads page tables that map the low 4 GiB to themselves, for the supervisor, never cached outside of RAM.
void memory_init(void);
// The linear address of physical memory, which is mapped first where it lies above 4 GiB. 0 if that cannot be.
void *physical(u64 address, u64 bytes);
// A zeroed frame from a small pool, for page tables and tests; 0 when the pool is empty.
u64 *frame_new(void);
void frame_free_all_above(u64 *first);
// The entry of the level (4: PML4E .. 1: PTE) for a linear address; tables on the way are made (P, RW, US).
u64 *page_entry(u64 linear, int level);
void map_page(u64 linear, u64 physical_address, u64 flags);
