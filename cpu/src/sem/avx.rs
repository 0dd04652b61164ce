//! AVX: SDM 1 "Programming with Intel AVX, FMA and Intel AVX2". An instruction works on the lower halves of its registers,
//! and where its prefix asks for 256 bits, on the upper ones in the same way; else it clears the upper half of its target.
//!
//! Operand 0 is `dst`, the last operand `src`, the register between them, which the VEX prefix names, `cc`. The immediate
//! byte is the low one of `imm`; what decode knows besides stands above it, see [`field`].

use crate::{
    emit::{Emit, Emitted, HIGH},
    insn::{Insn, Kind},
    sem::sse4,
    vector::{FloatOp, Fused, Lanes, VecOp},
    width::{B, D, Q, Width},
};

/// Places in `imm` above the immediate byte.
pub(crate) mod field {
    /// The [`super::VecOp`], [`super::FloatOp`] or [`super::Fused`].
    pub(crate) const OP: u32 = 8;
    /// Both halves.
    pub(crate) const WIDE: i32 = 1 << 16;
    /// [`super::Lanes`], two bits.
    pub(crate) const LANES: u32 = 17;
    /// No register stands between target and source.
    pub(crate) const ALONE: i32 = 1 << 19;
    /// The register of the fourth operand, four bits.
    pub(crate) const FOURTH: u32 = 20;
    /// How far the immediate is shifted for the upper half, or what else differs there: four bits.
    pub(crate) const STEP: u32 = 24;
}

#[inline(always)]
fn number(i: &Insn) -> u8 {
    (i.imm >> field::OP) as u8
}
#[inline(always)]
fn is_wide(i: &Insn) -> bool {
    i.imm & field::WIDE != 0
}
#[inline(always)]
fn lanes(i: &Insn) -> Lanes {
    Lanes::from_number((i.imm >> field::LANES & 3) as u8)
}
#[inline(always)]
fn fourth(i: &Insn) -> u8 {
    (i.imm >> field::FOURTH & 15) as u8
}
#[inline(always)]
fn step(i: &Insn) -> u8 {
    (i.imm >> field::STEP & 15) as u8
}

#[inline(always)]
fn zeros<E: Emit>(e: &mut E) -> E::Vec {
    let zero = e.int(Q, 0);
    e.lane_alone(zero)
}

/// Register r, both halves if the instruction is for both.
#[inline(always)]
fn both<E: Emit>(e: &mut E, i: &Insn, r: u8) -> [E::Vec; 2] {
    let low = e.xmm(r);
    [low, if is_wide(i) { e.xmm(r | HIGH) } else { low }]
}

/// The operand between target and source, or the source where there is none.
#[inline(always)]
fn middle<E: Emit>(e: &mut E, i: &Insn, source: [E::Vec; 2]) -> [E::Vec; 2] {
    if i.imm & field::ALONE != 0 { source } else { both(e, i, i.cc) }
}

/// The last operand, 16 or 32 bytes.
#[inline(always)]
fn source<E: Emit>(e: &mut E, i: &Insn) -> Result<[E::Vec; 2], E::Stop> {
    if is_wide(i) {
        return e.source_y(i);
    }
    let v = e.source_x(i)?;
    Ok([v, v])
}

/// The target register := v, of which the upper half is cleared if the instruction is for the lower.
#[inline(always)]
fn finish<E: Emit>(e: &mut E, i: &Insn, v: [E::Vec; 2]) {
    let high = if is_wide(i) { v[1] } else { zeros(e) };
    e.set_xmm(i.dst, v[0]);
    e.set_xmm(i.dst | HIGH, high);
}

/// The target's lower half := v, the upper one 0.
#[inline(always)]
fn finish_low<E: Emit>(e: &mut E, i: &Insn, v: E::Vec) {
    let high = zeros(e);
    e.set_xmm(i.dst, v);
    e.set_xmm(i.dst | HIGH, high);
}

/// f on the lower halves, and on the upper ones if the instruction is for both.
#[inline(always)]
fn halves<E: Emit>(e: &mut E, i: &Insn, mut f: impl FnMut(&mut E, usize) -> E::Vec) -> [E::Vec; 2] {
    let low = f(e, 0);
    [low, if is_wide(i) { f(e, 1) } else { low }]
}

