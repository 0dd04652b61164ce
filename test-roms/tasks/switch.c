// What a task switch does: JMP, CALL, interrupts, IRET. SDM 3A "Task Switching", "Task Linking".
#include "tasks.h"

CODE32(call_self, "lcalll *(%edi)")
CODE16(jump16, "ljmpw *(%di)")
CODE16(v86_int, "int $0x51; nop")
CODE32(jump, "ljmpl *(%edi)")
CODE32(call, "lcalll *(%edi); inc %ebx")
CODE32(nothing, "nop")
CODE32(return_to, "iretl; inc %ecx; iretl; inc %ecx")
CODE32(int_51, "int $0x51; inc %ebx")
CODE32(jump_back, "ljmpl *(%edi)")
CODE32(undefined, "ud2")

#define NT_SET(f) (!!((f) & FLAG_NT))

void test_jump(void)
{
	for (u32 by_gate = 0; by_gate < 2; by_gate++)
		for (u32 ring = 0; ring < 4; ring++) {
			legacy_reset();
			task2(nothing, ring);
			legacy_tss2.eax = 0x11111111;
			legacy_tss2.ecx = 0x22222222;
			legacy_tss2.edx = 0x33333333;
			legacy_tss2.ebx = 0x44444444;
			legacy_tss2.ebp = 0x55555555;
			legacy_tss2.esi = 0x66666666;
			legacy_tss2.edi = 0x77777777;
			legacy_tss2.eflags |= FLAG_CF | FLAG_DF;
			legacy_tss2.link = 0x1234;
			GATE = gate_descriptor(L_TSS2, 0, D_GATE_TASK, 0);
			struct legacy_regs r = to_selector(by_gate ? GATE_SELECTOR : L_TSS2);
			r.eax = 0xa1a1a1a1;
			r.ebp = 0xb2b2b2b2;
			legacy.eflags = FLAG_OF | FLAG_1;
			run_protected(jump, 0, r);
			const struct legacy_regs *o = &legacy.out.regs;
			check(event.vector == VECTOR_USER_EXIT && event.eip == END(nothing) && event.cs == (u32)L_CODE(ring) && legacy.out.tr == L_TSS2,
			      "ring %u: exception %d at %x:%x, TR %x", ring, event.vector, event.cs, event.eip, legacy.out.tr);
			check(o->eax == 0x11111111 && o->ecx == 0x22222222 && o->edx == 0x33333333 && o->ebx == 0x44444444 && o->ebp == 0x55555555 && o->esi == 0x66666666
			      && o->edi == 0x77777777, "ring %u: registers of the new task", ring);
			check(event.eflags == (FLAG_1 | FLAG_CF | FLAG_DF) && event.esp == STACK_TOP(2) && event.ss == (u32)L_DATA(ring), "ring %u: EFLAGS %x, SS:ESP %x:%x",
			      ring, event.eflags, event.ss, event.esp);
			const struct tss32 *old = &legacy_tss.tss;
			check(old->eax == 0xa1a1a1a1 && old->ebp == 0xb2b2b2b2 && old->edi == SCRATCH && old->esp == STACK_TOP(0) && old->eip == address(jump) + 2
			      && old->cs == L_CODE(0) && old->ss == L_DATA(0) && old->ds == L_DATA(0) && old->fs == 0 && old->eflags == (FLAG_OF | FLAG_1),
			      "ring %u: the old task's TSS: EIP %x EFLAGS %x ESP %x", ring, old->eip, old->eflags, old->esp);
			check(!is_busy(L_TSS) && is_busy(L_TSS2) && legacy_tss2.link == 0x1234, "ring %u: busy %u %u, link %x", ring, is_busy(L_TSS), is_busy(L_TSS2),
			      legacy_tss2.link);
		}
	// There and back.
	legacy_reset();
	task2(jump_back, 0);
	legacy_tss2.edi = SCRATCH + 16;
	struct { u32 offset; u16 selector; } PACKED p = { 0, L_TSS };
	memcpy(legacy_scratch + 16, &p, sizeof p);
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(jump) && legacy.out.tr == L_TSS && is_busy(L_TSS) && !is_busy(L_TSS2),
	      "there and back: exception %d at %x, TR %x", event.vector, event.eip, legacy.out.tr);
}

