//! x87 on hosts without such a unit: the interpreter's.

use super::emitter::{Emitter, Untranslatable};
use crate::{insn::Insn, mode::Mode};

/// Nothing is inline.
pub(super) fn emits(_: &Insn, _: Mode) -> bool {
    false
}

/// There are none to be noted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pointers {}

impl Emitter<'_, '_> {
    /// The CPU state has them.
    pub(super) fn store_pointers(&mut self) {}

    /// Not reached: see [`emits`].
    pub(super) fn x87(&mut self, _: &Insn) -> Result<(), Untranslatable> {
        Err(Untranslatable)
    }
}
