// The parts of the demo guest, a file each.
#pragma once

#include "types.h"

void show_cpu(void);
void show_memory(void);
void show_devices(void);
void show_pci(void);
void show_time(void);

void run_selftest(void);
void run_benchmark(void);

// The prompt; returns when the guest is to be powered off.
void shell(void);
// Commands separated by semicolons. True: power off.
bool run_commands(const char *commands);

// CMOS clock.
struct rtc_time { u32 year, month, day, hour, minute, second; };
bool rtc_read(struct rtc_time *t);
u8 cmos_read(u8 index);
void cmos_write(u8 index, u8 value);
