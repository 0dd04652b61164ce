// Operands in two pages that differ in their rights.
#pragma once

#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "x86.h"

#ifndef PF_P
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#endif

enum does { READS, WRITES, MODIFIES };
struct kind {
	const char *name;
	u8 does;		// enum does
	u16 size;		// bytes of the operand
	u8 align;		// what the operand must be aligned to, or 1
	u8 stack;		// the stack pointer is this much above the operand's address, or NO_STACK
	u8 pieces;		// stores or loads one after another: a fault may be anywhere in the operand, and may come after some
	const u8 *code, *end;	// (E/R)DI: the operand's address
} PACKED;
#define NO_STACK 0xff

extern const struct kind kinds64[], kinds32[];
extern const u32 kinds64_count, kinds32_count;

// The second page's neighbour: what the first and the second may be.
enum page { WRITABLE, READ_ONLY, ABSENT, SUPERVISOR, PAGES };
extern const char *const page_name[PAGES];
u64 page_flags(enum page);
static inline bool page_faults(enum page p, const struct kind *k)
{
	return p == ABSENT || p == SUPERVISOR || (p == READ_ONLY && k->does != READS);
}
// From one byte before the boundary to all but one, in three steps at the most.
static inline u32 distance_step(const struct kind *k)
{
	u32 step = ((k->size - 1u) / 2 + k->align - 1u) / k->align * k->align;
	return step ? step : k->align;
}
static inline u32 fault_code(enum page p, const struct kind *k)
{
	return PF_U | (p == ABSENT ? 0 : PF_P) | (k->does != READS ? PF_W : 0);
}

// x87 and MXCSR as after FINIT and reset: what an earlier kind has loaded must not fault later.
void reset_float(void);

void test_reads_64(void);
void test_writes_64(void);
void test_modifies_64(void);
void test_reads_32(void);
void test_writes_32(void);
void test_modifies_32(void);
