/* What smp.c and smp_code.c share. */
#include <stddef.h>

#define PAGE 4096
#define MOST 64

/* How many threads the checks have. */
extern int threads;

double now(void);
/* Something is a and not b: the end. */
_Noreturn void fail(const char *what, long a, long b);
/* The system must have done it. */
void must(int yes, const char *what);
/* Fresh pages. */
void *memory(size_t size);
/* Runs f in so many threads; each gets its number. */
void in_threads(void *(*f)(void *), int count);

/* Code: see smp_code.c. */
void check_code(void);
void check_written(void);
void check_awaited(void);
void check_shared(void);
void check_storm(void);
void check_moved(void);
void check_exact(void);
