/* Scalar floating point, and x87. Built without contraction, so that every processor gives the same bits. */
#include "bench.h"

#include <math.h>
#include <string.h>

static uint64_t bits(double x)
{
    uint64_t v;
    memcpy(&v, &x, 8);
    return v;
}

static uint64_t run_matrix(void)
{
    enum { N = 96 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            a[i][k] = (i * 3 + k * 7) % 11 - 5.25;
            b[i][k] = (i * 5 + k * 2) % 13 - 6.5;
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    uint64_t hash = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            hash = mix(hash, bits(c[i][j]));
    return hash;
}

/* Sun and four planets, whole steps. */
static uint64_t run_nbody(void)
{
    enum { N = 5 };
    double p[N][3], v[N][3], m[N];
    for (int k = 0; k < N; k++) {
        m[k] = k ? 0.01 / k : 39.5;
        for (int d = 0; d < 3; d++) {
            p[k][d] = k * (d + 1) * 1.7 - d * 0.3;
            v[k][d] = k ? 1.5 / (k + d) : 0;
        }
    }
    for (int step = 0; step < 20000; step++) {
        for (int i = 0; i < N; i++)
            for (int k = i + 1; k < N; k++) {
                double d[3], square = 0.01;
                for (int n = 0; n < 3; n++) {
                    d[n] = p[i][n] - p[k][n];
                    square += d[n] * d[n];
                }
                double force = 0.001 / (square * sqrt(square));
                for (int n = 0; n < 3; n++) {
                    v[i][n] -= d[n] * m[k] * force;
                    v[k][n] += d[n] * m[i] * force;
                }
            }
        for (int i = 0; i < N; i++)
            for (int n = 0; n < 3; n++)
                p[i][n] += 0.001 * v[i][n];
    }
    uint64_t hash = 0;
    for (int i = 0; i < N; i++)
        for (int n = 0; n < 3; n++)
            hash = mix(hash, bits(p[i][n]));
    return hash;
}

/* The functions of the C library as programs call them. They may differ in the last place from library to library: the sum is
 * rounded. */
static uint64_t run_libm(void)
{
    double sum = 0;
    for (int k = 1; k < 20000; k++) {
        double x = k * 0.001;
        sum += sin(x) * cos(x) + exp(-x) + log(x) + pow(x, 1.3) * 1e-3 + atan2(x, 3 - x) + cbrt(x);
    }
    return (uint64_t)(int64_t)floor(sum * 1e4);
}

/* Julia sets: multiplications, additions, a comparison that ends each point. */
static uint64_t run_julia(void)
{
    uint64_t hash = 0;
    for (int y = 0; y < 100; y++)
        for (int x = 0; x < 100; x++) {
            double a = x * 0.03 - 1.5, b = y * 0.03 - 1.5;
            unsigned n = 0;
            while (a * a + b * b < 4 && n < 200) {
                double t = a * a - b * b - 0.4;
                b = 2 * a * b + 0.6;
                a = t;
                n++;
            }
            hash = mix(hash, n);
        }
    return hash;
}

static uint64_t run_x87(void)
{
    long double a = 1, b = 0, c = 0.5L;
    for (int k = 1; k < 200000; k++) {
        a += c / k;
        b = b * 0.999L + a * c;
        c = c - (b - a) * 1e-6L;
        if (c > 1)
            c -= 0.75L;
    }
    uint64_t v[2] = { 0, 0 };
    memcpy(v, &b, 10);
    return v[0] ^ v[1] << 48;
}

static uint64_t run_conversions(void)
{
    struct sequence s = { 5 };
    uint64_t hash = 0;
    for (int k = 0; k < 1000000; k++) {
        int64_t n = (int64_t)next(&s) >> (k & 31);
        double d = (double)n;
        float f = (float)d;
        hash += (uint64_t)(int64_t)(d * 0.25) + (uint64_t)(int32_t)(f * 1e-12f);
    }
    return hash;
}

const struct row float_rows[] = {
    { "float", "matrix", run_matrix, 340, 0xc56f494e17c146ad },
    { "float", "nbody", run_nbody, 180, 0xf0736567af9e456e },
    { "float", "libm", run_libm, 200, 0x484f0677 },
    { "float", "julia", run_julia, 750, 0x332b1489d9246e4b },
    { "float", "conversions", run_conversions, 150, 0xec145b3fd1119321 },
    { "float", "x87", run_x87, 150, 0xca0be88918278dca },
    { 0 },
};
