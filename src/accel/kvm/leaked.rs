//! Vector registers that user code has though its system does not know of them: a KVM that imitates virtualization in software runs
//! user code with all that the host's processor has, and shows it in CPUID. The system does not save them when it goes from one
//! thread to another: so we keep them, by thread.

use std::collections::HashMap;
use std::mem;

use super::extended::AREA;

/// A thread of user code: the root of its page tables, and the base of FS, where its own memory is.
pub(super) type Thread = (u64, u64);

/// Areas as XSAVE writes them, of threads that have used such registers: in two generations, of which the younger one grows.
#[derive(Default)]
pub(super) struct Leaked {
    young: HashMap<Thread, Box<[u8; AREA]>>,
    old: HashMap<Thread, Box<[u8; AREA]>>,
}

impl Leaked {
    /// Of so many threads that have run last none loses what it has.
    const KEPT: usize = 2048;

    /// What the thread left behind, or None if all of it is in its initial configuration.
    pub(super) fn get(&self, thread: Thread) -> Option<&[u8; AREA]> {
        self.young.get(&thread).or_else(|| self.old.get(&thread)).map(|area| &**area)
    }

    /// The thread leaves an area in which there is something, or not.
    pub(super) fn put(&mut self, thread: Thread, area: Option<&[u8; AREA]>) {
        let place = self.young.remove(&thread).or_else(|| self.old.remove(&thread));
        let Some(area) = area else { return };
        if self.young.len() == Self::KEPT {
            self.old = mem::take(&mut self.young);
        }
        let mut place = place.unwrap_or_else(|| Box::new([0; AREA]));
        *place = *area;
        self.young.insert(thread, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_what_they_left() {
        let mut leaked = Leaked::default();
        let area = |byte| [byte; AREA];
        leaked.put((1, 2), Some(&area(3)));
        leaked.put((1, 3), Some(&area(4)));
        assert_eq!((leaked.get((1, 2)), leaked.get((1, 3))), (Some(&area(3)), Some(&area(4))));
        leaked.put((1, 2), Some(&area(5)));
        leaked.put((1, 3), None);
        assert_eq!((leaked.get((1, 2)), leaked.get((1, 3))), (Some(&area(5)), None));
    }

    #[test]
    fn those_that_have_run_last_stay() {
        let mut leaked = Leaked::default();
        let kept = Leaked::KEPT as u64;
        for k in 0..3 * kept {
            leaked.put((k, 0), Some(&[k as u8; AREA]));
            // One that runs all the time.
            leaked.put((0, 1), Some(&[1; AREA]));
        }
        assert_eq!(leaked.get((0, 1)), Some(&[1; AREA]));
        for k in 2 * kept + 1..3 * kept {
            assert_eq!(leaked.get((k, 0)), Some(&[k as u8; AREA]), "{k}");
        }
        assert_eq!(leaked.get((0, 0)), None);
        assert!(leaked.young.len() + leaked.old.len() <= 2 * Leaked::KEPT);
    }
}
