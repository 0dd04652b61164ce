// Rights, accessed and dirty bits over five levels: SDM 3A "4-Level Paging and 5-Level Paging".
#include "paging57.h"

#define FULL (PAGE_P | PAGE_RW | PAGE_US)

struct mode { bool wp, smep, smap, ac; };

static u64 rights_of(int n)
{
	return PAGE_P | (n & 1 ? PAGE_RW : 0) | (n & 2 ? PAGE_US : 0) | (n & 4 ? PAGE_NX : 0);
}

static bool model(u64 rights, u64 above, struct mode m, enum access access, bool user)
{
	bool rw = rights & above & PAGE_RW, us = rights & above & PAGE_US, nx = (rights | above) & PAGE_NX;
	if (access == RUN)
		return nx || (user ? !us : us && m.smep);
	if (user)
		return !us || (access == WRITE && !rw);
	return (us && m.smap && !m.ac) || (access == WRITE && !rw && m.wp);
}

static void check_access(u64 linear, int leaf, int level, struct mode m, enum access access, bool user)
{
	u64 at = linear + 16, above = level ? *entry57(linear, level) : FULL;
	for (int l = leaf; l <= 5; l++)
		*entry57(linear, l) &= ~(PAGE_A | (l == leaf ? PAGE_D : 0));
	write_cr3(read_cr3());
	u64 rights = *entry57(linear, leaf);
	int vector = try_access(access, user, m.ac, at);
	bool fault = model(rights, above, m, access, user);
	u32 code = PF_P | (access == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN ? PF_I : 0);
	check(fault ? vector == VECTOR_PF && trap.error_code == code && trap_cr2 == at : vector == NO_TRAP,
	      "%s at ring %d, entry %lx, level %d %lx, WP %d SMEP %d SMAP %d AC %d: exception %d, error code %lx, CR2 %lx, should %s", access_name[access],
	      user ? 3 : 0, rights, level, above, m.wp, m.smep, m.smap, m.ac, vector, trap.error_code, trap_cr2, fault ? "fault" : "not fault");
	u64 now = *entry57(linear, leaf) & (PAGE_A | PAGE_D);
	check(fault ? !(now & PAGE_D) : now == (PAGE_A | (access == WRITE ? PAGE_D : 0)), "%s at ring %d: accessed and dirty bits are %lx", access_name[access], user ? 3 : 0, now);
	for (int l = leaf + 1; l <= 5 && !fault; l++)
		check(*entry57(linear, l) & PAGE_A, "%s at ring %d: level %d was not marked", access_name[access], user ? 3 : 0, l);
}

static void all_accesses(u64 linear, int leaf, int level)
{
	for (int n = 0; n < 16; n++) {
		struct mode m = { n & 1, n & 2, n & 4, n & 8 };
		if ((m.smep && !has_smep()) || (m.smap && !has_smap()) || (m.ac && !m.smap))
			continue;
		write_cr0(m.wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
		write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | (m.smep ? CR4_SMEP : 0) | (m.smap ? CR4_SMAP : 0));
		for (int access = READ; access < ACCESSES; access++)
			for (int user = 0; user < 2; user++)
				check_access(linear, leaf, level, m, (enum access)access, user);
	}
	write_cr0(read_cr0() | CR0_WP);
	set_cr4(CR4_SMEP | CR4_SMAP, false);
}

static void all_rights(u64 linear, int leaf, u64 frame)
{
	u64 *entry = entry57(linear, leaf), size_bit = leaf > 1 ? PAGE_PS : 0;
	if (!check(entry != 0, "no frame left"))
		return;
	// The leaf's own rights under the fifth level's: those between are paging64's affair, but each level is tried once.
	for (int n = 0; n < 8; n++) {
		*entry = frame | rights_of(n) | size_bit;
		for (int level = n == 3 ? leaf + 1 : 5; level <= 5; level++) {
			u64 *upper = entry57(linear, level), saved = *upper;
			for (int k = 0; k < 8; k++) {
				*upper = (saved & PAGE_ADDRESS) | rights_of(k);
				all_accesses(linear, leaf, level);
			}
			*upper = saved;
		}
	}
	*entry = 0;
	write_cr3(read_cr3());
}

void test_rights_far(void)
{
	if (!has_la57() || !enter_la57()) {
		skip("no 5-level paging");
		return;
	}
	memset(frame_a, 0xc3, PAGE_SIZE);
	all_rights(FAR_WINDOW, 1, (u64)frame_a);
	all_rights(FAR_WINDOW + HUGE_PAGE + ((u64)frame_a & (LARGE_PAGE - 1)), 2, (u64)frame_a & ~(LARGE_PAGE - 1));
	all_rights(~0ul << 55 | HUGE_PAGE, 1, (u64)frame_a);
	leave_la57();
}

