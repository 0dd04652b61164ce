// A TSS that lies over two pages, which are not neighbours in memory, and pages that are not there.
#include "tasks.h"

#define LINEAR 0x08000000u	// two pages here are any two

CODE32(jump, "ljmpl *(%edi)")
CODE32(call, "lcalll *(%edi); inc %ebx")
CODE32(return_, "inc %eax; iretl")
CODE32(nothing, "nop")
CODE32(int_51, "int $0x51")

static u8 frames[3][4096] ALIGNED(4096);
static u32 *table;

static void map(void)
{
	legacy_reset();
	legacy_paging();
	table = legacy_split(LINEAR);
	table[0] = (u32)(u64)frames[0] | PAGE_P | PAGE_RW;
	table[1] = (u32)(u64)frames[2] | PAGE_P | PAGE_RW;
	memset(frames, 0, sizeof frames);
}

// Bytes at an offset of the two pages.
static u8 *byte_at(u32 offset)
{
	return offset < 4096 ? &frames[0][offset] : &frames[2][offset - 4096];
}

static void put(u32 at, const void *from, u32 n)
{
	for (u32 i = 0; i < n; i++)
		*byte_at(at + i) = ((const u8 *)from)[i];
}

static void get(void *to, u32 at, u32 n)
{
	for (u32 i = 0; i < n; i++)
		((u8 *)to)[i] = *byte_at(at + i);
}

void test_split(void)
{
	for (u32 part = 1; part < 104; part++) {
		// The new task's TSS is split.
		map();
		task2(return_, 0);
		legacy_tss2.eax = 0x10203040;
		legacy_tss2.edi = 0x50607080;
		legacy_tss2.io_map = 0xffff;
		u32 at = 4096 - part;
		put(at, &legacy_tss2, sizeof legacy_tss2);
		legacy_gdt[L_TSS2 / 8] = descriptor(LINEAR + at, sizeof legacy_tss2 - 1, D_TSS32);
		run_protected(call, 0, to_selector(L_TSS2));
		struct tss32 t;
		get(&t, at, sizeof t);
		check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && t.eax == 0x10203041 && t.edi == 0x50607080 && t.link == L_TSS && t.eip == END(return_) - 2
		      && t.esp == STACK_TOP(2) && t.ss == L_DATA(0), "new TSS with %u bytes in its first page: exception %d, error code %x at %x, CR2 %x; EAX %x EIP %x", part,
		      event.vector, event.error, event.eip, legacy.out.cr2, t.eax, t.eip);
		check(frames[1][0] == 0 && frames[1][4095] == 0, "the frame between is untouched");

		// The old task's TSS is split.
		map();
		task2(return_, 0);
		struct tss32 first = legacy_tss.tss;
		first.io_map = 0xffff;
		put(at, &first, sizeof first);
		legacy_gdt[L_TSS / 8] = descriptor(LINEAR + at, sizeof first - 1, D_TSS32);
		struct legacy_regs r = to_selector(L_TSS2);
		r.eax = 0xaaaa5555;
		r.esi = 0x5555aaaa;
		run_protected(call, 0, r);
		get(&t, at, sizeof t);
		check(event.vector == VECTOR_USER_EXIT && event.eip == END(call) && t.eax == 0xaaaa5555 && t.esi == 0x5555aaaa && t.eip == address(call) + 2 && t.ds == L_DATA(0),
		      "old TSS with %u bytes in its first page: exception %d, error code %x at %x, CR2 %x; EAX %x EIP %x", part, event.vector, event.error, event.eip, legacy.out.cr2,
		      t.eax, t.eip);
		check(legacy.out.regs.eax == 0xaaaa5555 && legacy.out.regs.esi == 0x5555aaaa && legacy.out.regs.ebx == 1, "old TSS with %u bytes in its first page: EAX %x", part,
		      legacy.out.regs.eax);
	}
}

// Whatever is not there is found before the switch: SDM 3A "Task Switching" wants all pages present.
static void page_fault(const char *what, struct code c, int ring, u32 page)
{
	u32 eax = 0x12344321;
	struct legacy_regs r = to_selector(L_TSS2);
	r.eax = eax;
	run_protected(c, ring, r);
	check(event.vector == VECTOR_PF && event.eip == address(c) && legacy.out.cr2 >> 12 == (LINEAR >> 12) + page && !(event.error & 4), "%s: exception %d, error code %x at +%d, CR2 %x",
	      what, event.vector, event.error, (i32)(event.eip - address(c)), legacy.out.cr2);
	check(legacy.out.tr == L_TSS && is_busy(L_TSS) && !is_busy(L_TSS2) && legacy.out.regs.eax == eax && event.cs == (u32)L_CODE(ring), "%s: TR %x, busy %u %u, EAX %x", what,
	      legacy.out.tr, is_busy(L_TSS), is_busy(L_TSS2), legacy.out.regs.eax);
}

void test_page_faults(void)
{
	for (u32 part = 4; part < 104; part += 20)
		for (u32 page = 0; page < 2; page++) {
			map();
			task2(nothing, 0);
			put(4096 - part, &legacy_tss2, sizeof legacy_tss2);
			legacy_gdt[L_TSS2 / 8] = descriptor(LINEAR + 4096 - part, sizeof legacy_tss2 - 1, D_TSS32);
			legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(3), 0);
			table[page] = 0;
			page_fault("new TSS, JMP", jump, 0, page);
			page_fault("new TSS, INT from ring 3", int_51, 3, page);

			map();
			task2(nothing, 0);
			struct tss32 first = legacy_tss.tss;
			put(4096 - part, &first, sizeof first);
			legacy_gdt[L_TSS / 8] = descriptor(LINEAR + 4096 - part, sizeof first - 1, D_TSS32);
			legacy_idt[VECTOR_TEST] = gate_descriptor(L_TSS2, 0, D_GATE_TASK | D_DPL(3), 0);
			table[page] &= ~(u32)PAGE_RW;
			// At ring 0 the fault itself needs no stack of the TSS.
			page_fault("old TSS that is read-only", jump, 0, page);
			check((event.error & 3) == 3, "old TSS that is read-only: error code %x", event.error);
		}
}
