# The part of legacy_entry.S that runs in real mode: copied to segment 0x700, whose first 0x600 bytes are the state of legacy.h.

	.set REGS, 0
	.set FRAME, 0x1c
	.set REAL_DATA, 0x6c
	.set REAL_STACK, 0xb4
	.set GDTR, 0x8c
	.set OUT_VECTOR, 0x100
	.set OUT_REGS, 0x104
	.set OUT_DS, 0x120
	.set OUT_ES, 0x124
	.set OUT_FS, 0x128
	.set OUT_GS, 0x12c
	.set OUT_ESP, 0x130
	.set OUT_SS, 0x134
	.set OUT_RAW, 0x160

	.section .rodata.real, "a"
	.code16
	.globl real_blob, real_blob_end
real_blob:
	.set vector, 0
	.rept 256
	.balign 8
	push	$(vector - (vector / 128) * 256)
	jmp	real_common
	.set vector, vector + 1
	.endr

# In 16-bit protected mode: the segments' limits as wanted, then CR0.PE off.
	.org	real_blob + 0x800		# legacy_entry.S jumps to 0x700:0xe00
real_entry:
	mov	$0x48, %ax
	mov	%ax, %ds
	mov	0x7000 + REAL_STACK, %ax
	mov	%ax, %ss
	mov	0x7000 + REAL_DATA, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %fs
	mov	%ax, %gs
	mov	%cr0, %eax
	and	$0xfe, %al
	mov	%eax, %cr0
	ljmp	$0x700, $(1f - real_blob + 0x600)
1:	mov	%cs:FRAME + 16, %ss
	mov	%cs:FRAME + 12, %esp
	pushw	%cs:FRAME + 8
	pushw	%cs:FRAME + 4
	pushw	%cs:FRAME
	mov	%cs:FRAME + 20, %es
	mov	%cs:FRAME + 24, %ds
	mov	%cs:FRAME + 28, %fs
	mov	%cs:FRAME + 32, %gs
	mov	%cs:REGS, %eax
	mov	%cs:REGS + 4, %ecx
	mov	%cs:REGS + 8, %edx
	mov	%cs:REGS + 12, %ebx
	mov	%cs:REGS + 16, %ebp
	mov	%cs:REGS + 20, %esi
	mov	%cs:REGS + 24, %edi
	iret

real_common:
	popw	%cs:OUT_VECTOR
	movb	$0, %cs:OUT_VECTOR + 1
	mov	%eax, %cs:OUT_REGS
	mov	%ecx, %cs:OUT_REGS + 4
	mov	%edx, %cs:OUT_REGS + 8
	mov	%ebx, %cs:OUT_REGS + 12
	mov	%ebp, %cs:OUT_REGS + 16
	mov	%esi, %cs:OUT_REGS + 20
	mov	%edi, %cs:OUT_REGS + 24
	mov	%ds, %cs:OUT_DS
	mov	%es, %cs:OUT_ES
	mov	%fs, %cs:OUT_FS
	mov	%gs, %cs:OUT_GS
	mov	%ss, %cs:OUT_SS
	mov	%esp, %cs:OUT_ESP
	popw	%cs:OUT_RAW
	popw	%cs:OUT_RAW + 4
	popw	%cs:OUT_RAW + 8
	lgdtl	%cs:GDTR
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$0x40, $legacy_exit
real_blob_end:
