//! Vectors in one-pass translation: moves, and the integer operations that every x86-64 host has an instruction for.

use super::{
    Unsupported, Writer,
    assembler::{At, Host, RAX, Xmm},
};
use crate::vector::VecOp;

/// The opcode of an operation, behind 66 0F; its first operand is the instruction's.
fn opcode(op: VecOp) -> Option<u8> {
    use VecOp as V;
    Some(match op {
        V::And => 0xdb,
        V::AndNot => 0xdf,
        V::Or => 0xeb,
        V::Xor => 0xef,
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

impl Writer {
    /// One that nothing is in.
    pub(super) fn vector_register(&mut self) -> Xmm {
        let register = Xmm(self.vectors & 15);
        self.failed |= self.vectors > 15;
        self.vectors = self.vectors.saturating_add(1);
        register
    }

    pub(super) fn guest_vector(&mut self, r: u8) -> Xmm {
        let to = self.vector_register();
        self.asm.load_vector(to, Self::vector_place(r));
        to
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
        if op == VecOp::ShufD {
            let to = self.vector_register();
            self.asm.shuffle(to, b, imm);
            return Ok(to);
        }
        if let Some(form) = mask(op) {
            self.asm.mask(form, RAX, a);
            let to = self.vector_register();
            self.asm.copy_into_vector(to, RAX);
            return Ok(to);
        }
        let opcode = opcode(op).ok_or(Unsupported)?;
        let to = self.copy_of_vector(a);
        self.asm.vector(opcode, to, b);
        Ok(to)
    }

    pub(super) fn store_guest_vector(&mut self, r: u8, v: Xmm) {
        let at: At = Self::vector_place(r);
        self.asm.store_vector(v, at);
    }
}
