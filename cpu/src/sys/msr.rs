//! Model-specific registers: SDM 4 "Architectural MSRs".

use crate::{
    bus::Bus,
    fault::{Done, Fault, Stop},
    insn::Insn,
    model::Feature,
    state::{Cpu, cr0, cr4, efer, reg, seg},
    statistics::{Doing, Flush},
    width::D,
};

/// Addresses of MSRs, named as in the SDM without the IA32_ prefix.
mod address {
    pub(super) const TSC: u32 = 0x10;
    pub(super) const PLATFORM_ID: u32 = 0x17;
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const FEATURE_CONTROL: u32 = 0x3a;
    pub(super) const TSC_ADJUST: u32 = 0x3b;
    pub(super) const SPEC_CTRL: u32 = 0x48;
    pub(super) const PRED_CMD: u32 = 0x49;
    pub(super) const BIOS_UPDT_TRIG: u32 = 0x79;
    pub(super) const BIOS_SIGN_ID: u32 = 0x8b;
    pub(super) const MTRRCAP: u32 = 0xfe;
    pub(super) const ARCH_CAPABILITIES: u32 = 0x10a;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const MCG_CAP: u32 = 0x179;
    pub(super) const MCG_STATUS: u32 = 0x17a;
    pub(super) const MISC_ENABLE: u32 = 0x1a0;
    pub(super) const MTRR_PHYSBASE0: u32 = 0x200;
    pub(super) const MTRR_PHYSMASK7: u32 = 0x20f;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub(super) const TSC_DEADLINE: u32 = 0x6e0;
    pub(super) const X2APIC_FIRST: u32 = 0x800;
    pub(super) const X2APIC_LAST: u32 = 0x8ff;
    pub(super) const XSS: u32 = 0xda0;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const FMASK: u32 = 0xc000_0084;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
}

/// The fixed-range MTRRs, in order of their place in [`crate::state::Msrs::mtrr_fixed`].
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// IA32_ARCH_CAPABILITIES: a processor without speculation flaws, so that kernels spend nothing on them. RDCL_NO,
/// IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO,
/// PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// Eight variable-range MTRRs, fixed ranges, write-combining.
const MTRRCAP: u64 = 8 | 1 << 8 | 1 << 10;

/// IA32_MISC_ENABLE: fast strings, and "unavailable" for BTS and PEBS.
pub(crate) const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;

/// A memory type that a MTRR or, with `pat`, a PAT entry may have.
fn memory_type(t: u64, pat: bool) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6) || pat && t == 7
}

impl Cpu {
    fn read_msr(&mut self, n: u32) -> Result<u64, Stop> {
        let id = self.id;
        Ok(match n {
            address::TSC => self.tsc(),
            address::PLATFORM_ID => 0,
            address::APIC_BASE => self.bus.apic_base(id),
            // Locked, with nothing enabled.
            address::FEATURE_CONTROL => 1,
            address::TSC_ADJUST => self.msrs.tsc_adjust,
            address::SPEC_CTRL => self.msrs.spec_ctrl,
            address::BIOS_SIGN_ID => self.msrs.bios_sign_id,
            address::MTRRCAP => MTRRCAP,
            address::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            address::SYSENTER_CS => self.msrs.sysenter_cs,
            address::SYSENTER_ESP => self.msrs.sysenter_esp,
            address::SYSENTER_EIP => self.msrs.sysenter_eip,
            // No machine-check banks.
            address::MCG_CAP | address::MCG_STATUS => 0,
            address::MISC_ENABLE => self.msrs.misc_enable,
            address::MTRR_PHYSBASE0..=address::MTRR_PHYSMASK7 => {
                let (base, mask) = self.msrs.mtrr_variable[((n - address::MTRR_PHYSBASE0) / 2) as usize];
                if n & 1 == 0 { base } else { mask }
            }
            address::PAT => self.msrs.pat,
            address::MTRR_DEF_TYPE => self.msrs.mtrr_def_type,
            address::TSC_DEADLINE => match self.bus.tsc_deadline(id) {
                0 => 0,
                deadline => deadline.wrapping_add(self.tsc_offset),
            },
            address::X2APIC_FIRST..=address::X2APIC_LAST => match self.apic(|bus| bus.apic_msr_read(id, n)) {
                Ok(v) => v,
                Err(crate::bus::Gp) => return Err(self.raise(Fault::gp(0))),
            },
            address::XSS if self.options.has(Feature::Xsaves) => self.msrs.xss,
            address::EFER => self.efer,
            address::STAR => self.msrs.star,
            address::LSTAR => self.msrs.lstar,
            address::CSTAR => self.msrs.cstar,
            address::FMASK => self.msrs.fmask,
            address::FS_BASE => self.segments[seg::FS].base,
            address::GS_BASE => self.segments[seg::GS].base,
            address::KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            address::TSC_AUX => self.msrs.tsc_aux.into(),
            _ => match MTRR_FIXED.iter().position(|&m| m == n) {
                Some(k) => self.msrs.mtrr_fixed[k],
                None => {
                    log::trace!("RDMSR of unknown {n:#x}");
                    return Err(self.raise(Fault::gp(0)));
                }
            },
        })
    }

