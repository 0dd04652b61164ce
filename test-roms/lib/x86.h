// Instructions and architectural names that C has no word for; names are the SDM's.
#pragma once

#include "types.h"

#define CR0_PE (1ul << 0)
#define CR0_MP (1ul << 1)
#define CR0_EM (1ul << 2)
#define CR0_TS (1ul << 3)
#define CR0_NE (1ul << 5)
#define CR0_WP (1ul << 16)
#define CR0_AM (1ul << 18)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)

#define CR4_TSD (1ul << 2)
#define CR4_DE (1ul << 3)
#define CR4_PAE (1ul << 5)
#define CR4_PGE (1ul << 7)
#define CR4_OSFXSR (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_UMIP (1ul << 11)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_PCIDE (1ul << 17)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

#define FLAG_CF (1ul << 0)
#define FLAG_1 (1ul << 1)
#define FLAG_PF (1ul << 2)
#define FLAG_AF (1ul << 4)
#define FLAG_ZF (1ul << 6)
#define FLAG_SF (1ul << 7)
#define FLAG_TF (1ul << 8)
#define FLAG_IF (1ul << 9)
#define FLAG_DF (1ul << 10)
#define FLAG_OF (1ul << 11)
#define FLAG_IOPL (3ul << 12)
#define FLAG_NT (1ul << 14)
#define FLAG_RF (1ul << 16)
#define FLAG_AC (1ul << 18)
#define FLAG_ID (1ul << 21)
#define FLAGS_STATUS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

#define EFER_SCE (1ul << 0)
#define EFER_LME (1ul << 8)
#define EFER_LMA (1ul << 10)
#define EFER_NXE (1ul << 11)

enum vector {
	VECTOR_DE = 0, VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_BR = 5, VECTOR_UD = 6,
	VECTOR_NM = 7, VECTOR_DF = 8, VECTOR_TS = 10, VECTOR_NP = 11, VECTOR_SS = 12, VECTOR_GP = 13, VECTOR_PF = 14,
	VECTOR_MF = 16, VECTOR_AC = 17, VECTOR_MC = 18, VECTOR_XM = 19,
};

static inline void outb(u16 port, u8 v) { asm volatile("outb %0, %1" :: "a"(v), "Nd"(port)); }
static inline void outw(u16 port, u16 v) { asm volatile("outw %0, %1" :: "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { asm volatile("outl %0, %1" :: "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 inw(u16 port) { u16 v; asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }

static inline u8 read8(u64 address) { return *(volatile u8 *)address; }
static inline u32 read32(u64 address) { return *(volatile u32 *)address; }
static inline u64 read64(u64 address) { return *(volatile u64 *)address; }
static inline void write32(u64 address, u32 v) { *(volatile u32 *)address = v; }
static inline void write64(u64 address, u64 v) { *(volatile u64 *)address = v; }

u64 rdmsr(u32 msr);
void wrmsr(u32 msr, u64 v);

#define CONTROL_REGISTER(n) \
	static inline u64 read_cr##n(void) { u64 v; asm volatile("mov %%cr" #n ", %0" : "=r"(v) :: "memory"); return v; } \
	static inline void write_cr##n(u64 v) { asm volatile("mov %0, %%cr" #n :: "r"(v) : "memory"); }
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)
CONTROL_REGISTER(8)

#define DEBUG_REGISTER(n) \
	static inline u64 read_dr##n(void) { u64 v; asm volatile("mov %%dr" #n ", %0" : "=r"(v)); return v; } \
	static inline void write_dr##n(u64 v) { asm volatile("mov %0, %%dr" #n :: "r"(v)); }
DEBUG_REGISTER(0)
DEBUG_REGISTER(1)
DEBUG_REGISTER(2)
DEBUG_REGISTER(3)
DEBUG_REGISTER(6)
DEBUG_REGISTER(7)

struct cpuid { u32 eax, ebx, ecx, edx; };

struct cpuid cpuid(u32 leaf, u32 subleaf);
// With all zeros beyond the last leaf, where Intel processors repeat the last basic one.
struct cpuid cpuid_checked(u32 leaf, u32 subleaf);

// The first address that is not canonical as a base, in an MSR, or as what INVPCID names: these go by the widest addresses
// that the processor has, whatever CR4.LA57 says. SDM 1 "Canonical Addressing".
static inline u64 beyond_bases(void) { return 1ul << ((cpuid_checked(0x80000008, 0).eax >> 8 & 255) - 1); }

// Not before earlier instructions have ended.
u64 rdtsc(void);

static inline u64 read_flags(void) { u64 v; asm volatile("pushfq; pop %0" : "=r"(v) :: "memory"); return v; }
static inline void write_flags(u64 v) { asm volatile("push %0; popfq" :: "r"(v) : "memory", "cc"); }
static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline void sti(void) { asm volatile("sti" ::: "memory"); }
static inline void relax(void) { asm volatile("pause" ::: "memory"); }
// STI takes effect after the next instruction, so no interrupt is lost between the two.
static inline void sti_hlt(void) { asm volatile("sti; hlt" ::: "memory"); }
static inline void invlpg(u64 linear) { asm volatile("invlpg (%0)" :: "r"(linear) : "memory"); }

struct table_pointer { u16 limit; u64 base; } PACKED;
