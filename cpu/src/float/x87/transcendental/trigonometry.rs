//! Sine, cosine, tangent.

use super::super::super::format::Unpacked;
use super::super::super::round::Unrounded;
use super::tables::INVERSE_FACTORIALS;
use super::wide::{divide, fraction, grown, mul_high, normalize};

/// Half of silicon's pi in units of 2^-65. SDM 1 "Approximation of Pi": all reduction of arguments is by this number of
/// 66 bits, so that what it leaves is exact.
const HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;

/// 2^193 / HALF_PI, cut off.
const INVERSE: u128 = {
    let (mut quotient, mut rest, mut bit) = (0, 1, 0);
    while bit < 193 {
        rest *= 2;
        quotient *= 2;
        if rest >= HALF_PI {
            rest -= HALF_PI;
            quotient += 1;
        }
        bit += 1;
    }
    quotient
};

/// An angle: `quadrant` times half of pi and a rest, whose magnitude is at most a quarter of pi.
pub(super) struct Angle {
    quadrant: u32,
    negative: bool,
    exponent: i32,
    significand: u128,
    /// Of the rest, as a fraction.
    square: u128,
}

/// The magnitude of a finite number that is not zero. None from 2^63 on, where silicon gives up.
pub(super) fn reduce(a: &Unpacked) -> Option<Angle> {
    if a.exponent >= 63 {
        return None;
    }
    let (quadrant, negative, exponent, significand) = if a.exponent < -1 {
        (0, false, a.exponent, u128::from(a.significand) << 64)
    } else {
        let angle = u128::from(a.significand) << (a.exponent + 2);
        // The quotient or one less, because it is below 2^63 and INVERSE right to 2^-127 of itself.
        let turns = mul_high(angle, INVERSE) >> 65;
        let rest = angle - turns * HALF_PI;
        let (turns, rest) = if rest >= HALF_PI { (turns + 1, rest - HALF_PI) } else { (turns, rest) };
        let beyond = rest > HALF_PI / 2;
        // Never zero: 64 bits times a power of two are no multiple of an odd number of 66 bits.
        let (significand, shift) = normalize(if beyond { HALF_PI - rest } else { rest });
        ((turns as u32).wrapping_add(beyond.into()), beyond, 127 - 65 - shift, significand)
    };
    let rest = fraction(exponent, significand);
    Some(Angle { quadrant, negative, exponent, significand, square: mul_high(rest, rest) })
}

/// 1/a! - x/b! + x^2/c! - .. for every other factorial from `first` on: `x` is a square of at most (pi/4)^2.
#[inline(always)]
fn alternating(first: usize, x: u128) -> u128 {
    // The sixteenth term is below 2^-128.
    (0..16).rev().fold(0, |sum, n| INVERSE_FACTORIALS[first + 2 * n] - mul_high(x, sum))
}

/// What sin(y)/y lacks to 1, from the square of y.
fn sine_deficit(square: u128) -> u128 {
    mul_high(square, alternating(3, square))
}

/// What cos(y) lacks to 1, from the square of y.
fn cosine_deficit(square: u128) -> u128 {
    mul_high(square, alternating(2, square))
}

impl Angle {
    /// The sine of this angle and `more` quarters of a turn, negated or not.
    pub(super) fn sine(&self, more: u32, negated: bool) -> Unrounded {
        let quadrant = self.quadrant.wrapping_add(more);
        let sign = negated != (quadrant & 2 != 0);
        if quadrant & 1 != 0 {
            // One less than what 1 - deficit is: it is cut off, and below 1 even where the deficit is.
            return Unrounded::normalized(sign, -1, u128::MAX - cosine_deficit(self.square));
        }
        // The last 62 bits of the rest are clear.
        let sine = self.significand - mul_high(self.significand, sine_deficit(self.square)) - 1;
        Unrounded::normalized(sign != self.negative, self.exponent, sine)
    }

    /// The tangent, negated or not, from sin(y)/y and cos(y), of which the cosine lacks more.
    pub(super) fn tangent(&self, negated: bool) -> Unrounded {
        let odd = self.quadrant & 1 != 0;
        let sign = negated != (self.negative != odd);
        let (sine, cosine) = (sine_deficit(self.square), cosine_deficit(self.square));
        let more = cosine.saturating_sub(sine);
        let divisor = if odd { sine } else { cosine };
        let by = if more == 0 {
            0
        } else {
            let ((dividend, left), (divisor, right)) = (normalize(more), normalize(u128::MAX - divisor));
            let by = divide(dividend, divisor);
            fraction(by.exponent + right - left, by.significand)
        };
        if odd {
            // -1/y less what the sine's quotient has more.
            let inverse = divide(1 << 127, self.significand);
            let less = mul_high(inverse.significand, by) + u128::from(inverse.exact);
            return Unrounded::normalized(sign, inverse.exponent - self.exponent, inverse.significand - less);
        }
        grown(sign, self.exponent, self.significand, mul_high(self.significand, by))
    }
}
