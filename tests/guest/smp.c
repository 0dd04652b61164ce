/*
 * What several processors must agree on, checked from inside a guest: atomic operations on every kind of operand, the
 * order of stores and loads, futexes, processes, address spaces that change while they are used, code that is written
 * (smp_code.c), clocks. Built statically by the host's compiler.
 *
 * usage: smp SECONDS THREADS [CHECK..]     prints "smp: all right" and returns 0, or the first thing that is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "smp.h"

int threads;
static double seconds;

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

void fail(const char *what, long a, long b)
{
    printf("smp: WRONG: %s: %ld (0x%lx), not %ld (0x%lx)\n", what, a, a, b, b);
    fflush(stdout);
    _exit(1);
}

void must(int yes, const char *what)
{
    if (!yes) {
        printf("smp: WRONG: %s: %s\n", what, strerror(errno));
        fflush(stdout);
        _exit(1);
    }
}

void *memory(size_t size)
{
    void *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    return p;
}

/* Runs f in all threads; each gets its number. */
void in_threads(void *(*f)(void *), int count)
{
    pthread_t t[MOST];
    for (int i = 0; i < count; i++)
        must(!pthread_create(&t[i], 0, f, (void *)(long)i), "pthread_create");
    for (int i = 0; i < count; i++)
        pthread_join(t[i], 0);
}

/* Locked operations: aligned, across a cache line's middle, across lines, across pages. */

static char *lock_area;
static long lock_rounds;
static const int lock_offsets[] = { 64, 129, 253, PAGE - 1, PAGE - 2, PAGE - 3, 2 * PAGE - 4, 2 * PAGE - 7 };
#define LOCK_OFFSETS ((int)(sizeof lock_offsets / sizeof *lock_offsets))

static void *lock_thread(void *number)
{
    uint64_t rounds = 0;
    (void)number;
    while (rounds < 5000) {
        for (int k = 0; k < LOCK_OFFSETS; k++) {
            char *p = lock_area + k * 4 * PAGE + lock_offsets[k];
            asm volatile("lock addq $1, (%0)" : : "r"(p) : "memory", "cc");
            uint32_t one = 1;
            asm volatile("lock xaddl %0, (%1)" : "+r"(one) : "r"(p + 600) : "memory", "cc");
            asm volatile("lock incw (%0)" : : "r"(p + 1200) : "memory", "cc");
            uint64_t old, new;
            unsigned char done;
            do {
                old = *(volatile uint64_t *)(p + 1800);
                new = old + 0x100000001;
                asm volatile("lock cmpxchgq %3, (%2)\n\tsete %0"
                             : "=q"(done), "+a"(old) : "r"(p + 1800), "r"(new) : "memory", "cc");
            } while (!done);
            /* A lock of one bit and what it protects. */
            while (1) {
                unsigned char was;
                asm volatile("lock btsl $31, (%1)\n\tsetc %0" : "=q"(was) : "r"(p + 2400) : "memory", "cc");
                if (!was)
                    break;
                asm volatile("pause");
            }
            ++*(volatile uint32_t *)(p + 2600);
            asm volatile("lock andl $0x7fffffff, (%0)" : : "r"(p + 2400) : "memory", "cc");
            uint32_t token = 1;
            do {
                token = 1;
                asm volatile("xchgl %0, (%1)" : "+r"(token) : "r"(p + 2700) : "memory");
                if (token)
                    asm volatile("pause");
            } while (token);
            ++*(volatile uint32_t *)(p + 2800);
            *(volatile uint32_t *)(p + 2700) = 0;
        }
        rounds++;
    }
    __atomic_add_fetch(&lock_rounds, rounds, __ATOMIC_SEQ_CST);
    return 0;
}

static void check_lock(void)
{
    size_t size = (LOCK_OFFSETS + 1) * 4 * PAGE;
    lock_area = memory(size);
    lock_rounds = 0;
    in_threads(lock_thread, threads);
    for (int k = 0; k < LOCK_OFFSETS; k++) {
        char *p = lock_area + k * 4 * PAGE + lock_offsets[k];
        uint64_t want = lock_rounds;
        if (*(uint64_t *)p != want)
            fail("lock add", *(uint64_t *)p, want);
        if (*(uint32_t *)(p + 600) != (uint32_t)want)
            fail("lock xadd", *(uint32_t *)(p + 600), want);
        if (*(uint16_t *)(p + 1200) != (uint16_t)want)
            fail("lock inc", *(uint16_t *)(p + 1200), (uint16_t)want);
        if (*(uint64_t *)(p + 1800) != want * 0x100000001)
            fail("lock cmpxchg", *(uint64_t *)(p + 1800), want * 0x100000001);
        if (*(uint32_t *)(p + 2600) != (uint32_t)want)
            fail("lock bts", *(uint32_t *)(p + 2600), want);
        if (*(uint32_t *)(p + 2800) != (uint32_t)want)
            fail("xchg", *(uint32_t *)(p + 2800), want);
    }
    munmap(lock_area, size);
}

