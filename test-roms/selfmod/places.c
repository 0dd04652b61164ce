// Where the changed code is: in a loop, beside data, across pages.
#include "selfmod.h"

// Loops that change themselves while they run.
void test_loops(void)
{
	u64 r;
	// The increment changes in each round: 1 + 2 + .. + 50.
	asm volatile("xor %%eax, %%eax; mov $50, %%ecx; movb $1, 2f+2(%%rip)\n"
		     "1: jmp 2f\n2: add $1, %%eax; incb 2b+2(%%rip); loop 1b" : "=a"(r) :: "rcx", "memory", "cc");
	check_eq(r, 50 * 51 / 2, "a loop that changes its increment in each round");

	// Later in the same block, a few instructions on.
	asm volatile("xor %%eax, %%eax; mov $20, %%ecx\n"
		     "1: movb %%cl, 2f+2(%%rip); nop; nop; mov %%ecx, %%edx\n2: add $99, %%eax; loop 1b" : "=a"(r) :: "rcx", "rdx", "memory", "cc");
	check_eq(r, 20 * 21 / 2, "an instruction later in the block");

	// Earlier: what is behind us changes for the next round.
	asm volatile("xor %%eax, %%eax; mov $10, %%ecx; movb $7, 2f+2(%%rip)\n"
		     "2: add $7, %%eax; movb %%cl, 2b+2(%%rip); loop 2b" : "=a"(r) :: "rcx", "memory", "cc");
	check_eq(r, 7 + 10 + 9 + 8 + 7 + 6 + 5 + 4 + 3 + 2, "an instruction earlier in the block");

	// A branch changes its own target and condition, and an opcode becomes another of another length.
	asm volatile("xor %%eax, %%eax; mov $6, %%ecx; movb $0x74, 2f(%%rip)\n"	// JE
		     "1: test %%ecx, %%ecx\n2: je 3f; add $1, %%eax; cmp $3, %%eax; jne 4f; movb $0x75, 2b(%%rip)\n"	// JNE
		     "4: loop 1b; jmp 5f\n3: add $100, %%eax; loop 1b\n5:" : "=a"(r) :: "rcx", "memory", "cc");
	check_eq(r, 3 + 300, "a branch that becomes its opposite");

	// One long instruction becomes several short ones.
	u8 *p = code;
	static const u8 one[] = { 0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0, 0xc3 };
	static const u8 many[] = { 0x31, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0x90, 0x90, 0xc3 };
	for (int i = 0; i < 30; i++) {
		memcpy(p, one, sizeof one);
		check(run(p) == 1, "round %d: one instruction", i);
		memcpy(p, many, sizeof many);
		check(run(p) == 3, "round %d: several instructions", i);
		memcpy(p + 2, one, 8);	// from the middle on
		memcpy(p + 2, (u8[]){ 0x83, 0xc0, 5, 0x90, 0x90, 0x90, 0x90, 0x90 }, 8);
		check(run(p) == 5, "round %d: from the middle on", i);
	}

	// Code on the stack, made anew in each call.
	for (u32 i = 0; i < 50; i++) {
		u8 local[16];
		put_return(local, i);
		check(run(local) == i, "code on the stack, round %u", i);
	}
}

// Data beside code, at every distance in both directions; the code must stay, the data must arrive.
void test_neighbours(void)
{
	u8 *function = code + 2048;
	memset(code, 0, 4096);
	put_return(function, 77);
	bool right = true;
	for (u32 at = 0; at + 8 <= 4096; at += 8) {
		if (code + at + 8 > function && code + at < function + RETURN_BYTES)
			continue;
		*(volatile u64 *)(code + at) = at;
		right &= run(function) == 77 && *(volatile u64 *)(code + at) == at;
	}
	check(right, "data in the page of code");
	// A store that ends in the code, and one that begins in it.
	*(volatile u64 *)(function - 4) = 0x000055b800000000;
	check(run(function) == 0x55, "a store that ends in the code: %x", run(function));
	put_return(function, 77);
	run(function);
	*(volatile u64 *)(function + 4) = 0xc300;
	check(run(function) == 77, "a store that begins in the code: %x", run(function));
}

