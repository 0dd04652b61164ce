//! Square root.

use super::env::{Env, PE};
use super::format::{Format, HostFormat, Unpacked, infinity, integer_significand, is_plain, is_zero, zero};
use super::nan::{denormal_stops, invalid, one};
use super::round::{Unrounded, pack};

/// SQRTPS, SQRTSS, SQRTPD, SQRTSD: one element.
#[inline]
pub fn sqrt<F: HostFormat>(a: F::Bits, env: &mut Env) -> F::Bits {
    match sqrt_by_host::<F>(a, env) {
        Some(root) => root,
        None => sqrt_exactly::<F>(a, env),
    }
}

/// [`sqrt`] where the host's own root is certain to be right.
#[inline(always)]
pub(crate) fn sqrt_by_host<F: HostFormat>(a: F::Bits, env: &mut Env) -> Option<F::Bits> {
    if !(env.host_rounds() && is_plain::<F>(a) && (a.into() & F::SIGN == 0 || is_zero::<F>(a))) {
        return None;
    }
    let root = F::bits(F::sqrt(F::host(a)));
    if !env.inexact_is_known() && !is_zero::<F>(a) && !root_is_exact::<F>(a, root) {
        env.raise(PE);
    }
    Some(root)
}

#[inline(always)]
fn root_is_exact<F: Format>(a: F::Bits, root: F::Bits) -> bool {
    let root = u128::from(integer_significand::<F>(root));
    let radicand = u128::from(integer_significand::<F>(a)) << F::FRACTION_BITS;
    let square = root * root;
    square == radicand || square == radicand << 1
}

#[inline(never)]
fn sqrt_exactly<F: Format>(a: F::Bits, env: &mut Env) -> F::Bits {
    let a = match one::<F>(a, env) {
        Ok(a) => a,
        Err(nan) => return nan,
    };
    if a.is_zero() {
        return zero::<F>(a.sign);
    }
    if a.sign {
        return invalid::<F>(env);
    }
    if a.is_infinite() {
        return infinity::<F>(false);
    }
    if denormal_stops(&[a], env) {
        return zero::<F>(false);
    }
    pack::<F>(sqrt_finite(&a), env)
}

/// The root of a finite number that is not zero; its sign is not looked at.
#[inline]
pub(super) fn sqrt_finite(a: &Unpacked) -> Unrounded {
    // With an even exponent taken out, the root of this 127- or 128-bit integer is the 64-bit significand.
    let odd = a.exponent & 1 != 0;
    let radicand = u128::from(a.significand) << if odd { 64 } else { 63 };
    let root = integer_root(radicand);
    let rest = radicand - u128::from(root) * u128::from(root);
    // (root + 1/2)^2 = root^2 + root + 1/4: halfway cannot occur.
    let below: u64 = if rest == 0 {
        0
    } else if rest <= u128::from(root) {
        1
    } else {
        3 << 62
    };
    let significand = u128::from(root) << 64 | u128::from(below);
    Unrounded { sign: false, exponent: a.exponent >> 1, significand }
}

/// The integer part of the square root of `n`, which is at least 2^126.
fn integer_root(n: u128) -> u64 {
    // The host's root is good to 52 bits, one Newton step gives all 64 up to a few units.
    let estimate = ((n >> 64) as u64 as f64).sqrt() * 4_294_967_296.0;
    let estimate = estimate as u64; // saturates at the largest root
    let square = u128::from(estimate) * u128::from(estimate);
    // The step is below 2^13, so doubles give it to a unit: (n - square) / (2 * estimate).
    let step =
        |difference: u128| ((difference >> 32) as u64 as f64 / (estimate as f64 / 2_147_483_648.0)) as u64;
    let mut root =
        if n >= square { estimate.saturating_add(step(n - square)) } else { estimate - step(square - n) };
    while u128::from(root) * u128::from(root) > n {
        root -= 1;
    }
    while n - u128::from(root) * u128::from(root) > u128::from(root) << 1 {
        root += 1;
    }
    root
}
