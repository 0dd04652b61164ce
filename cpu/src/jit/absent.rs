//! What stands in the place of the parts that are made with Cranelift where softmetal is built without it: nothing is translated.

use crate::state::Cpu;

pub(super) mod compiler {
    use crate::jit::{
        region::Region,
        service::{Compiled, Parts},
    };

    /// There is none.
    #[derive(Debug)]
    pub(in crate::jit) enum Compiler {}

    impl Compiler {
        pub(in crate::jit) fn new(_checked: bool) -> Option<Self> {
            None
        }

        pub(in crate::jit) fn compile(&mut self, _: &Region) -> Option<Compiled> {
            match *self {}
        }

        pub(in crate::jit) fn parts(&mut self) -> Option<Parts> {
            match *self {}
        }
    }
}

pub(super) mod system {
    use crate::{mode::Mode, sem::Op};

    /// Whether translated code has the instruction inline.
    pub(in crate::jit) fn emits(_: Op, _: Mode) -> bool {
        false
    }
}

pub(super) mod x87 {
    use crate::{insn::Insn, mode::Mode};

    /// Whether translated code has the x87 instruction inline.
    pub(in crate::jit) fn emits(_: &Insn, _: Mode) -> bool {
        false
    }
}

pub(super) mod vectors {
    use crate::vector::{FloatOp, Fused, Lanes, TernaryOp, VecOp};

    /// Whether translated code has the operation inline.
    pub(in crate::jit) fn emits(_: VecOp) -> bool {
        false
    }
    /// The same of one with three operands.
    pub(in crate::jit) fn emits_ternary(_: TernaryOp) -> bool {
        false
    }
    /// The same of floating point.
    pub(in crate::jit) fn emits_float(_: FloatOp, _: Lanes, _: u8) -> bool {
        false
    }
    /// The same of multiplication with addition.
    pub(in crate::jit) fn emits_fused(_: Fused, _: Lanes) -> bool {
        false
    }
    /// Whether it may leave the instruction to the interpreter.
    pub(in crate::jit) fn may_refuse(_: FloatOp) -> bool {
        false
    }
}

impl Cpu {
    /// Translated code that has been left leaves flags that are not words yet.
    pub(super) fn settle_flags(&mut self, _: u32) {}
}
