//! x87 against the host CPU: results, exception flags, condition codes and C1 under every rounding and precision
//! control, with all exceptions masked and with each unmasked.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod float_host;

use float_host::{Random, cases};
use softmetal_cpu::float::x87::{self, Constant};
use softmetal_cpu::float::{Class, Env, F32, F64, F80, Invalid, Relation, ToInteger, Unpacked, unpack};
use std::arch::asm;

const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const FLAGS: u16 = 0x3f;

/// Two registers and memory around one instruction.
#[repr(C, align(16))]
struct Frame {
    a: [u8; 16],
    b: [u8; 16],
    result: [u8; 16],
    second: [u8; 16],
    memory: [u8; 16],
    control_word: u16,
    status_word: u16,
}

/// Runs `$instruction` with ST(0) = a, ST(1) = b and RAX at the frame's memory operand. Exceptions that it leaves
/// pending are read without delivery and cleared.
macro_rules! host {
    ($instruction:expr, $control_word:expr, $a:expr, $b:expr, $memory:expr) => {{
        let mut frame = Frame {
            a: wide($a),
            b: wide($b),
            result: [0; 16],
            second: [0; 16],
            memory: $memory,
            control_word: $control_word,
            status_word: 0,
        };
        // SAFETY: the x87 state is empty between Rust functions and is left so; memory operands lie in the frame.
        unsafe {
            asm!(
                "fninit",
                "fld tbyte ptr [{f} + 16]",
                "fld tbyte ptr [{f}]",
                "fldcw word ptr [{f} + 80]",
                $instruction,
                "fnstsw word ptr [{f} + 82]",
                "fnclex",
                "fstp tbyte ptr [{f} + 32]",
                "fstp tbyte ptr [{f} + 48]",
                "fninit",
                f = in(reg) &raw mut frame,
                in("rax") &raw mut frame.memory,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                out("xmm0") _,
            );
        }
        Host {
            result: narrow(frame.result),
            second: narrow(frame.second),
            memory: frame.memory,
            status: frame.status_word & (FLAGS | C0 | C1 | C2 | C3),
        }
    }};
    ($instruction:expr, $control_word:expr, $a:expr, $b:expr) => {
        host!($instruction, $control_word, $a, $b, [0; 16])
    };
}

#[derive(PartialEq, Debug)]
struct Host {
    result: F80,
    second: F80,
    memory: [u8; 16],
    status: u16,
}

fn wide(value: F80) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..10].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn narrow(bytes: [u8; 16]) -> F80 {
    F80::from_le_bytes(bytes[..10].try_into().expect("ten bytes"))
}

/// Control words: every rounding and precision control, all exceptions masked, then each one unmasked, then none.
fn control_words(random: &mut Random) -> Vec<u16> {
    let mut words: Vec<u16> =
        (0..16).map(|n| 0x3f | (n & 3) << 10 | [0, 1, 2, 3][usize::from(n >> 2)] << 8).collect();
    for masks in [0x3e, 0x3d, 0x3b, 0x37, 0x2f, 0x1f, 0x00, random.below(64) as u16] {
        words.push(masks | (random.below(16) as u16) << 8);
    }
    words
}

/// Any encoding, unnormals and pseudo-denormals among them.
fn operand(random: &mut Random, other: F80) -> F80 {
    let near = u64::from(other.sign_exponent & 0x7fff);
    let exponent = if random.below(6) == 0 {
        // Far apart, for partial remainders, but within reach of one another.
        (near + random.below(400)).saturating_sub(200).min(0x7fff)
    } else {
        random.exponent(15, near)
    };
    let fraction = match random.below(8) {
        0 => other.significand,
        1 => random.pattern(24) << 39,
        2 => random.pattern(53) << 10,
        _ => random.pattern(63),
    };
    // Mostly the valid encodings, sometimes the others.
    let integer_bit = (exponent != 0) != (random.below(24) == 0);
    F80 {
        significand: fraction & (u64::MAX >> 1) | u64::from(integer_bit) << 63,
        sign_exponent: (random.next() as u16 & 0x8000) | exponent as u16,
    }
}

