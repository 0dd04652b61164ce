// What the TLB may keep and what it must forget. Nothing here depends on an entry being kept.
#include "paging64.h"

static u8 frame_1[4096] ALIGNED(4096), frame_2[4096] ALIGNED(4096);

static void label_frames(void)
{
	frame_1[0] = 1;
	frame_2[0] = 2;
}

void test_tlb(void)
{
	u64 w = TEST_WINDOW, *entry = map(w, frame_1, PAGE_P | PAGE_RW);
	label_frames();
	check(read8(w) == 1, "first frame");
	*entry = (u64)frame_2 | PAGE_P | PAGE_RW;
	invlpg(w + 123);	// any address in the page
	check(read8(w) == 2, "INVLPG: reads %u", read8(w));
	*entry = (u64)frame_1 | PAGE_P | PAGE_RW;
	write_cr3(read_cr3());
	check(read8(w) == 1, "MOV CR3: reads %u", read8(w));

	// A change above the last level.
	u64 *table = frame_new(), *directory = page_entry(w, 2), saved = *directory;
	if (table) {
		table[0] = (u64)frame_2 | PAGE_P | PAGE_RW;
		*directory = (u64)table | PAGE_P | PAGE_RW | PAGE_US;
		invlpg(w);
		check(read8(w) == 2, "INVLPG after a change of the directory: reads %u", read8(w));
		*directory = saved;
		write_cr3(read_cr3());
		check(read8(w) == 1, "MOV CR3 after a change of the directory: reads %u", read8(w));
	}

	// Writes through CR0, CR4 and EFER that change rights take effect at once.
	*entry = (u64)frame_1 | PAGE_P;
	invlpg(w);
	expect_fault("write with WP", WRITE, false, w, PF_P | PF_W, w);
	write_cr0(read_cr0() & ~CR0_WP);
	expect_none("write without WP", WRITE, false, w);
	write_cr0(read_cr0() | CR0_WP);
	expect_fault("write with WP again", WRITE, false, w, PF_P | PF_W, w);

	// Supervisor and user see the same entry with different eyes, in turns.
	*entry = (u64)frame_a | PAGE_P | PAGE_RW;
	invlpg(w);
	for (int i = 0; i < 3; i++) {
		expect_none("supervisor's page", WRITE, false, w);
		expect_fault("supervisor's page", READ, true, w, PF_P | PF_U, w);
	}
	*entry |= PAGE_US;
	expect_none("user's page, more rights need no INVLPG", READ, true, w);
	if (has_smap()) {
		for (int i = 0; i < 3; i++) {
			set_cr4(CR4_SMAP, true);
			expect_fault("user's page with SMAP", READ, false, w, PF_P, w);
			check(try_access(READ, false, true, w) == NO_TRAP, "user's page with SMAP and AC");
			expect_fault("user's page with SMAP after AC", READ, false, w, PF_P, w);
			expect_none("user's page with SMAP", READ, true, w);
			set_cr4(CR4_SMAP, false);
			expect_none("user's page without SMAP", READ, false, w);
		}
	}

	// Two linear addresses for one frame, and one that is taken away.
	u64 other = w + 16 * PAGE_SIZE, *second = map(other, frame_1, PAGE_P | PAGE_RW);
	map(w, frame_1, PAGE_P | PAGE_RW);
	*(volatile u8 *)w = 9;
	check(read8(other) == 9, "a second address of the frame reads %u", read8(other));
	*second = 0;
	invlpg(other);
	expect_fault("the second address, gone", READ, false, other, 0, other);
	check(read8(w) == 9, "the first address");

	// Many pages, more than a TLB holds, then all mapped otherwise.
	bool right = true;
	for (u64 i = 0; i < 512; i++)
		*page_entry(w + (i << 12), 1) = (u64)(i & 1 ? frame_1 : frame_2) | PAGE_P;
	write_cr3(read_cr3());
	label_frames();
	for (u64 i = 0; i < 512; i++)
		right &= read8(w + (i << 12)) == (i & 1 ? 1 : 2);
	for (u64 i = 0; i < 512; i++) {
		*page_entry(w + (i << 12), 1) = (u64)(i & 1 ? frame_2 : frame_1) | PAGE_P;
		invlpg(w + (i << 12));
	}
	for (u64 i = 0; i < 512; i++)
		right &= read8(w + (i << 12)) == (i & 1 ? 2 : 1);
	check(right, "512 pages mapped otherwise");
	for (u64 i = 0; i < 512; i++)
		*page_entry(w + (i << 12), 1) = 0;
	write_cr3(read_cr3());
}

void test_global(void)
{
	u64 w = TEST_WINDOW;
	if (!(cpuid(1, 0).edx >> 13 & 1)) {
		skip("the processor has no global pages");
		return;
	}
	label_frames();
	set_cr4(CR4_PGE, true);
	u64 *entry = map(w, frame_1, PAGE_P | PAGE_RW | PAGE_G);
	check(read8(w) == 1, "global page");
	*entry = (u64)frame_2 | PAGE_P | PAGE_RW | PAGE_G;
	invlpg(w);
	check(read8(w) == 2, "INVLPG: reads %u", read8(w));
	*entry = (u64)frame_1 | PAGE_P | PAGE_RW | PAGE_G;
	set_cr4(CR4_PGE, false);
	check(read8(w) == 1, "CR4.PGE cleared: reads %u", read8(w));
	set_cr4(CR4_PGE, true);
	check(read8(w) == 1, "CR4.PGE set: reads %u", read8(w));
	*entry = (u64)frame_2 | PAGE_P | PAGE_RW;
	set_cr4(CR4_PGE, false);
	set_cr4(CR4_PGE, true);
	check(read8(w) == 2, "no longer global: reads %u", read8(w));
	*entry = (u64)frame_1 | PAGE_P | PAGE_RW;
	write_cr3(read_cr3());
	check(read8(w) == 1, "MOV CR3 when no longer global: reads %u", read8(w));
	*entry = 0;
	invlpg(w);
	set_cr4(CR4_PGE, false);
}

// ---- PCID

#define NO_FLUSH (1ul << 63)

static bool has_pcid(void)
{
	return cpuid(1, 0).ecx >> 17 & 1;
}

static void write_cr4_trap(void *argument) { write_cr4((u64)argument); }
static void write_cr3_trap(void *argument) { write_cr3((u64)argument); }

// Two address spaces that differ in the test window only.
static u64 space[2], *leaf[2];

static bool make_spaces(void)
{
	space[0] = read_cr3() & PAGE_ADDRESS;
	leaf[0] = map(TEST_WINDOW, frame_1, PAGE_P | PAGE_RW);
	u64 *tables[4];
	for (int i = 0; i < 4; i++)
		if (!(tables[i] = frame_new()))
			return false;
	memcpy(tables[0], (void *)space[0], PAGE_SIZE);
	tables[0][TEST_WINDOW >> 39 & 511] = (u64)tables[1] | PAGE_P | PAGE_RW;
	tables[1][0] = (u64)tables[2] | PAGE_P | PAGE_RW;
	tables[2][0] = (u64)tables[3] | PAGE_P | PAGE_RW;
	tables[3][0] = (u64)frame_2 | PAGE_P | PAGE_RW;
	space[1] = (u64)tables[0];
	leaf[1] = &tables[3][0];
	return true;
}

