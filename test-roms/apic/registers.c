// Registers of a local APIC in xAPIC mode: what can be written, what a reset leaves, errors. SDM 3A "Local APIC".
#include "apic.h"

static void check_writable(const char *name, u32 reg, u32 mask, u32 ones)
{
	u32 saved = lapic_read(reg);
	lapic_write(reg, ~0u & ~(LVT_MASKED & ~mask));
	u32 high = lapic_read(reg);
	lapic_write(reg, reg >= LAPIC_LVT_TIMER && reg <= LAPIC_LVT_ERROR ? LVT_MASKED : 0);
	u32 low = lapic_read(reg);
	lapic_write(reg, saved);
	check((high & mask) == mask && (high & ~(mask | ones)) == 0, "%s: all ones give %x, should be %x", name, high, mask | ones);
	check((low & ~(reg >= LAPIC_LVT_TIMER ? LVT_MASKED : 0)) == ones, "%s: zeros give %x, should be %x", name, low, ones);
}

void test_registers(void)
{
	check(!lapic_is_x2apic(), "in x2APIC mode");
	check((rdmsr(MSR_APIC_BASE) & PAGE_ADDRESS) == 0xfee00000, "base %lx", rdmsr(MSR_APIC_BASE));
	check(rdmsr(MSR_APIC_BASE) & APIC_BASE_BSP, "the first processor is not the bootstrap processor");
	check(lapic_id() == cpuid(1, 0).ebx >> 24, "ID %u, by CPUID %u", lapic_id(), cpuid(1, 0).ebx >> 24);
	u32 version = lapic_read(LAPIC_VERSION), entries = (version >> 16 & 0xff) + 1;
	check((version & 0xff) >= 0x10 && (version & 0xff) <= 0x15 && entries >= 4, "version %x", version);

	check_writable("TPR", LAPIC_TPR, 0xff, 0);
	check_writable("LDR", LAPIC_LDR, 0xff000000, 0);
	check_writable("DFR", LAPIC_DFR, 0xf0000000, 0x0fffffff);
	lapic_write(LAPIC_DFR, ~0u);
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xe7);
	check((lapic_read(LAPIC_SVR) & 0x1ff) == (SVR_ENABLE | 0xe7), "SVR %x", lapic_read(LAPIC_SVR));
	lapic_write(LAPIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
	lapic_write(LAPIC_ICR_HIGH, ~0u);
	check(lapic_read(LAPIC_ICR_HIGH) >> 24 == 0xff, "ICR's high half %x", lapic_read(LAPIC_ICR_HIGH));
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	check_eq(lapic_read(LAPIC_TIMER_DIVIDE) & 0xf, 0xb, "divide configuration");

	// Each entry's mask, vector, and no delivery status while nothing comes.
	static const u32 entry[] = { LAPIC_LVT_TIMER, LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR };
	for (size_t i = 0; i < ARRAY_SIZE(entry); i++) {
		u32 saved = lapic_read(entry[i]);
		lapic_write(entry[i], LVT_MASKED | 0xa5);
		check((lapic_read(entry[i]) & 0x110ff) == (LVT_MASKED | 0xa5), "LVT entry %x: %x", entry[i], lapic_read(entry[i]));
		lapic_write(entry[i], saved);
	}
	check(lapic_read(LAPIC_LVT_ERROR) >> 8 == LVT_MASKED >> 8, "the error entry has a delivery mode: %x", lapic_read(LAPIC_LVT_ERROR));
	for (u32 i = 0; i < 8; i++)
		check(lapic_read(LAPIC_ISR + i * 16) == 0 && lapic_read(LAPIC_IRR + i * 16) == 0, "ISR or IRR word %u is not clear", i);
}

