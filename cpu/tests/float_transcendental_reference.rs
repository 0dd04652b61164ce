//! The x87's transcendental functions against values computed with 600 bits: every result is the correctly rounded one,
//! under each rounding control, C1, UE and PE too. Runs on any host.

use softmetal_cpu::float::{Class, DE, Env, F80, IE, OE, PE, UE, x87};
use softmetal_cpu_testing::random::{Random, cases};

const REFERENCE: &str = include_str!("transcendental/reference.txt");

/// The magnitude `significand / 2^127 * 2^exponent`, and perhaps a little more.
struct Value {
    negative: bool,
    exponent: i32,
    significand: u128,
    exact: bool,
}

impl Value {
    /// Rounded to double extended precision: the result, its exceptions, and C1.
    fn rounded(&self, rounding: u16) -> (F80, u32, bool) {
        // Below the normal range, the unit stays that of the least normal number.
        let cut = |shift: u32| {
            let kept = if shift < 64 { (self.significand >> 64) as u64 >> shift } else { 0 };
            let rest = match shift {
                0..64 => self.significand << (64 - shift),
                64 => self.significand,
                shift => self.significand.checked_shr(shift - 64).unwrap_or(0) | 1,
            };
            let lost = rest != 0 || !self.exact;
            let up = match rounding {
                0 => rest > 1 << 127 || (rest == 1 << 127 && (!self.exact || kept & 1 != 0)),
                1 => lost && self.negative,
                2 => lost && !self.negative,
                _ => false,
            };
            (kept, up)
        };
        let (kept, up) = cut(0);
        let carries = up && kept == u64::MAX;
        let tiny = self.exponent + i32::from(carries) < -0x3ffe;
        let shift = if tiny { (-0x3ffe - self.exponent) as u32 } else { 0 };
        let (kept, up) = cut(shift);
        let sum = u128::from(kept) + u128::from(up);
        let sign = u16::from(self.negative) << 15;
        // Silicon calls the exact ones inexact too.
        let mut raised = PE;
        if tiny {
            raised |= UE;
            let field = (sum >> 63) as u16;
            return (F80 { significand: sum as u64, sign_exponent: sign | field }, raised, up);
        }
        let (exponent, significand) =
            if sum >> 64 != 0 { (self.exponent + 1, 1 << 63) } else { (self.exponent, sum as u64) };
        if exponent > 0x3fff {
            raised |= OE;
            let infinite = match rounding {
                0 => true,
                1 => self.negative,
                2 => !self.negative,
                _ => false,
            };
            let (field, significand) = if infinite { (0x7fff, 1 << 63) } else { (0x7ffe, u64::MAX) };
            return (F80 { significand, sign_exponent: sign | field }, raised, infinite);
        }
        (F80 { significand, sign_exponent: sign | (exponent + 0x3fff) as u16 }, raised, up)
    }
}

fn extended(text: &str) -> F80 {
    let (sign_exponent, significand) = text.split_once(':').expect("exponent:significand");
    F80 {
        sign_exponent: u16::from_str_radix(sign_exponent, 16).expect("hexadecimal"),
        significand: u64::from_str_radix(significand, 16).expect("hexadecimal"),
    }
}

#[test]
fn results_are_correctly_rounded() {
    let mut checked = 0;
    for line in REFERENCE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [function, x, y, sign, exponent, significand, exact] = fields[..] else {
            panic!("seven fields: {line}");
        };
        let value = Value {
            negative: sign == "-",
            exponent: exponent.parse().expect("a number"),
            significand: u128::from_str_radix(significand, 16).expect("hexadecimal"),
            exact: exact == "exact",
        };
        let (x, y) = (extended(x).unpack(), extended(y).unpack());
        for rounding in 0..4u16 {
            let mut env = Env::x87(0x37f | rounding << 10, 0);
            let small = "the operand is in range";
            let ours = match function {
                "sin" => x87::sin(&x, &mut env).expect(small),
                "cos" => x87::cos(&x, &mut env).expect(small),
                "tan" => x87::tan(&x, &mut env).expect(small).0,
                "fpatan" => x87::atan(&y, &x, &mut env),
                "f2xm1" => x87::exp2_minus_1(&x, &mut env),
                "fyl2x" => x87::y_log2_x(&y, &x, &mut env),
                "fyl2xp1" => x87::y_log2_x_plus_1(&y, &x, &mut env),
                _ => panic!("a function: {line}"),
            };
            // DE shows in the line.
            let raised = env.raised() & (OE | UE | PE);
            let (wanted, exceptions, up) = value.rounded(rounding);
            assert_eq!(
                (ours, raised, env.rounded_up()),
                (wanted, exceptions, up),
                "rounding control {rounding}: {line}"
            );
            checked += 1;
        }
    }
    assert!(checked >= 3000, "{checked} results");
}

