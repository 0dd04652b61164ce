// x2APIC mode: SDM 3A "Extended XAPIC (x2APIC)".
#include "apic.h"

struct access { u32 msr; u64 value; bool write; };

static void perform(void *argument)
{
	struct access *a = argument;
	if (a->write)
		wrmsr(a->msr, a->value);
	else
		a->value = rdmsr(a->msr);
}

static bool reads(u32 msr)
{
	struct access a = { msr, 0, false };
	return catch_trap(perform, &a) == NO_TRAP;
}

static bool takes(u32 msr, u64 value)
{
	struct access a = { msr, value, true };
	int vector = catch_trap(perform, &a);
	return vector == NO_TRAP;
}

void test_x2apic_registers(void)
{
	if (!has_x2apic()) {
		skip("no x2APIC");
		return;
	}
	check(!reads(0x802), "an MSR of x2APIC mode can be read in xAPIC mode");
	if (!check(all_to_x2apic(), "x2APIC mode is refused"))
		return;
	lapic_enable();
	u32 id = (u32)rdmsr(0x802);
	check_eq(id, cpuid_checked(0xb, 0).edx, "ID and CPUID 0Bh");
	check_eq(rdmsr(0x80d), (id & ~0xfu) << 12 | 1u << (id & 15), "LDR");
	check(reads(0x803) && reads(0x808) && reads(0x80a) && reads(0x80f) && reads(0x830) && reads(0x839), "registers that can be read");
	for (u32 i = 0; i < 8; i++)
		check(reads(0x810 + i) && reads(0x818 + i) && reads(0x820 + i), "ISR, TMR, IRR word %u", i);

	check(takes(0x808, 0x55) && rdmsr(0x808) == 0x55 && read_cr8() == 5, "TPR");
	check(takes(0x808, 0), "TPR");
	check(takes(0x80b, 0), "EOI of 0");
	check(takes(0x828, 0), "ESR of 0");
	// ICR in one piece; no delivery status.
	raw_count = 0;
	raw_inside = 0;
	check(takes(0x830, (u64)id << 32 | RAW_A), "IPI to the own ID");
	check(!(rdmsr(0x830) & 1 << 12), "delivery status");
	let_in();
	check(raw_count == 1, "IPI to the own ID: %d", raw_count);
	eoi();
	check(takes(0x83f, RAW_B), "SELF IPI");
	let_in();
	check(raw_count == 2 && raw_order[1] == RAW_B, "SELF IPI: %d", raw_count);
	eoi();
	check(all_to_xapic(), "back to xAPIC mode");
}

// QEMU 7.2 checks neither reserved bits nor most registers that are not there.
void test_x2apic_exactly(void)
{
	if (!has_x2apic() || !all_to_x2apic()) {
		skip("no x2APIC");
		return;
	}
	lapic_enable();
	static const u32 absent[] = { 0x800, 0x801, 0x804, 0x807, 0x809, 0x80c, 0x80e, 0x829, 0x831, 0x83a, 0x83d, 0x840, 0x8ff };
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		check(!reads(absent[i]) && !takes(absent[i], 0), "MSR %x is there", absent[i]);
	static const u32 read_only[] = { 0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839 };
	for (size_t i = 0; i < ARRAY_SIZE(read_only); i++)
		check(!takes(read_only[i], 0), "MSR %x can be written", read_only[i]);
	check(!reads(0x80b) && !reads(0x83f), "EOI or SELF IPI can be read");
	check(!takes(0x80b, 1) && !takes(0x828, 1), "EOI or ESR takes a 1");
	check(!takes(0x808, 0x100) && !takes(0x80f, 1u << 16), "TPR or SVR takes a reserved bit");
	check(!takes(0x832, 1ul << 32 | LVT_MASKED) && !takes(0x838, 1ul << 32), "a 32-bit register takes bit 32");
	check(!takes(0x832, 1u << 15 | LVT_MASKED) && !takes(0x837, 1u << 15 | LVT_MASKED), "the timer's or error's entry takes bit 15");
	check(!takes(0x83e, 4) && !takes(0x83f, 0x100), "divide configuration or SELF IPI takes a reserved bit");
	check(!takes(0x830, 1u << 20) && !takes(0x830, 1u << 17), "ICR takes a reserved bit");
	check(all_to_xapic(), "back to xAPIC mode");
}

static void write_base(void *argument)
{
	wrmsr(MSR_APIC_BASE, (u64)argument);
}

static bool base_takes(u64 value)
{
	int vector = catch_trap(write_base, (void *)value);
	return vector == NO_TRAP;
}

// "x2APIC State Transitions".
void test_x2apic_transitions(void)
{
	if (!has_x2apic()) {
		skip("no x2APIC");
		return;
	}
	u64 off = rdmsr(MSR_APIC_BASE) & ~(APIC_BASE_ENABLE | APIC_BASE_X2APIC), xapic = off | APIC_BASE_ENABLE, x2apic = xapic | APIC_BASE_X2APIC;
	check(!base_takes(off | APIC_BASE_X2APIC), "from xAPIC to EXTD without EN");
	check(base_takes(x2apic), "from xAPIC to x2APIC");
	check(!base_takes(xapic), "from x2APIC to xAPIC");
	check(!base_takes(off | APIC_BASE_X2APIC), "from x2APIC to EXTD without EN");
	check(base_takes(off), "from x2APIC to off");
	check(!base_takes(x2apic), "from off to x2APIC");
	check(!base_takes(off | APIC_BASE_X2APIC), "from off to EXTD without EN");
	check(base_takes(xapic), "from off to xAPIC");
	check(!base_takes(xapic | 1) && !base_takes(xapic | 1 << 9), "reserved bits");
	check(!base_takes(xapic | 1ul << (cpuid_checked(0x80000008, 0).eax & 0xff)), "an address that is too wide");
	check_eq(rdmsr(MSR_APIC_BASE), xapic, "IA32_APIC_BASE");
	lapic_enable();

	// What survives: TPR, LVT; ICR's high half becomes the destination's.
	lapic_write(LAPIC_TPR, 0x40);
	lapic_write(LAPIC_LVT_ERROR, LVT_MASKED | 0x77);
	check(base_takes(x2apic), "to x2APIC");
	check_eq(rdmsr(0x808), 0x40, "TPR in x2APIC mode");
	check_eq(rdmsr(0x837), LVT_MASKED | 0x77, "error entry in x2APIC mode");
	check(base_takes(off) && base_takes(xapic), "back by way of off");
	check_eq(lapic_read(LAPIC_TPR), 0, "TPR after off");
	check_eq(lapic_read(LAPIC_LVT_ERROR), LVT_MASKED, "error entry after off");
	lapic_enable();
}
