//! What translated code looks in before the jump cache: tables that fit into the host's second-level cache, from linear address to
//! code; two for each address space, for CPL 3 and for the others. A table is valid for one mode: others are rarely met within
//! an address space and a privilege. Nothing but translated code makes entries.

use super::Way;
use crate::mmu::SLOTS;
use std::ptr::null;

/// Entries of a table.
pub(crate) const SHORT: usize = 4096;
/// By how much addresses are folded to find theirs.
pub(crate) const SHORT_FOLD: u32 = 11;
/// Bits of a key that are alike in each address, since that is canonical: bits 63 to 57. There a key has the table's number
/// besides, exclusive or: with another number, all entries are no entries.
const NUMBER: u32 = 57;
/// The last number. None is 0: an entry of zeros answers nobody.
const LAST: u64 = u64::MAX >> NUMBER;

/// An entry of a table.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ShortEntry {
    /// The linear address, exclusive or the table's number.
    pub(crate) key: u64,
    pub(crate) code: *const u8,
}

const _: () = assert!(size_of::<ShortEntry>() == 16);

/// Where an address stands.
const fn index(rip: u64) -> usize {
    (rip ^ rip >> SHORT_FOLD) as usize % SHORT
}

/// Tables of a CPU.
const TABLES: usize = 2 * SLOTS;

/// A table, as translated code knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct ShortTable {
    /// [`SHORT`] of them.
    pub(crate) entries: *const ShortEntry,
    /// What keys are exclusive or.
    pub(crate) number: u64,
}

/// All tables of a CPU.
pub(super) struct Short {
    tables: Vec<Box<[ShortEntry; SHORT]>>,
    numbers: [u64; TABLES],
    /// One that has never had an entry.
    empty: Box<[ShortEntry; SHORT]>,
    /// The contexts for which entries have been made; zeros where none ever was.
    stamps: [[u64; 2]; TABLES],
    /// The table in use.
    current: usize,
}

/// An empty table, whose memory is given out as it is used.
#[allow(unsafe_code, reason = "a vector of empty entries would be written, entry by entry")]
fn table() -> Box<[ShortEntry; SHORT]> {
    // SAFETY: an entry is an integer and a raw pointer, for each of which zero bytes are a value.
    unsafe { Box::new_zeroed().assume_init() }
}

impl Short {
    pub(super) fn new() -> Self {
        let tables = (0..TABLES).map(|_| table()).collect();
        Short { tables, numbers: [1; TABLES], empty: table(), stamps: [[0; 2]; TABLES], current: 0 }
    }

    /// The table of an address space for CPL 3 or the others; what was noted for other contexts is gone.
    pub(super) fn table(&mut self, slot: usize, user: bool, ways: &[Way; 2]) -> ShortTable {
        if ways[0].context == u64::MAX {
            // Nothing is found in the jump cache, so nothing is noted here.
            return ShortTable { entries: self.empty.as_ptr(), number: 1 << NUMBER };
        }
        let place = 2 * slot + usize::from(user);
        self.current = place;
        let contexts = ways.map(|way| way.context);
        if self.stamps[place] != contexts {
            self.renumber(place);
            self.stamps[place] = contexts;
        }
        ShortTable { entries: self.tables[place].as_ptr(), number: self.numbers[place] << NUMBER }
    }

    /// A table has no entries any more, for whoever asks for it from now on.
    fn renumber(&mut self, place: usize) {
        if self.stamps[place] == [0; 2] {
            return;
        }
        if self.numbers[place] == LAST {
            empty(&mut self.tables[place]);
            self.numbers[place] = 0;
        }
        self.numbers[place] += 1;
    }

    /// No table has entries any more.
    pub(super) fn clear(&mut self) {
        let current = self.current;
        (0..TABLES).filter(|&place| place != current).for_each(|place| self.renumber(place));
        // Whoever looks in this one has its number.
        if self.stamps[current] != [0; 2] {
            empty(&mut self.tables[current]);
        }
    }

    /// The entries of an address that have some code have other code from now on, or none.
    pub(super) fn lead(&mut self, rip: u64, from: *const u8, to: *const u8) {
        for table in &mut self.tables {
            let entry = &mut table[index(rip)];
            if entry.code == from {
                let key = if to.is_null() { 0 } else { entry.key };
                *entry = ShortEntry { key, code: to };
            }
        }
    }
}

