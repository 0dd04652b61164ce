// Bits that must be clear, entries that are not present, and what CR4.PSE means.
#include "paging32.h"
#include "print.h"

#define FULL (PAGE_P | PAGE_RW | PAGE_US)

static void check_reserved(const struct format *f, int level, u64 bit, bool nxe, bool is_reserved)
{
	u32 at = window_address(f);
	struct mode m = { .wp = true, .nxe = nxe };
	u64 saved = entry_read(f, at, level);
	char what[80];
	for (int access = READ; access < ACCESSES; access++)
		for (int user = 0; user < 2; user++) {
			if (bit == PAGE_NX && access == RUN && !is_reserved)
				continue;
			entry_write(f, at, level, saved | bit);
			struct paged32 r = try_access(f, m, (enum access)access, user, at);
			format(what, sizeof what, "%s: %s at ring %d, bit %lx at level %d, NXE %d", f->name, access_name[access], user ? 3 : 0, bit, level, nxe);
			if (is_reserved)
				expect_fault(what, &r, PF_P | PF_RSVD | (writes((enum access)access) ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN && nxe && f->pae ? PF_I : 0), at);
			else
				expect_none(what, &r);
			entry_write(f, at, level, saved);
		}
}

// SDM 3A "32-Bit Paging" and "PAE Paging", the tables of the formats of entries; "Page-Fault Exceptions", the RSVD flag: it comes with P.
// QEMU 7.2 gives it without.
void test_reserved_exactly(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		const struct format *f = &formats[i];
		u32 width = physical_bits();
		tables_build(f);
		entry_write(f, WINDOW, leaf_level(f), leaf_value(f, FULL));
		if (!f->pae) {
			if (f->large)
				check_reserved(f, 2, 1ul << 21, false, true);
			// Bits 11:9 are the system's, and so is bit 8 where there are no global pages.
			for (u64 bit = 1ul << 8; bit < 1ul << 12; bit <<= 1)
				check_reserved(f, leaf_level(f), bit, false, false);
			continue;
		}
		for (int level = leaf_level(f); level <= 2; level++) {
			check_reserved(f, level, 1ul << width, true, true);
			check_reserved(f, level, 1ul << 51, true, true);
			check_reserved(f, level, 1ul << 52, true, true);
			check_reserved(f, level, 1ul << 62, true, true);
			check_reserved(f, level, 1ul << 62, false, true);
			check_reserved(f, level, PAGE_NX, false, true);
			check_reserved(f, level, PAGE_NX, true, false);
			check_reserved(f, level, 1ul << 9, true, false);
		}
		if (f->large)
			for (u64 bit = 1ul << 13; bit < 1ul << 21; bit <<= 1)
				check_reserved(f, 2, bit, true, !(entry_read(f, WINDOW, 2) & bit));
	}
}

// Whatever else stands in an entry that is not present does not matter.
void test_not_present(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		const struct format *f = &formats[i];
		u32 at = window_address(f);
		struct mode m = { .wp = true, .nxe = f->pae };
		tables_build(f);
		entry_write(f, at, leaf_level(f), leaf_value(f, FULL));
		for (int level = leaf_level(f); level <= 2; level++) {
			u64 saved = entry_read(f, at, level);
			for (int access = READ; access < MODIFY; access++)
				for (int user = 0; user < 2; user++) {
					u64 value = (saved | (f->pae ? 3ul << 51 : 1ul << 21)) & ~PAGE_P;
					entry_write(f, at, level, value);
					struct paged32 r = try_access(f, m, (enum access)access, user, at + 5);
					expect_fault(f->name, &r, (writes((enum access)access) ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN && f->pae ? PF_I : 0), at + 5);
					check(entry_read(f, at, level) == value, "%s: an entry that is not present changed", f->name);
				}
			entry_write(f, at, level, saved);
		}
	}
}

// Without CR4.PSE the PS bit of a 32-bit directory entry means nothing; PAE has large pages whatever CR4.PSE says.
void test_size_bit(void)
{
	const struct format *small = &formats[0], *pae = &formats[3];
	struct mode m = { .wp = true };
	tables_build(small);
	entry_write(small, WINDOW, 1, leaf_value(small, FULL));
	entry_write(small, WINDOW, 2, entry_read(small, WINDOW, 2) | PAGE_PS);
	struct paged32 r = try_access(small, m, RUN, false, WINDOW);
	expect_none("PS without CR4.PSE", &r);
	check(entry_read(small, WINDOW, 1) & PAGE_A, "PS without CR4.PSE: the table was not used");
	m.pse = true;
	r = try_access(small, m, WRITE, false, WINDOW + 0x3ffffc);
	check(!(entry_read(small, WINDOW, 2) & PAGE_D) == (r.vector == VECTOR_PF), "PS with CR4.PSE: exception %u, directory entry %lx", r.vector, entry_read(small, WINDOW, 2));

	tables_build(pae);
	entry_write(pae, WINDOW, 2, leaf_value(pae, FULL));
	r = prepare(pae, (struct mode){ .wp = true });
	check(r.cr4 & CR4_PSE, "the format has CR4.PSE set");
	r = try_access(pae, (struct mode){ .wp = true }, RUN, true, window_address(pae));
	expect_none("2 MiB page with CR4.PSE", &r);
	struct format without = { "PAE, 2 MiB without CR4.PSE", true, false };
	r = try_access(&without, (struct mode){ .wp = true }, RUN, true, window_address(pae));
	expect_none("2 MiB page without CR4.PSE", &r);
}

// PSE-36: bits 20:13 of the entry are bits 39:32 of the address. A page beyond RAM shows that they are not ignored.
void test_pse36(void)
{
	const struct format *f = &formats[1];
	if (!(cpuid(1, 0).edx >> 17 & 1)) {
		skip("the processor has no PSE-36");
		return;
	}
	tables_build(f);
	frame_a[0] = 0x5a;
	entry_write(f, WINDOW, 2, leaf_value(f, FULL));
	struct paged32 r = try_access(f, (struct mode){ .wp = true }, READ, false, window_address(f));
	check(r.vector == PAGED32_END && (r.end_eax & 0xff) == 0x5a, "address bits 39:32 clear: exception %u, read %x", r.vector, r.end_eax & 0xff);
	for (u32 bit = 13; bit < 21 && bit - 13 + 32 < physical_bits(); bit++) {
		if (ram_total() > 1ul << (bit + 19))
			continue;
		entry_write(f, WINDOW, 2, leaf_value(f, FULL) | 1ul << bit);
		r = try_access(f, (struct mode){ .wp = true }, READ, false, window_address(f));
		check(r.vector == PAGED32_END && (r.end_eax & 0xff) != 0x5a, "address bit %u: exception %u, read %x", bit + 19, r.vector, r.end_eax & 0xff);
	}
}
