# The front of a bzImage ("The Linux/x86 Boot Protocol", version 2.15): boot sector, setup header, and a real-mode
# part that asks the BIOS for the memory map and goes on to the 32-bit entry. Loaders that use the 32-bit or 64-bit
# entry read the header only.

	.code16
	.section .setup, "ax"
setup_start:
	# A BIOS that boots the image as if it were a disk ends here.
	ljmp	$0x07c0, $1f
1:	mov	%cs, %ax
	mov	%ax, %ds
	mov	$not_a_disk, %si
	call	bios_print
2:	hlt
	jmp	2b

bios_print:
	cld
1:	lodsb
	test	%al, %al
	jz	2f
	mov	$0x0e, %ah
	mov	$7, %bx
	int	$0x10
	jmp	1b
2:	ret

not_a_disk:
	.asciz "This is a bzImage: start it with a boot loader.\r\n"

	.set SETUP_SECTORS, 2
	.set BOOT_PARAMS, 0x4000	# offsets in the setup segment, of which 0x8000 bytes are ours
	.set STACK_TOP, 0x7ff0
	.set E820_MAX, 128

	.org 0x1f1
header_start:
setup_sects:	.byte SETUP_SECTORS
root_flags:	.word 0
syssize:	.long syssize_paragraphs
ram_size:	.word 0
vid_mode:	.word 0xffff
root_dev:	.word 0
boot_flag:	.word 0xaa55
	.org 0x200
	.byte	0xeb, header_end - 1f		# jmp: also the header's length
1:	.ascii	"HdrS"
		.word 0x020f
realmode_swtch:	.long 0
start_sys_seg:	.word 0x1000
kernel_version:	.word version - 0x200
type_of_loader:	.byte 0
loadflags:	.byte 1				# LOADED_HIGH
setup_move_size: .word 0x8000
code32_start:	.long 0x100000
ramdisk_image:	.long 0
ramdisk_size:	.long 0
bootsect_kludge: .long 0
heap_end_ptr:	.word 0
ext_loader_ver:	.byte 0
ext_loader_type: .byte 0
cmd_line_ptr:	.long 0
initrd_addr_max: .long 0x7fffffff
kernel_alignment: .long 0x100000
relocatable:	.byte 0
min_alignment:	.byte 20
xloadflags:	.word 1				# XLF_KERNEL_64
cmdline_size:	.long 511
hardware_subarch: .long 0
hardware_subarch_data: .quad 0
payload_offset:	.long 0
payload_length:	.long 0
setup_data:	.quad 0
pref_address:	.quad 0x100000
init_size:	.long init_size_bytes
handover_offset: .long 0
kernel_info_offset: .long kernel_info_distance
header_end:

# Entered with DS = the setup segment and CS = that + 0x20.
setup_main:
	cli
	cld
	mov	%ds, %ax
	mov	%ax, %es
	mov	%ax, %ss
	mov	$STACK_TOP, %esp
	push	%ax
	push	$1f
	lret					# CS = DS, so that labels are offsets for code too
1:	sti

	# The zero page: the header as the loader filled it in, and what follows.
	xor	%eax, %eax
	mov	$BOOT_PARAMS, %di
	mov	$1024, %cx
	rep stosl
	mov	$header_start, %si
	mov	$(BOOT_PARAMS + 0x1f1), %di
	mov	$(header_end - header_start), %cx
	rep movsb

	# BIOS int 15h, EAX=E820h: one entry of 20 bytes a call.
	mov	$(BOOT_PARAMS + 0x2d0), %di
	xor	%ebx, %ebx
1:	mov	$0xe820, %eax
	mov	$20, %ecx
	mov	$0x534d4150, %edx		# 'SMAP'
	int	$0x15
	jc	2f
	cmp	$0x534d4150, %eax
	jne	2f
	add	$20, %di
	incb	(BOOT_PARAMS + 0x1e8)
	cmpb	$E820_MAX, (BOOT_PARAMS + 0x1e8)
	je	2f
	test	%ebx, %ebx
	jnz	1b
2:
	# A20: by the BIOS, by the fast gate; then see whether it is on.
	mov	$0x2401, %ax
	int	$0x15
	in	$0x92, %al
	test	$2, %al
	jnz	3f
	or	$2, %al
	and	$0xfe, %al
	out	%al, $0x92
3:	cli
	call	a20_is_on
	jnz	4f
	mov	$a20_off, %si
	call	bios_print
1:	hlt
	jmp	1b

4:	# Protected mode, with the flat segments 0x10 and 0x18 of the boot protocol.
	mov	$0xff, %al
	out	%al, $0x21			# no legacy interrupts until the guest wants them
	out	%al, $0xa1
	xor	%ebx, %ebx
	mov	%ds, %bx
	shl	$4, %ebx			# linear address of the setup segment
	lea	gdt(%ebx), %eax
	mov	%eax, gdt_pointer + 2
	lgdtl	gdt_pointer
	lea	protected(%ebx), %eax
	mov	%eax, protected_pointer
	lea	BOOT_PARAMS(%ebx), %esi
	mov	code32_start, %ecx
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	*protected_pointer

	.code32
protected:
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	xor	%ebx, %ebx
	xor	%ebp, %ebp
	xor	%edi, %edi
	jmp	*%ecx

	.code16
# ZF clear when addresses 1 MiB apart are different bytes. Waits for a slow gate, but not for ever.
a20_is_on:
	push	%ds
	push	%es
	xor	%ax, %ax
	mov	%ax, %ds
	dec	%ax
	mov	%ax, %es
	mov	$0x8000, %cx
	mov	0x200, %bx
1:	inc	%bx
	mov	%bx, 0x200
	out	%al, $0x80
	cmp	%es:0x210, %bx
	loope	1b
	pop	%es
	pop	%ds
	ret

a20_off:
	.asciz "The A20 gate stays closed.\r\n"
version:
	.asciz "softmetal test ROM"

	.balign 8
gdt:	.quad 0, 0
	.quad 0x00cf9b000000ffff		# 0x10: 32-bit code
	.quad 0x00cf93000000ffff		# 0x18: data
gdt_pointer:
	.word	. - gdt - 1
	.long	0
protected_pointer:
	.long	0
	.word	0x10
