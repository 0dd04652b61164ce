// 64-bit code at ring 3: which page faults first, with what error code and CR2, and that nothing has happened.
#include "split.h"

#define CODE 0x0000410000000000ul
#define OTHER (TEST_WINDOW + 0x10000)

const char *const page_name[PAGES] = { "writable", "read-only", "absent", "supervisor's" };

static u8 code_frame[4096] ALIGNED(4096), first_frame[4096] ALIGNED(4096), second_frame[4096] ALIGNED(4096), other_frame[2][4096] ALIGNED(4096);

u64 page_flags(enum page p)
{
	static const u64 flags[PAGES] = { PAGE_P | PAGE_RW | PAGE_US, PAGE_P | PAGE_US, 0, PAGE_P | PAGE_RW };
	return flags[p];
}

void reset_float(void)
{
	u32 mxcsr = 0x1f80;
	asm volatile("fninit; ldmxcsr %0" :: "m"(mxcsr));
}

static void enter(void *argument)
{
	enter_user(argument);
}

// What is read must be harmless: valid for LDMXCSR, FLDCW, FXRSTOR, POPF, a branch to the end of the code. Only CR2 and the error
// code tell of faults, so results do not matter.
static void fill(u8 *to, u64 address)
{
	for (int i = 0; i < 4096; i++)
		to[i] = (u8)(address + (u64)i);
}

static bool filled(const u8 *frame, u64 address)
{
	for (int i = 0; i < 4096; i++)
		if (frame[i] != (u8)(address + (u64)i))
			return false;
	return true;
}

static void check_split(const struct kind *k, enum page first, enum page second, u64 before)
{
	u64 boundary = TEST_WINDOW + PAGE_SIZE, at = boundary - before;
	fill(first_frame, 0);
	fill(second_frame, 0x55);
	if (k->align == 64 && k->does == READS) {
		// XRSTOR looks at its header first: of zeros it is valid, and MXCSR is read all the same.
		memset(first_frame, 0, PAGE_SIZE);
		memset(second_frame, 0, PAGE_SIZE);
	}
	map_page(TEST_WINDOW, first == ABSENT ? 0 : (u64)first_frame, page_flags(first));
	map_page(boundary, second == ABSENT ? 0 : (u64)second_frame, page_flags(second));
	memcpy(code_frame, k->code, (size_t)(k->end - k->code));
	struct user_entry e = { CODE, USER_CS, FLAG_1, k->stack == NO_STACK ? CODE + PAGE_SIZE : at + k->stack, USER_DS, 0, OTHER + PAGE_SIZE - before, at };
	reset_float();
	int vector = catch_trap(enter, &e);

	bool first_faults = page_faults(first, k), second_faults = page_faults(second, k);
	if (!first_faults && !second_faults) {
		// What was read may be no valid operand, and a branch leads anywhere.
		check(k->does == READS ? vector != NO_TRAP : vector == VECTOR_USER_EXIT, "%s, %lu before the boundary of %s and %s: exception %d, CR2 %lx", k->name, before,
		      page_name[first], page_name[second], vector, trap_cr2);
		check(k->does != READS || vector != VECTOR_PF || trap_cr2 < TEST_WINDOW || trap_cr2 >= boundary + PAGE_SIZE, "%s over %s and %s: CR2 %lx", k->name, page_name[first],
		      page_name[second], trap_cr2);
		return;
	}
	// The first page is tried first. CR2 is the first byte that could not be reached.
	enum page p = first_faults ? first : second;
	u64 cr2 = first_faults ? at : boundary, low = cr2, high = cr2;
	if (k->pieces) {
		// Loads and stores of their own may be made in any order, and need not touch every byte.
		low = first_faults ? at : boundary;
		high = first_faults ? boundary - 1 : at + k->size - 1;
		if (first_faults && second_faults)
			high = at + k->size - 1;
	}
	u32 code = fault_code(trap_cr2 >= boundary ? second : p, k);
	check(vector == VECTOR_PF && trap.error_code == code && trap_cr2 >= low && trap_cr2 <= high,
	      "%s, %lu before the boundary of %s and %s: exception %d, error code %lx, CR2 %lx, should be #PF, %x, %lx", k->name, before, page_name[first], page_name[second],
	      vector, trap.error_code, trap_cr2, code, cr2);
	check(k->pieces || k->does == READS || (filled(first_frame, 0) && filled(second_frame, 0x55)), "%s over %s and %s faulted, but wrote a part", k->name, page_name[first],
	      page_name[second]);
	check(k->stack == NO_STACK || trap.rsp == at + k->stack || k->code != (void *)trap.rip, "%s over %s and %s faulted, and RSP is %lx, was %lx", k->name, page_name[first],
	      page_name[second], trap.rsp, at + k->stack);
	check(trap.rip >= CODE && trap.rip < CODE + (u64)(k->end - k->code), "%s over %s and %s: RIP %lx", k->name, page_name[first], page_name[second], trap.rip);
}

static void all(enum does does)
{
	map_page(CODE, (u64)code_frame, PAGE_P | PAGE_RW | PAGE_US);
	map_page(OTHER, (u64)other_frame[0], PAGE_P | PAGE_RW | PAGE_US);
	map_page(OTHER + PAGE_SIZE, (u64)other_frame[1], PAGE_P | PAGE_RW | PAGE_US);
	bool xsave = cpuid(1, 0).ecx >> 26 & 1;
	write_cr4(read_cr4() | (xsave ? CR4_OSXSAVE : 0));
	for (u32 i = 0; i < kinds64_count; i++) {
		const struct kind *k = &kinds64[i];
		if (k->does != does || (k->align == 64 && !xsave))
			continue;
		for (int first = 0; first < PAGES; first++)
			for (int second = 0; second < PAGES; second++)
				for (u64 before = k->align; before < k->size; before += distance_step(k))
					check_split(k, (enum page)first, (enum page)second, before);
	}
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	map_page(TEST_WINDOW, 0, 0);
	map_page(TEST_WINDOW + PAGE_SIZE, 0, 0);
	map_page(OTHER, 0, 0);
	map_page(OTHER + PAGE_SIZE, 0, 0);
}

void test_reads_64(void) { all(READS); }
void test_writes_64(void) { all(WRITES); }
void test_modifies_64(void) { all(MODIFIES); }
