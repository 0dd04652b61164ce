// Interrupts from processor to processor: SDM 3A "Issuing Interprocessor Interrupts", "Determining IPI Destination".
#include "apic.h"

#define V 0xa3

// Sends, and checks that exactly the processors in the mask get it, once each.
static void expect(const char *what, u32 destination, u32 low, u32 mask)
{
	smp_clear_counts();
	lapic_icr(destination, low | ICR_ASSERT);
	for (int i = 0; i < cpu_count; i++)
		if (mask >> i & 1)
			check(wait_count(&cpus[i].irqs[V], 1, 2000), "%s: processor %d of %d gets nothing", what, i, cpu_count);
	settle_all();
	for (int i = 0; i < cpu_count; i++)
		check(cpus[i].irqs[V] == (mask >> i & 1), "%s: processor %d of %d gets %u", what, i, cpu_count, cpus[i].irqs[V]);
}

static u32 everyone(void)
{
	return (1u << cpu_count) - 1;
}

// From any processor: `sender` runs this.
struct sent { u32 destination, low; };
static void send(void *argument)
{
	struct sent *s = argument;
	lapic_icr(s->destination, s->low | ICR_ASSERT);
}

static void expect_from(int sender, const char *what, u32 destination, u32 low, u32 mask)
{
	static struct sent s;
	s = (struct sent){ destination, low };
	smp_clear_counts();
	smp_run(sender, send, &s);
	check(smp_done(sender, 2000), "%s: processor %d does not end", what, sender);
	for (int i = 0; i < cpu_count; i++)
		if (mask >> i & 1)
			check(wait_count(&cpus[i].irqs[V], 1, 2000), "%s from %d: processor %d of %d gets nothing", what, sender, i, cpu_count);
	settle_all();
	for (int i = 0; i < cpu_count; i++)
		check(cpus[i].irqs[V] == (mask >> i & 1), "%s from %d: processor %d of %d gets %u", what, sender, i, cpu_count, cpus[i].irqs[V]);
}

static void shorthands(void)
{
	expect("self", 0x55, ICR_SELF | V, 1);
	expect("all", 0x55, ICR_ALL | V, everyone());
	expect("others", 0x55, ICR_OTHERS | V, everyone() & ~1u);
	for (int i = 1; i < cpu_count; i++) {
		expect_from(i, "self", 0x55, ICR_SELF | V, 1u << i);
		expect_from(i, "all", 0x55, ICR_ALL | V, everyone());
		expect_from(i, "others", 0x55, ICR_OTHERS | V, everyone() & ~(1u << i));
	}
}

void test_ipi_physical(void)
{
	smp_count_irqs(V);
	for (int i = 0; i < cpu_count; i++) {
		expect("physical", cpus[i].apic_id, V, 1u << i);
		expect("physical, level", cpus[i].apic_id, 1u << 15 | V, 1u << i);
		if (i)
			expect_from(i, "physical", cpus[0].apic_id, V, 1);
	}
	expect("physical, broadcast", 0xff, V, everyone());
	expect("physical, nobody", 0xee, V, 0);
	shorthands();
}

static u32 logical_id[MAX_CPUS], format_register;

static void set_logical(void *argument)
{
	(void)argument;
	lapic_write(LAPIC_DFR, format_register);
	lapic_write(LAPIC_LDR, logical_id[smp_self()] << 24);
}

static void set_all_logical(u32 dfr)
{
	format_register = dfr;
	check(smp_run_all(set_logical, 2000), "a processor does not answer");
}

// Two processors in each cluster.
static void set_clusters(void)
{
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = (u32)(i / 2) << 4 | 1u << i % 2;
	set_all_logical(0x0fffffff);
}

// An address of all ones is everyone's: "Logical Destination Mode". QEMU 7.2 takes its cluster for the sixteenth.
void test_ipi_clusters(void)
{
	smp_count_irqs(V);
	set_clusters();
	expect("all clusters", 0xff, ICR_LOGICAL | V, everyone());
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = 0;
	set_all_logical(0xffffffff);
}

