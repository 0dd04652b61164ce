// Exceptions and their error codes, segments, debugging, interrupt stacks, control registers and MSRs.
#include "interrupts.h"
#include "selftest.h"

#define NON_CANONICAL 0x0000800000000000ul

// An instruction as the body of a catch_trap. `faulting` is its address.
static u64 faulting;
#define TRY(name, text) \
	static void try_##name(void *argument) \
	{ \
		asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; mov %1, %%rax; 1: " text : "=m"(faulting) : "r"(argument) \
			     : "rax", "rcx", "rdx", "memory", "cc"); \
	}

TRY(ud2, "ud2")
TRY(int3, "int3")
TRY(int_3, ".byte 0xcd, 3")
TRY(int_82, "int $0x82")
TRY(into, ".byte 0xce")
TRY(daa, ".byte 0x27")
TRY(push_es, ".byte 0x06")
TRY(pusha, ".byte 0x60")
TRY(call_far, ".byte 0x9a, 0, 0, 0, 0, 8, 0")
TRY(too_long, ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90")
TRY(fifteen_bytes, ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90")
TRY(load, "mov (%%rax), %%rcx")
TRY(store, "mov %%rcx, (%%rax)")
TRY(jump, "jmp *%%rax")
TRY(mov_ds, "mov %%eax, %%ds")
TRY(mov_ss, "mov %%eax, %%ss")
TRY(mov_cs, ".byte 0x8e, 0xc8")
TRY(ltr, "ltr %%ax")
TRY(lldt, "lldt %%ax")
TRY(mov_cr1, ".byte 0x0f, 0x22, 0xc8")
TRY(mov_dr7, "mov %%rax, %%dr7")
TRY(read_dr4, ".byte 0x0f, 0x21, 0xe0")
TRY(iretq_null, "push $0; push $0; push $2; push $0; push $0; iretq")

static void expect(const char *what, void (*body)(void *), u64 argument, int vector, u64 error_code, i64 rip_distance)
{
	int got = catch_trap(body, (void *)argument);
	if (!check(got == vector, "%s: exception %d, should be %d", what, got, vector) || vector == NO_TRAP)
		return;
	check(trap.error_code == error_code, "%s: error code %lx, should be %lx", what, trap.error_code, error_code);
	check(trap.rip == faulting + (u64)rip_distance, "%s: rip is %ld bytes after the instruction, should be %ld", what,
	      (i64)(trap.rip - faulting), rip_distance);
}

struct gate_halves { u64 low, high; };
#define GATE_P (1ul << 47)

static struct gate_halves *gate_of(int vector)
{
	struct table_pointer idtr;
	asm volatile("sidt %0" : "=m"(idtr));
	return (struct gate_halves *)idtr.base + vector;
}

void test_exceptions(void)
{
	expect("ud2", try_ud2, 0, VECTOR_UD, 0, 0);
	expect("int3", try_int3, 0, VECTOR_BP, 0, 1);
	expect("int 3", try_int_3, 0, VECTOR_BP, 0, 2);
	expect("into", try_into, 0, VECTOR_UD, 0, 0);
	expect("daa", try_daa, 0, VECTOR_UD, 0, 0);
	expect("push es", try_push_es, 0, VECTOR_UD, 0, 0);
	expect("pusha", try_pusha, 0, VECTOR_UD, 0, 0);
	expect("call far immediate", try_call_far, 0, VECTOR_UD, 0, 0);
	expect("instruction of 16 bytes", try_too_long, 0, VECTOR_GP, 0, 0);
	expect("instruction of 15 bytes", try_fifteen_bytes, 0, NO_TRAP, 0, 0);
	expect("mov cs", try_mov_cs, 0, VECTOR_UD, 0, 0);
	expect("mov cr1", try_mov_cr1, 0, VECTOR_UD, 0, 0);

	expect("load, not canonical", try_load, NON_CANONICAL, VECTOR_GP, 0, 0);
	expect("store, not canonical", try_store, 1ul << 62, VECTOR_GP, 0, 0);
	int vector = catch_trap(try_jump, (void *)NON_CANONICAL);
	// Intel processors fault on the jump; AMD's on the fetch after it, with the target as RIP.
	check(vector == VECTOR_GP && trap.error_code == 0 && (trap.rip == faulting || trap.rip == NON_CANONICAL), "jump, not canonical: %d at %lx",
	      vector, trap.rip);

	expect("iretq to a null CS", try_iretq_null, 0, VECTOR_GP, 0, 10);
	struct gate_halves *g82 = gate_of(0x82), saved82 = *g82;
	g82->low = (saved82.low & ~0xffff0000ul) | (u64)KERNEL_DS << 16;
	expect("int to a gate whose CS is data", try_int_82, 0, VECTOR_GP, KERNEL_DS, 0);
	*g82 = saved82;

	// #PF whose delivery faults is not benign: #DF.
	struct gate_halves *gate = gate_of(VECTOR_PF), saved = *gate;
	gate->low &= ~GATE_P;
	vector = catch_trap(try_load, (void *)0x0000500000000000ul);
	*gate = saved;
	check(vector == VECTOR_DF && trap.error_code == 0, "#PF with its gate not present: exception %d, error code %lx", vector, trap.error_code);
}

// ---- Segments

static u64 read_gs(void)
{
	u64 v;
	asm volatile("mov %%gs:0, %0" : "=r"(v));
	return v;
}

static u64 lar(u64 selector, bool *ok)
{
	u64 r = 0, flags;
	asm volatile("lar %k2, %k0; pushfq; pop %1" : "+r"(r), "=r"(flags) : "r"(selector) : "cc");
	*ok = flags & FLAG_ZF;
	return r;
}

void test_segments(void)
{
	u64 *spare = &gdt[SPARE_SELECTOR / 8];
	static u64 cell = 0x1122334455667788, other = 0x99aabbccddeeff00;
	u64 r, flags;

	expect("ds beyond the GDT", try_mov_ds, 0x7ff8, VECTOR_GP, 0x7ff8, 0);
	expect("ds null", try_mov_ds, 0, NO_TRAP, 0, 0);
	expect("ds with the TSS", try_mov_ds, TSS_SELECTOR, VECTOR_GP, TSS_SELECTOR, 0);
	expect("ss with a code segment", try_mov_ss, KERNEL_CS, VECTOR_GP, KERNEL_CS, 0);
	expect("ss of another privilege", try_mov_ss, USER_DS, VECTOR_GP, USER_DS & ~3ul, 0);
	expect("ss null at ring 0", try_mov_ss, 0, NO_TRAP, 0, 0);
	*spare = 0x00cf13000000ffff;
	expect("ds not present", try_mov_ds, SPARE_SELECTOR, VECTOR_NP, SPARE_SELECTOR, 0);
	expect("ss not present", try_mov_ss, SPARE_SELECTOR, VECTOR_SS, SPARE_SELECTOR, 0);
	*spare = 0x00cf98000000ffff;
	expect("ds with execute-only code", try_mov_ds, SPARE_SELECTOR, VECTOR_GP, SPARE_SELECTOR, 0);
	expect("ltr with a data segment", try_ltr, KERNEL_DS, VECTOR_GP, KERNEL_DS, 0);
	expect("ltr with a busy TSS", try_ltr, TSS_SELECTOR, VECTOR_GP, TSS_SELECTOR, 0);
	expect("lldt null", try_lldt, 0, NO_TRAP, 0, 0);
	asm volatile("mov %0, %%ds; mov %0, %%ss" :: "r"(KERNEL_DS));

	// Loading sets the accessed bit; FS and GS take their base from the descriptor, and from MSRs.
	*spare = 0x00cf92000000ffff | ((u64)&cell & 0xffffff) << 16 | ((u64)&cell & 0xff000000) << 32;
	asm volatile("mov %1, %%fs; mov %%fs:0, %0" : "=r"(r) : "r"(SPARE_SELECTOR));
	check_eq(r, cell, "fs with a base in its descriptor");
	check(*(volatile u64 *)spare >> 40 & 1, "accessed bit of the descriptor");
	check_eq(rdmsr(MSR_FS_BASE), (u64)&cell, "FS.base MSR after the load");
	asm volatile("mov %0, %%fs" :: "r"(0));

	wrmsr(MSR_GS_BASE, (u64)&cell);
	wrmsr(MSR_KERNEL_GS_BASE, (u64)&other);
	check_eq(read_gs(), cell, "gs by its MSR");
	asm volatile("swapgs" ::: "memory");
	check_eq(read_gs(), other, "gs after swapgs");
	check_eq(rdmsr(MSR_KERNEL_GS_BASE), (u64)&cell, "kernel gs base after swapgs");
	asm volatile(".byte 0x65; lea 8, %0" : "=r"(r));
	check_eq(r, 8, "lea ignores the segment base");
	asm volatile("addr32 mov %%gs:(%k1), %0" : "=r"(r) : "r"(0xffffffff00000000ul));
	check_eq(r, other, "gs with a 32-bit address");
	if (cpuid_checked(7, 0).ebx & 1) {
		write_cr4(read_cr4() | CR4_FSGSBASE);
		asm volatile("wrfsbase %0; wrgsbase %0" :: "r"(&cell));
		asm volatile("rdfsbase %0" : "=r"(r));
		check_eq(r, (u64)&cell, "rdfsbase");
		check_eq(read_gs(), cell, "wrgsbase");
		asm volatile("rdgsbase %k0" : "=r"(r));
		check_eq(r, (u32)(u64)&cell, "rdgsbase 32");
		write_cr4(read_cr4() & ~CR4_FSGSBASE);
	}
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_KERNEL_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);

	bool ok;
	r = lar(KERNEL_CS, &ok);
	check(ok && (r & 0xf0ff00) == 0x00a09b00, "lar of the code segment: %lx", r);
	r = lar(0x7ff8, &ok);
	check(!ok && r == 0, "lar beyond the GDT: %lx", r);
	asm volatile("lsl %k2, %k0; pushfq; pop %1" : "=r"(r), "=r"(flags) : "r"(KERNEL_DS) : "cc");
	check(r == 0xffffffff && flags & FLAG_ZF, "lsl: %lx", r);
	asm volatile("verw %w1; pushfq; pop %0" : "=r"(flags) : "r"(KERNEL_DS) : "cc");
	check(flags & FLAG_ZF, "verw of data");
	asm volatile("verw %w1; pushfq; pop %0" : "=r"(flags) : "r"(KERNEL_CS) : "cc");
	check(!(flags & FLAG_ZF), "verw of code");
	asm volatile("verr %w1; pushfq; pop %0" : "=r"(flags) : "r"(KERNEL_CS) : "cc");
	check(flags & FLAG_ZF, "verr of code");
	asm volatile("str %k0" : "=r"(r));
	check_eq(r, TSS_SELECTOR, "str");
	asm volatile("smsw %k0" : "=r"(r));
	check((r & 0xffff) == (read_cr0() & 0xffff), "smsw: %lx", r);
	struct table_pointer gdtr;
	asm volatile("sgdt %0" : "=m"(gdtr));
	check(gdtr.base == (u64)gdt && gdtr.limit == GDT_ENTRIES * 8 - 1, "sgdt: %lx limit %x", gdtr.base, gdtr.limit);
}

// ---- Debugging

static u64 db_rip[16], db_dr6[16];
static volatile int db_count;

static bool count_debug(struct trap_frame *f)
{
	if (f->vector != VECTOR_DB)
		return false;
	if (db_count < 16) {
		db_rip[db_count] = f->rip;
		db_dr6[db_count] = read_dr6();
	}
	db_count++;
	write_dr6(0xffff0ff0);
	f->rflags |= FLAG_RF;	// goes on past an instruction breakpoint
	return true;
}

static volatile u64 watched;

void test_debug(void)
{
	extern u8 step_start[], step_end[], breakpoint_here[];
	u64 shadow_pop;

	trap_hook = count_debug;
	write_dr6(0xffff0ff0);

	// One trap after each instruction, beginning with the one after POPF; none after MOV SS.
	db_count = 0;
	asm volatile("pushfq; orq $0x100, (%%rsp); popfq\n"
		     "step_start: nop\n"
		     "mov $3, %%ecx\n"
		     "mov %%ss, %%eax; mov %%eax, %%ss\n"
		     "nop\n"
		     "pushfq; andq $~0x100, (%%rsp); popfq\n"
		     "step_end: nop" ::: "rax", "rcx", "memory", "cc");
	// nop, mov, mov, (mov ss with its shadow over the nop: one trap), pushfq, andq; POPF that clears TF still traps.
	check(db_count == 7, "single step: %d traps, should be 7", db_count);
	check(db_rip[0] == (u64)step_start + 1 && db_rip[6] == (u64)step_end, "single step: first at %lx, last at %lx, should be %lx and %lx",
	      db_rip[0], db_rip[6], (u64)step_start + 1, (u64)step_end);
	check((db_dr6[0] & 0xe00f) == 0x4000, "single step: DR6 %lx", db_dr6[0]);

	// Single step over REP traps after each round.
	static u8 bytes[4];
	db_count = 0;
	asm volatile("pushfq; orq $0x100, (%%rsp); popfq; rep stosb; pushfq; andq $~0x100, (%%rsp); popfq" :: "D"(bytes), "c"(3), "a"(1) : "memory", "cc");
	check(db_count == 3 + 3, "single step over rep stosb of 3: %d traps, should be 6", db_count);

	// Data breakpoint on writes of 8 bytes: a trap, after the instruction.
	db_count = 0;
	write_dr0((u64)&watched);
	write_dr7(0x400 | 1 << 0 | 1 << 16 | 2 << 18);
	asm volatile("movq $5, %0; lea 1f(%%rip), %1; 1: mov %0, %%rax" : "=m"(watched), "=r"(shadow_pop) :: "rax");
	check(db_count == 1 && (db_dr6[0] & 0xe00f) == 1, "data breakpoint on a write: %d traps, DR6 %lx", db_count, db_dr6[0]);
	db_count = 0;
	write_dr7(0x400 | 1 << 0 | 3 << 16 | 2 << 18);
	asm volatile("mov %0, %%rax" :: "m"(watched) : "rax");
	check(db_count == 1, "data breakpoint on a read: %d traps", db_count);
	db_count = 0;
	asm volatile("movb $1, 3+%0" : "=m"(watched));
	check(db_count == 1, "data breakpoint on one byte of the range: %d traps", db_count);

	// Instruction breakpoint: a fault, before the instruction; RF lets it go on.
	db_count = 0;
	write_dr7(0);
	write_dr1((u64)breakpoint_here);
	write_dr7(0x400 | 1 << 2);
	asm volatile("xor %%eax, %%eax; breakpoint_here: inc %%eax; mov %%rax, %0" : "=r"(shadow_pop) :: "rax", "cc");
	check(db_count == 1 && db_rip[0] == (u64)breakpoint_here && (db_dr6[0] & 0xe00f) == 2 && shadow_pop == 1,
	      "instruction breakpoint: %d traps at %lx, DR6 %lx", db_count, db_rip[0], db_dr6[0]);
	write_dr7(0x400);
	trap_hook = 0;
	write_dr7(0x400);
	write_dr6(0xffff0ff0);

	write_cr4(read_cr4() | CR4_DE);
	expect("dr4 with CR4.DE", try_read_dr4, 0, VECTOR_UD, 0, 0);
	write_cr4(read_cr4() & ~CR4_DE);
	expect("dr4 without CR4.DE", try_read_dr4, 0, NO_TRAP, 0, 0);
	expect("dr7 with upper bits", try_mov_dr7, 1ul << 32, VECTOR_GP, 0, 0);
	check_eq(read_dr7(), 0x400, "DR7 at rest");
}

// ---- Stacks

static u64 entry_stack, entry_rsp;

static bool note_stack(struct trap_frame *f)
{
	if (f->vector != VECTOR_BP)
		return false;
	entry_stack = trap_stack;
	entry_rsp = f->rsp;
	return true;
}

void test_ist(void)
{
	u64 rsp, wanted = tss.ist[IST_TEST];
	trap_hook = note_stack;

	asm volatile("mov %%rsp, %0; int3" : "=&r"(rsp) :: "memory");
	check(entry_rsp == rsp && entry_stack == (rsp & ~15ul), "no IST: frame ends at %lx, RSP was %lx", entry_stack, rsp);
	asm volatile("sub $8, %%rsp; mov %%rsp, %0; int3; add $8, %%rsp" : "=&r"(rsp) :: "memory", "cc");
	check(entry_rsp == rsp && entry_stack == (rsp & ~15ul), "no IST, RSP not aligned: frame ends at %lx, RSP was %lx", entry_stack, rsp);
	asm volatile("sub $13, %%rsp; mov %%rsp, %0; int3; add $13, %%rsp" : "=&r"(rsp) :: "memory", "cc");
	check(entry_rsp == rsp && entry_stack == (rsp & ~15ul), "no IST, RSP odd: frame ends at %lx, RSP was %lx", entry_stack, rsp);

	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 0, IST_TEST);
	asm volatile("mov %%rsp, %0; int3" : "=&r"(rsp) :: "memory");
	check(entry_rsp == rsp && entry_stack == wanted, "IST: frame ends at %lx, should at %lx", entry_stack, wanted);
	tss.ist[IST_TEST] = wanted - 5;
	asm volatile("int3" ::: "memory");
	check_eq(entry_stack, (wanted - 5) & ~15ul, "IST, not aligned");
	tss.ist[IST_TEST] = NON_CANONICAL;
	trap_hook = 0;
	expect("IST not canonical", try_int3, 0, VECTOR_SS, 0, 0);
	tss.ist[IST_TEST] = wanted;
	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 0, 0);
}

