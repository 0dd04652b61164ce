// The CPU self-test: a line for each topic. Topics that end in "exactly" hold what the processors do and QEMU 7.2 does not.
#include "clock.h"
#include "demo.h"
#include "print.h"
#include "selftest.h"

static const struct { const char *name; void (*run)(void); } topics[] = {
	{ "integer arithmetic and flags", test_arithmetic },
	{ "multiplication", test_multiply },
	{ "division", test_divide },
	{ "shifts and rotates", test_shifts },
	{ "double shifts", test_double_shifts },
	{ "bit operations", test_bit_operations },
	{ "conditions", test_conditions },
	{ "moves and addressing", test_moves },
	{ "stack and calls", test_stack },
	{ "string instructions", test_strings },
	{ "atomic operations", test_atomics },
	{ "SSE scalar arithmetic", test_sse_scalar },
	{ "SSE rounding, DAZ, FTZ", test_sse_rounding },
	{ "SSE comparisons", test_sse_compare },
	{ "SSE conversions", test_sse_convert },
	{ "SSE denormals and NaNs exactly", test_sse_exactly },
	{ "SSE packed", test_sse_packed },
	{ "SSE packed NaNs exactly", test_sse_packed_exactly },
	{ "SSE moves and MMX", test_sse_moves },
	{ "SSE faults", test_sse_faults },
	{ "SSE unmasked exceptions exactly", test_sse_unmasked },
	{ "x87 arithmetic", test_x87_arithmetic },
	{ "x87 exactly", test_x87_exactly },
	{ "x87 control and status", test_x87_control },
	{ "x87 state", test_x87_state },
	{ "exceptions", test_exceptions },
	{ "segments", test_segments },
	{ "debug registers and single step", test_debug },
	{ "interrupt stacks", test_ist },
	{ "system registers", test_system_registers },
	{ "page protection", test_paging },
	{ "accessed and dirty bits", test_accessed_dirty },
	{ "large pages and TLB", test_large_pages },
	{ "SMEP and SMAP", test_supervisor_protection },
	{ "ring 3", test_user_mode },
	{ "SYSCALL and SYSRET", test_syscall },
	{ "compatibility mode", test_compatibility_mode },
	{ "self-modifying code", test_self_modifying_code },
	{ "clocks agree", test_clocks },
	{ "PIT interrupts", test_pit },
	{ "LAPIC timer", test_lapic_timer },
	{ "HPET interrupts", test_hpet },
	{ "RTC", test_rtc },
	{ "local APIC", test_apic },
	{ "serial port", test_serial_port },
};

void run_selftest(void)
{
	u64 start = rdtsc();
	score = (struct score){ 0, 0, 0 };
	for (size_t i = 0; i < ARRAY_SIZE(topics); i++)
		run_topic(topics[i].name, topics[i].run);
	print("Self-test: %u passed, %u failed, %u skipped, in %lu ms\n", score.passed, score.failed, score.skipped,
	      ticks_to_us(rdtsc() - start) / 1000);
}
