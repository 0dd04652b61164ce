//! MMX in translated code: its registers are the significands of the x87 unit's, in the CPU state. Where that unit is the
//! host's, the interpreter runs the instruction, before which the unit comes back.

use super::{
    Passage,
    emitter::{Emitter, at},
};
use crate::{
    emit::Emitted,
    state::{Cpu, F80, X87},
};
use cranelift_codegen::ir::{InstBuilder, Value, types::*};
use std::mem::offset_of;

const UNIT: usize = offset_of!(Cpu, x87);
const STATUS: i32 = at(UNIT + offset_of!(X87, status));
const TAGS: i32 = at(UNIT + offset_of!(X87, tags));
const LIVE: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, x87));

/// Where a part of an MMX register stands.
pub(super) const fn register(r: u8, part: usize) -> i32 {
    at(UNIT + offset_of!(X87, regs) + (r & 7) as usize * size_of::<F80>() + part)
}

/// Exponent and sign of what has been written as an MMX register.
pub(super) const EXPONENT: u16 = 0xffff;

impl Emitter<'_, '_> {
    /// Leaves the instruction to the interpreter where an x87 exception is pending.
    pub(super) fn demand_mmx(&mut self) {
        if std::mem::replace(&mut self.mmx_is_ready, true) {
            return;
        }
        let live = self.load_state(I8, LIVE);
        let status = self.load_state(I16, STATUS);
        let pending = self.b.ins().band_imm_u(status, 0x80);
        let live = self.b.ins().uextend(I16, live);
        let either = self.b.ins().bor(pending, live);
        self.bail_if(either);
    }

    /// TOP becomes 0, and all registers have this tag.
    pub(super) fn become_mmx(&mut self, tag: u8) -> Emitted<Self> {
        let status = self.load_state(I16, STATUS);
        let status = self.b.ins().band_imm_u(status, i64::from(!X87::TOP));
        self.store_state(status, STATUS);
        let tags = self.constant(I8, i64::from(tag as i8));
        self.store_state(tags, TAGS);
        Ok(())
    }

    /// A register; in a vector register of the host's until somebody wants it elsewhere.
    pub(super) fn mmx_register(&mut self, r: u8) -> Value {
        self.load_state(F64, register(r, offset_of!(F80, significand)))
    }

    /// Sets one.
    pub(super) fn set_mmx_register(&mut self, r: u8, v: Value) {
        self.store_state(v, register(r, offset_of!(F80, significand)));
        let exponent = self.constant(I16, i64::from(EXPONENT as i16));
        self.store_state(exponent, register(r, offset_of!(F80, sign_exponent)));
    }
}
