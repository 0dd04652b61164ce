//! x87 instructions that are not arithmetic.

use crate::{
    fault::{Done, Fault, vector},
    insn::Insn,
    state::{Cpu, X87},
};

impl Cpu {
    /// #MF if an unmasked x87 exception is pending.
    pub(crate) fn x87_pending(&mut self) -> Done {
        if self.x87.status & 0x80 != 0 {
            return Err(self.raise(Fault::new(vector::MF)));
        }
        Ok(())
    }
}

/// WAIT, FWAIT.
pub(crate) fn fwait(c: &mut Cpu, _: &Insn) -> Done {
    c.x87_pending()
}

/// What every MMX instruction but EMMS does to the x87 unit: SDM 1 "Effect of MMX Instructions on the x87 FPU Tag Word".
pub(crate) fn become_mmx(c: &mut Cpu, _: &Insn) -> Done {
    c.x87.status &= !X87::TOP;
    c.x87.tags = 0xff;
    Ok(())
}

/// EMMS: SDM 2A "EMMS".
pub(crate) fn emms(c: &mut Cpu, _: &Insn) -> Done {
    c.x87_pending()?;
    c.x87.status &= !X87::TOP;
    c.x87.tags = 0;
    Ok(())
}
