// Between 4-level and 5-level paging: SDM 3A "Paging-Mode Enabling", "Mode Switching".
#include "paging57.h"

// void switch_paging(u64 cr3, u64 cr4): by way of compatibility mode and CR0.PG = 0.
asm(".text\n"
    "switch_paging:\n"
    ".globl switch_paging\n"
    "	push $0x40\n"		// KERNEL_CS32
    "	push $1f\n"
    "	lretq\n"
    ".code32\n"
    "1:	mov %cr0, %eax\n"
    "	and $0x7fffffff, %eax\n"
    "	mov %eax, %cr0\n"
    "	mov %esi, %cr4\n"
    "	mov %edi, %cr3\n"
    "	or $0x80000000, %eax\n"
    "	mov %eax, %cr0\n"
    "	ljmp $0x08, $2f\n"
    ".code64\n"
    "2:	ret\n");

static u64 *pml5, saved_cr3;

bool has_la57(void)
{
	return cpuid_checked(7, 0).ecx >> 16 & 1;
}

bool has_pku(void)
{
	return cpuid_checked(7, 0).ecx >> 3 & 1;
}

bool enter_la57(void)
{
	if (!pml5) {
		saved_cr3 = read_cr3();
		pml5 = frame_new();
		if (!pml5)
			return false;
		pml5[0] = saved_cr3 | PAGE_P | PAGE_RW | PAGE_US;
	}
	switch_paging((u64)pml5, read_cr4() | CR4_LA57);
	return true;
}

void leave_la57(void)
{
	switch_paging(saved_cr3, read_cr4() & ~CR4_LA57);
}

u64 *entry57(u64 linear, int level)
{
	u64 *table = pml5;
	for (int l = 5;; l--) {
		u64 *entry = &table[linear >> (12 + 9 * (l - 1)) & 511];
		if (l == level)
			return entry;
		if (!(*entry & PAGE_P)) {
			u64 *next = frame_new();
			if (!next)
				return 0;
			*entry = (u64)next | PAGE_P | PAGE_RW | PAGE_US;
		}
		table = (u64 *)(*entry & PAGE_ADDRESS);
	}
}

static void set_la57(void *argument)
{
	(void)argument;
	write_cr4(read_cr4() ^ CR4_LA57);
}

// CR4.LA57 does not change in 64-bit mode.
void test_switch(void)
{
	if (!has_la57()) {
		skip("no 5-level paging");
		return;
	}
	check((cpuid_checked(0x80000008, 0).eax >> 8 & 0xff) == 57, "linear addresses have %u bits", cpuid_checked(0x80000008, 0).eax >> 8 & 0xff);
	check(!(read_cr4() & CR4_LA57), "on from the beginning");
	check(catch_trap(set_la57, 0) == VECTOR_GP && trap.error_code == 0, "set in 64-bit mode: exception %lu", trap.vector);
	for (int i = 0; i < 5; i++) {
		check(enter_la57() && (read_cr4() & CR4_LA57) && (rdmsr(MSR_EFER) & EFER_LMA), "to 5-level paging");
		check(catch_trap(set_la57, 0) == VECTOR_GP && (read_cr4() & CR4_LA57), "cleared in 64-bit mode: exception %lu", trap.vector);
		leave_la57();
		check(!(read_cr4() & CR4_LA57) && (rdmsr(MSR_EFER) & EFER_LMA), "back to 4-level paging");
	}
}
