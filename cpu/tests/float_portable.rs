//! The same bits on every host: checksums over thousands of results and flags. They were taken on an x86-64 host on
//! which the other float tests compare the same operations with the CPU; a host of another architecture must agree.

mod float_host;

use float_host::Random;
use softmetal_cpu::float::{self, Env, F32, F64, F80, Format, Invalid, Relation, ToInteger, x87};

/// FNV-1a over 64-bit words.
struct Checksum(u64);

impl Checksum {
    fn new() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// MXCSR with all exceptions masked and random rounding, DAZ, FTZ and sticky PE; every second one is the usual one.
fn environment(random: &mut Random) -> u32 {
    let bits = random.next() as u32;
    if bits & 1 << 20 == 0 { 0x1f80 | bits & 0x20 } else { 0x1f80 | bits & 0xe060 }
}

fn checksum<F: Format>(operation: impl Fn(F::Bits, F::Bits, &mut Env) -> u64) -> u64 {
    let (mut random, mut sum, mut previous) = (Random(99), Checksum::new(), 0);
    for _ in 0..20_000 {
        let a = random.float(F::EXPONENT_BITS, F::FRACTION_BITS, previous);
        let b = random.float(F::EXPONENT_BITS, F::FRACTION_BITS, a);
        previous = b;
        let mut env = Env::sse(environment(&mut random));
        sum.add(operation(F::from_u64(a), F::from_u64(b), &mut env));
        sum.add(u64::from(env.mxcsr()));
    }
    sum.0
}

fn relation(r: Relation) -> u64 {
    r as u64
}

#[test]
fn sse_results_are_those_of_x86() {
    use ToInteger::{Round, Truncate};
    let sums = [
        ("add f32", checksum::<F32>(|a, b, env| float::add::<F32>(a, b, env).into())),
        ("add f64", checksum::<F64>(float::add::<F64>)),
        ("sub f32", checksum::<F32>(|a, b, env| float::sub::<F32>(a, b, env).into())),
        ("sub f64", checksum::<F64>(float::sub::<F64>)),
        ("mul f32", checksum::<F32>(|a, b, env| float::mul::<F32>(a, b, env).into())),
        ("mul f64", checksum::<F64>(float::mul::<F64>)),
        ("div f32", checksum::<F32>(|a, b, env| float::div::<F32>(a, b, env).into())),
        ("div f64", checksum::<F64>(float::div::<F64>)),
        ("sqrt f32", checksum::<F32>(|a, _, env| float::sqrt::<F32>(a, env).into())),
        ("sqrt f64", checksum::<F64>(|a, _, env| float::sqrt::<F64>(a, env))),
        ("min f64", checksum::<F64>(float::min::<F64>)),
        ("max f64", checksum::<F64>(float::max::<F64>)),
        (
            "comis f64",
            checksum::<F64>(|a, b, env| relation(float::compare::<F64>(a, b, Invalid::AnyNan, env))),
        ),
        ("fma f64", checksum::<F64>(|a, b, env| float::fma::<F64>(a, b, a, false, true, env))),
        ("round f64", checksum::<F64>(|a, _, env| float::round::<F64>(a, 4, env))),
        ("f32 to f64", checksum::<F32>(|a, _, env| float::f32_to_f64(a, env))),
        ("f64 to f32", checksum::<F64>(|a, _, env| float::f64_to_f32(a, env).into())),
        ("f32 to f16", checksum::<F32>(|a, _, env| float::f32_to_f16(a, 4, env).into())),
        ("f64 to i32", checksum::<F64>(|a, _, env| float::to_i32::<F64>(a, Round, env) as u64)),
        ("f64 to i64", checksum::<F64>(|a, _, env| float::to_i64::<F64>(a, Truncate, env) as u64)),
        ("i64 to f64", checksum::<F64>(|a, _, env| float::from_i64::<F64>(a as i64, env))),
        ("i64 to f32", checksum::<F64>(|a, _, env| float::from_i64::<F32>(a as i64, env).into())),
    ];
    assert_eq!(sums, SSE);
}

#[test]
fn x87_results_are_those_of_x86() {
    type Operation = fn(F80, F80, &mut Env) -> F80;
    let operations: [(&str, Operation); 8] = [
        ("fadd", |a, b, env| x87::add(&a.unpack(), &b.unpack(), env)),
        ("fmul", |a, b, env| x87::mul(&a.unpack(), &b.unpack(), env)),
        ("fdiv", |a, b, env| x87::div(&a.unpack(), &b.unpack(), env)),
        ("fsqrt", |a, _, env| x87::sqrt(&a.unpack(), env)),
        ("fprem", |a, b, env| x87::prem(&a.unpack(), &b.unpack(), env).value),
        ("fscale", |a, b, env| x87::scale(&a.unpack(), &b.unpack(), env)),
        ("frndint", |a, _, env| x87::round_to_integral(&a.unpack(), env)),
        ("fst", |a, _, env| x87::load_f64(x87::to_f64(a, env), env)),
    ];
    let sums = operations.map(|(name, operation)| {
        let (mut random, mut sum) = (Random(7), Checksum::new());
        let mut value = F80::ZERO;
        for _ in 0..20_000 {
            let near = u64::from(value.sign_exponent & 0x7fff);
            let a = value;
            value = F80 {
                significand: random.pattern(63) | u64::from(random.below(16) != 0) << 63,
                sign_exponent: (random.next() as u16 & 0x8000) | random.exponent(15, near) as u16,
            };
            let mut env = Env::x87(random.next() as u16 & 0xf3f, 0);
            let result = operation(a, value, &mut env);
            sum.add(result.significand);
            sum.add(u64::from(result.sign_exponent));
            sum.add(u64::from(env.raised()) << 1 | u64::from(env.rounded_up()));
        }
        (name, sum.0)
    });
    assert_eq!(sums, X87);
}

const SSE: [(&str, u64); 22] = [
    ("add f32", 0xa304_4b0c_ab11_6667),
    ("add f64", 0x3949_9f45_636b_9088),
    ("sub f32", 0x0861_1596_c080_6f07),
    ("sub f64", 0x9682_6700_f21f_5c97),
    ("mul f32", 0x0b46_e3d9_2758_538d),
    ("mul f64", 0x44f4_e8ac_c548_5bbb),
    ("div f32", 0x6faf_65c2_5b79_10b3),
    ("div f64", 0x6727_fa0c_3ec8_766f),
    ("sqrt f32", 0xdff4_e363_1f29_8696),
    ("sqrt f64", 0xc6e9_a698_d44f_46d9),
    ("min f64", 0xbd41_2493_085d_8e1b),
    ("max f64", 0x1a61_ec1c_8ecf_5c59),
    ("comis f64", 0x7db7_3ab5_f46b_54f5),
    ("fma f64", 0xa2fb_428b_7f61_241c),
    ("round f64", 0xe456_cf46_4f72_1efa),
    ("f32 to f64", 0x2aac_4ad3_740b_f982),
    ("f64 to f32", 0x51fe_6931_e817_e7dc),
    ("f32 to f16", 0x47c4_4344_c690_5cfa),
    ("f64 to i32", 0x425e_1238_5840_6f8a),
    ("f64 to i64", 0x8f03_3661_b619_4745),
    ("i64 to f64", 0xad65_b9ec_1994_43bc),
    ("i64 to f32", 0x0a82_2fc5_faa9_d906),
];
const X87: [(&str, u64); 8] = [
    ("fadd", 0x48f6_6ec4_5697_6357),
    ("fmul", 0x09bf_8911_7dd1_d114),
    ("fdiv", 0x968a_0aed_5af8_82c4),
    ("fsqrt", 0xe93e_0a85_3488_1367),
    ("fprem", 0x90bc_e6f2_ff1f_3ed7),
    ("fscale", 0x4e9b_77d9_e654_6cff),
    ("frndint", 0xb1eb_b6ef_3874_3016),
    ("fst", 0x54fb_ef25_8c77_f774),
];
