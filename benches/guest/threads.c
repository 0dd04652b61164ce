/* Atomic operations, alone and by two threads on the same words. */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>

static uint64_t run_atomics(void)
{
    static _Atomic uint64_t word;
    uint64_t seen = 0;
    atomic_store(&word, 1);
    for (uint64_t k = 0; k < 300000; k++) {
        atomic_fetch_add(&word, k);
        uint64_t old = atomic_load(&word);
        if (atomic_compare_exchange_strong(&word, &old, old ^ k << 7))
            seen += old & 3;
        seen += atomic_exchange(&word, old + 1) & 1;
    }
    return mix(seen, atomic_load(&word));
}

static _Atomic uint64_t shared, turn;
enum { EACH = 100000 };

static void *adder(void *argument)
{
    (void)argument;
    for (int k = 0; k < EACH; k++)
        atomic_fetch_add(&shared, 1);
    return NULL;
}

static uint64_t run_two(void)
{
    pthread_t other;
    atomic_store(&shared, 0);
    need(pthread_create(&other, NULL, adder, NULL) == 0, "pthread_create");
    adder(NULL);
    pthread_join(other, NULL);
    return atomic_load(&shared);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *locker(void *argument)
{
    (void)argument;
    for (int k = 0; k < EACH / 4; k++) {
        pthread_mutex_lock(&lock);
        uint64_t v = atomic_load_explicit(&turn, memory_order_relaxed);
        atomic_store_explicit(&turn, v + 1, memory_order_relaxed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static uint64_t run_mutex(void)
{
    pthread_t other;
    atomic_store(&turn, 0);
    need(pthread_create(&other, NULL, locker, NULL) == 0, "pthread_create");
    locker(NULL);
    pthread_join(other, NULL);
    return atomic_load(&turn);
}

const struct row thread_rows[] = {
    { "threads", "atomics", run_atomics, 670, 0x3eec42cc4f89412e, 2 },
    { "threads", "two-adders", run_two, 4000, 2 * EACH, 2 },
    { "threads", "two-lockers", run_mutex, 2500, EACH / 4 * 2, 2 },
    { 0 },
};
