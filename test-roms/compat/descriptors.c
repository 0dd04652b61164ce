// LDTR and TR in long mode: descriptors of 16 bytes. SDM 2A "LLDT", "LTR", 3A "Segment Descriptor Tables in IA-32e Mode".
#include "compat.h"

SNIPPET(lldt, "lldt %ax")
SNIPPET(ltr, "ltr %ax")
SNIPPET(load_fs, "mov %eax, %fs; mov %fs:(%rdi), %rbx")
SNIPPET(mov_ss, "mov %eax, %ss")
SNIPPET(undefined, "ud2")
SNIPPET32(load_fs32, "mov %eax, %fs")

#define HIGH (TEST_WINDOW + 0x40000)	// a page for tables above 4 GiB

static u64 tables[512] ALIGNED(4096);

static void system_descriptor(u64 base, u32 limit, u32 rights)
{
	SPARE[0] = descriptor((u32)base, limit, rights);
	SPARE[1] = base >> 32;
}

static void restore_tr(void)
{
	gdt[TSS_SELECTOR / 8] &= ~(1ul << 41);
	asm volatile("ltr %w0" :: "r"(TSS_SELECTOR));
}

// Whatever has TI is beyond the limit of an LDT that is not there.
void test_ldt_never_loaded(void)
{
	u16 ldtr;
	snippets_init();
	asm volatile("sldt %0" : "=r"(ldtr));
	check(ldtr == 0, "LDTR is %x", ldtr);
	for (u32 selector = 4; selector < 0x10000; selector = selector * 2 + 4) {
		expect("MOV FS", load_fs, 0, (struct regs){ .rax = selector }, VECTOR_GP, selector & ~3u, 0);
		expect("MOV FS at ring 3", load_fs, 3, (struct regs){ .rax = selector | 3 }, VECTOR_GP, selector & ~3u, 0);
		expect("MOV SS", mov_ss, 0, (struct regs){ .rax = selector }, VECTOR_GP, selector & ~3u, 0);
		expect_compat("MOV FS of compatibility mode", load_fs32, 3, (struct regs){ .rax = selector | 3 }, VECTOR_GP, selector & ~3u, 0);
	}
}

void test_ldtr_tr(void)
{
	map_page(HIGH, (u64)tables, PAGE_P | PAGE_RW);
	tables[1] = descriptor((u32)(u64)tables + 0x100, 0xfff, D_DATA | D_BIG);
	write64((u64)tables + 0x100, 0xfedcba9876543210);
	system_descriptor(HIGH, 0xff, D_LDT);
	expect_vector("LLDT", lldt, 0, (struct regs){ .rax = SPARE_SELECTOR }, VECTOR_USER_EXIT);
	expect_vector("segment of an LDT above 4 GiB", load_fs, 0, (struct regs){ .rax = 8 | 4 }, VECTOR_USER_EXIT);
	check(trap.rbx == 0xfedcba9876543210, "segment of an LDT above 4 GiB: %lx", trap.rbx);
	check(tables[1] & 1ul << 40, "its descriptor has A");
	asm volatile("lldt %w0; mov %0, %%fs" :: "r"(0));

	// A TSS above 4 GiB serves exceptions of ring 3.
	*(struct tss *)&tables[64] = tss;
	system_descriptor(HIGH + 512, sizeof tss - 1, 0x89);
	expect_vector("LTR", ltr, 0, (struct regs){ .rax = SPARE_SELECTOR }, VECTOR_USER_EXIT);
	check((SPARE[0] >> 40 & 31) == 11, "LTR: type %lx", SPARE[0] >> 40 & 31);
	((struct tss *)&tables[64])->rsp[0] -= 256;
	expect("exception of ring 3", undefined, 3, NONE, VECTOR_UD, 0, 0);
	check(trap_stack == tss.rsp[0] - 256, "RSP0 of a TSS above 4 GiB: the frame ends at %lx, should be %lx", trap_stack, tss.rsp[0] - 256);
	restore_tr();
	SPARE[0] = SPARE[1] = 0;
}

void test_bad_descriptors(void)
{
	u64 beyond = beyond_bases();
	struct regs r = { .rax = SPARE_SELECTOR };
	expect("LTR of a null selector", ltr, 0, NONE, VECTOR_GP, 0, 0);
	system_descriptor((u64)tables, 0xff, D_TSS16);
	expect("LTR of a TSS of 16 bits", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	system_descriptor((u64)tables, 0xff, 0x8b);
	expect("LTR of a busy TSS", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	system_descriptor((u64)tables, 0xff, 0x89);
	SPARE[1] |= 0x9ul << 40;
	expect("LTR with a type in the upper half", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	system_descriptor((u64)tables, 0xff, 0x09);
	expect("LTR, not present", ltr, 0, r, VECTOR_NP, SPARE_SELECTOR, 0);
	system_descriptor(beyond, 0xff, 0x89);
	expect("LTR of a base that is not canonical", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	check((SPARE[0] >> 40 & 31) == 9, "LTR of a base that is not canonical: type %lx", SPARE[0] >> 40 & 31);
	system_descriptor(~beyond, 0xff, D_LDT);
	expect("LLDT of a base that is not canonical", lldt, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	system_descriptor((u64)tables, 0xff, D_LDT);
	expect("LLDT at ring 3", lldt, 3, r, VECTOR_GP, 0, 0);
	expect("LLDT with TI", lldt, 0, (struct regs){ .rax = SPARE_SELECTOR | 4 }, VECTOR_GP, SPARE_SELECTOR | 4, 0);

	// The upper half must be within the limit too.
	struct table_pointer saved, cut;
	asm volatile("sgdt %0" : "=m"(saved));
	cut = saved;
	cut.limit = SPARE_SELECTOR + 7;
	asm volatile("lgdt %0" :: "m"(cut));
	expect("LLDT, the upper half beyond the limit", lldt, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	system_descriptor((u64)tables, 0xff, 0x89);
	expect("LTR, the upper half beyond the limit", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	cut.limit = SPARE_SELECTOR + 14;
	asm volatile("lgdt %0" :: "m"(cut));
	expect("LTR, the upper half partly beyond the limit", ltr, 0, r, VECTOR_GP, SPARE_SELECTOR, 0);
	asm volatile("lgdt %0" :: "m"(saved));
	u16 ldtr;
	asm volatile("sldt %0" : "=r"(ldtr));
	check(ldtr == 0, "LDTR after refused loads: %x", ldtr);
	SPARE[0] = SPARE[1] = 0;
}
