//! System instructions that are a few loads and stores, in one-pass translation: those of the kernel's ways in and out, and of
//! its locks, in place of a call of their functions, which stand in `sys/`. At other levels than 0, and where they would fault,
//! those functions run.

use super::{
    Unsupported, Writer,
    assembler::{Alu, At, Host, RAX, RBP, RBX, RCX, RDI, RDX, Shift, cond},
    flags::Change,
    values::{Bit, Val},
};
use crate::{
    attention::Attention,
    emit::Emit,
    flags::bits::{AC, DF, IF},
    insn::{Insn, Kind, attr},
    jit::host,
    sem::Op,
    state::{Cpu, Msrs, Segment, Shadow, cr4, reg, seg},
    width::{B, D, Q, W},
};
use std::mem::offset_of;

/// Where a segment register's part stands.
fn segment(s: usize, part: usize) -> At {
    Writer::place(offset_of!(Cpu, segments) + s * size_of::<Segment>() + part)
}

/// The segment of RDFSBASE and its relatives.
fn segment_of(op: Op) -> usize {
    if matches!(op, Op::Rdfsbase | Op::Wrfsbase) { seg::FS } else { seg::GS }
}

impl Writer {
    /// Whether this is an instruction that [`Writer::system`] knows and that functions are called for otherwise.
    pub(super) fn knows_system(&self, i: &Insn) -> bool {
        match Op::from_number(i.op) {
            Op::Sti => self.near(i32::from(i.ip) + i32::from(i.len)),
            Op::MovFromSegment => i.dst_kind() == Kind::Reg,
            Op::Rdfsbase | Op::Rdgsbase | Op::Wrfsbase | Op::Wrgsbase => self.mode.is_64(),
            Op::Rdpkru => true,
            Op::Cmpxchg16b => self.mode.is_64() && host::exchanges_pairs() && !i.goes_to_device(),
            _ => false,
        }
    }

    /// Writes one: whether it ended the block; None if it is none of them.
    pub(super) fn system(&mut self, i: &Insn) -> Option<Result<bool, Unsupported>> {
        let op = Op::from_number(i.op);
        match op {
            Op::Cld => self.change_eflags(DF, false),
            Op::Std => self.change_eflags(DF, true),
            Op::Cli => {
                self.demand_kernel();
                self.change_eflags(IF, false);
            }
            Op::Clac | Op::Stac => self.control_access(op == Op::Stac),
            Op::Swapgs => self.swap_gs(),
            Op::MovFromSegment => {
                let to = self.temporary();
                self.asm.load(W, to, segment(usize::from(i.src) % 6, offset_of!(Segment, selector)));
                self.bind(to, 2);
                let v = self.standing(to);
                self.set(i.w, i.dst, v);
            }
            Op::Rdfsbase | Op::Rdgsbase => {
                self.demand_cr4(cr4::FSGSBASE);
                let to = self.temporary();
                self.asm.load(i.w, to, segment(segment_of(op), offset_of!(Segment, base)));
                self.bind(to, i.w.0);
                let v = self.standing(to);
                self.set(i.w, i.dst, v);
            }
            Op::Wrfsbase | Op::Wrgsbase => self.write_base(i, segment_of(op)),
            Op::Rdpkru => {
                self.demand_cr4(cr4::PKE);
                let zero = self.get(D, reg::RCX);
                let zero = self.host(zero);
                self.asm.test(D, zero, zero);
                self.bail(cond::NOT_EQUAL);
                let to = self.temporary();
                self.asm.load(D, to, Self::place(offset_of!(Cpu, pkru)));
                self.bind(to, 4);
                let v = self.standing(to);
                self.set(D, reg::RAX, v);
                self.set(D, reg::RDX, Val::Known(0));
            }
            Op::Sti => {
                self.set_interrupt_flag(i);
                return Some(Ok(true));
            }
            Op::Cmpxchg16b => self.exchange_pair(i),
            _ => return None,
        }
        Some(Ok(false))
    }

    fn demand_kernel(&mut self) {
        self.asm.alu_memory(Alu::Cmp, B, Self::place(offset_of!(Cpu, cpl)), 0);
        self.bail(cond::NOT_EQUAL);
    }

    fn change_eflags(&mut self, bits: u64, set: bool) {
        // None of them is beyond the low 32.
        let (op, k) = if set { (Alu::Or, bits as i32) } else { (Alu::And, !bits as i32) };
        self.asm.alu_memory(op, D, Self::place(offset_of!(Cpu, eflags)), k);
    }

    fn control_access(&mut self, allowed: bool) {
        self.demand_kernel();
        self.change_eflags(AC, allowed);
        for (tables, place) in [
            (offset_of!(Cpu, supervisor_tlbs), offset_of!(Cpu, tlb)),
            (offset_of!(Cpu, supervisor_nears), offset_of!(Cpu, near)),
        ] {
            self.asm.load(Q, RAX, Self::place(tables + 8 * usize::from(allowed)));
            self.asm.store(Q, RAX, Self::place(place));
        }
        // What was found with other rights holds no more.
        self.groups.drop_but(0);
    }

