//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1.
//!
//! Each kernel computes its function to about 120 bits, so that the rounded result is the exact function's but for one
//! argument in 2^50. The exact values that are no fractions of a power of two, nearly all, end in a bit that is set;
//! where a result differs from such a fraction by less than 120 bits can tell, the kernels keep it on the right side.
//! Precision control does not matter: SDM 1 "Precision Control Field".

mod arctangent;
mod exponential;
mod logarithm;
mod tables;
mod trigonometry;
mod wide;

use super::super::env::{Env, PE, UE, ZE};
use super::super::format::{Class, Unpacked};
use super::super::nan::denormal_stops;
use super::super::round::Unrounded;
use super::{F80, invalid, not_a_number, pack};
use logarithm::Logarithm;
use trigonometry::Angle;

const ONE: F80 = F80 { significand: 1 << 63, sign_exponent: 0x3fff };

/// Rounds a value that is not exact.
fn round(value: Unrounded, env: &mut Env) -> F80 {
    pack(&Unrounded { significand: value.significand | 1, ..value }, 64, env)
}

/// Rounds a value that is exact though silicon does not know it: the result says that it is inexact.
fn round_as_inexact(value: &Unrounded, env: &mut Env) -> F80 {
    let rounded = pack(value, 64, env);
    env.raise(PE);
    if rounded.class() == Class::Denormal {
        env.raise(UE);
    }
    rounded
}

/// Pi times `eighths` / 8.
fn part_of_pi(sign: bool, eighths: u128, env: &mut Env) -> F80 {
    round(Unrounded::normalized(sign, 1, tables::PI / 8 * eighths), env)
}

/// What a trigonometric function has before it: a result for the special operands, or an angle. None if the operand is
/// too large, and C2 tells.
fn angle(a: &Unpacked, env: &mut Env) -> Option<Result<Angle, Special>> {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, a, env) {
        return Some(Err(Special::Value(nan)));
    }
    if a.is_infinite() {
        return Some(Err(Special::Value(invalid(env))));
    }
    if denormal_stops(&[*a], env) {
        return Some(Err(Special::Value(F80::ZERO)));
    }
    if a.is_zero() {
        return Some(Err(Special::Zero));
    }
    trigonometry::reduce(a).map(Ok)
}

enum Special {
    /// The result, whatever the function.
    Value(F80),
    /// The operand is a zero.
    Zero,
}

/// FSIN. None when the magnitude of `a` is 2^63 or more: C2 is set and nothing else happens.
pub fn sin(a: &Unpacked, env: &mut Env) -> Option<F80> {
    Some(match angle(a, env)? {
        Ok(angle) => round(angle.sine(0, a.sign), env),
        Err(Special::Value(value)) => value,
        Err(Special::Zero) => F80::zero(a.sign),
    })
}

/// FCOS. None as for [`sin`].
pub fn cos(a: &Unpacked, env: &mut Env) -> Option<F80> {
    Some(match angle(a, env)? {
        Ok(angle) => round(angle.sine(1, false), env),
        Err(Special::Value(value)) => value,
        Err(Special::Zero) => ONE,
    })
}

/// FSINCOS: the sine, which replaces ST(0), and the cosine, which is pushed. None as for [`sin`].
pub fn sin_cos(a: &Unpacked, env: &mut Env) -> Option<(F80, F80)> {
    Some(match angle(a, env)? {
        Ok(angle) => {
            let cosine = round(angle.sine(1, false), env);
            // Last, because C1 tells of the sine.
            (round(angle.sine(0, a.sign), env), cosine)
        }
        Err(Special::Value(value)) => (value, value),
        Err(Special::Zero) => (F80::zero(a.sign), ONE),
    })
}

/// FPTAN: the tangent, which replaces ST(0), and 1, which is pushed; of what is no number, two of it. None as for [`sin`].
pub fn tan(a: &Unpacked, env: &mut Env) -> Option<(F80, F80)> {
    Some(match angle(a, env)? {
        Ok(angle) => (round(angle.tangent(a.sign), env), ONE),
        Err(Special::Value(value)) => (value, value),
        Err(Special::Zero) => (F80::zero(a.sign), ONE),
    })
}

