/* Code that is new: run once, rewritten where it stands, written in batches, and data that lives beside code. */
#include "bench.h"

#include <string.h>

typedef uint64_t function(uint64_t);

/* add/xor/rol rax by immediates of the sequence, `count` times; ends with a return. `value` becomes what the code makes of it. */
static unsigned char *write_code(unsigned char *p, unsigned count, struct sequence *s, uint64_t *value)
{
    uint64_t argument = *value, x = argument;
    static const unsigned char begin[] = { 0x48, 0x89, 0xf8 }; /* mov rax, rdi */
    memcpy(p, begin, sizeof(begin));
    p += sizeof(begin);
    for (unsigned k = 0; k < count; k++) {
        uint64_t v = next(s);
        uint32_t imm = (uint32_t)(v >> 32) & 0x7fffffff;
        *p++ = 0x48;
        switch (v & 3) {
        case 0: /* add rax, imm32 */
            *p++ = 0x05;
            memcpy(p, &imm, 4);
            p += 4;
            x += imm;
            break;
        case 1: /* xor rax, imm32 */
            *p++ = 0x35;
            memcpy(p, &imm, 4);
            p += 4;
            x ^= imm;
            break;
        case 2: /* rol rax, imm8 */
            *p++ = 0xc1;
            *p++ = 0xc0;
            *p++ = (unsigned char)(1 + (imm & 31));
            x = x << (1 + (imm & 31)) | x >> (63 - (imm & 31));
            break;
        default: /* lea rax, [rax+rdi+disp32] */
            *p++ = 0x8d;
            *p++ = 0x84;
            *p++ = 0x38;
            memcpy(p, &imm, 4);
            p += 4;
            x += argument + imm;
        }
    }
    *p++ = 0xc3;
    *value = x;
    return p;
}

static function *as_function(unsigned char *p)
{
    function *f;
    memcpy(&f, &p, sizeof(f));
    return f;
}

/* Megabytes of code, each instruction of which runs once. The code is another one in each round; it must do what it says. */
static uint64_t run_once(void)
{
    enum { SIZE = 4 << 20 };
    static unsigned char *area;
    static uint64_t seed;
    if (!area)
        area = code_memory(SIZE);
    struct sequence s = { 6 + seed++ };
    uint64_t value = 1, expected = 1, right = 1;
    unsigned char *p = area;
    while (p < area + SIZE - 4096) {
        unsigned char *begin = p;
        p = write_code(p, 400, &s, &expected);
        value = as_function(begin)(value);
        right &= value == expected;
    }
    return right;
}

/* One constant of a short function changes before each call. */
static uint64_t run_rewritten(void)
{
    static unsigned char *area;
    if (!area)
        area = code_memory(4096);
    static const unsigned char code[] = {
        0x48, 0x8d, 0x87, 0, 0, 0, 0, /* lea rax, [rdi+disp32] */
        0x48, 0x69, 0xc0, 0x3d, 0, 0, 0, /* imul rax, rax, 61 */
        0xc3,
    };
    memcpy(area, code, sizeof(code));
    uint64_t value = 1;
    for (uint32_t k = 0; k < 20000; k++) {
        memcpy(area + 3, &k, 4);
        value = as_function(area)(value);
    }
    return value;
}

/* Batches of 4 KiB, each run ten times, in an area that is used again and again: a compiler at work. */
static uint64_t run_batches(void)
{
    enum { SIZE = 256 << 10 };
    static unsigned char *area;
    if (!area)
        area = code_memory(SIZE);
    struct sequence s = { 7 };
    uint64_t value = 1;
    unsigned char *p = area;
    for (int k = 0; k < 100; k++) {
        if (p > area + SIZE - 8192)
            p = area;
        unsigned char *begin = p;
        uint64_t unused = 1;
        p = write_code(p, 600, &s, &unused);
        for (int n = 0; n < 10; n++)
            value = as_function(begin)(value);
    }
    return value;
}

/* A counter a few hundred bytes behind the function that is called between its changes. */
static uint64_t run_beside(void)
{
    static unsigned char *area;
    if (!area)
        area = code_memory(4096);
    struct sequence s = { 8 };
    uint64_t unused = 1;
    write_code(area, 20, &s, &unused);
    uint64_t *counter = (uint64_t *)(area + 2048);
    *counter = 0;
    uint64_t value = 1;
    for (int k = 0; k < 200000; k++) {
        value = as_function(area)(value);
        *counter += value & 15;
    }
    return value ^ *counter;
}

const struct row code_rows[] = {
    { "code", "run-once", run_once, 4, 0x1 },
    { "code", "rewritten", run_rewritten, 44, 0xf65cb3397095abb1 },
    { "code", "batches", run_batches, 71, 0x5da8c78f4c8edd0e },
    { "code", "data-beside-code", run_beside, 240, 0xbc996a473681b0a7 },
    { 0 },
};
