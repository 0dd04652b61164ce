//! Vectors in one-pass translation: moves, and the integer operations that the host has an instruction for.
//!
//! Vector registers are written to the CPU state at once, as general ones are, and copies stay in the host's.

use super::{
    Unsupported, Writer,
    assembler::{At, Host, RAX, THREE_38, TWO, Xmm},
    values::Val,
};
use crate::{
    vector::{VecOp, wide::can},
    width::Width,
};

/// Prefix and opcode of an operation on two operands, the first of which is the instruction's, or on the second alone.
fn form(op: VecOp) -> Option<(u8, u32)> {
    use VecOp as V;
    let opcode = match op {
        V::And => 0xdb,
        V::AndNot => 0xdf,
        V::Or => 0xeb,
        V::Xor => 0xef,
        V::ShlW => 0xf1,
        V::ShlD => 0xf2,
        V::ShlQ => 0xf3,
        V::ShrW => 0xd1,
        V::ShrD => 0xd2,
        V::ShrQ => 0xd3,
        V::SarW => 0xe1,
        V::SarD => 0xe2,
        V::AddB => 0xfc,
        V::AddW => 0xfd,
        V::AddD => 0xfe,
        V::AddQ => 0xd4,
        V::SubB => 0xf8,
        V::SubW => 0xf9,
        V::SubD => 0xfa,
        V::SubQ => 0xfb,
        V::MinUB => 0xda,
        V::MaxUB => 0xde,
        V::MinSW => 0xea,
        V::MaxSW => 0xee,
        V::CmpEqB => 0x74,
        V::CmpEqW => 0x75,
        V::CmpEqD => 0x76,
        V::CmpGtB => 0x64,
        V::CmpGtW => 0x65,
        V::CmpGtD => 0x66,
        V::AddSB => 0xec,
        V::AddSW => 0xed,
        V::SubSB => 0xe8,
        V::SubSW => 0xe9,
        V::AddUsB => 0xdc,
        V::AddUsW => 0xdd,
        V::SubUsB => 0xd8,
        V::SubUsW => 0xd9,
        V::AvgB => 0xe0,
        V::AvgW => 0xe3,
        V::MulLoW => 0xd5,
        V::MulHiW => 0xe5,
        V::MulHiUW => 0xe4,
        V::MulUDQ => 0xf4,
        V::MAddWD => 0xf5,
        V::SadBW => 0xf6,
        V::UnpackLoB => 0x60,
        V::UnpackLoW => 0x61,
        V::UnpackLoD => 0x62,
        V::UnpackLoQ => 0x6c,
        V::UnpackHiB => 0x68,
        V::UnpackHiW => 0x69,
        V::UnpackHiD => 0x6a,
        V::UnpackHiQ => 0x6d,
        V::PackSWB => 0x63,
        V::PackSDW => 0x6b,
        V::PackUsWB => 0x67,
        V::MergeD => return Some((0xf3, TWO | 0x10)),
        V::MergeQ => return Some((0xf2, TWO | 0x10)),
        _ if can(op) => return later_form(op),
        _ => return None,
    };
    Some((0x66, TWO | opcode))
}

/// The same of operations that came after SSE2, for hosts that have them.
fn later_form(op: VecOp) -> Option<(u8, u32)> {
    use VecOp as V;
    let opcode = match op {
        V::ShufB => 0x00,
        V::HAddW => 0x01,
        V::HAddD => 0x02,
        V::HAddSW => 0x03,
        V::MAddUbSW => 0x04,
        V::HSubW => 0x05,
        V::HSubD => 0x06,
        V::HSubSW => 0x07,
        V::SignB => 0x08,
        V::SignW => 0x09,
        V::SignD => 0x0a,
        V::MulHRsW => 0x0b,
        V::AbsB => 0x1c,
        V::AbsW => 0x1d,
        V::AbsD => 0x1e,
        V::SxBW => 0x20,
        V::SxBD => 0x21,
        V::SxBQ => 0x22,
        V::SxWD => 0x23,
        V::SxWQ => 0x24,
        V::SxDQ => 0x25,
        V::MulDQ => 0x28,
        V::CmpEqQ => 0x29,
        V::PackUsDW => 0x2b,
        V::ZxBW => 0x30,
        V::ZxBD => 0x31,
        V::ZxBQ => 0x32,
        V::ZxWD => 0x33,
        V::ZxWQ => 0x34,
        V::ZxDQ => 0x35,
        V::CmpGtQ => 0x37,
        V::MinSB => 0x38,
        V::MinSD => 0x39,
        V::MinUW => 0x3a,
        V::MinUD => 0x3b,
        V::MaxSB => 0x3c,
        V::MaxSD => 0x3d,
        V::MaxUW => 0x3e,
        V::MaxUD => 0x3f,
        V::MulLoD => 0x40,
        V::AesImc => 0xdb,
        V::AesEnc => 0xdc,
        V::AesEncLast => 0xdd,
        V::AesDec => 0xde,
        V::AesDecLast => 0xdf,
        _ => return None,
    };
    Some((0x66, THREE_38 | opcode))
}

