//! Segment registers and descriptors: SDM 3A "Protected-Mode Memory Management".

use crate::{
    fault::{Done, Fault, Stop, vector},
    insn::{Insn, Kind},
    mode::Mode,
    state::{Cpu, Segment, Shadow, cr4, seg},
    width::{D, Q, W},
};

/// Bits of a descriptor's access rights, as in [`Segment::attributes`].
pub(crate) mod rights {
    pub(crate) const ACCESSED: u32 = 1;
    /// Writable data, readable code.
    pub(crate) const RW: u32 = 2;
    /// Expand-down data, conforming code.
    pub(crate) const CONFORMING: u32 = 4;
    pub(crate) const CODE: u32 = 8;
    /// Code or data, not a system segment.
    pub(crate) const S: u32 = 16;
    pub(crate) const P: u32 = 0x80;
}

/// A descriptor as it stands in memory.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) raw: u64,
    /// Its linear address.
    pub(crate) at: u64,
}

impl Descriptor {
    pub(crate) fn attributes(self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }
    pub(crate) fn dpl(self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }
    pub(crate) fn present(self) -> bool {
        self.attributes() & rights::P != 0
    }
    /// S and type.
    pub(crate) fn kind(self) -> u32 {
        self.attributes() & 31
    }
    pub(crate) fn is_code(self) -> bool {
        self.kind() & (rights::S | rights::CODE) == rights::S | rights::CODE
    }
    pub(crate) fn is_data(self) -> bool {
        self.kind() & (rights::S | rights::CODE) == rights::S
    }
    pub(crate) fn segment(self, selector: u16) -> Segment {
        let raw = self.raw;
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        let granular = raw >> 55 & 1 != 0;
        Segment {
            selector,
            base: raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000,
            limit: if granular { limit << 12 | 0xfff } else { limit },
            attributes: self.attributes(),
        }
    }
}

impl Cpu {
    /// Reads the descriptor of a selector that is not null: `fault` with the selector if it lies beyond its table.
    pub(crate) fn descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Stop> {
        let beyond = Fault::with_code(fault, u32::from(selector & !3));
        let index = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.attributes & Segment::UNUSABLE != 0 || self.ldtr.attributes & rights::P == 0 {
                return Err(self.raise(beyond));
            }
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        if index + 7 > limit {
            return Err(self.raise(beyond));
        }
        let at = self.linear(base.wrapping_add(index));
        Ok(Descriptor { raw: self.read_system(Q, at)?, at })
    }

    /// The upper half of a 16-byte descriptor.
    pub(crate) fn descriptor_upper(&mut self, d: Descriptor, selector: u16, fault: u8) -> Result<u64, Stop> {
        let (base, limit) = if selector & 4 != 0 {
            (self.ldtr.base, self.ldtr.limit)
        } else {
            (self.gdtr.base, self.gdtr.limit.into())
        };
        if d.at.wrapping_sub(base) + 15 > limit.into() {
            return Err(self.raise(Fault::with_code(fault, u32::from(selector & !3))));
        }
        self.read_system(Q, d.at.wrapping_add(8))
    }

