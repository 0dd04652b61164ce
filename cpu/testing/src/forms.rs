//! Encodings of instructions, made from iced's tables: every form of an opcode with random registers, immediates and
//! addresses that lie in the scratch memory.

use crate::{Segments, forms_legacy as legacy, layout::*, random::Random};
use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, Instruction, MemoryOperand, OpCodeOperandKind as K, OpKind,
    Register,
};
use softmetal_cpu::testing::User;

/// What belongs to the integer instruction set of today.
pub const INTEGER: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::POPCNT,
    CpuidFeature::LZCNT,
    CpuidFeature::MOVBE,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::ADX,
    CpuidFeature::SSE2,
];

/// All codes of legacy and VEX encoding that exist in 64-bit mode and belong to one of the features.
pub fn codes(features: &[CpuidFeature]) -> Vec<Code> {
    codes_for(64, features)
}

/// As [`codes`], of 16-, 32- or 64-bit code.
pub fn codes_for(bitness: u32, features: &[CpuidFeature]) -> Vec<Code> {
    Code::values()
        .filter(|code| {
            let info = code.op_code();
            info.is_instruction()
                && match bitness {
                    16 => info.mode16(),
                    32 => info.mode32(),
                    _ => info.mode64(),
                }
                && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
                && code.cpuid_features().iter().all(|f| features.contains(f))
        })
        .collect()
}

/// An instruction with what its address needs of the registers.
#[derive(Clone, Debug)]
pub struct Form {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Decoded again, at [`INSN`].
    pub insn: Instruction,
}

const GPR64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// A general register of a size.
fn gpr(random: &mut Random, size: u32) -> Register {
    let first = match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    // AL to R15L and AH to BH are 20; the others 16.
    let n = if size == 1 { 20 } else { 16 };
    Register::values().nth(first as usize + random.below(n) as usize).unwrap_or(first)
}

/// An address: sixteen kinds of register, scale and displacement, all of which [`aim`] can lead to the scratch memory.
fn memory(random: &mut Random) -> MemoryOperand {
    let at = DATA + random.below(0x2000);
    let (base, index) = (random.pick(&GPR64), random.pick(&GPR64));
    let index = if index == Register::RSP || index == base { Register::None } else { index };
    let scale = if index == Register::None { 1 } else { 1 << random.below(4) };
    let short = |r: Register| {
        if r == Register::None {
            r
        } else {
            Register::values().nth(Register::EAX as usize + r.number()).unwrap_or(r)
        }
    };
    match random.below(8) {
        0 => MemoryOperand::with_displ(at, 4),
        1 => MemoryOperand::with_base_displ(Register::RIP, at as i64),
        2 => MemoryOperand::with_base_index_scale_displ_size(short(base), short(index), scale, 0x10, 1),
        3 => MemoryOperand::with_base_displ_size(base, random.below(0x1000) as i64, 4),
        4 => MemoryOperand::with_base_displ_size(base, -(random.below(0x80) as i64), 1),
        5 => MemoryOperand::with_base(base),
        _ => MemoryOperand::with_base_index_scale_displ_size(base, index, scale, random.below(100) as i64, 1),
    }
}

/// A random instruction of this code; None where an operand is of a kind that does not run here, or the operands chosen have
/// no encoding.
pub fn form(code: Code, random: &mut Random) -> Option<Form> {
    form_in(Segments::LONG, code, random)
}

/// As [`form`], for code that runs in `segments`.
pub fn form_in(segments: Segments, code: Code, random: &mut Random) -> Option<Form> {
    // Half of the registers have no encoding in 16- and 32-bit code.
    let attempts = if segments.bitness() == 64 { 1 } else { 64 };
    (0..attempts).find_map(|_| attempt(segments, code, random))
}

