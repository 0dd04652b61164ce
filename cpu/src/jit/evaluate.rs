//! The semantics with Cranelift values: what [`Emit`] asks for, an operation each.

use super::{
    emitter::{Bit, Emitter, Untranslatable, Val, integer},
    flags::Pending,
};
use crate::{
    emit::{Emit, Emitted, HIGH},
    fault::Stop,
    flags::Arith,
    insn::{Insn, Kind},
    state::{Cpu, seg},
    vector::{FloatOp, Fused, Lanes, TernaryOp, VecOp},
    width::{B, D, Q, Width},
};
use Val::{Computed, Known};
use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types::*};

/// Where what is known of the stack is noted.
const STACK: u8 = crate::state::reg::RSP >> 3;

type Pair = Result<(Val, Val), Untranslatable>;

impl Emitter<'_, '_> {
    fn two(
        &mut self,
        w: Width,
        (a, b): (Val, Val),
        known: impl Fn(u64, u64) -> u64,
        emit: impl Fn(&mut Self, Value, Value) -> Value,
    ) -> Val {
        if let (Known(a), Known(b)) = (a, b) {
            return Known(w.mask(known(a, b)));
        }
        let (a, b) = (self.value(w, a), self.value(w, b));
        Computed(emit(self, a, b))
    }

    /// A shift by a count below 64, whatever the width.
    fn shift(
        &mut self,
        w: Width,
        (a, n): (Val, Val),
        known: impl Fn(u64, u64) -> u64,
        emit: impl Fn(&mut Self, Value, Value) -> Value,
        signed: bool,
    ) -> Val {
        if let (Known(a), Known(n)) = (a, n) {
            return Known(w.mask(known(a, n & 63)));
        }
        if let Known(n) = n {
            if n & 63 == 0 {
                return a;
            }
            if w.0 >= 4 && n & 63 < u64::from(w.bits()) {
                let (a, n) = (self.value(w, a), self.constant(I8, n as i64 & 63));
                return Computed(emit(self, a, n));
            }
        }
        if w.0 == 8 {
            let (a, n) = (self.value(w, a), self.value(B, n));
            return Computed(emit(self, a, n));
        }
        // Counts may reach beyond the width: 64 bits are enough for all of them.
        let a = if signed { self.sext(w, Q, a) } else { self.zext(w, Q, a) };
        let (a, n) = (self.value(Q, a), self.value(B, n));
        let v = emit(self, a, n);
        Computed(self.value(w, Computed(v)))
    }

    fn compare_with(&mut self, how: IntCC, w: Width, a: Val, b: Val, known: bool) -> Bit {
        if let (Known(_), Known(_)) = (a, b) {
            return Bit::Known(known);
        }
        let a = self.value(w, a);
        if let Known(k) = b {
            return Bit::Computed(self.b.ins().icmp_imm_s(how, a, w.sext(k) as i64));
        }
        let b = self.value(w, b);
        Bit::Computed(self.b.ins().icmp(how, a, b))
    }

    /// The half that a product's upper part is, by 64 bits where they are enough.
    fn high(&mut self, w: Width, a: Val, b: Val, signed: bool) -> Val {
        if w.0 == 8 {
            let (a, b) = (self.value(Q, a), self.value(Q, b));
            return Computed(if signed { self.b.ins().smulhi(a, b) } else { self.b.ins().umulhi(a, b) });
        }
        let (a, b) = match signed {
            true => (self.sext(w, Q, a), self.sext(w, Q, b)),
            false => (self.zext(w, Q, a), self.zext(w, Q, b)),
        };
        let (a, b) = (self.value(Q, a), self.value(Q, b));
        let product = self.b.ins().imul(a, b);
        let high = self.b.ins().ushr_imm_u(product, i64::from(w.bits()));
        Computed(self.value(w, Computed(high)))
    }

    fn on_stack(&mut self, at: Val, w: Width, write: bool) -> Value {
        let at = self.wide(Q, at);
        if self.region.mode.is_64() { at } else { self.in_segment(seg::SS, at, w.0.into(), write) }
    }

