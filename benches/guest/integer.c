/* Integer programs: what compilers make of plain C, and a few instructions that C does not reach. */
#include "bench.h"

#include <string.h>

/* Quicksort of 64-bit numbers, insertion sort below sixteen. */
static void sort(uint64_t *v, long n)
{
    while (n > 16) {
        uint64_t a = v[0], b = v[n / 2], c = v[n - 1];
        uint64_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        long i = 0, k = n - 1;
        for (;;) {
            while (v[i] < pivot)
                i++;
            while (v[k] > pivot)
                k--;
            if (i >= k)
                break;
            uint64_t t = v[i];
            v[i++] = v[k];
            v[k--] = t;
        }
        sort(v + k + 1, n - k - 1);
        n = k + 1;
    }
    for (long i = 1; i < n; i++) {
        uint64_t x = v[i];
        long k = i;
        for (; k > 0 && v[k - 1] > x; k--)
            v[k] = v[k - 1];
        v[k] = x;
    }
}

static uint64_t run_sort(void)
{
    enum { N = 100000 };
    static uint64_t v[N];
    struct sequence s = { 1 };
    for (int k = 0; k < N; k++)
        v[k] = next(&s);
    sort(v, N);
    uint64_t hash = 0;
    for (int k = 0; k < N; k++)
        hash = mix(hash, v[k]);
    return hash;
}

static uint64_t run_sieve(void)
{
    enum { N = 1000000 };
    static unsigned char composite[N];
    memset(composite, 0, N);
    uint64_t hash = 0;
    for (unsigned long k = 2; k < N; k++) {
        if (composite[k])
            continue;
        hash = mix(hash, k);
        for (unsigned long m = k * k; m < N; m += k)
            composite[m] = 1;
    }
    return hash;
}

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* FIPS 180-4. The constants are the fractions of square and cube roots of primes; they are computed, to keep the table out. */
static uint32_t sha_k[64], sha_h[8];

static uint32_t root_fraction(unsigned prime, int cube)
{
    /* The largest r with r^2 or r^3 <= prime * 2^64 or 2^96, by bits; its low 32 bits are the fraction. */
    unsigned __int128 target = (unsigned __int128)prime << 64;
    uint64_t r = 0;
    for (int bit = 36; bit >= 0; bit--) {
        uint64_t t = r | 1ull << bit;
        int fits = cube ? (unsigned __int128)t * t <= (((unsigned __int128)prime << 96) / t)
                        : (unsigned __int128)t * t <= target;
        if (fits)
            r = t;
    }
    return (uint32_t)r;
}

static void sha_constants(void)
{
    int n = 0;
    for (unsigned k = 2; n < 64; k++) {
        int prime = 1;
        for (unsigned d = 2; d * d <= k; d++)
            prime &= k % d != 0;
        if (!prime)
            continue;
        if (n < 8)
            sha_h[n] = root_fraction(k, 0);
        sha_k[n++] = root_fraction(k, 1);
    }
}