/* CMPXCHG16B: two halves that always change together. */

static struct { uint64_t low, high; } pair __attribute__((aligned(16)));
static long pair_rounds;

static void *pair_thread(void *number)
{
    long rounds = 0;
    (void)number;
    while (rounds < 30000) {
        uint64_t a = pair.low, d = pair.high;
        unsigned char done;
        do {
            uint64_t b = a + 1, c = d + 3;
            asm volatile("lock cmpxchg16b %1\n\tsete %0"
                         : "=q"(done), "+m"(pair), "+a"(a), "+d"(d) : "b"(b), "c"(c) : "memory", "cc");
            if (d != a * 3)
                fail("cmpxchg16b gave halves of two values", d, a * 3);
        } while (!done);
        rounds++;
    }
    __atomic_add_fetch(&pair_rounds, rounds, __ATOMIC_SEQ_CST);
    return 0;
}

static void check_pair(void)
{
    pair.low = pair.high = pair_rounds = 0;
    in_threads(pair_thread, threads);
    if ((long)pair.low != pair_rounds)
        fail("cmpxchg16b", pair.low, pair_rounds);
}

/* Message passing and Dekker. */

static struct {
    volatile uint64_t data __attribute__((aligned(64)));
    volatile uint64_t flag __attribute__((aligned(64)));
    volatile uint64_t answer __attribute__((aligned(64)));
    volatile int want[2] __attribute__((aligned(64)));
    volatile long inside __attribute__((aligned(64)));
} order;

static void *order_thread(void *number)
{
    long me = (long)number;
    for (uint64_t round = 1; round < 5000; round++) {
        if (me == 0) {
            order.data = round * 7;
            order.flag = round;
            while (order.answer != round)
                asm volatile("pause");
        } else {
            while (order.flag != round)
                asm volatile("pause");
            if (order.data != round * 7)
                fail("a flag overtook its data", order.data, round * 7);
            order.answer = round;
        }
        /* Both want in; at most one may find that the other does not. */
        order.want[me] = 1;
        if (round & 1)
            asm volatile("mfence" : : : "memory");
        else
            asm volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
        if (!order.want[1 - me]) {
            if (__atomic_add_fetch(&order.inside, 1, __ATOMIC_RELAXED) != 1)
                fail("two in a place for one", order.inside, 1);
            __atomic_sub_fetch(&order.inside, 1, __ATOMIC_RELAXED);
        }
        order.want[me] = 0;
        asm volatile("mfence" : : : "memory");
    }
    return 0;
}

static void check_order(void)
{
    memset(&order, 0, sizeof order);
    in_threads(order_thread, 2);
}

/* Futexes: mutex, condition, barrier. */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long queue[8], queued, taken, sum_in, sum_out, barrier_word;

static void *futex_thread(void *number)
{
    long me = (long)number, each = 3000;
    for (long k = 0; k < each; k++) {
        pthread_mutex_lock(&mutex);
        if (me & 1) {
            while (queued - taken == 8)
                pthread_cond_wait(&room, &mutex);
            queue[queued++ % 8] = me * 1000003 + k;
            sum_in += me * 1000003 + k;
            pthread_cond_signal(&more);
        } else {
            while (queued == taken)
                pthread_cond_wait(&more, &mutex);
            sum_out += queue[taken++ % 8];
            pthread_cond_signal(&room);
        }
        pthread_mutex_unlock(&mutex);
    }
    for (long k = 0; k < 100; k++) {
        pthread_barrier_wait(&barrier);
        __atomic_add_fetch(&barrier_word, 1, __ATOMIC_RELAXED);
        pthread_barrier_wait(&barrier);
        int count = threads & ~1;
        if (barrier_word != count * (k + 1))
            fail("barrier", barrier_word, count * (k + 1));
    }
    return 0;
}

