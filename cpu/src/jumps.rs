//! The jump cache: from linear addresses to blocks and their translations, without a look at the page tables. Each address
//! space that the TLBs keep has a table of its own, and global code in the upper half of linear addresses has one for all:
//! two processes that run the same program at the same addresses do not meet.

mod short;

use crate::{insn::Insn, mmu::SLOTS, ram::PAGE, state::Cpu};
use short::Short;
pub(crate) use short::ShortTable;
#[cfg(feature = "jit")]
pub(crate) use short::{SHORT, SHORT_FOLD, ShortEntry};
use std::ptr::null;

/// Entries of a table.
pub(crate) const JUMPS: usize = 1 << 16;
/// How many of them a page's entries are among.
pub(crate) const JUMPS_OF_PAGE: usize = 512;
/// How far apart the entries of neighbouring pages begin: 1 << this.
pub(crate) const STEP: u32 = 8;
/// The table of global code in the upper half.
pub(crate) const SHARED: usize = SLOTS;
/// Bits that say which pages may have entries, and how many may be set before they are begun anew.
const PAGES: usize = 1 << 16;
const CROWDED: usize = PAGES / 8;

/// By how much offsets are folded: no bit of the page comes into the place within it.
pub(crate) const FOLD: u32 = 3;
const _: () = assert!(JUMPS_OF_PAGE << FOLD <= PAGE as usize);

/// A known way from a linear address to its block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct JumpEntry {
    pub(crate) rip: u64,
    /// [`Way::context`] at the time.
    pub(crate) context: u64,
    pub(crate) insn: *const Insn,
    /// The code of its region, if it has one that has been asked for.
    pub(crate) code: *const u8,
}

const _: () = assert!(size_of::<JumpEntry>() == 32);

impl JumpEntry {
    pub(crate) const EMPTY: JumpEntry = JumpEntry { rip: 0, context: 0, insn: null(), code: null() };
}

/// What serves one half of linear addresses now.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Way {
    /// The table, of [`JUMPS`] entries.
    pub(crate) entries: *const JumpEntry,
    /// What its entries must match: the address space, or global pages, and the mode.
    pub(crate) context: u64,
}

/// Where an address stands in a table, or else in the place whose number differs in the last bit. The entries of one page are
/// neighbours, so that INVLPG need not look at all; pages overlap.
#[inline(always)]
pub(crate) const fn jump_index(rip: u64) -> usize {
    let page = rip >> 12 ^ rip >> 20;
    let offset = rip ^ rip >> FOLD;
    ((page << STEP) as usize + offset as usize % JUMPS_OF_PAGE) % JUMPS
}

/// All tables of a CPU.
pub(crate) struct JumpCache {
    tables: Vec<Box<[JumpEntry; JUMPS]>>,
    /// Tables that have had an entry.
    used: [bool; SLOTS + 1],
    /// What translated code looks in first.
    short: Short,
    /// A bit for each page that may have entries.
    pages: Box<[u64]>,
    marked: usize,
}

/// An empty table. Its memory comes as zeros from the system, which gives it out as it is used: most tables of most CPUs never
/// are.
#[allow(unsafe_code, reason = "a vector of empty entries would be written, entry by entry")]
fn table() -> Box<[JumpEntry; JUMPS]> {
    // SAFETY: an entry is two integers and two raw pointers, for each of which zero bytes are a value.
    unsafe { Box::new_zeroed().assume_init() }
}

impl JumpCache {
    pub(crate) fn new() -> Self {
        JumpCache {
            tables: (0..=SHARED).map(|_| table()).collect(),
            used: [false; SLOTS + 1],
            short: Short::new(),
            pages: vec![0; PAGES / 64].into(),
            marked: 0,
        }
    }

    pub(crate) fn entries(&self, table: usize) -> *const JumpEntry {
        self.tables[table].as_ptr()
    }

    /// The entry of an address: of the two that may be its, the one that is, or the first.
    #[inline(always)]
    pub(crate) fn entry(&mut self, (table, index): (usize, usize), rip: u64) -> &mut JumpEntry {
        let table = &mut self.tables[table];
        let second = table[index].rip != rip && table[index ^ 1].rip == rip;
        &mut table[if second { index ^ 1 } else { index }]
    }

    /// The bit of a page.
    fn place(linear: u64) -> (usize, u64) {
        let page = linear >> 12;
        let bit = (page ^ page >> 16 ^ page >> 32) as usize % PAGES;
        (bit / 64, 1 << (bit % 64))
    }

    /// Makes an entry. True if there are so many pages that the cache is better emptied.
    pub(crate) fn insert(&mut self, table: usize, entry: JumpEntry) -> bool {
        let (word, bit) = Self::place(entry.rip);
        if self.pages[word] & bit == 0 {
            self.pages[word] |= bit;
            self.marked += 1;
        }
        self.used[table] = true;
        let (table, index) = (&mut self.tables[table], jump_index(entry.rip));
        // Two addresses that meet in one place would drive each other out again and again.
        let place = match (table[index].rip == entry.rip, table[index ^ 1].rip == entry.rip) {
            (false, true) => index ^ 1,
            (false, false) if !table[index].insn.is_null() => {
                table[index ^ 1] = table[index];
                index
            }
            _ => index,
        };
        table[place] = entry;
        self.marked > CROWDED
    }

