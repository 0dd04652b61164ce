// Ring 3, SYSCALL and SYSRET, and 32-bit code in compatibility mode.
#include "interrupts.h"
#include "memory.h"
#include "selftest.h"

// User code runs from a copy in user pages: code, then a page of data with the stack at its end.
#define USER_CODE TEST_WINDOW
#define USER_DATA (TEST_WINDOW + PAGE_SIZE)
#define USER_STACK (TEST_WINDOW + 2 * PAGE_SIZE - 64)

static u8 user_frames[2][4096] ALIGNED(4096);

extern u8 user_code_start[], user_code_end[], user_exit[], user_cli[], user_hlt[], user_in[], user_read_cr0[], user_rdmsr[], user_load[],
	user_store[], user_int3[], user_unaligned[], user_popf[], user_syscall[], user_sgdt[], user_swapgs[],
	user_clts[], user_int3_after_push[], user_spin[];
asm(".text\n"
    "user_code_start:\n"
    "user_exit: mov $0x1234, %ebx; int $0x80\n"
    "user_cli: cli; int $0x80\n"
    "user_hlt: hlt; int $0x80\n"
    "user_in: in $0x80, %al; int $0x80\n"
    "user_read_cr0: mov %cr0, %rax; int $0x80\n"
    "user_rdmsr: rdmsr; int $0x80\n"
    "user_swapgs: swapgs; int $0x80\n"
    "user_clts: clts; int $0x80\n"
    "user_load: mov (%rdi), %al; int $0x80\n"
    "user_store: mov %al, (%rdi); int $0x80\n"
    "user_int3: int3; int $0x80\n"
    "user_int3_after_push: push $1; int3; int $0x80\n"
    "user_unaligned: mov 1(%rdi), %eax; int $0x80\n"
    "user_popf: push %rsi; popfq; pushfq; pop %rbx; int $0x80\n"
    "user_sgdt: sgdt (%rdi); int $0x80\n"
    "user_syscall: mov $0x55, %ebx; syscall; after_syscall: pushfq; pop %rbx; mov %cs, %r8d; mov %ss, %r9d; int $0x80\n"
    "user_spin: mov $100000000, %ecx; 1: dec %ecx; jnz 1b; int $0x80\n"
    "user_code_end:\n"
    ".globl after_syscall\n");
extern u8 after_syscall[];

static u64 user_address(const u8 *label)
{
	return USER_CODE + (u64)(label - user_code_start);
}

static void enter(void *argument)
{
	enter_user(argument);
}

static int run_user(const u8 *label, u64 rflags, u64 rsi, u64 rdi)
{
	struct user_entry e = { user_address(label), USER_CS, rflags, USER_STACK, USER_DS, 0, rsi, rdi };
	return catch_trap(enter, &e);
}

static void map_user(void)
{
	memcpy(user_frames[0], user_code_start, (size_t)(user_code_end - user_code_start));
	memset(user_frames[1], 0, PAGE_SIZE);
	map_page(USER_CODE, (u64)user_frames[0], PAGE_P | PAGE_US);
	map_page(USER_DATA, (u64)user_frames[1], PAGE_P | PAGE_RW | PAGE_US);
}

static void unmap_user(void)
{
	map_page(USER_CODE, 0, 0);
	map_page(USER_DATA, 0, 0);
}

static void expect(const char *what, const u8 *label, u64 rflags, u64 rsi, u64 rdi, int vector, u64 error_code)
{
	int got = run_user(label, rflags, rsi, rdi);
	check(got == vector && trap.error_code == error_code && (trap.cs & 3) == 3, "%s: exception %d, error code %lx, CS %lx, should be %d, %lx", what,
	      got, trap.error_code, trap.cs, vector, error_code);
}

