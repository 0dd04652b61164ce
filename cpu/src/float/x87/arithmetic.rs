//! FADD, FSUB, FMUL, FDIV, FSQRT and comparison. The reversed forms swap the operands.

use super::super::addsub::{add_finite, sign_of_zero_sum};
use super::super::compare::{Invalid, Relation, compare_unpacked};
use super::super::div::div_finite;
use super::super::env::{Env, ZE};
use super::super::format::Unpacked;
use super::super::mul::{is_zero_times_infinity, mul_finite};
use super::super::nan::denormal_stops;
use super::super::sqrt::sqrt_finite;
use super::{F80, invalid, not_a_number, pack};

/// FADD, FADDP, FIADD.
pub fn add(a: &Unpacked, b: &Unpacked, env: &mut Env) -> F80 {
    add_signed(a, b, false, env)
}

/// FSUB, FSUBP, FISUB: `a - b`; FSUBR and its forms swap the operands.
pub fn sub(a: &Unpacked, b: &Unpacked, env: &mut Env) -> F80 {
    add_signed(a, b, true, env)
}

fn add_signed(a: &Unpacked, b: &Unpacked, subtract: bool, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, b, env) {
        return nan;
    }
    let b = &Unpacked { sign: b.sign ^ subtract, ..*b };
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid(env);
    }
    if denormal_stops(&[*a, *b], env) {
        return F80::ZERO;
    }
    if a.is_infinite() || b.is_infinite() {
        return F80::infinity(if a.is_infinite() { a.sign } else { b.sign });
    }
    match add_finite(a, b) {
        Some(sum) => pack(&sum, env.precision(), env),
        None => F80::zero(sign_of_zero_sum(a, b, env.rounding())),
    }
}

/// FMUL, FMULP, FIMUL.
pub fn mul(a: &Unpacked, b: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, b, env) {
        return nan;
    }
    if is_zero_times_infinity(a, b) {
        return invalid(env);
    }
    if denormal_stops(&[*a, *b], env) {
        return F80::ZERO;
    }
    let sign = a.sign != b.sign;
    if a.is_infinite() || b.is_infinite() {
        return F80::infinity(sign);
    }
    if a.is_zero() || b.is_zero() {
        return F80::zero(sign);
    }
    pack(&mul_finite(a, b), env.precision(), env)
}

/// FDIV, FDIVP, FIDIV: `a / b`; FDIVR and its forms swap the operands.
pub fn div(a: &Unpacked, b: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, b, env) {
        return nan;
    }
    if (a.is_zero() && b.is_zero()) || (a.is_infinite() && b.is_infinite()) {
        return invalid(env);
    }
    let sign = a.sign != b.sign;
    if b.is_zero() && !a.is_infinite() {
        env.raise(ZE);
        return F80::infinity(sign);
    }
    if denormal_stops(&[*a, *b], env) {
        return F80::ZERO;
    }
    if a.is_infinite() {
        return F80::infinity(sign);
    }
    if a.is_zero() || b.is_infinite() {
        return F80::zero(sign);
    }
    pack(&div_finite(a, b), env.precision(), env)
}

/// FSQRT.
pub fn sqrt(a: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if let Some(nan) = not_a_number(a, a, env) {
        return nan;
    }
    if a.is_zero() {
        return F80::zero(a.sign);
    }
    if a.sign {
        return invalid(env);
    }
    if a.is_infinite() {
        return F80::infinity(false);
    }
    if denormal_stops(&[*a], env) {
        return F80::ZERO;
    }
    pack(&sqrt_finite(a), env.precision(), env)
}

/// FCOM, FCOMI, FICOM, FTST ([`Invalid::AnyNan`]) and FUCOM, FUCOMI ([`Invalid::SignallingNan`]).
pub fn compare(a: &Unpacked, b: &Unpacked, invalid: Invalid, env: &mut Env) -> Relation {
    env.set_rounded_up(false);
    compare_unpacked(a, b, invalid, env)
}