/// FPATAN: the angle of the point (ST(0), ST(1)). SDM 2A "FPATAN", table "FPATAN Results": nothing is invalid.
pub fn atan(y: &Unpacked, x: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(x, y, env) {
        return nan;
    }
    if denormal_stops(&[*x, *y], env) {
        return F80::ZERO;
    }
    if y.is_infinite() {
        let eighths = match (x.is_infinite(), x.sign) {
            (true, false) => 2,
            (true, true) => 6,
            _ => 4,
        };
        return part_of_pi(y.sign, eighths, env);
    }
    if y.is_zero() || x.is_infinite() {
        return if x.sign { part_of_pi(y.sign, 8, env) } else { F80::zero(y.sign) };
    }
    if x.is_zero() {
        return part_of_pi(y.sign, 4, env);
    }
    round(arctangent::arctangent(y, x), env)
}

/// F2XM1: 2^a - 1. SDM 2A "F2XM1": from -1 to 1; what silicon gives for others is the operand.
pub fn exp2_minus_1(a: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, a, env) {
        return nan;
    }
    if a.is_infinite() {
        return if a.sign { ONE.negated() } else { F80::infinity(false) };
    }
    if denormal_stops(&[*a], env) {
        return F80::ZERO;
    }
    if a.is_zero() {
        return F80::zero(a.sign);
    }
    if a.exponent < 0 {
        return round(exponential::exp2_minus_1(a), env);
    }
    if a.exponent == 0 && a.significand == ONE.significand {
        // -1/2 is reported as inexact. 1 is what a value next to it is rounded to.
        return if a.sign {
            round_as_inexact(&Unrounded { sign: true, exponent: -1, significand: 1 << 127 }, env)
        } else {
            round(Unrounded { sign: false, exponent: -1, significand: u128::MAX }, env)
        };
    }
    round_as_inexact(&Unrounded::exact(a), env)
}

/// FYL2X: y * log2(x). SDM 2A "FYL2X", table "FYL2X Results".
pub fn y_log2_x(y: &Unpacked, x: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(x, y, env) {
        return nan;
    }
    let is_one = !x.is_zero() && !x.is_infinite() && x.exponent == 0 && x.significand == ONE.significand;
    if (x.sign && !x.is_zero())
        || (y.is_zero() && (x.is_zero() || x.is_infinite()))
        || (y.is_infinite() && is_one)
    {
        return invalid(env);
    }
    if x.is_zero() && !y.is_infinite() {
        env.raise(ZE);
        return F80::infinity(!y.sign);
    }
    if denormal_stops(&[*x, *y], env) {
        return F80::ZERO;
    }
    if is_one {
        return F80::zero(y.sign);
    }
    let negative = x.is_zero() || (!x.is_infinite() && x.exponent < 0);
    if x.is_infinite() || y.is_infinite() {
        return F80::infinity(y.sign != negative);
    }
    if y.is_zero() {
        return F80::zero(y.sign != negative);
    }
    product(y, &logarithm::log2(x), env)
}

/// FYL2XP1: y * log2(x + 1). SDM 2A "FYL2XP1", table "FYL2XP1 Results": from sqrt(1/2) - 1 to sqrt(2) - 1. Silicon's
/// results are right above too; from -1 on below they are x.
pub fn y_log2_x_plus_1(y: &Unpacked, x: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(x, y, env) {
        return nan;
    }
    if (x.is_infinite() && (x.sign || y.is_zero())) || (x.is_zero() && y.is_infinite()) {
        return invalid(env);
    }
    if denormal_stops(&[*x, *y], env) {
        return F80::ZERO;
    }
    if x.is_infinite() || y.is_infinite() {
        return F80::infinity(y.sign != x.sign);
    }
    if x.is_zero() || y.is_zero() {
        return F80::zero(y.sign != x.sign);
    }
    if x.sign && x.exponent >= 0 {
        return round_as_inexact(&Unrounded::exact(x), env);
    }
    product(y, &logarithm::log2_plus_1(x), env)
}

fn product(y: &Unpacked, logarithm: &Logarithm, env: &mut Env) -> F80 {
    let (value, exact) = logarithm.times(y);
    if exact { round_as_inexact(&value, env) } else { round(value, env) }
}
