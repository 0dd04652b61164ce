// Interrupt and trap gates and IRETD. SDM 3A "Exception- and Interrupt-Handler Procedures", "Error Code", 2A "INT n" and "IRET".
#include "protected32.h"

CODE32(int_51, "int $0x51")
CODE32(int_51_if, "sti; int $0x51")
CODE32(landing, "mov %cs, %ecx; mov %ss, %edx; pushf; pop %esi")
CODE32(undefined, "ud2")
CODE32(divide, "xor %ecx, %ecx; div %ecx")
CODE32(general, "hlt")
CODE32(int_3, "int3")
CODE32(int_o, "mov $0x7f, %al; inc %al; into")
CODE32(bound, "bound %eax, (%edi)")
CODE32(there_and_back, "push %eax; popf; int $0x51; pushf; pop %ecx")
CODE32(handler, "incl (%edi); iretl")
CODE32(iretd, "mov %edi, %esp; iretl")
CODE32(lose_stack, "mov %eax, %ss; mov %edi, %esp; ud2")

#define VECTOR VECTOR_TEST	// 51h
#define TARGET ((u32)(u64)landing.start)
#define END(c) ((u32)(u64)(c).end)

static u32 address(struct code c)
{
	return (u32)(u64)c.start;
}

void test_interrupt_gates(void)
{
	legacy.eflags = FLAG_IOPL;	// for STI
	for (u32 from = 0; from < 4; from++)
		for (u32 to = 0; to <= from; to++)
			for (u32 kind = D_GATE_INT32; kind <= D_GATE_TRAP32; kind++) {
				legacy_idt[VECTOR] = gate_descriptor((u32)L_CODE(to), TARGET, kind | D_DPL(3), 0);
				run_protected(int_51_if, (int)from, (struct legacy_regs){ .eax = 5 });
				u32 flags = legacy.out.regs.esi, pushed = to < from ? 5 : 3;
				const u32 *f = (u32 *)(u64)event.esp;
				u32 top = to < from ? STACK_TOP(to) : STACK_TOP(from);
				check(event.vector == VECTOR_USER_EXIT && event.eip == END(landing) && event.cs == (u32)L_CODE(to) && event.ss == (u32)L_DATA(to)
				      && event.esp == top - 4 * pushed, "ring %u to %u: exception %d at %x:%x, SS:ESP %x:%x", from, to, event.vector, event.cs, event.eip,
				      event.ss, event.esp);
				check(f[0] == END(int_51_if) - 2 && f[1] == (u32)L_CODE(from) && f[2] & FLAG_IF, "ring %u to %u: frame %x:%x, EFLAGS %x", from, to, f[1],
				      f[0], f[2]);
				if (to < from)
					check(f[3] == STACK_TOP(from) && f[4] == (u32)L_DATA(from), "ring %u to %u: frame's SS:ESP %x:%x", from, to, f[4], f[3]);
				check(!(flags & FLAG_IF) == (kind == D_GATE_INT32) && !(flags & (FLAG_TF | FLAG_NT)), "ring %u to %u, gate %x: EFLAGS %x", from, to, kind,
				      flags);
			}

	// Gates of 16 bits push words, and their offset has 16 bits.
	SPARE = descriptor(TARGET, 0xffff, D_CODE | D_BIG);
	legacy_idt[VECTOR] = gate_descriptor(L_SPARE, 0xffff0000, D_GATE_TRAP16 | D_DPL(3), 0);
	run_protected(int_51, 3, (struct legacy_regs){ 0 });
	const u16 *w = (u16 *)(u64)event.esp;
	check(event.vector == VECTOR_USER_EXIT && event.cs == L_SPARE && event.esp == STACK_TOP(0) - 10, "gate of 16 bits: exception %d, CS %x ESP %x",
	      event.vector, event.cs, event.esp);
	check(w[0] == (u16)(address(int_51) + 2) && w[1] == L_CODE(3) && w[3] == (u16)STACK_TOP(3) && w[4] == L_DATA(3), "gate of 16 bits: frame %x:%x %x:%x",
	      w[1], w[0], w[4], w[3]);
	legacy_idt[VECTOR_GP] = gate_descriptor(L_SPARE, 0, D_GATE_INT16, 0);
	run_protected(general, 3, (struct legacy_regs){ 0 });
	w = (u16 *)(u64)event.esp;
	check(event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(0) - 12 && w[0] == 0 && w[1] == (u16)address(general), "error code by a gate of 16 bits: %x %x",
	      w[0], w[1]);

	// IRETD undoes what the gate did.
	legacy_reset();
	legacy.eflags = FLAG_IOPL;
	u32 flags = FLAG_CF | FLAG_OF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_1 | FLAG_IF;
	for (u32 ring = 0; ring < 4; ring++) {
		legacy_idt[VECTOR] = gate_descriptor(L_CODE(0), address(handler), D_GATE_INT32 | D_DPL(3), 0);
		write32(SCRATCH, 0);
		run_protected(there_and_back, (int)ring, (struct legacy_regs){ .eax = flags | FLAG_IOPL, .edi = SCRATCH });
		// The handler writes by DS, which it inherits: ring 3's is flat.
		check(event.vector == VECTOR_USER_EXIT && read32(SCRATCH) == 1 && legacy.out.regs.ecx == (flags | FLAG_IOPL), "ring %u and back: exception %d, EFLAGS %x",
		      ring, event.vector, legacy.out.regs.ecx);
	}
	// INTO and BOUND.
	struct { i32 low, high; } bounds = { -5, 5 };
	memcpy(legacy_scratch, &bounds, sizeof bounds);
	expect32("INTO", int_o, 3, (struct legacy_regs){ 0 }, VECTOR_OF, 0, 5);
	expect32("INT3", int_3, 3, (struct legacy_regs){ 0 }, VECTOR_BP, 0, 1);
	passes32("BOUND of the lowest", bound, 3, (struct legacy_regs){ .eax = (u32)-5, .edi = SCRATCH });
	passes32("BOUND of the highest", bound, 3, (struct legacy_regs){ .eax = 5, .edi = SCRATCH });
	expect32("BOUND below", bound, 3, (struct legacy_regs){ .eax = (u32)-6, .edi = SCRATCH }, VECTOR_BR, 0, 0);
	expect32("BOUND above", bound, 3, (struct legacy_regs){ .eax = 6, .edi = SCRATCH }, VECTOR_BR, 0, 0);
}