/// What our operation leaves in the status word.
fn status(env: &Env) -> u16 {
    env.raised() as u16 & FLAGS | if env.rounded_up() { C1 } else { 0 }
}

fn each_case(default: u32, mut check: impl FnMut(u16, F80, F80, &mut Random)) {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut b = F80::ZERO;
    for _ in 0..cases(default) {
        let a = operand(&mut random, b);
        b = operand(&mut random, a);
        for control_word in control_words(&mut random) {
            check(control_word, a, b, &mut random);
        }
    }
}

macro_rules! arithmetic {
    ($test:ident, $instruction:literal, |$a:ident, $b:ident, $env:ident| $ours:expr) => {
        #[test]
        fn $test() {
            each_case(20_000, |control_word, a, b, _| {
                let mut env = Env::x87(control_word, 0);
                let ours = {
                    let ($a, $b, $env) = (&a.unpack(), &b.unpack(), &mut env);
                    let _ = $b;
                    $ours
                };
                let ours = if env.x87_keeps_register() { a } else { ours };
                let host = host!($instruction, control_word, a, b);
                assert!(
                    ours == host.result && status(&env) == host.status & !(C0 | C2 | C3),
                    "{} with CW {control_word:x}\n a    {a:x?}\n b    {b:x?}\n ours {ours:x?} {:x}\n host {:x?} {:x}",
                    $instruction,
                    status(&env),
                    host.result,
                    host.status
                );
            });
        }
    };
}
arithmetic!(addition, "fadd st(0), st(1)", |a, b, env| x87::add(a, b, env));
arithmetic!(subtraction, "fsub st(0), st(1)", |a, b, env| x87::sub(a, b, env));
arithmetic!(reversed_subtraction, "fsubr st(0), st(1)", |a, b, env| x87::sub(b, a, env));
arithmetic!(multiplication, "fmul st(0), st(1)", |a, b, env| x87::mul(a, b, env));
arithmetic!(division, "fdiv st(0), st(1)", |a, b, env| x87::div(a, b, env));
arithmetic!(reversed_division, "fdivr st(0), st(1)", |a, b, env| x87::div(b, a, env));
arithmetic!(square_root, "fsqrt", |a, b, env| x87::sqrt(a, env));
arithmetic!(scaling, "fscale", |a, b, env| x87::scale(a, b, env));
arithmetic!(integral_values, "frndint", |a, b, env| x87::round_to_integral(a, env));

/// Memory operands in single and double precision and integers keep what they are until the operation.
#[test]
fn arithmetic_with_memory() {
    each_case(10_000, |control_word, a, b, random| {
        let f32_bits = random.float(8, 23, u64::from(b.sign_exponent) << 23) as u32;
        let f64_bits = random.float(11, 52, b.significand >> 11);
        let integer = random.pattern(32) as i32;
        macro_rules! check {
            ($instruction:literal, $memory:expr, |$m:ident, $env:ident| $ours:expr) => {{
                let mut memory = [0u8; 16];
                memory[..$memory.to_le_bytes().len()].copy_from_slice(&$memory.to_le_bytes());
                let mut env = Env::x87(control_word, 0);
                let ours = {
                    let ($m, $env) = ($memory, &mut env);
                    $ours
                };
                let ours = if env.x87_keeps_register() { a } else { ours };
                let host = host!($instruction, control_word, a, b, memory);
                assert!(
                    ours == host.result && status(&env) == host.status & !(C0 | C2 | C3),
                    "{} with CW {control_word:x}\n a {a:x?}\n memory {memory:x?}\n ours {ours:x?} {:x}\n host {:x?} {:x}",
                    $instruction, status(&env), host.result, host.status
                );
            }};
        }
        let left = &a.unpack();
        check!("fadd dword ptr [rax]", f32_bits, |m, env| x87::add(left, &unpack::<F32>(m), env));
        check!("fmul dword ptr [rax]", f32_bits, |m, env| x87::mul(left, &unpack::<F32>(m), env));
        check!("fsub qword ptr [rax]", f64_bits, |m, env| x87::sub(left, &unpack::<F64>(m), env));
        check!("fdivr qword ptr [rax]", f64_bits, |m, env| x87::div(&unpack::<F64>(m), left, env));
        check!("fidiv dword ptr [rax]", integer, |m, env| x87::div(
            left,
            &Unpacked::from_i64(i64::from(m)),
            env
        ));
        check!("fiadd word ptr [rax]", integer as i16, |m, env| x87::add(
            left,
            &Unpacked::from_i64(i64::from(m)),
            env
        ));
    });
}

