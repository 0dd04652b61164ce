// RSDP, XSDT, and the few fields of the tables that the guest lives from.
#include "acpi.h"
#include "memory.h"
#include "x86.h"

#define TABLE_HEADER 36
#define TABLE_MAX (1u << 20)	// a length beyond this is taken for damage

struct acpi acpi;

bool acpi_checksum(const u8 *p, u32 n)
{
	u8 sum = 0;
	while (n--)
		sum = (u8)(sum + *p++);
	return sum == 0;
}

static bool is_rsdp(const u8 *p)
{
	return !memcmp(p, "RSD PTR ", 8) && acpi_checksum(p, 20);
}

// The boot protocol says where; else it is on a 16-byte boundary in the EBDA's first KiB or below 1 MiB.
static const u8 *find_rsdp(void)
{
	if (boot_info.rsdp) {
		const u8 *p = physical(boot_info.rsdp, 36);
		return p && is_rsdp(p) ? p : 0;
	}
	u64 ebda_segment_at = 0x40e;
	asm("" : "+r"(ebda_segment_at));	// hides from the compiler that the address is small
	u64 ebda = (u64)load16((const void *)ebda_segment_at) << 4;
	if (ebda >= 0x80000)
		for (u64 a = ebda; a < ebda + 1024; a += 16)
			if (is_rsdp((const u8 *)a))
				return (const u8 *)a;
	for (u64 a = 0xe0000; a < 0x100000; a += 16)
		if (is_rsdp((const u8 *)a))
			return (const u8 *)a;
	return 0;
}

static void copy_text(char *to, const u8 *from, int n)
{
	for (int i = 0; i < n; i++)
		to[i] = from[i] >= ' ' && from[i] < 127 ? (char)from[i] : '?';
	to[n] = 0;
}

static const u8 *add_table(u64 address)
{
	const u8 *p = physical(address, TABLE_HEADER);
	if (!p || !address || acpi.table_count == (int)ARRAY_SIZE(acpi.table))
		return 0;
	struct acpi_table *t = &acpi.table[acpi.table_count++];
	copy_text(t->signature, p, 4);
	t->address = address;
	t->length = load32(p + 4);
	// The FACS has no checksum, revision at byte 32, and no OEM fields.
	if (!memcmp(p, "FACS", 4)) {
		t->revision = p[32];
		t->checksum_ok = t->length >= 64;
		return p;
	}
	t->revision = p[8];
	copy_text(t->oem, p + 10, 6);
	t->checksum_ok = t->length >= TABLE_HEADER && t->length <= TABLE_MAX && physical(address, t->length)
		&& acpi_checksum(p, t->length);
	return t->checksum_ok ? p : 0;
}

static void parse_madt(const u8 *madt)
{
	u32 length = load32(madt + 4);
	for (u32 at = 44; at + 2 <= length && madt[at + 1] >= 2 && at + madt[at + 1] <= length; at += madt[at + 1]) {
		const u8 *e = madt + at;
		switch (e[0]) {
		case 0:
		case 9:
			if (acpi.cpu_count < (int)ARRAY_SIZE(acpi.cpu))
				acpi.cpu[acpi.cpu_count++] = e[0] == 0 ? (struct acpi_cpu){ e[3], load32(e + 4) }
					: (struct acpi_cpu){ load32(e + 4), load32(e + 8) };
			break;
		case 1:
			if (acpi.ioapic_count < (int)ARRAY_SIZE(acpi.ioapic))
				acpi.ioapic[acpi.ioapic_count++] =
					(struct acpi_ioapic){ e[2], load32(e + 4), load32(e + 8) };
			break;
		case 2:
			if (acpi.override_count < (int)ARRAY_SIZE(acpi.override))
				acpi.override[acpi.override_count++] =
					(struct acpi_override){ e[3], load32(e + 4), load16(e + 8) };
			break;
		}
	}
}

