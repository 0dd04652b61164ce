//! Shifts and rotates: SDM 1 "Shift and Rotate Instructions".

use crate::{
    emit::{Emit, Emitted},
    flags::Arith::Explicit,
    insn::Insn,
    planted::{self, Bug},
    state::reg,
    width::{B, Q, Width},
};

/// A count of which 5 bits matter, 6 for 64-bit operands.
#[inline(always)]
fn masked<E: Emit>(e: &mut E, w: Width, n: E::Val) -> E::Val {
    let m = e.int(B, if w == Q && !planted::is(Bug::ShiftCountMask) { 63 } else { 31 });
    e.and(B, n, m)
}

/// The count of a shift: CL or an immediate.
#[inline(always)]
fn count<E: Emit>(e: &mut E, i: &Insn) -> Result<E::Val, E::Stop> {
    let w = e.width(i);
    let n = e.source_w(B, i)?;
    Ok(masked(e, w, n))
}

/// Whether the count is not 0; a count of 0 changes no flag.
#[inline(always)]
fn some<E: Emit>(e: &mut E, n: E::Val) -> E::Bit {
    let zero = e.int(B, 0);
    let none = e.eq(B, n, zero);
    e.not(none)
}

#[inline(always)]
fn less<E: Emit>(e: &mut E, n: E::Val, k: u64) -> E::Val {
    let k = e.int(B, k);
    e.sub(B, n, k)
}

/// SHL, SAL: SDM 2B "SAL/SAR/SHL/SHR". SF ZF PF CF; OF is the top bit changed by the last step; AF is
/// undefined: 1, as on silicon.
#[inline(always)]
pub(crate) fn shl<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let n = count(e, i)?;
    let (a, r) = e.update(i, |e, a| e.shl(w, a, n))?;
    let before = less(e, n, 1);
    let last = e.shl(w, a, before);
    let cf = e.sign(w, last);
    let top = e.sign(w, r);
    let of = e.xor_bit(top, cf);
    let (c, af) = (some(e, n), e.truth(true));
    e.set_flags_if(c, w, Explicit { r, cf, of, af });
    Ok(())
}

/// SHR: SDM 2B "SAL/SAR/SHL/SHR". OF, for a count of 1, is the top bit of the operand.
#[inline(always)]
pub(crate) fn shr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let n = count(e, i)?;
    let (a, r) = e.update(i, |e, a| e.shr(w, a, n))?;
    let before = less(e, n, 1);
    let last = e.shr(w, a, before);
    let zero = e.int(B, 0);
    let cf = e.bit(w, last, zero);
    let of = e.sign(w, last);
    let (c, af) = (some(e, n), e.truth(true));
    e.set_flags_if(c, w, Explicit { r, cf, of, af });
    Ok(())
}

/// SAR: SDM 2B "SAL/SAR/SHL/SHR". OF is 0.
#[inline(always)]
pub(crate) fn sar<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let n = count(e, i)?;
    let (a, r) = e.update(i, |e, a| e.sar(w, a, n))?;
    let before = less(e, n, 1);
    let last = e.sar(w, a, before);
    let zero = e.int(B, 0);
    let cf = e.bit(w, last, zero);
    let (c, of, af) = (some(e, n), e.truth(false), e.truth(true));
    e.set_flags_if(c, w, Explicit { r, cf, of, af });
    Ok(())
}

/// ROL: SDM 2B "RCL/RCR/ROL/ROR". CF is the bit that went round; OF the top bit XOR CF. Others stay.
#[inline(always)]
pub(crate) fn rol<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let n = count(e, i)?;
    let (_, r) = e.update(i, |e, a| e.rotl(w, a, n))?;
    let zero = e.int(B, 0);
    let cf = e.bit(w, r, zero);
    let top = e.sign(w, r);
    let of = e.xor_bit(top, cf);
    let c = some(e, n);
    e.set_carry_overflow_if(c, cf, of);
    Ok(())
}

