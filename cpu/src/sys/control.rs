//! Control and debug registers, and what acts on caches and TLBs: SDM 3A "Control Registers".

use crate::{
    fault::{Done, Fault, Stop},
    flags::bits::RF,
    insn::{Insn, Kind},
    mode::Mode,
    model::Feature,
    state::{Cpu, Segment, Why, cr0, cr3, cr4, efer, reg, seg},
    statistics::Flush,
    sys::debug::{GENERAL_DETECT, dr6},
    width::{D, Q, W},
};

/// CR0 bits that exist; ET reads 1.
const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// CR4 bits whose change makes every cached translation wrong.
const CR4_FLUSHES: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::LA57 | cr4::PKE;

impl Cpu {
    /// Writes CR0 with all checks and consequences.
    fn write_cr0(&mut self, v: u64) -> Done {
        if v >> 32 != 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        let v = v & CR0_BITS | cr0::ET;
        let bad = v & (cr0::PG | cr0::PE) == cr0::PG || v & (cr0::NW | cr0::CD) == cr0::NW;
        if bad {
            return Err(self.raise(Fault::gp(0)));
        }
        let changed = self.cr0 ^ v;
        if changed & cr0::PG != 0 {
            if v & cr0::PG != 0 {
                if self.efer & efer::LME != 0 {
                    let long_cs = self.segments[seg::CS].attributes & Segment::LONG != 0;
                    // Neither may TR hold a 16-bit TSS.
                    if self.cr4 & cr4::PAE == 0 || long_cs || self.tr.kind() & !2 == 1 {
                        return Err(self.raise(Fault::gp(0)));
                    }
                    self.efer |= efer::LMA;
                }
            } else {
                // Leaving paging from 64-bit code, or with PCIDs on, is not allowed.
                if self.mode.is_64() || self.cr4 & cr4::PCIDE != 0 {
                    return Err(self.raise(Fault::gp(0)));
                }
                self.efer &= !efer::LMA;
            }
        }
        let pae = v & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && self.efer & efer::LME == 0;
        if pae && changed & (cr0::PG | cr0::CD | cr0::NW) != 0 {
            self.load_pdptrs(self.cr3)?;
        }
        self.cr0 = v;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_all(Flush::Control);
        }
        if changed & cr0::PE != 0 {
            self.cpl = 0;
        }
        self.refresh_mode();
        Ok(())
    }

    fn write_cr4(&mut self, v: u64) -> Done {
        let changed = self.cr4 ^ v;
        let mut bad = v & !self.options.cr4_bits() != 0;
        if self.long_mode() {
            bad |= v & cr4::PAE == 0 || changed & cr4::LA57 != 0;
        }
        if changed & v & cr4::PCIDE != 0 {
            bad |= !self.long_mode() || self.cr3 & 0xfff != 0;
        }
        if bad {
            return Err(self.raise(Fault::gp(0)));
        }
        let pae = self.paging() && !self.long_mode() && v & cr4::PAE != 0;
        if pae && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0 {
            self.load_pdptrs(self.cr3)?;
        }
        self.cr4 = v;
        if changed & cr4::DE != 0 {
            self.refresh_breakpoints();
        }
        if changed & CR4_FLUSHES != 0 {
            self.flush_all(Flush::Control);
        }
        self.refresh_mode();
        Ok(())
    }

    fn write_cr3(&mut self, v: u64) -> Done {
        let keep = v >> 63 != 0 && self.cr4 & cr4::PCIDE != 0;
        let v = if keep { v & !(1 << 63) } else { v };
        let lam = if self.options.has(Feature::Lam) { cr3::LAM_U48 | cr3::LAM_U57 } else { 0 };
        if (v & !lam) >> crate::mmu::PHYSICAL_BITS != 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        if self.paging() && !self.long_mode() && self.cr4 & cr4::PAE != 0 {
            self.load_pdptrs(v)?;
        }
        self.load_cr3(v, keep);
        Ok(())
    }

    /// PAE paging: the four PDPTEs are registers, loaded with CR3. SDM 3A "PDPTE Registers".
    pub(crate) fn load_pdptrs(&mut self, cr3: u64) -> Done {
        let base = cr3 & 0xffff_ffe0;
        let mut new = [0; 4];
        for (k, pdpte) in new.iter_mut().enumerate() {
            let word = self.ram.word(base + 8 * k as u64);
            *pdpte = word.map_or(u64::MAX, |word| word.load(std::sync::atomic::Ordering::SeqCst));
            let reserved = 0x1e6 | !((1 << crate::mmu::PHYSICAL_BITS) - 1);
            if *pdpte & 1 != 0 && *pdpte & reserved != 0 {
                return Err(self.raise(Fault::gp(0)));
            }
        }
        self.pdptrs = new;
        Ok(())
    }
}

