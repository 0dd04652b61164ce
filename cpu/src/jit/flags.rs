//! The status flags in translated code: what the last instruction did to them is kept as it is, and becomes the four words of
//! [`crate::flags`] or a single condition only where somebody asks.

use super::emitter::{Bit, Emitter, Val, integer};
use crate::{
    flags::Arith,
    state::Cpu,
    width::{Q, Width},
};
use cranelift_codegen::ir::{
    InstBuilder, InstructionData, Opcode, Value,
    condcodes::{CondCode, FloatCC, IntCC},
    types::*,
};

/// Where the flags are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    /// In the region's variables.
    Variables,
    /// What an instruction did.
    Arith(Width, Arith<Val, Bit>),
    /// As the four words.
    Words([Value; 4]),
    /// COMISD of two that are no NaNs.
    Relation { x: Value, y: Value },
    /// ZF and SF, PF as their words, the others by themselves.
    Parts { z: Value, s: Value, cf: Bit, of: Bit, af: Bit },
}

/// Flags that are to become words outside of translated code.
pub(super) struct Raw {
    /// As [`Cpu::settle_flags`] reads it.
    pub(super) kind: u32,
    pub(super) values: [Option<Value>; 2],
}

pub(super) const ADD: u32 = 1;
pub(super) const SUB: u32 = 2;
pub(super) const LOGIC: u32 = 3;
/// A comparison of floating-point numbers: bits 15:8 are as LAHF gives them.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what leaves it so is for that host"))]
pub(super) const RELATION: u32 = 4;

impl Cpu {
    /// Makes words of flags that translated code has left as they were; `kind` is [`Raw::kind`], 0 if there are none.
    pub(super) fn settle_flags(&mut self, kind: u32) {
        let w = Width((kind >> 8) as u8);
        let [x, y] = self.translated.raw.map(|v| w.mask(v));
        let what = match kind & 0xff {
            ADD => Arith::Add { a: x, r: y },
            SUB => Arith::Sub { a: x, b: y, r: w.mask(x.wrapping_sub(y)) },
            LOGIC => Arith::Logic { r: x },
            RELATION => {
                let bit = |n: u32| x >> (8 + n) & 1;
                let (cf, pf, zf) = (bit(0), bit(2), bit(6));
                // PF is the parity of the low byte.
                self.flags.set_carries(cf != 0, false, false);
                (self.flags.z, self.flags.s) = (zf ^ 1, pf ^ 1);
                return;
            }
            _ => return,
        };
        self.flags.set(w, what);
    }
}

impl Emitter<'_, '_> {
    /// What is pending, without work, if it can be left like that.
    pub(super) fn raw_flags(&mut self) -> Option<Raw> {
        let Pending::Arith(w, what) = self.pending else { return None };
        let (kind, first, second) = match what {
            Arith::Add { a, r } => (ADD, a, Some(r)),
            Arith::Sub { a, b, .. } => (SUB, a, Some(b)),
            Arith::Logic { r } => (LOGIC, r, None),
            Arith::Explicit { .. } => return None,
        };
        let values = [Some(self.value(w, first)), second.map(|v| self.value(w, v))];
        Some(Raw { kind: kind | u32::from(w.0) << 8, values })
    }

    /// The flags as they are at this point of the instruction.
    pub(super) fn current_flags(&self) -> Pending {
        self.new_flags.unwrap_or(self.pending)
    }

    /// A value, sign-extended.
    fn signed(&mut self, w: Width, v: Val) -> Value {
        match v {
            Val::Known(k) => self.constant(I64, w.sext(k) as i64),
            Val::Computed(_) => {
                let v = self.value(w, v);
                if w.0 == 8 { v } else { self.b.ins().sextend(I64, v) }
            }
        }
    }

    /// A value as it stands in the words l and t: at the top, with its low four bits repeated at the bottom.
    fn placed(&mut self, w: Width, v: Val) -> Value {
        if let Val::Known(k) = v {
            let k = w.mask(k);
            let k = if w.0 == 8 { k } else { k << (64 - w.bits()) | k & 15 };
            return self.constant(I64, k as i64);
        }
        let v = self.value(w, v);
        if w.0 == 8 {
            return v;
        }
        let v = self.b.ins().uextend(I64, v);
        let top = self.b.ins().ishl_imm_u(v, i64::from(64 - w.bits()));
        let low = self.b.ins().band_imm_u(v, 15);
        self.b.ins().bor(top, low)
    }