fn attempt(segments: Segments, code: Code, random: &mut Random) -> Option<Form> {
    let bitness = segments.bitness();
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let mut offset = None;
    for k in 0..info.op_count() {
        let (kind, size) = match info.op_kind(k) {
            K::r8_or_mem => (None, 1),
            K::r16_or_mem => (None, 2),
            K::r32_or_mem | K::r32_or_mem_mpx => (None, 4),
            K::r64_or_mem | K::r64_or_mem_mpx => (None, 8),
            K::xmm_or_mem | K::ymm_or_mem | K::mm_or_mem | K::mem => (None, 0),
            other => (Some(other), 0),
        };
        let Some(kind) = kind else {
            let register_form = info.op_kind(k) != K::mem && random.below(2) == 0;
            if register_form {
                let r = match info.op_kind(k) {
                    K::xmm_or_mem => xmm(random),
                    K::ymm_or_mem => ymm(random),
                    K::mm_or_mem => mm(random),
                    _ => gpr(random, size),
                };
                insn.set_op_kind(k, OpKind::Register);
                insn.set_op_register(k, r);
            } else {
                let m = if bitness == 64 { memory(random) } else { legacy::memory(segments, random) };
                insn.set_segment_prefix(m.segment_prefix);
                insn.set_op_kind(k, OpKind::Memory);
                insn.set_memory_base(m.base);
                insn.set_memory_index(m.index);
                insn.set_memory_index_scale(m.scale);
                insn.set_memory_displ_size(m.displ_size);
                insn.set_memory_displacement64(m.displacement as u64);
                if m.base == Register::RIP {
                    insn.set_memory_displ_size(8);
                    offset = Some(m.displacement as u64);
                }
            }
            continue;
        };
        if bitness != 64 && legacy::operand(&mut insn, k, kind, segments, random) {
            continue;
        }
        let (op, r) = match kind {
            K::r8_reg | K::r8_opcode => (OpKind::Register, gpr(random, 1)),
            K::r16_reg | K::r16_opcode | K::r16_rm => (OpKind::Register, gpr(random, 2)),
            K::r32_reg | K::r32_opcode | K::r32_rm | K::r32_vvvv => (OpKind::Register, gpr(random, 4)),
            K::r64_reg | K::r64_opcode | K::r64_rm | K::r64_vvvv => (OpKind::Register, gpr(random, 8)),
            K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => (OpKind::Register, xmm(random)),
            K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => (OpKind::Register, ymm(random)),
            K::mm_reg | K::mm_rm => (OpKind::Register, mm(random)),
            K::al => (OpKind::Register, Register::AL),
            K::cl => (OpKind::Register, Register::CL),
            K::ax => (OpKind::Register, Register::AX),
            K::eax => (OpKind::Register, Register::EAX),
            K::rax => (OpKind::Register, Register::RAX),
            K::dx => (OpKind::Register, Register::DX),
            K::r16_reg_mem => (OpKind::Register, gpr(random, 2)),
            K::r32_reg_mem => (OpKind::Register, gpr(random, 4)),
            K::r64_reg_mem => (OpKind::Register, gpr(random, 8)),
            K::cr_reg => {
                (OpKind::Register, random.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]))
            }
            K::dr_reg => {
                (OpKind::Register, random.pick(&[Register::DR0, Register::DR3, Register::DR6, Register::DR7]))
            }
            K::st0 => (OpKind::Register, Register::ST0),
            K::sti_opcode => {
                let r = Register::values().nth(Register::ST0 as usize + random.below(8) as usize)?;
                (OpKind::Register, r)
            }
            K::imm8 => (OpKind::Immediate8, Register::None),
            K::imm8_const_1 => (OpKind::Immediate8, Register::None),
            K::imm8sex16 => (OpKind::Immediate8to16, Register::None),
            K::imm8sex32 => (OpKind::Immediate8to32, Register::None),
            K::imm8sex64 => (OpKind::Immediate8to64, Register::None),
            K::imm16 => (OpKind::Immediate16, Register::None),
            K::imm32 => (OpKind::Immediate32, Register::None),
            K::imm32sex64 => (OpKind::Immediate32to64, Register::None),
            K::imm64 => (OpKind::Immediate64, Register::None),
            K::mem_offs => {
                insn.set_op_kind(k, OpKind::Memory);
                insn.set_memory_displ_size(8);
                insn.set_memory_displacement64(DATA + random.below(0x2000));
                continue;
            }
            K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => {
                let wide = matches!(kind, K::mem_vsib32y | K::mem_vsib64y);
                insn.set_op_kind(k, OpKind::Memory);
                insn.set_memory_base(random.pick(&GPR64));
                insn.set_memory_index(if wide { ymm(random) } else { xmm(random) });
                insn.set_memory_index_scale(1 << random.below(4));
                insn.set_memory_displ_size(1);
                insn.set_memory_displacement64(random.below(100));
                continue;
            }
            K::seg_rSI => (OpKind::MemorySegRSI, Register::None),
            K::es_rDI => (OpKind::MemoryESRDI, Register::None),
            K::seg_rDI => (OpKind::MemorySegRDI, Register::None),
            K::seg_rBX_al => {
                insn.set_op_kind(k, OpKind::Memory);
                insn.set_memory_base(Register::RBX);
                insn.set_memory_index(Register::AL);
                continue;
            }
            _ => return None,
        };
        insn.set_op_kind(k, op);
        match op {
            OpKind::Register => insn.set_op_register(k, r),
            OpKind::Immediate8 if kind == K::imm8_const_1 => insn.set_immediate8(1),
            OpKind::Immediate8 if k == 1 && info.op_count() == 2 && info.op_kind(0) == K::imm16 => {
                insn.set_op_kind(k, OpKind::Immediate8_2nd);
                insn.set_immediate8_2nd(random.below(4) as u8);
            }
            OpKind::Immediate8 => insn.set_immediate8(random.next() as u8),
            OpKind::Immediate8to16 => insn.set_immediate8to16(random.next() as i8 as i16),
            OpKind::Immediate8to32 => insn.set_immediate8to32(random.next() as i8 as i32),
            OpKind::Immediate8to64 => insn.set_immediate8to64(random.next() as i8 as i64),
            OpKind::Immediate16 => insn.set_immediate16(random.operand() as u16),
            OpKind::Immediate32 => insn.set_immediate32(random.operand() as u32),
            OpKind::Immediate32to64 => insn.set_immediate32to64(random.operand() as i32 as i64),
            OpKind::Immediate64 => insn.set_immediate64(random.operand()),
            _ => {}
        }
    }
    let memory_target = info.op_count() > 0 && insn.op0_kind() == OpKind::Memory;
    if info.can_use_lock_prefix() && memory_target && random.once_in(3) {
        insn.set_has_lock_prefix(true);
    }
    if insn.is_string_instruction() && (info.can_use_rep_prefix() || info.can_use_repne_prefix()) {
        match random.below(3) {
            0 => insn.set_has_rep_prefix(true),
            1 if info.can_use_repne_prefix() => insn.set_has_repne_prefix(true),
            _ => {}
        }
    }
    let mut encoder = Encoder::new(bitness);
    if offset.is_some() {
        insn.set_memory_base(Register::RIP);
    }
    encoder.encode(&insn, segments.ip()).ok()?;
    let bytes = encoder.take_buffer();
    let options = iced_x86::DecoderOptions::NONE;
    let insn = iced_x86::Decoder::with_ip(bitness, &bytes, segments.ip(), options).decode();
    (!insn.is_invalid()).then_some(Form { bytes, insn })
}

