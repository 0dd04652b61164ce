//! Hosts without an x87 unit: x87 instructions are the interpreter's.

use crate::state::Cpu;

/// The guest's unit is where it always is.
pub(in crate::jit) fn leave_x87(_: &mut Cpu) {}
