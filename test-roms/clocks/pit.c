// The 8254: Intel 8254 data sheet. Channel 2, whose gate and output port 61h has, shows the modes.
#include "clocks.h"

void pit_program(int channel, int mode, u32 count)
{
	outb(0x43, (u8)(channel << 6 | 0x30 | mode << 1));
	outb((u16)(0x40 + channel), (u8)count);
	outb((u16)(0x40 + channel), (u8)(count >> 8));
}

void pit_stop(void)
{
	outb(0x43, 0x30);
}

u16 pit_latch(int channel)
{
	outb(0x43, (u8)(channel << 6));
	u8 low = inb((u16)(0x40 + channel));
	return (u16)(low | inb((u16)(0x40 + channel)) << 8);
}

u8 pit_status(int channel)
{
	outb(0x43, (u8)(0xe0 | 2 << channel));	// read back: status only
	return inb((u16)(0x40 + channel));
}

static void gate(bool on)
{
	outb(0x61, (u8)((inb(0x61) & 0xfc) | on));
}

static bool out(void)
{
	return inb(0x61) >> 5 & 1;
}

// Ticks until OUT is at a level, by the TSC.
static u64 ticks_until(bool level)
{
	u64 start = rdtsc(), end = deadline_ms(200);
	while (out() != level && !passed(end))
		relax();
	return mul_div(rdtsc() - start, PIT_HZ, tsc_hz);
}

// What takes `ticks` must not be over earlier, and in one of some attempts not much later.
static void check_duration(const char *what, void (*start)(void), bool level, u64 ticks)
{
	u64 least = ~0ul;
	for (int attempt = 0; attempt < 20 * ATTEMPTS && least > ticks + ticks / 10; attempt++) {
		start();
		u64 took = ticks_until(level);
		if (took < least)
			least = took;
	}
	check(least + 2 >= ticks - ticks / 50 && least <= ticks + ticks / 10, "%s: %lu ticks, should be %lu", what, least, ticks);
}

static void start_mode_0(void) { pit_program(2, 0, 4000); }
static void start_mode_1(void)
{
	gate(false);
	pit_program(2, 1, 4000);
	gate(true);
}
static void start_mode_4(void) { pit_program(2, 4, 4000); }
static void start_mode_5(void)
{
	gate(false);
	pit_program(2, 5, 4000);
	gate(true);
}

static bool strobes(void (*start)(void))
{
	// OUT is low for one tick only: that it was is seen in some attempt, or the count runs on from 0.
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		start();
		u16 before = pit_latch(2);
		wait_ms(5);
		u16 after = pit_latch(2);
		if (out() && before <= 4000 && after > 4000)
			return true;
	}
	return false;
}

// QEMU 7.2 lets mode 0 count while the gate is low, triggers mode 1 at once, and counts BCD in binary.
void test_pit_modes(void)
{
	gate(true);
	pit_program(2, 0, 4000);
	check(!out(), "mode 0: OUT is high at the beginning");
	check_duration("mode 0", start_mode_0, true, 4000);
	u16 count = pit_latch(2);
	wait_ms(1);
	check(pit_latch(2) != count, "mode 0: the count stands after its end");
	pit_program(2, 0, 60000);
	gate(false);
	count = pit_latch(2);
	wait_ms(1);
	check(pit_latch(2) == count, "mode 0: the count goes on while the gate is low");
	gate(true);
	wait_ms(1);
	check(pit_latch(2) != count, "mode 0: the count stands when the gate is high again");

	gate(false);
	pit_program(2, 1, 4000);
	check(out(), "mode 1: OUT is low before the trigger");
	check_duration("mode 1", start_mode_1, true, 4000);

	gate(true);
	pit_program(2, 2, 1000);
	u16 least = 0xffff, most = 0;
	// Until both ends have been seen: a busy host may let the guest see little of each period.
	u64 end = deadline_ms(3000);
	while ((least >= 100 || most <= 900) && !passed(end)) {
		count = pit_latch(2);
		least = count < least ? count : least;
		most = count > most ? count : most;
	}
	check(least >= 1 && most <= 1000 && most > 900 && least < 100, "mode 2: counts from %u to %u", most, least);
	gate(false);
	check(out(), "mode 2: OUT is low while the gate is low");
	gate(true);

	pit_program(2, 3, 1000);
	bool even = true, high = false, low = false;
	end = deadline_ms(3000);
	while ((!high || !low) && !passed(end)) {
		count = pit_latch(2);
		even &= !(count & 1) && count <= 1000;
		high |= out();
		low |= !out();
	}
	check(even, "mode 3: a count that is odd or too large");
	check(high && low, "mode 3: OUT was %s always", high ? "high" : "low");

	check(strobes(start_mode_4), "mode 4: OUT or count");
	check(strobes(start_mode_5), "mode 5: OUT or count");
	// BCD: no digit above 9.
	outb(0x43, 0xb5);	// mode 2, BCD
	outb(0x42, 0x00);
	outb(0x42, 0x10);	// 1000
	bool decimal = true;
	end = deadline_ms(3);
	while (!passed(end)) {
		count = pit_latch(2);
		for (int digit = 0; digit < 16; digit += 4)
			decimal &= (count >> digit & 15) < 10;
		decimal &= count <= 0x1000;
	}
	check(decimal, "BCD: a count of %x", count);
	gate(false);
}