    /// The words l and t for CF, OF and AF: with a borrow out of bit 5 exactly where CF and OF differ.
    fn carry_words(&mut self, cf: Bit, of: Bit, af: Bit) -> (Value, Value) {
        use Bit::Known;
        if let (Known(false), Known(false), Known(false)) = (cf, of, af) {
            let zero = self.constant(I64, 0);
            return (zero, zero);
        }
        let not_cf = self.not_bit(cf);
        let overflow_only = self.and_bits(of, not_cf);
        let differ = self.xor_bits(cf, of);
        let put = |e: &mut Self, bit: Bit, at: i64| {
            let v = e.bit_as(I64, bit);
            e.b.ins().ishl_imm_u(v, at)
        };
        let (top, five) = (put(self, overflow_only, 63), put(self, af, 5));
        let l = self.b.ins().bor(top, five);
        let (top, five, low) = (put(self, cf, 63), put(self, differ, 5), self.bit_as(I64, af));
        let t = self.b.ins().bor(top, five);
        (l, self.b.ins().bor(t, low))
    }

    /// The four words.
    pub(super) fn flag_words(&mut self, pending: Pending) -> [Value; 4] {
        match pending {
            Pending::Variables => self.flags.map(|variable| self.b.use_var(variable)),
            Pending::Words(words) => words,
            Pending::Relation { .. } => {
                let (z, s) = self.zero_and_sign_words(pending);
                let cf = self.carry_of(pending);
                let (l, t) = self.carry_words(cf, Bit::Known(false), Bit::Known(false));
                [z, s, l, t]
            }
            Pending::Parts { z, s, cf, of, af } => {
                let (l, t) = self.carry_words(cf, of, af);
                [z, s, l, t]
            }
            Pending::Arith(w, what) => {
                let (Arith::Add { r, .. }
                | Arith::Sub { r, .. }
                | Arith::Logic { r }
                | Arith::Explicit { r, .. }) = what;
                let z = self.signed(w, r);
                let (l, t) = match what {
                    Arith::Add { a, r } => (self.placed(w, r), self.placed(w, a)),
                    Arith::Sub { a, b, .. } => (self.placed(w, a), self.placed(w, b)),
                    Arith::Logic { .. } => {
                        let zero = self.constant(I64, 0);
                        (zero, zero)
                    }
                    Arith::Explicit { cf, of, af, .. } => self.carry_words(cf, of, af),
                };
                [z, z, l, t]
            }
        }
    }

    fn compare(&mut self, how: IntCC, w: Width, a: Val, b: Val) -> Bit {
        let a = self.value(w, a);
        if let Val::Known(k) = b {
            return Bit::Computed(self.b.ins().icmp_imm_s(how, a, w.sext(k) as i64));
        }
        let b = self.value(w, b);
        Bit::Computed(self.b.ins().icmp(how, a, b))
    }
    fn against_zero(&mut self, how: IntCC, v: Value) -> Bit {
        Bit::Computed(self.b.ins().icmp_imm_s(how, v, 0))
    }

    /// CF.
    pub(super) fn carry_of(&mut self, pending: Pending) -> Bit {
        match pending {
            Pending::Arith(w, Arith::Sub { a, b, .. }) => self.compare(IntCC::UnsignedLessThan, w, a, b),
            Pending::Arith(w, Arith::Add { a, r }) => self.compare(IntCC::UnsignedLessThan, w, r, a),
            Pending::Arith(_, Arith::Logic { .. }) => Bit::Known(false),
            Pending::Relation { x, y } => self.relation(FloatCC::LessThan, x, y),
            Pending::Arith(_, Arith::Explicit { cf, .. }) | Pending::Parts { cf, .. } => cf,
            Pending::Variables | Pending::Words(_) => {
                let [_, _, l, t] = self.flag_words(pending);
                Bit::Computed(self.b.ins().icmp(IntCC::UnsignedLessThan, l, t))
            }
        }
    }