void test_call(void)
{
	for (u32 ring = 0; ring < 4; ring++) {
		legacy_reset();
		task2(nothing, ring);
		run_protected(call, 0, to_selector(L_TSS2));
		check(event.vector == VECTOR_USER_EXIT && event.eip == END(nothing) && NT_SET(event.eflags), "ring %u: exception %d at %x, EFLAGS %x", ring, event.vector,
		      event.eip, event.eflags);
		check(is_busy(L_TSS) && is_busy(L_TSS2) && legacy_tss2.link == L_TSS && !NT_SET(legacy_tss.tss.eflags), "ring %u: busy %u %u, link %x, EFLAGS of the old %x",
		      ring, is_busy(L_TSS), is_busy(L_TSS2), legacy_tss2.link, legacy_tss.tss.eflags);
	}
	// IRET goes back; the next CALL finds the task behind its IRET.
	legacy_reset();
	task2(return_to, 0);
	run_protected(call, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && event.cs == L_CODE(0) && !NT_SET(event.eflags) && legacy.out.regs.ebx == 1,
	      "IRET: exception %d at %x, EFLAGS %x", event.vector, event.eip, event.eflags);
	check(is_busy(L_TSS) && !is_busy(L_TSS2) && legacy.out.tr == L_TSS && legacy_tss2.eip == address(return_to) + 1 && !NT_SET(legacy_tss2.eflags),
	      "IRET: busy %u %u, TR %x, EIP %x EFLAGS %x", is_busy(L_TSS), is_busy(L_TSS2), legacy.out.tr, legacy_tss2.eip, legacy_tss2.eflags);
	run_protected(call, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && legacy_tss2.ecx == 1, "second CALL: exception %d at %x, ECX %u", event.vector, event.eip,
	      legacy_tss2.ecx);
	// A task that is busy cannot be entered again.
	expect32("CALL of itself", call_self, 0, to_selector(L_TSS), VECTOR_GP, L_TSS, 0);
	// From ring 3, by a gate that allows it.
	legacy_reset();
	task2(return_to, 0);
	GATE = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(3), 0);
	run_protected(call, 3, to_selector(GATE_SELECTOR | 3));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && event.cs == (u32)L_CODE(3) && event.ss == (u32)L_DATA(3) && event.esp == STACK_TOP(3),
	      "CALL from ring 3: exception %d at %x:%x, SS:ESP %x:%x", event.vector, event.cs, event.eip, event.ss, event.esp);
}

void test_interrupt(void)
{
	task2(return_to, 0);
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(3), 0);
	for (u32 ring = 0; ring < 4; ring++) {
		task2(return_to, 0);
		run_protected(int_51, (int)ring, (struct legacy_regs){ 0 });
		check(event.vector == VECTOR_USER_EXIT && event.eip == END(int_51) && event.cs == (u32)L_CODE(ring) && legacy.out.regs.ebx == 1 && event.esp == STACK_TOP(ring),
		      "INT from ring %u and back: exception %d at %x:%x", ring, event.vector, event.cs, event.eip);
		check(legacy_tss.tss.eip == address(int_51) + 2 && legacy_tss2.esp == STACK_TOP(2), "INT from ring %u: EIP %x in the TSS, ESP %x", ring, legacy_tss.tss.eip,
		      legacy_tss2.esp);
	}
	// An exception's handler as a task returns to the instruction.
	task2(nothing, 0);
	legacy_idt[VECTOR_UD] = gate_descriptor(L_TSS2, 0, D_GATE_TASK, 0);
	run_protected(undefined, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && legacy.out.tr == L_TSS2 && legacy_tss.tss.eip == address(undefined) && legacy_tss2.link == L_TSS && legacy_tss.tss.eflags & FLAG_RF,
	      "#UD: exception %d, TR %x, EIP %x EFLAGS %x", event.vector, legacy.out.tr, legacy_tss.tss.eip, legacy_tss.tss.eflags);
	// The gate's DPL counts for INT, the TSS's does not.
	task2(return_to, 0);
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK, 0);
	expect32("INT by a task gate of DPL 0", int_51, 3, (struct legacy_regs){ 0 }, VECTOR_GP, VECTOR_TEST * 8 + 2, 0);
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK & ~D_P, 0);
	expect32("INT by a task gate that is not present", int_51, 0, (struct legacy_regs){ 0 }, VECTOR_NP, VECTOR_TEST * 8 + 2, 0);
}

