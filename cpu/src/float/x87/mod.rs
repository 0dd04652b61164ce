//! x87: double extended precision.
//!
//! Arithmetic takes [`Unpacked`] operands, made by [`F80::unpack`] from registers, by [`super::unpack`] from memory
//! operands in single or double precision, and by [`Unpacked::from_i64`] from integers, so that a denormal or a
//! signalling NaN in memory is seen as what it is.

mod arithmetic;
mod bcd;
mod constants;
mod load_store;
mod remainder;
mod scale;
mod transcendental;

pub use arithmetic::{add, compare, div, mul, sqrt, sub};
pub use bcd::{from_bcd, to_bcd};
pub use constants::{Constant, constant};
pub use load_store::{from_i64, load_f32, load_f64, to_f32, to_f64, to_i16, to_i32, to_i64};
pub use remainder::{Remainder, prem, prem1};
pub use scale::{extract, round_to_integral, scale};
pub use transcendental::{atan, cos, exp2_minus_1, sin, sin_cos, tan, y_log2_x, y_log2_x_plus_1};

use super::env::{Env, IE, OE, PE, UE};
use super::format::{Class, INTEGER_BIT, QUIET, Unpacked};
use super::round::{Rounded, Unrounded, overflows_to_infinity, round_denormal, round_unbounded};
use serde::{Deserialize, Serialize};

/// The largest exponent of a finite number; the bias too.
const MAX_EXPONENT: i32 = 0x3fff;
const MIN_EXPONENT: i32 = -0x3ffe;
/// Both infinities and all NaNs.
const TOP_FIELD: u16 = 0x7fff;
const SIGN: u16 = 0x8000;
/// SDM 1 "Numeric Overflow Exception (#O)": what unmasked overflow and underflow adjust the exponent by.
const ADJUSTMENT: i32 = 24576;

/// A double extended-precision value as a register holds it; the leading bit of the significand is explicit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct F80 {
    /// Integer bit and fraction.
    pub significand: u64,
    /// Sign in bit 15, exponent below.
    pub sign_exponent: u16,
}

impl F80 {
    /// Plus zero.
    pub const ZERO: F80 = F80 { significand: 0, sign_exponent: 0 };
    /// SDM 1 "QNaN Floating-Point Indefinite".
    pub const INDEFINITE: F80 = F80 { significand: INTEGER_BIT | QUIET, sign_exponent: SIGN | TOP_FIELD };

    #[inline]
    fn new(sign: bool, field: u16, significand: u64) -> F80 {
        F80 { significand, sign_exponent: if sign { SIGN | field } else { field } }
    }

    #[inline]
    fn zero(sign: bool) -> F80 {
        F80::new(sign, 0, 0)
    }

    #[inline]
    fn infinity(sign: bool) -> F80 {
        F80::new(sign, TOP_FIELD, INTEGER_BIT)
    }

    /// A value from the ten bytes that FLD m80 reads.
    #[inline]
    pub fn from_le_bytes(bytes: [u8; 10]) -> F80 {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        F80 {
            significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exponent: u16::from_le_bytes([i, j]),
        }
    }

    /// The ten bytes that FSTP m80 writes.
    #[inline]
    pub fn to_le_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.significand.to_le_bytes();
        let [i, j] = self.sign_exponent.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// The sign bit.
    #[inline]
    pub fn is_negative(self) -> bool {
        self.sign_exponent & SIGN != 0
    }

    /// What kind of value this is, as FXAM reports it (quiet and signalling NaNs alike, an empty register is the
    /// caller's business).
    #[inline]
    pub fn class(self) -> Class {
        let explicit = self.significand & INTEGER_BIT != 0;
        match self.sign_exponent & TOP_FIELD {
            0 if self.significand == 0 => Class::Zero,
            0 => Class::Denormal,
            _ if !explicit => Class::Unsupported,
            TOP_FIELD if self.significand == INTEGER_BIT => Class::Infinity,
            TOP_FIELD if self.significand & QUIET != 0 => Class::QuietNan,
            TOP_FIELD => Class::SignallingNan,
            _ => Class::Normal,
        }
    }

    /// Takes the value apart.
    #[inline]
    pub fn unpack(self) -> Unpacked {
        let (sign, class) = (self.is_negative(), self.class());
        let field = i32::from(self.sign_exponent & TOP_FIELD);
        match class {
            Class::Normal => {
                Unpacked { class, sign, exponent: field - MAX_EXPONENT, significand: self.significand }
            }
            Class::Denormal => {
                // A pseudo-denormal has its leading bit in place: the least exponent then holds as it is.
                let shift = self.significand.leading_zeros();
                let exponent = MIN_EXPONENT - shift as i32;
                Unpacked { class, sign, exponent, significand: self.significand << shift }
            }
            _ => Unpacked { class, sign, exponent: 0, significand: self.significand },
        }
    }

