# Out of long mode and back: SDM 3A "IA-32e Mode Initialization" and "IA-32e Mode Operation Requirements". Leaving goes by way of
# compatibility mode and CR0.PG = 0.

	.set CR0, 0
	.set CR3, 4
	.set CR4, 8
	.set EFER, 12
	.set USER, 16
	.set CODE, 20
	.set STACK, 24
	.set FLAGS, 28
	.set EAX, 32
	.set ECX, 36
	.set EDX, 40
	.set EBX, 44
	.set EBP, 48
	.set ESI, 52
	.set EDI, 56
	.set VECTOR, 60
	.set ERROR_CODE, 64
	.set CR2, 68
	.set END_EIP, 72
	.set END_CS, 76
	.set END_FLAGS, 80
	.set END_ESP, 84
	.set END_EAX, 88
	.set END_ECX, 92
	.set END_EDX, 96
	.set END_EBX, 100
	.set END_EBP, 104
	.set END_ESI, 108
	.set END_EDI, 112

	.set CS32, 0x08
	.set DS32, 0x10
	.set USER_CS, 0x18 | 3
	.set USER_DS, 0x20 | 3
	.set TSS32, 0x28
	.set CS64, 0x30
	.set KERNEL_CS, 0x08		# of interrupts.h, and the TSS there
	.set KERNEL_DS, 0x10
	.set KERNEL_TSS, 0x30
	.set MSR_EFER, 0xc0000080
	.set END_VECTOR, 0x80

	.text
	.code64
# void paged32(struct paged32 *)
	.globl paged32
paged32:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	cli
	mov	%edi, request(%rip)
	mov	%rsp, saved_rsp(%rip)
	mov	%cr0, %rax
	mov	%rax, saved_cr0(%rip)
	mov	%cr3, %rax
	mov	%rax, saved_cr3(%rip)
	mov	%cr4, %rax
	mov	%rax, saved_cr4(%rip)
	sgdt	saved_gdt(%rip)
	sidt	saved_idt(%rip)
	cmpw	$0, paged32_idt + 6(%rip)
	jne	1f
	call	fill_tables
1:	lgdt	paged32_gdt_pointer(%rip)
	push	$CS32
	push	$2f
	lretq

	.code32
2:	mov	$DS32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$handler_stack_top, %esp
	lidt	paged32_idt_pointer
	mov	%cr0, %eax
	and	$0x7fffffff, %eax
	mov	%eax, %cr0
	mov	$MSR_EFER, %ecx
	rdmsr
	mov	%eax, saved_efer
	mov	%edx, saved_efer + 4
	mov	request, %ebx
	mov	EFER(%ebx), %eax
	xor	%edx, %edx
	wrmsr
	movb	$0x89, paged32_gdt + TSS32 + 5	# not busy
	mov	$TSS32, %eax
	ltr	%ax
	mov	CR4(%ebx), %eax
	mov	%eax, %cr4
	mov	CR3(%ebx), %eax
	mov	%eax, %cr3
	mov	CR0(%ebx), %eax
	or	$0x80000001, %eax
	mov	%eax, %cr0
	jmp	3f
3:	mov	EAX(%ebx), %eax
	mov	ECX(%ebx), %ecx
	mov	EDX(%ebx), %edx
	mov	EBP(%ebx), %ebp
	mov	ESI(%ebx), %esi
	mov	EDI(%ebx), %edi
	cmpl	$0, USER(%ebx)
	jne	4f
	pushl	FLAGS(%ebx)			# on the handler's stack, which is empty
	pushl	CODE(%ebx)
	mov	EBX(%ebx), %ebx
	popl	jump_target
	popfl
	jmp	*jump_target
4:	push	$USER_DS
	pushl	STACK(%ebx)
	pushl	FLAGS(%ebx)
	push	$USER_CS
	pushl	CODE(%ebx)
	mov	EBX(%ebx), %ebx
	push	%eax
	mov	$USER_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	pop	%eax
	iretl

	.set vector, 0
	.rept 32
	.balign 16
	.if vector == 0
paged32_entries:
	.endif
	.if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
	push	$0
	.endif
	push	$vector
	jmp	paged32_trap
	.set vector, vector + 1
	.endr
	.balign 16
paged32_end:
	push	$0
	push	$END_VECTOR
