# The same in 32-bit code: EDI, ESI, and what only this has.
	.include "kinds.inc"

	.pushsection .rodata.kinds, "a"
	.globl kinds32
kinds32:
	.popsection
	.code32

KIND "MOV, 2 bytes", READS, 2
	movw (%edi), %bx
END
KIND "MOV, 4 bytes", READS, 4
	movl (%edi), %ebx
END
KIND "MUL", READS, 4
	mull (%edi)
END
KIND "CMP", READS, 4
	cmpl %ebx, (%edi)
END
KIND "PUSH from memory", READS, 4
	pushl (%edi)
END
KIND "JMP by memory", READS, 4
	jmp *(%edi)
END
KIND "LES", READS, 6
	les (%edi), %ebx
END
KIND "BOUND", READS, 8
	bound %eax, (%edi)
END
KIND "LODS", READS, 4
	mov %edi, %esi
	lodsl
END
KIND "CMPS", READS, 4
	cmpsl
END
KIND "POP to a register", READS, 4, 1, 0
	popl %ebx
END
KIND "RET", READS, 4, 1, 0
	ret
END
KIND "POPAD", READS, 32, 1, 0, 1
	popal
END
KIND "FLD, 10 bytes", READS, 10
	fldt (%edi)
END
KIND "FLD, 4 bytes", READS, 4
	flds (%edi)
END
KIND "MOVDQU", READS, 16
	movdqu (%edi), %xmm0
END
KIND "FLDENV", READS, 28, 1, NO_STACK, 1
	fldenv (%edi)
END
KIND "FXRSTOR", READS, 512, 16, NO_STACK, 1
	fxrstor (%edi)
END

KIND "MOV, 2 bytes", WRITES, 2
	movw %bx, (%edi)
END
KIND "MOV, 4 bytes", WRITES, 4
	movl %ebx, (%edi)
END
KIND "MOV of an immediate", WRITES, 4
	movl $-5, (%edi)
END
KIND "STOS", WRITES, 4
	stosl
END
KIND "MOVS", WRITES, 4
	movsl
END
KIND "PUSH", WRITES, 4, 1, 4
	pushl %ebx
END
KIND "PUSH, 2 bytes", WRITES, 2, 1, 2
	pushw %bx
END
# SDM 2B "PUSH": recent processors write two bytes of the four.
KIND "PUSH of a segment register", WRITES, 2, 1, 4
	pushl %ds
END
KIND "PUSHFD", WRITES, 4, 1, 4
	pushfl
END
KIND "PUSHAD", WRITES, 32, 1, 32, 1
	pushal
END
KIND "CALL", WRITES, 4, 1, 4
	call 1f
1:
END
KIND "CALL by a register", WRITES, 4, 1, 4
	call 2f
2:	pop %ecx
	add $(1f - 2b), %ecx
	call *%ecx
1:
END
KIND "ENTER", WRITES, 4, 1, 4
	enter $0, $0
END
KIND "SGDT", WRITES, 6, 1, NO_STACK, 1
	sgdt (%edi)
END
KIND "MOVUPS", WRITES, 16
	movups %xmm0, (%edi)
END
KIND "FSTP, 10 bytes", WRITES, 10
	fldz
	fstpt (%edi)
END
KIND "FNSTENV", WRITES, 28, 1, NO_STACK, 1
	fnstenv (%edi)
END
KIND "FNSAVE", WRITES, 108, 1, NO_STACK, 1
	fnsave (%edi)
END
KIND "FXSAVE", WRITES, 288, 16, NO_STACK, 1
	fxsave (%edi)
END

KIND "ADD", MODIFIES, 4
	addl $1, (%edi)
END
KIND "INC, 2 bytes", MODIFIES, 2
	incw (%edi)
END
KIND "NOT", MODIFIES, 4
	notl (%edi)
END
KIND "SAR", MODIFIES, 4
	sarl $1, (%edi)
END
KIND "SHRD", MODIFIES, 4
	shrdl $5, %ebx, (%edi)
END
KIND "BTC", MODIFIES, 4
	btcl $0, (%edi)
END
KIND "XCHG", MODIFIES, 4
	xchgl %ebx, (%edi)
END
KIND "XADD", MODIFIES, 4
	xaddl %ebx, (%edi)
END
KIND "CMPXCHG", MODIFIES, 4
	cmpxchgl %ebx, (%edi)
END
KIND "CMPXCHG8B", MODIFIES, 8
	cmpxchg8b (%edi)
END
KIND "LOCK INC", MODIFIES, 4
	lock incl (%edi)
END
KIND "LOCK CMPXCHG8B", MODIFIES, 8
	lock cmpxchg8b (%edi)
END

	.code64
	.pushsection .rodata.kinds, "a"
kinds32_end:
	.popsection
	.section .rodata.count, "a"
	.balign 4
	.globl kinds32_count
kinds32_count:
	.long	(kinds32_end - kinds32) / 30