void test_bad_gates(void)
{
	u32 code = VECTOR * 8 + 2;
	for (u32 type = 0; type < 32; type++) {
		if (type == 5 || type == 6 || type == 7 || type == 14 || type == 15)
			continue;
		legacy_idt[VECTOR] = gate_descriptor(L_CODE(0), TARGET, type | D_P | D_DPL(3), 0);
		expect32("type of the gate", int_51, 3, (struct legacy_regs){ 0 }, VECTOR_GP, code, 0);
	}
	for (u32 ring = 0; ring < 4; ring++)
		for (u32 dpl = 0; dpl < 4; dpl++)
			for (u32 present = 0; present < 2; present++) {
				legacy_idt[VECTOR] = gate_descriptor(L_CODE(0), TARGET, (D_GATE_INT32 & ~D_P) | present << 7 | D_DPL(dpl), 0);
				int vector = dpl < ring ? VECTOR_GP : present ? VECTOR_USER_EXIT : VECTOR_NP;
				run_protected(int_51, (int)ring, (struct legacy_regs){ 0 });
				check(event.vector == vector && event.error == (vector == VECTOR_USER_EXIT ? 0 : code), "ring %u, DPL %u P %u: exception %d, error code %x",
				      ring, dpl, present, event.vector, event.error);
			}
	legacy_idt[VECTOR] = gate_descriptor(L_CODE(0), TARGET, D_GATE_INT32 | D_DPL(3), 0);
	// The exit's vector 80h must stay out of it.
	legacy.idtr.limit = VECTOR * 8 + 6;
	expect32("partly beyond the IDT", int_51, 3, (struct legacy_regs){ 0 }, VECTOR_GP, code, 0);
	legacy.idtr.limit = VECTOR * 8 - 1;
	expect32("beyond the IDT", int_51, 0, (struct legacy_regs){ 0 }, VECTOR_GP, code, 0);
	legacy.idtr.limit = sizeof legacy_idt - 1;
	// INT3 and INTO look at the DPL too; exceptions do not.
	legacy_idt[VECTOR_BP] = legacy_idt[VECTOR_OF] = gate_descriptor(L_CODE(0), TARGET, D_GATE_INT32, 0);
	expect32("INT3 by a gate of DPL 0", int_3, 3, (struct legacy_regs){ 0 }, VECTOR_GP, VECTOR_BP * 8 + 2, 0);
	expect32("INTO by a gate of DPL 0", int_o, 3, (struct legacy_regs){ 0 }, VECTOR_GP, VECTOR_OF * 8 + 2, 4);
	expect32("#DE by a gate of DPL 0", divide, 3, (struct legacy_regs){ 0 }, VECTOR_DE, 0, 2);
}

