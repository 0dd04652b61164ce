// Clocks are judged by one another only: the host may stop the guest at any time, and then all of them go on.
#pragma once

#include "acpi.h"
#include "clock.h"
#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "smp.h"
#include "x86.h"

#define PIT_HZ 1193182
#define ATTEMPTS 8

#define V 0xa3

// Vectors of interrupts that come by the I/O APIC, counted in irq_count.
int route_isa(int irq);
// Interrupts are let in until the count is there; false when the time is up.
bool wait_irqs(int vector, u32 count, u32 ms);
void let_in(void);
// Whether a is within a thousandth times `permille` of b.
bool near(u64 a, u64 b, u64 permille);

u8 cmos_read(u8 index);
void cmos_write(u8 index, u8 value);
u16 pit_latch(int channel);
u8 pit_status(int channel);
void pit_program(int channel, int mode, u32 count);
// Channel 0 waits for a count, and sends nothing.
void pit_stop(void);

void test_rates(void);
void test_monotonic(void);
void test_tsc(void);
void test_tsc_processors(void);
void test_pit_modes(void);
void test_pit_reading(void);
void test_pit_interrupts(void);
void test_pit_ticks(void);
void test_hpet_counter(void);
void test_hpet_one_shot(void);
void test_hpet_periodic(void);
void test_lapic_periodic(void);
void test_rtc_flags(void);
void test_rtc_interrupts(void);
