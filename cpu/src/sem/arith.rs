//! Addition, subtraction, multiplication, division: SDM 1 "Binary Arithmetic Instructions".

use crate::{
    emit::{Emit, Emitted},
    flags::Arith::{Add, Explicit, Sub},
    insn::{Insn, Kind},
    planted::{self, Bug},
    state::reg,
    width::{B, Width},
};

/// ADD: SDM 2A "ADD". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn add<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let (a, r) = e.update(i, |e, a| e.add(w, a, b))?;
    e.set_flags(w, Add { a, r });
    Ok(())
}

/// SUB: SDM 2B "SUB". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn sub<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let (a, r) = e.update(i, |e, a| e.sub(w, a, b))?;
    if w == B && planted::is(Bug::OfOfSub8) {
        let (cf, of) = (e.ult(w, a, b), e.truth(false));
        carried(e, w, a, b, r, cf, of);
        return Ok(());
    }
    e.set_flags(w, Sub { a, b, r });
    Ok(())
}

/// CMP: SDM 2A "CMP". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn cmp<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let a = e.target(i)?;
    let r = e.sub(w, a, b);
    e.set_flags(w, Sub { a, b, r });
    Ok(())
}

/// The flags of `r = a + b + carry` (or `a = r + b + carry` read backwards, for a borrow): the carries into each bit are
/// `a ^ b ^ r`.
#[inline(always)]
fn carried<E: Emit>(e: &mut E, w: Width, a: E::Val, b: E::Val, r: E::Val, cf: E::Bit, of: E::Bit) {
    let x = e.xor(w, a, b);
    let x = e.xor(w, x, r);
    let four = e.int(B, 4);
    let af = e.bit(w, x, four);
    e.set_flags(w, Explicit { r, cf, of, af });
}

/// ADC: SDM 2A "ADC". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn adc<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let c = e.carry();
    let (a, r) = e.update(i, |e, a| {
        let s = e.add(w, a, b);
        let c = e.bit_value(w, c);
        e.add(w, s, c)
    })?;
    // Carry out of either of the two additions.
    let below = e.ult(w, r, a);
    let same = e.eq(w, r, a);
    let also = e.and_bit(same, c);
    let cf = e.or_bit(below, also);
    let (x, y) = (e.xor(w, a, r), e.xor(w, b, r));
    let o = e.and(w, x, y);
    let of = e.sign(w, o);
    if planted::is(Bug::AfOfAdc) {
        let af = e.truth(false);
        e.set_flags(w, Explicit { r, cf, of, af });
        return Ok(());
    }
    carried(e, w, a, b, r, cf, of);
    Ok(())
}

/// SBB: SDM 2B "SBB". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn sbb<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    if i.dst_kind() == Kind::Reg && i.src_kind() == Kind::Reg && i.dst == i.src {
        // The way to spread CF over a register: as if 0 or 1 were taken from 0.
        let (zero, c) = (e.int(w, 0), e.carry());
        let c = e.bit_value(w, c);
        let (_, r) = e.update(i, |e, _| e.sub(w, zero, c))?;
        e.set_flags(w, Sub { a: zero, b: c, r });
        return Ok(());
    }
    let b = e.source(i)?;
    let c = e.carry();
    let (a, r) = e.update(i, |e, a| {
        let s = e.sub(w, a, b);
        let c = e.bit_value(w, c);
        e.sub(w, s, c)
    })?;
    let below = e.ult(w, a, b);
    let same = e.eq(w, a, b);
    let also = e.and_bit(same, c);
    let cf = e.or_bit(below, also);
    let (x, y) = (e.xor(w, a, b), e.xor(w, a, r));
    let o = e.and(w, x, y);
    let of = e.sign(w, o);
    carried(e, w, a, b, r, cf, of);
    Ok(())
}

/// INC: SDM 2A "INC". Writes OF SF ZF AF PF; CF stays.
#[inline(always)]
pub(crate) fn inc<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    step(e, i, false)
}

