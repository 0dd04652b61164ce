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
#define SNIPPET_(name, bits, text) \
	extern u8 code_##name[], end_##name[]; \
	asm(".text\n.code" bits "\ncode_" #name ": " text "\nint $0x80\nend_" #name ":\n.code64\n"); \
	static const struct snippet name = { code_##name, end_##name };
#define SNIPPET(name, text) SNIPPET_(name, "64", text)
// For compatibility mode, where they lie at COMPAT_PAGE and have their stack in the page behind it.
#define SNIPPET32(name, text) SNIPPET_(name, "32", text)
#define SNIPPET16(name, text) SNIPPET_(name, "16", text)

struct regs { u64 rax, rsi, rdi, rflags; };

#define CODE_PAGE TEST_WINDOW
#define STACK_PAGE (TEST_WINDOW + PAGE_SIZE)
#define STACK_END (STACK_PAGE + PAGE_SIZE - 256)
extern u8 stack_frame[4096];	// what STACK_PAGE is mapped to

#define COMPAT_PAGE 0x7fe00000ul
#define COMPAT_STACK (COMPAT_PAGE + PAGE_SIZE)
#define COMPAT_STACK_END (COMPAT_STACK + PAGE_SIZE - 256)

void snippets_init(void);
// The vector that ended it: VECTOR_USER_EXIT where it came to its end. `trap` has the registers.
int run_snippet(struct snippet s, int ring, struct regs regs);
// The same in compatibility mode, or with any selectors: at COMPAT_PAGE, or at offset 0 of a segment that begins there.
int run_compat(struct snippet s, int ring, struct regs regs);
int run_compat_as(struct snippet s, u16 cs, u64 rip, u16 ss, struct regs regs);
void expect_compat(const char *what, struct snippet s, int ring, struct regs regs, int vector, u64 error_code, i64 offset);
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