    fn write_msr(&mut self, n: u32, v: u64) -> Done {
        let id = self.id;
        let gp = |ok: bool| if ok { Ok(()) } else { Err(()) };
        let checked = match n {
            address::TSC => {
                let delta = v.wrapping_sub(self.tsc());
                self.tsc_offset = self.tsc_offset.wrapping_add(delta);
                self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(delta);
                Ok(())
            }
            // The bits of the address that this CPU does not have are reserved, which the APIC cannot know.
            address::APIC_BASE => gp(v >> crate::mmu::PHYSICAL_BITS == 0)
                .and_then(|()| self.bus.set_apic_base(id, v).map_err(|_| ())),
            address::TSC_ADJUST => {
                let delta = v.wrapping_sub(self.msrs.tsc_adjust);
                self.tsc_offset = self.tsc_offset.wrapping_add(delta);
                self.msrs.tsc_adjust = v;
                Ok(())
            }
            // IBRS, STIBP, SSBD, BHI_DIS_S.
            address::SPEC_CTRL => gp(v & !0x407 == 0).map(|()| self.msrs.spec_ctrl = v),
            address::PRED_CMD => gp(v & !1 == 0),
            address::BIOS_UPDT_TRIG => Ok(()),
            address::BIOS_SIGN_ID => Ok(()),
            address::SYSENTER_CS => {
                self.msrs.sysenter_cs = v;
                Ok(())
            }
            address::SYSENTER_ESP => gp(self.canonical_base(v)).map(|()| self.msrs.sysenter_esp = v),
            address::SYSENTER_EIP => gp(self.canonical_base(v)).map(|()| self.msrs.sysenter_eip = v),
            address::MCG_STATUS => gp(v == 0),
            address::MISC_ENABLE => {
                self.msrs.misc_enable = v & 1 | MISC_ENABLE_RESET & !1;
                Ok(())
            }
            address::MTRR_PHYSBASE0..=address::MTRR_PHYSMASK7 => {
                let pair = &mut self.msrs.mtrr_variable[((n - address::MTRR_PHYSBASE0) / 2) as usize];
                let beyond = v >> crate::mmu::PHYSICAL_BITS != 0;
                if n & 1 == 0 {
                    gp(!beyond && v & 0xf00 == 0 && memory_type(v & 0xff, false)).map(|()| pair.0 = v)
                } else {
                    gp(!beyond && v & 0x7ff == 0).map(|()| pair.1 = v)
                }
            }
            address::PAT => {
                gp((0..8).all(|k| memory_type(v >> (8 * k) & 0xff, true))).map(|()| self.msrs.pat = v)
            }
            address::MTRR_DEF_TYPE => {
                gp(v & !0xcff == 0 && memory_type(v & 0xff, false)).map(|()| self.msrs.mtrr_def_type = v)
            }
            address::TSC_DEADLINE => {
                // 0 disarms; what has passed, by the guest's own counter, is the smallest that does not.
                let now = self.tsc();
                let deadline = match v {
                    0 => 0,
                    _ if v <= now => 1,
                    _ => now.wrapping_sub(self.tsc_offset).saturating_add(v - now),
                };
                self.apic(|bus| bus.set_tsc_deadline(id, deadline));
                Ok(())
            }
            address::X2APIC_FIRST..=address::X2APIC_LAST => {
                self.apic(|bus| bus.apic_msr_write(id, n, v)).map_err(|_| ())
            }
            // There is no supervisor state.
            address::XSS if self.options.has(Feature::Xsaves) => gp(v == 0),
            address::EFER => self.write_efer(v),
            address::STAR => {
                self.msrs.star = v;
                Ok(())
            }
            address::LSTAR => gp(self.canonical_base(v)).map(|()| self.msrs.lstar = v),
            address::CSTAR => gp(self.canonical_base(v)).map(|()| self.msrs.cstar = v),
            address::FMASK => gp(v >> 32 == 0).map(|()| self.msrs.fmask = v),
            address::FS_BASE => gp(self.canonical_base(v)).map(|()| self.set_base(seg::FS, v)),
            address::GS_BASE => gp(self.canonical_base(v)).map(|()| self.set_base(seg::GS, v)),
            address::KERNEL_GS_BASE => gp(self.canonical_base(v)).map(|()| self.msrs.kernel_gs_base = v),
            address::TSC_AUX => gp(v >> 32 == 0).map(|()| self.msrs.tsc_aux = v as u32),
            _ => match MTRR_FIXED.iter().position(|&m| m == n) {
                Some(k) => gp((0..8).all(|b| memory_type(v >> (8 * b) & 0xff, false)))
                    .map(|()| self.msrs.mtrr_fixed[k] = v),
                None => {
                    log::trace!("WRMSR of unknown {n:#x}");
                    Err(())
                }
            },
        };
        checked.map_err(|()| self.raise(Fault::gp(0)))
    }

