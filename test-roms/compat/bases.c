// Bases of FS, GS, GDT, IDT. SDM 1 "Canonical Addressing", 2B "SWAPGS", 2C "WRFSBASE/WRGSBASE".
#include "compat.h"

SNIPPET(wrfsbase, "wrfsbase %rdi; rdfsbase %rbx")
SNIPPET(wrgsbase, "wrgsbase %rdi; rdgsbase %rbx")
SNIPPET(wrfsbase32, "wrfsbase %rsi; wrfsbase %edi; rdfsbase %rbx")
SNIPPET(rdfsbase, "nop; rdfsbase %rbx")
SNIPPET(load_by_fs, "wrfsbase %rdi; mov %fs:(%rsi), %al; mov $0, %edi; wrfsbase %rdi")
SNIPPET(swapgs_, "wrgsbase %rdi; swapgs; rdgsbase %rbx; swapgs; rdgsbase %rdx")
SNIPPET(swapgs_3, "nop; swapgs")
SNIPPET(mov_fs, "wrfsbase %rdi; mov %eax, %fs; rdfsbase %rbx")
SNIPPET(lgdt_, "lgdt (%rdi)")
SNIPPET(lidt_, "lidt (%rdi)")

void test_bases(void)
{
	if (!(cpuid_checked(7, 0).ebx & 1)) {
		skip("no WRFSBASE");
		return;
	}
	expect("without CR4.FSGSBASE", wrfsbase, 0, NONE, VECTOR_UD, 0, 0);
	expect("without CR4.FSGSBASE", rdfsbase, 3, NONE, VECTOR_UD, 0, 1);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	u64 beyond = beyond_bases();
	u64 good[] = { 0, 1, 0xffffffff, 1ul << 32, beyond - 1, ~beyond + 1, ~0ul }, bad[] = { beyond, ~beyond, 1ul << 63, 0x5555555555555555 };
	for (int ring = 0; ring < 4; ring += 3) {
		for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
			expect_vector("WRFSBASE", wrfsbase, ring, (struct regs){ .rdi = good[i] }, VECTOR_USER_EXIT);
			check(trap.rbx == good[i], "WRFSBASE of %lx: %lx", good[i], trap.rbx);
			expect_vector("WRGSBASE", wrgsbase, ring, (struct regs){ .rdi = good[i] }, VECTOR_USER_EXIT);
			check(trap.rbx == good[i], "WRGSBASE of %lx: %lx", good[i], trap.rbx);
		}
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			expect("WRFSBASE", wrfsbase, ring, (struct regs){ .rdi = bad[i] }, VECTOR_GP, 0, 0);
			expect("WRGSBASE", wrgsbase, ring, (struct regs){ .rdi = bad[i] }, VECTOR_GP, 0, 0);
		}
	}
	expect_vector("WRFSBASE of 32 bits", wrfsbase32, 3, (struct regs){ .rdi = ~0ul, .rsi = 0x123456789abc }, VECTOR_USER_EXIT);
	check(trap.rbx == 0xffffffff, "WRFSBASE of 32 bits: %lx", trap.rbx);
	// The sum of base and offset must be canonical, and wraps at 2^64.
	expect("base and offset that are not canonical", load_by_fs, 0, (struct regs){ .rdi = 1ul << 46, .rsi = 1ul << 46 }, VECTOR_GP, 0, 5);
	expect_vector("base and offset that wrap", load_by_fs, 0, (struct regs){ .rdi = (u64)stack_frame + 0x1000, .rsi = -0x1000ul }, VECTOR_USER_EXIT);
	if (beyond > NON_CANONICAL)
		expect("base that the page tables cannot map", load_by_fs, 0, (struct regs){ .rdi = NON_CANONICAL }, VECTOR_GP, 0, 5);
	wrmsr(MSR_KERNEL_GS_BASE, 0x1111);
	expect_vector("SWAPGS", swapgs_, 0, (struct regs){ .rdi = 0x2222 }, VECTOR_USER_EXIT);
	check(trap.rbx == 0x1111 && trap.rdx == 0x2222, "SWAPGS: %lx, %lx", trap.rbx, trap.rdx);
	expect("SWAPGS at ring 3", swapgs_3, 3, NONE, VECTOR_GP, 0, 1);
	// A descriptor's base has 32 bits, and replaces all 64.
	*SPARE = descriptor(0xfedc0000, 0xfff, D_DATA | D_BIG);
	expect_vector("MOV FS", mov_fs, 0, (struct regs){ .rax = SPARE_SELECTOR, .rdi = 0x123456789abc }, VECTOR_USER_EXIT);
	check(trap.rbx == 0xfedc0000, "MOV FS: base %lx", trap.rbx);
	*SPARE = 0;
	asm volatile("mov %0, %%fs; mov %0, %%gs" :: "r"(0));
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
}

void test_tables(void)
{
	struct table_pointer gdtr, idtr, *pointer = (struct table_pointer *)stack_frame;
	asm volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
	u64 beyond = beyond_bases(), bad[] = { beyond, ~beyond, 1ul << 63 };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		*pointer = (struct table_pointer){ 0xffff, bad[i] };
		expect("LGDT", lgdt_, 0, (struct regs){ .rdi = STACK_PAGE }, VECTOR_GP, 0, 0);
		expect("LIDT", lidt_, 0, (struct regs){ .rdi = STACK_PAGE }, VECTOR_GP, 0, 0);
	}
	*pointer = gdtr;
	expect("LGDT at ring 3", lgdt_, 3, (struct regs){ .rdi = STACK_PAGE }, VECTOR_GP, 0, 0);
	expect("LIDT at ring 3", lidt_, 3, (struct regs){ .rdi = STACK_PAGE }, VECTOR_GP, 0, 0);
	expect("LGDT of an operand that is not canonical", lgdt_, 0, (struct regs){ .rdi = NON_CANONICAL }, VECTOR_GP, 0, 0);
	struct table_pointer now;
	asm volatile("sgdt %0" : "=m"(now));
	check(now.base == gdtr.base && now.limit == gdtr.limit, "GDTR after refused loads: %lx, %x", now.base, now.limit);
	asm volatile("sidt %0" : "=m"(now));
	check(now.base == idtr.base && now.limit == idtr.limit, "IDTR after refused loads: %lx, %x", now.base, now.limit);
	// The last canonical addresses will do.
	u64 good[] = { beyond - 0x1000, ~beyond + 1, -0x1000ul };
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct table_pointer p = { 0xfff, good[i] };
		asm volatile("lidt %1; sidt %0; lidt %2" : "=m"(now) : "m"(p), "m"(idtr) : "memory");
		check(now.base == good[i] && now.limit == 0xfff, "LIDT of %lx: %lx", good[i], now.base);
		asm volatile("lgdt %1; sgdt %0; lgdt %2" : "=m"(now) : "m"(p), "m"(gdtr) : "memory");
		check(now.base == good[i] && now.limit == 0xfff, "LGDT of %lx: %lx", good[i], now.base);
	}
}
