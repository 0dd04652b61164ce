//! Near branches outside of 64-bit mode's fast path: 16-bit operands, segments with limits.

use crate::{
    fault::{Done, Fault},
    insn::Insn,
    state::{Cpu, reg, seg},
    width::Width,
};

/// Goes to an offset in CS, cut to the operand size and checked.
fn go(c: &mut Cpu, w: Width, ip: u64) -> Done {
    let ip = w.mask(ip);
    check(c, ip)?;
    c.set_ip(ip);
    Ok(())
}

fn check(c: &mut Cpu, ip: u64) -> Done {
    let fits = if c.mode.is_64() { c.canonical(ip) } else { ip <= c.segments[seg::CS].limit.into() };
    if fits { Ok(()) } else { Err(c.raise(Fault::gp(0))) }
}

/// The immediate target: `imm` is relative to the page, `rip` already past the instruction.
fn target(c: &Cpu, i: &Insn) -> u64 {
    let distance = i64::from(i.imm) - i64::from(i.ip) - i64::from(i.len);
    c.ip().wrapping_add(distance as u64)
}

/// Jcc.
pub(crate) fn jcc(c: &mut Cpu, i: &Insn) -> Done {
    if c.flags.condition(i.cc) { go(c, i.w, target(c, i)) } else { Ok(()) }
}

/// JMP rel.
pub(crate) fn jmp(c: &mut Cpu, i: &Insn) -> Done {
    go(c, i.w, target(c, i))
}

/// JMP r/m.
pub(crate) fn jmp_to(c: &mut Cpu, i: &Insn) -> Done {
    let to = c.operand(i, i.w)?;
    go(c, i.w, to)
}

fn call_ip(c: &mut Cpu, i: &Insn, to: u64) -> Done {
    let to = i.w.mask(to);
    check(c, to)?;
    c.push(i.w, i.w.mask(c.ip()))?;
    c.set_ip(to);
    Ok(())
}

/// CALL rel.
pub(crate) fn call(c: &mut Cpu, i: &Insn) -> Done {
    let to = target(c, i);
    call_ip(c, i, to)
}

/// CALL r/m.
pub(crate) fn call_to(c: &mut Cpu, i: &Insn) -> Done {
    let to = c.operand(i, i.w)?;
    call_ip(c, i, to)
}

/// RET.
pub(crate) fn ret(c: &mut Cpu, i: &Insn) -> Done {
    let (to, after) = c.peek_stack(i.w)?;
    check(c, to)?;
    c.gpr[4] = c.with_stack_pointer(after.wrapping_add((i.imm as u16).into()));
    c.set_ip(to);
    Ok(())
}

/// JCXZ, JECXZ.
pub(crate) fn jcxz(c: &mut Cpu, i: &Insn) -> Done {
    if c.get(Width(i.asize), reg::RCX) == 0 { go(c, i.w, target(c, i)) } else { Ok(()) }
}

/// LOOP, LOOPE (`cc` 1), LOOPNE (`cc` 2).
pub(crate) fn loop_cc(c: &mut Cpu, i: &Insn) -> Done {
    let w = Width(i.asize);
    let n = w.mask(c.get(w, reg::RCX).wrapping_sub(1));
    let zero = c.flags.z == 0;
    let again = n != 0 && (i.cc == 0 || zero == (i.cc == 1));
    if again {
        let to = i.w.mask(target(c, i));
        check(c, to)?;
        c.set(w, reg::RCX, n);
        c.set_ip(to);
    } else {
        c.set(w, reg::RCX, n);
    }
    Ok(())
}
