// I/O breakpoints. SDM 3B "Debug Control Register (DR7)", CR4.DE.
#include "debug.h"

SNIPPET(in_1, "mov %edi, %edx; in %dx, %al; nop")
SNIPPET(in_2, "mov %edi, %edx; in %dx, %ax; nop")
SNIPPET(in_4, "mov %edi, %edx; in %dx, %eax; nop")
SNIPPET(out_imm, "nop; nop; out %al, $0x80; nop")
SNIPPET(rep_insb, "mov $0x80, %edx; mov $2, %ecx; rep insb; nop")
SNIPPET(outsb_, "mov $0x80, %edx; outsb; nop")
SNIPPET(load, "mov (%rdi), %al; nop")

#define PORT_BASE 0x80ul

void test_ports(void)
{
	write_cr4(read_cr4() | CR4_DE);
	struct { struct snippet s; u32 size; i64 behind; } kinds[] = { { in_1, 1, 3 }, { in_2, 2, 4 }, { in_4, 4, 3 } };
	for (u32 length = 1; length <= 4; length *= 2) {
		breakpoint(0, PORT_BASE + 4, PORT, length);
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
			for (u64 port = PORT_BASE; port < PORT_BASE + 12; port++) {
				bool hit = port < PORT_BASE + 4 + length && port + kinds[i].size > PORT_BASE + 4;
				int vector = stepped(kinds[i].s, 0, (struct regs){ .rdi = port });
				check(vector == VECTOR_USER_EXIT && step_count == hit && (!hit || (steps[0].rip - CODE_PAGE == (u64)kinds[i].behind && (steps[0].dr6 & 0xe00f) == 1)),
				      "IN of %u at %lx, breakpoint of %u: exception %d after %u, at +%ld", kinds[i].size, port, length, vector, step_count, steps[0].rip - CODE_PAGE);
			}
	}
	breakpoint(0, PORT_BASE, PORT, 1);
	expect_steps("OUT", out_imm, 0, NONE, (const i64[]){ 4, -1 }, 1);
	expect_steps("OUTSB", outsb_, 0, (struct regs){ .rsi = STACK_PAGE }, (const i64[]){ 6, -1 }, 1);
	expect_steps("REP INSB", rep_insb, 0, (struct regs){ .rdi = STACK_PAGE }, (const i64[]){ 10, 12, -1 }, 1);
	// Memory of that address is something else, and so is the other way round.
	expect_steps("memory", load, 0, (struct regs){ .rdi = PORT_BASE }, (const i64[]){ -1 }, 0);
	breakpoint(0, PORT_BASE, ACCESS, 1);
	expect_steps("a data breakpoint and a port", out_imm, 0, NONE, (const i64[]){ -1 }, 0);
	write_cr4(read_cr4() & ~CR4_DE);
}
