//! The software MMU: TLBs, the page walk, and the accesses that miss.
//!
//! Data accesses probe one table of 512 entries, chosen by address space and privilege class, so that system calls and
//! context switches swap a pointer and flush nothing. A second level shared by the classes refills it without a walk.

pub(crate) mod access;
mod device_pages;
mod log;
#[cfg_attr(not(feature = "jit"), allow(dead_code, reason = "there is nobody who looks"))]
pub(crate) mod near;
mod walk;

pub(crate) use walk::{Access, Class, PHYSICAL_BITS};

use crate::{
    group::EVERYTHING,
    jumps::SHARED,
    ram::PAGE,
    state::{Cpu, cr0, cr4},
    statistics::{Doing, Flush},
};
use device_pages::DevicePages;
use near::Near;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

/// Entries of a first-level table.
pub(crate) const ENTRIES: usize = 1024;
/// Address spaces whose tables are kept; PCIDs share them, least recently used first.
pub(crate) const SLOTS: usize = 8;
/// The PCID of a slot that has not been used: beyond the 12 bits that there are.
const NO_PCID: u16 = u16::MAX;
/// Entries of the second level.
const SECOND: usize = 4096;

/// A first-level entry. `tag ^ address <= 0x1000 - size` is true exactly when the access of that size hits and stays in
/// the page.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TlbEntry {
    /// Page address, if it may be read.
    pub(crate) read: u64,
    /// Page address, if it may be written with nothing else to do.
    pub(crate) write: u64,
    /// Host address = linear address + this.
    pub(crate) addend: u64,
    /// Guest-physical page.
    pub(crate) physical: u64,
}

impl TlbEntry {
    /// The host address of `size` bytes, if the entry vouches for the access.
    #[inline(always)]
    fn host(&self, linear: u64, size: u64, write: bool) -> Option<*mut u8> {
        let tag = if write { self.write } else { self.read };
        if tag ^ linear <= PAGE - size { Some(linear.wrapping_add(self.addend) as *mut u8) } else { None }
    }
}

/// A first-level table.
#[repr(C, align(64))]
pub(crate) struct Table(pub(crate) [TlbEntry; ENTRIES]);

/// Where an address stands in a table. Bits 21 and up are mixed in, so that buffers 2 or 4 MiB apart do not meet.
#[inline(always)]
pub(crate) const fn index(linear: u64) -> usize {
    ((linear >> 12 ^ linear >> 21) & (ENTRIES as u64 - 1)) as usize
}

/// Two pages that belong into one place would push each other out by turns: who is pushed out waits in another place, where only
/// those look who have not found it, and comes back from there. That place's distance, a bit.
pub(crate) const OTHER: usize = ENTRIES / 2;

/// An entry of slot `i` that nothing hits: its tag is a page that belongs elsewhere.
const fn empty(i: usize) -> TlbEntry {
    let elsewhere = elsewhere(i);
    TlbEntry { read: elsewhere, write: elsewhere, addend: 0, physical: u64::MAX }
}

/// A page that does not belong into slot `i`.
const fn elsewhere(i: usize) -> u64 {
    ((i ^ 4) as u64) << 12
}

const _: () = {
    let mut i = 0;
    while i < ENTRIES {
        assert!(index(elsewhere(i)) != i && index(elsewhere(i)) != i ^ OTHER);
        i += 1;
    }
};

impl Table {
    fn boxed() -> Box<Table> {
        let mut table = Box::new(Table([empty(0); ENTRIES]));
        table.clear();
        table
    }
    fn clear(&mut self) {
        for (i, entry) in self.0.iter_mut().enumerate() {
            *entry = empty(i);
        }
    }
}

/// How many entries of a table are known by their places.
const FEW: usize = 64;

/// A first-level table, and which entries have been filled since it was empty: a short visit to an address space costs what it
/// has filled.
struct Level {
    table: Box<Table>,
    /// [`FEW`] of them stand for all.
    filled: SmallVec<[u16; FEW]>,
}

impl Level {
    fn new() -> Self {
        Level { table: Table::boxed(), filled: SmallVec::new() }
    }

