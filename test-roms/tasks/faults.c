// What may go wrong: before the switch in the old task, after it in the new one. SDM 3A "Task Switching", "Exception Conditions
// Checked During a Task Switch".
#include "tasks.h"

CODE32(load_bad, "mov %eax, %fs")
CODE32(jump, "ljmpl *(%edi)")
CODE32(call, "lcalll *(%edi); inc %ebx")
CODE32(nothing, "nop")
CODE32(int_51, "int $0x51; inc %ebx")
CODE32(iretd, "iretl")
CODE32(undefined, "ud2")
CODE32(general, "nop; hlt")

void test_rights(void)
{
	for (u32 cpl = 0; cpl < 4; cpl++)
		for (u32 rpl = 0; rpl < 4; rpl++)
			for (u32 dpl = 0; dpl < 4; dpl++)
				for (u32 by_gate = 0; by_gate < 2; by_gate++) {
					task2(nothing, 0);
					// A gate's own DPL counts, the TSS's then does not.
					if (!by_gate)
						legacy_gdt[L_TSS2 / 8] |= (u64)D_DPL(dpl) << 40;
					GATE = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(dpl), 0);
					u32 selector = by_gate ? GATE_SELECTOR : L_TSS2;
					run_protected(cpl & 1 ? jump : call, (int)cpl, to_selector(selector | rpl));
					bool ok = dpl >= cpl && dpl >= rpl;
					check(ok ? event.vector == VECTOR_USER_EXIT && (legacy.out.tr & ~3u) == L_TSS2 : event.vector == VECTOR_GP && event.error == selector,
					      "CPL %u RPL %u DPL %u gate %u: exception %d, error code %x", cpl, rpl, dpl, by_gate, event.vector, event.error);
				}
}

// The switch must be refused in the old task, and leave everything as it was.
static void refused(const char *what, struct code c, int ring, u32 selector, int vector, u32 error)
{
	legacy_tss.tss.eax = 0xcafe;
	u64 before = legacy_gdt[L_TSS2 / 8];
	bool ok = expect32(what, c, ring, to_selector(selector), vector, error, 0);
	if (ok)
		check(legacy.out.tr == L_TSS && is_busy(L_TSS) && legacy_gdt[L_TSS2 / 8] == before && legacy_tss.tss.eax == 0xcafe, "%s: something has changed", what);
}

void test_bad_tss(void)
{
	task2(nothing, 0);
	u64 good = legacy_gdt[L_TSS2 / 8];
	legacy_gdt[L_TSS2 / 8] = good & ~(1ul << 47);
	refused("not present", jump, 0, L_TSS2, VECTOR_NP, L_TSS2);
	refused("not present", call, 0, L_TSS2, VECTOR_NP, L_TSS2);
	legacy_gdt[L_TSS2 / 8] = good | BUSY;
	refused("busy", jump, 0, L_TSS2, VECTOR_GP, L_TSS2);
	refused("busy", call, 0, L_TSS2, VECTOR_GP, L_TSS2);
	legacy_gdt[L_TSS2 / 8] = descriptor((u32)(u64)&legacy_tss2, 102, D_TSS32);
	refused("limit of 102", jump, 0, L_TSS2, VECTOR_TS, L_TSS2);
	refused("limit of 102", call, 0, L_TSS2, VECTOR_TS, L_TSS2);
	legacy_gdt[L_TSS2 / 8] = descriptor((u32)(u64)&legacy_tss2, 103, D_TSS32);
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == VECTOR_USER_EXIT && legacy.out.tr == L_TSS2, "limit of 103: exception %d", event.vector);
}

