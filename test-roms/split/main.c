// Operands that lie in two pages: SDM 3A "Interrupt 14 - Page-Fault Exception (#PF)", "Restarting of Programs and Tasks After an Exception".
#include "split.h"
#include "print.h"

// QEMU 7.2 reads less of FLDENV's operand, makes several stores of those of 16 bytes, and takes the read of a read-modify-write for a read.
void rom_main(void)
{
	print("split\n");
	run_topic("reads exactly", test_reads_64);
	run_topic("reads, 32-bit, exactly", test_reads_32);
	run_topic("writes exactly", test_writes_64);
	run_topic("writes, 32-bit, exactly", test_writes_32);
	run_topic("read-modify-write exactly", test_modifies_64);
	run_topic("read-modify-write, 32-bit, exactly", test_modifies_32);
	finish();
}
