// COM1, a 16550 or one of its ancestors.
#include "print.h"
#include "x86.h"

#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define FCR_ENABLE 0x01
#define FCR_ENABLE_64 0x20
#define DIVISOR_115200 1

// Polls of LSR before a character is given up: a port with nothing behind it must not stop the guest.
#define PATIENCE 200000

static bool present;
static int fifo_depth = 1;
static int room;
static u8 keep[256];
static int kept, given;
static const char *type = "none";

void serial_init(void)
{
	outb(COM1 + UART_IER, 0);
	outb(COM1 + UART_LCR, LCR_DLAB | LCR_8N1);
	outb(COM1 + UART_DATA, DIVISOR_115200);
	outb(COM1 + UART_IER, DIVISOR_115200 >> 8);
	outb(COM1 + UART_LCR, LCR_8N1);
	outb(COM1 + UART_MCR, 0x03 | MCR_OUT2);

	// IER's upper four bits and MCR's upper three are wired to 0, which floating bus lines are not.
	present = (inb(COM1 + UART_IER) & 0xf0) == 0 && (inb(COM1 + UART_MCR) & 0xe0) == 0;
	if (!present)
		return;

	// Switching FIFOs on would clear away what has been typed ahead.
	serial_keep();

	// FIFO bits of IIR after asking for FIFOs, then the scratch register, tell the family members apart.
	outb(COM1 + UART_FCR, FCR_ENABLE);
	u8 iir = inb(COM1 + UART_IIR) >> 6;
	if (iir == 3) {
		outb(COM1 + UART_LCR, LCR_DLAB | LCR_8N1);
		outb(COM1 + UART_FCR, FCR_ENABLE | FCR_ENABLE_64);
		bool is_16750 = inb(COM1 + UART_IIR) & 0x20;
		outb(COM1 + UART_FCR, FCR_ENABLE);
		outb(COM1 + UART_LCR, LCR_8N1);
		type = is_16750 ? "16750" : "16550A";
		fifo_depth = 16;
	} else if (iir == 2) {
		type = "16550 (unusable FIFO)";
		outb(COM1 + UART_FCR, 0);
	} else {
		outb(COM1 + UART_SCR, 0x5a);
		type = inb(COM1 + UART_SCR) == 0x5a ? "16450" : "8250";
	}
}

const char *serial_type(void)
{
	return type;
}

static bool wait_for(u8 lsr_bit)
{
	for (int i = 0; i < PATIENCE; i++) {
		if (inb(COM1 + UART_LSR) & lsr_bit)
			return true;
		relax();
	}
	return false;
}

static void put_raw(u8 c)
{
	// An empty holding register means an empty FIFO: so many characters go without asking again.
	if (room == 0) {
		if (!wait_for(LSR_THRE))
			return;
		room = fifo_depth;
	}
	room--;
	outb(COM1 + UART_DATA, c);
}

void serial_put(char c)
{
	if (!present)
		return;
	if (c == '\n')
		put_raw('\r');
	put_raw((u8)c);
}

void serial_flush(void)
{
	if (present)
		wait_for(LSR_TEMT);
	room = 0;
}

static int receive(void)
{
	if (!present || !(inb(COM1 + UART_LSR) & LSR_DR))
		return -1;
	return inb(COM1 + UART_DATA);
}

void serial_keep(void)
{
	for (int c; kept < (int)sizeof keep && (c = receive()) >= 0;)
		keep[kept++] = (u8)c;
}

int serial_poll(void)
{
	if (given < kept)
		return keep[given++];
	given = kept = 0;
	return receive();
}
