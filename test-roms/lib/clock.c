// The TSC and its reference clocks: PM timer, HPET, PIT channel 2.
#include "clock.h"
#include "acpi.h"
#include "memory.h"
#include "x86.h"

#define HPET_CAPABILITIES 0x000
#define HPET_CONFIGURATION 0x010
#define HPET_COUNTER 0x0f0

u64 tsc_hz;
const char *tsc_source = "nothing";
static bool hpet_found;

// Assumed where nothing tells the frequency, so that time-outs end.
#define ASSUMED_HZ 2000000000ul

static u64 pm_timer_read(void)
{
	return inl(acpi.pm_timer);
}

// Channel 2 counts down; the latch command freezes both bytes.
static u64 pit_read(void)
{
	outb(0x43, 0x80);
	u8 low = inb(0x42);
	return (u16)~(low | inb(0x42) << 8);
}

static u64 hpet_count(void)
{
	return hpet_read(HPET_COUNTER);
}

const struct reference_clock pm_timer_clock = { "PM timer", 3579545, 0xffffff, pm_timer_read };
const struct reference_clock pit_clock = { "PIT", 1193182, 0xffff, pit_read };
struct reference_clock hpet_clock = { "HPET", 0, 0xffffffff, hpet_count };

u64 hpet_read(u32 reg)
{
	return read64(acpi.hpet + reg);
}

void hpet_write(u32 reg, u64 v)
{
	write64(acpi.hpet + reg, v);
}

bool pm_timer_present(void)
{
	return acpi.pm_timer != 0;
}

bool hpet_present(void)
{
	return hpet_found;
}

void pit_start_channel2(void)
{
	outb(0x61, (inb(0x61) & 0xfc) | 1);	// gate open, speaker off
	outb(0x43, 0xb4);			// channel 2, both bytes, mode 2
	outb(0x42, 0);
	outb(0x42, 0);
}

static void hpet_init(void)
{
	if (!acpi.hpet || !physical(acpi.hpet, 1024))
		return;
	u64 period = hpet_read(HPET_CAPABILITIES) >> 32;	// femtoseconds; the specification allows up to 100 ns
	if (!period || period > 100000000)
		return;
	hpet_found = true;
	hpet_clock.hz = 1000000000000000ul / period;
	hpet_write(HPET_CONFIGURATION, 1);
}

// Reads the reference between two reads of the TSC, the closest of some attempts.
static u64 read_both(const struct reference_clock *r, u64 *tsc)
{
	u64 best = ~0ul, value = 0;
	for (int i = 0; i < 8; i++) {
		u64 before = rdtsc();
		u64 v = r->read();
		u64 after = rdtsc();
		if (after - before < best) {
			best = after - before;
			*tsc = before + (after - before) / 2;
			value = v;
		}
	}
	return value;
}

u64 measure_tsc(const struct reference_clock *r, u32 ms)
{
	u64 tsc0, tsc1;
	u64 start = read_both(r, &tsc0);
	u64 wanted = r->hz * ms / 1000;
	u64 last = start;
	for (int unchanged = 0; ((last - start) & r->mask) < wanted;) {
		u64 now = r->read();
		unchanged = now == last ? unchanged + 1 : 0;
		if (unchanged == 1000000)
			return 0;
		last = now;
	}
	u64 elapsed = (read_both(r, &tsc1) - start) & r->mask;
	return elapsed ? mul_div(tsc1 - tsc0, r->hz, elapsed) : 0;
}

u64 tsc_hz_by_cpuid(void)
{
	struct cpuid r = cpuid_checked(0x15, 0);
	if (!r.eax || !r.ebx)
		return 0;
	u64 crystal = r.ecx;
	if (!crystal)	// SDM 2A "CPUID": where ECX is 0, the base frequency of leaf 16h gives the crystal
		crystal = (u64)(cpuid_checked(0x16, 0).eax & 0xffff) * 1000000 * r.eax / r.ebx;
	return crystal * r.ebx / r.eax;
}

void clock_init(void)
{
	hpet_init();
	pit_start_channel2();
	tsc_hz = tsc_hz_by_cpuid();
	if (tsc_hz) {
		tsc_source = "CPUID 15h";
		return;
	}
	if (pm_timer_present() && (tsc_hz = measure_tsc(&pm_timer_clock, 20)))
		tsc_source = "PM timer";
	else if (hpet_present() && (tsc_hz = measure_tsc(&hpet_clock, 20)))
		tsc_source = "HPET";
	else if ((tsc_hz = measure_tsc(&pit_clock, 20)))
		tsc_source = "PIT";
}

u64 deadline_us(u32 us)
{
	return rdtsc() + (tsc_hz ? tsc_hz : ASSUMED_HZ) / 1000000 * us;
}

u64 deadline_ms(u32 ms)
{
	return deadline_us(ms * 1000);
}

bool passed(u64 deadline)
{
	return (i64)(rdtsc() - deadline) >= 0;
}

void wait_ms(u32 ms)
{
	u64 end = deadline_ms(ms);
	while (!passed(end))
		relax();
}

u64 ticks_to_us(u64 ticks)
{
	return mul_div(ticks, 1000000, tsc_hz ? tsc_hz : ASSUMED_HZ);
}
