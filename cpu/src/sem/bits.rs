//! POPCNT, LZCNT, MOVBE, BMI1, BMI2, ADX. The register that a VEX prefix names stands in `cc`, as a byte offset.

use crate::{
    emit::{Emit, Emitted},
    flags::Arith::{Explicit, Logic},
    insn::Insn,
    planted::{self, Bug},
    state::reg,
    width::{B, Q, Width},
};

/// POPCNT: SDM 2B "POPCNT". ZF says whether the source was 0; the other status flags are 0.
#[inline(always)]
pub(crate) fn popcnt<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = e.popcount(w, v);
    e.set(w, i.dst, n);
    // 1 is neither negative nor of even parity.
    let (one, no) = (e.int(w, 1), e.truth(false));
    e.set_flags(w, Explicit { r: one, cf: no, of: no, af: no });
    let zero = e.int(w, 0);
    let none = e.eq(w, v, zero);
    e.set_zero(none);
    Ok(())
}

#[inline(always)]
fn count_zeros<E: Emit>(e: &mut E, i: &Insn, leading: bool) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = if leading {
        let (top, highest) = (e.int(w, u64::from(w.bits()) - 1), e.highest(w, v));
        e.sub(w, top, highest)
    } else {
        e.lowest(w, v)
    };
    let (zero, all) = (e.int(w, 0), e.int(w, w.bits().into()));
    let none = e.eq(w, v, zero);
    let n = e.select(w, none, all, n);
    e.set(w, i.dst, n);
    let (of, no, one) = (e.overflow(), e.truth(false), e.int(w, 1));
    // 1 is neither negative nor of even parity.
    e.set_flags(w, Explicit { r: one, cf: none, of, af: no });
    let first = e.eq(w, n, zero);
    e.set_zero(first);
    Ok(())
}

/// LZCNT: SDM 2A "LZCNT". CF: the source was 0; ZF: the count is 0. OF SF AF PF are undefined: OF
/// stays, the others are 0.
#[inline(always)]
pub(crate) fn lzcnt<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    count_zeros(e, i, true)
}

/// TZCNT: SDM 2B "TZCNT". Flags as LZCNT.
#[inline(always)]
pub(crate) fn tzcnt<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    count_zeros(e, i, false)
}

/// MOVBE: SDM 2B "MOVBE". One operand is memory. No flags.
#[inline(always)]
pub(crate) fn movbe<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let v = e.bswap(w, v);
    e.put(i, v)
}

/// ANDN: SDM 2A "ANDN". SF ZF; CF and OF are 0; AF PF are undefined.
#[inline(always)]
pub(crate) fn andn<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let a = e.get(w, i.cc);
    let ones = e.int(w, u64::MAX);
    let a = e.xor(w, a, ones);
    let r = e.and(w, a, b);
    e.set(w, i.dst, r);
    e.set_flags(w, Logic { r });
    Ok(())
}

/// What BLSI, BLSMSK and BLSR make of a source and the source less 1.
#[derive(Clone, Copy, PartialEq)]
enum Lowest {
    Isolate,
    Mask,
    Reset,
}

/// These name their destination by the VEX prefix: operand 0 is `dst` all the same.
#[inline(always)]
fn lowest_set<E: Emit>(e: &mut E, i: &Insn, what: Lowest) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let (zero, one) = (e.int(w, 0), e.int(w, 1));
    let below = e.sub(w, v, one);
    let r = match what {
        Lowest::Isolate => {
            let negative = e.sub(w, zero, v);
            e.and(w, v, negative)
        }
        Lowest::Mask => e.xor(w, v, below),
        Lowest::Reset => e.and(w, v, below),
    };
    let none = e.eq(w, v, zero);
    let cf = if what == Lowest::Isolate { e.not(none) } else { none };
    let no = e.truth(false);
    e.set(w, i.dst, r);
    e.set_flags(w, Explicit { r, cf, of: no, af: no });
    Ok(())
}

/// BLSI: SDM 2A "BLSI". SF ZF; CF: the source was not 0; OF is 0; AF PF are undefined.
#[inline(always)]
pub(crate) fn blsi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    lowest_set(e, i, Lowest::Isolate)
}

/// BLSMSK: SDM 2A "BLSMSK". SF; CF: the source was 0; ZF and OF are 0; AF PF are undefined.
#[inline(always)]
pub(crate) fn blsmsk<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    lowest_set(e, i, Lowest::Mask)
}

/// BLSR: SDM 2A "BLSR". SF ZF; CF: the source was 0; OF is 0; AF PF are undefined.
#[inline(always)]
pub(crate) fn blsr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    lowest_set(e, i, Lowest::Reset)
}

/// BEXTR: SDM 2A "BEXTR". ZF; CF and OF are 0; AF SF PF are undefined: silicon sets AF, and the others as 64 bits give them.
#[inline(always)]
pub(crate) fn bextr<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let control = e.get(w, i.cc);
    let r = e.helper(extract, v, control);
    e.set(w, i.dst, r);
    let (no, yes) = (e.truth(false), e.truth(true));
    e.set_flags(Q, Explicit { r, cf: no, of: no, af: yes });
    Ok(())
}

/// Bits 7:0 of `control` are the first bit, 15:8 how many.
fn extract(v: u64, control: u64) -> u64 {
    let (first, count) = (control as u8, (control >> 8) as u8);
    keep_low(v.checked_shr(first.into()).unwrap_or(0), count.into())
}

