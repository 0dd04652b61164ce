// Local APICs and I/O APIC, on as many processors as there are.
#include "apic.h"
#include "print.h"

// A topic that failed has taken the hook away.
static void run(const char *name, void (*test)(void))
{
	trap_hook = smp_trap;
	run_topic(name, test);
}

void rom_main(void)
{
	print("apic\n");
	raw_init();
	topic("processors");
	check(smp_init(), "%d of the processors came", cpu_count);
	topic_end();
	run("registers", test_registers);
	run("priorities", test_priority);
	run("end of interrupt", test_eoi);
	run("x2APIC registers", test_x2apic_registers);
	run("x2APIC registers exactly", test_x2apic_exactly);
	run("IPIs, physical and shorthand", test_ipi_physical);
	run("IPIs, logical", test_ipi_logical);
	run("IPIs, lowest priority", test_ipi_lowest);
	run("IPIs, NMI", test_ipi_nmi);
	run("IPIs, x2APIC", test_ipi_x2apic);
	run("INIT and SIPI", test_startup);
	run("I/O APIC, edges", test_ioapic_edge);
	run("I/O APIC, levels", test_ioapic_level);
	run("I/O APIC, destinations", test_ioapic_destinations);
	run("timer", test_timer);
	run("timer, TSC deadline", test_timer_deadline);
	run("IPIs, all clusters exactly", test_ipi_clusters);
	run("I/O APIC registers exactly", test_ioapic_registers);
	run("errors exactly", test_errors);
	run("errors in registers exactly", test_errors_exactly);
	run("disabled by software exactly", test_software_disable);
	run("disabled and enabled exactly", test_disable);
	run("x2APIC transitions exactly", test_x2apic_transitions);
	finish();
}
