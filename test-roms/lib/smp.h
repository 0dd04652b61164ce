// Several processors: brought up by INIT and SIPI, given work one by one, each with descriptor tables and stacks of its own.
#pragma once

#include "interrupts.h"
#include "types.h"

#define MAX_CPUS 8

// Ends the wait of an idle processor; it has no other meaning.
#define VECTOR_WAKE 0xf0

struct cpu {
	u32 apic_id;
	volatile bool running;			// it waits for work, or works
	void (*volatile work)(void *);		// 0: it is idle
	void *argument;
	volatile u32 irqs[256];			// by vectors that smp_count_irqs was asked for
	volatile u32 nmis, nmi_depth;
	volatile u32 exceptions;		// unexpected ones, after which a processor other than the first stands still
	struct trap_frame exception;
	volatile u32 starts;			// SIPIs that it followed
	u64 gdt[GDT_ENTRIES] ALIGNED(16);
	struct tss tss ALIGNED(16);
	u8 stack[16384] ALIGNED(16), exception_stack[3][4096] ALIGNED(16);
};
extern struct cpu cpus[MAX_CPUS];
// Processors that run; the first is the one that runs rom_main.
extern int cpu_count;

// Brings up all that the MADT names. Their number is in cpu_count; false if some did not come.
bool smp_init(void);
// INIT and two SIPIs to one processor, or parts of that. Returns whether it has come within the time.
void smp_send_init(int cpu);
void smp_send_sipi(int cpu);
bool smp_comes(int cpu, u32 starts, u32 ms);
// Where a SIPI's vector points: a page below 1 MiB.
#define SMP_PAGE 0x08
int smp_self(void);
struct cpu *smp_this(void);

// Gives work to an idle processor other than the first.
void smp_run(int cpu, void (*work)(void *), void *argument);
// Waits until the processor is idle. False: time is up, or it stands still.
bool smp_done(int cpu, u32 ms);
// Runs work on all processors, the first included, at about the same time; false if some did not end in time.
bool smp_run_all(void (*work)(void *), u32 ms);
// A barrier that all processors (or those of smp_run_all) pass together. False if others did not come.
struct barrier { volatile u32 arrived, turn; };
bool barrier_wait(struct barrier *, u32 participants);

// A vector's interrupts are counted by processor from now on.
void smp_count_irqs(int vector);
void smp_clear_counts(void);
// Counts NMIs, and notes exceptions of other processors: for trap_hook, which run_topic leaves alone unless a topic fails.
bool smp_trap(struct trap_frame *);
