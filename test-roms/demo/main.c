// The demo guest: says what machine it finds itself on, tests the CPU, measures it, and offers a prompt.
//
// Command line: "quick" leaves the self-test and the benchmark out, "run=COMMAND;COMMAND;.." runs commands of the prompt in
// place of them and powers off after the last one.
#include "demo.h"
#include "memory.h"
#include "print.h"
#include "rom.h"

static const char banner[] =
	"\n"
	"            __ _                  _        _\n"
	"  ___  ___ / _| |_ _ __ ___   ___| |_ __ _| |\n"
	" / __|/ _ \\ |_| __| '_ ` _ \\ / _ \\ __/ _` | |\n"
	" \\__ \\ (_) |  _| |_| | | | | |  __/ || (_| | |\n"
	" |___/\\___/|_|  \\__|_| |_| |_|\\___|\\__\\__,_|_|\n"
	"\n"
	"Hello from the softmetal demo guest, a 64-bit program on the bare machine.\n";

static const char *commands_on_command_line(void)
{
	for (const char *p = boot_info.command_line; *p; p++)
		if ((p == boot_info.command_line || p[-1] == ' ') && starts_with(p, "run="))
			return p + 4;
	return 0;
}

void rom_main(void)
{
	print("%s", banner);
	if (boot_info.command_line[0])
		print("Command line: %s\n", boot_info.command_line);

	print("\n== CPU\n");
	show_cpu();
	print("\n== Memory\n");
	show_memory();
	print("\n== Devices\n");
	show_devices();

	const char *commands = commands_on_command_line();
	if (commands) {
		run_commands(commands);
		print("Powering off.\n");
		return;
	}
	if (!word_on_command_line("quick")) {
		print("\n== CPU self-test\n");
		run_selftest();
		print("\n== Benchmark\n");
		run_benchmark();
	}
	print("\nType \"help\" for the commands.\n");
	shell();
	print("Powering off.\n");
}
