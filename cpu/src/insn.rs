//! The predecoded instruction: 32 bytes, two to a cache line, everything that the handler needs.

use crate::{state::Cpu, width::Width};
use std::cell::Cell;

/// Runs one instruction and gives the next, or null when the block is left (`Cpu::why` tells why).
pub(crate) type Step = fn(&mut Cpu, &Insn) -> *const Insn;

/// What kind of operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Reg = 0,
    /// Memory at base + index << scale + displacement, 64-bit, no segment base.
    Mem = 1,
    Imm = 2,
    /// Memory with a segment base, another address size, or limits to check.
    Far = 3,
    /// Memory of flat 32-bit code, no segment base: only specialised handlers know it, to all others it is `Far`.
    Flat32 = 4,
}

impl Kind {
    #[inline(always)]
    pub(crate) const fn from_bits(bits: u8) -> Kind {
        match bits {
            0 => Kind::Reg,
            1 => Kind::Mem,
            2 => Kind::Imm,
            4 => Kind::Flat32,
            _ => Kind::Far,
        }
    }
}

/// Bits of [`Insn::attr`].
pub(crate) mod attr {
    /// LOCK prefix, or XCHG with memory.
    pub(crate) const LOCK: u8 = 1;
    /// REP or REPE.
    pub(crate) const REP: u8 = 2;
    /// REPNE.
    pub(crate) const REPNE: u8 = 4;
    /// The immediate has 64 bits, the upper half in `disp`.
    pub(crate) const IMM64: u8 = 8;
    /// The memory operand's segment is SS: non-canonical addresses and limits give #SS.
    pub(crate) const STACK: u8 = 16;
    /// A 16-byte memory operand must be aligned.
    pub(crate) const ALIGNED: u8 = 32;
    /// The displacement counts from the next instruction.
    pub(crate) const RIP: u8 = 64;
    /// The last instruction of its block: `Links` follow.
    pub(crate) const LAST: u8 = 128;
}

/// A bit of [`Insn::scale`] in the copies that are translated: the instruction goes to a device.
const DEVICE: u8 = 4;

/// Sets it where `set` has a bit.
pub(crate) fn mark_devices(insns: &mut [Insn], set: u64) {
    if set != 0 {
        let marked = insns.iter_mut().take(64).enumerate().filter(|(k, _)| set >> k & 1 != 0);
        marked.for_each(|(_, i)| i.scale |= DEVICE);
    }
}

/// One predecoded instruction.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct Insn {
    pub(crate) step: Cell<Step>,
    pub(crate) imm: i32,
    pub(crate) disp: i32,
    /// Operand 0, a register as a byte offset into `Cpu::gpr` (AH is 1), or the number of another kind of register.
    pub(crate) dst: u8,
    /// Operand 1, or operand 0 if there is but one.
    pub(crate) src: u8,
    /// Register numbers of the address; 16 reads zero.
    pub(crate) base: u8,
    pub(crate) index: u8,
    /// Bits 1:0 scale, 2 see [`mark_devices`], 5:4 kind of operand 0, 7:6 kind of operand 1.
    pub(crate) scale: u8,
    pub(crate) seg: u8,
    /// Address size in bytes.
    pub(crate) asize: u8,
    /// Width of operand 0.
    pub(crate) w: Width,
    /// Width of operand 1.
    pub(crate) w2: Width,
    /// The condition, or what else a mnemonic wants to know: see its semantics.
    pub(crate) cc: u8,
    pub(crate) attr: u8,
    pub(crate) len: u8,
    /// Offset in the page.
    pub(crate) ip: u16,
    /// The semantics, an [`crate::sem::Op`].
    pub(crate) op: u16,
}

/// What follows the last instruction of a block.
#[repr(C)]
pub(crate) struct Links {
    /// Where a taken branch goes.
    pub(crate) taken: Cell<*const Insn>,
    /// Where it goes otherwise.
    pub(crate) fall: Cell<*const Insn>,
    /// Instructions in the block.
    pub(crate) n: i32,
    /// Number of the guest-physical page (RAM ends below 2^44): links lead to blocks of the same page only.
    pub(crate) page: u32,
    /// Targets relative to the page: of the taken branch.
    pub(crate) taken_offset: i32,
    /// And of the one that is not.
    pub(crate) fall_offset: i32,
}

/// Where a link points until it is made: an instruction of its own kind.
#[repr(C)]
pub(crate) struct Stub {
    pub(crate) step: Cell<Step>,
    pub(crate) owner: *const Links,
    pub(crate) taken: bool,
    /// Guest-physical page of the block that it led to last, where it leaves the page; 0 as long as it has led to none. It may
    /// be mapped elsewhere or no longer.
    pub(crate) page: Cell<u64>,
}

const _: () = assert!(size_of::<Insn>() == 32 && size_of::<Links>() == 32 && size_of::<Stub>() == 32);
const _: () = assert!(std::mem::offset_of!(Insn, step) == 0 && std::mem::offset_of!(Stub, step) == 0);

impl Insn {
    /// The immediate, sign-extended.
    #[inline(always)]
    pub(crate) fn imm64(&self) -> u64 {
        if self.attr & attr::IMM64 != 0 {
            self.imm as u32 as u64 | (self.disp as u64) << 32
        } else {
            self.imm as i64 as u64
        }
    }
    #[inline(always)]
    pub(crate) fn dst_kind(&self) -> Kind {
        Kind::from_bits(self.scale >> 4 & 3)
    }
    #[inline(always)]
    pub(crate) fn src_kind(&self) -> Kind {
        Kind::from_bits(self.scale >> 6 & 3)
    }
    #[inline(always)]
    pub(crate) fn has(&self, bits: u8) -> bool {
        self.attr & bits != 0
    }
    /// Whether translated code is to call its function, because it goes to devices: see [`mark_devices`].
    pub(crate) fn goes_to_device(&self) -> bool {
        self.scale & DEVICE != 0
    }
}
