//! Arc tangent of a quotient.

use super::super::super::format::Unpacked;
use super::super::super::round::Unrounded;
use super::tables::{ATAN, INVERSE_ODDS, PI};
use super::wide::{divide, fraction, mul_high, normalize};

/// The angle of the point (x, y), both finite and not zero.
pub(super) fn arctangent(y: &Unpacked, x: &Unpacked) -> Unrounded {
    let swapped = (y.exponent, y.significand) > (x.exponent, x.significand);
    let (small, large) = if swapped { (x, y) } else { (y, x) };
    let acute = of_quotient(small, large);
    if !swapped && !x.sign {
        return Unrounded { sign: y.sign, ..acute };
    }
    // In units of 2^-126, as pi is.
    let acute = fraction(acute.exponent - 2, acute.significand);
    let angle = match (swapped, x.sign) {
        (true, false) => PI / 2 - acute,
        (true, true) => PI / 2 + acute,
        _ => PI - acute,
    };
    Unrounded::normalized(y.sign, 1, angle)
}

/// The arc tangent of a quotient from 0 to 1.
fn of_quotient(small: &Unpacked, large: &Unpacked) -> Unrounded {
    let apart = large.exponent.saturating_sub(small.exponent);
    // The multiple of 1/32 that is nearest to the quotient, or next to it; 0 below 1/128.
    let near = if apart < 7 {
        let quotient = ((small.significand >> apart >> 32) << 32) / (large.significand >> 32);
        (quotient + (1 << 26)) >> 27
    } else {
        0
    };
    if near == 0 {
        let quotient = divide(u128::from(small.significand) << 64, u128::from(large.significand) << 64);
        let exponent = quotient.exponent - apart;
        let less = mul_high(quotient.significand, deficit(exponent, quotient.significand));
        // Below the quotient even if that is exact and lacks less than a unit.
        let significand = quotient.significand - less - u128::from(quotient.exact);
        return Unrounded::normalized(false, exponent, significand);
    }
    // atan(s/l) = atan(k) + atan((s - kl) / (l + ks)), all exact in units of 1/32 of the smaller number's.
    let (s, l, k) = (u128::from(small.significand), u128::from(large.significand) << apart, u128::from(near));
    let (upper, lower) = (32 * s, k * l);
    let base = ATAN[near as usize];
    let ((dividend, left), (divisor, right)) = (normalize(upper.abs_diff(lower)), normalize(32 * l + k * s));
    if dividend == 0 {
        return Unrounded::normalized(false, -1, base);
    }
    let rest = divide(dividend, divisor);
    let exponent = rest.exponent + right - left;
    let rest = rest.significand - mul_high(rest.significand, deficit(exponent, rest.significand));
    let rest = fraction(exponent, rest);
    Unrounded::normalized(false, -1, if upper > lower { base + rest } else { base - rest })
}

/// What atan(t)/t lacks to 1, for t of at most 1/62.
fn deficit(exponent: i32, significand: u128) -> u128 {
    let t = fraction(exponent, significand);
    let square = mul_high(t, t);
    mul_high(square, INVERSE_ODDS.iter().rev().fold(0, |sum, c| c - mul_high(square, sum)))
}
