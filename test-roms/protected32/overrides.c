// Segment overrides: an operand of every kind by a segment that is not flat while the others are, and by the code segment.
// SDM 2A "Instruction Prefixes", 3A "Segment Limit Checking".
#include "protected32.h"

// Loads FS from EAX. The operand is `ops` of FS:[EDI].
#define BY_FS(name, text) CODE32(name, "mov %eax, %fs; " text)
BY_FS(load1, "mov %fs:(%edi), %cl")
BY_FS(load4, "mov %fs:(%edi), %ecx")
BY_FS(load_eax, "mov %fs:0x2000, %eax")
BY_FS(store4, "mov %ecx, %fs:(%edi)")
BY_FS(store_eax, "mov %al, %fs:0x2000")
BY_FS(store_imm, "movw $5, %fs:(%edi)")
BY_FS(movzx, "movzwl %fs:(%edi), %ecx")
BY_FS(movsx, "movsbl %fs:(%edi), %ecx")
BY_FS(add_to, "add %ecx, %fs:(%edi)")
BY_FS(add_from, "add %fs:(%edi), %ecx")
BY_FS(cmp_imm, "cmpl $1, %fs:(%edi)")
BY_FS(test_imm, "testb $1, %fs:(%edi)")
BY_FS(inc, "incw %fs:(%edi)")
BY_FS(neg, "negl %fs:(%edi)")
BY_FS(lock_or, "lock orl $1, %fs:(%edi)")
BY_FS(xchg, "xchg %ecx, %fs:(%edi)")
BY_FS(xadd, "xadd %ecx, %fs:(%edi)")
BY_FS(cmpxchg, "cmpxchg %ecx, %fs:(%edi)")
BY_FS(cmpxchg8b, "lock cmpxchg8b %fs:(%edi)")
BY_FS(mul, "mull %fs:(%edi)")
BY_FS(imul, "imul $3, %fs:(%edi), %ecx")
BY_FS(idiv, "idivl %fs:(%edi)")
BY_FS(shl, "shll $3, %fs:(%edi)")
BY_FS(shrd, "shrd $3, %ecx, %fs:(%edi)")
BY_FS(setc, "setc %fs:(%edi)")
BY_FS(cmov, "cmovc %fs:(%edi), %ecx")
BY_FS(bt, "btl $3, %fs:(%edi)")
BY_FS(bts, "bts %edx, %fs:(%edi)")
BY_FS(btc, "lock btc %edx, %fs:(%edi)")
BY_FS(bsf, "bsf %fs:(%edi), %ecx")
BY_FS(push, "pushl %fs:(%edi)")
BY_FS(pop, "push $0; popl %fs:(%edi)")
BY_FS(jmp, "jmp *%fs:(%edi)")
BY_FS(call, "call *%fs:(%edi)")
BY_FS(ljmp, "ljmp *%fs:(%edi)")
BY_FS(lcall, "lcall *%fs:(%edi)")
BY_FS(les, "les %fs:(%edi), %ecx")
BY_FS(mov_es, "mov %fs:(%edi), %es")
BY_FS(mov_from_es, "mov %es, %fs:(%edi)")
BY_FS(bound, "bound %ecx, %fs:(%edi)")
// With a privilege level that is above that in memory: ARPL writes only what it changes.
BY_FS(arpl, "arpl %ax, %fs:(%edi)")
BY_FS(lar, "lar %fs:(%edi), %ecx")
BY_FS(verr, "verr %fs:(%edi)")
BY_FS(sldt, "sldt %fs:(%edi)")
BY_FS(smsw, "smsw %fs:(%edi)")
BY_FS(sgdt, "sgdtl %fs:(%edi)")
BY_FS(xlat, "mov %edi, %ebx; xlat %fs:(%ebx)")
BY_FS(movs, "mov %edi, %esi; mov %ebp, %edi; movsl %fs:(%esi), %es:(%edi)")
BY_FS(rep_movs, "mov %edi, %esi; mov %ebp, %edi; rep movsb %fs:(%esi), %es:(%edi)")
BY_FS(cmps, "mov %edi, %esi; mov %ebp, %edi; repe cmpsl %es:(%edi), %fs:(%esi)")
BY_FS(lods, "mov %edi, %esi; rep lodsb %fs:(%esi)")
BY_FS(movnti, "movnti %ecx, %fs:(%edi)")
BY_FS(fld, "fldl %fs:(%edi)")
BY_FS(fst, "fld1; fstpl %fs:(%edi)")
BY_FS(fist, "fld1; fistpll %fs:(%edi)")
BY_FS(fld_ext, "fldt %fs:(%edi)")
BY_FS(fadd, "fld1; fadds %fs:(%edi)")
BY_FS(fnstcw, "fnstcw %fs:(%edi)")
BY_FS(fnstenv, "fnstenv %fs:(%edi)")
BY_FS(fnsave, "fnsave %fs:(%edi)")
BY_FS(fxsave, "fxsave %fs:(%edi)")
BY_FS(stmxcsr, "stmxcsr %fs:(%edi)")
BY_FS(movd, "movd %fs:(%edi), %xmm0")
BY_FS(movups, "movups %fs:(%edi), %xmm0")
BY_FS(movaps, "movaps %xmm0, %fs:(%edi)")
BY_FS(movlps, "movlps %xmm0, %fs:(%edi)")
BY_FS(addps, "addps %fs:(%edi), %xmm0")
BY_FS(pshufb, "pshufd $1, %fs:(%edi), %xmm0")
BY_FS(movq_mmx, "movq %fs:(%edi), %mm0; emms")
BY_FS(maskmov, "pxor %xmm1, %xmm1; pcmpeqb %xmm1, %xmm1; .byte 0x64; maskmovdqu %xmm1, %xmm0")
BY_FS(clflush, "clflush %fs:(%edi)")

