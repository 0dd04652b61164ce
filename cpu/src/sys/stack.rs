//! The stack in every mode.

use crate::{
    fault::{Done, Stop},
    insn::{Insn, Kind},
    mode::Mode,
    state::{Cpu, reg, seg},
    width::Width,
};

impl Cpu {
    /// Which bits of RSP the stack uses.
    #[inline]
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.mode.is_64() {
            u64::MAX
        } else if self.mode.contains(Mode::STACK32) {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// RSP with its used bits replaced.
    #[inline]
    pub(crate) fn with_stack_pointer(&self, v: u64) -> u64 {
        let mask = self.stack_mask();
        // A 32-bit stack pointer is ESP, and writing ESP clears the upper half.
        if mask == 0xffff { self.gpr[4] & !mask | v & mask } else { v & mask }
    }

    /// Linear address of `size` bytes of the stack at an offset in SS.
    pub(crate) fn stack_address(&mut self, offset: u64, size: u64, write: bool) -> Result<u64, Stop> {
        if self.mode.plain_64() {
            return Ok(offset);
        }
        let linear = if self.mode.is_64() {
            offset
        } else if self.mode.contains(Mode::FLAT) {
            offset as u32 as u64
        } else {
            self.segment_check(seg::SS, offset & self.stack_mask(), size, write)?
        };
        self.check_alignment(linear, size)?;
        Ok(linear)
    }

    /// Pushes with the current privilege.
    pub(crate) fn push(&mut self, w: Width, v: u64) -> Done {
        let top = self.with_stack_pointer(self.gpr[4].wrapping_sub(w.0.into()));
        let at = self.stack_address(top & self.stack_mask(), w.0.into(), true)?;
        self.write(w, at, v).map_err(|stop| self.stack_fault(stop))?;
        self.gpr[4] = top;
        Ok(())
    }

    /// The value on top of the stack, and RSP after it would be popped.
    pub(crate) fn peek_stack(&mut self, w: Width) -> Result<(u64, u64), Stop> {
        self.peek_stack_at(w, 0)
    }

    /// The value `by` bytes below the top, and RSP after it would be popped.
    pub(crate) fn peek_stack_at(&mut self, w: Width, by: u64) -> Result<(u64, u64), Stop> {
        let offset = self.gpr[4].wrapping_add(by) & self.stack_mask();
        let at = self.stack_address(offset, w.0.into(), false)?;
        let v = self.read(w, at).map_err(|stop| self.stack_fault(stop))?;
        Ok((v, self.with_stack_pointer(self.gpr[4].wrapping_add(by + u64::from(w.0)))))
    }

    /// Sets RSP to what [`Cpu::peek_stack`] gave.
    pub(crate) fn commit_stack(&mut self, rsp: u64) {
        self.gpr[4] = rsp;
    }

    /// Reads operand 1 (or the only one) in plain code.
    pub(crate) fn operand(&mut self, i: &Insn, w: Width) -> Result<u64, Stop> {
        match i.src_kind() {
            Kind::Reg => Ok(self.get(w, i.src)),
            Kind::Imm => Ok(w.mask(i.imm64())),
            _ => {
                let at = self.operand_address(i, w.0.into(), false)?;
                self.read(w, at).map_err(|stop| self.operand_fault(i, stop))
            }
        }
    }

    /// Writes operand 0 in plain code.
    pub(crate) fn put_operand(&mut self, i: &Insn, w: Width, v: u64) -> Done {
        match i.dst_kind() {
            Kind::Reg => {
                self.set(w, i.dst, v);
                Ok(())
            }
            _ => {
                let at = self.operand_address(i, w.0.into(), true)?;
                self.write(w, at, v).map_err(|stop| self.operand_fault(i, stop))
            }
        }
    }
}

/// PUSH outside of 64-bit mode.
pub(crate) fn push(c: &mut Cpu, i: &Insn) -> Done {
    let v = c.operand(i, i.w)?;
    c.push(i.w, v)
}

/// POP outside of 64-bit mode: the address of a memory operand uses ESP after the pop.
pub(crate) fn pop(c: &mut Cpu, i: &Insn) -> Done {
    let old = c.gpr[4];
    let (v, after) = c.peek_stack(i.w)?;
    c.commit_stack(after);
    c.put_operand(i, i.w, v).inspect_err(|_| c.gpr[4] = old)
}

/// LEAVE outside of 64-bit mode.
pub(crate) fn leave(c: &mut Cpu, i: &Insn) -> Done {
    let old = c.gpr[4];
    c.gpr[4] = c.with_stack_pointer(c.gpr[5]);
    match c.peek_stack(i.w) {
        Ok((v, after)) => {
            c.commit_stack(after);
            c.set(i.w, reg::RBP, v);
            Ok(())
        }
        Err(stop) => {
            c.gpr[4] = old;
            Err(stop)
        }
    }
}

/// ENTER: SDM 2A "ENTER". `imm` is the size of the frame, `cc` the nesting level.
pub(crate) fn enter(c: &mut Cpu, i: &Insn) -> Done {
    let (w, old) = (i.w, c.gpr[4]);
    let level = u64::from(i.cc & 31);
    let size = u64::from(w.0);
    let result = (|| {
        c.push(w, c.gpr[5])?;
        let frame = c.gpr[4];
        for k in 1..level {
            let at = c.gpr[5].wrapping_sub(k * size) & c.stack_mask();
            let linear = c.stack_address(at, size, false)?;
            let v = c.read(w, linear).map_err(|stop| c.stack_fault(stop))?;
            c.push(w, v)?;
        }
        if level > 0 {
            c.push(w, frame)?;
        }
        let top = c.with_stack_pointer(c.gpr[4].wrapping_sub(u64::from(i.imm as u16)));
        // The new top must be writable, though nothing is written.
        let linear = c.stack_address(top & c.stack_mask(), size, true)?;
        c.check_write(linear, size).map_err(|stop| c.stack_fault(stop))?;
        c.gpr[4] = top;
        c.set(w, reg::RBP, frame);
        Ok(())
    })();
    result.inspect_err(|_| c.gpr[4] = old)
}

/// PUSHA, PUSHAD: SDM 2B.
pub(crate) fn pusha(c: &mut Cpu, i: &Insn) -> Done {
    let old = c.gpr[4];
    for k in 0..8 {
        let v = if k == 4 { old } else { c.gpr[k] };
        if let Err(stop) = c.push(i.w, i.w.mask(v)) {
            c.gpr[4] = old;
            return Err(stop);
        }
    }
    Ok(())
}

/// POPA, POPAD: SDM 2B. The image of SP is skipped.
pub(crate) fn popa(c: &mut Cpu, i: &Insn) -> Done {
    let mut values = [0; 8];
    let mut after = c.gpr[4];
    for k in 0..8 {
        let (v, next) = c.peek_stack_at(i.w, (k * i.w.0 as usize) as u64)?;
        values[7 - k] = v;
        after = next;
    }
    for (k, v) in values.into_iter().enumerate() {
        if k != 4 {
            c.set(i.w, k as u8 * 8, v);
        }
    }
    c.commit_stack(after);
    Ok(())
}
