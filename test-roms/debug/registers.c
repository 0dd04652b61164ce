// DR0 to DR7 themselves. SDM 3B "Debug Registers", 2A "MOV—Move to/from Debug Registers".
#include "debug.h"

SNIPPET(get_dr6, "mov %dr6, %rax")
SNIPPET(set_dr6, "mov %rdi, %dr6")
SNIPPET(set_dr7, "mov %rdi, %dr7")
SNIPPET(set_dr0, "mov %rdi, %dr0")
SNIPPET(get_dr4, ".byte 0x0f, 0x21, 0xe0")
SNIPPET(get_dr5, ".byte 0x0f, 0x21, 0xe8")
SNIPPET(get_dr7, "mov %dr7, %rax")
SNIPPET(set_dr4, ".byte 0x0f, 0x23, 0xe7")

void test_dr6_dr7(void)
{
	write_dr7(0x400);
	write_dr6(0);
	check_eq(read_dr6() | 1 << 16 | 1 << 11, DR6_NONE | 1 << 16 | 1 << 11, "DR6 after 0");
	write_dr6(0xffffffff);
	// Bits 12 and what is not there read as 0.
	check(!(read_dr6() & 1 << 12) && (read_dr6() & 0xe00f) == 0xe00f, "DR6 after ones: %lx", read_dr6());
	write_dr6(DR6_NONE);
	write_dr7(0);
	check_eq(read_dr7(), 0x400, "DR7 after 0");
	write_dr7(0xffff0000);
	check_eq(read_dr7(), 0xffff0400, "DR7, lengths and kinds");
	write_dr7(0x400);
	u64 wide[] = { 0, ~0ul, 0x123456789abcdef0, NON_CANONICAL };
	for (size_t i = 0; i < ARRAY_SIZE(wide); i++) {
		write_dr0(wide[i]);
		write_dr1(~wide[i]);
		write_dr2(wide[i] ^ 5);
		write_dr3(wide[i] ^ 9);
		check(read_dr0() == wide[i] && read_dr1() == ~wide[i] && read_dr2() == (wide[i] ^ 5) && read_dr3() == (wide[i] ^ 9), "DR0 to DR3 after %lx", wide[i]);
	}
	// DR4 and DR5 are DR6 and DR7 without CR4.DE.
	expect_vector("DR4", get_dr4, 0, NONE, VECTOR_USER_EXIT);
	check_eq(trap.rax, read_dr6(), "DR4");
	expect_vector("DR5", get_dr5, 0, NONE, VECTOR_USER_EXIT);
	check_eq(trap.rax, 0x400, "DR5");
	write_cr4(read_cr4() | CR4_DE);
	expect("DR4 with CR4.DE", get_dr4, 0, NONE, VECTOR_UD, 0, 0);
	expect("DR5 with CR4.DE", get_dr5, 0, NONE, VECTOR_UD, 0, 0);
	expect("store to DR4 with CR4.DE", set_dr4, 0, NONE, VECTOR_UD, 0, 0);
	write_cr4(read_cr4() & ~CR4_DE);
}

void test_dr_refused(void)
{
	u64 wide = 1ul << 32;
	expect("DR6 of 33 bits", set_dr6, 0, (struct regs){ .rdi = wide }, VECTOR_GP, 0, 0);
	expect("DR7 of 33 bits", set_dr7, 0, (struct regs){ .rdi = wide | 0x400 }, VECTOR_GP, 0, 0);
	for (int i = 32; i < 64; i += 7) {
		expect("DR6", set_dr6, 0, (struct regs){ .rdi = 1ul << i }, VECTOR_GP, 0, 0);
		expect("DR7", set_dr7, 0, (struct regs){ .rdi = 1ul << i }, VECTOR_GP, 0, 0);
	}
	expect("DR6 at ring 3", get_dr6, 3, NONE, VECTOR_GP, 0, 0);
	expect("DR7 at ring 3", get_dr7, 3, NONE, VECTOR_GP, 0, 0);
	expect("store to DR0 at ring 3", set_dr0, 3, NONE, VECTOR_GP, 0, 0);
	check_eq(read_dr7(), 0x400, "DR7 after all that");
}

void test_general_detect(void)
{
	struct { const char *what; struct snippet s; } kinds[] = { { "MOV from DR6", get_dr6 }, { "MOV to DR6", set_dr6 }, { "MOV to DR0", set_dr0 }, { "MOV from DR7", get_dr7 }, { "MOV to DR7", set_dr7 } };
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		write_dr6(DR6_NONE);
		write_dr7(0x400 | 1 << 13);
		expect(kinds[i].what, kinds[i].s, 0, NONE, VECTOR_DB, 0, 0);
		// A fault: RF is set. The handler may use the registers.
		check((read_dr6() & 0xe00f) == DR6_BD && !(read_dr7() & 1 << 13) && trap.rflags & FLAG_RF, "%s: DR6 %lx DR7 %lx RFLAGS %lx", kinds[i].what, read_dr6(), read_dr7(), trap.rflags);
	}
	// Privilege comes first.
	write_dr7(0x400 | 1 << 13);
	expect("at ring 3", get_dr6, 3, NONE, VECTOR_GP, 0, 0);
	run_snippet(get_dr6, 0, NONE);	// ends it
	write_dr7(0x400);
}