    fn swap_gs(&mut self) {
        self.demand_kernel();
        let kernel = Self::place(offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base));
        self.asm.load(Q, RAX, kernel);
        self.asm.load(Q, RCX, segment(seg::GS, offset_of!(Segment, base)));
        self.set_base(seg::GS, RAX);
        self.asm.store(Q, RCX, kernel);
    }

    fn set_base(&mut self, s: usize, from: Host) {
        self.asm.store(Q, from, segment(s, offset_of!(Segment, base)));
        self.asm.store(Q, from, Self::segment_place(s as u8));
    }

    fn demand_cr4(&mut self, bit: u64) {
        self.asm.load(D, RAX, Self::place(offset_of!(Cpu, cr4)));
        self.asm.test_constant(D, RAX, bit as i32);
        self.bail(cond::EQUAL);
    }

    fn write_base(&mut self, i: &Insn, s: usize) {
        self.demand_cr4(cr4::FSGSBASE);
        let v = self.get(i.w, i.src);
        let v = self.host(v);
        if i.w == Q {
            // Canonical in 48 bits; with 57, the interpreter looks.
            self.asm.copy(RAX, v);
            self.asm.shift(Shift::Left, Q, RAX, 16);
            self.asm.shift(Shift::Signed, Q, RAX, 16);
            self.asm.alu(Alu::Cmp, Q, RAX, v);
            self.bail(cond::NOT_EQUAL);
        }
        self.set_base(s, v);
    }

    /// STI, and on to the next block, which an interrupt waits for. One that waits already has the interpreter run this.
    fn set_interrupt_flag(&mut self, i: &Insn) {
        self.demand_kernel();
        self.asm.alu_memory(Alu::Cmp, B, Self::place(offset_of!(Cpu, interrupt_pending)), 0);
        self.bail(cond::NOT_EQUAL);
        self.finish(i);
        self.settle();
        let eflags = Self::place(offset_of!(Cpu, eflags));
        self.asm.load(D, RAX, eflags);
        self.asm.test_constant(D, RAX, IF as i32);
        let set = self.asm.jump_if(cond::NOT_EQUAL);
        self.asm.alu_constant(Alu::Or, D, RAX, IF as i32);
        self.asm.store(D, RAX, eflags);
        self.asm.store_constant(B, Shadow::Sti as i32, Self::place(offset_of!(Cpu, shadow)));
        // See `Attention::instructions`.
        self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, attention)));
        self.asm.load(D, RCX, At::new(RAX, offset_of!(Attention, budget) as i32));
        self.asm.sign_extend(D, RCX, RCX);
        self.asm.load(Q, RDX, At::new(RAX, Attention::GRANTED as i32));
        self.asm.alu(Alu::Sub, Q, RDX, RCX);
        self.asm.store(Q, RDX, Self::place(offset_of!(Cpu, shadow_from)));
        let here = self.asm.len();
        self.asm.patch(set, here);
        self.go(i32::from(i.ip) + i32::from(i.len));
    }

    /// CMPXCHG16B, by the host's, locked or not as the guest's is.
    fn exchange_pair(&mut self, i: &Insn) {
        let linear = self.operand_address(i, None, 16, true);
        let host = self.host(linear);
        self.asm.test_constant(D, host, 15);
        self.bail(cond::NOT_EQUAL);
        let at = self.probe(linear, 16, true, Self::begins_with(i));
        let [low, high, differs] = std::array::from_fn(|_| self.temporary());
        self.asm.lea(Q, RDI, at);
        self.asm.push(RBX);
        for (host, guest) in [(RAX, reg::RAX), (RDX, reg::RDX), (RBX, reg::RBX), (RCX, reg::RCX)] {
            self.asm.load(Q, host, Self::register_place(usize::from(guest >> 3)));
        }
        self.asm.exchange_pair_if_equal(At::new(RDI, 0), i.has(attr::LOCK));
        self.asm.pop(RBX);
        self.asm.set(cond::NOT_EQUAL, RCX);
        self.asm.zero_extend(B, differs, RCX);
        self.asm.lea(Q, RDI, At::new(RBP, -super::BIAS));
        // Where they are the same, so are they.
        for (from, to, guest) in [(RAX, low, reg::RAX), (RDX, high, reg::RDX)] {
            self.asm.copy(to, from);
            self.bind(to, 8);
            let v = self.standing(to);
            self.set(Q, guest, v);
        }
        self.bind(differs, 1);
        let differs = self.standing(differs);
        self.new_flags.push(Change::Zero(Bit::Compared(cond::EQUAL, Q, differs, Val::Known(0))));
    }
}
