//! SSE floating point against the host CPU: results and sticky flags in every rounding mode, with DAZ and FTZ.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod float_host;

use float_host::{Random, cases};
use softmetal_cpu::float::{self, Env, F32, F64, Format, Invalid, Relation, ToInteger};
use std::arch::asm;

/// All exceptions masked.
const MASKS: u32 = 0x1f80;

/// Every MXCSR to test: rounding modes, DAZ, FTZ, and PE already sticky or not, all exceptions masked.
fn environments() -> impl Iterator<Item = u32> {
    (0..32u32).map(|n| MASKS | (n & 3) << 13 | (n >> 2 & 1) << 6 | (n >> 3 & 1) << 15 | (n >> 4 & 1) << 5)
}

/// Runs `instruction` on xmm0, xmm1 under `mxcsr`; xmm0 and the MXCSR after it.
macro_rules! host {
    ($instruction:expr, $mxcsr:expr, $a:expr, $b:expr) => {
        host!($instruction, $mxcsr, $a, $b, 0i64)
    };
    ($instruction:expr, $mxcsr:expr, $a:expr, $b:expr, $rcx:expr) => {{
        let (result, mut mxcsr, usual): (u64, u32, u32);
        (mxcsr, usual) = ($mxcsr, MASKS);
        // SAFETY: MXCSR has all exceptions masked and is restored; the instruction touches only xmm0 to xmm2.
        unsafe {
            asm!(
                "movq xmm0, {a}",
                "movq xmm1, {b}",
                "ldmxcsr [{mxcsr}]",
                $instruction,
                "stmxcsr [{mxcsr}]",
                "ldmxcsr [{usual}]",
                "movq {result}, xmm0",
                a = in(reg) u64::from($a),
                b = in(reg) u64::from($b),
                mxcsr = in(reg) &raw mut mxcsr,
                usual = in(reg) &raw const usual,
                result = lateout(reg) result,
                in("rcx") $rcx,
                out("xmm0") _,
                out("xmm1") _,
                out("xmm2") _,
            );
        }
        (result, mxcsr)
    }};
}

/// As `host`, for an instruction that leaves an integer in RAX.
macro_rules! host_integer {
    ($instruction:literal, $mxcsr:expr, $a:expr, $b:expr) => {{
        let (result, mut mxcsr, usual): (u64, u32, u32);
        (mxcsr, usual) = ($mxcsr, MASKS);
        // SAFETY: MXCSR has all exceptions masked and is restored; the instructions touch only RAX, xmm0 and flags.
        unsafe {
            asm!(
                "movq xmm0, {a}",
                "movq xmm1, {b}",
                "ldmxcsr [{mxcsr}]",
                $instruction,
                "stmxcsr [{mxcsr}]",
                "ldmxcsr [{usual}]",
                a = in(reg) u64::from($a),
                b = in(reg) u64::from($b),
                mxcsr = in(reg) &raw mut mxcsr,
                usual = in(reg) &raw const usual,
                out("rax") result,
                out("xmm0") _,
                out("xmm1") _,
            );
        }
        (result, mxcsr)
    }};
}

fn operand<F: Format>(random: &mut Random, other: F::Bits) -> F::Bits {
    F::from_u64(random.float(F::EXPONENT_BITS, F::FRACTION_BITS, other.into()))
}

/// Compares `ours` with `host` on pairs of operands in every environment.
fn check2<F: Format>(
    name: &str,
    ours: impl Fn(F::Bits, F::Bits, &mut Env) -> u64,
    host: impl Fn(u32, F::Bits, F::Bits) -> (u64, u32),
) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut previous = F::from_u64(0);
    for _ in 0..cases(20_000) {
        let a = operand::<F>(&mut random, previous);
        let b = operand::<F>(&mut random, a);
        previous = b;
        for mxcsr in environments() {
            let mut env = Env::sse(mxcsr);
            let result = ours(a, b, &mut env);
            let (expected, flags) = host(mxcsr, a, b);
            assert!(
                result == expected && env.mxcsr() == flags,
                "{name} {:x}, {:x} with MXCSR {mxcsr:x}: ours {result:x}, {:x}; host {expected:x}, {flags:x}",
                a.into(),
                b.into(),
                env.mxcsr()
            );
        }
    }
}

