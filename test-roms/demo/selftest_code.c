// Code that changes: in place, ahead of itself, through another mapping, across a page boundary.
#include "memory.h"
#include "selftest.h"

static u8 code[8192] ALIGNED(4096);

static u64 run(const void *at)
{
	u64 r;
	asm volatile("call *%1" : "=a"(r) : "r"(at) : "rcx", "rdx", "memory", "cc");
	return r;
}

// mov eax, value; ret
static void put_return(u8 *at, u32 value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

void test_self_modifying_code(void)
{
	bool right = true;
	for (u32 i = 0; i < 1000; i++) {
		put_return(code, i);
		right &= run(code) == i;
	}
	check(right, "code rewritten in place");

	// Only the immediate changes, after the code has run often enough to be worth translating.
	put_return(code, 1);
	for (int i = 0; i < 5000; i++)
		run(code);
	code[1] = 2;
	check_eq(run(code), 2, "immediate changed");

	// Data beside code, in the same page and the same cache line.
	right = true;
	for (u32 i = 0; i < 1000; i++) {
		*(volatile u32 *)(code + 16) = i;
		right &= run(code) == 2;
	}
	check(right, "data beside code");

	// An instruction changes the next one: it must be seen at once.
	u64 r;
	asm volatile("mov $2, %%edx; 1: movl %%edx, 2f+1(%%rip); 2: mov $1, %%eax; mov %%rax, %0" : "=r"(r) :: "rax", "rdx", "memory");
	check_eq(r, 2, "the next instruction changed");

	// A loop patches its own counter's increment while it runs: 5 rounds of +1, then of +16.
	asm volatile("xor %%eax, %%eax; movb $1, 2f+2(%%rip); mov $10, %%ecx\n"
		     "1: jmp 2f; 2: add $1, %%eax; cmp $6, %%ecx; jne 3f; movb $16, 2b+2(%%rip); 3: loop 1b; mov %%rax, %0"
		     : "=r"(r) :: "rax", "rcx", "memory", "cc");
	check_eq(r, 5 + 5 * 16, "a loop that patches itself");

	// Written by another linear address of the same physical page.
	map_page(TEST_WINDOW, (u64)code, PAGE_P | PAGE_RW);
	put_return(code + 64, 10);
	check_eq(run(code + 64), 10, "code before the change by an alias");
	put_return((u8 *)TEST_WINDOW + 64, 11);
	check_eq(run(code + 64), 11, "code changed by an alias");
	put_return(code + 64, 12);
	check_eq(run((u8 *)TEST_WINDOW + 64), 12, "code run by an alias");

	// The instruction lies in two pages, and each half is changed.
	put_return(code + 4094, 0x11223344);
	check_eq(run(code + 4094), 0x11223344, "instruction across pages");
	code[4095] = 0x55;
	check_eq(run(code + 4094), 0x11223355, "first half changed");
	code[4097] = 0x66;
	check_eq(run(code + 4094), 0x11663355, "second half changed");

	// The mapping changes, the bytes do not.
	put_return(code, 20);
	put_return(code + 4096, 21);
	map_page(TEST_WINDOW, (u64)code, PAGE_P | PAGE_RW);
	check_eq(run((void *)TEST_WINDOW), 20, "first mapping");
	map_page(TEST_WINDOW, (u64)code + 4096, PAGE_P | PAGE_RW);
	check_eq(run((void *)TEST_WINDOW), 21, "another page mapped there");

	// String stores over code that has run.
	put_return(code, 30);
	run(code);
	put_return(code + 128, 31);
	asm volatile("rep movsb" :: "S"(code + 128), "D"(code), "c"(6) : "memory");
	check_eq(run(code), 31, "code copied by rep movsb");
	*page_entry(TEST_WINDOW, 1) = 0;
	invlpg(TEST_WINDOW);
}
