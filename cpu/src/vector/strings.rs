//! String comparison of SSE4.2: SDM 1 "Imm8 Control Byte Operation for PCMPESTRI/PCMPESTRM/PCMPISTRI/PCMPISTRM".

use super::lanes::{W, fill, words};
use std::array::from_fn;

/// Bit 0 of the immediate: elements are words, not bytes.
const WORDS: u8 = 1;
/// Bit 1: signed.
const SIGNED: u8 = 1 << 1;
/// Bit 6: the highest set bit's index, not the lowest's; a mask of elements, not of bits.
const MSB: u8 = 1 << 6;

/// Elements as numbers that compare as the immediate says; those beyond the last are 0.
#[inline(always)]
fn elements(v: u128, imm: u8) -> [i32; 16] {
    let (bytes, words) = (v.to_le_bytes(), words(v));
    from_fn(|k| match (imm & WORDS != 0, imm & SIGNED != 0) {
        (false, false) => bytes[k].into(),
        (false, true) => i32::from(bytes[k] as i8),
        (true, _) if k >= 8 => 0,
        (true, false) => words[k].into(),
        (true, true) => i32::from(words[k] as i16),
    })
}

#[inline(always)]
fn count(imm: u8) -> usize {
    if imm & WORDS != 0 { 8 } else { 16 }
}

/// How many elements stand before the first that is 0.
#[inline(always)]
pub(super) fn length(a: u128, _: u128, imm: u8) -> u128 {
    let n = count(imm);
    elements(a, imm).iter().take(n).position(|&x| x == 0).unwrap_or(n) as u128
}

/// The lengths of both operands in c, no more than a register holds; negative ones count as positive.
#[inline(always)]
pub(super) fn lengths(c: u128, imm: u8) -> (usize, usize) {
    let clamped = |length: u64| (length as i64).unsigned_abs().min(count(imm) as u64) as usize;
    (clamped(c as u64), clamped((c >> 64) as u64))
}

/// The comparison of all of a with all of b: IntRes1, a bit for each element of b.
#[inline(always)]
fn aggregated(a: &[i32; 16], b: &[i32; 16], la: usize, lb: usize, imm: u8) -> u32 {
    let n = count(imm);
    let (a, valid) = (&a[..la.min(n)], &b[..lb.min(n)]);
    let bits = |f: &dyn Fn(usize) -> bool| (0..n).fold(0, |all, j| all | u32::from(f(j)) << j);
    match imm >> 2 & 3 {
        // Equal any.
        0 => bits(&|j| valid.get(j).is_some_and(|x| a.contains(x))),
        // Ranges: two elements are bounds. One without the other is none.
        1 => bits(&|j| {
            valid.get(j).is_some_and(|x| a.chunks_exact(2).any(|bounds| bounds[0] <= *x && *x <= bounds[1]))
        }),
        // Equal each: what is beyond both strings is equal.
        2 => bits(&|j| a.get(j) == valid.get(j)),
        // Equal ordered: a, as far as the register goes, begins there.
        _ => bits(&|j| a.iter().take(n - j).enumerate().all(|(k, x)| valid.get(j + k) == Some(x))),
    }
}

/// Low lane: IntRes2. High lane: the index that it gives in bits 7:0, bit 8 if b is shorter than the register, bit 9 if a is.
/// The lanes of c are the lengths of a and b.
#[inline(always)]
pub(super) fn compare(a: u128, b: u128, c: u128, imm: u8) -> u128 {
    let n = count(imm);
    let (la, lb) = lengths(c, imm);
    let result = aggregated(&elements(a, imm), &elements(b, imm), la, lb, imm);
    let result = match imm >> 4 & 3 {
        1 => result ^ ((1 << n) - 1),
        3 => result ^ ((1 << lb) - 1),
        _ => result,
    };
    told(result, la, lb, imm)
}

/// What [`compare`] gives of IntRes2 and the lengths.
#[inline(always)]
pub(super) fn told(result: u32, la: usize, lb: usize, imm: u8) -> u128 {
    let n = count(imm);
    let index = match result {
        0 => n as u32,
        _ if imm & MSB != 0 => 31 - result.leading_zeros(),
        _ => result.trailing_zeros(),
    };
    let high = u64::from(index) | u64::from(lb < n) << 8 | u64::from(la < n) << 9;
    u128::from(result) | u128::from(high) << 64
}

/// IntRes2 as a mask of bits, bytes or words.
#[inline(always)]
pub(super) fn mask(a: u128, _: u128, imm: u8) -> u128 {
    let n = count(imm) as u32;
    let bits = a as u32 & ((1 << n) - 1);
    if imm & MSB == 0 {
        return bits.into();
    }
    let width = 128 / n;
    let spread = (0..n).fold(0, |all, k| all | u128::from(bits >> k & 1) << (width * k + width - 1));
    if width == W { fill(W, spread) } else { fill(8, spread) }
}
