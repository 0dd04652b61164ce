// Accesses that the processor makes on its own, to descriptor tables and stacks: always the supervisor's, whatever the CPL, and never
// excused by RFLAGS.AC.
#include "paging64.h"

#define TABLE TEST_WINDOW
#define SECOND_PAGE_SELECTOR 0x58
#define SECOND_PAGE (TABLE + PAGE_SIZE)

static struct table_pointer saved_gdt, saved_idt;
static u8 table_frame[4096] ALIGNED(4096), second_frame[4096] ALIGNED(4096), code_frame[4096] ALIGNED(4096);

static void load_ds(void *argument)
{
	asm volatile("mov %0, %%ds" :: "r"(argument));
}

static void load_ds_with_ac(void *argument)
{
	asm volatile("stac; mov %0, %%ds; clac" :: "r"(argument));
}

static void int_82(void *argument)
{
	(void)argument;
	asm volatile("int $0x82");
}

static void enter(void *argument)
{
	enter_user(argument);
}

extern u8 user_load_ds[], user_int[], user_lar[], user_implicit_end[];
asm(".text\n"
    "user_load_ds: mov %esi, %ds; int $0x80\n"
    "user_lar: lar %esi, %eax; int $0x80\n"
    "user_int: int $0x80\n"
    "user_implicit_end:\n");

static int run_user(const u8 *label)
{
	u64 base = USER_CODE + 2 * PAGE_SIZE;
	memcpy(code_frame, user_load_ds, (size_t)(user_implicit_end - user_load_ds));
	map(base, code_frame, PAGE_P | PAGE_US);
	struct user_entry e = { base + (u64)(label - user_load_ds), USER_CS, FLAG_1, USER_CODE + PAGE_SIZE, USER_DS, 0, SECOND_PAGE_SELECTOR | 3, 0 };
	return catch_trap(enter, &e);
}

static void expect_pf(const char *what, int vector, u64 error_code, u64 cr2)
{
	check(vector == VECTOR_PF && trap.error_code == error_code && trap_cr2 == cr2, "%s: exception %d, error code %lx, CR2 %lx, should be #PF, %lx, %lx",
	      what, vector, trap.error_code, trap_cr2, error_code, cr2);
}

// A copy of the GDT over two pages: what exceptions need is in the first, and one selector is in the second, which has the given flags.

static void gdt_in_window(u64 descriptor, u64 flags)
{
	u64 base = SECOND_PAGE - SECOND_PAGE_SELECTOR;
	map(TABLE, table_frame, PAGE_P | PAGE_RW);
	map(SECOND_PAGE, second_frame, flags);
	memcpy(table_frame + PAGE_SIZE - SECOND_PAGE_SELECTOR, gdt, SECOND_PAGE_SELECTOR);
	memcpy(second_frame, &descriptor, 8);
	struct table_pointer p = { sizeof gdt - 1, base };
	asm volatile("lgdt %0" :: "m"(p));
}

static void test_gdt(void)
{
	void *selector = (void *)(SECOND_PAGE_SELECTOR | 3ul);
	u64 fresh = 0x00cff2000000ffff, accessed = 0x00cff3000000ffff;
	asm volatile("sgdt %0" : "=m"(saved_gdt));

	// A descriptor whose accessed bit is set is only read, so a read-only page does.
	gdt_in_window(accessed, PAGE_P);
	check(catch_trap(load_ds, selector) == NO_TRAP, "DS from a read-only page, accessed already: exception");
	gdt_in_window(fresh, PAGE_P);
	int vector = catch_trap(load_ds, selector);
	check(vector == VECTOR_PF && trap.error_code == (PF_P | PF_W) && trap_cr2 >> 3 == SECOND_PAGE >> 3,
	      "DS from a read-only page, not accessed yet: exception %d, error code %lx, CR2 %lx", vector, trap.error_code, trap_cr2);

	// At ring 3 the descriptor is read by the supervisor's rights, and its page fault says so.
	gdt_in_window(fresh, PAGE_P | PAGE_RW);
	check(run_user(user_load_ds) == VECTOR_USER_EXIT && second_frame[5] == 0xf3, "DS at ring 3 from a supervisor's page: access byte %x", second_frame[5]);
	check(run_user(user_lar) == VECTOR_USER_EXIT && (trap.rax & 0xf0ff00) == 0x00c0f300, "LAR at ring 3 from a supervisor's page: %lx", trap.rax);
	gdt_in_window(fresh, 0);
	expect_pf("DS from an absent page", catch_trap(load_ds, selector), 0, SECOND_PAGE);
	expect_pf("DS at ring 3 from an absent page", run_user(user_load_ds), 0, SECOND_PAGE);
	check(trap.cs == USER_CS, "DS at ring 3 from an absent page: CS %lx", trap.cs);

	if (has_smap()) {
		gdt_in_window(accessed, PAGE_P | PAGE_RW | PAGE_US);
		set_cr4(CR4_SMAP, true);
		expect_pf("DS from a user's page with SMAP", catch_trap(load_ds, selector), PF_P, SECOND_PAGE);
		expect_pf("DS at ring 3 from a user's page with SMAP", run_user(user_load_ds), PF_P, SECOND_PAGE);
		set_cr4(CR4_SMAP, false);
		check(catch_trap(load_ds, selector) == NO_TRAP, "DS from a user's page without SMAP");
	}
	asm volatile("lgdt %0; mov %1, %%ds" :: "m"(saved_gdt), "r"(KERNEL_DS));
	map(SECOND_PAGE, 0, 0);
}

