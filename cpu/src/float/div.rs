//! Division.

use super::env::{Env, PE, ZE};
use super::format::{
    Format, HostFormat, Unpacked, infinity, integer_significand, is_inside, is_plain, is_zero, zero,
};
use super::nan::{denormal_stops, invalid, two};
use super::round::{Unrounded, pack};

/// DIVPS, DIVSS, DIVPD, DIVSD: one element.
#[inline]
pub fn div<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    match div_by_host::<F>(a, b, env) {
        Some(quotient) => quotient,
        None => div_exactly::<F>(a, b, env),
    }
}

/// [`div`] where the host's own quotient is certain to be right.
#[inline(always)]
pub(crate) fn div_by_host<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> Option<F::Bits> {
    if !(env.host_rounds() && is_plain::<F>(a) && is_plain::<F>(b) && !is_zero::<F>(b)) {
        return None;
    }
    let quotient = F::bits(F::host(a) / F::host(b));
    if is_inside::<F>(quotient) {
        if !env.inexact_is_known() && !quotient_is_exact::<F>(a, b, quotient) {
            env.raise(PE);
        }
        return Some(quotient);
    }
    is_zero::<F>(a).then_some(quotient)
}

/// Whether the rounded quotient of normal numbers is exact: multiplied back, it gives the dividend.
#[inline(always)]
fn quotient_is_exact<F: Format>(a: F::Bits, b: F::Bits, quotient: F::Bits) -> bool {
    let back = u128::from(integer_significand::<F>(quotient)) * u128::from(integer_significand::<F>(b));
    let dividend = u128::from(integer_significand::<F>(a)) << F::FRACTION_BITS;
    back == dividend || back == dividend << 1
}

#[inline(never)]
fn div_exactly<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let (a, b) = match two::<F>(a, b, env) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    if (a.is_zero() && b.is_zero()) || (a.is_infinite() && b.is_infinite()) {
        return invalid::<F>(env);
    }
    let sign = a.sign != b.sign;
    // SDM 1 "Exception Priority": division by zero comes before a denormal operand, and hides it.
    if b.is_zero() && !a.is_infinite() {
        env.raise(ZE);
        return infinity::<F>(sign);
    }
    if denormal_stops(&[a, b], env) {
        return zero::<F>(sign);
    }
    if a.is_infinite() {
        return infinity::<F>(sign);
    }
    if a.is_zero() || b.is_infinite() {
        return zero::<F>(sign);
    }
    pack::<F>(div_finite(&a, &b), env)
}

/// The quotient of two finite numbers that are not zero.
#[inline]
pub(super) fn div_finite(a: &Unpacked, b: &Unpacked) -> Unrounded {
    let fits = a.significand >= b.significand;
    let dividend = u128::from(a.significand) << if fits { 63 } else { 64 };
    let divisor = u128::from(b.significand);
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    // The quotient has 64 bits. Below it, only the order of the remainder against one half counts.
    let below: u64 = match (rest << 1).cmp(&divisor) {
        _ if rest == 0 => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Equal => 1 << 63,
        core::cmp::Ordering::Greater => 3 << 62,
    };
    Unrounded {
        sign: a.sign != b.sign,
        exponent: a.exponent - b.exponent - i32::from(!fits),
        significand: quotient << 64 | u128::from(below),
    }
}