// Disabled by IA32_APIC_BASE and enabled again, it is as after power-on: "Local APIC State After Power-Up or Reset".
// QEMU 7.2 keeps the registers and never shows the APIC again.
void test_disable(void)
{
	u64 base = rdmsr(MSR_APIC_BASE);
	u32 id = lapic_id();
	lapic_write(LAPIC_TPR, 0x50);
	lapic_write(LAPIC_LDR, 0x42000000);
	lapic_write(LAPIC_DFR, 0x0fffffff);
	lapic_write(LAPIC_LVT_ERROR, RAW_A);
	lapic_icr(0, ICR_SELF | RAW_B);	// pending
	wrmsr(MSR_APIC_BASE, base & ~APIC_BASE_ENABLE);
	check(!(cpuid(1, 0).edx >> 9 & 1), "CPUID says that there is an APIC");
	check(!(rdmsr(MSR_APIC_BASE) & APIC_BASE_ENABLE), "IA32_APIC_BASE %lx", rdmsr(MSR_APIC_BASE));
	wrmsr(MSR_APIC_BASE, base);
	check(cpuid(1, 0).edx >> 9 & 1, "CPUID says that there is no APIC");
	check_eq(lapic_id(), id, "ID");
	check_eq(lapic_read(LAPIC_SVR), 0xff, "SVR");
	check_eq(lapic_read(LAPIC_TPR), 0, "TPR");
	check_eq(lapic_read(LAPIC_LDR), 0, "LDR");
	check_eq(lapic_read(LAPIC_DFR), 0xffffffff, "DFR");
	check_eq(lapic_read(LAPIC_LVT_ERROR), LVT_MASKED, "error entry");
	check_eq(lapic_read(LAPIC_LVT_LINT0), LVT_MASKED, "LINT0");
	check_eq(lapic_read(LAPIC_LVT_TIMER), LVT_MASKED, "timer entry");
	check_eq(lapic_read(LAPIC_TIMER_INITIAL), 0, "initial count");
	check(!in_irr(RAW_B), "an interrupt survived");
	lapic_enable();
	raw_count = 0;
	let_in();
	check(raw_count == 0, "an interrupt came all the same");
}

// "Local APIC State After It Has Been Software Disabled".
void test_software_disable(void)
{
	raw_count = 0;
	lapic_icr(0, ICR_SELF | RAW_A);
	lapic_write(LAPIC_LVT_ERROR, RAW_B);
	lapic_write(LAPIC_SVR, VECTOR_SPURIOUS);
	check(lapic_read(LAPIC_LVT_ERROR) & LVT_MASKED, "the mask bits are not set");
	lapic_write(LAPIC_LVT_ERROR, RAW_B);
	check(lapic_read(LAPIC_LVT_ERROR) & LVT_MASKED, "a mask bit can be cleared");
	check(in_irr(RAW_A), "what was pending is gone");
	lapic_icr(lapic_id(), ICR_ASSERT | RAW_C);
	check(!in_irr(RAW_C), "an interrupt is accepted");
	smp_this()->nmis = 0;
	lapic_icr(lapic_id(), ICR_NMI | ICR_ASSERT);
	check(wait_count(&smp_this()->nmis, 1, 3000), "an NMI is not accepted");
	let_in();
	check(raw_count == 1 && raw_order[0] == RAW_A, "what was pending: %d came", raw_count);
	eoi();
	lapic_enable();
}

// "Error Handling": the register shows what happened before the last write to it. QEMU 7.2 sends illegal vectors.
void test_errors(void)
{
	read_esr();
	check_eq(read_esr(), 0, "ESR");
	smp_count_irqs(VECTOR_TEST);
	smp_clear_counts();
	lapic_write(LAPIC_LVT_ERROR, VECTOR_TEST);
	lapic_icr(0, ICR_SELF | 5);
	check(wait_count(&cpus[0].irqs[VECTOR_TEST], 1, 3000), "no interrupt for an illegal vector");
	check_eq(lapic_read(LAPIC_ESR), 0, "ESR before it is written");
	check(read_esr() & ESR_SEND_ILLEGAL, "ESR after an illegal vector was sent");
	check_eq(read_esr(), 0, "ESR written again");
	lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
	lapic_icr(0, ICR_SELF | 15);
	let_in();
	check(cpus[0].irqs[VECTOR_TEST] == 1, "an interrupt although the entry is masked");
	check(read_esr() & ESR_SEND_ILLEGAL, "ESR after an illegal vector was sent, masked");
}

void test_errors_exactly(void)
{
	read_esr();
	lapic_read(0x040);
	check_eq(read_esr(), ESR_REGISTER, "ESR after a read of a register that is not there");
	lapic_write(0x3f0 - 0x20, 1);
	check_eq(read_esr(), ESR_REGISTER, "ESR after a write of a register that is not there");
	// The timer's entry with an illegal vector: received, when it fires.
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
	lapic_write(LAPIC_LVT_TIMER, 3);
	lapic_write(LAPIC_TIMER_INITIAL, 1);
	let_in();
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	check_eq(read_esr(), ESR_RECEIVED_ILLEGAL, "ESR after the timer fired with vector 3");
}
