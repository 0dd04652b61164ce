//! Hosts for which there are no helpers: the interpreter's functions do what Cranelift cannot.

use super::Helper;
use crate::vector::{FloatOp, Lanes, TernaryOp, VecOp};

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

/// As [`binary`].
pub(super) fn float(_: FloatOp, _: Lanes, _: u8) -> Option<Helper> {
    None
}

/// No half precision.
pub(super) fn has_half() -> bool {
    false
}

/// No fused operations either.
pub(super) fn has_fma() -> bool {
    false
}