fn check1<F: Format>(
    name: &str,
    ours: impl Fn(F::Bits, &mut Env) -> u64,
    host: impl Fn(u32, F::Bits) -> (u64, u32),
) {
    check2::<F>(name, |a, _, env| ours(a, env), |mxcsr, a, _| host(mxcsr, a));
}

macro_rules! both {
    ($test:ident, $function:ident, $single:literal, $double:literal) => {
        #[test]
        fn $test() {
            check2::<F32>(
                $single,
                |a, b, env| float::$function::<F32>(a, b, env).into(),
                |m, a, b| {
                    let (r, f) = host!($single, m, a, b);
                    (r & 0xffff_ffff, f)
                },
            );
            check2::<F64>(
                $double,
                |a, b, env| float::$function::<F64>(a, b, env),
                |m, a, b| host!($double, m, a, b),
            );
        }
    };
}
both!(addition, add, "addss xmm0, xmm1", "addsd xmm0, xmm1");
both!(subtraction, sub, "subss xmm0, xmm1", "subsd xmm0, xmm1");
both!(multiplication, mul, "mulss xmm0, xmm1", "mulsd xmm0, xmm1");
both!(division, div, "divss xmm0, xmm1", "divsd xmm0, xmm1");
both!(minimum, min, "minss xmm0, xmm1", "minsd xmm0, xmm1");
both!(maximum, max, "maxss xmm0, xmm1", "maxsd xmm0, xmm1");

#[test]
fn square_root() {
    check1::<F32>(
        "sqrtss",
        |a, env| float::sqrt::<F32>(a, env).into(),
        |m, a| {
            let (r, f) = host!("sqrtss xmm0, xmm0", m, a, 0u32);
            (r & 0xffff_ffff, f)
        },
    );
    check1::<F64>("sqrtsd", float::sqrt::<F64>, |m, a| host!("sqrtsd xmm0, xmm0", m, a, 0u32));
}

/// ZF, PF and CF as COMISD sets them.
fn comparison_flags(relation: Relation) -> u64 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => 0x01,
        Relation::Equal => 0x40,
        Relation::Unordered => 0x45,
    }
}

macro_rules! comparison {
    ($test:ident, $invalid:expr, $single:literal, $double:literal) => {
        #[test]
        fn $test() {
            check2::<F32>(
                $single,
                |a, b, env| comparison_flags(float::compare::<F32>(a, b, $invalid, env)),
                |m, a, b| host_integer!($single, m, a, b),
            );
            check2::<F64>(
                $double,
                |a, b, env| comparison_flags(float::compare::<F64>(a, b, $invalid, env)),
                |m, a, b| host_integer!($double, m, a, b),
            );
        }
    };
}
comparison!(
    ordered_comparison,
    Invalid::AnyNan,
    "comiss xmm0, xmm1; pushfq; pop rax; and eax, 0x45",
    "comisd xmm0, xmm1; pushfq; pop rax; and eax, 0x45"
);
comparison!(
    unordered_comparison,
    Invalid::SignallingNan,
    "ucomiss xmm0, xmm1; pushfq; pop rax; and eax, 0x45",
    "ucomisd xmm0, xmm1; pushfq; pop rax; and eax, 0x45"
);

macro_rules! predicate {
    ($($number:literal)*) => {$(
        check2::<F64>(
            concat!("vcmpsd ", $number),
            |a, b, env| if float::compare_predicate::<F64>(a, b, $number, env) { u64::MAX } else { 0 },
            |m, a, b| host!(concat!("vcmpsd xmm0, xmm0, xmm1, ", $number), m, a, b),
        );
        check2::<F32>(
            concat!("vcmpss ", $number),
            |a, b, env| if float::compare_predicate::<F32>(a, b, $number, env) { 0xffff_ffff } else { 0 },
            |m, a, b| {
                let (r, f) = host!(concat!("vcmpss xmm0, xmm0, xmm1, ", $number), m, a, b);
                (r & 0xffff_ffff, f)
            },
        );
    )*};
}