/// Operation `op` of the registers' halves and the source's.
#[inline(always)]
fn combine<E: Emit>(e: &mut E, i: &Insn, op: VecOp) -> Emitted<E> {
    let b = source(e, i)?;
    let a = middle(e, i, b);
    let imm = i.imm as u8;
    let v = halves(e, i, |e, k| e.vec(op, a[k], b[k], if k == 0 { imm } else { imm >> step(i) }));
    finish(e, i, v);
    Ok(())
}

/// What is one vector operation on each half.
#[inline(always)]
pub(crate) fn packed<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    combine(e, i, VecOp::from_number(number(i)))
}

/// The same where a handler knows width and operation.
#[inline(always)]
fn combine_at_once<E: Emit>(e: &mut E, i: &Insn, op: VecOp) -> Emitted<E> {
    let low = e.xmm(i.cc);
    if e.width(i).0 == 32 {
        let b = e.source_y(i)?;
        let high = e.xmm(i.cc | HIGH);
        let v = [e.vec(op, low, b[0], 0), e.vec(op, high, b[1], 0)];
        e.set_xmm(i.dst, v[0]);
        e.set_xmm(i.dst | HIGH, v[1]);
    } else {
        let b = e.source_x(i)?;
        let v = e.vec(op, low, b, 0);
        finish_low(e, i, v);
    }
    Ok(())
}

/// Those that programs run most, with handlers of their own.
macro_rules! hot {
    ($($name:ident $op:ident,)*) => {
        $(#[inline(always)]
        pub(crate) fn $name<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
            combine_at_once(e, i, VecOp::$op)
        })*
    };
}

hot! {
    vpand And,
    vpandn AndNot,
    vpor Or,
    vpxor Xor,
    vpcmpeqb CmpEqB,
    vpcmpeqd CmpEqD,
    vpminub MinUB,
    vpsubb SubB,
    vpaddd AddD,
    vpaddq AddQ,
}

/// Shifts of all lanes by the low quadword of an XMM register or of 16 bytes of memory.
#[inline(always)]
pub(crate) fn shift_by_count<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let n = e.source_x(i)?;
    let a = both(e, i, i.cc);
    let op = VecOp::from_number(number(i));
    let v = halves(e, i, |e, k| e.vec(op, a[k], n, 0));
    finish(e, i, v);
    Ok(())
}

/// Shifts by the immediate. Register `dst` is the one that the VEX prefix names.
#[inline(always)]
pub(crate) fn shift_by_immediate<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let a = both(e, i, i.src);
    let op = VecOp::from_number(number(i));
    let v = halves(e, i, |e, k| e.vec(op, a[k], a[k], i.imm as u8));
    finish(e, i, v);
    Ok(())
}

/// VMOVAPS, VMOVUPS, VMOVDQA, VLDDQU and the like, to a register or to memory.
#[inline(always)]
pub(crate) fn mov_y<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_y(i)?;
    e.put_y(i, v)
}

/// The same of 128 bits to a register.
#[inline(always)]
pub(crate) fn mov_x<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_x(i)?;
    finish_low(e, i, v);
    Ok(())
}

#[inline(always)]
fn load<E: Emit>(e: &mut E, i: &Insn, w: Width) -> Emitted<E> {
    let v = e.source_w_alone(w, i)?;
    finish_low(e, i, v);
    Ok(())
}

/// VMOVD from r/m32; VMOVSS from memory.
#[inline(always)]
pub(crate) fn load_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load(e, i, D)
}
/// VMOVQ from r/m64; VMOVSD from memory.
#[inline(always)]
pub(crate) fn load_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load(e, i, Q)
}

/// VMOVQ xmm, xmm.
#[inline(always)]
pub(crate) fn movq<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(i.src);
    let v = e.lane(v, 0);
    let v = e.lane_alone(v);
    finish_low(e, i, v);
    Ok(())
}

/// VMOVSS xmm, xmm, xmm.
#[inline(always)]
pub(crate) fn merge_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (a, b) = (e.xmm(i.cc), e.xmm(i.src));
    let v = e.vec(VecOp::MergeD, a, b, 0);
    finish_low(e, i, v);
    Ok(())
}

/// Lane `to` of the middle operand replaced by lane `from` of the last.
#[inline(always)]
fn move_lane<E: Emit>(e: &mut E, i: &Insn, to: u8, from: u8) -> Emitted<E> {
    let (a, b) = (e.xmm(i.cc), e.xmm(i.src));
    let v = e.lane(b, from);
    let v = e.with_lane(a, to, v);
    finish_low(e, i, v);
    Ok(())
}

