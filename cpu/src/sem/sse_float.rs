//! Floating point on XMM registers: SDM 1 "SSE Packed Arithmetic Instructions", "SSE2 Conversion Instructions" and so on.
//! An unmasked exception ends the instruction before it writes anything but MXCSR's flags.

use crate::{
    emit::{Emit, Emitted},
    insn::Insn,
    vector::{FloatOp, Lanes},
    width::{D, Q, Width},
};

/// How much of operand 1 an operation on these lanes reads, if less than all.
#[inline(always)]
fn lane_width(lanes: Lanes) -> Option<Width> {
    match lanes {
        Lanes::Ss => Some(D),
        Lanes::Sd => Some(Q),
        Lanes::Ps | Lanes::Pd => None,
    }
}

/// Operand 1 as a vector, all of it or its low part.
#[inline(always)]
fn operand<E: Emit>(e: &mut E, i: &Insn, part: Option<Width>) -> Result<E::Vec, E::Stop> {
    match part {
        None => e.source_x(i),
        Some(w) => e.source_low(w, i),
    }
}

/// Operand 0 := op(operand 0, operand 1).
#[inline(always)]
fn combine<E: Emit>(e: &mut E, i: &Insn, op: FloatOp, lanes: Lanes) -> Emitted<E> {
    let b = operand(e, i, lane_width(lanes))?;
    let a = e.xmm(i.dst);
    let v = e.float(op, lanes, a, b, i.imm as u8)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

macro_rules! mnemonics {
    ($($name:ident $op:ident $lanes:ident,)*) => {
        $(#[inline(always)]
        pub(crate) fn $name<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
            combine(e, i, FloatOp::$op, Lanes::$lanes)
        })*
    };
}

mnemonics! {
    addss Add Ss,
    addsd Add Sd,
    addps Add Ps,
    addpd Add Pd,
    subss Sub Ss,
    subsd Sub Sd,
    subps Sub Ps,
    subpd Sub Pd,
    mulss Mul Ss,
    mulsd Mul Sd,
    mulps Mul Ps,
    mulpd Mul Pd,
    divss Div Ss,
    divsd Div Sd,
    divps Div Ps,
    divpd Div Pd,
    minss Min Ss,
    minsd Min Sd,
    minps Min Ps,
    minpd Min Pd,
    maxss Max Ss,
    maxsd Max Sd,
    maxps Max Ps,
    maxpd Max Pd,
    sqrtss Sqrt Ss,
    sqrtsd Sqrt Sd,
    sqrtps Sqrt Ps,
    sqrtpd Sqrt Pd,
    cmpss Cmp Ss,
    cmpsd Cmp Sd,
    cmpps Cmp Ps,
    cmppd Cmp Pd,
    cvtss2sd Widen Ss,
    cvtsd2ss Narrow Sd,
    cvtdq2ps FromD Ps,
    cvtps2dq ToD Ps,
    cvttps2dq ToDTruncated Ps,
    cvtpd2dq ToD Pd,
    cvttpd2dq ToDTruncated Pd,
    cvtpd2ps Narrow Pd,
    addsubps AddSub Ps,
    addsubpd AddSub Pd,
    haddps HAdd Ps,
    haddpd HAdd Pd,
    hsubps HSub Ps,
    hsubpd HSub Pd,
    dpps Dot Ps,
    dppd Dot Pd,
    roundps Round Ps,
    roundpd Round Pd,
    roundss Round Ss,
    roundsd Round Sd,
}

/// Conversions that make two f64 of 64 bits.
#[inline(always)]
fn from_low_half<E: Emit>(e: &mut E, i: &Insn, op: FloatOp, lanes: Lanes) -> Emitted<E> {
    let b = operand(e, i, Some(Q))?;
    let a = e.xmm(i.dst);
    let v = e.float(op, lanes, a, b, 0)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// CVTPS2PD: SDM 2A "CVTPS2PD".
#[inline(always)]
pub(crate) fn cvtps2pd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_low_half(e, i, FloatOp::Widen, Lanes::Ps)
}

