// Integer types by width, and the few macros that everything uses.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long i64;
typedef unsigned __int128 u128;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PACKED __attribute__((packed))
#define ALIGNED(n) __attribute__((aligned(n)))

// Firmware tables are packed and lie anywhere: fields are read by these.
static inline u16 load16(const void *p) { u16 v; __builtin_memcpy(&v, p, sizeof v); return v; }
static inline u32 load32(const void *p) { u32 v; __builtin_memcpy(&v, p, sizeof v); return v; }
static inline u64 load64(const void *p) { u64 v; __builtin_memcpy(&v, p, sizeof v); return v; }

// a * b / c with a 128-bit product; all ones where the quotient does not fit.
static inline u64 mul_div(u64 a, u64 b, u64 c)
{
	u128 product = (u128)a * b;
	u64 high = (u64)(product >> 64), low = (u64)product;
	if (high >= c)
		return ~0ul;
	asm("divq %2" : "+a"(low), "+d"(high) : "r"(c) : "cc");
	return low;
}

void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool same(const char *a, const char *b);
bool starts_with(const char *s, const char *prefix);