fn condition_codes(relation: Relation) -> u16 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => C0,
        Relation::Equal => C3,
        Relation::Unordered => C0 | C2 | C3,
    }
}

#[test]
fn comparison() {
    each_case(20_000, |control_word, a, b, random| {
        let f64_bits = random.float(11, 52, a.significand >> 11);
        let mut memory = [0; 16];
        memory[..8].copy_from_slice(&f64_bits.to_le_bytes());
        let forms = [
            (host!("fcom st(1)", control_word, a, b), b.unpack(), Invalid::AnyNan),
            (host!("fucom st(1)", control_word, a, b), b.unpack(), Invalid::SignallingNan),
            (host!("ftst", control_word, a, b), F80::ZERO.unpack(), Invalid::AnyNan),
            (
                host!("fcom qword ptr [rax]", control_word, a, b, memory),
                unpack::<F64>(f64_bits),
                Invalid::AnyNan,
            ),
        ];
        for (form, (host, other, invalid)) in forms.into_iter().enumerate() {
            let mut env = Env::x87(control_word, 0);
            let codes = condition_codes(x87::compare(&a.unpack(), &other, invalid, &mut env));
            // The condition codes are set with an unmasked exception too.
            assert!(
                status(&env) | codes == host.status,
                "form {form} with CW {control_word:x} a {a:x?} b {b:x?}: ours {:x}, host {:x}",
                status(&env) | codes,
                host.status
            );
        }
    });
}

#[test]
fn classes() {
    each_case(5_000, |control_word, a, b, _| {
        let code = match a.class() {
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignallingNan => C0,
            Class::Normal => C2,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Denormal => C3 | C2,
        };
        let ours = code | if a.is_negative() { C1 } else { 0 };
        assert_eq!(ours, host!("fxam", control_word, a, b).status, "fxam {a:x?}");
        assert_eq!((a.abs(), 0), host_unary(host!("fabs", control_word, a, b)), "fabs {a:x?}");
        assert_eq!((a.negated(), 0), host_unary(host!("fchs", control_word, a, b)), "fchs {a:x?}");
    });
}

fn host_unary(host: Host) -> (F80, u16) {
    (host.result, host.status)
}

#[test]
fn remainders() {
    each_case(20_000, |control_word, a, b, _| {
        for (name, host, ours) in [
            (
                "fprem",
                host!("fprem", control_word, a, b),
                x87::prem as fn(&Unpacked, &Unpacked, &mut Env) -> _,
            ),
            ("fprem1", host!("fprem1", control_word, a, b), x87::prem1),
        ] {
            let mut env = Env::x87(control_word, 0);
            let remainder = ours(&a.unpack(), &b.unpack(), &mut env);
            let value = if env.x87_keeps_register() { a } else { remainder.value };
            let bit = |n: u8, code: u16| if remainder.quotient >> n & 1 != 0 { code } else { 0 };
            let codes = bit(2, C0) | bit(1, C3) | bit(0, C1) | if remainder.partial { C2 } else { 0 };
            let flags = env.raised() as u16 & FLAGS;
            assert!(
                value == host.result && flags | codes == host.status,
                "{name} with CW {control_word:x}\n a    {a:x?}\n b    {b:x?}\n ours {value:x?} {:x}\n host {:x?} {:x}",
                flags | codes,
                host.result,
                host.status
            );
        }
    });
}

