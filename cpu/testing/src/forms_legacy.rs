//! What encodings of 16- and 32-bit code have of their own: addresses of both sizes, segments with bases and limits, stacks
//! of both sizes.

use crate::{forms::Form, layout::*, machine::flag, random::Random, segments::Segments};
use iced_x86::{
    Instruction, MemoryOperand, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register, Register as R,
};
use softmetal_cpu::{state::Segment, testing::User};

const GPR32: [R; 8] = [R::EAX, R::ECX, R::EDX, R::EBX, R::ESP, R::EBP, R::ESI, R::EDI];

/// The selector in a segment register.
fn selector(segments: Segments, register: Register) -> u16 {
    match register {
        R::CS => segments.cs,
        R::SS => segments.ss,
        R::ES => segments.es,
        R::FS | R::GS => 0,
        _ => segments.ds,
    }
}

/// Linear address of the first byte of the segment in a register.
pub(crate) fn base(segments: Segments, register: Register) -> u64 {
    segments.base(selector(segments, register))
}

/// Whether all that a segment reaches is the scratch memory and the empty pages around it.
pub(crate) fn is_local(segments: Segments, register: Register) -> bool {
    selector(segments, register) & 4 != 0
}

/// A segment override now and then; which segment the operand is in then.
fn segment_prefix(random: &mut Random, default: Register) -> (Register, Register) {
    match random.below(12) {
        0 => (R::ES, R::ES),
        1 => (R::SS, R::SS),
        2 => (R::DS, R::DS),
        _ => (R::None, default),
    }
}

/// An address of either size, where its segment allows both.
pub(crate) fn memory(segments: Segments, random: &mut Random) -> MemoryOperand {
    let wide = segments.bitness() == 32;
    let other = random.once_in(3);
    let choice = random.below(10);
    let narrow = match choice {
        0 => (R::BX, R::SI, R::DS),
        1 => (R::BX, R::DI, R::DS),
        2 => (R::BP, R::SI, R::SS),
        3 => (R::BP, R::DI, R::SS),
        4 => (R::SI, R::None, R::DS),
        5 => (R::DI, R::None, R::DS),
        6 | 7 => (R::BP, R::None, R::SS),
        8 => (R::BX, R::None, R::DS),
        _ => (R::None, R::None, R::DS),
    };
    let (prefix, segment) = segment_prefix(random, narrow.2);
    let operand = |base, index, scale, displacement, size| {
        MemoryOperand::new(base, index, scale, displacement, size, false, prefix)
    };
    let displacement = |random: &mut Random, word: u32| match random.below(3) {
        0 => (0, 0),
        1 => (random.next() as i8 as i64, 1),
        _ => (random.below(0x1000) as i64, word),
    };
    let at = DATA + random.below(0x2000);
    if is_local(segments, segment) && wide == other {
        let (base_register, index, _) = narrow;
        return match base_register {
            R::None => {
                let offset = at.wrapping_sub(base(segments, segment)) & 0xffff;
                operand(R::None, R::None, 1, offset as i64, 2)
            }
            R::BP if index == R::None => operand(base_register, index, 1, i64::from(random.next() as i8), 1),
            _ => {
                let (d, size) = displacement(random, 2);
                operand(base_register, index, 1, d, size)
            }
        };
    }
    let (b, i) = (random.pick(&GPR32), random.pick(&GPR32));
    let default = if matches!(b, R::ESP | R::EBP) { R::SS } else { R::DS };
    let segment = if prefix == R::None { default } else { segment };
    let i = if i == R::ESP || i == b || random.once_in(2) { R::None } else { i };
    let scale = if i == R::None { 1 } else { 1 << random.below(4) };
    match random.below(6) {
        0 => {
            let segment = if prefix == R::None { R::DS } else { segment };
            operand(R::None, R::None, 1, at.wrapping_sub(base(segments, segment)) as u32 as i64, 4)
        }
        _ => {
            let (d, size) = displacement(random, 4);
            let size = if size == 0 && b == R::EBP { 1 } else { size };
            operand(b, i, scale, d, size)
        }
    }
}

/// Sets operands that only such code has, or has in other forms. False for all others.
pub(crate) fn operand(
    insn: &mut Instruction,
    k: u32,
    kind: K,
    segments: Segments,
    random: &mut Random,
) -> bool {
    let narrow = is_local(segments, R::DS) && is_local(segments, R::ES) && random.once_in(2);
    let choose = |wide: OpKind, small: OpKind| if narrow { small } else { wide };
    let (prefix, segment) = segment_prefix(random, R::DS);
    match kind {
        K::mem_offs => {
            let at = (DATA + random.below(0x2000)).wrapping_sub(base(segments, segment));
            let size = if is_local(segments, segment) && random.once_in(2) { 2 } else { 4 };
            insn.set_op_kind(k, OpKind::Memory);
            insn.set_memory_displ_size(size);
            insn.set_memory_displacement64(if size == 2 { at & 0xffff } else { at & 0xffff_ffff });
            insn.set_segment_prefix(prefix);
        }
        K::seg_rSI => {
            insn.set_op_kind(k, choose(OpKind::MemorySegESI, OpKind::MemorySegSI));
            insn.set_segment_prefix(prefix);
        }
        K::es_rDI => insn.set_op_kind(k, choose(OpKind::MemoryESEDI, OpKind::MemoryESDI)),
        K::seg_rDI => {
            insn.set_op_kind(k, choose(OpKind::MemorySegEDI, OpKind::MemorySegDI));
            insn.set_segment_prefix(prefix);
        }
        K::seg_rBX_al => {
            insn.set_op_kind(k, OpKind::Memory);
            insn.set_memory_base(if narrow { R::BX } else { R::EBX });
            insn.set_memory_index(R::AL);
            insn.set_segment_prefix(prefix);
        }
        K::es | K::cs | K::ss | K::ds | K::fs | K::gs => {
            let register = match kind {
                K::es => R::ES,
                K::cs => R::CS,
                K::ss => R::SS,
                K::ds => R::DS,
                K::fs => R::FS,
                _ => R::GS,
            };
            insn.set_op_kind(k, OpKind::Register);
            insn.set_op_register(k, register);
        }
        K::seg_reg => {
            insn.set_op_kind(k, OpKind::Register);
            // FS and GS belong to the host's process, but may be read.
            let choices = if k == 0 { 4 } else { 6 };
            insn.set_op_register(k, random.pick(&[R::ES, R::CS, R::SS, R::DS, R::FS, R::GS][..choices]));
        }
        _ => return false,
    }
    true
}

