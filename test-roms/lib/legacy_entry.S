# From 64-bit mode to a state without long mode, and back at the first exception: see legacy.h for the state.

	.set LEGACY, 0x7000
	.set IN_REGS, LEGACY
	.set IN_FRAME, LEGACY + 0x1c		# EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS
	.set IN_CR0, LEGACY + 0x40
	.set IN_CR3, LEGACY + 0x44
	.set IN_CR4, LEGACY + 0x48
	.set IN_DR, LEGACY + 0x4c
	.set IN_DR6, LEGACY + 0x5c
	.set IN_DR7, LEGACY + 0x60
	.set IN_TR, LEGACY + 0x64
	.set IN_LDTR, LEGACY + 0x68
	.set LOG_VECTORS, LEGACY + 0x70
	.set LOG_MAX, LEGACY + 0x74
	.set LOG_OR, LEGACY + 0x78
	.set SAVED_EFER, LEGACY + 0x7c
	.set SAVED_CR0, LEGACY + 0x80
	.set SAVED_CR3, LEGACY + 0x84
	.set SAVED_CR4, LEGACY + 0x88
	.set GDTR, LEGACY + 0x8c
	.set IDTR, LEGACY + 0x94
	.set REAL_IDTR, LEGACY + 0x9c
	.set SAVED_GDTR, LEGACY + 0xa4
	.set KIND, LEGACY + 0xac
	.set LOAD_DS, LEGACY + 0xb0
	.set OUT_VECTOR, LEGACY + 0x100
	.set OUT_REGS, LEGACY + 0x104
	.set OUT_DS, LEGACY + 0x120
	.set OUT_ES, LEGACY + 0x124
	.set OUT_FS, LEGACY + 0x128
	.set OUT_GS, LEGACY + 0x12c
	.set OUT_ESP, LEGACY + 0x130
	.set OUT_SS, LEGACY + 0x134
	.set OUT_TR, LEGACY + 0x138
	.set OUT_LDTR, LEGACY + 0x13c
	.set OUT_CR0, LEGACY + 0x140
	.set OUT_CR2, LEGACY + 0x144
	.set OUT_DR6, LEGACY + 0x148
	.set OUT_DR7, LEGACY + 0x14c
	.set OUT_LOG_COUNT, LEGACY + 0x150
	.set OUT_RAW, LEGACY + 0x160
	.set LOG, LEGACY + 0x1c0

	.set CODE, 0x40				# selectors of legacy.h
	.set DATA, 0x48
	.set CODE16, 0x10
	.set LEGACY_RING0, 0
	.set LEGACY_OUTER, 1
	.set LEGACY_V86, 2
	.set LEGACY_REAL, 3

	.text
	.code64
# void legacy_enter(void)
	.globl legacy_enter
legacy_enter:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	mov	%rsp, saved_rsp
	lgdt	legacy_gdt_pointer
	push	$CODE
	push	$1f
	lretq

	.code32
1:	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$legacy_own_stack, %esp
	mov	%cr0, %eax
	and	$0x7fffffff, %eax
	mov	%eax, %cr0
	mov	$0xc0000080, %ecx
	rdmsr
	and	$~0x100, %eax			# EFER.LME
	wrmsr
	mov	IN_CR4, %eax
	mov	%eax, %cr4
	mov	IN_CR3, %eax
	mov	%eax, %cr3
	mov	IN_CR0, %eax
	mov	%eax, %cr0
	cmpl	$LEGACY_REAL, KIND
	je	1f
	lidt	IDTR
	mov	IN_LDTR, %eax
	cmp	$0xffff, %eax
	je	2f
	lldt	%ax
2:	mov	IN_TR, %eax
	ltr	%ax
1:	mov	IN_DR, %eax
	mov	%eax, %dr0
	mov	IN_DR + 4, %eax
	mov	%eax, %dr1
	mov	IN_DR + 8, %eax
	mov	%eax, %dr2
	mov	IN_DR + 12, %eax
	mov	%eax, %dr3
	mov	IN_DR6, %eax
	mov	%eax, %dr6
	mov	IN_DR7, %eax
	mov	%eax, %dr7
	mov	KIND, %eax
	cmp	$LEGACY_REAL, %eax
	je	to_real
	cmp	$LEGACY_RING0, %eax
	je	to_ring0
	cmp	$LEGACY_V86, %eax
	jne	1f
	mov	IN_FRAME + 32, %edx
	push	%edx
	mov	IN_FRAME + 28, %edx
	push	%edx
	mov	IN_FRAME + 24, %edx
	push	%edx
	mov	IN_FRAME + 20, %edx
	push	%edx
1:	pushl	IN_FRAME + 16
	pushl	IN_FRAME + 12
	jmp	load_and_go
to_ring0:
	mov	IN_FRAME + 16, %edx
	mov	%edx, %ss
	mov	IN_FRAME + 12, %esp
load_and_go:
	pushl	IN_FRAME + 8
	pushl	IN_FRAME + 4
	pushl	IN_FRAME
	cmp	$LEGACY_V86, %eax
	je	1f
	mov	IN_FRAME + 20, %edx
	mov	%edx, %es
	mov	IN_FRAME + 28, %edx
	mov	%edx, %fs
	mov	IN_FRAME + 32, %edx
	mov	%edx, %gs