fn empty(table: &mut [ShortEntry; SHORT]) {
    table.fill(ShortEntry { key: 0, code: null() });
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: *const u8 = 0x1000 as *const u8;
    const OTHER: *const u8 = 0x2000 as *const u8;

    fn ways(contexts: [u64; 2]) -> [Way; 2] {
        contexts.map(|context| Way { entries: null(), context })
    }

    /// As translated code does it.
    fn note(short: &mut Short, place: usize, rip: u64) {
        let key = rip ^ short.numbers[place] << NUMBER;
        short.tables[place][index(rip)] = ShortEntry { key, code: CODE };
    }

    fn code(short: &Short, place: usize, rip: u64) -> *const u8 {
        let entry = &short.tables[place][index(rip)];
        if entry.key == rip ^ short.numbers[place] << NUMBER { entry.code } else { null() }
    }

    #[test]
    fn entries_are_those_of_one_context() {
        let mut short = Short::new();
        short.table(1, true, &ways([5 << 16, 6 << 16]));
        short.table(1, false, &ways([5 << 16, 6 << 16]));
        note(&mut short, 3, 0x40_0000);
        // The other privilege, and back.
        short.table(1, false, &ways([5 << 16, 6 << 16]));
        assert!(code(&short, 2, 0x40_0000).is_null());
        short.table(1, true, &ways([5 << 16, 6 << 16]));
        assert_eq!(code(&short, 3, 0x40_0000), CODE);
        // Another mode, another address space in the slot, other global code.
        for other in [[5 << 16 | 1, 6 << 16 | 1], [7 << 16, 6 << 16], [7 << 16, 8 << 16]] {
            note(&mut short, 3, 0x40_0000);
            short.table(1, true, &ways(other));
            assert!(code(&short, 3, 0x40_0000).is_null(), "{other:x?}");
        }
        // Where every jump goes to the dispatcher, another table answers; what is known stays.
        note(&mut short, 3, 0x40_0000);
        let nothing = short.table(1, true, &ways([u64::MAX; 2]));
        assert_eq!(nothing.entries, short.empty.as_ptr());
        assert_eq!(code(&short, 3, 0x40_0000), CODE);
    }

    #[test]
    fn code_that_goes_is_not_led_to() {
        let mut short = Short::new();
        for (slot, user) in [(0, false), (2, true)] {
            short.table(slot, user, &ways([1 << 16; 2]));
            note(&mut short, 2 * slot + usize::from(user), 0x1234);
        }
        short.lead(0x1234, OTHER, null());
        assert_eq!(code(&short, 0, 0x1234), CODE, "it has none of that code");
        short.lead(0x1234, CODE, OTHER);
        assert_eq!((code(&short, 0, 0x1234), code(&short, 5, 0x1234)), (OTHER, OTHER));
        short.lead(0x1234, OTHER, null());
        assert!(code(&short, 0, 0x1234).is_null() && code(&short, 5, 0x1234).is_null());
        assert!(code(&short, 0, u64::MAX).is_null() && code(&short, 0, 0).is_null());
    }

    #[test]
    fn nothing_is_in_a_table_that_was_emptied() {
        let mut short = Short::new();
        for user in [false, true] {
            short.table(0, user, &ways([1 << 16; 2]));
            note(&mut short, usize::from(user), 0x77);
        }
        short.clear();
        assert!(code(&short, 1, 0x77).is_null());
        short.table(0, false, &ways([1 << 16; 2]));
        assert!(code(&short, 0, 0x77).is_null());
        // And it stays.
        note(&mut short, 0, 0x77);
        short.table(0, true, &ways([1 << 16; 2]));
        short.table(0, false, &ways([1 << 16; 2]));
        assert_eq!(code(&short, 0, 0x77), CODE);
    }

    #[test]
    fn no_number_comes_again_with_its_entries() {
        let mut short = Short::new();
        let addresses = [
            0,
            0x1234,
            0x7fff_ffff_f000,
            0xff_ffff_ffff_ffff,
            !0xff,
            0xffff_8000_0000_0000,
            0xff00_0000_0000_0000,
        ];
        let mut seen = Vec::new();
        for context in 1..3 * LAST {
            let table = short.table(0, false, &ways([context << 16; 2]));
            assert!(table.number != 0);
            for &rip in &addresses {
                assert!(code(&short, 0, rip).is_null(), "{context}: {rip:x}");
            }
            let rip = addresses[context as usize % addresses.len()];
            note(&mut short, 0, rip);
            assert_eq!(code(&short, 0, rip), CODE);
            seen.push(table.number);
        }
        assert_eq!(seen[0], seen[LAST as usize]);
    }
}
