// GDT, TSS and IDT, the dispatch of traps and interrupts, PIC, local APIC and IOAPIC.
#include "interrupts.h"
#include "acpi.h"
#include "memory.h"
#include "power.h"
#include "print.h"
#include "x86.h"

u64 gdt[GDT_ENTRIES] ALIGNED(16);
struct tss tss ALIGNED(16);

struct gate { u16 offset_low, selector; u8 ist, type; u16 offset_mid; u32 offset_high, reserved; } PACKED;
static struct gate idt[256] ALIGNED(16);

#define STACK_SIZE 8192
static u8 ring0_stack[STACK_SIZE] ALIGNED(16);
static u8 ist_stack[3][STACK_SIZE] ALIGNED(16);

extern u8 vector_entries[256][8];
extern u64 catch_frame;
extern u8 catch_resume[];

struct trap_frame trap;
u64 trap_cr2, trap_stack;
bool (*trap_hook)(struct trap_frame *);
volatile u32 irq_count[256];
void (*irq_handler[256])(struct trap_frame *);

void (*vector_entry(int vector))(void)
{
	return (void (*)(void))(u64)vector_entries[vector];
}

void idt_set(int vector, void (*entry)(void), int dpl, int ist)
{
	u64 offset = (u64)entry;
	idt[vector] = (struct gate){
		.offset_low = (u16)offset, .selector = KERNEL_CS, .ist = (u8)ist, .type = (u8)(0x8e | dpl << 5),
		.offset_mid = (u16)(offset >> 16), .offset_high = (u32)(offset >> 32),
	};
}

static void gdt_init(void)
{
	gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[KERNEL_DS / 8] = 0x00cf93000000ffff;
	gdt[USER_CS32 / 8] = 0x00cffb000000ffff;
	gdt[USER_DS / 8] = 0x00cff3000000ffff;
	gdt[USER_CS / 8] = 0x00affb000000ffff;
	gdt[KERNEL_CS32 / 8] = 0x00cf9b000000ffff;
	gdt[KERNEL_DS16 / 8] = 0x000093000000ffff;

	u64 base = (u64)&tss;
	gdt[TSS_SELECTOR / 8] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	gdt[TSS_SELECTOR / 8 + 1] = base >> 32;
	tss.rsp[0] = (u64)ring0_stack + STACK_SIZE;
	tss.ist[IST_DOUBLE_FAULT] = (u64)ist_stack[0] + STACK_SIZE;
	tss.ist[IST_NMI] = (u64)ist_stack[1] + STACK_SIZE;
	tss.ist[IST_TEST] = (u64)ist_stack[2] + STACK_SIZE;
	tss.io_map_base = sizeof tss;	// beyond the limit: no port is open to ring 3

	struct table_pointer p = { sizeof gdt - 1, (u64)gdt };
	asm volatile("lgdt %0\n\t"
		     "push %1\n\t"
		     "lea 1f(%%rip), %%rax\n\t"
		     "push %%rax\n\t"
		     "lretq\n"
		     "1: mov %2, %%ds; mov %2, %%es; mov %2, %%ss\n\t"
		     "xor %%eax, %%eax; mov %%eax, %%fs; mov %%eax, %%gs\n\t"
		     "ltr %w3"
		     :: "m"(p), "i"(KERNEL_CS), "r"(KERNEL_DS), "r"(TSS_SELECTOR) : "rax", "memory");
}

void interrupts_init(void)
{
	gdt_init();
	for (int v = 0; v < 256; v++)
		idt_set(v, vector_entry(v), v == VECTOR_USER_EXIT ? 3 : 0, 0);
	idt_set(VECTOR_DF, vector_entry(VECTOR_DF), 0, IST_DOUBLE_FAULT);
	idt_set(VECTOR_NMI, vector_entry(VECTOR_NMI), 0, IST_NMI);
	struct table_pointer p = { sizeof idt - 1, (u64)idt };
	asm volatile("lidt %0" :: "m"(p));
	pic_init();
}

