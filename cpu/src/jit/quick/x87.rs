//! x87 in one-pass translation: the host's same instructions in line, see `jit/x87.rs`.

use super::{
    Unsupported, Writer,
    assembler::{Alu, At, RAX, cond},
    values::{Bit, Fixed, Val},
};
use crate::{
    emit::Emit,
    flags::Arith,
    insn::{Insn, Kind},
    jit::{
        Passage, host,
        x87::{FNSTSW_MEMORY, Form, MASKS, SUMMARY, form},
    },
    mode::Mode,
    state::{Cpu, F80, X87, reg},
    width::{B, D, Q, W},
};
use std::mem::offset_of;

/// FDECSTP and FINCSTP.
const DECREMENT: u16 = 0x1f6;
const INCREMENT: u16 = 0x1f7;
/// FCMOVNE from ST(0).
const MOVE_IF_NOT_EQUAL: u16 = 0x3c8;

impl Writer {
    fn unit_place(part: usize) -> At {
        Self::place(offset_of!(Cpu, x87) + part)
    }

    /// Where a control or status word is on its way.
    fn word_place() -> At {
        Self::passage(offset_of!(Passage, word))
    }

    /// Translates an x87 instruction.
    pub(super) fn x87(&mut self, i: &Insn) -> Result<(), Unsupported> {
        let form = form(i).ok_or(Unsupported)?;
        let opcode = i.imm as u16 & 0x7ff;
        if form == Form::Wait {
            // While the unit is the host's, nothing is pending.
            self.asm.load(W, RAX, Self::unit_place(offset_of!(X87, status)));
            self.asm.test_constant(D, RAX, SUMMARY.into());
            self.bail(cond::NOT_EQUAL);
            return Ok(());
        }
        self.demand_unit();
        match form {
            Form::Registers => self.asm.x87_register(opcode),
            Form::Memory { size, write } => {
                let linear = self.operand_address(i, None, size.into(), write);
                let near = i.dst_kind() == Kind::Mem || i.src_kind() == Kind::Mem;
                let same = near && self.mode.contains(Mode::LONG);
                let offset = if same { linear } else { self.operand_offset(i) };
                let at = self.probe(linear, size.into(), write, Self::begins_with(i));
                self.asm.x87_memory(opcode, at);
                self.store_word_of_unit(offset, offset_of!(X87, dp));
                self.asm.store_constant(W, 0, Self::unit_place(offset_of!(X87, ds)));
            }
            Form::Conditional => {
                let c = self.flag_bit(i.dst & 15);
                let c = self.truth(c);
                let c = self.host(c);
                self.asm.test(D, c, c);
                self.asm.x87_register(MOVE_IF_NOT_EQUAL | u16::from(i.src & 7));
            }
            Form::Relation => self.relation(opcode),
            Form::ToAx => {
                self.asm.x87_memory(FNSTSW_MEMORY, Self::word_place());
                let to = self.temporary();
                self.asm.load(W, to, Self::word_place());
                self.bind(to, 2);
                let word = self.standing(to);
                self.set(W, reg::RAX, word);
                return Ok(());
            }
            Form::StoreWord => {
                let linear = self.operand_address(i, None, 2, true);
                let at = self.probe(linear, 2, true, Self::begins_with(i));
                self.asm.x87_memory(opcode, at);
                return Ok(());
            }
            Form::LoadControl => {
                let linear = self.operand_address(i, None, 2, false);
                let control = self.guest_load(W, linear, Self::begins_with(i));
                let control = self.host(control);
                self.asm.copy32(RAX, control);
                self.asm.alu_constant(Alu::And, D, RAX, MASKS.into());
                self.asm.alu_constant(Alu::Cmp, D, RAX, MASKS.into());
                self.bail(cond::NOT_EQUAL);
                self.asm.store(W, control, Self::word_place());
                self.asm.x87_memory(opcode, Self::word_place());
                return Ok(());
            }
            Form::Clear => {
                self.asm.x87_register(opcode);
                return Ok(());
            }
            Form::Initialise => {
                self.asm.x87_register(opcode);
                self.asm.store_constant(Q, 0, Self::unit_place(offset_of!(X87, ip)));
                self.asm.store_constant(Q, 0, Self::unit_place(offset_of!(X87, dp)));
                self.asm.store_constant(D, 0, Self::unit_place(offset_of!(X87, opcode)));
                self.asm.store_constant(W, 0, Self::unit_place(offset_of!(X87, ds)));
                return Ok(());
            }
            Form::Wait => {}
        }
        let ip = self.page_relative(i.ip.into());
        self.store_word_of_unit(ip, offset_of!(X87, ip));
        self.asm.store_constant(D, opcode.into(), Self::unit_place(offset_of!(X87, opcode)));
        Ok(())
    }

