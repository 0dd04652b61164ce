//! Moves between XMM registers, memory and general registers: SDM 1 "SSE Data Transfer Instructions", "SSE2 Packed and
//! Scalar Double-Precision Floating-Point Data Movement Instructions".

use crate::{
    emit::{Emit, Emitted},
    insn::Insn,
    vector::VecOp,
    width::{D, Q, Width},
};

/// MOVAPS, MOVUPS, MOVAPD, MOVUPD, MOVDQA, MOVDQU, MOVNTPS, MOVNTPD, MOVNTDQ: SDM 2B. Decode says which want alignment.
#[inline(always)]
pub(crate) fn mov<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_x(i)?;
    e.put_x(i, v)
}

#[inline(always)]
fn load<E: Emit>(e: &mut E, i: &Insn, w: Width) -> Emitted<E> {
    let v = e.source_w_alone(w, i)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// MOVD xmm, r/m32; MOVSS xmm, m32: zeros above.
#[inline(always)]
pub(crate) fn load_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load(e, i, D)
}

/// MOVQ xmm, r/m64; MOVSD xmm, m64: zeros above.
#[inline(always)]
pub(crate) fn load_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load(e, i, Q)
}

/// MOVD m32, xmm; MOVSS m32, xmm.
#[inline(always)]
pub(crate) fn store_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    let v = e.trunc(Q, D, v);
    e.put_lane(D, i, v)
}

/// MOVQ m64, xmm; MOVSD, MOVLPS, MOVLPD m64, xmm.
#[inline(always)]
pub(crate) fn store_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    e.put_lane(Q, i, v)
}

/// MOVHPS, MOVHPD m64, xmm.
#[inline(always)]
pub(crate) fn store_high<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 1);
    e.put_lane(Q, i, v)
}

/// MOVD r32, xmm.
#[inline(always)]
pub(crate) fn to_general_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    let v = e.trunc(Q, D, v);
    e.set(D, i.dst, v);
    Ok(())
}

/// MOVQ r64, xmm.
#[inline(always)]
pub(crate) fn to_general_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    e.set(Q, i.dst, v);
    Ok(())
}

/// MOVQ xmm, xmm: zeros above.
#[inline(always)]
pub(crate) fn movq<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    let v = e.lane_alone(v);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// MOVSS xmm, xmm: the rest stays.
#[inline(always)]
pub(crate) fn merge_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = (e.xmm(i.dst), e.xmm(i.src));
    let v = e.vec(VecOp::MergeD, a, b, 0);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// Lane `to` of operand 0 from lane `from` of register operand 1.
#[inline(always)]
fn move_lane<E: Emit>(e: &mut E, i: &Insn, to: u8, from: u8) -> Emitted<E> {
    let (a, b) = (e.xmm(i.dst), e.xmm(i.src));
    let v = e.lane(b, from);
    let v = e.with_lane(a, to, v);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// MOVSD xmm, xmm: the rest stays.
#[inline(always)]
pub(crate) fn merge_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 0, 0)
}

/// MOVHLPS: SDM 2B "MOVHLPS".
#[inline(always)]
pub(crate) fn movhlps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 0, 1)
}

/// MOVLHPS: SDM 2B "MOVLHPS".
#[inline(always)]
pub(crate) fn movlhps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 1, 0)
}

#[inline(always)]
fn load_lane<E: Emit>(e: &mut E, i: &Insn, to: u8) -> Emitted<E> {
    let v = e.source_lane(Q, i)?;
    let a = e.xmm(i.dst);
    let v = e.with_lane(a, to, v);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// MOVLPS, MOVLPD xmm, m64: the rest stays.
#[inline(always)]
pub(crate) fn load_low<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load_lane(e, i, 0)
}

/// MOVHPS, MOVHPD xmm, m64: the rest stays.
#[inline(always)]
pub(crate) fn load_high<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load_lane(e, i, 1)
}

#[inline(always)]
fn mask<E: Emit>(e: &mut E, i: &Insn, op: VecOp) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.vec(op, v, v, 0);
    let v = e.lane(v, 0);
    e.set(D, i.dst, v);
    Ok(())
}

/// MOVMSKPS: SDM 2B "MOVMSKPS".
#[inline(always)]
pub(crate) fn movmskps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    mask(e, i, VecOp::MaskD)
}

/// MOVMSKPD: SDM 2B "MOVMSKPD".
#[inline(always)]
pub(crate) fn movmskpd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    mask(e, i, VecOp::MaskQ)
}

/// PMOVMSKB: SDM 2B "PMOVMSKB".
#[inline(always)]
pub(crate) fn pmovmskb<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    mask(e, i, VecOp::MaskB)
}
