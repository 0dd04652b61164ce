//! Multiplication and fused multiply-add.

use super::addsub::{add_unrounded, sign_of_zero_sum};
use super::env::{Env, PE};
use super::format::{
    Class, Format, HostFormat, Unpacked, exponent_field, infinity, integer_significand, is_inside, is_plain,
    is_zero, unpack_sse, zero,
};
use super::nan::{denormal_stops, invalid, of_three, two};
use super::round::{Unrounded, pack};

/// MULPS, MULSS, MULPD, MULSD: one element.
#[inline]
pub fn mul<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    match mul_by_host::<F>(a, b, env) {
        Some(product) => product,
        None => mul_exactly::<F>(a, b, env),
    }
}

/// [`mul`] where the host's own product is certain to be right.
#[inline(always)]
pub(crate) fn mul_by_host<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> Option<F::Bits> {
    if !(env.host_rounds() && is_plain::<F>(a) && is_plain::<F>(b)) {
        return None;
    }
    let product = F::bits(F::host(a) * F::host(b));
    if is_inside::<F>(product) {
        if !env.inexact_is_known() && !product_is_exact::<F>(a, b, product) {
            env.raise(PE);
        }
        return Some(product);
    }
    (is_zero::<F>(a) || is_zero::<F>(b)).then_some(product)
}

/// Whether the rounded product of normal numbers is exact: trailing zeros add up.
#[inline(always)]
fn product_is_exact<F: Format>(a: F::Bits, b: F::Bits, product: F::Bits) -> bool {
    let zeros = integer_significand::<F>(a).trailing_zeros() + integer_significand::<F>(b).trailing_zeros();
    // The full product has 2 * PRECISION - 1 bits, or one more. A product that rounded up to the next binade counts
    // as having one more, but is inexact either way.
    let exponent = exponent_field::<F>(a) + exponent_field::<F>(b);
    let carry = exponent_field::<F>(product) + F::MAX_EXPONENT as u64 - exponent;
    u64::from(zeros) >= u64::from(F::FRACTION_BITS) + carry
}

#[inline(never)]
fn mul_exactly<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let (a, b) = match two::<F>(a, b, env) {
        Ok(operands) => operands,
        Err(nan) => return nan,
    };
    if is_zero_times_infinity(&a, &b) {
        return invalid::<F>(env);
    }
    let sign = a.sign != b.sign;
    if denormal_stops(&[a, b], env) {
        return zero::<F>(sign);
    }
    if a.is_infinite() || b.is_infinite() {
        return infinity::<F>(sign);
    }
    if a.is_zero() || b.is_zero() {
        return zero::<F>(sign);
    }
    pack::<F>(mul_finite(&a, &b), env)
}

#[inline]
pub(super) fn is_zero_times_infinity(a: &Unpacked, b: &Unpacked) -> bool {
    (a.is_zero() && b.is_infinite()) || (a.is_infinite() && b.is_zero())
}

/// The product of two finite numbers that are not zero.
#[inline]
pub(super) fn mul_finite(a: &Unpacked, b: &Unpacked) -> Unrounded {
    let product = u128::from(a.significand) * u128::from(b.significand);
    Unrounded::normalized(a.sign != b.sign, a.exponent + b.exponent + 1, product)
}

/// VFMADD and its relatives: `x * y + z`, rounded once. SDM 1 "FMA Instruction Operand Order and Arithmetic
/// Behavior": NaNs are looked for in the order x, y, z, where the 132 form multiplies operands 1 and 3, the 213 form
/// operands 2 and 1, the 231 form operands 2 and 3. The other signs negate x * y (`negate_product`) or z
/// (`negate_addend`); a NaN keeps its sign.
pub fn fma<F: Format>(
    x: F::Bits,
    y: F::Bits,
    z: F::Bits,
    negate_product: bool,
    negate_addend: bool,
    env: &mut Env,
) -> F::Bits {
    let (x, y, mut z) = (unpack_sse::<F>(x, env), unpack_sse::<F>(y, env), unpack_sse::<F>(z, env));
    if x.is_nan() || y.is_nan() || z.is_nan() {
        // Infinity times zero plus a quiet NaN is that NaN, and not invalid.
        return of_three::<F>(&[x, y, z], env);
    }
    let product_sign = x.sign ^ y.sign ^ negate_product;
    z.sign ^= negate_addend;
    let product_is_infinite = x.is_infinite() || y.is_infinite();
    if is_zero_times_infinity(&x, &y) || (product_is_infinite && z.is_infinite() && product_sign != z.sign) {
        return invalid::<F>(env);
    }
    if denormal_stops(&[x, y, z], env) {
        return zero::<F>(false);
    }
    if product_is_infinite {
        return infinity::<F>(product_sign);
    }
    if z.is_infinite() {
        return infinity::<F>(z.sign);
    }
    let sum = if x.is_zero() || y.is_zero() {
        (!z.is_zero()).then(|| Unrounded::exact(&z))
    } else {
        let product = Unrounded { sign: product_sign, ..mul_finite(&x, &y) };
        if z.is_zero() { Some(product) } else { add_unrounded(&product, &Unrounded::exact(&z)) }
    };
    match sum {
        Some(sum) => pack::<F>(sum, env),
        None => {
            let product = Unpacked { class: Class::Zero, sign: product_sign, exponent: 0, significand: 0 };
            zero::<F>(sign_of_zero_sum(&product, &z, env.rounding()))
        }
    }
}
