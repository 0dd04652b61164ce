//! x87 in translated code: the host's unit is the guest's, see `host/x87.rs`, so that an instruction is the host's same
//! instruction. Cranelift, which knows none of them, takes them for calls that keep all registers; operands in memory are looked
//! up like all others.
//! What is no exact operation, and all of it while an exception is unmasked, is the interpreter's.

use super::{
    Passage,
    cache::Name,
    emitter::{Bit, Emitter, Untranslatable, Val, at, import},
    host::{self, Unit},
    region::is_flat,
};
use crate::{
    emit::Emit,
    flags::Arith,
    insn::Insn,
    mode::Mode,
    sem::Op,
    state::{Cpu, X87, reg},
    sys::x87::operand,
    width::{B, Q, W},
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use std::mem::offset_of;

/// The last-instruction pointers of an instruction of this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointers {
    ip: u16,
    opcode: u16,
    /// Offset of the last operand in memory.
    data: Option<Value>,
}

/// Where a part of the x87 state stands.
pub(super) const fn place(part: usize) -> i32 {
    at(offset_of!(Cpu, x87) + part)
}
const LIVE: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, x87));
const ANSWER: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, answer));
const RELATION: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, relation));
/// Where a control or status word is on its way.
pub(super) const WORD: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, word));

/// ES of the status word.
pub(super) const SUMMARY: u16 = 0x80;
/// The masks of the control word.
pub(super) const MASKS: u16 = 0x3f;

/// Whether an instruction is inline. The opcode is in its immediate.
pub(super) fn emits(i: &Insn, mode: Mode) -> bool {
    let plain = mode.plain_64() || mode.contains(Mode::PROTECTED) && is_flat(i, mode);
    plain && form(i).is_some()
}

/// What is done for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The host's same instruction, on registers.
    Registers,
    /// The same, with so many bytes of memory.
    Memory { size: u8, write: bool },
    /// FCMOVcc.
    Conditional,
    /// FCOMI and its relatives.
    Relation,
    /// A word of the unit to AX.
    ToAx,
    /// FNSTCW, FNSTSW: to memory, and without a word of where the instruction was.
    StoreWord,
    /// FLDCW.
    LoadControl,
    /// FNCLEX.
    Clear,
    /// FNINIT.
    Initialise,
    /// FWAIT.
    Wait,
}

/// How an instruction is emitted, if it is.
pub(super) fn form(i: &Insn) -> Option<Form> {
    let kind = i.cc & operand::KIND;
    let size = match kind {
        operand::I16 => 2,
        operand::F32 | operand::I32 => 4,
        operand::F64 | operand::I64 => 8,
        _ => 10,
    };
    let general = |write| match kind {
        operand::REGISTER => Some(Form::Registers),
        operand::BCD => None,
        _ => Some(Form::Memory { size, write }),
    };
    match Op::from_number(i.op) {
        Op::Fld
        | Op::Fadd
        | Op::Fmul
        | Op::Fsub
        | Op::Fsubr
        | Op::Fdiv
        | Op::Fdivr
        | Op::Fcom
        | Op::Fucom => general(false),
        // FISTTP came with SSE3.
        Op::Fst if i.cc & operand::TRUNCATE != 0 && !host::has_fisttp() => None,
        Op::Fst => general(true),
        Op::FldConstant
        | Op::Fxch
        | Op::Fsqrt
        | Op::Frndint
        | Op::Fabs
        | Op::Fchs
        | Op::Fprem
        | Op::Fprem1
        | Op::Fxtract
        | Op::Fscale
        | Op::Ftst
        | Op::Fxam
        | Op::Fincstp
        | Op::Fdecstp
        | Op::Ffree
        | Op::FnopWaiting => Some(Form::Registers),
        Op::Fcmov => Some(Form::Conditional),
        Op::Fcomi | Op::Fucomi => Some(Form::Relation),
        Op::Fnstsw if i.imm & 0xc0 == 0xc0 => Some(Form::ToAx),
        Op::Fnstsw | Op::Fnstcw => Some(Form::StoreWord),
        Op::Fldcw => Some(Form::LoadControl),
        Op::Fnclex => Some(Form::Clear),
        Op::Fninit => Some(Form::Initialise),
        Op::Fwait => Some(Form::Wait),
        _ => None,
    }
}

/// FNSTSW to memory, by which AX is loaded too.
pub(super) const FNSTSW_MEMORY: u16 = 0x53f;

