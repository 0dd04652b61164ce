//! IN and OUT: SDM 1 "Input/Output".

use crate::{
    fault::{Done, Fault},
    insn::Insn,
    mode::Mode,
    state::{Cpu, cr0, reg},
    width::{W, Width},
};

impl Cpu {
    /// #GP(0) unless IOPL or the TSS's permission bitmap allows the ports.
    pub(crate) fn port_allowed(&mut self, port: u16, w: Width) -> Done {
        self.reach_system()?;
        let v86 = self.mode.contains(Mode::V86);
        if self.cr0 & cr0::PE == 0 || !v86 && self.cpl <= self.iopl() {
            return Ok(());
        }
        let no = Fault::gp(0);
        // A 32- or 64-bit TSS with room for the bitmap's offset.
        if self.tr.kind() & 13 != 9 || self.tr.limit < 103 {
            return Err(self.raise(no));
        }
        let base = self.tr.base;
        let map = self.read_system(W, self.linear(base.wrapping_add(102)))?;
        let at = map + u64::from(port / 8);
        // Two bytes are read always, so that ports that straddle one are found.
        if at + 1 > u64::from(self.tr.limit) {
            return Err(self.raise(no));
        }
        let bits = self.read_system(W, self.linear(base.wrapping_add(at)))? >> (port & 7);
        if bits & ((1 << w.0) - 1) != 0 {
            return Err(self.raise(no));
        }
        Ok(())
    }

    pub(crate) fn port_in(&mut self, port: u16, w: Width) -> u64 {
        if self.breakpoints.port {
            self.watch_port(port, w.0.into());
        }
        let mut bytes = [0; 8];
        self.outside(|bus, id| bus.port_read(id, port, &mut bytes[..usize::from(w.0)]));
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn port_out(&mut self, port: u16, w: Width, v: u64) {
        if self.breakpoints.port {
            self.watch_port(port, w.0.into());
        }
        self.outside(|bus, id| bus.port_write(id, port, &v.to_le_bytes()[..usize::from(w.0)]));
    }
}

/// The port: DX (`cc` 1) or an immediate.
fn port(c: &Cpu, i: &Insn) -> u16 {
    if i.cc == 1 { c.get(W, reg::RDX) as u16 } else { u16::from(i.imm as u8) }
}

/// IN.
pub(crate) fn in_(c: &mut Cpu, i: &Insn) -> Done {
    let port = port(c, i);
    c.port_allowed(port, i.w)?;
    let v = c.port_in(port, i.w);
    c.set(i.w, reg::RAX, v);
    Ok(())
}

/// OUT.
pub(crate) fn out(c: &mut Cpu, i: &Insn) -> Done {
    let port = port(c, i);
    c.port_allowed(port, i.w)?;
    c.port_out(port, i.w, c.get(i.w, reg::RAX));
    Ok(())
}