    /// The place of an entry that is about to be filled. What stands there and belongs there is moved to the other place.
    fn fill(&mut self, linear: u64) -> &mut TlbEntry {
        let i = index(linear);
        let old = self.table.0[i];
        if (old.read ^ linear) >> 12 != 0 && index(old.read) == i {
            self.note(i ^ OTHER);
            self.table.0[i ^ OTHER] = old;
        }
        self.note(i);
        &mut self.table.0[i]
    }

    fn note(&mut self, i: usize) {
        if self.filled.len() < FEW && self.filled.last() != Some(&(i as u16)) {
            self.filled.push(i as u16);
        }
    }

    /// Brings an entry back that vouches for an access from where it was moved to.
    fn bring_back(&mut self, linear: u64, write: bool) -> Option<&TlbEntry> {
        let i = index(linear);
        self.table.0[i ^ OTHER].host(linear, 1, write)?;
        self.table.0.swap(i, i ^ OTHER);
        Some(&self.table.0[i])
    }

    fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// All entries that are not empty, and perhaps others.
    fn each(&mut self, mut f: impl FnMut(usize, &mut TlbEntry)) {
        if self.filled.len() < FEW {
            for &i in &self.filled {
                f(i.into(), &mut self.table.0[usize::from(i)]);
            }
        } else {
            self.table.0.iter_mut().enumerate().for_each(|(i, entry)| f(i, entry));
        }
    }

    fn clear(&mut self) {
        self.each(|i, entry| *entry = empty(i));
        self.filled.clear();
    }
}

/// Size of the page that maps an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageSize {
    Small,
    /// 2 MiB, or 4 MiB with 32-bit paging.
    Large,
    Huge,
}

/// What a page-table walk found, before the check of rights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// Guest-physical address of the 4 KiB page.
    pub(crate) physical: u64,
    pub(crate) writable: bool,
    pub(crate) user: bool,
    pub(crate) no_execute: bool,
    pub(crate) dirty: bool,
    /// It belongs to all address spaces: the bit in the entry, where CR4.PGE makes it count.
    pub(crate) global: bool,
    /// Protection key of a user page; 0 where there are none.
    pub(crate) key: u8,
    pub(crate) size: PageSize,
}

#[derive(Clone, Copy)]
struct SecondEntry {
    page: u64,
    generation: u64,
    mapping: Mapping,
}

struct Slot {
    pcid: u16,
    /// Unique to this filling of the slot: what fetch TLB and second level match.
    generation: u64,
    /// The same for the jump cache.
    context: u64,
    /// Code in the upper half of the address space that is not global has been run: its jumps are this address space's own.
    own_upper_half: bool,
    used: u64,
    /// By [`Class`].
    tables: [Level; 3],
    /// 2 MiB regions in which a larger page was cached by pieces.
    large: FxHashSet<u64>,
    huge: FxHashSet<u64>,
}

/// All TLBs of a CPU.
pub(crate) struct Mmu {
    slots: Vec<Slot>,
    current: usize,
    clock: u64,
    next_generation: u64,
    /// Global pages: what fetch TLB and second level match.
    global_generation: u64,
    /// And the jump cache.
    global_context: u64,
    /// As in [`Slot`], of global pages: they stay cached when the address space that walked to them has gone.
    global_large: FxHashSet<u64>,
    global_huge: FxHashSet<u64>,
    second: Box<[SecondEntry]>,
    flushes: [u64; Flush::ALL.len()],
    /// By [`Class`].
    near: Box<[Near; 3]>,
    /// Whether translated code may have used that of CPL 3, and those of other levels, since they were empty.
    near_used: [bool; 2],
    near_supervisor: bool,
    device_pages: DevicePages,
    pub(crate) fetch: Box<[crate::blocks::FetchEntry; crate::blocks::FETCHES]>,
    /// Where somebody wants to know which pages are written.
    log: Option<log::WriteLog>,
}

