// Far JMP, CALL and RET, and call gates. SDM 3A "Privilege Level Checking When Transferring Program Control Between Code
// Segments", 2A "CALL" and "JMP", 2B "RET".
#include "protected32.h"

// Landing places: INT 80h ends what has come here. The one with a far return goes back.
CODE32(landing, "mov %cs, %ecx; mov %ss, %edx; nop")
CODE32(landing_returns, "mov %cs, %ecx; lret")
CODE32(landing_releases, "mov %cs, %ecx; mov %esp, %esi; lret $12")
CODE32(far_jump, "ljmpl *(%edi)")
CODE32(far_call, "lcalll *(%edi); mov %cs, %ebx")
CODE32(far_call3, "push $0x11; push $0x22; push $0x33; lcalll *(%edi); mov %cs, %ebx")
CODE32(far_jump16, "ljmpw *(%edi)")
CODE32(far_return, "mov %edi, %esp; lret")
CODE32(far_return8, "mov %edi, %esp; lret $8")

#define TARGET ((u32)(u64)landing.start)

struct far_pointer { u32 offset; u16 selector; } PACKED;

static struct legacy_regs pointer(u32 offset, u32 selector)
{
	struct far_pointer p = { offset, (u16)selector };
	memcpy(legacy_scratch, &p, sizeof p);
	return (struct legacy_regs){ .edi = SCRATCH };
}

static bool arrived(u32 eip)
{
	return event.vector == VECTOR_USER_EXIT && event.eip == eip;
}

static u32 address(struct code c)
{
	return (u32)(u64)c.start;
}

// What a direct transfer to a code segment gives.
static int direct(u32 type, u32 dpl, u32 rpl, u32 cpl, u32 present)
{
	if ((type & 24) != 24 || (type & 4 ? dpl > cpl : rpl > cpl || dpl != cpl))
		return VECTOR_GP;
	return present ? VECTOR_USER_EXIT : VECTOR_NP;
}

static void each_target(struct code c)
{
	// System types have meanings of their own.
	for (u32 type = 16; type < 32; type++)
		for (u32 levels = 0; levels < 64; levels++)
			for (u32 present = 0; present < 2; present++) {
				u32 dpl = levels & 3, rpl = levels >> 2 & 3, cpl = levels >> 4;
				SPARE = descriptor(0, 0xfffff, type | D_DPL(dpl) | present << 7 | D_BIG | D_G);
				int vector = direct(type, dpl, rpl, cpl, present);
				run_protected(c, (int)cpl, pointer(TARGET, L_SPARE | rpl));
				bool ok = vector == VECTOR_USER_EXIT ? arrived((u32)(u64)landing.end) && legacy.out.regs.ecx == (L_SPARE | cpl) && event.cs == (L_SPARE | cpl)
								     : event.vector == vector && event.error == L_SPARE && event.eip == address(c);
				check(ok, "type %x DPL %u RPL %u CPL %u P %u: exception %d, error code %x, CS %x", type, dpl, rpl, cpl, present, event.vector, event.error,
				      event.cs);
			}
}

static void bad_pointers(struct code c)
{
	for (int ring = 0; ring < 4; ring += 3) {
		expect32("null selector", c, ring, pointer(TARGET, (u32)ring), VECTOR_GP, 0, 0);
		expect32("beyond the GDT", c, ring, pointer(TARGET, L_ENTRIES * 8 + 3), VECTOR_GP, L_ENTRIES * 8, 0);
		expect32("LDT that was not loaded", c, ring, pointer(TARGET, 12 | 3), VECTOR_GP, 12, 0);
	}
	SPARE = descriptor(0, TARGET - 1, D_CODE | D_BIG);
	expect32("offset beyond the limit", c, 0, pointer(TARGET, L_SPARE), VECTOR_GP, 0, 0);
	check(event.esp == STACK_TOP(0), "offset beyond the limit: ESP %x", event.esp);
	// System types that no transfer takes.
	for (u32 type = 0; type < 16; type++) {
		if (0x1a32u >> type & 1)	// TSSs, gates
			continue;
		SPARE = descriptor(0, 0xfffff, type | 0x80 | D_DPL(3));
		expect32("system descriptor", c, 0, pointer(TARGET, L_SPARE), VECTOR_GP, L_SPARE, 0);
	}
}

