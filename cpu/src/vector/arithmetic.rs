//! Sums, differences, averages, minima, comparisons.

use super::lanes::{B, D, Q, W, add, below, choose, each_b, each_w, equal, greater, sub};

#[inline(always)]
pub(super) fn add_b(a: u128, b: u128, _: u8) -> u128 {
    add(B, a, b)
}
#[inline(always)]
pub(super) fn add_w(a: u128, b: u128, _: u8) -> u128 {
    add(W, a, b)
}
#[inline(always)]
pub(super) fn add_d(a: u128, b: u128, _: u8) -> u128 {
    add(D, a, b)
}
#[inline(always)]
pub(super) fn add_q(a: u128, b: u128, _: u8) -> u128 {
    add(Q, a, b)
}
#[inline(always)]
pub(super) fn sub_b(a: u128, b: u128, _: u8) -> u128 {
    sub(B, a, b)
}
#[inline(always)]
pub(super) fn sub_w(a: u128, b: u128, _: u8) -> u128 {
    sub(W, a, b)
}
#[inline(always)]
pub(super) fn sub_d(a: u128, b: u128, _: u8) -> u128 {
    sub(D, a, b)
}
#[inline(always)]
pub(super) fn sub_q(a: u128, b: u128, _: u8) -> u128 {
    sub(Q, a, b)
}
#[inline(always)]
pub(super) fn add_sb(a: u128, b: u128, _: u8) -> u128 {
    each_b(a, b, |x, y| (x as i8).saturating_add(y as i8) as u8)
}
#[inline(always)]
pub(super) fn add_sw(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| (x as i16).saturating_add(y as i16) as u16)
}
#[inline(always)]
pub(super) fn sub_sb(a: u128, b: u128, _: u8) -> u128 {
    each_b(a, b, |x, y| (x as i8).saturating_sub(y as i8) as u8)
}
#[inline(always)]
pub(super) fn sub_sw(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| (x as i16).saturating_sub(y as i16) as u16)
}
/// The sum is below its first operand where a carry came out.
#[inline(always)]
pub(super) fn add_usb(a: u128, b: u128, _: u8) -> u128 {
    let sum = add(B, a, b);
    sum | below(B, sum, a)
}
#[inline(always)]
pub(super) fn add_usw(a: u128, b: u128, _: u8) -> u128 {
    let sum = add(W, a, b);
    sum | below(W, sum, a)
}
#[inline(always)]
pub(super) fn sub_usb(a: u128, b: u128, _: u8) -> u128 {
    sub(B, a, b) & !below(B, a, b)
}
#[inline(always)]
pub(super) fn sub_usw(a: u128, b: u128, _: u8) -> u128 {
    sub(W, a, b) & !below(W, a, b)
}
#[inline(always)]
pub(super) fn avg_b(a: u128, b: u128, _: u8) -> u128 {
    each_b(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8)
}
#[inline(always)]
pub(super) fn avg_w(a: u128, b: u128, _: u8) -> u128 {
    each_w(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16)
}
#[inline(always)]
pub(super) fn min_ub(a: u128, b: u128, _: u8) -> u128 {
    choose(below(B, a, b), a, b)
}
#[inline(always)]
pub(super) fn max_ub(a: u128, b: u128, _: u8) -> u128 {
    choose(below(B, a, b), b, a)
}
#[inline(always)]
pub(super) fn min_sw(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(W, a, b), b, a)
}
#[inline(always)]
pub(super) fn max_sw(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(W, a, b), a, b)
}
#[inline(always)]
pub(super) fn cmp_eq_b(a: u128, b: u128, _: u8) -> u128 {
    equal(B, a, b)
}
#[inline(always)]
pub(super) fn cmp_eq_w(a: u128, b: u128, _: u8) -> u128 {
    equal(W, a, b)
}
#[inline(always)]
pub(super) fn cmp_eq_d(a: u128, b: u128, _: u8) -> u128 {
    equal(D, a, b)
}
#[inline(always)]
pub(super) fn cmp_gt_b(a: u128, b: u128, _: u8) -> u128 {
    greater(B, a, b)
}
#[inline(always)]
pub(super) fn cmp_gt_w(a: u128, b: u128, _: u8) -> u128 {
    greater(W, a, b)
}
#[inline(always)]
pub(super) fn cmp_gt_d(a: u128, b: u128, _: u8) -> u128 {
    greater(D, a, b)
}