impl Mmu {
    pub(crate) fn new() -> Self {
        let slot = |k| Slot {
            pcid: if k == 0 { 0 } else { NO_PCID },
            generation: 2 + k as u64,
            context: 2 + k as u64,
            own_upper_half: false,
            used: 0,
            tables: std::array::from_fn(|_| Level::new()),
            large: FxHashSet::default(),
            huge: FxHashSet::default(),
        };
        let nothing = Mapping {
            physical: 0,
            writable: false,
            user: false,
            no_execute: true,
            dirty: false,
            global: false,
            key: 0,
            size: PageSize::Small,
        };
        Mmu {
            slots: (0..SLOTS).map(slot).collect(),
            current: 0,
            clock: 0,
            next_generation: 2 + SLOTS as u64,
            global_generation: 1,
            global_context: 1,
            global_large: FxHashSet::default(),
            global_huge: FxHashSet::default(),
            second: vec![SecondEntry { page: u64::MAX, generation: 0, mapping: nothing }; SECOND].into(),
            flushes: [0; Flush::ALL.len()],
            near: Box::new([Near::EMPTY, Near::EMPTY, Near::EMPTY]),
            near_used: [false; 2],
            near_supervisor: false,
            device_pages: DevicePages::NONE,
            fetch: Box::new([crate::blocks::FetchEntry::EMPTY; crate::blocks::FETCHES]),
            log: None,
        }
    }

    pub(crate) fn table(&mut self, class: Class) -> *mut Table {
        &mut *self.slots[self.current].tables[class as usize].table
    }

    /// The host address of `size` bytes, if the TLB of a class vouches for the access.
    pub(crate) fn probe(&self, class: Class, linear: u64, size: u64, write: bool) -> Option<*mut u8> {
        self.slots[self.current].tables[class as usize].table.0[index(linear)].host(linear, size, write)
    }

    /// An access that the TLB of a class does not vouch for at once: host address and guest-physical page, if it does all the same.
    pub(crate) fn look_elsewhere(
        &mut self,
        class: Class,
        linear: u64,
        write: bool,
    ) -> Option<(*mut u8, u64)> {
        let entry = self.slots[self.current].tables[class as usize].bring_back(linear, write)?;
        Some((entry.host(linear, 1, write)?, entry.physical))
    }

    /// What was used last of a class.
    pub(crate) fn near(&mut self, class: Class) -> *mut Near {
        self.near_supervisor = class != Class::User;
        self.near_used[usize::from(self.near_supervisor)] = true;
        &mut self.near[class as usize]
    }

    /// The entry of the current address space where `linear` belongs.
    pub(crate) fn entry(&mut self, class: Class, linear: u64) -> &mut TlbEntry {
        self.slots[self.current].tables[class as usize].fill(linear)
    }

    /// Unique to the current filling of the current address space.
    fn generation(&self) -> u64 {
        self.slots[self.current].generation
    }

    /// What an entry of the fetch TLB made now is valid for: the current address space, or as long as global pages are.
    pub(crate) fn fetch_generation(&self, global: bool) -> u64 {
        if global { self.global_generation } else { self.generation() }
    }

    /// The number of the current address space among those that are kept.
    pub(crate) fn slot(&self) -> usize {
        self.current
    }

    /// Which table of the jump cache serves the lower and the upper half of linear addresses, and what makes its entries valid.
    /// A kernel's code is global most often: then its jumps stay known from one address space to the next.
    pub(crate) fn jump_tables(&self) -> [(usize, u64); 2] {
        let slot = &self.slots[self.current];
        let own = (self.current, slot.context);
        [own, if slot.own_upper_half { own } else { (SHARED, self.global_context) }]
    }

    /// Code at this address is about to get an entry in the jump cache: true if the contexts have changed for that.
    pub(crate) fn note_code(&mut self, linear: u64, global: bool) -> bool {
        let slot = &mut self.slots[self.current];
        if linear >> 63 == 0 || global || slot.own_upper_half {
            return false;
        }
        slot.own_upper_half = true;
        true
    }

    /// No entry of the jump cache is valid any more.
    pub(crate) fn forget_contexts(&mut self) {
        let contexts = self.slots.iter_mut().map(|slot| &mut slot.context).chain([&mut self.global_context]);
        for (context, fresh) in contexts.zip(self.next_generation..) {
            *context = fresh;
        }
        self.next_generation += SLOTS as u64 + 1;
    }

