// Descriptor tables, traps and interrupts.
#pragma once

#include "types.h"

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_CS32 (0x18 | 3)
#define USER_DS (0x20 | 3)
#define USER_CS (0x28 | 3)
#define TSS_SELECTOR 0x30	// two slots
#define KERNEL_CS32 0x40
#define KERNEL_DS16 0x48
#define SPARE_SELECTOR 0x50	// for tests, as are all above
#define GDT_ENTRIES 16

#define IST_DOUBLE_FAULT 1
#define IST_NMI 2
#define IST_TEST 3

#define VECTOR_PIC 0x20		// 16 of them
#define VECTOR_IOAPIC 0x30	// 32 of them, by GSI
#define VECTOR_TIMER 0x50
#define VECTOR_TEST 0x51	// and the following, for tests
#define VECTOR_USER_EXIT 0x80	// INT 80h, open to ring 3
#define VECTOR_SPURIOUS 0xff

struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 ist[8];		// ist[0] is reserved
	u8 reserved2[10];
	u16 io_map_base;
} PACKED;

extern u64 gdt[GDT_ENTRIES];
extern struct tss tss;

void interrupts_init(void);
void idt_set(int vector, void (*entry)(void), int dpl, int ist);
// The stub of a vector, for idt_set.
void (*vector_entry(int vector))(void);

// Runs body(argument); the vector of the exception that ended it, or NO_TRAP. Interrupts are off afterwards as before.
#define NO_TRAP (-1)
int catch_trap(void (*body)(void *), void *argument);
// The last caught trap, with CR2 as it was, and the stack pointer that the handler was entered with.
extern struct trap_frame trap;
extern u64 trap_cr2;
extern u64 trap_stack;

// A look at each exception before it is caught; returns true if execution is to go on from the (changed) frame.
extern bool (*trap_hook)(struct trap_frame *);

// External interrupts: counted, and handed to a handler if there is one. EOI has been sent before.
extern volatile u32 irq_count[256];
extern void (*irq_handler[256])(struct trap_frame *);

struct user_entry { u64 rip, cs, rflags, rsp, ss, rax, rsi, rdi; };
void enter_user(struct user_entry *entry);

extern u64 syscall_user_rsp, syscall_kernel_flags, syscall_rcx, syscall_r11, syscall_return_flags;
extern u32 syscall_cs, syscall_ss, syscall_count;
void syscall_entry(void);

// PIC
void pic_init(void);
void pic_unmask(int irq);
void pic_mask_all(void);

// Local APIC, in xAPIC or x2APIC mode as the MSR says
#define LAPIC_ID 0x020
#define LAPIC_VERSION 0x030
#define LAPIC_TPR 0x080
#define LAPIC_PPR 0x0a0
#define LAPIC_EOI 0x0b0
#define LAPIC_SVR 0x0f0
#define LAPIC_ISR 0x100
#define LAPIC_IRR 0x200
#define LAPIC_ESR 0x280
#define LAPIC_ICR_LOW 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LAPIC_LVT_ERROR 0x370
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_CURRENT 0x390
#define LAPIC_TIMER_DIVIDE 0x3e0
#define LVT_MASKED (1u << 16)
#define LVT_PERIODIC (1u << 17)
#define LVT_TSC_DEADLINE (2u << 17)
#define LVT_EXTINT (7u << 8)
#define LVT_NMI (4u << 8)

bool lapic_present(void);
bool lapic_is_x2apic(void);
u32 lapic_read(u32 reg);
void lapic_write(u32 reg, u32 v);
void lapic_icr(u32 destination, u32 low);
u32 lapic_id(void);
void lapic_enable(void);

// IOAPIC
bool ioapic_present(void);
u32 ioapic_read(u32 index);
void ioapic_write(u32 index, u32 v);
// Routes a GSI to this processor as vector VECTOR_IOAPIC + gsi. False if no IOAPIC serves it.
bool ioapic_route(u32 gsi, bool level, bool active_low);
void ioapic_mask(u32 gsi);
// The GSI of an ISA interrupt, with the polarity and trigger that the MADT says.
struct isa_irq { u32 gsi; bool level, active_low; };
struct isa_irq isa_irq(int irq);
