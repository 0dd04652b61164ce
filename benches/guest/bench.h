/* What the rows of the benchmark share. A row is a function that does a fixed amount of work and gives a number that depends
 * on all of it; the number must be the known one. Who runs the program times it from outside, by the lines it prints. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

struct row {
    /* Group and name: what tables say. */
    const char *group, *name;
    /* One round of the work. */
    uint64_t (*run)(void);
    /* How many rounds. */
    unsigned rounds;
    /* What each round gives. */
    uint64_t expected;
    /* Processors that it keeps busy; 0 is one. */
    unsigned processors;
};

/* The rows of one file, ended by one without a name. */
extern const struct row integer_rows[], float_rows[], vector_rows[], memory_rows[], system_rows[], code_rows[], thread_rows[];

/* The same sequence in each round: SplitMix64. */
struct sequence {
    uint64_t state;
};

static inline uint64_t next(struct sequence *s)
{
    uint64_t z = s->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x100000001b3;
    return hash ^ hash >> 29;
}

/* Memory that stays for the whole run. Ends the program where there is none. */
void *memory(size_t bytes);
/* Memory that may be written and run. */
unsigned char *code_memory(size_t bytes);
/* Ends the program with a message if `ok` is 0. */
void need(int ok, const char *what);

/* The compiler knows nothing of the value any more. */
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

#endif
