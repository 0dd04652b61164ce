// Interrupts and exceptions with the shortest handlers there are, and accesses that leave for a device.
#include "bare.h"
#include "interrupts.h"
#include "x86.h"

static volatile u64 counter;

asm(".text\n"
    "count_and_return: incq counter(%rip); iretq\n"
    "skip_ud2: incq counter(%rip); addq $2, (%rsp); iretq\n");
void count_and_return(void);
void skip_ud2(void);

// INT n through an interrupt gate, and IRET.
u64 run_interrupts(void)
{
	counter = 0;
	idt_set(VECTOR_TEST, count_and_return, 0, 0);
	for (u64 n = 0; n < 50000; n++)
		asm volatile("int %0" :: "i"(VECTOR_TEST) : "memory");
	return counter;
}

// #UD, whose handler goes on behind the instruction.
u64 run_exceptions(void)
{
	counter = 0;
	idt_set(VECTOR_UD, skip_ud2, 0, 0);
	for (u64 n = 0; n < 50000; n++)
		asm volatile("ud2" ::: "memory");
	idt_set(VECTOR_UD, vector_entry(VECTOR_UD), 0, 0);
	return counter;
}

// The local APIC sends an interrupt to its own processor; the general handler counts it and writes EOI.
u64 run_self_ipi(void)
{
	u32 before = irq_count[VECTOR_TEST + 1];
	asm volatile("sti" ::: "memory");
	for (u32 n = 1; n <= 20000; n++) {
		lapic_icr(0, 1u << 18 | (VECTOR_TEST + 1));
		while (irq_count[VECTOR_TEST + 1] != before + n)
			asm volatile("pause" ::: "memory");
	}
	asm volatile("cli" ::: "memory");
	return irq_count[VECTOR_TEST + 1] - before;
}

// The interrupt mask of the second PIC.
u64 run_ports(void)
{
	u64 hash = 0;
	u8 saved = inb(0xa1);
	for (u64 n = 0; n < 30000; n++) {
		outb(0xa1, (u8)n);
		hash = mix(hash, inb(0xa1));
	}
	outb(0xa1, saved);
	return hash;
}

// The destination field of the I/O APIC's first entry: index and data, written and read.
u64 run_mmio(void)
{
	u64 hash = 0;
	for (u32 n = 0; n < 15000; n++) {
		ioapic_write(0x11, n << 24);
		hash = mix(hash, ioapic_read(0x11));
	}
	return hash;
}
