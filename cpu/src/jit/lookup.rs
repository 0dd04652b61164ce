//! The way from a linear address to its code, by the jump cache: once for all regions.

use super::{
    Passage, Status,
    cache::Name,
    emitter::{STATE, at, import},
    runtime,
};
use crate::{
    blocks::Head,
    jumps::{FOLD, JUMPS, JUMPS_OF_PAGE, JumpEntry, SHORT, SHORT_FOLD, STEP, ShortEntry, ShortTable, Way},
    state::{Cpu, reg},
};
use cranelift_codegen::{
    ir::{AbiParam, InstBuilder, Signature, TrapCode, condcodes::IntCC, types::*},
    isa::CallConv,
};
use cranelift_frontend::FunctionBuilder;
use std::mem::offset_of;

/// Emits the function of a CPU and a linear address: see `jumps::short` and `jumps::jump_index`.
pub(super) fn emit(b: &mut FunctionBuilder<'_>) {
    let exit =
        b.import_signature(Signature { params: vec![AbiParam::new(I64)], ..Signature::new(CallConv::Winch) });
    let leave = import(b, Name::Leave, exit);
    let [entry, known, unknown, second, same, right, keep, fresh, translated, go, miss] =
        std::array::from_fn(|_| b.create_block());
    [second, fresh, translated, miss].into_iter().for_each(|block| b.set_cold_block(block));
    for block in [go, same] {
        b.append_block_param(block, I64);
    }
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let [cpu, rip] = [b.block_params(entry)[0], b.block_params(entry)[1]];
    // The small table.
    let folded = b.ins().ushr_imm_u(rip, i64::from(SHORT_FOLD));
    let folded = b.ins().bxor(rip, folded);
    let folded = b.ins().band_imm_u(folded, SHORT as i64 - 1);
    let bytes = b.ins().ishl_imm_u(folded, i64::from(size_of::<ShortEntry>().trailing_zeros()));
    let part =
        |b: &mut FunctionBuilder<'_>, part| b.ins().load(I64, STATE, cpu, at(offset_of!(Cpu, short) + part));
    let table = part(b, offset_of!(ShortTable, entries));
    let short = b.ins().iadd(table, bytes);
    let number = part(b, offset_of!(ShortTable, number));
    let key = b.ins().bxor(rip, number);
    let its = b.ins().load(I64, STATE, short, at(offset_of!(ShortEntry, key)));
    let equal = b.ins().icmp(IntCC::Equal, its, key);
    b.ins().brif(equal, known, &[], unknown, &[]);
    b.switch_to_block(known);
    let code = b.ins().load(I64, STATE, short, at(offset_of!(ShortEntry, code)));
    b.ins().jump(go, &[code.into()]);
    // The large one.
    b.switch_to_block(unknown);
    let fold = |b: &mut FunctionBuilder<'_>, near: i64, far: i64| {
        let (low, high) = (b.ins().ushr_imm_u(rip, near), b.ins().ushr_imm_u(rip, far));
        b.ins().bxor(low, high)
    };
    let (page, offset) = (fold(b, 12, 20), fold(b, 0, i64::from(FOLD)));
    let page = b.ins().ishl_imm_u(page, i64::from(STEP));
    let offset = b.ins().band_imm_u(offset, JUMPS_OF_PAGE as i64 - 1);
    let index = b.ins().iadd(page, offset);
    let index = b.ins().band_imm_u(index, JUMPS as i64 - 1);
    let bytes = b.ins().ishl_imm_u(index, i64::from(size_of::<JumpEntry>().trailing_zeros()));
    let half = b.ins().ushr_imm_u(rip, 63);
    let half = b.ins().ishl_imm_u(half, i64::from(size_of::<Way>().trailing_zeros()));
    let way = b.ins().iadd(cpu, half);
    let part = |field: usize| at(offset_of!(Cpu, ways) + field);
    let entries = b.ins().load(I64, STATE, way, part(offset_of!(Way, entries)));
    let entry = b.ins().iadd(entries, bytes);
    let known = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, rip)));
    let equal = b.ins().icmp(IntCC::Equal, known, rip);
    b.ins().brif(equal, same, &[entry.into()], second, &[]);
    // Its other place.
    b.switch_to_block(second);
    let bytes = b.ins().bxor_imm_u(bytes, size_of::<JumpEntry>() as i64);
    let entry = b.ins().iadd(entries, bytes);
    let known = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, rip)));
    let equal = b.ins().icmp(IntCC::Equal, known, rip);
    b.ins().brif(equal, same, &[entry.into()], miss, &[]);
    b.switch_to_block(same);
    let entry = b.block_params(same)[0];
    let its = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, context)));
    let ours = b.ins().load(I64, STATE, way, part(offset_of!(Way, context)));
    let equal = b.ins().icmp(IntCC::Equal, its, ours);
    b.ins().brif(equal, right, &[], miss, &[]);
    b.switch_to_block(right);
    let code = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, code)));
    b.ins().brif(code, keep, &[], fresh, &[]);
    b.switch_to_block(keep);
    b.ins().store(STATE, key, short, at(offset_of!(ShortEntry, key)));
    b.ins().store(STATE, code, short, at(offset_of!(ShortEntry, code)));
    b.ins().jump(go, &[code.into()]);
    // It may have been translated since the entry was made.
    b.switch_to_block(fresh);
    let insn = b.ins().load(I64, STATE, entry, at(offset_of!(JumpEntry, insn)));
    let code = b.ins().load(I64, STATE, insn, Head::CODE_FROM_INSN);
    b.ins().brif(code, translated, &[], miss, &[]);
    b.switch_to_block(translated);
    let rust = b.import_signature(Signature {
        params: vec![AbiParam::new(I64); 3],
        returns: vec![AbiParam::new(I64)],
        ..Signature::new(CallConv::SystemV)
    });
    let function = b.ins().iconst(I64, runtime::code_at as *const () as i64);
    let call = b.ins().call_indirect(rust, function, &[cpu, rip, rip]);
    let code = b.inst_results(call)[0];
    b.ins().brif(code, go, &[code.into()], miss, &[]);
    b.switch_to_block(go);
    let code = b.block_params(go)[0];
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
