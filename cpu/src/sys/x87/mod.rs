//! x87: SDM 1 "Programming with the x87 FPU". Arithmetic itself is in [`crate::float::x87`]; here is what instructions do
//! with the register stack, the status word, memory and the last-instruction pointers.
//!
//! The order within an instruction: a pending exception is delivered, memory is read or checked, the last-instruction
//! pointers are set, the stack is checked, the operation runs, registers and status word change.

mod arithmetic;
mod compare;
mod control;
mod environment;
mod transcendental;
mod transfer;

pub(crate) use arithmetic::{
    fabs, fadd, fchs, fdiv, fdivr, fmul, fprem, fprem1, frndint, fscale, fsqrt, fsub, fsubr, fxtract,
};
pub(crate) use compare::{fcom, fcomi, ftst, fucom, fucomi, fxam};
pub(crate) use control::{
    emms, fdecstp, ffree, fincstp, fldcw, fnclex, fninit, fnop, fnop_waiting, fnstcw, fnstsw, fwait,
};
pub(crate) use environment::{fldenv, fnsave, fnstenv, frstor};
pub(crate) use transcendental::{f2xm1, fcos, fpatan, fptan, fsin, fsincos, fyl2x, fyl2xp1};
pub(crate) use transfer::{fcmov, fld, fld_constant, fst, fstpnce, fxch};

use crate::{
    fault::{Done, Fault, Stop, vector},
    float::{Env, F32, F64, F80, Unpacked, unpack},
    insn::Insn,
    mode::Mode,
    planted::{self, Bug},
    state::{Cpu, X87, seg},
    width::{D, Q, W, Width},
};

/// What `cc` tells of an x87 instruction's operand, in the low bits; [`POP`] and [`POP_TWO`] above.
pub(crate) mod operand {
    pub(crate) const REGISTER: u8 = 0;
    pub(crate) const F32: u8 = 1;
    pub(crate) const F64: u8 = 2;
    pub(crate) const F80: u8 = 3;
    pub(crate) const I16: u8 = 4;
    pub(crate) const I32: u8 = 5;
    pub(crate) const I64: u8 = 6;
    pub(crate) const BCD: u8 = 7;
    pub(crate) const KIND: u8 = 7;
    /// The instruction rounds toward zero, whatever the control word says.
    pub(crate) const TRUNCATE: u8 = 0x20;
    /// The instruction pops the stack.
    pub(crate) const POP: u8 = 0x40;
    /// It pops twice.
    pub(crate) const POP_TWO: u8 = 0x80;
}

/// Bits of the status word.
pub(crate) mod status {
    pub(crate) const IE: u16 = 1;
    /// Stack fault.
    pub(crate) const SF: u16 = 1 << 6;
    pub(crate) const C0: u16 = 1 << 8;
    pub(crate) const C1: u16 = 1 << 9;
    pub(crate) const C2: u16 = 1 << 10;
    pub(crate) const C3: u16 = 1 << 14;
    pub(crate) const CODES: u16 = C0 | C1 | C2 | C3;
}

/// How wide an operand in memory is.
fn memory_width(kind: u8) -> Width {
    match kind {
        operand::I16 => W,
        operand::F32 | operand::I32 => D,
        operand::F64 | operand::I64 => Q,
        _ => Width(10),
    }
}

/// An operand in memory.
#[derive(Clone, Copy)]
enum Raw {
    /// Two, four or eight bytes.
    Bits(u64),
    /// FLD m80, FBLD.
    Ten([u8; 10]),
}

