// Page protection, accessed and dirty bits, large pages, TLB, SMEP and SMAP.
#include "interrupts.h"
#include "memory.h"
#include "selftest.h"

#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_I 16

static u8 frames[4][4096] ALIGNED(4096);

static void read_it(void *argument) { asm volatile("movb (%0), %%al" :: "r"(argument) : "rax"); }
static void write_it(void *argument) { asm volatile("movb $0xc3, (%0)" :: "r"(argument) : "memory"); }
static void add_to_it(void *argument) { asm volatile("lock addl $0, (%0)" :: "r"(argument) : "memory", "cc"); }
static void run_it(void *argument) { asm volatile("call *%0" :: "r"(argument) : "memory"); }
static void write_wide(void *argument) { asm volatile("movl $0, (%0)" :: "r"(argument) : "memory"); }
static void compare_wide(void *argument)
{
	asm volatile("cmpq $0, (%0)" :: "r"(argument) : "memory", "cc");
}

static void expect_fault(const char *what, void (*body)(void *), u64 address, u64 error_code, u64 cr2)
{
	int vector = catch_trap(body, (void *)address);
	check(vector == VECTOR_PF && trap.error_code == error_code && trap_cr2 == cr2,
	      "%s: exception %d, error code %lx, CR2 %lx, should be #PF, %lx, %lx", what, vector, trap.error_code, trap_cr2, error_code, cr2);
}

static void expect_none(const char *what, void (*body)(void *), u64 address)
{
	int vector = catch_trap(body, (void *)address);
	check(vector == NO_TRAP, "%s: exception %d, error code %lx, CR2 %lx", what, vector, trap.error_code, trap_cr2);
}

// Page 0 of the window is writable, 1 unmapped, 2 read-only, 3 writable and not executable.
static void set_window(void)
{
	for (u64 i = 0; i < 4; i++)
		memset(frames[i], 0xc3, PAGE_SIZE);	// RET
	u64 nx = rdmsr(MSR_EFER) & EFER_NXE ? PAGE_NX : 0;
	map_page(TEST_WINDOW, (u64)frames[0], PAGE_P | PAGE_RW);
	map_page(TEST_WINDOW + PAGE_SIZE, 0, 0);
	map_page(TEST_WINDOW + 2 * PAGE_SIZE, (u64)frames[2], PAGE_P);
	map_page(TEST_WINDOW + 3 * PAGE_SIZE, (u64)frames[3], PAGE_P | PAGE_RW | nx);
}

static void try_rep_movsb(void *argument)
{
	u64 *r = argument;
	asm volatile("rep movsb" :: "S"(r[0]), "D"(r[1]), "c"(r[2]) : "memory");
}

