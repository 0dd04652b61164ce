//! The status flags in one-pass translation: what the last instruction did to them is kept for conditions and for the ways
//! out, and becomes the four words of [`crate::flags`] where another block, or plain Rust, will look at them.

use super::{
    Writer,
    assembler::{Alu, At, Host, RAX, RCX, RDX, Shift, cond},
    values::{Bit, Fixed, Val},
};
use crate::{
    flags::{Arith, CARRIES},
    jit::flags::{ADD, LOGIC, RELATION, SUB},
    width::{B, D, Q, Width},
};

/// What the flags follow from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    /// The words alone.
    Words,
    Add {
        w: Width,
        a: Fixed,
        r: Fixed,
    },
    Sub {
        w: Width,
        a: Fixed,
        b: Fixed,
    },
    Logic {
        w: Width,
        r: Fixed,
    },
    /// ZF, SF and PF follow from this, the others from the words.
    Result {
        w: Width,
        r: Fixed,
    },
    /// A comparison of floating-point numbers: bits 15:8 are as LAHF gives them, and OF is 0.
    Relation {
        r: Host,
    },
}

/// What an instruction does to the flags.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    To(Width, Arith<Val, Bit>),
    ToIf(Bit, Width, Arith<Val, Bit>),
    Carry(Bit),
    CarryOverflowIf(Bit, Bit, Bit),
    Zero(Bit),
    /// As [`Pending::Relation`].
    Relation(Host),
}

/// Flags that are not words, as [`crate::state::Cpu`] makes words of them: kind, and two values.
pub(super) type Raw = (u32, Fixed, Option<Fixed>);

/// CF alone, as the difference of l and t: [`CARRIES`] has no other bit there.
const RELATION_CARRY: u8 = 5;
const _: () = assert!(CARRIES[0][0] == 0 && CARRIES[1][0] == 0 && CARRIES[1][1] == 1 << RELATION_CARRY);

const Z: usize = 0;
const S: usize = 1;
const L: usize = 2;
const T: usize = 3;

/// The low byte of a word.
fn word(n: usize) -> At {
    Writer::flag_place(n)
}

impl Writer {
    // Conditions.

    /// A condition of the flags as the instruction finds them.
    pub(super) fn flag_bit(&self, cc: u8) -> Bit {
        match (self.pending, cc & !1) {
            (Pending::Logic { .. }, cond::OVERFLOW | cond::BELOW)
            | (Pending::Relation { .. }, cond::OVERFLOW) => Bit::Known(cc & 1 != 0),
            _ => Bit::Flags(cc),
        }
    }

    /// A value in a register: this one if it is none.
    fn placed_in(&mut self, v: Fixed, scratch: Host) -> Host {
        match v {
            Fixed::In(host) => host,
            Fixed::Known(k) => {
                self.asm.constant(scratch, k);
                scratch
            }
        }
    }

    /// Emits what gives the host's flags; the condition under which the guest's holds. Uses RAX and RCX.
    pub(super) fn pending_condition(&mut self, cc: u8) -> u8 {
        let of_result = matches!(cc & !1, cond::EQUAL | cond::SIGN | cond::PARITY);
        match self.pending {
            Pending::Sub { w, a, b } => {
                self.compare(w, a, b);
                cc
            }
            Pending::Logic { w, r } => {
                let r = self.placed_in(r, RAX);
                self.asm.test(w, r, r);
                cc
            }
            Pending::Add { w, r, .. } | Pending::Result { w, r } if of_result => {
                let r = self.placed_in(r, RAX);
                self.asm.test(w, r, r);
                cc
            }
            Pending::Add { w, a, r } => {
                // The addition again: the result less one operand is the other.
                match r {
                    Fixed::In(r) => self.asm.copy(RAX, r),
                    Fixed::Known(k) => self.asm.constant(RAX, k),
                }
                let a = self.placed_in(a, RCX);
                self.asm.alu(Alu::Sub, w, RAX, a);
                self.asm.alu(Alu::Add, w, RAX, a);
                cc
            }
            Pending::Relation { r } => {
                self.related(r);
                cc
            }
            Pending::Words | Pending::Result { .. } => self.condition_of_words(cc),
        }
    }

    /// The host's flags := those of a comparison of floating-point numbers. Uses RAX.
    fn related(&mut self, r: Host) {
        self.asm.copy32(RAX, r);
        // OF is 0 behind it.
        self.asm.test(D, RAX, RAX);
        self.asm.flags_from_ah();
    }

