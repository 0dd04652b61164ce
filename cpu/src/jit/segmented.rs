//! Code outside of 64-bit mode whose segments have bases and limits: real mode, virtual-8086 mode, protected mode with segments.
//!
//! The interpreter runs its near branches and its instructions of the stack by functions that check everything (`sys/near.rs`,
//! `sys/stack.rs`). Translated code has the same semantics as elsewhere: offsets are compared with what
//! [`Cpu::reach`](crate::state::Cpu) says, and what does not pass is left to the interpreter. Where direct branches lead, and
//! whether the code itself is within the limit of CS, is looked at once, where the code is entered: within it CS does not change.

use super::region::goes_on;
use crate::{insn::Insn, mode::Mode, sem::Op, state::seg};

/// Whether offsets in CS are to be compared with its limit.
pub(super) fn checks_code(mode: Mode) -> bool {
    !mode.is_64() && !mode.contains(Mode::FLAT | Mode::CODE32)
}

/// Whether offsets in a segment are to be compared with its limit, and its base added.
pub(super) fn checks(segment: usize, mode: Mode) -> bool {
    let flat = mode.contains(Mode::FLAT) && segment < seg::FS && segment != seg::CS;
    !mode.is_64() && !flat
}

/// A legacy instruction as translated code has it.
fn canonical(i: &Insn, mode: Mode) -> Op {
    let op = Op::from_number(i.op);
    if mode.is_64() || mode.contains(Mode::ALIGN) {
        return op;
    }
    let wide_stack = mode.contains(Mode::STACK32);
    let either = |narrow: Op, wide: Op| if wide_stack { wide } else { narrow };
    // Branches of the other operand size cut the instruction pointer otherwise.
    let usual = i.w.0 == if mode.contains(Mode::CODE32) { 4 } else { 2 };
    match op {
        Op::PushLegacy => either(Op::Push16, Op::Push32),
        Op::PopLegacy => either(Op::Pop16, Op::Pop32),
        Op::LeaveLegacy => either(Op::Leave16, Op::Leave32),
        Op::JccLegacy if usual => Op::Jcc,
        Op::JmpLegacy if usual => Op::Jmp,
        Op::JcxzLegacy if usual => Op::Jrcxz,
        Op::LoopLegacy if usual => Op::LoopCc,
        Op::JmpToLegacy if usual => Op::NearJmpTo,
        Op::CallLegacy if usual => either(Op::NearCall16, Op::NearCall32),
        Op::CallToLegacy if usual => either(Op::NearCallTo16, Op::NearCallTo32),
        Op::RetLegacy if usual => either(Op::NearRet16, Op::NearRet32),
        _ => op,
    }
}

/// Instructions of a block as translated code has them.
pub(super) fn make_canonical(insns: &mut [Insn], mode: Mode) {
    for i in insns {
        i.op = canonical(i, mode) as u16;
    }
}

/// From where to where a block's instructions stand, relative to its page, and the places to which its direct branches lead.
/// `taken`: where its last instruction branches to.
pub(super) fn span(insns: &[Insn], taken: i32) -> (i32, i32) {
    let mut span = (i32::MAX, i32::MIN);
    let mut include = |from: i32, to: i32| span = (span.0.min(from), span.1.max(to));
    for i in insns {
        include(i.ip.into(), i32::from(i.ip) + i32::from(i.len));
    }
    if insns.last().is_some_and(|last| last.len != 0 && goes_on(last).0) {
        include(taken, taken + 1);
    }
    span
}
