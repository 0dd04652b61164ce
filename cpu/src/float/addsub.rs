//! Addition and subtraction.

use super::env::{Env, PE, Rounding};
use super::format::{
    Format, HostFormat, Unpacked, exponent_field, infinity, is_inside, is_plain, is_zero, zero,
};
use super::nan::{denormal_stops, invalid, two};
use super::round::{Unrounded, pack, shift_right_sticky};

/// ADDPS, ADDSS, ADDPD, ADDSD: one element.
#[inline]
pub fn add<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    match add_by_host::<F>(a, b, env) {
        Some(sum) => sum,
        None => add_exactly::<F>(a, b, false, env),
    }
}

/// [`add`] where the host's own sum is certain to be right.
#[inline(always)]
pub(crate) fn add_by_host<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> Option<F::Bits> {
    if !(env.host_rounds() && is_plain::<F>(a) && is_plain::<F>(b)) {
        return None;
    }
    let (x, y) = (F::host(a), F::host(b));
    host_sum::<F>(x, y, x + y, env)
}

/// SUBPS, SUBSS, SUBPD, SUBSD: one element.
#[inline]
pub fn sub<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    match sub_by_host::<F>(a, b, env) {
        Some(difference) => difference,
        None => add_exactly::<F>(a, b, true, env),
    }
}

/// [`sub`] where the host's own difference is certain to be right.
#[inline(always)]
pub(crate) fn sub_by_host<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> Option<F::Bits> {
    add_by_host::<F>(a, F::from_u64(b.into() ^ F::SIGN), env)
}

/// The host's sum when it is certain to be ours, PE raised as needed.
#[inline(always)]
fn host_sum<F: HostFormat>(x: F::Host, y: F::Host, sum: F::Host, env: &mut Env) -> Option<F::Bits> {
    let bits = F::bits(sum);
    if is_inside::<F>(bits) {
        if !env.inexact_is_known() {
            // Knuth's TwoSum: the rounding error, exactly. Its differences cannot overflow below the top binade.
            if exponent_field::<F>(bits) >= F::EXPONENT_MASK - 1 {
                return None;
            }
            let part = sum - x;
            let error = (x - (sum - part)) + (y - part);
            if !is_zero::<F>(F::bits(error)) {
                env.raise(PE);
            }
        }
        return Some(bits);
    }
    // Plain operands cannot underflow to zero in a sum: it is exact.
    is_zero::<F>(bits).then_some(bits)
}

#[inline(never)]
fn add_exactly<F: Format>(a: F::Bits, b: F::Bits, subtract: bool, env: &mut Env) -> F::Bits {
    let (a, mut b) = match two::<F>(a, b, env) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    b.sign ^= subtract;
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid::<F>(env);
    }
    if denormal_stops(&[a, b], env) {
        return zero::<F>(false);
    }
    if a.is_infinite() || b.is_infinite() {
        return infinity::<F>(if a.is_infinite() { a.sign } else { b.sign });
    }
    match add_finite(&a, &b) {
        Some(sum) => pack::<F>(sum, env),
        None => zero::<F>(sign_of_zero_sum(&a, &b, env.rounding())),
    }
}

/// The sign of an exact zero sum of `a` and `b`.
#[inline]
pub(super) fn sign_of_zero_sum(a: &Unpacked, b: &Unpacked, rounding: Rounding) -> bool {
    if a.sign == b.sign { a.sign } else { rounding == Rounding::Down }
}

/// The sum of two finite numbers; none when it is zero.
#[inline]
pub(super) fn add_finite(a: &Unpacked, b: &Unpacked) -> Option<Unrounded> {
    match (a.is_zero(), b.is_zero()) {
        (true, true) => None,
        (false, true) => Some(Unrounded::exact(a)),
        (true, false) => Some(Unrounded::exact(b)),
        (false, false) => add_unrounded(&Unrounded::exact(a), &Unrounded::exact(b)),
    }
}

/// The sum of two results before rounding, whose significands have at most 106 bits; none when it is zero.
#[inline]
pub(super) fn add_unrounded(a: &Unrounded, b: &Unrounded) -> Option<Unrounded> {
    let a_is_larger = (a.exponent, a.significand) >= (b.exponent, b.significand);
    let (large, small) = if a_is_larger { (a, b) } else { (b, a) };
    // One bit of room for the carry. When bits of the smaller one fall into the sticky bit, the exponents are so far
    // apart that the difference loses at most one leading bit: the sticky bit stays below the rounding position.
    let top = large.significand >> 1;
    let addend = shift_right_sticky(small.significand >> 1, (large.exponent - small.exponent) as u32);
    let sum = if a.sign == b.sign { top + addend } else { top - addend };
    (sum != 0).then(|| Unrounded::normalized(large.sign, large.exponent + 1, sum))
}
