// The CMOS clock.
#include "acpi.h"
#include "clock.h"
#include "demo.h"
#include "print.h"
#include "x86.h"

#define RTC_A 0x0a
#define RTC_B 0x0b
#define A_UIP 0x80
#define B_24H 0x02
#define B_BINARY 0x04
#define CENTURY_USUAL 0x32

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

static u32 number(u8 v, u8 b)
{
	return b & B_BINARY ? v : (u32)(v >> 4) * 10 + (v & 15);
}

static struct rtc_time read_once(void)
{
	u8 b = cmos_read(RTC_B);
	u8 hour = cmos_read(4);
	struct rtc_time t = {
		.second = number(cmos_read(0), b), .minute = number(cmos_read(2), b), .hour = number(hour & 0x7f, b),
		.day = number(cmos_read(7), b), .month = number(cmos_read(8), b), .year = number(cmos_read(9), b),
	};
	if (!(b & B_24H))
		t.hour = t.hour % 12 + (hour & 0x80 ? 12 : 0);
	u32 century = number(cmos_read(acpi.century ? acpi.century : CENTURY_USUAL), b);
	t.year += century >= 19 && century < 25 ? century * 100 : 2000;
	return t;
}

// Reads outside of updates until two reads agree.
bool rtc_read(struct rtc_time *t)
{
	u64 end = deadline_ms(1000);
	do {
		if (cmos_read(RTC_A) & A_UIP) {
			relax();
			continue;
		}
		*t = read_once();
		struct rtc_time again = read_once();
		if (!memcmp(t, &again, sizeof again))
			return true;
	} while (!passed(end));
	return false;
}

void show_time(void)
{
	struct rtc_time t;
	if (rtc_read(&t))
		print("%04u-%02u-%02u %02u:%02u:%02u (CMOS clock)\n", t.year, t.month, t.day, t.hour, t.minute, t.second);
	else
		print("The CMOS clock does not give two equal readings.\n");
}
