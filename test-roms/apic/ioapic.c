// The I/O APIC: 82093AA data sheet. Its interrupts come from an HPET timer, which drives a wire by edge or by level.
#include "acpi.h"
#include "apic.h"

#define RED_LOGICAL (1u << 11)
#define RED_REMOTE_IRR (1u << 14)
#define RED_LEVEL (1u << 15)
#define RED_MASKED (1u << 16)

#define HPET_STATUS 0x020
#define T_CONFIG 0x100
#define T_COMPARATOR 0x108
#define T_LEVEL (1ul << 1)
#define T_INT_ENB (1ul << 2)
#define T_32MODE (1ul << 8)

static u32 pin;

static void entry_write(u32 low, u32 destination)
{
	ioapic_write(0x10 + 2 * pin, RED_MASKED);
	ioapic_write(0x11 + 2 * pin, destination << 24);
	ioapic_write(0x10 + 2 * pin, low);
}

static u32 entry_low(void)
{
	return ioapic_read(0x10 + 2 * pin);
}

static bool find_pin(void)
{
	if (!hpet_present() || !ioapic_present())
		return false;
	u32 routes = (u32)(hpet_read(T_CONFIG) >> 32);
	for (pin = 16; pin < 24; pin++)
		if (routes >> pin & 1)
			return true;
	return false;
}

// Far enough ahead that a busy host seldom comes too late to set it.
#define AHEAD_US 4000

// The wire rises; with level it stays until the status is cleared.
static void fire(bool level)
{
	u64 config = (u64)pin << 9 | T_32MODE | (level ? T_LEVEL : 0);
	hpet_write(HPET_STATUS, 1);
	hpet_write(T_CONFIG, config);
	u32 comparator = (u32)(hpet_read(0xf0) + mul_div(hpet_clock.hz, AHEAD_US, 1000000));
	hpet_write(T_COMPARATOR, comparator);
	hpet_write(T_CONFIG, config | T_INT_ENB);
	u64 end = deadline_ms(200);
	while ((level ? !(hpet_read(HPET_STATUS) & 1) : (i32)((u32)hpet_read(0xf0) - comparator) < 0) && !passed(end))
		relax();
	wait_ms(1);
}

static void quiet(void)
{
	hpet_write(T_CONFIG, (u64)pin << 9 | T_32MODE);
	hpet_write(HPET_STATUS, 1);
}

static bool raw_comes(int wanted)
{
	u64 end = deadline_ms(3000);
	while (raw_count < wanted && !passed(end))
		let_in();
	return raw_count >= wanted;
}

// QEMU 7.2 keeps reserved bits.
void test_ioapic_registers(void)
{
	if (!ioapic_present()) {
		skip("no I/O APIC");
		return;
	}
	u32 version = ioapic_read(1), pins = (version >> 16 & 0xff) + 1;
	check((version & 0xff) >= 0x11 && pins >= 24, "version %x", version);
	ioapic_write(0, 0x05000000);
	check(ioapic_read(0) >> 24 == 5, "ID %x", ioapic_read(0));
	ioapic_write(0, (u32)acpi.ioapic[0].id << 24);
	for (pin = 0; pin < 24; pin++) {
		ioapic_write(0x10 + 2 * pin, ~0u);
		check((entry_low() & 0x1afff) == 0x1afff && !(entry_low() & (RED_REMOTE_IRR | 0xfffe0000)), "entry %u: %x", pin, entry_low());
		ioapic_write(0x10 + 2 * pin, RED_MASKED);
		check(entry_low() == RED_MASKED, "entry %u: %x", pin, entry_low());
		ioapic_write(0x11 + 2 * pin, ~0u);
		check(ioapic_read(0x11 + 2 * pin) >> 24 == 0xff, "entry %u, high half: %x", pin, ioapic_read(0x11 + 2 * pin));
		ioapic_write(0x11 + 2 * pin, 0);
	}
	ioapic_write(1, 0);
	check_eq(ioapic_read(1), version, "version after a write");
}

void test_ioapic_edge(void)
{
	if (!find_pin()) {
		skip("no HPET timer on an I/O APIC");
		return;
	}
	raw_inside = 0;
	raw_count = 0;
	entry_write(RAW_A, lapic_id());
	fire(false);
	check(raw_comes(1), "an edge: no interrupt");
	check(!(entry_low() & RED_REMOTE_IRR), "an edge sets remote IRR");
	fire(false);
	check(in_irr(RAW_A), "an edge while the last is in service: not in IRR");
	eoi();
	check(raw_comes(2), "the second edge: no interrupt");
	eoi();
	// A masked entry loses it.
	entry_write(RAW_A | RED_MASKED, lapic_id());
	fire(false);
	entry_write(RAW_A, lapic_id());
	let_in();
	check(raw_count == 2, "an edge while masked: %d came", raw_count - 2);
	fire(false);
	check(raw_comes(3), "an edge after the mask is gone");
	eoi();
	quiet();
	entry_write(RED_MASKED, 0);
}

