// A second exception while the first one is delivered. SDM 3A "Interrupt 8 - Double Fault Exception".
#include "exceptions64.h"

SNIPPET(divide, "xor %ecx, %ecx; div %ecx")
SNIPPET(invalid, "ud2")
SNIPPET(int_82, "int $0x82")
SNIPPET(protection, "mov (%rax), %ecx")
SNIPPET(absent_segment, "mov %esi, %ds")
SNIPPET(let_in, "sti; nop; nop; cli")
SNIPPET(page, "mov (%rdi), %ecx")

enum class { BENIGN, CONTRIBUTORY, PAGE };
static const struct first { const char *name; const struct snippet *code; int vector; enum class class; bool by_program; } firsts[] = {
	{ "#DE", &divide, VECTOR_DE, CONTRIBUTORY, false }, { "#UD", &invalid, VECTOR_UD, BENIGN, false }, { "INT 82h", &int_82, 0x82, BENIGN, true },
	{ "#GP", &protection, VECTOR_GP, CONTRIBUTORY, false }, { "#NP", &absent_segment, VECTOR_NP, CONTRIBUTORY, false },
	{ "#PF", &page, VECTOR_PF, PAGE, false },
};

// What is wrong with the gate of the first exception.
enum fault { NOT_PRESENT, NO_TYPE, DATA_SELECTOR, NULL_SELECTOR, ABSENT_STACK, STACK_NOT_CANONICAL, FAULTS };
static const struct { const char *name; int vector; } faults[FAULTS] = {
	[NOT_PRESENT] = { "gate not present", VECTOR_NP }, [NO_TYPE] = { "gate of no type", VECTOR_GP },
	[DATA_SELECTOR] = { "gate with a data segment", VECTOR_GP }, [NULL_SELECTOR] = { "gate with a null CS", VECTOR_GP },
	[ABSENT_STACK] = { "IST to an absent page", VECTOR_PF }, [STACK_NOT_CANONICAL] = { "IST not canonical", VECTOR_SS },
};

static int run_broken(const struct first *first, enum fault fault)
{
	struct gate *gate = gate_of(first->vector), saved = *gate;
	u64 ist = tss.ist[IST_TEST];
	switch (fault) {
	case NOT_PRESENT: gate->low &= ~GATE_P; break;
	case NO_TYPE: gate->low &= ~(0x1ful << 40); break;
	case DATA_SELECTOR: gate->low = (gate->low & ~0xffff0000ul) | (u64)KERNEL_DS << 16; break;
	case NULL_SELECTOR: gate->low &= ~0xffff0000ul; break;
	case ABSENT_STACK: gate->low |= (u64)IST_TEST << 32; tss.ist[IST_TEST] = ABSENT + 4096; break;
	case STACK_NOT_CANONICAL: gate->low |= (u64)IST_TEST << 32; tss.ist[IST_TEST] = NON_CANONICAL + 4096; break;
	default: break;
	}
	gdt[SPARE_SELECTOR / 8] = 0x00cf13000000ffff;
	int vector = run_snippet(*first->code, 0, (struct regs){ .rax = NON_CANONICAL, .rsi = SPARE_SELECTOR, .rdi = ABSENT });
	tss.ist[IST_TEST] = ist;
	*gate = saved;
	return vector;
}

static bool is_double_fault(enum class first, int second)
{
	bool second_contributory = second == VECTOR_NP || second == VECTOR_GP || second == VECTOR_SS;
	return (first == CONTRIBUTORY && second_contributory) || (first == PAGE && (second_contributory || second == VECTOR_PF));
}

void test_double_faults(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(firsts); i++)
		for (int fault = 0; fault < FAULTS; fault++) {
			// A fault of the very vector whose gate is broken cannot be delivered as itself.
			bool same_vector = faults[fault].vector == firsts[i].vector;
			bool doubled = is_double_fault(firsts[i].class, faults[fault].vector);
			if (same_vector && !doubled)
				continue;
			int vector = run_broken(&firsts[i], (enum fault)fault), wanted = doubled ? VECTOR_DF : faults[fault].vector;
			check(vector == wanted && (!doubled || trap.error_code == 0), "%s, %s: exception %d, error code %lx, should be %d", firsts[i].name,
			      faults[fault].name, vector, trap.error_code, wanted);
			if (doubled)
				check(trap_stack == tss.ist[IST_DOUBLE_FAULT], "%s, %s: stack %lx", firsts[i].name, faults[fault].name, trap_stack);
		}
}

// QEMU 7.2 takes 16 bytes for the size of an IDT entry in error codes, and has no EXT bit.
void test_double_fault_codes_exactly(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(firsts); i++) {
		if (firsts[i].class != BENIGN)
			continue;
		u64 external = firsts[i].by_program ? 0 : 1, by_idt = (u64)firsts[i].vector * 8 + 2 + external;
		u64 wanted[FAULTS] = {
			[NOT_PRESENT] = by_idt, [NO_TYPE] = by_idt, [DATA_SELECTOR] = KERNEL_DS + external, [NULL_SELECTOR] = external,
			[ABSENT_STACK] = 2, [STACK_NOT_CANONICAL] = external,
		};
		for (int fault = 0; fault < FAULTS; fault++) {
			int vector = run_broken(&firsts[i], (enum fault)fault);
			check(vector == faults[fault].vector && trap.error_code == wanted[fault], "%s, %s: exception %d, error code %lx, should be %d, %lx",
			      firsts[i].name, faults[fault].name, vector, trap.error_code, faults[fault].vector, wanted[fault]);
		}
	}

	// An interrupt from outside.
	struct gate *gate = gate_of(VECTOR_TEST), saved = *gate;
	gate->low &= ~GATE_P;
	if (lapic_present()) {
		lapic_icr(0, 1 << 18 | VECTOR_TEST);
		int vector = run_snippet(let_in, 0, (struct regs){ 0 });
		check(vector == VECTOR_NP && trap.error_code == VECTOR_TEST * 8 + 3, "interrupt, gate not present: exception %d, error code %lx", vector,
		      trap.error_code);
		lapic_write(LAPIC_EOI, 0);
	}
	*gate = saved;
}
