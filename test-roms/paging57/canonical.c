// Canonical addresses: SDM 1 "Canonical Addressing", SDM 3A "4-Level Paging and 5-Level Paging"; 5-Level Paging and 5-Level EPT (white paper).
#include "paging57.h"

struct address { u64 linear; bool canonical_48, canonical_57; };
static const struct address addresses[] = {
	{ 0x00007ffffffffff0, true, true }, { 0x0000800000000000, false, true }, { 0x0005400000001000, false, true }, { 0x00fffffffffffff0, false, true },
	{ 0x0100000000000000, false, false }, { 0x7fffffffffffff00, false, false }, { 0x8000000000000000, false, false }, { 0xfefffffffffffff0, false, false },
	{ 0xff00000000000000, false, true }, { 0xffff000000000000, false, true }, { 0xffff7ffffffffff0, false, true }, { 0xffff800000000000, true, true },
	{ 0xffffffffffffff00, true, true },
};

// RBP addresses the stack segment.
static void read_stack(void *argument)
{
	asm volatile("push %%rbp; mov %0, %%rbp; movb (%%rbp), %%al; pop %%rbp" :: "r"(argument) : "rax", "memory");
}

// Nothing is mapped at any of them: #PF for what is canonical, #GP(0) for the rest, #SS(0) in the stack segment.
static void accesses(bool la57)
{
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		const struct address *a = &addresses[i];
		bool canonical = la57 ? a->canonical_57 : a->canonical_48;
		for (int access = READ; access <= WRITE; access++)
			for (int user = 0; user < 2; user++) {
				int vector = try_access((enum access)access, user, false, a->linear);
				check(canonical ? vector == VECTOR_PF && trap_cr2 == a->linear : vector == VECTOR_GP && trap.error_code == 0, "LA57 %d, %s of %lx at ring %d: exception %d",
				      la57, access_name[access], a->linear, user ? 3 : 0, vector);
			}
	}
}

static void stack_accesses(bool la57)
{
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		const struct address *a = &addresses[i];
		bool canonical = la57 ? a->canonical_57 : a->canonical_48;
		int vector = catch_trap(read_stack, (void *)a->linear);
		check(canonical ? vector == VECTOR_PF : vector == VECTOR_SS && trap.error_code == 0, "LA57 %d, by RBP at %lx: exception %d", la57, a->linear, vector);
	}
}

// QEMU 7.2 gives #GP for these too.
void test_canonical_stack(void)
{
	stack_accesses(false);
	if (has_la57() && enter_la57()) {
		stack_accesses(true);
		leave_la57();
	}
}

void test_canonical_48(void)
{
	accesses(false);
}

void test_canonical_57(void)
{
	if (!has_la57() || !enter_la57()) {
		skip("no 5-level paging");
		return;
	}
	accesses(true);
	leave_la57();
}

static void jump(void *argument)
{
	asm volatile("call *%0" :: "r"(argument) : "memory");
}

static void return_to(void *argument)
{
	asm volatile("push $1f; push %0; ret; 1:" :: "r"(argument) : "memory");
}

static void iret_to(void *argument)
{
	asm volatile("mov %%rsp, %%rax; push %1; push %%rax; pushfq; push %2; push %0; iretq" :: "r"(argument), "i"(KERNEL_DS), "i"(KERNEL_CS) : "rax", "memory");
}

// A branch to an address that is not canonical faults by itself; to one that is, the fetch faults.
static void branches(bool la57)
{
	static void (*const kinds[])(void *) = { jump, return_to, iret_to };
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		const struct address *a = &addresses[i];
		bool canonical = la57 ? a->canonical_57 : a->canonical_48;
		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
			int vector = catch_trap(kinds[k], (void *)a->linear);
			check(vector == (canonical ? VECTOR_PF : VECTOR_GP) && (!canonical || (trap_cr2 == a->linear && trap.rip == a->linear)),
			      "LA57 %d, branch %lu to %lx: exception %d, RIP %lx", la57, k, a->linear, vector, trap.rip);
		}
	}
}

