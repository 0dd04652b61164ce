//! Vector instructions that came after SSE2, on XMM registers: SDM 1 "SSE3 Instructions" to "SSE4.2 Instructions", "Intel AES
//! New Instructions", "Intel SHA Extensions", "Galois Field New Instructions"; and CRC32. Which operation it is, `cc` says.

use crate::{
    emit::{Emit, Emitted},
    flags::Arith,
    insn::{Insn, Kind, Step},
    interp::{AtOp, Dyn, Straight, straight},
    state::reg,
    vector::{
        TernaryOp, VecOp,
        wide::{can, can3},
    },
    width::{B, D, Q, W, Width},
};

/// The operation that decode chose.
#[inline(always)]
fn operation<E: Emit>(e: &E, i: &Insn) -> VecOp {
    VecOp::from_number(e.number(i))
}

/// Operand 0 := operation of operand 0, operand 1 and the immediate: PSHUFB and most others.
#[inline(always)]
pub(crate) fn packed<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = operation(e, i);
    let b = e.source_x(i)?;
    let a = e.xmm(i.dst);
    let v = e.vec_new(op, a, b, i.imm as u8)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// How many bytes of its operand 1 an operation reads that makes lanes wider.
#[inline(always)]
fn narrow_width(op: VecOp) -> Width {
    match op {
        VecOp::SxBW | VecOp::SxWD | VecOp::SxDQ | VecOp::ZxBW | VecOp::ZxWD | VecOp::ZxDQ => Q,
        VecOp::SxBD | VecOp::SxWQ | VecOp::ZxBD | VecOp::ZxWQ => D,
        _ => W,
    }
}

/// PMOVSXBW and its relatives: SDM 2B "PMOVSX", "PMOVZX".
#[inline(always)]
pub(crate) fn widen<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = operation(e, i);
    let b = e.source_lane(narrow_width(op), i)?;
    let b = e.lane_alone(b);
    let v = e.vec_new(op, b, b, 0)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// MOVDDUP: SDM 2B "MOVDDUP".
#[inline(always)]
pub(crate) fn movddup<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_lane(Q, i)?;
    let v = e.lane_alone(v);
    let v = e.vec(VecOp::UnpackLoQ, v, v, 0);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// The width of the lane that PINSRB, PEXTRB and their relatives move.
#[inline(always)]
fn lane_width(op: VecOp) -> Width {
    match op {
        VecOp::InsertB | VecOp::ExtractB => B,
        VecOp::InsertQ | VecOp::ExtractQ => Q,
        VecOp::ExtractW => W,
        _ => D,
    }
}

/// PINSRB, PINSRD, PINSRQ: SDM 2B "PINSRB/PINSRD/PINSRQ".
#[inline(always)]
pub(crate) fn insert<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = operation(e, i);
    let b = e.source_w(lane_width(op), i)?;
    let (a, b) = (e.xmm(i.dst), e.lane_alone(b));
    let v = e.vec_new(op, a, b, i.imm as u8)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// PEXTRB, PEXTRD, PEXTRQ, EXTRACTPS and PEXTRW to memory: SDM 2B "PEXTRB/PEXTRD/PEXTRQ". A general register is written whole.
#[inline(always)]
pub(crate) fn extract<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = operation(e, i);
    let a = e.xmm(i.src);
    let v = e.vec_new(op, a, a, i.imm as u8)?;
    let v = e.lane(v, 0);
    if e.target_kind(i) == Kind::Reg {
        e.set(Q, i.dst, v);
        return Ok(());
    }
    let w = lane_width(op);
    let v = e.trunc(Q, w, v);
    e.put_lane(w, i, v)
}

/// INSERTPS: SDM 2A "INSERTPS". Of memory it reads 32 bits; decode has cleared the source's number then.
#[inline(always)]
pub(crate) fn insertps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = if i.src_kind() == Kind::Reg {
        e.source_x(i)?
    } else {
        let v = e.source_lane(D, i)?;
        e.lane_alone(v)
    };
    let a = e.xmm(i.dst);
    let v = e.vec(VecOp::InsertPs, a, b, i.imm as u8);
    e.set_xmm(i.dst, v);
    Ok(())
}

