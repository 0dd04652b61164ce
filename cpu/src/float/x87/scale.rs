//! FSCALE, FXTRACT, FRNDINT.

use super::super::env::{Env, PE, Rounding, ZE};
use super::super::format::{Class, Unpacked};
use super::super::nan::denormal_stops;
use super::super::round::{Unrounded, round_to_integer};
use super::{F80, from_i64, invalid, not_a_number, pack};

/// FSCALE: `a` times two to the power of `b`, truncated.
pub fn scale(a: &Unpacked, b: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, b, env) {
        return nan;
    }
    if b.is_infinite() && ((a.is_zero() && !b.sign) || (a.is_infinite() && b.sign)) {
        return invalid(env);
    }
    if denormal_stops(&[*a, *b], env) {
        return F80::ZERO;
    }
    if a.is_infinite() {
        return F80::infinity(a.sign);
    }
    if a.is_zero() {
        return F80::zero(a.sign);
    }
    if b.is_infinite() {
        return if b.sign { F80::zero(a.sign) } else { F80::infinity(a.sign) };
    }
    // Beyond this every result is out of the adjusted range too.
    const FAR: u64 = 0x2_0000;
    let power = round_to_integer(b, Rounding::Zero).map_or(FAR, |p| p.magnitude.min(FAR)) as i32;
    let exponent = a.exponent + if b.sign { -power } else { power };
    pack(&Unrounded { exponent, ..Unrounded::exact(a) }, 64, env)
}

/// FXTRACT: the exponent, which replaces ST(0), and the significand, which is pushed.
pub fn extract(a: &Unpacked, env: &mut Env) -> (F80, F80) {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, a, env) {
        return (nan, nan);
    }
    match a.class {
        Class::Infinity => (F80::infinity(false), F80::infinity(a.sign)),
        Class::Zero => {
            env.raise(ZE);
            (F80::infinity(true), F80::zero(a.sign))
        }
        _ => {
            if denormal_stops(&[*a], env) {
                return (F80::ZERO, F80::ZERO);
            }
            (from_i64(i64::from(a.exponent)), F80::assemble(a.sign, 0, a.significand))
        }
    }
}

/// FRNDINT.
pub fn round_to_integral(a: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, a, env) {
        return nan;
    }
    if a.is_infinite() {
        return F80::infinity(a.sign);
    }
    if denormal_stops(&[*a], env) {
        return F80::ZERO;
    }
    if a.is_zero() {
        return F80::zero(a.sign);
    }
    let integer = if a.exponent < 63 { round_to_integer(a, env.rounding()) } else { None };
    let Some(integer) = integer else {
        return F80::assemble(a.sign, a.exponent, a.significand);
    };
    if integer.inexact {
        env.raise(PE);
        env.set_rounded_up(integer.up);
    }
    let rounded = Unpacked::from_magnitude(a.sign, integer.magnitude);
    if rounded.is_zero() {
        F80::zero(a.sign)
    } else {
        F80::assemble(a.sign, rounded.exponent, rounded.significand)
    }
}
