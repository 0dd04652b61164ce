//! Nanoseconds per operation: `cargo test --release -p softmetal-cpu --test float_speed -- --ignored --nocapture`.

use softmetal_cpu::float::{self, Env, F32, F64, F80, ToInteger, Unpacked, x87};
use std::hint::black_box;
use std::time::Instant;

/// Independent calls: throughput, with operands and environment out of the compiler's sight.
fn time(name: &str, mut operation: impl FnMut(usize)) {
    const ROUNDS: usize = 2_000_000;
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            for n in 0..ROUNDS {
                operation(n & 63);
            }
            start.elapsed().as_secs_f64() / ROUNDS as f64 * 1e9
        })
        .fold(f64::MAX, f64::min);
    println!("{name:40} {best:6.2} ns");
}

#[test]
#[ignore = "prints timings, checks nothing but their plausibility"]
fn nanoseconds_per_operation() {
    let doubles: Vec<u64> = (0..65).map(|n| (1.0 + f64::from(n) * 0.1).to_bits()).collect();
    let singles: Vec<u32> = (0..65u16).map(|n| (1.0 + f32::from(n) * 0.1).to_bits()).collect();
    for (name, mxcsr) in [("PE sticky", 0x1fa0u32), ("PE clear", 0x1f80), ("toward zero: slow path", 0x7fa0)]
    {
        macro_rules! measure {
            ($($operation:ident)*) => {$(
                time(&format!("{} f64, {name}", stringify!($operation)), |n| {
                    let mut env = Env::sse(black_box(mxcsr));
                    black_box(float::$operation::<F64>(doubles[n], doubles[n + 1], &mut env));
                    black_box(env.raised());
                });
                time(&format!("{} f32, {name}", stringify!($operation)), |n| {
                    let mut env = Env::sse(black_box(mxcsr));
                    black_box(float::$operation::<F32>(singles[n], singles[n + 1], &mut env));
                    black_box(env.raised());
                });
            )*};
        }
        measure!(add sub mul div min);
        time(&format!("sqrt f64, {name}"), |n| {
            let mut env = Env::sse(black_box(mxcsr));
            black_box(float::sqrt::<F64>(doubles[n], &mut env));
            black_box(env.raised());
        });
        time(&format!("f64 to f32, {name}"), |n| {
            let mut env = Env::sse(black_box(mxcsr));
            black_box(float::f64_to_f32(doubles[n], &mut env));
            black_box(env.raised());
        });
        for how in [ToInteger::Round, ToInteger::Truncate] {
            time(&format!("f64 to i32 {how:?}, {name}"), |n| {
                let mut env = Env::sse(black_box(mxcsr));
                black_box(float::to_i32::<F64>(doubles[n], how, &mut env));
                black_box(env.raised());
            });
        }
        time(&format!("i64 to f64, {name}"), |n| {
            let mut env = Env::sse(black_box(mxcsr));
            black_box(float::from_i64::<F64>(n as i64, &mut env));
            black_box(env.raised());
        });
        time(&format!("fma f64, {name}"), |n| {
            let mut env = Env::sse(black_box(mxcsr));
            black_box(float::fma::<F64>(doubles[n], doubles[n + 1], doubles[0], false, false, &mut env));
            black_box(env.raised());
        });
    }
    let wide: Vec<F80> = doubles.iter().map(|&d| x87::load_f64(d, &mut Env::x87(0x37f, 0))).collect();
    macro_rules! extended {
        ($($operation:ident)*) => {$(
            time(&format!("x87 {}", stringify!($operation)), |n| {
                let mut env = Env::x87(black_box(0x37f), 0);
                black_box(x87::$operation(&wide[n].unpack(), &wide[n + 1].unpack(), &mut env));
                black_box(env.raised());
            });
        )*};
    }
    extended!(add sub mul div prem scale);
    time("x87 sqrt", |n| {
        let mut env = Env::x87(black_box(0x37f), 0);
        black_box(x87::sqrt(&wide[n].unpack(), &mut env));
        black_box(env.raised());
    });
    macro_rules! transcendental {
        ($($operation:ident |$x:ident, $y:ident, $env:ident| $call:expr;)*) => {$(
            time(&format!("x87 {}", stringify!($operation)), |n| {
                let mut env = Env::x87(black_box(0x37f), 0);
                let ($x, $y, $env) = (&wide[n].unpack(), &wide[n + 1].unpack(), &mut env);
                let _ = $y;
                black_box($call);
                black_box(env.raised());
            });
        )*};
    }
    let small: Vec<F80> = (0..65)
        .map(|n| x87::load_f64((0.01 + f64::from(n) * 0.006).to_bits(), &mut Env::x87(0x37f, 0)))
        .collect();
    transcendental!(
        sin |x, y, env| x87::sin(x, env);
        cos |x, y, env| x87::cos(x, env);
        sin_cos |x, y, env| x87::sin_cos(x, env);
        tan |x, y, env| x87::tan(x, env);
        atan |x, y, env| x87::atan(y, x, env);
        y_log2_x |x, y, env| x87::y_log2_x(y, x, env);
    );
    for (name, f) in [
        ("sin below 1/2", (|a, env| x87::sin(a, env).unwrap_or_default()) as fn(&Unpacked, &mut Env) -> F80),
        ("exp2_minus_1", x87::exp2_minus_1),
        ("y_log2_x_plus_1", |a, env| x87::y_log2_x_plus_1(a, a, env)),
    ] {
        time(&format!("x87 {name}"), |n| {
            let mut env = Env::x87(black_box(0x37f), 0);
            black_box(f(&small[n].unpack(), &mut env));
            black_box(env.raised());
        });
    }
    time("x87 load f64, store f64", |n| {
        let mut env = Env::x87(black_box(0x37f), 0);
        let value = x87::load_f64(doubles[n], &mut env);
        black_box(x87::to_f64(value, &mut env));
        black_box(env.raised());
    });
}