    fn condition_of_words(&mut self, cc: u8) -> u8 {
        let carries = |e: &mut Self| {
            // A subtraction that has the guest's CF, OF and AF.
            e.asm.load(Q, RAX, word(L));
            e.asm.alu_load(Alu::Cmp, Q, RAX, word(T));
        };
        match cc & !1 {
            cond::OVERFLOW | cond::BELOW => {
                carries(self);
                return cc;
            }
            cond::EQUAL => {
                self.asm.alu_memory(Alu::Cmp, Q, word(Z), 0);
                return cc;
            }
            cond::SIGN => {
                self.asm.alu_memory(Alu::Cmp, Q, word(S), 0);
                return cc;
            }
            cond::PARITY => {
                self.asm.alu_memory(Alu::Cmp, B, word(S), 0);
                return cc;
            }
            _ => {}
        }
        carries(self);
        let unsigned = cc & !1 == cond::NOT_ABOVE;
        self.asm.set(if unsigned { cond::BELOW } else { cond::OVERFLOW }, RCX);
        if !unsigned {
            self.asm.alu_memory(Alu::Cmp, Q, word(S), 0);
            self.asm.set(cond::SIGN, RAX);
            self.asm.alu(Alu::Xor, B, RCX, RAX);
        }
        if cc & !1 != cond::LESS {
            self.asm.alu_memory(Alu::Cmp, Q, word(Z), 0);
            self.asm.set(cond::EQUAL, RAX);
            self.asm.alu(Alu::Or, B, RCX, RAX);
        }
        self.asm.test(B, RCX, RCX);
        cond::NOT_EQUAL ^ (cc & 1)
    }

    // Words.

    fn store_word(&mut self, n: usize, v: Fixed) {
        match v {
            Fixed::In(host) => self.asm.store(Q, host, word(n)),
            Fixed::Known(k) => match i32::try_from(k as i64) {
                Ok(k) => self.asm.store_constant(Q, k, word(n)),
                Err(_) => {
                    self.asm.constant(RAX, k);
                    self.asm.store(Q, RAX, word(n));
                }
            },
        }
    }

    /// ZF, SF and PF by a result.
    fn store_result(&mut self, w: Width, r: Fixed) {
        let v = match r {
            Fixed::Known(k) => Fixed::Known(w.sext(k)),
            Fixed::In(host) if w == Q => Fixed::In(host),
            Fixed::In(host) => {
                self.asm.sign_extend(w, RAX, host);
                Fixed::In(RAX)
            }
        };
        self.store_word(Z, v);
        self.store_word(S, v);
    }

    /// A value as it stands in l and t: at the top, and its low four bits at the bottom. From 16 bits on, the low eight do as
    /// well, and cost less: a borrow out of them would change OF only where the operands differ in the top bit alone, and
    /// then there is none.
    fn store_placed(&mut self, n: usize, w: Width, v: Fixed) {
        let v = match v {
            Fixed::Known(k) if w == Q => Fixed::Known(k),
            Fixed::Known(k) => {
                let low = if w == B { 15 } else { 0xff };
                Fixed::Known(w.mask(k) << (64 - w.bits()) | k & low)
            }
            Fixed::In(host) if w == Q => Fixed::In(host),
            Fixed::In(host) => {
                self.asm.copy(RAX, host);
                self.asm.shift(Shift::Left, Q, RAX, (64 - w.bits()) as u8);
                if w == B {
                    self.asm.copy32(RCX, host);
                    self.asm.alu_constant(Alu::And, D, RCX, 15);
                    self.asm.alu(Alu::Or, Q, RAX, RCX);
                } else {
                    self.asm.merge(B, RAX, host);
                }
                Fixed::In(RAX)
            }
        };
        self.store_word(n, v);
    }

    /// Makes words of what is pending.
    pub(super) fn flush_flags(&mut self) {
        if std::mem::replace(&mut self.stored, true) {
            return;
        }
        match self.pending {
            Pending::Words | Pending::Result { .. } => {}
            Pending::Add { w, a, r } => {
                self.store_result(w, r);
                self.store_placed(L, w, r);
                self.store_placed(T, w, a);
            }
            Pending::Sub { w, a, b } => {
                self.store_difference(w, a, b);
                self.store_placed(L, w, a);
                self.store_placed(T, w, b);
            }
            Pending::Logic { w, r } => {
                self.store_result(w, r);
                self.store_word(L, Fixed::Known(0));
                self.store_word(T, Fixed::Known(0));
            }
            Pending::Relation { r } => {
                self.related(r);
                // Nothing here changes the host's flags until all have been asked for. PF is the parity of the low byte.
                for (n, cc) in [(Z, cond::NOT_EQUAL), (S, cond::PARITY ^ 1), (T, cond::BELOW)] {
                    self.asm.set(cc, RCX);
                    self.asm.zero_extend(B, RCX, RCX);
                    if n == T {
                        self.asm.shift(Shift::Left, D, RCX, RELATION_CARRY);
                    }
                    self.store_word(n, Fixed::In(RCX));
                }
                self.store_word(L, Fixed::Known(0));
            }
        }
    }

