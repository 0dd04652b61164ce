// What waits behind MOV SS and STI. SDM 3A "Masking Exceptions and Interrupts When Switching Stacks", 2B "STI", "POPF".
#include "debug.h"

#define AREA (STACK_PAGE + 0x100)
SNIPPET(load_ss, "mov (%rdi), %ss; nop; nop")
SNIPPET(load_ss_int, "mov (%rdi), %ss; int $0x80")
SNIPPET(load_ss_store, "mov (%rdi), %ss; mov %eax, 8(%rdi); nop")
SNIPPET(load_ds, "mov (%rdi), %ds; nop")

void test_pending(void)
{
	*(u16 *)(stack_frame + 0x100) = USER_DS;
	breakpoint(0, AREA, ACCESS, 2);
	expect_steps("MOV DS", load_ds, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 2, -1 }, 1);
	// The hit of MOV SS comes behind the next instruction.
	expect_steps("MOV SS", load_ss, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 3, -1 }, 1);
	// With what that one hits itself.
	breakpoint(1, AREA + 8, WRITE, 4);
	expect_steps("MOV SS and a store", load_ss_store, 3, (struct regs){ .rdi = AREA }, (const i64[]){ 5, -1 }, 3);
	// TF makes no trap of MOV SS, but what follows has its own.
	no_breakpoints();
	breakpoint(0, AREA, ACCESS, 2);
	stepped(load_ss, 3, (struct regs){ .rdi = AREA, .rflags = FLAG_TF });
	check(step_count == 2 && (steps[0].dr6 & 0xe00f) == (DR6_BS | 1) && steps[0].rip == CODE_PAGE + 3, "MOV SS with TF: %u, DR6 %lx at +%ld", step_count, steps[0].dr6,
	      steps[0].rip - CODE_PAGE);
	// If that is INT, the handler's first instruction is where it comes, at ring 0.
	int vector = run_snippet(load_ss_int, 3, (struct regs){ .rdi = AREA });
	check(vector == VECTOR_DB && trap.cs == KERNEL_CS && trap.rip == (u64)vector_entry(VECTOR_USER_EXIT) && (read_dr6() & 15) == 1, "MOV SS and INT: exception %d at %lx:%lx, DR6 %lx", vector,
	      trap.cs, trap.rip, read_dr6());
}

SNIPPET(sti_nops, "nop; sti; nop; nop; nop; cli")
SNIPPET(sti_cli, "nop; sti; cli; nop")
SNIPPET(sti_sti, "nop; sti; sti; nop; cli")
SNIPPET(popf_if, "pushfq; orl $0x200, (%rsp); popfq; nop; nop; cli")

static u64 interrupt_rip;

static void note_interrupt(struct trap_frame *f)
{
	interrupt_rip = f->rip;
}

// An interrupt waits when the code begins; where does it come? -1: not at all.
static void waiting(const char *what, struct snippet s, u64 flags, i64 offset)
{
	irq_handler[VECTOR_TEST] = note_interrupt;
	interrupt_rip = 0;
	lapic_icr(lapic_id(), VECTOR_TEST);
	int vector = run_snippet(s, 0, (struct regs){ .rflags = flags });
	i64 got = interrupt_rip ? (i64)(interrupt_rip - CODE_PAGE) : -1;
	check(vector == VECTOR_USER_EXIT && got == offset, "%s: exception %d, interrupt at +%ld, should be +%ld", what, vector, got, offset);
	// Let it go if it still waits.
	sti();
	relax();
	relax();
	cli();
	irq_handler[VECTOR_TEST] = 0;
}

void test_interrupt_shadow(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	waiting("STI", sti_nops, 0, 3);
	waiting("STI and CLI", sti_cli, 0, -1);
	waiting("STI twice", sti_sti, 0, 3);
	waiting("POPF", popf_if, 0, 9);
	waiting("IRETQ", sti_nops, FLAG_IF, 0);
}
