//! Logic: SDM 1 "Logical Instructions", and the bit and byte instructions.

use crate::{
    emit::{Emit, Emitted},
    flags::Arith::{Explicit, Logic},
    insn::{Insn, Kind},
    width::{B, D, Q, Width},
};

#[inline(always)]
fn logic<E: Emit>(e: &mut E, i: &Insn, f: impl Fn(&mut E, E::Val, E::Val) -> E::Val) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let (_, r) = e.update(i, |e, a| f(e, a, b))?;
    e.set_flags(w, Logic { r });
    Ok(())
}

/// AND: SDM 2A "AND". OF and CF 0; SF ZF PF; AF undefined: 0 as on silicon.
#[inline(always)]
pub(crate) fn and<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    logic(e, i, |e, a, b| e.and(w, a, b))
}

/// OR: SDM 2B "OR". Flags as AND.
#[inline(always)]
pub(crate) fn or<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    logic(e, i, |e, a, b| e.or(w, a, b))
}

/// XOR: SDM 2B "XOR". Flags as AND.
#[inline(always)]
pub(crate) fn xor<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    logic(e, i, |e, a, b| e.xor(w, a, b))
}

/// TEST: SDM 2B "TEST". Flags as AND.
#[inline(always)]
pub(crate) fn test<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let a = e.target(i)?;
    let r = e.and(w, a, b);
    e.set_flags(w, Logic { r });
    Ok(())
}

/// NOT: SDM 2B "NOT". No flags.
#[inline(always)]
pub(crate) fn not<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let ones = e.int(w, u64::MAX);
    e.update(i, |e, a| e.xor(w, a, ones))?;
    Ok(())
}

/// What BT and its kin do to the bit that they test.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Set,
    Reset,
    Complement,
}

/// The bit offset modulo the width.
#[inline(always)]
fn bit_number<E: Emit>(e: &mut E, w: Width, i: &Insn) -> Result<E::Val, E::Stop> {
    let n = e.source_w(if i.src_kind() == Kind::Imm { B } else { w }, i)?;
    let n = e.trunc(w, B, n);
    let m = e.int(B, w.bits() as u64 - 1);
    Ok(e.and(B, n, m))
}

#[inline(always)]
fn changed<E: Emit>(e: &mut E, w: Width, v: E::Val, n: E::Val, then: Then) -> E::Val {
    let one = e.int(w, 1);
    let mask = e.shl(w, one, n);
    match then {
        Then::Nothing => v,
        Then::Set => e.or(w, v, mask),
        Then::Complement => e.xor(w, v, mask),
        Then::Reset => {
            let ones = e.int(w, u64::MAX);
            let keep = e.xor(w, mask, ones);
            e.and(w, v, keep)
        }
    }
}

#[inline(always)]
fn bit_test<E: Emit>(e: &mut E, i: &Insn, then: Then) -> Emitted<E> {
    let w = e.width(i);
    let n = bit_number(e, w, i)?;
    let v = match (i.dst_kind(), i.src_kind()) {
        (Kind::Reg, _) | (_, Kind::Imm) => match then {
            Then::Nothing => e.target(i)?,
            _ => e.update(i, |e, v| changed(e, w, v, n, then))?.0,
        },
        // A bit string in memory reaches beyond the operand: the address moves by the signed bit offset.
        _ => {
            let far = e.get(w, i.src);
            let far = e.sext(w, Q, far);
            let k = e.int(B, w.bits().trailing_zeros() as u64);
            let words = e.sar(Q, far, k);
            let k = e.int(B, w.0.trailing_zeros() as u64);
            let bytes = e.shl(Q, words, k);
            let at = e.address(i, Some(bytes), w.0, !matches!(then, Then::Nothing))?;
            match then {
                Then::Nothing => e.load(w, i, at)?,
                _ => e.modify(w, i, at, |e, v| changed(e, w, v, n, then))?.0,
            }
        }
    };
    let c = e.bit(w, v, n);
    e.set_carry(c);
    Ok(())
}

/// BT: SDM 2A "BT". CF; OF SF AF PF are undefined and stay, ZF stays.
#[inline(always)]
pub(crate) fn bt<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    bit_test(e, i, Then::Nothing)
}

/// BTS: SDM 2A "BTS". Flags as BT.
#[inline(always)]
pub(crate) fn bts<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    bit_test(e, i, Then::Set)
}

/// BTR: SDM 2A "BTR". Flags as BT.
#[inline(always)]
pub(crate) fn btr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    bit_test(e, i, Then::Reset)
}

/// BTC: SDM 2A "BTC". Flags as BT.
#[inline(always)]
pub(crate) fn btc<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    bit_test(e, i, Then::Complement)
}

#[inline(always)]
fn scan<E: Emit>(e: &mut E, i: &Insn, forward: bool) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = if forward { e.lowest(w, v) } else { e.highest(w, v) };
    let zero = e.int(w, 0);
    let none = e.eq(w, v, zero);
    let some = e.not(none);
    // The destination stays, all 64 bits of it, when the source is 0: AMD documents it, Intel silicon does it.
    e.set_if(some, w, i.dst, n);
    let (r, no) = (e.select(w, none, zero, n), e.truth(false));
    e.set_flags(w, Explicit { r, cf: no, of: no, af: no });
    e.set_zero(none);
    Ok(())
}

/// BSF: SDM 2A "BSF". ZF says whether the source was 0; the other status flags are undefined: silicon clears CF OF AF SF, and PF follows the number found.
#[inline(always)]
pub(crate) fn bsf<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    scan(e, i, true)
}

/// BSR: SDM 2A "BSR". Flags as BSF.
#[inline(always)]
pub(crate) fn bsr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    scan(e, i, false)
}

/// BSWAP: SDM 2A "BSWAP". With a 16-bit operand silicon clears it. No flags.
#[inline(always)]
pub(crate) fn bswap<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    if w == D || w == Q {
        let v = e.get(w, i.dst);
        let v = e.bswap(w, v);
        e.set(w, i.dst, v);
    } else {
        let zero = e.int(w, 0);
        e.set(w, i.dst, zero);
    }
    Ok(())
}

/// SETcc: SDM 2B "SETcc". No flags.
#[inline(always)]
pub(crate) fn setcc<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let c = e.condition(i);
    let v = e.bit_value(B, c);
    e.put(i, v)
}
