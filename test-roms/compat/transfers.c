// Far transfers between 64-bit code, compatibility code, and rings. SDM 2A "CALL", "IRET", "JMP", 2B "RET", 3A "IA-32e Mode Call Gates".
#include "compat.h"

// 32-bit code that goes to the 64-bit code behind itself, and the other way round.
SNIPPET32(to_64, "ljmp *(%edi); .code64; 1: mov %cs, %ebx; mov $-1, %rcx; .code32")
SNIPPET(to_32, "rex.W ljmp *(%rdi)")
SNIPPET(to_32_short, "ljmp *(%rdi)")
SNIPPET32(call_64, "lcall *(%edi); mov %cs, %edx")
SNIPPET(call_32, "lcall *(%rdi); mov %cs, %edx")
SNIPPET(call_32_wide, "rex.W lcall *(%rdi); mov %cs, %edx")
SNIPPET(ret_64, "push %rsi; push %rax; lretq")
SNIPPET(ret_32, "push %rsi; push %rax; rex.W lret")
SNIPPET(ret_short, "sub $8, %rsp; mov %eax, (%rsp); mov %esi, 4(%rsp); lretl")


#define TARGET 0x800	// offset in the code page

static void at_target(struct snippet s)
{
	u8 *page = (u8 *)(*page_entry(COMPAT_PAGE, 1) & PAGE_ADDRESS);
	memcpy(page + TARGET, s.start, (size_t)(s.end - s.start));
}

SNIPPET32(land_32, "mov %cs, %ebx; dec %eax")
SNIPPET(land_64, "mov %cs, %ebx; mov $-1, %rcx")
SNIPPET32(land_ret, "mov %cs, %ebx; lret")
SNIPPET(land_ret64, "mov %cs, %ebx; lretl")

static bool landed(struct snippet s, u16 cs)
{
	return trap.vector == VECTOR_USER_EXIT && trap.rip == COMPAT_PAGE + TARGET + (u64)LENGTH(s) && trap.cs == cs && trap.rbx == cs;
}

void test_far_jumps(void)
{
	for (int ring = 0; ring < 4; ring += 3) {
		u16 cs64 = ring ? USER_CS : KERNEL_CS, cs32 = ring ? USER_CS32 : KERNEL_CS32;
		at_target(land_64);
		run_compat(to_64, ring, far_pointer(COMPAT_PAGE + TARGET, cs64));
		check(landed(land_64, cs64) && trap.rcx == ~0ul, "ring %d, to 64-bit mode: exception %lu at %lx:%lx", ring, trap.vector, trap.cs, trap.rip);
		at_target(land_32);
		run_compat_as(to_32_short, cs64, COMPAT_PAGE, ring ? USER_DS : KERNEL_DS, far_pointer(COMPAT_PAGE + TARGET, cs32));
		check(landed(land_32, cs32), "ring %d, to compatibility mode: exception %lu at %lx:%lx", ring, trap.vector, trap.cs, trap.rip);
		// A pointer of 10 bytes.
		struct regs r = far_pointer(0, 0);
		*(u64 *)stack_frame = COMPAT_PAGE + TARGET;
		*(u16 *)(stack_frame + 8) = cs32;
		run_compat_as(to_32, cs64, COMPAT_PAGE, ring ? USER_DS : KERNEL_DS, r);
		check(landed(land_32, cs32), "ring %d, to compatibility mode by a pointer of 10 bytes: exception %lu at %lx:%lx", ring, trap.vector, trap.cs, trap.rip);
		// Beyond the limit of the 32-bit segment.
		*(u64 *)stack_frame = 1ul << 32;
		int v = run_compat_as(to_32, cs64, COMPAT_PAGE, ring ? USER_DS : KERNEL_DS, r);
		check(v == VECTOR_GP && trap.error_code == 0 && trap.rip == COMPAT_PAGE, "ring %d, beyond 4 GiB: exception %d, error code %lx", ring, v, trap.error_code);
		*(u64 *)stack_frame = NON_CANONICAL;
		*(u16 *)(stack_frame + 8) = cs64;
		v = run_compat_as(to_32, cs64, COMPAT_PAGE, ring ? USER_DS : KERNEL_DS, r);
		check(v == VECTOR_GP && trap.error_code == 0 && trap.rip == COMPAT_PAGE, "ring %d, not canonical: exception %d, error code %lx", ring, v, trap.error_code);
	}
}

