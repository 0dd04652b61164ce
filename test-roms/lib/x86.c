// The instructions of x86.h that are longer than a call.
#include "x86.h"

struct cpuid cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid r;
	asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
	return r;
}

struct cpuid cpuid_checked(u32 leaf, u32 subleaf)
{
	struct cpuid none = { 0, 0, 0, 0 };
	if (cpuid(leaf & 0x80000000, 0).eax < leaf)
		return none;
	return cpuid(leaf, subleaf);
}

u64 rdmsr(u32 msr)
{
	u32 low, high;
	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

void wrmsr(u32 msr, u64 v)
{
	asm volatile("wrmsr" :: "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

u64 rdtsc(void)
{
	u32 low, high;
	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (u64)high << 32 | low;
}
