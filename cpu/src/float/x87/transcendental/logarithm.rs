//! Logarithms to base 2, and their products.

use super::super::super::format::Unpacked;
use super::super::super::round::Unrounded;
use super::tables::{INVERSE_ODDS, LOG2, LOG2_OF_E};
use super::wide::{divide, fraction, grown, mul_high, normalize};

/// A logarithm that is not zero.
pub(super) struct Logarithm {
    value: Unrounded,
    /// Of a power of two.
    exact: bool,
}

impl Logarithm {
    /// The product with a finite number that is not zero, and whether it is exact.
    pub(super) fn times(&self, y: &Unpacked) -> (Unrounded, bool) {
        let product = mul_high(self.value.significand, u128::from(y.significand) << 64);
        let exponent = self.value.exponent + y.exponent + 1;
        (Unrounded::normalized(self.value.sign != y.sign, exponent, product), self.exact)
    }
}

/// log2 of the magnitude of a finite number that is neither 0 nor 1.
pub(super) fn log2(x: &Unpacked) -> Logarithm {
    of_significand(x.exponent, u128::from(x.significand) << 64)
}

/// log2(1 + x) for a finite x above -1 that is not 0.
pub(super) fn log2_plus_1(x: &Unpacked) -> Logarithm {
    let significand = u128::from(x.significand) << 64;
    if x.exponent < -6 {
        // As below for c = 1, where the difference is known better: x / (2 + x). In units of 2^-126:
        let (two, addend) = (1 << 127, fraction(x.exponent - 2, significand));
        let (divisor, shift) = normalize(if x.sign { two - addend } else { two + addend });
        let t = divide(significand, divisor);
        let value = twice_artanh(x.sign, t.exponent + x.exponent - 1 + shift, t.significand);
        return Logarithm { value, exact: false };
    }
    // From 2^120 on, 1 is too little to count.
    if x.exponent >= 120 {
        return of_significand(x.exponent, significand);
    }
    // Exact: both have their bits within 128.
    let (exponent, sum) = if x.exponent < 0 {
        let (one, x_in_unit) = (1 << 126, significand >> (1 - x.exponent));
        (1, if x.sign { one - x_in_unit } else { one + x_in_unit })
    } else {
        (x.exponent + 1, (significand >> 1) + ((1u128 << 126) >> x.exponent))
    };
    let (sum, shift) = normalize(sum);
    of_significand(exponent - shift, sum)
}

/// log2 of `significand` times two to the power of `exponent`, which is not 1.
fn of_significand(exponent: i32, significand: u128) -> Logarithm {
    /// The square root of 2, roughly: what is above is seen as half of it, so that 1 is in the middle.
    const ROOT: u128 = 0xb504_f333_f9de_6484 << 64;
    let halved = significand > ROOT;
    let exponent = exponent + i32::from(halved);
    // m = significand / 2^scale, from 0.707 to 1.414; c = near / 32 is the multiple that is nearest to it.
    let scale = if halved { 128 } else { 127 };
    let near = ((significand >> (scale - 6)) + 1) >> 1;
    // c/2, because c itself may be 2^128 of its units.
    let half = near << (scale - 6);
    let negative = significand >> 1 < half;
    let difference = significand.wrapping_sub(half << 1);
    let (dividend, left) = normalize(if negative { difference.wrapping_neg() } else { difference });
    let one = near == 32;
    if one && dividend == 0 {
        let value = Unrounded::normalized(exponent < 0, 127, exponent.unsigned_abs().into());
        return Logarithm { value, exact: true };
    }
    // log2(m) = log2(c) + 2 artanh((m - c) / (m + c)) / ln(2).
    let rest = if dividend == 0 {
        Unrounded { sign: false, exponent: -1, significand: 0 }
    } else {
        let (divisor, right) = normalize((significand >> 1) + half);
        let t = divide(dividend, divisor);
        twice_artanh(negative, t.exponent + right - left - 1, t.significand)
    };
    if one && exponent == 0 {
        return Logarithm { value: rest, exact: false };
    }
    let (sign, rest) = (rest.sign, fraction(rest.exponent, rest.significand));
    let (sign, small) = if one {
        (sign, rest)
    } else {
        let base = LOG2[near as usize - 23];
        (near < 32, if sign == (near < 32) { base + rest } else { base - rest })
    };
    if exponent == 0 {
        return Logarithm { value: Unrounded::normalized(sign, -1, small), exact: false };
    }
    // The integer at the top of 128 bits, the fraction behind it.
    let whole = u128::from(exponent.unsigned_abs());
    let room = whole.leading_zeros();
    let (whole, small) = (whole << room, small >> (128 - room));
    let sum = if sign == (exponent < 0) { whole + small } else { whole - small };
    Logarithm { value: Unrounded::normalized(exponent < 0, 127 - room as i32, sum), exact: false }
}

/// 2 artanh(t) / ln(2), for t of at most 1/64.
fn twice_artanh(sign: bool, exponent: i32, significand: u128) -> Unrounded {
    let t = fraction(exponent, significand);
    let square = mul_high(t, t);
    let more = mul_high(square, INVERSE_ODDS.iter().rev().fold(0, |sum, c| c + mul_high(square, sum)));
    let artanh = grown(sign, exponent, significand, mul_high(significand, more));
    Unrounded::normalized(sign, artanh.exponent + 2, mul_high(artanh.significand, LOG2_OF_E))
}
