// Frames, and which of two exceptions is reported. SDM 3A "Priority Among Concurrent Events".
#include "clock.h"
#include "exceptions64.h"

SNIPPET(invalid, "ud2")
SNIPPET(breakpoint, "nop; int3")
SNIPPET(divide, "xor %ecx, %ecx; div %ecx")
SNIPPET(load, "mov (%rax), %ecx")
SNIPPET(load_odd, "mov 1(%rax), %ecx")
SNIPPET(divide_memory, "xor %edx, %edx; divl (%rax)")
SNIPPET(movaps_load, "movaps (%rax), %xmm0")
SNIPPET(cmpxchg16b, "cmpxchg16b (%rax)")
SNIPPET(lock_load, ".byte 0xf0; mov (%rax), %ecx")
SNIPPET(lock_hlt, ".byte 0xf0; hlt")
SNIPPET(x87_load, "fldl (%rax)")
SNIPPET(wait_x87, "fwait")
SNIPPET(in_port, "mov %eax, %edx; in %dx, %al")
SNIPPET(two_nops, "nop; nop")
SNIPPET(int_80, "int $0x80")
SNIPPET(store_step, "mov %ecx, (%rdi)")

void test_frames(void)
{
	u64 flags = FLAG_CF | FLAG_ZF | FLAG_DF | FLAG_AC;
	for (int ring = 0; ring <= 3; ring += 3) {
		struct regs r = { .rax = ABSENT, .rflags = flags };
		expect("#UD", invalid, ring, r, VECTOR_UD, 0, 0);
		check((trap.rflags & ~FLAG_RF) == (flags | FLAG_1) && trap.rsp == STACK_END && trap.cs == (ring ? USER_CS : KERNEL_CS)
		      && trap.ss == (ring ? USER_DS : KERNEL_DS), "#UD at ring %d: flags %lx, RSP %lx, CS %lx, SS %lx", ring, trap.rflags, trap.rsp, trap.cs,
		      trap.ss);
		check(trap_stack == (ring ? tss.rsp[0] : STACK_END), "#UD at ring %d: stack %lx", ring, trap_stack);
		expect("#PF", load, ring, r, VECTOR_PF, ring ? 4 : 0, 0);
		check(trap_stack == (ring ? tss.rsp[0] : STACK_END), "#PF at ring %d: stack %lx", ring, trap_stack);
		expect("#DE", divide, ring, r, VECTOR_DE, 0, 2);
	}
	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 3, 0);
	expect("#BP", breakpoint, 3, (struct regs){ 0 }, VECTOR_BP, 0, 2);
	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 0, 0);
	// A trap gate leaves IF alone, an interrupt gate clears it; both clear TF, NT and RF. Seen in the handler's own flags by PUSHFQ.
	check(!(read_flags() & FLAG_IF), "IF after a frame");
}

// QEMU 7.2 pushes RF for none. SDM 3B "RF Flag": 1 for faults, so that an instruction breakpoint does not hit again; 0 for traps.
void test_resume_flag_exactly(void)
{
	struct regs r = { .rax = ABSENT };
	run_snippet(invalid, 3, r);
	check(trap.rflags & FLAG_RF, "#UD: RF clear");
	run_snippet(load, 3, r);
	check(trap.rflags & FLAG_RF, "#PF: RF clear");
	r.rax = NON_CANONICAL;
	run_snippet(load, 3, r);
	check(trap.rflags & FLAG_RF, "#GP: RF clear");
	run_snippet(divide, 3, r);
	check(trap.rflags & FLAG_RF, "#DE: RF clear");
	run_snippet(int_80, 3, r);
	check(!(trap.rflags & FLAG_RF), "INT n: RF set");
	r.rflags = FLAG_TF;
	check(run_snippet(two_nops, 3, r) == VECTOR_DB && !(trap.rflags & FLAG_RF), "single step: RF set");
}

static void with_ts(const char *what, struct snippet s, u64 rax, int vector)
{
	write_cr0(read_cr0() | CR0_TS);
	int got = run_snippet(s, 3, (struct regs){ .rax = rax });
	asm volatile("clts");
	check(got == vector, "%s with CR0.TS: exception %d, should be %d", what, got, vector);
}