void test_branches(void)
{
	branches(false);
	if (has_la57() && enter_la57()) {
		branches(true);
		leave_la57();
	}
}

struct base_write { u32 kind; u64 value; };
enum { WRFSBASE, WRGSBASE, LGDT, LIDT, LLDT, LTR, BY_MSR };
static const u32 msrs[] = { MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_LSTAR, 0xc0000083, 0x175, 0x176 };
static struct table_pointer saved_gdt, saved_idt;

static void system_descriptor(u64 base, u32 type, u32 limit)
{
	gdt[SPARE_SELECTOR / 8] = limit | (base & 0xffffff) << 16 | (u64)(0x80 | type) << 40 | (base >> 24 & 0xff) << 56;
	gdt[SPARE_SELECTOR / 8 + 1] = base >> 32;
}

static void write_base(void *argument)
{
	struct base_write *w = argument;
	struct table_pointer p = { sizeof gdt - 1, w->value };
	switch (w->kind) {
	case WRFSBASE: asm volatile("wrfsbase %0" :: "r"(w->value)); break;
	case WRGSBASE: asm volatile("wrgsbase %0" :: "r"(w->value)); break;
	case LGDT: asm volatile("lgdt %0; lgdt %1" :: "m"(p), "m"(saved_gdt)); break;
	case LIDT: asm volatile("lidt %0; lidt %1" :: "m"(p), "m"(saved_idt)); break;
	case LLDT: system_descriptor(w->value, 2, 0xfff); asm volatile("lldt %w0" :: "r"(SPARE_SELECTOR)); break;
	case LTR: system_descriptor(w->value, 9, 0x67); asm volatile("ltr %w0" :: "r"(SPARE_SELECTOR)); break;
	default: wrmsr(msrs[w->kind - BY_MSR], w->value); break;
	}
}

// Bases may be anything that is canonical by the widest addresses of the processor, whatever the mode of paging.
static void bases(bool la57, bool wide)
{
	u64 saved_msr[ARRAY_SIZE(msrs)];
	asm volatile("sgdt %0; sidt %1" : "=m"(saved_gdt), "=m"(saved_idt));
	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++)
		saved_msr[i] = rdmsr(msrs[i]);
	bool fsgsbase = cpuid_checked(7, 0).ebx & 1;
	set_cr4(CR4_FSGSBASE, fsgsbase);
	for (u32 kind = fsgsbase ? WRFSBASE : LGDT; kind < BY_MSR + ARRAY_SIZE(msrs); kind++)
		for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
			struct base_write w = { kind, addresses[i].linear };
			bool allowed = wide ? addresses[i].canonical_57 : addresses[i].canonical_48;
			int vector = catch_trap(write_base, &w);
			u64 code = kind == LLDT || kind == LTR ? SPARE_SELECTOR : 0;
			check(allowed ? vector == NO_TRAP : vector == VECTOR_GP && trap.error_code == code, "LA57 %d, base %u of %lx: exception %d, error code %lx", la57, kind, w.value,
			      vector, trap.error_code);
		}
	set_cr4(CR4_FSGSBASE, false);
	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++)
		wrmsr(msrs[i], saved_msr[i]);
	gdt[TSS_SELECTOR / 8] &= ~(2ul << 40);
	asm volatile("lldt %w0; ltr %w1" :: "r"(0), "r"(TSS_SELECTOR));
	gdt[SPARE_SELECTOR / 8] = gdt[SPARE_SELECTOR / 8 + 1] = 0;
}

// QEMU 7.2 goes by the mode, and checks few of them.
void test_bases(void)
{
	bases(false, has_la57());
	if (has_la57() && enter_la57()) {
		bases(true, true);
		leave_la57();
	}
}