#[test]
fn comparison_predicates() {
    if !is_x86_feature_detected!("avx") {
        println!("this host has no AVX: predicates are not compared");
        return;
    }
    predicate!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}

#[test]
fn formats() {
    check1::<F32>("cvtss2sd", float::f32_to_f64, |m, a| host!("cvtss2sd xmm0, xmm0", m, a, 0u32));
    check1::<F64>(
        "cvtsd2ss",
        |a, env| float::f64_to_f32(a, env).into(),
        |m, a| {
            let (r, f) = host!("cvtsd2ss xmm0, xmm0", m, a, 0u32);
            (r & 0xffff_ffff, f)
        },
    );
    // Doubles in the range of singles, halfway cases among them.
    check1::<F64>(
        "cvtsd2ss",
        |a, env| float::f64_to_f32(into_f32_range(a), env).into(),
        |m, a| {
            let (r, f) = host!("cvtsd2ss xmm0, xmm0", m, into_f32_range(a), 0u32);
            (r & 0xffff_ffff, f)
        },
    );
}

/// Folds the exponent of a double into what singles have, and somewhat more.
fn into_f32_range(a: u64) -> u64 {
    let exponent = (a >> 52 & 0x7ff) % 330 + 1023 - 165;
    a & !(0x7ff << 52) | exponent << 52
}

#[test]
fn half_precision() {
    if !is_x86_feature_detected!("f16c") {
        println!("this host has no F16C: not compared");
        return;
    }
    for mxcsr in environments() {
        for a in 0..=u16::MAX {
            let mut env = Env::sse(mxcsr);
            let ours = (u64::from(float::f16_to_f32(a, &mut env)), env.mxcsr());
            let (r, f) = host!("vcvtph2ps xmm0, xmm0", mxcsr, a, 0u32);
            assert_eq!(ours, (r & 0xffff_ffff, f), "vcvtph2ps {a:x} with MXCSR {mxcsr:x}");
        }
    }
    macro_rules! narrow {
        ($($imm:literal)*) => {$(
            check1::<F32>(
                concat!("vcvtps2ph ", $imm),
                |a, env| float::f32_to_f16(into_f16_range(a), $imm, env).into(),
                |m, a| {
                    let (r, f) = host!(concat!("vcvtps2ph xmm0, xmm0, ", $imm), m, into_f16_range(a), 0u32);
                    (r & 0xffff, f)
                },
            );
        )*};
    }
    narrow!(0 1 2 3 4 12);
}

fn into_f16_range(a: u32) -> u32 {
    let exponent = a >> 23 & 0xff;
    if exponent.is_multiple_of(8) { a } else { a & !(0xff << 23) | (exponent % 48 + 127 - 30) << 23 }
}

#[test]
fn integral_values() {
    if !is_x86_feature_detected!("sse4.1") {
        println!("this host has no SSE4.1: not compared");
        return;
    }
    macro_rules! round {
        ($($imm:literal)*) => {$(
            check1::<F64>(
                concat!("roundsd ", $imm),
                |a, env| float::round::<F64>(a, $imm, env),
                |m, a| host!(concat!("roundsd xmm0, xmm0, ", $imm), m, a, 0u32),
            );
            check1::<F32>(
                concat!("roundss ", $imm),
                |a, env| float::round::<F32>(a, $imm, env).into(),
                |m, a| {
                    let (r, f) = host!(concat!("roundss xmm0, xmm0, ", $imm), m, a, 0u32);
                    (r & 0xffff_ffff, f)
                },
            );
        )*};
    }
    round!(0 1 2 3 4 8 9 10 11 12);
}

macro_rules! to_integer {
    ($function:ident, $how:expr, $as:ty, $single:literal, $double:literal) => {
        check1::<F32>(
            $single,
            |a, env| u64::from(float::$function::<F32>(a, $how, env) as $as),
            |m, a| host_integer!($single, m, a, 0u32),
        );
        check1::<F64>(
            $double,
            |a, env| u64::from(float::$function::<F64>(a, $how, env) as $as),
            |m, a| host_integer!($double, m, a, 0u32),
        );
    };
}