/// Where the manual leaves results undefined: F2XM1 beyond 1 gives its operand, FYL2XP1 from -1 on below gives x, inexact
/// both; FYL2XP1 above its range gives what it should.
#[test]
fn operands_out_of_range() {
    let number = |sign_exponent, significand| F80 { sign_exponent, significand };
    let result = |control: u16, f: &dyn Fn(&mut Env) -> F80| {
        let mut env = Env::x87(control, 0);
        (f(&mut env), env.raised(), env.rounded_up())
    };
    let one = number(0x3fff, 1 << 63);
    for rounding in 0..4 {
        let control = 0x37f | rounding << 10;
        for x in [number(0x3fff, 1 << 63 | 1), number(0xbfff, 3 << 62), number(0x7ffe, u64::MAX)] {
            let f2xm1 = result(control, &|env| x87::exp2_minus_1(&x.unpack(), env));
            assert_eq!(f2xm1, (x, PE, false), "F2XM1 of {x:x?}");
        }
        for x in [number(0xbfff, 1 << 63), number(0xbfff, 3 << 62), number(0xfffe, u64::MAX)] {
            for y in [one, number(0, 5), number(0xfffe, u64::MAX)] {
                let fyl2xp1 = result(control, &|env| x87::y_log2_x_plus_1(&y.unpack(), &x.unpack(), env));
                let denormal = if y == number(0, 5) { DE } else { 0 };
                assert_eq!(fyl2xp1, (x, PE | denormal, false), "FYL2XP1 of {x:x?}");
            }
        }
        // log2(1 + 7) = 3, log2(1 + 2^100) = 100 and a little.
        let fyl2xp1 = |x: F80| result(control, &|env| x87::y_log2_x_plus_1(&one.unpack(), &x.unpack(), env));
        assert_eq!(fyl2xp1(number(0x4001, 7 << 61)), (number(0x4000, 3 << 62), PE, false));
        let up = rounding == 2;
        let hundred = number(0x4005, (100 << 57) + u64::from(up));
        assert_eq!(fyl2xp1(number(0x3fff + 100, 1 << 63)), (hundred, PE, up));
        // Infinities have results: 2^-infinity - 1 is -1.
        let f2xm1 = |x: F80| result(control, &|env| x87::exp2_minus_1(&x.unpack(), env));
        assert_eq!(f2xm1(number(0xffff, 1 << 63)), (one.negated(), 0, false));
        assert_eq!(f2xm1(number(0x7fff, 1 << 63)), (number(0x7fff, 1 << 63), 0, false));
    }
}

/// 2^1 - 1 and 2^-1 - 1 are exact, but silicon computes them like the values next to them.
#[test]
fn f2xm1_of_one() {
    for (rounding, significand, up) in
        [(0, 1 << 63, true), (1, u64::MAX, false), (2, 1 << 63, true), (3, u64::MAX, false)]
    {
        let mut env = Env::x87(0x37f | rounding << 10, 0);
        let one = F80 { sign_exponent: 0x3fff, significand: 1 << 63 };
        let sign_exponent = if up { 0x3fff } else { 0x3ffe };
        assert_eq!(x87::exp2_minus_1(&one.unpack(), &mut env), F80 { sign_exponent, significand });
        assert_eq!((env.raised(), env.rounded_up()), (PE, up));
        let mut env = Env::x87(0x37f | rounding << 10, 0);
        let half = F80 { sign_exponent: 0xbffe, significand: 1 << 63 };
        assert_eq!(x87::exp2_minus_1(&one.negated().unpack(), &mut env), half);
        assert_eq!((env.raised(), env.rounded_up()), (PE, false));
    }
}

/// Whatever the operands, in range or not: a result is a valid encoding, and only an invalid operation makes a NaN of numbers.
#[test]
fn every_operand_has_a_result() {
    let mut random = Random::new(0x87);
    let operand = |random: &mut Random| {
        let near_one = 0x3fff + random.below(300) as u16 - 150;
        let any = random.next() as u16 & 0x7fff;
        let field = random.pick(&[any, near_one, 0, 0x7fff]);
        let sign_exponent = field | random.next() as u16 & 0x8000;
        let significand = random.operand() | random.pick(&[0, 1 << 63, 1 << 63, 1 << 63]);
        F80 { sign_exponent, significand }
    };
    let nan = |v: &F80| matches!(v.class(), Class::QuietNan | Class::SignallingNan | Class::Unsupported);
    for _ in 0..cases(200_000) {
        let (x, y) = (operand(&mut random), operand(&mut random));
        let control = random.next() as u16 & 0xf3f;
        let (a, b) = (x.unpack(), y.unpack());
        let check = |name, two: bool, f: &dyn Fn(&mut Env) -> Option<F80>| {
            let mut env = Env::x87(control, 0);
            let Some(result) = f(&mut env) else {
                assert!(x.sign_exponent & 0x7fff >= 0x403e && env.raised() == 0, "{name} of {x:x?}");
                return;
            };
            if env.x87_keeps_register() {
                return;
            }
            assert_ne!(result.class(), Class::Unsupported, "{name} of {x:x?} {y:x?} with {control:x}");
            let expected = env.raised() & IE != 0 || nan(&x) || (two && nan(&y));
            assert_eq!(nan(&result), expected, "{name} of {x:x?} {y:x?} with {control:x}: {result:x?}");
        };
        check("FSIN", false, &|env| x87::sin(&a, env));
        check("FCOS", false, &|env| x87::cos(&a, env));
        check("FPTAN", false, &|env| x87::tan(&a, env).map(|(tangent, _)| tangent));
        check("F2XM1", false, &|env| Some(x87::exp2_minus_1(&a, env)));
        check("FPATAN", true, &|env| Some(x87::atan(&b, &a, env)));
        check("FYL2X", true, &|env| Some(x87::y_log2_x(&b, &a, env)));
        check("FYL2XP1", true, &|env| Some(x87::y_log2_x_plus_1(&b, &a, env)));
    }
}
