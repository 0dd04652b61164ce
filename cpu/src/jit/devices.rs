//! Instructions that go to devices. An access to device memory leaves translated code for the interpreter, and comes back when its
//! block has ended. An instruction that does so again and again is noted, the translations that it is part of are
//! dropped, and the next ones call its function instead.

use crate::insn::{Insn, attr};
use rustc_hash::FxHashMap;

/// So often an instruction goes to devices before its function is called for that, ...
const OFTEN: u32 = 1000;

/// ... within so many instructions: where it goes to RAM most of the time, that has to be fast.
const WITHIN: u64 = 20_000_000;

/// Most instructions that are watched.
const MOST: usize = 1 << 14;

/// What is known of an instruction.
#[derive(Clone, Copy, Debug)]
struct Met {
    times: u32,
    /// How many instructions had run when counting began.
    since: u64,
}

/// The instructions that have gone to devices.
#[derive(Debug, Default)]
pub(super) struct Devices(FxHashMap<*const Insn, Met>);

impl Devices {
    /// An instruction goes to a device, when `now` instructions have run. True if its translations are to be made anew.
    pub(super) fn meet(&mut self, i: *const Insn, now: u64) -> bool {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let met = self.0.entry(i).or_insert(Met { times: 0, since: now });
        if met.times < OFTEN && now.wrapping_sub(met.since) > WITHIN {
            *met = Met { times: 0, since: now };
        }
        met.times += 1;
        met.times == OFTEN
    }

    /// Which of a block's instructions have their functions called, a bit each.
    pub(super) fn of(&self, first: *const Insn, len: usize) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let often = |k: &usize| self.0.get(&first.wrapping_add(*k)).is_some_and(|met| met.times >= OFTEN);
        (0..len.min(64)).filter(often).fold(0, |set, k| set | 1 << k)
    }

    /// A block is gone, and others may come to stand where it was.
    pub(super) fn forget(&mut self, first: *const Insn) {
        if !self.0.is_empty() {
            // SAFETY: a block that is dropped is freed later.
            let len = unsafe { length(first) };
            for k in 0..len {
                self.0.remove(&first.wrapping_add(k));
            }
        }
    }
}

/// How many instructions a block has.
///
/// # Safety
/// `first` is the first instruction of a block that has not been freed.
pub(super) unsafe fn length(first: *const Insn) -> usize {
    let mut n = 1;
    // SAFETY: a block ends with an instruction that has LAST set.
    while unsafe { !(*first.add(n - 1)).has(attr::LAST) } {
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_to_devices_all_the_time_is_noted() {
        let mut devices = Devices::default();
        let insn = std::ptr::without_provenance::<Insn>(0x1000);
        let other = insn.wrapping_add(3);
        for k in 1..u64::from(OFTEN) {
            assert!(!devices.meet(other, k));
            assert!(!devices.meet(insn, k * WITHIN));
        }
        assert_eq!(devices.of(insn, 5), 0);
        assert!(devices.meet(other, WITHIN));
        assert!(!devices.meet(other, 9 * WITHIN), "once is enough");
        assert_eq!(devices.of(insn, 5), 1 << 3);
        assert_eq!(devices.of(insn, 3), 0);
    }
}
