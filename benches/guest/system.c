/* What programs ask of the kernel. */
#define _GNU_SOURCE
#include "bench.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t run_syscalls(void)
{
    uint64_t sum = 0;
    for (int k = 0; k < 20000; k++)
        sum += syscall(SYS_getppid) >= 0;
    return sum;
}

static uint64_t run_clock(void)
{
    struct timespec before = { 0, 0 }, now;
    uint64_t sum = 0;
    for (int k = 0; k < 50000; k++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        sum += now.tv_sec > before.tv_sec || (now.tv_sec == before.tv_sec && now.tv_nsec >= before.tv_nsec);
        before = now;
    }
    return sum;
}

static uint64_t run_faults(void)
{
    enum { PAGES = 1000 };
    uint64_t sum = 0;
    unsigned char *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p != MAP_FAILED, "mmap");
    for (int k = 0; k < PAGES; k++) {
        p[k * 4096 + k % 4096] = (unsigned char)(k | 1);
        sum += p[k * 4096 + k % 4096] & 1;
    }
    munmap(p, PAGES * 4096);
    return sum;
}

static uint64_t run_mprotect(void)
{
    uint64_t sum = 0;
    unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p != MAP_FAILED, "mmap");
    for (int k = 0; k < 3000; k++) {
        p[0] = (unsigned char)k;
        need(mprotect(p, 4096, PROT_READ) == 0, "mprotect");
        sum += p[0];
        need(mprotect(p, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    }
    munmap(p, 4096);
    return sum;
}

/* Two processes that wait for each other's byte. */
static uint64_t run_switch(void)
{
    enum { TIMES = 2000 };
    int there[2], back[2], status = 0;
    need(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        char c;
        while (read(there[0], &c, 1) == 1 && c != 'q') {
            c++;
            if (write(back[1], &c, 1) != 1)
                break;
        }
        _exit(0);
    }
    uint64_t sum = 0;
    char c;
    for (int k = 0; k < TIMES; k++) {
        c = 'a';
        need(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "pipe");
        sum += c == 'b';
    }
    c = 'q';
    need(write(there[1], &c, 1) == 1, "pipe");
    waitpid(child, &status, 0);
    close(there[0]);
    close(there[1]);
    close(back[0]);
    close(back[1]);
    return sum + (uint64_t)status;
}

static uint64_t run_exec(void)
{
    uint64_t sum = 0;
    for (int k = 0; k < 20; k++) {
        int status = 0;
        pid_t child = fork();
        need(child >= 0, "fork");
        if (child == 0) {
            execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
            _exit(1);
        }
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

const struct row system_rows[] = {
    { "system", "syscalls", run_syscalls, 720, 20000 },
    { "system", "clock", run_clock, 2200, 50000 },
    { "system", "page-faults", run_faults, 480, 1000 },
    { "system", "mprotect", run_mprotect, 240, 0x5bc44 },
    { "system", "process-switch", run_switch, 41, 2000 },
    { "system", "fork-exec", run_exec, 47, 140 },
    { 0 },
};