void test_priorities(void)
{
	// What the state of the processor forbids comes before the operands.
	with_ts("MOVAPS not canonical", movaps_load, NON_CANONICAL, VECTOR_NM);
	with_ts("MOVAPS from an absent page", movaps_load, ABSENT, VECTOR_NM);
	with_ts("FLD from an absent page", x87_load, ABSENT, VECTOR_NM);
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	with_ts("MOVAPS without OSFXSR", movaps_load, STACK_PAGE, VECTOR_UD);
	write_cr4(read_cr4() | CR4_OSFXSR);

	// Alignment of 16 bytes before the page, the page before the quotient.
	expect_vector("MOVAPS misaligned from an absent page", movaps_load, 3, (struct regs){ .rax = ABSENT + 8 }, VECTOR_GP);
	expect_vector("CMPXCHG16B misaligned on an absent page", cmpxchg16b, 3, (struct regs){ .rax = ABSENT + 8 }, VECTOR_GP);
	expect_vector("DIV by memory on an absent page", divide_memory, 3, (struct regs){ .rax = ABSENT }, VECTOR_PF);
	expect_vector("not canonical, odd", load_odd, 3, (struct regs){ .rax = NON_CANONICAL }, VECTOR_GP);

	// An x87 exception that waits, and CR0.TS.
	u16 control = 0x037b;
	asm volatile("fninit; fldcw %0; fldz; fld1; fdivp" :: "m"(control));
	with_ts("FWAIT with an exception pending", wait_x87, 0, VECTOR_NM);
	expect_vector("FWAIT with an exception pending", wait_x87, 3, (struct regs){ 0 }, VECTOR_MF);
	asm volatile("fninit");

	// A fault while TF is set is the fault alone; TF is in its frame, and not in the handler.
	write_dr6(0xffff0ff0);
	expect("#UD with TF", invalid, 3, (struct regs){ .rflags = FLAG_TF }, VECTOR_UD, 0, 0);
	check(trap.rflags & FLAG_TF && !(read_dr6() & 0x4000), "#UD with TF: flags %lx, DR6 %lx", trap.rflags, read_dr6());
	expect("INT 80h with TF", int_80, 3, (struct regs){ .rflags = FLAG_TF }, VECTOR_USER_EXIT, 0, 2);
	check(trap.rflags & FLAG_TF, "INT 80h with TF: flags %lx", trap.rflags);
	expect("single step", two_nops, 3, (struct regs){ .rflags = FLAG_TF }, VECTOR_DB, 0, 1);

	expect_vector("IN at ring 3", in_port, 3, (struct regs){ .rax = 0x80 }, VECTOR_GP);
}

// QEMU 7.2 lets LOCK MOV pass, looks at the privilege first, and makes two exceptions of the two traps.
void test_priorities_exactly(void)
{
	// What the decoder sees comes before what the instruction may not do.
	expect("LOCK MOV", lock_load, 3, (struct regs){ .rax = ABSENT }, VECTOR_UD, 0, 0);
	expect_vector("LOCK HLT at ring 3", lock_hlt, 3, (struct regs){ 0 }, VECTOR_UD);

	// A data breakpoint and a single step of the same instruction are one #DB with both bits.
	write_dr6(0xffff0ff0);
	write_dr0(STACK_PAGE);
	write_dr7(0x400 | 1 | 1 << 16 | 3 << 18);
	expect("store with TF and a data breakpoint", store_step, 3, (struct regs){ .rdi = STACK_PAGE, .rflags = FLAG_TF }, VECTOR_DB, 0, 2);
	check((read_dr6() & 0xe00f) == 0x4001, "store with TF and a data breakpoint: DR6 %lx", read_dr6());
	write_dr7(0x400);
	write_dr6(0xffff0ff0);
}

// ---- NMI

static u32 nmis, depth, deepest;

static bool on_nmi(struct trap_frame *f)
{
	if (f->vector != VECTOR_NMI)
		return false;
	depth++;
	deepest = depth > deepest ? depth : deepest;
	if (nmis++ == 0) {
		// A second one waits until this handler's IRET.
		lapic_icr(lapic_id(), 4 << 8 | 1 << 14);
		wait_ms(2);
	}
	depth--;
	return true;
}

void test_nmi(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	trap_hook = on_nmi;
	nmis = depth = deepest = 0;
	lapic_icr(lapic_id(), 4 << 8 | 1 << 14);
	u64 end = deadline_ms(100);
	while (nmis < 2 && !passed(end))
		relax();
	trap_hook = 0;
	check(nmis == 2, "%u NMIs, should be 2", nmis);
	check(deepest == 1, "an NMI within an NMI's handler");
}
