// The console: COM1, and printing to it.
#pragma once

#include "types.h"

#define COM1 0x3f8
#define UART_DATA 0
#define UART_IER 1
#define UART_IIR 2
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define UART_MSR 6
#define UART_SCR 7

#define IER_RX 1
#define IER_THRE 2
#define LSR_DR 0x01
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

// The line is set to 115200 8n1, FIFOs on if there are any.
void serial_init(void);
const char *serial_type(void);
void serial_put(char c);
void serial_flush(void);
// -1 if nothing was received.
int serial_poll(void);
// Takes what has been received out of the port and keeps it for serial_poll.
void serial_keep(void);

// %s %c %d %i %u %x %p with width, 0, - and l, and %%.
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_va(const char *format, va_list args);
// Writes at most `size` bytes, the closing zero included.
void format_va(char *to, size_t size, const char *format, va_list args);
void format(char *to, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
