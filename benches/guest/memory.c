/* Copies of many bytes. */
#include "bench.h"

#include <emmintrin.h>
#include <string.h>

enum { LARGE = 1 << 20 };

/* Two buffers, and a third at the same place in its 4 MiB as the first. */
static unsigned char *buffers(void)
{
    static unsigned char *all;
    if (!all) {
        all = memory(16 << 20);
        for (long k = 0; k < 16 << 20; k++)
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
    unsigned char *p = buffers();
    rep_movsb(p + LARGE + 64, p, LARGE);
    return sample(p + LARGE + 64, LARGE);
}

static uint64_t run_rep_short(void)
{
    unsigned char *p = buffers(), *to = p + 12 * LARGE;
    memset(to, 0, 4096);
    for (unsigned k = 0; k < 20000; k++) {
        unsigned n = 1 + k % 64;
        rep_movsb(to + k % 4000, p + k % 3000, n);
    }
    return sample(to, 4096);
}

static uint64_t run_sse(void)
{
    unsigned char *p = buffers();
    for (long k = 0; k < LARGE; k += 64) {
        __m128i a = _mm_loadu_si128((__m128i *)(p + k)), b = _mm_loadu_si128((__m128i *)(p + k + 16));
        __m128i c = _mm_loadu_si128((__m128i *)(p + k + 32)), d = _mm_loadu_si128((__m128i *)(p + k + 48));
        _mm_storeu_si128((__m128i *)(p + 2 * LARGE + k), a);
        _mm_storeu_si128((__m128i *)(p + 2 * LARGE + k + 16), b);
        _mm_storeu_si128((__m128i *)(p + 2 * LARGE + k + 32), c);
        _mm_storeu_si128((__m128i *)(p + 2 * LARGE + k + 48), d);
    }
    return sample(p + 2 * LARGE, LARGE);
}

/* Eight bytes from here, eight bytes to there, 4 MiB apart: places that share an entry of simple tables. */
static uint64_t run_apart(void)
{
    uint64_t *from = (uint64_t *)buffers(), *to = (uint64_t *)(buffers() + (4 << 20));
    for (long k = 0; k < LARGE / 8; k++) {
        uint64_t v = from[k];
        OPAQUE(v);
        to[k] = v;
    }
    return sample((unsigned char *)to, LARGE);
}

static uint64_t run_memcpy(void)
{
    unsigned char *p = buffers();
    size_t n = LARGE;
    OPAQUE(n);
    memcpy(p + 8 * LARGE, p + 3, n);
    memmove(p + 8 * LARGE + 5, p + 8 * LARGE, n - 5);
    memset(p + 10 * LARGE, 0x5a, n);
    return sample(p + 8 * LARGE, LARGE) ^ p[11 * LARGE - 1];
}

const struct row memory_rows[] = {
    { "memory", "rep-movs-large", run_rep_large, 3000, 0xa3b26808c3d42fec },
    { "memory", "rep-movs-short", run_rep_short, 500, 0x9e435550b6c92831 },
    { "memory", "sse-copy", run_sse, 1000, 0xa3b26808c3d42fec },
    { "memory", "4-mib-apart", run_apart, 500, 0xa3b26808c3d42fec },
    { "memory", "memcpy", run_memcpy, 600, 0x8c2b009061010ce5 },
    { 0 },
};