void test_far_jumps(void)
{
	each_target(far_jump);
	bad_pointers(far_jump);
	// Operands of 16 bits: the offset is IP.
	SPARE = descriptor(TARGET, 0xffff, D_CODE | D_BIG);
	legacy_at(far_jump16, 0);
	pointer(0, 0);
	u16 p16[2] = { 0, L_SPARE };
	memcpy(legacy_scratch, p16, sizeof p16);
	legacy.regs = (struct legacy_regs){ .edi = SCRATCH };
	legacy_run();
	check(event.vector == VECTOR_USER_EXIT && event.cs == L_SPARE && event.eip == (u32)(landing.end - landing.start), "JMP of 16 bits: %x:%x", event.cs,
	      event.eip);
}

void test_far_calls(void)
{
	each_target(far_call);
	bad_pointers(far_call);
	for (int ring = 0; ring < 4; ring++) {
		SPARE = descriptor(0, 0xfffff, D_CODE | D_DPL(ring) | D_BIG | D_G);
		run_protected(far_call, ring, pointer(address(landing), L_SPARE));
		check(event.esp == STACK_TOP(ring) - 8 && load32((void *)(u64)event.esp) == address(far_call) + 2
		      && load32((void *)(u64)event.esp + 4) == (u32)L_CODE(ring), "ring %d: return address %x:%x", ring, load32((void *)(u64)event.esp + 4),
		      load32((void *)(u64)event.esp));
		run_protected(far_call, ring, pointer(address(landing_returns), L_SPARE | (u32)ring));
		check(arrived((u32)(u64)far_call.end) && legacy.out.regs.ebx == (u32)L_CODE(ring) && event.esp == STACK_TOP(ring), "ring %d: CALL and RET", ring);
	}
	// A conforming segment of an inner ring keeps CPL; so does the way back.
	SPARE = descriptor(0, 0xfffff, D_CODE | D_CONFORMING | D_BIG | D_G);
	run_protected(far_call, 3, pointer(address(landing_returns), L_SPARE));
	check(arrived((u32)(u64)far_call.end) && legacy.out.regs.ecx == (L_SPARE | 3), "conforming code: CS %x", legacy.out.regs.ecx);
}

// The gate is the second spare descriptor, its target the first.
#define GATE legacy_gdt[L_SPARE / 8 + 1]
#define GATE_SELECTOR (L_SPARE + 8)

static void through_gate(struct code c, bool call, u32 gate_dpl, u32 gate_present, u32 target_type, u32 target_dpl, u32 rpl, u32 cpl)
{
	SPARE = descriptor(0, 0xfffff, target_type | D_DPL(target_dpl) | D_P | D_BIG | D_G);
	GATE = gate_descriptor(L_SPARE | 3, TARGET, (D_GATE_CALL32 & ~D_P) | D_DPL(gate_dpl) | gate_present << 7, 0);
	int vector = VECTOR_USER_EXIT;
	u32 error = 0, level = cpl;
	bool conforming = target_type & D_CONFORMING;
	if (gate_dpl < cpl || gate_dpl < rpl) {
		vector = VECTOR_GP, error = GATE_SELECTOR;
	} else if (!gate_present) {
		vector = VECTOR_NP, error = GATE_SELECTOR;
	} else if (target_dpl > cpl || (!call && !conforming && target_dpl != cpl)) {
		vector = VECTOR_GP, error = L_SPARE;
	} else if (!conforming) {
		level = target_dpl;
	}
	run_protected(c, (int)cpl, pointer(0x12345678, GATE_SELECTOR | rpl));
	bool ok = event.vector == vector && event.error == error;
	if (vector == VECTOR_USER_EXIT)
		ok = ok && arrived((u32)(u64)landing.end) && event.cs == (L_SPARE | level) && (event.ss & 3) == level;
	check(ok, "%s, gate of DPL %u P %u RPL %u to type %x DPL %u from CPL %u: exception %d, error code %x, CS %x SS %x", call ? "CALL" : "JMP", gate_dpl,
	      gate_present, rpl, target_type, target_dpl, cpl, event.vector, event.error, event.cs, event.ss);
}

