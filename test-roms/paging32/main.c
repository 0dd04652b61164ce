// 32-bit paging and PAE paging: rights, error codes, reserved bits, accessed and dirty bits, PDPTE registers, TLB.
#include "paging32.h"
#include "print.h"

static void rights_0(void) { test_rights_of(&formats[0]); }
static void rights_1(void) { test_rights_of(&formats[1]); }
static void rights_2(void) { test_rights_of(&formats[2]); }
static void rights_3(void) { test_rights_of(&formats[3]); }

void rom_main(void)
{
	print("paging32\n");
	run_topic("rights, 32-bit, 4 KiB pages", rights_0);
	run_topic("rights, 32-bit, 4 MiB pages", rights_1);
	run_topic("rights, PAE, 4 KiB pages", rights_2);
	run_topic("rights, PAE, 2 MiB pages", rights_3);
	run_topic("rights, read-modify-write exactly", test_modify_exactly);
	run_topic("entries that are not present", test_not_present);
	run_topic("reserved bits exactly", test_reserved_exactly);
	run_topic("CR4.PSE and the PS bit", test_size_bit);
	run_topic("PSE-36", test_pse36);
	run_topic("PDPTE registers", test_pdpte);
	run_topic("TLB", test_tlb);
	run_topic("global pages", test_global);
	run_topic("CR4 outside of long mode", test_cr4);
	run_topic("PDPTE registers exactly", test_pdpte_exactly);
	finish();
}
