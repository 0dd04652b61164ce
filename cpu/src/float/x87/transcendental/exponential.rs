//! Two to a power, less one.

use super::super::super::format::Unpacked;
use super::super::super::round::Unrounded;
use super::tables::{EXP2, INVERSE_FACTORIALS, LN_OF_2};
use super::wide::{fraction, grown, mul_high, normalize};

/// 2^a - 1 for a magnitude below 1, not zero.
pub(super) fn exp2_minus_1(a: &Unpacked) -> Unrounded {
    let significand = u128::from(a.significand) << 64;
    // The nearest multiple of 1/32.
    let near = if a.exponent < -6 { 0 } else { ((a.significand >> (-1 - a.exponent) >> 58) + 1) >> 1 };
    if near == 0 {
        let (w, shift) = normalize(mul_high(significand, LN_OF_2));
        let exponent = a.exponent - shift;
        let by = mul_high(w, excess(a.sign, fraction(exponent, w)));
        return if a.sign {
            Unrounded::normalized(true, exponent, w - by)
        } else {
            grown(false, exponent, w, by)
        };
    }
    // 2^a = 2^k * (1 + e), where k = near / 32 with the sign of a and 1 + e = 2^(a - k).
    let power = fraction(a.exponent, significand);
    let nearest = if near == 32 { 0 } else { u128::from(near) << 123 };
    // For 32, which does not fit, the difference from below wraps to what it is.
    let over = near != 32 && power >= nearest;
    let rest = if over { power - nearest } else { nearest.wrapping_sub(power) };
    let negative = a.sign == over;
    let w = mul_high(rest, LN_OF_2);
    let by = mul_high(w, excess(negative, w));
    let e = if negative { w - by } else { w + by };
    let base = if a.sign { EXP2[32 - near as usize] / 2 } else { EXP2[near as usize] };
    let change = mul_high(base, e);
    let power = if negative { base - change } else { base + change };
    Unrounded::normalized(a.sign, 1, power.abs_diff(1 << 126))
}

/// How far (e^w - 1)/w is from 1, for a magnitude of w of at most ln(2)/64.
fn excess(negative: bool, w: u128) -> u128 {
    let terms = INVERSE_FACTORIALS[2..16].iter().rev();
    let sum = if negative {
        terms.fold(0, |sum, c| c - mul_high(w, sum))
    } else {
        terms.fold(0, |sum, c| c + mul_high(w, sum))
    };
    mul_high(w, sum)
}
