//! What SSSE3 added: shuffles by bytes, horizontal sums, absolute values, signs.

use super::lanes::{dwords, each_b, each_w, from_dwords, from_words, words};
use std::array::from_fn;

/// Byte k of the result is the byte of a that byte k of b names; 0 where its top bit is set.
#[inline(always)]
pub(super) fn shuf_b(a: u128, b: u128, _: u8) -> u128 {
    let a = a.to_le_bytes();
    let pick = |n: u8| if n & 0x80 != 0 { 0 } else { a[usize::from(n & 15)] };
    u128::from_le_bytes(b.to_le_bytes().map(pick))
}

/// Sixteen of the 32 bytes a:b, from byte `imm` on.
#[inline(always)]
pub(super) fn align(a: u128, b: u128, imm: u8) -> u128 {
    let n = 8 * u32::from(imm & 15);
    match imm >> 4 {
        // Two steps: a shift by 128 is none.
        0 => b >> n | a << 1 << (127 - n),
        1 => a >> n,
        _ => 0,
    }
}

/// f on pairs of 16-bit lanes side by side, of a and then of b.
#[inline(always)]
fn pairs_w(a: u128, b: u128, f: impl Fn(i16, i16) -> i16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|k| {
        let (v, at) = if k < 4 { (a, 2 * k) } else { (b, 2 * k - 8) };
        f(v[at] as i16, v[at + 1] as i16) as u16
    }))
}
#[inline(always)]
fn pairs_d(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords([f(a[0], a[1]), f(a[2], a[3]), f(b[0], b[1]), f(b[2], b[3])])
}
#[inline(always)]
pub(super) fn h_add_w(a: u128, b: u128, _: u8) -> u128 {
    pairs_w(a, b, i16::wrapping_add)
}
#[inline(always)]
pub(super) fn h_add_d(a: u128, b: u128, _: u8) -> u128 {
    pairs_d(a, b, u32::wrapping_add)
}
#[inline(always)]
pub(super) fn h_add_sw(a: u128, b: u128, _: u8) -> u128 {
    pairs_w(a, b, i16::saturating_add)
}
#[inline(always)]
pub(super) fn h_sub_w(a: u128, b: u128, _: u8) -> u128 {
    pairs_w(a, b, i16::wrapping_sub)
}
#[inline(always)]
pub(super) fn h_sub_d(a: u128, b: u128, _: u8) -> u128 {
    pairs_d(a, b, u32::wrapping_sub)
}
#[inline(always)]
pub(super) fn h_sub_sw(a: u128, b: u128, _: u8) -> u128 {
    pairs_w(a, b, i16::saturating_sub)
}

#[inline(always)]
pub(super) fn madd_ub_sw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let product = |k: usize| i32::from(a[k]) * i32::from(b[k] as i8);
    from_words(from_fn(|k| (product(2 * k) + product(2 * k + 1)).clamp(-0x8000, 0x7fff) as u16))
}
/// Only -8000h squared does not fit: it stays 8000h.
#[inline(always)]
pub(super) fn mul_hrsw(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| (((i32::from(x as i16) * i32::from(y as i16) >> 14) + 1) >> 1) as u16)
}

#[inline(always)]
pub(super) fn sign_b(a: u128, b: u128, _: u8) -> u128 {
    each_b(a, b, |x, y| x.wrapping_mul((y as i8).signum() as u8))
}
#[inline(always)]
pub(super) fn sign_w(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| x.wrapping_mul((y as i16).signum() as u16))
}
#[inline(always)]
pub(super) fn sign_d(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|k| a[k].wrapping_mul((b[k] as i32).signum() as u32)))
}

#[inline(always)]
pub(super) fn abs_b(_: u128, b: u128, _: u8) -> u128 {
    each_b(b, b, |x, _| (x as i8).unsigned_abs())
}
#[inline(always)]
pub(super) fn abs_w(_: u128, b: u128, _: u8) -> u128 {
    each_w(b, b, |x, _| (x as i16).unsigned_abs())
}
#[inline(always)]
pub(super) fn abs_d(_: u128, b: u128, _: u8) -> u128 {
    from_dwords(dwords(b).map(|x| (x as i32).unsigned_abs()))
}