void test_ipi_logical(void)
{
	smp_count_irqs(V);
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = 1u << (i % 8);
	set_all_logical(0xffffffff);
	for (u32 mask = 0; mask <= everyone(); mask++)
		expect("flat", mask, ICR_LOGICAL | V, mask);
	expect("flat, all", 0xff, ICR_LOGICAL | V, everyone());
	// One processor in several groups.
	logical_id[0] = 0x81;
	set_all_logical(0xffffffff);
	expect("flat, two bits", 0x80, ICR_LOGICAL | V, 1);
	expect("flat, two bits", 0x81, ICR_LOGICAL | V, 1);

	set_clusters();
	for (u32 cluster = 0; cluster < 4; cluster++)
		for (u32 members = 0; members < 16; members++) {
			u32 mask = (members & 3) << 2 * cluster & everyone();
			expect("cluster", cluster << 4 | members, ICR_LOGICAL | V, mask);
		}
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = 0;
	set_all_logical(0xffffffff);
	expect("flat, nobody has an address", 0xff, ICR_LOGICAL | V, 0);
}

static u32 received(void)
{
	u32 sum = 0;
	for (int i = 0; i < cpu_count; i++)
		sum += cpus[i].irqs[V];
	return sum;
}

// Lowest priority: exactly one of those addressed.
void test_ipi_lowest(void)
{
	smp_count_irqs(V);
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = 1u << (i % 8);
	set_all_logical(0xffffffff);
	for (u32 mask = 1; mask <= everyone(); mask++) {
		smp_clear_counts();
		lapic_icr(mask, ICR_LOGICAL | ICR_LOWEST | ICR_ASSERT | V);
		u64 end = deadline_ms(2000);
		while (!received() && !passed(end))
			let_in();
		settle_all();
		check(received() == 1, "addressed to %x: %u came", mask, received());
		for (int i = 0; i < cpu_count; i++)
			check(!cpus[i].irqs[V] || mask >> i & 1, "addressed to %x: processor %d got it", mask, i);
	}
	for (int i = 0; i < cpu_count; i++)
		logical_id[i] = 0;
	set_all_logical(0xffffffff);
}

void test_ipi_nmi(void)
{
	smp_clear_counts();
	for (int i = 0; i < cpu_count; i++) {
		u32 before = cpus[i].nmis;
		lapic_icr(cpus[i].apic_id, ICR_NMI | ICR_ASSERT | 0x2f);	// the vector is ignored
		check(wait_count(&cpus[i].nmis, before + 1, 2000), "processor %d gets no NMI", i);
		settle_all();
		check(cpus[i].nmis == before + 1, "processor %d gets %u NMIs", i, cpus[i].nmis - before);
	}
	smp_clear_counts();
	lapic_icr(0, ICR_NMI | ICR_ASSERT | ICR_OTHERS);
	for (int i = 1; i < cpu_count; i++)
		check(wait_count(&cpus[i].nmis, 1, 2000), "processor %d gets no NMI for all others", i);
	settle_all();
	check(cpus[0].nmis == 0, "the sender gets an NMI for all others");
	for (int i = 1; i < cpu_count; i++)
		check(cpus[i].nmis == 1, "processor %d gets %u NMIs for all others", i, cpus[i].nmis);
}

void test_ipi_x2apic(void)
{
	smp_count_irqs(V);
	if (!has_x2apic()) {
		skip("no x2APIC");
		return;
	}
	if (!check(all_to_x2apic(), "x2APIC mode is refused"))
		return;
	for (int i = 0; i < cpu_count; i++) {
		u32 id = cpus[i].apic_id;
		expect("physical", id, V, 1u << i);
		expect("logical", (id & ~0xfu) << 12 | 1u << (id & 15), ICR_LOGICAL | V, 1u << i);
		if (i)
			expect_from(i, "physical", cpus[0].apic_id, V, 1);
	}
	expect("physical, broadcast", 0xffffffff, V, everyone());
	expect("logical, broadcast", 0xffffffff, ICR_LOGICAL | V, everyone());
	expect("physical, 255 is nobody", 0xff, V, 0);
	expect("logical, all of cluster 0", 0xffff, ICR_LOGICAL | V, everyone());
	expect("logical, cluster 1", 0x1ffff, ICR_LOGICAL | V, 0);
	shorthands();
	check(all_to_xapic(), "back to xAPIC mode");
}
