// The ways out of the machine.
#pragma once

#include "types.h"

// ACPI S5. Returns only if there is no way, or it does not work.
void power_off(void);
// FADT reset register, keyboard controller, triple fault.
void reboot(void) __attribute__((noreturn));
// One byte to the debug-exit port. Returns where there is none.
void debug_exit(u8 value);
void triple_fault(void) __attribute__((noreturn));
// After a failure: debug exit with 0x7f, power off, else halt.
void give_up(void) __attribute__((noreturn));