// AML of "Name (_S5, Package () { SLP_TYPa, SLP_TYPb, .. })": NameOp or a root prefix, the name, PackageOp,
// PkgLength, the number of elements, then integers as ZeroOp, OneOp or BytePrefix and value.
static bool read_s5(const u8 *p, const u8 *end)
{
	u8 value[2];
	if (p + 6 > end || p[4] != 0x12)
		return false;
	p += 5;
	p += (*p >> 6) + 1;
	p++;
	for (int i = 0; i < 2; i++) {
		bool is_byte = p < end && *p == 0x0a;
		p += is_byte;
		if (p >= end || (!is_byte && *p > 1))
			return false;
		value[i] = *p++;
	}
	acpi.s5_a = value[0];
	acpi.s5_b = value[1];
	return true;
}

static void find_s5(const u8 *table)
{
	const u8 *end = table + load32(table + 4);
	for (const u8 *p = table + TABLE_HEADER; p + 4 <= end && !acpi.s5_found; p++)
		if (!memcmp(p, "_S5_", 4))
			acpi.s5_found = read_s5(p, end);
}

// Generic address at `extended` if the table has it and it names an I/O port, else the 32-bit field.
static u16 port(const u8 *fadt, u32 length, u32 field, u32 extended)
{
	if (length >= extended + 12 && fadt[extended] == 1 && load64(fadt + extended + 4))
		return (u16)load64(fadt + extended + 4);
	return (u16)load32(fadt + field);
}

static void parse_fadt(const u8 *fadt)
{
	u32 length = load32(fadt + 4);
	if (length < 116)
		return;
	acpi.smi_command = (u16)load32(fadt + 48);
	acpi.acpi_enable = fadt[52];
	acpi.pm1a_event = port(fadt, length, 56, 148);
	acpi.pm1a_control = port(fadt, length, 64, 172);
	acpi.pm1b_control = port(fadt, length, 68, 184);
	acpi.pm_timer = fadt[91] == 4 ? port(fadt, length, 76, 208) : 0;
	acpi.century = fadt[108];
	u32 flags = load32(fadt + 112);
	acpi.pm_timer_32bit = flags >> 8 & 1;
	if (flags >> 10 & 1 && length >= 129) {
		acpi.reset_space = fadt[116];
		acpi.reset_address = load64(fadt + 120);
		acpi.reset_value = fadt[128];
	}

	u64 facs = load32(fadt + 36), dsdt = load32(fadt + 40);
	if (length >= 148) {
		facs = facs ? facs : load64(fadt + 132);
		dsdt = load64(fadt + 140) ? load64(fadt + 140) : dsdt;
	}
	add_table(facs);
	const u8 *p = add_table(dsdt);
	if (p)
		find_s5(p);
}

const u8 *acpi_find(const char *signature)
{
	for (int i = 0; i < acpi.table_count; i++)
		if (acpi.table[i].checksum_ok && same(acpi.table[i].signature, signature))
			return (const u8 *)acpi.table[i].address;
	return 0;
}

void acpi_init(void)
{
	const u8 *rsdp = find_rsdp();
	if (!rsdp)
		return;
	acpi.found = true;
	acpi.rsdp = (u64)rsdp;
	acpi.revision = rsdp[15];
	acpi.rsdp_ok = acpi.revision < 2 || (load32(rsdp + 20) >= 36 && acpi_checksum(rsdp, load32(rsdp + 20)));

	acpi.by_xsdt = acpi.revision >= 2 && load64(rsdp + 24);
	u32 entry_size = acpi.by_xsdt ? 8 : 4;
	const u8 *root = add_table(acpi.by_xsdt ? load64(rsdp + 24) : load32(rsdp + 16));
	if (!root)
		return;
	u32 end = load32(root + 4);
	for (u32 at = TABLE_HEADER; at + entry_size <= end; at += entry_size)
		add_table(acpi.by_xsdt ? load64(root + at) : load32(root + at));

	const u8 *t;
	if ((t = acpi_find("APIC")))
		parse_madt(t);
	if ((t = acpi_find("FACP")))
		parse_fadt(t);
	if ((t = acpi_find("SSDT")) && !acpi.s5_found)
		find_s5(t);
	if ((t = acpi_find("HPET")) && load32(t + 4) >= 52)
		acpi.hpet = load64(t + 44);
	if ((t = acpi_find("MCFG")) && load32(t + 4) >= 60) {
		acpi.ecam = load64(t + 44);
		acpi.ecam_segment = load16(t + 52);
		acpi.ecam_first_bus = t[54];
		acpi.ecam_last_bus = t[55];
	}
}