void test_paging(void)
{
	u64 w = TEST_WINDOW, unmapped = w + PAGE_SIZE, read_only = w + 2 * PAGE_SIZE, no_execute = w + 3 * PAGE_SIZE;
	set_window();

	expect_none("read of a writable page", read_it, w);
	expect_none("write to a writable page", write_it, w);
	expect_none("run a writable page", run_it, w);
	expect_fault("read of an unmapped page", read_it, unmapped + 5, 0, unmapped + 5);
	expect_fault("write to an unmapped page", write_it, unmapped + 5, PF_W, unmapped + 5);
	u64 nx = rdmsr(MSR_EFER) & EFER_NXE ? PF_I : 0;
	expect_fault("run an unmapped page", run_it, unmapped, nx, unmapped);
	expect_fault("an empty PML4 entry", read_it, 0x0000600000001234, 0, 0x0000600000001234);
	expect_none("read of a read-only page", read_it, read_only);
	expect_fault("write to a read-only page", write_it, read_only + 9, PF_P | PF_W, read_only + 9);
	expect_fault("locked write of what is there to a read-only page", add_to_it, read_only, PF_P | PF_W, read_only);
	if (nx) {
		expect_none("write to a page that is not executable", write_it, no_execute);
		expect_fault("run a page that is not executable", run_it, no_execute, PF_P | PF_I, no_execute);
	}

	// CR0.WP decides whether the supervisor minds.
	write_cr0(read_cr0() & ~CR0_WP);
	expect_none("write to a read-only page with CR0.WP clear", write_it, read_only);
	write_cr0(read_cr0() | CR0_WP);
	expect_fault("the same with CR0.WP set again", write_it, read_only, PF_P | PF_W, read_only);

	// An access over two pages faults at the second one, and writes nothing.
	u64 across = unmapped - 3;
	expect_fault("read across into an unmapped page", compare_wide, across, 0, unmapped);
	frames[0][4094] = frames[0][4095] = 0x11;
	expect_fault("write across into an unmapped page", write_wide, unmapped - 2, PF_W, unmapped);
	check(frames[0][4094] == 0x11 && frames[0][4095] == 0x11, "a faulting store wrote its first part");

	u64 *entry = page_entry(w, 1);
	// INVLPG makes a change seen; more rights than the TLB has need none, for the processor walks again before it faults.
	expect_none("write before the page becomes read-only", write_it, w);
	*entry &= ~PAGE_RW;
	invlpg(w);
	expect_fault("write after the page became read-only", write_it, w, PF_P | PF_W, w);
	*entry |= PAGE_RW;
	expect_none("write after the page became writable, without INVLPG", write_it, w);
	*entry = 0;
	invlpg(w);
	expect_fault("read after the page went", read_it, w, 0, w);
	*entry = (u64)frames[1] | PAGE_P | PAGE_RW;
	frames[1][0] = 0x77;
	check(read8(w) == 0x77, "page mapped again, without INVLPG: %x", read8(w));

	// Rights are the AND of all levels.
	u64 *directory = page_entry(w, 2);
	*directory &= ~PAGE_RW;
	write_cr3(read_cr3());
	expect_fault("write below a read-only page directory entry", write_it, w, PF_P | PF_W, w);
	*directory |= PAGE_RW;
	write_cr3(read_cr3());
	if (nx) {
		*directory |= PAGE_NX;
		write_cr3(read_cr3());
		expect_fault("run below a page directory entry with NX", run_it, w, PF_P | PF_I, w);
		*directory &= ~PAGE_NX;
		write_cr3(read_cr3());
	}

	// REP MOVSB stops exactly where the fault is, its registers say how far it came.
	set_window();
	u64 rsi = (u64)frames[2], rdi = unmapped - 10, rcx = 100;
	u64 registers[3] = { rsi, rdi, rcx };
	int vector = catch_trap(try_rep_movsb, registers);
	check(vector == VECTOR_PF && trap.error_code == PF_W && trap_cr2 == unmapped && trap.rcx == 90 && trap.rdi == unmapped
	      && trap.rsi == rsi + 10, "rep movsb into an unmapped page: exception %d, rcx %lu, rdi %lx", vector, trap.rcx, trap.rdi);
}

// ---- Accessed and dirty