/// PBLENDVB, BLENDVPS, BLENDVPD, SHA256RNDS2: the third operand is XMM0.
#[inline(always)]
pub(crate) fn with_xmm0<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = TernaryOp::from_number(e.number(i));
    let b = e.source_x(i)?;
    let (a, c) = (e.xmm(i.dst), e.xmm(0));
    let v = e.vec3_new(op, a, b, c, 0)?;
    e.set_xmm(i.dst, v);
    Ok(())
}

/// PTEST: SDM 2B "PTEST". ZF where no bit is in both, CF where operand 1 has none that operand 0 lacks; the others are 0.
#[inline(always)]
pub(crate) fn ptest<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_x(i)?;
    let a = e.xmm(i.dst);
    let none = |e: &mut E, op| {
        let v = e.vec(op, a, b, 0);
        let (low, high) = (e.lane(v, 0), e.lane(v, 1));
        let (all, zero) = (e.or(Q, low, high), e.int(Q, 0));
        e.eq(Q, all, zero)
    };
    let (zf, cf) = (none(e, VecOp::And), none(e, VecOp::AndNot));
    // SF and PF are 0.
    let (r, no) = (e.int(B, 1), e.truth(false));
    e.set_flags(B, Arith::Explicit { r, cf, of: no, af: no });
    e.set_zero(zf);
    Ok(())
}

/// What the string comparisons have in common. Sets the flags; gives what [`TernaryOp::CompareStrings`] does.
#[inline(always)]
fn compare_strings<E: Emit>(e: &mut E, i: &Insn, lengths: Lengths) -> Result<E::Vec, E::Stop> {
    let b = e.source_x(i)?;
    let a = e.xmm(i.dst);
    let lengths = match lengths {
        Lengths::Implicit => {
            let la = e.vec(VecOp::StringLength, a, a, i.imm as u8);
            let lb = e.vec(VecOp::StringLength, b, b, i.imm as u8);
            e.vec(VecOp::UnpackLoQ, la, lb, 0)
        }
        Lengths::Explicit => {
            let w = Width(i.cc);
            let (la, lb) = (e.get(w, reg::RAX), e.get(w, reg::RDX));
            let (la, lb) = (e.sext(w, Q, la), e.sext(w, Q, lb));
            let la = e.lane_alone(la);
            e.with_lane(la, 1, lb)
        }
    };
    let v = e.vec3(TernaryOp::CompareStrings, a, b, lengths, i.imm as u8);
    let (result, more) = (e.lane(v, 0), e.lane(v, 1));
    let bit = |e: &mut E, v, n| {
        let n = e.int(Q, n);
        e.bit(Q, v, n)
    };
    let zero = e.int(Q, 0);
    let none = e.eq(Q, result, zero);
    let (cf, of) = (e.not(none), bit(e, result, 0));
    let (zf, sf) = (bit(e, more, 8), bit(e, more, 9));
    // Either has one bit set: PF is 0.
    let (negative, positive) = (e.int(B, 0x80), e.int(B, 1));
    let r = e.select(B, sf, negative, positive);
    let af = e.truth(false);
    e.set_flags(B, Arith::Explicit { r, cf, of, af });
    e.set_zero(zf);
    Ok(v)
}

/// Where strings end.
#[derive(Clone, Copy)]
enum Lengths {
    /// Before the first element that is 0.
    Implicit,
    /// As rAX and rDX say, `cc` bytes wide.
    Explicit,
}

#[inline(always)]
fn index<E: Emit>(e: &mut E, i: &Insn, lengths: Lengths) -> Emitted<E> {
    let v = compare_strings(e, i, lengths)?;
    let index = e.lane(v, 1);
    let index = e.trunc(Q, B, index);
    let index = e.zext(B, D, index);
    e.set(D, reg::RCX, index);
    Ok(())
}