void test_user_mode(void)
{
	u64 flags = FLAG_1 | FLAG_IF;
	map_user();

	int vector = run_user(user_exit, flags, 0, 0);
	check(vector == VECTOR_USER_EXIT && trap.cs == USER_CS && trap.ss == USER_DS && trap.rsp == USER_STACK && trap.rbx == 0x1234,
	      "int 80h from ring 3: vector %d, CS %lx, SS %lx, RSP %lx", vector, trap.cs, trap.ss, trap.rsp);
	check_eq(trap_stack, tss.rsp[0], "RSP0 of the TSS");
	check_eq(trap.rflags & FLAG_IF, FLAG_IF, "IF in the frame");

	expect("cli", user_cli, flags, 0, 0, VECTOR_GP, 0);
	expect("cli with IOPL 3", user_cli, flags | FLAG_IOPL, 0, 0, VECTOR_USER_EXIT, 0);
	expect("hlt", user_hlt, flags, 0, 0, VECTOR_GP, 0);
	expect("hlt with IOPL 3", user_hlt, flags | FLAG_IOPL, 0, 0, VECTOR_GP, 0);
	expect("in", user_in, flags, 0, 0, VECTOR_GP, 0);
	expect("in with IOPL 3", user_in, flags | FLAG_IOPL, 0, 0, VECTOR_USER_EXIT, 0);
	expect("mov from cr0", user_read_cr0, flags, 0, 0, VECTOR_GP, 0);
	expect("rdmsr", user_rdmsr, flags, 0, 0, VECTOR_GP, 0);
	expect("swapgs", user_swapgs, flags, 0, 0, VECTOR_GP, 0);
	expect("clts", user_clts, flags, 0, 0, VECTOR_GP, 0);
	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 3, 0);
	expect("int3", user_int3, flags, 0, 0, VECTOR_BP, 0);
	idt_set(VECTOR_BP, vector_entry(VECTOR_BP), 0, 0);

	expect("read of a supervisor page", user_load, flags, 0, (u64)&flags, VECTOR_PF, 5);
	check_eq(trap_cr2, (u64)&flags, "CR2");
	expect("write to a supervisor page", user_store, flags, 0, (u64)&flags, VECTOR_PF, 7);
	expect("write to a read-only user page", user_store, flags, 0, USER_CODE, VECTOR_PF, 7);
	expect("read of an unmapped page", user_load, flags, 0, USER_DATA + 64 * PAGE_SIZE, VECTOR_PF, 4);
	expect("write to a user page", user_store, flags, 0, USER_DATA, VECTOR_USER_EXIT, 0);
	struct user_entry e = { (u64)user_frames, USER_CS, flags, USER_STACK, USER_DS, 0, 0, 0 };
	vector = catch_trap(enter, &e);
	check(vector == VECTOR_PF && trap.error_code == (rdmsr(MSR_EFER) & EFER_NXE ? 0x15 : 5), "run a supervisor page: %d, error code %lx", vector,
	      trap.error_code);

	// Alignment: only with CR0.AM and AC, at ring 3.
	expect("unaligned read with AC but without CR0.AM", user_unaligned, flags | FLAG_AC, 0, USER_DATA, VECTOR_USER_EXIT, 0);
	write_cr0(read_cr0() | CR0_AM);
	expect("unaligned read without AC", user_unaligned, flags, 0, USER_DATA, VECTOR_USER_EXIT, 0);
	expect("aligned read with AC", user_unaligned, flags | FLAG_AC, 0, USER_DATA + 3, VECTOR_USER_EXIT, 0);
	write_cr0(read_cr0() & ~CR0_AM);

	// POPF at ring 3 changes neither IOPL nor IF.
	expect("popf", user_popf, flags, FLAG_1 | FLAG_IOPL | FLAG_AC | FLAG_CF, 0, VECTOR_USER_EXIT, 0);
	check_eq(trap.rbx & (FLAG_IOPL | FLAG_IF | FLAG_AC | FLAG_CF), FLAG_IF | FLAG_AC | FLAG_CF, "flags after POPF at ring 3");

	if (cpuid_checked(7, 0).ecx >> 2 & 1) {
		expect("sgdt without UMIP", user_sgdt, flags, 0, USER_DATA, VECTOR_USER_EXIT, 0);
		write_cr4(read_cr4() | CR4_UMIP);
		expect("sgdt with UMIP", user_sgdt, flags, 0, USER_DATA, VECTOR_GP, 0);
		write_cr4(read_cr4() & ~CR4_UMIP);
	}
	unmap_user();
}

void test_syscall(void)
{
	u64 flags = FLAG_1 | FLAG_IF | FLAG_DF | FLAG_AC | FLAG_CF;
	map_user();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
	expect("syscall without EFER.SCE", user_syscall, flags, 0, 0, VECTOR_UD, 0);

	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)(USER_CS32) << 48 | (u64)KERNEL_CS << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_SFMASK, FLAG_IF | FLAG_DF | FLAG_TF | FLAG_AC);
	syscall_count = 0;
	syscall_return_flags = FLAG_1 | FLAG_IF | FLAG_ZF | FLAG_RF;

	int vector = run_user(user_syscall, flags, 0, 0);
	if (check(vector == VECTOR_USER_EXIT && syscall_count == 1, "syscall: vector %d, %u calls", vector, syscall_count)) {
		check_eq(syscall_rcx, user_address(after_syscall), "RCX");
		check_eq(syscall_r11, flags, "R11");
		check_eq(syscall_kernel_flags & ~FLAGS_STATUS, FLAG_1, "flags in the kernel");
		check_eq(syscall_cs, KERNEL_CS, "CS in the kernel");
		check_eq(syscall_ss, KERNEL_DS, "SS in the kernel");
		check_eq(syscall_user_rsp, USER_STACK, "RSP is left alone");
		check_eq(trap.rip, user_address(after_syscall) + 10, "RIP after SYSRET");
		check_eq(trap.rbx & ~FLAG_RF, FLAG_1 | FLAG_IF | FLAG_ZF, "flags after SYSRET");
		check_eq(trap.r8, USER_CS, "CS after SYSRET");
		check_eq(trap.r9, USER_DS, "SS after SYSRET");
	}
	unmap_user();
}

