//! Segments in one-pass translation: see `jit/segmented.rs`.

use super::{
    Writer,
    assembler::{Alu, At, RAX, cond},
    values::{Two, Val},
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
        let base = self.base_of(segment);
        let linear = self.two(Two::Add, Q, offset, base);
        self.cut(D, linear)
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

    /// The offset in CS of a linear address.
    pub(super) fn offset_in_code(&mut self, linear: Val) -> Val {
        if !segmented::checks_code(self.mode) {
            return linear;
        }
        let base = self.base_of(seg::CS);
        let offset = self.two(Two::Sub, Q, linear, base);
        self.cut(D, offset)
    }

    /// The linear address of an offset in CS.
    pub(super) fn linear_in_code(&mut self, offset: Val) -> Val {
        if !segmented::checks_code(self.mode) {
            return offset;
        }
        let base = self.base_of(seg::CS);
        let linear = self.two(Two::Add, Q, offset, base);
        self.cut(D, linear)
    }

    /// Leaves a branch to an offset beyond the limit of CS to the interpreter.
    pub(super) fn check_limit(&mut self, offset: Val) {
        if segmented::checks_code(self.mode) {
            let offset = self.host(offset);
            self.asm.alu_load(Alu::Cmp, Q, offset, Self::place(offset_of!(Cpu, code_reach)));
            self.bail(cond::NOT_BELOW);
        }
    }

    fn base_of(&mut self, segment: usize) -> Val {
        let base = self.temporary();
        self.asm.load(Q, base, Self::segment_place(segment as u8));
        self.standing(base)
    }
}
