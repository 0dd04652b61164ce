// Task and processor priority, ISR, IRR, nesting, EOI: SDM 3A "Task and Processor Priorities", "Signaling Interrupt Servicing Completion".
#include "apic.h"

static u32 ppr_inside[16];

static void note_ppr(u8 vector)
{
	(void)vector;
	if (raw_count <= 16)
		ppr_inside[raw_count - 1] = lapic_read(LAPIC_PPR);
}

// Inside A, send a higher and a lower one with interrupts on: only the higher comes.
static void nest(u8 vector)
{
	note_ppr(vector);
	if (vector != RAW_B)
		return;
	lapic_icr(0, ICR_SELF | RAW_A);
	lapic_icr(0, ICR_SELF | RAW_C);
	let_in();
}

void test_priority(void)
{
	raw_inside = note_ppr;
	for (u32 tpr = 0; tpr < 0x100; tpr += 0x0b) {
		raw_count = 0;
		lapic_write(LAPIC_TPR, tpr);
		check_eq(read_cr8(), tpr >> 4, "CR8");
		check_eq(lapic_read(LAPIC_PPR), tpr, "PPR with nothing in service");
		lapic_icr(0, ICR_SELF | RAW_B);
		check(in_irr(RAW_B), "TPR %x: not in IRR", tpr);
		let_in();
		bool comes = tpr >> 4 < RAW_B >> 4;
		check(raw_count == comes, "TPR %x: vector %x came %d times", tpr, RAW_B, raw_count);
		if (comes) {
			check(in_isr(RAW_B) && !in_irr(RAW_B), "TPR %x: not moved from IRR to ISR", tpr);
			check_eq(ppr_inside[0], tpr >> 4 > RAW_B >> 4 ? tpr : RAW_B & 0xf0, "PPR in service");
			eoi();
		}
		lapic_write(LAPIC_TPR, 0);
		let_in();
		if (!comes) {
			check(raw_count == 1, "TPR %x and then 0: vector %x came %d times", tpr, RAW_B, raw_count);
			eoi();
		}
		check(!in_isr(RAW_B), "TPR %x: in ISR after EOI", tpr);
	}
	// CR8 writes TPR, with its low half clear.
	lapic_write(LAPIC_TPR, 0x57);
	write_cr8(3);
	check_eq(lapic_read(LAPIC_TPR), 0x30, "TPR after CR8 = 3");
	write_cr8(0);

	// Held while in service: its class and below; not above.
	raw_count = 0;
	raw_inside = nest;
	lapic_icr(0, ICR_SELF | RAW_B);
	let_in();
	check(raw_count == 2 && raw_order[0] == RAW_B && raw_order[1] == RAW_C, "nesting: %d came, %x, %x", raw_count, raw_order[0], raw_order[1]);
	check_eq(ppr_inside[1], RAW_C & 0xf0, "PPR in the inner one");
	check(in_isr(RAW_B) && in_isr(RAW_C) && in_irr(RAW_A), "nesting: ISR and IRR");
	raw_inside = 0;
	eoi();
	check(in_isr(RAW_B) && !in_isr(RAW_C), "the first EOI ends the highest");
	let_in();
	check(raw_count == 2, "the lowest came too early");
	eoi();
	let_in();
	check(raw_count == 3 && raw_order[2] == RAW_A, "the lowest comes after the second EOI");
	eoi();

	// The order of four, sent with interrupts off.
	static const u8 sent[4] = { RAW_B, RAW_D, RAW_A, RAW_C };
	raw_count = 0;
	for (int i = 0; i < 4; i++)
		lapic_icr(0, ICR_SELF | sent[i]);
	for (int i = 0; i < 4; i++) {
		let_in();
		check(raw_count == i + 1 && raw_order[i] == 0x91 - 0x10 * i, "number %d of four: %d came, the last %x", i, raw_count, raw_order[i]);
		eoi();
	}
}

void test_eoi(void)
{
	raw_inside = 0;
	raw_count = 0;
	// Without anything in service it does nothing.
	eoi();
	// Two of the same vector, one in service and one pending; a third is lost.
	lapic_icr(0, ICR_SELF | RAW_A);
	let_in();
	lapic_icr(0, ICR_SELF | RAW_A);
	lapic_icr(0, ICR_SELF | RAW_A);
	check(in_isr(RAW_A) && in_irr(RAW_A), "one in service and one pending");
	let_in();
	check(raw_count == 1, "the same vector came while in service");
	eoi();
	let_in();
	check(raw_count == 2, "the pending one: %d came", raw_count);
	eoi();
	let_in();
	check(raw_count == 2, "a third came");
	check(!(lapic_read(LAPIC_TMR + RAW_A / 32 * 16) >> (RAW_A % 32) & 1), "TMR of an edge");
}
