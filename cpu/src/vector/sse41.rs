//! What SSE4.1 and SSE4.2 added to integers: blends, insertions and extractions, wider and narrower lanes, the missing
//! minima, maxima and comparisons.

use super::lanes::{
    B, D, Q, W, below, choose, dwords, equal, every, fill, from_dwords, from_qwords, from_words, greater,
    tops, words,
};
use std::array::from_fn;

/// All ones in the lanes, so many bits wide, whose bit in `imm` is set.
#[inline(always)]
fn lanes_of(imm: u8, bits: u32) -> u128 {
    let chosen = (0..128 / bits).fold(0, |all, k| all | u128::from(imm >> k & 1) << (bits * k + bits - 1));
    fill(bits, chosen)
}
#[inline(always)]
pub(super) fn blend_w(a: u128, b: u128, imm: u8) -> u128 {
    choose(lanes_of(imm, W), b, a)
}
#[inline(always)]
pub(super) fn blend_d(a: u128, b: u128, imm: u8) -> u128 {
    choose(lanes_of(imm, D), b, a)
}
#[inline(always)]
pub(super) fn blend_q(a: u128, b: u128, imm: u8) -> u128 {
    choose(lanes_of(imm, Q), b, a)
}

#[inline(always)]
pub(super) fn select_b(a: u128, b: u128, c: u128, _: u8) -> u128 {
    choose(fill(B, c & tops(B)), b, a)
}
#[inline(always)]
pub(super) fn select_d(a: u128, b: u128, c: u128, _: u8) -> u128 {
    choose(fill(D, c & tops(D)), b, a)
}
#[inline(always)]
pub(super) fn select_q(a: u128, b: u128, c: u128, _: u8) -> u128 {
    choose(fill(Q, c & tops(Q)), b, a)
}

/// `bits` of b in place of lane `at` of a.
#[inline(always)]
fn insert(a: u128, b: u128, at: u8, bits: u32) -> u128 {
    let mask = (1u128 << bits) - 1;
    let shift = bits * u32::from(at) & 127;
    a & !(mask << shift) | (b & mask) << shift
}
#[inline(always)]
pub(super) fn insert_b(a: u128, b: u128, imm: u8) -> u128 {
    insert(a, b, imm & 15, B)
}
#[inline(always)]
pub(super) fn insert_d(a: u128, b: u128, imm: u8) -> u128 {
    insert(a, b, imm & 3, D)
}
#[inline(always)]
pub(super) fn insert_q(a: u128, b: u128, imm: u8) -> u128 {
    insert(a, b, imm & 1, Q)
}
#[inline(always)]
pub(super) fn extract_b(a: u128, _: u128, imm: u8) -> u128 {
    a >> (8 * u32::from(imm & 15)) & 0xff
}
#[inline(always)]
pub(super) fn extract_d(a: u128, _: u128, imm: u8) -> u128 {
    a >> (32 * u32::from(imm & 3)) & 0xffff_ffff
}
#[inline(always)]
pub(super) fn extract_q(a: u128, _: u128, imm: u8) -> u128 {
    a >> (64 * u32::from(imm & 1)) & u128::from(u64::MAX)
}
/// Lane 7:6 of b to lane 5:4 of a, then zeros in the lanes of bits 3:0.
#[inline(always)]
pub(super) fn insert_ps(a: u128, b: u128, imm: u8) -> u128 {
    insert(a, extract_d(b, 0, imm >> 6), imm >> 4 & 3, D) & !lanes_of(imm, D)
}

