# The loops of the benchmark. Each takes its number of rounds in RDI and returns a checksum in RAX; bench.c knows how
# many instructions a round is.

	.text
	.code64
	.globl bench_integer, bench_branches, bench_memory, bench_fibonacci, bench_scalar_double, bench_packed_double
	.globl bench_copy, bench_trap, bench_trap_entry

# Sum of the numbers of a xorshift generator: 12 instructions a round.
bench_integer:
	movabs	$0x9e3779b97f4a7c15, %rax
	xor	%edx, %edx
	.balign 16
1:	mov	%rax, %rcx
	shl	$13, %rcx
	xor	%rcx, %rax
	mov	%rax, %rcx
	shr	$7, %rcx
	xor	%rcx, %rax
	mov	%rax, %rcx
	shl	$17, %rcx
	xor	%rcx, %rax
	add	%rax, %rdx
	dec	%rdi
	jnz	1b
	mov	%rdx, %rax
	ret

# Steps of the Collatz sequences of all numbers up to RDI: 6 instructions an even step, 5 an odd one, and 6 a number.
bench_branches:
	xor	%eax, %eax
	.balign 16
1:	mov	%rdi, %rdx
	jmp	4f
2:	inc	%rax
	test	$1, %dl
	jz	3f
	lea	1(%rdx,%rdx,2), %rdx
	jmp	2b
3:	shr	%rdx
4:	cmp	$1, %rdx
	jne	2b
	dec	%rdi
	jnz	1b
	ret

# Reads, changes and writes 4096 64-bit words a round: 7 instructions a word, 4 a round. RSI = the words.
bench_memory:
	xor	%eax, %eax
1:	xor	%ecx, %ecx
	.balign 16
2:	mov	(%rsi,%rcx,8), %rdx
	add	%rcx, %rdx
	mov	%rdx, (%rsi,%rcx,8)
	add	%rdx, %rax
	inc	%rcx
	cmp	$4096, %rcx
	jne	2b
	rol	$1, %rax
	dec	%rdi
	jnz	1b
	ret

# Fibonacci numbers by recursion.
bench_fibonacci:
	cmp	$2, %rdi
	jae	1f
	mov	%rdi, %rax
	ret
1:	push	%rdi
	dec	%rdi
	call	bench_fibonacci
	pop	%rdi
	push	%rax
	sub	$2, %rdi
	call	bench_fibonacci
	pop	%rdx
	add	%rdx, %rax
	ret

# Logistic map and a running sum of square roots and quotients: 11 instructions a round.
bench_scalar_double:
	movsd	start(%rip), %xmm0
	movsd	rate(%rip), %xmm1
	movsd	one(%rip), %xmm2
	xorpd	%xmm3, %xmm3
	.balign 16
1:	movapd	%xmm2, %xmm4
	subsd	%xmm0, %xmm4
	mulsd	%xmm1, %xmm0
	mulsd	%xmm4, %xmm0
	sqrtsd	%xmm0, %xmm5
	movapd	%xmm0, %xmm6
	divsd	%xmm1, %xmm6
	addsd	%xmm5, %xmm3
	addsd	%xmm6, %xmm3
	dec	%rdi
	jnz	1b
	movq	%xmm3, %rax
	ret

# Two logistic maps at once: 8 instructions a round.
bench_packed_double:
	movapd	starts(%rip), %xmm0
	movapd	rates(%rip), %xmm1
	movapd	ones(%rip), %xmm2
	xorpd	%xmm3, %xmm3
	.balign 16
1:	movapd	%xmm2, %xmm4
	subpd	%xmm0, %xmm4
	mulpd	%xmm1, %xmm0
	mulpd	%xmm4, %xmm0
	addpd	%xmm0, %xmm3
	shufpd	$1, %xmm3, %xmm3
	dec	%rdi
	jnz	1b
	movq	%xmm3, %rax
	psrldq	$8, %xmm3
	movq	%xmm3, %rdx
	xor	%rdx, %rax
	ret

# 32 KiB from RSI to the following 32 KiB by MOVSB, MOVSQ and back, then their sum.
bench_copy:
	mov	%rsi, %r8
	lea	32768(%rsi), %r9
1:	mov	%r8, %rsi
	mov	%r9, %rdi
	mov	$32768, %ecx
	rep movsb
	lea	8(%r9), %rsi
	mov	%r8, %rdi
	mov	$4095, %ecx
	rep movsq
	mov	(%r9), %rax
	mov	%rax, (%rdi)
	dec	%rdx
	jnz	1b
	xor	%eax, %eax
	mov	$4096, %ecx
2:	rol	$1, %rax
	add	-8(%r8,%rcx,8), %rax
	loop	2b
	ret

# INT to a handler that counts in RAX and returns: 5 instructions a round.
bench_trap:
	xor	%eax, %eax
1:	int	$0x81
	dec	%rdi
	jnz	1b
	ret
bench_trap_entry:
	inc	%rax
	iretq

	.section .rodata
	.balign 16
starts:	.double 0.375, 0.625
rates:	.double 3.875, 3.75
ones:	.double 1.0, 1.0
start:	.double 0.375
rate:	.double 3.875
one:	.double 1.0
