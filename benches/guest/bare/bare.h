// Rows that need the whole machine: each does its work once and gives a number that depends on all of it.
#pragma once

#include "types.h"

u64 run_cr3(void);
u64 run_invlpg(void);
u64 run_walk(void);
u64 run_interrupts(void);
u64 run_exceptions(void);
u64 run_self_ipi(void);
u64 run_ports(void);
u64 run_mmio(void);
u64 run_real16(void);
u64 run_protected32(void);
u64 run_mode_switch(void);

static inline u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x100000001b3;
	return hash ^ hash >> 29;
}
