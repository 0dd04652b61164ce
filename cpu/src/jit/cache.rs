//! Memory for translated code, mapped twice, so that no address can be both written and run.
//!
//! Code is placed one piece behind the other; nothing is freed alone. What is rarely run is placed from the other end, so that
//! the host's caches hold what is run. When the memory is full, all translations go and it begins anew.
#![allow(unsafe_code)]

use super::{
    host::{self, Fix, Unit},
    service::{Compiled, Parts},
};
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    io,
    mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, mremap, munmap},
};
use std::{
    ffi::c_void,
    ptr::null_mut,
    sync::atomic::{AtomicU64, Ordering::Release},
};

/// Bytes of address space; memory is used as code comes.
const SIZE: usize = host::MEMORY;

/// Where a region's code has been placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// Where it is entered.
    pub(super) code: *const u8,
    /// First address and bytes of what is run often, and of what is not.
    pub(super) places: [(usize, usize); 2],
}

/// The memory of one CPU.
#[derive(Debug)]
pub(super) struct Cache {
    /// Where it is written.
    write: *mut u8,
    /// Where it runs.
    run: usize,
    used: usize,
    /// Where what is rarely run begins.
    cold: usize,
    /// What the fixed part at the beginning takes.
    fixed: usize,
    slow: usize,
    fill: usize,
    lookup: usize,
    /// Where stubs call that go by `lookup`.
    by_cache: usize,
    unlinked: usize,
    leave: usize,
    /// Memory in which translations are put together, what is run often and what is not.
    parts: [Vec<u8>; 2],
}

// SAFETY: the pointers are to a mapping that this value owns.
unsafe impl Send for Cache {}

impl Cache {
    /// Maps the memory. `parts` is what every cache has.
    pub(super) fn new(parts: &Parts) -> io::Result<Self> {
        let (write, run) = anonymous().or_else(|_| file())?;
        let (write, run) = (write.cast::<u8>(), run as usize);
        let mut cache = Cache {
            write,
            run,
            used: 0,
            cold: SIZE,
            fixed: 0,
            slow: 0,
            fill: 0,
            lookup: 0,
            by_cache: 0,
            unlinked: 0,
            leave: 0,
            parts: [Vec::new(), Vec::new()],
        };
        let full = io::Errno::NOMEM;
        cache.leave = cache.put(&host::veneer(host::leave as *const () as usize)).ok_or(full)?;
        cache.unlinked = cache.put(&host::veneer(host::unlinked as *const () as usize)).ok_or(full)?;
        cache.fill = cache.put(&parts.slow).ok_or(full)?;
        cache.slow = cache.put(&host::veneer(host::probe as *const () as usize)).ok_or(full)?;
        cache.lookup = cache.place(&parts.lookup, &[]).ok_or(full)?.code as usize;
        let at = cache.run + cache.used.next_multiple_of(16);
        cache.by_cache = cache.put(&host::by_cache(at, cache.lookup)).ok_or(full)?;
        cache.fixed = cache.used;
        host::synchronise(cache.run, cache.used);
        Ok(cache)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used + (SIZE - self.cold)
    }

    /// Address and bytes of what every cache has.
    pub(super) fn fixed_part(&self) -> (usize, usize) {
        (self.run, self.fixed)
    }

    /// Where the slow path goes on that has not found the access in the TLB.
    pub(super) fn fill(&self) -> usize {
        self.fill
    }

    /// Gives all memory back. Nothing may lead into it any more.
    pub(super) fn clear(&mut self) {
        (self.used, self.cold) = (self.fixed, SIZE);
    }