CODE32(see_segments, "mov %es, %eax; mov %fs, %ecx; mov %gs, %edx; mov %ds, %ebx; mov %fs:(%esi), %ebp")

void test_state(void)
{
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	task2(see_segments, 0);
	legacy_tss2.fs = L_SPARE;
	legacy_tss2.gs = L_DATA(3);
	legacy_tss2.es = 0;
	legacy_tss2.esi = 0x100;
	write32(SCRATCH + 0x100, 0x600df00d);
	run_protected(jump, 0, to_selector(L_TSS2));
	const struct legacy_regs *o = &legacy.out.regs;
	check(event.vector == VECTOR_USER_EXIT && o->eax == 0 && o->ecx == L_SPARE && o->edx == (u32)L_DATA(3) && o->ebx == L_DATA(0) && o->ebp == 0x600df00d,
	      "segments: exception %d, ES %x FS %x GS %x DS %x, read by FS %x", event.vector, o->eax, o->ecx, o->edx, o->ebx, o->ebp);
	check(SPARE & 1ul << 40, "the descriptor that was loaded has A");
	// Only what is dynamic is written: stacks, CR3, LDT, T and map stay as they are.
	legacy_tss.tss.esp1 = 0x12121212;
	legacy_tss.tss.cr3 = 0x34343000;
	legacy_tss.tss.ldt = 0x5656;
	legacy_tss.tss.trap = 0x7878;
	run_protected(jump, 0, (task2(nothing, 0), to_selector(L_TSS2)));
	check(legacy_tss.tss.esp1 == 0x12121212 && legacy_tss.tss.cr3 == 0x34343000 && legacy_tss.tss.ldt == 0x5656 && legacy_tss.tss.trap == 0x7878, "static fields");
	// CR3 and the LDT of the new task come from its TSS; local breakpoints go, global ones stay.
	legacy.dr7 = 0x400 | 0xff;
	legacy.dr[0] = legacy.dr[1] = legacy.dr[2] = legacy.dr[3] = 0x1000;
	run_protected(jump, 0, (task2(nothing, 0), to_selector(L_TSS2)));
	check((legacy.out.dr7 & 0xff) == 0xaa, "DR7: %x", legacy.out.dr7);
}

CODE32(load_ldt_fs, "mov $12, %eax; mov %eax, %fs; sldt %ecx")

void test_ldt(void)
{
	legacy_ldt[1] = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	task2(load_ldt_fs, 0);
	legacy_tss2.ldt = L_LDT;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && legacy.out.ldtr == L_LDT && legacy.out.regs.ecx == L_LDT, "exception %d, LDTR %x", event.vector, legacy.out.ldtr);
	// The segments are looked up in the new LDT.
	task2(nothing, 0);
	legacy_tss2.ldt = L_LDT;
	legacy_tss2.gs = 12;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && legacy.out.gs == 12, "GS of the LDT: exception %d, error code %x", event.vector, event.error);
	// A null LDT is one.
	task2(load_ldt_fs, 0);
	legacy.ldtr = L_LDT;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_GP && event.error == 12 && legacy.out.ldtr == 0, "null LDT: exception %d, error code %x, LDTR %x", event.vector, event.error,
	      legacy.out.ldtr);
}

static struct tss16 narrow ALIGNED(16);
CODE16(code16, "nop")
CODE16(return16, "iretw; nop")

