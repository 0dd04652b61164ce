// The prompt. Input comes by interrupt, and the processor halts while there is none.
#include "acpi.h"
#include "clock.h"
#include "demo.h"
#include "interrupts.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "x86.h"

#define COM1_IRQ 4

static volatile u8 ring[256];
static volatile u8 ring_head, ring_tail;	// wrap by their width
static bool by_interrupt;

static void serial_interrupt(struct trap_frame *f)
{
	(void)f;
	// The line to the interrupt controller is edge-triggered: it must be seen low once before the handler ends.
	for (int i = 0; i < 64 && !(inb(COM1 + UART_IIR) & 1); i++)
		for (int c; (c = serial_poll()) >= 0;)
			if ((u8)(ring_head + 1) != ring_tail)
				ring[ring_head++] = (u8)c;
}

// Lets the transmitter interrupt once to see whether interrupts of the port arrive at all.
static bool serial_interrupts_on(void)
{
	struct isa_irq irq = isa_irq(COM1_IRQ);
	int vector = (int)(VECTOR_IOAPIC + irq.gsi);
	if (!ioapic_route(irq.gsi, irq.level, irq.active_low)) {
		vector = VECTOR_PIC + COM1_IRQ;
		pic_unmask(COM1_IRQ);
	}
	irq_handler[vector] = serial_interrupt;
	serial_flush();
	u32 before = irq_count[vector];
	u64 end = deadline_ms(200);
	sti();
	outb(COM1 + UART_IER, IER_RX | IER_THRE);
	while (irq_count[vector] == before && !passed(end))
		relax();
	cli();
	outb(COM1 + UART_IER, IER_RX);
	return irq_count[vector] != before;
}

static int next_char(void)
{
	if (!by_interrupt) {
		int c;
		while ((c = serial_poll()) < 0)
			relax();
		return c;
	}
	cli();
	for (int c; (u8)(ring_head + 1) != ring_tail && (c = serial_poll()) >= 0;)
		ring[ring_head++] = (u8)c;
	while (ring_head == ring_tail) {
		sti_hlt();
		cli();
	}
	return ring[ring_tail++];
}

// A line with backspace, Ctrl-U and Ctrl-C; escape sequences of cursor keys are swallowed.
static void read_line(char *line, size_t size)
{
	size_t n = 0;
	for (;;) {
		int c = next_char();
		if (c == '\r' || c == '\n') {
			print("\n");
			break;
		} else if (c == 3) {
			print("^C\n");
			n = 0;
			break;
		} else if (c == 0x15) {
			for (; n; n--)
				print("\b \b");
		} else if (c == 8 || c == 127) {
			if (n) {
				n--;
				print("\b \b");
			}
		} else if (c == 27) {
			if (next_char() == '[')
				while ((c = next_char()) < '@' || c > '~')
					;
		} else if (c >= ' ' && c < 127 && n + 1 < size) {
			line[n++] = (char)c;
			serial_put((char)c);
		}
	}
	line[n] = 0;
}

static bool parse_number(const char **text, u64 base, u64 *value)
{
	const char *p = *text;
	while (*p == ' ')
		p++;
	if (p[0] == '0' && (p[1] | 32) == 'x') {
		p += 2;
		base = 16;
	}
	const char *first = p;
	for (*value = 0;; p++) {
		u64 digit = *p >= '0' && *p <= '9' ? (u64)(*p - '0') : (*p | 32) >= 'a' && (*p | 32) <= 'f' ? (u64)(*p | 32) - 'a' + 10 : 99;
		if (digit >= base)
			break;
		*value = *value * base + digit;
	}
	*text = p;
	return p > first && (!*p || *p == ' ');
}

static void peek_bytes(void *argument)
{
	u64 address = *(u64 *)argument;
	u8 bytes[16];
	for (int i = 0; i < 16; i++)
		bytes[i] = read8(address + (u64)i);
	print("  %016lx ", address);
	for (int i = 0; i < 16; i++)
		print(" %02x", bytes[i]);
	print("  ");
	for (int i = 0; i < 16; i++)
		serial_put(bytes[i] >= ' ' && bytes[i] < 127 ? (char)bytes[i] : '.');
	print("\n");
}

static void peek(const char *arguments)
{
	u64 address, count = 64;
	if (!parse_number(&arguments, 16, &address) || (*arguments && !parse_number(&arguments, 10, &count))) {
		print("peek ADDRESS [BYTES]: an address in hexadecimal, then a decimal number\n");
		return;
	}
	count = count > 4096 ? 4096 : count;
	for (u64 i = 0; i < count; i += 16) {
		u64 at = address + i;
		physical(at, 16);
		int vector = catch_trap(peek_bytes, &at);
		if (vector != NO_TRAP) {
			print("  %016lx  exception %d, error code %lx, CR2 %lx\n", at, vector, trap.error_code, trap_cr2);
			return;
		}
	}
}

static void help(void)
{
	print("  cpu           the processor\n"
	      "  mem           the memory map\n"
	      "  devices       ACPI tables, interrupt controllers, timers, PCI\n"
	      "  test          the CPU self-test\n"
	      "  bench         the benchmark\n"
	      "  peek ADDRESS [BYTES]\n"
	      "                memory at a hexadecimal address\n"
	      "  time          the CMOS clock\n"
	      "  exit N        ends with N at the debug-exit port, if there is one\n"
	      "  crash         a triple fault, on purpose\n"
	      "  reboot        starts the machine again\n"
	      "  poweroff      ends\n");
}

static void exit_command(const char *arguments)
{
	u64 value;
	if (!parse_number(&arguments, 10, &value) || value > 255) {
		print("exit N: a number up to 255\n");
		return;
	}
	debug_exit((u8)value);
	print("There is no debug-exit port.\n");
}

static void crash(void)
{
	print("Causing a triple fault: an invalid instruction with an empty IDT.\n");
	triple_fault();
}

static const struct { const char *name; void (*run)(void); } commands[] = {
	{ "help", help }, { "?", help }, { "cpu", show_cpu }, { "mem", show_memory }, { "devices", show_devices },
	{ "test", run_selftest }, { "bench", run_benchmark }, { "time", show_time }, { "crash", crash },
	{ "reboot", reboot },
};

// True: power off.
static bool run_command(const char *line)
{
	while (*line == ' ')
		line++;
	if (!*line)
		return false;
	if (same(line, "poweroff"))
		return true;
	if (same(line, "peek") || starts_with(line, "peek ")) {
		peek(line + 4);
		return false;
	}
	if (same(line, "exit") || starts_with(line, "exit ")) {
		exit_command(line + 4);
		return false;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (same(line, commands[i].name)) {
			commands[i].run();
			return false;
		}
	print("There is no command \"%s\"; \"help\" lists them.\n", line);
	return false;
}

bool run_commands(const char *list)
{
	char line[128];
	while (*list) {
		size_t n = 0;
		for (; *list && *list != ';'; list++)
			if (n + 1 < sizeof line)
				line[n++] = *list;
		line[n] = 0;
		list += *list == ';';
		print("softmetal> %s\n", line);
		if (run_command(line))
			return true;
	}
	return false;
}

void shell(void)
{
	char line[128];
	do {
		// Each time, for commands may have used the interrupt controllers otherwise.
		by_interrupt = serial_interrupts_on();
		if (!by_interrupt)
			print("The serial port's interrupt does not arrive: polling it.\n");
		print("softmetal> ");
		serial_flush();
		read_line(line, sizeof line);
	} while (!run_command(line));
}
