//! MMX, with the instructions on MMX registers that SSE and SSE2 added: SDM 1 "Programming with Intel MMX Technology".
//!
//! Each begins with #MF if an x87 exception is pending, and in the end makes all x87 registers valid with TOP 0. Operations
//! are those of XMM registers on operands with zeros above.

use crate::{
    emit::{Emit, Emitted},
    insn::{Insn, Kind},
    vector::{FloatOp, Lanes, VecOp},
    width::{D, Q, W},
};

#[inline(always)]
fn put<E: Emit>(e: &mut E, i: &Insn, v: E::Val) -> Emitted<E> {
    e.set_mm(i.dst, v);
    e.end_mmx(i)
}

/// Both operands with zeros above.
#[inline(always)]
fn operands<E: Emit>(e: &mut E, i: &Insn) -> Result<(E::Vec, E::Vec), E::Stop> {
    e.begin_mmx(i)?;
    let b = e.source_mm(i)?;
    let a = e.mm(i.dst);
    Ok((e.lane_alone(a), e.lane_alone(b)))
}

/// Operand 0 := operation `cc` of both operands: PADDB and most others.
#[inline(always)]
pub(crate) fn packed<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = operands(e, i)?;
    let v = e.vec(VecOp::from_number(i.cc), a, b, i.imm as u8);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PSLLW mm, imm8 and its relatives.
#[inline(always)]
pub(crate) fn packed_shift<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let a = e.mm(i.dst);
    let a = e.lane_alone(a);
    let v = e.vec(VecOp::from_number(i.cc), a, a, i.imm as u8);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PUNPCKLBW, PUNPCKLWD, PUNPCKLDQ: SDM 2B. Of memory they read 32 bits.
#[inline(always)]
pub(crate) fn unpack_low<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let b = if i.src_kind() == Kind::Reg { e.mm(i.src) } else { e.source_w(D, i)? };
    let a = e.mm(i.dst);
    let (a, b) = (e.lane_alone(a), e.lane_alone(b));
    let v = e.vec(VecOp::from_number(i.cc), a, b, 0);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PUNPCKHBW, PUNPCKHWD, PUNPCKHDQ: the high half of what `cc`, the low form, gives.
#[inline(always)]
pub(crate) fn unpack_high<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = operands(e, i)?;
    let v = e.vec(VecOp::from_number(i.cc), a, b, 0);
    let v = e.lane(v, 1);
    put(e, i, v)
}

/// PACKSSWB, PACKSSDW, PACKUSWB, PHADDW and its relatives: both operands side by side, packed or added.
#[inline(always)]
pub(crate) fn pack<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = operands(e, i)?;
    let high = e.lane(b, 0);
    let v = e.with_lane(a, 1, high);
    let v = e.vec(VecOp::from_number(i.cc), v, v, 0);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PSHUFB: SDM 2B "PSHUFB". With operand 0 in both halves, an index counts modulo eight.
#[inline(always)]
pub(crate) fn shuffle<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = operands(e, i)?;
    let a = e.vec(VecOp::UnpackLoQ, a, a, 0);
    let v = e.vec(VecOp::ShufB, a, b, 0);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PALIGNR: SDM 2B "PALIGNR". Eight of sixteen bytes.
#[inline(always)]
pub(crate) fn align<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = operands(e, i)?;
    let v = e.vec(VecOp::UnpackLoQ, b, a, 0);
    let v = e.vec(VecOp::ShrBytes, v, v, i.imm as u8);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// PINSRW mm: SDM 2B "PINSRW".
#[inline(always)]
pub(crate) fn pinsrw<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let b = e.source_w(W, i)?;
    let a = e.mm(i.dst);
    let (a, b) = (e.lane_alone(a), e.lane_alone(b));
    let v = e.vec(VecOp::InsertW, a, b, i.imm as u8 & 3);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// A general register := the low lane of `op` of MMX operand 1.
#[inline(always)]
fn to_general<E: Emit>(e: &mut E, i: &Insn, op: VecOp, imm: u8) -> Emitted<E> {
    e.begin_mmx(i)?;
    let a = e.mm(i.src);
    let a = e.lane_alone(a);
    let v = e.vec(op, a, a, imm);
    let v = e.lane(v, 0);
    e.set(D, i.dst, v);
    e.end_mmx(i)
}