// ---- Control registers and MSRs

void test_system_registers(void)
{
	check((rdmsr(MSR_EFER) & (EFER_LMA | EFER_LME)) == (EFER_LMA | EFER_LME), "EFER %lx", rdmsr(MSR_EFER));
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
	write_cr8(5);
	check_eq(read_cr8(), 5, "CR8");
	if (lapic_present())
		check_eq(lapic_read(LAPIC_TPR), 0x50, "TPR of the local APIC");
	write_cr8(0);
	check(read_cr0() == cr0 && read_cr3() == cr3 && read_cr4() == cr4, "control registers after refused writes");

	wrmsr(MSR_LSTAR, 0xffff800012345678);
	check_eq(rdmsr(MSR_LSTAR), 0xffff800012345678, "LSTAR");
	wrmsr(MSR_STAR, 0x0018000812345678);
	check_eq(rdmsr(MSR_STAR), 0x0018000812345678, "STAR");
	u64 last = rdtsc();
	bool backward = false;
	for (int i = 0; i < 1000; i++) {
		u64 now = rdtsc();
		backward |= now < last;
		last = now;
	}
	check(!backward, "the TSC goes backward");
	if (cpuid_checked(0x80000001, 0).edx >> 27 & 1) {
		u32 aux;
		wrmsr(MSR_TSC_AUX, 0x12345);
		asm volatile("rdtscp" : "=c"(aux) :: "rax", "rdx");
		check_eq(aux, 0x12345, "rdtscp: TSC_AUX");
	}
	if (cpuid(1, 0).ecx >> 30 & 1) {
		u64 values[4];
		bool got = true;
		for (int i = 0; i < 4; i++) {
			u8 ok = 0;
			for (int attempt = 0; attempt < 10 && !ok; attempt++)
				asm volatile("rdrand %0; setc %1" : "=r"(values[i]), "=q"(ok) :: "cc");
			got &= ok;
		}
		check(got && (values[0] != values[1] || values[1] != values[2]), "rdrand: %lx %lx %lx", values[0], values[1], values[2]);
	}
}
