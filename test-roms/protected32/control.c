// Control registers without long mode: what they refuse. SDM 2A "MOV—Move to/from Control Registers", "LMSW", 3A "Control Registers",
// "Initializing IA-32e Mode".
#include "protected32.h"

CODE32(set_cr0, "mov %eax, %cr0; mov %cr0, %ecx")
CODE32(set_cr3, "mov %eax, %cr3; mov %cr3, %ecx")
CODE32(set_cr4, "mov %eax, %cr4; mov %cr4, %ecx")
CODE32(get_cr1, "mov %cr1, %eax")
CODE32(lmsw_, "lmsw %ax; smsw %ecx; clts; smsw %edx")
CODE32(set_lme_then_pg, "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; mov %esi, %cr4; mov %edi, %eax; mov %eax, %cr0")
CODE16(real_pg, "mov %eax, %cr0")

static u32 cr0(void)
{
	return legacy.cr0;
}

void test_control(void)
{
	expect32("CR0.PG without PE", set_cr0, 0, (struct legacy_regs){ .eax = (cr0() & ~(u32)CR0_PE) | CR0_PG }, VECTOR_GP, 0, 0);
	expect32("CR0.NW without CD", set_cr0, 0, (struct legacy_regs){ .eax = cr0() | CR0_NW }, VECTOR_GP, 0, 0);
	passes32("CR0.CD and NW", set_cr0, 0, (struct legacy_regs){ .eax = cr0() | CR0_CD | CR0_NW });
	// ET is 1 whatever is written; the bits that are not there stay 0.
	passes32("CR0 without ET", set_cr0, 0, (struct legacy_regs){ .eax = cr0() & ~(1u << 4) });
	check(legacy.out.regs.ecx == cr0(), "CR0 without ET: %x, should be %x", legacy.out.regs.ecx, cr0());
	passes32("CR0 with all the reserved bits", set_cr0, 0, (struct legacy_regs){ .eax = cr0() | 0x1ffaffc0 });
	check(legacy.out.regs.ecx == cr0(), "CR0 with all the reserved bits: %x, should be %x", legacy.out.regs.ecx, cr0());
	// Bit 28 is LAM_SUP where there is linear-address masking.
	bool masking = cpuid_checked(7, 0).eax >= 1 && cpuid(7, 1).eax >> 26 & 1;
	for (u32 bit = 26; bit < 32; bit++) {
		if (bit == 28 && masking)
			continue;
		expect32("reserved bit of CR4", set_cr4, 0, (struct legacy_regs){ .eax = 1u << bit }, VECTOR_GP, 0, 0);
	}
	expect32("CR4.PCIDE without long mode", set_cr4, 0, (struct legacy_regs){ .eax = CR4_PCIDE }, VECTOR_GP, 0, 0);
	expect32("MOV from CR1", get_cr1, 0, (struct legacy_regs){ 0 }, VECTOR_UD, 0, 0);
	passes32("CR3", set_cr3, 0, (struct legacy_regs){ .eax = 0xfffff018 });
	check(legacy.out.regs.ecx == 0xfffff018, "CR3: %x", legacy.out.regs.ecx);
	// LMSW sets PE, MP, EM, TS, and clears all but PE.
	legacy.cr0 |= CR0_EM | CR0_MP;
	passes32("LMSW", lmsw_, 0, (struct legacy_regs){ .eax = 0xfff8 });
	check((legacy.out.regs.ecx & 15) == (CR0_PE | CR0_TS) && (legacy.out.regs.edx & 15) == CR0_PE, "LMSW and CLTS: %x, %x", legacy.out.regs.ecx, legacy.out.regs.edx);
	legacy.cr0 &= ~(u32)(CR0_EM | CR0_MP);
	expect_real("CR0.PG in real mode", real_pg, (struct legacy_regs){ .eax = CR0_PG | 1 << 4 }, VECTOR_GP, 0);
	legacy_reset();
	legacy_paging();
	expect32("CR0.PE cleared with PG", set_cr0, 0, (struct legacy_regs){ .eax = cr0() & ~(u32)CR0_PE }, VECTOR_GP, 0, 0);
}

static void long_mode(const char *what, u32 cr4)
{
	run_protected(set_lme_then_pg, 0, (struct legacy_regs){ .esi = cr4, .edi = cr0() | CR0_PG });
	check(event.vector == VECTOR_GP && event.error == 0 && event.eip == (u32)(u64)set_lme_then_pg.end - 5, "%s: exception %d, error code %x at +%d", what, event.vector, event.error,
	      (i32)(event.eip - (u32)(u64)set_lme_then_pg.start));
	check(!(legacy.out.cr0 & CR0_PG), "%s: CR0 %x", what, legacy.out.cr0);
}

// What long mode wants before it begins: PAE, no 16-bit TSS, no code segment with L.
void test_entering_long_mode(void)
{
	long_mode("without PAE", 0);
	static struct tss16 narrow;
	memset(&narrow, 0, sizeof narrow);
	legacy_gdt[L_TSS / 8] = descriptor((u32)(u64)&narrow, sizeof narrow - 1, D_TSS16);
	long_mode("with a TSS of 16 bits", CR4_PAE);
	legacy_reset();
	SPARE = descriptor(0, 0xfffff, D_CODE | D_LONG | D_BIG | D_G);
	legacy_at(set_lme_then_pg, 0);
	legacy.cs = L_SPARE;
	legacy.regs = (struct legacy_regs){ .esi = CR4_PAE, .edi = cr0() | CR0_PG };
	legacy_run();
	check(event.vector == VECTOR_GP && event.error == 0 && event.eip == (u32)(u64)set_lme_then_pg.end - 5, "with CS.L: exception %d, error code %x", event.vector, event.error);
}
