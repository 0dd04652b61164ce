//! Faults that are planted in the semantics to see that the differential tester finds them. Without the feature `planted`,
//! which no ordinary build has, there are none and asking costs nothing.

/// What can be wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// ADC leaves AF clear.
    AfOfAdc = 1,
    /// PEXT passes over bit 31 of its mask.
    PextMask,
    /// Fused multiply-add of packed and scalar doubles rounds the product too.
    FmaRounding,
    /// SUB of bytes leaves OF clear.
    OfOfSub8,
    /// Of two NaNs, the second is taken.
    NanOrder,
    /// Shifts of 64 bits take five bits of the count.
    ShiftCountMask,
    /// Conversions to integers do not say that they were inexact.
    StickyPe,
    /// C1 does not say that x87 rounded up.
    RoundUpC1,
    /// PACKUSWB makes 255 of -32768.
    PackSaturation,
    /// A store across a page boundary tells its first address when the second page faults.
    CrossingFault,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 10] = [
        Bug::AfOfAdc,
        Bug::PextMask,
        Bug::FmaRounding,
        Bug::OfOfSub8,
        Bug::NanOrder,
        Bug::ShiftCountMask,
        Bug::StickyPe,
        Bug::RoundUpC1,
        Bug::PackSaturation,
        Bug::CrossingFault,
    ];
}

#[cfg(feature = "planted")]
mod active {
    use super::Bug;
    use crate::state::Cpu;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// 0 is none.
    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    /// Plants one, in all CPUs of the process, and takes the last one out.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.store(bug.map_or(0, |bug| bug as u8), Relaxed);
    }

    #[inline(always)]
    pub(crate) fn is(bug: Bug) -> bool {
        ACTIVE.load(Relaxed) == bug as u8
    }

    impl Cpu {
        /// Plants one in this CPU alone. No other CPU of the process may run while it does.
        pub fn plant(&mut self, bug: Bug) {
            self.planted = Some(bug);
        }

        /// The CPU begins to run with its own bug; gives what was planted before.
        pub(crate) fn infect(&self) -> Option<u8> {
            self.planted.map(|bug| ACTIVE.swap(bug as u8, Relaxed))
        }
    }

    /// The CPU runs no more.
    pub(crate) fn cure(before: Option<u8>) {
        if let Some(before) = before {
            ACTIVE.store(before, Relaxed);
        }
    }
}

#[cfg(feature = "planted")]
pub use active::plant;
#[cfg(feature = "planted")]
pub(crate) use active::{cure, is};

/// Whether this one is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