1:	mov	IN_REGS, %eax
	mov	IN_REGS + 4, %ecx
	mov	IN_REGS + 8, %edx
	mov	IN_REGS + 12, %ebx
	mov	IN_REGS + 16, %ebp
	mov	IN_REGS + 20, %esi
	mov	IN_REGS + 24, %edi
	mov	%cs:LOAD_DS, %ds
	iretl

to_real:
	lidt	REAL_IDTR
	ljmp	$CODE16, $0xe00		# real_entry of real.S

# One entry of 8 bytes per vector.
	.balign 8
	.globl legacy_vectors
legacy_vectors:
	.set vector, 0
	.rept 256
	.balign 8
	push	$(vector - (vector / 128) * 256)
	jmp	common
	.set vector, vector + 1
	.endr

common:
	push	%ds
	push	%eax
	mov	$DATA, %eax
	mov	%eax, %ds
	popl	OUT_REGS
	popl	OUT_DS
	popl	OUT_VECTOR
	andl	$0xff, OUT_VECTOR
	mov	%ecx, OUT_REGS + 4
	mov	%edx, OUT_REGS + 8
	mov	%ebx, OUT_REGS + 12
	mov	%ebp, OUT_REGS + 16
	mov	%esi, OUT_REGS + 20
	mov	%edi, OUT_REGS + 24
	mov	%es, %eax
	mov	%eax, OUT_ES
	mov	%fs, %eax
	mov	%eax, OUT_FS
	mov	%gs, %eax
	mov	%eax, OUT_GS
	mov	%ss, %eax
	mov	%eax, OUT_SS
	lar	%eax, %ecx
	mov	%esp, %esi
	bt	$22, %ecx			# B
	jc	1f
	movzwl	%sp, %esi
1:	mov	%esi, OUT_ESP

	# An exception to note and go on from?
	mov	OUT_VECTOR, %ecx
	cmp	$31, %ecx
	ja	to_end
	bt	%ecx, LOG_VECTORS
	jnc	to_end
	mov	OUT_LOG_COUNT, %edx
	cmp	LOG_MAX, %edx
	jae	to_end
	incl	OUT_LOG_COUNT
	lea	(%edx, %edx, 2), %edx
	mov	%ecx, LOG(, %edx, 8)
	mov	$0x27d00, %eax			# vectors with error codes: 8, 10 to 14, 17
	bt	%ecx, %eax
	jnc	1f
	add	$4, %esp
	add	$4, %esi
1:	mov	%ss:(%esi), %eax
	mov	%eax, LOG + 4(, %edx, 8)
	mov	%ss:4(%esi), %eax
	mov	%eax, LOG + 8(, %edx, 8)
	mov	%ss:8(%esi), %eax
	mov	%eax, LOG + 12(, %edx, 8)
	mov	%dr6, %eax
	mov	%eax, LOG + 16(, %edx, 8)
	mov	%esi, LOG + 20(, %edx, 8)
	mov	$0xffff0ff0, %eax
	mov	%eax, %dr6
	mov	LOG_OR, %eax
	or	%eax, %ss:8(%esi)
	mov	OUT_REGS, %eax
	mov	OUT_REGS + 4, %ecx
	mov	OUT_REGS + 8, %edx
	mov	OUT_REGS + 20, %esi
	mov	OUT_DS, %ds
	iretl

to_end:
	xor	%ecx, %ecx
1:	mov	%ss:(%esi), %eax
	mov	%eax, OUT_RAW(, %ecx, 4)
	add	$4, %esi
	inc	%ecx
	cmp	$16, %ecx
	jb	1b

# From 32-bit code with paging on or off. DS is DATA.
	.globl legacy_exit
legacy_exit:
	cli
	cld
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$legacy_own_stack, %esp
	cmpl	$LEGACY_REAL, KIND
	je	1f
	str	%eax
	mov	%eax, OUT_TR
	lar	%eax, %ecx
	sldt	%eax
	mov	%eax, OUT_LDTR
	bt	$11, %ecx
	jc	1f
	# Long mode cannot be entered with a 16-bit TSS. SDM 3A "Initializing IA-32e Mode".
	andb	$~2, legacy_gdt + 0x28 + 5	# L_TSS_DF is not busy
	mov	$0x28, %eax
	ltr	%ax
1:	mov	%cr0, %eax
	mov	%eax, OUT_CR0
	mov	%cr2, %edx
	mov	%edx, OUT_CR2
	xor	%edx, %edx			# breakpoints off before their registers are looked at
	mov	%dr7, %ecx
	mov	%ecx, OUT_DR7
	mov	%edx, %dr7
	mov	%dr6, %ecx
	mov	%ecx, OUT_DR6
	and	$0x7fffffff, %eax
	mov	%eax, %cr0
	mov	SAVED_CR4, %eax
	mov	%eax, %cr4
	mov	SAVED_CR3, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	mov	SAVED_EFER, %eax
	wrmsr
	mov	SAVED_CR0, %eax
	mov	%eax, %cr0
	lgdt	SAVED_GDTR
	ljmp	$0x08, $1f
	.code64
1:	lidt	legacy_saved_idt
	mov	$0x10, %eax			# KERNEL_DS
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	lldt	%ax
	mov	$0x30, %eax			# TSS_SELECTOR, its busy bit cleared before
	ltr	%ax
	mov	saved_rsp, %rsp
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret

	.bss
	.balign 16
saved_rsp:	.skip 8
	.skip 1024
legacy_own_stack:
	.globl legacy_saved_idt, legacy_gdt_pointer
legacy_saved_idt:	.skip 16
legacy_gdt_pointer:	.skip 16
