// The local APIC beside its timer, the ways in which interrupts are held back, and the serial port.
#include "clock.h"
#include "interrupts.h"
#include "print.h"
#include "selftest.h"

#define ICR_SELF (1u << 18)
#define ICR_NMI (4u << 8)
#define VECTOR_LOW 0x61
#define VECTOR_HIGH 0x71

static u8 order[8];
static int arrived;
static u64 interrupted_rip;

static void note_order(struct trap_frame *f)
{
	if (arrived < 8)
		order[arrived] = (u8)f->vector;
	arrived++;
	interrupted_rip = f->rip;
}

static bool arrives(int vector)
{
	u64 end = deadline_ms(50);
	sti();
	while (!irq_count[vector] && !passed(end))
		relax();
	cli();
	return irq_count[vector];
}

// With interrupts off for so long that a pending one would have been taken.
static void settle(void)
{
	u64 end = deadline_us(200);
	while (!passed(end))
		relax();
}

static volatile u32 nmis;
static u64 nmi_stack;

static bool count_nmi(struct trap_frame *f)
{
	if (f->vector != VECTOR_NMI)
		return false;
	nmis++;
	nmi_stack = trap_stack;
	return true;
}

static void test_priorities(void)
{
	irq_handler[VECTOR_LOW] = irq_handler[VECTOR_HIGH] = note_order;
	arrived = 0;
	lapic_icr(0, ICR_SELF | VECTOR_LOW);
	lapic_icr(0, ICR_SELF | VECTOR_HIGH);
	settle();
	check(arrived == 0, "interrupts with IF clear");
	check(lapic_read(LAPIC_IRR + (VECTOR_LOW / 32) * 16) >> (VECTOR_LOW % 32) & 1, "IRR of a pending interrupt");
	irq_count[VECTOR_LOW] = 0;
	arrives(VECTOR_LOW);
	check(arrived == 2 && order[0] == VECTOR_HIGH && order[1] == VECTOR_LOW, "order of two pending interrupts: %d came, %x first", arrived, order[0]);

	// The task priority holds back what is not above it.
	arrived = 0;
	write_cr8(6);
	irq_count[VECTOR_LOW] = irq_count[VECTOR_HIGH] = 0;
	lapic_icr(0, ICR_SELF | VECTOR_LOW);
	lapic_icr(0, ICR_SELF | VECTOR_HIGH);
	check(arrives(VECTOR_HIGH), "CR8 = 6 holds back vector 71h");
	settle();
	sti();
	settle();
	cli();
	check(irq_count[VECTOR_LOW] == 0, "CR8 = 6 lets vector 61h through");
	check_eq(lapic_read(LAPIC_PPR), 0x60, "PPR");
	write_cr8(0);
	check(arrives(VECTOR_LOW), "vector 61h after CR8 = 0");
	irq_handler[VECTOR_LOW] = irq_handler[VECTOR_HIGH] = 0;
}

static void test_shadows(void)
{
	extern u8 after_sti[];
	irq_handler[VECTOR_TEST] = note_order;

	// The instruction after STI still runs before a pending interrupt is taken.
	arrived = 0;
	lapic_icr(0, ICR_SELF | VECTOR_TEST);
	settle();
	asm volatile("sti; nop; after_sti: nop; nop; cli" ::: "memory");
	check(arrived == 1 && interrupted_rip == (u64)after_sti, "STI: interrupted at %lx, should be %lx", interrupted_rip, (u64)after_sti);

	// STI and CLI in a row let nothing in.
	arrived = 0;
	lapic_icr(0, ICR_SELF | VECTOR_TEST);
	settle();
	asm volatile("sti; cli; nop" ::: "memory");
	settle();
	check(arrived == 0, "an interrupt between STI and CLI");

	// POPF has no such shadow.
	asm volatile("pushfq; orq $0x200, (%%rsp); popfq; nop; cli" ::: "memory", "cc");
	check(arrived == 1, "POPF does not let the pending interrupt in");
	irq_handler[VECTOR_TEST] = 0;
}

