// Page tables that one processor changes and others use: SDM 3A "Propagation of Paging-Structure Changes to Multiple Processors".
#include "litmus.h"

#define VECTOR_SHOOT 0xa3

static u8 frame_1[4096] ALIGNED(4096), frame_2[4096] ALIGNED(4096);
static volatile u32 acknowledged, requested;
static volatile bool stop;
static volatile u32 stale, reads;

static void shoot(struct trap_frame *f)
{
	(void)f;
	invlpg(TEST_WINDOW);
	__atomic_add_fetch(&acknowledged, 1, __ATOMIC_SEQ_CST);
}

// Reads the window all the time; a value that is older than the last shoot-down that it has taken part in is wrong.
static volatile u32 newest;
static void read_window(void *argument)
{
	(void)argument;
	sti();
	while (!stop) {
		u32 at_least = newest;	// what everybody has acknowledged
		u32 value = read32(TEST_WINDOW);
		if (value < at_least)
			__atomic_add_fetch(&stale, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&reads, 1, __ATOMIC_SEQ_CST);
	}
	cli();
}

void test_shootdown(void)
{
	u64 *entry = page_entry(TEST_WINDOW, 1);
	write32((u64)frame_1, 0);
	*entry = (u64)frame_1 | PAGE_P | PAGE_RW;
	invlpg(TEST_WINDOW);
	irq_handler[VECTOR_SHOOT] = shoot;
	stop = false;
	newest = stale = reads = 0;
	for (int i = 1; i < cpu_count; i++)
		smp_run(i, read_window, 0);
	bool all = true;
	for (u32 i = 1; i <= 300 && all; i++) {
		u8 *frame = i & 1 ? frame_2 : frame_1;
		write32((u64)frame, i);
		acknowledged = 0;
		__atomic_store_n(entry, (u64)frame | PAGE_P | PAGE_RW, __ATOMIC_SEQ_CST);
		invlpg(TEST_WINDOW);
		lapic_icr(0, 3u << 18 | 1u << 14 | VECTOR_SHOOT);
		u64 end = deadline_ms(5000);
		while (acknowledged + 1 < (u32)cpu_count && !passed(end))
			relax();
		all = acknowledged + 1 == (u32)cpu_count;
		newest = i;
		// The other frame gets a value that nobody may see any more.
		write32((u64)(i & 1 ? frame_1 : frame_2), 0);
	}
	check(all, "only %u processors of %d acknowledge", acknowledged, cpu_count - 1);
	stop = true;
	for (int i = 1; i < cpu_count; i++)
		check(smp_done(i, 2000), "processor %d does not end", i);
	check(!stale, "%u of %u reads by a translation that was shot down", stale, reads);
	*entry = 0;
	invlpg(TEST_WINDOW);
	irq_handler[VECTOR_SHOOT] = 0;
}

// An entry is taken away while others write by it: whoever has written has set its dirty bit in time.
#define ENTRIES 512
static volatile u32 written[ENTRIES];
static volatile u64 taken[ENTRIES];
static u8 frames[16][4096] ALIGNED(4096);
static u64 *entries;

static volatile bool faulted;
static bool on_fault(struct trap_frame *f)
{
	if (f->vector != VECTOR_PF || smp_self() != 1)
		return smp_trap(f);
	faulted = true;
	f->rip += 3;	// movb $1, (reg)
	return true;
}

static struct barrier start;
static void dirty_pages(u32 p)
{
	write_cr3(read_cr3());
	barrier_wait(&start, 2);
	for (u32 i = 0; i < ENTRIES; i++) {
		u64 page = TEST_WINDOW + i * PAGE_SIZE;
		if (p == 1) {
			faulted = false;
			asm volatile("movb $1, (%%rdi)" :: "D"(page) : "memory");
			written[i] = !faulted;
		} else {
			for (u32 k = 0; k < i % 16; k++)
				relax();
			taken[i] = __atomic_exchange_n(&entries[i], 0, __ATOMIC_SEQ_CST);
		}
	}
}

void test_dirty_bits(void)
{
	u32 lost = 0, changed = 0;
	entries = page_entry(TEST_WINDOW, 1);
	trap_hook = on_fault;
	for (int batch = 0; batch < 10; batch++) {
		for (u32 i = 0; i < ENTRIES; i++)
			entries[i] = (u64)frames[i % 16] | PAGE_P | PAGE_RW;
		write_cr3(read_cr3());
		if (!together(2, dirty_pages))
			break;
		for (u32 i = 0; i < ENTRIES; i++) {
			lost += written[i] && !(taken[i] & PAGE_D);
			changed += entries[i] != 0;
		}
	}
	trap_hook = smp_trap;
	check(!lost, "%u pages written without a dirty bit", lost);
	check(!changed, "%u entries came back after they were taken", changed);
	memset(entries, 0, PAGE_SIZE);
	write_cr3(read_cr3());
}

// "Optional Invalidation": an entry that becomes present, or gets more rights, needs no invalidation anywhere.
static volatile u32 made, missed;
static void use_new(u32 p)
{
	for (u32 i = 0; i < ENTRIES; i++) {
		u64 page = TEST_WINDOW + i * PAGE_SIZE;
		if (p == 0) {
			__atomic_store_n(&entries[i], (u64)frames[i % 16] | PAGE_P | PAGE_RW, __ATOMIC_SEQ_CST);
			made = i + 1;
		} else {
			u64 end = deadline_ms(2000);
			while (made <= i && !passed(end))
				relax();
			faulted = false;
			asm volatile("movb $1, (%%rdi)" :: "D"(page) : "memory");
			missed += faulted;
		}
	}
}

void test_present_without_flush(void)
{
	entries = page_entry(TEST_WINDOW, 1);
	trap_hook = on_fault;
	made = missed = 0;
	memset(entries, 0, PAGE_SIZE);
	write_cr3(read_cr3());
	together(2, use_new);
	trap_hook = smp_trap;
	check(!missed, "%u new pages were not seen", missed);
	memset(entries, 0, PAGE_SIZE);
	write_cr3(read_cr3());
}
