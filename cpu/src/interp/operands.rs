//! Registers and addresses of operands, as handlers and plain Rust reach them.
#![allow(unsafe_code)]

use crate::{
    fault::{Fault, Stop},
    insn::{Insn, Kind, attr},
    state::{Cpu, reg},
    width::Width,
};

impl Cpu {
    /// The offset that the memory operand's address arithmetic gives, at full width.
    #[inline(always)]
    pub(crate) fn flat_address(&self, i: &Insn) -> u64 {
        // SAFETY: decode makes base and index 0 to 17.
        let (b, x) =
            unsafe { (*self.gpr.get_unchecked(i.base as usize), *self.gpr.get_unchecked(i.index as usize)) };
        b.wrapping_add(x << (i.scale & 3)).wrapping_add(i.disp as i64 as u64)
    }

    /// The memory operand's offset in its segment, in the general case.
    #[inline(always)]
    pub(crate) fn far_offset(&self, i: &Insn) -> u64 {
        let mut a = if i.has(attr::IMM64) { i.imm64() } else { self.flat_address(i) };
        if i.has(attr::RIP) {
            a = a.wrapping_add(i.ip as u64 + i.len as u64);
        }
        match i.asize {
            2 => a as u16 as u64,
            4 => a as u32 as u64,
            _ => a,
        }
    }

    /// The memory operand's linear address in the general case, for `size` bytes `by` bytes on.
    #[inline(never)]
    pub(crate) fn far_address(&mut self, i: &Insn, by: u64, size: u64, write: bool) -> Result<u64, Stop> {
        let offset = self.far_offset(i).wrapping_add(by);
        // What a bit string adds to an address of 32 bits wraps with it.
        let offset = if i.asize == 4 { offset as u32 as u64 } else { offset };
        self.segment_address(i, offset, size, write)
    }

    /// Linear address of an offset in the memory operand's segment, checked for `size` bytes.
    pub(crate) fn segment_address(&mut self, i: &Insn, a: u64, size: u64, write: bool) -> Result<u64, Stop> {
        let s = (i.seg & 7) as usize;
        if self.mode.plain_64() {
            return Ok(a.wrapping_add(self.seg_base[s]));
        }
        let linear = if self.mode.is_64() {
            a.wrapping_add(self.seg_base[s])
        } else {
            let a = if i.asize == 2 { a as u16 as u64 } else { a as u32 as u64 };
            // What must be aligned raises #GP for that before the segment's limit is looked at, and never #AC.
            if i.has(attr::ALIGNED) && a.wrapping_add(self.seg_base[s]) & (size - 1) != 0 {
                return Err(self.raise(Fault::gp(0)));
            }
            if self.flat_segment(s) { a } else { self.segment_check(s, a, size, write)? }
        };
        if !i.has(attr::ALIGNED) {
            self.check_alignment(linear, size)?;
        }
        Ok(linear)
    }

    /// Linear address of the memory operand of plain code, checked for `size` bytes.
    pub(crate) fn operand_address(&mut self, i: &Insn, size: u64, write: bool) -> Result<u64, Stop> {
        let memory = |k| matches!(k, Kind::Mem);
        if memory(i.dst_kind()) || memory(i.src_kind()) {
            Ok(self.flat_address(i))
        } else {
            self.far_address(i, 0, size, write)
        }
    }

    /// Turns the fault of an access through SS into #SS.
    #[inline(always)]
    pub(crate) fn operand_fault(&mut self, i: &Insn, stop: Stop) -> Stop {
        if i.has(attr::STACK) { self.stack_fault(stop) } else { stop }
    }

    /// A general register by its byte offset.
    #[inline(always)]
    pub(crate) fn get(&self, w: Width, r: u8) -> u64 {
        // SAFETY: decode makes offsets such that w bytes lie within gpr.
        unsafe { peek_register(w, self.gpr.as_ptr().cast::<u8>().add(r as usize)) }
    }

    /// Sets a general register; 32-bit values clear the upper half.
    #[inline(always)]
    pub(crate) fn set(&mut self, w: Width, r: u8, v: u64) {
        // SAFETY: decode makes offsets such that w bytes (8 for w = 4, whose offsets are multiples of 8) lie within gpr.
        unsafe {
            let p = self.gpr.as_mut_ptr().cast::<u8>().add(r as usize);
            match w.0 {
                1 => *p = v as u8,
                2 => p.cast::<u16>().write_unaligned(v as u16),
                4 => p.cast::<u64>().write_unaligned(v as u32 as u64),
                _ => p.cast::<u64>().write_unaligned(v),
            }
        }
    }

    /// Linear address of the instruction.
    #[inline(always)]
    pub(crate) fn rip_of(&self, i: &Insn) -> u64 {
        self.gpr[reg::PAGE as usize].wrapping_add(i.ip as u64)
    }

    /// A linear address given relative to the current page, wrapped as the mode does.
    #[inline(always)]
    pub(crate) fn page_relative(&self, offset: i64) -> u64 {
        let a = self.gpr[reg::PAGE as usize].wrapping_add(offset as u64);
        if self.mode.is_64() { a } else { a as u32 as u64 }
    }
}

/// # Safety
/// `p` points to w bytes of the register file.
#[inline(always)]
unsafe fn peek_register(w: Width, p: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match w.0 {
            1 => *p as u64,
            2 => p.cast::<u16>().read_unaligned() as u64,
            4 => p.cast::<u32>().read_unaligned() as u64,
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}