void test_accessed_dirty(void)
{
	u64 w = TEST_WINDOW, mask = PAGE_A | PAGE_D;
	set_window();
	for (int level = 4; level >= 2; level--)
		*page_entry(w, level) &= ~PAGE_A;
	volatile u64 *entry = page_entry(w, 1);
	write_cr3(read_cr3());
	*entry &= ~mask;
	invlpg(w);

	read8(w);
	check_eq(*entry & mask, PAGE_A, "after a read");
	for (int level = 4; level >= 2; level--)
		check(*page_entry(w, level) & PAGE_A, "accessed bit of level %d", level);
	*(volatile u8 *)w = 1;
	check_eq(*entry & mask, PAGE_A | PAGE_D, "after a write");

	*entry &= ~mask;
	invlpg(w);
	*(volatile u8 *)w = 1;
	check_eq(*entry & mask, PAGE_A | PAGE_D, "after a write at once");

	// A page that is in the TLB as clean needs its dirty bit set by the first write.
	*entry &= ~mask;
	invlpg(w);
	read8(w);
	read8(w + 8);
	check_eq(*entry & PAGE_D, 0, "dirty bit after reads");
	asm volatile("lock orb $0, (%0)" :: "r"(w) : "memory", "cc");
	check_eq(*entry & PAGE_D, PAGE_D, "dirty bit after a locked OR of nothing");

	// CMPXCHG writes even where it does not exchange.
	*entry &= ~mask;
	invlpg(w);
	u64 a = 0x1234567;
	asm volatile("lock cmpxchg %2, (%1)" : "+a"(a) : "r"(w), "r"(0ul) : "memory", "cc");
	check_eq(*entry & PAGE_D, PAGE_D, "dirty bit after a CMPXCHG that did not exchange");

	// Instruction fetch sets the accessed bit; a refused write sets no dirty bit.
	*entry &= ~mask;
	invlpg(w);
	*(u8 *)frames[0] = 0xc3;
	run_it((void *)w);
	check_eq(*entry & mask, PAGE_A, "after running the page");
	volatile u64 *read_only = page_entry(w + 2 * PAGE_SIZE, 1);
	*read_only &= ~mask;
	invlpg(w + 2 * PAGE_SIZE);
	expect_fault("write to a read-only page", write_it, w + 2 * PAGE_SIZE, PF_P | PF_W, w + 2 * PAGE_SIZE);
	check_eq(*read_only & PAGE_D, 0, "dirty bit after a refused write");
	// CR2 keeps what the program writes, too.
	write_cr2(0x123456789abc);
	check_eq(read_cr2(), 0x123456789abc, "CR2");
}

// ---- Large pages

void test_large_pages(void)
{
	// The 2 MiB page of this program at another address, in a page directory of its own.
	u64 w = TEST_WINDOW + HUGE_PAGE, image = (u64)frames & ~(LARGE_PAGE - 1);
	u64 *entry = page_entry(w, 2);
	if (!entry) {
		skip("no page table left");
		return;
	}
	frames[1][17] = 0x5a;
	u64 at = w + ((u64)frames[1] & (LARGE_PAGE - 1)) + 17;
	*entry = image | PAGE_P | PAGE_RW | PAGE_PS;
	invlpg(w);
	check_eq(read8(at), 0x5a, "read by a 2 MiB page");
	check_eq(*entry & (PAGE_A | PAGE_D), PAGE_A, "its accessed bit");
	*(volatile u8 *)at = 0x5b;
	check_eq(frames[1][17], 0x5b, "write by a 2 MiB page");
	check_eq(*entry & (PAGE_A | PAGE_D), PAGE_A | PAGE_D, "its dirty bit");
	*entry = image | PAGE_P | PAGE_PS;
	invlpg(w + 4096);	// one address of the page is enough
	expect_fault("write to a read-only 2 MiB page", write_it, at, PF_P | PF_W, at);

	// The 2 MiB page becomes a table of 4 KiB pages.
	u64 *table = frame_new();
	if (table) {
		for (u64 i = 0; i < 512; i++)
			table[i] = (image + i * PAGE_SIZE) | PAGE_P | PAGE_RW;
		*entry = (u64)table | PAGE_P | PAGE_RW;
		invlpg(w);
		check_eq(read8(at), 0x5b, "read after the page was split");
		table[(at >> 12) & 511] = 0;
		invlpg(at);
		expect_fault("read of the part that went", read_it, at, 0, at);
	}
	*entry = 0;
	write_cr3(read_cr3());

	if (cpuid_checked(0x80000001, 0).edx >> 26 & 1) {
		u64 huge = TEST_WINDOW + 2 * HUGE_PAGE;
		u64 *pdpte = page_entry(huge, 3);
		*pdpte = ((u64)frames & ~(HUGE_PAGE - 1)) | PAGE_P | PAGE_RW | PAGE_PS;
		u64 there = huge + ((u64)&frames[1][17] & (HUGE_PAGE - 1));
		check_eq(read8(there), 0x5b, "read by a 1 GiB page");
		*(volatile u8 *)there = 0x5c;
		check(frames[1][17] == 0x5c && (*pdpte & (PAGE_A | PAGE_D)) == (PAGE_A | PAGE_D), "write by a 1 GiB page");
		*pdpte = 0;
		invlpg(there);
		expect_fault("read after the 1 GiB page went", read_it, there, 0, there);
	}

	// Global pages go by INVLPG and by a change of CR4.PGE.
	if (cpuid(1, 0).edx >> 13 & 1) {
		write_cr4(read_cr4() | CR4_PGE);
		frames[0][0] = 1;
		frames[1][0] = 2;
		map_page(TEST_WINDOW, (u64)frames[0], PAGE_P | PAGE_RW | PAGE_G);
		check_eq(read8(TEST_WINDOW), 1, "global page");
		*page_entry(TEST_WINDOW, 1) = (u64)frames[1] | PAGE_P | PAGE_RW | PAGE_G;
		invlpg(TEST_WINDOW);
		check_eq(read8(TEST_WINDOW), 2, "global page after INVLPG");
		*page_entry(TEST_WINDOW, 1) = (u64)frames[0] | PAGE_P | PAGE_RW | PAGE_G;
		write_cr4(read_cr4() & ~CR4_PGE);
		check_eq(read8(TEST_WINDOW), 1, "global page after a change of CR4.PGE");
	}
	*page_entry(TEST_WINDOW, 1) = 0;
	invlpg(TEST_WINDOW);
}

