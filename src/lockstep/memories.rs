//! The two engines' memories, and a third one as both were when they were last the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use softmetal_cpu::{Ram, Rights};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest_ram;
use crate::journal::{PAGE, for_each_used_page};

/// What CPUs drop of decoded code where a device writes.
const GRANULE: usize = 64;
/// Chips change what pages below answer to.
const GOVERNED: u64 = 1 << 20;

type Page = [u8; PAGE];

/// See the module.
pub(super) struct Memories {
    pub(super) first: Arc<Ram>,
    pub(super) second: Arc<Ram>,
    base: GuestMemoryMmap,
    /// What accesses reached the pages below [`GOVERNED`].
    rights: Vec<Rights>,
}

/// Bytes that are not the same.
pub(super) struct Unequal {
    /// Guest-physical.
    pub(super) at: u64,
    pub(super) first: Vec<u8>,
    pub(super) second: Vec<u8>,
}

fn read(memory: &GuestMemoryMmap, at: u64) -> Option<Page> {
    let mut page = [0; PAGE];
    memory.read_slice(&mut page, GuestAddress(at)).is_ok().then_some(page)
}

/// Makes a page of `ram` like `page`, and tells its CPUs no more than what changes.
fn make_like(ram: &Ram, at: u64, page: &Page) {
    let Some(now) = read(ram.memory(), at) else { return };
    for (k, (new, old)) in page.chunks(GRANULE).zip(now.chunks(GRANULE)).enumerate() {
        let at = at + (k * GRANULE) as u64;
        if new != old && ram.memory().write_slice(new, GuestAddress(at)).is_ok() {
            ram.written(at, GRANULE as u64);
        }
    }
}

fn rights(ram: &Ram) -> Vec<Rights> {
    let pages = (0..GOVERNED).step_by(PAGE);
    pages.map(|at| ram.page(at).map_or(Rights::ALL, |page| page.rights)).collect()
}

fn set_rights(ram: &Ram, rights: &[Rights]) {
    for (at, rights) in (0..GOVERNED).step_by(PAGE).zip(rights) {
        ram.set_rights(at..at + PAGE as u64, *rights);
    }
}

impl Memories {
    /// Memories for two engines of which the first one's is there.
    pub(super) fn new(first: &Arc<Ram>, bytes: u64) -> Result<Self> {
        let second = Arc::new(Ram::new(guest_ram::allocate(bytes)?));
        let base = guest_ram::allocate(bytes)?;
        let rights = rights(first);
        set_rights(&second, &rights);
        for_each_used_page(first.memory(), |at| {
            let Some(page) = read(first.memory(), at) else { return };
            if page.iter().any(|byte| *byte != 0) {
                for copy in [second.memory(), &base] {
                    // The layouts are the same: what could be read there can be written here.
                    let _ = copy.write_slice(&page, GuestAddress(at));
                }
            }
        });
        Ok(Self { first: Arc::clone(first), second, base, rights })
    }

    /// The first bytes of these pages that differ.
    pub(super) fn unequal(&self, pages: impl IntoIterator<Item = u64>) -> Option<Unequal> {
        pages.into_iter().find_map(|at| self.unequal_page(at))
    }

    /// The first bytes of all memory that differ.
    pub(super) fn unequal_anywhere(&self) -> Option<Unequal> {
        let mut pages = BTreeSet::new();
        for ram in [&self.first, &self.second] {
            for_each_used_page(ram.memory(), |at| {
                pages.insert(at);
            });
        }
        self.unequal(pages)
    }

    fn unequal_page(&self, at: u64) -> Option<Unequal> {
        const SHOWN: usize = 16;
        let (first, second) = (read(self.first.memory(), at)?, read(self.second.memory(), at)?);
        if first == second {
            return None;
        }
        let from = first.iter().zip(&second).position(|(a, b)| a != b)? & !7;
        let end = (from + SHOWN).min(PAGE);
        let (first, second) = (first[from..end].to_vec(), second[from..end].to_vec());
        Some(Unequal { at: at + from as u64, first, second })
    }

    /// Both are the same: remembers these pages as they are.
    pub(super) fn keep(&mut self, pages: &[u64], rights_changed: bool) {
        for at in pages {
            if let Some(page) = read(self.first.memory(), *at) {
                let _ = self.base.write_slice(&page, GuestAddress(*at));
            }
        }
        if rights_changed {
            self.rights = rights(&self.first);
        }
    }

    /// Makes both as they were when they were last the same, these pages at least.
    pub(super) fn go_back(&self, pages: &BTreeSet<u64>) {
        for at in pages {
            let Some(page) = read(&self.base, *at) else { continue };
            make_like(&self.first, *at, &page);
            make_like(&self.second, *at, &page);
        }
        set_rights(&self.first, &self.rights);
        set_rights(&self.second, &self.rights);
    }

    /// Makes these pages of the second like those of the first.
    pub(super) fn make_equal(&self, pages: &BTreeSet<u64>) {
        for at in pages {
            if let Some(page) = read(self.first.memory(), *at) {
                make_like(&self.second, *at, &page);
            }
        }
        set_rights(&self.second, &rights(&self.first));
    }
}
