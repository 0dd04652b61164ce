//! x87 control: SDM 1 "x87 FPU Control Instructions". None of these changes the last-instruction pointers, except the
//! ones that move the stack and FNOP.

use super::{operand, status};
use crate::{
    fault::Done,
    insn::{Insn, Kind},
    state::{Cpu, X87},
    width::W,
};

/// Bits of the control word that can be set; bit 6 is always.
const CONTROL: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 0x40;

impl X87 {
    /// The control word as FLDCW and its relatives load it.
    pub(crate) fn set_control(&mut self, v: u16) {
        self.control = v & CONTROL | CONTROL_FIXED;
        self.refresh_summary();
    }
}

/// WAIT, FWAIT.
pub(crate) fn fwait(c: &mut Cpu, _: &Insn) -> Done {
    c.x87_pending()
}

/// FNINIT: SDM 2A "FINIT/FNINIT". The registers keep their contents and become empty.
pub(crate) fn fninit(c: &mut Cpu, _: &Insn) -> Done {
    c.x87 = X87 { regs: c.x87.regs, ..X87::default() };
    Ok(())
}

/// FNCLEX: SDM 2A "FCLEX/FNCLEX".
pub(crate) fn fnclex(c: &mut Cpu, _: &Insn) -> Done {
    c.x87.status &= X87::TOP | status::CODES;
    Ok(())
}

/// FLDCW: SDM 2A "FLDCW". Exceptions that it unmasks are pending from now on.
pub(crate) fn fldcw(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    let at = c.operand_address(i, 2, false)?;
    let v = c.read(W, at).map_err(|stop| c.operand_fault(i, stop))?;
    c.x87.set_control(v as u16);
    Ok(())
}

/// Stores a word to memory or AX.
fn store_word(c: &mut Cpu, i: &Insn, v: u16) -> Done {
    if i.dst_kind() == Kind::Reg {
        c.set(W, i.dst, v.into());
        return Ok(());
    }
    let at = c.operand_address(i, 2, true)?;
    c.write(W, at, v.into()).map_err(|stop| c.operand_fault(i, stop))
}

/// FNSTCW: SDM 2A "FSTCW/FNSTCW".
pub(crate) fn fnstcw(c: &mut Cpu, i: &Insn) -> Done {
    store_word(c, i, c.x87.control)
}

/// FNSTSW: SDM 2A "FSTSW/FNSTSW".
pub(crate) fn fnstsw(c: &mut Cpu, i: &Insn) -> Done {
    store_word(c, i, c.x87.status)
}

/// FINCSTP: SDM 2A "FINCSTP".
pub(crate) fn fincstp(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    c.x87.move_top(1);
    Ok(())
}

/// FDECSTP: SDM 2A "FDECSTP".
pub(crate) fn fdecstp(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    c.x87.move_top(7);
    Ok(())
}

/// FFREE; FFREEP pops besides.
pub(crate) fn ffree(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    c.x87.free(i.dst);
    if i.cc & operand::POP != 0 {
        c.x87.pop();
    }
    Ok(())
}

/// FNOP.
pub(crate) fn fnop_waiting(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: nothing since the 80387.
pub(crate) fn fnop(_: &mut Cpu, _: &Insn) -> Done {
    Ok(())
}

/// EMMS: SDM 2A "EMMS".
pub(crate) fn emms(c: &mut Cpu, _: &Insn) -> Done {
    c.x87_pending()?;
    c.x87.status &= !X87::TOP;
    c.x87.tags = 0;
    Ok(())
}