#[test]
fn to_integers() {
    use ToInteger::{Round, Truncate};
    to_integer!(to_i32, Round, u32, "cvtss2si eax, xmm0", "cvtsd2si eax, xmm0");
    to_integer!(to_i32, Truncate, u32, "cvttss2si eax, xmm0", "cvttsd2si eax, xmm0");
    to_integer!(to_i64, Round, u64, "cvtss2si rax, xmm0", "cvtsd2si rax, xmm0");
    to_integer!(to_i64, Truncate, u64, "cvttss2si rax, xmm0", "cvttsd2si rax, xmm0");
}

#[test]
fn from_integers() {
    let mut random = Random(77);
    for _ in 0..cases(20_000) {
        let n = (random.pattern(64) as i64) >> random.below(64);
        for mxcsr in environments() {
            let mut env = Env::sse(mxcsr);
            let ours = (u64::from(float::from_i64::<F32>(n, &mut env)), env.mxcsr());
            let (r, f) = host!("cvtsi2ss xmm0, rcx", mxcsr, n as u64, 0u32, n);
            assert_eq!(ours, (r & 0xffff_ffff, f), "cvtsi2ss {n:x} with MXCSR {mxcsr:x}");
            let mut env = Env::sse(mxcsr);
            let ours = (float::from_i64::<F64>(n, &mut env), env.mxcsr());
            assert_eq!(
                ours,
                host!("cvtsi2sd xmm0, rcx", mxcsr, 0u32, 0u32, n),
                "cvtsi2sd {n:x} with MXCSR {mxcsr:x}"
            );
            assert_eq!(float::i32_to_f64(n as i32), f64::from(n as i32).to_bits());
        }
    }
}

#[test]
fn fused_multiply_add() {
    if !is_x86_feature_detected!("fma") {
        println!("this host has no FMA: not compared");
        return;
    }
    let mut random = Random(0x1234_5678_9abc_def1);
    macro_rules! forms {
        ($format:ty, $mask:expr, $($name:literal $x:literal $y:literal $z:literal $np:literal $na:literal;)*) => {
            for _ in 0..cases(20_000) {
                let a = operand::<$format>(&mut random, 0);
                let b = operand::<$format>(&mut random, a);
                let product = float::mul::<$format>(a, b, &mut Env::sse(MASKS));
                let c = operand::<$format>(&mut random, product);
                let operands = [a, b, c];
                for mxcsr in environments() {
                    $({
                        let mut env = Env::sse(mxcsr);
                        let ours = float::fma::<$format>(operands[$x], operands[$y], operands[$z], $np, $na, &mut env);
                        let (r, f) = host!(concat!("movq xmm2, rcx; ", $name, " xmm0, xmm1, xmm2"), mxcsr, a, b, c);
                        assert!(
                            (u64::from(ours), env.mxcsr()) == (r & $mask, f),
                            "{} {a:x} {b:x} {c:x} with MXCSR {mxcsr:x}: ours {ours:x}, {:x}; host {r:x}, {f:x}",
                            $name, env.mxcsr()
                        );
                    })*
                }
            }
        };
    }
    forms!(F64, u64::MAX,
        "vfmadd132sd" 0 2 1 false false; "vfmadd213sd" 1 0 2 false false; "vfmadd231sd" 1 2 0 false false;
        "vfmsub213sd" 1 0 2 false true; "vfnmadd213sd" 1 0 2 true false; "vfnmsub213sd" 1 0 2 true true;);
    forms!(F32, 0xffff_ffff,
        "vfmadd132ss" 0 2 1 false false; "vfmadd213ss" 1 0 2 false false; "vfmadd231ss" 1 2 0 false false;
        "vfmsub213ss" 1 0 2 false true; "vfnmadd213ss" 1 0 2 true false; "vfnmsub213ss" 1 0 2 true true;);
}