// QEMU 7.2 lets AC excuse what the processor reads on its own.
void test_implicit_exactly(void)
{
	if (!has_smap()) {
		skip("the processor has no SMAP");
		return;
	}
	asm volatile("sgdt %0" : "=m"(saved_gdt));
	gdt_in_window(0x00cff3000000ffff, PAGE_P | PAGE_RW | PAGE_US);
	set_cr4(CR4_SMAP, true);
	expect_pf("DS from a user's page with SMAP and AC", catch_trap(load_ds_with_ac, (void *)(SECOND_PAGE_SELECTOR | 3ul)), PF_P, SECOND_PAGE);
	set_cr4(CR4_SMAP, false);
	asm volatile("lgdt %0; mov %1, %%ds" :: "m"(saved_gdt), "r"(KERNEL_DS));
	map(SECOND_PAGE, 0, 0);
}

// The gate of vector 82h alone on a page of its own, with the IDT around it split at a page boundary.
static void test_idt(void)
{
	asm volatile("sidt %0" : "=m"(saved_idt));
	u64 base = TABLE + PAGE_SIZE - 0x82 * 16;
	memcpy(table_frame + PAGE_SIZE - 0x82 * 16, (void *)saved_idt.base, 0x82 * 16);
	memcpy(second_frame, (u8 *)saved_idt.base + 0x82 * 16, (256 - 0x82) * 16);
	map(TABLE, table_frame, PAGE_P);
	map(TABLE + PAGE_SIZE, second_frame, PAGE_P);
	struct table_pointer p = { 4095, base };
	asm volatile("lidt %0" :: "m"(p));
	irq_count[0x82] = 0;
	check(catch_trap(int_82, 0) == NO_TRAP && irq_count[0x82] == 1, "INT by an IDT over two pages");
	map(TABLE + PAGE_SIZE, 0, 0);
	expect_pf("INT whose gate is on an absent page", catch_trap(int_82, 0), 0, TABLE + PAGE_SIZE);
	asm volatile("lidt %0" :: "m"(saved_idt));
}

static void expect_stack_pf(const char *what, int vector, u64 error_code)
{
	// Which of the five words is pushed first is the processor's affair.
	u64 end = TABLE + PAGE_SIZE;
	check(vector == VECTOR_PF && trap.error_code == error_code && trap_cr2 >= end - 40 && trap_cr2 < end && trap.cs == USER_CS,
	      "%s: exception %d, error code %lx, CR2 %lx, CS %lx", what, vector, trap.error_code, trap_cr2, trap.cs);
}

// A frame pushed from ring 3 goes to the stack of ring 0 as a write of the supervisor.
static void test_stack(void)
{
	u64 saved = tss.rsp[0];
	map(TABLE, table_frame, PAGE_P | PAGE_RW);
	tss.rsp[0] = TABLE + PAGE_SIZE;
	check(run_user(user_int) == VECTOR_USER_EXIT && trap_stack == TABLE + PAGE_SIZE, "INT 80h from ring 3 to another stack");
	// INT n is benign, so the #PF of its delivery is reported; but from ring 3 it has no stack either, unless by IST.
	idt_set(VECTOR_PF, vector_entry(VECTOR_PF), 0, IST_TEST);
	map(TABLE, 0, 0);
	expect_stack_pf("INT 80h from ring 3 to an absent stack", run_user(user_int), PF_W);
	map(TABLE, table_frame, PAGE_P);
	expect_stack_pf("INT 80h from ring 3 to a read-only stack", run_user(user_int), PF_P | PF_W);
	idt_set(VECTOR_PF, vector_entry(VECTOR_PF), 0, 0);
	int vector = run_user(user_int);
	check(vector == VECTOR_DF, "INT 80h from ring 3 without any stack: exception %d, should be #DF", vector);
	tss.rsp[0] = saved;
	map(TABLE, 0, 0);
}

void test_implicit(void)
{
	test_gdt();
	test_idt();
	test_stack();
}