    /// OF.
    pub(super) fn overflow_of(&mut self, pending: Pending) -> Bit {
        match pending {
            Pending::Arith(_, Arith::Logic { .. }) | Pending::Relation { .. } => Bit::Known(false),
            Pending::Arith(_, Arith::Explicit { of, .. }) | Pending::Parts { of, .. } => of,
            Pending::Arith(w, Arith::Sub { a, b, r }) => {
                let (a, b, r) = (self.value(w, a), self.value(w, b), self.value(w, r));
                let (x, y) = (self.b.ins().bxor(a, b), self.b.ins().bxor(a, r));
                let o = self.b.ins().band(x, y);
                self.against_zero(IntCC::SignedLessThan, o)
            }
            Pending::Arith(w, Arith::Add { a, r }) => {
                let (a, r) = (self.value(w, a), self.value(w, r));
                let b = self.b.ins().isub(r, a);
                let (x, y) = (self.b.ins().bxor(r, a), self.b.ins().bxor(r, b));
                let o = self.b.ins().band(x, y);
                self.against_zero(IntCC::SignedLessThan, o)
            }
            Pending::Variables | Pending::Words(_) => {
                let [_, _, l, t] = self.flag_words(pending);
                let d = self.b.ins().isub(l, t);
                let (x, y) = (self.b.ins().bxor(l, t), self.b.ins().bxor(l, d));
                let o = self.b.ins().band(x, y);
                self.against_zero(IntCC::SignedLessThan, o)
            }
        }
    }

    /// AF.
    pub(super) fn adjust_of(&mut self, pending: Pending) -> Bit {
        match pending {
            Pending::Arith(_, Arith::Logic { .. }) | Pending::Relation { .. } => Bit::Known(false),
            Pending::Arith(_, Arith::Explicit { af, .. }) | Pending::Parts { af, .. } => af,
            _ => {
                let [_, _, l, t] = self.flag_words(pending);
                let d = self.b.ins().isub(l, t);
                let x = self.b.ins().bxor(l, t);
                let x = self.b.ins().bxor(x, d);
                let x = self.b.ins().ushr_imm_u(x, 4);
                let x = self.b.ins().ireduce(I8, x);
                Bit::Computed(self.b.ins().band_imm_u(x, 1))
            }
        }
    }

    /// ZF.
    pub(super) fn zero_of(&mut self, pending: Pending) -> Bit {
        match pending {
            Pending::Arith(w, Arith::Sub { a, b, .. }) => self.compare(IntCC::Equal, w, a, b),
            Pending::Arith(w, Arith::Add { r, .. } | Arith::Logic { r } | Arith::Explicit { r, .. }) => {
                self.compare(IntCC::Equal, w, r, Val::Known(0))
            }
            // Of what is ordered, which is one jump less than Cranelift's `Equal`.
            Pending::Relation { x, y } => self.relation(FloatCC::UnorderedOrEqual, x, y),
            Pending::Parts { z, .. } => self.against_zero(IntCC::Equal, z),
            Pending::Variables | Pending::Words(_) => {
                let z = self.flag_words(pending)[0];
                self.against_zero(IntCC::Equal, z)
            }
        }
    }

    /// The word of SF and PF.
    fn sign_word(&mut self, pending: Pending) -> Value {
        match pending {
            Pending::Arith(
                w,
                Arith::Sub { r, .. } | Arith::Add { r, .. } | Arith::Logic { r } | Arith::Explicit { r, .. },
            ) => self.signed(w, r),
            Pending::Relation { .. } => self.constant(I64, 1),
            Pending::Parts { s, .. } => s,
            Pending::Variables | Pending::Words(_) => self.flag_words(pending)[1],
        }
    }

    fn sign_of(&mut self, pending: Pending) -> Bit {
        match pending {
            Pending::Arith(
                w,
                Arith::Sub { r, .. } | Arith::Add { r, .. } | Arith::Logic { r } | Arith::Explicit { r, .. },
            ) => self.compare(IntCC::SignedLessThan, w, r, Val::Known(0)),
            _ => {
                let s = self.sign_word(pending);
                self.against_zero(IntCC::SignedLessThan, s)
            }
        }
    }

    fn parity_of(&mut self, pending: Pending) -> Bit {
        let s = self.sign_word(pending);
        let byte = self.b.ins().ireduce(I8, s);
        let ones = self.b.ins().popcnt(byte);
        let odd = self.b.ins().band_imm_u(ones, 1);
        Bit::Computed(self.b.ins().bxor_imm_u(odd, 1))
    }

    fn relation(&mut self, how: FloatCC, x: Value, y: Value) -> Bit {
        Bit::Computed(self.b.ins().fcmp(how, x, y))
    }

