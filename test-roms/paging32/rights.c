// Every combination of rights in directory and table under every combination of CR0.WP, SMEP, SMAP, AC and NXE, for every kind of access
// from ring 0 and 3. SDM 3A "Access Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags".
#include "paging32.h"

static u64 rights_of(int n)
{
	return PAGE_P | (n & 1 ? PAGE_RW : 0) | (n & 2 ? PAGE_US : 0) | (n & 4 ? PAGE_NX : 0);
}

static bool model(u64 leaf, u64 above, struct mode m, enum access access, bool user)
{
	bool rw = leaf & above & PAGE_RW, us = leaf & above & PAGE_US, nx = (leaf | above) & PAGE_NX;
	if (access == RUN)
		return nx || (user ? !us : us && m.smep);
	if (user)
		return !us || (writes(access) && !rw);
	return (us && m.smap && !m.ac) || (writes(access) && !rw && m.wp);
}

static void check_access(const struct format *f, u64 leaf, u64 above, struct mode m, enum access access, bool user)
{
	u32 at = window_address(f) + 16;
	entry_write(f, at, leaf_level(f), leaf);
	if (!f->large)
		entry_write(f, at, 2, above);
	struct paged32 r = try_access(f, m, access, user, at);
	bool fault = model(leaf, f->large ? leaf : above, m, access, user);
	u32 code = PF_P | (writes(access) ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN && ((m.nxe && f->pae) || m.smep) ? PF_I : 0);
	bool right = fault ? r.vector == VECTOR_PF && r.error_code == code && r.cr2 == at : r.vector == PAGED32_END;
	check(right, "%s at ring %d, entries %lx %lx, WP %d SMEP %d SMAP %d AC %d NXE %d: exception %u, error code %x, CR2 %x, should %s", access_name[access],
	      user ? 3 : 0, above, leaf, m.wp, m.smep, m.smap, m.ac, m.nxe, r.vector, r.error_code, r.cr2, fault ? "fault" : "not fault");
	u64 now = entry_read(f, at, leaf_level(f)), wanted = leaf | PAGE_A | (writes(access) ? PAGE_D : 0);
	check(fault ? (now & ~PAGE_A) == leaf : now == wanted, "%s at ring %d: the entry %lx became %lx", access_name[access], user ? 3 : 0, leaf, now);
	if (!f->large && !fault) {
		now = entry_read(f, at, 2);
		check(now == (above | PAGE_A), "%s at ring %d: the directory's entry %lx became %lx", access_name[access], user ? 3 : 0, above, now);
	}
}

static void all_accesses(const struct format *f, u64 leaf, u64 above, bool nxe, enum access first, enum access end)
{
	for (int n = 0; n < 16; n++) {
		struct mode m = { .wp = n & 1, .smep = n & 2, .smap = n & 4, .ac = n & 8, .nxe = nxe };
		if ((m.smep && !has_smep()) || (m.smap && !has_smap()) || (m.ac && !m.smap))
			continue;
		for (int access = (int)first; access < (int)end; access++)
			for (int user = 0; user < 2; user++)
				check_access(f, leaf, above, m, (enum access)access, user);
	}
}

static void all_rights(const struct format *f, enum access first, enum access end)
{
	tables_build(f);
	u64 above = f->large ? 0 : entry_read(f, WINDOW, 2) & ~(PAGE_P | PAGE_RW | PAGE_US);
	for (int leaf = 0; leaf < 8; leaf++)
		for (int k = 0; k < (f->large ? 1 : 8); k++) {
			bool nx = (leaf | k) & 4;
			if (nx && !f->pae)
				continue;
			for (int nxe = nx; nxe < 2; nxe++)
				all_accesses(f, leaf_value(f, rights_of(leaf)), above | rights_of(k), nxe, first, end);
		}
}

void test_rights_of(const struct format *f)
{
	all_rights(f, READ, MODIFY);
}

// QEMU 7.2 reports the read of a read-modify-write as a read.
void test_modify_exactly(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		all_rights(&formats[i], MODIFY, ACCESSES);
}