    fn guest(&mut self, t: Type, i: &Insn) -> Value {
        let at = self.operand_address(i, None, t.bytes().into(), false);
        self.guest_load(t, at, Self::begins_with(i))
    }
}

#[allow(clippy::missing_docs_in_private_items)]
impl Emit for Emitter<'_, '_> {
    type Val = Val;
    type Bit = Bit;
    type Vec = Value;
    type Stop = Untranslatable;
    type Flow = ();

    fn source_w(&mut self, w: Width, i: &Insn) -> Result<Val, Untranslatable> {
        Ok(match i.src_kind() {
            Kind::Reg => self.get(w, i.src),
            Kind::Imm => Known(w.mask(i.imm64())),
            _ => Computed(self.guest(integer(w), i)),
        })
    }
    fn target(&mut self, i: &Insn) -> Result<Val, Untranslatable> {
        Ok(match i.dst_kind() {
            Kind::Reg => self.get(i.w, i.dst),
            _ => Computed(self.guest(integer(i.w), i)),
        })
    }
    fn put(&mut self, i: &Insn, v: Val) -> Emitted<Self> {
        match i.dst_kind() {
            Kind::Reg => self.set(i.w, i.dst, v),
            _ => {
                let at = self.operand_address(i, None, i.w.0.into(), true);
                let v = self.value(i.w, v);
                self.guest_store(v, at, Self::begins_with(i));
            }
        }
        Ok(())
    }
    fn update(&mut self, i: &Insn, f: impl Fn(&mut Self, Val) -> Val) -> Pair {
        if i.dst_kind() == Kind::Reg {
            let old = self.get(i.w, i.dst);
            let new = f(self, old);
            self.set(i.w, i.dst, new);
            return Ok((old, new));
        }
        let at = self.operand_address(i, None, i.w.0.into(), true);
        self.guest_modify(i.w, i, at, f)
    }
    fn address(&mut self, i: &Insn, by: Option<Val>, size: u8, write: bool) -> Result<Val, Untranslatable> {
        Ok(Computed(self.operand_address(i, by, size.into(), write)))
    }
    fn offset(&mut self, i: &Insn) -> Val {
        self.operand_offset(i)
    }
    fn get(&mut self, w: Width, r: u8) -> Val {
        let mut v = self.register(usize::from(r >> 3));
        if r & 7 != 0 {
            v = self.b.ins().ushr_imm_u(v, 8 * i64::from(r & 7));
        }
        Computed(self.value(w, Computed(v)))
    }
    fn set(&mut self, w: Width, r: u8, v: Val) {
        let n = usize::from(r >> 3);
        let v = if w.0 >= 4 {
            self.wide(w, v)
        } else {
            let shift = u32::from(r & 7) * 8;
            let mask = w.mask(u64::MAX) << shift;
            let old = self.register(n);
            let kept = self.b.ins().band_imm_s(old, !mask as i64);
            let mut v = self.wide(w, v);
            if shift != 0 {
                v = self.b.ins().ishl_imm_u(v, i64::from(shift));
            }
            self.b.ins().bor(kept, v)
        };
        self.set_register(n, v);
    }
    fn set_if(&mut self, c: Bit, w: Width, r: u8, v: Val) {
        let n = usize::from(r >> 3);
        let old = self.register(n);
        self.set(w, r, v);
        let new = self.register(n);
        let c = self.bit_as(I8, c);
        let v = self.b.ins().select(c, new, old);
        self.set_register(n, v);
    }

