//! RDTSC in one-pass translation.

use super::{
    Writer,
    assembler::{At, RAX, RBP, RDI, RDX, Shift, cond},
};
use crate::{
    insn::Insn,
    jit::runtime,
    sem::Op,
    state::{Cpu, Msrs, cr4, reg},
    width::{D, Q},
};
use std::mem::offset_of;

impl Writer {
    /// RDTSC or RDTSCP; false if it is neither.
    pub(super) fn read_time(&mut self, i: &Insn) -> bool {
        let op = Op::from_number(i.op);
        if !matches!(op, Op::Rdtsc | Op::Rdtscp) {
            return false;
        }
        self.asm.load(D, RAX, Self::place(offset_of!(Cpu, cr4)));
        self.asm.test_constant(D, RAX, cr4::TSD as i32);
        self.bail(cond::NOT_EQUAL);
        self.settle();
        self.asm.constant(RAX, runtime::time as *const () as u64);
        self.asm.call_register(RAX);
        self.asm.lea(Q, RDI, At::new(RBP, -super::BIAS));
        self.forget_copies();
        self.drop_flags();
        self.asm.copy(RDX, RAX);
        self.asm.shift(Shift::Right, Q, RDX, 32);
        self.asm.copy32(RAX, RAX);
        for (host, guest) in [(RAX, reg::RAX), (RDX, reg::RDX)] {
            self.asm.store(Q, host, Self::register_place(usize::from(guest >> 3)));
        }
        if op == Op::Rdtscp {
            let aux = offset_of!(Cpu, msrs) + offset_of!(Msrs, tsc_aux);
            self.asm.load(D, RAX, Self::place(aux));
            self.asm.store(Q, RAX, Self::register_place(usize::from(reg::RCX >> 3)));
        }
        true
    }
}