/// The two top bits XORed: OF of rotates to the right.
#[inline(always)]
fn top_two<E: Emit>(e: &mut E, w: Width, r: E::Val) -> E::Bit {
    let one = e.int(B, 1);
    let moved = e.shl(w, r, one);
    let x = e.xor(w, r, moved);
    e.sign(w, x)
}

/// ROR: SDM 2B "RCL/RCR/ROL/ROR". CF is the new top bit; OF the top two XORed. Others stay.
#[inline(always)]
pub(crate) fn ror<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let n = count(e, i)?;
    let (_, r) = e.update(i, |e, a| {
        let zero = e.int(B, 0);
        let back = e.sub(B, zero, n);
        e.rotl(w, a, back)
    })?;
    let cf = e.sign(w, r);
    let of = top_two(e, w, r);
    let c = some(e, n);
    e.set_carry_overflow_if(c, cf, of);
    Ok(())
}

/// The count of a rotate through carry: modulo the width plus one, below 32 bits. And whether it was anything before.
#[inline(always)]
fn through<E: Emit>(e: &mut E, i: &Insn) -> Result<(E::Val, E::Bit), E::Stop> {
    let w = e.width(i);
    let n = count(e, i)?;
    let any = some(e, n);
    Ok((if w.0 < 4 { e.rem(n, w.bits() as u64 + 1) } else { n }, any))
}

/// CF of a rotate through carry: the bit that came out, or the old one where it ends where it began.
#[inline(always)]
fn carried<E: Emit>(e: &mut E, moved: E::Bit, out: E::Bit, carry: E::Bit) -> E::Bit {
    let stays = e.not(moved);
    let (new, old) = (e.and_bit(moved, out), e.and_bit(stays, carry));
    e.or_bit(new, old)
}

/// RCL: SDM 2B "RCL/RCR/ROL/ROR". CF; OF is the top bit XOR CF, also, as on silicon, where
/// the count is a multiple of 9 or 17 and all else stays.
#[inline(always)]
pub(crate) fn rcl<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (n, any) = through(e, i)?;
    let c = some(e, n);
    let carry = e.carry();
    let bits = e.int(B, w.bits() as u64);
    let rest = e.sub(B, bits, n);
    let (a, r) = e.update(i, |e, a| {
        let high = e.shl(w, a, n);
        let before = less(e, n, 1);
        let middle = e.bit_value(w, carry);
        let middle = e.shl(w, middle, before);
        let one = e.int(B, 1);
        let low = e.shr(w, a, one);
        let low = e.shr(w, low, rest);
        let r = e.or(w, high, middle);
        let r = e.or(w, r, low);
        e.select(w, c, r, a)
    })?;
    let out = e.bit(w, a, rest);
    let cf = carried(e, c, out, carry);
    let top = e.sign(w, r);
    let of = e.xor_bit(top, cf);
    e.set_carry_overflow_if(any, cf, of);
    Ok(())
}

/// RCR: SDM 2B "RCL/RCR/ROL/ROR". CF; OF is the top two bits XORed. Others stay.
#[inline(always)]
pub(crate) fn rcr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let (n, any) = through(e, i)?;
    let c = some(e, n);
    let carry = e.carry();
    let bits = e.int(B, w.bits() as u64);
    let rest = e.sub(B, bits, n);
    let (a, r) = e.update(i, |e, a| {
        let low = e.shr(w, a, n);
        let middle = e.bit_value(w, carry);
        let middle = e.shl(w, middle, rest);
        let one = e.int(B, 1);
        let high = e.shl(w, a, one);
        let high = e.shl(w, high, rest);
        let r = e.or(w, low, middle);
        let r = e.or(w, r, high);
        e.select(w, c, r, a)
    })?;
    let before = less(e, n, 1);
    let out = e.bit(w, a, before);
    let cf = carried(e, c, out, carry);
    let of = top_two(e, w, r);
    e.set_carry_overflow_if(any, cf, of);
    Ok(())
}