/// VMOVSD xmm, xmm, xmm.
#[inline(always)]
pub(crate) fn merge_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 0, 0)
}
/// VMOVHLPS.
#[inline(always)]
pub(crate) fn movhlps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 0, 1)
}
/// VMOVLHPS.
#[inline(always)]
pub(crate) fn movlhps<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    move_lane(e, i, 1, 0)
}

#[inline(always)]
fn load_lane<E: Emit>(e: &mut E, i: &Insn, to: u8) -> Emitted<E> {
    let v = e.source_lane(Q, i)?;
    let a = e.xmm(i.cc);
    let v = e.with_lane(a, to, v);
    finish_low(e, i, v);
    Ok(())
}

/// VMOVLPS, VMOVLPD from memory.
#[inline(always)]
pub(crate) fn load_low<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load_lane(e, i, 0)
}
/// VMOVHPS, VMOVHPD from memory.
#[inline(always)]
pub(crate) fn load_high<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    load_lane(e, i, 1)
}

/// VMOVDDUP: SDM 2B "MOVDDUP". For 128 bits the source has 64.
#[inline(always)]
pub(crate) fn movddup<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = if is_wide(i) {
        e.source_y(i)?
    } else {
        let low = e.source_lane(Q, i)?;
        [e.lane_alone(low); 2]
    };
    let v = halves(e, i, |e, k| e.vec(VecOp::BroadcastQ, b[k], b[k], 0));
    finish(e, i, v);
    Ok(())
}

/// The sign masks of both halves: VMOVMSKPS, VMOVMSKPD, VPMOVMSKB. `STEP` has the lanes of a half, 0 for 16.
#[inline(always)]
pub(crate) fn mask<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = VecOp::from_number(number(i));
    let v = both(e, i, i.src);
    let low = e.vec(op, v[0], v[0], 0);
    let mut r = e.lane(low, 0);
    if is_wide(i) {
        let high = e.vec(op, v[1], v[1], 0);
        let high = e.lane(high, 0);
        let n = if step(i) == 0 { 16 } else { step(i) };
        let n = e.int(Q, n.into());
        let high = e.shl(Q, high, n);
        r = e.or(Q, r, high);
    }
    e.set(D, i.dst, r);
    Ok(())
}

/// VPINSRB, VPINSRW, VPINSRD, VPINSRQ. `STEP` has the lane's bytes.
#[inline(always)]
pub(crate) fn pinsr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = Width(step(i));
    let v = e.source_w(w, i)?;
    let a = e.xmm(i.cc);
    let v = with_narrow_lane(e, a, w, i.imm as u8, v);
    finish_low(e, i, v);
    Ok(())
}

/// a with the lane of width w and number n (cut to what there is) replaced.
#[inline(always)]
pub(crate) fn with_narrow_lane<E: Emit>(e: &mut E, a: E::Vec, w: Width, n: u8, v: E::Val) -> E::Vec {
    let (half, shift) = place(w, n);
    let keep = e.int(Q, !(w.mask(u64::MAX) << shift));
    let shift = e.int(Q, shift.into());
    let old = e.lane(a, half);
    let old = e.and(Q, old, keep);
    let v = e.zext(w, Q, v);
    let v = e.shl(Q, v, shift);
    let new = e.or(Q, old, v);
    e.with_lane(a, half, new)
}

/// The lane of width w and number n, zero-extended.
#[inline(always)]
pub(crate) fn narrow_lane<E: Emit>(e: &mut E, a: E::Vec, w: Width, n: u8) -> E::Val {
    let (half, shift) = place(w, n);
    let shift = e.int(Q, shift.into());
    let v = e.lane(a, half);
    let v = e.shr(Q, v, shift);
    e.trunc(Q, w, v)
}

/// Which quadword a lane is in, and where there.
fn place(w: Width, n: u8) -> (u8, u8) {
    let n = n & (16 / w.0.max(1) - 1);
    let per_half = 8 / w.0.max(1);
    (n / per_half, n % per_half * w.0 * 8)
}

/// VPEXTRB, VPEXTRW, VPEXTRD, VPEXTRQ, VEXTRACTPS. `STEP` has the lane's bytes.
#[inline(always)]
pub(crate) fn pextr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = Width(step(i));
    let a = e.xmm(i.src);
    let v = narrow_lane(e, a, w, i.imm as u8);
    if i.dst_kind() == Kind::Reg {
        e.set(if w.0 == 8 { Q } else { D }, i.dst, v);
        return Ok(());
    }
    e.put_lane(w, i, v)
}

