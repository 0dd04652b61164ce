//! Accesses to guest memory: the inline probe, and what happens when it misses.
#![allow(unsafe_code)]

use super::{Access, Class, index};
use crate::{
    atomic,
    bus::Bus,
    fault::{Done, Fault, Stop, vector},
    group::granules,
    mode::Mode,
    planted::{self, Bug},
    ram::{PAGE, Page, peek, poke},
    state::{Cpu, Segment, cr3, cr4, seg},
    statistics::Doing,
    vector::wide::{self, Wide},
    width::{B, Width},
};
use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst},
};

/// Where an access ends up.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Host memory, and the guest-physical address it stands for.
    Ram(*mut u8, u64),
    /// Device memory, or nothing at all.
    Device(u64),
}

/// Bytes of an access from `linear` that lie in its first page.
#[inline(always)]
fn room(linear: u64) -> u64 {
    PAGE - (linear & (PAGE - 1))
}

impl Cpu {
    /// Ends the instruction with an exception.
    #[cold]
    #[inline(never)]
    pub(crate) fn raise(&mut self, fault: Fault) -> Stop {
        self.fault = fault;
        self.why = crate::state::Why::Fault;
        Stop
    }

    /// The host address of `size` bytes, if the TLB vouches for the access.
    #[inline(always)]
    pub(crate) fn probe(&self, linear: u64, size: u64, write: bool) -> Option<*mut u8> {
        // SAFETY: `tlb` points to a table owned by `mmu`, replaced whenever the tables are; the index is masked.
        let entry = unsafe { (*self.tlb).0.get_unchecked(index(linear)) };
        entry.host(linear, size, write)
    }

    /// Reads through the TLB alone.
    #[inline(always)]
    pub(crate) fn read_hit(&self, w: Width, linear: u64) -> Option<u64> {
        let p = self.probe(linear, w.0 as u64, false)?;
        // SAFETY: a hit means w bytes of guest RAM at p.
        Some(unsafe { peek(w, p) })
    }

    /// Writes through the TLB alone.
    #[inline(always)]
    pub(crate) fn write_hit(&mut self, w: Width, linear: u64, v: u64) -> Option<()> {
        let p = self.probe(linear, w.0 as u64, true)?;
        // SAFETY: a hit means w bytes of writable guest RAM at p.
        unsafe { poke(w, p, v) };
        Some(())
    }

    /// Reads, computes, writes through the TLB alone.
    #[inline(always)]
    pub(crate) fn modify_hit(
        &mut self,
        w: Width,
        linear: u64,
        f: impl Fn(&mut Self, u64) -> u64,
    ) -> Option<(u64, u64)> {
        let p = self.probe(linear, w.0 as u64, true)?;
        // SAFETY: a hit means w bytes of writable guest RAM at p.
        let old = unsafe { peek(w, p) };
        let new = f(self, old);
        // SAFETY: as above; f computes, it does not touch the TLB.
        unsafe { poke(w, p, new) };
        Some((old, new))
    }

    /// Reads 16 bytes through the TLB alone.
    #[inline(always)]
    pub(crate) fn read_128_hit(&self, linear: u64) -> Option<Wide> {
        let p = self.probe(linear, 16, false)?;
        // SAFETY: a hit means 16 bytes of guest RAM at p.
        Some(unsafe { wide::load(p) })
    }

    /// Writes 16 bytes through the TLB alone.
    #[inline(always)]
    pub(crate) fn write_128_hit(&mut self, linear: u64, v: Wide) -> Option<()> {
        let p = self.probe(linear, 16, true)?;
        // SAFETY: a hit means 16 bytes of writable guest RAM at p.
        unsafe { wide::store(p, v) };
        Some(())
    }

    /// Reads 32 bytes through the TLB alone.
    #[inline(always)]
    pub(crate) fn read_256_hit(&self, linear: u64) -> Option<[Wide; 2]> {
        let p = self.probe(linear, 32, false)?;
        // SAFETY: a hit means 32 bytes of guest RAM at p.
        Some(unsafe { [wide::load(p), wide::load(p.add(16))] })
    }