/// Prefix and opcode of an operation with an immediate, on two operands or on the second alone.
fn form_with_immediate(op: VecOp) -> Option<(u8, u32)> {
    Some(match op {
        VecOp::ShufD => (0x66, TWO | 0x70),
        VecOp::ShufLoW => (0xf2, TWO | 0x70),
        VecOp::ShufHiW => (0xf3, TWO | 0x70),
        VecOp::ShufPs => (0, TWO | 0xc6),
        VecOp::ShufPd => (0x66, TWO | 0xc6),
        _ => return None,
    })
}

/// Opcode and its extension of shifts by an immediate, all lanes.
fn shift(op: VecOp) -> Option<(u8, u8)> {
    use VecOp as V;
    Some(match op {
        V::ShlImmW => (0x71, 6),
        V::ShlImmD => (0x72, 6),
        V::ShlImmQ => (0x73, 6),
        V::ShrImmW => (0x71, 2),
        V::ShrImmD => (0x72, 2),
        V::ShrImmQ => (0x73, 2),
        V::SarImmW => (0x71, 4),
        V::SarImmD => (0x72, 4),
        V::ShlBytes => (0x73, 7),
        V::ShrBytes => (0x73, 3),
        _ => return None,
    })
}

/// Prefix and opcode of what gathers top bits.
fn mask(op: VecOp) -> Option<(u8, u8)> {
    Some(match op {
        VecOp::MaskB => (0x66, 0xd7),
        VecOp::MaskD => (0, 0x50),
        VecOp::MaskQ => (0x66, 0x50),
        _ => return None,
    })
}

/// Guest vector registers by their numbers, the upper halves among them.
const HALVES: usize = 32;

/// What the host's vector registers hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vectors {
    /// By guest register: the host register that is a copy of it.
    at: [Option<Xmm>; HALVES],
    /// By host register: the guest registers that it is a copy of.
    holds: [u32; 16],
    /// Those that the instruction in hand uses.
    pinned: u16,
    /// Where to look first for one that can go.
    victim: u8,
}

impl Vectors {
    /// Another instruction begins.
    pub(super) fn unpin(&mut self) {
        self.pinned = 0;
    }

    /// Nothing is in any host register.
    pub(super) fn forget(&mut self) {
        (self.at, self.holds) = ([None; HALVES], [0; 16]);
    }

    /// One that nothing is in, or else one that nothing of this instruction's is in.
    fn take(&mut self) -> Option<Xmm> {
        let free = (0..16u8).filter(|h| self.pinned >> h & 1 == 0);
        let turn = |h: &u8| h.wrapping_sub(self.victim) & 15;
        let host = free.min_by_key(|h| (self.holds[usize::from(*h)] != 0, turn(h)))?;
        self.victim = host + 1;
        let held = std::mem::take(&mut self.holds[usize::from(host)]);
        for guest in (0..HALVES).filter(|guest| held >> guest & 1 != 0) {
            self.at[guest] = None;
        }
        self.pinned |= 1 << host;
        Some(Xmm(host))
    }

    /// Where a guest register is besides in the CPU state. It stays there until the instruction is done.
    fn find(&mut self, r: u8) -> Option<Xmm> {
        let host = self.at[usize::from(r & 31)]?;
        self.pinned |= 1 << (host.0 & 15);
        Some(host)
    }