/// PEXTRW r, mm: SDM 2B "PEXTRW".
#[inline(always)]
pub(crate) fn pextrw<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_general(e, i, VecOp::ExtractW, i.imm as u8 & 3)
}

/// PMOVMSKB r, mm: SDM 2B "PMOVMSKB".
#[inline(always)]
pub(crate) fn pmovmskb<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_general(e, i, VecOp::MaskB, 0)
}

/// MOVD, MOVQ from a general register, and from memory: `w2` tells how much.
#[inline(always)]
pub(crate) fn load<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let v = e.source_w(i.w2, i)?;
    put(e, i, v)
}

/// MOVQ mm, mm.
#[inline(always)]
pub(crate) fn movq<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let v = e.mm(i.src);
    put(e, i, v)
}

/// MOVD, MOVQ to a general register or memory, MOVNTQ: `w` tells how much.
#[inline(always)]
pub(crate) fn store<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let v = e.mm(i.src);
    let v = e.trunc(Q, i.w, v);
    if i.dst_kind() == Kind::Reg {
        e.set(i.w, i.dst, v);
    } else {
        e.put_lane(i.w, i, v)?;
    }
    e.end_mmx(i)
}

/// MOVQ2DQ: SDM 2B "MOVQ2DQ".
#[inline(always)]
pub(crate) fn movq2dq<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let v = e.mm(i.src);
    let v = e.lane_alone(v);
    e.set_xmm(i.dst, v);
    e.end_mmx(i)
}

/// MOVDQ2Q: SDM 2B "MOVDQ2Q".
#[inline(always)]
pub(crate) fn movdq2q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    e.begin_mmx(i)?;
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    put(e, i, v)
}

/// Two integers of an MMX register or memory to floats.
#[inline(always)]
fn from_integers<E: Emit>(e: &mut E, i: &Insn, lanes: Lanes) -> Result<(E::Vec, E::Vec), E::Stop> {
    // From memory it has nothing to do with MMX. With a register, silicon has gone over to MMX when #XM arises.
    let register = i.src_kind() == Kind::Reg;
    if register {
        e.begin_mmx(i)?;
    }
    let b = e.source_mm(i)?;
    if register {
        e.end_mmx(i)?;
    }
    let (a, b) = (e.xmm(i.dst), e.lane_alone(b));
    let v = e.float(FloatOp::FromD, lanes, a, b, 0)?;
    Ok((a, v))
}

/// CVTPI2PS: SDM 2A "CVTPI2PS". The high half stays.
#[inline(always)]
pub(crate) fn cvtpi2ps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, v) = from_integers(e, i, Lanes::Ps)?;
    let v = e.vec(VecOp::MergeQ, a, v, 0);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// CVTPI2PD: SDM 2A "CVTPI2PD".
#[inline(always)]
pub(crate) fn cvtpi2pd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (_, v) = from_integers(e, i, Lanes::Pd)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// Two integers of floats in an XMM register or memory.
#[inline(always)]
fn to_integers<E: Emit>(e: &mut E, i: &Insn, op: FloatOp, lanes: Lanes) -> Emitted<E> {
    e.begin_mmx(i)?;
    let b = match lanes {
        Lanes::Ps => {
            let v = e.source_lane(Q, i)?;
            e.lane_alone(v)
        }
        _ => e.source_x(i)?,
    };
    e.end_mmx(i)?;
    let v = e.float(op, lanes, b, b, 0)?;
    let v = e.lane(v, 0);
    e.set_mm(i.dst, v);
    Ok(())
}

/// CVTPS2PI: SDM 2A "CVTPS2PI".
#[inline(always)]
pub(crate) fn cvtps2pi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integers(e, i, FloatOp::ToD, Lanes::Ps)
}
/// CVTTPS2PI: SDM 2A "CVTTPS2PI".
#[inline(always)]
pub(crate) fn cvttps2pi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integers(e, i, FloatOp::ToDTruncated, Lanes::Ps)
}
/// CVTPD2PI: SDM 2A "CVTPD2PI".
#[inline(always)]
pub(crate) fn cvtpd2pi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integers(e, i, FloatOp::ToD, Lanes::Pd)
}
/// CVTTPD2PI: SDM 2A "CVTTPD2PI".
#[inline(always)]
pub(crate) fn cvttpd2pi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integers(e, i, FloatOp::ToDTruncated, Lanes::Pd)
}
