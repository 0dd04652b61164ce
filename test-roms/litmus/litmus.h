// Programs of two to four processors that run at the same time.
#pragma once

#include "clock.h"
#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "smp.h"
#include "x86.h"

// Runs work(i) on processors 0 to n-1; each gets its number. False: one did not end, which has been reported.
bool together(u32 n, void (*work)(u32 processor));

void test_store_buffering(void);
void test_store_buffering_mfence(void);
void test_store_buffering_locked(void);
void test_message_passing(void);
void test_load_buffering(void);
void test_two_writers(void);
void test_independent_reads(void);
void test_coherence(void);
void test_whole_accesses(void);
void test_unaligned_accesses(void);
void test_locked_counters(void);
void test_locked_unaligned(void);
void test_locked_overlapping(void);
void test_locked_wide(void);
void test_locked_page_crossing(void);
void test_locked_mmio(void);
void test_spinlock(void);
void test_shootdown(void);
void test_dirty_bits(void);
void test_present_without_flush(void);
