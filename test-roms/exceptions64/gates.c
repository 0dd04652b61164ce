// IDT limit, call gates, LDT, and the I/O permission map.
#include "exceptions64.h"

SNIPPET(int_81, "int $0x81")
SNIPPET(far_call, "rex.W lcall *(%rdi); mov $0x77, %ebx")
SNIPPET(far_jump, "rex.W ljmp *(%rdi)")
SNIPPET(mov_ds, "mov %eax, %ds")
SNIPPET(load_fs, "mov %eax, %fs; mov %fs:0, %ebx")
SNIPPET(lldt, "lldt %ax")
SNIPPET(in8, "mov %eax, %edx; in %dx, %al")
SNIPPET(in16, "mov %eax, %edx; in %dx, %ax")
SNIPPET(in32, "mov %eax, %edx; in %dx, %eax")

// QEMU 7.2 takes 16 bytes for the size of an IDT entry in error codes.
void test_idt_limit(void)
{
	struct table_pointer saved, shorter;
	asm volatile("sidt %0" : "=m"(saved));
	shorter = saved;
	shorter.limit = 0x81 * 16 - 1;
	asm volatile("lidt %0" :: "m"(shorter));
	expect("INT 81h beyond the limit", int_81, 0, (struct regs){ 0 }, VECTOR_GP, 0x81 * 8 + 2, 0);
	shorter.limit = 0x82 * 16 - 2;
	asm volatile("lidt %0" :: "m"(shorter));
	expect("INT 81h partly beyond the limit", int_81, 0, (struct regs){ 0 }, VECTOR_GP, 0x81 * 8 + 2, 0);
	asm volatile("lidt %0" :: "m"(saved));
}

// ---- Call gates

extern u8 gate_target[];
extern u64 gate_rsp, gate_cs, gate_frame[4];
asm(".text\n"
    "gate_target:\n"
    "  mov %rsp, gate_rsp(%rip)\n"
    "  mov %cs, %ecx; mov %rcx, gate_cs(%rip)\n"
    "  mov (%rsp), %rcx; mov %rcx, gate_frame(%rip); mov 8(%rsp), %rcx; mov %rcx, gate_frame+8(%rip)\n"
    "  mov 16(%rsp), %rcx; mov %rcx, gate_frame+16(%rip); mov 24(%rsp), %rcx; mov %rcx, gate_frame+24(%rip)\n"
    "  lretq\n"
    ".bss\n"
    "gate_rsp: .skip 8\n"
    "gate_cs: .skip 8\n"
    "gate_frame: .skip 32\n"
    ".text\n");

static void set_call_gate(u64 selector, u64 offset, u64 access)
{
	u64 *gate = &gdt[SPARE_SELECTOR / 8];
	gate[0] = (offset & 0xffff) | selector << 16 | access << 40 | (offset >> 16 & 0xffff) << 48;
	gate[1] = offset >> 32;
}

#define GATE_64 0x8cul	// present, DPL 0, 64-bit call gate

// The far pointer for the snippets, in ring 3's page.
static u64 far_pointer(u64 offset, u16 selector)
{
	memcpy(stack_frame, &offset, 8);
	memcpy(stack_frame + 8, &selector, 2);
	return STACK_PAGE;
}

