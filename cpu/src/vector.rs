//! The vector operations that semantics are made of: one list, evaluated here, emitted by a translator.

/// Integer operations on 128 bits. The name says lanes and meaning as the mnemonic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VecOp {
    /// a & b.
    And,
    /// !a & b.
    AndNot,
    /// a | b.
    Or,
    /// a ^ b.
    Xor,
}

/// Which lanes a floating-point operation works on; the others come from the first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// The low f32.
    Ss,
    /// The low f64.
    Sd,
    /// Four f32.
    Ps,
    /// Two f64.
    Pd,
}

/// Floating-point operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    /// a + b.
    Add,
}

impl VecOp {
    /// The operation on values.
    #[inline(always)]
    pub(crate) fn eval(self, a: u128, b: u128, imm: u8) -> u128 {
        let _ = imm;
        match self {
            VecOp::And => a & b,
            VecOp::AndNot => !a & b,
            VecOp::Or => a | b,
            VecOp::Xor => a ^ b,
        }
    }
}

impl crate::state::Cpu {
    /// Runs a floating-point operation under MXCSR; #XM, and nothing written, where an unmasked exception arises.
    pub(crate) fn sse_float(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: u128,
        b: u128,
        _imm: u8,
    ) -> Result<u128, crate::fault::Stop> {
        use crate::float::{Env, F32, F64, add};
        let mut env = Env::sse(self.mxcsr);
        let FloatOp::Add = op;
        let r = match lanes {
            Lanes::Ss => a & !0xffff_ffff | u128::from(add::<F32>(a as u32, b as u32, &mut env)),
            _ => a & !u128::from(u64::MAX) | u128::from(add::<F64>(a as u64, b as u64, &mut env)),
        };
        self.mxcsr = env.mxcsr();
        Ok(r)
    }
}