#[test]
fn extraction() {
    each_case(20_000, |control_word, a, b, _| {
        let mut env = Env::x87(control_word, 0);
        let (exponent, significand) = x87::extract(&a.unpack(), &mut env);
        let host = host!("fxtract", control_word, a, b);
        let ours = if env.x87_keeps_register() { (a, b) } else { (significand, exponent) };
        assert!(
            ours == (host.result, host.second) && status(&env) == host.status & !(C0 | C2 | C3),
            "fxtract with CW {control_word:x} {a:x?}: ours {ours:x?} {:x}, host {host:x?}",
            status(&env)
        );
    });
}

#[test]
fn loads() {
    each_case(20_000, |control_word, a, b, random| {
        let f32_bits = random.float(8, 23, 0) as u32;
        let f64_bits = random.float(11, 52, 0);
        let integer = random.pattern(64) as i64;
        macro_rules! check {
            ($instruction:literal, $memory:expr, |$m:ident, $env:ident| $ours:expr) => {{
                let mut memory = [0u8; 16];
                memory[..$memory.to_le_bytes().len()].copy_from_slice(&$memory.to_le_bytes());
                let mut env = Env::x87(control_word, 0);
                let ours = {
                    let ($m, $env) = ($memory, &mut env);
                    let _ = &$env;
                    $ours
                };
                let ours = if env.x87_keeps_stack() { a } else { ours };
                let host = host!($instruction, control_word, a, b, memory);
                assert!(
                    ours == host.result && status(&env) == host.status & !(C0 | C2 | C3),
                    "{} {:x} with CW {control_word:x}: ours {ours:x?} {:x}, host {host:x?}",
                    $instruction,
                    $memory,
                    status(&env),
                );
            }};
        }
        check!("fld dword ptr [rax]", f32_bits, |m, env| x87::load_f32(m, env));
        check!("fld qword ptr [rax]", f64_bits, |m, env| x87::load_f64(m, env));
        check!("fild qword ptr [rax]", integer, |m, env| x87::from_i64(m));
        check!("fild dword ptr [rax]", integer as i32, |m, env| x87::from_i64(i64::from(m)));
        check!("fild word ptr [rax]", integer as i16, |m, env| x87::from_i64(i64::from(m)));
    });
}

#[test]
fn constants() {
    for control_word in control_words(&mut Random(1)) {
        let env = Env::x87(control_word, 0);
        macro_rules! check {
            ($($instruction:literal $constant:ident)*) => {$(
                let host = host!($instruction, control_word, F80::ZERO, F80::ZERO);
                assert_eq!(
                    (x87::constant(Constant::$constant, &env), 0),
                    (host.result, host.status),
                    "{} with CW {control_word:x}", $instruction
                );
            )*};
        }
        check!("fld1" One "fldl2t" Log2Of10 "fldl2e" Log2OfE "fldpi" Pi "fldlg2" Log10Of2 "fldln2" LnOf2 "fldz" Zero);
    }
}

/// Values near the limits of the destination make half of the cases.
fn storable(value: F80, random: &mut Random, bias: u16, span: u16) -> F80 {
    if random.below(4) == 0 {
        return value;
    }
    let exponent = bias - span + random.below(u64::from(span) * 2) as u16;
    F80 { significand: value.significand | 1 << 63, sign_exponent: value.sign_exponent & 0x8000 | exponent }
}

