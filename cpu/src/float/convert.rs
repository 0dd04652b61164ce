//! Conversions of SSE, AVX and F16C: between formats, to and from integers, and to integral values.

use crate::planted::{self, Bug};

use super::env::{Env, IE, PE, Rounding};
use super::format::{
    Class, F16, F32, F64, Format, HostFormat, Unpacked, assemble, infinity, is_inside, is_plain, quiet_nan,
    unpack, unpack_sse, zero,
};
use super::nan::{denormal_stops, one};
use super::round::{Unrounded, pack, round_to_integer};

/// CVTSS2SD, CVTPS2PD: one element.
#[inline]
pub fn f32_to_f64(a: u32, env: &mut Env) -> u64 {
    match f32_to_f64_by_host(a) {
        Some(v) => v,
        None => convert_exactly::<F32, F64>(a, env),
    }
}

/// [`f32_to_f64`] where the host's own conversion is certain to be right and nothing is raised.
#[inline(always)]
pub(crate) fn f32_to_f64_by_host(a: u32) -> Option<u64> {
    is_plain::<F32>(a).then(|| f64::from(f32::from_bits(a)).to_bits())
}

/// CVTSD2SS, CVTPD2PS: one element.
#[inline]
pub fn f64_to_f32(a: u64, env: &mut Env) -> u32 {
    match f64_to_f32_by_host(a, env) {
        Some(v) => v,
        None => convert_exactly::<F64, F32>(a, env),
    }
}

/// [`f64_to_f32`] where the host's own conversion is certain to be right.
#[inline(always)]
pub(crate) fn f64_to_f32_by_host(a: u64, env: &mut Env) -> Option<u32> {
    if !(env.host_rounds() && is_plain::<F64>(a)) {
        return None;
    }
    let narrow = f64::from_bits(a) as f32;
    let bits = narrow.to_bits();
    if !is_inside::<F32>(bits) {
        return None;
    }
    if !env.inexact_is_known() && f64::from(narrow).to_bits() != a {
        env.raise(PE);
    }
    Some(bits)
}

/// CVTTSS2SI, CVTTSD2SI where the host's own conversion is certain to be right: in range, 64 bits.
#[inline(always)]
pub(crate) fn truncate_by_host(a: f64, env: &mut Env) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if !(env.host_rounds() && is_plain::<F64>(a.to_bits()) && a.abs() < LIMIT) {
        return None;
    }
    let v = a as i64;
    if v as f64 != a {
        env.raise(PE);
    }
    Some(v)
}

#[inline(never)]
fn convert_exactly<From: Format, To: Format>(a: From::Bits, env: &mut Env) -> To::Bits {
    let a = unpack_sse::<From>(a, env);
    if denormal_stops(&[a], env) {
        return zero::<To>(a.sign);
    }
    narrow::<To>(&a, env)
}

/// Any operand to a narrower or wider format, DE left to the caller.
pub(super) fn narrow<To: Format>(a: &Unpacked, env: &mut Env) -> To::Bits {
    match a.class {
        Class::QuietNan => quiet_nan::<To>(a.sign, a.significand),
        Class::SignallingNan => {
            env.raise(IE);
            quiet_nan::<To>(a.sign, a.significand)
        }
        Class::Unsupported => {
            env.raise(IE);
            quiet_nan::<To>(true, 0)
        }
        Class::Infinity => infinity::<To>(a.sign),
        Class::Zero => zero::<To>(a.sign),
        Class::Normal | Class::Denormal => pack::<To>(Unrounded::exact(a), env),
    }
}

/// VCVTPH2PS: one element. Exact; neither DAZ nor DE applies to half-precision denormals.
pub fn f16_to_f32(a: u16, env: &mut Env) -> u32 {
    narrow::<F32>(&unpack::<F16>(a), env)
}

/// VCVTPS2PH: one element, rounded by bits 1:0 of the immediate operand, or by MXCSR.RC when bit 2 is set. FTZ does
/// not apply.
pub fn f32_to_f16(a: u32, imm8: u8, env: &mut Env) -> u16 {
    let mut own = env.rounding_of(imm8).without_ftz();
    let result = convert_exactly::<F32, F16>(a, &mut own);
    env.raise(own.raised());
    result
}

