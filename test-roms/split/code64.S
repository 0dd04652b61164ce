# Instructions with one memory operand at RDI, or at the top of the stack. RSI points to the same offset in pages that are always
# there, RAX is 0.
	.include "kinds.inc"

	.pushsection .rodata.kinds, "a"
	.globl kinds64
kinds64:
	.popsection
	.code64

KIND "MOV, 2 bytes", READS, 2
	movw (%rdi), %bx
END
KIND "MOV, 4 bytes", READS, 4
	movl (%rdi), %ebx
END
KIND "MOV, 8 bytes", READS, 8
	movq (%rdi), %rbx
END
KIND "MOVZX", READS, 2
	movzwl (%rdi), %ebx
END
KIND "CMP", READS, 8
	cmpq %rbx, (%rdi)
END
KIND "TEST with immediate", READS, 4
	testl $1, (%rdi)
END
KIND "IMUL", READS, 8
	imulq (%rdi), %rbx
END
KIND "BT", READS, 8
	btq $3, (%rdi)
END
KIND "PUSH from memory", READS, 8
	pushq (%rdi)
END
KIND "JMP by memory", READS, 8
	jmpq *(%rdi)
END
KIND "LODS", READS, 8
	mov %rdi, %rsi
	lodsq
END
KIND "CMPS", READS, 4
	cmpsl
END
KIND "SCAS", READS, 8
	scasq
END
KIND "POP to a register", READS, 8, 1, 0
	popq %rbx
END
KIND "RET", READS, 8, 1, 0
	ret
END
KIND "POPF", READS, 8, 1, 0
	popfq
END
KIND "MOVDQU", READS, 16
	movdqu (%rdi), %xmm0
END
KIND "MOVLPS", READS, 8
	movlps (%rdi), %xmm0
END
KIND "CVTSI2SD", READS, 8
	cvtsi2sdq (%rdi), %xmm0
END
KIND "LDMXCSR", READS, 4
	ldmxcsr (%rdi)
END
KIND "FLD, 10 bytes", READS, 10
	fldt (%rdi)
END
KIND "FLD, 8 bytes", READS, 8
	fldl (%rdi)
END
KIND "FILD, 2 bytes", READS, 2
	filds (%rdi)
END
KIND "FLDCW", READS, 2
	fldcw (%rdi)
END
KIND "MOVQ to MMX", READS, 8
	movq (%rdi), %mm0
END
KIND "FLDENV", READS, 28, 1, NO_STACK, 1
	fldenv (%rdi)
END
KIND "FRSTOR", READS, 108, 1, NO_STACK, 1
	frstor (%rdi)
END
KIND "FXRSTOR", READS, 512, 16, NO_STACK, 1
	fxrstor64 (%rdi)
END

# Needs CR4.OSXSAVE. The header is in the second page.
KIND "XRSTOR", READS, 576, 64, NO_STACK, 1
	mov $3, %eax
	xor %edx, %edx
	xrstor (%rdi)
END

KIND "MOV, 2 bytes", WRITES, 2
	movw %bx, (%rdi)
END
KIND "MOV, 4 bytes", WRITES, 4
	movl %ebx, (%rdi)
END
KIND "MOV, 8 bytes", WRITES, 8
	movq %rbx, (%rdi)
END
KIND "MOV of an immediate", WRITES, 8
	movq $-5, (%rdi)
END
KIND "MOVNTI", WRITES, 8
	movnti %rbx, (%rdi)
END
KIND "MOV from a segment register", WRITES, 2
	movw %ds, (%rdi)
END
KIND "STOS", WRITES, 8
	stosq
END
KIND "MOVS", WRITES, 8
	movsq
END
KIND "PUSH", WRITES, 8, 1, 8
	pushq %rbx
END
KIND "PUSH of an immediate", WRITES, 8, 1, 8
	pushq $77
END
KIND "PUSH, 2 bytes", WRITES, 2, 1, 2
	pushw %bx
END
KIND "PUSHF", WRITES, 8, 1, 8
	pushfq
END
KIND "CALL", WRITES, 8, 1, 8
	call 1f