paged32_trap:
	push	%ebx
	push	%eax
	mov	$DS32, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	request, %ebx
	pop	END_EAX(%ebx)
	pop	END_EBX(%ebx)
	mov	%ecx, END_ECX(%ebx)
	mov	%edx, END_EDX(%ebx)
	mov	%ebp, END_EBP(%ebx)
	mov	%esi, END_ESI(%ebx)
	mov	%edi, END_EDI(%ebx)
	pop	VECTOR(%ebx)
	pop	ERROR_CODE(%ebx)
	pop	END_EIP(%ebx)
	pop	END_CS(%ebx)
	pop	END_FLAGS(%ebx)
	testb	$3, END_CS(%ebx)
	jz	1f
	pop	END_ESP(%ebx)
1:	mov	%cr2, %eax
	mov	%eax, CR2(%ebx)

	# Back to long mode.
	mov	%cr0, %eax
	and	$0x7fffffff, %eax
	mov	%eax, %cr0
	mov	saved_cr4, %eax
	mov	%eax, %cr4
	mov	saved_cr3, %eax
	mov	%eax, %cr3
	mov	saved_efer, %eax
	mov	saved_efer + 4, %edx
	and	$~0x400, %eax			# LMA follows by itself
	mov	$MSR_EFER, %ecx
	wrmsr
	mov	saved_cr0, %eax
	mov	%eax, %cr0
	ljmp	$CS64, $2f
	.code64
2:	lgdt	saved_gdt(%rip)
	lidt	saved_idt(%rip)
	mov	saved_rsp(%rip), %rsp
	mov	saved_gdt + 2(%rip), %rax
	andb	$~2, KERNEL_TSS + 5(%rax)	# not busy
	mov	$KERNEL_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	push	$KERNEL_CS
	push	$3f
	lretq
3:	mov	$KERNEL_TSS, %eax
	ltr	%ax
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret

# Gates for the 32 exceptions and for INT 80h, which ring 3 may use too; the base of the TSS.
fill_tables:
	mov	$paged32_idt, %edi
	mov	$paged32_entries, %eax
	mov	$32, %ecx
	mov	$0x8e00, %edx
1:	call	gate
	add	$16, %eax
	loop	1b
	mov	$paged32_idt + 8 * END_VECTOR, %edi
	mov	$paged32_end, %eax
	mov	$0xee00, %edx
	call	gate
	mov	$paged32_tss, %eax
	mov	%ax, paged32_gdt + TSS32 + 2(%rip)
	shr	$16, %eax
	mov	%al, paged32_gdt + TSS32 + 4(%rip)
	mov	%ah, paged32_gdt + TSS32 + 7(%rip)
	movl	$handler_stack_top, paged32_tss + 4(%rip)
	movl	$DS32, paged32_tss + 8(%rip)
	movw	$104, paged32_tss + 102(%rip)
	ret
gate:	mov	%ax, (%rdi)
	movw	$CS32, 2(%rdi)
	mov	%dx, 4(%rdi)
	ror	$16, %eax
	mov	%ax, 6(%rdi)
	ror	$16, %eax
	add	$8, %rdi
	ret

	.data
	.balign 16
paged32_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	# 08: 32-bit code
	.quad 0x00cf93000000ffff	# 10: data
	.quad 0x00cffb000000ffff	# 18: 32-bit code, ring 3
	.quad 0x00cff3000000ffff	# 20: data, ring 3
	.quad 0x0000890000000067	# 28: 32-bit TSS
	.quad 0x00af9b000000ffff	# 30: 64-bit code
paged32_gdt_end:
paged32_gdt_pointer:
	.word	paged32_gdt_end - paged32_gdt - 1
	.quad	paged32_gdt
paged32_idt_pointer:
	.word	8 * (END_VECTOR + 1) - 1
	.quad	paged32_idt

	.bss
	.balign 16
paged32_idt:	.skip 8 * (END_VECTOR + 1)
	.balign 128
paged32_tss:	.skip 104
	.balign 8
request:	.skip 8
saved_rsp:	.skip 8
saved_cr0:	.skip 8
saved_cr3:	.skip 8
saved_cr4:	.skip 8
saved_efer:	.skip 8
saved_gdt:	.skip 16
saved_idt:	.skip 16
jump_target:	.skip 8
	.balign 16
handler_stack:	.skip 4096
handler_stack_top:
