// PDPTE registers: SDM 3A "PDPTE Registers". They are loaded by MOV to CR3 and by changes of CR0 and CR4 that enter PAE paging.
#include "paging32.h"

extern u8 code_load_cr3[], code_change_pdpte[], code_reload_pdpte[], code_toggle[];
asm(".text\n.code32\n"
    "code_load_cr3: mov %edi, %cr3; int $0x80\n"
    // A PDPTE changes in memory; INVLPG does not load it again.
    "code_change_pdpte: mov (%edi), %bl; mov %eax, (%esi); invlpg (%edi); mov (%edi), %bh; int $0x80\n"
    "code_reload_pdpte: mov (%edi), %bl; mov %eax, (%esi); mov %cr3, %ecx; mov %ecx, %cr3; mov (%edi), %bh; int $0x80\n"
    // CR4.PGE changes, in PAE paging: a load too.
    "code_toggle: mov (%edi), %bl; mov %eax, (%esi); mov %cr4, %ecx; xor $0x80, %ecx; mov %ecx, %cr4; mov (%edi), %bh; int $0x80\n"
    ".code64\n");

static const struct format *const f = &formats[2];
static const struct mode plain = { .wp = true, .nxe = true };
static u64 bad_pdpt[4] ALIGNED(32);

void test_pdpte(void)
{
	tables_build(f);
	entry_write(f, WINDOW, 1, leaf_value(f, PAGE_P | PAGE_RW | PAGE_US));
	// The rights come from directory and table: a PDPTE has none, and no accessed bit.
	struct paged32 r = try_access(f, plain, WRITE, true, WINDOW);
	expect_none("write by way of a PDPTE with P alone", &r);

	u64 saved = entry_read(f, WINDOW, 3);
	entry_write(f, WINDOW, 3, saved & ~PAGE_P);
	for (int access = READ; access < MODIFY; access++) {
		r = try_access(f, plain, (enum access)access, false, WINDOW);
		expect_fault("PDPTE not present", &r, (writes((enum access)access) ? PF_W : 0) | (access == RUN ? PF_I : 0), WINDOW);
	}
	// The user page has the same PDPTE.
	r = try_access(f, plain, READ, true, 0xc0000000);
	expect_fault("ring 3's code behind a PDPTE not present", &r, PF_U | PF_I, USER_PAGE);
	// Ignored bits: 11:9. And in one that is not present, all others.
	entry_write(f, WINDOW, 3, ~1ul);
	r = try_access(f, plain, READ, false, WINDOW);
	expect_fault("PDPTE of all ones but P", &r, 0, WINDOW);
	entry_write(f, WINDOW, 3, saved | 0xe00 | PAGE_PWT | PAGE_PCD);
	r = try_access(f, plain, READ, true, WINDOW);
	expect_none("PDPTE with bits 11:9, PWT and PCD", &r);
	entry_write(f, WINDOW, 3, saved);

	// The table is aligned to 32 bytes, not to a page.
	memcpy(bad_pdpt, (void *)entry_address(f, 0, 3), sizeof bad_pdpt);
	r = run_code(f, plain, code_load_cr3, 0, 0, (u32)(u64)bad_pdpt);
	expect_none("MOV to CR3 with a table on a 32-byte boundary", &r);
	r = run_code(f, plain, code_load_cr3, 0, 0, (u32)(u64)bad_pdpt | 0x1f);
	expect_none("MOV to CR3 with bits 4:0 set", &r);

	r = run_code(f, plain, code_reload_pdpte, 0, (u32)entry_address(f, WINDOW, 3), WINDOW);
	expect_fault("PDPTE cleared, CR3 loaded", &r, 0, WINDOW);
	entry_write(f, WINDOW, 3, saved);
	struct mode no_global = plain;
	r = run_code(f, no_global, code_toggle, 0, (u32)entry_address(f, WINDOW, 3), WINDOW);
	expect_fault("PDPTE cleared, CR4.PGE changed", &r, 0, WINDOW);
	entry_write(f, WINDOW, 3, saved);
}

// QEMU 7.2 reads PDPTEs in each walk, does not check them, and sets their bit 5; this ends it.
void test_pdpte_exactly(void)
{
	tables_build(f);
	entry_write(f, WINDOW, 1, leaf_value(f, PAGE_P | PAGE_RW | PAGE_US));
	struct paged32 r = run_code(f, plain, code_change_pdpte, 0, (u32)entry_address(f, WINDOW, 3), WINDOW);
	expect_none("PDPTE cleared in memory only", &r);
	check(r.end_ebx >> 8 == (r.end_ebx & 0xff), "PDPTE cleared in memory only: reads %x", r.end_ebx);
	tables_build(f);
	entry_write(f, WINDOW, 1, leaf_value(f, PAGE_P | PAGE_RW | PAGE_US));
	r = try_access(f, plain, WRITE, true, WINDOW);
	check((entry_read(f, WINDOW, 3) & ~PAGE_ADDRESS) == PAGE_P, "the PDPTE became %lx", entry_read(f, WINDOW, 3));

	tables_build(f);
	entry_write(f, WINDOW, 1, leaf_value(f, PAGE_P | PAGE_RW | PAGE_US));
	u32 width = physical_bits();
	for (u32 bit = 1; bit < 64; bit++) {
		bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= width;
		if (!reserved && bit >= 12)
			continue;
		for (int which = 0; which < 4; which++) {
			memcpy(bad_pdpt, (void *)entry_address(f, 0, 3), sizeof bad_pdpt);
			bad_pdpt[which] |= 1ul << bit;
			r = run_code(f, plain, code_load_cr3, 0, 0, (u32)(u64)bad_pdpt);
			check(r.vector == (reserved ? VECTOR_GP : PAGED32_END) && (!reserved || r.error_code == 0), "PDPTE %d with bit %u: exception %u, error code %x", which, bit,
			      r.vector, r.error_code);
			if (which == 0)
				continue;	// maps this program
			bad_pdpt[which] &= ~1ul;
			r = run_code(f, plain, code_load_cr3, 0, 0, (u32)(u64)bad_pdpt);
			check(r.vector == PAGED32_END, "PDPTE %d, not present, with bit %u: exception %u", which, bit, r.vector);
		}
	}
	// CR0.PG enters PAE paging, and faults by itself.
	for (u32 bit = 1; bit < 64; bit += bit == 1 ? 4 : 58) {
		u64 saved = entry_read(f, WINDOW, 3);
		entry_write(f, WINDOW, 3, saved | 1ul << bit);
		r = try_access(f, plain, READ, false, WINDOW);
		check(r.vector == VECTOR_GP && r.error_code == 0, "paging switched on with bit %u in a PDPTE: exception %u", bit, r.vector);
		entry_write(f, WINDOW, 3, saved);
	}
}
