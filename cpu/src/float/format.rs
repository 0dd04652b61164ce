//! The interchange formats, and the one unpacked form in which every operation computes.

use super::env::Env;

/// What kind of value an operand is. SDM 1 "Real Number and NaN Encodings", "Unsupported Double Extended-Precision
/// Floating-Point Encodings and Pseudo-Denormals".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A finite number with its leading bit set.
    Normal,
    /// A finite number below the normal range, pseudo-denormals included.
    Denormal,
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    QuietNan,
    /// A signalling NaN.
    SignallingNan,
    /// Unnormal, pseudo-infinity or pseudo-NaN.
    Unsupported,
}

/// An operand taken apart. A finite number is `significand / 2^63 * 2^exponent` with bit 63 set, denormals too; the
/// significand of a NaN is as in [`super::F80`], so that payloads move between formats unchanged.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    pub(super) class: Class,
    pub(super) sign: bool,
    pub(super) exponent: i32,
    pub(super) significand: u64,
}

/// Bit 62 tells a quiet NaN from a signalling one.
pub(super) const QUIET: u64 = 1 << 62;
pub(super) const INTEGER_BIT: u64 = 1 << 63;

impl Unpacked {
    pub(super) const ZERO: Unpacked =
        Unpacked { class: Class::Zero, sign: false, exponent: 0, significand: 0 };

    #[inline]
    pub(super) fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignallingNan)
    }

    #[inline]
    pub(super) fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    #[inline]
    pub(super) fn is_infinite(&self) -> bool {
        self.class == Class::Infinity
    }

    #[inline]
    pub(super) fn is_denormal(&self) -> bool {
        self.class == Class::Denormal
    }

    /// A signed integer, exactly.
    #[inline]
    pub fn from_i64(value: i64) -> Unpacked {
        Unpacked::from_magnitude(value < 0, value.unsigned_abs())
    }

    #[inline]
    pub(super) fn from_magnitude(sign: bool, magnitude: u64) -> Unpacked {
        if magnitude == 0 {
            return Unpacked { sign, ..Unpacked::ZERO };
        }
        let shift = magnitude.leading_zeros();
        Unpacked { class: Class::Normal, sign, exponent: 63 - shift as i32, significand: magnitude << shift }
    }
}

/// A binary interchange format with a hidden leading bit: half, single or double precision.
pub trait Format: Copy {
    /// The bits of one value.
    type Bits: Copy + PartialEq + Into<u64>;
    /// Bits of the significand, the hidden one counted.
    const PRECISION: u32;
    /// Bits of the exponent.
    const EXPONENT_BITS: u32;

    /// Bits of the fraction.
    const FRACTION_BITS: u32 = Self::PRECISION - 1;
    /// The largest exponent of a finite number; the bias too.
    const MAX_EXPONENT: i32 = (1 << (Self::EXPONENT_BITS - 1)) - 1;
    /// The smallest exponent of a normal number.
    const MIN_EXPONENT: i32 = 1 - Self::MAX_EXPONENT;
    /// The fraction's bits set.
    const FRACTION_MASK: u64 = (1 << Self::FRACTION_BITS) - 1;
    /// The exponent's bits set, at bit 0.
    const EXPONENT_MASK: u64 = (1 << Self::EXPONENT_BITS) - 1;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::FRACTION_BITS + Self::EXPONENT_BITS);

    /// The low bits of `bits`, as many as the format has.
    fn from_u64(bits: u64) -> Self::Bits;
}

/// Half precision, 16 bits.
#[derive(Clone, Copy, Debug)]
pub struct F16;
/// Single precision, 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct F32;
/// Double precision, 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct F64;

impl Format for F16 {
    type Bits = u16;
    const PRECISION: u32 = 11;
    const EXPONENT_BITS: u32 = 5;
    #[inline(always)]
    fn from_u64(bits: u64) -> u16 {
        bits as u16
    }
}

impl Format for F32 {
    type Bits = u32;
    const PRECISION: u32 = 24;
    const EXPONENT_BITS: u32 = 8;
    #[inline(always)]
    fn from_u64(bits: u64) -> u32 {
        bits as u32
    }
}

impl Format for F64 {
    type Bits = u64;
    const PRECISION: u32 = 53;
    const EXPONENT_BITS: u32 = 11;
    #[inline(always)]
    fn from_u64(bits: u64) -> u64 {
        bits
    }
}

/// Takes `bits` apart, denormals kept.
#[inline]
pub fn unpack<F: Format>(bits: F::Bits) -> Unpacked {
    let bits: u64 = bits.into();
    let sign = bits & F::SIGN != 0;
    let field = bits >> F::FRACTION_BITS & F::EXPONENT_MASK;
    let fraction = (bits & F::FRACTION_MASK) << (63 - F::FRACTION_BITS);
    if field != 0 && field != F::EXPONENT_MASK {
        let exponent = field as i32 - F::MAX_EXPONENT;
        return Unpacked { class: Class::Normal, sign, exponent, significand: INTEGER_BIT | fraction };
    }
    if field == 0 {
        if fraction == 0 {
            return Unpacked { sign, ..Unpacked::ZERO };
        }
        let shift = fraction.leading_zeros();
        let exponent = F::MIN_EXPONENT - shift as i32;
        return Unpacked { class: Class::Denormal, sign, exponent, significand: fraction << shift };
    }
    let class = match fraction {
        0 => Class::Infinity,
        f if f & QUIET != 0 => Class::QuietNan,
        _ => Class::SignallingNan,
    };
    Unpacked { class, sign, exponent: 0, significand: INTEGER_BIT | fraction }
}