#[test]
fn stores() {
    each_case(20_000, |control_word, a, b, random| {
        macro_rules! check {
            ($instruction:literal, $bytes:literal, $a:expr, |$v:ident, $env:ident| $ours:expr) => {{
                let a = $a;
                let before = [0xcc; 16];
                let mut env = Env::x87(control_word, 0);
                let stored = {
                    let ($v, $env) = (a, &mut env);
                    $ours.to_le_bytes()
                };
                let mut ours = before;
                if !env.x87_keeps_memory() {
                    ours[..$bytes].copy_from_slice(&stored);
                }
                let host = host!($instruction, control_word, a, b, before);
                assert!(
                    ours == host.memory && status(&env) == host.status & !(C0 | C2 | C3),
                    "{} {a:x?} with CW {control_word:x}: ours {ours:x?} {:x}, host {host:x?}",
                    $instruction,
                    status(&env),
                );
            }};
        }
        let near_f32 = storable(a, random, 0x3fff, 200);
        let near_f64 = storable(a, random, 0x3fff, 1200);
        let near_integer = storable(a, random, 0x3fff + 20, 50);
        check!("fst dword ptr [rax]", 4, near_f32, |v, env| x87::to_f32(v, env));
        check!("fst qword ptr [rax]", 8, near_f64, |v, env| x87::to_f64(v, env));
        check!("fist word ptr [rax]", 2, near_integer, |v, env| x87::to_i16(v, ToInteger::Round, env));
        check!("fist dword ptr [rax]", 4, near_integer, |v, env| x87::to_i32(v, ToInteger::Round, env));
    });
}

/// FBSTP, FISTP m64 and FISTTP exist only in popping forms: a copy of ST(0) is stored.
#[test]
fn popping_stores() {
    each_case(20_000, |control_word, a, b, random| {
        macro_rules! check {
            ($instruction:literal, $bytes:literal, $a:expr, |$v:ident, $env:ident| $ours:expr) => {{
                let a = $a;
                let before = [0xcc; 16];
                let mut env = Env::x87(control_word, 0);
                let stored: [u8; $bytes] = {
                    let ($v, $env) = (a, &mut env);
                    $ours
                };
                let mut ours = before;
                if !env.x87_keeps_memory() {
                    ours[..$bytes].copy_from_slice(&stored);
                }
                let host = host!(concat!("fld st(0); ", $instruction), control_word, a, b, before);
                assert!(
                    ours == host.memory && status(&env) == host.status & !(C0 | C2 | C3),
                    "{} {a:x?} with CW {control_word:x}: ours {ours:x?} {:x}, host {host:x?}",
                    $instruction,
                    status(&env),
                );
            }};
        }
        let near = storable(a, random, 0x3fff + 40, 50);
        use ToInteger::{Round, Truncate};
        check!("fistp qword ptr [rax]", 8, near, |v, env| x87::to_i64(v, Round, env).to_le_bytes());
        check!("fisttp qword ptr [rax]", 8, near, |v, env| x87::to_i64(v, Truncate, env).to_le_bytes());
        check!("fisttp dword ptr [rax]", 4, near, |v, env| x87::to_i32(v, Truncate, env).to_le_bytes());
        check!("fisttp word ptr [rax]", 2, near, |v, env| x87::to_i16(v, Truncate, env).to_le_bytes());
        check!("fbstp tbyte ptr [rax]", 10, near, |v, env| x87::to_bcd(v, env));
    });
}

#[test]
fn decimal_loads() {
    let mut random = Random(5);
    for _ in 0..cases(20_000) {
        let mut memory = [0u8; 16];
        for byte in &mut memory[..9] {
            *byte = if random.below(3) == 0 { 0 } else { (random.below(10) << 4 | random.below(10)) as u8 };
        }
        memory[9] = random.next() as u8;
        let host = host!("fbld tbyte ptr [rax]", 0x37f, F80::ZERO, F80::ZERO, memory);
        let bytes = memory[..10].try_into().expect("ten bytes");
        assert_eq!((x87::from_bcd(bytes), 0), (host.result, host.status), "fbld {memory:x?}");
    }
}
