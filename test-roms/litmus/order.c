// Memory ordering: SDM 3A "Memory Ordering in P6 and More Recent Processor Families", "Examples Illustrating the Memory-Ordering Principles".
#include "litmus.h"

// Each round has locations of its own, so that processors need not wait for each other in between.
#define ROUNDS 1500
#define BATCHES 12

struct place { volatile u32 value; u8 rest[60]; };
static struct place x[ROUNDS] ALIGNED(64), y[ROUNDS] ALIGNED(64);
static volatile u32 seen[4][ROUNDS][2];
static struct barrier start;

static void clear(void)
{
	memset(x, 0, sizeof x);
	memset(y, 0, sizeof y);
	memset((void *)seen, 0, sizeof seen);
}

#define LOAD(to, from) asm volatile("movl %1, %0" : "=r"(to) : "m"(from) : "memory")
#define STORE(to, v) asm volatile("movl %1, %0" : "=m"(to) : "ri"(v) : "memory")

// Store to one, load from the other; `between` orders them.
#define STORE_THEN_LOAD(name, between) \
	static void name(u32 p) \
	{ \
		struct place *mine = p ? y : x, *other = p ? x : y; \
		barrier_wait(&start, 2); \
		for (int i = 0; i < ROUNDS; i++) { \
			u32 r; \
			STORE(mine[i].value, 1); \
			between; \
			LOAD(r, other[i].value); \
			seen[p][i][0] = r; \
		} \
	}
static struct place elsewhere[2] ALIGNED(64);
STORE_THEN_LOAD(plain, )
STORE_THEN_LOAD(with_mfence, asm volatile("mfence" ::: "memory"))
STORE_THEN_LOAD(with_lock, asm volatile("lock orl $0, %0" : "+m"(elsewhere[p].value) :: "memory"))
STORE_THEN_LOAD(with_xchg, ({ u32 one = 1; asm volatile("xchgl %0, %1" : "+r"(one), "+m"(mine[i].value) :: "memory"); }))
STORE_THEN_LOAD(with_cpuid, cpuid(0, 0))

static void run_pair(const char *what, void (*work)(u32), bool may_both_miss)
{
	u32 both = 0;
	for (int batch = 0; batch < BATCHES; batch++) {
		clear();
		if (!together(2, work))
			return;
		for (int i = 0; i < ROUNDS; i++) {
			both += !seen[0][i][0] && !seen[1][i][0];
			if (seen[0][i][0] > 1 || seen[1][i][0] > 1)
				check(false, "%s: a load of what nobody stored", what);
		}
	}
	check(may_both_miss || !both, "%s: both loads came before both stores %u times", what, both);
}

// "Loads May Be Reordered with Earlier Stores to Different Locations": any result, but nothing else.
void test_store_buffering(void)
{
	run_pair("plain", plain, true);
}

void test_store_buffering_mfence(void)
{
	run_pair("MFENCE", with_mfence, false);
}

void test_store_buffering_locked(void)
{
	run_pair("LOCK OR elsewhere", with_lock, false);
	run_pair("XCHG", with_xchg, false);
	run_pair("CPUID", with_cpuid, false);
}

// "Stores Are Not Reordered with Other Stores", "Loads Are Not Reordered with Other Loads".
static void pass_message(u32 p)
{
	barrier_wait(&start, 2);
	for (int i = 0; i < ROUNDS; i++) {
		u32 a, b;
		if (p == 0) {
			STORE(x[i].value, 1);
			STORE(y[i].value, 1);
		} else {
			LOAD(a, y[i].value);
			LOAD(b, x[i].value);
			seen[1][i][0] = a;
			seen[1][i][1] = b;
		}
	}
}

// The same as data of 8 bytes and a flag of one, by REP STOSB and by a vector store before the flag.
static u8 block[ROUNDS][64] ALIGNED(64);
static void pass_block(u32 p)
{
	barrier_wait(&start, 2);
	for (int i = 0; i < ROUNDS; i++) {
		if (p == 0) {
			void *to = block[i];
			u64 n = 64;
			asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x5a) : "memory");
			STORE(y[i].value, 1);
		} else {
			u32 a;
			LOAD(a, y[i].value);
			asm volatile("" ::: "memory");
			u32 right = 1;
			for (int k = 0; k < 64; k += 21)
				right &= ((volatile u8 *)block[i])[k] == 0x5a;
			seen[1][i][0] = a;
			seen[1][i][1] = right;
		}
	}
}

static void run_message(const char *what, void (*work)(u32))
{
	u32 wrong = 0;
	for (int batch = 0; batch < BATCHES; batch++) {
		clear();
		memset(block, 0, sizeof block);
		if (!together(2, work))
			return;
		for (int i = 0; i < ROUNDS; i++)
			wrong += seen[1][i][0] && !seen[1][i][1];
	}
	check(!wrong, "%s: the flag came before the data %u times", what, wrong);
}

void test_message_passing(void)
{
	run_message("word", pass_message);
	run_message("REP STOSB", pass_block);
}

// "Stores Are Not Reordered with Earlier Loads".
static void load_then_store(u32 p)
{
	struct place *mine = p ? y : x, *other = p ? x : y;
	barrier_wait(&start, 2);
	for (int i = 0; i < ROUNDS; i++) {
		u32 r;
		LOAD(r, other[i].value);
		STORE(mine[i].value, 1);
		seen[p][i][0] = r;
	}
}

