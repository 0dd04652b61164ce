//! Page tables for the 64-bit entry.

use std::ops::Range;

const TABLE: usize = 4096;
const ENTRIES: u64 = 512;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Page tables that map addresses to themselves with 2 MiB pages, built in a buffer.
pub(super) struct IdentityMap {
    place: Range<u64>,
    bytes: Vec<u8>,
}

impl IdentityMap {
    /// An empty map whose tables go to `place`, the root first.
    pub(super) fn new(place: Range<u64>) -> Self {
        Self { place, bytes: vec![0; TABLE] }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Maps `range`, rounded outwards to 2 MiB. What does not fit into the tables' place stays unmapped: kernels map
    /// an initial RAM disk of that size themselves.
    pub(super) fn map(&mut self, range: Range<u64>) {
        const PAGE_SHIFT: u32 = 21;
        let last = range.end.div_ceil(1 << PAGE_SHIFT);
        for page in range.start >> PAGE_SHIFT..last {
            let (directory, in_directory) = (page / ENTRIES, page % ENTRIES);
            let Some(directory_pointers) = self.table_at(0, directory / ENTRIES) else { return };
            let Some(table) = self.table_at(directory_pointers, directory % ENTRIES) else { return };
            self.set_entry(table, in_directory, page << PAGE_SHIFT | PRESENT_WRITABLE | LARGE);
        }
    }

    /// The offset of the table that an entry points to; makes it where there is none.
    fn table_at(&mut self, table: usize, index: u64) -> Option<usize> {
        let entry = self.entry(table, index);
        if entry != 0 {
            return Some(((entry & ADDRESS) - self.place.start) as usize);
        }
        let new = self.bytes.len();
        let address = self.place.start + new as u64;
        if address + TABLE as u64 > self.place.end {
            return None;
        }
        self.bytes.resize(new + TABLE, 0);
        self.set_entry(table, index, address | PRESENT_WRITABLE);
        Some(new)
    }

    fn entry(&self, table: usize, index: u64) -> u64 {
        let at = table + (index % ENTRIES) as usize * 8;
        self.bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
    }

    fn set_entry(&mut self, table: usize, index: u64, entry: u64) {
        let at = table + (index % ENTRIES) as usize * 8;
        self.bytes[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the tables as a processor would.
    fn translate(map: &IdentityMap, address: u64) -> Option<u64> {
        let mut table = 0;
        for shift in [39, 30, 21] {
            let entry = map.entry(table, address >> shift);
            if entry & 1 == 0 {
                return None;
            }
            if entry & LARGE != 0 {
                return Some(entry & ADDRESS | address & 0x1f_ffff);
            }
            table = ((entry & ADDRESS) - map.place.start) as usize;
        }
        None
    }

    #[test]
    fn four_gib_and_a_piece_far_above_map_to_themselves() {
        let mut map = IdentityMap::new(0x3_0000..0x9_0000);
        map.map(0..1 << 32);
        map.map(0x23_4567_8000..0x23_4587_8001);
        for address in [0, 0x20_0123, 0xffff_ffff, 0x23_4567_8000, 0x23_4587_8000] {
            assert_eq!(translate(&map, address), Some(address), "{address:#x}");
        }
        assert_eq!(translate(&map, 1 << 32), None);
        assert_eq!(translate(&map, 0x23_44ff_ffff), None);
        assert_eq!(map.bytes().len(), TABLE * 7);
    }

    #[test]
    fn the_tables_stay_in_their_place() {
        let mut map = IdentityMap::new(0x3_0000..0x3_4000);
        map.map(0..1 << 40);
        assert_eq!(map.bytes().len(), 0x4000);
        assert_eq!(translate(&map, 0x7fff_ffff), Some(0x7fff_ffff));
        assert_eq!(translate(&map, 0x8000_0000), None);
    }
}
