// Runs 32-bit code in legacy protected mode, under page tables and control registers of the caller's choice.
#pragma once

#include "types.h"

// Selectors while the code runs: flat segments of 4 GiB.
#define PAGED32_CS 0x08
#define PAGED32_DS 0x10
#define PAGED32_USER_CS (0x18 | 3)
#define PAGED32_USER_DS (0x20 | 3)

// What a run starts with and how it ended. The page tables must map this program to itself, for the supervisor.
struct paged32 {
	u32 cr0, cr3, cr4, efer;	// CR0.PE and CR0.PG are set in any case; EFER.LME is clear
	u32 user;			// at ring 3
	u32 code, stack, flags;		// EIP, EFLAGS, and ESP for ring 3; ring 0 has the handlers' stack
	u32 eax, ecx, edx, ebx, ebp, esi, edi;
	// The exception that ended it; INT 80h is the way to end without one.
	u32 vector, error_code, cr2;
	u32 end_eip, end_cs, end_flags, end_esp;	// ESP from ring 3 only
	u32 end_eax, end_ecx, end_edx, end_ebx, end_ebp, end_esi, end_edi;
};
#define PAGED32_END 0x80

void paged32(struct paged32 *);
