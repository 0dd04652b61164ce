// Accesses from ring 0 and ring 3, and the page tables that the topics work on.
#pragma once

#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "x86.h"

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

enum access { READ, WRITE, RUN, ACCESSES };
extern const char *const access_name[ACCESSES];

// A read, write or run of one byte (a RET) at the address, at ring 0 or 3. NO_TRAP, or the vector of the exception; its error
// code and CR2 are in `trap` and trap_cr2. With `ac` the access is made with RFLAGS.AC set.
int try_access(enum access access, bool user, bool ac, u64 address);
// An access must fault with this error code and CR2.
void expect_fault(const char *what, enum access access, bool user, u64 address, u32 error_code, u64 cr2);
void expect_none(const char *what, enum access access, bool user, u64 address);

// Ring 3 code and its stack are mapped here, for any topic.
#define USER_CODE 0x0000410000000000ul
void access_init(void);

// Two frames of the same contents for what the topics map.
extern u8 frame_a[4096], frame_b[4096];
// Maps 4 KiB with all rights at each level, for the supervisor or the user.
u64 *map(u64 linear, void *frame, u64 flags);

bool has_smep(void);
bool has_smap(void);
bool has_nx(void);
void set_cr4(u64 bits, bool on);

void test_rights_4k(void);
void test_rights_2m(void);
void test_rights_1g(void);
void test_not_present(void);
void test_reserved(void);
void test_accessed_dirty(void);
void test_split(void);
void test_split_exactly(void);
void test_split_fetch(void);
void test_tlb(void);
void test_global(void);
void test_pcid(void);
void test_invpcid(void);
void test_implicit(void);
void test_implicit_exactly(void);
