//! Vectors in translated code: 128 bits at a time, as the semantics have them. Integers are in `integer.rs`, floating point
//! in `float.rs`; what Cranelift has
//! no operation for calls a function of `helpers.rs`, with its operands in the host's vector registers.

mod float;
#[cfg(target_arch = "x86_64")]
mod helpers;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_helpers.rs"]
mod helpers;
mod integer;

pub(super) use float::{emits_float, emits_fused, may_refuse};
pub(super) use helpers::every_operation;

use super::{
    Passage,
    emitter::{Emitter, Val, at},
};
use crate::{
    state::Cpu,
    vector::{TernaryOp, VecOp},
    width::{D, Q, Width},
};
use cranelift_codegen::{
    cursor::{Cursor, FuncCursor},
    ir::{
        AbiParam, ConstantData, Endianness, InstBuilder, InstructionData, MemFlagsData, Opcode, Signature,
        Type, Value, types::*,
    },
    isa::CallConv,
};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use std::mem::offset_of;

/// Where results go that nobody reads.
const KEPT: i32 = at(offset_of!(Cpu, translated) + offset_of!(Passage, kept));
const KEPT_FLAGS: MemFlagsData = MemFlagsData::new().with_notrap();

/// A function by its address, and what stands above the immediate that it is called with.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other hosts have none"))]
struct Helper {
    address: usize,
    number: u8,
}

/// Whether the operation is inline.
pub(super) fn emits(op: VecOp) -> bool {
    every_operation() || integer::is_portable(op)
}

/// Whether an operation on three operands is.
pub(super) fn emits_ternary(_: TernaryOp) -> bool {
    every_operation()
}

impl Emitter<'_, '_> {
    /// What an instruction makes, and its only operand.
    fn unary(&self, v: Value) -> Option<(Opcode, Value)> {
        let dfg = &self.b.func.dfg;
        match dfg.insts[dfg.value_def(v).inst()?] {
            InstructionData::Unary { opcode, arg } | InstructionData::LoadNoOffset { opcode, arg, .. } => {
                Some((opcode, arg))
            }
            _ => None,
        }
    }

    fn type_of(&self, v: Value) -> Type {
        self.b.func.dfg.value_type(v)
    }

    /// The same bits as another type.
    pub(super) fn cast(&mut self, t: Type, mut v: Value) -> Value {
        if self.type_of(v) == t {
            return v;
        }
        if let Some((Opcode::Bitcast, origin)) = self.unary(v)
            && self.type_of(origin).is_vector()
        {
            v = origin;
        }
        if self.type_of(v) == t {
            return v;
        }
        self.b.ins().bitcast(t, MemFlagsData::new().with_endianness(Endianness::Little), v)
    }

    /// 128 bits that are known.
    fn vector_constant(&mut self, bits: u128) -> Value {
        let data = ConstantData::from(&bits.to_le_bytes()[..]);
        let constant = self.b.func.dfg.constants.insert(data);
        self.b.ins().vconst(I8X16, constant)
    }

    /// Bytes of a, 0 to 15, and b, 16 to 31.
    fn shuffle(&mut self, a: Value, b: Value, from: impl Fn(u8) -> u8) -> Value {
        let bytes: [u8; 16] = std::array::from_fn(|k| from(k as u8) & 31);
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        self.b.ins().shuffle(a, b, mask)
    }

    /// Shuffles 32-bit lanes of a, 0 to 3, and b, 4 to 7.
    fn shuffle_d(&mut self, a: Value, b: Value, from: [u8; 4]) -> Value {
        self.shuffle(a, b, |k| 4 * from[usize::from(k >> 2)] + (k & 3))
    }

    /// What a vector was made of that has zeros above it.
    fn scalar_of(&self, v: Value) -> Option<Value> {
        let origin = match self.unary(v) {
            Some((Opcode::Bitcast, origin)) => origin,
            _ => v,
        };
        match self.unary(origin) {
            Some((Opcode::ScalarToVector, scalar)) => Some(scalar),
            _ => None,
        }
    }

    /// The lowest lane, where it is if it can be.
    pub(super) fn low_lane(&mut self, w: Width, v: Value) -> Value {
        let t = match w.0 {
            1 => I8X16,
            2 => I16X8,
            4 => F32X4,
            _ => F64X2,
        };
        if let Some(scalar) = self.scalar_of(v)
            && self.type_of(scalar) == t.lane_type()
        {
            return scalar;
        }
        let v = self.cast(t, v);
        self.b.ins().extractlane(v, 0)
    }

    /// 64-bit lane n. The low one stays in a vector register until somebody wants it elsewhere.
    pub(super) fn vector_lane(&mut self, v: Value, n: u8) -> Val {
        if n & 1 == 0
            && let Some(scalar) = self.scalar_of(v)
        {
            return Val::Computed(self.widened(scalar));
        }
        let v = self.cast(F64X2, v);
        Val::Computed(self.b.ins().extractlane(v, n & 1))
    }

    /// A scalar in 64 bits.
    fn widened(&mut self, scalar: Value) -> Value {
        match self.type_of(scalar) {
            F64 | I64 => scalar,
            _ => self.value(Q, Val::Computed(scalar)),
        }
    }

