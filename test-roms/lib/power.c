// Power off, reboot, and other ends.
#include "power.h"
#include "acpi.h"
#include "clock.h"
#include "print.h"
#include "x86.h"

#define DEBUG_EXIT 0xf4
#define SCI_EN 1u
#define SLP_EN (1u << 13)

static void enter_acpi_mode(void)
{
	if (!acpi.smi_command || !acpi.acpi_enable || inw(acpi.pm1a_control) & SCI_EN)
		return;
	outb(acpi.smi_command, acpi.acpi_enable);
	u64 end = deadline_ms(300);
	while (!(inw(acpi.pm1a_control) & SCI_EN) && !passed(end))
		relax();
}

void power_off(void)
{
	serial_flush();
	if (!acpi.s5_found || !acpi.pm1a_control)
		return;
	enter_acpi_mode();
	// Writing SLP_TYP and then SLP_EN apart, as chipsets want it; SCI_EN keeps its value.
	u16 a = (u16)((inw(acpi.pm1a_control) & ~0x3c00u) | (u32)acpi.s5_a << 10);
	outw(acpi.pm1a_control, a);
	outw(acpi.pm1a_control, (u16)(a | SLP_EN));
	if (acpi.pm1b_control)
		outw(acpi.pm1b_control, (u16)((inw(acpi.pm1b_control) & ~0x3c00u) | (u32)acpi.s5_b << 10 | SLP_EN));
	wait_ms(500);
}

void triple_fault(void)
{
	struct table_pointer none = { 0, 0 };
	serial_flush();
	asm volatile("lidt %0; ud2" :: "m"(none));
	for (;;)
		asm volatile("cli; hlt");
}

void reboot(void)
{
	serial_flush();
	if (acpi.reset_address && acpi.reset_space == 1) {
		outb((u16)acpi.reset_address, acpi.reset_value);
		wait_ms(100);
	} else if (acpi.reset_address && acpi.reset_space == 0) {
		*(volatile u8 *)acpi.reset_address = acpi.reset_value;
		wait_ms(100);
	}
	// The keyboard controller's pulse of the reset line, once its input buffer is empty.
	u64 end = deadline_ms(100);
	while (inb(0x64) & 2 && !passed(end))
		relax();
	outb(0x64, 0xfe);
	wait_ms(100);
	triple_fault();
}

void debug_exit(u8 value)
{
	serial_flush();
	outb(DEBUG_EXIT, value);
}

void give_up(void)
{
	debug_exit(0x7f);
	power_off();
	print("Halted.\n");
	for (;;)
		asm volatile("cli; hlt");
}
