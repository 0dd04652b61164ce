//! What AVX2 brought: shifts and look-ups lane by lane, a lane in all.

use super::lanes::{B, D, Q, W, dwords, every, from_dwords, from_qwords, qwords};

/// f on each pair of 32-bit lanes.
#[inline(always)]
fn each_d(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords([0, 1, 2, 3].map(|k: usize| f(a[k], b[k])))
}

/// f on each pair of 64-bit lanes.
#[inline(always)]
fn each_q(a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let (a, b) = (qwords(a), qwords(b));
    from_qwords([0, 1].map(|k: usize| f(a[k], b[k])))
}

#[inline(always)]
pub(super) fn shl_d(a: u128, b: u128, _: u8) -> u128 {
    each_d(a, b, |a, n| a.checked_shl(n).unwrap_or(0))
}
#[inline(always)]
pub(super) fn shl_q(a: u128, b: u128, _: u8) -> u128 {
    each_q(a, b, |a, n| if n < 64 { a << n } else { 0 })
}
#[inline(always)]
pub(super) fn shr_d(a: u128, b: u128, _: u8) -> u128 {
    each_d(a, b, |a, n| a.checked_shr(n).unwrap_or(0))
}
#[inline(always)]
pub(super) fn shr_q(a: u128, b: u128, _: u8) -> u128 {
    each_q(a, b, |a, n| if n < 64 { a >> n } else { 0 })
}
#[inline(always)]
pub(super) fn sar_d(a: u128, b: u128, _: u8) -> u128 {
    each_d(a, b, |a, n| ((a as i32) >> n.min(31)) as u32)
}
#[inline(always)]
pub(super) fn lookup_d(a: u128, b: u128, _: u8) -> u128 {
    let table = dwords(a);
    from_dwords(dwords(b).map(|n| table[(n & 3) as usize]))
}
#[inline(always)]
pub(super) fn lookup_q(a: u128, b: u128, _: u8) -> u128 {
    let table = qwords(a);
    from_qwords(qwords(b).map(|n| table[(n >> 1 & 1) as usize]))
}
#[inline(always)]
pub(super) fn broadcast_b(_: u128, b: u128, _: u8) -> u128 {
    every(B, b as u8 as u64)
}
#[inline(always)]
pub(super) fn broadcast_w(_: u128, b: u128, _: u8) -> u128 {
    every(W, b as u16 as u64)
}
#[inline(always)]
pub(super) fn broadcast_d(_: u128, b: u128, _: u8) -> u128 {
    every(D, b as u32 as u64)
}
#[inline(always)]
pub(super) fn broadcast_q(_: u128, b: u128, _: u8) -> u128 {
    every(Q, b as u64)
}
#[inline(always)]
pub(super) fn shuf_q(_: u128, b: u128, n: u8) -> u128 {
    let lanes = qwords(b);
    from_qwords([lanes[usize::from(n & 1)], lanes[usize::from(n >> 1 & 1)]])
}