    /// Asks this CPU's local APIC.
    fn apic<R>(&mut self, ask: impl FnOnce(&dyn Bus) -> R) -> R {
        self.statistics.apic_msrs += 1;
        self.within(Doing::Device, |c| ask(&*c.bus))
    }

    /// Those of the local APIC and the TSC are what an engine has in whose place [`Cpu::run_apart`] runs.
    fn reach_msr(&mut self, n: u32) -> Done {
        match n {
            address::TSC
            | address::TSC_ADJUST
            | address::TSC_DEADLINE
            | address::APIC_BASE
            | address::X2APIC_FIRST..=address::X2APIC_LAST => self.reach_outside(),
            _ => self.reach_system(),
        }
    }

    fn write_efer(&mut self, v: u64) -> Result<(), ()> {
        let may = efer::SCE | efer::LME | efer::NXE;
        if v & !(may | efer::LMA) != 0 {
            return Err(());
        }
        let changed = (self.efer ^ v) & may;
        if changed & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return Err(());
        }
        self.efer ^= changed;
        if changed & efer::NXE != 0 {
            self.flush_all(Flush::Control);
        }
        self.refresh_mode();
        Ok(())
    }
}

/// RDMSR.
pub(crate) fn rdmsr(c: &mut Cpu, _: &Insn) -> Done {
    c.privileged()?;
    let number = c.get(D, reg::RCX) as u32;
    c.reach_msr(number)?;
    let v = c.read_msr(number)?;
    c.set(D, reg::RAX, v);
    c.set(D, reg::RDX, v >> 32);
    Ok(())
}

/// WRMSR.
pub(crate) fn wrmsr(c: &mut Cpu, _: &Insn) -> Done {
    c.privileged()?;
    let number = c.get(D, reg::RCX) as u32;
    c.reach_msr(number)?;
    crate::sys::misc::drain_stores();
    let v = c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32;
    c.write_msr(number, v)
}

/// RDTSC: SDM 2B "RDTSC".
pub(crate) fn rdtsc(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr4 & cr4::TSD != 0 && c.cpl != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let v = c.tsc();
    c.set(D, reg::RAX, v);
    c.set(D, reg::RDX, v >> 32);
    Ok(())
}

/// RDTSCP.
pub(crate) fn rdtscp(c: &mut Cpu, i: &Insn) -> Done {
    rdtsc(c, i)?;
    c.set(D, reg::RCX, c.msrs.tsc_aux.into());
    Ok(())
}

/// RDPID: SDM 2B "RDPID".
pub(crate) fn rdpid(c: &mut Cpu, i: &Insn) -> Done {
    c.set(i.w, i.dst, c.msrs.tsc_aux.into());
    Ok(())
}

/// RDPMC: there are no counters.
pub(crate) fn rdpmc(c: &mut Cpu, _: &Insn) -> Done {
    Err(c.raise(Fault::gp(0)))
}
