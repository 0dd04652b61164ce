// The frame of every ROM: what has been set up when rom_main is called, and the tests' reports.
#pragma once

#include "types.h"

// Written by each ROM. When it is called, serial port, page tables, GDT, TSS, IDT, ACPI facts, TSC frequency and the
// local APIC are ready, and interrupts are off. Power goes off when it returns.
void rom_main(void);

bool word_on_command_line(const char *word);

// A topic is a group of checks with one line of output, "PASS topic: n checks" or "FAIL topic: ..", the latter preceded
// by a line for each of the first checks that failed. A topic without any check counts as skipped.
void topic(const char *name);
bool check(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
void skip(const char *reason);
void topic_end(void);
// Runs the checks of a topic and reports. A topic that an exception ends has failed; control registers are as before it.
void run_topic(const char *name, void (*run)(void));
// Says how many topics passed, and ends by the debug-exit port: 0 if none failed, else 1. Returns where there is no such port.
void finish(void);
struct score { u32 passed, failed, skipped; };
extern struct score score;
void check_eq(u64 got, u64 want, const char *what);
