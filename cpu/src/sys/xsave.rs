//! The XSAVE feature set: SDM 1 "Managing State Using the XSAVE Feature Set".

use super::fxsave::{LEGACY, Legacy};
use crate::{
    fault::{Done, Fault, Stop},
    insn::Insn,
    model::Feature,
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

/// A component behind the header: its bit in XCR0, its bytes, where it stands in the standard format (CPUID 0Dh).
pub(crate) struct Extended {
    pub(crate) bit: u64,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

/// AVX state.
pub(crate) const AVX: Extended = Extended { bit: component::AVX, size: 256, offset: 576 };
/// PKRU, behind the components that processors with it have.
pub(crate) const PKRU: Extended = Extended { bit: component::PKRU, size: 8, offset: 2688 };
/// In the order of their bits.
pub(crate) const EXTENDED: [Extended; 2] = [AVX, PKRU];

/// Bytes of the header behind the legacy region.
const HEADER: u64 = 64;
/// Where the header begins, and its second word.
const XSTATE_BV: u64 = LEGACY as u64;
const XCOMP_BV: u64 = XSTATE_BV + 8;
/// Bit 63 of XCOMP_BV: the compacted format.
const COMPACTED: u64 = 1 << 63;

/// Where a component stands in an area whose XCOMP_BV is `components` (bit 63 set), or in the standard format.
fn offset(of: &Extended, components: u64) -> u64 {
    if components & COMPACTED == 0 {
        return of.offset;
    }
    let before = EXTENDED.iter().filter(|e| e.bit < of.bit && components & e.bit != 0);
    LEGACY as u64 + HEADER + before.map(|e| e.size).sum::<u64>()
}

/// Bytes of an area for `components`.
pub(crate) fn area_size(components: u64, compacted: bool) -> u64 {
    let format = if compacted { components | COMPACTED } else { 0 };
    let ends = EXTENDED.iter().filter(|e| components & e.bit != 0).map(|e| offset(e, format) + e.size);
    ends.max().unwrap_or(LEGACY as u64 + HEADER)
}

impl Cpu {
    /// XINUSE: which components are not in their initial configuration. MXCSR is not looked at.
    fn in_use(&self) -> u64 {
        let n = self.xmm_count();
        let mut bits = 0;
        if self.x87 != X87::default() {
            bits |= component::X87;
        }
        if self.xmm[..n].iter().any(|&v| v != 0) {
            bits |= component::SSE;
        }
        if self.xmm[16..16 + n].iter().any(|&v| v != 0) {
            bits |= component::AVX;
        }
        if self.pkru != 0 {
            bits |= component::PKRU;
        }
        bits
    }
}

/// #UD without CR4.OSXSAVE, #NM with CR0.TS.
fn allowed(c: &mut Cpu) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    if c.cr0 & cr0::TS != 0 {
        return Err(c.raise(Fault::NM));
    }
    Ok(())
}

/// The requested-feature bitmap: EDX:EAX within what is enabled.
fn requested(c: &Cpu, supervisor: bool) -> u64 {
    let enabled = if supervisor { c.xcr0 | c.msrs.xss } else { c.xcr0 };
    (c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32) & enabled
}

/// How the four saving instructions differ.
#[derive(Clone, Copy)]
struct Manner {
    /// What is in its initial configuration is not written.
    optimised: bool,
    compacted: bool,
    supervisor: bool,
}

fn save(c: &mut Cpu, i: &Insn, how: Manner) -> Done {
    allowed(c)?;
    if how.supervisor {
        c.privileged()?;
    }
    let rfbm = requested(c, how.supervisor);
    let format = if how.compacted { rfbm | COMPACTED } else { 0 };
    let mut in_use = c.in_use();
    if how.compacted && c.mxcsr != Mxcsr::RESET {
        // In the compacted format saved with the XMM registers, and then not left out.
        in_use |= component::SSE;
    }
    let saved = if how.optimised { rfbm & in_use } else { rfbm };
    let size = LEGACY as u64 + HEADER;
    let at = c.save_area(i, 64, size, true)?;
    let fault = |c: &mut Cpu, stop: Stop| c.operand_fault(i, stop);
    c.check_write(at, size).map_err(|stop| fault(c, stop))?;
    // Silicon looks at the room of what is asked for, also where nothing of it is written.
    for e in EXTENDED.iter().filter(|e| rfbm & e.bit != 0) {
        c.check_write(at.wrapping_add(offset(e, format)), e.size).map_err(|stop| fault(c, stop))?;
    }
    let old = c.read(Q, at.wrapping_add(XSTATE_BV)).map_err(|stop| fault(c, stop))?;
    let put = |c: &mut Cpu, by: u64, bytes: &[u8]| {
        c.write_bytes(at.wrapping_add(by), bytes).map_err(|stop| c.operand_fault(i, stop))
    };
    let mut area = Legacy([0; LEGACY]);
    area.put_x87(&c.x87, i.w.0 == 8);
    area.put_xmm(&c.xmm[..c.xmm_count()]);
    if saved & component::X87 != 0 {
        put(c, 0, &area.0[..24])?;
        put(c, 32, &area.0[32..160])?;
    }
    let control =
        if how.compacted { saved & component::SSE } else { rfbm & (component::SSE | component::AVX) };
    if control != 0 {
        let both = u64::from(c.mxcsr) | u64::from(Mxcsr::MASK) << 32;
        put(c, 24, &both.to_le_bytes())?;
    }
    if saved & component::SSE != 0 {
        put(c, 160, &area.0[160..160 + 16 * c.xmm_count()])?;
    }
    if saved & component::AVX != 0 {
        let halves: Vec<u8> =
            c.xmm[16..16 + c.xmm_count()].iter().flat_map(|half| half.to_le_bytes()).collect();
        put(c, offset(&AVX, format), &halves)?;
    }
    if saved & component::PKRU != 0 {
        put(c, offset(&PKRU, format), &u64::from(c.pkru).to_le_bytes())?;
    }
    let header = if how.compacted { rfbm & in_use } else { old & !rfbm | rfbm & in_use };
    put(c, XSTATE_BV, &header.to_le_bytes())?;
    if how.compacted {
        put(c, XCOMP_BV, &format.to_le_bytes())?;
    }
    Ok(())
}

/// XSAVE, XSAVE64: SDM 2C "XSAVE".
pub(crate) fn xsave(c: &mut Cpu, i: &Insn) -> Done {
    save(c, i, Manner { optimised: false, compacted: false, supervisor: false })
}

/// XSAVEOPT: SDM 2C "XSAVEOPT". What has not changed since the last XRSTOR is written all the same.
pub(crate) fn xsaveopt(c: &mut Cpu, i: &Insn) -> Done {
    save(c, i, Manner { optimised: true, compacted: false, supervisor: false })
}

/// XSAVEC: SDM 2C "XSAVEC".
pub(crate) fn xsavec(c: &mut Cpu, i: &Insn) -> Done {
    save(c, i, Manner { optimised: true, compacted: true, supervisor: false })
}

/// XSAVES: SDM 2C "XSAVES".
pub(crate) fn xsaves(c: &mut Cpu, i: &Insn) -> Done {
    save(c, i, Manner { optimised: true, compacted: true, supervisor: true })
}

fn restore(c: &mut Cpu, i: &Insn, supervisor: bool) -> Done {
    allowed(c)?;
    if supervisor {
        c.privileged()?;
    }
    let at = c.save_area(i, 64, LEGACY as u64 + HEADER, false)?;
    let rfbm = requested(c, supervisor);
    let enabled = if supervisor { c.xcr0 | c.msrs.xss } else { c.xcr0 };
    let mut header = [0; HEADER as usize];
    let fault = |c: &mut Cpu, stop| c.operand_fault(i, stop);
    c.read_bytes(at.wrapping_add(XSTATE_BV), &mut header).map_err(|stop| fault(c, stop))?;
    let word = |k: usize| u64::from_le_bytes(std::array::from_fn(|n| header[8 * k + n]));
    let (present, format) = (word(0), word(1));
    let compacted = format & COMPACTED != 0;
    let wrong = if compacted {
        // Each component in the area must be enabled, and all behind XCOMP_BV must be 0. Bit 63 of XSTATE_BV is no component.
        let components = format & !COMPACTED;
        components & !enabled != 0 || present & !components != 0 || (2..8).any(|k| word(k) != 0)
    } else {
        // XCOMP_BV and the word behind it must be 0; nobody looks at the rest.
        supervisor || present & !enabled != 0 || format != 0 || word(2) != 0
    };
    if wrong {
        return Err(c.raise(Fault::gp(0)));
    }
    let (loaded, cleared) = (rfbm & present, rfbm & !present);
    let mut area = Legacy([0; LEGACY]);
    c.read_bytes(at, &mut area.0[..416]).map_err(|stop| fault(c, stop))?;
    let mxcsr = area.u32(24);
    let control = if compacted { loaded & component::SSE } else { rfbm & (component::SSE | component::AVX) };
    if control != 0 && mxcsr & !Mxcsr::MASK != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    // Silicon reads what is asked for, also where nothing of it is loaded; an area in the compacted format may have no
    // room for it.
    let read = if compacted { rfbm & format } else { rfbm };
    let mut halves = [[0; 16]; 16];
    if read & component::AVX != 0 {
        let bytes = &mut halves.as_flattened_mut()[..16 * c.xmm_count()];
        c.read_bytes(at.wrapping_add(offset(&AVX, format)), bytes).map_err(|stop| fault(c, stop))?;
    }
    let mut pkru = 0;
    if read & component::PKRU != 0 {
        pkru = c.read(D, at.wrapping_add(offset(&PKRU, format))).map_err(|stop| fault(c, stop))? as u32;
    }
    // Nothing can fault any more.
    if rfbm & component::PKRU != 0 {
        c.set_pkru(if loaded & component::PKRU != 0 { pkru } else { 0 });
    }
    if rfbm & component::X87 != 0 {
        c.x87 = if loaded & component::X87 != 0 { area.x87(i.w.0 == 8) } else { X87::default() };
    }
    if control != 0 {
        // In the standard format whatever XSTATE_BV says.
        c.mxcsr = mxcsr;
    } else if compacted && cleared & component::SSE != 0 {
        c.mxcsr = Mxcsr::RESET;
    }
    for (k, half) in halves.iter().enumerate().take(c.xmm_count()) {
        if rfbm & component::SSE != 0 {
            c.xmm[k] = if loaded & component::SSE != 0 { area.xmm(k) } else { 0 };
        }
        if rfbm & component::AVX != 0 {
            c.xmm[16 + k] = if loaded & component::AVX != 0 { u128::from_le_bytes(*half) } else { 0 };
        }
    }
    Ok(())
}

/// XRSTOR, XRSTOR64: SDM 2C "XRSTOR".
pub(crate) fn xrstor(c: &mut Cpu, i: &Insn) -> Done {
    restore(c, i, false)
}

/// XRSTORS, XRSTORS64: SDM 2C "XRSTORS".
pub(crate) fn xrstors(c: &mut Cpu, i: &Insn) -> Done {
    restore(c, i, true)
}

/// XGETBV: SDM 2C "XGETBV". Register 1 is XCR0 & XINUSE.
pub(crate) fn xgetbv(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    let v = match c.get(D, reg::RCX) {
        0 => c.xcr0,
        1 if c.options.has(Feature::Xgetbv1) => c.xcr0 & c.in_use(),
        _ => return Err(c.raise(Fault::gp(0))),
    };
    c.set(D, reg::RAX, v);
    c.set(D, reg::RDX, v >> 32);
    Ok(())
}

/// XSETBV: SDM 2C "XSETBV".
pub(crate) fn xsetbv(c: &mut Cpu, _: &Insn) -> Done {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.raise(Fault::UD));
    }
    c.privileged()?;
    let v = c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32;
    let without_sse = v & component::AVX != 0 && v & component::SSE == 0;
    if c.get(D, reg::RCX) != 0 || v & component::X87 == 0 || v & !c.options.components() != 0 || without_sse {
        return Err(c.raise(Fault::gp(0)));
    }
    c.xcr0 = v;
    // Whether AVX instructions exist depends on it.
    c.refresh_mode();
    Ok(())
}
