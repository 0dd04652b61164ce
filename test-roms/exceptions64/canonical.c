// #SS or #GP: by the segment that the address is in. SDM 1 "Canonical Addressing", 3A "Stack Fault".
#include "exceptions64.h"

SNIPPET(load, "mov (%rax), %ecx")
SNIPPET(store, "mov %ecx, (%rax)")
SNIPPET(load_r12, "mov %rax, %r12; mov (%r12), %ecx")
SNIPPET(load_r13, "mov %rax, %r13; mov (%r13), %ecx")
SNIPPET(load_index_rbp, "mov %rax, %rbp; xor %eax, %eax; mov (%rax,%rbp), %ecx")
SNIPPET(load_gs_rbp, "mov %rax, %rbp; mov %gs:(%rbp), %ecx")
SNIPPET(load_across, "lea -4(%rax), %rax; mov (%rax), %rcx")
SNIPPET(movs_from, "mov %rax, %rsi; movsb")
SNIPPET(movs_to, "lea -64(%rsp), %rsi; mov %rax, %rdi; movsb")
SNIPPET(indirect_call, "call *%rax")
SNIPPET(prefetch, "prefetcht0 (%rax)")
SNIPPET(lea, "lea 8(%rax), %rcx")
SNIPPET(clflush, "clflush (%rax)")
SNIPPET(invlpg_rax, "invlpg (%rax)")
SNIPPET(addr32, "mov (%eax), %cl")

SNIPPET(load_rbp, "mov %rax, %rbp; mov (%rbp), %ecx")
SNIPPET(load_rsp, "mov %rax, %rsp; mov (%rsp), %ecx")
SNIPPET(load_rbp_rax, "mov %rax, %rbp; xor %eax, %eax; mov (%rbp,%rax), %ecx")
SNIPPET(load_ds_rbp, "mov %rax, %rbp; .byte 0x3e; mov (%rbp), %ecx")
SNIPPET(push_rax, "mov %rax, %rsp; push %rax")
SNIPPET(pop_rax, "mov %rax, %rsp; pop %rax")
SNIPPET(call_near, "mov %rax, %rsp; call 1f; 1:")
SNIPPET(ret_near, "mov %rax, %rsp; ret")
SNIPPET(leave_it, "mov %rax, %rbp; leave")
SNIPPET(enter_it, "mov %rax, %rsp; enter $0, $0")
SNIPPET(pushfq_it, "mov %rax, %rsp; pushfq")
SNIPPET(push_memory, "push (%rax)")
SNIPPET(pop_memory, "pop (%rax)")

#define GP(snippet, offset) expect(#snippet, snippet, 3, nc, VECTOR_GP, 0, offset)
#define SS(snippet, offset) expect(#snippet, snippet, 3, nc, VECTOR_SS, 0, offset)

void test_canonical(void)
{
	struct regs nc = { .rax = NON_CANONICAL + 0x1000 };
	GP(load, 0);
	GP(store, 0);
	GP(load_r12, 3);
	GP(load_r13, 3);
	GP(load_index_rbp, 5);
	GP(load_gs_rbp, 3);
	GP(movs_from, 3);
	GP(movs_to, 8);
	GP(push_memory, 0);
	GP(pop_memory, 0);
	// These make no access.
	expect_vector("prefetcht0", prefetch, 3, nc, VECTOR_USER_EXIT);
	expect_vector("lea", lea, 3, nc, VECTOR_USER_EXIT);
	expect_vector("invlpg", invlpg_rax, 0, nc, VECTOR_USER_EXIT);
	// A 32-bit address is always canonical, whatever is above.
	nc.rax = NON_CANONICAL | 0x7f000000;
	expect_vector("32-bit address", addr32, 3, nc, VECTOR_PF);
	check(trap_cr2 == 0x7f000000, "32-bit address: CR2 %lx", trap_cr2);
	// The first addresses of the upper half and the last of the lower one.
	nc.rax = 0xffff800000000000;
	expect_vector("first address of the upper half", load, 3, nc, VECTOR_PF);
	nc.rax = 0xffff7fffffffffff;
	expect_vector("before the upper half", load, 3, nc, VECTOR_GP);
	nc.rax = 0x00007ffffffffff0;
	expect_vector("last addresses of the lower half", load, 3, nc, VECTOR_PF);
	int vector = run_snippet(indirect_call, 3, (struct regs){ .rax = NON_CANONICAL });
	check(vector == VECTOR_GP && trap.error_code == 0, "call, not canonical: exception %d", vector);
}

// QEMU 7.2 looks at the first byte's address only, gives #GP for all, and CLFLUSH does nothing.
void test_canonical_exactly(void)
{
	struct regs nc = { .rax = NON_CANONICAL };
	GP(load_across, 4);
	nc.rax += 0x1000;
	GP(clflush, 0);
	SS(load_rbp, 3);
	SS(load_rsp, 3);
	SS(load_rbp_rax, 5);
	SS(load_ds_rbp, 3);
	SS(push_rax, 3);
	SS(pop_rax, 3);
	SS(call_near, 3);
	SS(ret_near, 3);
	SS(leave_it, 3);
	SS(enter_it, 3);
	SS(pushfq_it, 3);
}
