# The protected-mode part: the 32-bit entry at its beginning, the 64-bit entry 0x200 bytes after it.

	.section .start, "ax"
	.code32
	.globl startup_32, startup_64, kernel_info
# 32-bit boot protocol: flat segments, paging off, ESI = zero page.
startup_32:
	cli
	cld
	mov	$boot_stack_top, %esp
	lgdt	boot_gdt_pointer
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss

	mov	$0x80000000, %eax
	cpuid
	cmp	$0x80000001, %eax
	jb	no_long_mode
	mov	$0x80000001, %eax
	cpuid
	bt	$29, %edx
	jnc	no_long_mode

	# 4 GiB mapped to themselves in 2 MiB pages.
	mov	$boot_pml4, %edi
	xor	%eax, %eax
	mov	$(6 * 1024), %ecx
	rep stosl
	movl	$(boot_pdpt + 3), boot_pml4
	mov	$(boot_pd + 3), %eax
	mov	$boot_pdpt, %edi
	mov	$4, %ecx
1:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	1b
	mov	$0x83, %eax
	mov	$boot_pd, %edi
	mov	$2048, %ecx
1:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b

	mov	%cr4, %eax
	or	$0x20, %eax			# PAE
	mov	%eax, %cr4
	mov	$boot_pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx		# EFER.LME
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax
	mov	%eax, %cr0
	ljmp	$0x10, $1f
	.code64
1:	mov	%esi, %esi			# the upper halves of registers are undefined until they are written
	jmp	startup_64
	.code32

no_long_mode:
	mov	$no_long_mode_text, %esi
1:	lodsb
	test	%al, %al
	jz	3f
	mov	%al, %ah
	mov	$0x3fd, %dx
	mov	$100000, %ecx
2:	in	%dx, %al
	test	$0x20, %al
	loopz	2b
	mov	$0x3f8, %dx
	mov	%ah, %al
	out	%al, %dx
	jmp	1b
3:	hlt
	jmp	3b

no_long_mode_text:
	.asciz "This processor has no 64-bit mode.\r\n"

# 64-bit boot protocol: the low 4 GiB mapped to themselves, RSI = zero page.
	.org 0x200
	.code64
startup_64:
	cli
	cld
	mov	$boot_stack_top, %esp
	mov	%rsi, %rbx
	mov	$bss_start, %edi
	mov	$bss_end, %ecx
	sub	%edi, %ecx
	xor	%eax, %eax
	rep stosb
	mov	%rbx, %rdi
	xor	%ebp, %ebp
	call	rom_start
1:	cli
	hlt
	jmp	1b

	.balign 8
boot_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff		# 0x08: 32-bit code
	.quad 0x00af9b000000ffff		# 0x10: 64-bit code
	.quad 0x00cf93000000ffff		# 0x18: data
boot_gdt_pointer:
	.word	. - boot_gdt - 1
	.quad	boot_gdt

	.balign 4
kernel_info:					# protocol 2.15: magic, size, size with variable part, setup_data types
	.ascii	"LToP"
	.long	kernel_info_end - kernel_info
	.long	kernel_info_end - kernel_info
	.long	0
kernel_info_end:

	.section .boot_tables, "aw", @nobits
	.balign 4096
boot_pml4:	.skip 4096
boot_pdpt:	.skip 4096
boot_pd:	.skip 4 * 4096
boot_stack:	.skip 32 * 1024
boot_stack_top:
