//! What moves lanes about.

use super::lanes::{dwords, from_qwords, from_words, qwords, words};
use std::array::from_fn;

/// The four bytes of x at the even bytes.
#[inline(always)]
fn spread_b(x: u64) -> u64 {
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    (x | x << 8) & 0x00ff_00ff_00ff_00ff
}
/// The two words of x at the even words.
#[inline(always)]
fn spread_w(x: u64) -> u64 {
    (x | x << 16) & 0x0000_ffff_0000_ffff
}
#[inline(always)]
fn interleave_b(a: u64, b: u64) -> u128 {
    let low = |v: u64| v & 0xffff_ffff;
    from_qwords([spread_b(low(a)) | spread_b(low(b)) << 8, spread_b(a >> 32) | spread_b(b >> 32) << 8])
}
#[inline(always)]
fn interleave_w(a: u64, b: u64) -> u128 {
    let low = |v: u64| v & 0xffff_ffff;
    from_qwords([spread_w(low(a)) | spread_w(low(b)) << 16, spread_w(a >> 32) | spread_w(b >> 32) << 16])
}
#[inline(always)]
fn interleave_d(a: u64, b: u64) -> u128 {
    from_qwords([a & 0xffff_ffff | b << 32, a >> 32 | b & !0xffff_ffff])
}

#[inline(always)]
pub(super) fn unpack_lo_b(a: u128, b: u128, _: u8) -> u128 {
    interleave_b(a as u64, b as u64)
}
#[inline(always)]
pub(super) fn unpack_lo_w(a: u128, b: u128, _: u8) -> u128 {
    interleave_w(a as u64, b as u64)
}
#[inline(always)]
pub(super) fn unpack_lo_d(a: u128, b: u128, _: u8) -> u128 {
    interleave_d(a as u64, b as u64)
}
#[inline(always)]
pub(super) fn unpack_lo_q(a: u128, b: u128, _: u8) -> u128 {
    from_qwords([a as u64, b as u64])
}
#[inline(always)]
pub(super) fn unpack_hi_b(a: u128, b: u128, _: u8) -> u128 {
    interleave_b((a >> 64) as u64, (b >> 64) as u64)
}
#[inline(always)]
pub(super) fn unpack_hi_w(a: u128, b: u128, _: u8) -> u128 {
    interleave_w((a >> 64) as u64, (b >> 64) as u64)
}
#[inline(always)]
pub(super) fn unpack_hi_d(a: u128, b: u128, _: u8) -> u128 {
    interleave_d((a >> 64) as u64, (b >> 64) as u64)
}
#[inline(always)]
pub(super) fn unpack_hi_q(a: u128, b: u128, _: u8) -> u128 {
    from_qwords([(a >> 64) as u64, (b >> 64) as u64])
}

#[inline(always)]
pub(super) fn pack_swb(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (words(a), words(b));
    let narrow = |x: u16| (x as i16).clamp(-0x80, 0x7f) as u8;
    u128::from_le_bytes(from_fn(|k| narrow(if k < 8 { a[k] } else { b[k - 8] })))
}
#[inline(always)]
pub(super) fn pack_uswb(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (words(a), words(b));
    let narrow = |x: u16| (x as i16).clamp(0, 0xff) as u8;
    u128::from_le_bytes(from_fn(|k| narrow(if k < 8 { a[k] } else { b[k - 8] })))
}
#[inline(always)]
pub(super) fn pack_sdw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    let narrow = |x: u32| (x as i32).clamp(-0x8000, 0x7fff) as u16;
    from_words(from_fn(|k| narrow(if k < 4 { a[k] } else { b[k - 4] })))
}

/// Field n of the immediate, two bits each.
#[inline(always)]
fn field(imm: u8, n: usize) -> u32 {
    u32::from(imm) >> (2 * n) & 3
}
/// 32-bit lane n.
#[inline(always)]
fn dword(v: u128, n: u32) -> u64 {
    let half = if n & 2 != 0 { (v >> 64) as u64 } else { v as u64 };
    half >> (32 * (n & 1)) & 0xffff_ffff
}
/// Four 16-bit lanes by the immediate.
#[inline(always)]
fn shuffle_words(v: u64, imm: u8) -> u64 {
    (0..4).fold(0, |all, n| all | (v >> (16 * field(imm, n)) & 0xffff) << (16 * n))
}

#[inline(always)]
pub(super) fn shuf_d(_: u128, b: u128, imm: u8) -> u128 {
    let pick = |n| dword(b, field(imm, n));
    from_qwords([pick(0) | pick(1) << 32, pick(2) | pick(3) << 32])
}
#[inline(always)]
pub(super) fn shuf_lo_w(_: u128, b: u128, imm: u8) -> u128 {
    let [low, high] = qwords(b);
    from_qwords([shuffle_words(low, imm), high])
}
#[inline(always)]
pub(super) fn shuf_hi_w(_: u128, b: u128, imm: u8) -> u128 {
    let [low, high] = qwords(b);
    from_qwords([low, shuffle_words(high, imm)])
}
#[inline(always)]
pub(super) fn shuf_ps(a: u128, b: u128, imm: u8) -> u128 {
    let pick = |v, n| dword(v, field(imm, n));
    from_qwords([pick(a, 0) | pick(a, 1) << 32, pick(b, 2) | pick(b, 3) << 32])
}
#[inline(always)]
pub(super) fn shuf_pd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (qwords(a), qwords(b));
    from_qwords([a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]])
}

#[inline(always)]
pub(super) fn insert_w(a: u128, b: u128, imm: u8) -> u128 {
    let at = 16 * u32::from(imm & 7);
    a & !(0xffff << at) | (b & 0xffff) << at
}
#[inline(always)]
pub(super) fn extract_w(a: u128, _: u128, imm: u8) -> u128 {
    a >> (16 * u32::from(imm & 7)) & 0xffff
}

#[inline(always)]
pub(super) fn mask_b(a: u128, _: u128, _: u8) -> u128 {
    // The product brings bit 8k to bit 56 + k; no two partial products meet.
    let half = |v: u64| (v >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let [low, high] = qwords(a).map(half);
    (low | high << 8).into()
}
#[inline(always)]
pub(super) fn mask_d(a: u128, _: u128, _: u8) -> u128 {
    let half = |v: u64| v >> 31 & 1 | v >> 62 & 2;
    let [low, high] = qwords(a).map(half);
    (low | high << 2).into()
}
#[inline(always)]
pub(super) fn mask_q(a: u128, _: u128, _: u8) -> u128 {
    let [low, high] = qwords(a);
    (low >> 63 | high >> 63 << 1).into()
}

#[inline(always)]
pub(super) fn merge_d(a: u128, b: u128, _: u8) -> u128 {
    a & !0xffff_ffff | b & 0xffff_ffff
}
#[inline(always)]
pub(super) fn merge_q(a: u128, b: u128, _: u8) -> u128 {
    a & !u128::from(u64::MAX) | u128::from(b as u64)
}
