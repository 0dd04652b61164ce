// One physical page at several linear addresses, and one linear address for several pages.
#include "selfmod.h"

#define ALIAS TEST_WINDOW
#define LARGE_ALIAS (TEST_WINDOW + HUGE_PAGE)

// Written through another address: a serialising instruction comes before the code runs.
void test_alias(void)
{
	u64 large = LARGE_ALIAS + ((u64)code & (LARGE_PAGE - 1));
	for (u64 i = 0; i < 4; i++)
		map_page(ALIAS + i * PAGE_SIZE, (u64)code + i * PAGE_SIZE, PAGE_P | PAGE_RW);
	u64 *entry = page_entry(LARGE_ALIAS, 2);
	for (u64 i = 0; i < 2; i++)
		entry[i] = (((u64)code & ~(LARGE_PAGE - 1)) + i * LARGE_PAGE) | PAGE_P | PAGE_RW | PAGE_PS;
	u8 *const views[] = { code, (u8 *)ALIAS, (u8 *)large };
	static const u32 places[] = { 0, 64, 4090, 4094, 8191 };
	for (size_t p = 0; p < ARRAY_SIZE(places); p++)
		for (u32 round = 0; round < 30; round++) {
			u32 value = round * 7 + (u32)p;
			put_return(views[round % 3] + places[p], value);
			serialise();
			for (size_t v = 0; v < ARRAY_SIZE(views); v++)
				check(run(views[v] + places[p]) == value, "written by view %u, run by view %lu at %u: %x, should be %x", round % 3, v, places[p], run(views[v] + places[p]),
				      value);
			// Only the immediate.
			*(volatile u8 *)(views[(round + 1) % 3] + places[p] + 1) = 0xee;
			serialise();
			for (size_t v = 0; v < ARRAY_SIZE(views); v++)
				check((run(views[v] + places[p]) & 0xff) == 0xee, "changed by view %u, run by view %lu at %u", (round + 1) % 3, v, places[p]);
		}
	for (u64 i = 0; i < 4; i++)
		map_page(ALIAS + i * PAGE_SIZE, 0, 0);
	entry[0] = entry[1] = 0;
	write_cr3(read_cr3());
}

// lea rax, [rip]; ret: the same bytes give different results at different addresses. So does a CALL's return address.
void test_position(void)
{
	static const u8 where[] = { 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3 };
	static const u8 by_call[] = { 0xe8, 0, 0, 0, 0, 0x58, 0xc3 };
	memcpy(code, where, sizeof where);
	memcpy(code + 128, by_call, sizeof by_call);
	memcpy(code + 4096 - 3, where, sizeof where);
	for (u64 i = 0; i < 8; i++) {
		map_page(ALIAS + i * 2 * PAGE_SIZE, (u64)code, PAGE_P);
		map_page(ALIAS + i * 2 * PAGE_SIZE + PAGE_SIZE, (u64)code + PAGE_SIZE, PAGE_P);
	}
	for (u32 round = 0; round < 20; round++)
		for (u64 i = 0; i < 9; i++) {
			u64 base = i == 8 ? (u64)code : ALIAS + i * 2 * PAGE_SIZE, r;
			asm volatile("call *%1" : "=a"(r) : "r"(base) : "memory");
			check(r == base + 7, "LEA at %lx gives %lx", base, r);
			asm volatile("call *%1" : "=a"(r) : "r"(base + 128) : "memory");
			check(r == base + 133, "CALL at %lx gives %lx", base + 128, r);
			asm volatile("call *%1" : "=a"(r) : "r"(base + 4093) : "memory");
			check(r == base + 4100, "LEA over two pages at %lx gives %lx", base + 4093, r);
		}
	for (u64 i = 0; i < 16; i++)
		map_page(ALIAS + i * PAGE_SIZE, 0, 0);
}