static void narrow_task(struct code c)
{
	memset(&narrow, 0, sizeof narrow);
	legacy_gdt[L_TSS2 / 8] = descriptor((u32)(u64)&narrow, sizeof narrow - 1, D_TSS16);
	SPARE = descriptor(address(c), 0xffff, D_CODE);
	legacy_gdt[L_SPARE / 8 + 2] = descriptor(SCRATCH, 0xfff, D_DATA);
	narrow.cs = L_SPARE;
	narrow.ss = narrow.ds = narrow.es = L_SPARE + 16;
	narrow.sp = 0x800;
	narrow.flags = FLAG_1 | FLAG_CF;
	narrow.ax = 0x1111;
	narrow.di = 0x7777;
	// The exit's handler wants a stack that reaches further.
	narrow.sp0 = 0x800;
	narrow.ss0 = L_SPARE + 16;
}

void test_narrow(void)
{
	narrow_task(code16);
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.cs == L_SPARE && event.eip == (u32)(code16.end - code16.start) && legacy.out.tr == L_TSS2, "JMP: exception %d at %x:%x",
	      event.vector, event.cs, event.eip);
	check((legacy.out.regs.eax & 0xffff) == 0x1111 && (legacy.out.regs.edi & 0xffff) == 0x7777 && (event.esp & 0xffff) == 0x800, "JMP: EAX %x EDI %x SP %x", legacy.out.regs.eax,
	      legacy.out.regs.edi, event.esp);
	check(legacy.out.fs == 0 && legacy.out.gs == 0, "JMP: FS %x GS %x", legacy.out.fs, legacy.out.gs);

	legacy_reset();
	narrow_task(return16);
	run_protected(call, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && narrow.link == L_TSS && narrow.ip == 1, "CALL and IRET: exception %d at %x, link %x IP %x",
	      event.vector, event.eip, narrow.link, narrow.ip);

	// A limit of 43 is enough, 42 is not; a TSS of 32 bits wants 103.
	legacy_reset();
	narrow_task(code16);
	legacy_gdt[L_TSS2 / 8] = descriptor((u32)(u64)&narrow, 42, D_TSS16);
	expect32("limit of 42", jump, 0, to_selector(L_TSS2), VECTOR_TS, L_TSS2, 0);

	// From a task of 16 bits to one of 32: the low halves are kept.
	legacy_reset();
	narrow_task(jump16);
	struct { u16 offset, selector; } p16 = { 0, L_TSS };
	memcpy(legacy_scratch + 64, &p16, sizeof p16);
	narrow.di = 64;
	narrow.bx = 0xbbbb;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eip == END(jump) && legacy.out.tr == L_TSS, "back by JMP: exception %d, error code %x at %x", event.vector, event.error,
	      event.eip);
	check(narrow.ip == (u16)(jump16.end - jump16.start - 2) && narrow.bx == 0xbbbb && narrow.di == 64 && narrow.cs == L_SPARE && !is_busy(L_TSS2), "back by JMP: IP %x BX %x",
	      narrow.ip, narrow.bx);
}

CODE16(v86_code, "mov %ds, %bx; int $0x80")

