// What outer rings may not do: I/O ports, IOPL, alignment, privileged instructions. SDM 1 "I/O Privilege Level",
// "I/O Permission Bit Map", 3A "Privileged Instructions", "Interrupt 17—Alignment Check Exception (#AC)".
#include "protected32.h"

#define PORT 0x80	// nobody minds what is read there

CODE32(in8, "mov %eax, %edx; in %dx, %al")
CODE32(in16, "mov %eax, %edx; in %dx, %ax")
CODE32(in32, "mov %eax, %edx; in %dx, %eax")
CODE32(in_imm, "nop; nop; in $0x80, %al")
CODE32(out8, "mov %eax, %edx; out %al, %dx")
CODE32(insb, "mov %eax, %edx; insb")
CODE32(outsd, "mov %eax, %edx; outsl")

void test_io_permissions(void)
{
	struct legacy_regs r = { .eax = PORT, .edi = SCRATCH, .esi = SCRATCH };
	u8 *map = &legacy_tss.ports[PORT / 8];
	struct { const char *what; struct code code; u32 bits; } kinds[] = {
		{ "IN of 8", in8, 1 }, { "IN of 16", in16, 3 }, { "IN of 32", in32, 15 }, { "IN of a constant port", in_imm, 1 },
		{ "OUT of 8", out8, 1 }, { "INS of 8", insb, 1 }, { "OUTS of 32", outsd, 15 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		for (u32 closed = 0; closed < 16; closed++) {
			*map = (u8)(0xf0 | closed);
			for (int ring = 0; ring < 4; ring++) {
				if (ring == 0 || !(closed & kinds[i].bits))
					passes32(kinds[i].what, kinds[i].code, ring, r);
				else
					expect32(kinds[i].what, kinds[i].code, ring, r, VECTOR_GP, 0, 2);
			}
		}
	// IOPL makes the map superfluous.
	*map = 0xff;
	for (u32 ring = 1; ring < 4; ring++)
		for (u32 iopl = 0; iopl < 4; iopl++) {
			legacy.eflags = iopl << 12;
			if (ring <= iopl)
				passes32("IOPL", in8, (int)ring, r);
			else
				expect32("IOPL", in8, (int)ring, r, VECTOR_GP, 0, 2);
		}
	legacy.eflags = 0;

	// The processor reads two bytes: the second must be within the TSS as well.
	*map = 0;
	u32 base = (u32)(u64)&legacy_tss, at = offsetof(struct legacy_tss, ports) + PORT / 8;
	legacy_gdt[L_TSS / 8] = descriptor(base, at, D_TSS32);
	expect32("map that ends with the port's byte", in8, 3, r, VECTOR_GP, 0, 2);
	legacy_gdt[L_TSS / 8] = descriptor(base, at + 1, D_TSS32);
	passes32("map with one more byte", in8, 3, r);
	legacy_tss.tss.io_map = 0xffff;
	expect32("map beyond the TSS", in8, 3, r, VECTOR_GP, 0, 2);
	// Ports 7 and 8 are in two bytes.
	legacy_tss.tss.io_map = offsetof(struct legacy_tss, ports);
	legacy_gdt[L_TSS / 8] = descriptor(base, sizeof legacy_tss - 1, D_TSS32);
	map[0] = 0x7f;
	map[1] = 0xfe;
	r.eax = PORT + 7;
	passes32("word over two bytes of the map", in16, 3, r);
	map[1] = 0xff;
	expect32("word over two bytes of the map, closed", in16, 3, r, VECTOR_GP, 0, 2);
	// A TSS of 16 bits has no map.
	static struct tss16 narrow;
	memset(&narrow, 0, sizeof narrow);
	narrow.sp0 = (u16)STACK_TOP(0);
	narrow.ss0 = L_SPARE;
	SPARE = descriptor(STACK_TOP(0) & 0xffff0000, 0xffff, D_DATA | D_BIG);
	legacy_gdt[L_TSS / 8] = descriptor((u32)(u64)&narrow, 0xffff, D_TSS16);
	run_protected(in8, 3, r);
	check(event.vector == VECTOR_GP && event.error == 0, "TSS of 16 bits: exception %d, error code %x", event.vector, event.error);
}

CODE32(cli_, "nop; cli")
CODE32(sti_, "nop; sti; cli")
CODE32(popf_, "push %eax; popf; pushf; pop %ecx")

void test_iopl(void)
{
	for (u32 ring = 0; ring < 4; ring++)
		for (u32 iopl = 0; iopl < 4; iopl++) {
			legacy.eflags = iopl << 12;
			bool may = ring <= iopl;
			if (may) {
				passes32("CLI", cli_, (int)ring, (struct legacy_regs){ 0 });
				passes32("STI", sti_, (int)ring, (struct legacy_regs){ 0 });
			} else {
				expect32("CLI", cli_, (int)ring, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
				expect32("STI", sti_, (int)ring, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
			}
			u32 every = FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | FLAG_1, want = every;
			if (ring)
				want = (want & ~(u32)FLAG_IOPL) | iopl << 12;
			if (!may)
				want &= ~(u32)FLAG_IF;
			// VIF, VIP, VM and RF are not POPF's to set.
			passes32("POPF", popf_, (int)ring, (struct legacy_regs){ .eax = every | FLAG_VIF | FLAG_VIP | FLAG_VM | FLAG_RF });
			check(legacy.out.regs.ecx == want, "POPF, ring %u IOPL %u: %x, should be %x", ring, iopl, legacy.out.regs.ecx, want);
		}
	// With CR4.PVI, CLI and STI of ring 3 act on VIF. SDM 3B "Protected-Mode Virtual Interrupts".
	legacy.cr4 = CR4_PVI;
	legacy.eflags = 0;
	passes32("STI with PVI", sti_, 3, (struct legacy_regs){ 0 });
	expect32("STI with PVI at ring 2", sti_, 2, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	legacy.eflags = FLAG_VIP;
	expect32("STI with PVI and VIP", sti_, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	legacy.eflags = FLAG_VIF | FLAG_VIP;
	expect32("VIF and VIP with PVI", cli_, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 0);
	expect32("VIF and VIP with PVI at ring 2", cli_, 2, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	legacy.eflags = FLAG_VIF;
	passes32("CLI with PVI", cli_, 3, (struct legacy_regs){ 0 });
	check(!(event.eflags & FLAG_VIF), "CLI with PVI: EFLAGS %x", event.eflags);
}

CODE32(load2, "mov (%edi), %cx")
CODE32(load4, "mov (%edi), %ecx")
CODE32(store4, "mov %ecx, (%edi)")
CODE32(push4, "mov %edi, %esp; push %ecx")
CODE32(pop4, "mov %edi, %esp; pop %ecx")
CODE32(movsd, "mov %edi, %esi; movsl")
CODE32(fild8, "fildll (%edi)")
CODE32(bit_test, "btl $0, (%edi)")
CODE32(fstenv, "fnstenv (%edi)")

static void aligned_to(const char *what, struct code c, u32 bytes, i32 offset)
{
	for (u32 i = 0; i < 8; i++) {
		struct legacy_regs r = { .edi = SCRATCH + 64 + i };
		if (i % bytes)
			expect32(what, c, 3, r, VECTOR_AC, 0, offset);
		else
			passes32(what, c, 3, r);
	}
}

void test_alignment(void)
{
	struct legacy_regs odd = { .edi = SCRATCH + 1 };
	legacy.eflags = FLAG_AC;
	passes32("AC without CR0.AM", load4, 3, odd);
	legacy.cr0 |= CR0_AM;
	aligned_to("load of 2", load2, 2, 0);
	aligned_to("load of 4", load4, 4, 0);
	aligned_to("store of 4", store4, 4, 0);
	aligned_to("PUSH", push4, 4, 2);
	aligned_to("POP", pop4, 4, 2);
	aligned_to("MOVSD", movsd, 4, 2);
	aligned_to("FILD of 8", fild8, 8, 0);
	aligned_to("BT", bit_test, 4, 0);
	aligned_to("FNSTENV", fstenv, 4, 0);
	for (int ring = 0; ring < 3; ring++)
		passes32("inner rings", load4, ring, odd);
	legacy.eflags = 0;
	passes32("without AC", load4, 3, odd);
	// What is wrong with the segment comes first.
	legacy.eflags = FLAG_AC;
	SPARE = descriptor(SCRATCH, 0xf, D_DATA | D_DPL(3) | D_BIG);
	legacy_at(load4, 3);
	legacy.ds = L_SPARE | 3;
	legacy.regs = (struct legacy_regs){ .edi = 0xe };
	legacy_run();
	check(event.vector == VECTOR_GP, "odd and beyond the limit: exception %d", event.vector);
}

CODE32(hlt_, "nop; hlt")
CODE32(clts_, "nop; clts")
CODE32(lmsw_, "nop; lmsw %ax")
CODE32(lgdt_, "nop; lgdtl (%edi)")
CODE32(lidt_, "nop; lidtl (%edi)")
CODE32(lldt_, "nop; lldt %ax")
CODE32(ltr_, "nop; ltr %ax")
CODE32(mov_cr0_, "nop; mov %cr0, %ecx")
CODE32(mov_to_cr3_, "nop; mov %ecx, %cr3")
CODE32(mov_dr0_, "nop; mov %dr0, %ecx")
CODE32(invlpg_, "nop; invlpg (%edi)")
CODE32(invd_, "nop; wbinvd")
CODE32(rdmsr_, "nop; rdmsr")
CODE32(wrmsr_, "nop; wrmsr")
CODE32(rdpmc_, "nop; rdpmc")
CODE32(rdtsc_, "nop; rdtsc")
CODE32(sgdt_, "nop; sgdtl (%edi)")
CODE32(smsw_, "nop; smsw %ecx")
CODE32(sldt_, "nop; sldt %ecx")
CODE32(sysret_, "nop; .byte 0x0f, 0x07")
CODE32(syscall_, "nop; .byte 0x0f, 0x05")
CODE32(swapgs_, "nop; .byte 0x0f, 0x01, 0xf8")

void test_privileged(void)
{
	struct { const char *what; struct code code; } privileged[] = {
		{ "HLT", hlt_ }, { "CLTS", clts_ }, { "LMSW", lmsw_ }, { "LGDT", lgdt_ }, { "LIDT", lidt_ }, { "LLDT", lldt_ }, { "LTR", ltr_ },
		{ "MOV from CR0", mov_cr0_ }, { "MOV to CR3", mov_to_cr3_ }, { "MOV from DR0", mov_dr0_ }, { "INVLPG", invlpg_ }, { "WBINVD", invd_ },
		{ "RDMSR", rdmsr_ }, { "WRMSR", wrmsr_ },
	};
	for (size_t i = 0; i < ARRAY_SIZE(privileged); i++)
		for (int ring = 1; ring < 4; ring++)
			expect32(privileged[i].what, privileged[i].code, ring, (struct legacy_regs){ .edi = SCRATCH }, VECTOR_GP, 0, 1);
	passes32("SGDT", sgdt_, 3, (struct legacy_regs){ .edi = SCRATCH });
	passes32("SMSW", smsw_, 3, (struct legacy_regs){ 0 });
	check(legacy.out.regs.ecx & 1, "SMSW: %x", legacy.out.regs.ecx);
	passes32("SLDT", sldt_, 3, (struct legacy_regs){ 0 });
	passes32("RDTSC", rdtsc_, 3, (struct legacy_regs){ 0 });
	legacy.cr4 = CR4_TSD;
	expect32("RDTSC with TSD", rdtsc_, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
	passes32("RDTSC with TSD at ring 0", rdtsc_, 0, (struct legacy_regs){ 0 });
	legacy.cr4 = 0;
	expect32("RDPMC", rdpmc_, 3, (struct legacy_regs){ .ecx = 0 }, VECTOR_GP, 0, 1);
	// Instructions of 64-bit mode, and of SYSCALL, which Intel's processors have there only.
	expect32("SYSCALL", syscall_, 3, (struct legacy_regs){ 0 }, VECTOR_UD, 0, 1);
	expect32("SYSRET", sysret_, 0, (struct legacy_regs){ 0 }, VECTOR_UD, 0, 1);
	expect32("SWAPGS", swapgs_, 0, (struct legacy_regs){ 0 }, VECTOR_UD, 0, 1);

	// UMIP. SDM 2B "SGDT", "SIDT", "SLDT", "SMSW", "STR".
	if (cpuid_checked(7, 0).ecx >> 2 & 1) {
		legacy.cr4 = CR4_UMIP;
		expect32("SGDT with UMIP", sgdt_, 3, (struct legacy_regs){ .edi = SCRATCH }, VECTOR_GP, 0, 1);
		expect32("SMSW with UMIP", smsw_, 3, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
		expect32("SLDT with UMIP", sldt_, 1, (struct legacy_regs){ 0 }, VECTOR_GP, 0, 1);
		passes32("SLDT with UMIP at ring 0", sldt_, 0, (struct legacy_regs){ 0 });
		legacy.cr4 = 0;
	}

	// LLDT and LTR.
	u16 *s = (u16 *)legacy_scratch;
	s[0] = 0;
	passes32("LLDT of a null selector", lldt_, 0, (struct legacy_regs){ .eax = 0 });
	expect32("LTR of a null selector", ltr_, 0, (struct legacy_regs){ .eax = 0 }, VECTOR_GP, 0, 1);
	expect32("LLDT of data", lldt_, 0, (struct legacy_regs){ .eax = L_DATA(0) }, VECTOR_GP, L_DATA(0), 1);
	expect32("LTR of a busy TSS", ltr_, 0, (struct legacy_regs){ .eax = L_TSS }, VECTOR_GP, L_TSS, 1);
	expect32("LTR of an LDT's selector", ltr_, 0, (struct legacy_regs){ .eax = L_TSS2 | 4 }, VECTOR_GP, L_TSS2 | 4, 1);
	passes32("LTR", ltr_, 0, (struct legacy_regs){ .eax = L_TSS2 });
	check(legacy.out.tr == L_TSS2 && (legacy_gdt[L_TSS2 / 8] >> 40 & 31) == 11, "LTR: TR %x, type %lx", legacy.out.tr, legacy_gdt[L_TSS2 / 8] >> 40 & 31);
	legacy_gdt[L_TSS2 / 8] = descriptor(0, 0xff, D_TSS32 & ~D_P);
	expect32("LTR, not present", ltr_, 0, (struct legacy_regs){ .eax = L_TSS2 }, VECTOR_NP, L_TSS2, 1);
	legacy_gdt[L_LDT / 8] = descriptor(0, 0xff, D_LDT & ~D_P);
	expect32("LLDT, not present", lldt_, 0, (struct legacy_regs){ .eax = L_LDT }, VECTOR_NP, L_LDT, 1);
}
