// SYSENTER, SYSEXIT, SYSCALL, SYSRET: SDM 2B under these names.
#include "compat.h"

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
// SYSENTER wants CS, SS, CS32, SS, CS64, SS in a row: a table for that.
#define FIRST 0x58	// in the lib's GDT, behind SPARE_SELECTOR's slot

SNIPPET32(sysenter32, "nop; sysenter")
SNIPPET(sysenter64, "nop; sysenter")
SNIPPET(sysexit32, "nop; sysexitl")
SNIPPET(sysexit64, "nop; rex.W sysexit")
SNIPPET32(sysexit_compat, "nop; sysexit")
SNIPPET32(syscall_compat, "nop; .byte 0x0f, 0x05")
SNIPPET(sysret_compat, "mov %rdi, %rcx; mov %rsi, %r11; sysretl")
SNIPPET(sysret_64, "mov %rdi, %rcx; mov %rsi, %r11; sysretq")

// The landing of SYSENTER: notes RSP, CS, SS, flags, and ends by INT 80h.
extern u8 enter_code[];
asm(".text\nenter_code: mov %cs, %ebx; mov %ss, %ecx; int $0x80\n");

static u64 saved[5];

static void make_table(void)
{
	for (int i = 0; i < 5; i++)
		saved[i] = gdt[FIRST / 8 + i];
	u64 *t = &gdt[FIRST / 8];
	t[0] = gdt[KERNEL_CS / 8];
	t[1] = gdt[KERNEL_DS / 8];
	t[2] = gdt[USER_CS32 / 8];
	t[3] = gdt[USER_DS / 8];
	t[4] = gdt[USER_CS / 8];
}

void test_sysenter(void)
{
	make_table();
	wrmsr(MSR_SYSENTER_EIP, (u64)enter_code);
	wrmsr(MSR_SYSENTER_ESP, 0x1234567890);	// any canonical number; nothing is pushed at once
	u64 rsp = tss.rsp[0];
	wrmsr(MSR_SYSENTER_ESP, rsp - 64);
	for (u32 cs = 0; cs < 4; cs++) {
		wrmsr(MSR_SYSENTER_CS, cs);
		expect_compat("without a selector", sysenter32, 3, NONE, VECTOR_GP, 0, 1);
		expect("without a selector, 64-bit mode", sysenter64, 3, NONE, VECTOR_GP, 0, 1);
	}
	for (u32 cs = 0; cs < 4; cs++) {
		wrmsr(MSR_SYSENTER_CS, FIRST | cs);
		int v = run_compat(sysenter32, 3, (struct regs){ .rflags = FLAG_IOPL | FLAG_CF | FLAG_AC });
		check(v == VECTOR_USER_EXIT && trap.rip == (u64)enter_code + 6 && trap.cs == FIRST && trap.ss == FIRST + 8 && trap.rbx == FIRST && trap.rcx == FIRST + 8 && trap.rsp == rsp - 64,
		      "from compatibility mode: exception %d at %lx:%lx, SS:RSP %lx:%lx", v, trap.cs, trap.rip, trap.ss, trap.rsp);
		check(trap.rflags == (FLAG_IOPL | FLAG_CF | FLAG_AC | FLAG_1), "from compatibility mode: RFLAGS %lx", trap.rflags);
		v = run_snippet(sysenter64, 3, NONE);
		check(v == VECTOR_USER_EXIT && trap.rip == (u64)enter_code + 6 && trap.cs == FIRST && trap.rsp == rsp - 64, "from 64-bit mode: exception %d at %lx:%lx", v, trap.cs, trap.rip);
		v = run_snippet(sysenter64, 0, NONE);
		check(v == VECTOR_USER_EXIT && trap.cs == FIRST, "from ring 0: exception %d", v);
	}
}

// RDX and RCX are the target: RAX has both in these tests.
SNIPPET(sysexit_to32, "mov %rdi, %rdx; mov %rsi, %rcx; sysexitl")
SNIPPET(sysexit_to64, "mov %rdi, %rdx; mov %rsi, %rcx; rex.W sysexit")
SNIPPET32(user_lands32, "mov %cs, %ebx; mov %ss, %edx")

void test_sysexit(void)
{
	make_table();
	wrmsr(MSR_SYSENTER_CS, 0);
	expect("without a selector", sysexit32, 0, NONE, VECTOR_GP, 0, 1);
	wrmsr(MSR_SYSENTER_CS, FIRST);
	expect("at ring 3", sysexit32, 3, NONE, VECTOR_GP, 0, 1);
	expect("at ring 3, 64 bits", sysexit64, 3, NONE, VECTOR_GP, 0, 1);
	expect_compat("at ring 3 of compatibility mode", sysexit_compat, 3, NONE, VECTOR_GP, 0, 1);
	u8 *page = (u8 *)(*page_entry(COMPAT_PAGE, 1) & PAGE_ADDRESS);
	for (int wide = 0; wide < 2; wide++) {
		memcpy(page + 0x800, user_lands32.start, (size_t)(user_lands32.end - user_lands32.start));
		struct regs r = { .rdi = COMPAT_PAGE + 0x800, .rsi = COMPAT_STACK_END };
		if (!wide) {	// only the lower halves count
			r.rdi |= 0xabcd00000000;
			r.rsi |= 0x123400000000;
		}
		int v = run_snippet(wide ? sysexit_to64 : sysexit_to32, 0, r);
		u64 cs = FIRST + (wide ? 32 : 16) + 3, ss = FIRST + (wide ? 40 : 24) + 3;
		check(v == VECTOR_USER_EXIT && trap.cs == cs && trap.ss == ss && trap.rbx == cs && trap.rdx == ss && trap.rsp == COMPAT_STACK_END,
		      "%s: exception %d at %lx:%lx, SS:RSP %lx:%lx", wide ? "to 64-bit mode" : "to compatibility mode", v, trap.cs, trap.rip, trap.ss, trap.rsp);
	}
	expect("RDX that is not canonical", sysexit_to64, 0, (struct regs){ .rdi = NON_CANONICAL, .rsi = 0 }, VECTOR_GP, 0, 6);
	expect("RCX that is not canonical", sysexit_to64, 0, (struct regs){ .rdi = COMPAT_PAGE, .rsi = NON_CANONICAL }, VECTOR_GP, 0, 6);
	wrmsr(MSR_SYSENTER_CS, 0);
}

