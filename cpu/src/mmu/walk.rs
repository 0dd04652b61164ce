//! The page walk: SDM 3A "Paging", all formats.

use super::{Mapping, PageSize};
use crate::{
    fault::{Fault, Stop, vector},
    model::Feature,
    state::{Cpu, cr0, cr4, efer},
    statistics::Flush,
};
use std::sync::atomic::Ordering::SeqCst;

/// Which rights a data access has. The TLB has a table for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Class {
    /// CPL 3.
    User = 0,
    /// CPL 0 to 2 and implicit accesses to system tables, SMAP in force.
    Supervisor = 1,
    /// CPL 0 to 2 with RFLAGS.AC set, or without SMAP.
    SupervisorAc = 2,
}

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

/// Bits of paging-structure entries.
mod entry {
    pub(super) const P: u64 = 1;
    pub(super) const W: u64 = 2;
    pub(super) const U: u64 = 4;
    pub(super) const A: u64 = 0x20;
    pub(super) const D: u64 = 0x40;
    pub(super) const PS: u64 = 0x80;
    pub(super) const G: u64 = 0x100;
    pub(super) const NX: u64 = 1 << 63;
}

/// Bits of a #PF error code.
mod code {
    pub(super) const P: u32 = 1;
    pub(super) const W: u32 = 2;
    pub(super) const U: u32 = 4;
    pub(super) const RSVD: u32 = 8;
    pub(super) const I: u32 = 16;
    pub(super) const PK: u32 = 32;
}

/// Width of guest-physical addresses, CPUID 80000008h.
pub(crate) const PHYSICAL_BITS: u32 = 46;
/// Bits of an entry that hold an address.
const ADDRESS: u64 = (1 << PHYSICAL_BITS) - 1 & !0xfff;
/// Address bits beyond our width: reserved.
const BEYOND: u64 = (1 << 52) - (1 << PHYSICAL_BITS);

/// What one entry says, in the 64-bit format.
struct Step {
    value: u64,
    /// Where the entry is.
    at: u64,
}

enum Walked {
    Found(Mapping, WalkTrace),
    NotPresent,
    Reserved,
}

/// The entries that were used, so that A and D can be set once the access is allowed.
#[derive(Default)]
struct WalkTrace {
    steps: [(u64, u64); 5],
    len: usize,
    /// 32-bit paging has 4-byte entries.
    short: bool,
}

impl WalkTrace {
    fn push(&mut self, step: &Step) {
        if let Some(place) = self.steps.get_mut(self.len) {
            *place = (step.at, step.value);
            self.len += 1;
        }
    }
}

impl Cpu {
    /// Whether a linear address is canonical in the current mode of paging. Below 64-bit mode all are.
    #[inline]
    pub(crate) fn canonical(&self, linear: u64) -> bool {
        let unused = if self.cr4 & cr4::LA57 != 0 { 7 } else { 16 };
        ((linear << unused) as i64 >> unused) as u64 == linear
    }

    /// Whether an address may become the base of a segment or table, stand in an MSR, or name a page to invalidate: on
    /// processors with 5-level paging 57 bits whatever CR4.LA57 says. An access checks what the mode allows.
    pub(crate) fn canonical_base(&self, linear: u64) -> bool {
        let unused = if self.options.has(Feature::La57) { 7 } else { 16 };
        ((linear << unused) as i64 >> unused) as u64 == linear
    }

    /// Translates for an access, sets A and D, or raises #PF.
    pub(crate) fn translate(&mut self, linear: u64, access: Access, class: Class) -> Result<Mapping, Stop> {
        if !self.paging() {
            return Ok(Mapping {
                physical: linear & !0xfff,
                writable: true,
                user: true,
                no_execute: false,
                dirty: true,
                global: false,
                key: 0,
                size: PageSize::Small,
            });
        }
        if let Some(mapping) = self.mmu.second_lookup(linear)
            && self.denied(&mapping, access, class).is_none()
            && (access != Access::Write || mapping.dirty)
            && !self.options.no_tlb
        {
            self.statistics.second_level += 1;
            return Ok(mapping);
        }
        self.statistics.walks += 1;
        // Another CPU may change an entry between our reading it and setting A or D: then walk again.
        for _ in 0..64 {
            let (mut mapping, trace) = match self.walk(linear) {
                Walked::Found(mapping, trace) => (mapping, trace),
                Walked::NotPresent => return Err(self.page_fault(linear, 0, access, class)),
                Walked::Reserved => return Err(self.page_fault(linear, code::P | code::RSVD, access, class)),
            };
            if let Some(bits) = self.denied(&mapping, access, class) {
                return Err(self.page_fault(linear, bits, access, class));
            }
            if self.mark(&trace, access == Access::Write) {
                for &(at, value) in &trace.steps[..trace.len] {
                    if value & entry::A == 0 || access == Access::Write {
                        self.mmu.note_written(at);
                    }
                    self.stored(at, 8);
                }
                mapping.dirty |= access == Access::Write;
                mapping.global &= self.cr4 & cr4::PGE != 0;
                self.mmu.second_insert(linear, mapping);
                return Ok(mapping);
            }
        }
        Err(self.page_fault(linear, 0, access, class))
    }

