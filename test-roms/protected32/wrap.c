// Addresses that wrap at 4 GiB, and stack pointers of which only a half is loaded. SDM 3A "Segment Limit Checking", "Logical Address
// Translation", 2A "IRET".
#include "memory.h"
#include "protected32.h"

CODE32(load_fs, "mov %eax, %fs; mov %fs:(%edi), %ecx")
CODE32(store_ds, "mov %ecx, (%edi)")
CODE32(load_ds, "mov (%edi), %ecx")
CODE32(push_at, "mov %edi, %esp; push %ecx")
CODE32(movups_ds, "movups (%edi), %xmm0")
CODE32(rep_stosb, "rep stosb")
CODE32(iretd, "mov %edi, %esp; iretl")
CODE32(landing, "mov %esp, %edx; mov %ss, %ecx")

// Base and offset are added without carry out of 32 bits.
void test_base_wrap(void)
{
	write32(SCRATCH + 0x100, 0x13572468);
	for (u32 base = 0x10000; base; base <<= 3) {
		SPARE = descriptor(SCRATCH - base, 0xfffff, D_DATA | D_DPL(3) | D_BIG | D_G);
		passes32("load", load_fs, 3, (struct legacy_regs){ .eax = L_SPARE | 3, .edi = base + 0x100 });
		check(legacy.out.regs.ecx == 0x13572468, "offset %x: %x", base, legacy.out.regs.ecx);
	}
	SPARE = descriptor(0x80000000, 0xfffff, D_DATA | D_DPL(3) | D_BIG | D_G);
	legacy_paging();
	passes32("load with paging", load_fs, 3, (struct legacy_regs){ .eax = L_SPARE | 3, .edi = SCRATCH + 0x80000100 });
	check(legacy.out.regs.ecx == 0x13572468, "load with paging: %x", legacy.out.regs.ecx);
}

static u8 top[4096] ALIGNED(4096), bottom[4096] ALIGNED(4096);

// An access over the end of a segment of 4 GiB: processors differ in whether it faults. If not, it goes on at 0.
static void over(const char *what, struct code c, u32 at, struct legacy_regs r, int vector)
{
	memset(top, 0, sizeof top);
	memset(bottom, 0, sizeof bottom);
	r.edi = at;
	r.ecx = 0x44332211;
	run_protected(c, 3, r);
	if (event.vector == vector) {
		check(event.error == 0 && load32(top + 0xffc) == 0 && load32(bottom) == 0, "%s: fault, but bytes were written: %x %x", what, load32(top + 0xffc), load32(bottom));
		return;
	}
	check(event.vector == VECTOR_USER_EXIT, "%s: exception %d, error code %x, CR2 %x", what, event.vector, event.error, legacy.out.cr2);
	if (c.start == store_ds.start || c.start == push_at.start)
		check(load16(top + 0xffe) == 0x2211 && load16(bottom) == 0x4433, "%s: %x at the top, %x at 0", what, load16(top + 0xffe), load16(bottom));
}

void test_top_of_memory(void)
{
	legacy_paging();
	legacy.cr4 |= CR4_OSFXSR;
	legacy_split(0xffc00000)[1023] = (u32)(u64)top | PAGE_P | PAGE_RW | PAGE_US;
	u32 *low = legacy_split(0);
	low[0] = (u32)(u64)bottom | PAGE_P | PAGE_RW | PAGE_US;
	over("store", store_ds, 0xfffffffe, (struct legacy_regs){ 0 }, VECTOR_GP);
	over("load", load_ds, 0xfffffffe, (struct legacy_regs){ 0 }, VECTOR_GP);
	over("PUSH", push_at, 2, (struct legacy_regs){ 0 }, VECTOR_SS);
	over("MOVUPS", movups_ds, 0xfffffff8, (struct legacy_regs){ 0 }, VECTOR_GP);
	// Bytes are within the segment wherever they are: EDI goes from FFFFFFFFh to 0.
	memset(top, 0, sizeof top);
	memset(bottom, 0, sizeof bottom);
	passes32("REP STOSB", rep_stosb, 3, (struct legacy_regs){ .eax = 0x77, .ecx = 8, .edi = 0xfffffffc });
	check(load32(top + 0xffc) == 0x77777777 && load32(bottom) == 0x77777777 && legacy.out.regs.edi == 4, "REP STOSB: %x %x, EDI %x", load32(top + 0xffc), load32(bottom),
	      legacy.out.regs.edi);
}

// A return to a stack of 16 bits loads SP; the upper half of ESP stays what it was in the inner ring.
void test_half_stack_pointer(void)
{
	SPARE = descriptor(SCRATCH, 0xffff, D_DATA | D_DPL(3));
	u32 f[] = { (u32)(u64)landing.start, (u32)L_CODE(3), FLAG_1, 0x12340800, L_SPARE | 3 }, *at = (u32 *)(legacy_stack[0] + 1024);
	memcpy(at, f, sizeof f);
	run_protected(iretd, 0, (struct legacy_regs){ .edi = (u32)(u64)at });
	u32 want = ((u32)(u64)at & 0xffff0000) | 0x800;
	check(event.vector == VECTOR_USER_EXIT && legacy.out.regs.edx == want && legacy.out.regs.ecx == (L_SPARE | 3), "IRETD: ESP %x, should be %x", legacy.out.regs.edx, want);
	// The frame of an event of that ring has all of ESP.
	check(event.esp == want, "frame: ESP %x, should be %x", event.esp, want);
}
