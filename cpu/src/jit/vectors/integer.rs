//! The integer operations as Cranelift has them.

use super::{super::emitter::Emitter, every_operation};
use crate::vector::VecOp;
use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types::*};

/// Whether Cranelift has it on every host.
pub(super) fn is_portable(op: VecOp) -> bool {
    use VecOp as V;
    matches!(
        op,
        V::And
            | V::AndNot
            | V::Or
            | V::Xor
            | V::AddB
            | V::AddW
            | V::AddD
            | V::AddQ
            | V::SubB
            | V::SubW
            | V::SubD
            | V::SubQ
            | V::MinUB
            | V::MaxUB
            | V::MinSW
            | V::MaxSW
            | V::CmpEqB
            | V::CmpEqW
            | V::CmpEqD
            | V::CmpGtB
            | V::CmpGtW
            | V::CmpGtD
            | V::MaskB
            | V::MaskD
            | V::MaskQ
    )
}

/// Shifts in each lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shift {
    Left,
    Right,
    /// The sign comes in.
    Arithmetic,
}

/// Which 32-bit lanes two bits each of an immediate name.
fn fields(imm: u8) -> [u8; 4] {
    [imm & 3, imm >> 2 & 3, imm >> 4 & 3, imm >> 6]
}

impl Emitter<'_, '_> {
    /// The operation, if Cranelift has it on this host.
    pub(super) fn integer_operation(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Option<Value> {
        if !every_operation() && !is_portable(op) {
            return None;
        }
        self.lanes_operation(op, a, b)
            .or_else(|| self.shift_operation(op, a, b, imm))
            .or_else(|| self.move_operation(op, a, b, imm))
    }

    /// What works lane by lane on both operands.
    fn lanes_operation(&mut self, op: VecOp, a: Value, b: Value) -> Option<Value> {
        use VecOp as V;
        /// An operation of Cranelift's on lanes of both.
        macro_rules! both {
            ($t:ident, $f:ident) => {{
                let (a, b) = (self.cast($t, a), self.cast($t, b));
                self.b.ins().$f(a, b)
            }};
        }
        macro_rules! compare {
            ($t:ident, $how:ident) => {{
                let (a, b) = (self.cast($t, a), self.cast($t, b));
                self.b.ins().icmp(IntCC::$how, a, b)
            }};
        }
        macro_rules! absolute {
            ($t:ident) => {{
                let b = self.cast($t, b);
                self.b.ins().iabs(b)
            }};
        }
        // What programs write to have zeros or ones.
        if self.cast(I8X16, a) == self.cast(I8X16, b) {
            match op {
                V::Xor | V::SubB | V::SubW | V::SubD | V::SubQ => return Some(self.vector_constant(0)),
                V::CmpEqB | V::CmpEqW | V::CmpEqD | V::CmpEqQ => {
                    return Some(self.vector_constant(u128::MAX));
                }
                _ => {}
            }
        }
        Some(match op {
            V::And => both!(I64X2, band),
            V::AndNot => {
                let (a, b) = (self.cast(I64X2, a), self.cast(I64X2, b));
                self.b.ins().band_not(b, a)
            }
            V::Or => both!(I64X2, bor),
            V::Xor => both!(I64X2, bxor),
            V::AddB => both!(I8X16, iadd),
            V::AddW => both!(I16X8, iadd),
            V::AddD => both!(I32X4, iadd),
            V::AddQ => both!(I64X2, iadd),
            V::SubB => both!(I8X16, isub),
            V::SubW => both!(I16X8, isub),
            V::SubD => both!(I32X4, isub),
            V::SubQ => both!(I64X2, isub),
            V::AddSB => both!(I8X16, sadd_sat),
            V::AddSW => both!(I16X8, sadd_sat),
            V::SubSB => both!(I8X16, ssub_sat),
            V::SubSW => both!(I16X8, ssub_sat),
            V::AddUsB => both!(I8X16, uadd_sat),
            V::AddUsW => both!(I16X8, uadd_sat),
            V::SubUsB => both!(I8X16, usub_sat),
            V::SubUsW => both!(I16X8, usub_sat),
            V::AvgB => both!(I8X16, avg_round),
            V::AvgW => both!(I16X8, avg_round),
            V::MinSB => both!(I8X16, smin),
            V::MaxSB => both!(I8X16, smax),
            V::MinUB => both!(I8X16, umin),
            V::MaxUB => both!(I8X16, umax),
            V::MinSW => both!(I16X8, smin),
            V::MaxSW => both!(I16X8, smax),
            V::MinUW => both!(I16X8, umin),
            V::MaxUW => both!(I16X8, umax),
            V::MinSD => both!(I32X4, smin),
            V::MaxSD => both!(I32X4, smax),
            V::MinUD => both!(I32X4, umin),
            V::MaxUD => both!(I32X4, umax),
            V::CmpEqB => compare!(I8X16, Equal),
            V::CmpEqW => compare!(I16X8, Equal),
            V::CmpEqD => compare!(I32X4, Equal),
            V::CmpEqQ => compare!(I64X2, Equal),
            V::CmpGtB => compare!(I8X16, SignedGreaterThan),
            V::CmpGtW => compare!(I16X8, SignedGreaterThan),
            V::CmpGtD => compare!(I32X4, SignedGreaterThan),
            V::CmpGtQ => compare!(I64X2, SignedGreaterThan),
            V::AbsB => absolute!(I8X16),
            V::AbsW => absolute!(I16X8),
            V::AbsD => absolute!(I32X4),
            V::MulLoW => both!(I16X8, imul),
            V::MulLoD => both!(I32X4, imul),
            V::MulHRsW => both!(I16X8, x86_pmulhrsw),
            V::MAddUbSW => {
                // Cranelift's first operand is the signed one.
                let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
                self.b.ins().x86_pmaddubsw(b, a)
            }
            V::MulHiW => self.high_products(a, b, true),
            V::MulHiUW => self.high_products(a, b, false),
            V::MulUDQ => self.even_products(a, b, false),
            V::MulDQ => self.even_products(a, b, true),
            V::MAddWD => {
                let (a, b) = (self.cast(I16X8, a), self.cast(I16X8, b));
                let (al, bl) = (self.b.ins().swiden_low(a), self.b.ins().swiden_low(b));
                let (ah, bh) = (self.b.ins().swiden_high(a), self.b.ins().swiden_high(b));
                let (low, high) = (self.b.ins().imul(al, bl), self.b.ins().imul(ah, bh));
                self.b.ins().iadd_pairwise(low, high)
            }
            V::HAddW => both!(I16X8, iadd_pairwise),
            V::HAddD => both!(I32X4, iadd_pairwise),
            V::HSubW => {
                let (even, odd) = self.sides_w(a, b);
                self.b.ins().isub(even, odd)
            }
            V::HSubD => {
                let even = self.shuffle_d(a, b, [0, 2, 4, 6]);
                let odd = self.shuffle_d(a, b, [1, 3, 5, 7]);
                let (even, odd) = (self.cast(I32X4, even), self.cast(I32X4, odd));
                self.b.ins().isub(even, odd)
            }
            V::PackSWB => both!(I16X8, snarrow),
            V::PackSDW => both!(I32X4, snarrow),
            V::PackUsWB => both!(I16X8, unarrow),
            V::PackUsDW => both!(I32X4, unarrow),
            _ => return None,
        })
    }

    /// The even 16-bit lanes of a and b, and the odd ones.
    fn sides_w(&mut self, a: Value, b: Value) -> (Value, Value) {
        let side = |e: &mut Self, odd: u8| {
            let v = e.shuffle(a, b, |k| 4 * (k >> 1) + 2 * odd + (k & 1));
            e.cast(I16X8, v)
        };
        (side(self, 0), side(self, 1))
    }

    /// The high halves of the products of 16-bit lanes.
    fn high_products(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let (a, b) = (self.cast(I16X8, a), self.cast(I16X8, b));
        let [low, high] = if signed {
            let (x, y) = (self.b.ins().swiden_low(a), self.b.ins().swiden_low(b));
            let low = self.b.ins().imul(x, y);
            let (x, y) = (self.b.ins().swiden_high(a), self.b.ins().swiden_high(b));
            [low, self.b.ins().imul(x, y)]
        } else {
            let (x, y) = (self.b.ins().uwiden_low(a), self.b.ins().uwiden_low(b));
            let low = self.b.ins().imul(x, y);
            let (x, y) = (self.b.ins().uwiden_high(a), self.b.ins().uwiden_high(b));
            [low, self.b.ins().imul(x, y)]
        };
        self.sides_w(low, high).1
    }

    /// The products of the even 32-bit lanes.
    fn even_products(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let [a, b] = [a, b].map(|v| {
            let v = self.shuffle_d(v, v, [0, 2, 0, 2]);
            let v = self.cast(I32X4, v);
            if signed { self.b.ins().swiden_low(v) } else { self.b.ins().uwiden_low(v) }
        });
        self.b.ins().imul(a, b)
    }

    /// Shifts.
    fn shift_operation(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Option<Value> {
        use Shift::*;
        use VecOp as V;
        Some(match op {
            V::ShlImmW => self.shift_by(I16X8, Left, a, imm),
            V::ShlImmD => self.shift_by(I32X4, Left, a, imm),
            V::ShlImmQ => self.shift_by(I64X2, Left, a, imm),
            V::ShrImmW => self.shift_by(I16X8, Right, a, imm),
            V::ShrImmD => self.shift_by(I32X4, Right, a, imm),
            V::ShrImmQ => self.shift_by(I64X2, Right, a, imm),
            V::SarImmW => self.shift_by(I16X8, Arithmetic, a, imm),
            V::SarImmD => self.shift_by(I32X4, Arithmetic, a, imm),
            V::ShlW => self.shift_by_count(I16X8, Left, a, b),
            V::ShlD => self.shift_by_count(I32X4, Left, a, b),
            V::ShlQ => self.shift_by_count(I64X2, Left, a, b),
            V::ShrW => self.shift_by_count(I16X8, Right, a, b),
            V::ShrD => self.shift_by_count(I32X4, Right, a, b),
            V::ShrQ => self.shift_by_count(I64X2, Right, a, b),
            V::SarW => self.shift_by_count(I16X8, Arithmetic, a, b),
            V::SarD => self.shift_by_count(I32X4, Arithmetic, a, b),
            V::ShlBytes => {
                let zero = self.vector_constant(0);
                let n = imm.min(16);
                self.shuffle(zero, a, |k| 16 + k - n)
            }
            V::ShrBytes => {
                let zero = self.vector_constant(0);
                let n = imm.min(16);
                self.shuffle(a, zero, |k| k + n)
            }
            // Sixteen bytes of b:a from some byte on.
            V::Align if imm <= 16 => self.shuffle(b, a, |k| k + imm),
            V::Align => {
                let zero = self.vector_constant(0);
                let n = imm.min(32) - 16;
                self.shuffle(a, zero, |k| k + n)
            }
            _ => return None,
        })
    }

    fn shift_lanes(&mut self, how: Shift, a: Value, n: Value) -> Value {
        match how {
            Shift::Left => self.b.ins().ishl(a, n),
            Shift::Right => self.b.ins().ushr(a, n),
            Shift::Arithmetic => self.b.ins().sshr(a, n),
        }
    }

    fn shift_by(&mut self, t: Type, how: Shift, a: Value, n: u8) -> Value {
        let most = t.lane_bits() as u8 - 1;
        if n > most && how != Shift::Arithmetic {
            return self.vector_constant(0);
        }
        let a = self.cast(t, a);
        let n = self.constant(I32, n.min(most).into());
        self.shift_lanes(how, a, n)
    }

    /// By the low 64 bits of b.
    fn shift_by_count(&mut self, t: Type, how: Shift, a: Value, b: Value) -> Value {
        let most = i64::from(t.lane_bits()) - 1;
        let (a, b) = (self.cast(t, a), self.cast(I64X2, b));
        let n = self.b.ins().extractlane(b, 0);
        let beyond = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, n, most);
        let most = self.constant(I64, most);
        let n = self.b.ins().select(beyond, most, n);
        let v = self.shift_lanes(how, a, n);
        if how == Shift::Arithmetic {
            return v;
        }
        let zero = self.vector_constant(0);
        let zero = self.cast(t, zero);
        self.b.ins().select(beyond, zero, v)
    }

    /// What moves lanes about.
    fn move_operation(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Option<Value> {
        use VecOp as V;
        let byte = |n: u8, k: u8, bytes: u8| bytes * n + k % bytes;
        // Between a's and b's lanes, so many bytes wide, from one on.
        let unpack = |bytes: u8, first: u8| {
            move |k: u8| byte(first + k / bytes / 2, k, bytes) + if k / bytes & 1 == 0 { 0 } else { 16 }
        };
        // Of two, the second where the lane's bit is set.
        let blend = |bytes: u8| move |k: u8| if imm >> (k / bytes) & 1 != 0 { 16 + k } else { k };
        let [f0, f1, f2, f3] = fields(imm);
        Some(match op {
            V::UnpackLoB => self.shuffle(a, b, unpack(1, 0)),
            V::UnpackLoW => self.shuffle(a, b, unpack(2, 0)),
            V::UnpackLoD => self.shuffle(a, b, unpack(4, 0)),
            V::UnpackLoQ => self.shuffle(a, b, unpack(8, 0)),
            V::UnpackHiB => self.shuffle(a, b, unpack(1, 8)),
            V::UnpackHiW => self.shuffle(a, b, unpack(2, 4)),
            V::UnpackHiD => self.shuffle(a, b, unpack(4, 2)),
            V::UnpackHiQ => self.shuffle(a, b, unpack(8, 1)),
            V::ShufD => self.shuffle_d(b, b, [f0, f1, f2, f3]),
            V::ShufPs => self.shuffle_d(a, b, [f0, f1, 4 + f2, 4 + f3]),
            V::ShufPd => {
                let (low, high) = (2 * (imm & 1), 4 + (imm & 2));
                self.shuffle_d(a, b, [low, low + 1, high, high + 1])
            }
            V::ShufQ => {
                let (low, high) = (2 * (imm & 1), imm & 2);
                self.shuffle_d(b, b, [low, low + 1, high, high + 1])
            }
            V::ShufLoW => {
                let from = fields(imm);
                self.shuffle(b, b, |k| if k < 8 { byte(from[usize::from(k >> 1)], k, 2) } else { k })
            }
            V::ShufHiW => {
                let from = fields(imm);
                self.shuffle(b, b, |k| if k < 8 { k } else { 8 + byte(from[usize::from(k >> 1 & 3)], k, 2) })
            }
            V::BlendW => self.shuffle(a, b, blend(2)),
            V::BlendD => self.shuffle(a, b, blend(4)),
            V::BlendQ => self.shuffle(a, b, blend(8)),
            V::MergeD => self.shuffle(a, b, |k| if k < 4 { 16 + k } else { k }),
            V::MergeQ => self.shuffle(a, b, |k| if k < 8 { 16 + k } else { k }),
            V::BroadcastB => self.shuffle(b, b, |_| 0),
            V::BroadcastW => self.shuffle(b, b, |k| byte(0, k, 2)),
            V::BroadcastD => self.shuffle_d(b, b, [0; 4]),
            V::BroadcastQ => self.shuffle_d(b, b, [0, 1, 0, 1]),
            V::ShufB => {
                let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
                self.b.ins().x86_pshufb(a, b)
            }
            V::LookupD => self.look_up_d(a, b),
            V::InsertB => self.insert(I8X16, a, b, imm & 15),
            V::InsertW => self.insert(I16X8, a, b, imm & 7),
            V::InsertD => self.insert(I32X4, a, b, imm & 3),
            V::InsertQ => self.insert(I64X2, a, b, imm & 1),
            V::InsertPs => {
                let (a, b) = (self.cast(F32X4, a), self.cast(F32X4, b));
                let v = self.b.ins().extractlane(b, imm >> 6);
                let v = self.b.ins().insertlane(a, v, imm >> 4 & 3);
                let kept = (0..4).fold(0, |all, k| match imm >> k & 1 {
                    0 => all | 0xffff_ffffu128 << (32 * k),
                    _ => all,
                });
                let (v, kept) = (self.cast(I64X2, v), self.vector_constant(kept));
                let kept = self.cast(I64X2, kept);
                self.b.ins().band(v, kept)
            }
            V::ExtractB => self.extract(I8X16, a, imm & 15),
            V::ExtractW => self.extract(I16X8, a, imm & 7),
            V::ExtractD => self.extract(I32X4, a, imm & 3),
            V::ExtractQ => self.extract(I64X2, a, imm & 1),
            V::MaskB => self.signs(I8X16, a),
            V::MaskD => self.signs(I32X4, a),
            V::MaskQ => self.signs(I64X2, a),
            V::SxBW => self.widen(b, true, &[I8X16]),
            V::SxBD => self.widen(b, true, &[I8X16, I16X8]),
            V::SxBQ => self.widen(b, true, &[I8X16, I16X8, I32X4]),
            V::SxWD => self.widen(b, true, &[I16X8]),
            V::SxWQ => self.widen(b, true, &[I16X8, I32X4]),
            V::SxDQ => self.widen(b, true, &[I32X4]),
            V::ZxBW => self.widen(b, false, &[I8X16]),
            V::ZxBD => self.widen(b, false, &[I8X16, I16X8]),
            V::ZxBQ => self.widen(b, false, &[I8X16, I16X8, I32X4]),
            V::ZxWD => self.widen(b, false, &[I16X8]),
            V::ZxWQ => self.widen(b, false, &[I16X8, I32X4]),
            V::ZxDQ => self.widen(b, false, &[I32X4]),
            _ => return None,
        })
    }

    /// b's lowest lanes, wider step by step.
    fn widen(&mut self, b: Value, signed: bool, steps: &[Type]) -> Value {
        steps.iter().fold(b, |v, t| {
            let v = self.cast(*t, v);
            if signed { self.b.ins().swiden_low(v) } else { self.b.ins().uwiden_low(v) }
        })
    }

    /// b's low bits in place of a's lane n.
    fn insert(&mut self, t: Type, a: Value, b: Value, n: u8) -> Value {
        let x = self.vector_lane(b, 0);
        let x = self.value(crate::width::Width(t.lane_type().bytes() as u8), x);
        let a = self.cast(t, a);
        self.b.ins().insertlane(a, x, n)
    }

    /// a's lane n, zeros above.
    fn extract(&mut self, t: Type, a: Value, n: u8) -> Value {
        let a = self.cast(t, a);
        let x = self.b.ins().extractlane(a, n);
        let x = if t == I64X2 { x } else { self.b.ins().uextend(I64, x) };
        self.b.ins().scalar_to_vector(I64X2, x)
    }

    /// The signs of a's lanes.
    fn signs(&mut self, t: Type, a: Value) -> Value {
        let a = self.cast(t, a);
        let bits = self.b.ins().vhigh_bits(I32, a);
        let bits = self.b.ins().uextend(I64, bits);
        self.b.ins().scalar_to_vector(I64X2, bits)
    }

    /// 32-bit lanes of a by the low two bits of b's.
    fn look_up_d(&mut self, a: Value, b: Value) -> Value {
        // The bytes of each lane: four times the lane's number, and 0 to 3.
        let low = self.vector_constant(0x3u128 * (1 << 96 | 1 << 64 | 1 << 32 | 1));
        let (b, low) = (self.cast(I64X2, b), self.cast(I64X2, low));
        let n = self.b.ins().band(b, low);
        let n = self.cast(I32X4, n);
        let two = self.constant(I32, 2);
        let n = self.b.ins().ishl(n, two);
        let n = self.shuffle(n, n, |k| k & !3);
        let offsets = self.vector_constant(0x03020100_03020100_03020100_03020100);
        let n = self.b.ins().iadd(n, offsets);
        let a = self.cast(I8X16, a);
        self.b.ins().x86_pshufb(a, n)
    }
}
