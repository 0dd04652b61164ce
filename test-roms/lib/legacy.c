// Runs code without long mode: tables, entry states, and what came of it.
#include "legacy.h"
#include "memory.h"
#include "print.h"

u64 legacy_gdt[L_ENTRIES] ALIGNED(16), legacy_ldt[16] ALIGNED(16), legacy_idt[256] ALIGNED(16);
struct legacy_tss legacy_tss ALIGNED(16);
struct tss32 legacy_tss_df ALIGNED(16), legacy_tss2 ALIGNED(16);
u8 legacy_stack[4][4096] ALIGNED(4096);
static u8 stack_df[1024] ALIGNED(16);
u8 legacy_scratch[4096] ALIGNED(4096);
u32 legacy_pages[1024] ALIGNED(4096);
static u32 page_tables[4][1024] ALIGNED(4096);
static u32 page_tables_used;
struct legacy_event event;
u32 legacy_back_cr3, legacy_back_cr4;

extern const u8 legacy_vectors[256][8], real_blob[], real_blob_end[];
extern struct table_pointer legacy_saved_idt, legacy_gdt_pointer;
void legacy_enter(void);

enum { RING0, OUTER, V86, REAL };
_Static_assert(offsetof(struct legacy_state, eip) == 0x1c && offsetof(struct legacy_state, cr0) == 0x40 && offsetof(struct legacy_state, tr) == 0x64
	       && offsetof(struct legacy_state, efer) == 0x7c && offsetof(struct legacy_state, gdtr) == 0x8c && offsetof(struct legacy_state, kind) == 0xac
	       && offsetof(struct legacy_state, out) == 0x100 && offsetof(struct legacy_state, out.raw) == 0x160 && offsetof(struct legacy_state, log) == 0x1c0
	       && sizeof legacy <= 0x600, "legacy_entry.S and real.S know these offsets");

u64 descriptor(u32 base, u32 limit, u32 rights)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(rights & 0xff) << 40 | (u64)(limit >> 16 & 15) << 48
	       | (u64)(rights >> 12 & 15) << 52 | (u64)(base >> 24) << 56;
}

u64 gate_descriptor(u32 selector, u32 offset, u32 rights, u32 parameters)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)parameters << 32 | (u64)rights << 40 | (u64)(offset >> 16) << 48;
}

u32 legacy_vector(int vector)
{
	return (u32)(u64)legacy_vectors[vector];
}

static u32 address(const void *p)
{
	return (u32)(u64)p;
}

