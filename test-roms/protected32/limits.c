// Limits and types. SDM 3A "Limit Checking", "Type Checking".
#include "protected32.h"

#define FILL 0x5a

#define ACCESS(name, access) CODE32(name##_fs, "mov %eax, %fs; " access " %fs:(%edi)") \
	CODE32(name##_ss, "mov %eax, %ss; " access " (%ebp); mov %ebx, %ss")
CODE32(load1_fs, "mov %eax, %fs; mov %fs:(%edi), %cl")
CODE32(load1_ss, "mov %eax, %ss; mov (%ebp), %cl; mov %ebx, %ss")
CODE32(load2_fs, "mov %eax, %fs; mov %fs:(%edi), %cx")
CODE32(load2_ss, "mov %eax, %ss; mov (%ebp), %cx; mov %ebx, %ss")
CODE32(load4_fs, "mov %eax, %fs; mov %fs:(%edi), %ecx")
CODE32(load4_ss, "mov %eax, %ss; mov (%ebp), %ecx; mov %ebx, %ss")
ACCESS(store4, "movl $1, ")
ACCESS(add4, "addl $1, ")
ACCESS(load8, "fildll ")
ACCESS(load10, "fldt ")

struct access { const char *what; const struct code *fs, *ss; u32 size; bool write; };
static const struct access accesses[] = {
	{ "load of 1", &load1_fs, &load1_ss, 1, false }, { "load of 2", &load2_fs, &load2_ss, 2, false },
	{ "load of 4", &load4_fs, &load4_ss, 4, false }, { "store of 4", &store4_fs, &store4_ss, 4, true },
	{ "add to 4", &add4_fs, &add4_ss, 4, true },     { "FILD of 8", &load8_fs, &load8_ss, 8, false },
	{ "FLD of 10", &load10_fs, &load10_ss, 10, false },
};

// Whether bytes of a segment may be accessed. An access never wraps here.
static bool within(u32 rights, u32 limit, u32 offset, u32 size)
{
	u64 last = (u64)offset + size - 1, bytes = rights & D_G ? (u64)limit << 12 | 0xfff : limit;
	if ((rights & (8 | D_DOWN)) == D_DOWN)
		return offset > bytes && last <= (rights & D_BIG ? 0xffffffff : 0xffff);
	return last <= bytes;
}

static void at(const struct access *a, u32 rights, u32 limit, u32 offset)
{
	bool ok = within(rights, limit, offset, a->size);
	struct legacy_regs r = { .eax = L_SPARE | 3, .ebx = L_DATA(3), .edi = offset, .ebp = offset };
	run_protected(*a->fs, 3, r);
	check(event.vector == (ok ? VECTOR_USER_EXIT : VECTOR_GP) && event.error == 0, "%s at %x of limit %x, rights %x: exception %d, error code %x", a->what,
	      offset, limit, rights, event.vector, event.error);
	run_protected(*a->ss, 3, r);
	check(event.vector == (ok ? VECTOR_USER_EXIT : VECTOR_SS) && event.error == 0, "%s at %x of the stack, limit %x, rights %x: exception %d, error code %x",
	      a->what, offset, limit, rights, event.vector, event.error);
}

static void around(u32 rights, u32 limit, u32 centre)
{
	// Offset 0xfff8 is where the middle of the segment's memory lies.
	SPARE = descriptor(SCRATCH + 2048 - centre, limit, rights | D_DPL(3));
	for (size_t i = 0; i < ARRAY_SIZE(accesses); i++)
		for (u32 offset = centre - 12; offset != centre + 4; offset++)
			if (offset + accesses[i].size - 1 >= offset)	// no wrap
				at(&accesses[i], rights, limit, offset);
}

void test_limits(void)
{
	around(D_DATA | D_BIG, 0xfff, 0xfff);
	around(D_DATA, 0x1234, 0x1234);
	around(D_DATA | D_BIG, 0xfffff, 0xfffff);
	around(D_DATA | D_BIG | D_G, 0, 0xfff);
	around(D_DATA | D_BIG | D_G, 0x123, 0x123fff);
	around(D_DATA | D_BIG, 0, 12);
	// Expand-down: from the limit on, and up to 64 KiB or 4 GiB.
	around(D_DATA | D_DOWN | D_BIG, 0xfff, 0x1000);
	around(D_DATA | D_DOWN, 0xfff, 0x1000);
	around(D_DATA | D_DOWN, 0xfff, 0x10000);
	around(D_DATA | D_DOWN | D_BIG, 0xfff, 0x10000);
	around(D_DATA | D_DOWN | D_BIG | D_G, 0x12, 0x13000);
	around(D_DATA | D_DOWN | D_BIG, 0xfff, 0xfffffffc);
	around(D_DATA | D_DOWN | D_BIG | D_G, 0xfffff, 0x13000);	// nothing is left of it
}

CODE32(push, "mov %eax, %ss; mov %edi, %esp; push %ecx")
CODE32(pop, "mov %eax, %ss; mov %edi, %esp; pop %ecx")
CODE32(pusha, "mov %eax, %ss; mov %edi, %esp; pusha")
CODE32(popa, "mov %eax, %ss; mov %edi, %esp; popa")
CODE32(enter, "mov %eax, %ss; mov %edi, %esp; enter $16, $0")
CODE32(leave, "mov %eax, %ss; mov %edi, %ebp; leave")
CODE32(call_near, "mov %eax, %ss; mov %edi, %esp; call 1f; 1:")
CODE32(ret_near, "mov %eax, %ss; mov %edi, %esp; ret")
CODE32(push_far, "mov %eax, %ss; mov %edi, %esp; pushl %fs:(%ecx)")

static void stack(const char *what, struct code c, u32 esp, bool ok)
{
	run_protected(c, 3, (struct legacy_regs){ .eax = L_SPARE | 3, .edi = esp, .ebp = 0x55 });
	check(event.vector == (ok ? VECTOR_USER_EXIT : VECTOR_SS) && event.error == 0, "%s, ESP %x: exception %d, error code %x at +%d", what, esp,
	      event.vector, event.error, (i32)(event.eip - (u32)(u64)c.start));
	if (!ok)
		check(event.esp == esp || c.start == leave.start, "%s leaves ESP: %x, should be %x", what, event.esp, esp);
}

void test_stack_limits(void)
{
	SPARE = descriptor(SCRATCH, 0xff, D_DATA | D_BIG | D_DPL(3));
	stack("PUSH", push, 0x100, true);
	stack("PUSH", push, 0x101, false);
	stack("PUSH", push, 4, true);
	stack("PUSH", push, 3, false);	// wraps
	stack("POP", pop, 0xfc, true);
	stack("POP", pop, 0xfd, false);
	stack("PUSHA", pusha, 32, true);
	stack("PUSHA", pusha, 28, false);
	stack("PUSHA", pusha, 0x104, false);
	stack("POPA", popa, 0xe0, true);
	stack("POPA", popa, 0xe4, false);
	stack("ENTER", enter, 0x100, true);
	stack("ENTER", enter, 0x101, false);
	stack("LEAVE", leave, 0xfc, true);
	stack("LEAVE", leave, 0xfe, false);
	stack("CALL", call_near, 0x100, true);
	stack("CALL", call_near, 0x102, false);
	stack("RET", ret_near, 0xfd, false);
	// The operand's segment counts, not the stack's, where the operand is what is wrong.
	run_protected(push_far, 3, (struct legacy_regs){ .eax = L_SPARE | 3, .edi = 0x80 });
	check(event.vector == VECTOR_GP && event.error == 0, "PUSH of an operand by a null FS: exception %d", event.vector);

	SPARE = descriptor(SCRATCH, 0xff, D_DATA | D_DOWN | D_BIG | D_DPL(3));
	stack("PUSH, expand-down", push, 0x104, true);
	stack("PUSH, expand-down", push, 0x103, false);
	stack("POP, expand-down", pop, 0x100, true);
	stack("POP, expand-down", pop, 0xff, false);
}

CODE32(load_fs, "mov %eax, %fs; mov %fs:(%edi), %ecx")
CODE32(store_fs, "mov %eax, %fs; mov %ecx, %fs:(%edi)")
CODE32(load_cs, "nop; nop; mov %cs:(%edi), %ecx")
CODE32(store_cs, "nop; nop; mov %ecx, %cs:(%edi)")
CODE32(store_ro_lock, "mov %eax, %fs; lock incl %fs:(%edi)")
CODE32(cmp_ro, "mov %eax, %fs; cmp %ecx, %fs:(%edi)")

CODE32(xlat_cs, "nop; nop; xlat %cs:(%ebx)")
CODE32(maskmov_cs, "pcmpeqb %xmm0, %xmm0; .byte 0x2e; maskmovdqu %xmm0, %xmm0")
CODE32(movs_cs, "nop; nop; rep movsb %cs:(%esi), %es:(%edi)")

void test_types(void)
{
	struct legacy_regs r = { .eax = L_SPARE };
	SPARE = descriptor(SCRATCH, 0xfff, 0x90 | D_BIG);
	passes32("read-only data", load_fs, 0, r);
	passes32("comparison with read-only data", cmp_ro, 0, r);
	expect32("store to read-only data", store_fs, 0, r, VECTOR_GP, 0, 2);
	expect32("LOCK INC of read-only data", store_ro_lock, 0, r, VECTOR_GP, 0, 2);
	SPARE = descriptor(SCRATCH, 0xfff, D_CODE | D_BIG);
	passes32("readable code", load_fs, 0, r);
	expect32("store to readable code", store_fs, 0, r, VECTOR_GP, 0, 2);
	// Not readable code cannot be loaded into FS, but is in CS.
	SPARE = descriptor(0, 0xfffff, 0x98 | D_BIG | D_G);
	legacy_at(load_cs, 0);
	legacy.cs = L_SPARE;
	legacy.regs = (struct legacy_regs){ .edi = SCRATCH };
	legacy_run();
	check(event.vector == VECTOR_GP && event.error == 0, "load from execute-only code: exception %d", event.vector);
	r.edi = SCRATCH;
	passes32("load from CS", load_cs, 0, r);
	expect32("store to CS", store_cs, 0, r, VECTOR_GP, 0, 2);
	expect32("store to CS at ring 3", store_cs, 3, r, VECTOR_GP, 0, 2);
	legacy.cr4 = CR4_OSFXSR;
	expect32("MASKMOVDQU to CS", maskmov_cs, 3, r, VECTOR_GP, 0, 4);
	legacy.cr4 = 0;
	r = (struct legacy_regs){ .ebx = SCRATCH, .ecx = 40, .esi = SCRATCH, .edi = SCRATCH + 64 };
	passes32("XLAT by CS", xlat_cs, 3, r);
	passes32("REP MOVSB from CS", movs_cs, 3, r);
	// The same where CS is flat, but may only be executed.
	SPARE = descriptor(0, 0xfffff, 0x98 | D_DPL(3) | D_BIG | D_G);
	const struct code *executed[] = { &xlat_cs, &movs_cs };
	for (size_t i = 0; i < 2; i++) {
		legacy_at(*executed[i], 3);
		legacy.cs = L_SPARE | 3;
		legacy.regs = r;
		legacy_run();
		check(event.vector == VECTOR_GP && event.error == 0 && event.eip == (u32)(u64)executed[i]->start + 2, "XLAT, REP MOVSB by an execute-only CS: exception %d", event.vector);
	}
}

CODE32(five_nops, "nop; nop; nop; nop; nop")
CODE32(jump_out, "jmp . + 0x1000")
CODE32(call_out, "call . + 0x1000")
CODE32(jump_indirect, "jmp *%eax")
CODE32(ret_out, "push %eax; ret")

// The code segment begins at the code and has this limit.
static void fetch(const char *what, struct code c, u32 limit, u32 eax, int vector, i32 offset)
{
	SPARE = descriptor((u32)(u64)c.start, limit, D_CODE | D_BIG);
	legacy_at(c, 0);
	legacy.eip = 0;
	legacy.cs = L_SPARE;
	legacy.regs = (struct legacy_regs){ .eax = eax };
	legacy_run();
	check(event.vector == vector && event.error == 0 && event.eip == (u32)offset, "%s: exception %d, error code %x at %x, should be %d at %x", what,
	      event.vector, event.error, event.eip, vector, offset);
}

void test_fetch_limits(void)
{
	// Five NOPs and INT 80h of 2 bytes.
	fetch("code within the limit", five_nops, 6, 0, VECTOR_USER_EXIT, 7);
	fetch("INT that the limit cuts", five_nops, 5, 0, VECTOR_GP, 5);
	fetch("code beyond the limit", five_nops, 4, 0, VECTOR_GP, 5);
	fetch("NOP beyond the limit", five_nops, 2, 0, VECTOR_GP, 3);
	// A near jump beyond the limit is the jump's fault.
	fetch("JMP beyond the limit", jump_out, 0x800, 0, VECTOR_GP, 0);
	fetch("CALL beyond the limit", call_out, 0x800, 0, VECTOR_GP, 0);
	check(event.esp == STACK_TOP(0), "CALL beyond the limit leaves ESP: %x", event.esp);
	fetch("indirect JMP beyond the limit", jump_indirect, 0x800, 0x801, VECTOR_GP, 0);
	fetch("RET beyond the limit", ret_out, 0x800, 0x801, VECTOR_GP, 1);
	check(event.esp == STACK_TOP(0) - 4, "RET beyond the limit leaves ESP: %x", event.esp);
}

CODE32(push_pop16, "mov %eax, %ss; mov %edi, %esp; pushl %ecx; mov %esp, %edx; popl %ecx; mov %esp, %esi; mov %ebx, %ss; mov %ebp, %esp")
CODE32(ebp16, "mov %eax, %ss; mov %edi, %esp; push %ecx; enter $4, $0; mov %esp, %edx; leave; mov %esp, %esi; mov %ebx, %ss; mov %ebp, %esp")

// SDM 1 "Address-Size Attributes for Stack Accesses": the B flag of SS decides between SP and ESP.
void test_stack_width(void)
{
	SPARE = descriptor(SCRATCH, 0xffff, D_DATA);
	struct legacy_regs r = { .eax = L_SPARE, .ebx = L_DATA(0), .ecx = 0xabcd1234, .edi = 0xdead0100, .ebp = STACK_TOP(0) };
	passes32("16-bit stack", push_pop16, 0, r);
	check(legacy.out.regs.edx == 0xdead00fc && legacy.out.regs.esi == 0xdead0100, "16-bit stack: ESP %x after PUSH, %x after POP", legacy.out.regs.edx,
	      legacy.out.regs.esi);
	check(load32(legacy_scratch + 0xfc) == 0xabcd1234, "16-bit stack: what was pushed");
	r.edi = 0xdead0000;
	SPARE = descriptor(SCRATCH - 0xf800, 0xffff, D_DATA);
	passes32("16-bit stack that wraps", push_pop16, 0, r);
	check(legacy.out.regs.edx == 0xdeadfffc && legacy.out.regs.esi == 0xdead0000, "16-bit stack that wraps: ESP %x, %x", legacy.out.regs.edx,
	      legacy.out.regs.esi);
	SPARE = descriptor(SCRATCH, 0xffff, D_DATA);
	r.edi = 0xdead0100;

	passes32("ENTER and LEAVE on a 16-bit stack", ebp16, 0, r);
	check(legacy.out.regs.edx == 0xdead00f4 && legacy.out.regs.esi == 0xdead00fc, "ENTER and LEAVE on a 16-bit stack: ESP %x, %x", legacy.out.regs.edx,
	      legacy.out.regs.esi);
	SPARE = descriptor(SCRATCH, 0xffff, D_DATA | D_BIG);
	r.edi = 0x100;
	r.ebp = STACK_TOP(0);
	passes32("32-bit stack", push_pop16, 0, r);
	check(legacy.out.regs.edx == 0xfc, "32-bit stack: ESP %x", legacy.out.regs.edx);
}