    /// A linear address cut to 32 bits outside of long mode.
    pub(crate) fn linear(&self, at: u64) -> u64 {
        if self.long_mode() { at } else { at as u32 as u64 }
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    pub(crate) fn mark_accessed(&mut self, d: &mut Descriptor) -> Done {
        if d.attributes() & rights::ACCESSED == 0 {
            d.raw |= 1 << 40;
            self.write_system(D, d.at.wrapping_add(4), d.raw >> 32)?;
        }
        Ok(())
    }

    /// Loads a data segment register: SDM 2B "MOV", the checks for each kind of register.
    pub(crate) fn load_segment(&mut self, s: usize, selector: u16) -> Done {
        if !self.mode.contains(Mode::PROTECTED) {
            // Real mode leaves limit and rights as they are, which "unreal mode" lives on; virtual-8086 sets them.
            let old = self.segments[s];
            self.segments[s] = if self.mode.contains(Mode::V86) {
                Segment { attributes: 0xf3, ..Segment::real(selector) }
            } else {
                Segment { selector, base: u64::from(selector) << 4, ..old }
            };
            return Ok(());
        }
        let cpl = self.cpl;
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            let ss_allowed = self.mode.is_64() && cpl < 3 && rpl == cpl;
            if s == seg::SS && !ss_allowed {
                return Err(self.raise(Fault::gp(0)));
            }
            // The base stays zero for SS, DS, ES; FS and GS keep none either on Intel.
            let dpl = if s == seg::SS { u32::from(cpl) << 5 } else { 0 };
            self.segments[s] = Segment { selector, base: 0, limit: 0, attributes: Segment::UNUSABLE | dpl };
            return Ok(());
        }
        let mut d = self.descriptor(selector, vector::GP)?;
        let code = u32::from(selector & !3);
        if s == seg::SS {
            if rpl != cpl || !d.is_data() || d.kind() & rights::RW == 0 || d.dpl() != cpl {
                return Err(self.raise(Fault::gp(code)));
            }
            if !d.present() {
                return Err(self.raise(Fault::ss(code)));
            }
        } else {
            let readable = d.is_data() || d.is_code() && d.kind() & rights::RW != 0;
            let conforming = d.is_code() && d.kind() & rights::CONFORMING != 0;
            if !readable || !conforming && (rpl > d.dpl() || cpl > d.dpl()) {
                return Err(self.raise(Fault::gp(code)));
            }
            if !d.present() {
                return Err(self.raise(Fault::with_code(vector::NP, code)));
            }
        }
        self.mark_accessed(&mut d)?;
        self.segments[s] = d.segment(selector);
        Ok(())
    }

    /// After a return to an outer level, data segments that the new CPL may not use become null: SDM 2B "RET".
    pub(crate) fn drop_inner_segments(&mut self) {
        for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let a = self.segments[s].attributes;
            let conforming = a & (rights::CODE | rights::CONFORMING) == rights::CODE | rights::CONFORMING;
            if a & Segment::UNUSABLE == 0 && !conforming && self.segments[s].dpl() < self.cpl {
                self.segments[s] = Segment { selector: 0, attributes: Segment::UNUSABLE, base: 0, limit: 0 };
            }
        }
    }
}

/// MOV Sreg, r/m16.
pub(crate) fn mov_to_segment(c: &mut Cpu, i: &Insn) -> Done {
    let s = usize::from(i.dst);
    if s == seg::CS || s > seg::GS {
        return Err(c.raise(Fault::UD));
    }
    let selector = c.operand(i, W)? as u16;
    c.load_segment(s, selector)?;
    if s == seg::SS {
        c.cast_shadow(Shadow::MovSs);
    }
    c.refresh_mode();
    Ok(())
}

/// POP Sreg.
pub(crate) fn pop_segment(c: &mut Cpu, i: &Insn) -> Done {
    let s = usize::from(i.dst);
    let (v, after) = c.peek_stack(i.w)?;
    c.load_segment(s, v as u16)?;
    c.commit_stack(after);
    if s == seg::SS {
        c.cast_shadow(Shadow::MovSs);
    }
    c.refresh_mode();
    Ok(())
}

/// PUSH Sreg.
pub(crate) fn push_segment(c: &mut Cpu, i: &Insn) -> Done {
    let selector = u64::from(c.segments[usize::from(i.dst) % 6].selector);
    if i.w.0 == 4 {
        // Recent processors write two bytes of the four.
        let top = c.with_stack_pointer(c.gpr[4].wrapping_sub(4));
        let at = c.stack_address(top & c.stack_mask(), 2, true)?;
        c.write(W, at, selector).map_err(|stop| c.stack_fault(stop))?;
        c.gpr[4] = top;
        return Ok(());
    }
    c.push(i.w, selector)
}

