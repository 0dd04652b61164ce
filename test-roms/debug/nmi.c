// NMI. SDM 3A "Nonmaskable Interrupt (NMI)", "Handling Multiple NMIs".
#include "debug.h"

SNIPPET(nops, "nop; nop; nop; nop")

static u32 nmis, depth, nested;
static bool send_more, fault_inside;
static u64 where;

static void send_nmi(void)
{
	lapic_icr(lapic_id(), 4 << 8);
}

static void pause_a_little(void)
{
	u64 end = deadline_ms(2);
	while (!passed(end))
		relax();
}

static void cause_fault(void *unused)
{
	(void)unused;
	asm volatile("ud2");
}

static bool handler(struct trap_frame *f)
{
	if (f->vector != VECTOR_NMI)
		return false;
	nmis++;
	where = f->rip;
	if (depth++)
		nested++;
	if (send_more) {
		send_more = false;
		// These two are one, and wait for the IRET.
		send_nmi();
		pause_a_little();
		send_nmi();
		pause_a_little();
	}
	if (fault_inside) {
		fault_inside = false;
		send_nmi();
		pause_a_little();
		u32 before = nmis;
		depth = 0;
		// The IRET of another exception's handler ends the blocking as well.
		trap_hook = handler;
		catch_trap(cause_fault, 0);
		check(nmis == before + 1, "%u NMIs behind an IRET inside the handler", nmis - before);
	}
	if (depth)
		depth--;
	return true;
}

void test_nmi(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	trap_hook = handler;
	for (u32 i = 1; i <= 3; i++) {
		nmis = 0;
		send_nmi();
		pause_a_little();
		check(nmis == 1, "%u NMIs of 1", nmis);
	}
	// IF does not matter, and HLT ends.
	nmis = 0;
	trap_hook = handler;
	send_nmi();
	int vector = run_snippet(nops, 0, NONE);
	check(vector == VECTOR_USER_EXIT && nmis == 1, "exception %d, %u NMIs", vector, nmis);
	trap_hook = 0;
}

void test_nmi_blocking(void)
{
	if (!lapic_present()) {
		skip("no local APIC");
		return;
	}
	trap_hook = handler;
	nmis = depth = nested = 0;
	send_more = true;
	send_nmi();
	pause_a_little();
	check(nmis == 2 && nested == 0, "%u NMIs, %u of them inside another; should be 2, 0", nmis, nested);
	nmis = depth = nested = 0;
	// The handler's stack is left for the fault's way out, so the IST must not be used twice: it is switched off.
	idt_set(VECTOR_NMI, vector_entry(VECTOR_NMI), 0, 0);
	fault_inside = true;
	send_nmi();
	pause_a_little();
	check(nmis == 2, "%u NMIs, should be 2", nmis);
	idt_set(VECTOR_NMI, vector_entry(VECTOR_NMI), 0, IST_NMI);
	trap_hook = 0;
}
