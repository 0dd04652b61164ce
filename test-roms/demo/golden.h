// What hashes of results on silicon are compared with, and what golden.c needs to compute them on a host.
#pragma once

#include "types.h"

#define SSE_SCALARS 14
#define SSE_CONVERSIONS 22
#define SSE_MODES 7

struct sse_entry { const char *name; u64 (*run)(u64 a, u64 b, u32 *mxcsr); bool is_double; };
extern const struct sse_entry sse_scalar[SSE_SCALARS], sse_conversion[SSE_CONVERSIONS];
extern const u32 sse_mode[SSE_MODES];
// Over results and flags of all pairs of values; exactly: with DE and with pairs of NaNs.
u32 sse_hash(const struct sse_entry *entry, u32 mode, bool exactly);

#define VECTOR_OPS_MAX 176
struct vector_entry { const char *name; void (*run)(u128 *a, const u128 *b); };
extern const struct vector_entry vector_op[];
extern const int vector_op_count;
u32 vector_hash(const struct vector_entry *entry);

#define X87_OPS 16
#define X87_MODES 6
struct x87_entry { const char *name; u16 (*run)(u8 *a, const u8 *b, u16 control); };
extern const struct x87_entry x87_op[X87_OPS];
extern const u16 x87_mode[X87_MODES];
// Over results and exception flags but DE; exact: DE, C1 and odd encodings too.
u32 x87_hash(const struct x87_entry *entry, u16 control, bool exact);

extern const u32 golden_scalar[SSE_SCALARS][SSE_MODES];
extern const u32 golden_scalar_exact[SSE_SCALARS][SSE_MODES];
extern const u32 golden_conversion[SSE_CONVERSIONS][SSE_MODES];
extern const u32 golden_conversion_exact[SSE_CONVERSIONS][SSE_MODES];
extern const u32 golden_vector[VECTOR_OPS_MAX];
extern const u32 golden_x87[X87_OPS][X87_MODES];
extern const u32 golden_x87_exact[X87_OPS][X87_MODES];
