//! Fast system calls: SDM 2B "SYSCALL", "SYSRET", "SYSENTER", "SYSEXIT".

use crate::{
    fault::{Done, Fault},
    flags::bits::{IF, RF, VM},
    insn::Insn,
    mode::Mode,
    spaces::Trap,
    state::{Cpu, Segment, TrapRule, cr0, efer, reg, seg},
    width::D,
};

/// A flat code segment as these instructions make it.
fn code(selector: u16, dpl: u32, long: bool) -> Segment {
    let size = if long { Segment::LONG } else { Segment::BIG };
    Segment { selector, base: 0, limit: u32::MAX, attributes: 0x809b | dpl << 5 | size }
}

/// A flat stack segment as these instructions make it.
fn data(selector: u16, dpl: u32) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes: 0xc093 | dpl << 5 }
}

/// SYSCALL: 64-bit mode only, as on Intel.
pub(crate) fn syscall(c: &mut Cpu, _: &Insn) -> Done {
    if !c.mode.is_64() || c.efer & efer::SCE == 0 {
        return Err(c.raise(Fault::UD));
    }
    c.spaces.way = Trap::SystemCall;
    c.gpr[1] = c.rip;
    c.gpr[usize::from(reg::R11 / 8)] = c.rflags() & !RF;
    let selector = (c.msrs.star >> 32) as u16 & !3;
    c.segments[seg::CS] = code(selector, 0, true);
    c.segments[seg::SS] = data(selector.wrapping_add(8), 0);
    c.cpl = 0;
    let flags = c.rflags() & !(c.msrs.fmask | RF);
    c.set_rflags(flags);
    c.rip = c.msrs.lstar;
    c.trap_rule = TrapRule::Ended;
    c.refresh_mode();
    Ok(())
}

/// SYSRET: to 64-bit code with REX.W, to compatibility mode without.
pub(crate) fn sysret(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.is_64() || c.efer & efer::SCE == 0 {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let long = i.w.0 == 8;
    let to = c.gpr[1];
    // Intel checks RCX while still at CPL 0.
    if long && !c.canonical(to) {
        return Err(c.raise(Fault::gp(0)));
    }
    let base = (c.msrs.star >> 48) as u16;
    let cs = if long { base.wrapping_add(16) } else { base } | 3;
    c.segments[seg::CS] = code(cs, 3, long);
    c.segments[seg::SS] = data(base.wrapping_add(8) | 3, 3);
    c.cpl = 3;
    let flags = c.gpr[usize::from(reg::R11 / 8)] & 0x3c_7fd7;
    c.set_rflags(flags);
    c.refresh_mode();
    c.rip = if long { to } else { to as u32 as u64 };
    c.trap_rule = TrapRule::Ended;
    Ok(())
}

/// SYSENTER.
pub(crate) fn sysenter(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr0 & cr0::PE == 0 || c.msrs.sysenter_cs & 0xfffc == 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.spaces.way = Trap::SystemCall;
    let selector = c.msrs.sysenter_cs as u16 & !3;
    let long = c.long_mode();
    c.eflags &= !(VM | IF | RF);
    c.segments[seg::CS] = code(selector, 0, long);
    c.segments[seg::SS] = data(selector.wrapping_add(8), 0);
    c.cpl = 0;
    c.refresh_mode();
    c.gpr[4] = if long { c.msrs.sysenter_esp } else { c.msrs.sysenter_esp as u32 as u64 };
    c.rip = if long { c.msrs.sysenter_eip } else { c.msrs.sysenter_eip as u32 as u64 };
    Ok(())
}

/// SYSEXIT.
pub(crate) fn sysexit(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.contains(Mode::PROTECTED) || c.cpl != 0 || c.msrs.sysenter_cs & 0xfffc == 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let long = i.w.0 == 8;
    let (ip, sp) = (c.gpr[2], c.gpr[1]);
    if long && (!c.canonical(ip) || !c.canonical(sp)) {
        return Err(c.raise(Fault::gp(0)));
    }
    let base = c.msrs.sysenter_cs as u16;
    let cs = base.wrapping_add(if long { 32 } else { 16 }) | 3;
    c.segments[seg::CS] = code(cs, 3, long);
    c.segments[seg::SS] = data(base.wrapping_add(if long { 40 } else { 24 }) | 3, 3);
    c.cpl = 3;
    c.refresh_mode();
    c.gpr[4] = if long { sp } else { D.mask(sp) };
    c.rip = if long { ip } else { D.mask(ip) };
    Ok(())
}
