//! Which RAM is still free while boot content is laid out.

use std::ops::Range;

use crate::memory_map::MemoryMap;

/// The first page holds the BIOS data area, and address zero means "nothing" to many.
pub(crate) const FIRST_FREE: u64 = 0x1000;

/// RAM that nothing has been put into yet.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// By rising address, none of them empty.
    free: Vec<Range<u64>>,
}

impl Places {
    /// All RAM of the map but its first page.
    pub(crate) fn new(memory_map: &MemoryMap) -> Self {
        let free = memory_map.ram().map(|ram| ram.start.max(FIRST_FREE)..ram.end);
        Self { free: free.filter(|range| !range.is_empty()).collect() }
    }

    /// Marks `range` as taken, whatever it was.
    pub(crate) fn take(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let old = std::mem::take(&mut self.free);
        let pieces = old
            .into_iter()
            .flat_map(|free| [free.start..free.end.min(range.start), free.start.max(range.end)..free.end]);
        self.free = pieces.filter(|piece| piece.start < piece.end).collect();
    }

    /// Takes the lowest `size` bytes at a multiple of `align` (a power of two) within `window`.
    pub(crate) fn lowest(&mut self, size: u64, align: u64, window: &Range<u64>) -> Option<Range<u64>> {
        let found = self.free.iter().find_map(|free| {
            let start = free.start.max(window.start).checked_next_multiple_of(align)?;
            let end = start.checked_add(size)?;
            (end <= free.end.min(window.end)).then_some(start..end)
        })?;
        self.take(&found);
        Some(found)
    }

    /// Takes the highest `size` bytes at a multiple of `align` (a power of two) within `window`.
    pub(crate) fn highest(&mut self, size: u64, align: u64, window: &Range<u64>) -> Option<Range<u64>> {
        let found = self.free.iter().rev().find_map(|free| {
            let start = free.end.min(window.end).checked_sub(size)? & !(align - 1);
            (start >= free.start.max(window.start)).then_some(start..start + size)
        })?;
        self.take(&found);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    const ALL: Range<u64> = 0..u64::MAX;

    fn places() -> Places {
        Places::new(&MemoryMap::pc(64 << 20, &Layout::example()))
    }

    #[test]
    fn low_and_high_places_avoid_what_is_taken() {
        let mut places = places();
        assert_eq!(places.lowest(0x100, 16, &ALL), Some(0x1000..0x1100));
        assert_eq!(places.lowest(0x100, 0x1000, &ALL), Some(0x2000..0x2100));
        assert_eq!(places.lowest(0x10, 16, &ALL), Some(0x1100..0x1110), "the gap is used");
        places.take(&(0x10_0000..0x40_0000));
        assert_eq!(places.lowest(0x10_0000, 0x1000, &ALL), Some(0x40_0000..0x50_0000));
        assert_eq!(places.highest(0x1001, 0x1000, &ALL), Some(0x3ff_e000..0x3ff_f001));
        assert_eq!(places.highest(0x1000, 0x1000, &ALL), Some(0x3ff_d000..0x3ff_e000));
        assert_eq!(places.highest(0x1000, 0x1000, &(0..0x60_0800)), Some(0x5f_f000..0x60_0000));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut places = places();
        assert_eq!(places.lowest(64 << 20, 1, &ALL), None);
        assert_eq!(places.highest(u64::MAX, 1, &ALL), None);
        assert_eq!(places.lowest(0x1000, 0x1000, &(0x9_e800..0x9_ff00)), None, "the EBDA is not RAM");
        assert_eq!(places.lowest(0x1000, 0x1000, &ALL), Some(0x1000..0x2000));
    }
}