/// The count of SHLD and SHRD: CL (`cc` is 1) or the immediate.
#[inline(always)]
fn double_count<E: Emit>(e: &mut E, w: Width, i: &Insn) -> E::Val {
    let n = if i.cc == 1 { e.get(B, reg::RCX) } else { e.imm(B, i) };
    masked(e, w, n)
}

/// SHLD: SDM 2B "SHLD". SF ZF PF CF; OF is the top bit changed by the last step; AF is undefined: 1, as on silicon. So is all
/// of a 16-bit operand with a count above 16: bits of the source follow those of the source.
#[inline(always)]
pub(crate) fn shld<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    shift_double(e, i, Direction::Left)
}

/// SHRD: SDM 2B "SHRD". As SHLD, to the right.
#[inline(always)]
pub(crate) fn shrd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    shift_double(e, i, Direction::Right)
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Left,
    Right,
}

#[inline(always)]
fn shift_double<E: Emit>(e: &mut E, i: &Insn, to: Direction) -> Emitted<E> {
    let w = e.width(i);
    let n = double_count(e, w, i);
    let b = e.get(w, i.src);
    let c = some(e, n);
    let (a, r) = e.update(i, |e, a| double(e, w, to, a, b, n, c))?;
    // Also where a 16-bit count goes beyond 16, the carry is of the destination alone.
    let before = less(e, n, 1);
    let (cf, of) = match to {
        Direction::Left => {
            let (last, end) = (e.shl(w, a, before), e.shl(w, a, n));
            let (was, is) = (e.sign(w, last), e.sign(w, end));
            (was, e.xor_bit(was, is))
        }
        Direction::Right => {
            let (out, zero, one) = (e.shr(w, a, before), e.int(B, 0), e.truth(true));
            let last = double(e, w, to, a, b, before, one);
            let (was, is) = (e.sign(w, last), e.sign(w, r));
            (e.bit(w, out, zero), e.xor_bit(was, is))
        }
    };
    let af = e.truth(true);
    e.set_flags_if(c, w, Explicit { r, cf, of, af });
    Ok(())
}

/// The upper part of a:b shifted left by n, or the lower part of b:a shifted right; a if not `c`.
#[inline(always)]
fn double<E: Emit>(e: &mut E, w: Width, to: Direction, a: E::Val, b: E::Val, n: E::Val, c: E::Bit) -> E::Val {
    let left = to == Direction::Left;
    if w.0 == 2 {
        // To the left the result is the top of a:b:b, to the right the bottom of b:b:a.
        let (wide_a, wide_b) = (e.zext(w, Q, a), e.zext(w, Q, b));
        let (k32, k16) = (e.int(B, 32), e.int(B, 16));
        let (top, low) = if left { (wide_a, wide_b) } else { (wide_b, wide_a) };
        let (x, y) = (e.shl(Q, top, k32), e.shl(Q, wide_b, k16));
        let v = e.or(Q, x, y);
        let v = e.or(Q, v, low);
        let v = if left {
            let v = e.shl(Q, v, n);
            e.shr(Q, v, k32)
        } else {
            e.shr(Q, v, n)
        };
        let r = e.trunc(Q, w, v);
        return e.select(w, c, r, a);
    }
    let k = e.int(B, w.bits() as u64 - 1);
    let rest = e.sub(B, k, n);
    let one = e.int(B, 1);
    // In two steps, since by the whole width is no shift.
    let (x, y) = if left {
        let y = e.shr(w, b, one);
        (e.shl(w, a, n), e.shr(w, y, rest))
    } else {
        let y = e.shl(w, b, one);
        (e.shr(w, a, n), e.shl(w, y, rest))
    };
    let r = e.or(w, x, y);
    e.select(w, c, r, a)
}
