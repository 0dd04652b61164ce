//! The way from a linear address to its code, by the jump cache: once for all regions.

use super::{
    Passage, Status,
    cache::Name,
    emitter::{STATE, at, import},
};
use crate::{
    blocks::{Head, JUMPS, JUMPS_OF_PAGE, JumpEntry},
    state::{Cpu, reg},
};
use cranelift_codegen::{
    ir::{AbiParam, InstBuilder, Signature, TrapCode, condcodes::IntCC, types::*},
    isa::CallConv,
};
use cranelift_frontend::FunctionBuilder;
use std::mem::offset_of;

/// Emits the function of a CPU and a linear address: see `blocks::jump_index`.
pub(super) fn emit(b: &mut FunctionBuilder<'_>) {
    let exit =
        b.import_signature(Signature { params: vec![AbiParam::new(I64)], ..Signature::new(CallConv::Winch) });
    let leave = import(b, Name::Leave, exit);
    let [entry, same, right, go, miss] = std::array::from_fn(|_| b.create_block());
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let [cpu, rip] = [b.block_params(entry)[0], b.block_params(entry)[1]];
    let fold = |b: &mut FunctionBuilder<'_>, near: i64, far: i64| {
        let (low, high) = (b.ins().ushr_imm_u(rip, near), b.ins().ushr_imm_u(rip, far));
        b.ins().bxor(low, high)
    };
    let (page, offset) = (fold(b, 12, 20), fold(b, 0, 4));
    let page = b.ins().ishl_imm_u(page, 6);
    let offset = b.ins().band_imm_u(offset, JUMPS_OF_PAGE as i64 - 1);
    let index = b.ins().iadd(page, offset);
    let index = b.ins().band_imm_u(index, JUMPS as i64 - 1);
    let bytes = b.ins().imul_imm_u(index, size_of::<JumpEntry>() as i64);
    let jumps = b.ins().load(I64, STATE, cpu, at(offset_of!(Cpu, jumps)));
    let entry = b.ins().iadd(jumps, bytes);
    let known = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, rip)));
    let equal = b.ins().icmp(IntCC::Equal, known, rip);
    b.ins().brif(equal, same, &[], miss, &[]);
    b.switch_to_block(same);
    let its = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, context)));
    let half = b.ins().ushr_imm_u(rip, 63);
    let half = b.ins().ishl_imm_u(half, 3);
    let half = b.ins().iadd(cpu, half);
    let ours = b.ins().load(I64, STATE, half, at(offset_of!(Cpu, contexts)));
    let equal = b.ins().icmp(IntCC::Equal, its, ours);
    b.ins().brif(equal, right, &[], miss, &[]);
    b.switch_to_block(right);
    let insn = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, insn)));
    let code = b.ins().load(I64, STATE, insn, Head::CODE_FROM_INSN);
    b.ins().brif(code, go, &[], miss, &[]);
    b.switch_to_block(go);
    let page = b.ins().band_imm_s(rip, !0xfff);
    b.ins().store(STATE, page, cpu, at(offset_of!(Cpu, gpr) + 8 * reg::PAGE as usize));
    b.ins().call_indirect(exit, code, &[cpu]);
    b.ins().trap(TrapCode::unwrap_user(2));
    b.switch_to_block(miss);
    b.ins().store(STATE, rip, cpu, at(offset_of!(Cpu, rip)));
    let status = b.ins().iconst(I32, i64::from(Status::Continue as u32));
    b.ins().store(STATE, status, cpu, at(offset_of!(Cpu, translated) + offset_of!(Passage, status)));
    b.ins().call(leave, &[cpu]);
    b.ins().trap(TrapCode::unwrap_user(1));
    b.seal_all_blocks();
}
