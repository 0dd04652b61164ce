/* Runs rows by name, or all of them. For each it prints
 *     begin GROUP NAME
 *     end GROUP NAME ROUNDS ok|wrong VALUE
 * as one line each, so that whoever reads them can take the time between.
 * Arguments: names of rows or groups; `list` prints what there is. A number first multiplies all rounds, in per cent. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct row *const all[] = {
    integer_rows, float_rows, vector_rows, memory_rows, system_rows, code_rows, thread_rows,
};

void need(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(2);
    }
}

void *memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    need(p != MAP_FAILED, "mmap");
    return p;
}

unsigned char *code_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    need(p != MAP_FAILED, "mmap");
    return p;
}

static int wanted(const struct row *row, int argc, char **argv)
{
    if (argc == 0)
        return 1;
    for (int k = 0; k < argc; k++)
        if (!strcmp(argv[k], row->name) || !strcmp(argv[k], row->group))
            return 1;
    return 0;
}

static int run(const struct row *row, unsigned percent)
{
    unsigned rounds = (unsigned)((unsigned long)row->rounds * percent / 100);
    if (rounds == 0)
        rounds = 1;
    printf("begin %s %s\n", row->group, row->name);
    fflush(stdout);
    uint64_t value = 0;
    int ok = 1;
    for (unsigned k = 0; k < rounds; k++) {
        value = row->run();
        ok &= value == row->expected;
    }
    printf("end %s %s %u %s %#llx\n", row->group, row->name, rounds, ok ? "ok" : "wrong", (unsigned long long)value);
    fflush(stdout);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "list")) {
        for (size_t g = 0; g < sizeof(all) / sizeof(all[0]); g++)
            for (const struct row *row = all[g]; row->name; row++)
                printf("%s %s %u %u\n", row->group, row->name, row->rounds, row->processors ? row->processors : 1);
        return 0;
    }
    /* Started again by the row that measures fork and exec. */
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 7;
    unsigned percent = 100;
    argc--;
    argv++;
    if (argc > 0 && argv[0][0] >= '0' && argv[0][0] <= '9') {
        percent = (unsigned)atoi(argv[0]);
        argc--;
        argv++;
    }
    int ok = 1, met = 0;
    for (size_t g = 0; g < sizeof(all) / sizeof(all[0]); g++)
        for (const struct row *row = all[g]; row->name; row++)
            if (wanted(row, argc, argv)) {
                met = 1;
                ok &= run(row, percent);
            }
    if (!met) {
        fprintf(stderr, "bench: no such row or group; try: bench list\n");
        return 2;
    }
    return ok ? 0 : 1;
}
