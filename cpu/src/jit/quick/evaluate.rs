//! The semantics in one pass: what [`Emit`] asks for, an expression or an effect each.

use super::{
    Unsupported, Writer,
    assembler::{Alu, Host, RAX, RDX, Shift, Xmm, cond},
    flags::Change,
    memory::STACK,
    values::{Bit, Node, One, Two, Val},
};
use crate::{
    emit::{Emit, Emitted, HIGH},
    fault::Stop,
    flags::Arith,
    insn::{Insn, Kind},
    jit::segmented,
    state::{Cpu, seg},
    vector::{FloatOp, Fused, Lanes, TernaryOp, VecOp},
    width::{B, D, Q, Width},
};

type Pair = Result<(Val, Val), Unsupported>;

impl Writer {
    fn on_stack(&mut self, at: Val, w: Width, write: bool) -> Val {
        if self.mode.is_64() { at } else { self.in_segment(seg::SS, at, w.0.into(), write) }
    }

    pub(super) fn guest(&mut self, w: Width, i: &Insn) -> Val {
        let at = self.operand_address(i, None, w.0.into(), false);
        self.guest_load(w, at, Self::begins_with(i))
    }

    fn one(&mut self, op: One, w: Width, a: Val) -> Val {
        self.node(Node::One(op, w, a))
    }

    /// Quotient and remainder as the host's instruction left them.
    fn divided(&mut self, w: Width) -> (Val, Val) {
        let (quotient, remainder) = (self.temporary(), self.temporary());
        self.asm.zero_extend(w, quotient, RAX);
        self.asm.zero_extend(w, remainder, RDX);
        self.bind(quotient, w.0);
        self.bind(remainder, w.0);
        (self.standing(quotient), self.standing(remainder))
    }

    /// RAX := hi:lo, for widths below 64.
    fn dividend(&mut self, w: Width, hi: Host, lo: Host) {
        self.asm.copy(RAX, hi);
        self.asm.shift(Shift::Left, Q, RAX, w.bits() as u8);
        self.asm.alu(Alu::Or, Q, RAX, lo);
    }
}

#[allow(clippy::missing_docs_in_private_items)]
impl Emit for Writer {
    type Val = Val;
    type Bit = Bit;
    type Vec = Xmm;
    type Stop = Unsupported;
    type Flow = ();

