//! Guest RAM as the CPUs use it: slots of host memory, what they know of each other's decoded code in it (see `group`).
//!
//! Guest memory is shared with other vCPUs and devices while we read it, so a plain Rust access would be a data race.
//! Every access here is one machine instruction of the host (an atomic, or assembly where Rust has no unaligned atomics).
#![allow(unsafe_code)]

use crate::{
    attention::Attention,
    group::{Group, Marks, granules},
    jit::Service,
    width::Width,
};
use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Locks that pages share while their marks change.
const SHARDS: usize = 64;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// A run of guest-physical addresses backed by host memory.
#[derive(Debug)]
struct Slot {
    base: u64,
    size: u64,
    host: *mut u8,
    /// By page.
    marks: Box<[Marks]>,
    /// [`Rights`] by page, as bits that are taken away.
    denied: Box<[AtomicU8]>,
}

/// Which accesses reach a page of RAM. The others are the bus's, as if the RAM were not there: one that can only be read is
/// ROM, one without any is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Reads, fetches and page walks.
    pub read: bool,
    /// Writes.
    pub write: bool,
}

impl Rights {
    /// Plain RAM.
    pub const ALL: Rights = Rights { read: true, write: true };

    const NO_READ: u8 = 1;
    const NO_WRITE: u8 = 2;

    fn without(denied: u8) -> Self {
        Rights { read: denied & Self::NO_READ == 0, write: denied & Self::NO_WRITE == 0 }
    }

    fn denied(self) -> u8 {
        let no_read = if self.read { 0 } else { Self::NO_READ };
        no_read | if self.write { 0 } else { Self::NO_WRITE }
    }
}

/// Guest RAM and ROM.
#[derive(Debug)]
pub struct Ram {
    slots: Vec<Slot>,
    group: Group<Arc<Attention>>,
    translator: OnceLock<Option<Arc<Service>>>,
    /// Keeps the mappings alive.
    memory: GuestMemoryMmap,
}

// SAFETY: the raw pointers in `slots` point into `memory`, which lives as long as this value; all accesses through them
// are atomic or assembly, so sharing them between threads is no data race.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

/// One guest-physical page that has host memory behind it.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// Where the page starts in the host.
    pub host: *mut u8,
    /// What accesses reach it; the others go to the bus.
    pub rights: Rights,
    pub(crate) marks: &'a Marks,
}

impl Ram {
    /// Takes the regions of `memory`, all of them writable RAM. Their bases and sizes are multiples of a page.
    pub fn new(memory: GuestMemoryMmap) -> Self {
        let slots = memory
            .iter()
            .map(|region| {
                let (base, size) = (region.start_addr().0, region.len());
                assert!(base % PAGE == 0 && size % PAGE == 0, "RAM regions are made of whole pages");
                Slot {
                    base,
                    size,
                    host: region.as_ptr(),
                    marks: no_marks((size / PAGE) as usize),
                    denied: none_denied((size / PAGE) as usize),
                }
            })
            .collect();
        Ram { slots, group: Group::new(SHARDS), translator: OnceLock::new(), memory }
    }