fn xmm(random: &mut Random) -> Register {
    Register::values().nth(Register::XMM0 as usize + random.below(16) as usize).unwrap_or(Register::XMM0)
}

fn ymm(random: &mut Random) -> Register {
    Register::values().nth(Register::YMM0 as usize + random.below(16) as usize).unwrap_or(Register::YMM0)
}

fn mm(random: &mut Random) -> Register {
    Register::values().nth(Register::MM0 as usize + random.below(8) as usize).unwrap_or(Register::MM0)
}

/// Where the address has a vector of indices, makes them small.
pub fn aim_indices(form: &Form, random: &mut Random, user: &mut User) {
    let index = form.insn.memory_index();
    if !(index.is_xmm() || index.is_ymm()) {
        return;
    }
    let narrow = form.insn.code().op_code().op_kind(1);
    let narrow = matches!(narrow, K::mem_vsib32x | K::mem_vsib32y);
    let mut half = || {
        if narrow {
            (0..4).fold(0, |all, k: u32| {
                all | u128::from((random.below(0x100) as i32 - 0x80) as u32) << (32 * k)
            })
        } else {
            (0..2).fold(0, |all, k: u32| {
                all | u128::from((random.below(0x100) as i64 - 0x80) as u64) << (64 * k)
            })
        }
    };
    let n = index.number();
    (user.xmm[n], user.ymm_high[n]) = (half(), half());
}

/// Random user registers whose addresses lead the instruction to the scratch memory; now and then to a place that faults.
pub fn aim(form: &Form, random: &mut Random, blank: &User) -> User {
    let mut user = *blank;
    for (k, r) in user.gpr.iter_mut().enumerate() {
        *r = if k == 4 { USER_STACK - 8 * random.below(64) } else { random.operand() };
    }
    user.rflags = 0x202 | random.next() & 0xcd5;
    let insn = &form.insn;
    let target = match random.below(16) {
        0 => SCRATCH + SCRATCH_SIZE - random.below(16),
        1 => SCRATCH_READ_ONLY - random.below(16),
        2 => DATA + 0x1000 - random.below(16),
        3..8 => DATA + random.below(0x800) & !15,
        _ => DATA + random.below(0x2000),
    };
    let set = |user: &mut User, r: Register, v: u64| {
        if r.is_gpr() {
            user.gpr[r.full_register().number()] = v;
        }
    };
    if insn.is_string_instruction() {
        user.gpr[6] = target;
        user.gpr[7] = DATA + random.below(0x2000);
        user.gpr[1] = random.below(40);
        if random.once_in(4) {
            // Overlapping operands.
            user.gpr[7] = target + random.below(24) - 12;
        }
    }
    if insn.stack_pointer_increment() != 0 {
        user.gpr[5] = USER_STACK - 0x400 + 8 * random.below(64);
    }
    let (base, index) = (insn.memory_base(), insn.memory_index());
    if (0..insn.op_count()).any(|k| insn.op_kind(k) == OpKind::Memory) {
        let displacement = if insn.is_ip_rel_memory_operand() { 0 } else { insn.memory_displacement64() };
        if index == Register::AL {
            let al = user.gpr[0] & 0xff;
            set(&mut user, base, target.wrapping_sub(al));
        } else if index.is_gpr() && index.full_register() != base.full_register() {
            let i = random.below(0x100);
            set(&mut user, index, i);
            let rest =
                target.wrapping_sub(i * u64::from(insn.memory_index_scale())).wrapping_sub(displacement);
            set(&mut user, base, rest);
        } else {
            set(&mut user, base, target.wrapping_sub(displacement));
        }
    }
    // A bit string in memory reaches as far as its offset says.
    use iced_x86::Mnemonic as M;
    if matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && insn.op0_kind() == OpKind::Memory
        && insn.op1_kind() == OpKind::Register
    {
        let r = insn.op1_register().full_register();
        if r != base.full_register() && r != index.full_register() {
            set(&mut user, r, (random.below(0x4000) as i64 - 0x2000) as u64);
        }
    }
    user
}