void test_load_buffering(void)
{
	u32 both = 0;
	for (int batch = 0; batch < BATCHES; batch++) {
		clear();
		if (!together(2, load_then_store))
			return;
		for (int i = 0; i < ROUNDS; i++)
			both += seen[0][i][0] && seen[1][i][0];
	}
	check(!both, "both loads came after both stores %u times", both);
}

// Each stores to both, in opposite order: the last value of both cannot be that of the first store.
static void write_both(u32 p)
{
	struct place *first = p ? y : x, *second = p ? x : y;
	barrier_wait(&start, 2);
	for (int i = 0; i < ROUNDS; i++) {
		STORE(first[i].value, 1);
		STORE(second[i].value, 2);
	}
}

void test_two_writers(void)
{
	u32 wrong = 0;
	for (int batch = 0; batch < BATCHES; batch++) {
		clear();
		if (!together(2, write_both))
			return;
		for (int i = 0; i < ROUNDS; i++)
			wrong += x[i].value == 1 && y[i].value == 1;
	}
	check(!wrong, "both first stores were the last %u times", wrong);
}

// "Stores Are Seen in a Consistent Order by Other Processors": two write, two read in opposite order.
static void independent(u32 p)
{
	barrier_wait(&start, 4);
	for (int i = 0; i < ROUNDS; i++) {
		u32 a, b;
		switch (p) {
		case 0: STORE(x[i].value, 1); break;
		case 1: STORE(y[i].value, 1); break;
		case 2:
			LOAD(a, x[i].value);
			LOAD(b, y[i].value);
			seen[2][i][0] = a;
			seen[2][i][1] = b;
			break;
		default:
			LOAD(a, y[i].value);
			LOAD(b, x[i].value);
			seen[3][i][0] = a;
			seen[3][i][1] = b;
			break;
		}
	}
}

void test_independent_reads(void)
{
	if (cpu_count < 4) {
		skip("less than four processors");
		return;
	}
	u32 wrong = 0;
	for (int batch = 0; batch < BATCHES; batch++) {
		clear();
		if (!together(4, independent))
			return;
		for (int i = 0; i < ROUNDS; i++)
			wrong += seen[2][i][0] && !seen[2][i][1] && seen[3][i][0] && !seen[3][i][1];
	}
	check(!wrong, "two processors saw two stores in different orders %u times", wrong);
}

// One location never goes back, and a processor sees its own stores at once.
static volatile u32 counter ALIGNED(64);
static volatile u32 backwards, own_missed;
static void cohere(u32 p)
{
	u32 last = 0, v;
	barrier_wait(&start, 2);
	for (u32 i = 1; i < 60000; i++) {
		if (p == 0) {
			STORE(counter, i);
			LOAD(v, counter);
			own_missed += v != i;
		} else {
			LOAD(v, counter);
			backwards += v < last;
			last = v;
		}
	}
}

void test_coherence(void)
{
	counter = 0;
	backwards = own_missed = 0;
	if (!together(2, cohere))
		return;
	check(!backwards, "a location went back %u times", backwards);
	check(!own_missed, "a processor missed its own store %u times", own_missed);
}

// "Guaranteed Atomic Operations": aligned accesses are whole; since the P6, those within a cache line too.
static u8 line[128] ALIGNED(128);
static u32 offset, width;
static volatile u32 torn;

static void tear(u32 p)
{
	u8 *at = line + offset;
	barrier_wait(&start, 2);
	for (u32 i = 0; i < 4000; i++) {
		u64 v = 0, ones = 0, value = i & 1 ? ~0ul : 0;
		switch (width) {
		case 2:
			if (p)
				asm volatile("movzwl %1, %k0" : "=r"(v) : "m"(*at) : "memory");
			else
				asm volatile("movw %w1, %0" : "=m"(*at) : "r"(value) : "memory");
			ones = 0xffff;
			break;
		case 4:
			if (p)
				asm volatile("movl %1, %k0" : "=r"(v) : "m"(*at) : "memory");
			else
				asm volatile("movl %k1, %0" : "=m"(*at) : "r"(value) : "memory");
			ones = 0xffffffff;
			break;
		default:
			if (p)
				asm volatile("movq %1, %0" : "=r"(v) : "m"(*at) : "memory");
			else
				asm volatile("movq %1, %0" : "=m"(*at) : "r"(value) : "memory");
			ones = ~0ul;
			break;
		}
		if (p)
			torn += v != 0 && v != ones;
	}
}

static void check_tearing(u32 step)
{
	for (width = 2; width <= 8; width *= 2)
		for (offset = step == 1 ? 1 : 0; offset + width <= 64; offset += step == 1 ? (width == 2 ? 12 : 7) : width) {
			memset(line, 0, sizeof line);
			torn = 0;
			if (!together(2, tear))
				return;
			check(!torn, "%u bytes at %u: torn %u times", width, offset, torn);
		}
}

void test_whole_accesses(void)
{
	check_tearing(0);
}

void test_unaligned_accesses(void)
{
	check_tearing(1);
}