/// DEC: SDM 2A "DEC". Writes OF SF ZF AF PF; CF stays.
#[inline(always)]
pub(crate) fn dec<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    step(e, i, true)
}

#[inline(always)]
fn step<E: Emit>(e: &mut E, i: &Insn, down: bool) -> Emitted<E> {
    let w = e.width(i);
    let one = e.int(w, 1);
    let (_, r) = e.update(i, |e, a| if down { e.sub(w, a, one) } else { e.add(w, a, one) })?;
    let least = 1u64 << (w.bits() - 1);
    let edge = e.int(w, if down { least - 1 } else { least });
    let of = e.eq(w, r, edge);
    let fifteen = e.int(w, 15);
    let low = e.and(w, r, fifteen);
    let wrapped = e.int(w, if down { 15 } else { 0 });
    let af = e.eq(w, low, wrapped);
    let cf = e.carry();
    e.set_flags(w, Explicit { r, cf, of, af });
    Ok(())
}

/// NEG: SDM 2B "NEG". Writes OF SF ZF AF PF CF, as 0 - operand.
#[inline(always)]
pub(crate) fn neg<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let zero = e.int(w, 0);
    let (b, r) = e.update(i, |e, b| e.sub(w, zero, b))?;
    e.set_flags(w, Sub { a: zero, b, r });
    Ok(())
}

/// XADD: SDM 2B "XADD". Writes OF SF ZF AF PF CF.
#[inline(always)]
pub(crate) fn xadd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.get(w, i.src);
    let (a, r) = e.update(i, |e, a| e.add(w, a, b))?;
    e.set_flags(w, Add { a, r });
    e.set(w, i.src, a);
    if i.dst_kind() == Kind::Reg {
        // With both operands the same register the sum wins.
        e.set(w, i.dst, r);
    }
    Ok(())
}

/// CMPXCHG: SDM 2A "CMPXCHG". Writes OF SF ZF AF PF CF, as CMP of the accumulator with the destination.
#[inline(always)]
pub(crate) fn cmpxchg<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (expected, new) = (e.get(w, reg::RAX), e.get(w, i.src));
    let found = if i.dst_kind() == Kind::Reg {
        // A register is left alone, all 64 bits of it, unless the values are equal.
        let found = e.get(w, i.dst);
        let same = e.eq(w, found, expected);
        e.set_if(same, w, i.dst, new);
        found
    } else {
        // Memory is written in any case.
        let (found, _) = e.update(i, |e, found| {
            let same = e.eq(w, found, expected);
            e.select(w, same, new, found)
        })?;
        found
    };
    let r = e.sub(w, expected, found);
    e.set_flags(w, Sub { a: expected, b: found, r });
    let same = e.eq(w, found, expected);
    let differ = e.not(same);
    e.set_if(differ, w, reg::RAX, found);
    Ok(())
}

/// Where a product's or quotient's two halves go: AH:AL, or rDX:rAX.
#[inline(always)]
fn put_pair<E: Emit>(e: &mut E, w: Width, low: E::Val, high: E::Val) {
    if w == B {
        e.set(B, reg::RAX, low);
        e.set(B, reg::AH, high);
    } else {
        e.set(w, reg::RAX, low);
        e.set(w, reg::RDX, high);
    }
}

/// MUL: SDM 2B "MUL". CF and OF say whether the upper half is not zero; SF, ZF, AF and PF are undefined and stay, as on
/// silicon.
#[inline(always)]
pub(crate) fn mul<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (a, b) = (e.get(w, reg::RAX), e.source(i)?);
    let (low, high) = (e.mul(w, a, b), e.umulh(w, a, b));
    put_pair(e, w, low, high);
    let zero = e.int(w, 0);
    let small = e.eq(w, high, zero);
    let big = e.not(small);
    product_flags(e, big);
    Ok(())
}

#[inline(always)]
fn product_flags<E: Emit>(e: &mut E, big: E::Bit) {
    let yes = e.truth(true);
    e.set_carry_overflow_if(yes, big, big);
}

