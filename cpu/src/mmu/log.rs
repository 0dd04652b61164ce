//! Which pages a CPU writes, for who compares memories or copies them: no page has a write tag at first, so that the first store
//! to each comes to the slow path, which notes it.

use super::{Class, Mmu, OTHER, empty, index};
use crate::{group::EVERYTHING, ram::PAGE, state::Cpu};
use rustc_hash::FxHashSet;

/// What has been written, and what makes further stores invisible.
#[derive(Default)]
pub(super) struct WriteLog {
    pages: FxHashSet<u64>,
    /// Write tags given out: slot, class, and place in the table.
    tags: Vec<(usize, Class, usize)>,
}

impl Mmu {
    /// A page is about to be written, or just was.
    #[inline]
    pub(crate) fn note_written(&mut self, physical: u64) {
        if let Some(log) = &mut self.log {
            log.pages.insert(physical & !(PAGE - 1));
        }
    }

    /// The current address space has a write tag for `linear` now.
    #[inline]
    pub(crate) fn note_tag(&mut self, class: Class, linear: u64) {
        let current = self.current;
        if let Some(log) = &mut self.log {
            log.tags.push((current, class, index(linear)));
        }
    }

    fn take_written(&mut self) -> Vec<u64> {
        if self.log.is_some() {
            self.forget_near();
        }
        let Some(log) = &mut self.log else { return Vec::new() };
        for (slot, class, i) in log.tags.drain(..) {
            for i in [i, i ^ OTHER] {
                self.slots[slot].tables[class as usize].table.0[i].write = empty(i).write;
            }
        }
        log.pages.drain().collect()
    }
}

impl Cpu {
    /// From here on the CPU knows which pages it writes.
    pub fn log_writes(&mut self) {
        self.mmu.log = Some(WriteLog::default());
        self.mmu.protect(&[EVERYTHING]);
    }

    /// The CPU does not note any more which pages it writes.
    pub fn stop_logging_writes(&mut self) {
        self.mmu.log = None;
    }

    /// The guest-physical pages of RAM that the CPU has written since the last time, in no order; there may be some that it only
    /// meant to write. Page tables belong to them in which it has set bits. None without [`Cpu::log_writes`].
    pub fn written_pages(&mut self) -> Vec<u64> {
        self.mmu.take_written()
    }
}
