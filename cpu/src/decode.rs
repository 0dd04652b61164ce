//! Bytes to predecoded instructions. Pure: bytes and mode in, a block out.

use crate::{
    insn::{Insn, Kind, attr},
    mode::Mode,
    model::Model,
    sem::{Needs, Op, specialised},
    state::reg,
    width::Width,
};
use iced_x86::{
    Code, ConditionCode, Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind,
    Register,
};
use std::cell::Cell;

/// A decoded run of instructions.
pub(crate) struct Decoded {
    /// Instructions, with a synthetic end if the last does not end the block itself.
    pub(crate) insns: Vec<Insn>,
    /// Page offset past the last byte.
    pub(crate) end: u16,
    /// How many guest instructions.
    pub(crate) n: i32,
    /// Branch target relative to the page.
    pub(crate) taken_offset: i32,
    /// The next instruction relative to the page.
    pub(crate) fall_offset: i32,
    /// The bytes ended before the block did.
    pub(crate) short: bool,
}

impl Decoded {
    /// Ends the block before an instruction of it, or has it stop there, where that is its first.
    pub(crate) fn cut(&mut self, at: usize) {
        let Some(first) = self.insns.get(at) else { return };
        let (ip, len) = (first.ip, first.len);
        self.insns.truncate(at);
        if at == 0 {
            let mut stop = synthetic_end(ip);
            stop.len = len;
            stop.op = Op::Stop as u16;
            stop.step.set(specialised(Op::Stop, 8, Kind::Imm, Kind::Imm, 0));
            // What it covers in memory stays.
            self.end = ip + u16::from(len);
            self.insns.push(stop);
            self.n = 1;
        } else {
            self.end = ip;
            self.insns.push(synthetic_end(ip));
            self.n = at as i32;
        }
        self.fall_offset = i32::from(self.end);
        self.taken_offset = self.fall_offset;
        self.short = false;
    }
}

/// Where the page begins for iced: nothing of a real address enters a decoded block.
pub(crate) const fn page_base(bitness: u32) -> u64 {
    match bitness {
        64 => 1 << 40,
        32 => 0x4000_0000,
        _ => 0x4000,
    }
}

/// Decodes from `bytes`, which begin at `offset` in the page, until an instruction ends the block, `limit` is reached, or
/// the next one is not whole.
pub(crate) fn block(bytes: &[u8], offset: u16, mode: Mode, model: Model, limit: usize) -> Decoded {
    let bitness = mode.bitness();
    let base = page_base(bitness);
    let mut decoder = Decoder::with_ip(bitness, bytes, base + u64::from(offset), DecoderOptions::NONE);
    let mut x = Instruction::default();
    let mut insns = Vec::with_capacity(16);
    let mut end = offset;
    let (mut short, mut done, mut taken_offset) = (false, false, 0);
    while insns.len() < limit && !done {
        if !decoder.can_decode() {
            short = true;
            break;
        }
        decoder.decode_out(&mut x);
        if x.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes {
            short = true;
            break;
        }
        let start = (x.ip().wrapping_sub(base) as u16).wrapping_sub(offset);
        let its_bytes = bytes.get(usize::from(start)..).unwrap_or(&[]);
        if x.mnemonic() == Mnemonic::Pause && bitness == 64 {
            exchange_r8(&mut x, its_bytes);
        }
        let mut insn = predecode(&x, mode, model, base);
        if Op::from_number(insn.op).needs() == Needs::X87 {
            insn.imm = x87_opcode(its_bytes);
        }
        if x.is_invalid() && too_long(its_bytes, bitness) {
            insn.op = Op::TooLong as u16;
            insn.step.set(specialised(Op::TooLong, 8, Kind::Far, Kind::Far, 0));
        }
        end = (x.next_ip().wrapping_sub(base)) as u16;
        done = Op::from_number(insn.op).ends_block();
        if is_near_branch(&x) {
            taken_offset = x.near_branch_target().wrapping_sub(base) as i32;
        }
        let reads_time = matches!(Op::from_number(insn.op), Op::Rdtsc | Op::Rdtscp | Op::Rdmsr);
        insns.push(insn);
        if reads_time && mode.contains(Mode::COUNTING) {
            break;
        }
    }
    let n = insns.len() as i32;
    let fall_offset = i32::from(end);
    if !done && n > 0 {
        insns.push(synthetic_end(end));
        taken_offset = fall_offset;
    }
    Decoded { insns, end, n, taken_offset, fall_offset, short: short && !done }
}