    fn store_difference(&mut self, w: Width, a: Fixed, b: Fixed) {
        if b == Fixed::Known(0) {
            return self.store_result(w, a);
        }
        match a {
            Fixed::In(a) => self.asm.copy(RAX, a),
            Fixed::Known(k) => self.asm.constant(RAX, k),
        }
        let b = self.placed_in(b, RCX);
        self.asm.alu(Alu::Sub, if w == Q { Q } else { D }, RAX, b);
        self.store_result(w, Fixed::In(RAX));
    }

    /// What is pending, for a way out where words would be work for nothing.
    pub(super) fn raw_flags(&self) -> Option<Raw> {
        if self.stored {
            return None;
        }
        match self.pending {
            Pending::Add { w, a, r } => Some((ADD | u32::from(w.0) << 8, a, Some(r))),
            Pending::Sub { w, a, b } => Some((SUB | u32::from(w.0) << 8, a, Some(b))),
            Pending::Logic { w, r } => Some((LOGIC | u32::from(w.0) << 8, r, None)),
            Pending::Relation { r } => Some((RELATION | u32::from(Q.0) << 8, Fixed::In(r), None)),
            Pending::Words | Pending::Result { .. } => None,
        }
    }

    // Changes.

    /// The flags follow from this from now on.
    fn pend(&mut self, pending: Pending, stored: bool) {
        let bit = |v: Fixed| match v {
            Fixed::In(host) => 1 << host.0,
            Fixed::Known(_) => 0,
        };
        self.kept = match pending {
            Pending::Words => 0,
            Pending::Add { a, r, .. } => bit(a) | bit(r),
            Pending::Sub { a, b, .. } => bit(a) | bit(b),
            Pending::Logic { r, .. } | Pending::Result { r, .. } => bit(r),
            Pending::Relation { r } => bit(Fixed::In(r)),
        };
        (self.pending, self.stored) = (pending, stored);
    }

    /// Nobody will look at the flags before they are written again.
    pub(super) fn drop_flags(&mut self) {
        self.pend(Pending::Words, true);
    }

    /// Has all that changes are made of in registers, before registers change.
    pub(super) fn prepare_change(&mut self, change: Change) {
        match change {
            Change::To(_, what) => self.prepare_arith(what),
            Change::ToIf(c, _, what) => {
                self.prepare(c);
                self.prepare_arith(what);
            }
            Change::Carry(c) | Change::Zero(c) => self.prepare(c),
            Change::CarryOverflowIf(c, cf, of) => [c, cf, of].into_iter().for_each(|bit| self.prepare(bit)),
            Change::Relation(_) => {}
        }
    }

    fn prepare_arith(&mut self, what: Arith<Val, Bit>) {
        match what {
            Arith::Add { a, r } => {
                self.fixed(a);
                self.fixed(r);
            }
            Arith::Sub { a, b, .. } => {
                self.fixed(a);
                self.fixed(b);
            }
            Arith::Logic { r } => {
                self.fixed(r);
            }
            Arith::Explicit { r, cf, of, af } => {
                self.fixed(r);
                [cf, of, af].into_iter().for_each(|bit| self.prepare(bit));
            }
        }
    }

