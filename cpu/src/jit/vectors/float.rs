//! Floating point under MXCSR by the host's own instructions. What is right about that:
//!
//! - While translated code runs, the host's MXCSR is the guest's with all exceptions masked: rounding, DAZ and FTZ are as the
//!   guest has them, and the host raises the guest's flags. A region with such instructions is not entered while the guest
//!   has an exception unmasked, and is left where an instruction unmasks one (`runtime.rs`).
//! - Of two NaNs the result is the first. So first operands are never loads as they stand, which Cranelift would make second
//!   operands of what it takes for commutative: they come out of vectors. FMA looks at its second factor first; so factors
//!   change places.
//! - An operation whose result nobody wants raises flags all the same: Cranelift drops such ones, and
//!   [`Emitter::keep_results`] gives them a reader. It moves none: only comparisons may be repeated where they are used, and the
//!   first branches or stores stand right behind them.
//! - Of comparisons with a NaN, and of conversions that do not fit, the host's instruction is not at hand. They are left to the
//!   interpreter before anything has been raised.

use super::{
    super::emitter::{Emitter, Untranslatable, Val},
    every_operation, helpers,
};
use crate::{
    jit::flags::Pending,
    vector::{FloatOp, Fused, Lanes},
    width::{D, Q, Width},
};
use cranelift_codegen::ir::{
    InstBuilder, Type, Value,
    condcodes::{FloatCC, IntCC},
    types::*,
};

/// Whether the operation is inline.
pub(in crate::jit) fn emits_float(op: FloatOp, lanes: Lanes, imm: u8) -> bool {
    use FloatOp as F;
    every_operation()
        && match op {
            F::Add | F::Sub | F::Mul | F::Div | F::Sqrt | F::Min | F::Max | F::Comi | F::Ucomi => true,
            F::Cmp => imm & 31 < 8,
            F::FromD | F::FromQ | F::Widen | F::Narrow => true,
            F::ToDTruncated | F::ToQTruncated | F::ToD | F::ToQ | F::Round => true,
            F::AddSub | F::HAdd | F::HSub => matches!(lanes, Lanes::Ps | Lanes::Pd),
            F::WidenHalf | F::NarrowHalf => helpers::has_half(),
            F::Dot => matches!(lanes, Lanes::Ps | Lanes::Pd),
        }
}

/// Whether the fused operation is.
pub(in crate::jit) fn emits_fused(form: Fused, lanes: Lanes) -> bool {
    let scalar = matches!(lanes, Lanes::Ss | Lanes::Sd);
    helpers::has_fma() && every_operation() && (scalar || form.negate_even == form.negate_odd)
}

/// Whether the instruction may be left to the interpreter because of its operands.
pub(in crate::jit) fn may_refuse(op: FloatOp) -> bool {
    matches!(op, FloatOp::Comi | FloatOp::Ucomi | FloatOp::ToDTruncated | FloatOp::ToQTruncated)
}

/// The type of one lane, and that of all.
fn types(lanes: Lanes) -> (Type, Type) {
    match lanes {
        Lanes::Ss | Lanes::Ps => (F32, F32X4),
        Lanes::Sd | Lanes::Pd => (F64, F64X2),
    }
}

fn is_scalar(lanes: Lanes) -> bool {
    matches!(lanes, Lanes::Ss | Lanes::Sd)
}

impl Emitter<'_, '_> {
    /// The low lane of a first operand.
    fn low(&mut self, lanes: Lanes, v: Value) -> Value {
        let v = self.cast(types(lanes).1, v);
        self.b.ins().extractlane(v, 0)
    }

    /// The low lane of a second operand, as it stood before it became a vector.
    fn low_second(&mut self, lanes: Lanes, v: Value) -> Value {
        match self.scalar_of(v) {
            Some(scalar) if self.type_of(scalar) == types(lanes).0 => scalar,
            _ => self.low(lanes, v),
        }
    }

    /// a with its low lane replaced.
    fn with_low(&mut self, lanes: Lanes, a: Value, v: Value) -> Value {
        let a = self.cast(types(lanes).1, a);
        self.b.ins().insertlane(a, v, 0)
    }

    /// What raises flags, and so has to be computed whether its result is used or not.
    fn exceptional(&mut self, v: Value) -> Value {
        self.exceptional.push(v);
        v
    }