void test_ioapic_level(void)
{
	if (!find_pin()) {
		skip("no HPET timer on an I/O APIC");
		return;
	}
	raw_inside = 0;
	raw_count = 0;
	entry_write(RAW_A | RED_LEVEL, lapic_id());
	fire(true);
	check(raw_comes(1), "no interrupt");
	check(entry_low() & RED_REMOTE_IRR, "remote IRR is clear while in service");
	check(lapic_read(LAPIC_TMR + RAW_A / 32 * 16) >> (RAW_A % 32) & 1, "TMR is clear");
	let_in();
	check(raw_count == 1, "it came again without EOI");
	// EOI with the wire still up: again, at once.
	eoi();
	check(raw_comes(2), "not again while the wire is up");
	// The wire falls first: EOI ends it.
	quiet();
	check(entry_low() & RED_REMOTE_IRR, "remote IRR falls with the wire");
	eoi();
	check(!(entry_low() & RED_REMOTE_IRR), "remote IRR after EOI");
	let_in();
	check(raw_count == 2, "it came again after the wire fell");

	// A level is not lost by the mask.
	entry_write(RAW_A | RED_LEVEL | RED_MASKED, lapic_id());
	fire(true);
	let_in();
	check(raw_count == 2, "it came while masked");
	ioapic_write(0x10 + 2 * pin, RAW_A | RED_LEVEL);
	check(raw_comes(3), "not after the mask is gone");
	quiet();
	eoi();
	// Masked while in service: EOI brings nothing, unmasking brings it again.
	ioapic_write(0x10 + 2 * pin, RAW_A | RED_LEVEL);
	fire(true);
	check(raw_comes(4), "the fourth");
	ioapic_write(0x10 + 2 * pin, RAW_A | RED_LEVEL | RED_MASKED);
	eoi();
	let_in();
	check(raw_count == 4, "EOI while masked brings it again");
	ioapic_write(0x10 + 2 * pin, RAW_A | RED_LEVEL);
	check(raw_comes(5), "unmasking after EOI does not bring it again");
	quiet();
	eoi();
	let_in();
	check(raw_count == 5, "%d came in all", raw_count);

	// The EOI register of versions from 20h on ends it without the local APIC.
	if ((ioapic_read(1) & 0xff) >= 0x20) {
		fire(true);
		check(raw_comes(6), "the sixth");
		quiet();
		write32(acpi.ioapic[0].address + 0x40, RAW_A);
		check(!(entry_low() & RED_REMOTE_IRR), "remote IRR after the EOI register");
		eoi();
	}
	// Its EOI broadcast can be suppressed.
	if (lapic_read(LAPIC_VERSION) >> 24 & 1) {
		lapic_write(LAPIC_SVR, SVR_ENABLE | 1u << 12 | VECTOR_SPURIOUS);
		fire(true);
		check(raw_comes(raw_count + 1), "with the EOI broadcast suppressed");
		quiet();
		eoi();
		check(entry_low() & RED_REMOTE_IRR, "remote IRR falls although the EOI broadcast is suppressed");
		write32(acpi.ioapic[0].address + 0x40, RAW_A);
		check(!(entry_low() & RED_REMOTE_IRR), "remote IRR after the EOI register");
		lapic_write(LAPIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
	}
	entry_write(RED_MASKED, 0);
}

#define V 0xa3

static u32 logical_bit(int i)
{
	return 1u << (i % 8);
}

static void set_ldr(void *argument)
{
	(void)argument;
	lapic_write(LAPIC_LDR, logical_bit(smp_self()) << 24);
}

static void clear_ldr(void *argument)
{
	(void)argument;
	lapic_write(LAPIC_LDR, 0);
}

static void expect_on(const char *what, u32 low, u32 destination, u32 mask, bool one)
{
	u32 came = 0;
	smp_clear_counts();
	entry_write(low | V, destination);
	fire(false);
	for (int i = 0; i < cpu_count && !one; i++)
		if (mask >> i & 1)
			wait_count(&cpus[i].irqs[V], 1, 2000);
	settle_all();
	for (int i = 0; i < cpu_count; i++) {
		came += cpus[i].irqs[V];
		check(one ? cpus[i].irqs[V] <= (mask >> i & 1) : cpus[i].irqs[V] == (mask >> i & 1), "%s: processor %d of %d gets %u", what, i, cpu_count, cpus[i].irqs[V]);
	}
	check(!one || came == 1, "%s: %u processors get it", what, came);
	quiet();
}

void test_ioapic_destinations(void)
{
	if (!find_pin()) {
		skip("no HPET timer on an I/O APIC");
		return;
	}
	smp_count_irqs(V);
	u32 everyone = (1u << cpu_count) - 1;
	check(smp_run_all(set_ldr, 2000), "a processor does not answer");
	for (int i = 0; i < cpu_count; i++) {
		expect_on("physical", 0, cpus[i].apic_id, 1u << i, false);
		expect_on("logical", RED_LOGICAL, logical_bit(i), 1u << i, false);
		expect_on("lowest priority of one", RED_LOGICAL | 1u << 8, logical_bit(i), 1u << i, true);
	}
	expect_on("logical, all", RED_LOGICAL, 0xff, everyone, false);
	expect_on("lowest priority of all", RED_LOGICAL | 1u << 8, 0xff, everyone, true);
	for (int i = 0; i < cpu_count; i++) {
		u32 before = cpus[i].nmis;
		entry_write(4u << 8, cpus[i].apic_id);
		fire(false);
		check(wait_count(&cpus[i].nmis, before + 1, 2000), "NMI: processor %d gets none", i);
		quiet();
	}
	entry_write(RED_MASKED, 0);
	check(smp_run_all(clear_ldr, 2000), "a processor does not answer");
}
