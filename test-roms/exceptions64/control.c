// Values that MSRs and control registers refuse.
#include "exceptions64.h"

SNIPPET(write_msr, "mov %edi, %ecx; mov %esi, %eax; shr $32, %rsi; mov %esi, %edx; wrmsr")
SNIPPET(read_msr, "mov %edi, %ecx; rdmsr")
SNIPPET(xsetbv, "mov %edi, %ecx; mov %esi, %eax; xor %edx, %edx; xsetbv")
SNIPPET(mov_cr0, "mov %rsi, %cr0")
SNIPPET(mov_cr3, "mov %rsi, %cr3")
SNIPPET(mov_cr4, "mov %rsi, %cr4")
SNIPPET(mov_cr8, "mov %rsi, %cr8")
SNIPPET(get_cr0, "mov %cr0, %rax")

#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277

static void refuses(const char *what, u32 msr, u64 value)
{
	expect(what, write_msr, 0, (struct regs){ .rdi = msr, .rsi = value }, VECTOR_GP, 0, 10);
}

// QEMU 7.2 takes nearly every value.
void test_msrs_exactly(void)
{
	u64 efer = rdmsr(MSR_EFER), apic = rdmsr(MSR_APIC_BASE), width = cpuid_checked(0x80000008, 0).eax & 255;
	u64 beyond = beyond_bases();
	refuses("LSTAR", MSR_LSTAR, beyond);
	refuses("CSTAR", MSR_LSTAR + 1, beyond);
	refuses("FS.base", MSR_FS_BASE, beyond);
	refuses("GS.base", MSR_GS_BASE, ~beyond);
	refuses("KernelGSbase", MSR_KERNEL_GS_BASE, beyond);
	refuses("SYSENTER_ESP", MSR_SYSENTER_ESP, beyond);
	refuses("SYSENTER_EIP", MSR_SYSENTER_EIP, beyond);
	refuses("EFER, reserved bit", MSR_EFER, efer | 1ul << 9);
	refuses("EFER, upper half", MSR_EFER, efer | 1ul << 40);
	refuses("EFER.LME cleared with paging on", MSR_EFER, efer & ~EFER_LME);
	check(rdmsr(MSR_EFER) == efer, "EFER after refused writes: %lx", rdmsr(MSR_EFER));
	u64 pat = rdmsr(MSR_PAT);
	refuses("PAT with type 2", MSR_PAT, (pat & ~0xfful) | 2);
	refuses("PAT with type 8", MSR_PAT, (pat & ~0xff00ul) | 8 << 8);
	check(rdmsr(MSR_PAT) == pat, "PAT after refused writes: %lx", rdmsr(MSR_PAT));
	if (lapic_present() && !lapic_is_x2apic()) {
		refuses("APIC base beyond the physical address", MSR_APIC_BASE, apic | 1ul << width);
		refuses("APIC base, reserved bit", MSR_APIC_BASE, apic | 1);
		refuses("x2APIC mode with the APIC off", MSR_APIC_BASE, (apic & ~(1ul << 11)) | 1ul << 10);
		check(rdmsr(MSR_APIC_BASE) == apic, "APIC base after refused writes: %lx", rdmsr(MSR_APIC_BASE));
	}
	expect("read of an unknown MSR", read_msr, 0, (struct regs){ .rdi = 0x4b564d99 }, VECTOR_GP, 0, 2);
	refuses("write of an unknown MSR", 0x4b564d99, 0);
	expect("rdmsr at ring 3", read_msr, 3, (struct regs){ .rdi = MSR_EFER }, VECTOR_GP, 0, 2);

	if (cpuid(1, 0).ecx >> 26 & 1) {
		expect("XSETBV without OSXSAVE", xsetbv, 0, (struct regs){ .rsi = 1 }, VECTOR_UD, 0, 6);
		write_cr4(read_cr4() | CR4_OSXSAVE);
		expect("XCR0 without x87", xsetbv, 0, (struct regs){ .rsi = 2 }, VECTOR_GP, 0, 6);
		expect("XCR0 with AVX without SSE", xsetbv, 0, (struct regs){ .rsi = 5 }, VECTOR_GP, 0, 6);
		expect("XCR1", xsetbv, 0, (struct regs){ .rsi = 1, .rdi = 1 }, VECTOR_GP, 0, 6);
		expect("XSETBV at ring 3", xsetbv, 3, (struct regs){ .rsi = 1 }, VECTOR_GP, 0, 6);
		expect_vector("XCR0 with x87 and SSE", xsetbv, 0, (struct regs){ .rsi = 3 }, VECTOR_USER_EXIT);
		write_cr4(read_cr4() & ~CR4_OSXSAVE);
	}
}

