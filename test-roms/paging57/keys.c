// Protection keys of user pages: SDM 3A "Protection Keys", "Page-Fault Exceptions".
#include "paging57.h"

static u32 rdpkru(void)
{
	u32 v, high;
	asm volatile("rdpkru" : "=a"(v), "=d"(high) : "c"(0));
	return high ? ~0u : v;
}

static void wrpkru(u32 v)
{
	asm volatile("wrpkru" :: "a"(v), "c"(0), "d"(0) : "memory");
}

static bool denies(u32 pkru, u32 key, u64 rights, bool wp, enum access access, bool user)
{
	u32 bits = pkru >> 2 * key & 3;
	if (access == RUN || !(rights & PAGE_US))
		return false;
	return (bits & 1) || ((bits & 2) && access == WRITE && (user || wp));
}

static bool model(u64 rights, bool wp, bool smap, bool smep, enum access access, bool user)
{
	bool rw = rights & PAGE_RW, us = rights & PAGE_US;
	if (access == RUN)
		return (rights & PAGE_NX) || (user ? !us : us && smep);
	if (user)
		return !us || (access == WRITE && !rw);
	return (us && smap) || (access == WRITE && !rw && wp);
}

static void check_key(u64 linear, u32 key, u64 rights, u32 pkru, bool wp, bool smap, enum access access, bool user, bool enabled)
{
	bool pk = enabled && denies(pkru, key, rights, wp, access, user), other = model(rights, wp, smap, false, access, user);
	u32 code = PF_P | (access == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (access == RUN ? PF_I : 0) | (pk ? PF_PK : 0);
	int vector = try_access(access, user, false, linear);
	check(pk || other ? vector == VECTOR_PF && trap.error_code == code && trap_cr2 == linear : vector == NO_TRAP,
	      "%s at ring %d, rights %lx, key %u, PKRU %x, WP %d SMAP %d PKE %d: exception %d, error code %lx, should %s %x", access_name[access], user ? 3 : 0, rights, key, pkru,
	      wp, smap, enabled, vector, trap.error_code, pk || other ? "be #PF" : "be none", code);
}

static void all_keys(u64 *(*entry_of)(u64, int), u64 linear, bool enabled)
{
	u64 *entry = entry_of(linear, 1);
	for (u32 key = 0; key < 16; key += key == 0 || key == 14 ? 1 : 13)
		for (int n = 0; n < 8; n++) {
			u64 rights = PAGE_P | (n & 1 ? PAGE_RW : 0) | (n & 2 ? PAGE_US : 0) | (n & 4 ? PAGE_NX : 0);
			*entry = (u64)frame_a | rights | (u64)key << 59;
			invlpg(linear);
			for (int mode = 0; mode < 4; mode++) {
				bool wp = mode & 1, smap = mode & 2 && has_smap();
				write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
				set_cr4(CR4_SMAP, smap);
				// The key's two bits, and all others the opposite. User code and stack have key 0: it may be denied writes only
				// where ring 3 writes nothing else.
				for (u32 bits = 0; bits < 4; bits++) {
					u32 others = key == 0 ? 0xfffffffc : ~(3u << 2 * key) & 0xfffffffc;
					for (u32 rest = 0; rest < 2; rest++) {
						u32 pkru = bits << 2 * key | (rest ? others : 0);
						for (int access = READ; access < ACCESSES; access++)
							for (int user = 0; user < 2; user++) {
								if (enabled)
									wrpkru(pkru);
								// CALL pushes on the user's stack.
								if (user && access == RUN && key == 0 && bits)
									continue;
								check_key(linear, key, rights, pkru, wp, smap, (enum access)access, user, enabled);
							}
					}
				}
				if (enabled)
					wrpkru(0);
			}
		}
	set_cr4(CR4_SMAP, false);
	write_cr0(read_cr0() | CR0_WP);
	*entry = 0;
	invlpg(linear);
}

void test_key_rights(void)
{
	if (!has_pku()) {
		skip("no protection keys");
		return;
	}
	memset(frame_a, 0xc3, PAGE_SIZE);
	set_cr4(CR4_PKE, true);
	all_keys(page_entry, TEST_WINDOW, true);
	// Without CR4.PKE nothing of it holds, whatever PKRU is.
	wrpkru(~0u);
	set_cr4(CR4_PKE, false);
	all_keys(page_entry, TEST_WINDOW, false);
	set_cr4(CR4_PKE, true);
	wrpkru(0);
	set_cr4(CR4_PKE, false);
	if (has_la57() && enter_la57()) {
		set_cr4(CR4_PKE, true);
		all_keys(entry57, FAR_WINDOW, true);
		set_cr4(CR4_PKE, false);
		leave_la57();
	}

	// A large page's key, and one that changes with INVLPG.
	set_cr4(CR4_PKE, true);
	u64 linear = TEST_WINDOW + HUGE_PAGE + ((u64)frame_a & (LARGE_PAGE - 1)), *entry = page_entry(linear, 2);
	*entry = ((u64)frame_a & ~(LARGE_PAGE - 1)) | PAGE_P | PAGE_RW | PAGE_US | PAGE_PS | 5ul << 59;
	wrpkru(1u << 10);
	expect_fault("large page with key 5", READ, false, linear, PF_P | PF_PK, linear);
	wrpkru(1u << 12);
	expect_none("large page with key 5", READ, true, linear);
	*entry = (*entry & ~(15ul << 59)) | 6ul << 59;
	invlpg(linear);
	expect_fault("large page with key 6", READ, true, linear, PF_P | PF_PK | PF_U, linear);
	wrpkru(2u << 12);
	expect_none("large page with key 6", READ, true, linear);
	expect_fault("large page with key 6", WRITE, true, linear, PF_P | PF_PK | PF_U | PF_W, linear);
	wrpkru(0);
	expect_none("large page with key 6", WRITE, true, linear);
	*entry = 0;
	write_cr3(read_cr3());
	set_cr4(CR4_PKE, false);
}

static void read_pkru(void *argument)
{
	asm volatile("rdpkru" :: "c"(argument) : "rax", "rdx");
}

static void write_pkru(void *argument)
{
	u64 *v = argument;
	asm volatile("wrpkru" :: "a"(v[0]), "c"(v[1]), "d"(v[2]) : "memory");
}

void test_key_registers(void)
{
	if (!has_pku()) {
		skip("no protection keys");
		return;
	}
	u64 zero[3] = { 0 }, ecx[3] = { 0, 1, 0 }, edx[3] = { 0, 0, 1 };
	check(!(cpuid_checked(7, 0).ecx >> 4 & 1), "OSPKE without CR4.PKE");
	check(catch_trap(read_pkru, 0) == VECTOR_UD, "RDPKRU without CR4.PKE: exception %lu", trap.vector);
	check(catch_trap(write_pkru, zero) == VECTOR_UD, "WRPKRU without CR4.PKE: exception %lu", trap.vector);
	set_cr4(CR4_PKE, true);
	check(cpuid_checked(7, 0).ecx >> 4 & 1, "no OSPKE with CR4.PKE");
	check(catch_trap(read_pkru, (void *)1) == VECTOR_GP, "RDPKRU with ECX of 1: exception %lu", trap.vector);
	check(catch_trap(write_pkru, ecx) == VECTOR_GP, "WRPKRU with ECX of 1: exception %lu", trap.vector);
	check(catch_trap(write_pkru, edx) == VECTOR_GP, "WRPKRU with EDX of 1: exception %lu", trap.vector);
	wrpkru(0xfffffffc);
	check_eq(rdpkru(), 0xfffffffc, "PKRU");
	set_cr4(CR4_PKE, false);
	set_cr4(CR4_PKE, true);
	check_eq(rdpkru(), 0xfffffffc, "PKRU after CR4.PKE was clear");
	wrpkru(0);
	set_cr4(CR4_PKE, false);
}
