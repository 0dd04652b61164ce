//! Software interrupts: SDM 2A "INT n/INTO/INT3/INT1".

use super::deliver::Source;
use crate::{
    fault::{Done, Fault, vector},
    flags::bits::OF,
    insn::Insn,
    mode::Mode,
    state::{Cpu, TrapRule},
};

fn software(c: &mut Cpu, v: u8) -> Done {
    let (rsp, eflags, rip) = (c.gpr[4], c.eflags, c.rip);
    c.trap_rule = TrapRule::Never;
    c.deliver(v, Source::Software, None).inspect_err(|_| {
        c.gpr[4] = rsp;
        c.eflags = eflags;
        c.rip = rip;
        c.refresh_mode();
    })
}

/// INT n, and INT3 (`cc` 1), which does not look at IOPL.
pub(crate) fn int(c: &mut Cpu, i: &Insn) -> Done {
    if c.mode.contains(Mode::V86) && i.cc == 0 && c.iopl() < 3 {
        return Err(c.raise(Fault::gp(0)));
    }
    software(c, i.imm as u8)
}

/// INT1 (ICEBP): a #DB that no gate's DPL can refuse.
pub(crate) fn int1(c: &mut Cpu, _: &Insn) -> Done {
    let (rsp, eflags) = (c.gpr[4], c.eflags);
    c.trap_rule = TrapRule::Never;
    c.deliver(vector::DB, Source::Exception, None).inspect_err(|_| {
        c.gpr[4] = rsp;
        c.eflags = eflags;
        c.refresh_mode();
    })
}

/// INTO.
pub(crate) fn into(c: &mut Cpu, _: &Insn) -> Done {
    if c.mode.is_64() {
        return Err(c.raise(Fault::UD));
    }
    if c.rflags() & OF != 0 { software(c, vector::OF) } else { Ok(()) }
}