#define O(name, writes) { #name, &name, writes }
static const struct { const char *what; const struct code *code; bool writes; } operands[] = {
	O(load1, 0), O(load4, 0), O(load_eax, 0), O(store4, 1), O(store_eax, 1), O(store_imm, 1), O(movzx, 0), O(movsx, 0), O(add_to, 1), O(add_from, 0), O(cmp_imm, 0), O(test_imm, 0),
	O(inc, 1), O(neg, 1), O(lock_or, 1), O(xchg, 1), O(xadd, 1), O(cmpxchg, 1), O(cmpxchg8b, 1), O(mul, 0), O(imul, 0), O(idiv, 0), O(shl, 1), O(shrd, 1), O(setc, 1), O(cmov, 0),
	O(bt, 0), O(bts, 1), O(btc, 1), O(bsf, 0), O(push, 0), O(pop, 1), O(jmp, 0), O(call, 0), O(ljmp, 0), O(lcall, 0), O(les, 0), O(mov_es, 0), O(mov_from_es, 1), O(bound, 0), O(arpl, 1),
	O(lar, 0), O(verr, 0), O(sldt, 1), O(smsw, 1), O(sgdt, 1), O(xlat, 0), O(movs, 0), O(rep_movs, 0), O(cmps, 0), O(lods, 0), O(movnti, 1),
	O(fld, 0), O(fst, 1), O(fist, 1), O(fld_ext, 0), O(fadd, 0), O(fnstcw, 1), O(fnstenv, 1), O(fnsave, 1), O(fxsave, 1), O(stmxcsr, 1), O(movd, 0), O(movups, 0), O(movaps, 1),
	O(movlps, 1), O(addps, 0), O(pshufb, 0), O(movq_mmx, 0), O(maskmov, 1), O(clflush, 0),
};

static void refused(const char *kind, size_t i, struct legacy_regs r)
{
	run_protected(*operands[i].code, 3, r);
	u32 offset = event.eip - (u32)(u64)operands[i].code->start;
	check(event.vector == VECTOR_GP && event.error == 0 && offset >= 2, "%s, %s: exception %d, error code %x at +%u", operands[i].what, kind, event.vector, event.error, offset);
}

void test_overrides(void)
{
	legacy.cr4 = CR4_OSFXSR;
	struct legacy_regs r = { .eax = L_SPARE | 3, .ecx = 40, .edi = 0x1000, .ebp = SCRATCH };
	for (size_t i = 0; i < ARRAY_SIZE(operands); i++) {
		SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_DPL(3) | D_BIG);
		refused("beyond the limit", i, r);
		SPARE = descriptor(SCRATCH, 0x2fff, D_DATA | D_DOWN | D_DPL(3) | D_BIG);
		refused("expand-down", i, r);
		if (operands[i].writes) {
			SPARE = descriptor(SCRATCH - 0x1000, 0xffff, 0x90 | D_DPL(3) | D_BIG);
			refused("read-only", i, r);
			SPARE = descriptor(SCRATCH - 0x1000, 0xffff, D_CODE | D_DPL(3) | D_BIG);
			refused("code", i, r);
		}
		r.eax = 0;
		refused("null", i, r);
		r.eax = L_SPARE | 3;
	}
	asm volatile("fninit");
	legacy.cr4 = 0;
}

CODE32(bts_by_offset, "mov %eax, %fs; bts %edx, %fs:(%edi)")
CODE32(bt_by_offset, "mov %eax, %fs; bt %edx, %fs:(%edi)")

// The bit's number moves the operand: SDM 2A "BT".
void test_bit_strings(void)
{
	SPARE = descriptor(SCRATCH, 0xfff, D_DATA | D_DPL(3) | D_BIG);
	memset(legacy_scratch, 0, sizeof legacy_scratch);
	struct legacy_regs r = { .eax = L_SPARE | 3, .edi = 0xff0, .edx = 0x7f };
	passes32("last bit within the limit", bts_by_offset, 3, r);
	check(legacy_scratch[0xfff] == 0x80, "last bit within the limit: %x", legacy_scratch[0xfff]);
	r.edx = 0x80;
	expect32("first bit beyond the limit", bts_by_offset, 3, r, VECTOR_GP, 0, 2);
	expect32("first bit beyond the limit", bt_by_offset, 3, r, VECTOR_GP, 0, 2);
	r.edx = (u32)-1;
	r.edi = 4;
	passes32("bit before the operand", bts_by_offset, 3, r);
	check(legacy_scratch[3] == 0x80, "bit before the operand: %x", legacy_scratch[3]);
	r.edi = 3;
	expect32("bit before the segment", bts_by_offset, 3, r, VECTOR_GP, 0, 2);
}
