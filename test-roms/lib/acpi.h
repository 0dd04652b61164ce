// What the ACPI tables say, gathered once.
#pragma once

#include "types.h"

struct acpi_table { char signature[5]; u64 address; u32 length; u8 revision; char oem[7]; bool checksum_ok; };
struct acpi_cpu { u32 apic_id, flags; };
struct acpi_ioapic { u8 id; u64 address; u32 gsi_base; };
struct acpi_override { u8 irq; u32 gsi; u16 flags; };

struct acpi {
	bool found;		// an RSDP with a right checksum
	u64 rsdp;
	u8 revision;
	bool rsdp_ok;
	bool by_xsdt;
	struct acpi_table table[32];
	int table_count;

	struct acpi_cpu cpu[64];
	int cpu_count;
	struct acpi_ioapic ioapic[4];
	int ioapic_count;
	struct acpi_override override[16];
	int override_count;

	u64 hpet, ecam;
	u16 ecam_segment;
	u8 ecam_first_bus, ecam_last_bus;

	u16 pm_timer;
	bool pm_timer_32bit;
	u16 pm1a_control, pm1b_control, pm1a_event;
	u16 smi_command;
	u8 acpi_enable;
	u8 century;		// CMOS index, or 0
	bool s5_found;
	u8 s5_a, s5_b;		// SLP_TYPa, SLP_TYPb
	u8 reset_space, reset_value;
	u64 reset_address;	// 0: no reset register
};
extern struct acpi acpi;

void acpi_init(void);
const u8 *acpi_find(const char *signature);
bool acpi_checksum(const u8 *p, u32 n);