/// CVTDQ2PD: SDM 2A "CVTDQ2PD".
#[inline(always)]
pub(crate) fn cvtdq2pd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_low_half(e, i, FloatOp::FromD, Lanes::Pd)
}

/// COMISS and its relatives: SDM 2A "COMISD".
#[inline(always)]
fn relate<E: Emit>(e: &mut E, i: &Insn, op: FloatOp, lanes: Lanes) -> Emitted<E> {
    let b = operand(e, i, lane_width(lanes))?;
    let a = e.xmm(i.dst);
    e.relate(op, lanes, a, b)
}

/// COMISS.
#[inline(always)]
pub(crate) fn comiss<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    relate(e, i, FloatOp::Comi, Lanes::Ss)
}
/// COMISD.
#[inline(always)]
pub(crate) fn comisd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    relate(e, i, FloatOp::Comi, Lanes::Sd)
}
/// UCOMISS.
#[inline(always)]
pub(crate) fn ucomiss<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    relate(e, i, FloatOp::Ucomi, Lanes::Ss)
}
/// UCOMISD.
#[inline(always)]
pub(crate) fn ucomisd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    relate(e, i, FloatOp::Ucomi, Lanes::Sd)
}

/// CVTSI2SS, CVTSI2SD from a general register or memory.
#[inline(always)]
fn from_integer<E: Emit>(e: &mut E, i: &Insn, w: Width, lanes: Lanes) -> Emitted<E> {
    let v = e.source_w(w, i)?;
    let (a, b) = (e.xmm(i.dst), e.lane_alone(v));
    let op = if w.0 == 8 { FloatOp::FromQ } else { FloatOp::FromD };
    let v = e.float(op, lanes, a, b, 0)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// CVTSI2SS from 32 bits.
#[inline(always)]
pub(crate) fn cvtsi2ss_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_integer(e, i, D, Lanes::Ss)
}
/// CVTSI2SS from 64 bits.
#[inline(always)]
pub(crate) fn cvtsi2ss_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_integer(e, i, Q, Lanes::Ss)
}
/// CVTSI2SD from 32 bits.
#[inline(always)]
pub(crate) fn cvtsi2sd_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_integer(e, i, D, Lanes::Sd)
}
/// CVTSI2SD from 64 bits.
#[inline(always)]
pub(crate) fn cvtsi2sd_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    from_integer(e, i, Q, Lanes::Sd)
}

/// CVTSS2SI and its relatives, to a general register.
#[inline(always)]
fn to_integer<E: Emit>(e: &mut E, i: &Insn, lanes: Lanes, truncated: bool) -> Emitted<E> {
    let b = operand(e, i, lane_width(lanes))?;
    let op = match (i.w.0 == 8, truncated) {
        (false, false) => FloatOp::ToD,
        (false, true) => FloatOp::ToDTruncated,
        (true, false) => FloatOp::ToQ,
        (true, true) => FloatOp::ToQTruncated,
    };
    let v = e.float(op, lanes, b, b, 0)?;
    let v = e.lane(v, 0);
    e.set(i.w, i.dst, v);
    Ok(())
}

/// CVTSS2SI: SDM 2A "CVTSS2SI".
#[inline(always)]
pub(crate) fn cvtss2si<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integer(e, i, Lanes::Ss, false)
}
/// CVTTSS2SI: SDM 2A "CVTTSS2SI".
#[inline(always)]
pub(crate) fn cvttss2si<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integer(e, i, Lanes::Ss, true)
}
/// CVTSD2SI: SDM 2A "CVTSD2SI".
#[inline(always)]
pub(crate) fn cvtsd2si<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integer(e, i, Lanes::Sd, false)
}
/// CVTTSD2SI: SDM 2A "CVTTSD2SI".
#[inline(always)]
pub(crate) fn cvttsd2si<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    to_integer(e, i, Lanes::Sd, true)
}
