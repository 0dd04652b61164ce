//! FPREM and FPREM1.

use super::super::env::Env;
use super::super::format::Unpacked;
use super::super::nan::denormal_stops;
use super::super::round::Unrounded;
use super::{F80, invalid, not_a_number, pack};

/// What FPREM and FPREM1 leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remainder {
    /// The new ST(0).
    pub value: F80,
    /// The low three bits of the quotient: bit 2 goes to C0, bit 1 to C3, bit 0 to C1.
    pub quotient: u8,
    /// C2: the reduction is partial, the instruction must be run again.
    pub partial: bool,
}

/// FPREM: ST(0) modulo ST(1), the quotient truncated.
pub fn prem(a: &Unpacked, b: &Unpacked, env: &mut Env) -> Remainder {
    remainder(a, b, false, env)
}

/// FPREM1: the IEEE remainder, the quotient rounded to nearest.
pub fn prem1(a: &Unpacked, b: &Unpacked, env: &mut Env) -> Remainder {
    remainder(a, b, true, env)
}

fn remainder(a: &Unpacked, b: &Unpacked, nearest: bool, env: &mut Env) -> Remainder {
    env.set_rounded_up(false);
    let complete = |value| Remainder { value, quotient: 0, partial: false };
    if let Some(nan) = not_a_number(a, b, env) {
        return complete(nan);
    }
    if a.is_infinite() || b.is_zero() {
        return complete(invalid(env));
    }
    if denormal_stops(&[*a, *b], env) {
        return complete(F80::ZERO);
    }
    if a.is_zero() {
        return complete(F80::zero(a.sign));
    }
    let difference = a.exponent - b.exponent;
    if b.is_infinite() || difference < -1 || (difference < 0 && !nearest) {
        return complete(pack(&Unrounded::exact(a), 64, env));
    }
    // Both significands as integers, whose unit is that of the divisor times 2^scale.
    let partial = difference >= 64;
    let reduced_by = if partial { 32 + difference % 32 } else { difference.max(0) };
    let scale = difference.max(0) - reduced_by - i32::from(difference < 0);
    let dividend = u128::from(a.significand) << reduced_by;
    let divisor = u128::from(b.significand) << i32::from(difference < 0);
    let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
    let mut sign = a.sign;
    if nearest && !partial && (rest << 1 > divisor || (rest << 1 == divisor && quotient & 1 != 0)) {
        quotient += 1;
        rest = divisor - rest;
        sign = !sign;
    }
    let value = if rest == 0 {
        F80::zero(a.sign)
    } else {
        // The unit is 2^(b.exponent - 63 + scale); bit 127 stands for 2^exponent.
        pack(&Unrounded::normalized(sign, b.exponent + scale + 64, rest), 64, env)
    };
    Remainder { value, quotient: if partial { 0 } else { (quotient & 7) as u8 }, partial }
}