void test_control_exactly(void)
{
	if (is_tcg()) {
		skip("QEMU's TCG takes some of these values, and the machine ends");
		return;
	}
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4(), width = cpuid_checked(0x80000008, 0).eax & 255;
	struct { const char *what; const struct snippet *code; u64 value; } cases[] = {
		{ "CR0.PE cleared with PG set", &mov_cr0, cr0 & ~CR0_PE }, { "CR0.PG cleared in 64-bit mode", &mov_cr0, cr0 & ~CR0_PG },
		{ "CR0.NW without CD", &mov_cr0, (cr0 & ~CR0_CD) | CR0_NW }, { "CR0, upper half", &mov_cr0, cr0 | 1ul << 32 },
		{ "CR4.PAE cleared in 64-bit mode", &mov_cr4, cr4 & ~CR4_PAE }, { "CR4, upper half", &mov_cr4, cr4 | 1ul << 32 },
		{ "CR4, reserved bit", &mov_cr4, cr4 | 1ul << 31 }, { "CR4.LA57 changed in 64-bit mode", &mov_cr4, cr4 ^ 1ul << 12 },
		{ "CR3 beyond the physical address", &mov_cr3, cr3 | 1ul << width }, { "CR3, bit 60", &mov_cr3, cr3 | 1ul << 60 },
		{ "CR8 beyond 15", &mov_cr8, 16 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		expect(cases[i].what, *cases[i].code, 0, (struct regs){ .rsi = cases[i].value }, VECTOR_GP, 0, 0);
		expect(cases[i].what, *cases[i].code, 3, (struct regs){ .rsi = cases[i].value }, VECTOR_GP, 0, 0);
	}
	expect("CR0 read at ring 3", get_cr0, 3, (struct regs){ 0 }, VECTOR_GP, 0, 0);
	check(read_cr0() == cr0 && read_cr3() == cr3 && read_cr4() == cr4 && read_cr8() == 0, "control registers after refused writes");

	// CR4.PCIDE wants CR3 without a PCID, and stays while there is paging. SDM 2A "MOV—Move to/from Control Registers".
	if (cpuid(1, 0).ecx >> 17 & 1) {
		write_cr3(cr3 | 0x10);
		expect("CR4.PCIDE with PCD in CR3", mov_cr4, 0, (struct regs){ .rsi = cr4 | CR4_PCIDE }, VECTOR_GP, 0, 0);
		write_cr3(cr3 | 8);
		expect("CR4.PCIDE with PWT in CR3", mov_cr4, 0, (struct regs){ .rsi = cr4 | CR4_PCIDE }, VECTOR_GP, 0, 0);
		write_cr3(cr3);
		expect_vector("CR4.PCIDE", mov_cr4, 0, (struct regs){ .rsi = cr4 | CR4_PCIDE }, VECTOR_USER_EXIT);
		expect("CR0.PG cleared with PCIDE", mov_cr0, 0, (struct regs){ .rsi = cr0 & ~CR0_PG }, VECTOR_GP, 0, 0);
		expect("CR3 beyond the physical address with PCIDE", mov_cr3, 0, (struct regs){ .rsi = cr3 | 1ul << width }, VECTOR_GP, 0, 0);
		expect_vector("CR3 with a PCID", mov_cr3, 0, (struct regs){ .rsi = cr3 | 0xfff }, VECTOR_USER_EXIT);
		expect_vector("CR4.PCIDE cleared with a PCID", mov_cr4, 0, (struct regs){ .rsi = cr4 }, VECTOR_USER_EXIT);
		write_cr3(cr3);
		check_eq(read_cr4(), cr4, "CR4 after PCIDE");
	}
}
