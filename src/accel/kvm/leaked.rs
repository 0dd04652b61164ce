//! Vector registers that user code has though its system does not know of them: a KVM that imitates virtualization in software runs
//! user code with all that the host's processor has, and shows it in CPUID. The system does not save them when it goes from one
//! thread to another: so we keep them, by thread.

use std::collections::HashMap;

use super::extended::AREA;

/// A thread of user code: the root of its page tables, and the base of FS, where its own memory is.
pub(super) type Thread = (u64, u64);

/// Areas as XSAVE writes them, of threads that have used such registers.
#[derive(Default)]
pub(super) struct Leaked {
    areas: HashMap<Thread, Kept>,
    now: u64,
}

struct Kept {
    area: Box<[u8; AREA]>,
    /// When it was seen last.
    seen: u64,
}

impl Leaked {
    /// Of so many threads at most; of more, those that have not run for the longest time lose theirs.
    const MOST: usize = 4096;

    /// What the thread left behind, or None if all of it is in its initial configuration.
    pub(super) fn get(&self, thread: Thread) -> Option<&[u8; AREA]> {
        self.areas.get(&thread).map(|kept| &*kept.area)
    }

    /// The thread leaves an area in which there is something, or not.
    pub(super) fn put(&mut self, thread: Thread, area: Option<&[u8; AREA]>) {
        let Some(area) = area else {
            self.areas.remove(&thread);
            return;
        };
        self.now += 1;
        if let Some(kept) = self.areas.get_mut(&thread) {
            *kept.area = *area;
            kept.seen = self.now;
            return;
        }
        if self.areas.len() == Self::MOST
            && let Some(oldest) =
                self.areas.iter().min_by_key(|(_, kept)| kept.seen).map(|(thread, _)| *thread)
        {
            self.areas.remove(&oldest);
        }
        self.areas.insert(thread, Kept { area: Box::new(*area), seen: self.now });
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
    fn the_oldest_goes() {
        let mut leaked = Leaked::default();
        for k in 0..Leaked::MOST as u64 {
            leaked.put((k, 0), Some(&[1; AREA]));
        }
        leaked.put((0, 0), Some(&[2; AREA]));
        leaked.put((9999, 0), Some(&[1; AREA]));
        assert!(
            leaked.get((0, 0)).is_some() && leaked.get((9999, 0)).is_some() && leaked.get((1, 0)).is_none()
        );
    }
}
