// Code segments of 16 bits, and instructions at their limits: SDM 3A "Mixing 16-Bit and 32-Bit Code", 1 "Operand-Size and Address-Size
// Attributes", 2B "REP".
#include "protected32.h"

CODE16(widths, "mov $0x1234, %ax; mov $0x89abcdef, %ebx; push %ax; mov %esp, %ecx; pop %ax; pushl %ebx; mov %esp, %edx; popl %ebx; addr32 lea 0x10(%ebx), %esi; lea 0x10(%bx), %edi")
CODE16(near_calls, "call 1f; jmp 2f; 1: mov %esp, %ebx; ret; 2: calll 3f; jmp 4f; 3: mov %esp, %ecx; retl; 4: mov %esp, %edx")
CODE16(jump_wrap, "jmp . - 0x100; nop")
CODE16(jump_indirect, "jmp *%bx; nop")
CODE16(jump_wide, "jmpl *%ebx; nop")
CODE16(ret_wide, "pushl %ebx; retl")
CODE16(memory, "mov (%bx, %si), %al; mov 0x7000(%bx), %ah; addr32 mov (%ebx, %esi, 2), %cl")
CODE16(loads, "mov (%bx), %ax")
CODE32(long_nop, ".byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90")
CODE32(too_long, ".byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90")
CODE32(lock_mov, "nop; .byte 0xf0; mov %eax, (%edi)")
CODE32(lock_register, "nop; .byte 0xf0; add %eax, %ecx")
CODE32(rep_movsd, "mov %eax, %es; rep movsl")
CODE32(rep_movsd_ds, "mov %eax, %fs; rep movsl %fs:(%esi), %es:(%edi)")
CODE32(rep_stosb_down, "mov %eax, %es; std; rep stosb; cld")
CODE32(repe_cmpsb, "mov %eax, %es; repe cmpsb; pushf; pop %edx")
CODE32(rep_stosw, "mov %eax, %es; rep stosw")

#define LENGTH(c) ((u32)((c).end - (c).start))

// The code segment begins at the code.
static void run16(struct code c, int ring, struct legacy_regs regs)
{
	SPARE = descriptor((u32)(u64)c.start, 0xffff, D_CODE | D_DPL(ring));
	legacy_at(c, ring);
	legacy.eip = 0;
	legacy.cs = L_SPARE | (u32)ring;
	legacy.regs = regs;
	legacy_run();
}

static void arrives(const char *what, struct code c)
{
	check(event.vector == VECTOR_USER_EXIT && event.eip == LENGTH(c), "%s: exception %d, error code %x at %x", what, event.vector, event.error, event.eip);
}

void test_code16(void)
{
	for (int ring = 0; ring < 4; ring++) {
		u32 esp = STACK_TOP(ring);
		run16(widths, ring, (struct legacy_regs){ .eax = 0xffffffff });
		const struct legacy_regs *o = &legacy.out.regs;
		arrives("widths", widths);
		check(o->eax == 0xffff1234 && o->ebx == 0x89abcdef && o->ecx == esp - 2 && o->edx == esp - 4 && o->esi == 0x89abcdff && o->edi == 0xcdff,
		      "ring %d: EAX %x EBX %x, ESP %x and %x, LEA %x %x", ring, o->eax, o->ebx, o->ecx, o->edx, o->esi, o->edi);
		run16(near_calls, ring, (struct legacy_regs){ 0 });
		arrives("near calls", near_calls);
		check(o->ebx == esp - 2 && o->ecx == esp - 4 && o->edx == esp, "ring %d: CALL of 16 bits %x, of 32 %x, then %x", ring, o->ebx, o->ecx, o->edx);
	}
	run16(jump_indirect, 0, (struct legacy_regs){ .ebx = 0xabcd0002 });
	arrives("JMP BX", jump_indirect);
	run16(jump_wide, 0, (struct legacy_regs){ .ebx = 0x10003 });
	check(event.vector == VECTOR_GP && event.eip == 0, "JMP EBX beyond the limit: exception %d at %x", event.vector, event.eip);
	run16(ret_wide, 0, (struct legacy_regs){ .ebx = 0x10003 });
	check(event.vector == VECTOR_GP && event.eip == 2 && event.esp == STACK_TOP(0) - 4, "RETD beyond the limit: exception %d at %x", event.vector, event.eip);
	// IP wraps at 64 KiB: below 0 is FF00h and above, beyond a limit of 7FFFh.
	SPARE = descriptor((u32)(u64)jump_wrap.start, 0x7fff, D_CODE);
	legacy_at(jump_wrap, 0);
	legacy.eip = 0;
	legacy.cs = L_SPARE;
	legacy_run();
	check(event.vector == VECTOR_GP && event.error == 0 && event.eip == 0, "JMP below 0: exception %d at %x", event.vector, event.eip);
	// Addresses of 16 bits wrap within the segment, of 32 bits do not.
	legacy_gdt[L_SPARE / 8 + 1] = descriptor(SCRATCH, 0xfff, D_DATA);
	legacy_scratch[0x10] = 0x11;
	legacy_scratch[0x20] = 0x22;
	legacy_scratch[0x30] = 0x33;
	SPARE = descriptor((u32)(u64)memory.start, 0xffff, D_CODE);
	legacy_at(memory, 0);
	legacy.eip = 0;
	legacy.cs = L_SPARE;
	legacy.ds = L_SPARE + 8;
	legacy.regs = (struct legacy_regs){ .ebx = 0xffff9020, .esi = 0x6ff0 };
	legacy_run();
	// The last access has an offset above the limit.
	check(event.vector == VECTOR_GP && (legacy.out.regs.eax & 0xffff) == 0x2211, "addresses: exception %d, AX %x", event.vector, legacy.out.regs.eax);
	run16(loads, 0, (struct legacy_regs){ .ebx = 0x100 });
	arrives("load", loads);
}