    fn put(&mut self, bytes: &[u8]) -> Option<usize> {
        let at = self.used.next_multiple_of(16);
        if at + bytes.len() > self.cold {
            return None;
        }
        // SAFETY: the bytes fit into the mapping behind what is in use.
        unsafe { self.write.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.used = at + bytes.len();
        Some(self.run + at)
    }

    /// Places a translation: its cells and its code, and from the other end its stubs and what is rarely run of it. None where
    /// there is no room.
    pub(super) fn place(&mut self, new: &Compiled, cells: &[u64]) -> Option<Placed> {
        let base = self.run + self.used.next_multiple_of(16);
        let code = (base + 8 * cells.len()).next_multiple_of(16);
        let (often, rarely) = new.code.split_at(new.cold_from);
        let stubs_size = host::STUB * new.exits.len();
        let far_at = self.cold.checked_sub(stubs_size + rarely.len())? & !15;
        let (stubs, cold_code) = (self.run + far_at, self.run + far_at + stubs_size);
        let [mut bytes, mut far] = std::mem::take(&mut self.parts);
        bytes.clear();
        far.clear();
        cells.iter().for_each(|cell| bytes.extend_from_slice(&cell.to_le_bytes()));
        bytes.resize(code - base, 0);
        bytes.extend_from_slice(often);
        for (k, &exit) in new.exits.iter().enumerate() {
            far.extend_from_slice(&host::stub(stubs + host::STUB * k, exit, self.unlinked));
        }
        far.extend_from_slice(rarely);
        // Where something is that has been translated, and what it is part of.
        let split = |offset: usize| match offset.checked_sub(new.cold_from) {
            None => (code, offset),
            Some(offset) => (cold_code, offset),
        };
        let apart = cold_code.wrapping_sub(code + new.cold_from);
        for &place in &new.across {
            let (part, offset) = split(place);
            let (bytes, by) = match part == code {
                true => (&mut bytes[code - base..], apart),
                false => (&mut far[stubs_size..], apart.wrapping_neg()),
            };
            let field = bytes.get_mut(offset..offset + 4)?;
            let distance = i32::from_le_bytes(field.try_into().ok()?).wrapping_add(by as i32);
            field.copy_from_slice(&distance.to_le_bytes());
        }
        for hole in &new.holes {
            let (part, offset) = split(hole.offset);
            let (target, kind) = match hole.name {
                Name::Slow => (self.slow, Fix::Call),
                Name::Leave => (self.leave, Fix::Jump),
                Name::Lookup => (self.lookup, Fix::Jump),
                Name::Exit(k) => {
                    let stub = host::STUB * k as usize;
                    let site = (part + offset - self.run) as u32;
                    host::set_site(far.get_mut(stub..stub + host::STUB)?, site);
                    (stubs + stub, Fix::Jump)
                }
                Name::Cell(k) => (base + 8 * k as usize, hole.fix),
                // Its code has no hole.
                Name::Unit(_) => return None,
            };
            let bytes = if part == code { &mut bytes[code - base..] } else { &mut far[stubs_size..] };
            if !host::fill(bytes, offset, part, kind, target, hole.addend) {
                return None;
            }
        }
        if base - self.run + bytes.len() > far_at {
            return None;
        }
        // SAFETY: these bytes are between what is in use at either end.
        unsafe { self.write.add(far_at).copy_from_nonoverlapping(far.as_ptr(), far.len()) };
        self.cold = far_at;
        let at = self.put(&bytes)?;
        debug_assert_eq!(at, base);
        host::synchronise(base, bytes.len());
        host::synchronise(stubs, far.len());
        let places = [(base, bytes.len()), (stubs, far.len())];
        self.parts = [bytes, far];
        Some(Placed { code: (code + new.entry) as *const u8, places })
    }

    /// What exit a stub belongs to: its target relative to the page.
    pub(super) fn target(&self, stub: usize) -> i32 {
        self.word(stub, host::STUB_TARGET) as i32
    }

    /// The number of that guest-physical page.
    pub(super) fn page(&self, stub: usize) -> u32 {
        self.word(stub, host::STUB_PAGE)
    }

    fn word(&self, stub: usize, at: usize) -> u32 {
        let offset = stub.wrapping_sub(self.run).min(SIZE - host::STUB);
        // SAFETY: within the mapping.
        unsafe { self.write.add(offset + at).cast::<u32>().read_unaligned() }
    }

    /// Has a stub, and where the host can do that the jump to it, lead to the code of a region.
    pub(super) fn link(&mut self, stub: usize, code: *const u8) {
        self.set(stub, host::jump_word(stub, code as usize));
        self.lead(stub, code as usize);
    }

    /// The jump to a stub leads there from now on.
    fn lead(&mut self, stub: usize, to: usize) {
        let Some(site) = host::STUB_SITE.map(|at| self.word(stub, at) as usize) else { return };
        if site == 0 || site > SIZE - 4 {
            return;
        }
        let distance = host::distance_at(self.run + site, to);
        // SAFETY: within the mapping; the CPU that would run it does not.
        unsafe { self.write.add(site).cast::<[u8; 4]>().write_unaligned(distance) };
    }

    /// Has a stub that is not linked look its target up in the jump cache, for good.
    pub(super) fn go_by_cache(&mut self, stub: usize) {
        let offset = stub.wrapping_sub(self.run);
        if offset > SIZE - host::STUB {
            return;
        }
        let (place, bytes) = host::call_by_cache(stub, self.by_cache);
        // SAFETY: within the mapping; the CPU that would run it does not.
        unsafe { self.write.add(offset + place).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        host::synchronise(stub, host::STUB);
    }

    /// Has it return to the dispatcher again.
    pub(super) fn unlink(&mut self, stub: usize) {
        self.set(stub, host::jump_word(stub, stub + 8));
        self.lead(stub, stub);
    }

    fn set(&mut self, stub: usize, word: u64) {
        let offset = stub.wrapping_sub(self.run);
        if !offset.is_multiple_of(8) || offset > SIZE - host::STUB {
            return;
        }
        // SAFETY: within the mapping and aligned; whoever runs the stub sees the old word or the new one.
        unsafe { AtomicU64::from_ptr(self.write.add(offset).cast()) }.store(word, Release);
        host::synchronise(stub, 8);
    }
}

/// Memory without a name, which profilers of the host know to hold generated code. A length of 0 has it mapped again.
fn anonymous() -> io::Result<(*mut c_void, *mut c_void)> {
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the system chooses.
    let write = unsafe { mmap_anonymous(null_mut(), SIZE, writable, MapFlags::SHARED) }?;
    // SAFETY: another new mapping, of the same memory; the old one stays.
    let run = both(write, unsafe { mremap(write, 0, SIZE, MremapFlags::MAYMOVE) })?;
    // SAFETY: nothing refers to the second mapping yet.
    let protected = unsafe { mprotect(run, SIZE, MprotectFlags::READ | MprotectFlags::EXEC) };
    if protected.is_err() {
        // SAFETY: as above.
        unsafe { munmap(run, SIZE) }?;
    }
    Ok((write, both(write, protected.map(|()| run))?))
}

/// A file in memory, where the system does not map memory again.
fn file() -> io::Result<(*mut c_void, *mut c_void)> {
    let file = memfd_create("softmetal-code", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, SIZE as u64)?;
    let map = |protection| {
        // SAFETY: a new mapping, at an address that the system chooses, of a file that nobody else has.
        unsafe { mmap(null_mut(), SIZE, protection, MapFlags::SHARED, &file, 0) }
    };
    let write = map(ProtFlags::READ | ProtFlags::WRITE)?;
    Ok((write, both(write, map(ProtFlags::READ | ProtFlags::EXEC))?))
}

/// The second mapping, or neither.
fn both(write: *mut c_void, run: io::Result<*mut c_void>) -> io::Result<*mut c_void> {
    if run.is_err() {
        // SAFETY: the first mapping, which nothing refers to.
        unsafe { munmap(write, SIZE) }?;
    }
    run
}

impl Drop for Cache {
    fn drop(&mut self) {
        // SAFETY: both mappings are this value's, and no translated code runs when its CPU is dropped.
        let _ = unsafe { munmap(self.write.cast(), SIZE) };
        // SAFETY: as above.
        let _ = unsafe { munmap(self.run as *mut _, SIZE) };
    }
}

/// What a hole in code is to lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The slow path of accesses.
    Slow,
    /// Back to the dispatcher.
    Leave,
    /// To a linear address by way of the jump cache.
    Lookup,
    /// The stub of an exit.
    Exit(u32),
    /// A cell in front of the code.
    Cell(u32),
    /// Nowhere: an instruction stands in the place of the call.
    Unit(Unit),
}

impl Name {
    /// As Cranelift's names have it: a name space and a number.
    pub(super) fn number(self) -> (u32, u32) {
        match self {
            Name::Slow => (0, 0),
            Name::Leave => (0, 1),
            Name::Lookup => (0, 2),
            Name::Exit(k) => (1, k),
            Name::Cell(k) => (2, k),
            Name::Unit(what) => (3, what.number()),
        }
    }
    /// The inverse.
    pub(super) fn from_number(space: u32, k: u32) -> Option<Name> {
        Some(match (space, k) {
            (0, 0) => Name::Slow,
            (0, 1) => Name::Leave,
            (0, 2) => Name::Lookup,
            (1, k) => Name::Exit(k),
            (2, k) => Name::Cell(k),
            (3, k) => Name::Unit(Unit::from_number(k)),
            _ => return None,
        })
    }
}

/// A place in code that is filled in when it is placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) offset: usize,
    pub(super) fix: Fix,
    pub(super) name: Name,
    pub(super) addend: i64,
}