#[inline(always)]
fn mask<E: Emit>(e: &mut E, i: &Insn, lengths: Lengths) -> Emitted<E> {
    let v = compare_strings(e, i, lengths)?;
    let v = e.vec(VecOp::StringMask, v, v, i.imm as u8);
    e.set_xmm(0, v);
    Ok(())
}

/// PCMPISTRI: SDM 2B "PCMPISTRI".
#[inline(always)]
pub(crate) fn pcmpistri<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    index(e, i, Lengths::Implicit)
}
/// PCMPISTRM: SDM 2B "PCMPISTRM".
#[inline(always)]
pub(crate) fn pcmpistrm<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    mask(e, i, Lengths::Implicit)
}
/// PCMPESTRI: SDM 2B "PCMPESTRI".
#[inline(always)]
pub(crate) fn pcmpestri<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    index(e, i, Lengths::Explicit)
}
/// PCMPESTRM: SDM 2B "PCMPESTRM".
#[inline(always)]
pub(crate) fn pcmpestrm<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    mask(e, i, Lengths::Explicit)
}

/// CRC32: SDM 2A "CRC32". Of a 64-bit destination the upper half becomes 0.
#[inline(always)]
pub(crate) fn crc32<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = operation(e, i);
    let w = match op {
        VecOp::Crc32B => B,
        VecOp::Crc32W => W,
        VecOp::Crc32D => D,
        _ => Q,
    };
    let data = e.source_w(w, i)?;
    let crc = e.get(D, i.dst);
    let (crc, data) = (e.lane_alone(crc), e.lane_alone(data));
    let v = e.vec_new(op, crc, data, 0)?;
    let v = e.lane(v, 0);
    e.set(D, i.dst, v);
    Ok(())
}

/// Handlers that know the operation, a register and a register or memory, for `$op`s that the host has instructions for.
macro_rules! forms {
    ($(#[$doc:meta])* $name:ident($list:ident, $can:path): $($op:ident)*) => {
        $(#[$doc])*
        pub(super) fn $name<S: Straight>(_: u8, dst: Kind, src: Kind, number: u8) -> Step {
            if !$can($list::from_number(number)) {
                return straight::<S, Dyn>;
            }
            match ($list::from_number(number), dst, src) {
                $(
                    ($list::$op, Kind::Reg, Kind::Reg) => straight::<S, AtOp<{ $list::$op as u8 }, 0, 0>>,
                    ($list::$op, Kind::Reg, Kind::Mem) => straight::<S, AtOp<{ $list::$op as u8 }, 0, 1>>,
                    ($list::$op, Kind::Mem, Kind::Reg) => straight::<S, AtOp<{ $list::$op as u8 }, 1, 0>>,
                )*
                _ => straight::<S, Dyn>,
            }
        }
    };
}

forms! {
    /// For [`packed`].
    packed_forms(VecOp, can):
    ShufB Align MAddUbSW MulHRsW AbsB AbsW AbsD BlendW BlendD BlendQ MinSB MaxSB MinUW MaxUW MinSD MaxSD MinUD MaxUD
    CmpEqQ CmpGtQ MulLoD MulDQ PackUsDW AesEnc AesEncLast AesDec AesDecLast AesImc ClMulQ Sha1Rounds Sha1NextE Sha1Msg1
    Sha1Msg2 Sha256Msg1 Sha256Msg2 Affine AffineInverse MulField
}
forms! {
    /// For [`widen`].
    widen_forms(VecOp, can): SxBW SxBD SxBQ SxWD SxWQ SxDQ ZxBW ZxBD ZxBQ ZxWD ZxWQ ZxDQ
}
forms! {
    /// For [`insert`].
    insert_forms(VecOp, can): InsertB InsertD InsertQ
}
forms! {
    /// For [`extract`].
    extract_forms(VecOp, can): ExtractB ExtractD ExtractQ
}
forms! {
    /// For [`with_xmm0`].
    xmm0_forms(TernaryOp, can3): SelectB SelectD SelectQ Sha256Rounds
}
forms! {
    /// For [`crc32`].
    crc32_forms(VecOp, can): Crc32B Crc32W Crc32D Crc32Q
}
