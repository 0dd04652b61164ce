//! States to run a subject from: registers and memory of every kind, addresses that lead to the scratch memory and now and
//! then to where they fault.

use super::{
    subject::{MAX_COUNT, Subject},
    values::{self, Lanes},
};
use crate::{Random, Segments, compare::blank, forms::Form, forms_legacy, layout::*};
use iced_x86::{Mnemonic as M, OpKind, Register};
use softmetal_cpu::testing::User;

/// Registers, and bytes that are put into the scratch memory first.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) user: User,
    pub(super) poke_at: u64,
    pub(super) poke: [u8; POKE],
    pub(super) poke_len: usize,
}

const POKE: usize = 64;

impl State {
    pub(super) fn new() -> State {
        State { user: blank(), poke_at: SCRATCH, poke: [0; POKE], poke_len: 0 }
    }

    pub(super) fn poked(&self) -> &[u8] {
        &self.poke[..self.poke_len]
    }
}

/// Registers for all states of one subject: those that it does not read stay so.
pub(super) fn base(random: &mut Random) -> User {
    let mut user = blank();
    user.gpr.iter_mut().for_each(|r| *r = random.next());
    let mut other = 0;
    for k in 0..16 {
        other = u128::from(random.next()) << 64 | u128::from(random.next()) ^ other >> 3;
        user.xmm[k] = other;
        user.ymm_high[k] = other.rotate_left(random.next() as u32 & 127);
    }
    user.x87 = values::x87(random);
    user.mxcsr = 0x1f80;
    user
}

/// Where the memory operand shall be.
fn target(random: &mut Random, subject: &Subject) -> u64 {
    let r = random.next();
    let near = r & 15;
    let align = subject.alignment;
    match r >> 57 {
        // Beyond the end, from the last bytes that exist or not.
        0 => SCRATCH + SCRATCH_SIZE - near,
        // In the page that cannot be written, or reaching into it.
        1 | 2 => SCRATCH_READ_ONLY - if r & 0x100 == 0 { near } else { 0 } & !(align - 1),
        3 => (1 + (r >> 8) % 126) << 57 | DATA,
        // Before the beginning.
        4 => SCRATCH - near,
        // Misaligned where it must be aligned.
        5 => DATA + 1 + near,
        // Across a page boundary, or up to it.
        6..=15 => (DATA + 0x1000 - near) & !(align - 1),
        // Anywhere, and aligned as compilers do.
        16..=79 => (DATA + (r >> 8 & 0x1fff)) & !(align - 1),
        _ => (DATA + (r >> 8 & 0x1fff)) & !63,
    }
}

/// A state for the subject. Its addresses may lead to memory that is nobody's: see [`Subject::ranges`].
pub(super) fn draw(subject: &Subject, base: &User, random: &mut Random, out: &mut State) {
    let user = &mut out.user;
    *user = *base;
    for &k in &subject.reads {
        user.gpr[k] = random.operand();
    }
    user.rflags = 0x202 | random.next() & 0xcd5;
    let mut other = user.xmm[0];
    for &k in &subject.vectors {
        other = values::vector(random, subject.lanes, other);
        user.xmm[k] = other;
        if subject.wide {
            other = values::vector(random, subject.lanes, other);
            user.ymm_high[k] = other;
        }
    }
    if !subject.vectors.is_empty() {
        user.mxcsr = values::mxcsr(random);
    }
    if subject.x87 {
        user.x87 = values::x87(random);
    }
    let at = if subject.segments == Segments::LONG {
        user.gpr[4] = USER_STACK - 8 * random.below(64);
        aim(subject, random, user)
    } else {
        let form = Form { bytes: Vec::new(), insn: subject.insn };
        *user = forms_legacy::aim(subject.segments, &form, random, user);
        if random.next() >> 60 != 0 {
            align(subject, user);
        }
        subject.first_address(user)
    };
    if subject.insn.mnemonic() == M::Movdir64b {
        move_to(subject, random, user);
    }
    out.poke_len = 0;
    if let Some(at) = at {
        fill(subject, random, at, out);
    }
    relate(subject, random, out);
}

fn set(user: &mut User, r: Register, v: u64) {
    if r.is_gpr() {
        user.gpr[r.full_register().number()] = v;
    }
}

