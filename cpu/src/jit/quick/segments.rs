//! Segments in one-pass translation: see `jit/segmented.rs`.

use super::{
    Writer,
    assembler::{Alu, At, RAX, cond},
    values::Val,
};
use crate::{
    jit::segmented,
    state::{Cpu, reg, seg},
    width::{D, Q},
};
use std::mem::offset_of;

impl Writer {
    /// Linear address of `size` bytes at an offset in a segment; what its limit or rights forbid is left to the interpreter.
    pub(super) fn in_segment(&mut self, segment: usize, offset: Val, size: u64, write: bool) -> Val {
        if !segmented::checks(segment, self.mode) {
            return self.cut(D, offset);
        }
        let host = self.host(offset);
        self.asm.lea(Q, RAX, At::new(host, size as i32));
        let reach = offset_of!(Cpu, reach) + 16 * (segment & 7) + 8 * usize::from(write);
        self.asm.alu_load(Alu::Cmp, Q, RAX, Self::place(reach));
        self.bail(cond::ABOVE);
        self.behind_base(segment, offset)
    }

    /// Leaves a block to the interpreter whose code, or where its branch leads, is beyond the limit of CS.
    pub(super) fn check_block(&mut self) {
        if !segmented::checks_code(self.mode) {
            return;
        }
        let (from, to) = self.span;
        self.asm.load(Q, RAX, Self::register_place(reg::PAGE.into()));
        self.asm.alu_constant(Alu::Add, Q, RAX, from);
        self.asm.alu_load(Alu::Sub, Q, RAX, Self::segment_place(seg::CS as u8));
        self.asm.copy32(RAX, RAX);
        self.asm.alu_constant(Alu::Add, Q, RAX, to - from);
        self.asm.alu_load(Alu::Cmp, Q, RAX, Self::place(offset_of!(Cpu, code_reach)));
        self.bail(cond::ABOVE);
    }

    /// The offset in CS of a place in the page.
    pub(super) fn offset_in_code(&mut self, place: i32) -> Val {
        // Registers are few: one does.
        let to = self.temporary();
        self.asm.load(Q, to, Self::register_place(reg::PAGE.into()));
        self.asm.alu_constant(Alu::Add, Q, to, place);
        self.asm.alu_load(Alu::Sub, Q, to, Self::segment_place(seg::CS as u8));
        self.asm.copy32(to, to);
        self.bind(to, 4);
        self.standing(to)
    }

    /// The linear address of an offset in CS.
    pub(super) fn linear_in_code(&mut self, offset: Val) -> Val {
        if segmented::checks_code(self.mode) { self.behind_base(seg::CS, offset) } else { offset }
    }

    /// Leaves a branch to an offset beyond the limit of CS to the interpreter.
    pub(super) fn check_limit(&mut self, offset: Val) {
        if segmented::checks_code(self.mode) {
            let offset = self.host(offset);
            self.asm.alu_load(Alu::Cmp, Q, offset, Self::place(offset_of!(Cpu, code_reach)));
            self.bail(cond::NOT_BELOW);
        }
    }

    /// A segment's base and an offset.
    fn behind_base(&mut self, segment: usize, offset: Val) -> Val {
        let offset = self.host(offset);
        let to = self.temporary();
        self.asm.load(Q, to, Self::segment_place(segment as u8));
        self.asm.alu(Alu::Add, Q, to, offset);
        self.asm.copy32(to, to);
        self.bind(to, 4);
        self.standing(to)
    }
}
