// Memory map, ACPI tables, interrupt controllers, timers, serial port.
#include "acpi.h"
#include "clock.h"
#include "demo.h"
#include "interrupts.h"
#include "memory.h"
#include "print.h"
#include "x86.h"

void show_memory(void)
{
	for (int i = 0; i < boot_info.e820_count; i++) {
		const struct e820_entry *e = &boot_info.e820[i];
		print("  %012lx-%012lx  %9lu KiB  %s\n", e->address, e->address + e->size - 1, e->size >> 10,
		      e820_type_name(e->type));
	}
	print("RAM:        %lu MiB (%lu KiB) in %d entries of the memory map\n", ram_total() >> 20, ram_total() >> 10,
	      boot_info.e820_count);
}

static void show_tables(void)
{
	if (!acpi.found) {
		print("ACPI:       no RSDP\n");
		return;
	}
	print("ACPI:       RSDP at %lx, revision %u, checksum %s, tables by the %s\n", acpi.rsdp, acpi.revision,
	      acpi.rsdp_ok ? "ok" : "BAD", acpi.by_xsdt ? "XSDT" : "RSDT");
	for (int i = 0; i < acpi.table_count; i++) {
		const struct acpi_table *t = &acpi.table[i];
		print("  %s at %08lx, %5u bytes, revision %u, %-6s checksum %s\n", t->signature, t->address, t->length,
		      t->revision, t->oem, t->checksum_ok ? "ok" : "BAD");
	}
}

static void show_madt(void)
{
	int enabled = 0;
	for (int i = 0; i < acpi.cpu_count; i++)
		enabled += acpi.cpu[i].flags & 1;
	print("CPUs:       %d enabled, %d possible; this one has APIC id %u\n", enabled, acpi.cpu_count,
	      lapic_present() ? lapic_id() : 0);
	if (lapic_present())
		print("LAPIC:      at %lx, version %02x, %s mode\n", rdmsr(MSR_APIC_BASE) & PAGE_ADDRESS,
		      lapic_read(LAPIC_VERSION) & 0xff, lapic_is_x2apic() ? "x2APIC" : "xAPIC");
	for (int i = 0; i < acpi.ioapic_count; i++) {
		const struct acpi_ioapic *io = &acpi.ioapic[i];
		write32(io->address, 1);
		u32 version = read32(io->address + 0x10);
		print("IOAPIC:     id %u at %lx, version %02x, interrupts %u to %u\n", io->id, io->address, version & 0xff,
		      io->gsi_base, io->gsi_base + (version >> 16 & 0xff));
	}
	for (int i = 0; i < acpi.override_count; i++) {
		const struct acpi_override *o = &acpi.override[i];
		print("            ISA IRQ %u is interrupt %u%s%s\n", o->irq, o->gsi, (o->flags >> 2 & 3) == 3 ? ", level" : "",
		      (o->flags & 3) == 3 ? ", active low" : "");
	}
}

static void show_timers(void)
{
	if (hpet_present()) {
		u64 capabilities = hpet_read(0);
		print("HPET:       at %lx, %lu.%06lu MHz, %lu comparators, %s bits\n", acpi.hpet, hpet_clock.hz / 1000000,
		      hpet_clock.hz % 1000000, (capabilities >> 8 & 31) + 1, capabilities >> 13 & 1 ? "64" : "32");
	} else {
		print("HPET:       none\n");
	}
	if (pm_timer_present())
		print("PM timer:   port %x, %s bits\n", acpi.pm_timer, acpi.pm_timer_32bit ? "32" : "24");
	else
		print("PM timer:   none\n");
	print("Power off:  ");
	if (acpi.s5_found && acpi.pm1a_control)
		print("PM1a control port %x, SLP_TYP %u\n", acpi.pm1a_control, acpi.s5_a);
	else
		print("no way (%s)\n", acpi.s5_found ? "no PM1a control port" : "no _S5 in the DSDT");
}

void show_devices(void)
{
	show_tables();
	show_madt();
	show_timers();
	print("UART:       %s at port %x\n", serial_type(), COM1);
	print("RTC:        ");
	show_time();
	show_pci();
}
