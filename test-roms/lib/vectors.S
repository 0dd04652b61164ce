# Entries of all 256 interrupt vectors, the catching of traps, and the ways to ring 3 and back.

	.text
	.code64

# One entry of 8 bytes per vector: the vector as a signed byte, and on to the code that adds an error code where the
# processor pushes none.
	.balign 8
	.globl vector_entries
vector_entries:
	.set vector, 0
	.rept 256
	.balign 8
	push	$(vector - (vector / 128) * 256)
	.if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
	jmp	vector_common
	.else
	jmp	vector_without_code
	.endif
	.set vector, vector + 1
	.endr

vector_without_code:
	push	(%rsp)
	movq	$0, 8(%rsp)
vector_common:
	andq	$0xff, (%rsp)
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	mov	%rsp, %rdi
	mov	%rsp, %rbp
	and	$-16, %rsp
	call	interrupt_dispatch
	mov	%rbp, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	.globl interrupt_return
interrupt_return:
	iretq

# int catch_trap(void (*body)(void *), void *argument): runs body(argument); returns the vector of the exception
# that ended it, or -1. Exceptions come back by way of catch_resume with RSP = catch_frame and EAX = the vector.
	.globl catch_trap, catch_resume
catch_trap:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	push	catch_frame(%rip)
	mov	%rsp, catch_frame(%rip)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	sub	$8, %rsp
	call	*%rax
	add	$8, %rsp
	mov	$-1, %eax
catch_resume:
	pop	catch_frame(%rip)
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret

# void enter_user(struct user_entry *entry): IRETQ to the code, stack and flags of *entry; comes back by a trap only.
	.globl enter_user
enter_user:
	push	32(%rdi)			# ss
	push	24(%rdi)			# rsp
	push	16(%rdi)			# rflags
	push	8(%rdi)				# cs
	push	0(%rdi)				# rip
	mov	40(%rdi), %rax
	mov	48(%rdi), %rsi
	mov	56(%rdi), %rdi
	iretq

# The target of SYSCALL: notes what the instruction left in the machine, and returns with SYSRET. RFLAGS for the
# return come from syscall_return_flags. Nothing but RCX, R11, RSP is touched that user code could miss.
	.globl syscall_entry
syscall_entry:
	mov	%rsp, syscall_user_rsp(%rip)
	mov	$syscall_stack_top, %rsp
	pushfq
	pop	syscall_kernel_flags(%rip)
	mov	%rcx, syscall_rcx(%rip)
	mov	%r11, syscall_r11(%rip)
	mov	%cs, %ecx
	mov	%ecx, syscall_cs(%rip)
	mov	%ss, %ecx
	mov	%ecx, syscall_ss(%rip)
	incl	syscall_count(%rip)
	mov	syscall_rcx(%rip), %rcx
	mov	syscall_return_flags(%rip), %r11
	mov	syscall_user_rsp(%rip), %rsp
	sysretq

	.bss
	.balign 16
	.globl catch_frame
catch_frame:		.skip 8
	.globl syscall_user_rsp, syscall_kernel_flags, syscall_rcx, syscall_r11, syscall_return_flags
syscall_user_rsp:	.skip 8
syscall_kernel_flags:	.skip 8
syscall_rcx:		.skip 8
syscall_r11:		.skip 8
syscall_return_flags:	.skip 8
	.globl syscall_cs, syscall_ss, syscall_count
syscall_cs:		.skip 4
syscall_ss:		.skip 4
syscall_count:		.skip 4
	.balign 16
syscall_stack:		.skip 4096
syscall_stack_top:
