// INIT and SIPI: SDM 3A "MP Initialization Protocol Algorithm", "Processor State After INIT".
#include "apic.h"

static u32 tpr, svr, lint0;
static u64 base;

static void note_state(void *argument)
{
	(void)argument;
	tpr = lapic_read(LAPIC_TPR);
	svr = lapic_read(LAPIC_SVR);
	lint0 = lapic_read(LAPIC_LVT_LINT0);
	base = rdmsr(MSR_APIC_BASE);
}

static void raise_tpr(void *argument)
{
	(void)argument;
	lapic_write(LAPIC_TPR, 0x70);
	lapic_write(LAPIC_LVT_ERROR, 0x99);
}

static volatile bool go_on;
static void spin(void *argument)
{
	(void)argument;
	while (!go_on)
		relax();
}

void test_startup(void)
{
	if (cpu_count == 1) {
		skip("one processor");
		return;
	}
	for (int i = 1; i < cpu_count; i++) {
		// A SIPI to a processor that does not wait for one is ignored.
		u32 starts = cpus[i].starts;
		smp_send_sipi(i);
		settle_all();
		check(cpus[i].starts == starts, "processor %d follows a SIPI while it runs", i);

		smp_run(i, note_state, 0);
		check(smp_done(i, 2000) && !(base & APIC_BASE_BSP), "processor %d says it is the bootstrap processor: %lx", i, base);
		smp_run(i, raise_tpr, 0);
		smp_done(i, 2000);

		// In the middle of work, with interrupts off.
		go_on = false;
		smp_run(i, spin, 0);
		smp_send_init(i);
		wait_ms(1);
		check(cpus[i].work == spin, "processor %d goes on after INIT", i);
		// It waits: interrupts and NMIs do nothing, and the latter are not kept.
		u32 nmis = cpus[i].nmis;
		lapic_icr(cpus[i].apic_id, ICR_ASSERT | VECTOR_WAKE);
		wait_ms(1);
		go_on = true;
		check(cpus[i].starts == starts && cpus[i].nmis == nmis, "processor %d does not wait for the SIPI", i);
		smp_send_sipi(i);
		check(smp_comes(i, starts + 1, 2000), "processor %d does not come after INIT and SIPI", i);
		check(cpus[i].starts == starts + 1, "processor %d started %u times", i, cpus[i].starts - starts);
		smp_send_sipi(i);
		settle_all();
		check(cpus[i].starts == starts + 1, "processor %d follows a second SIPI", i);
		smp_run(i, note_state, 0);
		smp_done(i, 2000);
		check(tpr == 0 && (svr & SVR_ENABLE) && lint0 == LVT_MASKED, "processor %d after INIT: TPR %x, SVR %x, LINT0 %x", i, tpr, svr, lint0);
		check((base & (APIC_BASE_ENABLE | APIC_BASE_BSP)) == APIC_BASE_ENABLE, "processor %d after INIT: IA32_APIC_BASE %lx", i, base);
	}
	// INIT level de-assert to everyone restarts nobody.
	u32 starts = cpus[1].starts;
	lapic_icr(0, ICR_ALL | ICR_INIT | 1u << 15);
	settle_all();
	check(cpus[1].running && cpus[1].starts == starts, "INIT level de-assert restarts a processor");
}