// QEMU 7.2 has no null count.
void test_pit_reading(void)
{
	gate(true);
	pit_program(2, 2, 0);
	// A latched count waits for both its bytes, and a second latch before that changes nothing.
	outb(0x43, 0x80);
	u8 low = inb(0x42);
	wait_ms(2);
	outb(0x43, 0x80);
	u16 first = (u16)(low | inb(0x42) << 8), second = pit_latch(2);
	check(first != second && (u16)(first - second) > 1000, "latched %u, 2 ms later %u", first, second);
	outb(0x43, 0x80);
	wait_ms(1);
	outb(0x43, 0x80);
	low = inb(0x42);
	first = (u16)(low | inb(0x42) << 8);
	check((u16)(first - pit_latch(2)) > 500, "a second latch command takes a new count");

	// Read back: status, then count.
	outb(0x43, 0xc8);
	u8 status = inb(0x42);
	low = inb(0x42);
	first = (u16)(low | inb(0x42) << 8);
	check((status & 0x3f) == 0x34, "status %x, should be 34 in its lower bits", status);
	check((u16)(first - pit_latch(2)) < 2000, "read-back count %u", first);
	// Mode, access and BCD as written; null count while there is none.
	for (int mode = 0; mode < 6; mode++) {
		outb(0x43, (u8)(0xb0 | mode << 1));
		status = pit_status(2);
		check((status & 0x7f) == (0x40 | 0x30 | mode << 1), "mode %d, no count yet: status %x", mode, status);
		check((status >> 7) == (mode != 0), "mode %d: OUT is %d", mode, status >> 7);
	}
	// Low byte only, high byte only.
	outb(0x43, 0x94);
	outb(0x42, 200);
	bool small = true;
	for (int i = 0; i < 200; i++)
		small &= inb(0x42) <= 200;
	check(small, "a count of the low byte only");
	outb(0x43, 0xa4);
	outb(0x42, 2);
	small = true;
	for (int i = 0; i < 200; i++)
		small &= inb(0x42) <= 2;
	check(small, "a count of the high byte only");
	gate(false);
}

// One interrupt for mode 0 however long it is left; one each period for mode 2 and 3.
void test_pit_interrupts(void)
{
	int vector = route_isa(0);
	if (vector < 0) {
		skip("no I/O APIC");
		return;
	}
	for (int attempt = 0; attempt < 3; attempt++) {
		pit_stop();
		let_in();
		irq_count[vector] = 0;
		u64 start = rdtsc();
		pit_program(0, 0, 3000);
		check(wait_irqs(vector, 1, 3000), "mode 0: no interrupt");
		u64 took = mul_div(rdtsc() - start, PIT_HZ, tsc_hz);
		check(took >= 2990, "mode 0: after %lu ticks, should be 3000", took);
		wait_irqs(vector, 2, 70);
		check(irq_count[vector] == 1, "mode 0: %u interrupts", irq_count[vector]);
	}
	pit_stop();
	ioapic_mask(isa_irq(0).gsi);
}
