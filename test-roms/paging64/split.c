// Accesses and instructions that lie in two pages with different rights.
#include "paging64.h"

enum kind { LOAD, STORE, ADD, LOCK_ADD, LOAD16, STORE16, KINDS };
static const char *const kind_name[KINDS] = { "load", "store", "add", "lock add", "16-byte load", "16-byte store" };

struct request { enum kind kind; u64 address; };

static void perform(void *argument)
{
	struct request *r = argument;
	switch (r->kind) {
	case LOAD: asm volatile("mov (%0), %%rax" :: "r"(r->address) : "rax", "memory"); break;
	case STORE: asm volatile("movq $0, (%0)" :: "r"(r->address) : "memory"); break;
	case ADD: asm volatile("addq $1, (%0)" :: "r"(r->address) : "memory", "cc"); break;
	case LOCK_ADD: asm volatile("lock addq $1, (%0)" :: "r"(r->address) : "memory", "cc"); break;
	case LOAD16: asm volatile("movdqu (%0), %%xmm0" :: "r"(r->address) : "memory"); break;
	case STORE16: asm volatile("pxor %%xmm0, %%xmm0; movdqu %%xmm0, (%0)" :: "r"(r->address) : "memory"); break;
	default: break;
	}
}

static bool writes(enum kind k)
{
	return k != LOAD && k != LOAD16;
}

// A page is writable, read-only, absent, or the user's with SMAP on.
enum page { WRITABLE, READ_ONLY, ABSENT, USER, PAGES };
static const char *const page_name[PAGES] = { "writable", "read-only", "absent", "user's" };

static u64 page_flags(enum page p)
{
	static const u64 flags[PAGES] = { PAGE_P | PAGE_RW, PAGE_P, 0, PAGE_P | PAGE_RW | PAGE_US };
	return flags[p];
}

static bool faults(enum page p, enum kind k)
{
	return p == ABSENT || p == USER || (p == READ_ONLY && writes(k));
}

static bool only_cs3(const u8 *frame)
{
	for (int i = 0; i < 4096; i++)
		if (frame[i] != 0xc3)
			return false;
	return true;
}

static void check_split(enum page first, enum page second, enum kind kind, u64 distance)
{
	u64 w = TEST_WINDOW, size = kind >= LOAD16 ? 16 : 8, boundary = w + PAGE_SIZE;
	struct request r = { kind, boundary - distance };
	memset(frame_a, 0xc3, PAGE_SIZE);
	memset(frame_b, 0xc3, PAGE_SIZE);
	map(w, first == ABSENT ? 0 : frame_a, page_flags(first));
	map(boundary, second == ABSENT ? 0 : frame_b, page_flags(second));

	int vector = catch_trap(perform, &r);
	bool first_faults = faults(first, kind), second_faults = faults(second, kind);
	if (!first_faults && !second_faults) {
		check(vector == NO_TRAP, "%s over %s and %s: exception %d", kind_name[kind], page_name[first], page_name[second], vector);
		check(!writes(kind) || !only_cs3(frame_a) || kind == ADD || kind == LOCK_ADD, "%s wrote nothing", kind_name[kind]);
		return;
	}
	// Where both fault, the first is reported: CR2 is the lowest address that faults.
	u64 cr2 = first_faults ? r.address : boundary;
	enum page p = first_faults ? first : second;
	u64 code = (p == ABSENT ? 0 : PF_P) | (writes(kind) ? PF_W : 0);
	check(vector == VECTOR_PF && trap.error_code == code && trap_cr2 == cr2,
	      "%s of %lu bytes, %lu before the boundary of %s and %s: exception %d, error code %lx, CR2 %lx, should be #PF, %lx, %lx", kind_name[kind], size,
	      distance, page_name[first], page_name[second], vector, trap.error_code, trap_cr2, code, cr2);
	check(only_cs3(frame_a) && only_cs3(frame_b), "%s over %s and %s faulted, but wrote a part", kind_name[kind], page_name[first], page_name[second]);
}

static void all_pages(const enum kind *kinds, size_t n)
{
	bool smap = has_smap();
	set_cr4(CR4_SMAP, smap);
	for (int first = 0; first < PAGES; first++)
		for (int second = 0; second < PAGES; second++)
			for (size_t i = 0; i < n && (smap || (first != USER && second != USER)); i++)
				for (u64 distance = 1; distance < (kinds[i] >= LOAD16 ? 16u : 8u); distance += 3)
					check_split((enum page)first, (enum page)second, kinds[i], distance);
	set_cr4(CR4_SMAP, false);
}

// QEMU 7.2 reports the read of ADD as a read, and makes two stores of one of 16 bytes.
void test_split_exactly(void)
{
	static const enum kind kinds[] = { ADD, LOCK_ADD, STORE16 };
	all_pages(kinds, ARRAY_SIZE(kinds));
}

void test_split(void)
{
	static const enum kind kinds[] = { LOAD, STORE, LOAD16 };
	all_pages(kinds, ARRAY_SIZE(kinds));

	// Two pages that lie apart in memory, in reverse order.
	u64 w = TEST_WINDOW;
	map(w, frame_b, PAGE_P | PAGE_RW);
	map(w + PAGE_SIZE, frame_a, PAGE_P | PAGE_RW);
	*(volatile u64 *)(w + PAGE_SIZE - 3) = 0x1122334455667788;
	check(read8((u64)&frame_b[4093]) == 0x88 && read8((u64)&frame_b[4095]) == 0x66 && read8((u64)&frame_a[0]) == 0x55 && read8((u64)&frame_a[4]) == 0x11, "store over two pages that lie apart");
	check(*(volatile u64 *)(w + PAGE_SIZE - 3) == 0x1122334455667788, "load over two pages that lie apart");
	memset(frame_a, 0xc3, PAGE_SIZE);
	memset(frame_b, 0xc3, PAGE_SIZE);
}

void test_split_fetch(void)
{
	u64 w = TEST_WINDOW, boundary = w + PAGE_SIZE, fetch = has_nx() ? PF_I : 0;
	static const u8 code[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3 };	// mov rax, imm64; ret
	for (u64 before = 1; before < 10; before++) {
		memset(frame_a, 0xc3, PAGE_SIZE);
		memset(frame_b, 0xc3, PAGE_SIZE);
		memcpy(frame_a + 4096 - before, code, before);
		memcpy(frame_b, code + before, sizeof code - before);
		u64 start = boundary - before, value;
		map(w, frame_a, PAGE_P);
		map(boundary, frame_b, PAGE_P);
		asm volatile("call *%1" : "=a"(value) : "r"(start) : "memory");
		check(value == 0x0807060504030201, "%lu bytes in the first page: %lx", before, value);

		map(boundary, 0, 0);
		expect_fault("second page absent", RUN, false, start, (u32)fetch, boundary);
		check(trap.rip == start, "second page absent: RIP %lx, should be %lx", trap.rip, start);
		if (has_nx()) {
			map(boundary, frame_b, PAGE_P | PAGE_NX);
			expect_fault("second page not executable", RUN, false, start, PF_P | PF_I, boundary);
			check(trap.rip == start, "second page not executable: RIP %lx, should be %lx", trap.rip, start);
		}
	}
	// An instruction that ends with the page does not need the next one.
	memset(frame_a, 0xc3, PAGE_SIZE);
	map(boundary, 0, 0);
	expect_none("RET as the last byte of a page", RUN, false, boundary - 1);
}
