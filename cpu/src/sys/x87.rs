//! x87 instructions that are not arithmetic.

use crate::{
    fault::{Done, Fault, vector},
    insn::Insn,
    state::Cpu,
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