static void check_futex(void)
{
    int count = threads & ~1;
    queued = taken = sum_in = sum_out = barrier_word = 0;
    pthread_barrier_init(&barrier, 0, count);
    in_threads(futex_thread, count);
    pthread_barrier_destroy(&barrier);
    if (sum_in != sum_out || queued != taken)
        fail("queue", sum_out, sum_in);
}

/* Processes. */

static void check_fork(void)
{
    long *shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "mmap");
    char *private = memory(16 * PAGE);
    memset(private, 0x5a, 16 * PAGE);
    int made = 0;
    for (int round = 0; round < 20; round++) {
        pid_t pid[MOST];
        for (int i = 0; i < threads; i++) {
            pid[i] = fork();
            must(pid[i] >= 0, "fork");
            if (!pid[i]) {
                for (int k = 0; k < 16; k++) {
                    if (private[k * PAGE + 5] != 0x5a)
                        fail("a child sees another's page", private[k * PAGE + 5], 0x5a);
                    private[k * PAGE + 5] = i;
                }
                sched_yield();
                for (int k = 0; k < 16; k++)
                    if (private[k * PAGE + 5] != i)
                        _exit(99);
                __atomic_add_fetch(shared, 1, __ATOMIC_SEQ_CST);
                if (i % 4 == 3) {
                    execl("/proc/self/exe", "smp", "exit", "7", (char *)0);
                    _exit(98);
                }
                _exit(i & 63);
            }
            made++;
        }
        for (int i = 0; i < threads; i++) {
            int status;
            must(waitpid(pid[i], &status, 0) == pid[i], "waitpid");
            int want = i % 4 == 3 ? 7 : i & 63;
            if (!WIFEXITED(status) || WEXITSTATUS(status) != want)
                fail("a child's status", status, want << 8);
        }
    }
    if (*shared != made)
        fail("children that counted", *shared, made);
    munmap(shared, PAGE);
    munmap(private, 16 * PAGE);
}

/* Address spaces: pages come, go and change their rights while other processors use them. */

static volatile uint64_t *guarded;
static volatile int guard_stop;
static __thread sigjmp_buf guard_jump;

static void guard_fault(int signal)
{
    (void)signal;
    siglongjmp(guard_jump, 1);
}

static void *guard_writer(void *number)
{
    (void)number;
    while (!guard_stop) {
        if (!sigsetjmp(guard_jump, 1))
            while (!guard_stop)
                guarded[0]++;
        else
            sched_yield();
    }
    return 0;
}

static void *map_thread(void *number)
{
    long me = (long)number;
    for (int round = 0; round < 60; round++) {
        int pages = 1 + (round * 7 + me) % 24;
        uint64_t *p = memory(pages * PAGE);
        for (int k = 0; k < pages * 512; k += 64) {
            if (p[k])
                fail("a new page is not empty", p[k], 0);
            p[k] = me << 32 | k;
        }
        must(!mprotect(p, pages * PAGE, PROT_READ), "mprotect");
        for (int k = 0; k < pages * 512; k += 64)
            if (p[k] != ((uint64_t)me << 32 | k))
                fail("a page has changed", p[k], me << 32 | k);
        munmap(p, pages * PAGE);
    }
    return 0;
}

static void check_map(void)
{
    struct sigaction action = { .sa_handler = guard_fault }, old;
    sigaction(SIGSEGV, &action, &old);
    guarded = memory(PAGE);
    guard_stop = 0;
    pthread_t writer;
    must(!pthread_create(&writer, 0, guard_writer, 0), "pthread_create");
    for (int round = 0; round < 100; round++) {
        must(!mprotect((void *)guarded, PAGE, PROT_READ), "mprotect");
        uint64_t first = guarded[0];
        for (int k = 0; k < 2000; k++)
            if (guarded[0] != first)
                fail("a page was written after it had become read-only", guarded[0], first);
        must(!mprotect((void *)guarded, PAGE, PROT_READ | PROT_WRITE), "mprotect");
        for (int k = 0; k < 200; k++)
            asm volatile("pause");
    }
    guard_stop = 1;
    pthread_join(writer, 0);
    munmap((void *)guarded, PAGE);
    sigaction(SIGSEGV, &old, 0);
    in_threads(map_thread, threads);
}

/* The kernel's own code, by a switch that it compiles into its instructions. */