/// VBROADCASTSS, VBROADCASTSD, VPBROADCASTB and so on. `STEP` has the lane's bytes.
#[inline(always)]
pub(crate) fn broadcast<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let low = e.source_lane(Width(step(i)), i)?;
    let v = e.lane_alone(low);
    let v = e.vec(VecOp::from_number(number(i)), v, v, 0);
    finish(e, i, [v; 2]);
    Ok(())
}

/// VBROADCASTF128, VBROADCASTI128.
#[inline(always)]
pub(crate) fn broadcast_128<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_x(i)?;
    finish(e, i, [v; 2]);
    Ok(())
}

/// VEXTRACTF128, VEXTRACTI128.
#[inline(always)]
pub(crate) fn extract_128<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.xmm(if i.imm & 1 != 0 { i.src | HIGH } else { i.src });
    if i.dst_kind() == Kind::Reg {
        finish_low(e, i, v);
        return Ok(());
    }
    e.put_x(i, v)
}

/// VINSERTF128, VINSERTI128.
#[inline(always)]
pub(crate) fn insert_128<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_x(i)?;
    let a = both(e, i, i.cc);
    finish(e, i, if i.imm & 1 != 0 { [a[0], v] } else { [v, a[1]] });
    Ok(())
}

/// VPERM2F128, VPERM2I128: SDM 2C "VPERM2I128".
#[inline(always)]
pub(crate) fn permute_128<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_y(i)?;
    let a = both(e, i, i.cc);
    let zero = zeros(e);
    let pick = |n: i32| match n {
        n if n & 8 != 0 => zero,
        n => [a[0], a[1], b[0], b[1]][(n & 3) as usize],
    };
    finish(e, i, [pick(i.imm), pick(i.imm >> 4)]);
    Ok(())
}

/// VPERMQ, VPERMPD.
#[inline(always)]
pub(crate) fn permute_q<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_y(i)?;
    let lane = |e: &mut E, n: u8| {
        let n = i.imm as u8 >> (2 * n) & 3;
        e.lane(b[usize::from(n >> 1)], n & 1)
    };
    let v = [0, 2].map(|n| {
        let (low, high) = (lane(e, n), lane(e, n + 1));
        let v = e.lane_alone(low);
        e.with_lane(v, 1, high)
    });
    finish(e, i, v);
    Ok(())
}

/// VPERMD, VPERMPS: lanes of the last operand by the middle one's low three bits.
#[inline(always)]
pub(crate) fn permute_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let table = e.source_y(i)?;
    let indices = both(e, i, i.cc);
    let v = indices.map(|n| {
        let low = e.vec(VecOp::LookupD, table[0], n, 0);
        let high = e.vec(VecOp::LookupD, table[1], n, 0);
        // Bit 2 of each index, all over its lane.
        let which = e.vec(VecOp::ShlImmD, n, n, 29);
        let which = e.vec(VecOp::SarImmD, which, which, 31);
        choose(e, which, high, low)
    });
    finish(e, i, v);
    Ok(())
}

/// a where `mask` is set, else b.
#[inline(always)]
fn choose<E: Emit>(e: &mut E, mask: E::Vec, a: E::Vec, b: E::Vec) -> E::Vec {
    let a = e.vec(VecOp::And, mask, a, 0);
    let b = e.vec(VecOp::AndNot, mask, b, 0);
    e.vec(VecOp::Or, a, b, 0)
}

/// VBLENDVPS, VBLENDVPD, VPBLENDVB: the last operand's lanes where the fourth's are negative. `STEP` has a lane's bytes.
#[inline(always)]
pub(crate) fn blendv<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = source(e, i)?;
    let (a, mask) = (both(e, i, i.cc), both(e, i, fourth(i)));
    let v = halves(e, i, |e, k| {
        let mask = signs(e, Width(step(i)), mask[k]);
        choose(e, mask, b[k], a[k])
    });
    finish(e, i, v);
    Ok(())
}

/// The sign of each lane all over it.
#[inline(always)]
fn signs<E: Emit>(e: &mut E, w: Width, v: E::Vec) -> E::Vec {
    match w {
        B => {
            let zero = zeros(e);
            e.vec(VecOp::CmpGtB, zero, v, 0)
        }
        D => e.vec(VecOp::SarImmD, v, v, 31),
        _ => {
            let v = e.vec(VecOp::ShufD, v, v, 0xf5);
            e.vec(VecOp::SarImmD, v, v, 31)
        }
    }
}

