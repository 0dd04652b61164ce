//! 128 bits as lanes.
//!
//! What can be is computed on all lanes at once in one wide integer (carries kept inside their lanes): compilers do not
//! make vector instructions of byte-wise code over `u128`. The rest goes lane by lane.

use std::array::from_fn;

/// Which lanes: 8, 16, 32 or 64 bits.
pub(super) const B: u32 = 8;
pub(super) const W: u32 = 16;
pub(super) const D: u32 = 32;
pub(super) const Q: u32 = 64;

/// `v` in every lane.
#[inline(always)]
pub(super) const fn every(lane: u32, v: u64) -> u128 {
    let mut all = v as u128;
    let mut n = lane;
    while n < 128 {
        all |= all << n;
        n *= 2;
    }
    all
}

/// The top bit of every lane.
#[inline(always)]
pub(super) const fn tops(lane: u32) -> u128 {
    every(lane, 1 << (lane - 1))
}

/// Fills each lane whose top bit is set in `top`, which has no others.
#[inline(always)]
pub(super) const fn fill(lane: u32, top: u128) -> u128 {
    top | (top - (top >> (lane - 1)))
}

/// a where `mask` is set, else b.
#[inline(always)]
pub(super) const fn choose(mask: u128, a: u128, b: u128) -> u128 {
    a & mask | b & !mask
}

/// a + b in each lane.
#[inline(always)]
pub(super) const fn add(lane: u32, a: u128, b: u128) -> u128 {
    let top = tops(lane);
    (a & !top).wrapping_add(b & !top) ^ (a ^ b) & top
}

/// a - b in each lane.
#[inline(always)]
pub(super) const fn sub(lane: u32, a: u128, b: u128) -> u128 {
    let top = tops(lane);
    (a | top).wrapping_sub(b & !top) ^ (a ^ !b) & top
}

/// All ones in the lanes that are equal.
#[inline(always)]
pub(super) const fn equal(lane: u32, a: u128, b: u128) -> u128 {
    let (x, top) = (a ^ b, tops(lane));
    fill(lane, !((x & !top).wrapping_add(!top) | x) & top)
}

/// All ones in the lanes where a < b, unsigned: the borrow of a - b.
#[inline(always)]
pub(super) const fn below(lane: u32, a: u128, b: u128) -> u128 {
    fill(lane, (!a & b | !(a ^ b) & sub(lane, a, b)) & tops(lane))
}

/// All ones in the lanes where a > b, signed.
#[inline(always)]
pub(super) const fn greater(lane: u32, a: u128, b: u128) -> u128 {
    let top = tops(lane);
    below(lane, b ^ top, a ^ top)
}

/// f on each pair of 8-bit lanes.
#[inline(always)]
pub(super) fn each_b(a: u128, b: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(from_fn(|k| f(a[k], b[k])))
}

/// f on each pair of 16-bit lanes.
#[inline(always)]
pub(super) fn each_w(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|k| f(a[k], b[k])))
}

/// 16-bit lanes.
#[inline(always)]
pub(super) fn words(v: u128) -> [u16; 8] {
    from_fn(|k| (v >> (16 * k)) as u16)
}

/// 32-bit lanes.
#[inline(always)]
pub(super) fn dwords(v: u128) -> [u32; 4] {
    from_fn(|k| (v >> (32 * k)) as u32)
}

/// 64-bit lanes.
#[inline(always)]
pub(super) fn qwords(v: u128) -> [u64; 2] {
    [v as u64, (v >> 64) as u64]
}

/// The inverse of [`words`].
#[inline(always)]
pub(super) fn from_words(v: [u16; 8]) -> u128 {
    (0..8).fold(0, |all, k| all | u128::from(v[k]) << (16 * k))
}

/// The inverse of [`dwords`].
#[inline(always)]
pub(super) fn from_dwords(v: [u32; 4]) -> u128 {
    (0..4).fold(0, |all, k| all | u128::from(v[k]) << (32 * k))
}

/// The inverse of [`qwords`].
#[inline(always)]
pub(super) fn from_qwords(v: [u64; 2]) -> u128 {
    u128::from(v[0]) | u128::from(v[1]) << 64
}