    pub(crate) fn fetch_entry(&mut self, linear: u64) -> &mut crate::blocks::FetchEntry {
        &mut self.fetch[crate::blocks::fetch_index(linear)]
    }

    pub(crate) fn fetched(&self, linear: u64) -> &crate::blocks::FetchEntry {
        &self.fetch[crate::blocks::fetch_index(linear)]
    }

    fn second_index(page: u64) -> usize {
        (page ^ page >> 9 ^ page >> 18) as usize % SECOND
    }

    fn second_lookup(&self, linear: u64) -> Option<Mapping> {
        let page = linear >> 12;
        let e = &self.second[Self::second_index(page)];
        let live = e.generation == self.generation() || e.generation == self.global_generation;
        // Its size was noted when it was walked, for as long as its generation lives.
        (e.page == page && live).then_some(e.mapping)
    }

    fn second_insert(&mut self, linear: u64, mapping: Mapping) {
        let page = linear >> 12;
        let generation = if mapping.global { self.global_generation } else { self.generation() };
        self.second[Self::second_index(page)] = SecondEntry { page, generation, mapping };
        self.note_size(linear, &mapping);
    }

    /// Remembers that a piece of a larger page is cached in the current address space, or in all.
    fn note_size(&mut self, linear: u64, mapping: &Mapping) {
        let slot = &mut self.slots[self.current];
        let (large, huge) = match mapping.global {
            true => (&mut self.global_large, &mut self.global_huge),
            false => (&mut slot.large, &mut slot.huge),
        };
        match mapping.size {
            PageSize::Small => {}
            PageSize::Large => {
                large.insert(linear >> 21);
            }
            PageSize::Huge => {
                huge.insert(linear >> 30);
            }
        }
    }

    /// Nothing is known any more of the pages that were used last.
    fn forget_recent(&mut self) {
        self.forget_near();
        self.device_pages = DevicePages::NONE;
    }

    fn renew(&mut self, slot: usize) {
        self.forget_recent();
        let slot = &mut self.slots[slot];
        slot.generation = self.next_generation;
        slot.context = self.next_generation;
        slot.own_upper_half = false;
        self.next_generation += 1;
        slot.tables.iter_mut().for_each(Level::clear);
        slot.large.clear();
        slot.huge.clear();
    }

    fn count(&mut self, cause: Flush) {
        self.flushes[cause as usize] += 1;
    }

    /// How often translations were dropped, by cause.
    pub(crate) fn flushes(&self) -> &[u64; Flush::ALL.len()] {
        &self.flushes
    }

    /// Drops everything of the address space with this PCID; global pages stay in the second level.
    pub(crate) fn flush_pcid(&mut self, pcid: u16, cause: Flush) {
        self.count(cause);
        if let Some(slot) = self.slots.iter().position(|slot| slot.pcid == pcid) {
            self.renew(slot);
        }
    }

    /// Drops everything but, unless `globals`, the global pages in the second level.
    pub(crate) fn flush(&mut self, globals: bool, cause: Flush) {
        self.count(cause);
        for slot in 0..SLOTS {
            self.renew(slot);
        }
        if globals {
            self.global_generation = self.next_generation;
            self.global_context = self.next_generation;
            self.next_generation += 1;
            self.global_large.clear();
            self.global_huge.clear();
        }
    }

    /// Makes the address space with this PCID the current one, in the slot that was used longest ago if it is new.
    pub(crate) fn select(&mut self, pcid: u16) {
        self.clock += 1;
        let slot = match self.slots.iter().position(|slot| slot.pcid == pcid) {
            Some(slot) => slot,
            None => {
                let oldest = (0..SLOTS).min_by_key(|&k| self.slots[k].used).unwrap_or(0);
                if self.slots[oldest].pcid != NO_PCID {
                    self.count(Flush::Evicted);
                }
                self.renew(oldest);
                self.slots[oldest].pcid = pcid;
                oldest
            }
        };
        self.slots[slot].used = self.clock;
        if self.current != slot {
            self.current = slot;
            self.forget_recent();
        }
    }

