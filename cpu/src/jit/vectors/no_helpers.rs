//! Hosts for which there are no helpers: the interpreter's functions do what Cranelift cannot.

use super::Helper;
use crate::vector::{TernaryOp, VecOp};

/// Whether there is something for every operation.
pub(in crate::jit) fn every_operation() -> bool {
    false
}

/// None: the interpreter's.
pub(super) fn binary(_: VecOp) -> Option<Helper> {
    None
}

/// As [`binary`].
pub(super) fn ternary(_: TernaryOp) -> Option<Helper> {
    None
}
