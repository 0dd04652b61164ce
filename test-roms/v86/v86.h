// Virtual-8086 mode.
#pragma once

#include "legacy.h"
#include "memory.h"
#include "print.h"

#define SPARE legacy_gdt[L_SPARE / 8]
#define END(c) ((u32)((c).end - (c).start))

// The code must come to its INT 80h: the interrupt with IOPL 3, #GP(0) with less.
bool passes(const char *what, struct code c, u32 eflags, struct legacy_regs regs);
// The word at an offset from the stack pointer where it ended.
u32 stack16(u32 index);

void test_entry(void);
void test_frames(void);
void test_sensitive(void);
void test_flags(void);
void test_interrupts(void);
void test_bad_gates(void);
void test_segments(void);
void test_far(void);
void test_ports(void);
void test_privileged(void);
void test_stepping(void);
void test_paging(void);
void test_iret_to_v86(void);
void test_virtual_flags(void);
void test_virtual_popf(void);
void test_virtual_iret(void);
void test_redirection(void);
void test_redirection_map(void);
