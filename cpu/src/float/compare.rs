//! Comparison, minimum and maximum.

use super::env::{DE, Env, IE};
use super::format::{Class, Format, HostFormat, Unpacked, is_plain, unpack_sse, zero};

/// The outcome of a comparison of the first operand with the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The first is less.
    Less = 1,
    /// They are equal; zeros of either sign are.
    Equal = 2,
    /// The first is greater.
    Greater = 4,
    /// One of them is a NaN.
    Unordered = 8,
}

/// Which NaNs make a comparison an invalid operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// Signalling ones: UCOMISS, UCOMISD, FUCOM, CMPEQ.
    SignallingNan,
    /// All: COMISS, COMISD, FCOM, CMPLT.
    AnyNan,
}

/// COMISS, COMISD, UCOMISS, UCOMISD.
#[inline]
pub fn compare<F: HostFormat>(a: F::Bits, b: F::Bits, invalid: Invalid, env: &mut Env) -> Relation {
    match compare_by_host::<F>(a, b) {
        Some(relation) => relation,
        None => compare_unpacked(&unpack_sse::<F>(a, env), &unpack_sse::<F>(b, env), invalid, env),
    }
}

/// [`compare`] where the host's own comparison is certain to be right and nothing is raised.
#[inline(always)]
pub(crate) fn compare_by_host<F: HostFormat>(a: F::Bits, b: F::Bits) -> Option<Relation> {
    if !(is_plain::<F>(a) && is_plain::<F>(b)) {
        return None;
    }
    let (x, y) = (F::host(a), F::host(b));
    Some(if x < y {
        Relation::Less
    } else if x > y {
        Relation::Greater
    } else {
        Relation::Equal
    })
}

/// Compares, raising IE and DE. An unsupported encoding counts as a signalling NaN.
pub(super) fn compare_unpacked(a: &Unpacked, b: &Unpacked, invalid: Invalid, env: &mut Env) -> Relation {
    let unordered =
        |v: &Unpacked| matches!(v.class, Class::QuietNan | Class::SignallingNan | Class::Unsupported);
    if unordered(a) || unordered(b) {
        if invalid == Invalid::AnyNan
            || a.class != Class::QuietNan && unordered(a)
            || b.class != Class::QuietNan && unordered(b)
        {
            env.raise(IE);
        }
        return Relation::Unordered;
    }
    if a.is_denormal() || b.is_denormal() {
        env.raise(DE);
    }
    order(a, b)
}

/// The order of two values that are no NaNs.
fn order(a: &Unpacked, b: &Unpacked) -> Relation {
    if a.is_zero() && b.is_zero() {
        return Relation::Equal;
    }
    // A number's place among magnitudes: zero, finite, infinite.
    let key = |v: &Unpacked| match v.class {
        Class::Zero => (0, 0, 0),
        Class::Infinity => (2, 0, 0),
        _ => (1, v.exponent, v.significand),
    };
    let negative = |v: &Unpacked| v.sign && !v.is_zero();
    let less = match (negative(a), negative(b)) {
        (true, false) => true,
        (false, true) => false,
        (false, false) => key(a) < key(b),
        (true, true) => key(b) < key(a),
    };
    if less {
        Relation::Less
    } else if a.sign == b.sign && key(a) == key(b) {
        Relation::Equal
    } else {
        Relation::Greater
    }
}

/// For predicates 0 to 15, the relations that fulfil them (the values of [`Relation`]).
/// SDM 2A "Comparison Predicate for CMPPD and CMPPS Instructions".
const FULFILLED: [u8; 16] = {
    const L: u8 = Relation::Less as u8;
    const E: u8 = Relation::Equal as u8;
    const G: u8 = Relation::Greater as u8;
    const U: u8 = Relation::Unordered as u8;
    [
        E,             // EQ_OQ
        L,             // LT_OS
        L | E,         // LE_OS
        U,             // UNORD_Q
        L | G | U,     // NEQ_UQ
        E | G | U,     // NLT_US
        G | U,         // NLE_US
        L | E | G,     // ORD_Q
        E | U,         // EQ_UQ
        L | U,         // NGE_US
        L | E | U,     // NGT_US
        0,             // FALSE_OQ
        L | G,         // NEQ_OQ
        E | G,         // GE_OS
        G,             // GT_OS
        L | E | G | U, // TRUE_UQ
    ]
};
/// Bit n: predicate n of 0 to 15 signals on quiet NaNs; 16 to 31 are the same predicates with the contrary choice.
const SIGNALS: u16 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14;

/// CMPPS, CMPSS, CMPPD, CMPSD with SSE's predicates 0 to 7 or AVX's 0 to 31: whether the mask of this element is set.
#[inline]
pub fn compare_predicate<F: HostFormat>(a: F::Bits, b: F::Bits, predicate: u8, env: &mut Env) -> bool {
    let base = usize::from(predicate & 15);
    let signals = (SIGNALS >> base & 1 != 0) != (predicate & 16 != 0);
    let invalid = if signals { Invalid::AnyNan } else { Invalid::SignallingNan };
    FULFILLED[base] & compare::<F>(a, b, invalid, env) as u8 != 0
}

/// MINPS, MINSS, MINPD, MINSD: the second operand when either is a NaN, or both are zeros.
#[inline]
pub fn min<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let first = compare::<F>(a, b, Invalid::AnyNan, env) == Relation::Less;
    flush::<F>(if first { a } else { b }, env)
}

/// MAXPS, MAXSS, MAXPD, MAXSD: the second operand when either is a NaN, or both are zeros.
#[inline]
pub fn max<F: HostFormat>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let first = compare::<F>(a, b, Invalid::AnyNan, env) == Relation::Greater;
    flush::<F>(if first { a } else { b }, env)
}

/// The value that DAZ makes of an operand that is passed on.
#[inline]
fn flush<F: Format>(bits: F::Bits, env: &Env) -> F::Bits {
    let raw: u64 = bits.into();
    let denormal = raw & !F::SIGN <= F::FRACTION_MASK;
    if env.daz() && denormal { zero::<F>(raw & F::SIGN != 0) } else { bits }
}
