// What must be forgotten when, in the 32-bit formats. Nothing here depends on an entry being kept.
#include "paging32.h"

// BL: before, BH: after. ESI: the entry, EAX: its new low half.
extern u8 code_invlpg[], code_cr3[], code_pge[], code_pse[], code_wp[], code_paging[];
asm(".text\n.code32\n"
    "code_invlpg: mov (%edi), %bl; mov %eax, (%esi); invlpg 3(%edi); mov (%edi), %bh; int $0x80\n"
    "code_cr3: mov (%edi), %bl; mov %eax, (%esi); mov %cr3, %ecx; mov %ecx, %cr3; mov (%edi), %bh; int $0x80\n"
    "code_pge: mov (%edi), %bl; mov %eax, (%esi); mov %cr4, %ecx; xor $0x80, %ecx; mov %ecx, %cr4; mov (%edi), %bh; int $0x80\n"
    "code_pse: mov (%edi), %bl; mov %eax, (%esi); mov %cr4, %ecx; xor $0x10, %ecx; mov %ecx, %cr4; mov (%edi), %bh; int $0x80\n"
    // Paging off and on again.
    "code_paging: mov (%edi), %bl; mov %eax, (%esi); mov %cr0, %ecx; and $0x7fffffff, %ecx; mov %ecx, %cr0; jmp 1f; 1: or $0x80000000, %ecx;"
    " mov %ecx, %cr0; jmp 1f; 1: mov (%edi), %bh; int $0x80\n"
    "code_wp: movb $1, (%edi); mov %cr0, %ecx; or $0x10000, %ecx; mov %ecx, %cr0; movb $2, (%edi); int $0x80\n"
    ".code64\n");

static void change(const struct format *f, const char *what, struct mode m, const u8 *code)
{
	u32 at = window_address(f);
	frame_a[0] = 1;
	frame_b[0] = 2;
	u64 flags = PAGE_P | PAGE_RW | (m.pge ? PAGE_G : 0);
	entry_write(f, WINDOW, 1, leaf_value(f, flags));
	struct paged32 r = run_code(f, m, code, (u32)(u64)frame_b | (u32)flags, (u32)entry_address(f, WINDOW, 1), at);
	check(r.vector == PAGED32_END && (r.end_ebx & 0xffff) == 0x0201, "%s, %s: exception %u, read %x", f->name, what, r.vector, r.end_ebx & 0xffff);
}

void test_tlb(void)
{
	for (int i = 0; i < 4; i += 2) {
		const struct format *f = &formats[i];
		struct mode m = { .wp = true };
		tables_build(f);
		change(f, "INVLPG", m, code_invlpg);
		change(f, "MOV to CR3", m, code_cr3);
		change(f, "CR4.PGE", m, code_pge);
		if (f->pae)	// PAE and 4 KiB pages: nothing else hangs on CR4.PSE
			change(f, "CR4.PSE", m, code_pse);
		change(f, "paging off and on", m, code_paging);

		entry_write(f, WINDOW, 1, leaf_value(f, PAGE_P));
		struct paged32 r = run_code(f, (struct mode){ 0 }, code_wp, 0, 0, WINDOW);
		expect_fault("CR0.WP set between two writes", &r, PF_P | PF_W, WINDOW);
		check(frame_a[0] == 1, "CR0.WP set between two writes: %u", frame_a[0]);
	}
}

void test_global(void)
{
	for (int i = 0; i < 4; i += 2) {
		const struct format *f = &formats[i];
		struct mode m = { .wp = true, .pge = true };
		tables_build(f);
		change(f, "global, INVLPG", m, code_invlpg);
		change(f, "global, CR4.PGE", m, code_pge);
		change(f, "global, paging off and on", m, code_paging);
	}
}

// CR4 outside of long mode: bits that mean nothing here, and one that cannot be. SDM 3A "Control Registers", "Paging-Mode Modifiers".
extern u8 code_set_cr4[];
asm(".text\n.code32\n"
    "code_set_cr4: mov %cr4, %eax; xor %esi, %eax; mov %eax, %cr4; mov (%edi), %bl; mov %cr4, %ecx; int $0x80\n"
    ".code64\n");

#define CR4_LA57 (1u << 12)
#define CR4_PKE (1u << 22)

void test_cr4(void)
{
	struct cpuid c7 = cpuid_checked(7, 0);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		const struct format *f = &formats[i];
		u32 at = window_address(f);
		struct mode m = { .wp = true };
		tables_build(f);
		entry_write(f, at, leaf_level(f), leaf_value(f, PAGE_P | PAGE_RW | PAGE_US));
		struct paged32 r;
		if (cpuid(1, 0).ecx >> 17 & 1) {
			r = run_code(f, m, code_set_cr4, 0, (u32)CR4_PCIDE, at);
			check(r.vector == VECTOR_GP && r.error_code == 0, "%s: CR4.PCIDE is set: exception %u", f->name, r.vector);
		}
		if (c7.ecx >> 16 & 1) {
			r = run_code(f, m, code_set_cr4, 0, CR4_LA57, at);
			check(r.vector == PAGED32_END && (r.end_ebx & 0xff) == 0xc3 && r.end_ecx & CR4_LA57, "%s: CR4.LA57: exception %u, CR4 %x", f->name, r.vector, r.end_ecx);
		}
		if (c7.ecx >> 3 & 1) {
			// PKRU denies everything, and holds only for the pages of 4-level and 5-level paging.
			write_cr4(read_cr4() | CR4_PKE);
			asm volatile("wrpkru" :: "a"(~0u), "c"(0), "d"(0));
			write_cr4(read_cr4() & ~(u64)CR4_PKE);
			r = run_code(f, m, code_set_cr4, 0, CR4_PKE, at);
			check(r.vector == PAGED32_END && (r.end_ebx & 0xff) == 0xc3 && r.end_ecx & CR4_PKE, "%s: CR4.PKE: exception %u, error code %x", f->name, r.vector, r.error_code);
			write_cr4(read_cr4() | CR4_PKE);
			asm volatile("wrpkru" :: "a"(0), "c"(0), "d"(0));
			write_cr4(read_cr4() & ~(u64)CR4_PKE);
		}
	}
}