/// As [`crate::forms::aim`], for code that runs in `segments`: general registers whose addresses lead to the scratch memory,
/// now and then to its ends or those of a segment.
pub fn aim(segments: Segments, form: &Form, random: &mut Random, blank: &User) -> User {
    let mut user = *blank;
    user.rip = segments.ip();
    for r in &mut user.gpr[..8] {
        *r = random.operand() & 0xffff_ffff;
    }
    user.rflags = 0x202 | random.next() & (flag::STATUS | flag::DF);
    let insn = &form.insn;
    let stack = |linear: u64, random: &mut Random| {
        let offset = linear - base(segments, R::SS);
        if segments.narrow_stack() { offset & 0xffff | random.next() & 0xffff_0000 } else { offset }
    };
    user.gpr[4] = stack(USER_STACK - 2 * random.below(0x100), random);
    if insn.stack_pointer_increment() != 0 {
        user.gpr[5] = stack(USER_STACK - 0x400 + 2 * random.below(0x100), random);
        if is_local(segments, R::SS) && random.once_in(16) {
            // The stack's ends.
            user.gpr[4] = user.gpr[4] & 0xffff_0000 | random.below(32).wrapping_sub(16) & 0xffff;
        }
    }
    let string = (0..insn.op_count()).find_map(|k| match insn.op_kind(k) {
        OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => Some(u32::MAX),
        OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => Some(0xffff),
        _ => None,
    });
    let segment = if string.is_some() || insn.memory_base() != R::None || insn.memory_displ_size() != 0 {
        insn.memory_segment()
    } else {
        R::DS
    };
    let target = target(segments, segment, random);
    let mut set = |register: Register, v: u64| {
        let mask = if register.size() == 2 { 0xffff } else { 0xffff_ffff };
        let r = &mut user.gpr[register.number() & 7];
        *r = *r & !mask | v & mask;
    };
    if let Some(mask) = string {
        let (source, destination, count) =
            if mask == 0xffff { (R::SI, R::DI, R::CX) } else { (R::ESI, R::EDI, R::ECX) };
        set(source, target.wrapping_sub(base(segments, segment)));
        let to = if matches!(insn.mnemonic(), M::Maskmovq | M::Maskmovdqu) {
            target.wrapping_sub(base(segments, segment))
        } else if random.once_in(4) {
            (target + random.below(24) - 12).wrapping_sub(base(segments, R::ES))
        } else if random.once_in(8) {
            self::target(segments, R::ES, random).wrapping_sub(base(segments, R::ES))
        } else {
            (DATA + random.below(0x1800)).wrapping_sub(base(segments, R::ES))
        };
        set(destination, to);
        set(count, random.below(40));
        return user;
    }
    if !(0..insn.op_count()).any(|k| insn.op_kind(k) == OpKind::Memory) {
        return user;
    }
    let (b, index) = (insn.memory_base(), insn.memory_index());
    let offset = target.wrapping_sub(base(segments, segment)).wrapping_sub(insn.memory_displacement64());
    if index == R::AL {
        let al = user.gpr[0] & 0xff;
        let r = &mut user.gpr[3];
        let mask = if b == R::BX { 0xffff } else { 0xffff_ffff };
        *r = *r & !mask | offset.wrapping_sub(al) & mask;
        return user;
    }
    if index != R::None && index != b {
        let i = random.below(0x100);
        set(index, i);
        if b != R::None {
            set(b, offset.wrapping_sub(i * u64::from(insn.memory_index_scale())));
        }
    } else if b != R::None {
        set(b, offset);
    }
    // A bit string in memory reaches as far as its offset says.
    if matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc) && insn.op1_kind() == OpKind::Register {
        let r = insn.op1_register();
        if r.number() != b.number() && r.number() != index.number() {
            set(r, (random.below(0x4000) as i64 - 0x2000) as u64);
        }
    }
    user
}

/// Where an operand lies: mostly well inside the scratch memory, at times at one of its ends or its segment's.
fn target(segments: Segments, register: Register, random: &mut Random) -> u64 {
    let segment: Segment = crate::segments::segment(selector(segments, register));
    match random.below(20) {
        0 => SCRATCH + SCRATCH_SIZE - random.below(16),
        1 => SCRATCH_READ_ONLY - random.below(16),
        2 => DATA + 0x1000 - random.below(16),
        // What expands downwards begins behind its limit.
        3 | 4 if selector(segments, register) & 4 != 0 => {
            segment.base + u64::from(segment.limit) + 4 - random.below(20)
        }
        5..10 => DATA + random.below(0x800) & !15,
        _ => DATA + random.below(0x2000),
    }
}
