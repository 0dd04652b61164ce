# Where processors begin after a SIPI: real mode, at SMP_PAGE, where smp_init copies this.

	.text
	.code16
	.globl smp_entry, smp_entry_end, smp_entry_cr3, smp_entry_cr4, smp_entry_efer
smp_entry:
	cli
	cld
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	entry_gdt_pointer - smp_entry
	mov	%cr0, %eax
	and	$0x9fffffff, %eax		# INIT leaves the cache off
	or	$0x00010033, %eax		# WP, NE, ET, MP, PE
	mov	%eax, %cr0
	mov	smp_entry_cr4 - smp_entry, %eax
	mov	%eax, %cr4
	mov	smp_entry_cr3 - smp_entry, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	mov	smp_entry_efer - smp_entry, %eax
	xor	%edx, %edx
	wrmsr
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	ljmpl	$0x08, $smp_start_64

	.balign 4
smp_entry_cr3:	.long 0
smp_entry_cr4:	.long 0
smp_entry_efer:	.long 0
entry_gdt_pointer:
	.word	23
	.long	0x8000 + entry_gdt - smp_entry
	.balign 8
entry_gdt:
	.quad	0
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff
smp_entry_end:

	.code64
smp_start_64:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	smp_boot_stack(%rip), %rsp
	xor	%ebp, %ebp
	call	smp_main
1:	cli
	hlt
	jmp	1b

	.data
	.balign 8
	.globl smp_boot_stack
smp_boot_stack:	.quad 0
