//! What a CPU has done, in numbers, and what it is doing at this moment.
//!
//! Counters stand where an event costs much more than an addition: TLB misses, look-ups, deliveries, devices. Nothing is
//! counted for each block or instruction but what the budget counts anyway. Time is not measured at all: the CPU's thread says
//! in a word what it is about ([`Whereabouts`]), and who wants to know where time goes reads that word now and then.

use crate::{
    attention::{Attention, Request},
    mode::Mode,
    state::Cpu,
};
use rustc_hash::FxHashMap;
use std::ops::AddAssign;
use std::sync::{
    Arc,
    atomic::{
        AtomicU8, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

/// What a CPU's thread is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// Between blocks: it looks what others want, and where to go on.
    #[default]
    Dispatch,
    /// The interpreter's handlers run guest code.
    Interpreter,
    /// Translated guest code runs.
    Translated,
    /// Chooses code to be translated, puts translations in place, or waits for one.
    Translating,
    /// Finds, decodes or drops blocks.
    Code,
    /// TLB misses, page walks, flushes.
    Mmu,
    /// Delivers exceptions and interrupts.
    Delivery,
    /// A device answers.
    Device,
    /// Waits until other CPUs stand still.
    Others,
    /// Halted, or not yet started by another CPU.
    Idle,
    /// The machine is paused.
    Paused,
    /// The host's virtualization runs guest code, or holds a halted CPU.
    Hardware,
}

impl Doing {
    /// All, by number.
    pub const ALL: [Doing; 12] = [
        Doing::Dispatch,
        Doing::Interpreter,
        Doing::Translated,
        Doing::Translating,
        Doing::Code,
        Doing::Mmu,
        Doing::Delivery,
        Doing::Device,
        Doing::Others,
        Doing::Idle,
        Doing::Paused,
        Doing::Hardware,
    ];

    /// Whether guest code makes the CPU do it, so that a profile has a place for it.
    pub fn is_work(self) -> bool {
        !matches!(self, Doing::Idle | Doing::Paused)
    }
}

/// Where a CPU is, for other threads.
#[derive(Debug, Default)]
pub struct Whereabouts {
    doing: AtomicU8,
    /// Samples that were asked for and not yet taken.
    owed: AtomicU32,
    attention: Arc<Attention>,
}

impl Whereabouts {
    pub(crate) fn new(attention: Arc<Attention>) -> Self {
        Whereabouts { doing: AtomicU8::new(Doing::default() as u8), owed: AtomicU32::new(0), attention }
    }

    /// What the CPU's thread is about.
    pub fn doing(&self) -> Doing {
        Doing::ALL.get(usize::from(self.doing.load(Relaxed))).copied().unwrap_or_default()
    }

    /// Says what the calling thread, the CPU's, is about from here on.
    #[inline(always)]
    pub(crate) fn set(&self, doing: Doing) {
        self.doing.store(doing as u8, Relaxed);
    }

    /// Does a piece of work of this kind in the calling thread, the CPU's.
    #[inline(always)]
    pub fn during<R>(&self, doing: Doing, work: impl FnOnce() -> R) -> R {
        let before = self.doing.load(Relaxed);
        self.set(doing);
        let result = work();
        self.doing.store(before, Relaxed);
        result
    }

    /// Has the CPU note at its next safepoint which guest code it has just run: see [`Cpu::profile`]. One that sleeps sleeps
    /// on.
    pub fn sample(&self) {
        self.owed.fetch_add(1, SeqCst);
        self.attention.mention(Request::SAMPLE);
    }
}

/// Why translations of addresses were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// MOV to CR3: those of one address space.
    Cr3,
    /// INVLPG and INVPCID: one page.
    Page,
    /// The same for a page of 2 MiB or more, of which pieces were cached: all.
    LargePage,
    /// INVPCID: those of an address space, or all.
    Invpcid,
    /// CR0, CR4, EFER, PKRU: all.
    Control,
    /// There are more address spaces than tables for them.
    Evicted,
    /// Code was decoded: the right to write there without a look at it.
    Decoded,
    /// The memory map changed: all.
    Map,
    /// Breakpoints and watchpoints, RESET and INIT: all.
    Other,
}

impl Flush {
    /// All, by number.
    pub const ALL: [Flush; 9] = [
        Flush::Cr3,
        Flush::Page,
        Flush::LargePage,
        Flush::Invpcid,
        Flush::Control,
        Flush::Evicted,
        Flush::Decoded,
        Flush::Map,
        Flush::Other,
    ];
}

/// The one list of the counters that are single numbers.
macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the CPU was made.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
            /// Translations dropped, by [`Flush`].
            pub flushes: [u64; Flush::ALL.len()],
            /// Exceptions by vector, those during the delivery of another included.
            pub exceptions: [u64; 32],
            /// External interrupts by vector.
            pub interrupts: [u64; 256],
            /// INT n, INT3 and INTO by vector.
            pub software_interrupts: [u64; 256],
        }

        impl Default for Statistics {
            fn default() -> Self {
                Statistics {
                    $($name: 0,)*
                    flushes: [0; Flush::ALL.len()],
                    exceptions: [0; 32],
                    interrupts: [0; 256],
                    software_interrupts: [0; 256],
                }
            }
        }

        impl Statistics {
            /// The counters that are single numbers, with their names.
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl AddAssign<&Statistics> for Statistics {
            fn add_assign(&mut self, other: &Statistics) {
                $(self.$name += other.$name;)*
                let lists = [
                    (&mut self.flushes[..], &other.flushes[..]),
                    (&mut self.exceptions[..], &other.exceptions[..]),
                    (&mut self.interrupts[..], &other.interrupts[..]),
                    (&mut self.software_interrupts[..], &other.software_interrupts[..]),
                ];
                for (own, others) in lists {
                    own.iter_mut().zip(others).for_each(|(own, other)| *own += other);
                }
            }
        }
    };
}

statistics! {
    /// Instructions retired.
    instructions,
    /// Those of them at CPL 3.
    user_instructions,
    /// Blocks decoded.
    blocks,
    /// Instructions decoded.
    decoded,
    /// Look-ups of an instruction that reaches into a second page, or comes from a device: it has a block of its own.
    loose,
    /// Blocks that the dispatcher found in the jump cache.
    jumps,
    /// Look-ups that missed the jump cache.
    lookups,
    /// Links made from block to block.
    links,
    /// Blocks dropped because their code was written.
    invalidations,
    /// Entries into dropped blocks.
    stale,
    /// Data accesses that missed the TLB.
    tlb_misses,
    /// Fetches that missed theirs.
    fetch_misses,
    /// Entries made in the TLB for data.
    tlb_fills,
    /// Misses that the second level answered.
    second_level,
    /// Page-table walks.
    walks,
    /// Address spaces selected: MOV to CR3, whatever it dropped.
    switches,
    /// Accesses to device memory and ports.
    device_accesses,
    /// Accesses to the local APIC as MSRs.
    apic_msrs,
    /// Steps with all other CPUs stopped: LOCK where the host has no such operation.
    stops,
}

/// Guest code that was found running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sample {
    /// At CPL 3: the guest-physical address of the top page table, which tells programs apart.
    pub user: Option<u64>,
    /// Linear address of an instruction.
    pub linear: u64,
}

/// Different samples that are kept apart. A guest decides how many there are.
const SAMPLES: usize = 1 << 18;

/// What [`Whereabouts::sample`] has found.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// How often each was found.
    pub samples: FxHashMap<Sample, u64>,
    /// Samples for which there was no room.
    pub others: u64,
}

impl AddAssign<&Profile> for Profile {
    fn add_assign(&mut self, other: &Profile) {
        self.others += other.others;
        other.samples.iter().for_each(|(sample, count)| self.add(*sample, *count));
    }
}

impl Profile {
    fn add(&mut self, sample: Sample, count: u64) {
        if self.samples.len() < SAMPLES || self.samples.contains_key(&sample) {
            *self.samples.entry(sample).or_default() += count;
        } else {
            self.others += count;
        }
    }
}

impl Cpu {
    /// Counters since the CPU was made.
    pub fn statistics(&self) -> Statistics {
        let spaces = self.address_spaces();
        Statistics {
            instructions: self.instructions(),
            user_instructions: spaces.iter().map(|space| space.instructions).sum(),
            flushes: *self.mmu.flushes(),
            ..self.statistics.clone()
        }
    }

    /// How often what is known of page tables was dropped, by [`Flush`], since the CPU was made: as in [`Cpu::statistics`].
    pub fn flushes(&self) -> &[u64; Flush::ALL.len()] {
        self.mmu.flushes()
    }

    /// Where this CPU is, for other threads.
    pub fn whereabouts(&self) -> Arc<Whereabouts> {
        Arc::clone(&self.whereabouts)
    }

    /// Which guest code ran when samples were asked for.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Does a piece of work of this kind.
    #[inline(always)]
    pub(crate) fn within<R>(&mut self, doing: Doing, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.whereabouts.doing.load(Relaxed);
        self.whereabouts.set(doing);
        let result = work(self);
        self.whereabouts.doing.store(before, Relaxed);
        result
    }

    /// Notes the code that has just run, as often as somebody has asked.
    #[cold]
    pub(crate) fn take_sample(&mut self) {
        let count = self.whereabouts.owed.swap(0, SeqCst);
        if count == 0 {
            return;
        }
        let linear = self.left.unwrap_or(self.rip);
        let user = self.mode.contains(Mode::USER).then(|| self.address_space());
        self.profile.add(Sample { user, linear }, count.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_lists() {
        for (number, doing) in Doing::ALL.into_iter().enumerate() {
            assert_eq!(doing as usize, number);
        }
        for (number, flush) in Flush::ALL.into_iter().enumerate() {
            assert_eq!(flush as usize, number);
        }
    }

    #[test]
    fn sums_have_every_counter() {
        let mut sum = Statistics { decoded: 3, ..Statistics::default() };
        let mut other = Statistics { decoded: 4, stops: 1, ..Statistics::default() };
        other.interrupts[255] = 2;
        other.flushes[Flush::Other as usize] = 5;
        sum += &other;
        assert!(sum.numbers().contains(&("decoded", 7)) && sum.numbers().contains(&("stops", 1)));
        assert_eq!((sum.interrupts[255], sum.flushes[Flush::Other as usize]), (2, 5));
    }

    #[test]
    fn a_guest_cannot_make_a_profile_grow_for_ever() {
        let mut profile = Profile::default();
        let sample = |linear| Sample { user: None, linear };
        for linear in 0..SAMPLES as u64 + 10 {
            profile.add(sample(linear), 2);
        }
        profile.add(sample(0), 3);
        assert_eq!((profile.samples.len(), profile.others), (SAMPLES, 20));
        assert_eq!(profile.samples[&sample(0)], 5);
        let mut more = Profile { others: 1, ..Profile::default() };
        more.add(sample(0), 1);
        more.add(sample(u64::MAX), 1);
        profile += &more;
        assert_eq!((profile.samples.len(), profile.samples[&sample(0)], profile.others), (SAMPLES, 6, 22));
    }
}
