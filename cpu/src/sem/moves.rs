//! Data transfer: SDM 1 "Data Transfer Instructions".

use crate::{
    emit::{Emit, Emitted},
    insn::{Insn, Kind},
    state::reg,
    width::{B, D, Q, W, Width},
};

/// MOV: SDM 2B "MOV". No flags.
#[inline(always)]
pub(crate) fn mov<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let v = e.source(i)?;
    e.put(i, v)
}

#[inline(always)]
fn zero_extend<E: Emit>(e: &mut E, i: &Insn, from: Width) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source_w(from, i)?;
    let v = e.zext(from, w, v);
    e.set(w, i.dst, v);
    Ok(())
}

#[inline(always)]
fn sign_extend<E: Emit>(e: &mut E, i: &Insn, from: Width) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source_w(from, i)?;
    let v = if from.0 < w.0 { e.sext(from, w, v) } else { e.trunc(from, w, v) };
    e.set(w, i.dst, v);
    Ok(())
}

/// MOVZX from 8 bits: SDM 2B "MOVZX".
#[inline(always)]
pub(crate) fn movzx_b<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    zero_extend(e, i, B)
}

/// MOVZX from 16 bits.
#[inline(always)]
pub(crate) fn movzx_w<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    zero_extend(e, i, W)
}

/// MOVSX from 8 bits: SDM 2B "MOVSX/MOVSXD".
#[inline(always)]
pub(crate) fn movsx_b<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    sign_extend(e, i, B)
}

/// MOVSX from 16 bits.
#[inline(always)]
pub(crate) fn movsx_w<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    sign_extend(e, i, W)
}

/// MOVSXD. With a 16-bit destination it reads 16 bits.
#[inline(always)]
pub(crate) fn movsxd<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    sign_extend(e, i, if w.0 == 2 { W } else { D })
}

/// LEA: SDM 2A "LEA". No flags.
#[inline(always)]
pub(crate) fn lea<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let at = e.offset(i);
    let v = e.trunc(Q, w, at);
    e.set(w, i.dst, v);
    Ok(())
}

/// XCHG: SDM 2B "XCHG". Memory operands are always locked (decode sets LOCK).
#[inline(always)]
pub(crate) fn xchg<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let new = e.get(w, i.src);
    let (old, _) = e.update(i, |_, _| new)?;
    e.set(w, i.src, old);
    Ok(())
}

/// CMOVcc: SDM 2A "CMOVcc". The source is read in any case, and a 32-bit destination loses its upper half in any case.
#[inline(always)]
pub(crate) fn cmovcc<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let c = e.condition(i);
    let (b, a) = (e.source(i)?, e.get(w, i.dst));
    let v = e.select(w, c, b, a);
    e.set(w, i.dst, v);
    Ok(())
}

// Instructions of the stack are for a pointer of `S` bytes: 8 in 64-bit mode, 4 in flat 32-bit code. In segments the interpreter has
// others, which check limits; translated code does that where it loads and stores, and has these, for 2 bytes too.

#[inline(always)]
fn push_value<E: Emit, const S: u8>(e: &mut E, w: Width, v: E::Val) -> Emitted<E> {
    let (rsp, size) = (e.get(Width(S), reg::RSP), e.int(Width(S), w.0 as u64));
    let top = e.sub(Width(S), rsp, size);
    e.stack_store(w, top, v)?;
    e.set(Width(S), reg::RSP, top);
    Ok(())
}

/// PUSH: SDM 2B "PUSH". PUSH RSP pushes the old value.
#[inline(always)]
pub(crate) fn push<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let v = e.source(i)?;
    push_value::<E, S>(e, w, v)
}

/// POP: SDM 2B "POP". An address in terms of RSP uses its value after the pop; a fault of the store puts RSP back.
#[inline(always)]
pub(crate) fn pop<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let old = e.get(Width(S), reg::RSP);
    let v = e.stack_load(w, old)?;
    let size = e.int(Width(S), w.0 as u64);
    let up = e.add(Width(S), old, size);
    e.set(Width(S), reg::RSP, up);
    if i.dst_kind() == Kind::Reg {
        e.set(w, i.dst, v);
        return Ok(());
    }
    match e.put(i, v) {
        Ok(()) => Ok(()),
        Err(stop) => {
            e.set(Width(S), reg::RSP, old);
            Err(stop)
        }
    }
}

/// LEAVE: SDM 2A "LEAVE".
#[inline(always)]
pub(crate) fn leave<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Emitted<E> {
    let w = e.width(i);
    let frame = e.get(Width(S), reg::RBP);
    let v = e.stack_load(w, frame)?;
    let size = e.int(Width(S), w.0 as u64);
    let up = e.add(Width(S), frame, size);
    e.set(Width(S), reg::RSP, up);
    e.set(w, reg::RBP, v);
    Ok(())
}

/// CLC: SDM 2A.
#[inline(always)]
pub(crate) fn clc<E: Emit>(e: &mut E, _: &Insn) -> Emitted<E> {
    let c = e.truth(false);
    e.set_carry(c);
    Ok(())
}

/// STC: SDM 2B.
#[inline(always)]
pub(crate) fn stc<E: Emit>(e: &mut E, _: &Insn) -> Emitted<E> {
    let c = e.truth(true);
    e.set_carry(c);
    Ok(())
}

