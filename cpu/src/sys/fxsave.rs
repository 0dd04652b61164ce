//! x87 and SSE state in the legacy region of an XSAVE area, which is all that FXSAVE knows: SDM 2A "FXSAVE".

use crate::{
    fault::{Done, Fault, Stop},
    float::F80,
    insn::Insn,
    state::{Cpu, Mxcsr, X87, cr4},
};

/// Bytes of the legacy region.
pub(super) const LEGACY: usize = 512;

/// The legacy region, as FXSAVE lays it out.
pub(super) struct Legacy(pub(super) [u8; LEGACY]);

impl Legacy {
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    pub(super) fn put_x87(&mut self, x: &X87, wide: bool) {
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

    pub(super) fn x87(&self, wide: bool) -> X87 {
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

    pub(super) fn put_xmm(&mut self, xmm: &[u128]) {
        for (k, v) in xmm.iter().enumerate() {
            self.put(160 + 16 * k, &v.to_le_bytes());
        }
    }

    pub(super) fn xmm(&self, k: usize) -> u128 {
        u128::from(self.u64(160 + 16 * k)) | u128::from(self.u64(168 + 16 * k)) << 64
    }
}

impl Cpu {
    /// XMM registers of the mode: 16 or 8.
    pub(super) fn xmm_count(&self) -> usize {
        if self.mode.is_64() { 16 } else { 8 }
    }

    pub(super) fn save_area(
        &mut self,
        i: &Insn,
        alignment: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Stop> {
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
    // It faults for all of its area, whatever it leaves alone of it.
    c.check_write(at, LEGACY as u64).map_err(|stop| c.operand_fault(i, stop))?;
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
