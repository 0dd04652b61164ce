// The real-time clock: Motorola MC146818 data sheet.
#include "clocks.h"

#define REG_A 0x0a
#define REG_B 0x0b
#define REG_C 0x0c
#define A_UIP 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define C_IRQF 0x80

u8 cmos_read(u8 index)
{
	outb(0x70, index);
	return inb(0x71);
}

void cmos_write(u8 index, u8 value)
{
	outb(0x70, index);
	outb(0x71, value);
}

// The TSC when the flag comes up, or 0.
static u64 wait_flag(u8 flag, u32 ms)
{
	u64 end = deadline_ms(ms);
	do {
		if (cmos_read(REG_C) & flag)
			return rdtsc();
	} while (!passed(end));
	return 0;
}

// UIP is up for the last 244 us of a second and down in its middle. A reading counts only where the TSC says before and after it that it
// was made then: a busy host may let the guest sleep through those moments.
static void check_update_in_progress(void)
{
	u64 us = tsc_hz / 1000000;
	bool judged = false;
	for (int attempt = 0; attempt < ATTEMPTS && !judged; attempt++) {
		u64 before = rdtsc(), after, end = deadline_ms(3000);
		bool updated = false;
		cmos_read(REG_C);
		for (;;) {
			u64 now = rdtsc();
			updated = cmos_read(REG_C) & 0x10;
			after = rdtsc();
			if (updated || passed(end))
				break;
			before = now;
		}
		check(updated, "the second does not end");
		if (after - before > 150 * us)
			continue;
		while (rdtsc() < after + 300000 * us)
			relax();
		check(!(cmos_read(REG_A) & A_UIP) || rdtsc() > before + 990000 * us, "an update is in progress in the middle of a second");
		u64 from = after + tsc_hz - 244 * us + 5 * us, to = before + tsc_hz - 5 * us;
		while (rdtsc() < from)
			;
		u64 first = rdtsc();
		bool uip = cmos_read(REG_A) & A_UIP;
		if (first >= from && rdtsc() <= to) {
			judged = true;
			check(uip, "no update is in progress just before the second ends");
		}
	}
	u64 end = deadline_ms(1500);
	u8 second = cmos_read(0);
	while (cmos_read(0) == second && !passed(end))
		relax();
	check(cmos_read(0) != second, "the seconds stand");
}

// The seconds are the TSC's, the periodic flag comes at its rate, the alarm each second when its bytes say so. QEMU 7.2 sets the
// periodic flag only where its interrupt is enabled.
void test_rtc_flags(void)
{
	u8 a = cmos_read(REG_A), b = cmos_read(REG_B);
	cmos_write(REG_B, b & ~(B_PIE | B_AIE | B_UIE));
	for (u8 i = 1; i < 6; i += 2)
		cmos_write(i, 0xff);	// alarm: any time
	cmos_read(REG_C);
	bool right = false;
	u64 took = 0;
	u64 last = wait_flag(0x10, 1500);
	for (int attempt = 0; attempt < 2 * ATTEMPTS && !right && last; attempt++) {
		u64 next = wait_flag(0x10, 1500);
		took = next - last;
		last = next;
		right = near(took, tsc_hz, 5);
	}
	check(right, "a second has %lu us", ticks_to_us(took));
	check_update_in_progress();
	check(cmos_read(REG_C) & 0x20, "no alarm flag after a second");

	static const u8 rates[] = { 6, 8, 10, 13 };
	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		u64 wanted = mul_div(tsc_hz, 1ul << (rates[i] - 1), 32768);
		cmos_write(REG_A, (a & 0xf0) | rates[i]);
		cmos_read(REG_C);
		right = false;
		wait_flag(0x40, 500);
		last = wait_flag(0x40, 500);
		u64 end = deadline_ms(10000);
		for (int attempt = 0; attempt < 1000 && !right && !passed(end); attempt++) {
			u64 next = wait_flag(0x40, 500);
			took = next - last;
			last = next;
			right = near(took, wanted, 100);
		}
		check(right, "rate %u: %lu us, should be %lu", rates[i], ticks_to_us(took), ticks_to_us(wanted));
	}
	cmos_write(REG_A, a);
	cmos_write(REG_B, b);
}

static volatile u32 flags_seen[8];
static void note(struct trap_frame *f)
{
	(void)f;
	u8 c = cmos_read(REG_C);
	for (int i = 4; i < 8; i++)
		flags_seen[i] += c >> i & 1;
}

void test_rtc_interrupts(void)
{
	int vector = route_isa(8);
	if (vector < 0) {
		skip("no I/O APIC");
		return;
	}
	u8 a = cmos_read(REG_A), b = cmos_read(REG_B);
	irq_handler[vector] = note;
	memset((void *)flags_seen, 0, sizeof flags_seen);
	irq_count[vector] = 0;
	cmos_write(REG_A, (a & 0xf0) | 6);	// 1,024 Hz
	cmos_read(REG_C);
	u64 start = rdtsc();
	cmos_write(REG_B, (b & ~(B_AIE | B_UIE)) | B_PIE);
	check(wait_irqs(vector, 30, 3000), "periodic: %u interrupts", irq_count[vector]);
	u64 periods = mul_div(rdtsc() - start, 1024, tsc_hz);
	check(irq_count[vector] <= periods + 2, "periodic: %u interrupts in %lu periods", irq_count[vector], periods);
	check(flags_seen[6] == irq_count[vector] && flags_seen[7] == irq_count[vector], "periodic: %u interrupts, PF %u, IRQF %u", irq_count[vector], flags_seen[6], flags_seen[7]);
	// Without a read of register C the wire stays up, and no more come.
	irq_handler[vector] = 0;
	u32 count = irq_count[vector];
	check(wait_irqs(vector, count + 1, 3000), "no interrupt after the last read of register C");
	count = irq_count[vector];
	wait_ms(5);
	let_in();
	check(irq_count[vector] == count, "%u interrupts without a read of register C", irq_count[vector] - count);
	cmos_read(REG_C);
	check(wait_irqs(vector, count + 1, 3000), "no interrupt after register C was read");

	cmos_write(REG_B, (b & ~(B_PIE | B_AIE)) | B_UIE);
	cmos_read(REG_C);
	irq_handler[vector] = note;
	let_in();
	cmos_read(REG_C);
	flags_seen[4] = irq_count[vector] = 0;
	check(wait_irqs(vector, 1, 3000) && flags_seen[4] == 1, "update ended: %u interrupts", irq_count[vector]);
	cmos_write(REG_B, b);
	cmos_write(REG_A, a);
	cmos_read(REG_C);
	irq_handler[vector] = 0;
	ioapic_mask(isa_irq(8).gsi);
}