void legacy_reset(void)
{
	memset(&legacy, 0, sizeof legacy);
	memset(legacy_gdt, 0, sizeof legacy_gdt);
	memset(legacy_ldt, 0, sizeof legacy_ldt);
	memset(&legacy_tss, 0, sizeof legacy_tss);
	memset(&legacy_tss_df, 0, sizeof legacy_tss_df);
	memset(&legacy_tss2, 0, sizeof legacy_tss2);

	legacy_gdt[L_CODE16 / 8] = descriptor(LEGACY_BASE, 0xffff, D_CODE);
	legacy_gdt[L_DATA16 / 8] = descriptor(0, 0xffff, D_DATA);
	legacy_gdt[L_TSS / 8] = descriptor(address(&legacy_tss), sizeof legacy_tss - 1, D_TSS32);
	legacy_gdt[L_TSS_DF / 8] = descriptor(address(&legacy_tss_df), sizeof legacy_tss_df - 1, D_TSS32);
	legacy_gdt[L_TSS2 / 8] = descriptor(address(&legacy_tss2), sizeof legacy_tss2 - 1, D_TSS32);
	legacy_gdt[L_LDT / 8] = descriptor(address(legacy_ldt), sizeof legacy_ldt - 1, D_LDT);
	for (u32 ring = 0; ring < 4; ring++) {
		legacy_gdt[L_CODE(ring) / 8] = descriptor(0, 0xfffff, D_CODE | D_DPL(ring) | D_BIG | D_G);
		legacy_gdt[L_DATA(ring) / 8] = descriptor(0, 0xfffff, D_DATA | D_DPL(ring) | D_BIG | D_G);
	}
	for (int v = 0; v < 256; v++) {
		u32 ring = v == VECTOR_USER_EXIT || v == VECTOR_BP || v == VECTOR_OF ? 3 : 0;
		legacy_idt[v] = gate_descriptor(L_CODE(0), legacy_vector(v), D_GATE_INT32 | D_DPL(ring), 0);
	}
	legacy_idt[VECTOR_DF] = gate_descriptor(L_TSS_DF, 0, D_GATE_TASK, 0);

	legacy_tss.tss.esp0 = STACK_TOP(0);
	legacy_tss.tss.ss0 = L_DATA(0);
	legacy_tss.tss.esp1 = STACK_TOP(1);
	legacy_tss.tss.ss1 = L_DATA(1);
	legacy_tss.tss.esp2 = STACK_TOP(2);
	legacy_tss.tss.ss2 = L_DATA(2);
	legacy_tss.tss.cr3 = address(legacy_pages);
	legacy_tss.tss.io_map = offsetof(struct legacy_tss, ports);
	memset(legacy_tss.redirection, 0xff, sizeof legacy_tss.redirection + sizeof legacy_tss.ports);
	legacy_tss_df.eip = legacy_vector(VECTOR_DF);
	legacy_tss_df.esp = address(stack_df) + sizeof stack_df - 128;
	legacy_tss_df.cs = L_CODE(0);
	legacy_tss_df.ss = legacy_tss_df.ds = legacy_tss_df.es = L_DATA(0);
	legacy_tss_df.eflags = FLAG_1;
	legacy_tss_df.cr3 = address(legacy_pages);
	legacy_tss_df.io_map = sizeof legacy_tss_df;

	for (u32 i = 0; i < 1024; i++)
		legacy_pages[i] = i << 22 | PAGE_P | PAGE_RW | PAGE_US | PAGE_PS;
	page_tables_used = 0;

	legacy.cr0 = CR0_PE | 1 << 4 | CR0_NE;	// ET
	legacy.cr3 = address(legacy_pages);
	legacy.dr6 = 0xffff0ff0;
	legacy.dr7 = 0x400;
	legacy.tr = L_TSS;
	legacy.real_data = legacy.real_stack = L_DATA16;
	legacy.gdtr.limit = sizeof legacy_gdt - 1;
	legacy.gdtr.base = address(legacy_gdt);
	legacy.idtr.limit = sizeof legacy_idt - 1;
	legacy.idtr.base = address(legacy_idt);
	legacy.real_idtr.limit = 0x3ff;
	legacy.real_idtr.base = REAL_IVT;
	memcpy((void *)(LEGACY_BASE + 0x600), real_blob, (size_t)(real_blob_end - real_blob));
	u32 *ivt = (u32 *)REAL_IVT;
	for (u32 v = 0; v < 256; v++)
		ivt[v] = (LEGACY_BASE / 16) << 16 | (0x600 + 8 * v);
}

void legacy_paging(void)
{
	legacy.cr4 |= CR4_PSE;
	legacy.cr0 |= CR0_PG | CR0_WP;
}

u32 *legacy_split(u32 linear)
{
	u32 *table = page_tables[page_tables_used++ % 4];
	for (u32 i = 0; i < 1024; i++)
		table[i] = (linear & 0xffc00000) | i << 12 | PAGE_P | PAGE_RW | PAGE_US;
	legacy_pages[linear >> 22] = address(table) | PAGE_P | PAGE_RW | PAGE_US;
	return table;
}

static bool has_code(u32 vector)
{
	return vector < 32 && 0x27d00u >> vector & 1;
}

static void decode(void)
{
	const u32 *f = legacy.out.raw;
	event = (struct legacy_event){ .vector = (int)legacy.out.vector };
	if (legacy.kind == REAL) {
		event.eip = f[0];
		event.cs = f[1];
		event.eflags = f[2];
		event.ss = legacy.out.ss;
		event.esp = legacy.out.esp + 6;
		return;
	}
	if (has_code(legacy.out.vector))
		event.error = *f++;
	if (legacy.out.tr == L_TSS_DF) {
		const struct tss32 *t = &legacy_tss.tss;
		event = (struct legacy_event){ (int)legacy.out.vector, event.error, t->eip, t->cs, t->eflags, t->esp, t->ss, t->es, t->ds, t->fs, t->gs };
		return;
	}
	event.eip = f[0];
	event.cs = f[1] & 0xffff;
	event.eflags = f[2];
	if (event.eflags & FLAG_VM || (event.cs & 3) > (legacy.out.ss & 3)) {
		event.esp = f[3];
		event.ss = f[4] & 0xffff;
	} else {
		event.esp = legacy.out.esp + 12 + (has_code(legacy.out.vector) ? 4 : 0);
		event.ss = legacy.out.ss;
	}
	if (event.eflags & FLAG_VM) {
		event.es = f[5] & 0xffff;
		event.ds = f[6] & 0xffff;
		event.fs = f[7] & 0xffff;
		event.gs = f[8] & 0xffff;
	}
}