static void check_kernel(void)
{
    int file = open("/proc/sys/kernel/sched_schedstats", O_RDWR);
    if (file < 0)
        return;
    for (int round = 0; round < 40; round++) {
        must(pwrite(file, round & 1 ? "0\n" : "1\n", 2, 0) == 2, "sched_schedstats");
        sched_yield();
    }
    close(file);
}

/* Clocks, and threads that move from one processor to another. */

static volatile uint64_t latest;

static uint64_t ticks(void)
{
    uint32_t a, d;
    asm volatile("mfence\n\tlfence\n\trdtsc" : "=a"(a), "=d"(d) : : "memory");
    return (uint64_t)d << 32 | a;
}

static void *clock_thread(void *number)
{
    long me = (long)number;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    for (int round = 0; round < 2000; round++) {
        if (round % 100 == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((me + round / 100) % cpus, &set);
            must(!sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
            unsigned cpu = 99;
            syscall(SYS_getcpu, &cpu, 0, 0);
            if (cpu != (me + round / 100) % cpus)
                fail("a thread is on another CPU", cpu, (me + round / 100) % cpus);
        }
        uint64_t before = latest, t = ticks();
        if (t < before)
            fail("the TSC went back from one CPU to another", t, before);
        while (before < t && !__atomic_compare_exchange_n(&latest, &before, t, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
    }
    return 0;
}

static void check_clock(void)
{
    in_threads(clock_thread, threads);
}

/* Signals between threads: one IPI after the other. */

static volatile int signals;
static volatile pid_t signal_target;

static void count_signal(int signal)
{
    (void)signal;
    signals++;
}

static void *signal_thread(void *number)
{
    (void)number;
    signal_target = syscall(SYS_gettid);
    while (signals < 100)
        asm volatile("pause");
    return 0;
}

static void check_signal(void)
{
    struct sigaction action = { .sa_handler = count_signal }, old;
    sigaction(SIGUSR1, &action, &old);
    signals = 0;
    signal_target = 0;
    pthread_t t;
    must(!pthread_create(&t, 0, signal_thread, 0), "pthread_create");
    while (!signal_target)
        sched_yield();
    for (int k = 1; k <= 100; k++) {
        must(!syscall(SYS_tgkill, getpid(), signal_target, SIGUSR1), "tgkill");
        double deadline = now() + 60;
        while (signals < k) {
            asm volatile("pause");
            if (now() > deadline)
                fail("a signal did not arrive", signals, k);
        }
    }
    pthread_join(t, 0);
    sigaction(SIGUSR1, &old, 0);
}

static const struct { const char *name; void (*run)(void); } checks[] = {
    { "lock", check_lock }, { "pair", check_pair }, { "order", check_order }, { "futex", check_futex },
    { "fork", check_fork }, { "map", check_map }, { "kernel", check_kernel }, { "clock", check_clock },
    { "signal", check_signal }, { "code", check_code }, { "written", check_written }, { "awaited", check_awaited },
    { "shared", check_shared }, { "storm", check_storm }, { "moved", check_moved }, { "exact", check_exact },
};
#define CHECKS ((int)(sizeof checks / sizeof *checks))

static int wanted(const char *name, int argc, char **argv)
{
    for (int i = 3; i < argc; i++)
        if (!strcmp(argv[i], name))
            return 1;
    return argc <= 3;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "exit"))
        return atoi(argv[2]);
    if (argc < 3) {
        fprintf(stderr, "usage: smp SECONDS THREADS [CHECK..]\n");
        return 2;
    }
    seconds = atof(argv[1]);
    threads = atoi(argv[2]);
    if (threads < 2 || threads > MOST) {
        fprintf(stderr, "smp: 2 to %d threads\n", MOST);
        return 2;
    }
    double end = now() + seconds, spent[CHECKS] = { 0 };
    long rounds = 0;
    setvbuf(stdout, 0, _IOLBF, 0);
    do {
        for (int k = 0; k < CHECKS; k++)
            if (wanted(checks[k].name, argc, argv)) {
                double start = now();
                checks[k].run();
                spent[k] += now() - start;
            }
        rounds++;
        if (seconds >= 60 && rounds % 10 == 0)
            printf("smp: %ld rounds, %.0f s left\n", rounds, end - now());
    } while (now() < end);
    for (int k = 0; k < CHECKS; k++)
        if (wanted(checks[k].name, argc, argv))
            printf("smp: %s %.2f s\n", checks[k].name, spent[k]);
    printf("smp: all right after %ld rounds\n", rounds);
    return 0;
}