SNIPPET(sysret_ring3, "mov %rdi, %rcx; nop; nop; nop; sysretl")

void test_syscall(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	// AMD's processors have it in compatibility mode, Intel's do not.
	struct cpuid id = cpuid(0, 0);
	if (id.ebx == 0x756e6547)
		expect_compat("SYSCALL in compatibility mode", syscall_compat, 3, NONE, VECTOR_UD, 0, 1);
	wrmsr(MSR_STAR, (u64)(USER_CS32 & ~3) << 48 | (u64)KERNEL_CS << 32);
	u8 *page = (u8 *)(*page_entry(COMPAT_PAGE, 1) & PAGE_ADDRESS);
	memcpy(page + 0x800, user_lands32.start, (size_t)(user_lands32.end - user_lands32.start));
	// RIP is the lower half of RCX, RFLAGS are R11 but for RF, VM and what is reserved.
	int v = run_snippet(sysret_compat, 0, (struct regs){ .rdi = 0xffff0000ul << 32 | (COMPAT_PAGE + 0x800), .rsi = ~FLAG_TF & ~FLAG_IF & ~0ul });
	check(v == VECTOR_USER_EXIT && trap.cs == USER_CS32 && trap.ss == USER_DS && trap.rip == COMPAT_PAGE + 0x800 + (u64)LENGTH(user_lands32), "SYSRET to compatibility mode: exception %d at %lx:%lx", v,
	      trap.cs, trap.rip);
	u64 flags = FLAGS_STATUS | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID | FLAG_1;
	check(trap.rflags == flags, "SYSRET: RFLAGS %lx, should be %lx", trap.rflags, flags);
	expect("SYSRET at ring 3", sysret_ring3, 3, NONE, VECTOR_GP, 0, 6);
	expect("SYSRET to what is not canonical", sysret_64, 0, (struct regs){ .rdi = NON_CANONICAL, .rsi = FLAG_1 }, VECTOR_GP, 0, 6);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
	expect("SYSRET without EFER.SCE", sysret_64, 0, (struct regs){ .rdi = COMPAT_PAGE, .rsi = FLAG_1 }, VECTOR_UD, 0, 6);
}

CODE32(enter_legacy, "nop; sysenter")
CODE32(exit_legacy, "mov %edi, %edx; mov %esi, %ecx; sysexit")
CODE32(landing, "mov %cs, %ebx; mov %ss, %ecx")
CODE32(exit_user, "nop; sysexit")

// The same where there is no long mode: 32 bits of the MSRs.
void test_sysenter32(void)
{
	legacy_reset();
	legacy_gdt[L_SPARE / 8] = legacy_gdt[L_CODE(0) / 8];
	legacy_gdt[L_SPARE / 8 + 1] = legacy_gdt[L_DATA(0) / 8];
	legacy_gdt[L_SPARE / 8 + 2] = legacy_gdt[L_CODE(3) / 8];
	legacy_gdt[L_SPARE / 8 + 3] = legacy_gdt[L_DATA(3) / 8];
	wrmsr(MSR_SYSENTER_CS, L_SPARE);
	wrmsr(MSR_SYSENTER_EIP, (u64)landing.start);
	wrmsr(MSR_SYSENTER_ESP, STACK_TOP(0) - 256);
	legacy.eflags = FLAG_IOPL | FLAG_CF;
	run_protected(enter_legacy, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.eip == (u32)(u64)landing.end && event.cs == L_SPARE && event.ss == L_SPARE + 8 && event.esp == STACK_TOP(0) - 256,
	      "SYSENTER: exception %d at %x:%x, SS:ESP %x:%x", event.vector, event.cs, event.eip, event.ss, event.esp);
	check(event.eflags == (FLAG_IOPL | FLAG_CF | FLAG_1), "SYSENTER: EFLAGS %x", event.eflags);
	run_protected(exit_legacy, 0, (struct legacy_regs){ .edi = (u32)(u64)landing.start, .esi = STACK_TOP(3) - 64 });
	check(event.vector == VECTOR_USER_EXIT && event.cs == ((L_SPARE + 16) | 3) && event.ss == ((L_SPARE + 24) | 3) && event.esp == STACK_TOP(3) - 64, "SYSEXIT: exception %d at %x:%x, SS:ESP %x:%x",
	      event.vector, event.cs, event.eip, event.ss, event.esp);
	for (int ring = 1; ring < 4; ring++)
		expect32("SYSEXIT of an outer ring", exit_user, ring, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	// The segments are flat, whatever the table says of CS.
	legacy_gdt[L_SPARE / 8] = 0;
	run_protected(enter_legacy, 3, (struct legacy_regs){ 0 });
	check(event.vector == VECTOR_USER_EXIT && event.cs == L_SPARE && event.eip == (u32)(u64)landing.end, "SYSENTER without a descriptor: exception %d at %x:%x", event.vector, event.cs, event.eip);
	wrmsr(MSR_SYSENTER_CS, 0);
	expect32("SYSENTER without a selector", enter_legacy, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	expect32("SYSEXIT without a selector", exit_legacy, 0, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 4);
}
