// Interrupts without an EOI, and waits.
#include "apic.h"

volatile u8 raw_order[16];
volatile int raw_count;
void (*volatile raw_inside)(u8 vector);

extern u8 raw_entry_a[], raw_entry_b[], raw_entry_c[], raw_entry_d[];
asm(".text\n"
    "raw_entry_a: push $0x61; jmp 1f\n"
    "raw_entry_b: push $0x71; jmp 1f\n"
    "raw_entry_c: push $0x81; jmp 1f\n"
    "raw_entry_d: push $0x91 - 0x100\n"
    "1: push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11; push %rbp\n"
    "movzbl 80(%rsp), %edi; mov %rsp, %rbp; and $-16, %rsp; cld; call raw_interrupt; mov %rbp, %rsp\n"
    "pop %rbp; pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax\n"
    "add $8, %rsp; iretq\n");

void raw_interrupt(u8 vector)
{
	if (raw_count < 16)
		raw_order[raw_count] = vector;
	raw_count++;
	if (raw_inside)
		raw_inside(vector);
}

void raw_init(void)
{
	idt_set(RAW_A, (void (*)(void))raw_entry_a, 0, 0);
	idt_set(RAW_B, (void (*)(void))raw_entry_b, 0, 0);
	idt_set(RAW_C, (void (*)(void))raw_entry_c, 0, 0);
	idt_set(RAW_D, (void (*)(void))raw_entry_d, 0, 0);
}

void eoi(void)
{
	lapic_write(LAPIC_EOI, 0);
}

void let_in(void)
{
	u64 end = deadline_us(300);
	sti();
	while (!passed(end))
		relax();
	cli();
}

bool wait_count(volatile u32 *count, u32 wanted, u32 ms)
{
	u64 end = deadline_ms(ms);
	sti();
	while (*count < wanted && !passed(end))
		relax();
	cli();
	return *count >= wanted;
}

static void nothing(void *argument)
{
	(void)argument;
}

void settle_all(void)
{
	for (int i = 1; i < cpu_count; i++) {
		smp_run(i, nothing, 0);
		check(smp_done(i, 2000), "processor %d does not answer", i);
	}
	let_in();
}

static bool bit(u32 reg, u8 vector)
{
	return lapic_read(reg + vector / 32 * 16) >> (vector % 32) & 1;
}

bool in_irr(u8 vector) { return bit(LAPIC_IRR, vector); }
bool in_isr(u8 vector) { return bit(LAPIC_ISR, vector); }

u32 read_esr(void)
{
	lapic_write(LAPIC_ESR, 0);
	return lapic_read(LAPIC_ESR);
}

bool has_x2apic(void)
{
	return cpuid(1, 0).ecx >> 21 & 1;
}

static void to_x2apic(void *argument)
{
	(void)argument;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2APIC);
}

static void to_xapic(void *argument)
{
	(void)argument;
	u64 base = rdmsr(MSR_APIC_BASE);
	wrmsr(MSR_APIC_BASE, base & ~(APIC_BASE_ENABLE | APIC_BASE_X2APIC));
	wrmsr(MSR_APIC_BASE, base & ~APIC_BASE_X2APIC);
	lapic_enable();
	if (smp_self())
		lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
}

static bool all_to(void (*work)(void *))
{
	bool all = true;
	for (int i = 1; i < cpu_count; i++) {
		smp_run(i, work, 0);
		all &= smp_done(i, 2000);
	}
	work(0);
	return all;
}

bool all_to_x2apic(void) { return all_to(to_x2apic) && lapic_is_x2apic(); }
bool all_to_xapic(void) { return all_to(to_xapic) && !lapic_is_x2apic(); }