/// Leads the addresses to the scratch memory; where the memory operand is then.
fn aim(subject: &Subject, random: &mut Random, user: &mut User) -> Option<u64> {
    let insn = &subject.insn;
    if insn.is_string_instruction() {
        let target = target(random, subject);
        user.gpr[6] = target;
        // Overlapping operands now and then.
        user.gpr[7] =
            if random.once_in(4) { target + random.below(24) - 12 } else { DATA + random.below(0x2000) };
        user.gpr[1] = random.below(MAX_COUNT);
        return Some(target);
    }
    if insn.stack_pointer_increment() != 0 || matches!(insn.mnemonic(), M::Enter | M::Leave) {
        user.gpr[5] = USER_STACK - 0x400 + 8 * random.below(64);
    }
    let mut implicit = false;
    for k in 0..insn.op_count() {
        implicit |= matches!(insn.op_kind(k), OpKind::MemorySegRDI | OpKind::MemorySegEDI);
    }
    if implicit {
        user.gpr[7] = DATA + random.below(0x3100);
        return Some(user.gpr[7]);
    }
    if !(0..insn.op_count()).any(|k| insn.op_kind(k) == OpKind::Memory) {
        return None;
    }
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let displacement = insn.memory_displacement64();
    let mut reach = 0;
    if let Some(r) = subject.bit_offset() {
        let r = r.full_register();
        if r != base.full_register() && r != index.full_register() {
            let bits = random.below(0x4000) as i64 - 0x2000;
            set(user, r, bits as u64);
            reach = (bits >> 3) as u64;
        }
    }
    if insn.is_ip_rel_memory_operand() || base == Register::None && index == Register::None {
        return Some(displacement.wrapping_add(reach));
    }
    // The operand that is reached is the target.
    let operand = target(random, subject);
    let target = operand.wrapping_sub(reach);
    let scale = u64::from(insn.memory_index_scale());
    let rest = target.wrapping_sub(displacement);
    if index.is_vector_register() {
        vector_index(subject, random, user);
        set(user, base, DATA + 0x1000 + random.below(0x100) - displacement);
    } else if index == Register::AL {
        let al = user.gpr[0] & 0xff;
        set(user, base, rest.wrapping_sub(al));
    } else if index == Register::None {
        set(user, base, rest);
    } else if base == Register::None {
        set(user, index, rest / scale);
    } else if index.full_register() == base.full_register() {
        set(user, base, rest / (scale + 1));
    } else {
        let i = if random.once_in(4) { random.next() } else { random.below(0x100) };
        set(user, index, i);
        set(user, base, rest.wrapping_sub(i.wrapping_mul(scale)));
    }
    // Where addresses have 32 bits, the upper halves of the registers mean nothing.
    if base.size() == 4 && base.is_gpr32() {
        user.gpr[base.full_register().number()] ^= random.next() << 32;
    }
    Some(operand)
}

/// Leads MOVDIR64B, whose destination is in a register, to an aligned place.
fn move_to(subject: &Subject, random: &mut Random, user: &mut User) {
    let r = subject.insn.op0_register();
    let to = DATA + 0x40 * random.below(0x80) + if random.once_in(16) { 4 } else { 0 };
    let base =
        if subject.segments == Segments::LONG { 0 } else { subject.segments.base(subject.segments.es) };
    let mask = if r.size() == 2 { 0xffff } else { u64::MAX };
    let v = &mut user.gpr[r.full_register().number()];
    *v = *v & !mask | to.wrapping_sub(base) & mask;
}

/// Moves the base so that the operand is aligned as the instruction wants it.
fn align(subject: &Subject, user: &mut User) {
    let base = subject.insn.memory_base();
    let off = subject.first_address(user).unwrap_or(0) & (subject.alignment - 1);
    if base.is_gpr() && off != 0 {
        let mask = if base.size() == 2 { 0xffff } else { u64::MAX };
        let r = &mut user.gpr[base.full_register().number()];
        *r = *r & !mask | r.wrapping_sub(off) & mask & 0xffff_ffff;
    }
}

/// Indexes of gathers: small ones.
fn vector_index(subject: &Subject, random: &mut Random, user: &mut User) {
    let number = subject.insn.memory_index().number();
    let wide = subject.insn.is_vsib64();
    let mut lane = || {
        let v = random.below(0x100) as i64 - 0x80;
        if wide { v as u64 } else { (v as u32).into() }
    };
    let mut half = || {
        if wide {
            u128::from(lane()) | u128::from(lane()) << 64
        } else {
            (0..4).fold(0, |all, k| all | u128::from(lane()) << (32 * k))
        }
    };
    user.xmm[number] = half();
    user.ymm_high[number] = half();
}