void test_bad_gate_targets(void)
{
	struct { const char *what; u32 selector; u64 tss; int vector; u32 error; } cases[] = {
		{ "null selector", 0, 0, VECTOR_GP, 0 },
		{ "TSS in the LDT", L_TSS2 | 4, 0, VECTOR_GP, L_TSS2 | 4 },
		{ "beyond the GDT", L_ENTRIES * 8, 0, VECTOR_GP, L_ENTRIES * 8 },
		{ "data", L_DATA(0), 0, VECTOR_GP, L_DATA(0) },
		{ "not present", L_TSS2, descriptor(SCRATCH, 0xfff, D_TSS32 & ~D_P), VECTOR_NP, L_TSS2 },
		{ "busy", L_TSS2, descriptor(SCRATCH, 0xfff, D_TSS32 | 2), VECTOR_GP, L_TSS2 },
		{ "too short", L_TSS2, descriptor(SCRATCH, 0x66, D_TSS32), VECTOR_TS, L_TSS2 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		legacy_reset();
		legacy_ldt[L_TSS2 / 8] = descriptor((u32)(u64)&legacy_tss2, 103, D_TSS32);
		legacy.ldtr = L_LDT;
		task2(nothing, 0);
		if (cases[i].tss)
			legacy_gdt[L_TSS2 / 8] = cases[i].tss;
		GATE = gate_descriptor(cases[i].selector, 0, D_GATE_TASK | D_DPL(3), 0);
		legacy_idt[VECTOR_TEST] = legacy_idt[VECTOR_UD] = GATE;
		expect32(cases[i].what, jump, 3, to_selector(GATE_SELECTOR), cases[i].vector, cases[i].error, 0);
		expect32(cases[i].what, int_51, 3, to_selector(0), cases[i].vector, cases[i].error, 0);
		expect32(cases[i].what, undefined, 3, to_selector(0), cases[i].vector, cases[i].error + 1, 0);
	}
}

// A fault of the new task, before its first instruction.
static void in_new_task(const char *what, int vector, u32 error)
{
	run_protected(jump, 0, to_selector(L_TSS2));
	check(event.vector == vector && event.error == error && legacy.out.tr == L_TSS2 && event.eip == legacy_tss2.eip, "%s: exception %d, error code %x at %x, TR %x, should be %d, %x",
	      what, event.vector, event.error, event.eip, legacy.out.tr, vector, error);
	check(is_busy(L_TSS2) && !is_busy(L_TSS) && legacy_tss.tss.eip == address(jump) + 2, "%s: busy %u %u, EIP of the old task %x", what, is_busy(L_TSS2), is_busy(L_TSS),
	      legacy_tss.tss.eip);
}

void test_bad_state(void)
{
	struct { const char *what; u32 offset, value; u64 spare; int vector; u32 error; } cases[] = {
#define FIELD(f) offsetof(struct tss32, f)
#define FLAT(rights) descriptor(0, 0xfffff, (rights) | D_BIG | D_G)
		{ "LDT that is data", FIELD(ldt), L_DATA(0), 0, VECTOR_TS, L_DATA(0) },
		{ "LDT with TI", FIELD(ldt), L_LDT | 4, 0, VECTOR_TS, L_LDT | 4 },
		{ "LDT that is not present", FIELD(ldt), L_SPARE, descriptor(SCRATCH, 0xff, D_LDT & ~D_P), VECTOR_TS, L_SPARE },
		{ "LDT beyond the GDT", FIELD(ldt), L_ENTRIES * 8, 0, VECTOR_TS, L_ENTRIES * 8 },
		{ "null CS", FIELD(cs), 3, 0, VECTOR_TS, 0 },
		{ "CS beyond the GDT", FIELD(cs), L_ENTRIES * 8 | 3, 0, VECTOR_TS, L_ENTRIES * 8 },
		{ "CS that is data", FIELD(cs), (u32)L_DATA(3), 0, VECTOR_TS, (u32)L_DATA(3) - 3 },
		{ "CS of DPL 0 with RPL 3", FIELD(cs), L_SPARE | 3, FLAT(D_CODE), VECTOR_TS, L_SPARE },
		{ "conforming CS of DPL 0 with RPL 3", FIELD(cs), L_SPARE | 3, FLAT(D_CODE | D_CONFORMING), VECTOR_USER_EXIT, 0 },
		{ "CS that is not present", FIELD(cs), L_SPARE | 3, FLAT((D_CODE & ~D_P) | D_DPL(3)), VECTOR_NP, L_SPARE },
		{ "null SS", FIELD(ss), 3, 0, VECTOR_TS, 0 },
		{ "SS that is code", FIELD(ss), (u32)L_CODE(3), 0, VECTOR_TS, (u32)L_CODE(3) - 3 },
		{ "SS that is read-only", FIELD(ss), L_SPARE | 3, FLAT(0x90 | D_DPL(3)), VECTOR_TS, L_SPARE },
		{ "SS of DPL 0", FIELD(ss), L_DATA(0), 0, VECTOR_TS, L_DATA(0) },
		{ "SS of DPL 0 with RPL 3", FIELD(ss), L_DATA(0) | 3, 0, VECTOR_TS, L_DATA(0) },
		{ "SS that is not present", FIELD(ss), L_SPARE | 3, FLAT((D_DATA & ~D_P) | D_DPL(3)), VECTOR_SS, L_SPARE },
		{ "null DS", FIELD(ds), 3, 0, VECTOR_USER_EXIT, 0 },
		{ "DS of DPL 0", FIELD(ds), L_DATA(0), 0, VECTOR_TS, L_DATA(0) },
		{ "DS that is execute-only", FIELD(ds), L_SPARE | 3, FLAT(0x98 | D_DPL(3)), VECTOR_TS, L_SPARE },
		{ "DS that is not present", FIELD(ds), L_SPARE | 3, FLAT((D_DATA & ~D_P) | D_DPL(3)), VECTOR_NP, L_SPARE },
		{ "ES that is a TSS", FIELD(es), L_TSS, 0, VECTOR_TS, L_TSS },
		{ "FS beyond the GDT", FIELD(fs), L_ENTRIES * 8, 0, VECTOR_TS, L_ENTRIES * 8 },
		{ "GS of an LDT that is not there", FIELD(gs), 12, 0, VECTOR_TS, 12 },
		{ "EIP beyond the limit", FIELD(cs), L_SPARE | 3, descriptor(0, 0xfff, D_CODE | D_DPL(3) | D_BIG), VECTOR_GP, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		legacy_reset();
		task2(nothing, 3);
		SPARE = cases[i].spare;
		*(u32 *)((u8 *)&legacy_tss2 + cases[i].offset) = cases[i].value;
		if (cases[i].vector == VECTOR_USER_EXIT) {
			run_protected(jump, 0, to_selector(L_TSS2));
			check(event.vector == VECTOR_USER_EXIT, "%s: exception %d, error code %x", cases[i].what, event.vector, event.error);
		} else {
			in_new_task(cases[i].what, cases[i].vector, cases[i].error);
		}
	}
}

void test_bad_links(void)
{
	struct { const char *what; u32 link; u64 tss; int vector; u32 error; } cases[] = {
		{ "null", 0, 0, VECTOR_TS, 0 },
		{ "TI", L_TSS2 | 4, 0, VECTOR_TS, L_TSS2 | 4 },
		{ "beyond the GDT", L_ENTRIES * 8, 0, VECTOR_TS, L_ENTRIES * 8 },
		{ "data", L_DATA(0), 0, VECTOR_TS, L_DATA(0) },
		{ "not busy", L_TSS2, descriptor(SCRATCH, 0xfff, D_TSS32), VECTOR_TS, L_TSS2 },
		{ "not present", L_TSS2, descriptor(SCRATCH, 0xfff, (D_TSS32 | 2) & ~D_P), VECTOR_NP, L_TSS2 },
		{ "too short", L_TSS2, descriptor(SCRATCH, 0x66, D_TSS32 | 2), VECTOR_TS, L_TSS2 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		legacy_reset();
		legacy_tss.tss.link = cases[i].link;
		legacy_gdt[L_TSS2 / 8] = cases[i].tss;
		legacy.eflags = FLAG_NT;
		expect32(cases[i].what, iretd, 0, (struct legacy_regs){ 0 }, cases[i].vector, cases[i].error, 0);
		check(event.eflags & FLAG_NT && legacy.out.tr == L_TSS && is_busy(L_TSS), "%s: EFLAGS %x TR %x", cases[i].what, event.eflags, legacy.out.tr);
	}
	// Any ring may use the link; the DPL of the TSS is not looked at.
	legacy_reset();
	task2(nothing, 0);
	legacy_gdt[L_TSS2 / 8] |= BUSY;
	legacy_tss.tss.link = L_TSS2;
	legacy.eflags = FLAG_NT;
	run_protected(iretd, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.cs == L_CODE(0) && legacy.out.tr == L_TSS2 && !is_busy(L_TSS) && !(legacy_tss.tss.eflags & FLAG_NT),
	      "IRET of ring 3: exception %d, CS %x, EFLAGS in the TSS %x", event.vector, event.cs, legacy_tss.tss.eflags);
}

void test_event_errors(void)
{
	legacy_idt[VECTOR_GP] = gate_descriptor(L_TSS2, 0, D_GATE_TASK, 0);
	for (int ring = 0; ring < 4; ring++) {
		task2(nothing, 0);
		run_protected(load_bad, ring, (struct legacy_regs){ .eax = L_ENTRIES * 8 });
		check(event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(2) - 4 && read32(event.esp) == L_ENTRIES * 8, "#GP from ring %d: exception %d, ESP %x, error code %x", ring,
		      event.vector, event.esp, read32(event.esp));
	}
	task2(nothing, 0);
	run_protected(general, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(2) - 4 && read32(event.esp) == 0, "#GP(0): error code %x", read32(event.esp));
	// What has none, pushes none.
	legacy_idt[VECTOR_UD] = gate_descriptor(L_TSS2, 0, D_GATE_TASK, 0);
	task2(nothing, 0);
	run_protected(undefined, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.esp == STACK_TOP(2), "#UD: ESP %x", event.esp);
}