// The instruction lies in two pages; each byte of it is changed in turn.
void test_page_crossing(void)
{
	for (u32 before = 1; before < 10; before++) {
		u8 *function = code + 4096 - before;
		static const u8 start[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3 };
		memcpy(function, start, sizeof start);
		u64 r, wanted = 0x0807060504030201;
		for (u32 i = 2; i < 10; i++)
			for (u32 round = 0; round < 4; round++) {
				u8 byte = (u8)(0x10 * round + i);
				*(volatile u8 *)(function + i) = byte;
				wanted = (wanted & ~(0xfful << 8 * (i - 2))) | (u64)byte << 8 * (i - 2);
				asm volatile("call *%1" : "=a"(r) : "r"(function) : "memory");
				check(r == wanted, "%u bytes in the first page, byte %u changed: %lx, should be %lx", before, i, r, wanted);
			}
		// A single store over both.
		*(volatile u64 *)(function + 2) = 0x1122334455667788;
		asm volatile("call *%1" : "=a"(r) : "r"(function) : "memory");
		check(r == 0x1122334455667788, "%u bytes in the first page, all changed: %lx", before, r);
	}
}

static void call_it(void *at)
{
	run(at);
}

// The second page of such an instruction goes away, loses its rights, becomes another.
void test_page_crossing_faults(void)
{
	u64 w = TEST_WINDOW, start = w + 4094;
	bool nx = rdmsr(MSR_EFER) & EFER_NXE;
	put_return(code + 4094, 0x55443322);
	put_return(code + 3 * 4096 - 2, 0x99887766);
	for (int round = 0; round < 3; round++) {
		map_page(w, (u64)code, PAGE_P);
		map_page(w + PAGE_SIZE, (u64)code + 4096, PAGE_P);
		for (int i = 0; i < 10; i++)
			check(run((void *)start) == 0x55443322, "both pages");
		// Another second page: its bytes count.
		map_page(w + PAGE_SIZE, (u64)code + 3 * 4096, PAGE_P);
		check(run((void *)start) == 0x99887722, "another second page: %x", run((void *)start));
		map_page(w + PAGE_SIZE, 0, 0);
		int vector = catch_trap(call_it, (void *)start);
		check(vector == VECTOR_PF && trap_cr2 == w + PAGE_SIZE && trap.rip == start && trap.error_code == (nx ? 16 : 0), "no second page: exception %d, CR2 %lx, RIP %lx", vector,
		      trap_cr2, trap.rip);
		if (nx) {
			map_page(w + PAGE_SIZE, (u64)code + 4096, PAGE_P | PAGE_NX);
			vector = catch_trap(call_it, (void *)start);
			check(vector == VECTOR_PF && trap_cr2 == w + PAGE_SIZE && trap.error_code == 17, "second page not executable: exception %d, CR2 %lx, error code %lx", vector,
			      trap_cr2, trap.error_code);
		}
	}
	map_page(w, 0, 0);
	map_page(w + PAGE_SIZE, 0, 0);
}

// A page full of small functions, rewritten whole by REP STOSQ and REP MOVSB, and run in between.
void test_whole_page(void)
{
	static u8 image[4096] ALIGNED(4096);
	bool right = true;
	for (u32 round = 0; round < 20; round++) {
		for (u32 at = 0; at + 16 <= 4096; at += 16)
			put_return(image + at, round * 1000 + at);
		void *to = code + 4096;
		const void *from = image;
		u64 n = 4096;
		asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) :: "memory");
		for (u32 at = 0; at + 16 <= 4096; at += 16)
			right &= run(code + 4096 + at) == round * 1000 + at;
		// mov eax, 0xc3c3c3c3; ret; ..
		to = code + 4096;
		n = 512;
		asm volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0xc3c3c3c3c3c3c3b8ul) : "memory");
		for (u32 at = 0; at + 16 <= 4096; at += 16)
			right &= run(code + 4096 + at) == 0xc3c3c3c3;
	}
	check(right, "functions of a rewritten page");
}
