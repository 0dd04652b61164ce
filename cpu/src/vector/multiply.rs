//! Products and sums across lanes.

use super::lanes::{dwords, each_w, from_dwords, from_qwords, words};
use std::array::from_fn;

#[inline(always)]
fn signed(x: u16) -> i32 {
    i32::from(x as i16)
}

#[inline(always)]
pub(super) fn mul_lo_w(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, u16::wrapping_mul)
}
#[inline(always)]
pub(super) fn mul_hi_w(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| ((signed(x) * signed(y)) >> 16) as u16)
}
#[inline(always)]
pub(super) fn mul_hi_uw(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16)
}
#[inline(always)]
pub(super) fn mul_udq(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_qwords([0, 2].map(|k| u64::from(a[k]) * u64::from(b[k])))
}
#[inline(always)]
pub(super) fn madd_wd(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (words(a), words(b));
    let product = |k: usize| signed(a[k]) * signed(b[k]);
    // All four being 8000h is the one sum that does not fit: it wraps.
    from_dwords(from_fn(|k| product(2 * k).wrapping_add(product(2 * k + 1)) as u32))
}
#[inline(always)]
pub(super) fn sad_bw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    from_qwords([0, 8].map(|first| (first..first + 8).map(|k| u64::from(a[k].abs_diff(b[k]))).sum()))
}