/// MOV r/m, Sreg: 16 bits to memory, zero-extended to a register.
pub(crate) fn mov_from_segment(c: &mut Cpu, i: &Insn) -> Done {
    let v = u64::from(c.segments[usize::from(i.src) % 6].selector);
    let w = if i.dst_kind() == Kind::Reg { i.w } else { W };
    c.put_operand(i, w, v)
}

impl Cpu {
    /// Selector and offset in memory: two reads, offset first, each with checks of its own.
    pub(crate) fn read_far_pointer(&mut self, i: &Insn) -> Result<(u16, u64), Stop> {
        let at = self.far_address(i, 0, i.w.0.into(), false)?;
        let offset = self.read(i.w, at).map_err(|stop| self.operand_fault(i, stop))?;
        let at = self.far_address(i, i.w.0.into(), 2, false)?;
        let selector = self.read(W, at).map_err(|stop| self.operand_fault(i, stop))?;
        Ok((selector as u16, offset))
    }
}

/// LDS, LES, LFS, LGS, LSS: SDM 2A. `cc` is the segment register.
pub(crate) fn load_far(c: &mut Cpu, i: &Insn) -> Done {
    let (selector, offset) = c.read_far_pointer(i)?;
    let s = usize::from(i.cc);
    c.load_segment(s, selector)?;
    c.set(i.w, i.dst, offset);
    c.refresh_mode();
    Ok(())
}

/// What LAR, LSL, VERR and VERW look at: the descriptor, if the selector may be seen at all.
fn inspect(
    c: &mut Cpu,
    selector: u16,
    system: fn(u32, bool) -> bool,
) -> Result<Option<(Descriptor, u64)>, Stop> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let (base, limit) = match selector & 4 != 0 {
        true if c.ldtr.attributes & Segment::UNUSABLE != 0 => return Ok(None),
        true => (c.ldtr.base, u64::from(c.ldtr.limit)),
        false => (c.gdtr.base, c.gdtr.limit.into()),
    };
    let index = u64::from(selector & !7);
    if index + 7 > limit {
        return Ok(None);
    }
    let at = c.linear(base.wrapping_add(index));
    let d = Descriptor { raw: c.read_system(Q, at)?, at };
    let long = c.long_mode();
    if d.kind() & rights::S == 0 && !system(d.kind(), long) {
        return Ok(None);
    }
    let conforming = d.is_code() && d.kind() & rights::CONFORMING != 0;
    let visible = conforming || (selector & 3) as u8 <= d.dpl() && c.cpl <= d.dpl();
    Ok(visible.then_some((d, d.raw)))
}

/// LAR: SDM 2A "LAR". ZF says whether it worked.
pub(crate) fn lar(c: &mut Cpu, i: &Insn) -> Done {
    let selector = protected_operand(c, i)?;
    // TSSs, LDT and gates of call and task; 16-bit ones do not exist in long mode.
    let found = inspect(c, selector, |kind, long| match kind {
        2 | 9 | 11 | 12 => true,
        1 | 3 | 4 | 5 => !long,
        _ => false,
    })?;
    if let Some((d, _)) = found {
        c.set(i.w, i.dst, d.raw >> 32 & 0x00ff_ff00);
    }
    c.flags.set_zf(found.is_some());
    Ok(())
}

/// LSL: SDM 2A "LSL".
pub(crate) fn lsl(c: &mut Cpu, i: &Insn) -> Done {
    let selector = protected_operand(c, i)?;
    let found = inspect(c, selector, |kind, long| match kind {
        2 | 9 | 11 => true,
        1 | 3 => !long,
        _ => false,
    })?;
    if let Some((d, _)) = found {
        let limit = d.segment(selector).limit;
        c.set(i.w, i.dst, limit.into());
    }
    c.flags.set_zf(found.is_some());
    Ok(())
}

