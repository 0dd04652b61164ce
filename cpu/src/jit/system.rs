//! System instructions that are a few loads and stores at CPL 0: emitted in place of a call of their functions, which stand in
//! `sys/` and which the interpreter runs at other levels.

use super::emitter::{Emitter, STATE, at};
use crate::{
    flags::bits::{AC, DF, IF},
    mode::Mode,
    sem::Op,
    state::{Cpu, Msrs, Segment, cr4, reg, seg},
};
use cranelift_codegen::ir::{InstBuilder, types::*};
use std::mem::offset_of;

/// Whether an instruction is one of them.
pub(super) fn emits(op: Op, mode: Mode) -> bool {
    match op {
        Op::Cld | Op::Std | Op::Cli | Op::Clac | Op::Stac | Op::Rdtsc | Op::Rdtscp => true,
        Op::Swapgs => mode.is_64(),
        _ => false,
    }
}

impl Emitter<'_, '_> {
    /// Emits one; false if it is none of them, or reads the time.
    pub(super) fn system(&mut self, op: Op) -> bool {
        if !emits(op, self.region.mode) || matches!(op, Op::Rdtsc | Op::Rdtscp) {
            return false;
        }
        if !matches!(op, Op::Cld | Op::Std) {
            let cpl = self.load_state(I8, at(offset_of!(Cpu, cpl)));
            self.bail_if(cpl);
        }
        match op {
            Op::Cld => self.change_eflags(DF, false),
            Op::Std => self.change_eflags(DF, true),
            Op::Cli => self.change_eflags(IF, false),
            Op::Clac => self.control_access(false),
            Op::Stac => self.control_access(true),
            _ => self.swap_gs(),
        }
        true
    }

    /// Emits RDTSC or RDTSCP: the bus is asked, nothing else changes. False if it is neither.
    pub(super) fn read_time(&mut self, op: Op) -> bool {
        if !matches!(op, Op::Rdtsc | Op::Rdtscp) {
            return false;
        }
        let cr4 = self.load_state(I64, at(offset_of!(Cpu, cr4)));
        let disabled = self.b.ins().band_imm_u(cr4, cr4::TSD as i64);
        self.bail_if(disabled);
        // Time may be what has run.
        self.flush_budget(0);
        let time = self.call_time();
        let (low, high) = (self.b.ins().ireduce(I32, time), self.b.ins().ushr_imm_u(time, 32));
        let low = self.b.ins().uextend(I64, low);
        self.set_register(usize::from(reg::RAX >> 3), low);
        self.set_register(usize::from(reg::RDX >> 3), high);
        if op == Op::Rdtscp {
            let aux = self.load_state(I32, at(offset_of!(Cpu, msrs) + offset_of!(Msrs, tsc_aux)));
            let aux = self.b.ins().uextend(I64, aux);
            self.set_register(usize::from(reg::RCX >> 3), aux);
        }
        true
    }

    fn change_eflags(&mut self, bits: u64, set: bool) {
        let place = at(offset_of!(Cpu, eflags));
        let flags = self.load_state(I64, place);
        let mask = self.constant(I64, if set { bits } else { !bits } as i64);
        let flags = if set { self.b.ins().bor(flags, mask) } else { self.b.ins().band(flags, mask) };
        self.store_state(flags, place);
    }

    fn control_access(&mut self, allowed: bool) {
        self.change_eflags(AC, allowed);
        for (tables, place) in [
            (offset_of!(Cpu, supervisor_tlbs), offset_of!(Cpu, tlb)),
            (offset_of!(Cpu, supervisor_nears), offset_of!(Cpu, near)),
        ] {
            let table = self.load_state(I64, at(tables + 8 * usize::from(allowed)));
            self.store_state(table, at(place));
        }
    }

    fn swap_gs(&mut self) {
        let base = offset_of!(Cpu, segments) + seg::GS * size_of::<Segment>() + offset_of!(Segment, base);
        let kernel = at(offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base));
        let (old, new) = (self.load_state(I64, at(base)), self.load_state(I64, kernel));
        for place in [base, offset_of!(Cpu, seg_base) + 8 * seg::GS] {
            self.b.ins().store(STATE, new, self.cpu, at(place));
        }
        self.store_state(old, kernel);
    }
}
