//! Logic and shifts.

use super::lanes::{D, Q, W, dwords, each_w, every, from_dwords};

#[inline(always)]
pub(super) fn and(a: u128, b: u128, _: u8) -> u128 {
    a & b
}
#[inline(always)]
pub(super) fn and_not(a: u128, b: u128, _: u8) -> u128 {
    !a & b
}
#[inline(always)]
pub(super) fn or(a: u128, b: u128, _: u8) -> u128 {
    a | b
}
#[inline(always)]
pub(super) fn xor(a: u128, b: u128, _: u8) -> u128 {
    a ^ b
}

/// Left in each lane; zero when n reaches the lane's width.
#[inline(always)]
fn left(lane: u32, a: u128, n: u64) -> u128 {
    if n >= lane.into() {
        return 0;
    }
    a << n & every(lane, u64::MAX >> (64 - lane) & u64::MAX << n)
}

/// Right in each lane, zeros coming in.
#[inline(always)]
fn right(lane: u32, a: u128, n: u64) -> u128 {
    if n >= lane.into() {
        return 0;
    }
    a >> n & every(lane, u64::MAX >> (64 - lane) >> n)
}

/// Right in each lane, the sign coming in; n is cut to the lane's width less one.
#[inline(always)]
fn arithmetic_w(a: u128, n: u64) -> u128 {
    let n = n.min(15) as u32;
    each_w(a, 0, |x, _| ((x as i16) >> n) as u16)
}
#[inline(always)]
fn arithmetic_d(a: u128, n: u64) -> u128 {
    let n = n.min(31) as u32;
    from_dwords(dwords(a).map(|x| ((x as i32) >> n) as u32))
}

#[inline(always)]
pub(super) fn shl_w(a: u128, b: u128, _: u8) -> u128 {
    left(W, a, b as u64)
}
#[inline(always)]
pub(super) fn shl_d(a: u128, b: u128, _: u8) -> u128 {
    left(D, a, b as u64)
}
#[inline(always)]
pub(super) fn shl_q(a: u128, b: u128, _: u8) -> u128 {
    left(Q, a, b as u64)
}
#[inline(always)]
pub(super) fn shr_w(a: u128, b: u128, _: u8) -> u128 {
    right(W, a, b as u64)
}
#[inline(always)]
pub(super) fn shr_d(a: u128, b: u128, _: u8) -> u128 {
    right(D, a, b as u64)
}
#[inline(always)]
pub(super) fn shr_q(a: u128, b: u128, _: u8) -> u128 {
    right(Q, a, b as u64)
}
#[inline(always)]
pub(super) fn sar_w(a: u128, b: u128, _: u8) -> u128 {
    arithmetic_w(a, b as u64)
}
#[inline(always)]
pub(super) fn sar_d(a: u128, b: u128, _: u8) -> u128 {
    arithmetic_d(a, b as u64)
}
#[inline(always)]
pub(super) fn shl_imm_w(a: u128, _: u128, n: u8) -> u128 {
    left(W, a, n.into())
}
#[inline(always)]
pub(super) fn shl_imm_d(a: u128, _: u128, n: u8) -> u128 {
    left(D, a, n.into())
}
#[inline(always)]
pub(super) fn shl_imm_q(a: u128, _: u128, n: u8) -> u128 {
    left(Q, a, n.into())
}
#[inline(always)]
pub(super) fn shr_imm_w(a: u128, _: u128, n: u8) -> u128 {
    right(W, a, n.into())
}
#[inline(always)]
pub(super) fn shr_imm_d(a: u128, _: u128, n: u8) -> u128 {
    right(D, a, n.into())
}
#[inline(always)]
pub(super) fn shr_imm_q(a: u128, _: u128, n: u8) -> u128 {
    right(Q, a, n.into())
}
#[inline(always)]
pub(super) fn sar_imm_w(a: u128, _: u128, n: u8) -> u128 {
    arithmetic_w(a, n.into())
}
#[inline(always)]
pub(super) fn sar_imm_d(a: u128, _: u128, n: u8) -> u128 {
    arithmetic_d(a, n.into())
}
#[inline(always)]
pub(super) fn shl_bytes(a: u128, _: u128, n: u8) -> u128 {
    a.checked_shl(8 * u32::from(n)).unwrap_or(0)
}
#[inline(always)]
pub(super) fn shr_bytes(a: u128, _: u128, n: u8) -> u128 {
    a.checked_shr(8 * u32::from(n)).unwrap_or(0)
}