void test_bad_targets(void)
{
	struct { const char *what; u32 selector, rights, ring; int vector; u32 error; } cases[] = {
		{ "null selector", 3, D_CODE, 0, VECTOR_GP, 0 },
		{ "beyond the GDT", L_ENTRIES * 8 | 1, D_CODE, 0, VECTOR_GP, L_ENTRIES * 8 },
		{ "LDT that was not loaded", 12, D_CODE, 0, VECTOR_GP, 12 },
		{ "data", L_SPARE, D_DATA, 0, VECTOR_GP, L_SPARE },
		{ "system descriptor", L_SPARE, D_LDT, 0, VECTOR_GP, L_SPARE },
		{ "outer ring", L_SPARE, D_CODE | D_DPL(3), 0, VECTOR_GP, L_SPARE },
		{ "outer ring, conforming", L_SPARE, D_CODE | D_CONFORMING | D_DPL(3), 1, VECTOR_GP, L_SPARE },
		{ "not present", L_SPARE | 3, D_CODE & ~D_P, 0, VECTOR_NP, L_SPARE },
		{ "outer ring, not present", L_SPARE, (D_CODE & ~D_P) | D_DPL(3), 0, VECTOR_GP, L_SPARE },
		{ "right, RPL is not looked at", L_SPARE | 3, D_CODE, 0, VECTOR_USER_EXIT, 0 },
		{ "execute-only", L_SPARE, 0x98, 0, VECTOR_USER_EXIT, 0 },
		{ "conforming", L_SPARE, D_CODE | D_CONFORMING, 3, VECTOR_USER_EXIT, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		SPARE = descriptor(0, 0xfffff, cases[i].rights | D_BIG | D_G);
		legacy_idt[VECTOR] = gate_descriptor(cases[i].selector, TARGET, D_GATE_INT32 | D_DPL(3), 0);
		run_protected(int_51, (int)cases[i].ring, (struct legacy_regs){ 0 });
		check(event.vector == cases[i].vector && event.error == cases[i].error, "%s: exception %d, error code %x, should be %d, %x", cases[i].what,
		      event.vector, event.error, cases[i].vector, cases[i].error);
		if (event.vector == VECTOR_USER_EXIT)
			check(event.cs == (L_SPARE | (cases[i].rights & D_CONFORMING ? cases[i].ring : 0)), "%s: CS %x", cases[i].what, event.cs);
		else
			check(event.eip == address(int_51), "%s: at %x", cases[i].what, event.eip);
	}
	SPARE = descriptor(0, TARGET - 1, D_CODE | D_BIG);
	legacy_idt[VECTOR] = gate_descriptor(L_SPARE, TARGET, D_GATE_INT32 | D_DPL(3), 0);
	expect32("offset beyond the limit", int_51, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 0);
	check(event.esp == STACK_TOP(3), "offset beyond the limit: ESP %x", event.esp);
}

// As for call gates, but with room for five words. Faults are delivered to ring 0, whose stack is right.
void test_inner_stacks(void)
{
	u64 *stack = &legacy_gdt[L_SPARE / 8 + 2];
	u32 ss = L_SPARE + 16;
	legacy_idt[VECTOR] = gate_descriptor((u32)L_CODE(1), TARGET, D_GATE_INT32 | D_DPL(3), 0);
	struct { const char *what; u32 selector, rights, esp; int vector; u32 error; } cases[] = {
		{ "null selector", 1, D_DATA, 0x800, VECTOR_TS, 0 },
		{ "beyond the GDT", L_ENTRIES * 8 | 1, D_DATA, 0x800, VECTOR_TS, L_ENTRIES * 8 },
		{ "LDT that was not loaded", 12 | 1, D_DATA, 0x800, VECTOR_TS, 12 },
		{ "RPL 0", ss, D_DATA | D_DPL(1), 0x800, VECTOR_TS, ss },
		{ "DPL 3", ss | 1, D_DATA | D_DPL(3), 0x800, VECTOR_TS, ss },
		{ "read-only", ss | 1, 0x90 | D_DPL(1), 0x800, VECTOR_TS, ss },
		{ "code", ss | 1, D_CODE | D_DPL(1), 0x800, VECTOR_TS, ss },
		{ "not present", ss | 1, (D_DATA & ~D_P) | D_DPL(1), 0x800, VECTOR_SS, ss },
		{ "room for four words", ss | 1, D_DATA | D_DPL(1), 16, VECTOR_SS, ss },
		{ "room for five words", ss | 1, D_DATA | D_DPL(1), 20, VECTOR_USER_EXIT, 0 },
		{ "beyond the limit", ss | 1, D_DATA | D_DPL(1), 0x1004, VECTOR_SS, ss },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		*stack = descriptor(SCRATCH, 0xfff, cases[i].rights | D_BIG);
		legacy_tss.tss.ss1 = cases[i].selector;
		legacy_tss.tss.esp1 = cases[i].esp;
		// The landing code pushes flags: give it a stack that goes on below.
		if (cases[i].vector == VECTOR_USER_EXIT)
			*stack = descriptor(SCRATCH + 0x100, 0xfff, D_DATA | D_DPL(1) | D_BIG);
		run_protected(int_51, 3, (struct legacy_regs){ 0 });
		if (cases[i].vector == VECTOR_USER_EXIT) {
			// It has all that it needs, but its own PUSHF then has not.
			check(event.vector == VECTOR_SS && event.error == 0 && event.cs == (u32)L_CODE(1) && event.esp == 0, "%s: exception %d, error code %x, CS %x ESP %x",
			      cases[i].what, event.vector, event.error, event.cs, event.esp);
			continue;
		}
		check(event.vector == cases[i].vector && event.error == cases[i].error && event.eip == address(int_51) && event.esp == STACK_TOP(3),
		      "%s: exception %d, error code %x, should be %d, %x", cases[i].what, event.vector, event.error, cases[i].vector, cases[i].error);
	}
	legacy_gdt[L_TSS / 8] = descriptor((u32)(u64)&legacy_tss, 16, D_TSS32);
	expect32("TSS that is too short", int_51, 3, (struct legacy_regs){ 0 }, VECTOR_TS, L_TSS, 0);
}

// An exception whose gate is bad: EXT says that no instruction asked for it.
void test_external_bit(void)
{
	legacy_idt[VECTOR_UD] = gate_descriptor(L_CODE(0), TARGET, D_GATE_INT32 & ~D_P, 0);
	expect32("#UD by a gate that is not present", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_NP, VECTOR_UD * 8 + 3, 0);
	legacy_idt[VECTOR_UD] = gate_descriptor(L_SPARE, TARGET, D_GATE_INT32, 0);
	SPARE = descriptor(0, 0xfffff, D_DATA);
	expect32("#UD by a gate to data", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_GP, L_SPARE + 1, 0);
	legacy_idt[VECTOR_UD] = gate_descriptor(0, TARGET, D_GATE_INT32, 0);
	expect32("#UD by a gate to a null selector", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 1, 0);
	SPARE = descriptor(0, TARGET - 1, D_CODE | D_BIG);
	legacy_idt[VECTOR_UD] = gate_descriptor(L_SPARE, TARGET, D_GATE_INT32, 0);
	expect32("#UD by a gate beyond the limit", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 1, 0);
	legacy_idt[VECTOR_UD] = gate_descriptor((u32)L_CODE(1), TARGET, D_GATE_INT32, 0);
	legacy_tss.tss.ss1 = L_DATA(0);
	expect32("#UD with a bad inner stack", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_TS, L_DATA(0) + 1, 0);
	legacy_tss.tss.ss1 = L_DATA(1);
	legacy_idt[VECTOR_UD] = gate_descriptor(L_ENTRIES * 8, TARGET, D_GATE_INT32, 0);
	expect32("#UD by a gate beyond the GDT", undefined, 3, (struct legacy_regs){ 0 }, VECTOR_GP, L_ENTRIES * 8 + 1, 0);
}

static struct legacy_regs frame(u32 eip, u32 cs, u32 eflags, u32 esp, u32 ss)
{
	u32 f[] = { eip, cs, eflags, esp, ss }, *at = (u32 *)(legacy_stack[0] + 1024);
	memcpy(at, f, sizeof f);
	return (struct legacy_regs){ .edi = (u32)(u64)at };
}

void test_iret(void)
{
	for (u32 type = 16; type < 32; type++)
		for (u32 levels = 0; levels < 64; levels++)
			for (u32 present = 0; present < 2; present++) {
				u32 dpl = levels & 3, rpl = levels >> 2 & 3, cpl = levels >> 4;
				SPARE = descriptor(0, 0xfffff, type | D_DPL(dpl) | present << 7 | D_BIG | D_G);
				int vector = VECTOR_USER_EXIT;
				if ((type & 24) != 24 || rpl < cpl || (type & 4 ? dpl > rpl : dpl != rpl))
					vector = VECTOR_GP;
				else if (!present)
					vector = VECTOR_NP;
				struct legacy_regs r = frame(TARGET, L_SPARE | rpl, FLAG_1, STACK_TOP(2), (u32)L_DATA(rpl));
				run_protected(iretd, (int)cpl, r);
				bool ok = vector == VECTOR_USER_EXIT ? event.vector == vector && event.cs == (L_SPARE | rpl) && event.esp == (rpl > cpl ? STACK_TOP(2) : r.edi + 12)
								     : event.vector == vector && event.error == L_SPARE && event.esp == r.edi;
				check(ok, "type %x DPL %u RPL %u CPL %u P %u: exception %d, error code %x, CS %x, ESP %x", type, dpl, rpl, cpl, present, event.vector,
				      event.error, event.cs, event.esp);
			}
	SPARE = descriptor(0, 0xfffff, 0x90 | D_DPL(3) | D_BIG | D_G);
	expect32("null CS", iretd, 0, frame(TARGET, 3, FLAG_1, 0, 0), VECTOR_GP, 0, 2);
	expect32("null SS", iretd, 0, frame(TARGET, (u32)L_CODE(3), FLAG_1, 0, 3), VECTOR_GP, 0, 2);
	expect32("SS of ring 0", iretd, 0, frame(TARGET, (u32)L_CODE(3), FLAG_1, 0, L_DATA(0)), VECTOR_GP, L_DATA(0), 2);
	expect32("read-only SS", iretd, 0, frame(TARGET, (u32)L_CODE(3), FLAG_1, 0, L_SPARE | 3), VECTOR_GP, L_SPARE, 2);
	SPARE = descriptor(0, 0xfffff, (D_DATA & ~D_P) | D_DPL(3) | D_BIG | D_G);
	expect32("SS that is not present", iretd, 0, frame(TARGET, (u32)L_CODE(3), FLAG_1, 0, L_SPARE | 3), VECTOR_SS, L_SPARE, 2);
}

static u32 flags_after_iret(u32 cpl, u32 before, u32 image)
{
	legacy.eflags = before;
	run_protected(iretd, (int)cpl, frame(TARGET, (u32)L_CODE(cpl), image | FLAG_1, 0, 0));
	check(event.vector == VECTOR_USER_EXIT, "CPL %u, EFLAGS %x from the stack: exception %d", cpl, image, event.vector);
	return legacy.out.regs.esi;
}

void test_iret_flags(void)
{
	const u32 every = FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | FLAG_VIF | FLAG_VIP | FLAG_1;
	u32 got = flags_after_iret(0, 0, every);
	check(got == every, "CPL 0: %x of %x", got, every);
	got = flags_after_iret(3, 0, every);
	u32 want = every & ~(u32)(FLAG_IF | FLAG_IOPL | FLAG_VIF | FLAG_VIP);
	check(got == want, "CPL 3: %x, should be %x", got, want);
	got = flags_after_iret(3, FLAG_IOPL, every);
	want = every & ~(u32)(FLAG_VIF | FLAG_VIP);
	check(got == want, "CPL 3, IOPL 3: %x, should be %x", got, want);
	got = flags_after_iret(3, FLAG_IOPL | FLAG_IF, 0);
	want = FLAG_1 | FLAG_IOPL;
	check(got == want, "CPL 3, IOPL 3, zeros: %x, should be %x", got, want);
	got = flags_after_iret(1, FLAG_IF, 0);
	want = FLAG_1 | FLAG_IF;
	check(got == want, "CPL 1, IOPL 0, zeros: %x, should be %x", got, want);
	legacy.eflags = 0;
}

// #DF by a task gate: the task that has failed is in its TSS.
void test_double_faults(void)
{
	SPARE = descriptor(SCRATCH, 0xff, D_DATA | D_BIG);
	// No room for the frame at ring 0: #SS while #UD is delivered is one after the other, then #SS while #SS is double.
	expect32("stack without room", lose_stack, 0, (struct legacy_regs){ .eax = L_SPARE, .edi = 8 }, VECTOR_DF, 0, 4);
	check(legacy.out.tr == L_TSS_DF && event.ss == L_SPARE && event.esp == 8, "stack without room: TR %x, SS:ESP %x:%x", legacy.out.tr, event.ss, event.esp);
	check(legacy_tss_df.link == L_TSS, "stack without room: link %x", legacy_tss_df.link);
	legacy_idt[VECTOR_GP] = 0;
	expect32("#GP without a gate", general, 3, (struct legacy_regs){ 0 }, VECTOR_DF, 0, 0);
	legacy_idt[VECTOR_DE] = gate_descriptor(L_CODE(0), TARGET, D_GATE_INT32 & ~D_P, 0);
	expect32("#DE with an absent gate", divide, 3, (struct legacy_regs){ 0 }, VECTOR_DF, 0, 2);
	legacy_reset();
	legacy_tss.tss.ss0 = 0;
	expect32("no stack for ring 0", general, 3, (struct legacy_regs){ 0 }, VECTOR_DF, 0, 0);
	check(event.cs == (u32)L_CODE(3) && event.ss == (u32)L_DATA(3) && event.esp == STACK_TOP(3), "no stack for ring 0: CS %x, SS:ESP %x:%x", event.cs, event.ss,
	      event.esp);
}