// SDM 2A "Instruction Format": 15 bytes at most. LOCK stands before few instructions.
void test_lengths(void)
{
	passes32("15 bytes", long_nop, 0, (struct legacy_regs){ 0 });
	expect32("16 bytes", too_long, 0, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 0);
	expect32("16 bytes at ring 3", too_long, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 0);
	expect32("LOCK MOV", lock_mov, 0, (struct legacy_regs){ .edi = SCRATCH }, VECTOR_UD, 0, 1);
	expect32("LOCK ADD to a register", lock_register, 0, (struct legacy_regs){ 0 }, VECTOR_UD, 0, 1);
}

// A string that reaches a limit stops before the element that does not fit, with its registers there.
void test_strings(void)
{
	u64 *spare = &SPARE;
	for (u32 i = 0; i < 256; i++)
		legacy_scratch[i] = (u8)(i * 5);
	*spare = descriptor(SCRATCH + 0x800, 0x1f, D_DATA | D_BIG | D_DPL(3));
	struct legacy_regs r = { .eax = L_SPARE | 3, .ecx = 20, .esi = SCRATCH, .edi = 2 };
	for (int ring = 0; ring < 4; ring += 3) {
		expect32("REP MOVSD to a limit", rep_movsd, ring, r, VECTOR_GP, 0, 2);
		check(legacy.out.regs.ecx == 13 && legacy.out.regs.edi == 0x1e && legacy.out.regs.esi == SCRATCH + 28 && !memcmp(legacy_scratch, legacy_scratch + 0x802, 28),
		      "REP MOVSD to a limit: ECX %u EDI %x", legacy.out.regs.ecx, legacy.out.regs.edi);
	}
	r = (struct legacy_regs){ .eax = L_SPARE | 3, .ecx = 20, .esi = 2, .edi = SCRATCH + 0x400 };
	expect32("REP MOVSD from a limit", rep_movsd_ds, 3, r, VECTOR_GP, 0, 2);
	check(legacy.out.regs.ecx == 13 && legacy.out.regs.esi == 0x1e, "REP MOVSD from a limit: ECX %u ESI %x", legacy.out.regs.ecx, legacy.out.regs.esi);
	r = (struct legacy_regs){ .eax = L_SPARE | 3, .ecx = 8, .edi = 4 };
	expect32("REP STOSB below 0", rep_stosb_down, 3, r, VECTOR_GP, 0, 3);
	check(legacy.out.regs.ecx == 3 && legacy.out.regs.edi == 0xffffffff, "REP STOSB below 0: ECX %u EDI %x", legacy.out.regs.ecx, legacy.out.regs.edi);
	// A comparison that ends before the limit does not come there.
	memset(legacy_scratch + 0x810, 0, 16);
	legacy_scratch[0x100] = legacy_scratch[0x101] = 0;
	legacy_scratch[0x102] = 1;
	r = (struct legacy_regs){ .eax = L_SPARE | 3, .ecx = 100, .esi = SCRATCH + 0x100, .edi = 0x1c };
	passes32("REPE CMPSB", repe_cmpsb, 3, r);
	check(legacy.out.regs.ecx == 97 && !(legacy.out.regs.edx & FLAG_ZF), "REPE CMPSB: ECX %u", legacy.out.regs.ecx);
	// Expand-down, and the two bytes of an element on both sides.
	*spare = descriptor(SCRATCH + 0x800, 0x1f, D_DATA | D_DOWN | D_BIG | D_DPL(3));
	r = (struct legacy_regs){ .eax = L_SPARE | 3, .ecx = 2, .edi = 0x1f };
	expect32("REP STOSW at the limit of an expand-down segment", rep_stosw, 3, r, VECTOR_GP, 0, 2);
	r.edi = 0x20;
	passes32("REP STOSW above it", rep_stosw, 3, r);
	// Nothing to move is nothing to check.
	r.edi = 0;
	r.ecx = 0;
	passes32("REP STOSW of none", rep_stosw, 3, r);
}
