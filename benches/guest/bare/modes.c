// Code of 16 and 32 bits with segments, without long mode, and the way there and back.
#include "bare.h"
#include "legacy.h"

// A loop over 16 KiB of words in real mode: loads, stores, a near call, push and pop, flags.
CODE16(words16, "mov %cx, %bp\n"
		"1: xor %si, %si\n"
		"2: mov (%si), %di\n"
		"add %bx, %di\n"
		"rol $3, %di\n"
		"xor %di, %ax\n"
		"adc %si, %dx\n"
		"mov %ax, (%si)\n"
		"push %dx\n"
		"call 3f\n"
		"pop %dx\n"
		"add $2, %si\n"
		"cmp $0x4000, %si\n"
		"jb 2b\n"
		"dec %bp\n"
		"jnz 1b\n"
		"jmp 4f\n"
		"3: imul $7, %bx, %bx\n"
		"inc %bx\n"
		"ret\n"
		"4:")

u64 run_real16(void)
{
	legacy_reset();
	memset(low(V86_DATA, 0), 0x35, 0x4000);
	run_real(words16, (struct legacy_regs){ .ecx = 10, .ebx = 1 });
	const struct legacy_regs *r = &legacy.out.regs;
	return (u64)(r->eax & 0xffff) << 32 | (r->ebx & 0xffff) << 16 | (r->edx & 0xffff);
}

// The same with 32-bit registers, and a stack frame as compilers of old made them.
CODE32(words32, "mov %ecx, %ebp\n"
		"1: xor %esi, %esi\n"
		"2: mov legacy_scratch(%esi), %edi\n"
		"add %ebx, %edi\n"
		"rol $3, %edi\n"
		"xor %edi, %eax\n"
		"adc %esi, %edx\n"
		"mov %eax, legacy_scratch(%esi)\n"
		"push %edx\n"
		"push %ebx\n"
		"call 3f\n"
		"pop %ebx\n"
		"pop %edx\n"
		"add $4, %esi\n"
		"cmp $0x1000, %esi\n"
		"jb 2b\n"
		"dec %ebp\n"
		"jnz 1b\n"
		"jmp 4f\n"
		"3: push %ebp\n"
		"mov %esp, %ebp\n"
		"imul $1664525, 8(%ebp), %ebx\n"
		"add $1013904223, %ebx\n"
		"mov %ebx, 8(%ebp)\n"
		"leave\n"
		"ret\n"
		"4:")

u64 run_protected32(void)
{
	legacy_reset();
	memset(legacy_scratch, 0x35, sizeof legacy_scratch);
	run_protected(words32, 0, (struct legacy_regs){ .ecx = 100, .ebx = 1 });
	const struct legacy_regs *r = &legacy.out.regs;
	return (u64)r->eax << 32 ^ (u64)r->ebx << 16 ^ r->edx;
}

CODE32(add32, "lea 3(%eax), %eax")
CODE16(add16, "add $5, %ax")

// Long mode to protected mode and back, long mode to real mode and back.
u64 run_mode_switch(void)
{
	u64 hash = 0;
	legacy_reset();
	for (u32 n = 0; n < 500; n++) {
		run_protected(add32, 0, (struct legacy_regs){ .eax = n });
		hash = mix(hash, legacy.out.regs.eax);
	}
	legacy_reset();
	for (u32 n = 0; n < 500; n++) {
		run_real(add16, (struct legacy_regs){ .eax = n });
		hash = mix(hash, legacy.out.regs.eax & 0xffff);
	}
	return hash;
}
