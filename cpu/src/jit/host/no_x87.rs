//! Hosts without an x87 unit: x87 instructions are the interpreter's.

#[cfg(feature = "jit")]
use super::Unit;
use crate::state::Cpu;

/// The guest's unit is where it always is.
pub(in crate::jit) fn leave_x87(_: &mut Cpu) {}

/// Nothing becomes an instruction of a unit.
#[cfg(feature = "jit")]
pub(in crate::jit) fn make_x87(_: &mut [u8], _: usize, _: Unit) -> bool {
    false
}
