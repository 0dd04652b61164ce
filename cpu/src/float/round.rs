//! Rounding, overflow and underflow: from an exact intermediate result to a format.

use super::env::{Env, OE, PE, Rounding, UE};
use super::format::{Format, INTEGER_BIT, Unpacked, assemble, infinity, largest, zero};

/// A result before rounding: `significand / 2^127 * 2^exponent`, bit 127 set. Bit 0 also stands for everything
/// below it ("sticky").
#[derive(Clone, Copy)]
pub(super) struct Unrounded {
    pub(super) sign: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

impl Unrounded {
    /// A finite operand that is not zero.
    #[inline]
    pub(super) fn exact(value: &Unpacked) -> Unrounded {
        let significand = u128::from(value.significand) << 64;
        Unrounded { sign: value.sign, exponent: value.exponent, significand }
    }

    /// Moves the leading bit of a nonzero `significand` to bit 127.
    #[inline]
    pub(super) fn normalized(sign: bool, exponent: i32, significand: u128) -> Unrounded {
        let shift = significand.leading_zeros();
        Unrounded { sign, exponent: exponent - shift as i32, significand: significand << shift }
    }
}

/// Bit 63 of the significand is set, except in a denormal.
#[derive(Clone, Copy)]
pub(super) struct Rounded {
    pub(super) exponent: i32,
    pub(super) significand: u64,
    pub(super) inexact: bool,
    pub(super) up: bool,
}

/// Whether a magnitude grows by one unit. `rest` is the discarded part as a fraction of a unit, sticky.
#[inline]
pub(super) fn grows(odd: bool, rest: u64, sign: bool, rounding: Rounding) -> bool {
    const HALF: u64 = 1 << 63;
    match rounding {
        Rounding::Nearest => rest > HALF || (rest == HALF && odd),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    }
}

/// Shifts right; what falls out is kept in bit 0 as sticky.
#[inline]
pub(super) fn shift_right_sticky(value: u128, count: u32) -> u128 {
    if count == 0 {
        value
    } else if count < 128 {
        value >> count | u128::from(value << (128 - count) != 0)
    } else {
        u128::from(value != 0)
    }
}

#[inline]
fn round_at(sign: bool, exponent: i32, significand: u128, precision: u32, rounding: Rounding) -> Rounded {
    let (high, low) = ((significand >> 64) as u64, significand as u64);
    let (unit, rest) = if precision == 64 {
        (1, low)
    } else {
        (1u64 << (64 - precision), high << precision | u64::from(low != 0))
    };
    let kept = high & !(unit - 1);
    let up = grows(kept & unit != 0, rest, sign, rounding);
    let (sum, carry) = kept.overflowing_add(if up { unit } else { 0 });
    let (exponent, significand) = if carry { (exponent + 1, INTEGER_BIT) } else { (exponent, sum) };
    Rounded { exponent, significand, inexact: rest != 0, up }
}

/// Rounds as if the exponent had no bounds.
#[inline]
pub(super) fn round_unbounded(value: &Unrounded, precision: u32, rounding: Rounding) -> Rounded {
    round_at(value.sign, value.exponent, value.significand, precision, rounding)
}

/// Rounds a tiny value to the denormals of a format whose least normal exponent is `least`.
#[inline]
pub(super) fn round_denormal(value: &Unrounded, precision: u32, least: i32, rounding: Rounding) -> Rounded {
    let shift = (least - value.exponent).max(0) as u32;
    round_at(value.sign, least, shift_right_sticky(value.significand, shift), precision, rounding)
}

/// Whether masked overflow gives infinity, not the largest finite number.
#[inline]
pub(super) fn overflows_to_infinity(sign: bool, rounding: Rounding) -> bool {
    match rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    }
}

/// Rounds to `F` under `env`, raising OE, UE and PE. x86 detects tininess after rounding.
#[inline]
pub(super) fn pack<F: Format>(value: Unrounded, env: &mut Env) -> F::Bits {
    let rounded = round_unbounded(&value, F::PRECISION, env.rounding());
    if rounded.exponent < F::MIN_EXPONENT {
        return pack_tiny::<F>(value, rounded, env);
    }
    if rounded.exponent > F::MAX_EXPONENT {
        return pack_huge::<F>(value.sign, rounded, env);
    }
    if rounded.inexact {
        env.raise(PE);
        env.set_rounded_up(rounded.up);
    }
    assemble::<F>(value.sign, rounded.exponent, rounded.significand)
}

/// SDM 1 "Numeric Underflow Exception (#U)": masked, it needs a tiny and inexact result; unmasked, a tiny one.
#[cold]
fn pack_tiny<F: Format>(value: Unrounded, unbounded: Rounded, env: &mut Env) -> F::Bits {
    if !env.masked(UE) {
        // Nobody uses the result: SSE faults, and an x87 store to memory does not take place.
        env.raise(UE);
        if unbounded.inexact {
            env.raise(PE);
            env.set_rounded_up(unbounded.up);
        }
        return zero::<F>(value.sign);
    }
    if env.ftz() {
        env.raise(UE | PE);
        return zero::<F>(value.sign);
    }
    let rounded = round_denormal(&value, F::PRECISION, F::MIN_EXPONENT, env.rounding());
    if rounded.inexact {
        env.raise(UE | PE);
        env.set_rounded_up(rounded.up);
    }
    assemble::<F>(value.sign, F::MIN_EXPONENT, rounded.significand)
}

/// SDM 1 "Numeric Overflow Exception (#O)".
#[cold]
fn pack_huge<F: Format>(sign: bool, unbounded: Rounded, env: &mut Env) -> F::Bits {
    env.raise(OE);
    if !env.masked(OE) {
        if unbounded.inexact {
            env.raise(PE);
            env.set_rounded_up(unbounded.up);
        }
        return infinity::<F>(sign);
    }
    env.raise(PE);
    let to_infinity = overflows_to_infinity(sign, env.rounding());
    env.set_rounded_up(to_infinity);
    if to_infinity { infinity::<F>(sign) } else { largest::<F>(sign) }
}

/// A magnitude rounded to an integer.
pub(super) struct Integer {
    pub(super) magnitude: u64,
    pub(super) inexact: bool,
    pub(super) up: bool,
}

/// Rounds a finite number to an integer; none when its magnitude has more than 64 bits.
#[inline]
pub(super) fn round_to_integer(value: &Unpacked, rounding: Rounding) -> Option<Integer> {
    if value.is_zero() {
        return Some(Integer { magnitude: 0, inexact: false, up: false });
    }
    if value.exponent > 63 {
        return None;
    }
    let shift = (63 - value.exponent) as u32;
    let fixed = shift_right_sticky(u128::from(value.significand) << 64, shift);
    let (whole, rest) = ((fixed >> 64) as u64, fixed as u64);
    let up = grows(whole & 1 != 0, rest, value.sign, rounding);
    let magnitude = whole.checked_add(u64::from(up))?;
    Some(Integer { magnitude, inexact: rest != 0, up })
}