void test_call_gates(void)
{
	for (u32 levels = 0; levels < 256; levels++)
		for (u32 present = 0; present < 2; present++)
			for (u32 type = 0x1a; type <= 0x1e; type += 4) {
				u32 gate_dpl = levels & 3, target_dpl = levels >> 2 & 3, rpl = levels >> 4 & 3, cpl = levels >> 6;
				through_gate(far_call, true, gate_dpl, present, type, target_dpl, rpl, cpl);
				through_gate(far_jump, false, gate_dpl, present, type, target_dpl, rpl, cpl);
			}

	struct legacy_regs r = pointer(0, GATE_SELECTOR);
	GATE = gate_descriptor(3, TARGET, D_GATE_CALL32, 0);
	expect32("gate to a null selector", far_call, 0, r, VECTOR_GP, 0, 0);
	GATE = gate_descriptor(L_DATA(0), TARGET, D_GATE_CALL32, 0);
	expect32("gate to a data segment", far_call, 0, r, VECTOR_GP, L_DATA(0), 0);
	GATE = gate_descriptor(L_ENTRIES * 8, TARGET, D_GATE_CALL32, 0);
	expect32("gate to what is beyond the GDT", far_call, 0, r, VECTOR_GP, L_ENTRIES * 8, 0);
	GATE = gate_descriptor(L_SPARE, TARGET, D_GATE_CALL32, 0);
	SPARE = descriptor(0, 0xfffff, (D_CODE & ~D_P) | D_BIG | D_G);
	expect32("gate to code that is not present", far_call, 0, r, VECTOR_NP, L_SPARE, 0);
	SPARE = descriptor(0, TARGET - 1, D_CODE | D_BIG);
	expect32("gate beyond the limit", far_call, 0, r, VECTOR_GP, 0, 0);
	check(event.esp == STACK_TOP(0), "gate beyond the limit: ESP %x", event.esp);
}

void test_gate_parameters(void)
{
	SPARE = descriptor(0, 0xfffff, D_CODE | D_DPL(1) | D_BIG | D_G);
	for (u32 count = 0; count < 32; count++) {
		GATE = gate_descriptor(L_SPARE, TARGET, D_GATE_CALL32 | D_DPL(3), count);
		for (u32 i = 0; i < 32; i++)
			((u32 *)(legacy_stack[3] + 2048))[i] = i + 100;
		legacy_at(far_call, 3);
		legacy.regs = pointer(0, GATE_SELECTOR);
		legacy.esp = (u32)(u64)legacy_stack[3] + 2048;
		legacy_run();
		const u32 *f = (u32 *)(u64)event.esp;
		bool ok = event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(1) - 4 * (4 + count);
		if (!check(ok, "%u parameters: exception %d, ESP %x", count, event.vector, event.esp))
			continue;
		check(f[0] == address(far_call) + 2 && f[1] == (u32)L_CODE(3) && f[2 + count] == legacy.esp && f[3 + count] == (u32)L_DATA(3),
		      "%u parameters: return to %x:%x, stack %x:%x", count, f[1], f[0], f[3 + count], f[2 + count]);
		for (u32 i = 0; i < count; i++)
			check(f[2 + i] == i + 100, "parameter %u of %u: %u", i, count, f[2 + i]);
	}

	// There and back with RET n, which drops the parameters from both stacks.
	GATE = gate_descriptor(L_SPARE, address(landing_releases), D_GATE_CALL32 | D_DPL(3), 3);
	run_protected(far_call3, 3, pointer(0, GATE_SELECTOR));
	check(arrived((u32)(u64)far_call3.end) && event.cs == (u32)L_CODE(3) && event.ss == (u32)L_DATA(3) && event.esp == STACK_TOP(3),
	      "CALL and RET: exception %d at %x:%x, ESP %x, should be %x", event.vector, event.cs, event.eip, event.esp, STACK_TOP(3));
	check(legacy.out.regs.ecx == (L_SPARE | 1), "CALL and RET: CS %x", legacy.out.regs.ecx);

	// A gate of 16 bits pushes words.
	SPARE = descriptor(TARGET, 0xffff, D_CODE | D_DPL(1) | D_BIG);
	GATE = gate_descriptor(L_SPARE, 0xffff0000, D_GATE_CALL16 | D_DPL(3), 2);
	((u16 *)(legacy_stack[3] + 2048))[0] = 0x1111;
	((u16 *)(legacy_stack[3] + 2048))[1] = 0x2222;
	legacy_at(far_call, 3);
	legacy.regs = pointer(0, GATE_SELECTOR);
	legacy.esp = (u32)(u64)legacy_stack[3] + 2048;
	legacy_run();
	const u16 *w = (u16 *)(u64)event.esp;
	check(event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(1) - 12 && event.cs == (L_SPARE | 1), "gate of 16 bits: exception %d, ESP %x", event.vector,
	      event.esp);
	check(w[0] == (u16)(address(far_call) + 2) && w[1] == L_CODE(3) && w[2] == 0x1111 && w[3] == 0x2222 && w[4] == (u16)legacy.esp && w[5] == L_DATA(3),
	      "gate of 16 bits: %x:%x, %x %x, %x:%x", w[1], w[0], w[2], w[3], w[5], w[4]);
}

