//! x87 on hosts without such a unit: the interpreter's.

use super::emitter::{Emitter, Untranslatable};
use crate::{insn::Insn, mode::Mode};

/// Nothing is inline.
pub(super) fn emits(_: &Insn, _: Mode) -> bool {
    false
}

impl Emitter<'_, '_> {
    /// Not reached: see [`emits`].
    pub(super) fn x87(&mut self, _: &Insn) -> Result<(), Untranslatable> {
        Err(Untranslatable)
    }
}