void legacy_frame16(void)
{
	u16 f[12];
	memcpy(f, legacy.out.raw, sizeof f);
	u16 *p = f;
	event = (struct legacy_event){ .vector = (int)legacy.out.vector };
	if (has_code(legacy.out.vector))
		event.error = *p++;
	event.eip = p[0];
	event.cs = p[1];
	event.eflags = p[2];
	event.esp = p[3];
	event.ss = p[4];
}

int legacy_run(void)
{
	memset(&legacy.out, 0, sizeof legacy.out);
	legacy_gdt[(legacy.tr & 0xffff) / 8] &= ~(1ul << 41);	// busy
	legacy_gdt[L_TSS_DF / 8] &= ~(1ul << 41);
	gdt[TSS_SELECTOR / 8] &= ~(1ul << 41);
	legacy.efer = (u32)rdmsr(MSR_EFER) & ~(u32)EFER_LMA;
	legacy.saved_cr0 = (u32)read_cr0();
	legacy.saved_cr3 = legacy_back_cr3 ? legacy_back_cr3 : (u32)read_cr3();
	legacy.saved_cr4 = legacy_back_cr4 ? legacy_back_cr4 : (u32)read_cr4();
	legacy.load_ds = legacy.kind == V86 ? L_DATA(0) : legacy.ds;
	legacy_gdt_pointer = (struct table_pointer){ legacy.gdtr.limit, legacy.gdtr.base };
	struct table_pointer old;
	asm volatile("sgdt %0" : "=m"(old));
	legacy.saved_gdtr.limit = old.limit;
	legacy.saved_gdtr.base = (u32)old.base;
	asm volatile("sidt %0" : "=m"(legacy_saved_idt));
	legacy_enter();
	asm volatile("" ::: "memory");
	decode();
	return event.vector;
}

void legacy_at(struct code c, int ring)
{
	legacy.kind = ring ? OUTER : RING0;
	legacy.eip = address(c.start);
	legacy.cs = (u32)L_CODE(ring);
	legacy.ss = legacy.ds = legacy.es = (u32)L_DATA(ring);
	legacy.fs = legacy.gs = 0;
	legacy.esp = STACK_TOP(ring);
	legacy.eflags |= FLAG_1;
}

int run_protected(struct code c, int ring, struct legacy_regs regs)
{
	legacy_at(c, ring);
	legacy.regs = regs;
	return legacy_run();
}

static bool judge(const char *what, u32 from, int vector, u32 error, i32 offset)
{
	return check(event.vector == vector && event.error == error && (i32)(event.eip - from) == offset,
		     "%s: exception %d, error code %x, at +%d, should be %d, %x, +%d", what, event.vector, event.error, (i32)(event.eip - from), vector,
		     error, offset);
}

bool expect32(const char *what, struct code c, int ring, struct legacy_regs regs, int vector, u32 error, i32 offset)
{
	run_protected(c, ring, regs);
	return judge(what, address(c.start), vector, error, offset);
}

bool passes32(const char *what, struct code c, int ring, struct legacy_regs regs)
{
	int vector = run_protected(c, ring, regs);
	return check(vector == VECTOR_USER_EXIT && event.eip == address(c.end), "%s: exception %d, error code %x, at +%d", what, vector, event.error,
		     (i32)(event.eip - address(c.start)));
}

static void low_segments(struct code c)
{
	memcpy(low(V86_CODE, 0), c.start, (size_t)(c.end - c.start));
	legacy.eip = 0;
	legacy.cs = V86_CODE;
	legacy.ds = legacy.es = V86_DATA;
	legacy.fs = legacy.gs = 0;
	legacy.ss = V86_STACK;
	legacy.esp = V86_SP;
}

int run_v86(struct code c, u32 eflags, struct legacy_regs regs)
{
	low_segments(c);
	legacy.kind = V86;
	legacy.eflags = eflags | FLAG_VM | FLAG_1;
	legacy.regs = regs;
	return legacy_run();
}

bool expect_v86(const char *what, struct code c, u32 eflags, struct legacy_regs regs, int vector, u32 error, i32 offset)
{
	run_v86(c, eflags, regs);
	return judge(what, 0, vector, error, offset);
}

int run_real(struct code c, struct legacy_regs regs)
{
	low_segments(c);
	legacy.kind = REAL;
	legacy.eflags |= FLAG_1;
	legacy.regs = regs;
	return legacy_run();
}

bool expect_real(const char *what, struct code c, struct legacy_regs regs, int vector, i32 offset)
{
	run_real(c, regs);
	return judge(what, 0, vector, 0, offset);
}
