//! NaN operands of SSE and AVX instructions. SDM 1 "Results of Operations with NaN Operands or a NaN Result for
//! SSE/SSE2/SSE3 Numeric Instructions": the first operand that is a NaN, quieted.

use crate::planted::{self, Bug};

use super::env::{DE, Env, IE};
use super::format::{Class, Format, Unpacked, indefinite, quiet_nan, unpack_sse};

/// The result of an invalid operation without NaN operands.
#[inline]
pub(super) fn invalid<F: Format>(env: &mut Env) -> F::Bits {
    env.raise(IE);
    indefinite::<F>()
}

#[cold]
fn propagate<F: Format>(operands: &[Unpacked], env: &mut Env) -> F::Bits {
    if operands.iter().any(|v| v.class == Class::SignallingNan) {
        env.raise(IE);
    }
    // A signalling NaN has no precedence over a quiet one before it.
    let nan = if planted::is(Bug::NanOrder) {
        operands.iter().rfind(|v| v.is_nan())
    } else {
        operands.iter().find(|v| v.is_nan())
    };
    match nan {
        Some(nan) => quiet_nan::<F>(nan.sign, nan.significand),
        None => indefinite::<F>(),
    }
}

/// Takes two operands apart; the result when one is a NaN.
#[inline]
pub(super) fn two<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> Result<(Unpacked, Unpacked), F::Bits> {
    let (a, b) = (unpack_sse::<F>(a, env), unpack_sse::<F>(b, env));
    if a.is_nan() || b.is_nan() { Err(propagate::<F>(&[a, b], env)) } else { Ok((a, b)) }
}

/// Takes one operand apart; the result when it is a NaN.
#[inline]
pub(super) fn one<F: Format>(a: F::Bits, env: &mut Env) -> Result<Unpacked, F::Bits> {
    let a = unpack_sse::<F>(a, env);
    if a.is_nan() { Err(propagate::<F>(&[a], env)) } else { Ok(a) }
}

/// The result of an operation on three operands of which one is a NaN.
#[cold]
pub(super) fn of_three<F: Format>(operands: &[Unpacked; 3], env: &mut Env) -> F::Bits {
    propagate::<F>(operands, env)
}

/// Raises DE when an operand is denormal; true when the operation ends with that, DE being unmasked.
#[inline]
pub(super) fn denormal_stops(operands: &[Unpacked], env: &mut Env) -> bool {
    operands.iter().any(Unpacked::is_denormal) && env.raise_and_stop(DE)
}