impl X87 {
    /// ST(k), unless it is empty.
    pub(crate) fn st(&self, k: u8) -> Option<F80> {
        let r = self.physical(k.into());
        (self.tags >> r & 1 != 0).then_some(self.regs[r])
    }
    /// ST(k) := v, in use.
    fn set_st(&mut self, k: u8, v: F80) {
        let r = self.physical(k.into());
        self.regs[r] = v;
        self.tags |= 1 << r;
    }
    fn move_top(&mut self, by: u16) {
        self.status = self.status & !X87::TOP | self.status.wrapping_add(by << 11) & X87::TOP;
    }
    fn push(&mut self, v: F80) {
        self.move_top(7);
        self.set_st(0, v);
    }
    fn free(&mut self, k: u8) {
        self.tags &= !(1 << self.physical(k.into()));
    }
    fn pop(&mut self) {
        self.free(0);
        self.move_top(1);
    }
    fn pop_as(&mut self, cc: u8) {
        if cc & (operand::POP | operand::POP_TWO) != 0 {
            self.pop();
        }
        if cc & operand::POP_TWO != 0 {
            self.pop();
        }
    }
    fn env(&self) -> Env {
        Env::x87(self.control, self.status)
    }
    fn set_codes(&mut self, which: u16, codes: u16) {
        self.status = self.status & !which | codes;
    }
    /// Notes a stack fault, an overflow or (C1 clear) an underflow; true if it is masked, so that the instruction goes on
    /// with the indefinite value.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.set_codes(status::C1, if overflow { status::C1 } else { 0 });
        self.status |= status::IE | status::SF;
        self.refresh_summary();
        self.control & status::IE != 0
    }
    /// Takes over the exceptions of an operation, and C1 from its rounding.
    fn take(&mut self, env: &Env) {
        self.status |= env.raised() as u16;
        self.set_codes(
            status::C1,
            if env.rounded_up() && !planted::is(Bug::RoundUpC1) { status::C1 } else { 0 },
        );
        self.refresh_summary();
    }
}

impl Cpu {
    /// #MF if an unmasked x87 exception is pending.
    pub(crate) fn x87_pending(&mut self) -> Done {
        if self.x87.status & 0x80 != 0 {
            return Err(self.raise(Fault::new(vector::MF)));
        }
        Ok(())
    }

    /// The instruction will complete, perhaps with an x87 exception: notes where and what it was, its memory operand too.
    fn x87_commit(&mut self, i: &Insn) {
        let ip = self.rip_of(i).wrapping_sub(self.seg_base[seg::CS]);
        self.x87.ip = if self.mode.is_64() { ip } else { ip as u32 as u64 };
        // Selectors are wanted in real mode alone; elsewhere they are deprecated and read 0.
        let real = !self.mode.contains(Mode::PROTECTED);
        self.x87.cs = if real { self.segments[seg::CS].selector } else { 0 };
        // Decode puts the opcode into the immediate.
        self.x87.opcode = i.imm as u16 & 0x7ff;
        if i.cc & operand::KIND != operand::REGISTER {
            self.x87.dp = self.far_offset(i);
            let s = usize::from(i.seg & 7);
            self.x87.ds = if real && s < self.segments.len() { self.segments[s].selector } else { 0 };
        }
    }

    /// Reads the memory operand.
    fn x87_read(&mut self, i: &Insn) -> Result<Raw, Stop> {
        let kind = i.cc & operand::KIND;
        let w = memory_width(kind);
        let at = self.operand_address(i, w.0.into(), false)?;
        if w.0 == 10 {
            let mut bytes = [0; 10];
            self.read_bytes(at, &mut bytes).map_err(|stop| self.operand_fault(i, stop))?;
            return Ok(Raw::Ten(bytes));
        }
        let v = self.read(w, at).map_err(|stop| self.operand_fault(i, stop))?;
        Ok(Raw::Bits(v))
    }

    /// Writes the memory operand; without a value, only checks that it could.
    fn x87_write(&mut self, i: &Insn, v: Option<Raw>) -> Done {
        let w = memory_width(i.cc & operand::KIND);
        let at = self.operand_address(i, w.0.into(), true)?;
        let done = match v {
            Some(Raw::Bits(v)) => self.write(w, at, v),
            Some(Raw::Ten(bytes)) => self.write_bytes(at, &bytes),
            None => self.check_write(at, w.0.into()),
        };
        done.map_err(|stop| self.operand_fault(i, stop))
    }
}

/// An arithmetic operand in memory, seen as what it is: a denormal single is no normal extended number.
fn arithmetic_operand(kind: u8, raw: Raw) -> Unpacked {
    match raw {
        Raw::Bits(v) => match kind {
            operand::F32 => unpack::<F32>(v as u32),
            operand::F64 => unpack::<F64>(v),
            operand::I16 => Unpacked::from_i64((v as i16).into()),
            operand::I32 => Unpacked::from_i64((v as i32).into()),
            _ => Unpacked::from_i64(v as i64),
        },
        Raw::Ten(bytes) => F80::from_le_bytes(bytes).unpack(),
    }
}

/// What every MMX instruction but EMMS does to the x87 unit: SDM 1 "Effect of MMX Instructions on the x87 FPU Tag Word".
pub(crate) fn become_mmx(c: &mut Cpu, _: &Insn) -> Done {
    c.x87.status &= !X87::TOP;
    c.x87.tags = 0xff;
    Ok(())
}