static void panic(const struct trap_frame *f)
{
	print("\nPANIC: unexpected exception %lu, error code %lx, at %lx:%016lx\n", f->vector, f->error_code, f->cs, f->rip);
	print("rax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
	print("rsi %016lx rdi %016lx rbp %016lx rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
	print("r8  %016lx r9  %016lx r10 %016lx r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
	print("r12 %016lx r13 %016lx r14 %016lx r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
	print("rflags %lx ss %lx cr0 %lx cr2 %lx cr3 %lx cr4 %lx\n", f->rflags, f->ss, read_cr0(), read_cr2(), read_cr3(),
	      read_cr4());
	give_up();
}

static void pic_end(u64 vector)
{
	// A spurious IRQ 7 or 15 is not in service and wants no EOI, but for the cascade.
	int irq = (int)(vector - VECTOR_PIC);
	if (irq == 7 || irq == 15) {
		u16 command = irq == 7 ? 0x20 : 0xa0;
		outb(command, 0x0b);
		if (!(inb(command) & 0x80)) {
			if (irq == 15)
				outb(0x20, 0x20);
			return;
		}
	}
	if (irq >= 8)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static bool is_exception(u64 vector)
{
	return vector < 32 || vector == VECTOR_USER_EXIT;
}

// Called by vector_common with interrupts off.
void interrupt_dispatch(struct trap_frame *f)
{
	if (!is_exception(f->vector)) {
		irq_count[f->vector]++;
		if (f->vector < VECTOR_PIC + 16)
			pic_end(f->vector);
		else if (f->vector != VECTOR_SPURIOUS)
			lapic_write(LAPIC_EOI, 0);
		if (irq_handler[f->vector])
			irq_handler[f->vector](f);
		return;
	}

	trap_cr2 = read_cr2();
	trap_stack = (u64)(f + 1);
	if (trap_hook && trap_hook(f))
		return;
	if (!catch_frame)
		panic(f);
	trap = *f;
	f->rip = (u64)catch_resume;
	f->cs = KERNEL_CS;
	f->rflags = FLAG_1;
	f->rsp = catch_frame;
	f->ss = KERNEL_DS;
	f->rax = f->vector;
}

// ---- PIC

void pic_init(void)
{
	outb(0x20, 0x11);	// ICW1: edge, cascade, ICW4 follows
	outb(0xa0, 0x11);
	outb(0x21, VECTOR_PIC);
	outb(0xa1, VECTOR_PIC + 8);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	pic_mask_all();
}

void pic_mask_all(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void pic_unmask(int irq)
{
	if (irq >= 8) {
		outb(0xa1, inb(0xa1) & (u8)~(1 << (irq - 8)));
		irq = 2;
	}
	outb(0x21, inb(0x21) & (u8)~(1 << irq));
}

// ---- Local APIC

#define APIC_BASE_ENABLE (1ul << 11)
#define APIC_BASE_X2APIC (1ul << 10)

bool lapic_present(void)
{
	return cpuid(1, 0).edx >> 9 & 1;
}

bool lapic_is_x2apic(void)
{
	return (rdmsr(MSR_APIC_BASE) & (APIC_BASE_X2APIC | APIC_BASE_ENABLE)) == (APIC_BASE_X2APIC | APIC_BASE_ENABLE);
}

u32 lapic_read(u32 reg)
{
	if (lapic_is_x2apic())
		return (u32)rdmsr(0x800 + reg / 16);
	return read32((rdmsr(MSR_APIC_BASE) & PAGE_ADDRESS) + reg);
}

void lapic_write(u32 reg, u32 v)
{
	if (lapic_is_x2apic())
		wrmsr(0x800 + reg / 16, v);
	else
		write32((rdmsr(MSR_APIC_BASE) & PAGE_ADDRESS) + reg, v);
}

void lapic_icr(u32 destination, u32 low)
{
	if (lapic_is_x2apic()) {
		wrmsr(0x800 + LAPIC_ICR_LOW / 16, (u64)destination << 32 | low);
		return;
	}
	lapic_write(LAPIC_ICR_HIGH, destination << 24);
	lapic_write(LAPIC_ICR_LOW, low);
	for (int i = 0; i < 100000 && lapic_read(LAPIC_ICR_LOW) & 1 << 12; i++)
		relax();
}

u32 lapic_id(void)
{
	u32 id = lapic_read(LAPIC_ID);
	return lapic_is_x2apic() ? id : id >> 24;
}

// On, with the PIC on LINT0 and NMI on LINT1 as the MP specification's virtual wire mode has it.
void lapic_enable(void)
{
	if (!lapic_present())
		return;
	if (!(rdmsr(MSR_APIC_BASE) & APIC_BASE_ENABLE))
		wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_ENABLE);
	lapic_write(LAPIC_SVR, 0x100 | VECTOR_SPURIOUS);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
	lapic_write(LAPIC_LVT_LINT0, LVT_EXTINT);
	lapic_write(LAPIC_LVT_LINT1, LVT_NMI);
}

// ---- IOAPIC

bool ioapic_present(void)
{
	return acpi.ioapic_count > 0;
}

static const struct acpi_ioapic *ioapic_of(u32 gsi)
{
	for (int i = 0; i < acpi.ioapic_count; i++) {
		const struct acpi_ioapic *io = &acpi.ioapic[i];
		if (gsi >= io->gsi_base && gsi < io->gsi_base + 120) {
			write32(io->address, 1);
			if (gsi - io->gsi_base <= (read32(io->address + 0x10) >> 16 & 0xff))
				return io;
		}
	}
	return 0;
}

u32 ioapic_read(u32 index)
{
	write32(acpi.ioapic[0].address, index);
	return read32(acpi.ioapic[0].address + 0x10);
}

void ioapic_write(u32 index, u32 v)
{
	write32(acpi.ioapic[0].address, index);
	write32(acpi.ioapic[0].address + 0x10, v);
}

static void redirect(u32 gsi, u32 low, u32 high)
{
	const struct acpi_ioapic *io = ioapic_of(gsi);
	if (!io)
		return;
	u32 index = 0x10 + 2 * (gsi - io->gsi_base);
	write32(io->address, index);		// masked while it is changed
	write32(io->address + 0x10, LVT_MASKED);
	write32(io->address, index + 1);
	write32(io->address + 0x10, high);
	write32(io->address, index);
	write32(io->address + 0x10, low);
}

bool ioapic_route(u32 gsi, bool level, bool active_low)
{
	if (gsi >= 32 || !ioapic_of(gsi))
		return false;
	redirect(gsi, (VECTOR_IOAPIC + gsi) | (u32)level << 15 | (u32)active_low << 13, lapic_id() << 24);
	return true;
}

void ioapic_mask(u32 gsi)
{
	redirect(gsi, LVT_MASKED, 0);
}

struct isa_irq isa_irq(int irq)
{
	for (int i = 0; i < acpi.override_count; i++) {
		const struct acpi_override *o = &acpi.override[i];
		if (o->irq == irq)
			return (struct isa_irq){ o->gsi, (o->flags >> 2 & 3) == 3, (o->flags & 3) == 3 };
	}
	return (struct isa_irq){ (u32)irq, false, false };
}