fn protected_operand(c: &mut Cpu, i: &Insn) -> Result<u16, Stop> {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::UD));
    }
    Ok(c.operand(i, W)? as u16)
}

/// VERR: SDM 2B "VERR/VERW".
pub(crate) fn verr(c: &mut Cpu, i: &Insn) -> Done {
    let selector = protected_operand(c, i)?;
    let found = inspect(c, selector, |_, _| false)?;
    let yes = found.is_some_and(|(d, _)| d.is_data() || d.kind() & rights::RW != 0);
    c.flags.set_zf(yes);
    Ok(())
}

/// VERW.
pub(crate) fn verw(c: &mut Cpu, i: &Insn) -> Done {
    let selector = protected_operand(c, i)?;
    let found = inspect(c, selector, |_, _| false)?;
    let yes = found.is_some_and(|(d, _)| d.is_data() && d.kind() & rights::RW != 0);
    c.flags.set_zf(yes);
    Ok(())
}

/// ARPL: SDM 2A "ARPL". The operand is written only where it changes.
pub(crate) fn arpl(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::UD));
    }
    let rpl = c.get(W, i.src) & 3;
    let at = match i.dst_kind() {
        Kind::Reg => None,
        _ => Some(c.operand_address(i, 2, false)?),
    };
    let old = match at {
        None => c.get(W, i.dst),
        Some(at) => c.read(W, at).map_err(|stop| c.operand_fault(i, stop))?,
    };
    let raise = old & 3 < rpl;
    if raise {
        c.put_operand(i, W, old & !3 | rpl)?;
    }
    c.flags.set_zf(raise);
    Ok(())
}

/// RDFSBASE and its kin are there in 64-bit mode with CR4.FSGSBASE set.
fn base_allowed(c: &mut Cpu) -> Done {
    if !c.mode.is_64() || c.cr4 & cr4::FSGSBASE == 0 {
        return Err(c.raise(Fault::UD));
    }
    Ok(())
}

/// RDFSBASE: SDM 2B "RDFSBASE/RDGSBASE".
pub(crate) fn rdfsbase(c: &mut Cpu, i: &Insn) -> Done {
    base_allowed(c)?;
    c.set(i.w, i.dst, c.segments[seg::FS].base);
    Ok(())
}

/// RDGSBASE.
pub(crate) fn rdgsbase(c: &mut Cpu, i: &Insn) -> Done {
    base_allowed(c)?;
    c.set(i.w, i.dst, c.segments[seg::GS].base);
    Ok(())
}

/// WRFSBASE: SDM 2B "WRFSBASE/WRGSBASE".
pub(crate) fn wrfsbase(c: &mut Cpu, i: &Insn) -> Done {
    write_base(c, i, seg::FS)
}

/// WRGSBASE.
pub(crate) fn wrgsbase(c: &mut Cpu, i: &Insn) -> Done {
    write_base(c, i, seg::GS)
}

fn write_base(c: &mut Cpu, i: &Insn, s: usize) -> Done {
    base_allowed(c)?;
    let v = c.get(i.w, i.src);
    if !c.canonical_base(v) {
        return Err(c.raise(Fault::gp(0)));
    }
    c.set_base(s, v);
    Ok(())
}

impl Cpu {
    /// Changes the base of FS or GS in 64-bit mode.
    pub(crate) fn set_base(&mut self, s: usize, base: u64) {
        self.segments[s].base = base;
        self.seg_base[s] = base;
    }
}

/// SWAPGS: SDM 2B "SWAPGS".
pub(crate) fn swapgs(c: &mut Cpu, _: &Insn) -> Done {
    if !c.mode.is_64() {
        return Err(c.raise(Fault::UD));
    }
    if c.cpl != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let old = c.segments[seg::GS].base;
    c.set_base(seg::GS, c.msrs.kernel_gs_base);
    c.msrs.kernel_gs_base = old;
    Ok(())
}
