/* Runs each function of the C library's mathematics over many arguments and prints a hash of the results: the same on every
 * processor that computes as the standard says. Arguments: how many, and what the name of a function must contain, if not
 * all are wanted. */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

/* SplitMix64. */
static uint64_t next(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t hash;

static void mix(uint64_t bits)
{
    hash = (hash ^ bits) * 0x100000001b3;
    hash ^= hash >> 29;
}

static void mix_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    mix(x == x ? bits : 1);
}

static void mix_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    mix(x == x ? bits : 1);
}

static void mix_long_double(long double x)
{
    uint64_t bits[2] = { 0, 0 };
    memcpy(bits, &x, 10);
    mix(x == x ? bits[0] ^ bits[1] << 48 : 1);
}

/* Any pattern of bits, a number of moderate size, or one near an integer. */
static double argument(void)
{
    uint64_t bits = next();
    double x;
    switch (next() % 4) {
    case 0:
        memcpy(&x, &bits, 8);
        return x;
    case 1:
        return (double)(int64_t)bits * 0x1p-60;
    case 2:
        return (double)(int64_t)bits * 0x1p-53;
    default:
        return (double)((int64_t)bits % 1000) + (double)(int64_t)next() * 0x1p-80;
    }
}

typedef double one(double);
typedef double two(double, double);
typedef float one_float(float);
typedef float two_float(float, float);
typedef long double one_long(long double);
typedef long double two_long(long double, long double);

/* None of these is computed with the x87's transcendental instructions, which are the maker's own in the last place. */
#define ONE(f) { #f, f }
static const struct { const char *name; one *f; } ones[] = {
    ONE(sin), ONE(cos), ONE(tan), ONE(asin), ONE(acos), ONE(atan), ONE(sinh), ONE(cosh), ONE(tanh), ONE(asinh),
    ONE(acosh), ONE(atanh), ONE(exp), ONE(exp2), ONE(expm1), ONE(log), ONE(log2), ONE(log10), ONE(log1p), ONE(sqrt),
    ONE(cbrt), ONE(erf), ONE(erfc), ONE(lgamma), ONE(tgamma), ONE(floor), ONE(ceil), ONE(trunc), ONE(round), ONE(rint),
    ONE(nearbyint), ONE(j0), ONE(y1),
};
static const struct { const char *name; two *f; } twos[] = {
    ONE(pow), ONE(atan2), ONE(hypot), ONE(fmod), ONE(remainder), ONE(fdim), ONE(fmax), ONE(nextafter),
};
static const struct { const char *name; one_float *f; } floats[] = {
    ONE(sinf), ONE(cosf), ONE(tanf), ONE(expf), ONE(exp2f), ONE(logf), ONE(log2f), ONE(sqrtf), ONE(cbrtf), ONE(erff),
    ONE(rintf), ONE(atanf),
};
static const struct { const char *name; two_float *f; } float_twos[] = {
    ONE(powf), ONE(atan2f), ONE(hypotf), ONE(fmodf),
};
static const struct { const char *name; one_long *f; } longs[] = {
    ONE(sinl), ONE(cosl), ONE(tanl), ONE(sqrtl), ONE(cbrtl), ONE(rintl), ONE(floorl), ONE(truncl),
};
static const struct { const char *name; two_long *f; } long_twos[] = {
    ONE(fmodl), ONE(remainderl), ONE(hypotl), ONE(fminl),
};

static double fused(double x, double y)
{
    return fma(x, y, argument());
}

static float fused_float(float x, float y)
{
    return fmaf(x, y, (float)argument());
}

/* Every conversion, in all four roundings. */
static double conversions(double x)
{
    static const int modes[] = { FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO };
    fesetround(modes[next() % 4]);
    volatile double v = x;
    volatile float f = (float)v;
    volatile long double l = (long double)v / 3;
    mix_float(f);
    mix_long_double(l);
    mix_double((double)l);
    if (v > -0x1p62 && v < 0x1p62) {
        mix((uint64_t)(int64_t)v);
        mix((uint64_t)llrint(v));
        mix_double((double)llrint(v));
        mix_float((float)(int64_t)v);
    }
    fesetround(FE_TONEAREST);
    return 0;
}

static const char *wanted;

static int begin(const char *name)
{
    state = 1;
    hash = 0xcbf29ce484222325;
    return !wanted || strstr(name, wanted) != NULL;
}

static void end(const char *name)
{
    printf("%s %016llx\n", name, (unsigned long long)hash);
    fflush(stdout);
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    if (count <= 0) {
        fprintf(stderr, "usage: numeric COUNT [NAME]\n");
        return 2;
    }
    wanted = argc > 2 ? argv[2] : NULL;
    for (size_t k = 0; k < COUNT(ones); k++)
        if (begin(ones[k].name)) {
            for (long n = 0; n < count; n++)
                mix_double(ones[k].f(argument()));
            end(ones[k].name);
        }
    for (size_t k = 0; k < COUNT(twos); k++)
        if (begin(twos[k].name)) {
            for (long n = 0; n < count; n++) {
                double x = argument();
                mix_double(twos[k].f(x, argument()));
            }
            end(twos[k].name);
        }
    for (size_t k = 0; k < COUNT(floats); k++)
        if (begin(floats[k].name)) {
            for (long n = 0; n < count; n++)
                mix_float(floats[k].f((float)argument()));
            end(floats[k].name);
        }
    for (size_t k = 0; k < COUNT(float_twos); k++)
        if (begin(float_twos[k].name)) {
            for (long n = 0; n < count; n++) {
                float x = (float)argument();
                mix_float(float_twos[k].f(x, (float)argument()));
            }
            end(float_twos[k].name);
        }
    for (size_t k = 0; k < COUNT(longs); k++)
        if (begin(longs[k].name)) {
            for (long n = 0; n < count; n++)
                mix_long_double(longs[k].f((long double)argument() * 1.000000000000000001L));
            end(longs[k].name);
        }
    for (size_t k = 0; k < COUNT(long_twos); k++)
        if (begin(long_twos[k].name)) {
            for (long n = 0; n < count; n++) {
                long double x = argument() * 1.000000000000000001L;
                mix_long_double(long_twos[k].f(x, (long double)argument()));
            }
            end(long_twos[k].name);
        }
    if (begin("fma")) {
        for (long n = 0; n < count; n++) {
            double x = argument();
            mix_double(fused(x, argument()));
        }
        end("fma");
    }
    if (begin("fmaf")) {
        for (long n = 0; n < count; n++) {
            float x = (float)argument();
            mix_float(fused_float(x, (float)argument()));
        }
        end("fmaf");
    }
    if (begin("conversions")) {
        for (long n = 0; n < count; n++)
            conversions(argument());
        end("conversions");
    }
    return 0;
}
