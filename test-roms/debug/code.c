// Instruction breakpoints and RF. SDM 3B "Instruction-Breakpoint Exception Condition", "Instruction-Breakpoint Exception Condition and
// the RF flag".
#include "debug.h"

SNIPPET(three, "nop; mov $1, %eax; nop")
SNIPPET(loops, "mov $3, %ecx; 1: loop 1b; nop")
SNIPPET(store, "nop; mov %eax, (%rdi); nop")
SNIPPET(fault, "nop; ud2")
SNIPPET(popf_rf, "pushfq; orl $0x10000, (%rsp); popfq; nop; pushfq; pop %rax")
SNIPPET(iret_rf, "mov %ss, %eax; push %rax; lea 8(%rsp), %rax; push %rax; pushfq; orl $0x10000, (%rsp); mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax; iretq; nop; 1: nop; nop")
SNIPPET(mov_ss, "nop; mov %ss, %eax; mov %eax, %ss; nop; nop")
SNIPPET(sti_, "nop; sti; nop; cli; nop")
SNIPPET(rep_stosb, "mov $3, %ecx; rep stosb; nop")

void test_code(void)
{
	step_flags = FLAG_RF;	// so that each strikes once
	for (int ring = 0; ring < 4; ring += 3)
		for (int n = 0; n < 4; n++) {
			no_breakpoints();
			breakpoint(n, CODE_PAGE + 1, EXECUTE, 1);
			expect_steps("second instruction", three, ring, NONE, (const i64[]){ 1, -1 }, 1ul << n);
			// What is pushed has RF as it was: clear.
			check(!(steps[0].rflags & FLAG_RF), "RFLAGS in the frame %lx", steps[0].rflags);
		}
	no_breakpoints();
	breakpoint(0, CODE_PAGE + 3, EXECUTE, 1);
	expect_steps("middle of an instruction", three, 3, NONE, (const i64[]){ -1 }, 0);
	breakpoint(0, CODE_PAGE, EXECUTE, 1);
	breakpoint(1, CODE_PAGE + 6, EXECUTE, 1);
	stepped(three, 3, NONE);
	check(step_count == 2 && (steps[0].dr6 & 15) == 1 && (steps[1].dr6 & 15) == 2 && steps[1].rip == CODE_PAGE + 6, "first and last: %u, DR6 %lx %lx", step_count, steps[0].dr6, steps[1].dr6);
	no_breakpoints();
	breakpoint(0, CODE_PAGE + 5, EXECUTE, 1);
	expect_steps("loop", loops, 3, NONE, (const i64[]){ 5, 5, 5, -1 }, 1);
	// At the beginning of the string only, RF is in the frames of its iterations.
	expect_steps("REP STOSB", rep_stosb, 3, (struct regs){ .rdi = STACK_PAGE }, (const i64[]){ 5, -1 }, 1);
	// A data breakpoint of the same instruction comes behind it.
	no_breakpoints();
	breakpoint(0, CODE_PAGE + 1, EXECUTE, 1);
	breakpoint(1, STACK_PAGE, WRITE, 4);
	stepped(store, 3, (struct regs){ .rdi = STACK_PAGE });
	check(step_count == 2 && (steps[0].dr6 & 15) == 1 && steps[0].rip == CODE_PAGE + 1 && (steps[1].dr6 & 15) == 2 && steps[1].rip == CODE_PAGE + 3, "instruction and data: %u, DR6 %lx %lx",
	      step_count, steps[0].dr6, steps[1].dr6);
	step_flags = 0;
}

static u32 faults;

// The handler of #UD sets a breakpoint on the instruction itself and skips nothing: RF in the frame must keep it off.
static bool retry(struct trap_frame *f)
{
	if (f->vector == VECTOR_UD) {
		faults++;
		if (!(f->rflags & FLAG_RF) || faults > 2)
			return false;
		return true;
	}
	if (f->vector == VECTOR_DB)
		step_count++;
	return false;
}

void test_resume_flag(void)
{
	// Without RF it strikes again and again.
	breakpoint(0, CODE_PAGE + 1, EXECUTE, 1);
	step_count = 0;
	step_flags = 0;
	int vector = stepped(three, 3, NONE);
	check(vector == VECTOR_DB && step_count == STEPS_MAX && steps[STEPS_MAX - 1].rip == CODE_PAGE + 1, "without RF: exception %d after %u", vector, step_count);
	// RF is over behind one instruction.
	step_flags = FLAG_RF;
	breakpoint(1, CODE_PAGE + 6, EXECUTE, 1);
	stepped(three, 3, NONE);
	check(step_count == 2 && !(steps[1].rflags & FLAG_RF), "RF behind one instruction: %u, RFLAGS %lx", step_count, steps[1].rflags);
	step_flags = 0;
	// POPF does not set it, IRET does.
	no_breakpoints();
	vector = run_snippet(popf_rf, 3, NONE);
	check(vector == VECTOR_USER_EXIT && !(trap.rax & FLAG_RF), "PUSHF: %lx", trap.rax);
	breakpoint(0, CODE_PAGE + 9, EXECUTE, 1);
	vector = run_snippet(popf_rf, 3, NONE);
	check(vector == VECTOR_DB && trap_offset() == 9, "POPF: exception %d at +%ld", vector, trap_offset());
	breakpoint(0, CODE_PAGE + (u64)LENGTH(iret_rf) - 4, EXECUTE, 1);
	vector = run_snippet(iret_rf, 0, NONE);
	check(vector == VECTOR_USER_EXIT, "IRETQ with RF: exception %d at +%ld", vector, trap_offset());
	// Faults set it in their frames, so that the instruction is not stopped when it runs again.
	faults = step_count = 0;
	breakpoint(0, CODE_PAGE + 1, EXECUTE, 1);
	trap_hook = retry;
	vector = run_snippet(fault, 3, (struct regs){ .rflags = FLAG_RF });
	trap_hook = 0;
	check(vector == VECTOR_DB && step_count == 1 && faults == 0, "first time: exception %d, %u faults", vector, faults);
	no_breakpoints();
	trap_hook = retry;
	vector = run_snippet(fault, 3, NONE);
	trap_hook = 0;
	check(vector == VECTOR_UD && faults == 3 && trap.rflags & FLAG_RF, "RF in the frames of #UD: exception %d, %u faults, RFLAGS %lx", vector, faults, trap.rflags);
}

void test_code_shadow(void)
{
	step_flags = FLAG_RF;
	breakpoint(0, CODE_PAGE + 5, EXECUTE, 1);
	expect_steps("behind MOV SS", mov_ss, 3, NONE, (const i64[]){ -1 }, 0);
	breakpoint(0, CODE_PAGE + 6, EXECUTE, 1);
	expect_steps("the one after that", mov_ss, 3, NONE, (const i64[]){ 6, -1 }, 1);
	breakpoint(0, CODE_PAGE + 2, EXECUTE, 1);
	expect_steps("behind STI", sti_, 0, NONE, (const i64[]){ 2, -1 }, 1);
	step_flags = 0;
}