void test_far_calls(void)
{
	u16 cs64 = USER_CS, cs32 = USER_CS32;
	at_target(land_ret64);
	run_compat(call_64, 3, far_pointer(COMPAT_PAGE + TARGET, cs64));
	check(trap.vector == VECTOR_USER_EXIT && trap.rip == COMPAT_PAGE + (u64)LENGTH(call_64) && trap.rbx == cs64 && trap.rdx == cs32 && trap.rsp == COMPAT_STACK_END,
	      "to 64-bit mode and back: exception %lu at %lx:%lx, RSP %lx", trap.vector, trap.cs, trap.rip, trap.rsp);
	at_target(land_ret);
	run_compat_as(call_32, cs64, COMPAT_PAGE, USER_DS, far_pointer(COMPAT_PAGE + TARGET, cs32));
	check(trap.vector == VECTOR_USER_EXIT && trap.rip == COMPAT_PAGE + (u64)LENGTH(call_32) && trap.rbx == cs32 && trap.rdx == cs64 && trap.rsp == COMPAT_STACK_END,
	      "to compatibility mode and back: exception %lu at %lx:%lx, RSP %lx", trap.vector, trap.cs, trap.rip, trap.rsp);
	// With REX.W the return address has 16 bytes.
	at_target(land_32);
	struct regs r = far_pointer(0, 0);
	*(u64 *)stack_frame = COMPAT_PAGE + TARGET;
	*(u16 *)(stack_frame + 8) = cs32;
	run_compat_as(call_32_wide, cs64, COMPAT_PAGE, USER_DS, r);
	const u64 *f = (u64 *)(stack_frame + (trap.rsp - COMPAT_STACK));
	check(landed(land_32, cs32) && trap.rsp == COMPAT_STACK_END - 16 && f[0] == COMPAT_PAGE + 3 && f[1] == cs64, "CALL with REX.W: RSP %lx, %lx:%lx", trap.rsp, f[1], f[0]);
}

void test_far_returns(void)
{
	at_target(land_32);
	struct snippet forms[] = { ret_64, ret_32, ret_short };
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		run_compat_as(forms[i], USER_CS, COMPAT_PAGE, USER_DS, (struct regs){ .rax = COMPAT_PAGE + TARGET, .rsi = USER_CS32 });
		check(landed(land_32, USER_CS32) && trap.rsp == COMPAT_STACK_END, "form %lu: exception %lu at %lx:%lx, RSP %lx", i, trap.vector, trap.cs, trap.rip, trap.rsp);
	}
	int v = run_compat_as(ret_64, USER_CS, COMPAT_PAGE, USER_DS, (struct regs){ .rax = NON_CANONICAL, .rsi = USER_CS });
	check(v == VECTOR_GP && trap.error_code == 0 && trap.rip == COMPAT_PAGE + 2, "RIP that is not canonical: exception %d, error code %lx at +%ld", v, trap.error_code,
	      trap.rip - COMPAT_PAGE);
	v = run_compat_as(ret_64, USER_CS, COMPAT_PAGE, USER_DS, (struct regs){ .rax = COMPAT_PAGE + TARGET, .rsi = KERNEL_CS });
	check(v == VECTOR_GP && trap.error_code == KERNEL_CS, "to an inner ring: exception %d, error code %lx", v, trap.error_code);
}

SNIPPET32(iret_same, "pushf; push %esi; push %eax; iretl")

void test_iret(void)
{
	// Compatibility mode to 64-bit mode at the same ring: no stack is popped.
	at_target(land_64);
	for (int ring = 0; ring < 4; ring += 3) {
		u16 cs64 = ring ? USER_CS : KERNEL_CS;
		run_compat(iret_same, ring, (struct regs){ .rax = COMPAT_PAGE + TARGET, .rsi = cs64 });
		check(landed(land_64, cs64) && trap.rsp == COMPAT_STACK_END, "ring %d, IRETD to 64-bit mode: exception %lu at %lx:%lx, RSP %lx", ring, trap.vector, trap.cs, trap.rip,
		      trap.rsp);
	}
	// NT is refused in long mode, whatever the code's width.
	int v = run_compat(iret_same, 0, (struct regs){ .rax = COMPAT_PAGE + TARGET, .rsi = KERNEL_CS, .rflags = FLAG_NT });
	check(v == VECTOR_GP && trap.error_code == 0, "NT: exception %d, error code %lx", v, trap.error_code);
	write_flags(FLAG_1);
	// IRETQ from ring 0 is how every test here begins; with a null SS it may go to 64-bit rings 0 to 2 only.
	v = run_compat_as(land_32, USER_CS32, COMPAT_PAGE, 3, NONE);
	check(v == VECTOR_GP && trap.error_code == 0 && trap.cs == KERNEL_CS, "IRETQ to compatibility mode with a null SS: exception %d, error code %lx", v, trap.error_code);
	v = run_compat_as(land_32, KERNEL_CS32, COMPAT_PAGE, 0, NONE);
	check(v == VECTOR_GP && trap.error_code == 0, "IRETQ to compatibility mode of ring 0 with a null SS: exception %d, error code %lx", v, trap.error_code);
}

// L and D together are reserved.
void test_long_and_big(void)
{
	*SPARE = gdt[USER_CS / 8] | 1ul << 54;
	struct regs r = far_pointer(COMPAT_PAGE + TARGET, SPARE_SELECTOR | 3);
	expect_compat("JMP", to_64, 3, r, VECTOR_GP, SPARE_SELECTOR, 0);
	expect_compat("CALL", call_64, 3, r, VECTOR_GP, SPARE_SELECTOR, 0);
	int v = run_compat_as(land_32, SPARE_SELECTOR | 3, COMPAT_PAGE, USER_DS, NONE);
	check(v == VECTOR_GP && trap.error_code == SPARE_SELECTOR, "IRETQ: exception %d, error code %lx", v, trap.error_code);
	*SPARE = 0;
}