void test_not_present_57(void)
{
	if (!has_la57() || !enter_la57()) {
		skip("no 5-level paging");
		return;
	}
	u64 w = FAR_WINDOW;
	*entry57(w, 1) = (u64)frame_a | FULL;
	for (int level = 1; level <= 5; level++) {
		u64 *entry = entry57(w, level), saved = *entry;
		*entry = (saved | 1ul << 51 | PAGE_PS | 1ul << 8) & ~PAGE_P;
		write_cr3(read_cr3());
		for (int access = READ; access < ACCESSES; access++)
			for (int user = 0; user < 2; user++)
				expect_fault("not present", (enum access)access, user, w + 7, (access == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN ? PF_I : 0), w + 7);
		*entry = saved;
	}
	// Where the fifth level has nothing.
	expect_fault("nothing there", READ, false, 0x00fe000000000000, 0, 0x00fe000000000000);
	expect_fault("nothing there", WRITE, true, 0xff01000000000000, PF_W | PF_U, 0xff01000000000000);
	leave_la57();
}

// QEMU 7.2 gives RSVD without P.
void test_reserved_57(void)
{
	if (!has_la57() || !enter_la57()) {
		skip("no 5-level paging");
		return;
	}
	u64 w = FAR_WINDOW;
	u32 width = cpuid_checked(0x80000008, 0).eax & 0xff;
	*entry57(w, 1) = (u64)frame_a | FULL;
	for (int level = 1; level <= 5; level++) {
		u64 *entry = entry57(w, level), saved = *entry;
		u64 bits[] = { level >= 4 ? PAGE_PS : 0, 1ul << width, 1ul << 51 };
		for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
			if (!bits[i])
				continue;
			*entry = saved | bits[i];
			write_cr3(read_cr3());
			expect_fault("reserved bit", READ, false, w, PF_P | PF_RSVD, w);
			expect_fault("reserved bit", WRITE, true, w, PF_P | PF_RSVD | PF_W | PF_U, w);
			expect_fault("reserved bit", RUN, false, w, PF_P | PF_RSVD | PF_I, w);
		}
		// Bits 62:52 and 11:9 are the system's; bit 8 too above the leaf.
		*entry = saved | 0x7ful << 52 | 7ul << 9;
		write_cr3(read_cr3());
		expect_none("ignored bits", READ, false, w);
		*entry = saved;
	}
	leave_la57();
}

void test_tlb_57(void)
{
	if (!has_la57() || !enter_la57()) {
		skip("no 5-level paging");
		return;
	}
	u64 w = FAR_WINDOW, other = FAR_WINDOW + (1ul << 48);
	memset(frame_a, 1, PAGE_SIZE);
	memset(frame_b, 2, PAGE_SIZE);
	*entry57(w, 1) = (u64)frame_a | FULL;
	*entry57(other, 1) = (u64)frame_b | FULL;
	write_cr3(read_cr3());
	// Two addresses that differ in bits 56:48 only.
	for (int i = 0; i < 3; i++)
		check(read8(w) == 1 && read8(other) == 2, "addresses that differ in the fifth level: %u, %u", read8(w), read8(other));
	*entry57(w, 1) = (u64)frame_b | FULL;
	invlpg(w);
	check(read8(w) == 2, "INVLPG: %u", read8(w));
	// The fifth level's entry changes.
	u64 *top = entry57(w, 5), saved = *top;
	*entry57(w, 1) = (u64)frame_a | FULL;
	invlpg(w);
	check(read8(w) == 1, "before: %u", read8(w));
	*top = *entry57(other, 5);
	invlpg(w);
	check(read8(w) == 2, "INVLPG after a change of the fifth level: %u", read8(w));
	*top = saved;
	write_cr3(read_cr3());
	check(read8(w) == 1, "MOV to CR3 after a change of the fifth level: %u", read8(w));
	// An address that is not canonical is nothing for INVLPG.
	invlpg(0x0100000000000000);
	check(read8(w) == 1, "after INVLPG of an address that is not canonical");
	// 4-level paging and back: nothing is left of either.
	leave_la57();
	expect_fault("4-level paging", READ, false, TEST_WINDOW, 0, TEST_WINDOW);
	enter_la57();
	check(read8(w) == 1, "5-level paging again: %u", read8(w));
	leave_la57();
}
