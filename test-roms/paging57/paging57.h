// 5-level paging and protection keys, on the accesses of paging64.
#pragma once

#include "../paging64/paging64.h"

#define CR4_LA57 (1ul << 12)
#define CR4_PKE (1ul << 22)
#define PF_PK 32u

bool has_la57(void);
bool has_pku(void);

// Leaves 64-bit mode for a moment, as a change of CR4.LA57 needs it.
void switch_paging(u64 cr3, u64 cr4);
// To 5-level paging, whose first entry is the page tables that were there, and back.
bool enter_la57(void);
void leave_la57(void);
// The entry of a level, 5 to 1, for an address beyond the first 256 TiB; made where it is not there.
u64 *entry57(u64 linear, int level);
// In the lower half, beyond what 4-level paging has.
#define FAR_WINDOW 0x0005400000000000ul

void test_switch(void);
void test_rights_far(void);
void test_not_present_57(void);
void test_reserved_57(void);
void test_tlb_57(void);
void test_canonical_48(void);
void test_canonical_57(void);
void test_canonical_stack(void);
void test_branches(void);
void test_bases(void);
void test_key_rights(void);
void test_key_registers(void);
