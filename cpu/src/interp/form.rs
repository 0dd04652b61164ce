//! How handlers learn the form of their instruction: fixed at compile time, or read.

use crate::{
    insn::{Insn, Kind, attr},
    width::Width,
};

/// How a handler learns an instruction's width and operand kinds.
pub(crate) trait Form {
    /// What is not the common case (a TLB miss, an exception) ends the handler at once, with nothing changed, and the
    /// general form runs the instruction from its start. So a fast handler calls nothing, and needs no stack frame.
    const FAST: bool = false;
    #[inline(always)]
    fn w(i: &Insn) -> Width {
        i.w
    }
    #[inline(always)]
    fn dst(i: &Insn) -> Kind {
        i.dst_kind()
    }
    #[inline(always)]
    fn src(i: &Insn) -> Kind {
        i.src_kind()
    }
    #[inline(always)]
    fn cc(i: &Insn) -> u8 {
        i.cc
    }
    #[inline(always)]
    fn imm(i: &Insn) -> u64 {
        i.imm64()
    }
    #[inline(always)]
    fn locked(i: &Insn) -> bool {
        i.has(attr::LOCK)
    }
}

/// Width and kinds known: the hot forms. No LOCK, no 64-bit immediate, no far memory.
pub(crate) struct At<const W: u8, const DST: u8, const SRC: u8>;
impl<const W: u8, const DST: u8, const SRC: u8> Form for At<W, DST, SRC> {
    const FAST: bool = true;
    #[inline(always)]
    fn w(_: &Insn) -> Width {
        Width(W)
    }
    #[inline(always)]
    fn dst(_: &Insn) -> Kind {
        Kind::from_bits(DST)
    }
    #[inline(always)]
    fn src(_: &Insn) -> Kind {
        Kind::from_bits(SRC)
    }
    #[inline(always)]
    fn imm(i: &Insn) -> u64 {
        i.imm as i64 as u64
    }
    #[inline(always)]
    fn locked(_: &Insn) -> bool {
        false
    }
}

/// Operation and kinds known: the hot forms of what decode numbers by its operation.
pub(crate) struct AtOp<const OP: u8, const DST: u8, const SRC: u8>;
impl<const OP: u8, const DST: u8, const SRC: u8> Form for AtOp<OP, DST, SRC> {
    const FAST: bool = true;
    #[inline(always)]
    fn w(_: &Insn) -> Width {
        Width(16)
    }
    #[inline(always)]
    fn dst(_: &Insn) -> Kind {
        Kind::from_bits(DST)
    }
    #[inline(always)]
    fn src(_: &Insn) -> Kind {
        Kind::from_bits(SRC)
    }
    #[inline(always)]
    fn cc(_: &Insn) -> u8 {
        OP
    }
    #[inline(always)]
    fn locked(_: &Insn) -> bool {
        false
    }
}

/// The condition known.
pub(crate) struct Cc<const C: u8>;
impl<const C: u8> Form for Cc<C> {
    #[inline(always)]
    fn cc(_: &Insn) -> u8 {
        C
    }
}

/// Everything from the instruction: the general form.
pub(crate) struct Dyn;
impl Form for Dyn {}