void test_call_gates(void)
{
	struct regs r = { .rdi = far_pointer(0, SPARE_SELECTOR | 3) };
	set_call_gate(KERNEL_CS, (u64)gate_target, GATE_64 | 3 << 5);
	int vector = run_snippet(far_call, 3, r);
	if (check(vector == VECTOR_USER_EXIT && trap.rbx == 0x77 && trap.cs == USER_CS && trap.rsp == STACK_END && trap.ss == USER_DS,
		  "from ring 3 and back: exception %d, error code %lx, at %lx:%lx", vector, trap.error_code, trap.cs, trap.rip)) {
		check(gate_rsp == tss.rsp[0] - 32 && gate_cs == KERNEL_CS, "in the gate: RSP %lx, CS %lx", gate_rsp, gate_cs);
		check(gate_frame[0] == CODE_PAGE + 3 && gate_frame[1] == USER_CS && gate_frame[2] == STACK_END && gate_frame[3] == USER_DS,
		      "frame: %lx %lx %lx %lx", gate_frame[0], gate_frame[1], gate_frame[2], gate_frame[3]);
	}
	r.rdi = far_pointer(0, SPARE_SELECTOR | 3);
	set_call_gate(KERNEL_CS, (u64)gate_target, GATE_64);
	expect("gate for ring 0 only", far_call, 3, r, VECTOR_GP, SPARE_SELECTOR, 0);
	set_call_gate(KERNEL_CS, (u64)gate_target, (GATE_64 | 3 << 5) & ~0x80ul);
	expect("gate not present", far_call, 3, r, VECTOR_NP, SPARE_SELECTOR, 0);
	set_call_gate(0, (u64)gate_target, GATE_64 | 3 << 5);
	expect("gate to a null CS", far_call, 3, r, VECTOR_GP, 0, 0);
	set_call_gate(KERNEL_DS, (u64)gate_target, GATE_64 | 3 << 5);
	expect("gate to data", far_call, 3, r, VECTOR_GP, KERNEL_DS, 0);
	set_call_gate(KERNEL_CS32, (u64)gate_target, GATE_64 | 3 << 5);
	expect("gate to 32-bit code", far_call, 3, r, VECTOR_GP, KERNEL_CS32, 0);

	r.rdi = far_pointer(CODE_PAGE + 3, KERNEL_CS);
	expect("far jump to ring 0", far_jump, 3, r, VECTOR_GP, KERNEL_CS, 0);
	r.rdi = far_pointer(CODE_PAGE + 3, 0);
	expect("far jump to a null selector", far_jump, 3, r, VECTOR_GP, 0, 0);
	r.rdi = far_pointer(CODE_PAGE + 3, USER_DS);
	expect("far jump to data", far_jump, 3, r, VECTOR_GP, USER_DS & ~3ul, 0);
	r.rdi = far_pointer(CODE_PAGE + 3, USER_CS);
	expect_vector("far jump to the own segment", far_jump, 3, r, VECTOR_USER_EXIT);
	gdt[SPARE_SELECTOR / 8] = gdt[SPARE_SELECTOR / 8 + 1] = 0;
}

// QEMU 7.2 cuts RSP to 32 bits.
void test_call_gates_exactly(void)
{
	set_call_gate(KERNEL_CS, (u64)gate_target, GATE_64);
	int vector = run_snippet(far_call, 0, (struct regs){ .rdi = far_pointer(0, SPARE_SELECTOR) });
	check(vector == VECTOR_USER_EXIT && trap.rbx == 0x77 && gate_rsp == STACK_END - 16, "from ring 0: exception %d, RSP %lx", vector, gate_rsp);
	gdt[SPARE_SELECTOR / 8] = gdt[SPARE_SELECTOR / 8 + 1] = 0;
}

// ---- LDT

