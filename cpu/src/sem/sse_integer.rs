//! Integer and logic operations on XMM registers, and what only moves lanes: SDM 1 "SSE2 128-Bit SIMD Integer
//! Instructions", "SSE Logical Instructions", "SSE Shuffle and Unpack Instructions".

use crate::{
    emit::{Emit, Emitted},
    insn::Insn,
    vector::VecOp,
    width::{D, W},
};

/// Operand 0 := op(operand 0, operand 1, immediate).
#[inline(always)]
fn combine<E: Emit>(e: &mut E, i: &Insn, op: VecOp) -> Emitted<E> {
    let b = e.source_x(i)?;
    let a = e.xmm(i.dst);
    let v = e.vec(op, a, b, i.imm as u8);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// Operand 0 := op(operand 0, immediate).
#[inline(always)]
fn shift<E: Emit>(e: &mut E, i: &Insn, op: VecOp) -> Emitted<E> {
    let a = e.xmm(i.dst);
    let v = e.vec(op, a, a, i.imm as u8);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// Mnemonics that are one vector operation.
macro_rules! mnemonics {
    ($form:ident: $($name:ident $op:ident,)*) => {
        $(#[inline(always)]
        pub(crate) fn $name<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
            $form(e, i, VecOp::$op)
        })*
    };
}

mnemonics! { combine:
    pand And,
    pandn AndNot,
    por Or,
    pxor Xor,
    paddb AddB,
    paddw AddW,
    paddd AddD,
    paddq AddQ,
    psubb SubB,
    psubw SubW,
    psubd SubD,
    psubq SubQ,
    pcmpeqb CmpEqB,
    pcmpeqw CmpEqW,
    pcmpeqd CmpEqD,
    pcmpgtb CmpGtB,
    pcmpgtd CmpGtD,
    pminub MinUB,
    pmaxub MaxUB,
    pmuludq MulUDQ,
    punpcklbw UnpackLoB,
    punpcklwd UnpackLoW,
    punpckldq UnpackLoD,
    punpcklqdq UnpackLoQ,
    punpckhqdq UnpackHiQ,
    pshufd ShufD,
    shufps ShufPs,
    pmullw MulLoW,
    pmulhw MulHiW,
    pmulhuw MulHiUW,
    pmaddwd MAddWD,
    psadbw SadBW,
    paddsb AddSB,
    paddsw AddSW,
    psubsb SubSB,
    psubsw SubSW,
    paddusb AddUsB,
    paddusw AddUsW,
    psubusb SubUsB,
    psubusw SubUsW,
    pavgb AvgB,
    pavgw AvgW,
    pminsw MinSW,
    pmaxsw MaxSW,
    pcmpgtw CmpGtW,
    punpckhbw UnpackHiB,
    punpckhwd UnpackHiW,
    punpckhdq UnpackHiD,
    packsswb PackSWB,
    packssdw PackSDW,
    packuswb PackUsWB,
    pshuflw ShufLoW,
    pshufhw ShufHiW,
    shufpd ShufPd,
    psllw ShlW,
    pslld ShlD,
    psllq ShlQ,
    psrlw ShrW,
    psrld ShrD,
    psrlq ShrQ,
    psraw SarW,
    psrad SarD,
    rcpps RcpPs,
    rsqrtps RsqrtPs,
}
mnemonics! { shift:
    pslldq ShlBytes,
    psrldq ShrBytes,
    pslld_imm ShlImmD,
    psrld_imm ShrImmD,
    psllq_imm ShlImmQ,
    psrlq_imm ShrImmQ,
    psllw_imm ShlImmW,
    psrlw_imm ShrImmW,
    psraw_imm SarImmW,
    psrad_imm SarImmD,
}

/// PINSRW: SDM 2B "PINSRW".
#[inline(always)]
pub(crate) fn pinsrw<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_w(W, i)?;
    let (a, b) = (e.xmm(i.dst), e.lane_alone(v));
    let v = e.vec(VecOp::InsertW, a, b, i.imm as u8);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// PEXTRW: SDM 2B "PEXTRW".
#[inline(always)]
pub(crate) fn pextrw<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let a = e.xmm(i.src);
    let v = e.vec(VecOp::ExtractW, a, a, i.imm as u8);
    let v = e.lane(v, 0);
    e.set(D, i.dst, v);
    Ok(())
}

/// RCPSS, RSQRTSS: the low lane of the packed operation, `cc`.
#[inline(always)]
pub(crate) fn approximate_scalar<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_lane(D, i)?;
    let (a, b) = (e.xmm(i.dst), e.lane_alone(b));
    let v = e.vec(VecOp::from_number(i.cc), a, b, 0);
    let v = e.vec(VecOp::MergeD, a, v, 0);
    e.set_xmm(i.dst, v);
    Ok(())
}