// What the TSS says about the inner stack. SDM 2A "CALL": #TS, but #SS where SS is not present or the stack has no room.
void test_gate_stacks(void)
{
	SPARE = descriptor(0, 0xfffff, D_CODE | D_DPL(1) | D_BIG | D_G);
	GATE = gate_descriptor(L_SPARE, TARGET, D_GATE_CALL32 | D_DPL(3), 0);
	u64 *stack = &legacy_gdt[L_SPARE / 8 + 2];
	u32 ss = L_SPARE + 16;
	struct legacy_regs r = pointer(0, GATE_SELECTOR);
	struct { const char *what; u32 selector, rights, limit; int vector; u32 error; } cases[] = {
		{ "null selector", 1, D_DATA | D_DPL(1), 0xfff, VECTOR_TS, 0 },
		{ "beyond the GDT", L_ENTRIES * 8 | 1, D_DATA, 0xfff, VECTOR_TS, L_ENTRIES * 8 },
		{ "RPL 0", ss, D_DATA | D_DPL(1), 0xfff, VECTOR_TS, ss },
		{ "DPL 3", ss | 1, D_DATA | D_DPL(3), 0xfff, VECTOR_TS, ss },
		{ "DPL 0", ss | 1, D_DATA, 0xfff, VECTOR_TS, ss },
		{ "read-only", ss | 1, 0x90 | D_DPL(1), 0xfff, VECTOR_TS, ss },
		{ "code", ss | 1, D_CODE | D_DPL(1), 0xfff, VECTOR_TS, ss },
		{ "not present", ss | 1, (D_DATA & ~D_P) | D_DPL(1), 0xfff, VECTOR_SS, ss },
		{ "no room", ss | 1, D_DATA | D_DPL(1), 0xff, VECTOR_SS, ss },
		{ "right", ss | 1, D_DATA | D_DPL(1), 0xfff, VECTOR_USER_EXIT, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		*stack = descriptor(SCRATCH, cases[i].limit, cases[i].rights | D_BIG);
		legacy_tss.tss.ss1 = cases[i].selector;
		legacy_tss.tss.esp1 = 0x800;
		run_protected(far_call, 3, r);
		check(event.vector == cases[i].vector && event.error == cases[i].error, "%s: exception %d, error code %x, should be %d, %x", cases[i].what,
		      event.vector, event.error, cases[i].vector, cases[i].error);
		if (event.vector != VECTOR_USER_EXIT)
			check(event.eip == address(far_call) && event.esp == STACK_TOP(3) && event.ss == (u32)L_DATA(3), "%s: at %x, SS:ESP %x:%x", cases[i].what,
			      event.eip, event.ss, event.esp);
	}
	// The last byte of SS1 is at offset 17.
	legacy_gdt[L_TSS / 8] = descriptor((u32)(u64)&legacy_tss, 16, D_TSS32);
	expect32("TSS that is too short", far_call, 3, r, VECTOR_TS, L_TSS, 0);
}

static struct legacy_regs frame(u32 eip, u32 cs, u32 esp, u32 ss)
{
	u32 f[] = { eip, cs, esp, ss }, *at = (u32 *)(legacy_stack[0] + 1024);
	memcpy(at, f, sizeof f);
	memcpy(at + 4, f + 2, 8);	// for RET 8
	return (struct legacy_regs){ .edi = (u32)(u64)at };
}

void test_far_returns(void)
{
	u64 *stack = &legacy_gdt[L_SPARE / 8 + 2];
	u32 ss = L_SPARE + 16;
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
				struct legacy_regs r = frame(TARGET, L_SPARE | rpl, STACK_TOP(2), (u32)L_DATA(rpl));
				run_protected(far_return, (int)cpl, r);
				bool ok = vector == VECTOR_USER_EXIT ? arrived((u32)(u64)landing.end) && event.cs == (L_SPARE | rpl)
								       && event.esp == (rpl > cpl ? STACK_TOP(2) : r.edi + 8)
								     : event.vector == vector && event.error == L_SPARE && event.esp == r.edi;
				check(ok, "type %x DPL %u RPL %u CPL %u P %u: exception %d, error code %x, CS %x, ESP %x", type, dpl, rpl, cpl, present, event.vector,
				      event.error, event.cs, event.esp);
			}

	SPARE = descriptor(0, 0xfffff, D_CODE | D_DPL(3) | D_BIG | D_G);
	struct { const char *what; u32 selector, rights; int vector; u32 error; } cases[] = {
		{ "null SS", 0, D_DATA | D_DPL(3), VECTOR_GP, 0 },
		{ "null SS with RPL 3", 3, D_DATA | D_DPL(3), VECTOR_GP, 0 },
		{ "SS beyond the GDT", L_ENTRIES * 8 | 3, D_DATA, VECTOR_GP, L_ENTRIES * 8 },
		{ "SS with RPL 0", ss, D_DATA | D_DPL(3), VECTOR_GP, ss },
		{ "SS of DPL 0", ss | 3, D_DATA, VECTOR_GP, ss },
		{ "read-only SS", ss | 3, 0x90 | D_DPL(3), VECTOR_GP, ss },
		{ "SS that is not present", ss | 3, (D_DATA & ~D_P) | D_DPL(3), VECTOR_SS, ss },
		{ "right SS", ss | 3, D_DATA | D_DPL(3), VECTOR_USER_EXIT, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		*stack = descriptor(0, 0xfffff, cases[i].rights | D_BIG | D_G);
		struct legacy_regs r = frame(TARGET, L_SPARE | 3, STACK_TOP(3), cases[i].selector);
		run_protected(far_return, 0, r);
		check(event.vector == cases[i].vector && event.error == cases[i].error, "%s: exception %d, error code %x", cases[i].what, event.vector, event.error);
		run_protected(far_return8, 0, frame(TARGET, L_SPARE | 3, STACK_TOP(3), cases[i].selector));
		check(event.vector == cases[i].vector && event.error == cases[i].error, "%s, RET 8: exception %d, error code %x", cases[i].what, event.vector,
		      event.error);
		if (event.vector == VECTOR_USER_EXIT)
			check(event.esp == STACK_TOP(3) + 8 && event.ss == (ss | 3), "RET 8: SS:ESP %x:%x", event.ss, event.esp);
	}
	expect32("null CS", far_return, 0, frame(TARGET, 0, STACK_TOP(3), 3), VECTOR_GP, 0, 2);
	expect32("EIP of ring 3 beyond the limit", far_return, 0, (SPARE = descriptor(0, TARGET - 1, D_CODE | D_DPL(3) | D_BIG), frame(TARGET, L_SPARE | 3, STACK_TOP(3), (u32)L_DATA(3))),
		 VECTOR_GP, 0, 2);
}

CODE32(return_with_segments, "mov %eax, %es; mov %ebx, %fs; mov %ecx, %gs; mov %edi, %esp; lret")
CODE32(landing_plain, "nop")

// SDM 2B "RET": segment registers that the outer ring may not have become null.
void test_outer_returns(void)
{
	SPARE = descriptor(0, 0xfffff, D_CODE | D_CONFORMING | D_BIG | D_G);
	struct legacy_regs r = frame(address(landing_plain), (u32)L_CODE(3), STACK_TOP(3), (u32)L_DATA(3));
	r.eax = L_DATA(0);
	r.ebx = L_DATA(3);
	r.ecx = L_SPARE;
	run_protected(return_with_segments, 0, r);
	check(event.vector == VECTOR_USER_EXIT && legacy.out.es == 0 && legacy.out.ds == 0 && legacy.out.fs == (u32)L_DATA(3) && legacy.out.gs == L_SPARE,
	      "to ring 3: exception %d, DS %x ES %x FS %x GS %x", event.vector, legacy.out.ds, legacy.out.es, legacy.out.fs, legacy.out.gs);
	r = frame(address(landing_plain), (u32)L_CODE(1), STACK_TOP(1), (u32)L_DATA(1));
	r.eax = L_DATA(1);
	r.ebx = L_DATA(2);
	r.ecx = L_CODE(0);
	run_protected(return_with_segments, 0, r);
	check(event.vector == VECTOR_USER_EXIT && legacy.out.es == (u32)L_DATA(1) && legacy.out.fs == (u32)L_DATA(2) && legacy.out.gs == 0,
	      "to ring 1: exception %d, ES %x FS %x GS %x", event.vector, legacy.out.es, legacy.out.fs, legacy.out.gs);
}
