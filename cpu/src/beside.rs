//! Pages that hold code which no longer runs, beside data that is written: a loader's or a decompressor's, whose memory the
//! kernel has given to somebody else. Stores into a page with code cannot go through a write tag; so after many of them the
//! code is forgotten. If it does run, it is decoded again, and has four times as long.

use crate::{attention::Request, ram::PAGE, state::Cpu};
use rustc_hash::FxHashMap;

/// How many stores beside it code survives at first.
const STORES: u32 = 1024;
/// How many pages are counted at the most: with more, those whose code has never been forgotten are begun anew.
const PAGES: usize = 1 << 12;

/// How often each page has been written beside its code.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pages: FxHashMap<u64, Count>,
    /// Their code is to be forgotten.
    due: Vec<u64>,
}

/// How many stores are left until code goes, of how many.
#[derive(Clone, Copy, Debug)]
struct Count {
    left: u32,
    of: u32,
}

impl Beside {
    /// A page is written beside its code: true if that is to be forgotten.
    #[cfg_attr(not(feature = "jit"), allow(dead_code, reason = "translated code is what counts"))]
    fn count(&mut self, page: u64) -> bool {
        if self.pages.len() >= PAGES && !self.pages.contains_key(&page) {
            self.pages.retain(|_, count| count.of > STORES);
            // Then all of them have come back: that many are not worth the memory.
            if self.pages.len() >= PAGES {
                self.pages.clear();
            }
        }
        let count = self.pages.entry(page).or_insert(Count { left: STORES, of: STORES });
        count.left -= 1;
        if count.left != 0 {
            return false;
        }
        let of = count.of.saturating_mul(4);
        *count = Count { left: of, of };
        self.due.push(page);
        true
    }
}

impl Cpu {
    /// Translated code has written a page beside its code, without a tag.
    #[cfg_attr(not(feature = "jit"), allow(dead_code, reason = "translated code is what counts"))]
    pub(crate) fn count_beside(&mut self, physical: u64) {
        if self.beside.count(physical & !(PAGE - 1)) {
            // Not here, where code runs.
            self.attention_ref().mention(Request::CODE);
        }
    }

    /// Forgets the code of pages that have been counted enough. No code runs.
    pub(crate) fn forget_beside(&mut self) {
        while let Some(page) = self.beside.due.pop() {
            self.stored(page, PAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lasts_longer_each_time() {
        let mut beside = Beside::default();
        let mut until = |page| (1..).find(|_| beside.count(page)).unwrap();
        assert_eq!(until(0x1000), STORES);
        assert_eq!(until(0x2000), STORES);
        assert_eq!(until(0x1000), 4 * STORES);
        assert_eq!(until(0x1000), 16 * STORES);
        assert_eq!(beside.due, [0x1000, 0x2000, 0x1000, 0x1000]);
    }

    #[test]
    fn many_pages_take_nothing_from_those_whose_code_has_come_back() {
        let mut beside = Beside::default();
        assert_eq!((1..).find(|_| beside.count(0)), Some(STORES));
        for page in 1..2 * PAGES as u64 {
            beside.count(page * PAGE);
        }
        assert!(beside.pages.len() <= PAGES);
        assert_eq!((1..).find(|_| beside.count(0)), Some(4 * STORES));
    }
}
