#include "debug.h"
#include "power.h"

struct step steps[STEPS_MAX];
u32 step_count, steps_max;
u64 step_flags;

// B0 to B3 of breakpoints that are not on may be set or not.
static u64 dr6_of_enabled(void)
{
	u64 dr6 = read_dr6(), dr7 = read_dr7();
	for (int n = 0; n < 4; n++)
		if (!(dr7 >> 2 * n & 3))
			dr6 &= ~(1ul << n);
	return dr6;
}

static bool note(struct trap_frame *f)
{
	if (f->vector != VECTOR_DB)
		return false;
	if (step_count < STEPS_MAX)
		steps[step_count] = (struct step){ f->rip, f->rflags, dr6_of_enabled(), f->cs };
	write_dr6(DR6_NONE);
	f->rflags |= step_flags;
	return ++step_count < steps_max;
}

int stepped(struct snippet s, int ring, struct regs regs)
{
	step_count = 0;
	steps_max = STEPS_MAX;
	trap_hook = note;
	write_dr6(DR6_NONE);
	int vector = run_snippet(s, ring, regs);
	trap_hook = 0;
	return vector;
}

void breakpoint(int n, u64 address, u32 kind, u32 bytes)
{
	u32 len = bytes == 8 ? 2 : bytes - 1;
	switch (n) {
	case 0: write_dr0(address); break;
	case 1: write_dr1(address); break;
	case 2: write_dr2(address); break;
	default: write_dr3(address); break;
	}
	write_dr7((read_dr7() & ~(0xful << (16 + 4 * n))) | 1ul << 2 * n | (u64)(kind | len << 2) << (16 + 4 * n));
}

void no_breakpoints(void)
{
	write_dr7(0x400);
	write_dr6(DR6_NONE);
}

void expect_steps(const char *what, struct snippet s, int ring, struct regs regs, const i64 *offsets, u64 dr6)
{
	int vector = stepped(s, ring, regs);
	u32 n = 0;
	while (offsets[n] >= 0)
		n++;
	check(vector == VECTOR_USER_EXIT && step_count == n, "%s: exception %d after %u debug exceptions, should be %u", what, vector, step_count, n);
	for (u32 i = 0; i < n && i < step_count; i++)
		check(steps[i].rip - CODE_PAGE == (u64)offsets[i] && (steps[i].dr6 & 0xe00f) == dr6, "%s: debug exception %u at +%ld, DR6 %lx, should be +%ld, %lx", what, i,
		      steps[i].rip - CODE_PAGE, steps[i].dr6, offsets[i], dr6);
}

static void run(const char *name, void (*test)(void))
{
	no_breakpoints();
	run_topic(name, test);
	no_breakpoints();
	trap_hook = 0;
}

void rom_main(void)
{
	print("debug\n");
	if (word_on_command_line("triple")) {
		print("A triple fault follows.\n");
		triple_fault();
	}
	snippets_init();
	run("single step", test_single_step);
	run("single step and flags", test_step_flags);
	run("single step in shadows", test_step_shadows);
	run("single step and faults", test_step_faults);
	run("sizes of data breakpoints", test_data_sizes);
	run("kinds of data breakpoints", test_data_kinds);
	run("data breakpoints of string instructions", test_data_strings);
	run("data breakpoints of the stack", test_data_stack);
	run("data breakpoints and single step", test_data_and_step);
	run("instruction breakpoints", test_code);
	run("the resume flag", test_resume_flag);
	run("instruction breakpoints behind MOV SS", test_code_shadow);
	run("I/O breakpoints", test_ports);
	run("DR6 and DR7", test_dr6_dr7);
	run("debug registers that refuse", test_dr_refused);
	run("general detect", test_general_detect);
	run("debug exceptions that wait behind MOV SS", test_pending);
	run("interrupt shadows", test_interrupt_shadow);
	run("NMI", test_nmi);
	run("NMI blocking", test_nmi_blocking);
	run("single step without long mode", test_legacy_step);
	run("breakpoints without long mode", test_legacy_breakpoints);
	finish();
}