impl Emitter<'_, '_> {
    /// Emits an instruction for which [`emits`] holds.
    pub(super) fn x87(&mut self, i: &Insn) -> Result<(), Untranslatable> {
        let form = form(i).ok_or(Untranslatable)?;
        let opcode = i.imm as u16 & 0x7ff;
        if form == Form::Wait {
            // While the unit is the host's, nothing is pending.
            let status = self.load_state(I16, place(offset_of!(X87, status)));
            let pending = self.b.ins().band_imm_u(status, i64::from(SUMMARY));
            self.bail_if(pending);
            return Ok(());
        }
        self.demand_unit();
        let mut data = None;
        match form {
            Form::Registers => self.unit(Unit::Registers(opcode), None),
            Form::Memory { size, write } => {
                let linear = self.operand_address(i, None, size.into(), write);
                let host = self.host_address(linear, size.into(), write, Self::begins_with(i));
                self.unit(Unit::Memory(opcode), Some(host));
                let offset = self.operand_offset(i);
                data = Some(self.wide(Q, offset));
            }
            Form::Conditional => {
                let flags = self.current_flags();
                let c = self.condition_of(flags, i.dst);
                let c = self.bit_as(I64, c);
                self.unit(Unit::Conditional(i.src), Some(c));
            }
            Form::Relation => {
                self.call_unit(host::x87_relation(opcode));
                self.take_relation();
            }
            Form::ToAx => {
                let word = self.word();
                self.unit(Unit::Memory(FNSTSW_MEMORY), Some(word));
                let word = self.load_state(I16, WORD);
                self.set(W, reg::RAX, Val::Computed(word));
                return Ok(());
            }
            Form::StoreWord => {
                let linear = self.operand_address(i, None, 2, true);
                let host = self.host_address(linear, 2, true, Self::begins_with(i));
                self.unit(Unit::Memory(opcode), Some(host));
                return Ok(());
            }
            Form::LoadControl => {
                let linear = self.operand_address(i, None, 2, false);
                let control = self.guest_load(I16, linear, Self::begins_with(i));
                let masks = self.b.ins().band_imm_u(control, i64::from(MASKS));
                let unmasks = self.b.ins().icmp_imm_u(IntCC::NotEqual, masks, i64::from(MASKS));
                self.bail_if(unmasks);
                self.store_state(control, WORD);
                let word = self.word();
                self.unit(Unit::Memory(opcode), Some(word));
                return Ok(());
            }
            Form::Clear => {
                self.unit(Unit::Registers(opcode), None);
                return Ok(());
            }
            Form::Initialise => {
                self.unit(Unit::Registers(opcode), None);
                self.forget_pointers();
                self.new_pointers = Some(None);
                return Ok(());
            }
            Form::Wait => {}
        }
        let data = data.or(self.pointers.and_then(|known| known.data));
        self.new_pointers = Some(Some(Pointers { ip: i.ip, opcode, data }));
        Ok(())
    }

    /// Address of the word on its way.
    fn word(&mut self) -> Value {
        self.b.ins().iadd_imm_s(self.cpu, i64::from(WORD))
    }

    /// An instruction of the unit, which changes nothing else; its operand in memory.
    fn unit(&mut self, what: Unit, operand: Option<Value>) {
        let signature = self.unit[usize::from(operand.is_some())];
        let instruction = import(self.b, Name::Unit(what), signature);
        self.b.ins().call(instruction, operand.as_slice());
    }

    /// Calls a function with the CPU, which changes nothing but the unit.
    fn call_unit(&mut self, function: usize) {
        let function = self.constant(I64, function as i64);
        let (signature, cpu) = (self.unit[1], self.cpu);
        self.b.ins().call_indirect(signature, function, &[cpu]);
    }

    /// From here on the host's unit is the guest's. If that cannot be, the interpreter runs the instruction.
    fn demand_unit(&mut self) {
        if std::mem::replace(&mut self.unit_is_live, true) {
            return;
        }
        let live = self.load_state(I8, LIVE);
        let (enter, back, on) = (self.cold(), self.cold(), self.b.create_block());
        let already = self.b.create_block();
        self.b.ins().brif(live, already, &[], enter, &[]);
        self.to(enter);
        self.call_unit(host::enter_x87 as *const () as usize);
        let answer = self.load_state(I64, ANSWER);
        let bail = self.bail_block();
        self.b.ins().brif(answer, back, &[], bail, &[]);
        self.to(back);
        self.b.ins().jump(on, &[]);
        self.to(already);
        self.b.ins().jump(on, &[]);
        self.to(on);
    }

    /// Stores what the last instruction was, as far as the CPU state does not have it: where the region can be left.
    pub(super) fn store_pointers(&mut self) {
        let Some(Pointers { ip, opcode, data }) = self.pointers else { return };
        let ip = self.page_relative(ip.into());
        self.store_state(ip, place(offset_of!(X87, ip)));
        // Selectors are wanted in real mode alone.
        let opcode = self.constant(I32, opcode.into());
        self.store_state(opcode, place(offset_of!(X87, opcode)));
        if let Some(data) = data {
            self.store_state(data, place(offset_of!(X87, dp)));
            let zero = self.constant(I16, 0);
            self.store_state(zero, place(offset_of!(X87, ds)));
        }
    }

    fn forget_pointers(&mut self) {
        let (long, short) = (self.constant(I64, 0), self.constant(I32, 0));
        self.store_state(long, place(offset_of!(X87, ip)));
        self.store_state(long, place(offset_of!(X87, dp)));
        self.store_state(short, place(offset_of!(X87, opcode)));
        let ds = self.constant(I16, 0);
        self.store_state(ds, place(offset_of!(X87, ds)));
    }

    /// The flags from what a comparison has left.
    fn take_relation(&mut self) {
        let mut flag = |n: i32| Bit::Computed(self.load_state(I8, RELATION + n));
        let (cf, zf, pf) = (flag(0), flag(1), flag(2));
        // PF is the parity of the result, whose ZF is replaced after.
        let r = self.select(B, pf, Val::Known(3), Val::Known(1));
        let no = Bit::Known(false);
        self.set_flags(B, Arith::Explicit { r, cf, of: no, af: no });
        self.set_zero(zf);
    }
}

/// The opcode and the selector of the code segment stand together.
const _: () = assert!(offset_of!(X87, cs) == offset_of!(X87, opcode) + 2 && offset_of!(X87, opcode) % 4 == 0);
