// LOCK: SDM 3A "Locked Atomic Operations", "Bus Locking": whatever the alignment, and with operands of any width that overlap.
#include "litmus.h"

#define ROUNDS 6000

static u8 area[2 * 4096] ALIGNED(4096);
static u8 *at;
static struct barrier start;
static u32 participants;
static volatile u32 wrong;

static void put(u64 v, u32 bytes)
{
	memcpy(at, &v, bytes);
}

static u64 get(u32 bytes)
{
	u64 v = 0;
	memcpy(&v, at, bytes);
	return v;
}

#define COUNTER(name, body) \
	static void name(u32 p) \
	{ \
		(void)p; \
		barrier_wait(&start, participants); \
		for (u32 i = 0; i < ROUNDS; i++) { \
			body; \
		} \
	}

COUNTER(inc8, asm volatile("lock incb (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(inc16, asm volatile("lock incw (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(inc32, asm volatile("lock incl (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(inc64, asm volatile("lock incq (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(add32, asm volatile("lock addl $1, (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(sub64, asm volatile("lock subq $-1, (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(adc32, asm volatile("stc; lock adcl $0, (%0)" :: "r"(at) : "memory", "cc"))
COUNTER(xadd32, ({ u32 one = 1; asm volatile("lock xaddl %0, (%1)" : "+r"(one) : "r"(at) : "memory", "cc"); }))
COUNTER(xadd64, ({ u64 one = 1; asm volatile("lock xaddq %0, (%1)" : "+r"(one) : "r"(at) : "memory", "cc"); }))
COUNTER(cmpxchg32, ({
	u32 old;
	asm volatile("movl (%1), %0\n1: lea 1(%0), %%ecx; lock cmpxchgl %%ecx, (%1); jne 1b" : "=&a"(old) : "r"(at) : "rcx", "memory", "cc");
}))
COUNTER(cmpxchg64, ({
	u64 old;
	asm volatile("movq (%1), %0\n1: lea 1(%0), %%rcx; lock cmpxchgq %%rcx, (%1); jne 1b" : "=&a"(old) : "r"(at) : "rcx", "memory", "cc");
}))
COUNTER(cmpxchg8b, ({
	asm volatile("movl (%0), %%eax; movl 4(%0), %%edx\n"
		     "1: mov %%eax, %%ebx; mov %%edx, %%ecx; add $1, %%ebx; adc $0, %%ecx; lock cmpxchg8b (%0); jne 1b"
		     :: "r"(at) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}))
COUNTER(cmpxchg16b, ({
	asm volatile("movq (%0), %%rax; movq 8(%0), %%rdx\n"
		     "1: mov %%rax, %%rbx; mov %%rdx, %%rcx; add $1, %%rbx; adc $0, %%rcx; lock cmpxchg16b (%0); jne 1b"
		     :: "r"(at) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}))

struct counter { const char *name; void (*work)(u32); u32 bytes; };
static const struct counter counters[] = {
	{ "INC, 8 bits", inc8, 1 }, { "INC, 16 bits", inc16, 2 }, { "INC, 32 bits", inc32, 4 }, { "INC, 64 bits", inc64, 8 },
	{ "ADD, 32 bits", add32, 4 }, { "SUB, 64 bits", sub64, 8 }, { "ADC, 32 bits", adc32, 4 }, 
	{ "XADD, 32 bits", xadd32, 4 }, { "XADD, 64 bits", xadd64, 8 }, { "CMPXCHG, 32 bits", cmpxchg32, 4 }, { "CMPXCHG, 64 bits", cmpxchg64, 8 },
	{ "CMPXCHG8B", cmpxchg8b, 8 },
};

static void run_counter(const struct counter *c, u32 place)
{
	at = area + place;
	participants = (u32)cpu_count;
	put(0, c->bytes);
	if (!together(participants, c->work))
		return;
	u64 mask = c->bytes == 8 ? ~0ul : (1ul << 8 * c->bytes) - 1, wanted = (u64)participants * ROUNDS & mask;
	check(get(c->bytes) == wanted, "%s at %u: %lu, should be %lu", c->name, place, get(c->bytes), wanted);
}

void test_locked_counters(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		run_counter(&counters[i], 64);
}

// Within a line, over two lines.
void test_locked_unaligned(void)
{
	static const u32 places[] = { 65, 67, 61, 62, 63 };
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		for (size_t k = 0; k < ARRAY_SIZE(places); k++)
			if (counters[i].bytes > 1)
				run_counter(&counters[i], places[k]);
}

void test_locked_page_crossing(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		for (u32 before = 1; before < counters[i].bytes; before += 2)
			run_counter(&counters[i], 4096 - before);
}

// One counts in the low half of 4 bytes, the other adds to the whole what is above it: no update may undo one of another width.
static void count_overlapping(u32 p)
{
	barrier_wait(&start, 2);
	for (u32 i = 0; i < ROUNDS; i++)
		if (p)
			asm volatile("lock incw (%0)" :: "r"(at) : "memory", "cc");
		else
			asm volatile("lock addl $0x10000, (%0)" :: "r"(at) : "memory", "cc");
}

// The same with a byte in the middle of 8.
static void count_in_the_middle(u32 p)
{
	barrier_wait(&start, 2);
	for (u32 i = 0; i < ROUNDS; i++)
		if (p)
			asm volatile("lock incb 3(%0)" :: "r"(at) : "memory", "cc");
		else
			asm volatile("lock addq %1, (%0)" :: "r"(at), "r"(0x100000000ul) : "memory", "cc");
}

void test_locked_overlapping(void)
{
	static const u32 places[] = { 64, 65, 60, 61, 62, 63, 4088, 4093, 4094, 4095 };
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		at = area + places[i];
		put(0, 8);
		if (!together(2, count_overlapping))
			return;
		check(get(4) == ((u32)ROUNDS << 16 | ROUNDS), "2 bytes of 4 at %u: %lx, should be %x", places[i], get(4), (u32)ROUNDS << 16 | ROUNDS);
		put(0, 8);
		if (!together(2, count_in_the_middle))
			return;
		u64 wanted = (u64)ROUNDS << 32 | (ROUNDS & 0xff) << 24;
		check(get(8) == wanted, "a byte of 8 at %u: %lx, should be %lx", places[i], get(8), wanted);
	}
}

void test_locked_wide(void)
{
	if (!(cpuid(1, 0).ecx >> 13 & 1)) {
		skip("no CMPXCHG16B");
		return;
	}
	for (u32 place = 0; place < 4096; place += 4080) {
		at = area + place;
		participants = (u32)cpu_count;
		u64 two[2] = { ~0ul - 100, 7 };
		memcpy(at, two, 16);
		if (!together(participants, cmpxchg16b))
			return;
		memcpy(two, at, 16);
		u64 wanted = (u64)participants * ROUNDS - 101;
		check(two[0] == wanted && two[1] == 8, "CMPXCHG16B at %u: %lx %lx, should be %lx 8", place, two[1], two[0], wanted);
	}
}

// A lock that XCHG takes and a plain store gives back; a plain counter inside.
static volatile u32 lock_word ALIGNED(64), guarded ALIGNED(64);
static void with_spinlock(u32 p)
{
	(void)p;
	barrier_wait(&start, participants);
	for (u32 i = 0; i < 1000; i++) {
		u32 one;
		do {
			one = 1;
			asm volatile("xchgl %0, %1" : "+r"(one), "+m"(lock_word) :: "memory");
			if (one)
				relax();
		} while (one);
		guarded = guarded + 1;
		asm volatile("movl $0, %0" : "=m"(lock_word) :: "memory");
	}
}

// Bits of one word that processors set and clear each for themselves, with the old value of each checked.
static volatile u64 bits ALIGNED(64);
static void set_and_clear(u32 p)
{
	barrier_wait(&start, participants);
	for (u32 i = 0; i < ROUNDS; i++) {
		u64 n = p * 16 + i % 16;
		bool before, after;
		asm volatile("lock btsq %2, %0" : "+m"(bits), "=@ccc"(before) : "r"(n) : "memory");
		asm volatile("lock btrq %2, %0" : "+m"(bits), "=@ccc"(after) : "r"(n) : "memory");
		if (before || !after)
			__atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
	}
}

void test_spinlock(void)
{
	participants = (u32)cpu_count;
	lock_word = guarded = 0;
	if (!together(participants, with_spinlock))
		return;
	check(guarded == 1000 * participants, "%u rounds under the lock, should be %u", guarded, 1000 * participants);
	wrong = 0;
	bits = 0;
	participants = cpu_count > 4 ? 4 : (u32)cpu_count;
	if (!together(participants, set_and_clear))
		return;
	check(!wrong && !bits, "BTS and BTR: %u wrong, %lx left", wrong, bits);
}

// On device registers LOCK reads and writes too.
void test_locked_mmio(void)
{
	u64 tpr = (rdmsr(MSR_APIC_BASE) & PAGE_ADDRESS) + LAPIC_TPR;
	u32 v = 0x20;
	lapic_write(LAPIC_TPR, 0x10);
	asm volatile("xchgl %0, (%1)" : "+r"(v) : "r"(tpr) : "memory");
	check(v == 0x10 && lapic_read(LAPIC_TPR) == 0x20, "XCHG: %x, then %x", v, lapic_read(LAPIC_TPR));
	asm volatile("lock orl $5, (%0)" :: "r"(tpr) : "memory", "cc");
	check_eq(lapic_read(LAPIC_TPR), 0x25, "LOCK OR");
	v = 3;
	asm volatile("lock xaddl %0, (%1)" : "+r"(v) : "r"(tpr) : "memory", "cc");
	check(v == 0x25 && lapic_read(LAPIC_TPR) == 0x28, "LOCK XADD: %x, then %x", v, lapic_read(LAPIC_TPR));
	u32 old = 0x28;
	bool same;
	asm volatile("lock cmpxchgl %3, (%2)" : "+a"(old), "=@ccz"(same) : "r"(tpr), "r"(0) : "memory");
	check(same && lapic_read(LAPIC_TPR) == 0, "LOCK CMPXCHG: ZF %d, then %x", same, lapic_read(LAPIC_TPR));
	lapic_write(LAPIC_TPR, 0);
}
