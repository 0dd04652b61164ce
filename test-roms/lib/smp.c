// Several processors: SDM 3A "Multiple-Processor (MP) Initialization".
#include "smp.h"
#include "acpi.h"
#include "clock.h"
#include "memory.h"
#include "x86.h"

#define ICR_INIT (5u << 8)
#define ICR_STARTUP (6u << 8)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
#define MADT_ENABLED 1u

struct cpu cpus[MAX_CPUS];
int cpu_count = 1;

extern u8 smp_entry[], smp_entry_end[], smp_entry_cr3[], smp_entry_cr4[], smp_entry_efer[];
extern u64 smp_boot_stack;
static struct cpu *volatile starting;
static struct table_pointer idt_pointer;

struct cpu *smp_this(void)
{
	struct table_pointer p;
	asm volatile("sgdt %0" : "=m"(p));
	for (int i = 1; i < MAX_CPUS; i++)
		if (p.base == (u64)cpus[i].gdt)
			return &cpus[i];
	return &cpus[0];
}

int smp_self(void)
{
	return (int)(smp_this() - cpus);
}

static void load_tables(struct cpu *c)
{
	memcpy(c->gdt, gdt, sizeof gdt);
	u64 base = (u64)&c->tss;
	c->gdt[TSS_SELECTOR / 8] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	c->gdt[TSS_SELECTOR / 8 + 1] = base >> 32;
	for (int i = 0; i < 3; i++)
		c->tss.ist[i + 1] = (u64)(c->exception_stack[i] + sizeof c->exception_stack[i]);
	c->tss.rsp[0] = (u64)(c->exception_stack[2] + sizeof c->exception_stack[2]);
	c->tss.io_map_base = sizeof(struct tss);
	struct table_pointer p = { sizeof c->gdt - 1, (u64)c->gdt };
	asm volatile("lgdt %0; lidt %1; ltr %w2" :: "m"(p), "m"(idt_pointer), "r"(TSS_SELECTOR) : "memory");
}

// Where a processor comes from smp_entry, on its own stack. Selectors 08h and 10h are those of the common table too.
void smp_main(void)
{
	struct cpu *c = starting;
	load_tables(c);
	lapic_enable();
	// The PIC is the first processor's.
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
	lapic_write(LAPIC_LVT_LINT1, LVT_MASKED);
	c->apic_id = lapic_id();
	c->work = 0;
	c->running = true;
	__atomic_add_fetch(&c->starts, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		cli();
		if (!c->work) {
			sti_hlt();
			continue;
		}
		c->work(c->argument);
		cli();
		__atomic_store_n(&c->work, 0, __ATOMIC_SEQ_CST);
	}
}

void smp_send_init(int cpu)
{
	cpus[cpu].running = false;
	lapic_icr(cpus[cpu].apic_id, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
	lapic_icr(cpus[cpu].apic_id, ICR_INIT | ICR_LEVEL);
}

void smp_send_sipi(int cpu)
{
	starting = &cpus[cpu];
	smp_boot_stack = (u64)(cpus[cpu].stack + sizeof cpus[cpu].stack);
	lapic_icr(cpus[cpu].apic_id, ICR_STARTUP | ICR_ASSERT | SMP_PAGE);
}

bool smp_comes(int cpu, u32 starts, u32 ms)
{
	u64 end = deadline_ms(ms);
	while (!(cpus[cpu].running && cpus[cpu].starts >= starts) && !passed(end))
		relax();
	return cpus[cpu].running;
}

bool smp_init(void)
{
	u8 *page = (u8 *)(SMP_PAGE * PAGE_SIZE);
	asm("" : "+r"(page));
	memcpy(page, smp_entry, (size_t)(smp_entry_end - smp_entry));
	u32 cr3 = (u32)read_cr3(), cr4 = (u32)read_cr4(), efer = (u32)(rdmsr(MSR_EFER) & ~EFER_LMA);
	memcpy(page + (smp_entry_cr3 - smp_entry), &cr3, 4);
	memcpy(page + (smp_entry_cr4 - smp_entry), &cr4, 4);
	memcpy(page + (smp_entry_efer - smp_entry), &efer, 4);
	asm volatile("sidt %0" : "=m"(idt_pointer));

	cpus[0].apic_id = lapic_id();
	cpus[0].running = true;
	smp_count_irqs(VECTOR_WAKE);
	trap_hook = smp_trap;
	bool all = true;
	for (int i = 0; i < acpi.cpu_count && cpu_count < MAX_CPUS; i++) {
		if (acpi.cpu[i].apic_id == cpus[0].apic_id || !(acpi.cpu[i].flags & MADT_ENABLED))
			continue;
		cpus[cpu_count].apic_id = acpi.cpu[i].apic_id;
		smp_send_init(cpu_count);
		wait_ms(1);
		smp_send_sipi(cpu_count);
		if (!smp_comes(cpu_count, 1, 20))
			smp_send_sipi(cpu_count);
		if (smp_comes(cpu_count, 1, 1000))
			cpu_count++;
		else
			all = false;
	}
	return all;
}

void smp_run(int cpu, void (*work)(void *), void *argument)
{
	cpus[cpu].argument = argument;
	__atomic_store_n(&cpus[cpu].work, work, __ATOMIC_SEQ_CST);
	lapic_icr(cpus[cpu].apic_id, ICR_ASSERT | VECTOR_WAKE);
}

bool smp_done(int cpu, u32 ms)
{
	u64 end = deadline_ms(ms);
	while (cpus[cpu].work && !passed(end))
		relax();
	return !cpus[cpu].work;
}

bool smp_run_all(void (*work)(void *), u32 ms)
{
	bool all = true;
	for (int i = 1; i < cpu_count; i++)
		smp_run(i, work, &cpus[i]);
	work(&cpus[0]);
	for (int i = 1; i < cpu_count; i++)
		all &= smp_done(i, ms);
	return all;
}

bool barrier_wait(struct barrier *b, u32 participants)
{
	u32 turn = b->turn;
	if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_SEQ_CST) == participants) {
		b->arrived = 0;
		__atomic_store_n(&b->turn, turn + 1, __ATOMIC_SEQ_CST);
		return true;
	}
	u64 end = deadline_ms(5000);
	for (u32 spins = 0; b->turn == turn; spins++) {
		relax();
		if (spins % 1024 == 1023 && passed(end))
			return false;
	}
	return true;
}

static void count_irq(struct trap_frame *f)
{
	smp_this()->irqs[f->vector]++;
}

void smp_count_irqs(int vector)
{
	irq_handler[vector] = count_irq;
}

void smp_clear_counts(void)
{
	for (int i = 0; i < MAX_CPUS; i++) {
		memset((void *)cpus[i].irqs, 0, sizeof cpus[i].irqs);
		cpus[i].nmis = 0;
	}
}

bool smp_trap(struct trap_frame *f)
{
	struct cpu *c = smp_this();
	if (f->vector == VECTOR_NMI) {
		c->nmis++;
		return true;
	}
	if (c == &cpus[0])
		return false;
	c->exceptions++;
	c->exception = *f;
	c->running = false;
	for (;;)
		asm volatile("cli; hlt");
}
