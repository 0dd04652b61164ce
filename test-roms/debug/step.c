// Single step. SDM 3B "Single-Step Exception Condition", 2B "POPF", "STI", 2A "MOV".
#include "debug.h"

SNIPPET(three, "nop; mov $1, %eax; nop")
SNIPPET(branches, "jmp 1f; nop; 1: call 2f; jmp 3f; 2: ret; 3: xor %eax, %eax; jz 4f; nop; 4: nop")
SNIPPET(loops, "mov $2, %ecx; 1: loop 1b; jrcxz 2f; nop; 2: nop")
SNIPPET(pushf_, "pushfq; pop %rax")
SNIPPET(clear_tf, "pushfq; andl $0xfffffeff, (%rsp); popfq; nop; nop")
SNIPPET(set_tf, "pushfq; orl $0x100, (%rsp); popfq; nop; nop; pushfq; andl $0xfffffeff, (%rsp); popfq; nop")
SNIPPET(mov_ss, "nop; mov %ss, %eax; mov %eax, %ss; nop; nop")
SNIPPET(sti_, "nop; sti; nop; cli; nop")
SNIPPET(int_81, "nop; int $0x81; nop")
SNIPPET(ud, "nop; ud2")
SNIPPET(div_, "xor %ecx, %ecx; div %ecx")
SNIPPET(syscall_, "nop; syscall; nop")
SNIPPET(xadd_, "lock xaddl %eax, (%rdi); cpuid; rdtsc; nop")
SNIPPET(iret_tf, "mov %ss, %eax; push %rax; lea 8(%rsp), %rax; push %rax; pushfq; orl $0x100, (%rsp); mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax; iretq; nop; 1: nop; nop")

void interrupt_return(void);	// an IRETQ

#define TF ((struct regs){ .rflags = FLAG_TF })

void test_single_step(void)
{
	for (int ring = 0; ring < 4; ring += 3) {
		// INT 80h at the end clears TF, and has no trap behind it.
		expect_steps("plain instructions", three, ring, TF, (const i64[]){ 1, 6, 7, -1 }, DR6_BS);
		check((steps[0].rflags & (FLAG_TF | FLAG_RF)) == FLAG_TF && (steps[0].cs & 3) == (u64)ring, "RFLAGS in the frame %lx", steps[0].rflags);
		expect_steps("branches", branches, ring, TF, (const i64[]){ 3, 10, 8, 11, 13, 16, 17, -1 }, DR6_BS);
		expect_steps("LOOP", loops, ring, TF, (const i64[]){ 5, 5, 7, 10, 11, -1 }, DR6_BS);
		expect_steps("LOCK XADD, CPUID, RDTSC", xadd_, ring, (struct regs){ .rflags = FLAG_TF, .rdi = STACK_PAGE }, (const i64[]){ 4, 6, 8, 9, -1 }, DR6_BS);
	}
}

void test_step_flags(void)
{
	stepped(pushf_, 3, TF);
	check(trap.rax & FLAG_TF, "PUSHF: %lx", trap.rax);
	// The trap belongs to the TF that an instruction begins with.
	expect_steps("POPF that clears TF", clear_tf, 3, TF, (const i64[]){ 1, 8, 9, -1 }, DR6_BS);
	expect_steps("POPF that sets TF", set_tf, 3, NONE, (const i64[]){ 10, 11, 12, 19, 20, -1 }, DR6_BS);
	expect_steps("IRET that sets TF", iret_tf, 0, NONE, (const i64[]){ LENGTH(iret_tf) - 3, LENGTH(iret_tf) - 2, -1 }, DR6_BS);
	stepped(three, 3, NONE);
	check(step_count == 0, "without TF: %u debug exceptions", step_count);
	// An INT by another gate: the handler is not stepped, the way back is not either, what follows is.
	idt_set(0x81, interrupt_return, 3, 0);
	expect_steps("INT and IRET", int_81, 3, TF, (const i64[]){ 1, 4, -1 }, DR6_BS);
	idt_set(0x81, vector_entry(0x81), 0, 0);
}

void test_step_shadows(void)
{
	// MOV SS holds the trap behind it off, and it does not come later. Only the first of two is sure to do so.
	expect_steps("MOV SS", mov_ss, 3, TF, (const i64[]){ 1, 3, 6, 7, -1 }, DR6_BS);
	// STI holds interrupts off, but not this.
	expect_steps("STI", sti_, 0, TF, (const i64[]){ 1, 2, 3, 4, 5, -1 }, DR6_BS);
}

void test_step_faults(void)
{
	// A fault comes in place of the trap.
	int vector = stepped(ud, 3, TF);
	check(vector == VECTOR_UD && step_count == 1 && trap.rflags & FLAG_TF && trap.rflags & FLAG_RF && trap_offset() == 1, "UD2: exception %d after %u, RFLAGS %lx", vector, step_count,
	      trap.rflags);
	vector = stepped(div_, 3, TF);
	check(vector == VECTOR_DE && step_count == 1, "DIV: exception %d after %u", vector, step_count);
	// SYSCALL: FMASK decides whether its first instruction is reached with TF.
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)USER_CS32 << 48 | (u64)KERNEL_CS << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_SFMASK, FLAG_TF | FLAG_IF);
	syscall_return_flags = FLAG_1;
	vector = stepped(syscall_, 3, TF);
	check(vector == VECTOR_USER_EXIT && step_count == 1, "SYSCALL with FMASK.TF: exception %d after %u", vector, step_count);
}