void test_v86(void)
{
	memcpy(low(V86_CODE, 0x10), v86_code.start, (size_t)(v86_code.end - v86_code.start));
	task2(nothing, 0);
	legacy_tss2.eflags = FLAG_VM | FLAG_IOPL | FLAG_1;
	legacy_tss2.cs = V86_CODE;
	legacy_tss2.eip = 0x10;
	legacy_tss2.ds = V86_DATA;
	legacy_tss2.es = 0xffff;
	legacy_tss2.fs = 1;
	legacy_tss2.gs = 2;
	legacy_tss2.ss = V86_STACK;
	legacy_tss2.esp = V86_SP;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && event.eflags & FLAG_VM && event.cs == V86_CODE && event.eip == 0x14 && event.ss == V86_STACK && event.esp == V86_SP,
	      "JMP: exception %d at %x:%x, EFLAGS %x, SS:SP %x:%x", event.vector, event.cs, event.eip, event.eflags, event.ss, event.esp);
	check(event.ds == V86_DATA && event.es == 0xffff && event.fs == 1 && event.gs == 2 && (legacy.out.regs.ebx & 0xffff) == V86_DATA, "JMP: DS %x ES %x FS %x GS %x", event.ds,
	      event.es, event.fs, event.gs);

	// A task gate leaves virtual-8086 mode, IRET goes back to it.
	legacy_reset();
	task2(return_to, 0);
	legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(3), 0);
	run_v86(v86_int, FLAG_IOPL, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.eflags & FLAG_VM && event.cs == V86_CODE && event.eip == 5 && event.ds == V86_DATA && legacy.out.tr == L_TSS,
	      "INT and IRET: exception %d at %x:%x, EFLAGS %x DS %x", event.vector, event.cs, event.eip, event.eflags, event.ds);
	check(legacy_tss.tss.eflags & FLAG_VM && legacy_tss.tss.ds == V86_DATA && legacy_tss.tss.eip == 2, "INT: EFLAGS %x DS %x EIP %x in the TSS", legacy_tss.tss.eflags,
	      legacy_tss.tss.ds, legacy_tss.tss.eip);
}

// SDM 3B "Task-Switch Exception Condition": a trap before the first instruction of the new task.
void test_trap_bit(void)
{
	task2(nothing, 0);
	legacy_tss2.trap = 1;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_DB && event.eip == address(nothing) && legacy.out.tr == L_TSS2, "JMP: exception %d at %x", event.vector, event.eip);
	check((legacy.out.dr6 & 0xe00f) == 0x8000, "JMP: DR6 %x", legacy.out.dr6);
	// The task that is left has no say.
	legacy_reset();
	task2(nothing, 0);
	legacy_tss.tss.trap = 1;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT, "T of the old task: exception %d", event.vector);
	// TF of the new task's flags: after its first instruction.
	legacy_reset();
	task2(nothing, 0);
	legacy_tss2.eflags |= FLAG_TF;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_DB && event.eip == address(nothing) + 1 && (legacy.out.dr6 & 0xe00f) == 0x4000, "TF of the new task: exception %d at +%d, DR6 %x", event.vector,
	      (i32)(event.eip - address(nothing)), legacy.out.dr6);
}

CODE32(use_fpu, "fnop")

void test_ts(void)
{
	task2(use_fpu, 0);
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_NM && event.eip == address(use_fpu) && legacy.out.cr0 & CR0_TS, "exception %d, CR0 %x", event.vector, legacy.out.cr0);
}

static u32 other_pages[1024] ALIGNED(4096);
CODE32(read_it, "mov (%esi), %eax")

void test_cr3(void)
{
	// The other space has 4 MiB at 0x0800_0000 that are elsewhere here.
	memcpy(other_pages, legacy_pages, sizeof other_pages);
	u32 linear = 0x08000000 + (SCRATCH & 0x3fffff) + 0x200;
	other_pages[linear >> 22] = (SCRATCH & 0xffc00000) | PAGE_P | PAGE_RW | PAGE_US | PAGE_PS;
	legacy_pages[linear >> 22] = 0;
	write32(SCRATCH + 0x200, 0xfeedface);
	legacy_paging();
	task2(read_it, 0);
	legacy_tss2.esi = linear;
	legacy_tss2.cr3 = (u32)(u64)other_pages;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && legacy.out.regs.eax == 0xfeedface, "exception %d, reads %x", event.vector, legacy.out.regs.eax);
	task2(read_it, 0);
	legacy_tss2.esi = linear;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_PF && legacy.out.cr2 == linear, "the old space: exception %d, CR2 %x", event.vector, legacy.out.cr2);
	// With paging off CR3 is not loaded.
	legacy_reset();
	task2(nothing, 0);
	legacy_tss2.cr3 = 0xabcde000;
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT, "paging off: exception %d", event.vector);
}