/// CVTSI2SS, CVTSI2SD and the packed forms: a 64-bit integer, or a 32-bit one sign-extended.
#[inline]
pub fn from_i64<F: HostFormat>(value: i64, env: &mut Env) -> F::Bits {
    let value = Unpacked::from_i64(value);
    if value.is_zero() { zero::<F>(false) } else { pack::<F>(Unrounded::exact(&value), env) }
}

/// CVTSI2SD and CVTDQ2PD of a 32-bit integer: always exact.
#[inline]
pub fn i32_to_f64(value: i32) -> u64 {
    f64::from(value).to_bits()
}

/// How a conversion to an integer rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToInteger {
    /// As MXCSR.RC or the x87 control word says: CVTSD2SI, FIST.
    Round,
    /// Toward zero: CVTTSD2SI, FISTTP.
    Truncate,
}

impl ToInteger {
    #[inline]
    pub(super) fn rounding(self, env: &Env) -> Rounding {
        match self {
            ToInteger::Round => env.rounding(),
            ToInteger::Truncate => Rounding::Zero,
        }
    }
}

/// CVTSS2SI, CVTSD2SI, CVTTSS2SI, CVTTSD2SI and the packed forms: a 32-bit integer, 0x8000_0000 when invalid.
#[inline]
pub fn to_i32<F: HostFormat>(a: F::Bits, how: ToInteger, env: &mut Env) -> i32 {
    let a = unpack_sse::<F>(a, env);
    to_integer(&a, how.rounding(env), 31, env).unwrap_or(i64::from(i32::MIN)) as i32
}

/// CVTSS2SI, CVTSD2SI, CVTTSS2SI, CVTTSD2SI: a 64-bit integer, 0x8000_0000_0000_0000 when invalid.
#[inline]
pub fn to_i64<F: HostFormat>(a: F::Bits, how: ToInteger, env: &mut Env) -> i64 {
    let a = unpack_sse::<F>(a, env);
    to_integer(&a, how.rounding(env), 63, env).unwrap_or(i64::MIN)
}

/// The integer of `a`; none, with IE raised, when it does not fit `bits` bits and a sign.
#[inline]
pub(super) fn to_integer(a: &Unpacked, rounding: Rounding, bits: u32, env: &mut Env) -> Option<i64> {
    let fits = match a.class {
        Class::Zero | Class::Normal | Class::Denormal => round_to_integer(a, rounding).and_then(|integer| {
            let limit = (1u64 << bits) - u64::from(!a.sign);
            (integer.magnitude <= limit).then_some(integer)
        }),
        _ => None,
    };
    let Some(integer) = fits else {
        env.raise(IE);
        return None;
    };
    if integer.inexact && !planted::is(Bug::StickyPe) {
        env.raise(PE);
        env.set_rounded_up(integer.up);
    }
    let magnitude = integer.magnitude as i64;
    Some(if a.sign { magnitude.wrapping_neg() } else { magnitude })
}

/// ROUNDPS, ROUNDSS, ROUNDPD, ROUNDSD: one element. `imm8` bits 1:0 give the rounding mode, bit 2 takes it from
/// MXCSR instead, bit 3 suppresses PE. Denormals raise nothing.
pub fn round<F: HostFormat>(a: F::Bits, imm8: u8, env: &mut Env) -> F::Bits {
    let bits = a;
    let a = match one::<F>(a, env) {
        Ok(a) => a,
        Err(nan) => return nan,
    };
    if a.is_zero() {
        return zero::<F>(a.sign);
    }
    if a.is_infinite() || a.exponent >= F::FRACTION_BITS as i32 {
        return bits;
    }
    let Some(integer) = round_to_integer(&a, env.rounding_of(imm8).rounding()) else { return bits };
    if integer.inexact && imm8 & 8 == 0 {
        env.raise(PE);
    }
    let rounded = Unpacked::from_magnitude(a.sign, integer.magnitude);
    if rounded.is_zero() {
        zero::<F>(a.sign)
    } else {
        assemble::<F>(a.sign, rounded.exponent, rounded.significand)
    }
}
