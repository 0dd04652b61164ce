//! Floating point in one-pass translation: the host's same instructions, under the guest's MXCSR with all exceptions masked.
//! See `jit/vectors/float.rs` for what makes that exact; here each instruction of the guest's is one of the host's with the same
//! order of operands, so NaNs, comparisons with them and conversions that do not fit need no thought.

use super::{
    Unsupported, Writer,
    assembler::{Alu, RAX, THREE_3A, TWO, Xmm, cond},
    flags::Change,
};
use crate::{
    state::{Cpu, Mxcsr},
    vector::{FloatOp, Fused, Lanes},
    width::{D, Q},
};
use std::mem::offset_of;

/// The prefix of an operation on these lanes.
fn prefix(lanes: Lanes) -> u8 {
    match lanes {
        Lanes::Ss => 0xf3,
        Lanes::Sd => 0xf2,
        Lanes::Ps => 0,
        Lanes::Pd => 0x66,
    }
}

fn is_scalar(lanes: Lanes) -> bool {
    matches!(lanes, Lanes::Ss | Lanes::Sd)
}

/// Prefix and opcode of operations between vector registers, those with the first operand's other lanes in the result too.
fn form(op: FloatOp, lanes: Lanes) -> Option<(u8, u32)> {
    use FloatOp as F;
    let arithmetic = match op {
        F::Add => 0x58,
        F::Mul => 0x59,
        F::Sub => 0x5c,
        F::Min => 0x5d,
        F::Div => 0x5e,
        F::Max => 0x5f,
        F::Sqrt => 0x51,
        F::Cmp => 0xc2,
        _ => 0,
    };
    if arithmetic != 0 {
        return Some((prefix(lanes), TWO | arithmetic));
    }
    // Operations within a vector have another prefix for four lanes.
    let four = if lanes == Lanes::Ps { 0xf2 } else { 0x66 };
    Some(match (op, lanes) {
        (F::Widen, Lanes::Ss | Lanes::Sd) => (0xf3, TWO | 0x5a),
        (F::Narrow, Lanes::Ss | Lanes::Sd) => (0xf2, TWO | 0x5a),
        (F::Widen, _) => (0, TWO | 0x5a),
        (F::Narrow, _) => (0x66, TWO | 0x5a),
        (F::FromD, Lanes::Ps) => (0, TWO | 0x5b),
        (F::FromD, Lanes::Pd) => (0xf3, TWO | 0xe6),
        (F::ToD, Lanes::Ps) => (0x66, TWO | 0x5b),
        (F::ToD, Lanes::Pd) => (0xf2, TWO | 0xe6),
        (F::ToDTruncated, Lanes::Ps) => (0xf3, TWO | 0x5b),
        (F::ToDTruncated, Lanes::Pd) => (0x66, TWO | 0xe6),
        (F::AddSub, Lanes::Ps | Lanes::Pd) => (four, TWO | 0xd0),
        (F::HAdd, Lanes::Ps | Lanes::Pd) => (four, TWO | 0x7c),
        (F::HSub, Lanes::Ps | Lanes::Pd) => (four, TWO | 0x7d),
        (F::Round, Lanes::Ps) => (0x66, THREE_3A | 0x08),
        (F::Round, Lanes::Pd) => (0x66, THREE_3A | 0x09),
        (F::Round, Lanes::Ss) => (0x66, THREE_3A | 0x0a),
        (F::Round, Lanes::Sd) => (0x66, THREE_3A | 0x0b),
        _ => return None,
    })
}

impl Writer {
    /// Leaves the instruction to the interpreter while the guest wants to hear of an exception. Whatever may change that on
    /// the way ends the translation: see `runtime::step`.
    fn demand_masked(&mut self) {
        if std::mem::replace(&mut self.masked, true) {
            return;
        }
        self.asm.load(D, RAX, Self::place(offset_of!(Cpu, mxcsr)));
        self.asm.alu_constant(Alu::And, D, RAX, Mxcsr::MASKS as i32);
        self.asm.alu_constant(Alu::Cmp, D, RAX, Mxcsr::MASKS as i32);
        self.bail(cond::NOT_EQUAL);
    }

    /// An operation that regions have inline too: see `vectors::emits_float`.
    pub(super) fn float_operation(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: Xmm,
        b: Xmm,
        imm: u8,
    ) -> Result<Xmm, Unsupported> {
        use FloatOp as F;
        let w = if matches!(op, F::FromD | F::ToD | F::ToDTruncated) { D } else { Q };
        match op {
            F::FromD | F::FromQ if is_scalar(lanes) => {
                self.demand_masked();
                let to = self.copy_of_vector(a);
                self.asm.copy_out_of_vector(RAX, b);
                self.asm.convert_in(prefix(lanes), w, to, RAX);
                Ok(to)
            }
            F::ToD | F::ToQ | F::ToDTruncated | F::ToQTruncated if is_scalar(lanes) => {
                self.demand_masked();
                let truncated = matches!(op, F::ToDTruncated | F::ToQTruncated);
                let opcode = TWO | if truncated { 0x2c } else { 0x2d };
                self.asm.convert_out((prefix(lanes), opcode), w, RAX, b);
                let to = self.vector_register();
                self.asm.copy_into_vector(to, RAX);
                Ok(to)
            }
            _ => {
                let form = form(op, lanes).ok_or(Unsupported)?;
                self.demand_masked();
                let to = self.copy_of_vector(a);
                match op {
                    F::Cmp => self.asm.sse_immediate(form, to, b, imm & 7),
                    F::Round => self.asm.sse_immediate(form, to, b, imm & 15),
                    _ => self.asm.sse(form, to, b),
                }
                Ok(to)
            }
        }
    }

    /// COMISS and its relatives: the host's flags are the guest's.
    pub(super) fn float_relation(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: Xmm,
        b: Xmm,
    ) -> Result<(), Unsupported> {
        if !self.loads_flags {
            return Err(Unsupported);
        }
        self.demand_masked();
        let prefix = if lanes == Lanes::Ss { 0 } else { 0x66 };
        let opcode = TWO | if op == FloatOp::Comi { 0x2f } else { 0x2e };
        self.asm.sse((prefix, opcode), a, b);
        self.asm.flags_to_ah();
        let r = self.temporary();
        self.asm.copy32(r, RAX);
        self.new_flags.push(Change::Relation(r));
        Ok(())
    }

    /// x * y + z, for which `vectors::emits_fused` holds. The form that adds to its target looks at x, y and z in this order.
    pub(super) fn fused_operation(
        &mut self,
        form: Fused,
        lanes: Lanes,
        [x, y, z]: [Xmm; 3],
    ) -> Result<Xmm, Unsupported> {
        self.demand_masked();
        let opcode = 0xb8
            | u8::from(is_scalar(lanes))
            | u8::from(form.negate_even) << 1
            | u8::from(form.negate_product) << 2;
        let to = self.copy_of_vector(z);
        self.asm.fused(opcode, matches!(lanes, Lanes::Sd | Lanes::Pd), to, x, y);
        Ok(to)
    }
}