    /// v with its 64-bit lane n replaced.
    pub(super) fn with_vector_lane(&mut self, v: Value, n: u8, x: Val) -> Value {
        let v = match x {
            Val::Computed(x) if self.type_of(x) == F64 => {
                let v = self.cast(F64X2, v);
                self.b.ins().insertlane(v, x, n & 1)
            }
            _ => {
                let (v, x) = (self.cast(I64X2, v), self.wide(Q, x));
                self.b.ins().insertlane(v, x, n & 1)
            }
        };
        self.cast(I8X16, v)
    }

    /// x in the low lane, zeros above.
    pub(super) fn vector_of(&mut self, x: Val) -> Value {
        let x = match x {
            Val::Known(0) => return self.vector_constant(0),
            Val::Known(k) => self.constant(I64, k as i64),
            Val::Computed(x) => match self.type_of(x) {
                F32 | F64 | I32 | I64 => x,
                t => self.wide(Width(t.bytes() as u8), Val::Computed(x)),
            },
        };
        let t = match self.type_of(x) {
            F32 => F32X4,
            F64 => F64X2,
            I32 => I32X4,
            _ => I64X2,
        };
        let v = self.b.ins().scalar_to_vector(t, x);
        self.cast(I8X16, v)
    }

    /// The bits of a scalar as an integer.
    pub(super) fn integer_bits(&mut self, v: Value) -> Value {
        match self.type_of(v) {
            F32 => self.b.ins().bitcast(I32, MemFlagsData::new(), v),
            F64 => self.b.ins().bitcast(I64, MemFlagsData::new(), v),
            _ => v,
        }
    }

    /// The low part of a lane, in a vector register if it is there: what is only stored need not leave it.
    pub(super) fn narrow_lane(&mut self, w: Width, v: Val) -> Value {
        if let Val::Computed(x) = v
            && self.type_of(x) == F64
        {
            if w == Q {
                return x;
            }
            let dfg = &self.b.func.dfg;
            let origin = dfg.value_def(x).inst().map(|inst| dfg.insts[inst]);
            if let Some(InstructionData::BinaryImm8 { opcode: Opcode::Extractlane, arg, imm: 0 }) = origin
                && w == D
            {
                let v = self.cast(F32X4, arg);
                return self.b.ins().extractlane(v, 0);
            }
        }
        self.value(w, v)
    }

    /// An operation for which [`emits`] holds.
    pub(super) fn vector_operation(&mut self, op: VecOp, a: Value, b: Value, imm: u8) -> Value {
        match self.integer_operation(op, a, b, imm) {
            Some(v) => self.cast(I8X16, v),
            None => self.call_helper(helpers::binary(op), &[a, b], imm),
        }
    }

    /// Calls a function on vectors. What [`emits`] knows has one.
    fn call_helper(&mut self, helper: Option<Helper>, operands: &[Value], imm: u8) -> Value {
        let Some(helper) = helper else { return operands[0] };
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(I8X16); operands.len()];
        signature.params.push(AbiParam::new(I64));
        signature.returns.push(AbiParam::new(I8X16));
        let signature = self.b.import_signature(signature);
        let function = self.constant(I64, helper.address as i64);
        let number = self.constant(I64, i64::from(helper.number) << 8 | i64::from(imm));
        let mut arguments: SmallVec<[Value; 4]> = operands.iter().map(|v| self.cast(I8X16, *v)).collect();
        arguments.push(number);
        let call = self.b.ins().call_indirect(signature, function, &arguments);
        self.b.inst_results(call)[0]
    }

    /// One for which [`emits_ternary`] holds.
    pub(super) fn ternary_operation(&mut self, op: TernaryOp, [a, b, c]: [Value; 3], imm: u8) -> Value {
        let t = match op {
            TernaryOp::SelectB => I8X16,
            TernaryOp::SelectD => I32X4,
            TernaryOp::SelectQ => I64X2,
            _ => return self.call_helper(helpers::ternary(op), &[a, b, c], imm),
        };
        let [a, b, c] = [a, b, c].map(|v| self.cast(t, v));
        let v = self.b.ins().blendv(c, b, a);
        self.cast(I8X16, v)
    }

    /// Gives results that nobody reads a reader where computing them raises flags. All blocks are sealed.
    pub(super) fn keep_results(&mut self) {
        if self.exceptional.is_empty() {
            return;
        }
        let func = &mut *self.b.func;
        let mut read: FxHashSet<Value> = FxHashSet::default();
        let mut work: Vec<Value> = Vec::new();
        for block in func.layout.blocks() {
            for inst in func.layout.block_insts(block) {
                let opcode = func.dfg.insts[inst].opcode();
                if opcode.is_branch() || opcode.is_call() || opcode.can_store() || opcode.is_terminator() {
                    work.extend(func.dfg.inst_values(inst));
                }
            }
        }
        while let Some(v) = work.pop() {
            let v = func.dfg.resolve_aliases(v);
            if read.insert(v)
                && let Some(inst) = func.dfg.value_def(v).inst()
            {
                work.extend(func.dfg.inst_values(inst));
            }
        }
        let mut cursor = FuncCursor::new(func);
        for v in &self.exceptional {
            let v = cursor.func.dfg.resolve_aliases(*v);
            if let (false, Some(inst)) = (read.contains(&v), cursor.func.dfg.value_def(v).inst()) {
                cursor.goto_after_inst(inst);
                cursor.ins().store(KEPT_FLAGS, v, self.cpu, KEPT);
            }
        }
    }
}
