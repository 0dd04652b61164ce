/*
 * Code that is written while it runs: by itself, by its own processor, by another one, by another process; in pages that
 * come, go, move and change their rights; interrupted by signals and faults. Everything runs often enough to be translated,
 * and gives what the same steps give in C.
 */
#define _GNU_SOURCE
#include <linux/membarrier.h>
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
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "smp.h"

/* Often enough for translations to come and be run. */
#define HOT 4000

/* An instruction that waits for all before it, and drops what was fetched. */
static void serialise(void)
{
    uint32_t a = 0, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static uint32_t next(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random >> 16;
}

/* Code that another processor writes: with the reader's own serialising instruction, and with membarrier. */

static volatile unsigned char *code_write;
static volatile uint32_t code_version, code_stop;
static int (*code_run)(void);
static int code_by_membarrier;

static void *code_reader(void *number)
{
    (void)number;
    while (!code_stop) {
        uint32_t least = code_version;
        if (!code_by_membarrier) {
            uint32_t a = 0, b, c = 0, d;
            asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
        }
        uint32_t got = code_run();
        if ((int32_t)(got - least) < 0)
            fail("old code ran", got, least);
        /* Data beside the code, through the other mapping. */
        __atomic_add_fetch((volatile uint32_t *)(code_write + 2048), 1, __ATOMIC_RELAXED);
    }
    return 0;
}

void check_code(void)
{
    int file = syscall(SYS_memfd_create, "code", 0);
    must(file >= 0 && !ftruncate(file, PAGE), "memfd_create");
    code_write = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    void *run = mmap(0, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    must(code_write != MAP_FAILED && run != MAP_FAILED, "mmap of code");
    code_version = 0;
    /* mov eax, imm32 with the immediate aligned; ret */
    memcpy((void *)(code_write + 63), "\xb8\0\0\0\0\xc3", 6);
    code_run = (int (*)(void))((char *)run + 63);
    int can = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
    for (code_by_membarrier = 0; code_by_membarrier <= can; code_by_membarrier++) {
        int readers = threads > 1 ? threads - 1 : 1;
        pthread_t t[MOST];
        code_stop = 0;
        for (int i = 0; i < readers; i++)
            must(!pthread_create(&t[i], 0, code_reader, 0), "pthread_create");
        for (int round = 0; round < 60; round++) {
            uint32_t next = code_version + 1;
            *(volatile uint32_t *)(code_write + 64) = next;
            if (code_by_membarrier)
                must(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0), "membarrier");
            code_version = next;
            for (int k = 0; k < round % 50 * 10; k++)
                asm volatile("pause");
        }
        code_stop = 1;
        for (int i = 0; i < readers; i++)
            pthread_join(t[i], 0);
    }
    munmap((void *)code_write, PAGE);
    munmap(run, PAGE);
    close(file);
}

/* Random programs, and the same in C. Their immediates change between runs, and one while the program runs. */

enum { ADD, XOR, SUB, MUL, ROTATE, NOT, LEA, STEP, KINDS };

struct program {
    int ops, turns;
    struct { int kind; uint32_t operand; int at; } op[12];
    uint32_t (*run)(uint32_t);
    unsigned char *code;
};

static void put(unsigned char *code, int *at, const char *bytes, int count, uint32_t operand)
{
    memcpy(code + *at, bytes, count);
    memcpy(code + *at + count, &operand, 4);
    *at += count + 4;
}

/* Writes a loop over the operations, and keeps where each has its operand. */
static void compose(struct program *p, unsigned char *code, uint64_t *random, int self)
{
    int at = 0, top;
    p->code = code;
    p->run = (uint32_t (*)(uint32_t))(void *)code;
    p->ops = 3 + next(random) % 10;
    p->turns = self ? 60 : HOT;
    memcpy(code, "\x89\xf8", 2); /* mov eax, edi */
    at = 2;
    put(code, &at, "\xb9", 1, p->turns); /* mov ecx, turns */
    top = at;
    for (int k = 0; k < p->ops; k++) {
        int kind = next(random) % (self ? KINDS : STEP);
        uint32_t operand = next(random);
        p->op[k].kind = kind;
        switch (kind) {
        case ADD: put(code, &at, "\x05", 1, operand); break;
        case XOR: put(code, &at, "\x35", 1, operand); break;
        case SUB: put(code, &at, "\x2d", 1, operand); break;
        case MUL: put(code, &at, "\x69\xc0", 2, operand |= 1); break;
        case ROTATE:
            operand &= 31;
            memcpy(code + at, "\xc1\xc0", 2);
            code[at + 2] = operand;
            at += 3;
            break;
        case NOT:
            memcpy(code + at, "\xf7\xd0", 2);
            at += 2;
            break;
        case LEA: put(code, &at, "\x8d\x84\x80", 3, operand); break; /* lea eax, [rax+rax*4+operand] */
        case STEP: /* inc dword ptr [rip+1]; add eax, operand: it counts the operand of its neighbour up */
            put(code, &at, "\xff\x05", 2, 1);
            put(code, &at, "\x05", 1, operand);
            break;
        }
        p->op[k].operand = operand;
        p->op[k].at = kind == ROTATE ? at - 1 : at - 4;
    }
    memcpy(code + at, "\xff\xc9", 2); /* dec ecx */
    at += 2;
    put(code, &at, "\x0f\x85", 2, top - (at + 6)); /* jnz top */
    code[at] = 0xc3;
}

static uint32_t expected(struct program *p, uint32_t value)
{
    for (int turn = 0; turn < p->turns; turn++)
        for (int k = 0; k < p->ops; k++) {
            uint32_t operand = p->op[k].operand;
            switch (p->op[k].kind) {
            case ADD: value += operand; break;
            case XOR: value ^= operand; break;
            case SUB: value -= operand; break;
            case MUL: value *= operand; break;
            case ROTATE: value = operand ? value << operand | value >> (32 - operand) : value; break;
            case NOT: value = ~value; break;
            case LEA: value = value * 5 + operand; break;
            case STEP: value += ++p->op[k].operand; break;
            }
        }
    return value;
}

/* Another operand for one of the operations. */
static void change(struct program *p, uint64_t *random)
{
    int k = next(random) % p->ops;
    uint32_t operand = next(random);
    switch (p->op[k].kind) {
    case NOT: return;
    case ROTATE: p->code[p->op[k].at] = p->op[k].operand = operand & 31; return;
    default: memcpy(p->code + p->op[k].at, &operand, 4); p->op[k].operand = operand;
    }
}

static uint64_t seed = 0x9e3779b97f4a7c15;

static void *executable(size_t size)
{
    void *p = mmap(0, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap of code");
    return p;
}

static void run_written(unsigned char *area, uint64_t random, int rounds)
{
    struct program p;
    for (int round = 0; round < rounds; round++) {
        /* Also across the border of two pages. */
        unsigned char *code = area + (round & 1 ? PAGE - next(&random) % 100 : next(&random) % 3800);
        compose(&p, code, &random, round % 3 == 2);
        for (int k = 0; k < 4; k++) {
            uint32_t value = next(&random), want = expected(&p, value), got = p.run(value);
            if (got != want)
                fail("a program that was written", got, want);
            change(&p, &random);
        }
    }
}

static void *written_thread(void *number)
{
    unsigned char *area = executable(2 * PAGE);
    run_written(area, seed + (long)number, 24);
    munmap(area, 2 * PAGE);
    return 0;
}

void check_written(void)
{
    in_threads(written_thread, threads);
    seed = seed * 6364136223846793005 + 1442695040888963407;
}

/* A loop that only ends when another processor changes its own code. */

static unsigned char *awaited_write;
static uint32_t (*awaited_run)(void);
static volatile uint32_t awaited_round, awaited_seen[MOST];

static void *awaited_thread(void *number)
{
    long me = (long)number;
    for (uint32_t round = 1; round <= 40; round++) {
        while (awaited_round != round)
            sched_yield();
        serialise();
        uint32_t got = awaited_run();
        if (got != round)
            fail("the code that a loop waited for", got, round);
        awaited_seen[me] = round;
    }
    return 0;
}

void check_awaited(void)
{
    int readers = threads - 1, file = syscall(SYS_memfd_create, "awaited", 0);
    must(file >= 0 && !ftruncate(file, PAGE), "memfd_create");
    awaited_write = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *run = mmap(0, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    must(awaited_write != MAP_FAILED && run != MAP_FAILED, "mmap of code");
    /* 1: mov eax, 0 (its operand aligned); test eax, eax; jz 1b; ret */
    const int start = 0x7bf;
    memcpy(awaited_write + start, "\xb8\0\0\0\0\x85\xc0\x74\xf7\xc3", 10);
    awaited_run = (uint32_t (*)(void))(void *)(run + start);
    volatile uint32_t *operand = (volatile uint32_t *)(awaited_write + start + 1);
    awaited_round = 0;
    memset((void *)awaited_seen, 0, sizeof awaited_seen);
    pthread_t t[MOST];
    for (int i = 0; i < readers; i++)
        must(!pthread_create(&t[i], 0, awaited_thread, (void *)(long)i), "pthread_create");
    for (uint32_t round = 1; round <= 40; round++) {
        awaited_round = round;
        usleep(round % 4 * 700);
        *operand = round;
        double deadline = now() + 120;
        for (int i = 0; i < readers; i++)
            while (awaited_seen[i] != round) {
                sched_yield();
                if (now() > deadline)
                    fail("a loop does not see that it has been changed", awaited_seen[i], round);
            }
        *operand = 0;
    }
    for (int i = 0; i < readers; i++)
        pthread_join(t[i], 0);
    munmap(awaited_write, PAGE);
    munmap(run, PAGE);
    close(file);
}

/* A page of code shared by processes: each writes in turn, all run it. */

struct together {
    volatile uint32_t turn, version, wrong;
};

static void shared_process(struct together *t, unsigned char *write, unsigned char *run, uint32_t me, uint32_t all)
{
    uint32_t (*f)(uint32_t) = (uint32_t (*)(uint32_t))(void *)(run + 0x100);
    for (uint32_t turn = me; turn < 12 * all; turn += all) {
        double deadline = now() + 120;
        while (t->turn != turn) {
            sched_yield();
            if (now() > deadline || t->wrong) {
                t->wrong = 1;
                _exit(3);
            }
        }
        serialise();
        for (int k = 0; k < 3; k++) {
            /* What the process before has left, and then one's own. */
            uint32_t version = t->version, got = f(HOT);
            if (got != version * HOT) {
                t->wrong = 1;
                fail("code that another process wrote", got, version * HOT);
            }
            *(volatile uint32_t *)(write + 0x104) = t->version = version + 1 + me;
            serialise();
        }
        t->turn = turn + 1;
    }
}

void check_shared(void)
{
    uint32_t all = threads > 4 ? 4 : threads;
    int file = syscall(SYS_memfd_create, "shared", 0);
    must(file >= 0 && !ftruncate(file, PAGE), "memfd_create");
    unsigned char *write = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct together *t = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(write != MAP_FAILED && t != MAP_FAILED, "mmap of code");
    /* xor eax, eax; 1: add eax, 0 (its operand aligned); dec edi; jnz 1b; ret */
    memcpy(write + 0x100, "\x31\xc0\x90\x05\0\0\0\0\xff\xcf\x75\xf7\xc3", 13);
    pid_t pid[4];
    for (uint32_t me = 0; me < all; me++) {
        pid[me] = fork();
        must(pid[me] >= 0, "fork");
        if (!pid[me]) {
            /* Each has it at another address. */
            unsigned char *at = (unsigned char *)0x12340000 + me * 0x7000;
            void *run = mmap(at, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, 0);
            must(run == at, "mmap of code");
            shared_process(t, write, run, me, all);
            _exit(0);
        }
    }
    for (uint32_t me = 0; me < all; me++) {
        int status;
        must(waitpid(pid[me], &status, 0) == pid[me], "waitpid");
        if (status)
            fail("a process that shares code", status, 0);
    }
    munmap(write, PAGE);
    munmap(t, PAGE);
    close(file);
}

/* Processes that inherit code, change it, and have processes of their own; the same addresses in all of them. */

static void storm_process(unsigned char *area, uint32_t (*f)(uint32_t), uint32_t inherits, uint32_t me, int depth)
{
    uint32_t got = f(HOT / 4);
    if (got != inherits * (HOT / 4))
        fail("inherited code", got, inherits * (HOT / 4));
    memcpy(area + 3, &me, 4);
    for (int k = 0; k < 4; k++) {
        got = f(HOT / 4);
        if (got != me * (HOT / 4))
            fail("one's own code", got, me * (HOT / 4));
        if (k & 1)
            sched_yield();
    }
    pid_t pid[2];
    for (int k = 0; k < 2 && depth; k++) {
        pid[k] = fork();
        must(pid[k] >= 0, "fork");
        if (!pid[k]) {
            storm_process(area, f, me, me * 2 + k, depth - 1);
            if (depth == 1 && k) {
                execl("/proc/self/exe", "smp", "exit", "0", (char *)0);
                _exit(98);
            }
            _exit(0);
        }
    }
    got = f(HOT / 4);
    if (got != me * (HOT / 4))
        fail("code after a fork", got, me * (HOT / 4));
    for (int k = 0; k < 2 && depth; k++) {
        int status;
        must(waitpid(pid[k], &status, 0) == pid[k], "waitpid");
        if (status)
            fail("a process of the storm", status, 0);
    }
}

void check_storm(void)
{
    unsigned char *area = executable(PAGE);
    memcpy(area, "\x31\xc0\x05\1\0\0\0\xff\xcf\x75\xf7\xc3", 12);
    for (int round = 0; round < 3; round++) {
        pid_t pid = fork();
        must(pid >= 0, "fork");
        if (!pid) {
            storm_process(area, (uint32_t (*)(uint32_t))(void *)area, 1, 3 + round, 3);
            _exit(0);
        }
        int status;
        must(waitpid(pid, &status, 0) == pid, "waitpid");
        if (status)
            fail("the storm", status, 0);
    }
    munmap(area, PAGE);
}

/* Code that comes, goes, moves and loses its rights. */

static __thread sigjmp_buf moved_jump;
static __thread volatile void *moved_at;

static void moved_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    moved_at = info->si_addr;
    siglongjmp(moved_jump, 1);
}

static volatile int moved_stop;
static unsigned char *moved_page;

/* Runs a page whose rights come and go. */
static void *moved_runner(void *number)
{
    uint32_t (*f)(uint32_t) = (uint32_t (*)(uint32_t))(void *)moved_page;
    (void)number;
    while (!moved_stop)
        if (!sigsetjmp(moved_jump, 1)) {
            while (!moved_stop) {
                uint32_t got = f(200);
                if (got != 1400)
                    fail("code whose rights change", got, 1400);
            }
        } else if ((unsigned char *)moved_at < moved_page || (unsigned char *)moved_at >= moved_page + PAGE) {
            fail("a fault in a page of code", (long)moved_at, (long)moved_page);
        } else {
            sched_yield();
        }
    return 0;
}

static void run_gone(uint32_t (*f)(uint32_t), const unsigned char *at)
{
    if (!sigsetjmp(moved_jump, 1))
        fail("code in a page that is gone", f(1), 0);
    if ((unsigned char *)moved_at != at)
        fail("a fault in a page that is gone", (long)moved_at, (long)at);
}

static void *moved_thread(void *number)
{
    unsigned char *at = (unsigned char *)0x23450000 + (long)number * 0x10000;
    uint32_t (*f)(uint32_t) = (uint32_t (*)(uint32_t))(void *)at;
    for (uint32_t round = 1; round <= 30; round++) {
        void *p = mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        must(p == at, "mmap");
        memcpy(at, "\x31\xc0\x05\0\0\0\0\xff\xcf\x75\xf7\xc3", 12);
        memcpy(at + 3, &round, 4);
        must(!mprotect(at, PAGE, PROT_READ | PROT_EXEC), "mprotect");
        uint32_t got = f(HOT / 2);
        if (got != round * (HOT / 2))
            fail("code in a new page", got, round * (HOT / 2));
        /* The same page elsewhere, and another one here. */
        unsigned char *there = mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + 0x8000);
        must(there == at + 0x8000, "mremap");
        got = ((uint32_t (*)(uint32_t))(void *)there)(HOT / 2);
        if (got != round * (HOT / 2))
            fail("code that has moved", got, round * (HOT / 2));
        run_gone(f, at);
        munmap(there, PAGE);
    }
    return 0;
}

void check_moved(void)
{
    struct sigaction action = { .sa_sigaction = moved_fault, .sa_flags = SA_SIGINFO }, old;
    sigaction(SIGSEGV, &action, &old);
    moved_page = executable(PAGE);
    memcpy(moved_page, "\x31\xc0\x05\7\0\0\0\xff\xcf\x75\xf7\xc3", 12);
    moved_stop = 0;
    pthread_t runner;
    must(!pthread_create(&runner, 0, moved_runner, 0), "pthread_create");
    for (int round = 0; round < 100; round++) {
        static const int rights[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
        must(!mprotect(moved_page, PAGE, rights[round % 3]), "mprotect");
        for (int k = 0; k < 200; k++)
            asm volatile("pause");
        must(!mprotect(moved_page, PAGE, PROT_READ | PROT_EXEC), "mprotect");
        usleep(round % 8 * 100);
    }
    moved_stop = 1;
    pthread_join(runner, 0);
    munmap(moved_page, PAGE);
    in_threads(moved_thread, threads);
    sigaction(SIGSEGV, &old, 0);
}

/* Registers are those of the instruction that a signal or a fault comes to, and of no other. */

extern const char exact_first[], exact_second[], exact_load[], exact_last[], exact_end[];
uint64_t exact_loop(uint64_t turns, volatile uint64_t *memory);

/* rax counts; rbx is 3 * rax + 5 except between two instructions; rdx sums up what the page holds. */
asm(".pushsection .text\n"
    ".globl exact_loop\n"
    "exact_loop:\n\tpush %rbx\n\txor %eax, %eax\n\tmov $5, %ebx\n\txor %edx, %edx\n\txor %ecx, %ecx\n"
    "exact_first:\n\tinc %rax\n"
    "exact_second:\n\tlea 5(%rax,%rax,2), %rbx\n"
    "exact_load:\n\tadd (%rsi), %rdx\n"
    "exact_last:\n\tinc %rcx\n\tcmp %rdi, %rax\n\tjne exact_first\n"
    "exact_end:\n\tmov %rdx, %rax\n\tpop %rbx\n\tret\n"
    ".popsection\n");

static volatile int exact_signals, exact_faults, exact_inside;
static unsigned char *exact_page;

static void exact_check(ucontext_t *context)
{
    const greg_t *r = context->uc_mcontext.gregs;
    const char *ip = (const char *)r[REG_RIP];
    if (ip < exact_first || ip >= exact_end)
        return;
    exact_inside++;
    uint64_t count = r[REG_RAX], behind = ip == exact_second;
    if ((uint64_t)r[REG_RBX] != 3 * (count - behind) + 5)
        fail("a register at a signal", r[REG_RBX], 3 * (count - behind) + 5);
    uint64_t sum = count - (ip == exact_second || ip == exact_load);
    if ((uint64_t)r[REG_RDX] != sum)
        fail("a sum at a signal", r[REG_RDX], sum);
    uint64_t turns = count - (ip == exact_second || ip == exact_load || ip == exact_last);
    if ((uint64_t)r[REG_RCX] != turns)
        fail("a count at a signal", r[REG_RCX], turns);
}

static void exact_alarm(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    exact_check(context);
    exact_signals++;
    /* The loop's next load fails. */
    if (exact_signals & 1)
        mprotect(exact_page, PAGE, PROT_NONE);
}

static void exact_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    const char *ip = (const char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (ip != exact_load || info->si_addr != exact_page)
        fail("the instruction of a fault", (long)ip, (long)exact_load);
    exact_check(context);
    exact_faults++;
    mprotect(exact_page, PAGE, PROT_READ | PROT_WRITE);
}

void check_exact(void)
{
    struct sigaction alarm = { .sa_sigaction = exact_alarm, .sa_flags = SA_SIGINFO | SA_RESTART }, old_alarm;
    struct sigaction fault = { .sa_sigaction = exact_fault, .sa_flags = SA_SIGINFO }, old_fault;
    sigaddset(&alarm.sa_mask, SIGSEGV);
    exact_page = memory(PAGE);
    *(uint64_t *)exact_page = 1;
    exact_signals = exact_faults = exact_inside = 0;
    sigaction(SIGSEGV, &fault, &old_fault);
    sigaction(SIGALRM, &alarm, &old_alarm);
    struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
    setitimer(ITIMER_REAL, &often, 0);
    uint64_t turns = 200000;
    double deadline = now() + 120;
    while (exact_inside < 60 || exact_faults < 20) {
        uint64_t got = exact_loop(turns, (volatile uint64_t *)exact_page);
        if (got != turns)
            fail("a loop with signals", got, turns);
        if (now() > deadline)
            fail("signals that came to the loop", exact_inside, 60);
    }
    setitimer(ITIMER_REAL, &never, 0);
    sigaction(SIGALRM, &old_alarm, 0);
    sigaction(SIGSEGV, &old_fault, 0);
    munmap(exact_page, PAGE);
}
