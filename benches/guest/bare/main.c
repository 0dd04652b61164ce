// What Linux programs cannot measure. The command line says what is run: row=NAME rounds=N. It prints what
// benches/guest/main.c prints, and ends by the debug-exit port:
//     begin bare NAME
//     end bare NAME ROUNDS ok|wrong VALUE
#include "bare.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "rom.h"

static const struct row {
	const char *name;
	u64 (*run)(void);
	u64 expected;
} rows[] = {
	{ "cr3-load", run_cr3, 0x4ce840 },
	{ "invlpg", run_invlpg, 0xfec2cf2fa0835496 },
	{ "page-walk", run_walk, 0x32b1538 },
	{ "interrupt", run_interrupts, 50000 },
	{ "exception", run_exceptions, 50000 },
	{ "self-ipi", run_self_ipi, 20000 },
	{ "port-io", run_ports, 0x152d9767cea6e8bb },
	{ "mmio", run_mmio, 0xdaa4ebc097dd2eaf },
	{ "real-16", run_real16, 0x1ad90001c000 },
	{ "protected-32", run_protected32, 0xfbf450c61c7de000 },
	{ "mode-switch", run_mode_switch, 0x543223d42af33d1b },
};

// What stands behind a name on the command line, up to the next space.
static const char *argument(const char *name)
{
	for (const char *p = boot_info.command_line; *p; p++)
		if ((p == boot_info.command_line || p[-1] == ' ') && starts_with(p, name))
			return p + strlen(name);
	return "";
}

static bool is(const char *word, const char *name)
{
	size_t n = strlen(name);
	return starts_with(word, name) && (word[n] == ' ' || !word[n]);
}

static u64 number(const char *digits)
{
	u64 v = 0;
	for (; *digits >= '0' && *digits <= '9'; digits++)
		v = v * 10 + (u64)(*digits - '0');
	return v;
}

void rom_main(void)
{
	const char *name = argument("row=");
	u64 rounds = number(argument("rounds="));
	for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
		const struct row *row = &rows[k];
		if (!is(name, row->name))
			continue;
		u64 value = 0;
		bool ok = true;
		print("begin bare %s\n", row->name);
		for (u64 n = 0; n < rounds; n++) {
			value = row->run();
			ok &= value == row->expected;
		}
		print("end bare %s %lu %s %lx\n", row->name, rounds, ok ? "ok" : "wrong", value);
		serial_flush();
		debug_exit(ok ? 0 : 1);
		return;
	}
	print("there is no such row\n");
	serial_flush();
	debug_exit(2);
}
