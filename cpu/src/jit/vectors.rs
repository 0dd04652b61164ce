//! The vector operations that translated code has inline; instructions made of others call their interpreter function.

use super::emitter::Emitter;
use crate::vector::VecOp;
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, condcodes::IntCC, types::*};

/// Lanes of the integer operations that Cranelift has.
fn shape(op: VecOp) -> Option<(Type, Kind)> {
    use Kind::*;
    use VecOp as V;
    Some(match op {
        V::And => (I64X2, And),
        V::AndNot => (I64X2, AndNot),
        V::Or => (I64X2, Or),
        V::Xor => (I64X2, Xor),
        V::AddB => (I8X16, Add),
        V::AddW => (I16X8, Add),
        V::AddD => (I32X4, Add),
        V::AddQ => (I64X2, Add),
        V::SubB => (I8X16, Sub),
        V::SubW => (I16X8, Sub),
        V::SubD => (I32X4, Sub),
        V::SubQ => (I64X2, Sub),
        V::MinUB => (I8X16, MinU),
        V::MaxUB => (I8X16, MaxU),
        V::MinSW => (I16X8, MinS),
        V::MaxSW => (I16X8, MaxS),
        V::CmpEqB => (I8X16, Equal),
        V::CmpEqW => (I16X8, Equal),
        V::CmpEqD => (I32X4, Equal),
        V::CmpGtB => (I8X16, Greater),
        V::CmpGtW => (I16X8, Greater),
        V::CmpGtD => (I32X4, Greater),
        V::MaskB => (I8X16, Mask),
        V::MaskD => (I32X4, Mask),
        V::MaskQ => (I64X2, Mask),
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    And,
    AndNot,
    Or,
    Xor,
    Add,
    Sub,
    MinU,
    MaxU,
    MinS,
    MaxS,
    Equal,
    Greater,
    Mask,
}

/// Whether the operation is inline.
pub(super) fn emits(op: VecOp) -> bool {
    shape(op).is_some()
}

impl Emitter<'_, '_> {
    /// The same bits as another type.
    pub(super) fn cast(&mut self, t: Type, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == t {
            return v;
        }
        self.b.ins().bitcast(t, MemFlagsData::new().with_endianness(Endianness::Little), v)
    }

    /// An operation for which [`emits`] holds.
    pub(super) fn vector_operation(&mut self, op: VecOp, a: Value, b: Value, _: u8) -> Value {
        let Some((t, kind)) = shape(op) else { return a };
        let (a, b) = (self.cast(t, a), self.cast(t, b));
        let v = match kind {
            Kind::And => self.b.ins().band(a, b),
            Kind::AndNot => self.b.ins().band_not(b, a),
            Kind::Or => self.b.ins().bor(a, b),
            Kind::Xor => self.b.ins().bxor(a, b),
            Kind::Add => self.b.ins().iadd(a, b),
            Kind::Sub => self.b.ins().isub(a, b),
            Kind::MinU => self.b.ins().umin(a, b),
            Kind::MaxU => self.b.ins().umax(a, b),
            Kind::MinS => self.b.ins().smin(a, b),
            Kind::MaxS => self.b.ins().smax(a, b),
            Kind::Equal => self.b.ins().icmp(IntCC::Equal, a, b),
            Kind::Greater => self.b.ins().icmp(IntCC::SignedGreaterThan, a, b),
            Kind::Mask => {
                let bits = self.b.ins().vhigh_bits(I32, a);
                let bits = self.b.ins().uextend(I64, bits);
                self.b.ins().scalar_to_vector(I64X2, bits)
            }
        };
        self.cast(I8X16, v)
    }
}
