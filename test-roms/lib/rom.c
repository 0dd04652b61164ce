// From the 64-bit entry to rom_main, and the bookkeeping of tests.
#include "rom.h"
#include "acpi.h"
#include "clock.h"
#include "interrupts.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "x86.h"

#define DETAILS_SHOWN 8

struct score score;
static const char *topic_name, *topic_skipped;
static u32 checks, failures;

void topic(const char *name)
{
	topic_name = name;
	topic_skipped = 0;
	checks = failures = 0;
}

bool check(bool ok, const char *f, ...)
{
	checks++;
	if (ok)
		return true;
	failures++;
	if (failures <= DETAILS_SHOWN) {
		va_list args;
		va_start(args, f);
		print("    %s: ", topic_name);
		print_va(f, args);
		print("\n");
		va_end(args);
	}
	return false;
}

void check_eq(u64 got, u64 want, const char *what)
{
	check(got == want, "%s: %lx, should be %lx", what, got, want);
}

void skip(const char *reason)
{
	topic_skipped = reason;
}

void topic_end(void)
{
	if (failures) {
		score.failed++;
		print("FAIL %s: %u of %u checks\n", topic_name, failures, checks);
	} else if (!checks) {
		score.skipped++;
		print("SKIP %s: %s\n", topic_name, topic_skipped ? topic_skipped : "nothing to check");
	} else {
		score.passed++;
		print("PASS %s: %u checks\n", topic_name, checks);
	}
}

static void call(void *run)
{
	((void (*)(void))run)();
}

void run_topic(const char *name, void (*run)(void))
{
	u64 cr0 = read_cr0(), cr4 = read_cr4();
	topic(name);
	int vector = catch_trap(call, (void *)run);
	if (vector != NO_TRAP) {
		trap_hook = 0;
		write_cr0(cr0);
		write_cr4(cr4);
		write_dr7(0x400);
		check(false, "ended by exception %d, error code %lx, at %lx, CR2 %lx", vector, trap.error_code, trap.rip, trap_cr2);
	}
	topic_end();
}

void finish(void)
{
	print("%u passed, %u failed, %u skipped\n", score.passed, score.failed, score.skipped);
	debug_exit(score.failed ? 1 : 0);
}

bool word_on_command_line(const char *word)
{
	size_t n = strlen(word);
	for (const char *p = boot_info.command_line; *p; p++)
		if ((p == boot_info.command_line || p[-1] == ' ') && starts_with(p, word) && (p[n] == ' ' || !p[n]))
			return true;
	return false;
}

static void cpu_init(void)
{
	// The loader's CR4 may have what tests expect to be off.
	write_cr4(CR4_PAE);
	write_cr0((read_cr0() & ~(CR0_EM | CR0_TS | CR0_AM | CR0_NW | CR0_CD)) | CR0_MP | CR0_NE | CR0_WP);
	write_cr4(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT);
	if (cpuid_checked(0x80000001, 0).edx >> 20 & 1)
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void float_init(void *argument)
{
	u32 mxcsr = 0x1f80;
	(void)argument;
	asm volatile("fninit; ldmxcsr %0" :: "m"(mxcsr));
}

// Called by startup_64 with .bss cleared.
void rom_start(const u8 *zero_page)
{
	boot_info_init(zero_page);
	serial_init();
	interrupts_init();
	cpu_init();
	if (catch_trap(float_init, 0) != NO_TRAP)
		print("FNINIT and LDMXCSR: exception %lu. Going on.\n", trap.vector);
	memory_init();
	acpi_init();
	clock_init();
	lapic_enable();
	rom_main();
	power_off();
	print("No way to power off was found.\n");
	give_up();
}