    /// The regions, for devices and loaders.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The host page behind a guest-physical address, if it is RAM or ROM.
    #[inline]
    pub fn page(&self, physical: u64) -> Option<Page<'_>> {
        self.slots.iter().find_map(|slot| {
            let offset = physical.wrapping_sub(slot.base);
            (offset < slot.size).then(|| Page {
                // SAFETY: offset < size, so the pointer stays within the slot's mapping.
                host: unsafe { slot.host.add((offset & !(PAGE - 1)) as usize) },
                rights: Rights::without(slot.denied[(offset / PAGE) as usize].load(Acquire)),
                marks: &slot.marks[(offset / PAGE) as usize],
            })
        })
    }

    /// Where an aligned 64-bit word lies, for page tables. None where there is no RAM or the address is not aligned.
    #[inline]
    pub fn word(&self, physical: u64) -> Option<&AtomicU64> {
        let page = self.page(physical)?;
        if physical & 7 != 0 || !page.rights.read {
            return None;
        }
        // SAFETY: the page is mapped for the life of self, and the address is aligned to 8 bytes.
        Some(unsafe { AtomicU64::from_ptr(page.host.add((physical & (PAGE - 1)) as usize).cast()) })
    }

    /// Reads physical bytes; false where some are not RAM that can be read.
    pub fn read(&self, physical: u64, out: &mut [u8]) -> bool {
        let end = physical.saturating_add(out.len() as u64);
        let mut pages = (physical & !(PAGE - 1)..end).step_by(PAGE as usize);
        pages.all(|at| self.page(at).is_some_and(|page| page.rights.read))
            && self.memory.read_slice(out, GuestAddress(physical)).is_ok()
    }

    /// The CPUs that share this RAM.
    pub(crate) fn group(&self) -> &Group<Arc<Attention>> {
        &self.group
    }

    /// The translator of the CPUs that share this RAM, started for the first that asks; None where the host has none.
    pub(crate) fn translator(&self) -> Option<&Arc<Service>> {
        self.translator.get_or_init(|| Service::start().map(Arc::new)).as_ref()
    }

    /// A device, or whoever else is not a CPU, has written these bytes: CPUs that have decoded code there drop it before
    /// they take the next interrupt. Call it after the write and before the guest is told. Addresses that are not RAM
    /// are passed over.
    pub fn written(&self, physical: u64, len: u64) {
        let end = physical.saturating_add(len);
        let mut at = physical;
        while at < end {
            let next = (at & !(PAGE - 1)).saturating_add(PAGE).min(end);
            if let Some(page) = self.page(at) {
                self.group.written(page.marks, at & !(PAGE - 1), granules(at, next - at), None);
            }
            at = next;
        }
    }

    /// Changes which accesses reach the pages of `range`, made of whole ones, while CPUs run. When it returns, no CPU has a
    /// translation left from before, of addresses or code. Devices reach RAM all the same.
    ///
    /// A CPU's own thread calls it from within an access to a device.
    pub fn set_rights(&self, range: Range<u64>, rights: Rights) {
        let mut changed = false;
        for at in (range.start & !(PAGE - 1)..range.end).step_by(PAGE as usize) {
            let slot = self.slots.iter().find(|slot| at.wrapping_sub(slot.base) < slot.size);
            let Some(slot) = slot else { continue };
            let page = &slot.denied[((at - slot.base) / PAGE) as usize];
            changed |= page.swap(rights.denied(), AcqRel) != rights.denied();
        }
        if changed {
            self.group.forget();
            self.written(range.start, range.end.saturating_sub(range.start));
        }
    }

    /// Which accesses reach the page of an address; None where there is no RAM.
    pub fn rights(&self, physical: u64) -> Option<Rights> {
        self.page(physical).map(|page| page.rights)
    }

    /// Bytes of RAM in all.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.size).sum()
    }
}

/// Rights of so many pages, nothing denied.
fn none_denied(pages: usize) -> Box<[AtomicU8]> {
    let denied = Box::<[AtomicU8]>::new_zeroed_slice(pages);
    // SAFETY: zero is a value of an atomic integer.
    unsafe { denied.assume_init() }
}

/// Marks of so many pages, none set. The host gives memory for those that are used.
fn no_marks(pages: usize) -> Box<[Marks]> {
    let marks = Box::<[Marks]>::new_zeroed_slice(pages);
    // SAFETY: Marks is made of atomic integers, for which zero is a value.
    unsafe { marks.assume_init() }
}

/// Reads `w` bytes at `p`, zero-extended.
///
/// # Safety
/// `p` points to `w` readable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn peek(w: Width, p: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { host::peek(w, p) }
}

/// Writes the low `w` bytes of `v` at `p`.
///
/// # Safety
/// `p` points to `w` writable bytes of guest RAM.
#[inline(always)]
pub(crate) unsafe fn poke(w: Width, p: *mut u8, v: u64) {
    // SAFETY: the caller's promise.
    unsafe { host::poke(w, p, v) }
}

