//! Guest memory in one-pass translation: the probe of the TLB in line, everything else out of it.

use super::{
    Cold, Unsupported, Writer,
    assembler::{Alu, At, Host, RAX, RCX, RSI, Shift, Xmm, cond},
    values::{Fixed, Two, Val},
};
use crate::{
    emit::Emit,
    insn::{Insn, Kind, attr},
    mmu::{
        ENTRIES, TlbEntry,
        near::{self, Near, NearPage},
    },
    ram::PAGE,
    state::{Cpu, reg},
    width::{D, Q, Width},
};
use std::mem::offset_of;

/// RSP and RBP.
pub(super) const STACK: u8 = reg::RSP >> 3;
const FRAME: u8 = reg::RBP >> 3;

impl Writer {
    /// The memory operand's offset, as its address arithmetic gives it.
    pub(super) fn operand_offset(&mut self, i: &Insn) -> Val {
        if i.has(attr::IMM64) {
            return Val::Known(i.imm64());
        }
        let mut displacement = i64::from(i.disp);
        if i.has(attr::RIP) {
            displacement += i64::from(i.ip) + i64::from(i.len);
        }
        // Number 16 reads zero.
        let base = (i.base < 16 || i.base == reg::PAGE).then(|| self.register(i.base.into()));
        let index = (i.index < 16).then(|| self.register(i.index.into()));
        let v = self.address_sum(base, index.map(|x| (x, i.scale & 3)), displacement);
        if matches!(i.asize, 2 | 4) { self.cut(Width(i.asize), v) } else { v }
    }

    fn address_sum(&mut self, base: Option<Val>, index: Option<(Val, u8)>, displacement: i64) -> Val {
        let short = i32::try_from(displacement).ok();
        if let (Some((x @ Val::Node(_), shift)), Some(disp)) = (index, short) {
            let base = base.map(|base| self.host(base));
            let x = self.host(x);
            let to = self.temporary();
            self.asm.lea(Q, to, At { base, index: Some((x, shift)), disp });
            return self.standing(to);
        }
        let base = base.unwrap_or(Val::Known(0));
        let sum = match index {
            Some((x, shift)) => {
                let x = self.two(Two::ShiftLeft, Q, x, Val::Known(shift.into()));
                self.two(Two::Add, Q, base, x)
            }
            None => base,
        };
        self.two(Two::Add, Q, sum, Val::Known(displacement as u64))
    }

    /// The memory operand's linear address, `by` bytes on, for so many bytes.
    pub(super) fn operand_address(&mut self, i: &Insn, by: Option<Val>, size: u64, write: bool) -> Val {
        let mut a = self.operand_offset(i);
        if let Some(by) = by {
            a = self.two(Two::Add, Q, a, by);
            if matches!(i.asize, 2 | 4) {
                a = self.cut(Width(i.asize), a);
            }
        }
        if !self.mode.is_64() {
            return self.in_segment(i.seg.into(), a, size, write);
        }
        let near = i.dst_kind() == Kind::Mem || i.src_kind() == Kind::Mem;
        if !near && i.seg < 6 {
            let base = self.temporary();
            self.asm.load(Q, base, Self::segment_place(i.seg));
            let base = self.standing(base);
            a = self.two(Two::Add, Q, a, base);
        }
        a
    }

    /// What the address of the memory operand begins with, as far as that matters: on the stack, the page that was used last is
    /// looked at before the TLB. Other registers lead to too many pages in code of this kind.
    pub(super) fn begins_with(i: &Insn) -> u8 {
        match i.base {
            STACK | FRAME => i.base,
            _ => near::ABSOLUTE,
        }
    }

    /// Where in the host's memory an access goes, perhaps by way of RAX, which holds until something else is computed.
    pub(super) fn probe(&mut self, linear: Val, size: u64, write: bool, begin: u8) -> At {
        if let Some(at) = self.probe_in_group(linear, size, write, begin) {
            return at;
        }
        let linear = self.host(linear);
        let noted = Near::index(begin, write);
        let site = match begin {
            near::ABSOLUTE => self.look_in_tlb(linear, size, write),
            _ => self.look_near(linear, noted, size),
        };
        let back = self.asm.len();
        // The slow path notes the page.
        let what = (noted as u64) << 8 | size << 1 | u64::from(write);
        let bail = self.bails.len() - 1;
        self.miss(Cold::Miss { site, back, linear, what, bail });
        At::sum(RAX, linear)
    }