void test_pcid(void)
{
	u64 w = TEST_WINDOW;
	if (!has_pcid()) {
		skip("the processor has no PCID");
		return;
	}
	label_frames();
	if (!make_spaces()) {
		skip("no page table left");
		return;
	}
	write_cr3(space[0] | 8);
	check(catch_trap(write_cr4_trap, (void *)(read_cr4() | CR4_PCIDE)) == VECTOR_GP, "CR4.PCIDE with CR3[11:0] not 0 is not refused");
	write_cr3(space[0]);
	check(catch_trap(write_cr3_trap, (void *)(space[0] | NO_FLUSH)) == VECTOR_GP, "CR3 bit 63 without PCIDE is not refused");
	write_cr3(space[0]);

	set_cr4(CR4_PCIDE, true);
	write_cr3(space[0] | 1);
	check(read8(w) == 1, "space 0: reads %u", read8(w));
	write_cr3(space[1] | 2);
	check(read8(w) == 2, "space 1: reads %u", read8(w));
	check(read_cr3() == (space[1] | 2), "CR3 reads %lx", read_cr3());
	bool right = true;
	for (int i = 0; i < 20; i++) {
		write_cr3(space[0] | 1 | NO_FLUSH);
		right &= read8(w) == 1;
		write_cr3(space[1] | 2 | NO_FLUSH);
		right &= read8(w) == 2;
	}
	check(right, "switching without flush");
	check(read_cr3() == (space[1] | 2), "bit 63 of CR3 reads as 1");

	// The same PCID for another address space, with a flush.
	write_cr3(space[0] | 2);
	check(read8(w) == 1, "PCID 2 for another space: reads %u", read8(w));
	// A change seen after a switch that flushes, and INVLPG for the own PCID.
	*leaf[0] = (u64)frame_2 | PAGE_P | PAGE_RW;
	invlpg(w);
	check(read8(w) == 2, "INVLPG with PCID: reads %u", read8(w));
	*leaf[0] = (u64)frame_1 | PAGE_P | PAGE_RW;
	write_cr3(space[0] | 1);
	check(read8(w) == 1, "MOV CR3 with flush: reads %u", read8(w));
	// More PCIDs than anybody keeps.
	right = true;
	for (u64 pcid = 0; pcid < 4096; pcid += 13) {
		write_cr3(space[pcid & 1] | pcid);
		right &= read8(w) == (pcid & 1 ? 2 : 1);
	}
	for (u64 pcid = 0; pcid < 4096; pcid += 13) {
		write_cr3(space[pcid & 1] | pcid | NO_FLUSH);
		right &= read8(w) == (pcid & 1 ? 2 : 1);
	}
	check(right, "316 PCIDs");
	write_cr3(space[0]);
	set_cr4(CR4_PCIDE, false);
	check(read8(w) == 1, "PCIDE cleared: reads %u", read8(w));
}

struct invpcid { u64 type, pcid, address; };

static void invpcid(void *argument)
{
	struct invpcid *i = argument;
	asm volatile("invpcid %0, %1" :: "m"(i->pcid), "r"(i->type), "m"(i->address) : "memory");
}

static void do_invpcid(u64 type, u64 pcid, u64 address)
{
	struct invpcid i = { type, pcid, address };
	check(catch_trap(invpcid, &i) == NO_TRAP, "INVPCID %lu %lx %lx faults", type, pcid, address);
}

static void bad_invpcid(const char *what, u64 type, u64 pcid, u64 address)
{
	struct invpcid i = { type, pcid, address };
	int vector = catch_trap(invpcid, &i);
	check(vector == VECTOR_GP && trap.error_code == 0, "%s: exception %d, should be #GP", what, vector);
}

void test_invpcid(void)
{
	u64 w = TEST_WINDOW;
	if (!(cpuid_checked(7, 0).ebx >> 10 & 1) || !has_pcid()) {
		skip("the processor has no INVPCID");
		return;
	}
	label_frames();
	if (!make_spaces()) {
		skip("no page table left");
		return;
	}
	bad_invpcid("type 4", 4, 0, 0);
	bad_invpcid("PCID without PCIDE", 0, 1, w);
	set_cr4(CR4_PCIDE | CR4_PGE, true);
	bad_invpcid("reserved bits of the descriptor", 1, 1ul << 12, 0);
	bad_invpcid("address that is not canonical", 0, 0, beyond_bases());

	for (u64 type = 0; type < 4; type++) {
		*leaf[0] = (u64)frame_1 | PAGE_P | PAGE_RW;
		write_cr3(space[0] | 1);
		check(read8(w) == 1, "PCID 1: reads %u", read8(w));
		write_cr3(space[1] | 2);
		*leaf[0] = (u64)frame_2 | PAGE_P | PAGE_RW;
		do_invpcid(type, 1, w);
		write_cr3(space[0] | 1 | NO_FLUSH);
		check(read8(w) == 2, "type %lu for PCID 1: reads %u", type, read8(w));
	}
	// Type 2 takes global pages too.
	*leaf[0] = (u64)frame_1 | PAGE_P | PAGE_RW | PAGE_G;
	write_cr3(space[0] | 1);
	do_invpcid(2, 0, 0);
	check(read8(w) == 1, "global page: reads %u", read8(w));
	*leaf[0] = (u64)frame_2 | PAGE_P | PAGE_RW | PAGE_G;
	do_invpcid(2, 0, 0);
	check(read8(w) == 2, "type 2 for a global page: reads %u", read8(w));
	*leaf[0] = 0;
	do_invpcid(2, 0, 0);
	write_cr3(space[0]);
	set_cr4(CR4_PCIDE | CR4_PGE, false);
}
