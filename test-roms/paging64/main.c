// Paging in 64-bit mode: rights, error codes, CR2, accessed and dirty bits, TLB.
#include "paging64.h"
#include "print.h"

void rom_main(void)
{
	print("paging64\n");
	access_init();
	run_topic("rights, 4 KiB pages", test_rights_4k);
	run_topic("rights, 2 MiB pages", test_rights_2m);
	run_topic("rights, 1 GiB pages", test_rights_1g);
	run_topic("entries that are not present", test_not_present);
	run_topic("reserved bits exactly", test_reserved);
	run_topic("accessed and dirty bits", test_accessed_dirty);
	run_topic("accesses over two pages", test_split);
	run_topic("accesses over two pages exactly", test_split_exactly);
	run_topic("instructions over two pages", test_split_fetch);
	run_topic("TLB", test_tlb);
	run_topic("global pages", test_global);
	run_topic("PCID", test_pcid);
	run_topic("INVPCID", test_invpcid);
	run_topic("implicit accesses", test_implicit);
	run_topic("implicit accesses exactly", test_implicit_exactly);
	finish();
}