/// Takes an SSE operand apart: with DAZ a denormal is a zero of its sign.
#[inline]
pub(super) fn unpack_sse<F: Format>(bits: F::Bits, env: &Env) -> Unpacked {
    let value = unpack::<F>(bits);
    if value.is_denormal() && env.daz() { Unpacked { sign: value.sign, ..Unpacked::ZERO } } else { value }
}

/// Puts a finite number together. Bit 63 of `significand` is clear in a denormal, whose exponent is the least one.
#[inline]
pub(super) fn assemble<F: Format>(sign: bool, exponent: i32, significand: u64) -> F::Bits {
    // The integer bit, when set, carries into the exponent field.
    let field = (exponent + F::MAX_EXPONENT - 1) as u64;
    let sign = if sign { F::SIGN } else { 0 };
    F::from_u64(sign | ((field << F::FRACTION_BITS) + (significand >> (63 - F::FRACTION_BITS))))
}

#[inline]
pub(super) fn zero<F: Format>(sign: bool) -> F::Bits {
    F::from_u64(if sign { F::SIGN } else { 0 })
}

#[inline]
pub(super) fn infinity<F: Format>(sign: bool) -> F::Bits {
    let magnitude = F::EXPONENT_MASK << F::FRACTION_BITS;
    F::from_u64(if sign { F::SIGN | magnitude } else { magnitude })
}

/// The finite number of largest magnitude.
#[inline]
pub(super) fn largest<F: Format>(sign: bool) -> F::Bits {
    let magnitude = (F::EXPONENT_MASK << F::FRACTION_BITS) - 1;
    F::from_u64(if sign { F::SIGN | magnitude } else { magnitude })
}

/// SDM 1 "QNaN Floating-Point Indefinite": negative and quiet, without a payload.
#[inline]
pub(super) fn indefinite<F: Format>() -> F::Bits {
    quiet_nan::<F>(true, 0)
}

/// A quiet NaN with the payload of `significand` as far as it fits.
#[inline]
pub(super) fn quiet_nan<F: Format>(sign: bool, significand: u64) -> F::Bits {
    let fraction = ((significand | QUIET) & !INTEGER_BIT) >> (63 - F::FRACTION_BITS);
    F::from_u64(if sign { F::SIGN } else { 0 } | F::EXPONENT_MASK << F::FRACTION_BITS | fraction)
}

/// A format in which the host computes too. Its results are used for normal values in round-to-nearest only, where
/// every host that Rust runs on with IEEE arithmetic gives the same bits.
pub trait HostFormat: Format {
    /// The host's type.
    type Host: Copy
        + PartialOrd
        + core::ops::Add<Output = Self::Host>
        + core::ops::Sub<Output = Self::Host>
        + core::ops::Mul<Output = Self::Host>
        + core::ops::Div<Output = Self::Host>;

    /// The host's value of these bits.
    fn host(bits: Self::Bits) -> Self::Host;
    /// The bits of a host value.
    fn bits(host: Self::Host) -> Self::Bits;
    /// The host's square root.
    fn sqrt(host: Self::Host) -> Self::Host;
}

macro_rules! host_format {
    ($format:ty, $host:ty) => {
        impl HostFormat for $format {
            type Host = $host;
            #[inline(always)]
            fn host(bits: Self::Bits) -> $host {
                <$host>::from_bits(bits)
            }
            #[inline(always)]
            fn bits(host: $host) -> Self::Bits {
                host.to_bits()
            }
            #[inline(always)]
            fn sqrt(host: $host) -> $host {
                host.sqrt()
            }
        }
    };
}
host_format!(F32, f32);
host_format!(F64, f64);

/// The exponent field.
#[inline(always)]
pub(super) fn exponent_field<F: Format>(bits: F::Bits) -> u64 {
    bits.into() >> F::FRACTION_BITS & F::EXPONENT_MASK
}

#[inline(always)]
pub(super) fn is_zero<F: Format>(bits: F::Bits) -> bool {
    bits.into() & !F::SIGN == 0
}

/// Whether this operand can raise nothing by itself and is no infinity: normal or zero.
#[inline(always)]
pub(super) fn is_plain<F: Format>(bits: F::Bits) -> bool {
    let field = exponent_field::<F>(bits);
    (field.wrapping_sub(1) < F::EXPONENT_MASK - 1) | is_zero::<F>(bits)
}

/// Whether the host's result is in range beyond doubt: finite, and above the least normal number, which may come
/// from a value that was tiny before rounding.
#[inline(always)]
pub(super) fn is_inside<F: Format>(bits: F::Bits) -> bool {
    exponent_field::<F>(bits).wrapping_sub(2) < F::EXPONENT_MASK - 2
}

/// The significand of a normal number as an integer of `PRECISION` bits.
#[inline(always)]
pub(super) fn integer_significand<F: Format>(bits: F::Bits) -> u64 {
    bits.into() & F::FRACTION_MASK | 1 << F::FRACTION_BITS
}