    /// Makes a change for which [`Writer::prepare_change`] was called.
    pub(super) fn change_flags(&mut self, change: Change) {
        match change {
            Change::To(w, what) => self.set_to(w, what),
            Change::ToIf(Bit::Known(true), w, what) => self.set_to(w, what),
            Change::ToIf(Bit::Known(false), ..) => {}
            Change::ToIf(c, w, what) => {
                self.flush_flags();
                let cc = self.condition_now(c);
                let over = self.asm.jump_if(cc ^ 1);
                self.set_to(w, what);
                self.flush_flags();
                self.land(over);
            }
            Change::Carry(c) => {
                self.flush_flags();
                self.store_carries(c, self.flag_bit(cond::OVERFLOW), None);
                self.pend(Pending::Words, true);
            }
            Change::CarryOverflowIf(c, cf, of) => {
                self.flush_flags();
                let over = match c {
                    Bit::Known(true) => None,
                    Bit::Known(false) => return,
                    _ => {
                        let cc = self.condition_now(c);
                        Some(self.asm.jump_if(cc ^ 1))
                    }
                };
                self.store_carries(cf, of, None);
                match over {
                    Some(over) => self.land(over),
                    None => self.pend(Pending::Words, true),
                }
            }
            Change::Zero(z) => {
                self.flush_flags();
                match z {
                    Bit::Known(z) => self.store_word(Z, Fixed::Known((!z).into())),
                    _ => {
                        let cc = self.condition_now(z);
                        self.asm.set(cc ^ 1, RAX);
                        self.asm.zero_extend(B, RAX, RAX);
                        self.store_word(Z, Fixed::In(RAX));
                    }
                }
                self.pend(Pending::Words, true);
            }
            Change::Relation(r) => self.pend(Pending::Relation { r }, false),
        }
    }

    /// The end of a way on which nothing was stored.
    fn land(&mut self, over: usize) {
        let here = self.asm.len();
        self.asm.patch(over, here);
        self.pend(Pending::Words, true);
    }

    fn set_to(&mut self, w: Width, what: Arith<Val, Bit>) {
        match what {
            Arith::Add { a, r } => {
                let (a, r) = (self.fixed(a), self.fixed(r));
                self.pend(Pending::Add { w, a, r }, false);
            }
            Arith::Sub { a, b, .. } => {
                let (a, b) = (self.fixed(a), self.fixed(b));
                self.pend(Pending::Sub { w, a, b }, false);
            }
            Arith::Logic { r } => {
                let r = self.fixed(r);
                self.pend(Pending::Logic { w, r }, false);
            }
            Arith::Explicit { r, cf, of, af } => {
                let r = self.fixed(r);
                // First what may follow from the flags as they were.
                self.store_carries(cf, of, Some(af));
                self.store_result(w, r);
                self.pend(Pending::Result { w, r }, true);
            }
        }
    }

    /// The words l and t for CF, OF and AF; without one, AF stays. Uses RDX besides.
    fn store_carries(&mut self, cf: Bit, of: Bit, af: Option<Bit>) {
        if let (Bit::Known(cf), Bit::Known(of), Some(Bit::Known(af))) = (cf, of, af) {
            let [l, t] = CARRIES[usize::from(af) << 2 | usize::from(of) << 1 | usize::from(cf)];
            self.store_word(L, Fixed::Known(l));
            self.store_word(T, Fixed::Known(t));
            return;
        }
        // RDX becomes the place in the table.
        match af {
            Some(Bit::Known(k)) => self.asm.constant(RDX, k.into()),
            Some(bit) => {
                let cc = self.condition_now(bit);
                self.asm.set(cc, RDX);
                self.asm.zero_extend(B, RDX, RDX);
            }
            None => {
                // Bit 4 of l ^ t ^ (l - t).
                self.asm.load(Q, RAX, word(L));
                self.asm.copy(RDX, RAX);
                self.asm.alu_load(Alu::Xor, D, RDX, word(T));
                self.asm.alu_load(Alu::Sub, D, RAX, word(T));
                self.asm.alu(Alu::Xor, D, RDX, RAX);
                self.asm.shift(Shift::Right, D, RDX, 4);
                self.asm.alu_constant(Alu::And, D, RDX, 1);
            }
        }
        for bit in [of, cf] {
            let (index, added) = match bit {
                Bit::Known(k) => (None, k),
                _ => {
                    let cc = self.condition_now(bit);
                    self.asm.set(cc, RAX);
                    self.asm.zero_extend(B, RAX, RAX);
                    (Some(RAX), false)
                }
            };
            match index {
                Some(host) => self.asm.lea(D, RDX, At { base: Some(host), index: Some((RDX, 1)), disp: 0 }),
                None => {
                    self.asm.lea(D, RDX, At { base: Some(RDX), index: Some((RDX, 0)), disp: added.into() })
                }
            }
        }
        self.asm.constant(RAX, CARRIES.as_ptr() as u64);
        self.asm.shift(Shift::Left, D, RDX, 4);
        let entry = At::sum(RAX, RDX);
        self.asm.load(Q, RCX, entry);
        self.asm.store(Q, RCX, word(L));
        self.asm.load(Q, RCX, entry.behind(8));
        self.asm.store(Q, RCX, word(T));
    }
}
