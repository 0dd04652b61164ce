// Time: the TSC, calibrated against the clocks that the board has.
#pragma once

#include "types.h"

struct reference_clock {
	const char *name;
	u64 hz;
	u64 mask;		// of the counter's width
	u64 (*read)(void);
};
extern const struct reference_clock pm_timer_clock, pit_clock;
extern struct reference_clock hpet_clock;

// TSC ticks per second; 0 if nothing tells.
extern u64 tsc_hz;
// Where that is from.
extern const char *tsc_source;

void clock_init(void);
// TSC ticks per second as measured against a reference over `ms` milliseconds; 0 if the reference does not count.
u64 measure_tsc(const struct reference_clock *reference, u32 ms);
// From CPUID 15h (and 16h for the crystal); 0 if it does not say.
u64 tsc_hz_by_cpuid(void);
bool pm_timer_present(void);
bool hpet_present(void);
void pit_start_channel2(void);
u64 hpet_read(u32 reg);
void hpet_write(u32 reg, u64 v);

// Deadlines are TSC values.
u64 deadline_ms(u32 ms);
u64 deadline_us(u32 us);
bool passed(u64 deadline);
void wait_ms(u32 ms);
u64 ticks_to_us(u64 ticks);
