// Page tables of the 32-bit formats, and accesses under them.
#pragma once

#include "interrupts.h"
#include "paged32.h"
#include "memory.h"
#include "rom.h"
#include "x86.h"

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#define CR4_PSE (1ul << 4)

// SDM 3A "32-Bit Paging" and "PAE Paging". LARGE: the window is mapped by one page of 4 MiB or 2 MiB.
struct format { const char *name; bool pae, large; };
extern const struct format formats[4];

// The linear addresses that topics map. The low 16 MiB are the program's, mapped to themselves.
#define WINDOW 0x40000000u
#define USER_PAGE 0x50000000u

// Builds the tables of a format, with nothing at the window.
void tables_build(const struct format *);
// What CR3 gets for the tables.
u32 tables_cr3(const struct format *);
// Entries for an address: level 2 is the page directory, 1 the page table, 3 a PDPTE. Tables are there for the window and a page
// behind it.
u64 entry_read(const struct format *, u32 linear, int level);
void entry_write(const struct format *, u32 linear, int level, u64 value);
u64 entry_address(const struct format *, u32 linear, int level);
// The entry that maps the window: its level, and its value for frame_a with these flags.
int leaf_level(const struct format *);
u64 leaf_value(const struct format *, u64 flags);
// Where frame_a is within the window.
u32 window_address(const struct format *);

enum access { READ, WRITE, RUN, MODIFY, ACCESSES };
extern const char *const access_name[ACCESSES];
static inline bool writes(enum access a) { return a == WRITE || a == MODIFY; }

struct mode { bool wp, smep, smap, ac, nxe, pse, pge; };
// How a run begins under a format in a mode.
struct paged32 prepare(const struct format *, struct mode);
// One access of a byte (a RET) at ring 0 or 3.
struct paged32 try_access(const struct format *, struct mode, enum access, bool user, u32 address);
void expect_fault(const char *what, const struct paged32 *, u32 error_code, u32 cr2);
void expect_none(const char *what, const struct paged32 *);
// Runs a piece of 32-bit code at ring 0 with ESI and EDI.
struct paged32 run_code(const struct format *, struct mode, const u8 *code, u32 eax, u32 esi, u32 edi);

extern u8 frame_a[4096], frame_b[4096];

bool has_smep(void);
bool has_smap(void);
u32 physical_bits(void);

void test_rights_of(const struct format *);
void test_modify_exactly(void);
void test_reserved_exactly(void);
void test_not_present(void);
void test_size_bit(void);
void test_pse36(void);
void test_pdpte(void);
void test_pdpte_exactly(void);
void test_tlb(void);
void test_global(void);
void test_cr4(void);