    /// Writes 32 bytes through the TLB alone.
    #[inline(always)]
    pub(crate) fn write_256_hit(&mut self, linear: u64, v: [Wide; 2]) -> Option<()> {
        let p = self.probe(linear, 32, true)?;
        // SAFETY: a hit means 32 bytes of writable guest RAM at p.
        unsafe {
            wide::store(p, v[0]);
            wide::store(p.add(16), v[1]);
        }
        Some(())
    }

    /// Reads with the current privilege.
    #[inline(always)]
    pub(crate) fn read(&mut self, w: Width, linear: u64) -> Result<u64, Stop> {
        match self.read_hit(w, linear) {
            Some(v) => Ok(v),
            None => self.read_missed(w, linear),
        }
    }

    /// Writes with the current privilege.
    #[inline(always)]
    pub(crate) fn write(&mut self, w: Width, linear: u64, v: u64) -> Done {
        match self.write_hit(w, linear, v) {
            Some(()) => Ok(()),
            None => self.write_missed(w, linear, v),
        }
    }

    /// Reads 16 bytes.
    #[inline(always)]
    pub(crate) fn read_128(&mut self, linear: u64) -> Result<u128, Stop> {
        match self.read_128_hit(linear) {
            Some(v) => Ok(wide::bits(v)),
            None => {
                let mut bytes = [0; 16];
                self.read_bytes(linear, &mut bytes)?;
                Ok(u128::from_le_bytes(bytes))
            }
        }
    }

    /// Writes 16 bytes.
    #[inline(always)]
    pub(crate) fn write_128(&mut self, linear: u64, v: u128) -> Done {
        match self.write_128_hit(linear, wide::from_bits(v)) {
            Some(()) => Ok(()),
            None => self.write_bytes(linear, &v.to_le_bytes()),
        }
    }

    /// Reads 32 bytes.
    #[inline(always)]
    pub(crate) fn read_256(&mut self, linear: u64) -> Result<[Wide; 2], Stop> {
        match self.read_256_hit(linear) {
            Some(v) => Ok(v),
            None => {
                let mut bytes = [[0; 16]; 2];
                self.read_bytes(linear, bytes.as_flattened_mut())?;
                Ok(bytes.map(|half| wide::from_bits(u128::from_le_bytes(half))))
            }
        }
    }

    /// Writes 32 bytes.
    #[inline(always)]
    pub(crate) fn write_256(&mut self, linear: u64, v: [Wide; 2]) -> Done {
        match self.write_256_hit(linear, v) {
            Some(()) => Ok(()),
            None => {
                let bytes = v.map(|half| wide::bits(half).to_le_bytes());
                self.write_bytes(linear, bytes.as_flattened())
            }
        }
    }

    /// Reads with supervisor rights whatever the CPL: IDT, GDT, LDT, TSS.
    pub(crate) fn read_system(&mut self, w: Width, linear: u64) -> Result<u64, Stop> {
        match self.mmu.probe(Class::Supervisor, linear, w.0.into(), false) {
            // SAFETY: a hit means w bytes of guest RAM at p.
            Some(p) => Ok(unsafe { peek(w, p) }),
            None => self.read_slow(w, linear, Class::Supervisor),
        }
    }

    /// Writes with supervisor rights whatever the CPL.
    pub(crate) fn write_system(&mut self, w: Width, linear: u64, v: u64) -> Done {
        match self.mmu.probe(Class::Supervisor, linear, w.0.into(), true) {
            // SAFETY: a hit means w bytes of writable guest RAM at p.
            Some(p) => unsafe { poke(w, p, v) },
            None => return self.write_slow(w, linear, v, Class::Supervisor),
        }
        Ok(())
    }

    /// Translates, fills the TLB where the page is RAM, and says where the byte is.
    #[cold]
    #[inline(never)]
    pub(crate) fn place(&mut self, linear: u64, access: Access, class: Class) -> Result<Place, Stop> {
        self.statistics.tlb_misses += 1;
        let linear = if self.long_mode() { linear } else { linear as u32 as u64 };
        if let Some(physical) = self.mmu.device_at(class, linear, access) {
            return self.device(physical);
        }
        self.within(Doing::Mmu, |c| c.find_place(linear, access, class))
    }

