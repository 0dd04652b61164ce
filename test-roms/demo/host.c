// The unprivileged part of the self-test on an x86-64 Linux host. `make golden` prints golden_data.c, the hashes as this host's
// processor computes them; `make host-test` runs the topics, so that they are judged by silicon.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <ucontext.h>

#include "golden.h"
#include "selftest.h"

u64 trap_cr2;
static sigjmp_buf *catcher;
static const char *topic_name;
static int failures, checks;

bool check(bool ok, const char *format, ...)
{
	va_list args;
	checks++;
	if (ok)
		return true;
	if (++failures > 20)
		return false;
	printf("    %s: ", topic_name);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	return false;
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	siglongjmp(*catcher, 1 + (int)((ucontext_t *)context)->uc_mcontext.gregs[REG_TRAPNO]);
}

// As in vectors.S: the number of the exception, or -1.
int catch_trap(void (*body)(void *), void *argument)
{
	sigjmp_buf here, *outer = catcher;
	int vector = sigsetjmp(here, 1);
	if (!vector) {
		catcher = &here;
		body(argument);
	}
	catcher = outer;
	return vector - 1;
}

static void run_topic(void *run)
{
	((void (*)(void))run)();
}

void check_eq(u64 got, u64 want, const char *what)
{
	check(got == want, "%s: %lx, should be %lx", what, got, want);
}

static int run_topics(void)
{
	static const struct { const char *name; void (*run)(void); } topics[] = {
		{ "integer arithmetic and flags", test_arithmetic }, { "multiplication", test_multiply }, { "division", test_divide },
		{ "shifts and rotates", test_shifts }, { "double shifts", test_double_shifts }, { "bit operations", test_bit_operations },
		{ "conditions", test_conditions }, { "moves and addressing", test_moves }, { "stack and calls", test_stack },
		{ "string instructions", test_strings }, { "atomic operations", test_atomics }, { "SSE scalar arithmetic", test_sse_scalar },
		{ "SSE rounding, DAZ, FTZ", test_sse_rounding }, { "SSE comparisons", test_sse_compare }, { "SSE conversions", test_sse_convert },
		{ "SSE denormals and NaNs exactly", test_sse_exactly }, { "SSE packed", test_sse_packed },
		{ "SSE packed NaNs exactly", test_sse_packed_exactly }, { "SSE moves and MMX", test_sse_moves },
		{ "SSE faults", test_sse_faults }, { "SSE unmasked exceptions exactly", test_sse_unmasked }, { "x87 arithmetic", test_x87_arithmetic },
		{ "x87 exactly", test_x87_exactly }, { "x87 control and status", test_x87_control }, { "x87 state", test_x87_state },
	};
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER };
	int failed = 0;
	sigaction(SIGFPE, &action, 0);
	sigaction(SIGSEGV, &action, 0);
	sigaction(SIGBUS, &action, 0);
	sigaction(SIGILL, &action, 0);
	for (size_t i = 0; i < ARRAY_SIZE(topics); i++) {
		topic_name = topics[i].name;
		failures = checks = 0;
		int vector = catch_trap(run_topic, (void *)topics[i].run);
		printf("%s %s: %d of %d checks failed%s\n", failures ? "FAIL" : "PASS", topic_name, failures, checks,
		       vector >= 0 ? ", then a privileged instruction" : "");
		failed += failures != 0;
	}
	return failed != 0;
}

#ifdef GOLDEN
const u32 golden_scalar[SSE_SCALARS][SSE_MODES], golden_scalar_exact[SSE_SCALARS][SSE_MODES], golden_conversion[SSE_CONVERSIONS][SSE_MODES];
const u32 golden_conversion_exact[SSE_CONVERSIONS][SSE_MODES], golden_vector[VECTOR_OPS_MAX];
const u32 golden_x87[X87_OPS][X87_MODES], golden_x87_exact[X87_OPS][X87_MODES];
#endif

static void row(const char *name, const u32 *hashes, int n)
{
	printf("\t{");
	for (int i = 0; i < n; i++)
		printf("%s0x%08x", i ? ", " : " ", hashes[i]);
	printf(" },	// %s\n", name);
}

static void sse_table(const char *name, const struct sse_entry *entries, int n, bool exactly)
{
	printf("\nconst u32 %s[%d][%d] = {\n", name, n, SSE_MODES);
	for (int op = 0; op < n; op++) {
		u32 h[SSE_MODES];
		for (int mode = 0; mode < SSE_MODES; mode++)
			h[mode] = sse_hash(&entries[op], sse_mode[mode], exactly);
		row(entries[op].name, h, SSE_MODES);
	}
	printf("};\n");
}

static void x87_table(const char *name, bool exact)
{
	printf("\nconst u32 %s[%d][%d] = {\n", name, X87_OPS, X87_MODES);
	for (int op = 0; op < X87_OPS; op++) {
		u32 h[X87_MODES];
		for (int mode = 0; mode < X87_MODES; mode++)
			h[mode] = x87_hash(&x87_op[op], x87_mode[mode], exact);
		row(x87_op[op].name, h, X87_MODES);
	}
	printf("};\n");
}

int main(int argc, char **argv)
{
	if (argc > 1 && same(argv[1], "test"))
		return run_topics();
	printf("// Made by `make golden` on an x86-64 processor. A column for each rounding mode.\n#include \"golden.h\"\n");
	sse_table("golden_scalar", sse_scalar, SSE_SCALARS, false);
	sse_table("golden_scalar_exact", sse_scalar, SSE_SCALARS, true);
	sse_table("golden_conversion", sse_conversion, SSE_CONVERSIONS, false);
	sse_table("golden_conversion_exact", sse_conversion, SSE_CONVERSIONS, true);
	printf("\nconst u32 golden_vector[%d] = {\n", VECTOR_OPS_MAX);
	for (int op = 0; op < vector_op_count; op++)
		printf("\t0x%08x,	// %s\n", vector_hash(&vector_op[op]), vector_op[op].name);
	printf("};\n");
	x87_table("golden_x87", false);
	x87_table("golden_x87_exact", true);
	return 0;
}
