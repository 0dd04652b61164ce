// Interrupts whose end the test decides, and waits.
#pragma once

#include "clock.h"
#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "smp.h"
#include "x86.h"

#define LAPIC_LDR 0x0d0
#define LAPIC_DFR 0x0e0
#define LAPIC_TMR 0x180
#define LAPIC_LVT_THERMAL 0x330
#define LAPIC_LVT_PERFORMANCE 0x340
#define SVR_ENABLE (1u << 8)

#define ICR_LOWEST (1u << 8)
#define ICR_NMI (4u << 8)
#define ICR_INIT (5u << 8)
#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_SELF (1u << 18)
#define ICR_ALL (2u << 18)
#define ICR_OTHERS (3u << 18)

#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECEIVED_ILLEGAL (1u << 6)
#define ESR_REGISTER (1u << 7)

#define APIC_BASE_ENABLE (1ul << 11)
#define APIC_BASE_X2APIC (1ul << 10)
#define APIC_BASE_BSP (1ul << 8)

// Vectors whose handler only notes that it ran, and sends no EOI. All four are in classes of their own.
#define RAW_A 0x61
#define RAW_B 0x71
#define RAW_C 0x81
#define RAW_D 0x91
extern volatile u8 raw_order[16];
extern volatile int raw_count;
// Run inside a raw handler, after it has been noted; may be 0.
extern void (*volatile raw_inside)(u8 vector);
void raw_init(void);
void eoi(void);

// Interrupts of the first processor are let in for a moment that suffices for what is pending.
void let_in(void);
bool wait_count(volatile u32 *count, u32 wanted, u32 ms);
// All processors have taken what was pending for them.
void settle_all(void);
bool in_irr(u8 vector);
bool in_isr(u8 vector);
u32 read_esr(void);
bool has_x2apic(void);
// All processors to x2APIC mode, or by way of off back to xAPIC mode.
bool all_to_x2apic(void);
bool all_to_xapic(void);

void test_registers(void);
void test_disable(void);
void test_software_disable(void);
void test_errors(void);
void test_errors_exactly(void);
void test_priority(void);
void test_eoi(void);
void test_x2apic_registers(void);
void test_x2apic_exactly(void);
void test_x2apic_transitions(void);
void test_ipi_physical(void);
void test_ipi_logical(void);
void test_ipi_clusters(void);
void test_ipi_lowest(void);
void test_ipi_nmi(void);
void test_ipi_x2apic(void);
void test_startup(void);
void test_ioapic_registers(void);
void test_ioapic_edge(void);
void test_ioapic_level(void);
void test_ioapic_destinations(void);
void test_timer(void);
void test_timer_deadline(void);