    fn find_place(&mut self, linear: u64, access: Access, class: Class) -> Result<Place, Stop> {
        if self.long_mode() && !self.canonical(linear) {
            return Err(self.raise(Fault::gp(0)));
        }
        if let Some((host, page)) = self.mmu.look_elsewhere(class, linear, access == Access::Write) {
            return Ok(Place::Ram(host, page | linear & (PAGE - 1)));
        }
        let mapping = self.translate(linear, access, class)?;
        let physical = mapping.physical | linear & (PAGE - 1);
        let allowed =
            |page: &Page<'_>| if access == Access::Write { page.rights.write } else { page.rights.read };
        let Some(page) = self.ram.page(physical).filter(allowed) else {
            if !self.options.no_tlb && mapping.key == 0 {
                self.mmu.note_device(class, linear, access, physical);
            }
            return self.device(physical);
        };
        if access == Access::Write {
            self.mmu.note_written(physical);
        }
        let host = page.host.wrapping_add((linear & (PAGE - 1)) as usize);
        let watched = self.breakpoints.data && self.page_is_watched(linear, mapping.physical);
        // What can only be written gets no tag: a tag for writing serves instructions that read first, too.
        if !self.options.no_tlb && !watched && mapping.key == 0 && page.rights.read {
            let writable = access == Access::Write && page.marks.may_write(self.seat.index());
            let tag = linear & !(PAGE - 1);
            let (physical, addend) = (mapping.physical, (page.host as u64).wrapping_sub(tag));
            let entry = self.mmu.entry(class, linear);
            let keep = (entry.write ^ tag) >> 12 == 0 && entry.physical == physical;
            let write = if writable || keep { tag } else { tag ^ PAGE };
            *entry = super::TlbEntry { read: tag, write, addend, physical };
            self.statistics.tlb_fills += 1;
            if writable {
                self.mmu.note_tag(class, linear);
            }
        }
        Ok(Place::Ram(host, physical))
    }

