//! Where translated code is, for profilers of the host: told piece by piece, to whom it may concern.

use super::{Jit, cache::Placed};
use crate::state::Cpu;
use std::sync::Arc;

/// Translated code that has been put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where it runs on the host.
    pub address: usize,
    /// Its bytes.
    pub bytes: usize,
    /// The linear address of the guest's code when it became hot; None for what all translations share.
    pub linear: Option<u64>,
}

/// Who wants to know. Memory is used again when all translations have been dropped: what is told last is true.
pub trait Placements: Send + Sync {
    /// Code is in its place, and may run from now on.
    fn placed(&self, placement: Placement);
}

/// Somebody, or nobody.
#[derive(Default)]
pub(super) struct Told(Option<Arc<dyn Placements>>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "not told" })
    }
}

impl Told {
    /// A translation is in its places.
    pub(super) fn translated(&self, placed: &Placed, linear: u64) {
        placed.places.iter().for_each(|&place| self.placed(place, Some(linear)));
    }

    /// Code is in its place.
    fn placed(&self, place: (usize, usize), linear: Option<u64>) {
        if let Some(told) = self.0.as_ref().filter(|_| place.1 != 0) {
            told.placed(Placement { address: place.0, bytes: place.1, linear });
        }
    }
}

impl Jit {
    fn tell(&mut self, told: Arc<dyn Placements>) {
        self.told = Told(Some(told));
        self.told.placed(self.cache.fixed_part(), None);
    }
}

impl Cpu {
    /// From now on `told` hears of each piece of translated code.
    pub fn tell_placements(&mut self, told: Arc<dyn Placements>) {
        if let Some(jit) = &mut self.jit {
            jit.tell(told);
        }
    }
}