#[cfg(all(test, feature = "jit"))]
mod tests {
    use super::*;
    use crate::jit::compiler::Compiler;

    /// A jump to its one exit, where the host has the distance in its first four bytes.
    fn leaving() -> Compiled {
        let fix = Fix::Jump;
        let jump = if cfg!(target_arch = "aarch64") { 0x1400_0000u32 } else { 0 };
        Compiled {
            code: jump.to_le_bytes().to_vec(),
            cold_from: 4,
            across: Vec::new(),
            entry: 0,
            holes: vec![Hole { offset: 0, fix, name: Name::Exit(0), addend: 0 }],
            exits: vec![(1, 2)],
            cells: Vec::new(),
        }
    }

    /// Exits stand at the other end of the memory: further away than a host's jump reaches, everything would be full at once.
    #[test]
    fn the_first_and_the_last_translation_reach_their_exits() {
        let parts = Compiler::new(true).unwrap().parts().unwrap();
        let mut cache = Cache::new(&parts).unwrap();
        assert!(cache.place(&leaving(), &[]).is_some());
        let near = Compiled {
            code: vec![0; 1 << 20],
            cold_from: 1 << 20,
            holes: vec![],
            exits: vec![],
            ..leaving()
        };
        let mut bytes = 0;
        while cache.place(&near, &[]).is_some() {
            bytes += near.code.len();
        }
        assert!(bytes > SIZE - (2 << 20), "{bytes}");
        assert!(cache.place(&leaving(), &[]).is_some());
        cache.clear();
        assert!(cache.place(&leaving(), &[]).is_some());
    }

    /// A function that returns a number.
    fn returning(k: u8) -> Compiled {
        let code: Vec<u8> = match cfg!(target_arch = "aarch64") {
            // mov w0, #k; ret
            true => {
                [0x5280_0000 | u32::from(k) << 5, 0xd65f_03c0].iter().flat_map(|w| w.to_le_bytes()).collect()
            }
            // mov eax, k; ret
            false => vec![0xb8, k, 0, 0, 0, 0xc3],
        };
        let cold_from = code.len();
        Compiled { code, cold_from, holes: Vec::new(), exits: Vec::new(), ..leaving() }
    }

    /// Wherever in a line of the host's caches it stands.
    #[test]
    fn code_in_the_place_of_other_code_is_what_runs() {
        let parts = Compiler::new(true).unwrap().parts().unwrap();
        let mut cache = Cache::new(&parts).unwrap();
        for k in 1..20 {
            cache.clear();
            for place in 0..50 {
                let placed = cache.place(&returning(k + place), &[]).unwrap();
                // SAFETY: a whole function of this type has just been placed there.
                let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(placed.code) };
                assert_eq!(function(), u32::from(k + place));
            }
        }
    }
}