    /// RAX := the addend of a page that was used last, or a jump.
    pub(super) fn look_near(&mut self, linear: Host, index: usize, size: u64) -> usize {
        let room = if size <= 16 { offset_of!(NearPage, room_16) } else { offset_of!(NearPage, room) };
        let page = (index * size_of::<NearPage>()) as i32;
        let field = |offset: usize| At::new(RAX, page + offset as i32);
        self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, near)));
        self.asm.copy(RCX, linear);
        self.asm.alu_load(Alu::Sub, Q, RCX, field(offset_of!(NearPage, tag)));
        self.asm.alu_load(Alu::Cmp, Q, RCX, field(room));
        let site = self.asm.jump_if(cond::NOT_BELOW);
        self.asm.load(Q, RAX, field(offset_of!(NearPage, addend)));
        site
    }

    /// RAX := the addend of the TLB's entry, or a jump.
    pub(super) fn look_in_tlb(&mut self, linear: Host, size: u64, write: bool) -> usize {
        let shift = size_of::<TlbEntry>().trailing_zeros() as u8;
        let tag = if write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
        self.asm.copy(RAX, linear);
        self.asm.copy(RCX, linear);
        self.asm.shift(Shift::Right, Q, RAX, 12 - shift);
        self.asm.shift(Shift::Right, Q, RCX, 21 - shift);
        self.asm.alu(Alu::Xor, D, RAX, RCX);
        self.asm.alu_constant(Alu::And, D, RAX, (ENTRIES as i32 - 1) << shift);
        self.asm.alu_load(Alu::Add, Q, RAX, Self::tlb_place());
        self.asm.load(Q, RCX, At::new(RAX, tag as i32));
        self.asm.alu(Alu::Xor, Q, RCX, linear);
        self.asm.alu_constant(Alu::Cmp, Q, RCX, (PAGE - size) as i32);
        let site = self.asm.jump_if(cond::ABOVE);
        self.asm.load(Q, RAX, At::new(RAX, offset_of!(TlbEntry, addend) as i32));
        site
    }

    pub(super) fn guest_load(&mut self, w: Width, linear: Val, begin: u8) -> Val {
        let at = self.probe(linear, w.0.into(), false, begin);
        let to = self.temporary();
        self.asm.load(w, to, at);
        self.bind(to, w.0);
        self.standing(to)
    }

    pub(super) fn guest_store(&mut self, w: Width, linear: Val, v: Val, begin: u8) {
        let v = self.fixed(v);
        let at = self.probe(linear, w.0.into(), true, begin);
        self.store_at(w, v, at);
    }

    fn store_at(&mut self, w: Width, v: Fixed, at: At) {
        match v {
            Fixed::In(host) => self.asm.store(w, host, at),
            Fixed::Known(k) => match i32::try_from(w.sext(k) as i64) {
                Ok(k) => self.asm.store_constant(w, k, at),
                Err(_) => {
                    self.asm.constant(RCX, k);
                    self.asm.store(w, RCX, at);
                }
            },
        }
    }

    /// Reads, computes, writes; atomically if the instruction is LOCKed.
    pub(super) fn guest_modify(
        &mut self,
        w: Width,
        i: &Insn,
        linear: Val,
        f: impl Fn(&mut Self, Val) -> Val,
    ) -> Result<(Val, Val), Unsupported> {
        let locked = i.has(attr::LOCK);
        if locked && w.0 > 1 {
            // The interpreter knows how the host does that to operands that are not aligned.
            let linear = self.host(linear);
            self.asm.test_constant(D, linear, i32::from(w.0) - 1);
            self.bail(cond::NOT_EQUAL);
        }
        let at = self.probe(linear, w.0.into(), true, Self::begins_with(i));
        let place = self.temporary();
        self.asm.lea(Q, place, at);
        let place = At::new(place, 0);
        let to = self.temporary();
        let again = self.asm.len();
        self.asm.load(w, to, place);
        self.bind(to, w.0);
        let old = self.standing(to);
        let new = f(self, old);
        let v = self.fixed(new);
        if locked {
            // All that was computed since `again` stands in registers that nothing else has had meanwhile: it is right the second
            // time as well.
            let new = match v {
                Fixed::In(host) => host,
                Fixed::Known(k) => {
                    self.asm.constant(RCX, k);
                    RCX
                }
            };
            self.asm.copy(RAX, to);
            self.asm.exchange_if_equal(w, place, new);
            let somebody_else = self.asm.jump_if(cond::NOT_EQUAL);
            self.asm.patch(somebody_else, again);
        } else {
            self.store_at(w, v, place);
        }
        Ok((old, new))
    }

    /// Leaves the instruction to the interpreter where a vector operand that must be aligned is not.
    pub(super) fn check_aligned(&mut self, i: &Insn, linear: Val, size: i32) {
        if i.has(attr::ALIGNED) {
            let linear = self.host(linear);
            self.asm.test_constant(D, linear, size - 1);
            self.bail(cond::NOT_EQUAL);
        }
    }

    pub(super) fn guest_load_vector(&mut self, linear: Val, begin: u8) -> Xmm {
        let at = self.probe(linear, 16, false, begin);
        let to = self.vector_register();
        self.asm.load_vector(to, at);
        to
    }

    /// A lane of 4 or 8 bytes of the memory operand, zeros above.
    pub(super) fn guest_lane(&mut self, w: Width, i: &Insn) -> Result<Xmm, Unsupported> {
        if !matches!(w, D | Q) {
            let v = self.guest(w, i);
            return Ok(self.lane_alone(v));
        }
        let linear = self.operand_address(i, None, w.0.into(), false);
        let at = self.probe(linear, w.0.into(), false, Self::begins_with(i));
        let to = self.vector_register();
        self.asm.load_lane(w, to, at);
        Ok(to)
    }

    pub(super) fn guest_store_vector(&mut self, linear: Val, v: Xmm, begin: u8) {
        let at = self.probe(linear, 16, true, begin);
        self.asm.store_vector(v, at);
    }

    /// What is done where the TLB did not vouch for an access: the stub fills it, or the interpreter runs the instruction.
    pub(super) fn write_miss(&mut self, linear: Host, what: u64, back: usize) -> usize {
        self.asm.push(RSI);
        // The stack stays aligned.
        self.asm.push(RSI);
        if linear != RSI {
            self.asm.copy(RSI, linear);
        }
        self.call_slow(what);
        self.asm.pop(RSI);
        self.asm.pop(RSI);
        self.asm.load(Q, RAX, Self::answer_place());
        self.asm.test(Q, RAX, RAX);
        let bail = self.asm.jump_if(cond::EQUAL);
        self.asm.alu(Alu::Sub, Q, RAX, linear);
        let on = self.asm.jump();
        self.asm.patch(on, back);
        bail
    }
}