/// The lowest bits, as many as bits 7:0 of `count` say.
fn keep_low(v: u64, count: u64) -> u64 {
    let above = u64::MAX.checked_shl((count as u8).into()).unwrap_or(0);
    v & !above
}

/// BZHI: SDM 2A "BZHI". SF ZF; CF: there are no so many bits; OF is 0; AF PF are undefined.
#[inline(always)]
pub(crate) fn bzhi<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = e.get(B, i.cc);
    let last = e.int(B, u64::from(w.bits()) - 1);
    let cf = e.ult(B, last, n);
    let (within, one) = (e.and(B, n, last), e.int(w, 1));
    let above = e.shl(w, one, within);
    let mask = e.sub(w, above, one);
    let kept = e.and(w, v, mask);
    let r = e.select(w, cf, v, kept);
    let no = e.truth(false);
    e.set(w, i.dst, r);
    e.set_flags(w, Explicit { r, cf, of: no, af: no });
    Ok(())
}

/// MULX: SDM 2B "MULX". The high half goes to operand 0, which wins where both are one register. No flags.
#[inline(always)]
pub(crate) fn mulx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let b = e.source(i)?;
    let a = e.get(w, reg::RDX);
    let (low, high) = (e.mul(w, a, b), e.umulh(w, a, b));
    e.set(w, i.cc, low);
    e.set(w, i.dst, high);
    Ok(())
}

/// PDEP: SDM 2B "PDEP". No flags.
#[inline(always)]
pub(crate) fn pdep<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    spread(e, i, deposit)
}

/// PEXT: SDM 2B "PEXT". No flags.
#[inline(always)]
pub(crate) fn pext<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    spread(e, i, gather)
}

#[inline(always)]
fn spread<E: Emit>(e: &mut E, i: &Insn, f: fn(u64, u64) -> u64) -> Emitted<E> {
    let w = e.width(i);
    let mask = e.source(i)?;
    let v = e.get(w, i.cc);
    let r = e.helper(f, v, mask);
    e.set(w, i.dst, r);
    Ok(())
}

/// The low bits of `v` at the places of `mask`.
fn deposit(v: u64, mut mask: u64) -> u64 {
    let (mut r, mut left) = (0, v);
    while mask != 0 {
        let place = mask & mask.wrapping_neg();
        if left & 1 != 0 {
            r |= place;
        }
        left >>= 1;
        mask ^= place;
    }
    r
}

/// The bits of `v` at the places of `mask`, side by side.
fn gather(v: u64, mut mask: u64) -> u64 {
    let (mut r, mut at) = (0, 0);
    if planted::is(Bug::PextMask) {
        mask &= !(1 << 31);
    }
    while mask != 0 {
        let place = mask & mask.wrapping_neg();
        r |= u64::from(v & place != 0) << at;
        at += 1;
        mask ^= place;
    }
    r
}

/// RORX: SDM 2B "RORX". No flags.
#[inline(always)]
pub(crate) fn rorx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let (bits, n) = (e.int(B, w.bits().into()), e.imm(B, i));
    let n = e.rem(n, w.bits().into());
    let left = e.sub(B, bits, n);
    let r = e.rotl(w, v, left);
    e.set(w, i.dst, r);
    Ok(())
}

/// The count of SARX, SHLX and SHRX.
#[inline(always)]
fn count<E: Emit>(e: &mut E, w: Width, i: &Insn) -> E::Val {
    let (n, mask) = (e.get(B, i.cc), e.int(B, u64::from(w.bits()) - 1));
    e.and(B, n, mask)
}

/// SARX: SDM 2B "SARX/SHLX/SHRX". No flags.
#[inline(always)]
pub(crate) fn sarx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = count(e, w, i);
    let r = e.sar(w, v, n);
    e.set(w, i.dst, r);
    Ok(())
}

/// SHLX: as SARX.
#[inline(always)]
pub(crate) fn shlx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = count(e, w, i);
    let r = e.shl(w, v, n);
    e.set(w, i.dst, r);
    Ok(())
}

/// SHRX: as SARX.
#[inline(always)]
pub(crate) fn shrx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    let n = count(e, w, i);
    let r = e.shr(w, v, n);
    e.set(w, i.dst, r);
    Ok(())
}

/// a + b + c, and the carry out of it.
#[inline(always)]
fn add_carrying<E: Emit>(e: &mut E, i: &Insn, c: E::Bit) -> Result<E::Bit, E::Stop> {
    let w = e.width(i);
    let b = e.source(i)?;
    let a = e.get(w, i.dst);
    let sum = e.add(w, a, b);
    let first = e.ult(w, sum, a);
    let one = e.bit_value(w, c);
    let r = e.add(w, sum, one);
    let second = e.ult(w, r, one);
    e.set(w, i.dst, r);
    Ok(e.or_bit(first, second))
}

/// ADCX: SDM 2A "ADCX". CF alone.
#[inline(always)]
pub(crate) fn adcx<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let c = e.carry();
    let out = add_carrying(e, i, c)?;
    e.set_carry(out);
    Ok(())
}

/// ADOX: SDM 2A "ADOX". OF alone.
#[inline(always)]
pub(crate) fn adox<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let c = e.overflow();
    let out = add_carrying(e, i, c)?;
    let (cf, yes) = (e.carry(), e.truth(true));
    e.set_carry_overflow_if(yes, cf, out);
    Ok(())
}