    /// Whether the rights of a mapping forbid an access: the P and PK bits of the error code if so.
    fn denied(&self, mapping: &Mapping, access: Access, class: Class) -> Option<u32> {
        let supervisor = class != Class::User;
        let no = match access {
            _ if !supervisor && !mapping.user => true,
            Access::Execute => mapping.no_execute || supervisor && mapping.user && self.cr4 & cr4::SMEP != 0,
            _ if class == Class::Supervisor && mapping.user && self.cr4 & cr4::SMAP != 0 => true,
            Access::Write => !mapping.writable && (!supervisor || self.cr0 & cr0::WP != 0),
            Access::Read => false,
        };
        let key = self.key_denies(mapping, access, class);
        (no || key).then_some(code::P | if key { code::PK } else { 0 })
    }

    /// Whether user pages have protection keys.
    pub(crate) fn protection_keys(&self) -> bool {
        self.cr4 & cr4::PKE != 0 && self.long_mode()
    }

    /// SDM 3A "Protection Keys": data accesses to user pages, whoever makes them.
    fn key_denies(&self, mapping: &Mapping, access: Access, class: Class) -> bool {
        if !mapping.user || access == Access::Execute || !self.protection_keys() {
            return false;
        }
        let rights = self.pkru >> (2 * u32::from(mapping.key & 15));
        let protects = class == Class::User || self.cr0 & cr0::WP != 0;
        rights & 1 != 0 || rights & 2 != 0 && access == Access::Write && protects
    }

    /// Sets PKRU. Pages with another key than 0 have no tag in the TLB, so that only the rights of key 0 make it wrong.
    pub(crate) fn set_pkru(&mut self, v: u32) {
        let changed = self.pkru ^ v;
        self.pkru = v;
        if changed & 3 != 0 {
            self.flush_all(Flush::Control);
        }
    }

    fn page_fault(&mut self, linear: u64, bits: u32, access: Access, class: Class) -> Stop {
        let mut error = bits;
        if access == Access::Write {
            error |= code::W;
        }
        if class == Class::User {
            error |= code::U;
        }
        let nx = self.efer & efer::NXE != 0 && self.cr4 & cr4::PAE != 0;
        if access == Access::Execute && (nx || self.cr4 & cr4::SMEP != 0) {
            error |= code::I;
        }
        self.raise(Fault { vector: vector::PF, error_code: Some(error), address: linear })
    }