    fn store_word_of_unit(&mut self, v: Val, part: usize) {
        self.store_value(v, Self::unit_place(part));
    }

    fn store_value(&mut self, v: Val, place: At) {
        match self.fixed(v) {
            Fixed::In(host) => self.asm.store(Q, host, place),
            Fixed::Known(k) => {
                self.asm.constant(RAX, k);
                self.asm.store(Q, RAX, place);
            }
        }
    }

    /// Leaves an MMX instruction to the interpreter where the unit is the host's, or an exception of it is pending.
    pub(super) fn demand_mmx(&mut self) {
        self.asm.load(W, RAX, Self::unit_place(offset_of!(X87, status)));
        self.asm.alu_constant(Alu::And, D, RAX, SUMMARY.into());
        self.asm.alu_load(Alu::Or, B, RAX, Self::passage(offset_of!(Passage, x87)));
        self.bail(cond::NOT_EQUAL);
    }

    /// The unit becomes the MMX unit.
    pub(super) fn become_mmx(&mut self) {
        self.asm.alu_memory(Alu::And, W, Self::unit_place(offset_of!(X87, status)), !i32::from(X87::TOP));
        self.asm.store_constant(B, 0xff, Self::unit_place(offset_of!(X87, tags)));
    }

    fn mmx_place(r: u8, part: usize) -> At {
        Self::unit_place(offset_of!(X87, regs) + usize::from(r & 7) * size_of::<F80>() + part)
    }

    pub(super) fn mmx_register(&mut self, r: u8) -> Val {
        let to = self.temporary();
        self.asm.load(Q, to, Self::mmx_place(r, offset_of!(F80, significand)));
        self.standing(to)
    }

    /// Sets one, now: what could fault is done.
    pub(super) fn set_mmx_register(&mut self, r: u8, v: Val) {
        self.store_value(v, Self::mmx_place(r, offset_of!(F80, significand)));
        let exponent = Self::mmx_place(r, offset_of!(F80, sign_exponent));
        self.asm.store_constant(W, -1, exponent);
    }

    /// From here on the host's unit is the guest's. If that cannot be, the interpreter runs the instruction.
    fn demand_unit(&mut self) {
        if std::mem::replace(&mut self.unit_is_live, true) {
            return;
        }
        self.asm.alu_memory(Alu::Cmp, B, Self::passage(offset_of!(Passage, x87)), 0);
        let already = self.asm.jump_if(cond::NOT_EQUAL);
        self.asm.constant(RAX, host::enter_x87 as *const () as u64);
        self.asm.call_register(RAX);
        self.asm.load(Q, RAX, Self::answer_place());
        self.asm.test(D, RAX, RAX);
        self.bail(cond::EQUAL);
        self.land_here(already);
    }

    /// FCOMI and its relatives.
    fn relation(&mut self, opcode: u16) {
        let [carry, zero, parity] = std::array::from_fn(|_| self.temporary());
        // AMD's processors leave C1 alone, Intel's clear it.
        self.asm.x87_register(DECREMENT);
        self.asm.x87_register(INCREMENT);
        self.asm.x87_register(opcode);
        for (cc, to) in [(cond::BELOW, carry), (cond::EQUAL, zero), (cond::PARITY, parity)] {
            self.asm.set(cc, to);
            self.asm.zero_extend(B, to, to);
            self.bind(to, 1);
        }
        let [cf, zf, pf] = [carry, zero, parity].map(|host| {
            let v = self.standing(host);
            self.bit_of_truth(v)
        });
        // PF is the parity of the result, whose ZF is replaced after.
        let r = self.select(B, pf, Val::Known(3), Val::Known(1));
        let no = Bit::Known(false);
        self.set_flags(B, Arith::Explicit { r, cf, of: no, af: no });
        self.set_zero(zf);
    }
}
