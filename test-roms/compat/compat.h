// Long mode: compatibility mode, the ways into it and out of it, 16-byte descriptors, canonical addresses.
#pragma once

#include "legacy.h"
#include "print.h"
#include "snippet.h"

#define SPARE (&gdt[SPARE_SELECTOR / 8])
#define LENGTH(s) ((i64)((s).end - (s).start))
#define NONE ((struct regs){ 0 })

// A selector and offset in the stack page, where snippets find it by RDI.
struct regs far_pointer(u32 offset, u16 selector);

void test_widths(void);
void test_opcodes(void);
void test_segments(void);
void test_stacks(void);
void test_code16(void);
void test_far_jumps(void);
void test_far_calls(void);
void test_far_returns(void);
void test_iret(void);
void test_long_and_big(void);
void test_gates(void);
void test_bad_gates(void);
void test_sysenter(void);
void test_sysexit(void);
void test_syscall(void);
void test_sysenter32(void);
void test_ldtr_tr(void);
void test_bad_descriptors(void);
void test_ldt_never_loaded(void);
void test_bases(void);
void test_tables(void);
void test_edges(void);
void test_stack_edges(void);
void test_la57(void);