void test_ldt(void)
{
	static u64 ldt[4] ALIGNED(16), cell = 0x12345678;
	u64 base = (u64)ldt, *spare = &gdt[SPARE_SELECTOR / 8], data = (u64)&cell;
	ldt[1] = 0x00cff3000000ffff | (data & 0xffffff) << 16 | (data & 0xff000000) << 32;
	ldt[2] = 0x00cf73000000ffff;

	expect("selector in an absent LDT", mov_ds, 3, (struct regs){ .rax = 8 | 4 | 3 }, VECTOR_GP, 8 | 4, 0);
	spare[0] = (sizeof ldt - 1) | (base & 0xffffff) << 16 | 0x82ul << 40 | (base >> 24 & 0xff) << 56;
	spare[1] = base >> 32;
	expect("LLDT at ring 3", lldt, 3, (struct regs){ .rax = SPARE_SELECTOR }, VECTOR_GP, 0, 0);
	expect("LLDT with a data segment", lldt, 0, (struct regs){ .rax = KERNEL_DS }, VECTOR_GP, KERNEL_DS, 0);
	expect("LLDT with a selector of the LDT", lldt, 0, (struct regs){ .rax = SPARE_SELECTOR | 4 }, VECTOR_GP, SPARE_SELECTOR | 4, 0);
	expect_vector("LLDT", lldt, 0, (struct regs){ .rax = SPARE_SELECTOR }, VECTOR_USER_EXIT);
	u16 ldtr;
	asm volatile("sldt %0" : "=r"(ldtr));
	check(ldtr == SPARE_SELECTOR, "SLDT: %x", ldtr);
	expect_vector("segment of the LDT", load_fs, 3, (struct regs){ .rax = 8 | 4 | 3 }, VECTOR_PF);	// the cell is the supervisor's
	check(trap_cr2 == data, "segment of the LDT: CR2 %lx, should be %lx", trap_cr2, data);
	expect_vector("segment of the LDT at ring 0", load_fs, 0, (struct regs){ .rax = 8 | 4 }, VECTOR_USER_EXIT);
	check(trap.rbx == cell, "segment of the LDT: %lx", trap.rbx);
	expect("not present in the LDT", mov_ds, 3, (struct regs){ .rax = 16 | 4 | 3 }, VECTOR_NP, 16 | 4, 0);
	expect("beyond the LDT", mov_ds, 3, (struct regs){ .rax = 32 | 4 | 3 }, VECTOR_GP, 32 | 4, 0);
	spare[0] &= ~(1ul << 47);
	expect("LLDT, not present", lldt, 0, (struct regs){ .rax = SPARE_SELECTOR }, VECTOR_NP, SPARE_SELECTOR, 0);
	asm volatile("lldt %w0; mov %0, %%fs; mov %1, %%ds" :: "r"(0), "r"(KERNEL_DS));
	spare[0] = spare[1] = 0;
}

// ---- I/O permissions

#define PORT 0x80	// nobody minds what is read there

static void set_tss(void *base, u64 limit)
{
	u64 b = (u64)base, *d = &gdt[TSS_SELECTOR / 8];
	d[0] = limit | (b & 0xffffff) << 16 | 0x89ul << 40 | (b >> 24 & 0xff) << 56;
	d[1] = b >> 32;
	asm volatile("ltr %w0" :: "r"(TSS_SELECTOR));
}

void test_io_permissions(void)
{
	static struct { struct tss tss; u8 map[PORT / 8 + 2]; } PACKED wide;
	wide.tss = tss;
	wide.tss.io_map_base = sizeof wide.tss;
	memset(wide.map, 0xff, sizeof wide.map);
	struct regs r = { .rax = PORT };

	set_tss(&wide, sizeof wide - 1);
	expect("port closed", in8, 3, r, VECTOR_GP, 0, 2);
	wide.map[PORT / 8] = 0xfe;
	expect_vector("port open", in8, 3, r, VECTOR_USER_EXIT);
	expect("second port of a word closed", in16, 3, r, VECTOR_GP, 0, 2);
	wide.map[PORT / 8] = 0xfc;
	expect_vector("word open", in16, 3, r, VECTOR_USER_EXIT);
	expect("third port of a doubleword closed", in32, 3, r, VECTOR_GP, 0, 2);
	wide.map[PORT / 8] = 0;
	expect_vector("doubleword open", in32, 3, r, VECTOR_USER_EXIT);

	// The processor always reads two bytes of the map: the second one must be within the limit as well.
	set_tss(&wide, sizeof wide - 2);
	expect("map that ends with the port's byte", in8, 3, r, VECTOR_GP, 0, 2);
	expect_vector("IOPL 3 needs no map", in8, 3, (struct regs){ .rax = PORT, .rflags = FLAG_IOPL }, VECTOR_USER_EXIT);
	expect_vector("ring 0 needs no map", in8, 0, r, VECTOR_USER_EXIT);
	set_tss(&tss, sizeof tss - 1);
}