/// Whether the upper half of a signed product is more than the sign of the lower.
#[inline(always)]
fn does_not_fit<E: Emit>(e: &mut E, w: Width, low: E::Val, high: E::Val) -> E::Bit {
    let n = e.int(B, w.bits() as u64 - 1);
    let signs = e.sar(w, low, n);
    let fits = e.eq(w, high, signs);
    e.not(fits)
}

/// IMUL r/m: SDM 2A "IMUL", one operand.
#[inline(always)]
pub(crate) fn imul_wide<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (a, b) = (e.get(w, reg::RAX), e.source(i)?);
    let (low, high) = (e.mul(w, a, b), e.smulh(w, a, b));
    put_pair(e, w, low, high);
    let big = does_not_fit(e, w, low, high);
    product_flags(e, big);
    Ok(())
}

/// IMUL r, r/m: SDM 2A "IMUL", two operands.
#[inline(always)]
pub(crate) fn imul<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (b, a) = (e.source(i)?, e.get(w, i.dst));
    multiply(e, i, w, a, b)
}

/// IMUL r, r/m, imm: SDM 2A "IMUL", three operands.
#[inline(always)]
pub(crate) fn imul_imm<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (a, b) = (e.source(i)?, e.imm(w, i));
    multiply(e, i, w, a, b)
}

#[inline(always)]
fn multiply<E: Emit>(e: &mut E, i: &Insn, w: Width, a: E::Val, b: E::Val) -> Emitted<E> {
    let (low, high) = (e.mul(w, a, b), e.smulh(w, a, b));
    e.set(w, i.dst, low);
    let big = does_not_fit(e, w, low, high);
    product_flags(e, big);
    Ok(())
}

/// The dividend's halves: AX at 8 bits, rDX:rAX else.
#[inline(always)]
fn dividend<E: Emit>(e: &mut E, w: Width) -> (E::Val, E::Val) {
    if w == B { (e.get(B, reg::AH), e.get(B, reg::RAX)) } else { (e.get(w, reg::RDX), e.get(w, reg::RAX)) }
}

/// 1 is neither negative nor zero nor of even parity.
#[inline(always)]
fn quotient_flags<E: Emit>(e: &mut E, w: Width) {
    let (one, cf, of, af) = (e.int(w, 1), e.carry(), e.overflow(), e.truth(true));
    e.set_flags(w, Explicit { r: one, cf, of, af });
}

/// DIV: SDM 2A "DIV". The status flags are undefined: as on silicon CF and OF stay, AF is 1, the others are 0.
#[inline(always)]
pub(crate) fn div<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let d = e.source(i)?;
    let (high, low) = dividend(e, w);
    let (quotient, remainder) = e.udivrem(w, high, low, d)?;
    put_pair(e, w, quotient, remainder);
    quotient_flags(e, w);
    Ok(())
}

/// IDIV: SDM 2A "IDIV". Flags as DIV.
#[inline(always)]
pub(crate) fn idiv<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let d = e.source(i)?;
    let (high, low) = dividend(e, w);
    let (quotient, remainder) = e.sdivrem(w, high, low, d)?;
    put_pair(e, w, quotient, remainder);
    quotient_flags(e, w);
    Ok(())
}

/// CBW, CWDE, CDQE: SDM 2A. The accumulator's lower half, sign-extended; no flags.
#[inline(always)]
pub(crate) fn extend_accumulator<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let half = Width(w.0 / 2);
    let v = e.get(half, reg::RAX);
    let v = e.sext(half, w, v);
    e.set(w, reg::RAX, v);
    Ok(())
}

/// CWD, CDQ, CQO: SDM 2A. rDX := the sign of rAX; no flags.
#[inline(always)]
pub(crate) fn extend_to_pair<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.get(w, reg::RAX);
    let n = e.int(B, w.bits() as u64 - 1);
    let v = e.sar(w, v, n);
    e.set(w, reg::RDX, v);
    Ok(())
}
