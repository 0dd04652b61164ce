// Exceptions in 64-bit mode: a function for each topic.
#pragma once

#include "snippet.h"

void test_iret(void);
void test_iret_exactly(void);
void test_iret_flags(void);
void test_canonical(void);
void test_canonical_exactly(void);
void test_double_faults(void);
void test_double_fault_codes_exactly(void);
void test_frames(void);
void test_resume_flag_exactly(void);
void test_priorities(void);
void test_priorities_exactly(void);
void test_nmi(void);
void test_idt_limit(void);
void test_call_gates(void);
void test_call_gates_exactly(void);
void test_ldt(void);
void test_io_permissions(void);
void test_msrs_exactly(void);
void test_control_exactly(void);
void test_debug(void);
void test_debug_exactly(void);
void test_alignment_exactly(void);
void test_syscall_flags_exactly(void);
void test_illegal_vector_exactly(void);
