// What CPUID says.
#include "clock.h"
#include "demo.h"
#include "print.h"
#include "x86.h"

enum reg { EAX, EBX, ECX, EDX };

struct feature { u32 leaf; u8 reg, bit; const char *name; };

static const struct feature features[] = {
	{ 1, EDX, 0, "fpu" }, { 1, EDX, 1, "vme" }, { 1, EDX, 2, "de" }, { 1, EDX, 3, "pse" }, { 1, EDX, 4, "tsc" },
	{ 1, EDX, 5, "msr" }, { 1, EDX, 6, "pae" }, { 1, EDX, 7, "mce" }, { 1, EDX, 8, "cx8" }, { 1, EDX, 9, "apic" },
	{ 1, EDX, 11, "sep" }, { 1, EDX, 12, "mtrr" }, { 1, EDX, 13, "pge" }, { 1, EDX, 14, "mca" }, { 1, EDX, 15, "cmov" },
	{ 1, EDX, 16, "pat" }, { 1, EDX, 17, "pse36" }, { 1, EDX, 19, "clflush" }, { 1, EDX, 23, "mmx" },
	{ 1, EDX, 24, "fxsr" }, { 1, EDX, 25, "sse" }, { 1, EDX, 26, "sse2" }, { 1, EDX, 28, "ht" },
	{ 1, ECX, 0, "sse3" }, { 1, ECX, 1, "pclmulqdq" }, { 1, ECX, 3, "monitor" }, { 1, ECX, 5, "vmx" },
	{ 1, ECX, 9, "ssse3" }, { 1, ECX, 12, "fma" }, { 1, ECX, 13, "cx16" }, { 1, ECX, 17, "pcid" },
	{ 1, ECX, 19, "sse4_1" }, { 1, ECX, 20, "sse4_2" }, { 1, ECX, 21, "x2apic" }, { 1, ECX, 22, "movbe" },
	{ 1, ECX, 23, "popcnt" }, { 1, ECX, 24, "tsc_deadline" }, { 1, ECX, 25, "aes" }, { 1, ECX, 26, "xsave" },
	{ 1, ECX, 28, "avx" }, { 1, ECX, 29, "f16c" }, { 1, ECX, 30, "rdrand" }, { 1, ECX, 31, "hypervisor" },
	{ 7, EBX, 0, "fsgsbase" }, { 7, EBX, 3, "bmi1" }, { 7, EBX, 5, "avx2" }, { 7, EBX, 7, "smep" },
	{ 7, EBX, 8, "bmi2" }, { 7, EBX, 9, "erms" }, { 7, EBX, 10, "invpcid" }, { 7, EBX, 16, "avx512f" },
	{ 7, EBX, 18, "rdseed" }, { 7, EBX, 19, "adx" }, { 7, EBX, 20, "smap" }, { 7, EBX, 23, "clflushopt" },
	{ 7, EBX, 24, "clwb" }, { 7, EBX, 29, "sha" }, { 7, ECX, 2, "umip" }, { 7, ECX, 3, "pku" }, { 7, ECX, 8, "gfni" },
	{ 7, ECX, 9, "vaes" }, { 7, ECX, 10, "vpclmulqdq" }, { 7, ECX, 16, "la57" }, { 7, ECX, 22, "rdpid" },
	{ 7, EDX, 4, "fsrm" }, { 7, EDX, 29, "arch_capabilities" },
	{ 0x80000001, EDX, 11, "syscall" }, { 0x80000001, EDX, 20, "nx" }, { 0x80000001, EDX, 25, "fxsr_opt" },
	{ 0x80000001, EDX, 26, "pdpe1gb" }, { 0x80000001, EDX, 27, "rdtscp" }, { 0x80000001, EDX, 29, "lm" },
	{ 0x80000001, EDX, 31, "3dnow" }, { 0x80000001, ECX, 0, "lahf_lm" }, { 0x80000001, ECX, 2, "svm" },
	{ 0x80000001, ECX, 5, "abm" }, { 0x80000001, ECX, 6, "sse4a" }, { 0x80000001, ECX, 8, "3dnowprefetch" },
	{ 0x80000007, EDX, 8, "invtsc" },
};

static u32 reg_of(struct cpuid r, u8 reg)
{
	return reg == EAX ? r.eax : reg == EBX ? r.ebx : reg == ECX ? r.ecx : r.edx;
}

static void show_features(void)
{
	int column = 0;
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];
		if (!(reg_of(cpuid_checked(f->leaf, 0), f->reg) >> f->bit & 1))
			continue;
		int n = (int)strlen(f->name) + 1;
		if (!column || column + n > 100) {
			print(column ? "\n            " : "Features:  ");
			column = 12;
		}
		print(" %s", f->name);
		column += n;
	}
	print("\n");
}

static void show_name(void)
{
	struct cpuid r = cpuid(0, 0);
	char vendor[13] = { 0 };
	memcpy(vendor, &r.ebx, 4);
	memcpy(vendor + 4, &r.edx, 4);
	memcpy(vendor + 8, &r.ecx, 4);
	print("Vendor:     %s\n", vendor);

	char brand[49] = { 0 };
	for (u32 i = 0; i < 3; i++) {
		r = cpuid_checked(0x80000002 + i, 0);
		memcpy(brand + 16 * i, &r, 16);
	}
	const char *name = brand;
	while (*name == ' ')
		name++;
	print("Model:      %s\n", *name ? name : "(no brand string)");
}

static void show_signature(void)
{
	struct cpuid r = cpuid(1, 0);
	u32 family = r.eax >> 8 & 15, model = r.eax >> 4 & 15;
	// SDM 2A "CPUID": the extended model counts for families 6 and 15, the extended family for 15.
	if (family == 6 || family == 15)
		model |= (r.eax >> 16 & 15) << 4;
	if (family == 15)
		family += r.eax >> 20 & 255;
	print("Signature:  family %u, model %u, stepping %u (CPUID 1 EAX %08x)\n", family, model, r.eax & 15, r.eax);

	if (r.ecx >> 31) {
		struct cpuid h = cpuid(0x40000000, 0);
		char hypervisor[13] = { 0 };
		memcpy(hypervisor, &h.ebx, 4);
		memcpy(hypervisor + 4, &h.ecx, 4);
		memcpy(hypervisor + 8, &h.edx, 4);
		print("Hypervisor: \"%s\", leaves to %08x\n", hypervisor, h.eax);
	}
}

static void show_mhz(const char *what, u64 hz, const char *how)
{
	print("%s%lu.%03lu MHz (%s)\n", what, hz / 1000000, hz / 1000 % 1000, how);
}

static void show_tsc(void)
{
	if (!tsc_hz) {
		print("TSC:        its frequency is unknown: no reference clock counts\n");
		return;
	}
	show_mhz("TSC:        ", tsc_hz, tsc_source);
	u64 measured = pm_timer_present() ? measure_tsc(&pm_timer_clock, 20) : measure_tsc(&pit_clock, 20);
	if (tsc_hz_by_cpuid() && measured)
		show_mhz("            ", measured, pm_timer_present() ? "measured against the PM timer" : "measured against the PIT");
}

void show_cpu(void)
{
	show_name();
	show_signature();
	print("Leaves:     basic to %08x, extended to %08x\n", cpuid(0, 0).eax, cpuid(0x80000000, 0).eax);
	struct cpuid r = cpuid_checked(0x80000008, 0);
	print("Addresses:  %u bits physical, %u bits linear\n", r.eax ? r.eax & 255 : 36, r.eax ? r.eax >> 8 & 255 : 48);
	show_features();
	show_tsc();
}
