// Linear addresses of 57 bits: CR4.LA57 and a fifth level of page tables. SDM 3A "4-Level Paging and 5-Level Paging".
#include "compat.h"
#include "memory.h"

#define CR4_LA57 (1ul << 12)

SNIPPET(load, "mov (%rdi), %rax")
SNIPPET(wrfsbase, "wrfsbase %rdi")
SNIPPET(toggle, "mov %rdi, %cr4")
SNIPPET(jump, "jmp *%rdi")
SNIPPET(lgdt_, "lgdt (%rdi)")
CODE32(nothing, "nop")

void edges_of_width(u32 bits);

static bool to(u64 cr3, u64 cr4)
{
	legacy_reset();
	legacy_back_cr3 = (u32)cr3;
	legacy_back_cr4 = (u32)cr4;
	run_protected(nothing, 0, (struct legacy_regs){ 0 });
	legacy_back_cr3 = legacy_back_cr4 = 0;
	return read_cr4() == cr4;
}

void test_la57(void)
{
	if (!(cpuid_checked(7, 0).ecx >> 16 & 1)) {
		skip("this processor has 48 bits");
		return;
	}
	u64 cr3 = read_cr3(), cr4 = read_cr4(), *pml5 = frame_new();
	if (!pml5) {
		skip("no page table left");
		return;
	}
	// The fifth level's entry 4 maps the same once more.
	pml5[0] = pml5[4] = (cr3 & PAGE_ADDRESS) | PAGE_P | PAGE_RW | PAGE_US;
	if (!check(to((u64)pml5, cr4 | CR4_LA57 | CR4_FSGSBASE), "CR4 is %lx", read_cr4()))
		return;
	check_eq(read_cr3(), (u64)pml5, "CR3");
	edges_of_width(57);
	write64((u64)stack_frame + 8, 0x57575757);
	expect_vector("load by the fifth level", load, 0, (struct regs){ .rdi = 4ul << 48 | ((u64)stack_frame + 8) }, VECTOR_USER_EXIT);
	check(trap.rax == 0x57575757, "load by the fifth level: %lx", trap.rax);
	expect("page that is not there", load, 0, (struct regs){ .rdi = 5ul << 48 }, VECTOR_PF, 0, 0);
	check(trap_cr2 == 5ul << 48, "page that is not there: CR2 %lx", trap_cr2);
	expect("jump to what is not canonical", jump, 0, (struct regs){ .rdi = 1ul << 56 }, VECTOR_GP, 0, 0);
	int v = run_snippet(jump, 0, (struct regs){ .rdi = 5ul << 48 });
	check(v == VECTOR_PF && trap.rip == 5ul << 48, "jump to 5 << 48: exception %d at %lx", v, trap.rip);
	expect_vector("WRFSBASE", wrfsbase, 0, (struct regs){ .rdi = 0x00ffffffffffffff }, VECTOR_USER_EXIT);
	expect("WRFSBASE, not canonical", wrfsbase, 0, (struct regs){ .rdi = 1ul << 56 }, VECTOR_GP, 0, 0);
	expect("MOV CR4 without LA57", toggle, 0, (struct regs){ .rdi = read_cr4() & ~CR4_LA57 }, VECTOR_GP, 0, 0);
	*(struct table_pointer *)stack_frame = (struct table_pointer){ 0xffff, ~(1ul << 56) };
	expect("LGDT, not canonical", lgdt_, 0, (struct regs){ .rdi = STACK_PAGE }, VECTOR_GP, 0, 0);
	wrmsr(MSR_FS_BASE, 0);
	check(to(cr3, cr4), "back to 48 bits: CR4 is %lx", read_cr4());
	expect("MOV CR4 with LA57", toggle, 0, (struct regs){ .rdi = cr4 | CR4_LA57 }, VECTOR_GP, 0, 0);
	expect("load at 1 << 47", load, 0, (struct regs){ .rdi = NON_CANONICAL }, VECTOR_GP, 0, 0);
}