1:
END
KIND "CALL by a register", WRITES, 8, 1, 8
	lea 1f(%rip), %rcx
	call *%rcx
1:
END
KIND "CALL by memory", WRITES, 8, 1, 8
	mov %rsp, %rcx
	lea 1f(%rip), %rbx
	mov %rbx, (%rsi)
	call *(%rsi)
1:
END
KIND "ENTER", WRITES, 8, 1, 8
	enter $0, $0
END
KIND "MOVUPS", WRITES, 16
	movups %xmm0, (%rdi)
END
KIND "MOVHPS", WRITES, 8
	movhps %xmm0, (%rdi)
END
KIND "MOVSS", WRITES, 4
	movss %xmm0, (%rdi)
END
KIND "MASKMOVDQU", WRITES, 16
	pcmpeqd %xmm1, %xmm1
	maskmovdqu %xmm1, %xmm0
END
KIND "STMXCSR", WRITES, 4
	stmxcsr (%rdi)
END
KIND "FSTP, 10 bytes", WRITES, 10
	fldz
	fstpt (%rdi)
END
KIND "FST, 8 bytes", WRITES, 8
	fldz
	fstl (%rdi)
END
KIND "FISTP, 8 bytes", WRITES, 8
	fldz
	fistpll (%rdi)
END
KIND "FBSTP", WRITES, 10
	fldz
	fbstp (%rdi)
END
KIND "FNSTCW", WRITES, 2
	fnstcw (%rdi)
END
KIND "FNSTENV", WRITES, 28, 1, NO_STACK, 1
	fnstenv (%rdi)
END
KIND "FNSAVE", WRITES, 108, 1, NO_STACK, 1
	fnsave (%rdi)
END
KIND "FXSAVE", WRITES, 464, 16, NO_STACK, 1
	fxsave64 (%rdi)
END
KIND "XSAVE", WRITES, 576, 64, NO_STACK, 1
	mov $3, %eax
	xor %edx, %edx
	xsave (%rdi)
END
KIND "SETcc in one page", WRITES, 1
	setc (%rdi)
END

KIND "ADD", MODIFIES, 8
	addq $1, (%rdi)
END
KIND "ADC, 2 bytes", MODIFIES, 2
	adcw $1, (%rdi)
END
KIND "AND, 4 bytes", MODIFIES, 4
	andl $0, (%rdi)
END
KIND "INC", MODIFIES, 4
	incl (%rdi)
END
KIND "NOT", MODIFIES, 8
	notq (%rdi)
END
KIND "NEG, 2 bytes", MODIFIES, 2
	negw (%rdi)
END
KIND "SHL", MODIFIES, 8
	shlq $1, (%rdi)
END
KIND "RCR by CL", MODIFIES, 4
	mov $3, %ecx
	rcrl %cl, (%rdi)
END
KIND "SHLD", MODIFIES, 8
	shldq $5, %rbx, (%rdi)
END
KIND "BTS", MODIFIES, 8
	btsq $0, (%rdi)
END
KIND "XCHG", MODIFIES, 8
	xchgq %rbx, (%rdi)
END
KIND "XADD", MODIFIES, 4
	xaddl %ebx, (%rdi)
END
KIND "CMPXCHG", MODIFIES, 8
	cmpxchgq %rbx, (%rdi)
END
KIND "CMPXCHG8B", MODIFIES, 8
	cmpxchg8b (%rdi)
END
KIND "LOCK ADD", MODIFIES, 8
	lock addq $1, (%rdi)
END
KIND "LOCK XADD, 2 bytes", MODIFIES, 2
	lock xaddw %bx, (%rdi)
END
KIND "LOCK CMPXCHG", MODIFIES, 4
	lock cmpxchgl %ebx, (%rdi)
END
KIND "LOCK CMPXCHG8B", MODIFIES, 8
	lock cmpxchg8b (%rdi)
END
KIND "LOCK BTR", MODIFIES, 4
	lock btrl $1, (%rdi)
END

	.pushsection .rodata.kinds, "a"
kinds64_end:
	.popsection
	.section .rodata.count, "a"
	.balign 4
	.globl kinds64_count
kinds64_count:
	.long	(kinds64_end - kinds64) / 30
