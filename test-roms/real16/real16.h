// Real-address mode.
#pragma once

#include "legacy.h"
#include "print.h"

#define END(c) ((u32)((c).end - (c).start))
#define NONE ((struct legacy_regs){ 0 })

// The code must come to its INT 80h.
bool passes(const char *what, struct code c, struct legacy_regs regs);
// Registers where it ended.
#define R legacy.out.regs
u32 stack16(u32 index);

void test_entry(void);
void test_segments(void);
void test_offsets(void);
void test_wrap(void);
void test_above_1m(void);
void test_unreal(void);
void test_unreal_selectors(void);
void test_sizes(void);
void test_far(void);
void test_stack(void);
void test_vectors(void);
void test_table(void);
void test_exceptions(void);
void test_iret(void);
void test_stepping(void);
void test_breakpoints(void);
void test_undefined(void);
void test_system(void);
void test_strings(void);
void test_string_sizes(void);
void test_string_wrap(void);
void test_string_faults(void);