    /// A guest register's value is in a host register from now on.
    fn hold(&mut self, r: u8, host: Xmm) {
        if let Some(old) = self.at[usize::from(r & 31)].replace(host) {
            self.holds[usize::from(old.0 & 15)] &= !(1 << (r & 31));
        }
        self.holds[usize::from(host.0 & 15)] |= 1 << (r & 31);
    }
}

impl Writer {
    /// One that nothing is in.
    pub(super) fn vector_register(&mut self) -> Xmm {
        let register = self.vectors.take();
        self.failed |= register.is_none();
        register.unwrap_or(Xmm(0))
    }

    /// A guest register, which is not to be changed where it stands.
    pub(super) fn guest_vector(&mut self, r: u8) -> Xmm {
        if let Some(known) = self.vectors.find(r) {
            return known;
        }
        let to = self.vector_register();
        self.asm.load_vector(to, Self::vector_place(r));
        self.vectors.hold(r, to);
        to
    }

    /// The low lane of a guest register.
    pub(super) fn part_of_vector(&mut self, w: Width, r: u8) -> Val {
        let to = self.temporary();
        match self.vectors.find(r) {
            Some(known) if w.0 >= 4 => self.asm.lane_out_of_vector(w, to, known),
            _ => self.asm.load(w, to, Self::vector_place(r)),
        }
        self.bind(to, w.0);
        self.standing(to)
    }

    pub(super) fn copy_of_vector(&mut self, v: Xmm) -> Xmm {
        let to = self.vector_register();
        self.asm.copy_vector(to, v);
        to
    }

    /// A 64-bit lane in a general register.
    pub(super) fn lane_now(&mut self, v: Xmm, n: u8) -> Host {
        let from = if n & 1 == 0 {
            v
        } else {
            let high = self.vector_register();
            self.asm.shuffle(high, v, 0xee);
            high
        };
        let to = self.temporary();
        self.asm.copy_out_of_vector(to, from);
        to
    }

    /// An operation, where it is one instruction.
    pub(super) fn vector_operation(
        &mut self,
        op: VecOp,
        a: Xmm,
        b: Xmm,
        imm: u8,
    ) -> Result<Xmm, Unsupported> {
        if let Some(form) = shift(op) {
            let to = self.copy_of_vector(a);
            self.asm.shift_vector(form, to, imm);
            return Ok(to);
        }
        if let Some(form) = form_with_immediate(op) {
            let to = self.copy_of_vector(a);
            self.asm.sse_immediate(form, to, b, imm);
            return Ok(to);
        }
        if let Some(to) = self.broadcast(op, b) {
            return Ok(to);
        }
        if let Some(form) = mask(op) {
            self.asm.mask(form, RAX, a);
            let to = self.vector_register();
            self.asm.copy_into_vector(to, RAX);
            return Ok(to);
        }
        let form = form(op).ok_or(Unsupported)?;
        let to = self.copy_of_vector(a);
        self.asm.sse(form, to, b);
        Ok(to)
    }

    /// The lowest lane in all of them, if that is the operation.
    fn broadcast(&mut self, op: VecOp, b: Xmm) -> Option<Xmm> {
        let all = match op {
            VecOp::BroadcastB if can(VecOp::ShufB) => {
                let (to, zero) = (self.copy_of_vector(b), self.vector_register());
                self.asm.vector(0xef, zero, zero);
                self.asm.sse(later_form(VecOp::ShufB)?, to, zero);
                return Some(to);
            }
            VecOp::BroadcastW => {
                let to = self.vector_register();
                self.asm.sse_immediate(form_with_immediate(VecOp::ShufLoW)?, to, b, 0);
                self.asm.shuffle(to, to, 0);
                return Some(to);
            }
            VecOp::BroadcastD => 0x00,
            VecOp::BroadcastQ => 0x44,
            _ => return None,
        };
        let to = self.vector_register();
        self.asm.shuffle(to, b, all);
        Some(to)
    }

    pub(super) fn store_guest_vector(&mut self, r: u8, v: Xmm) {
        let at: At = Self::vector_place(r);
        self.asm.store_vector(v, at);
        self.vectors.hold(r, v);
    }
}
