// Hardware task switches.
#pragma once

#include "legacy.h"
#include "memory.h"
#include "print.h"

// The second task's selectors as tests use them, and a gate to it.
#define SPARE legacy_gdt[L_SPARE / 8]
#define GATE legacy_gdt[L_SPARE / 8 + 1]
#define GATE_SELECTOR (L_SPARE + 8)
#define BUSY (1ul << 41)

static inline u32 address(struct code c) { return (u32)(u64)c.start; }
#define END(c) ((u32)(u64)(c).end)

// legacy_tss2 becomes a task of this ring that begins at this code.
void task2(struct code c, u32 ring);
bool is_busy(u32 selector);
// Far jump or call by a pointer in the scratch page.
struct legacy_regs to_selector(u32 selector);

void test_jump(void);
void test_call(void);
void test_interrupt(void);
void test_state(void);
void test_ldt(void);
void test_narrow(void);
void test_v86(void);
void test_trap_bit(void);
void test_ts(void);
void test_cr3(void);
void test_rights(void);
void test_bad_tss(void);
void test_bad_gate_targets(void);
void test_bad_state(void);
void test_bad_links(void);
void test_event_errors(void);
void test_split(void);
void test_page_faults(void);
