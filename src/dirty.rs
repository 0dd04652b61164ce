//! Which pages of guest RAM are written: by processors, under whatever engine, and by devices.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Pages that were written by others than processors, or by those whose engine gives way to another; for who copies RAM while
/// the machine runs.
#[derive(Debug, Default)]
pub(crate) struct DirtyPages {
    on: AtomicBool,
    pages: Mutex<BTreeSet<u64>>,
}

impl DirtyPages {
    /// Whether anybody wants to know.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Begins with nothing written, or ends. The machine stands still.
    pub(crate) fn switch(&self, on: bool) {
        self.pages.lock().clear();
        self.on.store(on, Relaxed);
    }

    /// Bytes were written. Called behind the write, so that whoever takes the page copies what was written, or hears of it
    /// the next time.
    pub(crate) fn note(&self, range: Range<u64>) {
        if self.is_on() && !range.is_empty() {
            let pages = range.start / PAGE..=(range.end - 1) / PAGE;
            self.pages.lock().extend(pages.map(|page| page * PAGE));
        }
    }

    /// What has come together since the last time.
    pub(crate) fn take(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.pages.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_noted_while_somebody_wants_to_know() {
        let dirty = DirtyPages::default();
        dirty.note(0..PAGE);
        assert!(dirty.take().is_empty());
        dirty.switch(true);
        dirty.note(0x1fff..0x2001);
        dirty.note(0x5000..0x5000);
        dirty.note(0x7000..0x8000);
        assert_eq!(dirty.take(), [0x1000, 0x2000, 0x7000].into());
        assert!(dirty.take().is_empty());
        dirty.note(0..1);
        dirty.switch(true);
        assert!(dirty.take().is_empty());
    }
}