/// x86-64: one MOV is atomic where aligned, allowed where not, and ordered as the guest expects.
#[cfg(target_arch = "x86_64")]
mod host {
    use crate::width::Width;
    use core::arch::asm;

    #[inline(always)]
    pub(super) unsafe fn peek(w: Width, p: *const u8) -> u64 {
        let v: u64;
        // SAFETY: reads w bytes at p, which the caller vouches for; writes one register.
        unsafe {
            match w.0 {
                1 => {
                    asm!("movzx {v:e}, byte ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
                }
                2 => {
                    asm!("movzx {v:e}, word ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
                }
                4 => {
                    asm!("mov {v:e}, [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
                }
                _ => {
                    asm!("mov {v}, [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
                }
            }
        }
        v
    }

    #[inline(always)]
    pub(super) unsafe fn poke(w: Width, p: *mut u8, v: u64) {
        // SAFETY: writes w bytes at p, which the caller vouches for.
        unsafe {
            match w.0 {
                1 => {
                    asm!("mov [{p}], {v}", v = in(reg_byte) v as u8, p = in(reg) p, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("mov [{p}], {v:x}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("mov [{p}], {v:e}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags))
                }
                _ => asm!("mov [{p}], {v}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags)),
            }
        }
    }
}

/// Other hosts: acquire loads and release stores give x86's order; unaligned accesses go by bytes.
#[cfg(not(target_arch = "x86_64"))]
mod host {
    use crate::width::Width;
    use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

    #[inline(always)]
    pub(super) unsafe fn peek(w: Width, p: *const u8) -> u64 {
        let p = p.cast_mut();
        // SAFETY: the caller vouches for w bytes at p; alignment is checked here.
        unsafe {
            match w.0 {
                1 => AtomicU8::from_ptr(p).load(Ordering::Acquire).into(),
                2 if p.addr() & 1 == 0 => AtomicU16::from_ptr(p.cast()).load(Ordering::Acquire).into(),
                4 if p.addr() & 3 == 0 => AtomicU32::from_ptr(p.cast()).load(Ordering::Acquire).into(),
                8 if p.addr() & 7 == 0 => AtomicU64::from_ptr(p.cast()).load(Ordering::Acquire),
                n => (0..n as usize)
                    .map(|k| u64::from(AtomicU8::from_ptr(p.add(k)).load(Ordering::Acquire)) << (8 * k))
                    .sum(),
            }
        }
    }

    #[inline(always)]
    pub(super) unsafe fn poke(w: Width, p: *mut u8, v: u64) {
        // SAFETY: the caller vouches for w bytes at p; alignment is checked here.
        unsafe {
            match w.0 {
                1 => AtomicU8::from_ptr(p).store(v as u8, Ordering::Release),
                2 if p.addr() & 1 == 0 => AtomicU16::from_ptr(p.cast()).store(v as u16, Ordering::Release),
                4 if p.addr() & 3 == 0 => AtomicU32::from_ptr(p.cast()).store(v as u32, Ordering::Release),
                8 if p.addr() & 7 == 0 => AtomicU64::from_ptr(p.cast()).store(v, Ordering::Release),
                n => (0..n as usize).for_each(|k| {
                    AtomicU8::from_ptr(p.add(k)).store((v >> (8 * k)) as u8, Ordering::Release)
                }),
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Resident pages of this process.
    fn resident() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn memory_that_is_not_used_costs_nothing() {
        let before = resident();
        let regions = [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 60 << 30)];
        let ram = Ram::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        assert!(ram.page(63 << 30).is_some_and(|page| page.marks.may_write(0)));
        assert!(ram.page(3 << 30).is_none());
        assert!(
            resident().saturating_sub(before) < (16 << 20) / PAGE,
            "marks of unused pages use host memory"
        );
    }
}