    /// No page has entries any more: contexts have changed so that nothing matches them.
    pub(crate) fn emptied(&mut self) {
        self.pages.fill(0);
        self.marked = 0;
    }

    /// Drops the entries of a page, and of the one before, from where an instruction may reach into it.
    pub(crate) fn forget(&mut self, linear: u64) {
        // Where linear addresses have 32 bits, the last page is before the first.
        let wrapped = (linear < PAGE).then_some(0xffff_f000);
        for page in [linear, linear.wrapping_sub(PAGE)].into_iter().chain(wrapped) {
            let (word, bit) = Self::place(page);
            if self.pages[word] & bit == 0 {
                continue;
            }
            self.short.clear();
            let first = jump_index(page & !(PAGE - 1));
            for (table, _) in self.tables.iter_mut().zip(self.used).filter(|(_, used)| *used) {
                let (low, high) = table.split_at_mut(first);
                let n = high.len().min(JUMPS_OF_PAGE);
                high[..n].fill(JumpEntry::EMPTY);
                low[..JUMPS_OF_PAGE - n].fill(JumpEntry::EMPTY);
            }
        }
    }

    /// The small table of an address space, for CPL 3 or the others, valid for what serves both halves of linear addresses.
    pub(crate) fn short(&mut self, slot: usize, user: bool, ways: &[Way; 2]) -> ShortTable {
        self.short.table(slot, user, ways)
    }

    /// The entry of an address, whose first place is given, and those of the small tables have other code from now on, or none.
    pub(crate) fn lead(&mut self, (place, rip): ((usize, usize), u64), from: *const u8, to: *const u8) {
        let entry = self.entry(place, rip);
        if entry.code == from {
            entry.code = to;
        }
        self.short.lead(rip, from, to);
    }

    /// No translated code is known any more.
    pub(crate) fn forget_code(&mut self) {
        self.short.clear();
        let used = self.tables.iter_mut().zip(self.used).filter(|(_, used)| *used);
        used.flat_map(|(table, _)| table.iter_mut()).for_each(|entry| entry.code = null());
    }
}

impl Cpu {
    /// The table and the first place in it that serve an address now.
    pub(crate) fn jump_place(&self, rip: u64) -> (usize, usize) {
        (self.mmu.jump_tables()[(rip >> 63) as usize].0, jump_index(rip))
    }

    /// What an entry for an address must match now.
    #[inline(always)]
    pub(crate) fn context_at(&self, rip: u64) -> u64 {
        self.ways[(rip >> 63) as usize].context
    }

    /// The jump cache leads from an address to this block.
    pub(crate) fn note_jump(&mut self, rip: u64, insn: *const Insn) {
        let entry = JumpEntry { rip, context: self.context_at(rip), insn, code: null() };
        let (table, _) = self.jump_place(rip);
        if self.jumps.insert(table, entry) {
            self.forget_all_jumps();
        }
    }

    /// Nothing is known any more.
    pub(crate) fn forget_all_jumps(&mut self) {
        self.mmu.forget_contexts();
        self.jumps.emptied();
        self.refresh_tlb();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(jumps: &mut JumpCache, rip: u64) {
        // Never looked at.
        let insn = rip as *const Insn;
        jumps.insert(0, JumpEntry { rip, context: 1, insn, code: null() });
    }

    fn knows(jumps: &mut JumpCache, rip: u64) -> bool {
        jumps.entry((0, jump_index(rip)), rip).rip == rip
    }

    #[test]
    fn two_addresses_that_meet_do_not_drive_each_other_out() {
        const ADDRESS: u64 = 0x40_1000;
        let meets = |rip: &u64| jump_index(*rip) == jump_index(ADDRESS);
        let beside = |rip: &u64| jump_index(*rip) == jump_index(ADDRESS) ^ 1;
        let others = || (ADDRESS + 1..).take(1 << 24);
        let [same, third] = [0, 1].map(|n| others().filter(meets).nth(n).unwrap());
        let beside = others().find(beside).unwrap();
        for pair in [[ADDRESS, same], [ADDRESS, beside], [beside, ADDRESS]] {
            let mut jumps = JumpCache::new();
            for _ in 0..3 {
                pair.iter().for_each(|&rip| note(&mut jumps, rip));
                assert!(pair.iter().all(|&rip| knows(&mut jumps, rip)), "{pair:x?}");
            }
            // Of three, the one that came last is known, and no address twice.
            note(&mut jumps, third);
            assert!(knows(&mut jumps, third));
            assert_eq!(pair.iter().filter(|&&rip| knows(&mut jumps, rip)).count(), 1);
            jumps.forget(ADDRESS);
            assert!(!knows(&mut jumps, ADDRESS));
        }
    }
}