/// VPMOVSX and VPMOVZX: the source has `STEP` bytes for each half .
#[inline(always)]
pub(crate) fn extend<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let op = VecOp::from_number(number(i));
    let each = step(i);
    let v = match each * if is_wide(i) { 2 } else { 1 } {
        16 => e.source_x(i)?,
        bytes => {
            let low = e.source_lane(Width(bytes), i)?;
            e.lane_alone(low)
        }
    };
    let v = halves(e, i, |e, k| {
        let part = if k == 0 { v } else { e.vec(VecOp::ShrBytes, v, v, each) };
        e.vec(op, part, part, 0)
    });
    finish(e, i, v);
    Ok(())
}

/// VZEROUPPER; with `STEP` set, VZEROALL. Outside of 64-bit mode the first eight registers, which `cc` says.
#[inline(always)]
pub(crate) fn zero_registers<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let zero = zeros(e);
    for r in 0..i.cc {
        e.set_xmm(r | HIGH, zero);
        if step(i) != 0 {
            e.set_xmm(r, zero);
        }
    }
    Ok(())
}

/// VPTEST, VTESTPS, VTESTPD: SDM 2C "VTESTPD/VTESTPS". `STEP` has the bytes of a lane whose sign counts, 0 for all bits.
#[inline(always)]
pub(crate) fn test<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = source(e, i)?;
    let a = both(e, i, i.dst);
    let mut none = [None, None];
    for k in 0..if is_wide(i) { 2 } else { 1 } {
        for (n, op) in [VecOp::And, VecOp::AndNot].into_iter().enumerate() {
            let v = e.vec(op, a[k], b[k], 0);
            let v = if step(i) == 0 { v } else { signs(e, Width(step(i)), v) };
            let (low, high) = (e.lane(v, 0), e.lane(v, 1));
            let v = e.or(Q, low, high);
            none[n] = Some(match none[n] {
                None => v,
                Some(other) => e.or(Q, other, v),
            });
        }
    }
    let zero = e.int(Q, 0);
    let [zf, cf] = none.map(|v| match v {
        Some(v) => e.eq(Q, v, zero),
        None => e.truth(true),
    });
    // 1 is neither negative nor of even parity.
    let (one, no) = (e.int(B, 1), e.truth(false));
    e.set_flags(B, crate::flags::Arith::Explicit { r: one, cf, of: no, af: no });
    e.set_zero(zf);
    Ok(())
}

/// Packed floating point on both halves.
#[inline(always)]
pub(crate) fn float<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = source(e, i)?;
    let a = middle(e, i, b);
    let (op, lanes, imm) = (FloatOp::from_number(number(i)), lanes(i), i.imm as u8);
    if is_wide(i) {
        let v = e.float_y(op, lanes, a, b, imm)?;
        finish(e, i, v);
    } else {
        let v = e.float(op, lanes, a[0], b[0], imm)?;
        finish_low(e, i, v);
    }
    Ok(())
}

/// Scalar floating point: the other lanes are the middle operand's.
#[inline(always)]
pub(crate) fn scalar<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let lanes = lanes(i);
    let b = e.source_low(if lanes == Lanes::Ss { D } else { Q }, i)?;
    let a = e.xmm(i.cc);
    let v = e.float(FloatOp::from_number(number(i)), lanes, a, b, i.imm as u8)?;
    finish_low(e, i, v);
    Ok(())
}

/// VRCPSS, VRSQRTSS.
#[inline(always)]
pub(crate) fn approximate_scalar<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_lane(D, i)?;
    let (a, b) = (e.xmm(i.cc), e.lane_alone(b));
    let v = e.vec(VecOp::from_number(number(i)), a, b, 0);
    let v = e.vec(VecOp::MergeD, a, v, 0);
    finish_low(e, i, v);
    Ok(())
}

/// VCVTSI2SS, VCVTSI2SD from 32 or 64 bits, `STEP` bytes.
#[inline(always)]
pub(crate) fn from_integer<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source_w(Width(step(i)), i)?;
    let (a, b) = (e.xmm(i.cc), e.lane_alone(v));
    let v = e.float(FloatOp::from_number(number(i)), lanes(i), a, b, 0)?;
    finish_low(e, i, v);
    Ok(())
}