    /// An operation for which [`emits_float`] holds.
    pub(in crate::jit) fn float_operation(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        [a, b]: [Value; 2],
        imm: u8,
    ) -> Result<Value, Untranslatable> {
        use FloatOp as F;
        let v = match op {
            F::Add | F::Sub | F::Mul | F::Div | F::Min | F::Max | F::Sqrt => self.arithmetic(op, lanes, a, b),
            F::Cmp => self.compare_lanes(lanes, a, b, imm),
            F::FromD | F::FromQ => self.converted_integers(op, lanes, a, b),
            F::Widen | F::Narrow => self.other_format(op, lanes, a, b),
            F::ToDTruncated | F::ToQTruncated if is_scalar(lanes) => self.truncate(op, lanes, b),
            F::ToDTruncated if lanes == Lanes::Ps => {
                let b = self.cast(F32X4, b);
                let v = self.b.ins().x86_cvtt2dq(I32X4, b);
                self.exceptional(v)
            }
            F::Round if is_scalar(lanes) => {
                let v = self.call_helper(helpers::float(op, lanes, imm), &[b, b], imm);
                let v = self.low(lanes, v);
                self.with_low(lanes, a, v)
            }
            _ => self.call_helper(helpers::float(op, lanes, imm), &[a, b], imm),
        };
        Ok(self.cast(I8X16, v))
    }

    fn arithmetic(&mut self, op: FloatOp, lanes: Lanes, a: Value, b: Value) -> Value {
        let (x, y) = if is_scalar(lanes) {
            (self.low(lanes, a), self.low_second(lanes, b))
        } else {
            let t = types(lanes).1;
            (self.cast(t, a), self.cast(t, b))
        };
        let v = match op {
            FloatOp::Add => self.b.ins().fadd(x, y),
            FloatOp::Sub => self.b.ins().fsub(x, y),
            FloatOp::Mul => self.b.ins().fmul(x, y),
            FloatOp::Div => self.b.ins().fdiv(x, y),
            FloatOp::Sqrt => self.b.ins().sqrt(y),
            // These are MINSD and its relatives in Cranelift's eyes, exactly.
            FloatOp::Min => self.pick(lanes, (x, y), x, y),
            _ => self.pick(lanes, (y, x), x, y),
        };
        let v = self.exceptional(v);
        if is_scalar(lanes) { self.with_low(lanes, a, v) } else { v }
    }

    /// x where the first of a pair is less than the second, else y.
    fn pick(&mut self, lanes: Lanes, (first, second): (Value, Value), x: Value, y: Value) -> Value {
        let less = self.b.ins().fcmp(FloatCC::LessThan, first, second);
        if is_scalar(lanes) {
            return self.b.ins().select(less, x, y);
        }
        let less = self.cast(types(lanes).1, less);
        self.b.ins().bitselect(less, x, y)
    }

    /// CMPPS and its relatives. Scalars are compared as vectors with zeros above, which raise nothing: the comparison of
    /// Cranelift's that knows them is another instruction.
    fn compare_lanes(&mut self, lanes: Lanes, a: Value, b: Value, imm: u8) -> Value {
        let t = types(lanes).1;
        let how = match imm & 7 {
            0 => FloatCC::Equal,
            1 => FloatCC::LessThan,
            2 => FloatCC::LessThanOrEqual,
            3 => FloatCC::Unordered,
            4 => FloatCC::NotEqual,
            5 => FloatCC::UnorderedOrGreaterThanOrEqual,
            6 => FloatCC::UnorderedOrGreaterThan,
            _ => FloatCC::Ordered,
        };
        let (mut x, mut y) = (a, b);
        if is_scalar(lanes) {
            let low = u128::MAX >> (128 - types(lanes).0.bits());
            [x, y] = [x, y].map(|v| {
                let (v, low) = (self.cast(I64X2, v), self.vector_constant(low));
                let low = self.cast(I64X2, low);
                self.b.ins().band(v, low)
            });
        }
        let (x, y) = (self.cast(t, x), self.cast(t, y));
        let v = self.b.ins().fcmp(how, x, y);
        let v = self.exceptional(v);
        if !is_scalar(lanes) {
            return v;
        }
        let v = self.low(lanes, v);
        self.with_low(lanes, a, v)
    }