    /// The condition of Jcc, SETcc and CMOVcc; `cc` is the low nibble of the opcode.
    pub(super) fn condition_of(&mut self, pending: Pending, cc: u8) -> Bit {
        if let Pending::Relation { x, y } = pending {
            let how = match cc {
                0x2 => FloatCC::LessThan,
                0x3 => FloatCC::GreaterThanOrEqual,
                0x4 => FloatCC::UnorderedOrEqual,
                0x5 => FloatCC::OrderedNotEqual,
                0x6 => FloatCC::LessThanOrEqual,
                0x7 => FloatCC::GreaterThan,
                // SF, OF and PF are 0.
                0x0 | 0x8 | 0xa | 0xc => return Bit::Known(false),
                0x1 | 0x9 | 0xb | 0xd => return Bit::Known(true),
                0xe => FloatCC::UnorderedOrEqual,
                _ => FloatCC::OrderedNotEqual,
            };
            return self.relation(how, x, y);
        }
        let c = match (cc >> 1 & 7, pending) {
            (3, Pending::Arith(w, Arith::Sub { a, b, .. })) => {
                self.compare(IntCC::UnsignedLessThanOrEqual, w, a, b)
            }
            (6, Pending::Arith(w, Arith::Sub { a, b, .. })) => self.compare(IntCC::SignedLessThan, w, a, b),
            (7, Pending::Arith(w, Arith::Sub { a, b, .. })) => {
                self.compare(IntCC::SignedLessThanOrEqual, w, a, b)
            }
            (3, Pending::Arith(_, Arith::Logic { .. })) => self.zero_of(pending),
            (6, Pending::Arith(_, Arith::Logic { .. })) => self.sign_of(pending),
            (7, Pending::Arith(w, Arith::Logic { r })) => {
                self.compare(IntCC::SignedLessThanOrEqual, w, r, Val::Known(0))
            }
            (0, _) => self.overflow_of(pending),
            (1, _) => self.carry_of(pending),
            (2, _) => self.zero_of(pending),
            (3, _) => {
                let (z, c) = (self.zero_of(pending), self.carry_of(pending));
                self.or_bits(z, c)
            }
            (4, _) => self.sign_of(pending),
            (5, _) => self.parity_of(pending),
            (k, _) => {
                let (s, o) = (self.sign_of(pending), self.overflow_of(pending));
                let less = self.xor_bits(s, o);
                if k == 6 {
                    less
                } else {
                    let z = self.zero_of(pending);
                    self.or_bits(z, less)
                }
            }
        };
        if cc & 1 != 0 { self.not_bit(c) } else { c }
    }

    /// The flags with CF and OF, if `c`, replaced.
    pub(super) fn with_carries(&mut self, c: Bit, cf: Bit, of: Bit) -> Pending {
        let old = self.current_flags();
        let (old_cf, old_of, af) = (self.carry_of(old), self.overflow_of(old), self.adjust_of(old));
        let (z, s) = self.zero_and_sign_words(old);
        let (cf, of) = (self.select_bit(c, cf, old_cf), self.select_bit(c, of, old_of));
        Pending::Parts { z, s, cf, of, af }
    }

    /// The flags with ZF replaced.
    pub(super) fn with_zero(&mut self, zero: Bit) -> Pending {
        let old = self.current_flags();
        let (cf, of, af) = (self.carry_of(old), self.overflow_of(old), self.adjust_of(old));
        let s = self.sign_word(old);
        let some = self.not_bit(zero);
        let z = self.bit_as(I64, some);
        Pending::Parts { z, s, cf, of, af }
    }

    fn zero_and_sign_words(&mut self, pending: Pending) -> (Value, Value) {
        match pending {
            Pending::Parts { z, s, .. } => (z, s),
            Pending::Relation { x, y } => {
                let differ = self.relation(FloatCC::OrderedNotEqual, x, y);
                (self.bit_as(I64, differ), self.constant(I64, 1))
            }
            Pending::Arith(..) => {
                let s = self.sign_word(pending);
                (s, s)
            }
            Pending::Variables | Pending::Words(_) => {
                let [z, s, ..] = self.flag_words(pending);
                (z, s)
            }
        }
    }

