// Every combination of R/W, U/S and NX in the last entry and in one of those above it, under every combination of CR0.WP, CR4.SMEP,
// CR4.SMAP and RFLAGS.AC, for reads, writes and fetches from ring 0 and ring 3. SDM 3A "Access Rights" and "Page-Fault Exceptions".
#include "paging64.h"

#define FULL (PAGE_P | PAGE_RW | PAGE_US)

struct mode { bool wp, smep, smap, ac; };

static u64 rights_of(int n)
{
	return PAGE_P | (n & 1 ? PAGE_RW : 0) | (n & 2 ? PAGE_US : 0) | (n & 4 ? PAGE_NX : 0);
}

// Whether the access faults. Its error code follows from the access.
static bool model(u64 rights, u64 above, struct mode m, enum access access, bool user)
{
	bool rw = rights & above & PAGE_RW, us = rights & above & PAGE_US, nx = (rights | above) & PAGE_NX;
	if (access == RUN && nx)
		return true;
	if (user)
		return !us || (access == WRITE && !rw);
	if (access == RUN)
		return us && m.smep;
	return (us && m.smap && !m.ac) || (access == WRITE && !rw && m.wp);
}

static u64 error_code(struct mode m, enum access access, bool user)
{
	bool fetch_bit = access == RUN && (has_nx() || m.smep);
	return PF_P | (access == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (fetch_bit ? PF_I : 0);
}

static const char *rights_text(u64 entry)
{
	static char text[2][4];
	static int turn;
	char *t = text[turn ^= 1];
	t[0] = entry & PAGE_RW ? 'w' : '-';
	t[1] = entry & PAGE_US ? 'u' : '-';
	t[2] = entry & PAGE_NX ? '-' : 'x';
	return t;
}

static void check_access(u64 linear, int leaf, int level, struct mode m, enum access access, bool user)
{
	u64 *entry = page_entry(linear, leaf), above = level ? *page_entry(linear, level) : FULL;
	*entry &= ~(PAGE_A | PAGE_D);
	invlpg(linear);
	u64 rights = *entry;

	int vector = try_access(access, user, m.ac, linear + 16);
	bool fault = model(rights, above, m, access, user);
	bool right = fault ? vector == VECTOR_PF && trap.error_code == error_code(m, access, user) && trap_cr2 == linear + 16 : vector == NO_TRAP;
	if (!right) {
		check(false, "%s at ring %d, entry %s, level %d %s, WP %d SMEP %d SMAP %d AC %d: exception %d, error code %lx, should %s", access_name[access],
		      user ? 3 : 0, rights_text(rights), level, rights_text(above), m.wp, m.smep, m.smap, m.ac, vector, trap.error_code,
		      fault ? "fault" : "not fault");
		return;
	}
	u64 flags = *entry & (PAGE_A | PAGE_D), wanted = PAGE_A | (access == WRITE ? PAGE_D : 0);
	check(fault ? !(flags & PAGE_D) : flags == wanted, "%s at ring %d, entry %s: A and D are %lx", access_name[access], user ? 3 : 0, rights_text(rights),
	      flags);
}

static void all_accesses(u64 linear, int leaf, int level)
{
	for (int n = 0; n < 16; n++) {
		struct mode m = { n & 1, n & 2, n & 4, n & 8 };
		if ((m.smep && !has_smep()) || (m.smap && !has_smap()) || (m.ac && !m.smap))
			continue;
		write_cr0(m.wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
		u64 bits = (m.smep ? CR4_SMEP : 0) | (m.smap ? CR4_SMAP : 0);
		write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | bits);
		for (int access = READ; access < ACCESSES; access++)
			for (int user = 0; user < 2; user++)
				check_access(linear, leaf, level, m, (enum access)access, user);
	}
	write_cr0(read_cr0() | CR0_WP);
	set_cr4(CR4_SMEP | CR4_SMAP, false);
}

// Leaf: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
static void all_rights(u64 linear, int leaf, u64 frame)
{
	u64 *entry = page_entry(linear, leaf), size_bit = leaf > 1 ? PAGE_PS : 0;
	if (!entry) {
		skip("no page table left");
		return;
	}
	for (int n = 0; n < 8; n++) {
		if (n & 4 && !has_nx())
			continue;
		*entry = frame | rights_of(n) | size_bit;
		write_cr3(read_cr3());
		all_accesses(linear, leaf, 0);
		for (int level = leaf + 1; level <= 4; level++) {
			u64 *upper = page_entry(linear, level), saved = *upper;
			for (int k = 0; k < 8; k++) {
				if (k & 4 && !has_nx())
					continue;
				*upper = (saved & PAGE_ADDRESS) | rights_of(k);
				write_cr3(read_cr3());
				all_accesses(linear, leaf, level);
			}
			*upper = saved;
			write_cr3(read_cr3());
		}
	}
	*entry = 0;
	write_cr3(read_cr3());
}

void test_rights_4k(void)
{
	all_rights(TEST_WINDOW, 1, (u64)frame_a);
}

// A large page holds this program too: the address within it is that of frame_a.
void test_rights_2m(void)
{
	all_rights(TEST_WINDOW + HUGE_PAGE + ((u64)frame_a & (LARGE_PAGE - 1)), 2, (u64)frame_a & ~(LARGE_PAGE - 1));
}

void test_rights_1g(void)
{
	if (!(cpuid_checked(0x80000001, 0).edx >> 26 & 1)) {
		skip("the processor has no 1 GiB pages");
		return;
	}
	all_rights(TEST_WINDOW + 2 * HUGE_PAGE + ((u64)frame_a & (HUGE_PAGE - 1)), 3, (u64)frame_a & ~(HUGE_PAGE - 1));
}

void test_not_present(void)
{
	u64 w = TEST_WINDOW, fetch = has_nx() ? PF_I : 0;
	map(w, frame_a, FULL);
	for (int level = 1; level <= 4; level++) {
		u64 *entry = page_entry(w, level), saved = *entry;
		// Whatever else is in an entry that is not present does not matter, reserved bits least of all.
		*entry = (saved | 1ul << 51 | PAGE_PS) & ~(PAGE_P | PAGE_A);
		write_cr3(read_cr3());
		for (int user = 0; user < 2; user++) {
			u32 u = user ? PF_U : 0;
			expect_fault("not present", READ, user, w + 5, u, w + 5);
			expect_fault("not present", WRITE, user, w + 5, u | PF_W, w + 5);
			expect_fault("not present", RUN, user, w + 5, u | (u32)fetch, w + 5);
		}
		check(!(*entry & PAGE_A), "accessed bit in an entry of level %d that is not present", level);
		*entry = saved;
		expect_none("present again, without INVLPG", READ, true, w);
	}
}

// QEMU 7.2 reports reserved bits without P.
void test_reserved(void)
{
	u64 w = TEST_WINDOW, width = cpuid_checked(0x80000008, 0).eax & 255;
	map(w, frame_a, FULL);
	for (int level = 1; level <= 4; level++) {
		u64 *entry = page_entry(w, level), saved = *entry;
		for (u64 bit = width; bit < 52; bit++) {
			*entry = saved | 1ul << bit;
			write_cr3(read_cr3());
			expect_fault("reserved address bit", READ, false, w, PF_P | PF_RSVD, w);
			expect_fault("reserved address bit", WRITE, true, w, PF_P | PF_RSVD | PF_W | PF_U, w);
		}
		if (level == 4) {
			*entry = saved | PAGE_PS;
			write_cr3(read_cr3());
			expect_fault("page size bit in a PML4 entry", READ, false, w, PF_P | PF_RSVD, w);
		}
		*entry = saved;
		write_cr3(read_cr3());
	}

	u64 *directory = page_entry(w + HUGE_PAGE, 2);
	for (u64 bit = 13; bit < 21; bit++) {
		*directory = FULL | PAGE_PS | 1ul << bit;
		write_cr3(read_cr3());
		expect_fault("address bit within a 2 MiB page", READ, false, w + HUGE_PAGE, PF_P | PF_RSVD, w + HUGE_PAGE);
	}
	*directory = 0;
	u64 *pdpte = page_entry(w + 3 * HUGE_PAGE, 3);
	bool has_1g = cpuid_checked(0x80000001, 0).edx >> 26 & 1;
	*pdpte = FULL | PAGE_PS | (has_1g ? 1ul << 20 : 0);
	write_cr3(read_cr3());
	expect_fault("reserved bit of a PDPT entry with PS", READ, false, w + 3 * HUGE_PAGE, PF_P | PF_RSVD, w + 3 * HUGE_PAGE);
	*pdpte = 0;

	if (has_nx()) {
		u64 *entry = page_entry(w, 1);
		*entry |= PAGE_NX;
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
		write_cr3(read_cr3());
		expect_fault("NX with EFER.NXE clear", READ, false, w, PF_P | PF_RSVD, w);
		expect_fault("NX with EFER.NXE clear", RUN, false, w, PF_P | PF_RSVD, w);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
		*entry &= ~PAGE_NX;
	}
	write_cr3(read_cr3());
}

void test_accessed_dirty(void)
{
	u64 w = TEST_WINDOW, *entry = map(w, frame_a, FULL);
	for (int access = READ; access < ACCESSES; access++)
		for (int user = 0; user < 2; user++) {
			for (int level = 1; level <= 4; level++)
				*page_entry(w, level) &= ~(PAGE_A | (level == 1 ? PAGE_D : 0));
			write_cr3(read_cr3());
			expect_none("access", (enum access)access, user, w);
			for (int level = 2; level <= 4; level++)
				check((*page_entry(w, level) & PAGE_A) && !(*page_entry(w, level) & PAGE_D), "%s at ring %d: entry of level %d is %lx",
				      access_name[access], user ? 3 : 0, level, *page_entry(w, level));
			u64 wanted = PAGE_A | (access == WRITE ? PAGE_D : 0);
			check((*entry & (PAGE_A | PAGE_D)) == wanted, "%s at ring %d: A and D are %lx, should be %lx", access_name[access], user ? 3 : 0,
			      *entry & (PAGE_A | PAGE_D), wanted);
		}

	// Each kind of write that comes after a read: the TLB has the page as clean.
	static const char *const names[] = { "mov", "add", "xchg", "cmpxchg that fails", "bts", "push", "stosb", "movdqu", "fxsave", "sgdt" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		*entry &= ~(PAGE_A | PAGE_D);
		invlpg(w);
		read8(w);
		check(!(*entry & PAGE_D), "dirty bit after a read");
		u64 rdi = w, rax = 0x1234;
		switch (i) {
		case 0: asm volatile("movl $1, (%0)" :: "r"(w) : "memory"); break;
		case 1: asm volatile("addl $0, (%0)" :: "r"(w) : "memory", "cc"); break;
		case 2: asm volatile("xchg %%eax, (%1)" : "+a"(rax) : "r"(w) : "memory"); break;
		case 3: asm volatile("cmpxchg %%ecx, (%1)" : "+a"(rax) : "r"(w), "c"(0) : "memory", "cc"); break;
		case 4: asm volatile("btsl $0, (%0)" :: "r"(w) : "memory", "cc"); break;
		case 5: asm volatile("mov %%rsp, %%rcx; lea 64(%0), %%rsp; push %%rax; mov %%rcx, %%rsp" :: "r"(w) : "rcx", "memory"); break;
		case 6: asm volatile("stosb" : "+D"(rdi) : "a"(1) : "memory"); break;
		case 7: asm volatile("movdqu %%xmm0, (%0)" :: "r"(w) : "memory"); break;
		case 8: asm volatile("fxsave (%0)" :: "r"(w) : "memory"); break;
		case 9: asm volatile("sgdt (%0)" :: "r"(w) : "memory"); break;
		}
		check((*entry & (PAGE_A | PAGE_D)) == (PAGE_A | PAGE_D), "%s leaves the page clean", names[i]);
	}
	memset(frame_a, 0xc3, PAGE_SIZE);
}
