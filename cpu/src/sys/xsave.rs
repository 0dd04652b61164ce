//! Saving and restoring x87 and SSE state: SDM 1 "Managing State Using the XSAVE Feature Set", SDM 2A "FXSAVE".

use crate::{
    fault::{Done, Fault},
    float::F80,
    insn::Insn,
    state::{Cpu, Mxcsr, X87, cr0, cr4, reg},
    width::{D, Q},
};

/// State components of XCR0.
pub(crate) mod component {
    pub(crate) const X87: u64 = 1;
    pub(crate) const SSE: u64 = 2;
    pub(crate) const AVX: u64 = 4;
    pub(crate) const PKRU: u64 = 1 << 9;
    /// What this processor has.
    pub(crate) const ALL: u64 = X87 | SSE | AVX | PKRU;
}

/// Where PKRU stands in the standard format, CPUID 0Dh.9: behind the components that processors with it have.
pub(crate) const PKRU_OFFSET: u64 = 2688;

/// Bytes of the legacy region and of the header behind it.
const LEGACY: usize = 512;
const HEADER: u64 = 64;

/// The legacy region, as FXSAVE lays it out.
struct Legacy([u8; LEGACY]);

impl Legacy {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn put_x87(&mut self, x: &X87, wide: bool) {
        self.put(0, &x.control.to_le_bytes());
        self.put(2, &x.status.to_le_bytes());
        self.put(4, &[x.tags, 0]);
        self.put(6, &x.opcode.to_le_bytes());
        if wide {
            self.put(8, &x.ip.to_le_bytes());
            self.put(16, &x.dp.to_le_bytes());
        } else {
            // FCS and FDS are deprecated and read 0.
            self.put(8, &(x.ip as u32).to_le_bytes());
            self.put(12, &[0; 4]);
            self.put(16, &(x.dp as u32).to_le_bytes());
            self.put(20, &[0; 4]);
        }
        for k in 0..8 {
            let r = x.regs[x.physical(k)];
            self.put(32 + 16 * k, &r.significand.to_le_bytes());
            self.put(40 + 16 * k, &r.sign_exponent.to_le_bytes());
            self.put(42 + 16 * k, &[0; 6]);
        }
    }

    fn x87(&self, wide: bool) -> X87 {
        let mut x = X87 {
            control: self.u16(0) & 0x1f7f | 0x40,
            status: self.u16(2),
            tags: self.0[4],
            opcode: self.u16(6) & 0x7ff,
            ..X87::default()
        };
        (x.ip, x.dp) =
            if wide { (self.u64(8), self.u64(16)) } else { (self.u32(8).into(), self.u32(16).into()) };
        for k in 0..8 {
            let at = 32 + 16 * k;
            let r = F80 { significand: self.u64(at), sign_exponent: self.u16(at + 8) };
            x.regs[x.physical(k)] = r;
        }
        x.refresh_summary();
        x
    }

    fn put_xmm(&mut self, xmm: &[u128]) {
        for (k, v) in xmm.iter().enumerate() {
            self.put(160 + 16 * k, &v.to_le_bytes());
        }
    }

    fn xmm(&self, k: usize) -> u128 {
        u128::from(self.u64(160 + 16 * k)) | u128::from(self.u64(168 + 16 * k)) << 64
    }
}

impl Cpu {
    /// XMM registers of the mode: 16 or 8.
    fn xmm_count(&self) -> usize {
        if self.mode.is_64() { 16 } else { 8 }
    }

    fn save_area(
        &mut self,
        i: &Insn,
        alignment: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, crate::fault::Stop> {
        let at = self.operand_address(i, size, write)?;
        if at & (alignment - 1) != 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok(at)
    }
}

/// FXSAVE, FXSAVE64.
pub(crate) fn fxsave(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.save_area(i, 16, LEGACY as u64, true)?;
    let mut area = Legacy([0; LEGACY]);
    // The last 96 bytes are software's: they stay.
    let used = 160 + 16 * c.xmm_count();
    area.put_x87(&c.x87, i.w.0 == 8);
    area.put(24, &c.mxcsr.to_le_bytes());
    area.put(28, &Mxcsr::MASK.to_le_bytes());
    area.put_xmm(&c.xmm[..c.xmm_count()]);
    c.write_bytes(at, &area.0[..used]).map_err(|stop| c.operand_fault(i, stop))
}

/// FXRSTOR, FXRSTOR64.
pub(crate) fn fxrstor(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.save_area(i, 16, LEGACY as u64, false)?;
    let mut area = Legacy([0; LEGACY]);
    c.read_bytes(at, &mut area.0).map_err(|stop| c.operand_fault(i, stop))?;
    let mxcsr = area.u32(24);
    if mxcsr & !Mxcsr::MASK != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.x87 = area.x87(i.w.0 == 8);
    if c.cr4 & cr4::OSFXSR != 0 {
        c.mxcsr = mxcsr;
        for k in 0..c.xmm_count() {
            c.xmm[k] = area.xmm(k);
        }
    }
    Ok(())
}

/// #UD without CR4.OSXSAVE, #NM with CR0.TS.
fn xsave_allowed(c: &mut Cpu) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    if c.cr0 & cr0::TS != 0 {
        return Err(c.raise(Fault::NM));
    }
    Ok(())
}

