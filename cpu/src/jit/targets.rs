//! Where indirect branches lead. Code translated in one pass notes it, so that regions can go on there.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use crate::insn::Insn;

/// How many times are remembered for each branch, a power of two.
pub(super) const SEEN: usize = 32;

/// Most places that a region goes on to behind an indirect branch.
pub(super) const MOST: usize = 14;

/// The places where one branch led last, relative to its page. The places of times that have not been are [`NOWHERE`].
pub(super) type Ring = [AtomicI32; SEEN];

/// No page offset that code stands at: the linear address space has no page so far away, in 32 bits.
const NOWHERE: i32 = i32::MIN;

/// A place where a branch led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Relative to the branch's page.
    pub(crate) offset: i32,
    /// How many times of those that are remembered.
    pub(crate) times: u32,
}

/// Where a branch led, the most frequent first.
pub(crate) type Targets = SmallVec<[Target; 1]>;

/// What is known of the indirect branches at the ends of blocks.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// By the first instruction of the block.
    rings: FxHashMap<*const Insn, Box<Ring>>,
    /// Those of dropped blocks: their code may still stand on the way out.
    #[allow(clippy::vec_box, reason = "code writes into them where they are")]
    retired: Vec<Box<Ring>>,
}

impl Rings {
    /// Address of the ring of a block, into which its code writes.
    pub(super) fn address(&mut self, first: *const Insn) -> u64 {
        let new = || Box::new([const { AtomicI32::new(NOWHERE) }; SEEN]);
        self.rings.entry(first).or_insert_with(new).as_ptr() as u64
    }

    /// The block has been dropped.
    pub(super) fn retire(&mut self, first: *const Insn) {
        self.retired.extend(self.rings.remove(&first));
    }

    /// All translated code has been dropped.
    pub(super) fn clear(&mut self) {
        self.rings.clear();
        self.retired.clear();
    }

    /// Where the branch at a block's end led.
    pub(super) fn of(&self, first: *const Insn) -> Targets {
        let Some(ring) = self.rings.get(&first) else { return Targets::new() };
        let mut targets: SmallVec<[Target; SEEN]> = SmallVec::new();
        for offset in ring.iter().map(|offset| offset.load(Relaxed)).filter(|&offset| offset != NOWHERE) {
            match targets.iter_mut().find(|known| known.offset == offset) {
                Some(known) => known.times += 1,
                None => targets.push(Target { offset, times: 1 }),
            }
        }
        // Equal ones by address: the same ring gives the same code.
        targets.sort_unstable_by_key(|target| (std::cmp::Reverse(target.times), target.offset));
        targets.into_iter().take(MOST).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_given_by_how_often_they_were_seen() {
        let mut rings = Rings::default();
        let first = std::ptr::null();
        rings.address(first);
        assert!(rings.of(first).is_empty());
        for (k, offset) in [0x40, -0x1000, 0x40, 0x80, 0x80, 0x40].into_iter().enumerate() {
            rings.rings[&first][k].store(offset, Relaxed);
        }
        let target = |offset, times| Target { offset, times };
        assert_eq!(rings.of(first).as_slice(), [target(0x40, 3), target(0x80, 2), target(-0x1000, 1)]);
        rings.retire(first);
        assert!(rings.of(first).is_empty());
    }
}
