// Code that changes: SDM 3A "Self-Modifying Code", "Handling Self- and Cross-Modifying Code".
#pragma once

#include "clock.h"
#include "interrupts.h"
#include "memory.h"
#include "rom.h"
#include "smp.h"
#include "x86.h"

// Code of the tests goes here: four pages in a row.
extern u8 code[4 * 4096];

// mov eax, value; ret
#define RETURN_BYTES 6
void put_return(u8 *at, u32 value);
u32 run(const void *at);
void serialise(void);

void test_stores(void);
void test_next_instruction(void);
void test_loops(void);
void test_neighbours(void);
void test_page_crossing(void);
void test_page_crossing_faults(void);
void test_whole_page(void);
void test_alias(void);
void test_position(void);
void test_remapped(void);
void test_page_table_code(void);
void test_cross(void);
void test_breakpoint_patching(void);
