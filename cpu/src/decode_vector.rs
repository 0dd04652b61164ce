//! Which semantics a floating-point or vector instruction has.

use crate::{insn::Insn, mode::Mode, sem::Op};
use iced_x86::{Instruction, Mnemonic as M};

/// The second half of decode's `pick`: x87, MMX, SSE. What is not known is undefined.
pub(crate) fn pick(x: &Instruction, _: Mode, _: &mut Insn) -> Op {
    match x.mnemonic() {
        M::Wait => Op::Fwait,
        _ => Op::Undefined,
    }
}