// Pages change places under code that is linked to them: a caller in one page, its callee in the next.
void test_remapped(void)
{
	u64 w = ALIAS;
	// call +(4096 - 5); ret
	code[0] = 0xe8;
	memcpy(code + 1, &(u32){ 4096 - 5 }, 4);
	code[5] = 0xc3;
	// jmp over the page boundary: jmp +(4096 - 64 - 5 + 16)
	code[64] = 0xe9;
	memcpy(code + 65, &(u32){ 4096 - 69 + 16 }, 4);
	for (u32 i = 1; i < 4; i++) {
		put_return(code + i * 4096, 100 * i);
		put_return(code + i * 4096 + 16, 100 * i + 1);
	}
	map_page(w, (u64)code, PAGE_P);
	for (u32 round = 0; round < 30; round++) {
		u32 i = 1 + round % 3;
		map_page(w + PAGE_SIZE, (u64)code + i * 4096, PAGE_P);
		for (int k = 0; k < 5; k++) {
			check(run((void *)w) == 100 * i, "call into page %u: %u", i, run((void *)w));
			check(run((void *)(w + 64)) == 100 * i + 1, "jump into page %u: %u", i, run((void *)(w + 64)));
		}
		if (round % 4 == 3) {
			map_page(w + PAGE_SIZE, 0, 0);
			int vector = catch_trap((void (*)(void *))w, 0);
			check(vector == VECTOR_PF && trap_cr2 == w + PAGE_SIZE, "call into no page: exception %d, CR2 %lx", vector, trap_cr2);
		}
	}
	// The whole address space changes: another CR3 with another page there.
	u64 cr3 = read_cr3();
	u64 *tables[4];
	bool made = true;
	for (int i = 0; i < 4; i++)
		made &= (tables[i] = frame_new()) != 0;
	if (check(made, "no frame left")) {
		memcpy(tables[0], (void *)(cr3 & PAGE_ADDRESS), PAGE_SIZE);
		tables[0][w >> 39 & 511] = (u64)tables[1] | PAGE_P | PAGE_RW;
		tables[1][w >> 30 & 511] = (u64)tables[2] | PAGE_P | PAGE_RW;
		tables[2][w >> 21 & 511] = (u64)tables[3] | PAGE_P | PAGE_RW;
		tables[3][w >> 12 & 511] = (u64)code | PAGE_P;
		tables[3][(w >> 12 & 511) + 1] = ((u64)code + 3 * 4096) | PAGE_P;
		map_page(w + PAGE_SIZE, (u64)code + 4096, PAGE_P);
		for (int k = 0; k < 10; k++) {
			write_cr3((u64)tables[0]);
			check(run((void *)w) == 300, "call in the other address space: %u", run((void *)w));
			write_cr3(cr3);
			check(run((void *)w) == 100, "call in this address space: %u", run((void *)w));
		}
		frame_free_all_above(tables[0]);
	}
	map_page(w, 0, 0);
	map_page(w + PAGE_SIZE, 0, 0);
}

// Code in a page table: the processor's own stores of accessed and dirty bits go to the page that it runs.
void test_page_table_code(void)
{
	static u8 data[4096] ALIGNED(4096);
	u64 *table = page_entry(TEST_WINDOW, 1);
	u8 *function = (u8 *)(table + 256);	// entries that nobody uses: they are not present
	static const u8 bytes[] = { 0x8a, 0x07, 0xc6, 0x07, 0x2a, 0xb8, 0, 0x12, 0x34, 0, 0xc3 };	// mov al, [rdi]; mov byte [rdi], 42; mov eax, 0x341200; ret
	for (u64 i = 0; i < 200; i++)
		table[i] = (u64)data | PAGE_P | PAGE_RW;
	write_cr3(read_cr3());
	memcpy(function, bytes, sizeof bytes);
	u32 r;
	bool right = true, marked = true;
	for (u64 i = 0; i < 200; i++) {
		asm volatile("call *%1" : "=a"(r) : "r"(function), "D"(TEST_WINDOW + i * PAGE_SIZE) : "memory");
		right &= r == 0x341200;
		marked &= (table[i] & (PAGE_A | PAGE_D)) == (PAGE_A | PAGE_D);
	}
	check(right && data[0] == 42, "code in a page table");
	check(marked, "accessed and dirty bits in a page of code");
	memset(table, 0, PAGE_SIZE);
	write_cr3(read_cr3());
}
