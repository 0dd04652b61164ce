// PCI functions, found by the enhanced configuration window if the MCFG table has one, else by ports CF8h and CFCh.
#include "acpi.h"
#include "demo.h"
#include "memory.h"
#include "print.h"
#include "x86.h"

struct name { u16 id; const char *text; };

static const struct name vendors[] = {
	{ 0x1002, "AMD" }, { 0x1022, "AMD" }, { 0x10ec, "Realtek" }, { 0x1234, "Bochs/QEMU" }, { 0x144d, "Samsung" },
	{ 0x15ad, "VMware" }, { 0x1af4, "virtio" }, { 0x1b36, "QEMU" }, { 0x8086, "Intel" },
};

// Class and subclass.
static const struct name classes[] = {
	{ 0x0100, "SCSI controller" }, { 0x0101, "IDE controller" }, { 0x0106, "SATA controller" },
	{ 0x0108, "NVMe controller" }, { 0x0180, "storage controller" }, { 0x0200, "Ethernet controller" },
	{ 0x0280, "network controller" }, { 0x0300, "VGA controller" }, { 0x0380, "display controller" },
	{ 0x0401, "audio device" }, { 0x0403, "HD audio device" }, { 0x0500, "RAM controller" }, { 0x0600, "host bridge" },
	{ 0x0601, "ISA bridge" }, { 0x0604, "PCI bridge" }, { 0x0680, "bridge" }, { 0x0700, "serial controller" },
	{ 0x0780, "communication controller" }, { 0x0880, "system peripheral" }, { 0x0900, "keyboard controller" },
	{ 0x0980, "input device" }, { 0x0c03, "USB controller" }, { 0x0c05, "SMBus controller" },
	{ 0x1000, "encryption controller" }, { 0x00ff, "virtio device" }, { 0xff00, "unclassified device" },
};

static int functions;

static const char *find_name(const struct name *names, size_t n, u16 id, const char *otherwise)
{
	for (size_t i = 0; i < n; i++)
		if (names[i].id == id)
			return names[i].text;
	return otherwise;
}

static u32 config_read(u32 bus, u32 device, u32 function, u32 offset)
{
	if (acpi.ecam && bus >= acpi.ecam_first_bus && bus <= acpi.ecam_last_bus) {
		u64 address = acpi.ecam + ((u64)(bus - acpi.ecam_first_bus) << 20 | device << 15 | function << 12 | offset);
		if (physical(address, 4))
			return read32(address);
	}
	outl(0xcf8, 0x80000000 | bus << 16 | device << 11 | function << 8 | (offset & 0xfc));
	return inl(0xcfc);
}

static void show_bars(u32 bus, u32 device, u32 function, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		u64 bar = config_read(bus, device, function, 0x10 + 4 * i);
		if (!bar)
			continue;
		u32 number = i;
		if (bar & 1) {
			print("             BAR%u port %04lx\n", number, bar & ~3ul);
			continue;
		}
		bool is_64bit = (bar >> 1 & 3) == 2;
		if (is_64bit && i + 1 < count)
			bar |= (u64)config_read(bus, device, function, 0x10 + 4 * ++i) << 32;
		print("             BAR%u %012lx, %s bits%s\n", number, bar & ~15ul, is_64bit ? "64" : "32",
		      bar & 8 ? ", prefetchable" : "");
	}
}

static void show_capabilities(u32 bus, u32 device, u32 function)
{
	if (!(config_read(bus, device, function, 0x04) >> 20 & 1))
		return;
	u32 at = config_read(bus, device, function, 0x34) & 0xfc;
	bool msi = false, msix = false, express = false;
	for (int i = 0; at >= 0x40 && i < 48; i++) {
		u32 capability = config_read(bus, device, function, at);
		msi |= (capability & 0xff) == 0x05;
		msix |= (capability & 0xff) == 0x11;
		express |= (capability & 0xff) == 0x10;
		at = capability >> 8 & 0xfc;
	}
	if (msi || msix || express)
		print("            %s%s%s\n", msi ? " MSI" : "", msix ? " MSI-X" : "", express ? " PCI Express" : "");
}

static void scan_bus(u32 bus, int depth);

// True if the device has more functions.
static bool show_function(u32 bus, u32 device, u32 function, int depth)
{
	u32 id = config_read(bus, device, function, 0);
	if ((id & 0xffff) == 0xffff)
		return false;
	functions++;
	u32 class = config_read(bus, device, function, 0x08) >> 16;
	u32 header = config_read(bus, device, function, 0x0c) >> 16 & 0xff;
	u32 interrupt = config_read(bus, device, function, 0x3c);
	print("  %02x:%02x.%u  %04x:%04x  %s, %s", bus, device, function, id & 0xffff, id >> 16,
	      find_name(vendors, ARRAY_SIZE(vendors), (u16)id, "unknown vendor"),
	      find_name(classes, ARRAY_SIZE(classes), (u16)class, "device"));
	if (interrupt >> 8 & 0xff)
		print(", INT%c", 'A' + (int)((interrupt >> 8 & 0xff) - 1) % 4);
	print(" (class %04x)\n", class);
	show_bars(bus, device, function, (header & 0x7f) == 0 ? 6 : (header & 0x7f) == 1 ? 2 : 0);
	show_capabilities(bus, device, function);

	u32 secondary = config_read(bus, device, function, 0x18) >> 8 & 0xff;
	if ((header & 0x7f) == 1 && secondary > bus && depth < 8)
		scan_bus(secondary, depth + 1);
	return header & 0x80;
}

static void scan_bus(u32 bus, int depth)
{
	for (u32 device = 0; device < 32; device++)
		if (show_function(bus, device, 0, depth))
			for (u32 function = 1; function < 8; function++)
				show_function(bus, device, function, depth);
}

void show_pci(void)
{
	if (acpi.ecam)
		print("PCI:        by the configuration window at %lx, buses %u to %u\n", acpi.ecam, acpi.ecam_first_bus,
		      acpi.ecam_last_bus);
	else
		print("PCI:        by ports CF8h and CFCh\n");
	functions = 0;
	scan_bus(acpi.ecam ? acpi.ecam_first_bus : 0, 0);
	print("PCI:        %d functions\n", functions);
}
