//! Arithmetic on 128-bit significands and fractions.
//!
//! A fraction is a number below 1 in units of 2^-128. A significand has bit 127 set and stands for a number from 1 to
//! below 2, in units of 2^-127, next to its exponent.

use super::super::super::round::Unrounded;

/// The upper half of a product: of two fractions it is their product as a fraction, cut off.
#[inline]
pub(super) fn mul_high(a: u128, b: u128) -> u128 {
    let low = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & low, b >> 64, b & low);
    let first = a1 * b0 + (a0 * b0 >> 64);
    let second = a0 * b1 + (first & low);
    a1 * b1 + (first >> 64) + (second >> 64)
}

/// A quotient of significands, cut off.
pub(super) struct Quotient {
    pub(super) exponent: i32,
    pub(super) significand: u128,
    pub(super) exact: bool,
}

/// Divides significands, both with bit 127 set.
#[inline]
pub(super) fn divide(a: u128, b: u128) -> Quotient {
    // In [1, 2) or [1/2, 1): one bit less of the dividend then gives as many of the quotient.
    let less = a < b;
    let (high, low) = if less { (a, 0) } else { (a >> 1, a << 127) };
    let (upper, rest) = divide_digit(high, (low >> 64) as u64, b);
    let (lower, rest) = divide_digit(rest, low as u64, b);
    Quotient {
        exponent: -i32::from(less),
        significand: u128::from(upper) << 64 | u128::from(lower),
        exact: rest == 0,
    }
}

/// One digit of 64 bits of a long division, and the rest: `rest * 2^64 + next` divided by `b`, where `rest < b`.
#[inline]
fn divide_digit(rest: u128, next: u64, b: u128) -> (u64, u128) {
    let (b1, b0) = (b >> 64, b & u128::from(u64::MAX));
    // An estimate from the divisor's upper half is at most two too large (Knuth, TAOCP 2, 4.3.1, theorem B).
    let mut digit = (rest / b1).min(u128::from(u64::MAX));
    let mut remainder = rest - digit * b1;
    while remainder >> 64 == 0 && digit * b0 > (remainder << 64 | u128::from(next)) {
        digit -= 1;
        remainder += b1;
    }
    // The difference is below b, whatever the wrapped parts are.
    let rest = (remainder << 64 | u128::from(next)).wrapping_sub(digit * b0);
    (digit as u64, rest)
}

/// `value` as a significand: the leading bit goes to bit 127. The second is how far it went.
#[inline]
pub(super) fn normalize(value: u128) -> (u128, i32) {
    let shift = value.leading_zeros();
    (value.checked_shl(shift).unwrap_or(0), shift as i32)
}

/// A significand and its exponent plus a smaller amount in the same unit.
#[inline]
pub(super) fn grown(sign: bool, exponent: i32, significand: u128, by: u128) -> Unrounded {
    match significand.checked_add(by) {
        Some(sum) => Unrounded { sign, exponent, significand: sum },
        None => Unrounded {
            sign,
            exponent: exponent + 1,
            significand: 1 << 127 | significand.wrapping_add(by) >> 1,
        },
    }
}

/// The fraction that a significand with an exponent below 0 is, cut off.
#[inline]
pub(super) fn fraction(exponent: i32, significand: u128) -> u128 {
    significand.checked_shr((-1 - exponent) as u32).unwrap_or(0)
}