#[inline(always)]
pub(super) fn min_sb(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(B, a, b), b, a)
}
#[inline(always)]
pub(super) fn max_sb(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(B, a, b), a, b)
}
#[inline(always)]
pub(super) fn min_uw(a: u128, b: u128, _: u8) -> u128 {
    choose(below(W, a, b), a, b)
}
#[inline(always)]
pub(super) fn max_uw(a: u128, b: u128, _: u8) -> u128 {
    choose(below(W, a, b), b, a)
}
#[inline(always)]
pub(super) fn min_sd(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(D, a, b), b, a)
}
#[inline(always)]
pub(super) fn max_sd(a: u128, b: u128, _: u8) -> u128 {
    choose(greater(D, a, b), a, b)
}
#[inline(always)]
pub(super) fn min_ud(a: u128, b: u128, _: u8) -> u128 {
    choose(below(D, a, b), a, b)
}
#[inline(always)]
pub(super) fn max_ud(a: u128, b: u128, _: u8) -> u128 {
    choose(below(D, a, b), b, a)
}
#[inline(always)]
pub(super) fn cmp_eq_q(a: u128, b: u128, _: u8) -> u128 {
    equal(Q, a, b)
}
#[inline(always)]
pub(super) fn cmp_gt_q(a: u128, b: u128, _: u8) -> u128 {
    greater(Q, a, b)
}

#[inline(always)]
pub(super) fn mul_lo_d(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|k| a[k].wrapping_mul(b[k])))
}
#[inline(always)]
pub(super) fn mul_dq(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_qwords([0, 2].map(|k| (i64::from(a[k] as i32) * i64::from(b[k] as i32)) as u64))
}
#[inline(always)]
pub(super) fn pack_usdw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    let narrow = |x: u32| (x as i32).clamp(0, 0xffff) as u16;
    from_words(from_fn(|k| narrow(if k < 4 { a[k] } else { b[k - 4] })))
}

/// b's lowest lanes of `from` bits in lanes of `to` bits.
#[inline(always)]
fn widen(b: u128, from: u32, to: u32, signed: bool) -> u128 {
    let mask = (1u64 << from) - 1;
    let spread = (0..128 / to).fold(0, |all, k| all | (b >> (from * k) & u128::from(mask)) << (to * k));
    if !signed {
        return spread;
    }
    let signs = spread << (to - from) & tops(to);
    spread | fill(to, signs) & !every(to, mask)
}
#[inline(always)]
pub(super) fn sx_bw(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, W, true)
}
#[inline(always)]
pub(super) fn sx_bd(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, D, true)
}
#[inline(always)]
pub(super) fn sx_bq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, Q, true)
}
#[inline(always)]
pub(super) fn sx_wd(_: u128, b: u128, _: u8) -> u128 {
    widen(b, W, D, true)
}
#[inline(always)]
pub(super) fn sx_wq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, W, Q, true)
}
#[inline(always)]
pub(super) fn sx_dq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, D, Q, true)
}
#[inline(always)]
pub(super) fn zx_bw(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, W, false)
}
#[inline(always)]
pub(super) fn zx_bd(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, D, false)
}
#[inline(always)]
pub(super) fn zx_bq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, B, Q, false)
}
#[inline(always)]
pub(super) fn zx_wd(_: u128, b: u128, _: u8) -> u128 {
    widen(b, W, D, false)
}
#[inline(always)]
pub(super) fn zx_wq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, W, Q, false)
}
#[inline(always)]
pub(super) fn zx_dq(_: u128, b: u128, _: u8) -> u128 {
    widen(b, D, Q, false)
}

/// Eight sums of four absolute differences: of a's bytes from 0 or 4 on, each one further, and the four of b that bits 1:0
/// choose.
#[inline(always)]
pub(super) fn mp_sad_bw(a: u128, b: u128, imm: u8) -> u128 {
    let a = (a >> (32 * u32::from(imm >> 2 & 1))).to_le_bytes();
    let b = (b >> (32 * u32::from(imm & 3))).to_le_bytes();
    from_words(from_fn(|k| (0..4).map(|j| u16::from(a[k + j].abs_diff(b[j]))).sum()))
}
/// The least 16-bit lane of b, unsigned, and above it the number of the first that is so.
#[inline(always)]
pub(super) fn h_min_pos(_: u128, b: u128, _: u8) -> u128 {
    let mut least = u128::MAX;
    for (k, w) in words(b).into_iter().enumerate() {
        least = least.min(u128::from(w) << 3 | k as u128);
    }
    least >> 3 | (least & 7) << 16
}
