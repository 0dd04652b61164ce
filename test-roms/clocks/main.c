// The clocks of a PC, judged by one another.
#include "clocks.h"
#include "print.h"

void rom_main(void)
{
	print("clocks\n");
	topic("processors");
	check(smp_init(), "%d of the processors came", cpu_count);
	topic_end();
	run_topic("rates", test_rates);
	run_topic("nothing goes back", test_monotonic);
	run_topic("TSCs of several processors", test_tsc_processors);
	run_topic("PIT, interrupts", test_pit_interrupts);
	run_topic("HPET, counter", test_hpet_counter);
	run_topic("HPET, one shot", test_hpet_one_shot);
	run_topic("HPET, periodic", test_hpet_periodic);
	run_topic("APIC timer, periodic", test_lapic_periodic);
	run_topic("PIT, ticks, exactly", test_pit_ticks);
	run_topic("TSC exactly", test_tsc);
	run_topic("PIT, modes, exactly", test_pit_modes);
	run_topic("PIT, reading, exactly", test_pit_reading);
	run_topic("RTC, flags, exactly", test_rtc_flags);
	run_topic("RTC, interrupts, exactly", test_rtc_interrupts);
	finish();
}
