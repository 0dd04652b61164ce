// Translations: dropped all at once, one by one, and made again from page tables.
#include "bare.h"
#include "memory.h"
#include "x86.h"

enum { PAGES = 64 };
static u8 frames[2][PAGES][4096] ALIGNED(4096);

static u64 window(u64 page)
{
	return TEST_WINDOW + page * PAGE_SIZE;
}

static void map_all(u64 which)
{
	for (u64 k = 0; k < PAGES; k++) {
		for (u64 n = 0; n < 2; n++)
			*(volatile u64 *)frames[n][k] = n * 1000 + k;
		map_page(window(k), (u64)frames[which][k], PAGE_P | PAGE_RW);
	}
	write_cr3(read_cr3());
}

// A process switch as the MMU sees it: everything goes, then a few pages are used.
u64 run_cr3(void)
{
	u64 hash = 0, cr3 = read_cr3();
	map_all(0);
	for (u64 n = 0; n < 20000; n++) {
		write_cr3(cr3);
		for (u64 k = 0; k < 8; k++)
			hash += read64(window((n + k * 5) % PAGES));
	}
	return hash;
}

// One page after the other is mapped to its other frame.
u64 run_invlpg(void)
{
	u64 hash = 0;
	map_all(0);
	u64 *entries = page_entry(window(0), 1);
	for (u64 n = 0; n < 50000; n++) {
		u64 k = n * 5 % PAGES;
		hash += read64(window(k));
		entries[k] = (u64)frames[n / PAGES & 1][k] | PAGE_P | PAGE_RW;
		asm volatile("invlpg (%0)" :: "r"(window(k)) : "memory");
		hash = mix(hash, read64(window(k)));
	}
	return hash;
}

// More pages than any TLB holds, each one used again only after all others: 64 frames seen at 32 MiB of addresses.
u64 run_walk(void)
{
	enum { WIDE = 8192 };
	static bool mapped;
	if (!mapped) {
		map_all(0);
		for (u64 k = 0; k < WIDE; k++)
			map_page(window(k), (u64)frames[k / 64 & 1][k % PAGES], PAGE_P | PAGE_RW);
		write_cr3(read_cr3());
		mapped = true;
	}
	u64 sum = 0, page = 0;
	for (u64 n = 0; n < 100000; n++) {
		sum += read64(window(page));
		page = (page + 1237) % WIDE;
	}
	return sum;
}
