//! Pages of device memory that were used last: an access to a device has no entry in a first-level table, and would walk the
//! page tables, or look in the second level, each time.
//!
//! Everything that takes a tag away from a first-level table drops all of it, as it does with [`super::near::Near`]: what is
//! known here lives as long as an entry of a TLB may.

use super::{Access, Class, Mmu};
use crate::ram::PAGE;

/// How many are known, each for reading or for writing: a driver uses one or two pages at a time.
const PAGES: usize = 16;

/// Bit of [`DevicePage::key`] that is set where a page is known.
const KNOWN: u64 = 1;
/// Bit that is set where it is known for writing, not for reading.
const WRITE: u64 = 2;
/// Where the class begins, two bits.
const CLASS: u32 = 2;

/// A page whose accesses of one kind go to the bus.
#[derive(Clone, Copy, Debug)]
struct DevicePage {
    /// Linear address of the page, who accesses it how, and [`KNOWN`]; 0 where nothing is known.
    key: u64,
    /// Guest-physical address of the page.
    physical: u64,
}

/// All that are known, of the current address space.
#[derive(Clone, Debug)]
pub(super) struct DevicePages([DevicePage; PAGES]);

impl DevicePages {
    pub(super) const NONE: DevicePages = DevicePages([DevicePage { key: 0, physical: 0 }; PAGES]);
}

fn key(class: Class, linear: u64, write: bool) -> u64 {
    let how = if write { KNOWN | WRITE } else { KNOWN };
    linear & !(PAGE - 1) | (class as u64) << CLASS | how
}

fn place(linear: u64, write: bool) -> usize {
    ((linear >> 12) as usize * 2 + usize::from(write)) % PAGES
}

impl Mmu {
    /// The guest-physical address of an access that goes to the bus, if that is known of its page.
    pub(crate) fn device_at(&self, class: Class, linear: u64, access: Access) -> Option<u64> {
        let write = access == Access::Write;
        let page = &self.device_pages.0[place(linear, write)];
        (page.key == key(class, linear, write)).then_some(page.physical | linear & (PAGE - 1))
    }

    /// Such an access has been translated, with all its rights.
    pub(crate) fn note_device(&mut self, class: Class, linear: u64, access: Access, physical: u64) {
        let write = access == Access::Write;
        let key = key(class, linear, write);
        self.device_pages.0[place(linear, write)] = DevicePage { key, physical: physical & !(PAGE - 1) };
    }
}
