// HPET: IA-PC HPET specification 1.0a.
#include "clocks.h"

#define CAPABILITIES 0x000
#define CONFIGURATION 0x010
#define STATUS 0x020
#define COUNTER 0x0f0
#define T_CONFIG(n) (0x100u + 0x20 * (u32)(n))
#define T_COMPARATOR(n) (0x108u + 0x20 * (u32)(n))
#define T_LEVEL (1ul << 1)
#define T_INT_ENB (1ul << 2)
#define T_PERIODIC (1ul << 3)
#define T_PERIODIC_CAPABLE (1ul << 4)
#define T_VAL_SET (1ul << 6)
#define T_32MODE (1ul << 8)

static int timers(void)
{
	return hpet_present() ? (int)(hpet_read(CAPABILITIES) >> 8 & 31) + 1 : 0;
}

// Routes a timer to the first line above the ISA interrupts that it may have. Its vector; its route's bits in *route.
static int route(int timer, u64 *bits, u32 *gsi)
{
	u32 routes = (u32)(hpet_read(T_CONFIG(timer)) >> 32);
	for (*gsi = 16; *gsi < 24; ++*gsi)
		if (routes >> *gsi & 1 && ioapic_route(*gsi, false, false)) {
			*bits = (u64)*gsi << 9;
			return (int)(VECTOR_IOAPIC + *gsi);
		}
	return -1;
}

void test_hpet_counter(void)
{
	if (!timers()) {
		skip("no HPET");
		return;
	}
	u64 id = hpet_read(CAPABILITIES);
	check((id & 0xff) != 0 && (id >> 13 & 1) && timers() >= 3, "capabilities %lx", id);
	// It stands while it is disabled, and can be written then.
	hpet_write(CONFIGURATION, 0);
	u64 stands = hpet_read(COUNTER);
	wait_ms(1);
	check(hpet_read(COUNTER) == stands, "the counter goes on while disabled");
	hpet_write(COUNTER, 0x123456789abcdef0);
	check(hpet_read(COUNTER) == 0x123456789abcdef0, "the counter was written: %lx", hpet_read(COUNTER));
	check(read32(acpi.hpet + COUNTER) == 0x9abcdef0 && read32(acpi.hpet + COUNTER + 4) == 0x12345678, "the counter by halves");
	hpet_write(COUNTER, 0xfffffff0);
	hpet_write(CONFIGURATION, 1);
	wait_ms(1);
	check(hpet_read(COUNTER) >> 32 == 1, "the counter goes on over 32 bits: %lx", hpet_read(COUNTER));
	hpet_write(CONFIGURATION, 0);
	hpet_write(COUNTER, 0);
	hpet_write(CONFIGURATION, 1);
}

void test_hpet_one_shot(void)
{
	if (!timers() || !ioapic_present()) {
		skip("no HPET on an I/O APIC");
		return;
	}
	for (int t = 0; t < timers(); t++) {
		u64 bits;
		u32 gsi;
		int vector = route(t, &bits, &gsi);
		if (vector < 0)
			continue;
		for (int wide = 0; wide < 2; wide++) {
			bool came = false;
			u64 mode = wide ? 0 : T_32MODE;
			hpet_write(T_CONFIG(t), bits | mode);
			for (int attempt = 0; attempt < ATTEMPTS && !came; attempt++) {
				irq_count[vector] = 0;
				u64 at = hpet_read(COUNTER) + hpet_clock.hz / 500;
				hpet_write(T_COMPARATOR(t), wide ? at : (u32)at);
				hpet_write(T_CONFIG(t), bits | mode | T_INT_ENB);
				// A busy host may come too late to set it: then it is tried again.
				bool in_time = (i64)(at - hpet_read(COUNTER)) > 0;
				came = wait_irqs(vector, 1, 1000);
				check(!came || (i64)(hpet_read(COUNTER) - at) >= 0, "timer %d, %d bits: too early", t, wide ? 64 : 32);
				check(came || !in_time, "timer %d, %d bits: no interrupt", t, wide ? 64 : 32);
			}
			wait_irqs(vector, 2, 10);
			check(irq_count[vector] == 1, "timer %d, %d bits: %u interrupts", t, wide ? 64 : 32, irq_count[vector]);
			hpet_write(T_CONFIG(t), bits);
		}
		ioapic_mask(gsi);
	}
}

// As many interrupts as periods have passed at the most, and some.
void test_hpet_periodic(void)
{
	if (!timers() || !ioapic_present()) {
		skip("no HPET on an I/O APIC");
		return;
	}
	for (int t = 0; t < timers(); t++) {
		u64 bits, period = hpet_clock.hz / 1000;
		u32 gsi;
		int vector = route(t, &bits, &gsi);
		if (vector < 0 || !(hpet_read(T_CONFIG(t)) & T_PERIODIC_CAPABLE))
			continue;
		hpet_write(CONFIGURATION, 0);
		hpet_write(COUNTER, 0);
		irq_count[vector] = 0;
		hpet_write(T_CONFIG(t), bits | T_32MODE | T_INT_ENB | T_PERIODIC | T_VAL_SET);
		hpet_write(T_COMPARATOR(t), period);
		hpet_write(T_COMPARATOR(t), period);
		hpet_write(CONFIGURATION, 1);
		check(wait_irqs(vector, 20, 2000), "timer %d: %u interrupts", t, irq_count[vector]);
		u64 periods = hpet_read(COUNTER) / period;
		check(irq_count[vector] <= periods, "timer %d: %u interrupts in %lu periods", t, irq_count[vector], periods);
		// The comparator is ahead of the counter by a period at the most.
		u32 ahead = 0;
		for (int attempt = 0; attempt < 20 * ATTEMPTS && (ahead == 0 || ahead > period); attempt++)
			ahead = (u32)hpet_read(T_COMPARATOR(t)) - (u32)hpet_read(COUNTER);
		check(ahead > 0 && ahead <= period, "timer %d: the comparator is ahead by %u, the period is %lu", t, ahead, period);
		hpet_write(T_CONFIG(t), bits | T_32MODE);
		let_in();
		u32 count = irq_count[vector];
		wait_ms(3);
		let_in();
		check(irq_count[vector] == count, "timer %d: %u interrupts after it was disabled", t, irq_count[vector] - count);
		ioapic_mask(gsi);
	}
}
