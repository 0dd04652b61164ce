// Protected mode of 32 bits: a function for each topic.
#pragma once

#include "legacy.h"
#include "print.h"

// A descriptor that a test may change, and its selector.
#define SPARE legacy_gdt[L_SPARE / 8]

void test_frames(void);
void test_data_segments(void);
void test_stack_segments(void);
void test_accessed(void);
void test_table_limits(void);
void test_null_segments(void);
void test_limits(void);
void test_stack_limits(void);
void test_types(void);
void test_fetch_limits(void);
void test_stack_width(void);
void test_lar_lsl(void);
void test_verr_verw(void);
void test_arpl(void);
void test_far_jumps(void);
void test_far_calls(void);
void test_call_gates(void);
void test_gate_parameters(void);
void test_gate_stacks(void);
void test_far_returns(void);
void test_outer_returns(void);
void test_interrupt_gates(void);
void test_bad_gates(void);
void test_bad_targets(void);
void test_inner_stacks(void);
void test_external_bit(void);
void test_iret(void);
void test_iret_flags(void);
void test_double_faults(void);
void test_io_permissions(void);
void test_iopl(void);
void test_alignment(void);
void test_privileged(void);
void test_control(void);
void test_entering_long_mode(void);
void test_code16(void);
void test_lengths(void);
void test_strings(void);
void test_overrides(void);
void test_bit_strings(void);
void test_base_wrap(void);
void test_top_of_memory(void);
void test_half_stack_pointer(void);