    fn load(&mut self, w: Width, i: &Insn, at: Val) -> Result<Val, Untranslatable> {
        let at = self.wide(Q, at);
        Ok(Computed(self.guest_load(integer(w), at, Self::begins_with(i))))
    }
    fn store(&mut self, w: Width, i: &Insn, at: Val, v: Val) -> Emitted<Self> {
        let (at, v) = (self.wide(Q, at), self.value(w, v));
        self.guest_store(v, at, Self::begins_with(i));
        Ok(())
    }
    fn modify(&mut self, w: Width, i: &Insn, at: Val, f: impl Fn(&mut Self, Val) -> Val) -> Pair {
        let at = self.wide(Q, at);
        self.guest_modify(w, i, at, f)
    }
    fn stack_load(&mut self, w: Width, at: Val) -> Result<Val, Untranslatable> {
        let at = self.on_stack(at, w, false);
        Ok(Computed(self.guest_load(integer(w), at, STACK)))
    }
    fn stack_store(&mut self, w: Width, at: Val, v: Val) -> Emitted<Self> {
        let (at, v) = (self.on_stack(at, w, true), self.value(w, v));
        self.guest_store(v, at, STACK);
        Ok(())
    }

    fn int(&mut self, w: Width, k: u64) -> Val {
        Known(w.mask(k))
    }
    fn add(&mut self, w: Width, a: Val, b: Val) -> Val {
        if let Known(0) = b {
            return a;
        }
        if let (8, Computed(v), Known(k)) = (w.0, a, b) {
            return Computed(self.sum(v, k as i64));
        }
        self.two(w, (a, b), u64::wrapping_add, |e, a, b| e.b.ins().iadd(a, b))
    }
    fn sub(&mut self, w: Width, a: Val, b: Val) -> Val {
        if let Known(0) = b {
            return a;
        }
        if let (8, Computed(v), Known(k)) = (w.0, a, b) {
            return Computed(self.sum(v, (k as i64).wrapping_neg()));
        }
        self.two(w, (a, b), u64::wrapping_sub, |e, a, b| e.b.ins().isub(a, b))
    }
    fn and(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(w, (a, b), |a, b| a & b, |e, a, b| if a == b { a } else { e.b.ins().band(a, b) })
    }
    fn or(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(w, (a, b), |a, b| a | b, |e, a, b| if a == b { a } else { e.b.ins().bor(a, b) })
    }
    fn xor(&mut self, w: Width, a: Val, b: Val) -> Val {
        if let (Computed(x), Computed(y)) = (a, b)
            && self.same_register(x, y)
        {
            return Known(0);
        }
        self.two(w, (a, b), |a, b| a ^ b, |e, a, b| e.b.ins().bxor(a, b))
    }
    fn mul(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(w, (a, b), u64::wrapping_mul, |e, a, b| e.b.ins().imul(a, b))
    }
    fn umulh(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.high(w, a, b, false)
    }
    fn smulh(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.high(w, a, b, true)
    }
    fn udivrem(&mut self, w: Width, hi: Val, lo: Val, d: Val) -> Pair {
        // The interpreter raises #DE, and divides 128 bits.
        if w.0 == 8 {
            let (hi, lo, d) = (self.value(w, hi), self.value(w, lo), self.value(w, d));
            let zero = self.b.ins().icmp_imm_s(IntCC::Equal, d, 0);
            let long = self.b.ins().icmp_imm_s(IntCC::NotEqual, hi, 0);
            let hard = self.b.ins().bor(zero, long);
            self.bail_if(hard);
            return Ok((Computed(self.b.ins().udiv(lo, d)), Computed(self.b.ins().urem(lo, d))));
        }
        let fits = self.ult(w, hi, d);
        self.demand(fits);
        let (hi, lo, d) = (self.wide(w, hi), self.wide(w, lo), self.wide(w, d));
        let hi = self.b.ins().ishl_imm_u(hi, i64::from(w.bits()));
        let n = self.b.ins().bor(hi, lo);
        let (q, r) = (self.b.ins().udiv(n, d), self.b.ins().urem(n, d));
        Ok((Computed(self.value(w, Computed(q))), Computed(self.value(w, Computed(r)))))
    }
    fn sdivrem(&mut self, w: Width, hi: Val, lo: Val, d: Val) -> Pair {
        let wide = |e: &mut Self, v| {
            let v = e.sext(w, Q, v);
            e.value(Q, v)
        };
        let divisor = wide(self, d);
        // Zero, and minus one, which may overflow.
        let near = self.b.ins().iadd_imm_s(divisor, 1);
        let hard = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, near, 1);
        self.bail_if(hard);
        let n = if w.0 == 8 {
            let (hi, lo) = (self.value(w, hi), self.value(w, lo));
            let sign = self.b.ins().sshr_imm_u(lo, 63);
            let long = self.b.ins().icmp(IntCC::NotEqual, hi, sign);
            self.bail_if(long);
            lo
        } else {
            let hi = wide(self, hi);
            let lo = self.wide(w, lo);
            let hi = self.b.ins().ishl_imm_u(hi, i64::from(w.bits()));
            self.b.ins().bor(hi, lo)
        };
        let (q, r) = (self.b.ins().sdiv(n, divisor), self.b.ins().srem(n, divisor));
        let (quotient, remainder) = (self.value(w, Computed(q)), self.value(w, Computed(r)));
        if w.0 < 8 {
            let back = self.b.ins().sextend(I64, quotient);
            let large = self.b.ins().icmp(IntCC::NotEqual, back, q);
            self.bail_if(large);
        }
        Ok((Computed(quotient), Computed(remainder)))
    }
    fn shl(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.shift(w, (a, n), |a, n| a << n, |e, a, n| e.b.ins().ishl(a, n), false)
    }
    fn shr(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.shift(w, (a, n), |a, n| a >> n, |e, a, n| e.b.ins().ushr(a, n), false)
    }
    fn sar(&mut self, w: Width, a: Val, n: Val) -> Val {
        let known = |a, n| ((w.sext(a) as i64) >> n) as u64;
        self.shift(w, (a, n), known, |e, a, n| e.b.ins().sshr(a, n), true)
    }
    fn rotl(&mut self, w: Width, a: Val, n: Val) -> Val {
        let (a, n) = (self.value(w, a), self.value(B, n));
        Computed(self.b.ins().rotl(a, n))
    }
    fn rem(&mut self, n: Val, m: u64) -> Val {
        match n {
            Known(n) => Known(n % m),
            Computed(_) => {
                let n = self.value(D, n);
                let r = self.b.ins().urem_imm_u(n, m as i64);
                Computed(self.value(B, Computed(r)))
            }
        }
    }
    fn zext(&mut self, from: Width, to: Width, a: Val) -> Val {
        match a {
            Known(k) => Known(from.mask(k)),
            Computed(_) => {
                let v = self.value(from, a);
                Computed(self.value(to, Computed(v)))
            }
        }
    }
    fn sext(&mut self, from: Width, to: Width, a: Val) -> Val {
        match a {
            Known(k) => Known(to.mask(from.sext(k))),
            Computed(_) => {
                let v = self.value(from, a);
                Computed(if to.0 > from.0 {
                    self.b.ins().sextend(integer(to), v)
                } else {
                    self.value(to, Computed(v))
                })
            }
        }
    }
    fn trunc(&mut self, _: Width, to: Width, a: Val) -> Val {
        match a {
            Known(k) => Known(to.mask(k)),
            Computed(v) if to == D && self.b.func.dfg.value_type(v) == F64 => {
                Computed(self.narrow_lane(to, a))
            }
            Computed(_) => Computed(self.value(to, a)),
        }
    }
    fn bswap(&mut self, w: Width, a: Val) -> Val {
        let v = self.value(w, a);
        Computed(if w.0 == 1 { v } else { self.b.ins().bswap(v) })
    }
    fn lowest(&mut self, w: Width, a: Val) -> Val {
        let wide = self.wide(w, a);
        let n = self.b.ins().ctz(wide);
        Computed(self.value(w, Computed(n)))
    }
    fn highest(&mut self, w: Width, a: Val) -> Val {
        let wide = self.wide(w, a);
        let n = self.b.ins().clz(wide);
        let n = self.b.ins().bxor_imm_u(n, 63);
        let n = self.b.ins().band_imm_u(n, 63);
        Computed(self.value(w, Computed(n)))
    }
    fn popcount(&mut self, w: Width, a: Val) -> Val {
        let v = self.value(w, a);
        Computed(self.b.ins().popcnt(v))
    }
    fn helper(&mut self, f: fn(u64, u64) -> u64, a: Val, b: Val) -> Val {
        let w = |e: &Self, v: Val| match v {
            Known(_) => Q,
            Computed(v) => Width(e.b.func.dfg.value_type(v).bytes() as u8),
        };
        let (wa, wb) = (w(self, a), w(self, b));
        let (a, b) = (self.wide(wa, a), self.wide(wb, b));
        Computed(self.call_pure(f, a, b))
    }

    fn eq(&mut self, w: Width, a: Val, b: Val) -> Bit {
        let known = matches!((a, b), (Known(a), Known(b)) if a == b);
        self.compare_with(IntCC::Equal, w, a, b, known)
    }
    fn ult(&mut self, w: Width, a: Val, b: Val) -> Bit {
        let known = matches!((a, b), (Known(a), Known(b)) if a < b);
        self.compare_with(IntCC::UnsignedLessThan, w, a, b, known)
    }
    fn sign(&mut self, w: Width, a: Val) -> Bit {
        let known = matches!(a, Known(k) if (w.sext(k) as i64) < 0);
        self.compare_with(IntCC::SignedLessThan, w, a, Known(0), known)
    }
    fn bit(&mut self, w: Width, a: Val, n: Val) -> Bit {
        if let (Known(a), Known(n)) = (a, n) {
            return Bit::Known(a >> (n & 63) & 1 != 0);
        }
        // A bit beyond the width is 0.
        let v = self.shr(w, a, n);
        let v = self.value(B, v);
        Bit::Computed(self.b.ins().band_imm_u(v, 1))
    }
    fn truth(&mut self, k: bool) -> Bit {
        Bit::Known(k)
    }
    fn not(&mut self, a: Bit) -> Bit {
        self.not_bit(a)
    }
    fn xor_bit(&mut self, a: Bit, b: Bit) -> Bit {
        self.xor_bits(a, b)
    }
    fn or_bit(&mut self, a: Bit, b: Bit) -> Bit {
        self.or_bits(a, b)
    }
    fn and_bit(&mut self, a: Bit, b: Bit) -> Bit {
        self.and_bits(a, b)
    }
    fn select(&mut self, w: Width, c: Bit, a: Val, b: Val) -> Val {
        match c {
            Bit::Known(true) => a,
            Bit::Known(false) => b,
            Bit::Computed(c) => {
                let (a, b) = (self.value(w, a), self.value(w, b));
                Computed(self.b.ins().select(c, a, b))
            }
        }
    }
    fn bit_value(&mut self, w: Width, c: Bit) -> Val {
        match c {
            Bit::Known(k) => Known(k.into()),
            Bit::Computed(_) => Computed(self.bit_as(integer(w), c)),
        }
    }

    fn set_flags(&mut self, w: Width, f: Arith<Val, Bit>) {
        self.new_flags = Some(Pending::Arith(w, f));
    }
    fn set_flags_if(&mut self, c: Bit, w: Width, f: Arith<Val, Bit>) {
        self.new_flags = Some(self.choose_flags(c, w, f));
    }
    fn set_carry(&mut self, c: Bit) {
        let of = self.overflow();
        self.new_flags = Some(self.with_carries(Bit::Known(true), c, of));
    }
    fn set_carry_overflow_if(&mut self, c: Bit, cf: Bit, of: Bit) {
        self.new_flags = Some(self.with_carries(c, cf, of));
    }
    fn set_zero(&mut self, z: Bit) {
        self.new_flags = Some(self.with_zero(z));
    }
    fn carry(&mut self) -> Bit {
        let flags = self.current_flags();
        self.carry_of(flags)
    }
    fn overflow(&mut self) -> Bit {
        let flags = self.current_flags();
        self.overflow_of(flags)
    }
    fn zero(&mut self) -> Bit {
        let flags = self.current_flags();
        self.zero_of(flags)
    }
    fn condition(&mut self, i: &Insn) -> Bit {
        let flags = self.current_flags();
        self.condition_of(flags, i.cc)
    }

    fn branch(&mut self, i: &Insn, c: Bit) {
        self.commit_last(i);
        let c = match c {
            Bit::Known(true) => return self.go_taken(),
            Bit::Known(false) => return self.go_on(),
            Bit::Computed(c) => c,
        };
        self.go_either_way(c);
    }
    fn jump(&mut self, i: &Insn) {
        self.commit_last(i);
        self.go_taken();
    }
    fn check_target(&mut self, to: Val) -> Emitted<Self> {
        if !self.region.mode.is_64() {
            let to = self.wide(Q, to);
            self.check_limit(to);
        } else if let Computed(v) = to {
            let v = self.value(Q, Computed(v));
            let up = self.b.ins().ishl_imm_u(v, 16);
            let back = self.b.ins().sshr_imm_u(up, 16);
            let differs = self.b.ins().icmp(IntCC::NotEqual, back, v);
            self.bail_if(differs);
        }
        Ok(())
    }
    fn jump_to(&mut self, i: &Insn, to: Val) {
        let to = self.wide(if self.region.mode.is_64() { Q } else { D }, to);
        let to = self.linear_in_code(to);
        self.commit_last(i);
        self.go_to_address(to);
    }
    fn next_rip(&mut self, i: &Insn) -> Val {
        let linear = self.page_relative(i32::from(i.ip) + i32::from(i.len));
        Computed(self.offset_in_code(linear))
    }
    fn plain(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Emitted<Self> {
        Err(Untranslatable)
    }
    fn leave(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Result<(), Untranslatable> {
        Err(Untranslatable)
    }

    fn xmm(&mut self, r: u8) -> Value {
        self.vector(r)
    }
    fn set_xmm(&mut self, r: u8, v: Value) {
        self.set_vector(r, v);
    }
    fn begin_mmx(&mut self, _: &Insn) -> Emitted<Self> {
        self.demand_mmx();
        Ok(())
    }
    fn end_mmx(&mut self, _: &Insn) -> Emitted<Self> {
        self.become_mmx(0xff)
    }
    fn mm(&mut self, r: u8) -> Val {
        Computed(self.mmx_register(r))
    }
    fn set_mm(&mut self, r: u8, v: Val) {
        let v = match v {
            Computed(v) if self.b.func.dfg.value_type(v) == F64 => v,
            Computed(v) => {
                let w = Width(self.b.func.dfg.value_type(v).bytes() as u8);
                self.wide(w, Computed(v))
            }
            Known(_) => self.wide(Q, v),
        };
        self.set_mmx_register(r, v);
    }
    fn source_x(&mut self, i: &Insn) -> Result<Value, Untranslatable> {
        if i.src_kind() == Kind::Reg {
            return Ok(self.xmm(i.src));
        }
        let at = self.operand_address(i, None, 16, false);
        self.check_aligned(i, at, 16);
        Ok(self.guest_load(I8X16, at, Self::begins_with(i)))
    }
    fn source_lane(&mut self, w: Width, i: &Insn) -> Result<Val, Untranslatable> {
        if i.src_kind() == Kind::Reg {
            let v = self.vector(i.src);
            return Ok(Computed(self.low_lane(w, v)));
        }
        Ok(Computed(self.guest(lane_type(w), i)))
    }
    fn source_mm(&mut self, i: &Insn) -> Result<Val, Untranslatable> {
        if i.src_kind() == Kind::Reg {
            return Ok(self.mm(i.src));
        }
        Ok(Computed(self.guest(F64, i)))
    }
    fn put_x(&mut self, i: &Insn, v: Value) -> Emitted<Self> {
        if i.dst_kind() == Kind::Reg {
            self.set_xmm(i.dst, v);
            return Ok(());
        }
        let at = self.operand_address(i, None, 16, true);
        self.check_aligned(i, at, 16);
        self.guest_store(v, at, Self::begins_with(i));
        Ok(())
    }
    fn source_y(&mut self, i: &Insn) -> Result<[Value; 2], Untranslatable> {
        if i.src_kind() == Kind::Reg {
            return Ok([self.xmm(i.src), self.xmm(i.src | HIGH)]);
        }
        let at = self.operand_address(i, None, 32, false);
        self.check_aligned(i, at, 32);
        let host = self.host_address(at, 32, false, Self::begins_with(i));
        let low = self.load_host(I8X16, host);
        let host = self.b.ins().iadd_imm_s(host, 16);
        Ok([low, self.load_host(I8X16, host)])
    }
    fn put_y(&mut self, i: &Insn, v: [Value; 2]) -> Emitted<Self> {
        if i.dst_kind() == Kind::Reg {
            self.set_xmm(i.dst, v[0]);
            self.set_xmm(i.dst | HIGH, v[1]);
            return Ok(());
        }
        let at = self.operand_address(i, None, 32, true);
        self.check_aligned(i, at, 32);
        let host = self.host_address(at, 32, true, Self::begins_with(i));
        self.store_host(v[0], host);
        let host = self.b.ins().iadd_imm_s(host, 16);
        self.store_host(v[1], host);
        Ok(())
    }
    fn put_lane(&mut self, w: Width, i: &Insn, v: Val) -> Emitted<Self> {
        let at = self.operand_address(i, None, w.0.into(), true);
        let v = self.narrow_lane(w, v);
        self.guest_store(v, at, Self::begins_with(i));
        Ok(())
    }
    fn lane(&mut self, v: Value, n: u8) -> Val {
        self.vector_lane(v, n)
    }
    fn with_lane(&mut self, v: Value, n: u8, x: Val) -> Value {
        self.with_vector_lane(v, n, x)
    }
    fn lane_alone(&mut self, x: Val) -> Value {
        self.vector_of(x)
    }
    fn vec(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Value {
        self.vector_operation(op, a, b, imm)
    }
    fn vec3(&mut self, op: TernaryOp, a: Value, b: Value, c: Value, imm: u8) -> Value {
        self.ternary_operation(op, [a, b, c], imm)
    }
    fn float(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: Value,
        b: Value,
        imm: u8,
    ) -> Result<Value, Untranslatable> {
        self.float_operation(op, lanes, [a, b], imm)
    }
    fn float_y(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: [Value; 2],
        b: [Value; 2],
        imm: u8,
    ) -> Result<[Value; 2], Untranslatable> {
        // With all exceptions masked, halves are apart.
        let low = self.float_operation(op, lanes, [a[0], b[0]], imm)?;
        Ok([low, self.float_operation(op, lanes, [a[1], b[1]], imm)?])
    }
    fn relate(&mut self, _: FloatOp, lanes: Lanes, a: Value, b: Value) -> Emitted<Self> {
        self.float_relation(lanes, a, b);
        Ok(())
    }
    fn fused(
        &mut self,
        form: Fused,
        lanes: Lanes,
        x: &[Value],
        y: &[Value],
        z: &[Value],
    ) -> Result<[Value; 2], Untranslatable> {
        let low = self.fused_operation(form, lanes, [x[0], y[0], z[0]]);
        let high = match (x, y, z) {
            ([_, x], [_, y], [_, z]) => self.fused_operation(form, lanes, [*x, *y, *z]),
            _ => low,
        };
        Ok([low, high])
    }
}

/// How a lane is held that comes from memory or a vector register: where it can be, in a vector register.
fn lane_type(w: Width) -> Type {
    match w.0 {
        4 => F32,
        8 => F64,
        _ => integer(w),
    }
}
