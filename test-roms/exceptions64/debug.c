// Debug exceptions that are rare, alignment checks, and flags in SYSCALL.
#include "clock.h"
#include "exceptions64.h"

SNIPPET(icebp, ".byte 0xf1; nop")
SNIPPET(get_dr0, "mov %dr0, %rcx")
SNIPPET(rep_stosb, "mov $3, %ecx; rep stosb; nop")
SNIPPET(int_3, "int3")
SNIPPET(int_13, "int $13")
SNIPPET(load2, "mov (%rdi), %ax")
SNIPPET(load4, "mov (%rdi), %eax")
SNIPPET(load8, "mov (%rdi), %rax")
SNIPPET(store8, "mov %rax, (%rdi)")
SNIPPET(fld10, "fldt (%rdi)")
SNIPPET(system_call, "syscall")

// Single step: where each trap is.
static u64 offsets[16];
static int steps;

static bool note_step(struct trap_frame *f)
{
	if (f->vector != VECTOR_DB)
		return false;
	if (steps < 16)
		offsets[steps] = f->rip - CODE_PAGE;
	return ++steps < 8;	// lets the last one end the snippet
}

void test_debug(void)
{
	trap_hook = note_step;
	steps = 0;
	int vector = run_snippet(rep_stosb, 3, (struct regs){ .rdi = STACK_PAGE, .rflags = FLAG_TF });
	trap_hook = 0;
	// MOV; then after each of the three rounds, with RIP still at the instruction but for the last; NOP. INT 80h has no trap.
	check(vector == VECTOR_USER_EXIT && steps == 5 && offsets[0] == 5 && offsets[1] == 5 && offsets[2] == 5 && offsets[3] == 7 && offsets[4] == 8,
	      "single step over REP STOSB of 3: vector %d, %d traps at +%lu +%lu +%lu +%lu +%lu, should be +5 +5 +5 +7 +8", vector, steps, offsets[0],
	      offsets[1], offsets[2], offsets[3], offsets[4]);
}

// QEMU 7.2 has neither ICEBP nor DR7.GD.
void test_debug_exactly(void)
{
	write_dr6(0xffff0ff0);
	// A trap, whatever the DPL of its gate, and without any bit in DR6.
	expect("ICEBP at ring 0", icebp, 0, (struct regs){ 0 }, VECTOR_DB, 0, 1);
	expect("ICEBP at ring 3", icebp, 3, (struct regs){ 0 }, VECTOR_DB, 0, 1);
	check(!(read_dr6() & 0xe00f), "ICEBP: DR6 %lx", read_dr6());

	// A fault; entering the handler clears GD, so that it may look.
	write_dr7(0x400 | 1 << 13);
	expect("DR7.GD", get_dr0, 0, (struct regs){ 0 }, VECTOR_DB, 0, 0);
	check((read_dr6() & 0xe00f) == 0x2000 && !(read_dr7() & 1 << 13), "DR7.GD: DR6 %lx, DR7 %lx", read_dr6(), read_dr7());
	write_dr7(0x400);
	write_dr6(0xffff0ff0);

	expect("INT3 at ring 3 by a gate for ring 0", int_3, 3, (struct regs){ 0 }, VECTOR_GP, 3 * 8 + 2, 0);
	expect("INT 13 at ring 3 by a gate for ring 0", int_13, 3, (struct regs){ 0 }, VECTOR_GP, 13 * 8 + 2, 0);
}

static void aligned_to(const char *what, struct snippet s, u64 bytes)
{
	for (u64 offset = 0; offset < bytes; offset++) {
		struct regs r = { .rdi = STACK_PAGE + offset, .rflags = FLAG_AC };
		if (offset)
			expect(what, s, 3, r, VECTOR_AC, 0, 0);
		else
			expect_vector(what, s, 3, r, VECTOR_USER_EXIT);
	}
}

// QEMU 7.2 has no alignment check.
void test_alignment_exactly(void)
{
	struct regs odd = { .rdi = STACK_PAGE + 1, .rflags = FLAG_AC };
	expect_vector("AC without CR0.AM", load4, 3, odd, VECTOR_USER_EXIT);
	write_cr0(read_cr0() | CR0_AM);
	aligned_to("2 bytes", load2, 2);
	aligned_to("4 bytes", load4, 4);
	aligned_to("8 bytes", load8, 8);
	aligned_to("8 bytes, store", store8, 8);
	aligned_to("FLD of 10 bytes", fld10, 8);
	expect_vector("ring 0", load4, 0, odd, VECTOR_USER_EXIT);
	odd.rflags = 0;
	expect_vector("without AC", load4, 3, odd, VECTOR_USER_EXIT);
	write_cr0(read_cr0() & ~CR0_AM);
	asm volatile("fninit");
}

// QEMU 7.2 loses the status flags.
void test_syscall_flags_exactly(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)USER_CS32 << 48 | (u64)KERNEL_CS << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_SFMASK, FLAG_IF | FLAG_DF);
	syscall_return_flags = FLAG_1;
	u64 flags = FLAG_1 | FLAG_CF | FLAG_OF | FLAG_IF | FLAG_DF;
	expect_vector("SYSCALL", system_call, 3, (struct regs){ .rflags = flags }, VECTOR_USER_EXIT);
	check(syscall_kernel_flags == (FLAG_1 | FLAG_CF | FLAG_OF) && syscall_r11 == flags, "flags in the kernel %lx, R11 %lx", syscall_kernel_flags,
	      syscall_r11);
}

// QEMU 7.2 delivers a vector below 16.
static bool swallow(struct trap_frame *f)
{
	if (f->vector >= 16)
		return false;
	lapic_write(LAPIC_EOI, 0);
	return true;
}

void test_illegal_vector_exactly(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	trap_hook = swallow;
	lapic_write(LAPIC_ESR, 0);
	lapic_write(LAPIC_LVT_ERROR, VECTOR_TEST);
	irq_count[VECTOR_TEST] = 0;
	lapic_icr(0, 1 << 18 | 5);
	u64 end = deadline_ms(50);
	sti();
	while (!irq_count[VECTOR_TEST] && !passed(end))
		relax();
	cli();
	trap_hook = 0;
	check(irq_count[VECTOR_TEST] == 1, "%u error interrupts after an IPI with vector 5", irq_count[VECTOR_TEST]);
	lapic_write(LAPIC_ESR, 0);
	check(lapic_read(LAPIC_ESR) & 0x60, "ESR after an IPI with vector 5: %x", lapic_read(LAPIC_ESR));
	lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
}
