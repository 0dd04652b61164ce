// Loading segment registers. SDM 2B "MOV", 3A "Privilege Level Checking When Accessing Data Segments" and
// "Privilege Level Checking When Loading the SS Register".
#include "protected32.h"

CODE32(undefined, "ud2")
CODE32(mov_ds, "mov %eax, %ds")
CODE32(mov_fs, "mov %eax, %fs")
CODE32(pop_gs, "push %eax; pop %gs")
CODE32(les, "les (%edi), %ecx")
CODE32(mov_ss, "mov %eax, %ss; mov %ebx, %ss")
CODE32(pop_ss, "push %eax; pop %ss; mov %ebx, %ss")
CODE32(lss, "lss (%edi), %esp; mov %ebx, %ss")
CODE32(mov_cs, ".byte 0x8e, 0xc8; nop")
CODE32(load_fs, "mov %eax, %fs; mov %fs:(%edi), %ecx")
CODE32(use_ds, "mov %eax, %ds; mov (%edi), %ecx")

void test_frames(void)
{
	for (int ring = 0; ring < 4; ring++) {
		legacy.eflags = FLAG_CF | FLAG_OF;
		expect32("UD2", undefined, ring, (struct legacy_regs){ .eax = 1, .edi = 7 }, VECTOR_UD, 0, 0);
		check(event.cs == (u32)L_CODE(ring) && event.ss == (u32)L_DATA(ring) && event.esp == STACK_TOP(ring), "ring %d: CS %x SS %x ESP %x", ring,
		      event.cs, event.ss, event.esp);
		check(event.eflags == (FLAG_CF | FLAG_OF | FLAG_1 | FLAG_RF), "ring %d: EFLAGS %x", ring, event.eflags);
		check(legacy.out.regs.eax == 1 && legacy.out.regs.edi == 7, "ring %d: registers", ring);
		check(legacy.out.esp == STACK_TOP(0) - (ring ? 20 : 12), "ring %d: ESP of the handler %x", ring, legacy.out.esp);
	}
}

// S and type; true for what DS may hold.
static bool readable(u32 type)
{
	return type & 16 && (!(type & 8) || type & 2);
}

static bool conforming_code(u32 type)
{
	return (type & 28) == 28;
}

// Every type, DPL, RPL and CPL, present or not.
static void each(void (*one)(u32 type, u32 dpl, u32 rpl, u32 cpl, u32 present))
{
	for (u32 type = 0; type < 32; type++)
		for (u32 levels = 0; levels < 64; levels++)
			for (u32 present = 0; present < 2; present++) {
				SPARE = descriptor(SCRATCH, 0xfff, type | D_DPL(levels & 3) | present << 7 | D_BIG);
				one(type, levels & 3, levels >> 2 & 3, levels >> 4, present);
			}
}

static void data_segment(u32 type, u32 dpl, u32 rpl, u32 cpl, u32 present)
{
	u32 selector = L_SPARE | rpl;
	int vector = VECTOR_USER_EXIT;
	if (!readable(type) || (!conforming_code(type) && (rpl > dpl || cpl > dpl)))
		vector = VECTOR_GP;
	else if (!present)
		vector = VECTOR_NP;
	run_protected(mov_fs, (int)cpl, (struct legacy_regs){ .eax = selector });
	check(event.vector == vector && event.error == (vector == VECTOR_USER_EXIT ? 0 : L_SPARE)
	      && (vector != VECTOR_USER_EXIT || legacy.out.fs == selector),
	      "type %x DPL %u RPL %u CPL %u P %u: exception %d, error code %x, FS %x", type, dpl, rpl, cpl, present, event.vector, event.error,
	      legacy.out.fs);
}

void test_data_segments(void)
{
	each(data_segment);
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG) & ~(1ul << 47);
	struct { u32 offset; u16 selector; } PACKED pointer = { 0x1234, L_SPARE };
	memcpy(legacy_scratch, &pointer, sizeof pointer);
	struct legacy_regs r = { .eax = L_SPARE, .edi = SCRATCH };
	expect32("MOV DS", mov_ds, 0, r, VECTOR_NP, L_SPARE, 0);
	expect32("POP GS", pop_gs, 0, r, VECTOR_NP, L_SPARE, 1);
	check(event.esp == STACK_TOP(0) - 4, "POP GS leaves ESP: %x", event.esp);
	expect32("LES", les, 0, r, VECTOR_NP, L_SPARE, 0);
	check(legacy.out.regs.ecx == 0, "LES leaves ECX: %x", legacy.out.regs.ecx);
	SPARE |= 1ul << 47;
	passes32("LES", les, 0, r);
	check(legacy.out.es == L_SPARE && legacy.out.regs.ecx == 0x1234, "LES: %x:%x", legacy.out.es, legacy.out.regs.ecx);
	expect32("MOV CS", mov_cs, 0, r, VECTOR_UD, 0, 0);
}

static void stack_segment(u32 type, u32 dpl, u32 rpl, u32 cpl, u32 present)
{
	int vector = VECTOR_USER_EXIT;
	if (rpl != cpl || dpl != cpl || (type & 26) != 18)
		vector = VECTOR_GP;
	else if (!present)
		vector = VECTOR_SS;
	run_protected(mov_ss, (int)cpl, (struct legacy_regs){ .eax = L_SPARE | rpl, .ebx = (u32)L_DATA(cpl) });
	check(event.vector == vector && event.error == (vector == VECTOR_USER_EXIT ? 0 : L_SPARE),
	      "type %x DPL %u RPL %u CPL %u P %u: exception %d, error code %x", type, dpl, rpl, cpl, present, event.vector, event.error);
}

