// The same without long mode, where the exceptions have their own ways.
#include "debug.h"

CODE32(three, "nop; mov $1, %eax; nop")
CODE32(mov_ss_, "nop; mov %ss, %eax; mov %eax, %ss; nop; nop")
CODE32(pop_ss_, "push %ss; pop %ss; nop; nop")
CODE32(into_, "mov $0x7f, %al; inc %al; into")
CODE32(store, "mov %eax, (%edi); nop")
CODE32(icebp_, "nop; .byte 0xf1")

static void expect_log(const char *what, struct code c, int ring, struct legacy_regs r, const i32 *offsets, u32 dr6)
{
	legacy.log_vectors = 1 << VECTOR_DB;
	legacy.log_max = LEGACY_LOG_SIZE;
	run_protected(c, ring, r);
	u32 n = 0;
	while (offsets[n] >= 0)
		n++;
	check(event.vector == VECTOR_USER_EXIT && legacy.out.log_count == n, "%s: exception %d after %u, should be %u", what, event.vector, legacy.out.log_count, n);
	for (u32 i = 0; i < n && i < legacy.out.log_count; i++)
		check((i32)(legacy.log[i].eip - (u32)(u64)c.start) == offsets[i] && (legacy.log[i].dr6 & 0xe00f) == dr6, "%s: debug exception %u at +%d, DR6 %x, should be +%d", what, i,
		      (i32)(legacy.log[i].eip - (u32)(u64)c.start), legacy.log[i].dr6, offsets[i]);
}

void test_legacy_step(void)
{
	legacy_reset();
	legacy.eflags = FLAG_TF;
	for (int ring = 0; ring < 4; ring++) {
		expect_log("plain instructions", three, ring, (struct legacy_regs){ 0 }, (const i32[]){ 1, 6, 7, -1 }, DR6_BS);
		expect_log("MOV SS", mov_ss_, ring, (struct legacy_regs){ 0 }, (const i32[]){ 1, 3, 6, 7, -1 }, DR6_BS);
		expect_log("POP SS", pop_ss_, ring, (struct legacy_regs){ 0 }, (const i32[]){ 1, 3, 4, -1 }, DR6_BS);
	}
	legacy.log_vectors = 1 << VECTOR_DB | 1 << VECTOR_OF;
	run_protected(into_, 3, (struct legacy_regs){ 0 });
	// INTO is a trap; the way into its handler is no step.
	check(event.vector == VECTOR_USER_EXIT && legacy.out.log_count == 3 && legacy.log[2].vector == VECTOR_OF && legacy.log[2].eip == (u32)(u64)into_.end - 2,
	      "INTO: %u, the last is %u", legacy.out.log_count, legacy.log[2].vector);
}

void test_legacy_breakpoints(void)
{
	legacy_reset();
	legacy.log_or = FLAG_RF;
	legacy.dr[2] = (u32)(u64)three.start + 1;
	legacy.dr7 = 0x400 | 1 << 4;
	expect_log("instruction", three, 3, (struct legacy_regs){ 0 }, (const i32[]){ 1, -1 }, 4);
	legacy.dr[1] = SCRATCH + 4;
	legacy.dr7 = 0x400 | 1 << 2 | 0xdu << 20;
	expect_log("store", store, 3, (struct legacy_regs){ .edi = SCRATCH + 4 }, (const i32[]){ 2, -1 }, 2);
	expect_log("store that overlaps", store, 3, (struct legacy_regs){ .edi = SCRATCH + 1 }, (const i32[]){ 2, -1 }, 2);
	expect_log("store beside it", store, 3, (struct legacy_regs){ .edi = SCRATCH + 8 }, (const i32[]){ -1 }, 0);
	// Linear addresses count: a segment's base is added.
	legacy_gdt[L_SPARE / 8] = descriptor(SCRATCH, 0xfff, D_DATA | D_DPL(3) | D_BIG);
	legacy_at(store, 3);
	legacy.ds = L_SPARE | 3;
	legacy.regs = (struct legacy_regs){ .edi = 4 };
	legacy.log_max = 0;
	legacy_run();
	check(event.vector == VECTOR_DB && (legacy.out.dr6 & 0xe00f) == 2, "segment with a base: exception %d, DR6 %x", event.vector, legacy.out.dr6);
	legacy_reset();
	expect32("ICEBP", icebp_, 3, (struct legacy_regs){ 0 }, VECTOR_DB, 0, 2);
}