/// Decodes one instruction; None where the bytes do not hold a whole one.
pub(crate) fn one(bytes: &[u8], offset: u16, mode: Mode, model: Model) -> Option<Decoded> {
    let mut decoded = block(bytes, offset, mode, model, 1);
    // A loose instruction may end beyond the page; its end offset is not used for marks.
    decoded.short = false;
    (decoded.n == 1).then_some(decoded)
}

/// With REX.B, opcode 90 exchanges R8 and RAX whatever other prefixes there are; iced takes it for PAUSE behind F3.
fn exchange_r8(x: &mut Instruction, bytes: &[u8]) {
    let rex = x.len().checked_sub(2).and_then(|at| bytes.get(at)).copied().unwrap_or(0);
    if rex & 0xf1 != 0x41 {
        return;
    }
    let wide = rex & 8 != 0;
    let narrow = bytes.iter().take(x.len()).any(|b| *b == 0x66);
    let (code, a, b) = match (wide, narrow) {
        (true, _) => (Code::Xchg_r64_RAX, Register::R8, Register::RAX),
        (_, true) => (Code::Xchg_r16_AX, Register::R8W, Register::AX),
        _ => (Code::Xchg_r32_EAX, Register::R8D, Register::EAX),
    };
    x.set_code(code);
    x.set_op0_kind(OpKind::Register);
    x.set_op0_register(a);
    x.set_op1_kind(OpKind::Register);
    x.set_op1_register(b);
}

/// Whether prefixes make an instruction, else good, longer than fifteen bytes.
fn too_long(bytes: &[u8], bitness: u32) -> bool {
    let legacy =
        |b: &&u8| matches!(b, 0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3);
    // A REX prefix in front of others means nothing.
    let rex = |b: &&u8| bitness == 64 && **b & 0xf0 == 0x40;
    let run = bytes.iter().take(15).take_while(|b| legacy(b) || rex(b)).count();
    let prefixes = bytes[..run].iter().rposition(|b| legacy(&b)).map_or(0, |last| last + 1);
    // What it is without prefixes that say nothing: segments, and repetitions of the others.
    let (prefix, rest) = bytes.split_at(prefixes);
    let telling = |b: &u8| matches!(b, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3);
    let mut short: Vec<u8> = Vec::with_capacity(20);
    for (k, b) in prefix.iter().enumerate() {
        if telling(b) && !prefix[k + 1..].contains(b) {
            short.push(*b);
        }
    }
    // Nor does the operand size where REX.W has the word, or a repetition with LOCK, which is a hint.
    let wide = matches!(rest, [rex, opcode, ..] if bitness == 64 && rex & 0xf8 == 0x48 && *opcode != 0x0f);
    let locked = short.contains(&0xf0);
    short.retain(|b| !(wide && *b == 0x66 || locked && matches!(b, 0xf2 | 0xf3)));
    let dropped = prefixes - short.len();
    short.extend(rest.iter().take(15));
    prefixes == 15
        || dropped > 0 && dropped + Decoder::new(bitness, &short, DecoderOptions::NONE).decode().len() > 15
}