/// Makes what stands at the operand's place.
fn fill(subject: &Subject, random: &mut Random, at: u64, out: &mut State) {
    let size = subject.insn.memory_size().size().clamp(8, POKE) as u64;
    if random.next() >> 62 == 0 || at < SCRATCH || at + size > SCRATCH_READ_ONLY {
        return;
    }
    out.poke_at = at;
    out.poke_len = size as usize;
    if subject.insn.memory_size() == iced_x86::MemorySize::Float80 {
        let v = values::extended(random, out.user.x87.regs[0]);
        out.poke[..8].copy_from_slice(&v.significand.to_le_bytes());
        out.poke[8..10].copy_from_slice(&v.sign_exponent.to_le_bytes());
        return;
    }
    let other = subject.vectors.first().map_or(0, |&k| out.user.xmm[k]) as u64;
    for chunk in out.poke[..(size as usize).next_multiple_of(8).min(POKE)].chunks_mut(8) {
        chunk.copy_from_slice(&values::word(random, subject.lanes, other).to_le_bytes());
    }
    if subject.lanes == Lanes::Int(64) && size == 8 {
        out.poke[..8].copy_from_slice(&random.operand().to_le_bytes());
    }
}

/// Operands that belong together: quotients that fit, comparisons that find what they look for.
fn relate(subject: &Subject, random: &mut Random, out: &mut State) {
    let insn = &subject.insn;
    match insn.mnemonic() {
        M::Div | M::Idiv if !random.once_in(16) => {
            let r = random.next();
            let signed = insn.mnemonic() == M::Idiv;
            let size = match insn.op0_kind() {
                OpKind::Memory => insn.memory_size().size(),
                _ => insn.op0_register().size(),
            };
            let bits = 8 * size as u32;
            // A high half below the divisor, whose top bits are set.
            let high = match r & 3 {
                0 => 0,
                1 if signed => (out.user.gpr[0] as i64).wrapping_shl(64 - bits) as u64 >> 63,
                _ => r >> 3 & u64::MAX >> (64 - bits) >> 3,
            };
            let high = if r & 3 == 1 && signed { high.wrapping_neg() } else { high };
            let top = if signed { 1 << (bits - 2) } else { 1 << (bits - 1) };
            if size == 1 {
                out.user.gpr[0] = out.user.gpr[0] & !0xff00 | (high & 0xff) << 8;
            } else {
                out.user.gpr[2] = high;
            }
            if insn.op0_kind() == OpKind::Register {
                let r = insn.op0_register();
                let n = r.full_register().number();
                if !(n == 0 || n == 2) {
                    let shift = if matches!(r, Register::AH | Register::CH | Register::DH | Register::BH) {
                        8
                    } else {
                        0
                    };
                    out.user.gpr[n] |= top << shift;
                }
            } else if out.poke_len >= size {
                out.poke[size - 1] |= if signed { 0x40 } else { 0x80 };
            }
        }
        M::Cmpxchg if random.once_in(2) => {
            if insn.op0_kind() == OpKind::Memory {
                out.user.gpr[0] = u64::from_le_bytes(std::array::from_fn(|k| out.poke[k]));
            } else {
                out.user.gpr[0] = out.user.gpr[insn.op0_register().full_register().number()];
            }
        }
        M::Cmpxchg8b | M::Cmpxchg16b if random.once_in(2) => {
            let word =
                |at: usize, n: usize| (0..n).fold(0u64, |v, k| v | u64::from(out.poke[at + k]) << (8 * k));
            let n = if insn.mnemonic() == M::Cmpxchg8b { 4 } else { 8 };
            let base = insn.memory_base().full_register();
            let index = insn.memory_index().full_register();
            if ![base, index].iter().any(|r| matches!(r, Register::RAX | Register::RDX)) {
                (out.user.gpr[0], out.user.gpr[2]) = (word(0, n), word(n, n));
            }
        }
        _ => {
            // Two operands that are equal.
            if let [a, b, ..] = subject.reads[..]
                && random.next() >> 60 == 0
                && subject.touches.is_empty()
            {
                out.user.gpr[b] = out.user.gpr[a];
            }
        }
    }
}