    /// INVLPG: drops `linear` in one address space, and the global page there in all. Other address spaces may lose
    /// theirs too.
    pub(crate) fn invalidate(&mut self, pcid: u16, linear: u64) {
        if !self.slots.iter().any(|slot| slot.pcid == pcid) {
            return;
        }
        // A large page of 32-bit paging has 4 MiB: two neighbours of 2.
        let (large, huge) = (linear >> 21, linear >> 30);
        let in_pieces = |larges: &FxHashSet<u64>, huges: &FxHashSet<u64>| {
            huges.contains(&huge) || larges.contains(&large) || larges.contains(&(large ^ 1))
        };
        if in_pieces(&self.global_large, &self.global_huge)
            || self.slots.iter().any(|slot| in_pieces(&slot.large, &slot.huge))
        {
            // One instruction must drop all 4 KiB pieces of the page: rare, so drop all there is.
            return self.flush(true, Flush::LargePage);
        }
        self.count(Flush::Page);
        self.forget_recent();
        let second = &mut self.second[Self::second_index(linear >> 12)];
        if second.page == linear >> 12 {
            second.page = u64::MAX;
        }
        // A global page may have left the second level and still stand in the first-level tables of any address space.
        let i = index(linear);
        for level in self.slots.iter_mut().flat_map(|slot| &mut slot.tables).filter(|level| !level.is_empty())
        {
            for i in [i, i ^ OTHER] {
                let entry = &mut level.table.0[i];
                if (entry.read ^ linear) >> 12 == 0 || (entry.write ^ linear) >> 12 == 0 {
                    *entry = empty(i);
                }
            }
        }
    }

    /// Takes away the write tags of guest-physical pages in all tables: code there has been decoded.
    /// [`EVERYTHING`] in their place takes away all tags.
    pub(crate) fn protect(&mut self, pages: &[u64]) {
        self.forget_recent();
        if pages.contains(&EVERYTHING) {
            self.count(Flush::Map);
            self.slots.iter_mut().flat_map(|slot| &mut slot.tables).for_each(Level::clear);
            self.fetch.iter_mut().for_each(crate::blocks::FetchEntry::forget);
            return;
        }
        self.count(Flush::Decoded);
        for level in self.slots.iter_mut().flat_map(|slot| &mut slot.tables) {
            level.each(|i, entry| {
                if pages.contains(&entry.physical) {
                    entry.write = empty(i).write;
                }
            });
        }
    }
}

impl Cpu {
    /// The class of ordinary data accesses now.
    pub(crate) fn data_class(&self) -> Class {
        if self.cpl == 3 {
            Class::User
        } else if self.cr4 & cr4::SMAP == 0 || self.eflags & crate::flags::bits::AC != 0 {
            Class::SupervisorAc
        } else {
            Class::Supervisor
        }
    }

    /// Drops all translations of addresses, global ones too.
    pub(crate) fn flush_all(&mut self, cause: Flush) {
        self.within(Doing::Mmu, |c| {
            c.mmu.flush(true, cause);
            c.mmu.select(c.pcid());
        });
        self.refresh_tlb();
    }

    /// The current PCID; 0 where there are none.
    pub(crate) fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE != 0 { (self.cr3 & 0xfff) as u16 } else { 0 }
    }

    /// Whether linear addresses are translated.
    pub(crate) fn paging(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }

    /// Loads CR3, checked by the caller. `keep`: bit 63 of a MOV to CR3 with PCIDs, nothing is flushed.
    pub(crate) fn load_cr3(&mut self, value: u64, keep: bool) {
        self.cr3 = value & !(1 << 63);
        let pcid = self.pcid();
        self.statistics.switches += 1;
        self.within(Doing::Mmu, |c| {
            if !keep {
                c.mmu.flush_pcid(pcid, Flush::Cr3);
            }
            c.mmu.select(pcid);
        });
        self.refresh_tlb();
    }
}

const _: () = assert!(PAGE == 1 << 12);
