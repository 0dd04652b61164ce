//! 128 bits as the interpreter holds them, on hosts without a better form of their own.
#![allow(unsafe_code)]

use super::{TernaryOp, VecOp};
use crate::{
    ram::{peek, poke},
    width::Q,
};

/// 128 bits.
pub(crate) type Wide = u128;

#[inline(always)]
pub(crate) fn from_bits(v: u128) -> Wide {
    v
}
#[inline(always)]
pub(crate) fn bits(v: Wide) -> u128 {
    v
}
/// 64-bit lane n.
#[inline(always)]
pub(crate) fn lane(v: Wide, n: u8) -> u64 {
    (v >> (64 * (n & 1))) as u64
}
/// v with its 64-bit lane n replaced.
#[inline(always)]
pub(crate) fn with_lane(v: Wide, n: u8, x: u64) -> Wide {
    let at = 64 * (n & 1);
    v & !(u128::from(u64::MAX) << at) | u128::from(x) << at
}
/// x in the low lane, zeros above.
#[inline(always)]
pub(crate) fn alone(x: u64) -> Wide {
    x.into()
}
/// A vector operation.
#[inline(always)]
pub(crate) fn eval(op: VecOp, a: Wide, b: Wide, imm: u8) -> Wide {
    op.eval(a, b, imm)
}

/// An operation on three vectors.
#[inline(always)]
pub(crate) fn eval3(op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Wide {
    op.eval(a, b, c, imm)
}
/// Whether the host has instructions for an operation that came after SSE2.
pub(crate) fn can(_: VecOp) -> bool {
    false
}
/// The same with three operands.
pub(crate) fn can3(_: TernaryOp) -> bool {
    false
}
/// An operation that came after SSE2, where the host has instructions for it.
#[inline(always)]
pub(crate) fn at_once(_: VecOp, _: Wide, _: Wide, _: u8) -> Option<Wide> {
    None
}
/// An operation on three operands, where the host has instructions for it.
#[inline(always)]
pub(crate) fn at_once3(_: TernaryOp, _: Wide, _: Wide, _: Wide, _: u8) -> Option<Wide> {
    None
}

/// # Safety
/// `p` points to 16 readable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn load(p: *const u8) -> Wide {
    // SAFETY: the caller's promise.
    unsafe { u128::from(peek(Q, p)) | u128::from(peek(Q, p.add(8))) << 64 }
}

/// # Safety
/// `p` points to 16 writable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn store(p: *mut u8, v: Wide) {
    // SAFETY: the caller's promise.
    unsafe {
        poke(Q, p, v as u64);
        poke(Q, p.add(8), (v >> 64) as u64);
    }
}