/// CMC: SDM 2A.
#[inline(always)]
pub(crate) fn cmc<E: Emit>(e: &mut E, _: &Insn) -> Emitted<E> {
    let c = e.carry();
    let c = e.not(c);
    e.set_carry(c);
    Ok(())
}

/// NOP, and hints that mean nothing here: PREFETCHh, ENDBR64, LFENCE and SFENCE (loads are ordered among themselves
/// already, and so are stores).
#[inline(always)]
pub(crate) fn nop<E: Emit>(_: &mut E, _: &Insn) -> Emitted<E> {
    Ok(())
}

/// Near branches of 64-bit mode (`S` is 8) and flat 32-bit code (4).
pub(crate) mod near {
    use super::{Emit, Insn, Q, Width, push_value, reg};

    type Flow<E> = Result<<E as Emit>::Flow, <E as Emit>::Stop>;

    /// Jcc: SDM 2A "Jcc".
    #[inline(always)]
    pub(crate) fn jcc<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        let c = e.condition(i);
        Ok(e.branch(i, c))
    }
    /// JMP rel: SDM 2A "JMP".
    #[inline(always)]
    pub(crate) fn jmp<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        Ok(e.jump(i))
    }
    /// The synthetic end of a block that goes on in memory.
    #[inline(always)]
    pub(crate) fn onward<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        Ok(e.jump(i))
    }
    /// JMP r/m.
    #[inline(always)]
    pub(crate) fn jmp_to<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let to = e.source_w(Width(S), i)?;
        e.check_target(to)?;
        Ok(e.jump_to(i, to))
    }
    /// CALL rel: SDM 2A "CALL".
    #[inline(always)]
    pub(crate) fn call<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let back = e.next_rip(i);
        push_value::<E, S>(e, Width(S), back)?;
        Ok(e.jump(i))
    }
    /// CALL r/m.
    #[inline(always)]
    pub(crate) fn call_to<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let to = e.source_w(Width(S), i)?;
        e.check_target(to)?;
        let back = e.next_rip(i);
        push_value::<E, S>(e, Width(S), back)?;
        Ok(e.jump_to(i, to))
    }
    /// RET: SDM 2B "RET". The immediate is added to RSP.
    #[inline(always)]
    pub(crate) fn ret<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let rsp = e.get(Width(S), reg::RSP);
        let to = e.stack_load(Width(S), rsp)?;
        e.check_target(to)?;
        let size = e.int(Width(S), u64::from(S) + (i.imm as u16 as u64));
        let up = e.add(Width(S), rsp, size);
        e.set(Width(S), reg::RSP, up);
        Ok(e.jump_to(i, to))
    }
    // The same where operands and stack pointer differ in size.

    /// JMP r/m.
    #[inline(always)]
    pub(crate) fn sized_jmp_to<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        let to = e.source(i)?;
        e.check_target(to)?;
        Ok(e.jump_to(i, to))
    }
    /// CALL rel.
    #[inline(always)]
    pub(crate) fn sized_call<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let (w, back) = (e.width(i), e.next_rip(i));
        let back = e.trunc(Q, w, back);
        push_value::<E, S>(e, w, back)?;
        Ok(e.jump(i))
    }
    /// CALL r/m.
    #[inline(always)]
    pub(crate) fn sized_call_to<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let to = e.source(i)?;
        e.check_target(to)?;
        let (w, back) = (e.width(i), e.next_rip(i));
        let back = e.trunc(Q, w, back);
        push_value::<E, S>(e, w, back)?;
        Ok(e.jump_to(i, to))
    }
    /// RET.
    #[inline(always)]
    pub(crate) fn sized_ret<E: Emit, const S: u8>(e: &mut E, i: &Insn) -> Flow<E> {
        let (w, rsp) = (e.width(i), e.get(Width(S), reg::RSP));
        let to = e.stack_load(w, rsp)?;
        e.check_target(to)?;
        let size = e.int(Width(S), u64::from(w.0) + (i.imm as u16 as u64));
        let up = e.add(Width(S), rsp, size);
        e.set(Width(S), reg::RSP, up);
        Ok(e.jump_to(i, to))
    }
    /// The counter of LOOP and JRCXZ has the address size.
    #[inline(always)]
    fn counter(i: &Insn) -> Width {
        Width(i.asize)
    }
    /// JRCXZ, JECXZ: SDM 2A "Jcc".
    #[inline(always)]
    pub(crate) fn jrcxz<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        let w = counter(i);
        let (n, zero) = (e.get(w, reg::RCX), e.int(w, 0));
        let c = e.eq(w, n, zero);
        Ok(e.branch(i, c))
    }
    /// LOOP, LOOPE (`cc` 1), LOOPNE (`cc` 2): SDM 2A "LOOP/LOOPcc". No flags.
    #[inline(always)]
    pub(crate) fn loop_cc<E: Emit>(e: &mut E, i: &Insn) -> Flow<E> {
        let w = counter(i);
        let (n, one, zero) = (e.get(w, reg::RCX), e.int(w, 1), e.int(w, 0));
        let n = e.sub(w, n, one);
        e.set(w, reg::RCX, n);
        let done = e.eq(w, n, zero);
        let mut c = e.not(done);
        if i.cc != 0 {
            let mut z = e.zero();
            if i.cc == 2 {
                z = e.not(z);
            }
            c = e.and_bit(c, z);
        }
        Ok(e.branch(i, c))
    }
}
