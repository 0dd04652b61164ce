// Pieces of code that run at ring 0 or ring 3 until an exception, or the INT 80h at their end.
#pragma once

#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "x86.h"

#define NON_CANONICAL 0x0000800000000000ul
#define ABSENT 0x0000500000000000ul	// nothing is mapped there

struct snippet { const u8 *start, *end; };

// Position-independent code. RAX, RSI and RDI are given, RSP is the end of a page that ring 3 may use.
#define SNIPPET(name, text) \
	extern u8 code_##name[], end_##name[]; \
	asm(".text\ncode_" #name ": " text "\nint $0x80\nend_" #name ":\n"); \
	static const struct snippet name = { code_##name, end_##name };

struct regs { u64 rax, rsi, rdi, rflags; };

#define CODE_PAGE TEST_WINDOW
#define STACK_PAGE (TEST_WINDOW + PAGE_SIZE)
#define STACK_END (STACK_PAGE + PAGE_SIZE - 256)
extern u8 stack_frame[4096];	// what STACK_PAGE is mapped to

void snippets_init(void);
// The vector that ended it: VECTOR_USER_EXIT where it came to its end. `trap` has the registers.
int run_snippet(struct snippet s, int ring, struct regs regs);
// Distance of the trap's RIP from the beginning of the snippet.
i64 trap_offset(void);
// A snippet must end by this vector, with this error code, at this distance.
void expect(const char *what, struct snippet s, int ring, struct regs regs, int vector, u64 error_code, i64 offset);
// The same without looking at error code and distance.
void expect_vector(const char *what, struct snippet s, int ring, struct regs regs, int vector);

struct gate { u64 low, high; };
#define GATE_P (1ul << 47)
struct gate *gate_of(int vector);
bool is_tcg(void);

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
