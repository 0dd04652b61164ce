//! Segments in regions: see `segmented.rs`.

use super::{
    emitter::{Emitter, at},
    segmented,
};
use crate::state::{Cpu, seg};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use std::mem::offset_of;

/// Where a segment's base stands.
fn base(segment: usize) -> i32 {
    at(offset_of!(Cpu, seg_base) + 8 * (segment & 7))
}

impl Emitter<'_, '_> {
    /// Linear address of `size` bytes at an offset in a segment; what its limit or rights forbid is left to the interpreter.
    pub(super) fn in_segment(&mut self, segment: usize, offset: Value, size: u64, write: bool) -> Value {
        if !segmented::checks(segment, self.region.mode) {
            return self.wrap(offset);
        }
        let reach = at(offset_of!(Cpu, reach) + 16 * (segment & 7) + 8 * usize::from(write));
        let reach = self.load_state(I64, reach);
        let end = self.b.ins().iadd_imm_s(offset, size as i64);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, reach);
        self.bail_if(beyond);
        let base = self.load_state(I64, base(segment));
        let linear = self.b.ins().iadd(offset, base);
        self.wrap(linear)
    }

    /// Whether the region's code, or where its branches lead, is beyond the limit of CS.
    pub(super) fn is_beyond_limit(&mut self) -> Option<Value> {
        if !segmented::checks_code(self.region.mode) {
            return None;
        }
        let mut whole = (i32::MAX, i32::MIN);
        for node in &self.region.nodes {
            let taken = if node.cut { node.part.start.into() } else { node.part.taken };
            let (from, to) = segmented::span(&node.part.insns, taken);
            let page = node.distance << 12;
            whole = (whole.0.min(page + from), whole.1.max(page + to));
        }
        let first = self.page_relative(whole.0);
        let first = self.offset_in_code(first);
        let end = self.b.ins().iadd_imm_s(first, i64::from(whole.1) - i64::from(whole.0));
        let reach = self.load_state(I64, at(offset_of!(Cpu, code_reach)));
        Some(self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, reach))
    }

    /// The offset in CS of a linear address.
    pub(super) fn offset_in_code(&mut self, linear: Value) -> Value {
        if !segmented::checks_code(self.region.mode) {
            return linear;
        }
        let base = self.load_state(I64, base(seg::CS));
        let offset = self.b.ins().isub(linear, base);
        self.wrap(offset)
    }

    /// The linear address of an offset in CS.
    pub(super) fn linear_in_code(&mut self, offset: Value) -> Value {
        if !segmented::checks_code(self.region.mode) {
            return offset;
        }
        let base = self.load_state(I64, base(seg::CS));
        let linear = self.b.ins().iadd(offset, base);
        self.wrap(linear)
    }

    /// Leaves a branch to an offset beyond the limit of CS to the interpreter.
    pub(super) fn check_limit(&mut self, offset: Value) {
        if segmented::checks_code(self.region.mode) {
            let reach = self.load_state(I64, at(offset_of!(Cpu, code_reach)));
            let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, offset, reach);
            self.bail_if(beyond);
        }
    }
}
