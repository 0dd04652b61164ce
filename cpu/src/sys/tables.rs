//! GDTR, IDTR, LDTR and TR: SDM 3A "System Instruction Summary".

use crate::{
    fault::{Done, Fault, vector},
    insn::{Insn, Kind},
    mode::Mode,
    state::{Cpu, Segment, TableRegister, cr4},
    width::{D, Q, W},
};

impl Cpu {
    /// #GP(0) unless CPL is 0.
    pub(crate) fn privileged(&mut self) -> Done {
        if self.cpl != 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok(())
    }
    /// #GP(0) for SGDT, SIDT, SLDT, STR and SMSW at CPL above 0 with UMIP.
    pub(crate) fn umip(&mut self) -> Done {
        if self.cpl != 0 && self.cr4 & cr4::UMIP != 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok(())
    }
}

fn store_table(c: &mut Cpu, i: &Insn, table: TableRegister) -> Done {
    c.umip()?;
    let base_width = if c.mode.is_64() { Q } else { D };
    let size = 2 + u64::from(base_width.0);
    let at = c.operand_address(i, size, true)?;
    c.check_write(at, size).map_err(|stop| c.operand_fault(i, stop))?;
    c.write(W, at, table.limit.into())?;
    c.write(base_width, at.wrapping_add(2), table.base)
}

/// SGDT.
pub(crate) fn sgdt(c: &mut Cpu, i: &Insn) -> Done {
    store_table(c, i, c.gdtr)
}

/// SIDT.
pub(crate) fn sidt(c: &mut Cpu, i: &Insn) -> Done {
    store_table(c, i, c.idtr)
}

fn load_table(c: &mut Cpu, i: &Insn) -> Result<TableRegister, crate::fault::Stop> {
    c.privileged()?;
    let base_width = if c.mode.is_64() { Q } else { D };
    let at = c.operand_address(i, 2 + u64::from(base_width.0), false)?;
    let limit = c.read(W, at).map_err(|stop| c.operand_fault(i, stop))? as u16;
    let mut base = c.read(base_width, at.wrapping_add(2)).map_err(|stop| c.operand_fault(i, stop))?;
    if c.mode.is_64() {
        if !c.canonical_base(base) {
            return Err(c.raise(Fault::gp(0)));
        }
    } else if i.w.0 == 2 {
        base &= 0xff_ffff;
    }
    Ok(TableRegister { base, limit })
}

/// LGDT: SDM 2A "LGDT/LIDT".
pub(crate) fn lgdt(c: &mut Cpu, i: &Insn) -> Done {
    c.gdtr = load_table(c, i)?;
    Ok(())
}

/// LIDT.
pub(crate) fn lidt(c: &mut Cpu, i: &Insn) -> Done {
    c.idtr = load_table(c, i)?;
    Ok(())
}

fn store_selector(c: &mut Cpu, i: &Insn, selector: u16) -> Done {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::UD));
    }
    c.umip()?;
    let w = if i.dst_kind() == Kind::Reg { i.w } else { W };
    c.put_operand(i, w, selector.into())
}

/// SLDT.
pub(crate) fn sldt(c: &mut Cpu, i: &Insn) -> Done {
    store_selector(c, i, c.ldtr.selector)
}

/// STR.
pub(crate) fn str(c: &mut Cpu, i: &Insn) -> Done {
    store_selector(c, i, c.tr.selector)
}

/// LLDT: SDM 2A "LLDT".
pub(crate) fn lldt(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let selector = c.operand(i, W)? as u16;
    if selector & !3 == 0 {
        c.ldtr = Segment { selector, attributes: Segment::UNUSABLE, ..Segment::default() };
        return Ok(());
    }
    let code = u32::from(selector & !3);
    if selector & 4 != 0 {
        return Err(c.raise(Fault::gp(code)));
    }
    let d = c.descriptor(selector, vector::GP)?;
    if d.kind() != 2 {
        return Err(c.raise(Fault::gp(code)));
    }
    if !d.present() {
        return Err(c.raise(Fault::with_code(vector::NP, code)));
    }
    let mut segment = d.segment(selector);
    if c.long_mode() {
        segment.base |= c.system_base(d, selector)?;
    }
    c.ldtr = segment;
    Ok(())
}

/// LTR: SDM 2A "LTR". Marks the TSS busy.
pub(crate) fn ltr(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let selector = c.operand(i, W)? as u16;
    let code = u32::from(selector & !3);
    if selector & !3 == 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    if selector & 4 != 0 {
        return Err(c.raise(Fault::gp(code)));
    }
    let mut d = c.descriptor(selector, vector::GP)?;
    // An available TSS: 32- or 64-bit, or outside of long mode a 16-bit one.
    if d.kind() != 9 && (d.kind() != 1 || c.long_mode()) {
        return Err(c.raise(Fault::gp(code)));
    }
    if !d.present() {
        return Err(c.raise(Fault::with_code(vector::NP, code)));
    }
    let mut segment = d.segment(selector);
    if c.long_mode() {
        segment.base |= c.system_base(d, selector)?;
    }
    d.raw |= 2 << 40;
    c.write_system(D, d.at.wrapping_add(4), d.raw >> 32)?;
    segment.attributes |= 2;
    c.tr = segment;
    Ok(())
}

impl Cpu {
    /// Bits 63:32 of the base in a 16-byte system descriptor.
    fn system_base(
        &mut self,
        d: crate::sys::segment::Descriptor,
        selector: u16,
    ) -> Result<u64, crate::fault::Stop> {
        let upper = self.descriptor_upper(d, selector, vector::GP)?;
        let base = upper << 32;
        // The type field of the upper half must be 0.
        if upper >> 40 & 31 != 0 || !self.canonical_base(base | d.segment(0).base) {
            return Err(self.raise(Fault::gp(u32::from(selector & !3))));
        }
        Ok(base)
    }
}