pub(crate) fn is_near_branch(x: &Instruction) -> bool {
    matches!(x.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// The 11 bits that the x87 unit keeps of an instruction: the low three of the first byte, and the second. No prefix looks
/// like a first byte.
fn x87_opcode(bytes: &[u8]) -> i32 {
    let first = bytes.iter().position(|b| matches!(b, 0xd8..=0xdf)).unwrap_or(0);
    let byte = |k: usize| i32::from(bytes.get(k).copied().unwrap_or(0));
    (byte(first) & 7) << 8 | byte(first + 1)
}

/// "Go on at the next address", of length 0.
fn synthetic_end(at: u16) -> Insn {
    Insn {
        step: Cell::new(specialised(Op::Onward, 8, Kind::Imm, Kind::Imm, 0)),
        imm: 0,
        disp: 0,
        dst: 0,
        src: 0,
        base: reg::ZERO,
        index: reg::ZERO,
        scale: (Kind::Imm as u8) << 4 | (Kind::Imm as u8) << 6,
        seg: 6,
        asize: 8,
        w: Width(8),
        w2: Width(8),
        cc: 0,
        attr: 0,
        len: 0,
        ip: at,
        op: Op::Onward as u16,
    }
}

/// A register as instructions carry it.
pub(crate) fn register(r: Register) -> u8 {
    if r.is_gpr() {
        // AH, CH, DH and BH are the second bytes of the first four; their iced numbers follow AL's.
        let high = matches!(r, Register::AH | Register::CH | Register::DH | Register::BH);
        r.full_register().number() as u8 * 8 + u8::from(high)
    } else {
        r.number() as u8
    }
}

fn kind(k: OpKind) -> Kind {
    match k {
        OpKind::Register => Kind::Reg,
        OpKind::Memory => Kind::Mem,
        _ => Kind::Imm,
    }
}

/// 32-bit code and stack without bases, limits or alignment checks.
pub(crate) fn flat_32(mode: Mode) -> bool {
    mode.contains(Mode::CODE32 | Mode::STACK32 | Mode::FLAT) && !mode.intersects(Mode::LONG | Mode::ALIGN)
}

/// Width of operand 0 where it is neither register nor memory, or the memory's size says nothing.
pub(crate) fn implied_width(x: &Instruction) -> u8 {
    let pushed = x.stack_pointer_increment().unsigned_abs() as u8;
    if matches!(pushed, 2 | 4 | 8) { pushed } else { 8 }
}

/// Which operand is the source: the last one of those whose VEX prefix names the first source, else operand 1 if it is
/// there.
fn source_operand(x: &Instruction) -> u32 {
    match x.mnemonic() {
        Mnemonic::Andn | Mnemonic::Mulx | Mnemonic::Pdep | Mnemonic::Pext => 2,
        // AVX: the last one that is neither an immediate nor named by one; gathers have their mask there.
        _ if x.op_count() > 2 && is_vector(x.op1_register()) && x.encoding() == EncodingKind::VEX => {
            u32::from(x.op2_kind() != OpKind::Immediate8) + 1
        }
        _ => x.op_count().saturating_sub(1).min(1),
    }
}

fn is_vector(r: Register) -> bool {
    r.is_xmm() || r.is_ymm()
}

/// The compact form of one instruction.
fn predecode(x: &Instruction, mode: Mode, model: Model, base: u64) -> Insn {
    let mut i = synthetic_end(x.ip().wrapping_sub(base) as u16);
    i.len = x.len() as u8;
    i.cc = match x.condition_code() {
        ConditionCode::None => 0,
        c => c as u8 - 1,
    };
    let count = x.op_count();
    let second = source_operand(x);
    let (k0, k1) = (kind(x.op0_kind()), kind(x.op_kind(second)));
    let memory_width = x.memory_size().size() as u8;
    let string = x.is_string_instruction();
    i.w = Width(match k0 {
        _ if count == 0 || string && memory_width != 0 => memory_width.max(1),
        Kind::Reg => (x.op0_register().size() as u8).min(32),
        Kind::Mem if memory_width != 0 => memory_width.min(64),
        _ => implied_width(x),
    });
    i.w2 = i.w;
    if count > 0 && k0 == Kind::Reg {
        i.dst = register(x.op0_register());
        i.src = i.dst;
    }
    if count > 1 {
        match k1 {
            Kind::Reg => {
                let r = x.op_register(second);
                i.src = register(r);
                i.w2 = Width((r.size() as u8).min(32));
            }
            Kind::Mem => i.w2 = Width(memory_width),
            Kind::Imm => {}
            _ => {}
        }
    }
    let has_memory = k0 == Kind::Mem && count > 0 || k1 == Kind::Mem && count > 1;
    let mut far = false;
    if has_memory {
        far = address(x, mode, base, &mut i) || mode.contains(Mode::ALIGN);
    } else if string || x.memory_size().size() != 0 {
        i.asize = string_address_size(x);
        i.seg = segment(x, mode);
    }
    if let Some(k) = (0..count).find(|&k| is_immediate(x.op_kind(k))) {
        let v = x.immediate(k);
        i.imm = v as i32;
        if k0 == Kind::Reg && i.w.0 == 8 && v as i64 != v as i32 as i64 {
            i.disp = (v >> 32) as i32;
            i.attr |= attr::IMM64;
        }
    }
    if x.has_lock_prefix() {
        i.attr |= attr::LOCK;
    }
    if x.has_repne_prefix() {
        i.attr |= attr::REPNE;
    } else if x.has_rep_prefix() {
        i.attr |= attr::REP;
    }
    let fix = |k: Kind| if k == Kind::Mem && far { Kind::Far } else { k };
    let (dst, src) = (fix(k0), fix(k1));
    i.scale = i.scale & 3 | (dst as u8) << 4 | (src as u8) << 6;
    let op = model.admit(x, crate::decode_integer::pick(x, mode, &mut i));
    let op = gate(op, mode);
    i.op = op as u16;
    let plain_form = i.attr & (attr::LOCK | attr::IMM64 | attr::RIP) == 0;
    // CS cannot be written, and not always be read.
    let flat_32 = far && flat_32(mode) && i.asize == 4 && matches!(i.seg, 0 | 2 | 3);
    let form = |k: Kind| if k == Kind::Far && flat_32 { Kind::Flat32 } else { k };
    let (w, dst, src) = if plain_form { (i.w.0, form(dst), form(src)) } else { (0, Kind::Far, Kind::Far) };
    i.step.set(specialised(op, w, dst, src, i.cc));
    i
}

fn is_immediate(k: OpKind) -> bool {
    matches!(
        k,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

pub(crate) fn segment(x: &Instruction, mode: Mode) -> u8 {
    match x.memory_segment() {
        Register::FS => 4,
        Register::GS => 5,
        _ if mode.is_64() => 6,
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        _ => 3,
    }
}

/// Fills in the memory operand; true if it needs the general form.
fn address(x: &Instruction, mode: Mode, base: u64, i: &mut Insn) -> bool {
    let (b, n) = (x.memory_base(), x.memory_index());
    i.seg = segment(x, mode);
    let mut far = i.seg != 6 || !mode.is_64();
    if x.is_ip_rel_memory_operand() {
        i.base = reg::PAGE;
        let relative = x.ip_rel_memory_address().wrapping_sub(base) as i64;
        if b == Register::EIP || relative != relative as i32 as i64 {
            // Cut to 32 bits after the sum, or out of reach from the page's start: from the next instruction at run time.
            i.attr |= attr::RIP;
            i.asize = if b == Register::EIP { 4 } else { 8 };
            i.disp = x.ip_rel_memory_address().wrapping_sub(x.next_ip()) as i32;
            return true;
        }
        i.disp = relative as i32;
        return far;
    }
    if b != Register::None {
        i.base = b.number() as u8;
    }
    if n != Register::None {
        i.index = n.number() as u8;
        i.scale |= x.memory_index_scale().trailing_zeros() as u8;
    }
    i.asize = match (b, n) {
        (Register::None, Register::None) => match x.memory_displ_size() {
            2 => 2,
            4 => 4,
            _ => 8,
        },
        (Register::None, n) => n.size() as u8,
        (b, _) => b.size() as u8,
    };
    let displacement = x.memory_displacement64();
    i.disp = displacement as i32;
    if mode.is_64() && i.asize == 8 && displacement as i64 != i.disp as i64 {
        // MOV with a 64-bit absolute address.
        i.disp = (displacement >> 32) as i32;
        i.imm = displacement as i32;
        i.attr |= attr::IMM64;
        far = true;
    }
    let stack = if mode.is_64() {
        i.seg == 6 && matches!(b, Register::RSP | Register::RBP | Register::ESP | Register::EBP)
    } else {
        i.seg == 2
    };
    if stack {
        i.attr |= attr::STACK;
    }
    far || i.asize != 8
}

/// Address size of string instructions, XLAT and MASKMOVQ, which have no ordinary memory operand.
fn string_address_size(x: &Instruction) -> u8 {
    for k in 0..x.op_count() {
        match x.op_kind(k) {
            OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => return 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => return 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => return 8,
            _ => {}
        }
    }
    8
}

/// #UD or #NM in place of what the mode does not allow.
fn gate(op: Op, mode: Mode) -> Op {
    match op.needs() {
        Needs::Nothing => op,
        Needs::X87 if mode.intersects(Mode::EMULATION | Mode::TASK_SWITCHED) => Op::DeviceNotAvailable,
        Needs::Mmx if mode.contains(Mode::EMULATION) => Op::Undefined,
        Needs::Mmx if mode.contains(Mode::TASK_SWITCHED) => Op::DeviceNotAvailable,
        Needs::Sse if mode.contains(Mode::NO_SSE) => Op::Undefined,
        Needs::Sse if mode.contains(Mode::TASK_SWITCHED) => Op::DeviceNotAvailable,
        Needs::Avx if !mode.contains(Mode::PROTECTED) || mode.contains(Mode::NO_AVX) => Op::Undefined,
        Needs::Avx if mode.contains(Mode::TASK_SWITCHED) => Op::DeviceNotAvailable,
        Needs::Wait if mode.contains(Mode::WAIT_NM) => Op::DeviceNotAvailable,
        _ => op,
    }
}

/// Whether a 16-byte memory operand of a legacy SSE instruction must be aligned.
pub(crate) fn wants_alignment(x: &Instruction) -> bool {
    use Mnemonic as M;
    x.encoding() == EncodingKind::Legacy
        && x.memory_size().size() == 16
        && !matches!(x.mnemonic(), M::Movups | M::Movupd | M::Movdqu | M::Lddqu)
        // SDM 2B "PCMPESTRI": these do not fault on misaligned operands.
        && !matches!(x.mnemonic(), M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm)
        && !matches!(x.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64)
}
