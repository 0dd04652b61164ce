// 5-level paging, canonical addresses, protection keys.
#include "paging57.h"
#include "print.h"

void rom_main(void)
{
	print("paging57\n");
	access_init();
	run_topic("into 5-level paging and back", test_switch);
	run_topic("rights over five levels", test_rights_far);
	run_topic("entries that are not present", test_not_present_57);
	run_topic("TLB", test_tlb_57);
	run_topic("canonical addresses, 4-level", test_canonical_48);
	run_topic("canonical addresses, 5-level", test_canonical_57);
	run_topic("branches", test_branches);
	run_topic("protection keys, rights", test_key_rights);
	run_topic("protection keys, PKRU", test_key_registers);
	run_topic("reserved bits exactly", test_reserved_57);
	run_topic("canonical addresses in the stack segment exactly", test_canonical_stack);
	run_topic("bases exactly", test_bases);
	finish();
}