    /// FABS. SDM 2A "FABS": raises nothing, whatever the value.
    #[inline]
    #[must_use]
    pub fn abs(self) -> F80 {
        F80 { sign_exponent: self.sign_exponent & !SIGN, ..self }
    }

    /// FCHS. SDM 2A "FCHS": raises nothing, whatever the value.
    #[inline]
    #[must_use]
    pub fn negated(self) -> F80 {
        F80 { sign_exponent: self.sign_exponent ^ SIGN, ..self }
    }

    /// A finite number; bit 63 of `significand` is clear in a denormal, whose exponent is the least one.
    #[inline]
    fn assemble(sign: bool, exponent: i32, significand: u64) -> F80 {
        let hidden = if significand & INTEGER_BIT != 0 { 0 } else { 1 };
        F80::new(sign, (exponent + MAX_EXPONENT - hidden) as u16 & TOP_FIELD, significand)
    }

    fn quiet_nan(nan: &Unpacked) -> F80 {
        F80::new(nan.sign, TOP_FIELD, nan.significand | INTEGER_BIT | QUIET)
    }
}

/// The result of an invalid operation without NaN operands.
fn invalid(env: &mut Env) -> F80 {
    env.raise(IE);
    F80::INDEFINITE
}

/// The result when an operand is no number.
/// SDM 1 "Rules for Handling NaNs": of two quiet or two signalling NaNs the one with the larger significand, of a
/// quiet and a signalling one the quiet.
fn not_a_number(a: &Unpacked, b: &Unpacked, env: &mut Env) -> Option<F80> {
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some(invalid(env));
    }
    let signalling = |v: &Unpacked| v.class == Class::SignallingNan;
    if signalling(a) || signalling(b) {
        env.raise(IE);
    }
    let chosen = match (a.is_nan(), b.is_nan()) {
        (false, false) => return None,
        (true, false) => a,
        (false, true) => b,
        (true, true) => match (signalling(a), signalling(b)) {
            (true, false) => b,
            (false, true) => a,
            _ if a.significand == b.significand => {
                if a.sign {
                    b
                } else {
                    a
                }
            }
            _ if a.significand > b.significand => a,
            _ => b,
        },
    };
    Some(F80::quiet_nan(chosen))
}

/// Rounds to `precision` bits, the exponent range being the extended one, and raises OE, UE and PE.
fn pack(value: &Unrounded, precision: u32, env: &mut Env) -> F80 {
    let rounded = round_unbounded(value, precision, env.rounding());
    if rounded.exponent < MIN_EXPONENT {
        return pack_tiny(value, &rounded, precision, env);
    }
    if rounded.exponent > MAX_EXPONENT {
        return pack_huge(value.sign, &rounded, precision, env);
    }
    deliver(value.sign, &rounded, env)
}

fn deliver(sign: bool, rounded: &Rounded, env: &mut Env) -> F80 {
    if rounded.inexact {
        env.raise(PE);
    }
    env.set_rounded_up(rounded.up);
    F80::assemble(sign, rounded.exponent, rounded.significand)
}

#[cold]
fn pack_tiny(value: &Unrounded, unbounded: &Rounded, precision: u32, env: &mut Env) -> F80 {
    if !env.masked(UE) {
        env.raise(UE);
        let exponent = unbounded.exponent + ADJUSTMENT;
        if exponent < MIN_EXPONENT {
            // SDM 1 "Numeric Underflow Exception (#U)": FSCALE can go below the adjusted range too.
            env.raise(PE);
            env.set_rounded_up(false);
            return F80::zero(value.sign);
        }
        return deliver(value.sign, &Rounded { exponent, ..*unbounded }, env);
    }
    let rounded = round_denormal(value, precision, MIN_EXPONENT, env.rounding());
    if rounded.inexact {
        env.raise(UE);
    }
    deliver(value.sign, &rounded, env)
}

#[cold]
fn pack_huge(sign: bool, unbounded: &Rounded, precision: u32, env: &mut Env) -> F80 {
    env.raise(OE);
    if !env.masked(OE) {
        let exponent = unbounded.exponent - ADJUSTMENT;
        if exponent > MAX_EXPONENT {
            env.raise(PE);
            env.set_rounded_up(true);
            return F80::infinity(sign);
        }
        return deliver(sign, &Rounded { exponent, ..*unbounded }, env);
    }
    env.raise(PE);
    let to_infinity = overflows_to_infinity(sign, env.rounding());
    env.set_rounded_up(to_infinity);
    // The largest finite number of this precision.
    if to_infinity {
        F80::infinity(sign)
    } else {
        F80::new(sign, TOP_FIELD - 1, u64::MAX << (64 - precision))
    }
}