SNIPPET32(gate_call, "lcall *(%edi); mov %cs, %edx")
SNIPPET(gate_call64, "lcall *(%rdi); mov %cs, %edx")
SNIPPET32(gate_jump, "ljmp *(%edi)")

extern u8 gate_code[];
extern u64 gate_seen[8];
asm(".text\n"
    "gate_code: mov %rsp, gate_seen; mov %cs, %ebx; mov %rbx, gate_seen + 8; mov %ss, %ebx; mov %rbx, gate_seen + 16\n"
    "mov (%rsp), %rbx; mov %rbx, gate_seen + 24; mov 8(%rsp), %rbx; mov %rbx, gate_seen + 32\n"
    "mov 16(%rsp), %rbx; mov %rbx, gate_seen + 40; mov 24(%rsp), %rbx; mov %rbx, gate_seen + 48; rex.W lret\n"
    ".bss\n.balign 8\ngate_seen: .skip 64\n.text\n");

static void set_gate(u16 selector, u64 offset, u32 rights)
{
	SPARE[0] = gate_descriptor(selector, (u32)offset, rights, 0);
	SPARE[1] = offset >> 32;
}

void test_gates(void)
{
	set_gate(KERNEL_CS, (u64)gate_code, D_GATE_CALL32 | D_DPL(3));
	struct { const char *what; struct snippet s; u16 cs; } callers[] = { { "from compatibility mode", gate_call, USER_CS32 }, { "from 64-bit mode", gate_call64, USER_CS } };
	for (size_t i = 0; i < 2; i++) {
		u16 cs = callers[i].cs;
		run_compat_as(callers[i].s, cs, COMPAT_PAGE, USER_DS, far_pointer(0, SPARE_SELECTOR));
		check(trap.vector == VECTOR_USER_EXIT && trap.cs == cs && trap.rip == COMPAT_PAGE + (u64)LENGTH(callers[i].s) && trap.rdx == cs && trap.rsp == COMPAT_STACK_END,
		      "%s: exception %lu at %lx:%lx", callers[i].what, trap.vector, trap.cs, trap.rip);
		check(gate_seen[0] == tss.rsp[0] - 32 && gate_seen[1] == KERNEL_CS && gate_seen[2] == 0, "%s: RSP %lx CS %lx SS %lx", callers[i].what, gate_seen[0], gate_seen[1], gate_seen[2]);
		check(gate_seen[3] == COMPAT_PAGE + 2 && gate_seen[4] == cs && gate_seen[5] == COMPAT_STACK_END && gate_seen[6] == USER_DS, "%s: frame %lx:%lx %lx:%lx", callers[i].what,
		      gate_seen[4], gate_seen[3], gate_seen[6], gate_seen[5]);
	}
	SPARE[0] = SPARE[1] = 0;
}

void test_bad_gates(void)
{
	struct regs r = far_pointer(0, SPARE_SELECTOR | 3);
	set_gate(KERNEL_CS32, COMPAT_PAGE, D_GATE_CALL32 | D_DPL(3));
	expect_compat("to compatibility code", gate_call, 3, r, VECTOR_GP, KERNEL_CS32, 0);
	set_gate(KERNEL_CS, NON_CANONICAL, D_GATE_CALL32 | D_DPL(3));
	expect_compat("to what is not canonical", gate_call, 3, r, VECTOR_GP, 0, 0);
	set_gate(KERNEL_CS, (u64)gate_code, D_GATE_CALL32);
	expect_compat("of DPL 0", gate_call, 3, r, VECTOR_GP, SPARE_SELECTOR, 0);
	set_gate(KERNEL_CS, (u64)gate_code, (D_GATE_CALL32 & ~D_P) | D_DPL(3));
	expect_compat("not present", gate_call, 3, r, VECTOR_NP, SPARE_SELECTOR, 0);
	set_gate(KERNEL_CS, (u64)gate_code, D_GATE_CALL32 | D_DPL(3));
	expect_compat("JMP to an inner ring", gate_jump, 3, r, VECTOR_GP, KERNEL_CS, 0);
	SPARE[1] |= 0xcul << 40;
	expect_compat("with a type in its upper half", gate_call, 3, r, VECTOR_GP, SPARE_SELECTOR, 0);
	// What long mode has not.
	u32 none[] = { D_GATE_CALL16, D_GATE_TASK, D_TSS16, D_TSS32, D_TSS32 | 2, D_LDT, D_GATE_INT32 };
	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		set_gate(KERNEL_CS, (u64)gate_code, none[i] | D_DPL(3));
		check(run_compat(gate_call, 3, r) == VECTOR_GP && trap.error_code == SPARE_SELECTOR, "CALL of type %x: exception %lu, error code %lx", none[i], trap.vector, trap.error_code);
		check(run_compat(gate_jump, 3, r) == VECTOR_GP && trap.error_code == SPARE_SELECTOR, "JMP of type %x: exception %lu, error code %lx", none[i], trap.vector, trap.error_code);
	}
	SPARE[0] = SPARE[1] = 0;
}