    /// The new flags if `c`, else the old.
    pub(super) fn choose_flags(&mut self, c: Bit, w: Width, what: Arith<Val, Bit>) -> Pending {
        let new = Pending::Arith(w, what);
        let c = match c {
            Bit::Known(true) => return new,
            Bit::Known(false) => return self.current_flags(),
            Bit::Computed(c) => c,
        };
        let old = self.current_flags();
        let (old, new) = (self.flag_words(old), self.flag_words(new));
        let mut words = old;
        for k in 0..4 {
            words[k] = self.b.ins().select(c, new[k], old[k]);
        }
        Pending::Words(words)
    }

    // Truth values.

    pub(super) fn bit_as(&mut self, t: cranelift_codegen::ir::Type, bit: Bit) -> Value {
        match bit {
            Bit::Known(k) => self.constant(t, k.into()),
            Bit::Computed(v) if t == I8 => v,
            Bit::Computed(v) => self.b.ins().uextend(t, v),
        }
    }
    /// The opposite. Of a comparison it is another comparison, which a branch takes as it is: nothing simplifies what is emitted.
    pub(super) fn not_bit(&mut self, a: Bit) -> Bit {
        let v = match a {
            Bit::Known(k) => return Bit::Known(!k),
            Bit::Computed(v) => v,
        };
        let dfg = &self.b.func.dfg;
        let made = dfg.value_def(v).inst().map(|inst| dfg.insts[inst]);
        if let Some(InstructionData::IntCompare { cond, args: [x, y], .. }) = made {
            return Bit::Computed(self.b.ins().icmp(cond.complement(), x, y));
        }
        Bit::Computed(self.b.ins().bxor_imm_u(v, 1))
    }
    pub(super) fn and_bits(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(true), x) | (x, Bit::Known(true)) => x,
            (Bit::Known(false), _) | (_, Bit::Known(false)) => Bit::Known(false),
            (Bit::Computed(a), Bit::Computed(b)) => Bit::Computed(self.b.ins().band(a, b)),
        }
    }
    pub(super) fn or_bits(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(false), x) | (x, Bit::Known(false)) => x,
            (Bit::Known(true), _) | (_, Bit::Known(true)) => Bit::Known(true),
            (Bit::Computed(a), Bit::Computed(b)) => Bit::Computed(self.b.ins().bor(a, b)),
        }
    }
    pub(super) fn xor_bits(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(false), x) | (x, Bit::Known(false)) => x,
            (Bit::Known(true), x) | (x, Bit::Known(true)) => self.not_bit(x),
            (Bit::Computed(a), Bit::Computed(b)) => Bit::Computed(self.b.ins().bxor(a, b)),
        }
    }
    fn select_bit(&mut self, c: Bit, a: Bit, b: Bit) -> Bit {
        match c {
            Bit::Known(true) => a,
            Bit::Known(false) => b,
            Bit::Computed(c) => {
                let (a, b) = (self.bit_as(I8, a), self.bit_as(I8, b));
                Bit::Computed(self.b.ins().select(c, a, b))
            }
        }
    }

    /// A value in a register of the width's type, whatever it had before.
    pub(super) fn value(&mut self, w: Width, v: Val) -> Value {
        let t = integer(w);
        match v {
            Val::Known(k) => self.constant(t, w.mask(k) as i64),
            Val::Computed(v) => {
                let v = self.integer_bits(v);
                let its = self.b.func.dfg.value_type(v);
                if its == t {
                    v
                } else if its.bits() > t.bits() {
                    self.b.ins().ireduce(t, v)
                } else {
                    self.b.ins().uextend(t, v)
                }
            }
        }
    }

    /// Whether two values are the same part of the same register.
    pub(super) fn same_register(&self, x: Value, y: Value) -> bool {
        let origin = |v| {
            let dfg = &self.b.func.dfg;
            match dfg.value_def(v).inst().map(|inst| dfg.insts[inst]) {
                Some(InstructionData::Unary { opcode: Opcode::Ireduce, arg }) => arg,
                _ => v,
            }
        };
        x == y || origin(x) == origin(y) && self.b.func.dfg.value_type(x) == self.b.func.dfg.value_type(y)
    }

    /// All 64 bits of a value.
    pub(super) fn wide(&mut self, w: Width, v: Val) -> Value {
        match v {
            Val::Known(k) => self.constant(I64, w.mask(k) as i64),
            Val::Computed(_) => {
                let v = self.value(w, v);
                self.value(Q, Val::Computed(v))
            }
        }
    }
}
