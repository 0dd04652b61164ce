/* Copies of many bytes. */
#include "bench.h"

#include <emmintrin.h>
#include <string.h>

enum {
    LARGE = 1 << 20,
    /* From a source to its copy: no multiple of what simple tables of pages repeat after. */
    AWAY = LARGE + 35 * 4096 + 64,
};

/* The source of copies, and room behind it. */
static unsigned char *buffer(void)
{
    static unsigned char *all;
    if (!all) {
        all = memory(4 * LARGE);
        for (long k = 0; k < LARGE + 16; k++)
            all[k] = (unsigned char)(k * 31 >> 3);
    }
    return all;
}

static uint64_t sample(const unsigned char *p, size_t bytes)
{
    uint64_t hash = 0;
    for (size_t k = 0; k < bytes; k += 509)
        hash = mix(hash, p[k]);
    return hash;
}

static void rep_movsb(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static uint64_t run_rep_large(void)
{
    unsigned char *p = buffer();
    rep_movsb(p + AWAY, p, LARGE);
    return sample(p + AWAY, LARGE);
}

static uint64_t run_rep_short(void)
{
    unsigned char *p = buffer(), *to = p + AWAY;
    memset(to, 0, 4096);
    for (unsigned k = 0; k < 20000; k++) {
        unsigned n = 1 + k % 64;
        rep_movsb(to + k % 4000, p + k % 3000, n);
    }
    return sample(to, 4096);
}

static uint64_t run_sse(void)
{
    unsigned char *p = buffer();
    for (long k = 0; k < LARGE; k += 64) {
        __m128i a = _mm_loadu_si128((__m128i *)(p + k)), b = _mm_loadu_si128((__m128i *)(p + k + 16));
        __m128i c = _mm_loadu_si128((__m128i *)(p + k + 32)), d = _mm_loadu_si128((__m128i *)(p + k + 48));
        _mm_storeu_si128((__m128i *)(p + AWAY + k), a);
        _mm_storeu_si128((__m128i *)(p + AWAY + k + 16), b);
        _mm_storeu_si128((__m128i *)(p + AWAY + k + 32), c);
        _mm_storeu_si128((__m128i *)(p + AWAY + k + 48), d);
    }
    return sample(p + AWAY, LARGE);
}

/* Eight bytes from here, eight bytes to there, 4 MiB apart: places that share an entry of simple tables. Nothing else is touched, so
 * that such a table has no reason to grow. */
static uint64_t run_apart(void)
{
    static uint64_t *from;
    if (!from) {
        from = memory(5 * LARGE);
        for (long k = 0; k < LARGE; k++)
            ((unsigned char *)from)[k] = (unsigned char)(k * 31 >> 3);
    }
    uint64_t *to = from + (4 * LARGE) / 8;
    for (long k = 0; k < LARGE / 8; k++) {
        uint64_t v = from[k];
        OPAQUE(v);
        to[k] = v;
    }
    return sample((unsigned char *)to, LARGE);
}

static uint64_t run_memcpy(void)
{
    unsigned char *p = buffer(), *copy = p + AWAY, *other = copy + LARGE + 3 * 4096;
    size_t n = LARGE;
    OPAQUE(n);
    memcpy(copy, p + 3, n);
    memmove(copy + 5, copy, n - 5);
    memset(other, 0x5a, n);
    return sample(copy, LARGE) ^ other[LARGE - 1];
}

const struct row memory_rows[] = {
    { "memory", "rep-movs-large", run_rep_large, 2800, 0xa3b26808c3d42fec },
    { "memory", "rep-movs-short", run_rep_short, 4300, 0x9e435550b6c92831 },
    { "memory", "sse-copy", run_sse, 13000, 0xa3b26808c3d42fec },
    { "memory", "4-mib-apart", run_apart, 1600, 0xa3b26808c3d42fec },
    { "memory", "memcpy", run_memcpy, 2700, 0x8c2b009061010ce5 },
    { 0 },
};