/// The requested-feature bitmap: EDX:EAX within XCR0.
fn requested(c: &Cpu) -> u64 {
    (c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32) & c.xcr0
}

/// XSAVE, XSAVE64: the standard format.
pub(crate) fn xsave(c: &mut Cpu, i: &Insn) -> Done {
    xsave_allowed(c)?;
    let at = c.save_area(i, 64, LEGACY as u64 + HEADER, true)?;
    let rfbm = requested(c);
    let mut area = Legacy([0; LEGACY]);
    let fault = |c: &mut Cpu, stop| c.operand_fault(i, stop);
    c.check_write(at, LEGACY as u64 + HEADER).map_err(|stop| fault(c, stop))?;
    if rfbm & component::PKRU != 0 {
        c.check_write(at.wrapping_add(PKRU_OFFSET), 8).map_err(|stop| fault(c, stop))?;
    }
    let old = c.read(Q, at.wrapping_add(LEGACY as u64)).map_err(|stop| fault(c, stop))?;
    area.put_x87(&c.x87, i.w.0 == 8);
    if rfbm & component::X87 != 0 {
        c.write_bytes(at, &area.0[..24]).map_err(|stop| fault(c, stop))?;
        c.write_bytes(at.wrapping_add(32), &area.0[32..160]).map_err(|stop| fault(c, stop))?;
    }
    if rfbm & component::SSE != 0 {
        let control = u64::from(c.mxcsr) | u64::from(Mxcsr::MASK) << 32;
        c.write(Q, at.wrapping_add(24), control).map_err(|stop| fault(c, stop))?;
        area.put_xmm(&c.xmm[..c.xmm_count()]);
        let end = 160 + 16 * c.xmm_count();
        c.write_bytes(at.wrapping_add(160), &area.0[160..end]).map_err(|stop| fault(c, stop))?;
    }
    // XSTATE_BV: a component in its initial configuration may be told so.
    let mut in_use = 0;
    if c.x87 != X87::default() {
        in_use |= component::X87;
    }
    if c.xmm[..c.xmm_count()].iter().any(|&v| v != 0) || c.mxcsr != Mxcsr::RESET {
        in_use |= component::SSE;
    }
    if rfbm & component::PKRU != 0 {
        let value = c.pkru.into();
        c.write(Q, at.wrapping_add(PKRU_OFFSET), value).map_err(|stop| fault(c, stop))?;
    }
    if c.pkru != 0 {
        in_use |= component::PKRU;
    }
    let bv = old & !rfbm | rfbm & in_use;
    c.write(Q, at.wrapping_add(LEGACY as u64), bv).map_err(|stop| fault(c, stop))
}

/// XRSTOR, XRSTOR64: the standard format.
pub(crate) fn xrstor(c: &mut Cpu, i: &Insn) -> Done {
    xsave_allowed(c)?;
    let at = c.save_area(i, 64, LEGACY as u64 + HEADER, false)?;
    let rfbm = requested(c);
    let mut header = [0; HEADER as usize];
    let fault = |c: &mut Cpu, stop| c.operand_fault(i, stop);
    c.read_bytes(at.wrapping_add(LEGACY as u64), &mut header).map_err(|stop| fault(c, stop))?;
    let word = |k: usize| u64::from_le_bytes(std::array::from_fn(|n| header[8 * k + n]));
    let (bv, compacted) = (word(0), word(1));
    // The compacted format is not offered: XCOMP_BV and the word behind it must be 0. Nobody looks at the rest.
    if bv & !c.xcr0 != 0 || compacted != 0 || word(2) != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let mut area = Legacy([0; LEGACY]);
    c.read_bytes(at, &mut area.0[..416]).map_err(|stop| fault(c, stop))?;
    let mxcsr = area.u32(24);
    if rfbm & component::SSE != 0 && mxcsr & !Mxcsr::MASK != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let pkru = match () {
        () if rfbm & component::PKRU == 0 => c.pkru,
        () if bv & component::PKRU == 0 => 0,
        () => c.read(D, at.wrapping_add(PKRU_OFFSET)).map_err(|stop| fault(c, stop))? as u32,
    };
    c.set_pkru(pkru);
    if rfbm & component::X87 != 0 {
        c.x87 = if bv & component::X87 != 0 { area.x87(i.w.0 == 8) } else { X87::default() };
    }
    if rfbm & component::SSE != 0 {
        // MXCSR is loaded whatever XSTATE_BV says.
        c.mxcsr = mxcsr;
        for k in 0..c.xmm_count() {
            c.xmm[k] = if bv & component::SSE != 0 { area.xmm(k) } else { 0 };
        }
    }
    Ok(())
}

/// XGETBV.
pub(crate) fn xgetbv(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    if c.get(D, reg::RCX) != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.set(D, reg::RAX, c.xcr0);
    c.set(D, reg::RDX, c.xcr0 >> 32);
    Ok(())
}

/// XSETBV.
pub(crate) fn xsetbv(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let v = c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32;
    if c.get(D, reg::RCX) != 0 || v & component::X87 == 0 || v & !component::ALL != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.xcr0 = v;
    Ok(())
}