/// VCVTPS2PD, VCVTDQ2PD, VCVTPH2PS: the source is half as wide as the target.
#[inline(always)]
pub(crate) fn widen<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let (op, lanes) = (FloatOp::from_number(number(i)), lanes(i));
    if is_wide(i) {
        let b = e.source_x(i)?;
        let high = e.lane(b, 1);
        let high = e.lane_alone(high);
        let v = e.float_y(op, lanes, [b; 2], [b, high], 0)?;
        finish(e, i, v);
    } else {
        let b = e.source_lane(Q, i)?;
        let b = e.lane_alone(b);
        let v = e.float(op, lanes, b, b, 0)?;
        finish_low(e, i, v);
    }
    Ok(())
}

/// VCVTPD2PS, VCVTPD2DQ, VCVTTPD2DQ: the target is half as wide as the source.
#[inline(always)]
pub(crate) fn narrow<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = source(e, i)?;
    let v = narrowed(e, i, b)?;
    finish_low(e, i, v);
    Ok(())
}

/// VCVTPS2PH to a register.
#[inline(always)]
pub(crate) fn narrow_to_half<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = both(e, i, i.src);
    let v = narrowed(e, i, b)?;
    finish_low(e, i, v);
    Ok(())
}

/// The narrowed halves side by side.
#[inline(always)]
fn narrowed<E: Emit>(e: &mut E, i: &Insn, b: [E::Vec; 2]) -> Result<E::Vec, E::Stop> {
    let (op, lanes, imm) = (FloatOp::from_number(number(i)), lanes(i), i.imm as u8);
    if !is_wide(i) {
        return e.float(op, lanes, b[0], b[0], imm);
    }
    let [low, high] = e.float_y(op, lanes, b, b, imm)?;
    let high = e.lane(high, 0);
    Ok(e.with_lane(low, 1, high))
}

/// Which operands are multiplied, in the order in which NaNs are looked for, and which is added: by the digits in the
/// mnemonics, two bits each: x, y, z.
#[inline(always)]
fn fused<E: Emit>(e: &mut E, i: &Insn, b: [E::Vec; 2], scalar: bool) -> Emitted<E> {
    let (d, a) = (both(e, i, i.dst), both(e, i, i.cc));
    let [x, y, z] = match step(i) {
        1 => [d, b, a],
        2 => [a, d, b],
        _ => [a, b, d],
    };
    let n = if is_wide(i) { 2 } else { 1 };
    let form = Fused::from_bits(number(i));
    let mut v = e.fused(form, lanes(i), &x[..n], &y[..n], &z[..n])?;
    if scalar {
        // The lanes above are the target's, whatever was added.
        v[0] = if lanes(i) == Lanes::Ss {
            e.vec(VecOp::MergeD, d[0], v[0], 0)
        } else {
            e.vec(VecOp::MergeQ, d[0], v[0], 0)
        };
    }
    finish(e, i, v);
    Ok(())
}

/// VFMADDPS and its relatives. `STEP` is 1 for the form 132, 2 for 213, 3 for 231.
#[inline(always)]
pub(crate) fn fused_packed<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = source(e, i)?;
    fused(e, i, b, false)
}

/// VFMADDSS, VFMADDSD and their relatives.
#[inline(always)]
pub(crate) fn fused_scalar<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_low(if lanes(i) == Lanes::Ss { D } else { Q }, i)?;
    fused(e, i, [b; 2], true)
}

/// VINSERTPS and others of a 32-bit source in memory: the vector operation on it alone.
#[inline(always)]
pub(crate) fn packed_d<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let b = e.source_lane(D, i)?;
    let (a, b) = (e.xmm(i.cc), e.lane_alone(b));
    let v = e.vec(VecOp::from_number(number(i)), a, b, i.imm as u8);
    finish_low(e, i, v);
    Ok(())
}

/// VPCMPISTRM.
#[inline(always)]
pub(crate) fn pcmpistrm<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    sse4::pcmpistrm(e, i)?;
    clear_xmm0(e)
}

/// VPCMPESTRM.
#[inline(always)]
pub(crate) fn pcmpestrm<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    sse4::pcmpestrm(e, i)?;
    clear_xmm0(e)
}

/// The upper half of YMM0, whose lower half was a target.
#[inline(always)]
fn clear_xmm0<E: Emit>(e: &mut E) -> Emitted<E> {
    let zero = zeros(e);
    e.set_xmm(HIGH, zero);
    Ok(())
}