    fn converted_integers(&mut self, op: FloatOp, lanes: Lanes, a: Value, b: Value) -> Value {
        let w = if op == FloatOp::FromD { D } else { Q };
        match lanes {
            Lanes::Ss | Lanes::Sd => {
                let x = match self.scalar_of(b) {
                    Some(scalar) if self.type_of(scalar).bytes() == u32::from(w.0) => {
                        self.integer_bits(scalar)
                    }
                    _ => {
                        let x = self.vector_lane(b, 0);
                        self.value(w, x)
                    }
                };
                let v = self.b.ins().fcvt_from_sint(types(lanes).0, x);
                let v = self.exceptional(v);
                self.with_low(lanes, a, v)
            }
            Lanes::Ps => {
                let b = self.cast(I32X4, b);
                let v = self.b.ins().fcvt_from_sint(F32X4, b);
                self.exceptional(v)
            }
            Lanes::Pd => {
                let b = self.cast(I32X4, b);
                let b = self.b.ins().swiden_low(b);
                self.b.ins().fcvt_from_sint(F64X2, b)
            }
        }
    }

    fn other_format(&mut self, op: FloatOp, lanes: Lanes, a: Value, b: Value) -> Value {
        let v = match (op, lanes) {
            (FloatOp::Widen, Lanes::Ss | Lanes::Sd) => {
                let x = self.low_second(Lanes::Ss, b);
                let v = self.b.ins().fpromote(F64, x);
                let v = self.exceptional(v);
                return self.with_low(Lanes::Sd, a, v);
            }
            (_, Lanes::Ss | Lanes::Sd) => {
                let x = self.low_second(Lanes::Sd, b);
                let v = self.b.ins().fdemote(F32, x);
                let v = self.exceptional(v);
                return self.with_low(Lanes::Ss, a, v);
            }
            (FloatOp::Widen, _) => {
                let b = self.cast(F32X4, b);
                self.b.ins().fvpromote_low(b)
            }
            _ => {
                let b = self.cast(F64X2, b);
                self.b.ins().fvdemote(b)
            }
        };
        self.exceptional(v)
    }

    /// CVTTSD2SI and its relatives, of what fits: that is seen from the exponent, because a comparison would raise flags of its
    /// own.
    fn truncate(&mut self, op: FloatOp, lanes: Lanes, b: Value) -> Value {
        let x = self.low_second(lanes, b);
        let t = if op == FloatOp::ToDTruncated { I32 } else { I64 };
        let (w, significand, bias) = if lanes == Lanes::Ss { (D, 23, 127) } else { (Q, 52, 1023) };
        let bits = self.integer_bits(x);
        let limit = (bias + i64::from(t.bits()) - 1) << (significand + 1);
        let exponent = self.b.ins().ishl_imm_u(bits, 1);
        let limit = self.constant(self.type_of(bits), Width(w.0).mask(limit as u64) as i64);
        let large = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, exponent, limit);
        self.bail_if(large);
        let v = self.b.ins().fcvt_to_sint_sat(t, x);
        let v = self.exceptional(v);
        let v = self.value(Q, Val::Computed(v));
        self.b.ins().scalar_to_vector(I64X2, v)
    }

    /// COMISD and its relatives: the flags.
    pub(in crate::jit) fn float_relation(&mut self, lanes: Lanes, a: Value, b: Value) {
        let (x, y) = (self.low(lanes, a), self.low_second(lanes, b));
        let unordered = self.b.ins().fcmp(FloatCC::Unordered, x, y);
        self.bail_if(unordered);
        self.new_flags = Some(Pending::Relation { x, y });
    }

    /// x * y + z, for which [`emits_fused`] holds.
    pub(in crate::jit) fn fused_operation(
        &mut self,
        form: Fused,
        lanes: Lanes,
        [x, y, z]: [Value; 3],
    ) -> Value {
        let target = z;
        let [x, y, z] = [x, y, z]
            .map(|v| if is_scalar(lanes) { self.low(lanes, v) } else { self.cast(types(lanes).1, v) });
        let y = if form.negate_product { self.b.ins().fneg(y) } else { y };
        let z = if form.negate_even { self.b.ins().fneg(z) } else { z };
        let v = self.b.ins().fma(y, x, z);
        let v = self.exceptional(v);
        let v = if is_scalar(lanes) { self.with_low(lanes, target, v) } else { v };
        self.cast(I8X16, v)
    }
}
