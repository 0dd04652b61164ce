//! The memory map that firmware hands to operating systems (ACPI "System Address Map Interfaces", e820).

use std::ops::Range;

use crate::{Layout, low_memory};

/// What an address range is, with the numbers of e820.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryType {
    /// RAM that the operating system may use.
    Ram = 1,
    /// Not to be used by the operating system.
    Reserved = 2,
    /// RAM that holds ACPI tables; usable once they are read.
    AcpiReclaimable = 3,
    /// RAM that ACPI needs and that sleep must preserve.
    AcpiNvs = 4,
    /// RAM with errors.
    Unusable = 5,
}

/// One entry of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The addresses; never empty.
    pub range: Range<u64>,
    /// What they are.
    pub kind: MemoryType,
}

/// A sorted memory map without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<Entry>,
}

impl MemoryMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map of a PC with `ram_bytes` of RAM.
    pub fn pc(ram_bytes: u64, layout: &Layout) -> Self {
        let mut map = Self::new();
        map.set(layout.low_ram(ram_bytes), MemoryType::Ram);
        map.set(layout.high_ram(ram_bytes), MemoryType::Ram);
        map.clear(low_memory::EBDA.end..low_memory::EXTENDED_BASE);
        map.set(low_memory::EBDA, MemoryType::Reserved);
        map.set(low_memory::ACPI_AREA.start..low_memory::SMBIOS_AREA.end, MemoryType::Reserved);
        map.set(layout.ecam.clone(), MemoryType::Reserved);
        map
    }

    /// Says what `range` is. Where it overlaps what was said before, this counts.
    pub fn set(&mut self, range: Range<u64>, kind: MemoryType) {
        if range.is_empty() {
            return;
        }
        self.clear(range.clone());
        let at = self.entries.partition_point(|entry| entry.range.start < range.start);
        self.entries.insert(at, Entry { range, kind });
        self.merge_neighbours();
    }

    /// Forgets what was said of `range`.
    pub fn clear(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut kept = Vec::with_capacity(self.entries.len() + 2);
        for Entry { range: old, kind } in self.entries.drain(..) {
            let before = old.start..old.end.min(range.start);
            let after = old.start.max(range.end)..old.end;
            kept.extend(
                [before, after].into_iter().filter(|r| !r.is_empty()).map(|range| Entry { range, kind }),
            );
        }
        self.entries = kept;
    }

    /// The entries by rising address.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The RAM that the operating system may use, by rising address.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.entries.iter().filter(|entry| entry.kind == MemoryType::Ram).map(|entry| entry.range.clone())
    }

    /// Whether all of `range` is RAM that the operating system may use.
    pub fn is_ram(&self, range: &Range<u64>) -> bool {
        self.ram().any(|ram| ram.start <= range.start && range.end <= ram.end)
    }

    fn merge_neighbours(&mut self) {
        self.entries.dedup_by(|next, previous| {
            let joined = previous.kind == next.kind && previous.range.end == next.range.start;
            if joined {
                previous.range.end = next.range.end;
            }
            joined
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(range: Range<u64>, kind: MemoryType) -> Entry {
        Entry { range, kind }
    }

    #[test]
    fn a_pc_with_memory_on_both_sides_of_the_hole() {
        let map = MemoryMap::pc(4 << 30, &Layout::example());
        use MemoryType::{Ram, Reserved};
        assert_eq!(
            map.entries(),
            [
                entry(0..0x9_fc00, Ram),
                entry(0x9_fc00..0xa_0000, Reserved),
                entry(0xe_0000..0x10_0000, Reserved),
                entry(0x10_0000..0xc000_0000, Ram),
                entry(0xe000_0000..0xf000_0000, Reserved),
                entry(0x1_0000_0000..0x1_4000_0000, Ram),
            ]
        );
    }

    #[test]
    fn a_small_pc_has_no_high_memory() {
        let map = MemoryMap::pc(128 << 20, &Layout::example());
        assert_eq!(map.ram().last(), Some(0x10_0000..0x800_0000));
        assert!(map.is_ram(&(0x10_0000..0x800_0000)));
        assert!(!map.is_ram(&(0x10_0000..0x800_0001)));
        assert!(!map.is_ram(&(0x9_0000..0xa_0000)));
    }

    #[test]
    fn later_entries_cut_earlier_ones() {
        let mut map = MemoryMap::new();
        map.set(0..100, MemoryType::Ram);
        map.set(20..30, MemoryType::AcpiNvs);
        map.set(25..50, MemoryType::Unusable);
        map.set(50..50, MemoryType::Reserved);
        assert_eq!(
            map.entries(),
            [
                entry(0..20, MemoryType::Ram),
                entry(20..25, MemoryType::AcpiNvs),
                entry(25..50, MemoryType::Unusable),
                entry(50..100, MemoryType::Ram),
            ]
        );
        map.set(20..50, MemoryType::Ram);
        assert_eq!(map.entries(), [entry(0..100, MemoryType::Ram)]);
    }
}
