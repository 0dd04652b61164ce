// Debug exceptions, interrupt shadows, NMI.
#pragma once

#include "clock.h"
#include "legacy.h"
#include "print.h"
#include "snippet.h"

#define CR4_DE (1ul << 3)
#define DR6_NONE 0xffff0ff0ul
#define DR6_BD (1ul << 13)
#define DR6_BS (1ul << 14)
#define LENGTH(s) ((i64)((s).end - (s).start))
#define NONE ((struct regs){ 0 })

enum { EXECUTE, WRITE, PORT, ACCESS };

// Each #DB that came, until there were `steps_max`; execution went on behind each.
struct step { u64 rip, rflags, dr6, cs; };
#define STEPS_MAX 40
extern struct step steps[STEPS_MAX];
extern u32 step_count, steps_max;
// Flags that are set in the frame of each before it goes on, and whether DR7 is cleared.
extern u64 step_flags;
// Runs a snippet and notes #DBs; the vector that ended it.
int stepped(struct snippet s, int ring, struct regs regs);
// A breakpoint in DR0..3, switched on by its local bit. Length in bytes.
void breakpoint(int n, u64 address, u32 kind, u32 bytes);
void no_breakpoints(void);
// These offsets had a #DB each, in this order, with these bits of DR6; -1 ends the list.
void expect_steps(const char *what, struct snippet s, int ring, struct regs regs, const i64 *offsets, u64 dr6);

void test_single_step(void);
void test_step_flags(void);
void test_step_shadows(void);
void test_step_faults(void);
void test_data_sizes(void);
void test_data_kinds(void);
void test_data_strings(void);
void test_data_stack(void);
void test_data_and_step(void);
void test_code(void);
void test_resume_flag(void);
void test_code_shadow(void);
void test_ports(void);
void test_dr6_dr7(void);
void test_dr_refused(void);
void test_general_detect(void);
void test_pending(void);
void test_interrupt_shadow(void);
void test_nmi(void);
void test_nmi_blocking(void);
void test_legacy_step(void);
void test_legacy_breakpoints(void);