void test_stack_segments(void)
{
	each(stack_segment);
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG) & ~(1ul << 47);
	struct { u32 offset; u16 selector; } PACKED pointer = { 0x800, L_SPARE };
	memcpy(legacy_scratch, &pointer, sizeof pointer);
	struct legacy_regs r = { .eax = L_SPARE, .ebx = L_DATA(0), .edi = SCRATCH };
	expect32("POP SS", pop_ss, 0, r, VECTOR_SS, L_SPARE, 1);
	check(event.esp == STACK_TOP(0) - 4, "POP SS leaves ESP: %x", event.esp);
	expect32("LSS", lss, 0, r, VECTOR_SS, L_SPARE, 0);
	check(event.esp == STACK_TOP(0), "LSS leaves ESP: %x", event.esp);
	for (u32 ring = 0; ring < 4; ring++) {
		expect32("null selector", mov_ss, (int)ring, (struct legacy_regs){ .eax = ring }, VECTOR_GP, 0, 0);
		expect32("null selector with another RPL", mov_ss, (int)ring, (struct legacy_regs){ .eax = ring ^ 1 }, VECTOR_GP, 0, 0);
	}
}

// SDM 3A "Segment Descriptors": the processor sets A when it loads the selector.
void test_accessed(void)
{
	const u64 accessed = 1ul << 40;
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	passes32("MOV FS", mov_fs, 0, (struct legacy_regs){ .eax = L_SPARE });
	check(SPARE & accessed, "MOV FS");
	SPARE = descriptor(SCRATCH, 0xfff, D_CODE | D_BIG);
	passes32("MOV FS of a code segment", mov_fs, 0, (struct legacy_regs){ .eax = L_SPARE });
	check(SPARE & accessed, "MOV FS of a code segment");
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	passes32("MOV SS", mov_ss, 0, (struct legacy_regs){ .eax = L_SPARE, .ebx = L_DATA(0) });
	check(SPARE & accessed, "MOV SS");
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	expect32("MOV FS that is refused", mov_fs, 3, (struct legacy_regs){ .eax = L_SPARE | 3 }, VECTOR_GP, L_SPARE, 0);
	check(!(SPARE & accessed), "MOV FS that is refused");
}

void test_table_limits(void)
{
	u32 last = L_ENTRIES * 8 - 8;
	legacy_gdt[L_ENTRIES - 1] = legacy_ldt[1] = descriptor(SCRATCH, 0xfff, D_DATA | D_BIG);
	passes32("last of the GDT", mov_fs, 0, (struct legacy_regs){ .eax = last });
	expect32("beyond the GDT", mov_fs, 0, (struct legacy_regs){ .eax = last + 8 }, VECTOR_GP, last + 8, 0);
	legacy.gdtr.limit--;
	expect32("partly beyond the GDT", mov_fs, 0, (struct legacy_regs){ .eax = last }, VECTOR_GP, last, 0);
	legacy.gdtr.limit++;

	// No LDT: whatever has TI set is beyond its limit.
	for (u32 selector = 4; selector < 0x100; selector += 8)
		expect32("LDT that was not loaded", mov_fs, 0, (struct legacy_regs){ .eax = selector }, VECTOR_GP, selector, 0);
	expect32("SS of an LDT that was not loaded", mov_ss, 0, (struct legacy_regs){ .eax = 8 | 4 }, VECTOR_GP, 8 | 4, 0);
	legacy.ldtr = L_LDT;
	passes32("LDT", mov_fs, 0, (struct legacy_regs){ .eax = 8 | 4 });
	check(legacy.out.fs == 12 && legacy.out.ldtr == L_LDT, "LDT: FS %x LDTR %x", legacy.out.fs, legacy.out.ldtr);
	// Selector 4 is the first entry of the LDT and no null selector.
	expect32("first of the LDT, which is 0", mov_fs, 0, (struct legacy_regs){ .eax = 4 }, VECTOR_GP, 4, 0);
	u32 beyond = sizeof legacy_ldt | 4;
	expect32("beyond the LDT", mov_fs, 0, (struct legacy_regs){ .eax = beyond }, VECTOR_GP, beyond, 0);
	legacy_gdt[L_LDT / 8] = descriptor((u32)(u64)legacy_ldt, 14, D_LDT);
	expect32("partly beyond the LDT", mov_fs, 0, (struct legacy_regs){ .eax = 8 | 4 }, VECTOR_GP, 8 | 4, 0);
	legacy_gdt[L_LDT / 8] = descriptor((u32)(u64)legacy_ldt, 15, D_LDT);
	passes32("within the LDT", mov_fs, 0, (struct legacy_regs){ .eax = 8 | 4 });
}

// SDM 3A "Segment Selectors": loading a null selector is no fault, using it is.
void test_null_segments(void)
{
	for (u32 null = 0; null < 4; null++) {
		struct legacy_regs r = { .eax = null, .edi = SCRATCH };
		passes32("MOV FS", mov_fs, 0, r);
		check(legacy.out.fs == null, "FS reads %x", legacy.out.fs);
		expect32("access by FS", load_fs, 0, r, VECTOR_GP, 0, 2);
		expect32("access by DS", use_ds, 3, r, VECTOR_GP, 0, 2);
	}
}