static void sha_block(uint32_t *h, const uint8_t *block)
{
    uint32_t w[64], v[8];
    for (int k = 0; k < 16; k++)
        w[k] = (uint32_t)block[4 * k] << 24 | (uint32_t)block[4 * k + 1] << 16 | (uint32_t)block[4 * k + 2] << 8
            | block[4 * k + 3];
    for (int k = 16; k < 64; k++) {
        uint32_t a = w[k - 15], b = w[k - 2];
        w[k] = w[k - 16] + w[k - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof(v));
    for (int k = 0; k < 64; k++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + sha_k[k] + w[k];
        uint32_t u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        for (int n = 7; n > 0; n--)
            v[n] = v[n - 1];
        v[4] += t;
        v[0] = t + u;
    }
    for (int k = 0; k < 8; k++)
        h[k] += v[k];
}

static uint64_t run_sha256(void)
{
    uint32_t h[8];
    uint8_t block[64];
    sha_constants();
    memcpy(h, sha_h, sizeof(h));
    for (int n = 0; n < 20000; n++) {
        for (int k = 0; k < 64; k++)
            block[k] = (uint8_t)(n + k);
        sha_block(h, block);
    }
    return (uint64_t)h[0] << 32 | h[7];
}

static uint64_t run_crc(void)
{
    static uint32_t table[256];
    for (uint32_t k = 0; k < 256; k++) {
        uint32_t c = k;
        for (int n = 0; n < 8; n++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[k] = c;
    }
    uint32_t c = ~0u;
    for (uint32_t k = 0; k < 2000000; k++)
        c = c >> 8 ^ table[(c ^ k) & 0xff];
    return ~c;
}

/* A machine with a stack: sums the lengths of Collatz sequences. */
enum op { PUSH, LOAD, STORE, ADD, MUL, SHIFT, AND, LESS, JUMP, BRANCH, HALT };

static uint64_t run_bytecode(void)
{
    static const struct { uint8_t op; int32_t arg; } code[] = {
        { PUSH, 0 }, { STORE, 0 }, { PUSH, 1 }, { STORE, 1 },
        { LOAD, 1 }, { PUSH, 3000 }, { LESS, 0 }, { BRANCH, 9 }, { HALT, 0 },
        { LOAD, 1 }, { STORE, 2 },
        { PUSH, 1 }, { LOAD, 2 }, { LESS, 0 }, { BRANCH, 20 },
        { LOAD, 1 }, { PUSH, 1 }, { ADD, 0 }, { STORE, 1 }, { JUMP, 4 },
        { LOAD, 0 }, { PUSH, 1 }, { ADD, 0 }, { STORE, 0 },
        { LOAD, 2 }, { PUSH, 1 }, { AND, 0 }, { BRANCH, 32 },
        { LOAD, 2 }, { SHIFT, 1 }, { STORE, 2 }, { JUMP, 11 },
        { LOAD, 2 }, { PUSH, 3 }, { MUL, 0 }, { PUSH, 1 }, { ADD, 0 }, { STORE, 2 }, { JUMP, 11 },
    };
    int64_t stack[8], memory[4] = { 0 };
    int64_t *top = stack;
    for (int pc = 0;;) {
        int32_t arg = code[pc].arg;
        switch (code[pc++].op) {
        case PUSH: *top++ = arg; break;
        case LOAD: *top++ = memory[arg]; break;
        case STORE: memory[arg] = *--top; break;
        case ADD: top--; top[-1] += *top; break;
        case MUL: top--; top[-1] *= *top; break;
        case SHIFT: top[-1] >>= arg; break;
        case AND: top--; top[-1] &= *top; break;
        case LESS: top--; top[-1] = top[-1] < *top; break;
        case JUMP: pc = arg; break;
        case BRANCH: if (*--top) pc = arg; break;
        default: return (uint64_t)memory[0];
        }
    }
}

static uint64_t run_chase(void)
{
    enum { N = 1 << 16 };
    static uint32_t *places;
    if (!places) {
        places = memory(N * sizeof(*places));
        struct sequence s = { 2 };
        for (uint32_t k = 0; k < N; k++)
            places[k] = k;
        /* Sattolo's shuffle makes one cycle of all. */
        for (uint32_t k = N - 1; k > 0; k--) {
            uint32_t other = (uint32_t)(next(&s) % k), t = places[k];
            places[k] = places[other];
            places[other] = t;
        }
    }
    uint32_t at = 0;
    uint64_t hash = 0;
    for (int k = 0; k < 2000000; k++) {
        at = places[at];
        hash += at ^ (uint32_t)k;
    }
    return hash;
}

static __attribute__((noinline)) uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t run_calls(void)
{
    uint64_t n = 30;
    OPAQUE(n);
    return fib(n);
}

#define TARGET(n) \
    static __attribute__((noinline)) uint64_t target_##n(uint64_t x) { return (x ^ (n * 0x9e37u)) + (x >> (n + 1)); }
TARGET(0) TARGET(1) TARGET(2) TARGET(3) TARGET(4) TARGET(5) TARGET(6) TARGET(7)

static uint64_t run_indirect(void)
{
    static uint64_t (*const targets[])(uint64_t) = {
        target_0, target_1, target_2, target_3, target_4, target_5, target_6, target_7,
    };
    struct sequence s = { 3 };
    uint64_t x = 1;
    for (int k = 0; k < 1000000; k++)
        x = targets[next(&s) & 7](x);
    return x;
}

static uint64_t run_load_store(void)
{
    static struct { uint64_t a; uint32_t b; uint16_t c; uint8_t d, e; } items[512];
    memset(items, 0, sizeof(items));
    uint64_t hash = 0;
    for (uint32_t k = 0; k < 2000000; k++) {
        unsigned n = (k * 37) & 511;
        items[n].a += items[(n + 1) & 511].b + k;
        items[n].b ^= (uint32_t)items[n].a;
        items[n].c = (uint16_t)(items[n].c + items[n].d);
        items[n].d = (uint8_t)(items[n].e + k);
        items[n].e = (uint8_t)items[n].b;
        hash += items[n].c;
    }
    return hash;
}

/* ADC, RCL, BT and CMOV in a chain through the flags. */
static uint64_t run_flags(void)
{
    uint64_t a = 1, b = 0x123456789abcdef, c = 7, n = 2000000;
    __asm__ volatile("clc\n"
                     "1: adcq %1, %0\n"
                     "   rclq $3, %1\n"
                     "   btq $17, %0\n"
                     "   cmovcq %0, %2\n"
                     "   adcq $5, %2\n"
                     "   sbbq %2, %1\n"
                     "   setcb %b0\n"
                     "   lea -1(%3), %3\n"
                     "   jrcxz 2f\n"
                     "   jmp 1b\n"
                     "2:"
                     : "+r"(a), "+r"(b), "+r"(c), "+c"(n)
                     :
                     : "cc");
    return a ^ b ^ c;
}

static uint64_t run_divide(void)
{
    struct sequence s = { 4 };
    uint64_t hash = 0;
    for (int k = 0; k < 1000000; k++) {
        uint64_t a = next(&s), b = (next(&s) >> (k & 31)) | 1;
        hash = mix(hash, a / b ^ a % b);
        hash += (uint64_t)((int64_t)a / (int32_t)(b | 1));
    }
    return hash;
}

const struct row integer_rows[] = {
    { "integer", "sort", run_sort, 480, 0x58b300e11e8f8cc7 },
    { "integer", "sieve", run_sieve, 850, 0x8ea5603721aee968 },
    { "integer", "sha256", run_sha256, 81, 0x280aa400e7852baa },
    { "integer", "crc32", run_crc, 670, 0x7f42499b },
    { "integer", "bytecode", run_bytecode, 180, 0x347e7 },
    { "integer", "chase", run_chase, 460, 0x1d1dee04521 },
    { "integer", "calls", run_calls, 430, 0xcb228 },
    { "integer", "indirect", run_indirect, 250, 0x28051f0a4177ef83 },
    { "integer", "load-store", run_load_store, 340, 0xec899cbe9 },
    { "integer", "flags", run_flags, 160, 0x3a0077e60d4cf448 },
    { "integer", "divide", run_divide, 350, 0xb257f2c0bcb84a45 },
    { 0 },
};
