//! What translated code looks at before the TLB: for each register that addresses begin with, the page that was read and the
//! page that was written last. Where an array or the stack is gone through, the answer is there before the address is: the
//! access waits for no probe.
//!
//! Everything that takes a tag away from a first-level table drops all of it.

use super::Mmu;
use crate::ram::PAGE;

/// Pages are known by what addresses begin with: a general register by its number, or one of these.
#[cfg(feature = "jit")]
pub(crate) const BY_RIP: u8 = 16;
/// Neither a register nor RIP.
pub(crate) const ABSOLUTE: u8 = 17;

/// The bytes from an address on that are looked at with it: more than any access has.
pub(crate) const SPAN: u64 = 32;

/// Addresses this far into a page and no further are answered: so none of these bytes lies beyond.
pub(crate) const ROOM: u64 = PAGE - (SPAN - 1);

/// The same where 16 bytes are enough.
pub(crate) const ROOM_16: u64 = PAGE - 15;

/// A page that was used last.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct NearPage {
    /// Linear address of the page.
    pub(crate) tag: u64,
    /// Host address = linear address + this.
    pub(crate) addend: u64,
    /// [`ROOM`], or 0 where nothing is known.
    pub(crate) room: u64,
    /// [`ROOM_16`], or 0, or anything on hosts without one-pass translation.
    pub(crate) room_16: u64,
}

const PAGES: usize = 36;
const _: () = assert!(size_of::<NearPage>() == 32 && PAGES == 2 * (ABSOLUTE as usize + 1));

/// All of one class of accesses.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Near([NearPage; PAGES]);

impl Near {
    pub(super) const EMPTY: Near = Near([NearPage { tag: 0, addend: 0, room: 0, room_16: 0 }; PAGES]);

    /// Where it stands what is known of `begin`, a register or one of the constants above.
    #[cfg(feature = "jit")]
    pub(crate) const fn index(begin: u8, write: bool) -> usize {
        begin as usize * 2 + write as usize
    }

    fn forget(&mut self) {
        for page in &mut self.0 {
            (page.room, page.room_16) = (0, 0);
        }
    }

    /// An access at a linear address has been found at a host address, by a tag.
    pub(crate) fn note(&mut self, index: usize, linear: u64, host: *const u8) {
        if let Some(page) = self.0.get_mut(index) {
            let addend = (host as u64).wrapping_sub(linear);
            *page = NearPage { tag: linear & !(PAGE - 1), addend, room: ROOM, room_16: ROOM_16 };
        }
    }
}

impl Mmu {
    /// Nothing is known any more.
    pub(super) fn forget_near(&mut self) {
        let [user, supervisor, supervisor_ac] = &mut *self.near;
        let [user_used, supervisor_used] = std::mem::take(&mut self.near_used);
        if user_used {
            user.forget();
        }
        // STAC and CLAC change from one to the other without a word.
        if supervisor_used {
            supervisor.forget();
            supervisor_ac.forget();
        }
        self.near_used[usize::from(self.near_supervisor)] = true;
    }
}