// ---- Compatibility mode

// Ends with INT 80h. ESI is the address of the results; opcodes that mean something else in 64-bit mode are here.
extern u8 code32_start[], code32_end[], code32_cell[];
asm(".text\n"
    ".code32\n"
    "code32_start:\n"
    "  mov $0xffffffff, %eax; inc %eax; mov %eax, (%esi)\n"		// INC is 40h here
    "  mov %esp, %ebx; push $0x11223344; sub %esp, %ebx; mov %ebx, 4(%esi); pop %eax; mov %eax, 8(%esi)\n"
    "  mov $0x79, %al; add $0x35, %al; daa; movzx %al, %eax; mov %eax, 12(%esi)\n"
    "  pusha; mov $5, %ecx; xor %eax, %eax; 1: inc %eax; loop 1b; mov %eax, 16(%esi); popa\n"
    "  mov code32_cell, %eax; mov %eax, 20(%esi)\n"			// absolute, in 64-bit mode relative to RIP
    "  mov $0x4b, %al; aam; movzx %ax, %eax; mov %eax, 24(%esi)\n"
    "  movw $0x1234, %bx; lea 0x10(%bx), %eax; mov %eax, 28(%esi)\n"	// 16-bit addressing
    "  mov %esp, %eax; pushw $0x5566; sub %esp, %eax; mov %eax, 32(%esi); add $2, %esp\n"
    "  push %cs; pop %eax; movzx %ax, %eax; mov %eax, 36(%esi)\n"
    "  call 2f; 2: pop %eax; sub $2b, %eax; mov %eax, 40(%esi)\n"
    "  int $0x80\n"
    "code32_end:\n"
    ".code64\n"
    ".section .rodata; .balign 8; code32_cell: .long 0xcafe1234; .text\n");

static u32 results[16];

static void enter_32(void *argument)
{
	// Unlike 64-bit code it minds DS, which the ways to ring 3 have made null.
	asm volatile("mov %0, %%ds" :: "r"(KERNEL_DS));
	struct user_entry e = { (u64)code32_start, KERNEL_CS32, FLAG_1, (u64)argument, KERNEL_DS, 0, (u64)results, 0 };
	enter_user(&e);
}

static const u8 user_code32[] = {
	0x16, 0x1f,			// push ss; pop ds
	0x40,				// inc eax
	0x89, 0x06,			// mov [esi], eax
	0x8b, 0x06,			// mov eax, [esi]
	0x89, 0xc3,			// mov ebx, eax
	0xcd, 0x80,			// int 80h
};

void test_compatibility_mode(void)
{
	static u8 stack[1024] ALIGNED(16);
	memset(results, 0xee, sizeof results);
	int vector = catch_trap(enter_32, stack + sizeof stack);
	if (check(vector == VECTOR_USER_EXIT && trap.cs == KERNEL_CS32, "32-bit code at ring 0: vector %d at %lx:%lx", vector, trap.cs, trap.rip)) {
		check_eq(results[0], 0, "inc eax");
		check_eq(results[1], 4, "size of a push");
		check_eq(results[2], 0x11223344, "push and pop");
		check_eq(results[3], 0x14, "daa");
		check_eq(results[4], 5, "loop by ECX");
		check_eq(results[5], 0xcafe1234, "absolute address");
		check_eq(results[6], 0x0705, "aam");
		check_eq(results[7], 0x1244, "lea with a 16-bit address");
		check_eq(results[8], 2, "size of a 16-bit push");
		check_eq(results[9], KERNEL_CS32, "push cs");
		check_eq(results[10], 0, "call and pop");
	}

	// The same at ring 3, in user pages below 4 GiB that are borrowed for it.
	u64 low = 0xe0000000, *entry = page_entry(low, 2), saved = *entry;
	u64 *table = frame_new();
	if (table) {
		memcpy(user_frames[0], user_code32, sizeof user_code32);
		table[0] = (u64)user_frames[0] | PAGE_P | PAGE_US;
		table[1] = (u64)user_frames[1] | PAGE_P | PAGE_RW | PAGE_US;
		*entry = (u64)table | PAGE_P | PAGE_RW | PAGE_US;
		*page_entry(low, 3) |= PAGE_US;
		*page_entry(low, 4) |= PAGE_US;
		write_cr3(read_cr3());
		struct user_entry e = { low, USER_CS32, FLAG_1 | FLAG_IF, low + 2 * PAGE_SIZE, USER_DS, 0xfffffffful, low + PAGE_SIZE + 16, 0 };
		vector = catch_trap(enter, &e);
		check(vector == VECTOR_USER_EXIT && trap.cs == USER_CS32 && trap.rbx == 0 && trap.rip == low + sizeof user_code32,
		      "32-bit code at ring 3: vector %d at %lx:%lx, ebx %lx", vector, trap.cs, trap.rip, trap.rbx);
		*entry = saved;
		write_cr3(read_cr3());
		frame_free_all_above(table);
	}
}