    /// Reads memory as a debugger does: through the guest's page tables whatever their rights, with nothing changed and no device
    /// touched. How many bytes there were to read.
    pub fn examine(&self, linear: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let at = linear.wrapping_add(done as u64);
            let at = if self.long_mode() { at } else { at as u32 as u64 };
            let physical = match self.paging().then(|| self.walk(at)) {
                None => at,
                Some(Walked::Found(mapping, _)) => mapping.physical | at & 0xfff,
                Some(_) => break,
            };
            let len = (out.len() - done).min(0x1000 - (at & 0xfff) as usize);
            if !self.ram.read(physical, &mut out[done..done + len]) {
                break;
            }
            done += len;
        }
        done
    }

    fn read_entry(&self, at: u64) -> Step {
        // Page tables outside of RAM read as all ones, like any address that nothing answers.
        let value = self.ram.word(at).map_or(u64::MAX, |word| word.load(SeqCst));
        Step { value, at }
    }

    fn walk(&self, linear: u64) -> Walked {
        if self.cr4 & cr4::PAE == 0 { self.walk_32(linear) } else { self.walk_64(linear) }
    }

    /// 4-level, 5-level and PAE paging.
    fn walk_64(&self, linear: u64) -> Walked {
        let nx_reserved = if self.efer & efer::NXE == 0 { entry::NX } else { 0 };
        let mut trace = WalkTrace::default();
        let (mut table, mut level);
        if self.long_mode() {
            table = self.cr3 & ADDRESS;
            level = if self.cr4 & cr4::LA57 != 0 { 5 } else { 4 };
        } else {
            let pdpte = self.pdptrs[(linear >> 30 & 3) as usize];
            if pdpte & entry::P == 0 {
                return Walked::NotPresent;
            }
            table = pdpte & ADDRESS;
            level = 2;
        }
        let (mut writable, mut user, mut no_execute) = (true, true, false);
        loop {
            let shift = 12 + 9 * (level - 1);
            let step = self.read_entry(table + (linear >> shift & 511) * 8);
            let e = step.value;
            if e & entry::P == 0 {
                return Walked::NotPresent;
            }
            let leaf = level == 1 || level <= 3 && e & entry::PS != 0;
            let mut reserved = BEYOND | nx_reserved;
            if leaf && level > 1 {
                // The bits between the page's address and PAT (bit 12).
                reserved |= (1u64 << shift) - (1 << 13);
            } else if level >= 4 {
                reserved |= entry::PS;
            }
            if !self.long_mode() {
                reserved |= 0x7ff0_0000_0000_0000;
            }
            if e & reserved != 0 {
                return Walked::Reserved;
            }
            trace.push(&step);
            writable &= e & entry::W != 0;
            user &= e & entry::U != 0;
            no_execute |= e & entry::NX != 0;
            if leaf {
                let within = (1u64 << shift) - 1;
                return Walked::Found(
                    Mapping {
                        physical: (e & ADDRESS & !within) | linear & within & !0xfff,
                        writable,
                        user,
                        no_execute,
                        dirty: e & entry::D != 0,
                        global: e & entry::G != 0,
                        key: if user && self.protection_keys() { (e >> 59 & 15) as u8 } else { 0 },
                        size: match level {
                            1 => PageSize::Small,
                            2 => PageSize::Large,
                            _ => PageSize::Huge,
                        },
                    },
                    trace,
                );
            }
            table = e & ADDRESS;
            level -= 1;
        }
    }

    /// 32-bit paging with PSE and PSE-36.
    fn walk_32(&self, linear: u64) -> Walked {
        let mut trace = WalkTrace { short: true, ..WalkTrace::default() };
        let short = |at: u64| {
            let word = self.read_entry(at & !7).value;
            Step { value: word >> (8 * (at & 4)) & 0xffff_ffff, at }
        };
        let pde = short((self.cr3 & 0xffff_f000) + (linear >> 22 & 1023) * 4);
        if pde.value & entry::P == 0 {
            return Walked::NotPresent;
        }
        let found = |leaf: u64, physical: u64, all: u64, size| Mapping {
            physical,
            writable: all & entry::W != 0,
            user: all & entry::U != 0,
            no_execute: false,
            dirty: leaf & entry::D != 0,
            global: leaf & entry::G != 0,
            key: 0,
            size,
        };
        trace.push(&pde);
        if pde.value & entry::PS != 0 && self.cr4 & cr4::PSE != 0 {
            // PSE-36 gives address bits 39:32 in bits 20:13; bit 21 is reserved.
            if pde.value & 1 << 21 != 0 {
                return Walked::Reserved;
            }
            let high = (pde.value >> 13 & 0xff) << 32;
            let physical = high | pde.value & 0xffc0_0000 | linear & 0x3f_f000;
            return Walked::Found(found(pde.value, physical, pde.value, PageSize::Large), trace);
        }
        let pte = short((pde.value & 0xffff_f000) + (linear >> 12 & 1023) * 4);
        if pte.value & entry::P == 0 {
            return Walked::NotPresent;
        }
        trace.push(&pte);
        let all = pde.value & pte.value;
        Walked::Found(found(pte.value, pte.value & 0xffff_f000, all, PageSize::Small), trace)
    }

    /// Sets A in all entries used and D in the last; false when one changed meanwhile.
    fn mark(&self, trace: &WalkTrace, write: bool) -> bool {
        trace.steps[..trace.len].iter().enumerate().all(|(k, &(at, value))| {
            let dirty = if write && k + 1 == trace.len { entry::D } else { 0 };
            let wanted = value | entry::A | dirty;
            if wanted == value {
                return true;
            }
            // Entries outside of RAM, or in ROM, take no bits.
            let writable = self.ram.page(at).is_some_and(|page| page.rights.write);
            let Some(word) = self.ram.word(at & !7).filter(|_| writable) else { return true };
            let (shift, mask) =
                if trace.short { (8 * (at & 4), 0xffff_ffff << (8 * (at & 4))) } else { (0, u64::MAX) };
            let now = word.load(SeqCst);
            now & mask == value << shift
                && word.compare_exchange(now, now & !mask | wanted << shift, SeqCst, SeqCst).is_ok()
        })
    }
}
