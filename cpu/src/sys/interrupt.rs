//! Software interrupts: SDM 2A "INT n/INTO/INT3/INT1".

use super::deliver::Source;
use crate::{
    fault::{Done, Fault, Stop, vector},
    flags::bits::{IF, IOPL, OF, RF, TF, VIF},
    insn::Insn,
    mode::Mode,
    state::{Cpu, TrapRule, cr4, seg},
    width::{B, D, W},
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
    if c.mode.contains(Mode::V86) && i.cc == 0 {
        if c.cr4 & cr4::VME != 0 && c.redirected(i.imm as u8)? {
            return c.virtual_interrupt(i.imm as u8);
        }
        if c.iopl() < 3 {
            return Err(c.raise(Fault::gp(0)));
        }
    }
    software(c, i.imm as u8)
}

impl Cpu {
    /// Whether INT n of a virtual-8086 program goes to its own vector table: a clear bit in the map below the I/O
    /// permission map of the TSS. SDM 3B "Class 3—Software Interrupt Handling in Virtual-8086 Mode".
    fn redirected(&mut self, v: u8) -> Result<bool, Stop> {
        if self.tr.kind() & 13 != 9 || self.tr.limit < 103 {
            return Err(self.raise(Fault::gp(0)));
        }
        let base = self.tr.base;
        let ports = self.read_system(W, self.linear(base.wrapping_add(102)))?;
        let at = ports.wrapping_sub(32).wrapping_add(u64::from(v / 8));
        if at > self.tr.limit.into() {
            return Err(self.raise(Fault::gp(0)));
        }
        let bits = self.read_system(B, self.linear(base.wrapping_add(at)))?;
        Ok(bits >> (v & 7) & 1 == 0)
    }

    /// An interrupt through the virtual-8086 program's own vector table, as in real mode.
    fn virtual_interrupt(&mut self, v: u8) -> Done {
        let flags = self.rflags();
        let privileged = self.iopl() == 3;
        let image =
            if privileged { flags } else { flags & !IF | IOPL | if flags & VIF != 0 { IF } else { 0 } };
        let target = self.read(D, u64::from(v) * 4)?;
        let (cs, ip, sp) = (u64::from(self.segments[seg::CS].selector), self.ip(), self.gpr[4]);
        self.push(W, image & 0xffff)
            .and_then(|()| self.push(W, cs))
            .and_then(|()| self.push(W, ip & 0xffff))
            .inspect_err(|_| self.gpr[4] = sp)?;
        self.eflags &= !(TF | RF | if privileged { IF } else { VIF });
        self.trap_rule = TrapRule::Never;
        self.set_code_real((target >> 16) as u16, target & 0xffff);
        Ok(())
    }
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