void test_apic(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	irq_count[VECTOR_TEST] = 0;
	lapic_icr(lapic_id(), VECTOR_TEST);
	check(arrives(VECTOR_TEST), "IPI to the own id");
	irq_count[VECTOR_TEST] = 0;
	lapic_icr(0, ICR_SELF | VECTOR_TEST);
	check(arrives(VECTOR_TEST), "IPI to self");
	test_priorities();
	test_shadows();

	// An NMI comes with interrupts off too.
	trap_hook = count_nmi;
	nmis = 0;
	lapic_icr(lapic_id(), ICR_NMI | 1 << 14);
	u64 end = deadline_ms(50);
	while (!nmis && !passed(end))
		relax();
	trap_hook = 0;
	check(nmis == 1 && nmi_stack == tss.ist[IST_NMI], "NMI to the own id: %u", nmis);
}

// ---- Serial port

static bool received(u8 *c)
{
	u64 end = deadline_ms(50);
	while (!(inb(COM1 + UART_LSR) & LSR_DR))
		if (passed(end))
			return false;
	*c = inb(COM1 + UART_DATA);
	return true;
}

void test_serial_port(void)
{
	struct isa_irq irq = isa_irq(4);
	u8 mcr, c = 0;
	bool lines, same_bytes = true;
	u32 count = 0;

	// Nothing is printed while the port is in loopback.
	serial_flush();
	serial_keep();
	mcr = inb(COM1 + UART_MCR);
	outb(COM1 + UART_MCR, MCR_LOOP | 0x0f);
	u8 all = inb(COM1 + UART_MSR) >> 4;
	outb(COM1 + UART_MCR, MCR_LOOP | 0x02);
	u8 rts = inb(COM1 + UART_MSR) >> 4;
	outb(COM1 + UART_MCR, MCR_LOOP);
	u8 none = inb(COM1 + UART_MSR) >> 4;
	lines = all == 15 && rts == 1 && none == 0;
	u32 sent = same(serial_type(), "16550A") ? 16 : 1;
	for (u32 i = 0; i < sent; i++)
		outb(COM1 + UART_DATA, (u8)(0xa0 + i * 5));
	count = 0;
	while (count < sent && received(&c)) {
		same_bytes &= c == (u8)(0xa0 + count * 5);
		count++;
	}
	outb(COM1 + UART_MCR, mcr);

	check(lines, "modem lines in loopback: %x, %x, %x, should be f, 1, 0", all, rts, none);
	check(count == sent && same_bytes, "loopback: %u of %u bytes came back%s", count, sent, same_bytes ? "" : ", changed");
	outb(COM1 + UART_SCR, 0x3c);
	check_eq(inb(COM1 + UART_SCR), 0x3c, "scratch register");
	outb(COM1 + UART_LCR, 0x83);
	u8 divisor = inb(COM1 + UART_DATA);
	outb(COM1 + UART_LCR, 0x03);
	check_eq(divisor, 1, "divisor latch");

	// The transmitter's interrupt, once switched on; then IIR names it, and the reading takes it away.
	int vector = (int)(VECTOR_IOAPIC + irq.gsi);
	if (!ioapic_route(irq.gsi, irq.level, irq.active_low)) {
		vector = VECTOR_PIC + 4;
		pic_unmask(4);
	}
	void (*handler)(struct trap_frame *) = irq_handler[vector];
	irq_handler[vector] = 0;
	serial_flush();
	irq_count[vector] = 0;
	outb(COM1 + UART_IER, IER_THRE);
	bool came = arrives(vector);
	u8 iir = inb(COM1 + UART_IIR), after = inb(COM1 + UART_IIR);
	outb(COM1 + UART_IER, 0);
	irq_handler[vector] = handler;
	check(came, "no interrupt of the empty transmitter");
	check((iir & 0x0f) == 2 && (after & 0x0f) == 1, "IIR %x, then %x, should be 2 and 1", iir & 15, after & 15);
	ioapic_mask(irq.gsi);
	pic_mask_all();
}
