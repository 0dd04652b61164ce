// The same in 32-bit code, under 32-bit paging and PAE.
#include "paging32.h"
#include "split.h"

#define CODE (USER_PAGE + (u32)PAGE_SIZE)
#define OTHER (USER_PAGE + 0x10000u)

static u8 code_frame[4096] ALIGNED(4096), first_frame[4096] ALIGNED(4096), second_frame[4096] ALIGNED(4096), other_frame[2][4096] ALIGNED(4096);

static void check_split(const struct format *f, const struct kind *k, enum page first, enum page second, u32 before)
{
	u32 boundary = WINDOW + (u32)PAGE_SIZE, at = boundary - before;
	memset(first_frame, 0x11, PAGE_SIZE);
	memset(second_frame, 0x22, PAGE_SIZE);
	entry_write(f, WINDOW, 1, first == ABSENT ? 0 : (u64)first_frame | page_flags(first));
	entry_write(f, boundary, 1, second == ABSENT ? 0 : (u64)second_frame | page_flags(second));
	memcpy(code_frame, k->code, (size_t)(k->end - k->code));
	struct paged32 r = prepare(f, (struct mode){ .wp = true });
	r.cr4 |= (u32)CR4_OSFXSR;
	r.user = 1;
	r.code = CODE;
	r.stack = k->stack == NO_STACK ? CODE + (u32)PAGE_SIZE : at + k->stack;
	r.esi = OTHER + (u32)PAGE_SIZE - before;
	r.edi = at;
	reset_float();
	paged32(&r);

	bool first_faults = page_faults(first, k), second_faults = page_faults(second, k);
	if (!first_faults && !second_faults) {
		check(k->does == READS || r.vector == PAGED32_END, "%s, %s, %u before the boundary of %s and %s: exception %u, CR2 %x", f->name, k->name, before, page_name[first],
		      page_name[second], r.vector, r.cr2);
		check(r.vector != VECTOR_PF || r.cr2 < WINDOW || r.cr2 >= boundary + PAGE_SIZE, "%s, %s over %s and %s: CR2 %x", f->name, k->name, page_name[first], page_name[second],
		      r.cr2);
		return;
	}
	enum page p = first_faults ? first : second;
	u32 cr2 = first_faults ? at : boundary, low = cr2, high = cr2;
	if (k->pieces) {
		low = first_faults ? at : boundary;
		high = first_faults && !second_faults ? boundary - 1 : at + k->size - 1;
	}
	u32 code = fault_code(r.cr2 >= boundary ? second : p, k);
	check(r.vector == VECTOR_PF && r.error_code == code && r.cr2 >= low && r.cr2 <= high,
	      "%s, %s, %u before the boundary of %s and %s: exception %u, error code %x, CR2 %x, should be #PF, %x, %x", f->name, k->name, before, page_name[first],
	      page_name[second], r.vector, r.error_code, r.cr2, code, cr2);
	bool untouched = true;
	for (int i = 0; i < 4096; i++)
		untouched &= first_frame[i] == 0x11 && second_frame[i] == 0x22;
	check(k->pieces || untouched, "%s, %s over %s and %s faulted, but wrote a part", f->name, k->name, page_name[first], page_name[second]);
	check(r.end_eip >= CODE && r.end_eip < CODE + (u32)(k->end - k->code), "%s, %s over %s and %s: EIP %x", f->name, k->name, page_name[first], page_name[second], r.end_eip);
	check(k->stack == NO_STACK || r.end_esp == at + k->stack, "%s, %s over %s and %s faulted, and ESP is %x, was %x", f->name, k->name, page_name[first], page_name[second],
	      r.end_esp, at + k->stack);
}

static void all(enum does does)
{
	for (int i = 0; i < 4; i += 2) {
		const struct format *f = &formats[i];
		tables_build(f);
		u64 all_rights = PAGE_P | PAGE_RW | PAGE_US;
		entry_write(f, CODE, 1, (u64)code_frame | all_rights);
		entry_write(f, OTHER, 1, (u64)other_frame[0] | all_rights);
		entry_write(f, OTHER + (u32)PAGE_SIZE, 1, (u64)other_frame[1] | all_rights);
		for (u32 n = 0; n < kinds32_count; n++) {
			const struct kind *k = &kinds32[n];
			if (k->does != does)
				continue;
			for (int first = 0; first < PAGES; first++)
				for (int second = 0; second < PAGES; second++)
					for (u32 before = k->align; before < k->size; before += distance_step(k))
						check_split(f, k, (enum page)first, (enum page)second, before);
		}
	}
}

void test_reads_32(void) { all(READS); }
void test_writes_32(void) { all(WRITES); }
void test_modifies_32(void) { all(MODIFIES); }