/// MOV r, CRn.
pub(crate) fn mov_from_cr(c: &mut Cpu, i: &Insn) -> Done {
    if !matches!(i.src, 0 | 2 | 3 | 4 | 8) {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    if i.src == 8 {
        c.reach_outside()?;
    }
    let v = match i.src {
        0 => c.cr0,
        2 => c.cr2,
        3 => c.cr3,
        4 => c.cr4,
        _ => u64::from(c.bus.cr8(c.id)),
    };
    c.set(if c.mode.is_64() { Q } else { D }, i.dst, v);
    Ok(())
}

/// MOV CRn, r.
pub(crate) fn mov_to_cr(c: &mut Cpu, i: &Insn) -> Done {
    if !matches!(i.dst, 0 | 2 | 3 | 4 | 8) {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let v = c.get(if c.mode.is_64() { Q } else { D }, i.src);
    crate::sys::misc::drain_stores();
    match i.dst {
        0 => c.write_cr0(v)?,
        2 => c.cr2 = v,
        3 => c.write_cr3(v)?,
        4 => c.write_cr4(v)?,
        _ => {
            if v > 15 {
                return Err(c.raise(Fault::gp(0)));
            }
            c.reach_outside()?;
            c.bus.set_cr8(c.id, v as u8);
            c.interrupt_pending = true;
        }
    }
    Ok(())
}

/// CLTS.
pub(crate) fn clts(c: &mut Cpu, _: &Insn) -> Done {
    c.privileged()?;
    c.cr0 &= !cr0::TS;
    c.refresh_mode();
    Ok(())
}

/// SMSW: the low half of CR0 to memory, as much of it as fits to a register.
pub(crate) fn smsw(c: &mut Cpu, i: &Insn) -> Done {
    c.umip()?;
    let w = if i.dst_kind() == Kind::Reg { i.w } else { W };
    c.put_operand(i, w, w.mask(c.cr0))
}

/// LMSW: PE, MP, EM, TS; it cannot clear PE.
pub(crate) fn lmsw(c: &mut Cpu, i: &Insn) -> Done {
    c.privileged()?;
    let v = c.operand(i, W)?;
    let low = v & 15 | c.cr0 & cr0::PE;
    c.write_cr0(c.cr0 & !15 | low)
}

/// Debug registers are read and written whole; DR4 and DR5 are DR6 and DR7 without CR4.DE.
fn debug_register(c: &mut Cpu, n: u8) -> Result<usize, crate::fault::Stop> {
    let n = usize::from(n & 15);
    if n > 7 {
        return Err(c.raise(Fault::UD));
    }
    if n == 4 || n == 5 {
        if c.cr4 & cr4::DE != 0 {
            return Err(c.raise(Fault::UD));
        }
        c.privileged()?;
        general_detect(c)?;
        return Ok(n + 2);
    }
    c.privileged()?;
    general_detect(c)?;
    Ok(n)
}

/// #DB, a fault, for an access to a debug register with DR7.GD set.
fn general_detect(c: &mut Cpu) -> Done {
    if c.dr[7] & GENERAL_DETECT != 0 {
        // Unlike an instruction breakpoint's, its image of RF is set.
        c.eflags |= RF;
        c.debug_exception(dr6::BD);
        return Err(Stop);
    }
    Ok(())
}

/// MOV r, DRn.
pub(crate) fn mov_from_dr(c: &mut Cpu, i: &Insn) -> Done {
    let n = debug_register(c, i.src)?;
    c.set(if c.mode.is_64() { Q } else { D }, i.dst, c.dr[n]);
    Ok(())
}

/// MOV DRn, r.
pub(crate) fn mov_to_dr(c: &mut Cpu, i: &Insn) -> Done {
    let n = debug_register(c, i.dst)?;
    let v = c.get(if c.mode.is_64() { Q } else { D }, i.src);
    if n >= 6 && v >> 32 != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.dr[n] = match n {
        6 => v & 0xe00f | 0xffff_0ff0,
        7 => v & 0xffff_2bff | 0x400,
        _ => v,
    };
    c.refresh_breakpoints();
    c.refresh_mode();
    Ok(())
}

/// INVLPG: SDM 2A "INVLPG".
pub(crate) fn invlpg(c: &mut Cpu, i: &Insn) -> Done {
    c.privileged()?;
    crate::sys::misc::drain_stores();
    let offset = c.far_offset(i);
    let base = c.seg_base[usize::from(i.seg & 7)];
    let linear = c.linear(offset.wrapping_add(base));
    if c.long_mode() && !c.canonical_base(linear) {
        return Ok(());
    }
    c.mmu.invalidate(c.pcid(), linear);
    c.forget_fetched(linear);
    c.refresh_tlb();
    Ok(())
}

/// INVPCID: SDM 2A "INVPCID".
pub(crate) fn invpcid(c: &mut Cpu, i: &Insn) -> Done {
    if !c.mode.contains(Mode::PROTECTED) {
        return Err(c.raise(Fault::gp(0)));
    }
    c.privileged()?;
    crate::sys::misc::drain_stores();
    let kind = c.get(if c.mode.is_64() { Q } else { D }, i.dst);
    let at = c.operand_address(i, 16, false)?;
    let low = c.read(Q, at).map_err(|stop| c.operand_fault(i, stop))?;
    let linear = c.read(Q, at.wrapping_add(8)).map_err(|stop| c.operand_fault(i, stop))?;
    let pcid = (low & 0xfff) as u16;
    let needs_pcide = kind <= 1 && pcid != 0 && c.cr4 & cr4::PCIDE == 0;
    if kind > 3 || low >> 12 != 0 || needs_pcide || kind == 0 && !c.canonical_base(linear) {
        return Err(c.raise(Fault::gp(0)));
    }
    match kind {
        0 => {
            c.mmu.invalidate(pcid, linear);
            c.forget_fetched(linear);
        }
        1 => c.mmu.flush_pcid(pcid, Flush::Invpcid),
        2 => c.mmu.flush(true, Flush::Invpcid),
        _ => c.mmu.flush(false, Flush::Invpcid),
    }
    c.refresh_tlb();
    Ok(())
}

/// WBINVD, INVD: there is no cache to write back.
pub(crate) fn wbinvd(c: &mut Cpu, _: &Insn) -> Done {
    crate::sys::misc::drain_stores();
    c.privileged()
}

/// HLT.
pub(crate) fn hlt(c: &mut Cpu, _: &Insn) -> Done {
    c.privileged()?;
    c.reach_system()?;
    c.why = Why::Halt;
    Ok(())
}

/// RDPKRU: SDM 2B "RDPKRU".
pub(crate) fn rdpkru(c: &mut Cpu, _: &Insn) -> Done {
    pkru_allowed(c)?;
    c.set(D, reg::RAX, c.pkru.into());
    c.set(D, reg::RDX, 0);
    Ok(())
}

/// WRPKRU: SDM 2D "WRPKRU".
pub(crate) fn wrpkru(c: &mut Cpu, _: &Insn) -> Done {
    pkru_allowed(c)?;
    if c.get(D, reg::RDX) != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.set_pkru(c.get(D, reg::RAX) as u32);
    Ok(())
}

fn pkru_allowed(c: &mut Cpu) -> Done {
    if c.cr4 & cr4::PKE == 0 {
        return Err(c.raise(Fault::UD));
    }
    if c.get(D, reg::RCX) != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    Ok(())
}
