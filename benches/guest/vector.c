/* Packed floating point and integers, shuffles, and the C library's string functions. */
#include "bench.h"

#include <emmintrin.h>
#include <string.h>
#include <tmmintrin.h>

enum { N = 4096 };

static uint64_t hash_of(const void *p, size_t bytes)
{
    uint64_t hash = 0, word;
    for (size_t k = 0; k + 8 <= bytes; k += 8) {
        memcpy(&word, (const char *)p + k, 8);
        hash = mix(hash, word);
    }
    return hash;
}

static uint64_t run_f32(void)
{
    static float a[N] __attribute__((aligned(16))), b[N] __attribute__((aligned(16)));
    for (int k = 0; k < N; k++) {
        a[k] = (float)(k % 17) - 8.5f;
        b[k] = (float)(k % 13) * 0.125f;
    }
    __m128 limit = _mm_set1_ps(100), scale = _mm_set1_ps(0.75f);
    for (int round = 0; round < 200; round++)
        for (int k = 0; k < N; k += 4) {
            __m128 x = _mm_load_ps(a + k), y = _mm_load_ps(b + k);
            x = _mm_add_ps(_mm_mul_ps(x, scale), y);
            y = _mm_sub_ps(_mm_min_ps(x, limit), _mm_mul_ps(y, scale));
            _mm_store_ps(a + k, x);
            _mm_store_ps(b + k, y);
        }
    return hash_of(a, sizeof(a)) ^ hash_of(b, sizeof(b));
}

static uint64_t run_f64(void)
{
    static double a[N] __attribute__((aligned(16))), b[N] __attribute__((aligned(16)));
    for (int k = 0; k < N; k++) {
        a[k] = k % 17 - 8.5;
        b[k] = k % 13 * 0.125 + 1;
    }
    __m128d scale = _mm_set1_pd(0.625);
    for (int round = 0; round < 100; round++)
        for (int k = 0; k < N; k += 2) {
            __m128d x = _mm_load_pd(a + k), y = _mm_load_pd(b + k);
            x = _mm_add_pd(_mm_mul_pd(x, scale), y);
            y = _mm_max_pd(_mm_div_pd(x, y), scale);
            _mm_store_pd(a + k, x);
            _mm_store_pd(b + k, y);
        }
    return hash_of(a, sizeof(a)) ^ hash_of(b, sizeof(b));
}

static uint64_t run_integers(void)
{
    static uint8_t a[N * 4] __attribute__((aligned(16))), b[N * 4] __attribute__((aligned(16)));
    for (int k = 0; k < N * 4; k++) {
        a[k] = (uint8_t)(k * 7);
        b[k] = (uint8_t)(k * 13 + 5);
    }
    for (int round = 0; round < 100; round++)
        for (int k = 0; k < N * 4; k += 16) {
            __m128i x = _mm_load_si128((__m128i *)(a + k)), y = _mm_load_si128((__m128i *)(b + k));
            __m128i greater = _mm_cmpgt_epi8(x, y);
            __m128i sum = _mm_adds_epu8(_mm_avg_epu8(x, y), _mm_and_si128(greater, x));
            __m128i wide = _mm_madd_epi16(x, y);
            x = _mm_xor_si128(sum, _mm_packs_epi32(wide, _mm_srli_epi32(wide, 3)));
            y = _mm_add_epi32(y, _mm_shuffle_epi32(x, 0x1b));
            _mm_store_si128((__m128i *)(a + k), x);
            _mm_store_si128((__m128i *)(b + k), y);
        }
    return hash_of(a, sizeof(a)) ^ hash_of(b, sizeof(b));
}

static __attribute__((target("ssse3"))) uint64_t run_shuffles(void)
{
    static uint8_t a[N * 4] __attribute__((aligned(16)));
    for (int k = 0; k < N * 4; k++)
        a[k] = (uint8_t)(k * 29 + 3);
    __m128i order = _mm_setr_epi8(3, 1, 0, 2, 7, 5, 4, 6, 11, -1, 8, 10, 15, 13, 12, 14);
    __m128i before = _mm_setzero_si128();
    for (int round = 0; round < 150; round++)
        for (int k = 0; k < N * 4; k += 16) {
            __m128i x = _mm_load_si128((__m128i *)(a + k));
            __m128i y = _mm_shuffle_epi8(x, order);
            y = _mm_add_epi8(_mm_alignr_epi8(y, before, 5), _mm_maddubs_epi16(y, x));
            before = _mm_abs_epi8(_mm_hadd_epi16(x, y));
            _mm_store_si128((__m128i *)(a + k), _mm_xor_si128(y, before));
        }
    return hash_of(a, sizeof(a));
}

/* strlen, memchr, strcmp, strchr, memcmp, strstr: lengths of every size, places of every alignment. */
static uint64_t run_strings(void)
{
    static char a[8192], b[8192];
    uint64_t hash = 0;
    for (int k = 0; k < 8191; k++)
        a[k] = b[k] = (char)('a' + k % 23);
    a[8191] = b[8191] = 0;
    for (int k = 1; k < 400; k++) {
        size_t n = (size_t)(k * 37) % 2000 + 1;
        char *p = a + k % 61, *q = b + k % 61, saved = p[n];
        p[n] = 0;
        hash = mix(hash, strlen(p));
        p[n] = '~';
        hash = mix(hash, (uint64_t)((char *)memchr(p, '~', 4096) - p));
        hash = mix(hash, (uint64_t)(strchr(p, '~') - p));
        hash = mix(hash, strcmp(p, q) > 0);
        p[n] = saved;
        hash = mix(hash, memcmp(p, q, n) == 0);
        hash = mix(hash, strncmp(p, q, n + 5) == 0);
    }
    return hash;
}

const struct row vector_rows[] = {
    { "vector", "packed-f32", run_f32, 500, 0x408b989a6d88cc46 },
    { "vector", "packed-f64", run_f64, 750, 0xa2a85e939df075b },
    { "vector", "packed-integer", run_integers, 1300, 0x727abe0713c424c5 },
    { "vector", "ssse3-shuffles", run_shuffles, 790, 0x9257044df31bf68b },
    { "vector", "strings", run_strings, 4200, 0xd08c7c22e9591587 },
    { 0 },
};
