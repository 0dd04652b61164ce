// Protected, virtual-8086 and real mode without long mode: code runs there from a state that a test chooses until an
// exception, or the INT 80h at its end, and everything that was seen is there to look at.
#pragma once

#include "interrupts.h"
#include "rom.h"
#include "x86.h"

#define FLAG_VM (1ul << 17)
#define FLAG_VIF (1ul << 19)
#define FLAG_VIP (1ul << 20)
#define CR4_VME (1ul << 0)
#define CR4_PVI (1ul << 1)
#define CR4_PSE (1ul << 4)

// The legacy GDT: flat 32-bit code and data for each ring, TSSs, an LDT, and room for tests.
#define L_CODE16 0x10		// where the real-mode code runs before CR0.PE goes
#define L_DATA16 0x18		// base 0, 64 KiB
#define L_TSS 0x20
#define L_TSS_DF 0x28		// #DF has a task gate, so that a lost stack is no triple fault
#define L_LDT 0x30
#define L_TSS2 0x38
#define L_CODE(ring) (0x40 + 16 * (ring) + (ring))
#define L_DATA(ring) (0x48 + 16 * (ring) + (ring))
#define L_SPARE 0x80		// the first of those for tests
#define L_ENTRIES 64
#define L_NO_LLDT 0xffff	// for legacy.ldtr: LLDT is not executed

// Rights of descriptors: the access byte, and above it AVL, L, D, G.
#define D_G 0x8000
#define D_BIG 0x4000
#define D_LONG 0x2000
#define D_P 0x80
#define D_DPL(ring) ((ring) << 5)
#define D_DATA 0x92		// present, writable
#define D_CODE 0x9a		// present, readable
#define D_DOWN 4
#define D_CONFORMING 4
#define D_TSS32 0x89
#define D_TSS16 0x81
#define D_LDT 0x82
#define D_GATE_CALL16 0x84
#define D_GATE_TASK 0x85
#define D_GATE_INT16 0x86
#define D_GATE_TRAP16 0x87
#define D_GATE_CALL32 0x8c
#define D_GATE_INT32 0x8e
#define D_GATE_TRAP32 0x8f

struct legacy_regs { u32 eax, ecx, edx, ebx, ebp, esi, edi; };
struct legacy_log { u32 vector, eip, cs, eflags, dr6, esp; };
#define LEGACY_LOG_SIZE 40

// What the assembly of legacy_entry.S and real.S knows by offset.
struct legacy_state {
	struct legacy_regs regs;
	u32 eip, cs, eflags, esp, ss, es, ds, fs, gs;
	u32 cr0, cr3, cr4, dr[4], dr6, dr7;
	u32 tr, ldtr, real_data;	// real_data: what the segment registers are loaded with before CR0.PE goes
	u32 log_vectors, log_max, log_or;	// exceptions to note and go on from: which, how many, flags to set in their frames
	u32 efer, saved_cr0, saved_cr3, saved_cr4;
	struct { u16 limit; u32 base; u16 unused; } PACKED gdtr, idtr, real_idtr, saved_gdtr;
	u32 kind, load_ds, real_stack;	// real_stack: the same for SS
	u8 gap[0x100 - 0xb8];

	struct {
		u32 vector;
		struct legacy_regs regs;
		u32 ds, es, fs, gs, esp, ss;	// esp and ss as the handler was entered
		u32 tr, ldtr, cr0, cr2, dr6, dr7, log_count;
		u32 unused[3];
		u32 raw[24];			// the handler's stack
	} out;
	struct legacy_log log[LEGACY_LOG_SIZE];
};
#define LEGACY_BASE 0x7000ul
#define legacy (*(struct legacy_state *)LEGACY_BASE)

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
	u16 trap, io_map;
};
struct tss16 {
	u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};

extern u64 legacy_gdt[L_ENTRIES], legacy_ldt[16], legacy_idt[256];
// With the 32 bytes of the redirection map of VME below the I/O permission map of all ports.
extern struct legacy_tss { struct tss32 tss; u8 redirection[32]; u8 ports[8192 + 1]; } ALIGNED(4) legacy_tss;
extern struct tss32 legacy_tss_df, legacy_tss2;
// 4 KiB stacks of the rings; STACK_TOP(r) leaves room above.
extern u8 legacy_stack[4][4096];
#define STACK_TOP(ring) ((u32)(u64)legacy_stack[ring] + 4096 - 128)
extern u8 legacy_scratch[4096];
#define SCRATCH ((u32)(u64)legacy_scratch)

u64 descriptor(u32 base, u32 limit, u32 rights);
u64 gate_descriptor(u32 selector, u32 offset, u32 rights, u32 parameters);
// The stub of a vector, for gates.
u32 legacy_vector(int vector);

// Everything as a test expects it: tables, ring 0, no paging.
void legacy_reset(void);
// A 32-bit page directory of 4 MiB pages that map all memory to itself; legacy_paging switches it on for runs.
extern u32 legacy_pages[1024];
void legacy_paging(void);
// A page table in place of the 4 MiB page that has this address; returns its entries.
u32 *legacy_split(u32 linear);

// What ended a run, by the 32-bit frame (or of 16 bits: legacy_frame16). Without an error code it is 0.
struct legacy_event { int vector; u32 error, eip, cs, eflags, esp, ss, es, ds, fs, gs; };
extern struct legacy_event event;
// Runs from the state in `legacy` until something comes to its end; the vector.
int legacy_run(void);
// CR3 and CR4 to come back to long mode with; 0 as they were.
extern u32 legacy_back_cr3, legacy_back_cr4;
void legacy_frame16(void);

// Code; it ends by INT 80h.
struct code { const u8 *start, *end; };
#define CODE_(name, bits, text) \
	extern const u8 code_##name[], end_##name[]; \
	asm(".text\n.code" bits "\n.balign 16\ncode_" #name ": " text "\nint $0x80\nend_" #name ":\n.code64\n"); \
	static const struct code name = { code_##name, end_##name };
#define CODE32(name, text) CODE_(name, "32", text)
#define CODE16(name, text) CODE_(name, "16", text)

// Sets EIP and all segments for 32-bit code at its place in memory.
void legacy_at(struct code c, int ring);
// Runs 32-bit code in a ring. `event` has how it ended.
int run_protected(struct code c, int ring, struct legacy_regs regs);
// It must end by this vector, with this error code, at this distance from its beginning.
bool expect32(const char *what, struct code c, int ring, struct legacy_regs regs, int vector, u32 error, i32 offset);
// It must come to its INT 80h.
bool passes32(const char *what, struct code c, int ring, struct legacy_regs regs);

// Virtual-8086 mode: copies the code to selector:offset and runs it there. SS:SP is V86_STACK:V86_SP unless set before.
#define V86_CODE 0x2000
#define V86_DATA 0x3000
#define V86_STACK 0x4000
#define V86_SP 0x1000
// IRETD's image of VM, IOPL and others
int run_v86(struct code c, u32 eflags, struct legacy_regs regs);
bool expect_v86(const char *what, struct code c, u32 eflags, struct legacy_regs regs, int vector, u32 error, i32 offset);

// Real mode: the same segments. Segment registers of the code: CS V86_CODE, DS and ES V86_DATA, SS V86_STACK.
#define REAL_IVT 0x6000		// where the table is in real mode; a test may point entries to its own code
int run_real(struct code c, struct legacy_regs regs);
bool expect_real(const char *what, struct code c, struct legacy_regs regs, int vector, i32 offset);

static inline void *low(u32 segment, u32 offset) { return (void *)((u64)segment * 16 + offset); }