    fn device(&mut self, physical: u64) -> Result<Place, Stop> {
        if self.apart.is_none_or(|apart| physical & !(PAGE - 1) == apart.local_apic) {
            self.reach_outside()?;
        }
        Ok(Place::Device(physical))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn read_slow(&mut self, w: Width, linear: u64, class: Class) -> Result<u64, Stop> {
        if self.breakpoints.data {
            self.watch(linear, w.0.into(), false, class)?;
        }
        if u64::from(w.0) > room(linear) {
            let mut bytes = [0; 8];
            self.read_bytes_as(linear, &mut bytes[..w.0 as usize], class)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        match self.place(linear, Access::Read, class)? {
            // SAFETY: the page is RAM and the access stays within it.
            Place::Ram(p, _) => Ok(unsafe { peek(w, p) }),
            Place::Device(physical) => Ok(self.device_read(w, physical)),
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn write_slow(&mut self, w: Width, linear: u64, v: u64, class: Class) -> Done {
        if self.breakpoints.data {
            self.watch(linear, w.0.into(), true, class)?;
        }
        if u64::from(w.0) > room(linear) {
            return self.write_bytes_as(linear, &v.to_le_bytes()[..w.0 as usize], class);
        }
        match self.place(linear, Access::Write, class)? {
            Place::Ram(p, physical) => {
                // SAFETY: the page is writable RAM and the access stays within it.
                unsafe { poke(w, p, v) };
                self.stored(physical, w.0.into());
            }
            Place::Device(physical) => self.device_write(w, physical, v),
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read_missed(&mut self, w: Width, linear: u64) -> Result<u64, Stop> {
        self.read_slow(w, self.untag(linear), self.data_class())
    }

    #[cold]
    #[inline(never)]
    fn write_missed(&mut self, w: Width, linear: u64, v: u64) -> Done {
        self.write_slow(w, self.untag(linear), v, self.data_class())
    }

    /// Linear-address masking of a data access: SDM 1 "Linear-Address Masking". No tag in a TLB matches an address with
    /// metadata, so that only accesses that miss come here. Neither fetches nor the processor's own accesses to system
    /// tables do.
    pub(crate) fn untag(&self, linear: u64) -> u64 {
        if !self.mode.is_64() {
            return linear;
        }
        let supervisor = linear >> 63 != 0;
        // Bits that the pointer's kind ignores: up to 62, from 57 or 48.
        let from = match () {
            () if supervisor && self.cr4 & cr4::LAM_SUP == 0 => return linear,
            () if supervisor && self.cr4 & cr4::LA57 != 0 => 57,
            () if supervisor => 48,
            () if self.cr3 & cr3::LAM_U57 != 0 => 57,
            () if self.cr3 & cr3::LAM_U48 != 0 => 48,
            () => return linear,
        };
        let extended = ((linear << (64 - from)) as i64 >> (64 - from)) as u64;
        extended & !(1 << 63) | linear & 1 << 63
    }

    /// Reads bytes that may lie in two pages, with the current privilege.
    pub(crate) fn read_bytes(&mut self, linear: u64, out: &mut [u8]) -> Done {
        self.read_bytes_as(self.untag(linear), out, self.data_class())
    }

    /// Writes bytes that may lie in two pages, with the current privilege: all of them or none.
    pub(crate) fn write_bytes(&mut self, linear: u64, bytes: &[u8]) -> Done {
        self.write_bytes_as(self.untag(linear), bytes, self.data_class())
    }

    /// Writes bytes within a page in one step, as far as the other CPUs see it.
    pub(crate) fn write_whole(&mut self, linear: u64, bytes: &[u8]) -> Done {
        self.check_write(linear, bytes.len() as u64)?;
        self.alone(|c| c.write_bytes(linear, bytes))
    }

    fn read_bytes_as(&mut self, linear: u64, out: &mut [u8], class: Class) -> Done {
        if self.breakpoints.data {
            self.watch(linear, out.len() as u64, false, class)?;
        }
        self.check_end(linear, out.len() as u64)?;
        let first = (out.len() as u64).min(room(linear)) as usize;
        let (a, b) = out.split_at_mut(first);
        for (at, part) in [(linear, a), (linear.wrapping_add(first as u64), b)] {
            if part.is_empty() {
                continue;
            }
            match self.place(at, Access::Read, class)? {
                Place::Ram(p, _) => {
                    for (k, byte) in part.iter_mut().enumerate() {
                        // SAFETY: the part ends with the page at the latest.
                        *byte = unsafe { peek(B, p.add(k)) } as u8;
                    }
                }
                Place::Device(physical) => {
                    for (k, chunk) in part.chunks_mut(8).enumerate() {
                        self.outside(|bus, id| bus.mmio_read(id, physical + 8 * k as u64, chunk));
                    }
                }
            }
        }
        Ok(())
    }

    fn write_bytes_as(&mut self, linear: u64, bytes: &[u8], class: Class) -> Done {
        if self.breakpoints.data {
            self.watch(linear, bytes.len() as u64, true, class)?;
        }
        self.check_end(linear, bytes.len() as u64)?;
        let first = (bytes.len() as u64).min(room(linear)) as usize;
        let (a, b) = bytes.split_at(first);
        let low = self.place(linear, Access::Write, class)?;
        let high = match b.is_empty() {
            true => None,
            false => match self.place(linear.wrapping_add(first as u64), Access::Write, class) {
                Ok(place) => Some(place),
                Err(stop) => {
                    if planted::is(Bug::CrossingFault) {
                        self.fault.address = linear;
                    }
                    return Err(stop);
                }
            },
        };
        self.write_place(low, a);
        if let Some(high) = high {
            self.write_place(high, b);
        }
        Ok(())
    }

    fn write_place(&mut self, place: Place, bytes: &[u8]) {
        match place {
            Place::Ram(p, physical) => {
                for (k, &byte) in bytes.iter().enumerate() {
                    // SAFETY: the caller cut the bytes at the page's end.
                    unsafe { poke(B, p.add(k), byte.into()) };
                }
                self.stored(physical, bytes.len() as u64);
            }
            Place::Device(physical) => {
                for (k, chunk) in bytes.chunks(8).enumerate() {
                    self.outside(|bus, id| bus.mmio_write(id, physical + 8 * k as u64, chunk));
                }
            }
        }
    }

    /// #GP(0) for an access that begins in a canonical half and ends beyond it, before any page of it can fault.
    fn check_end(&mut self, linear: u64, size: u64) -> Done {
        let last = linear.wrapping_add(size.saturating_sub(1));
        if self.long_mode() && self.canonical(linear) && !self.canonical(last) {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok(())
    }

    /// Checks that `size` bytes may be written, so that an instruction that stores twice can fault before it writes.
    pub(crate) fn check_write(&mut self, linear: u64, size: u64) -> Done {
        if self.probe(linear, size.min(PAGE), true).is_some() {
            return Ok(());
        }
        let (linear, class) = (self.untag(linear), self.data_class());
        if self.breakpoints.data {
            self.watch_later(linear, size, class)?;
        }
        self.check_end(linear, size)?;
        self.place(linear, Access::Write, class)?;
        if size > room(linear) {
            // CR2 is the first byte that cannot be written.
            self.place(linear.wrapping_add(room(linear)), Access::Write, class)?;
        }
        Ok(())
    }

    /// Host memory from `linear` to the end of its page, for bulk instructions; None for device memory and pages whose
    /// stores need a look each.
    pub(crate) fn span(&mut self, linear: u64, write: bool) -> Result<Option<*mut u8>, Stop> {
        if let Some(p) = self.probe(linear, 1, write) {
            return Ok(Some(p));
        }
        let linear = self.untag(linear);
        let access = if write { Access::Write } else { Access::Read };
        match self.place(linear, access, self.data_class())? {
            Place::Ram(_, physical) if self.breakpoints.data && self.page_is_watched(linear, physical) => {
                Ok(None)
            }
            Place::Ram(p, _) if !write => Ok(Some(p)),
            Place::Ram(..) => Ok(self.probe(linear, 1, true)),
            Place::Device(_) => Ok(None),
        }
    }

    /// Whether reads reach a page of RAM; one that only takes writes is read from the bus.
    fn reads(&self, physical: u64) -> bool {
        self.ram.page(physical).is_some_and(|page| page.rights.read)
    }

    fn device_read(&mut self, w: Width, physical: u64) -> u64 {
        let mut bytes = [0; 8];
        self.outside(|bus, id| bus.mmio_read(id, physical, &mut bytes[..w.0 as usize]));
        u64::from_le_bytes(bytes)
    }

    fn device_write(&mut self, w: Width, physical: u64, v: u64) {
        self.outside(|bus, id| bus.mmio_write(id, physical, &v.to_le_bytes()[..w.0 as usize]));
    }

    /// Goes to a device, which may take its time: other CPUs do not wait for this one meanwhile. No pointer into guest
    /// memory that came from a TLB may be used after it.
    pub(crate) fn outside<R>(&mut self, work: impl FnOnce(&dyn Bus, usize) -> R) -> R {
        self.statistics.device_accesses += 1;
        self.leave_guest();
        let result = self.within(Doing::Device, |c| work(&*c.bus, c.id));
        self.enter_guest();
        result
    }

    /// From here on the CPU touches guest memory, and others wait for its safepoints.
    #[inline]
    pub(crate) fn enter_guest(&mut self) {
        self.ram.group().unpark(&self.seat);
        self.seat.serve(|pages| self.mmu.protect(pages));
    }

    /// The CPU does not touch guest memory until it comes back by [`Cpu::enter_guest`].
    #[inline]
    pub(crate) fn leave_guest(&self) {
        self.seat.park();
    }

    /// One step with all other CPUs stopped.
    #[cold]
    fn alone<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        let (ram, seat) = (Arc::clone(&self.ram), Arc::clone(&self.seat));
        let _stopped = self.within(Doing::Others, |c| ram.group().stop(&seat, |pages| c.mmu.protect(pages)));
        self.statistics.stops += 1;
        work(self)
    }

    /// After a store that did not go through a write tag: was it into code?
    pub(crate) fn stored(&mut self, physical: u64, len: u64) {
        let Some(page) = self.ram.page(physical) else { return };
        let (at, granules) = (physical & !(PAGE - 1), granules(physical, len));
        if self.ram.group().written(page.marks, at, granules, Some(&self.seat)) {
            self.within(Doing::Code, |c| c.drop_blocks(at, granules));
        }
    }

    /// Reads, computes, writes one operand: its page is checked for writing before anything is read. `locked` makes it
    /// one atomic step.
    #[inline(always)]
    pub(crate) fn modify(
        &mut self,
        w: Width,
        linear: u64,
        locked: bool,
        f: impl Fn(&mut Self, u64) -> u64,
    ) -> Result<(u64, u64), Stop> {
        if !locked {
            if let Some(done) = self.modify_hit(w, linear, &f) {
                return Ok(done);
            }
        } else if let Some(p) = self.probe(linear, w.0 as u64, true)
            && let Some(done) = self.modify_locked(w, p, &f)
        {
            return Ok(done);
        }
        self.modify_slow(w, linear, locked, f)
    }

    #[cold]
    #[inline(never)]
    fn modify_slow(
        &mut self,
        w: Width,
        linear: u64,
        locked: bool,
        f: impl Fn(&mut Self, u64) -> u64,
    ) -> Result<(u64, u64), Stop> {
        let (linear, class) = (self.untag(linear), self.data_class());
        if self.breakpoints.data {
            self.watch(linear, w.0.into(), true, class)?;
        }
        if u64::from(w.0) <= room(linear) {
            match self.place(linear, Access::Write, class)? {
                Place::Ram(p, physical) if locked && self.reads(physical) => {
                    if let Some(done) = self.modify_locked(w, p, &f) {
                        self.stored(physical, w.0.into());
                        return Ok(done);
                    }
                }
                Place::Device(_) if locked => {}
                Place::Ram(p, physical) if !locked && self.reads(physical) => {
                    // SAFETY: the page is writable RAM and the operand stays within it.
                    let old = unsafe { peek(w, p) };
                    let new = f(self, old);
                    // SAFETY: as above.
                    unsafe { poke(w, p, new) };
                    self.stored(physical, w.0.into());
                    return Ok((old, new));
                }
                Place::Device(physical) => {
                    let old = self.device_read(w, physical);
                    let new = f(self, old);
                    self.device_write(w, physical, new);
                    return Ok((old, new));
                }
                // Read from the bus, written to RAM.
                Place::Ram(..) => {}
            }
        }
        self.check_write(linear, w.0.into())?;
        let steps = |c: &mut Self| {
            let old = c.read_slow(w, linear, class)?;
            let new = f(c, old);
            c.write_slow(w, linear, new, class)?;
            Ok((old, new))
        };
        if locked { self.alone(steps) } else { steps(self) }
    }

    /// Compare-and-exchange until nobody came between. None where the host cannot do that to an operand that is not
    /// aligned.
    #[inline(never)]
    fn modify_locked(
        &mut self,
        w: Width,
        p: *mut u8,
        f: impl Fn(&mut Self, u64) -> u64,
    ) -> Option<(u64, u64)> {
        macro_rules! exchange {
            ($atomic:ty) => {{
                // SAFETY: p points to w bytes of guest RAM and is aligned to them, checked below.
                let word = unsafe { <$atomic>::from_ptr(p.cast()) };
                let mut old = word.load(SeqCst);
                loop {
                    let new = f(self, old.into());
                    match word.compare_exchange(old, new as _, SeqCst, SeqCst) {
                        Ok(_) => return Some((old.into(), new)),
                        Err(now) => old = now,
                    }
                }
            }};
        }
        if p.addr() & (w.0 as usize - 1) == 0 {
            match w.0 {
                1 => exchange!(AtomicU8),
                2 => exchange!(AtomicU16),
                4 => exchange!(AtomicU32),
                _ => exchange!(AtomicU64),
            }
        }
        // SAFETY: the caller's probe vouches for w bytes at p.
        let mut old = unsafe { peek(w, p) };
        loop {
            let new = f(self, old);
            // SAFETY: as above.
            match unsafe { atomic::exchange_unaligned(w, p, old, new) }? {
                found if found == old => return Some((old, new)),
                found => old = found,
            }
        }
    }

    /// LOCK CMPXCHG16B: compares 16 aligned bytes with `expected` and replaces them by `new` if they are the same; gives
    /// what was found.
    pub(crate) fn exchange_128(&mut self, linear: u64, expected: u128, new: u128) -> Result<u128, Stop> {
        if let Some(p) = self.probe(linear, 16, true)
            // SAFETY: a hit means 16 bytes of writable guest RAM at p, and the caller has checked the alignment.
            && let Some(found) = unsafe { atomic::exchange_128(p, expected, new) }
        {
            return Ok(found);
        }
        let linear = self.untag(linear);
        if self.breakpoints.data {
            self.watch(linear, 16, true, self.data_class())?;
        }
        if let Place::Ram(p, physical) = self.place(linear, Access::Write, self.data_class())?
            && self.reads(physical)
            // SAFETY: the page is writable RAM, the operand aligned and so within it.
            && let Some(found) = unsafe { atomic::exchange_128(p, expected, new) }
        {
            self.stored(physical, 16);
            return Ok(found);
        }
        self.alone(|c| {
            let found = c.read_128(linear)?;
            // The manual has the destination written in any case.
            c.write_128(linear, if found == expected { new } else { found })?;
            Ok(found)
        })
    }

    /// Checks an access through a segment outside of 64-bit mode, and gives the linear address.
    #[cold]
    #[inline(never)]
    pub(crate) fn segment_check(
        &mut self,
        s: usize,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Stop> {
        let segment = self.segments[s];
        let bad = if s == seg::SS { Fault::ss(0) } else { Fault::gp(0) };
        let offset = offset as u32;
        let last = u64::from(offset) + size - 1;
        if self.mode.contains(Mode::PROTECTED) {
            let kind = segment.kind();
            let code = kind & 8 != 0;
            let allowed = match write {
                true => !code && kind & 2 != 0,
                false => !code || kind & 2 != 0,
            };
            if segment.attributes & Segment::UNUSABLE != 0 || !allowed {
                return Err(self.raise(bad));
            }
        }
        let expand_down = segment.kind() & 0xc == 4;
        let limit = u64::from(segment.limit);
        let fits = if expand_down {
            let top = if segment.attributes & Segment::BIG != 0 { 0xffff_ffff } else { 0xffff };
            u64::from(offset) > limit && last <= top
        } else {
            last <= limit
        };
        if !fits {
            return Err(self.raise(bad));
        }
        Ok(segment.base.wrapping_add(offset.into()) as u32 as u64)
    }

    /// #AC(0) for an operand that is not aligned, where alignment checks are on: SDM 3A "Interrupt 17—Alignment Check
    /// Exception (#AC)". Non-canonical addresses fault for that.
    #[inline]
    pub(crate) fn check_alignment(&mut self, linear: u64, size: u64) -> Done {
        if !self.mode.contains(Mode::ALIGN) {
            return Ok(());
        }
        let to = match size {
            2 | 4 | 8 | 16 => size,
            // Halves of YMM registers.
            32 => 16,
            // A pseudo-descriptor of 2 + 4 bytes.
            6 => 4,
            // Extended reals.
            10 => 8,
            _ => 1,
        };
        // An operand that is not canonical from end to end raises #GP or #SS for that.
        let canonical = |at| !self.mode.is_64() || self.canonical(self.untag(at));
        if linear & (to - 1) != 0 && canonical(linear) && canonical(linear.wrapping_add(size - 1)) {
            return Err(self.raise(Fault::with_code(vector::AC, 0)));
        }
        Ok(())
    }

    /// A non-canonical address faults with #GP where the data segment is not SS, with #SS where it is.
    #[cold]
    #[inline(never)]
    pub(crate) fn stack_fault(&mut self, stop: Stop) -> Stop {
        if self.fault == Fault::gp(0) {
            self.fault.vector = vector::SS;
        }
        stop
    }
}