    fn source_w(&mut self, w: Width, i: &Insn) -> Result<Val, Unsupported> {
        Ok(match i.src_kind() {
            Kind::Reg => self.get(w, i.src),
            Kind::Imm => Val::Known(w.mask(i.imm64())),
            _ => self.guest(w, i),
        })
    }
    fn target(&mut self, i: &Insn) -> Result<Val, Unsupported> {
        Ok(match i.dst_kind() {
            Kind::Reg => self.get(i.w, i.dst),
            _ => self.guest(i.w, i),
        })
    }
    fn put(&mut self, i: &Insn, v: Val) -> Emitted<Self> {
        match i.dst_kind() {
            Kind::Reg => self.set(i.w, i.dst, v),
            _ => {
                let at = self.operand_address(i, None, i.w.0.into(), true);
                self.guest_store(i.w, at, v, Self::begins_with(i));
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
    fn address(&mut self, i: &Insn, by: Option<Val>, size: u8, write: bool) -> Result<Val, Unsupported> {
        Ok(self.operand_address(i, by, size.into(), write))
    }
    fn offset(&mut self, i: &Insn) -> Val {
        self.operand_offset(i)
    }
    fn get(&mut self, w: Width, r: u8) -> Val {
        self.part_of_register(w, r)
    }
    fn set(&mut self, w: Width, r: u8, v: Val) {
        self.set_part_of_register(w, r, v);
    }
    fn set_if(&mut self, c: Bit, w: Width, r: u8, v: Val) {
        let guest = usize::from(r >> 3);
        let old = self.register(guest);
        self.set(w, r, v);
        let new = self.register(guest);
        let v = self.select(Q, c, new, old);
        self.set(Q, r & !7, v);
    }

    fn load(&mut self, w: Width, i: &Insn, at: Val) -> Result<Val, Unsupported> {
        Ok(self.guest_load(w, at, Self::begins_with(i)))
    }
    fn store(&mut self, w: Width, i: &Insn, at: Val, v: Val) -> Emitted<Self> {
        self.guest_store(w, at, v, Self::begins_with(i));
        Ok(())
    }
    fn modify(&mut self, w: Width, i: &Insn, at: Val, f: impl Fn(&mut Self, Val) -> Val) -> Pair {
        self.guest_modify(w, i, at, f)
    }
    fn stack_load(&mut self, w: Width, at: Val) -> Result<Val, Unsupported> {
        let at = self.on_stack(at, w, false);
        Ok(self.guest_load(w, at, STACK))
    }
    fn stack_store(&mut self, w: Width, at: Val, v: Val) -> Emitted<Self> {
        let at = self.on_stack(at, w, true);
        self.guest_store(w, at, v, STACK);
        Ok(())
    }

    fn int(&mut self, w: Width, k: u64) -> Val {
        Val::Known(w.mask(k))
    }
    fn add(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::Add, w, a, b)
    }
    fn sub(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::Sub, w, a, b)
    }
    fn and(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::And, w, a, b)
    }
    fn or(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::Or, w, a, b)
    }
    fn xor(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::Xor, w, a, b)
    }
    fn mul(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::Multiply, w, a, b)
    }
    fn umulh(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::HighUnsigned, w, a, b)
    }
    fn smulh(&mut self, w: Width, a: Val, b: Val) -> Val {
        self.two(Two::HighSigned, w, a, b)
    }
    fn udivrem(&mut self, w: Width, hi: Val, lo: Val, d: Val) -> Pair {
        let (hi, lo, d) = (self.host(hi), self.host(lo), self.host(d));
        // A divisor of zero, and a quotient that does not fit.
        self.asm.alu(Alu::Cmp, Q, hi, d);
        self.bail(cond::NOT_BELOW);
        if w.0 < 4 {
            self.dividend(w, hi, lo);
            self.asm.constant(RDX, 0);
            self.asm.divide(D, d, false);
        } else {
            self.asm.copy(RAX, lo);
            self.asm.copy(RDX, hi);
            self.asm.divide(w, d, false);
        }
        Ok(self.divided(w))
    }
    fn sdivrem(&mut self, w: Width, hi: Val, lo: Val, d: Val) -> Pair {
        let divisor = self.one(One::SignExtend(w), Q, d);
        let divisor = if w == Q { self.host(d) } else { self.host(divisor) };
        let (hi, lo) = (self.host(hi), self.host(lo));
        // Zero, and minus one, which may overflow.
        self.asm.lea(Q, RAX, super::assembler::At::new(divisor, 1));
        self.asm.alu_constant(Alu::Cmp, Q, RAX, 1);
        self.bail(cond::NOT_ABOVE);
        if w == Q {
            self.asm.copy(RAX, lo);
            self.asm.sign_of_rax();
            self.asm.alu(Alu::Cmp, Q, RDX, hi);
            self.bail(cond::NOT_EQUAL);
            self.asm.divide(Q, divisor, true);
            return Ok(self.divided(w));
        }
        self.dividend(w, hi, lo);
        if w.0 < 4 {
            // Twice the width, signed.
            self.asm.sign_extend(Width(2 * w.0), RAX, RAX);
        }
        self.asm.sign_of_rax();
        self.asm.divide(Q, divisor, true);
        let back = self.temporary();
        self.asm.sign_extend(w, back, RAX);
        self.asm.alu(Alu::Cmp, Q, back, RAX);
        self.bail(cond::NOT_EQUAL);
        Ok(self.divided(w))
    }
    fn shl(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.two(Two::ShiftLeft, w, a, n)
    }
    fn shr(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.two(Two::ShiftRight, w, a, n)
    }
    fn sar(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.two(Two::ShiftSigned, w, a, n)
    }
    fn rotl(&mut self, w: Width, a: Val, n: Val) -> Val {
        self.two(Two::RotateLeft, w, a, n)
    }
    fn rem(&mut self, n: Val, m: u64) -> Val {
        self.two(Two::Remainder, B, n, Val::Known(m))
    }
    fn zext(&mut self, _: Width, _: Width, a: Val) -> Val {
        a
    }
    fn sext(&mut self, from: Width, to: Width, a: Val) -> Val {
        match a {
            Val::Known(k) => Val::Known(to.mask(from.sext(k))),
            _ if to.0 <= from.0 => self.cut(to, a),
            _ => self.one(One::SignExtend(from), to, a),
        }
    }
    fn trunc(&mut self, _: Width, to: Width, a: Val) -> Val {
        self.cut(to, a)
    }
    fn bswap(&mut self, w: Width, a: Val) -> Val {
        self.one(One::SwapBytes, w, a)
    }
    fn lowest(&mut self, w: Width, a: Val) -> Val {
        self.one(One::Lowest, w, a)
    }
    fn highest(&mut self, w: Width, a: Val) -> Val {
        self.one(One::Highest, w, a)
    }
    fn popcount(&mut self, w: Width, a: Val) -> Val {
        self.failed |= !self.counts_bits;
        self.one(One::CountBits, w, a)
    }
    fn helper(&mut self, _: fn(u64, u64) -> u64, _: Val, _: Val) -> Val {
        self.failed = true;
        Val::Known(0)
    }

    fn eq(&mut self, w: Width, a: Val, b: Val) -> Bit {
        match (a, b) {
            (Val::Known(a), Val::Known(b)) => Bit::Known(a == b),
            _ => Bit::Compared(cond::EQUAL, w, a, b),
        }
    }
    fn ult(&mut self, w: Width, a: Val, b: Val) -> Bit {
        match (a, b) {
            (Val::Known(a), Val::Known(b)) => Bit::Known(a < b),
            _ => Bit::Compared(cond::BELOW, w, a, b),
        }
    }
    fn sign(&mut self, w: Width, a: Val) -> Bit {
        match a {
            Val::Known(k) => Bit::Known((w.sext(k) as i64) < 0),
            _ => Bit::Compared(cond::SIGN, w, a, Val::Known(0)),
        }
    }
    fn bit(&mut self, _: Width, a: Val, n: Val) -> Bit {
        match (a, n) {
            (Val::Known(a), Val::Known(n)) => Bit::Known(a >> (n & 63) & 1 != 0),
            (value, Val::Known(n)) => Bit::Of { value, n: Val::Known(n & 63), inverse: false },
            (value, n) => Bit::Of { value, n, inverse: false },
        }
    }
    fn truth(&mut self, k: bool) -> Bit {
        Bit::Known(k)
    }
    fn not(&mut self, a: Bit) -> Bit {
        Writer::inverse(a)
    }
    fn xor_bit(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(false), x) | (x, Bit::Known(false)) => x,
            (Bit::Known(true), x) | (x, Bit::Known(true)) => Writer::inverse(x),
            _ => self.combined(Two::Xor, a, b),
        }
    }
    fn or_bit(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(false), x) | (x, Bit::Known(false)) => x,
            (Bit::Known(true), _) | (_, Bit::Known(true)) => Bit::Known(true),
            _ => self.combined(Two::Or, a, b),
        }
    }
    fn and_bit(&mut self, a: Bit, b: Bit) -> Bit {
        match (a, b) {
            (Bit::Known(true), x) | (x, Bit::Known(true)) => x,
            (Bit::Known(false), _) | (_, Bit::Known(false)) => Bit::Known(false),
            _ => self.combined(Two::And, a, b),
        }
    }
    fn select(&mut self, _: Width, c: Bit, a: Val, b: Val) -> Val {
        match c {
            Bit::Known(true) => a,
            Bit::Known(false) => b,
            _ => self.node(Node::Select(c, a, b)),
        }
    }
    fn bit_value(&mut self, _: Width, c: Bit) -> Val {
        Writer::truth(self, c)
    }

    fn set_flags(&mut self, w: Width, f: Arith<Val, Bit>) {
        self.new_flags.push(Change::To(w, f));
    }
    fn set_flags_if(&mut self, c: Bit, w: Width, f: Arith<Val, Bit>) {
        self.new_flags.push(Change::ToIf(c, w, f));
    }
    fn set_carry(&mut self, c: Bit) {
        self.new_flags.push(Change::Carry(c));
    }
    fn set_carry_overflow_if(&mut self, c: Bit, cf: Bit, of: Bit) {
        self.new_flags.push(Change::CarryOverflowIf(c, cf, of));
    }
    fn set_zero(&mut self, z: Bit) {
        self.new_flags.push(Change::Zero(z));
    }
    fn carry(&mut self) -> Bit {
        self.flag_bit(cond::BELOW)
    }
    fn overflow(&mut self) -> Bit {
        self.flag_bit(cond::OVERFLOW)
    }
    fn zero(&mut self) -> Bit {
        self.flag_bit(cond::EQUAL)
    }
    fn condition(&mut self, i: &Insn) -> Bit {
        self.flag_bit(i.cc & 15)
    }

    fn branch(&mut self, i: &Insn, c: Bit) {
        match c {
            Bit::Known(true) => self.jump(i),
            Bit::Known(false) => {
                self.finish(i);
                self.follow(self.fall, true);
            }
            _ => {
                self.prepare(c);
                self.finish(i);
                self.part_ways(c);
            }
        }
    }
    fn jump(&mut self, i: &Insn) {
        self.finish(i);
        self.follow(self.taken, true);
    }
    fn check_target(&mut self, to: Val) -> Emitted<Self> {
        if self.mode.is_64() {
            let to = self.host(to);
            self.asm.copy(RAX, to);
            self.asm.shift(Shift::Left, Q, RAX, 16);
            self.asm.shift(Shift::Signed, Q, RAX, 16);
            self.asm.alu(Alu::Cmp, Q, RAX, to);
            self.bail(cond::NOT_EQUAL);
        } else {
            self.check_limit(to);
        }
        Ok(())
    }
    fn jump_to(&mut self, i: &Insn, to: Val) {
        let to = self.linear_in_code(to);
        let to = self.host(to);
        self.finish(i);
        self.note_target(to);
        self.return_to(to);
        self.settle();
        self.go_to(to);
    }
    fn next_rip(&mut self, i: &Insn) -> Val {
        let place = i32::from(i.ip) + i32::from(i.len);
        if segmented::checks_code(self.mode) { self.offset_in_code(place) } else { self.page_relative(place) }
    }
    fn plain(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Emitted<Self> {
        Err(Unsupported)
    }
    fn leave(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Result<(), Unsupported> {
        Err(Unsupported)
    }

    fn xmm(&mut self, r: u8) -> Xmm {
        self.guest_vector(r)
    }
    fn set_xmm(&mut self, r: u8, v: Xmm) {
        self.store_guest_vector(r, v);
    }
    fn begin_mmx(&mut self, _: &Insn) -> Emitted<Self> {
        self.demand_mmx();
        Ok(())
    }
    fn end_mmx(&mut self, _: &Insn) -> Emitted<Self> {
        self.become_mmx();
        Ok(())
    }
    fn mm(&mut self, r: u8) -> Val {
        self.mmx_register(r)
    }
    fn set_mm(&mut self, r: u8, v: Val) {
        self.set_mmx_register(r, v);
    }
    fn source_x(&mut self, i: &Insn) -> Result<Xmm, Unsupported> {
        if i.src_kind() == Kind::Reg {
            return Ok(self.guest_vector(i.src));
        }
        let at = self.operand_address(i, None, 16, false);
        self.check_aligned(i, at, 16);
        Ok(self.guest_load_vector(at, Self::begins_with(i)))
    }
    fn source_lane(&mut self, w: Width, i: &Insn) -> Result<Val, Unsupported> {
        if i.src_kind() == Kind::Reg {
            return Ok(self.part_of_vector(w, i.src));
        }
        Ok(self.guest(w, i))
    }
    fn source_mm(&mut self, i: &Insn) -> Result<Val, Unsupported> {
        Ok(if i.src_kind() == Kind::Reg { self.mm(i.src) } else { self.guest(Q, i) })
    }
    fn put_x(&mut self, i: &Insn, v: Xmm) -> Emitted<Self> {
        if i.dst_kind() == Kind::Reg {
            self.set_xmm(i.dst, v);
            return Ok(());
        }
        let at = self.operand_address(i, None, 16, true);
        self.check_aligned(i, at, 16);
        self.guest_store_vector(at, v, Self::begins_with(i));
        Ok(())
    }
    fn source_y(&mut self, i: &Insn) -> Result<[Xmm; 2], Unsupported> {
        if i.src_kind() == Kind::Reg {
            return Ok([self.guest_vector(i.src), self.guest_vector(i.src | HIGH)]);
        }
        let at = self.operand_address(i, None, 32, false);
        self.check_aligned(i, at, 32);
        let at = self.probe(at, 32, false, Self::begins_with(i));
        let halves = [self.vector_register(), self.vector_register()];
        self.asm.load_vector(halves[0], at);
        self.asm.load_vector(halves[1], at.behind(16));
        Ok(halves)
    }
    fn put_y(&mut self, i: &Insn, v: [Xmm; 2]) -> Emitted<Self> {
        if i.dst_kind() == Kind::Reg {
            self.set_xmm(i.dst, v[0]);
            self.set_xmm(i.dst | HIGH, v[1]);
            return Ok(());
        }
        let at = self.operand_address(i, None, 32, true);
        self.check_aligned(i, at, 32);
        let at = self.probe(at, 32, true, Self::begins_with(i));
        self.asm.store_vector(v[0], at);
        self.asm.store_vector(v[1], at.behind(16));
        Ok(())
    }
    fn put_lane(&mut self, w: Width, i: &Insn, v: Val) -> Emitted<Self> {
        let at = self.operand_address(i, None, w.0.into(), true);
        self.guest_store(w, at, v, Self::begins_with(i));
        Ok(())
    }
    fn lane(&mut self, v: Xmm, n: u8) -> Val {
        let host = self.lane_now(v, n);
        self.standing(host)
    }
    fn with_lane(&mut self, v: Xmm, n: u8, x: Val) -> Xmm {
        let x = self.lane_alone(x);
        let to = self.copy_of_vector(v);
        if n & 1 == 0 {
            self.asm.merge_low(to, x);
        } else {
            // PUNPCKLQDQ.
            self.asm.vector(0x6c, to, x);
        }
        to
    }
    fn source_w_alone(&mut self, w: Width, i: &Insn) -> Result<Xmm, Unsupported> {
        if matches!(i.src_kind(), Kind::Reg | Kind::Imm) {
            let v = self.source_w(w, i)?;
            return Ok(self.lane_alone(v));
        }
        self.guest_lane(w, i)
    }
    fn source_low(&mut self, w: Width, i: &Insn) -> Result<Xmm, Unsupported> {
        if i.src_kind() == Kind::Reg {
            return Ok(self.guest_vector(i.src));
        }
        self.guest_lane(w, i)
    }
    fn lane_alone(&mut self, x: Val) -> Xmm {
        let x = self.host(x);
        let to = self.vector_register();
        self.asm.copy_into_vector(to, x);
        to
    }
    fn vec(&mut self, op: VecOp, a: Xmm, b: Xmm, imm: u8) -> Xmm {
        match self.vector_operation(op, a, b, imm) {
            Ok(v) => v,
            Err(Unsupported) => {
                self.failed = true;
                a
            }
        }
    }
    fn vec_new(&mut self, op: VecOp, a: Xmm, b: Xmm, imm: u8) -> Result<Xmm, Unsupported> {
        self.vector_operation(op, a, b, imm)
    }
    fn relate(&mut self, op: FloatOp, lanes: Lanes, a: Xmm, b: Xmm) -> Emitted<Self> {
        self.float_relation(op, lanes, a, b)
    }
    fn vec3(&mut self, _: TernaryOp, a: Xmm, _: Xmm, _: Xmm, _: u8) -> Xmm {
        self.failed = true;
        a
    }
    fn vec3_new(&mut self, _: TernaryOp, _: Xmm, _: Xmm, _: Xmm, _: u8) -> Result<Xmm, Unsupported> {
        Err(Unsupported)
    }
    fn float(&mut self, op: FloatOp, lanes: Lanes, a: Xmm, b: Xmm, imm: u8) -> Result<Xmm, Unsupported> {
        self.float_operation(op, lanes, a, b, imm)
    }
    fn float_y(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: [Xmm; 2],
        b: [Xmm; 2],
        imm: u8,
    ) -> Result<[Xmm; 2], Unsupported> {
        // With all exceptions masked, halves are apart.
        let low = self.float_operation(op, lanes, a[0], b[0], imm)?;
        Ok([low, self.float_operation(op, lanes, a[1], b[1], imm)?])
    }
    fn fused(
        &mut self,
        form: Fused,
        lanes: Lanes,
        x: &[Xmm],
        y: &[Xmm],
        z: &[Xmm],
    ) -> Result<[Xmm; 2], Unsupported> {
        let low = self.fused_operation(form, lanes, [x[0], y[0], z[0]])?;
        let high = match (x, y, z) {
            ([_, x], [_, y], [_, z]) => self.fused_operation(form, lanes, [*x, *y, *z])?,
            _ => low,
        };
        Ok([low, high])
    }
}

impl Writer {
    /// Two truth values, neither of them known, in one.
    fn combined(&mut self, op: Two, a: Bit, b: Bit) -> Bit {
        let v = self.node(Node::Both(op, a, b));
        self.bit_of_truth(v)
    }
}