// ---- SMEP and SMAP

static void read_with_ac(void *argument)
{
	asm volatile("stac; movb (%0), %%al; clac" :: "r"(argument) : "rax", "memory", "cc");
}

static void push_flags_with_ac(void *argument)
{
	(void)argument;
	asm volatile("stac; pushfq; popq %%rax; clac; btl $18, %%eax; jc 1f; ud2; 1:" ::: "rax", "cc", "memory");
}

void test_supervisor_protection(void)
{
	u64 w = TEST_WINDOW;
	u32 features = cpuid_checked(7, 0).ebx;
	bool smep = features >> 7 & 1, smap = features >> 20 & 1;
	memset(frames[0], 0xc3, PAGE_SIZE);
	map_page(w, (u64)frames[0], PAGE_P | PAGE_RW | PAGE_US);
	if (!smep && !smap) {
		skip("the processor has neither");
		return;
	}
	expect_none("run a user page without SMEP", run_it, w);
	if (smep) {
		write_cr4(read_cr4() | CR4_SMEP);
		expect_fault("run a user page with SMEP", run_it, w, PF_P | PF_I, w);
		expect_none("read of a user page with SMEP", read_it, w);
		write_cr4(read_cr4() & ~CR4_SMEP);
		expect_none("run a user page with SMEP off again", run_it, w);
	}
	if (smap) {
		write_cr4(read_cr4() | CR4_SMAP);
		expect_fault("read of a user page with SMAP", read_it, w, PF_P, w);
		expect_fault("write to a user page with SMAP", write_it, w, PF_P | PF_W, w);
		expect_none("read of a user page with SMAP and AC", read_with_ac, w);
		expect_none("stac sets AC", push_flags_with_ac, 0);
		expect_fault("read of a user page with SMAP after clac", read_it, w, PF_P, w);
		expect_none("run a user page with SMAP", run_it, (u64)frames[0]);
		write_cr4(read_cr4() & ~CR4_SMAP);
		expect_none("read of a user page with SMAP off again", read_it, w);
	}
	*page_entry(w, 1) = 0;
	invlpg(w);
}
