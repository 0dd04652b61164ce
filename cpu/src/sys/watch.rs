//! Watchpoints: ranges of memory whose accesses are told to whoever asked, whatever the guest's own debug registers hold. As
//! with data breakpoints, their pages get no tag in the TLB, so that every access comes to the slow path; the instruction that
//! makes one is run again alone, and told of when it is over.

use crate::{
    fault::Stop,
    mmu::{Access, Class},
    ram::PAGE,
    state::Cpu,
};

/// A range to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its first byte.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// The address is guest-physical: whatever it is mapped at.
    pub physical: bool,
    /// Reads are told. Fetches and page walks are none.
    pub read: bool,
    /// Writes are told.
    pub write: bool,
}

/// An access to a watched range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The CPU.
    pub cpu: usize,
    /// Linear address of the instruction; of the next one, where an event's delivery made the access.
    pub rip: u64,
    /// Where the access begins.
    pub linear: u64,
    /// The same, translated.
    pub physical: u64,
    /// Its bytes.
    pub size: u64,
    /// A write, or a read and a write.
    pub write: bool,
    /// The first eight bytes at most before it; `None` where there is no RAM.
    pub before: Option<u64>,
    /// And after the instruction.
    pub after: Option<u64>,
}

/// Takes what is seen; false when it is enough.
pub type WatchSink = Box<dyn FnMut(&Watched) -> bool + Send>;

/// The watchpoints of a CPU.
#[derive(Default)]
pub(crate) struct Watchpoints {
    list: Vec<Watch>,
    sink: Option<WatchSink>,
    /// Accesses of the instruction that is running.
    seen: Vec<Watched>,
}

impl Watchpoints {
    pub(crate) fn any(&self) -> bool {
        !self.list.is_empty()
    }

    /// Whether a page may have no tag.
    pub(crate) fn hold(&self, linear: u64, physical: u64) -> bool {
        self.list.iter().any(|watch| {
            let page = if watch.physical { physical } else { linear } & !(PAGE - 1);
            overlap(watch, page, PAGE)
        })
    }
}

fn overlap(watch: &Watch, at: u64, len: u64) -> bool {
    at.wrapping_sub(watch.at) < watch.len || watch.at.wrapping_sub(at) < len
}

impl Cpu {
    /// Watches these ranges in place of earlier ones: `sink` is told of each access, until it has enough.
    pub fn watch_memory(&mut self, list: Vec<Watch>, sink: WatchSink) {
        self.watchpoints = Watchpoints { list, sink: Some(sink), seen: Vec::new() };
        self.refresh_breakpoints();
    }

    /// Whether an access hits a watchpoint: what is known of it before it is made. A fault is the access's own.
    pub(crate) fn watched(
        &mut self,
        linear: u64,
        size: u64,
        write: bool,
        class: Class,
    ) -> Result<Option<Watched>, Stop> {
        let linear = if self.long_mode() { linear } else { linear as u32 as u64 };
        if !self.watchpoints.any() || self.long_mode() && !self.canonical(linear) {
            return Ok(None);
        }
        let access = if write { Access::Write } else { Access::Read };
        let wanted = |watch: &&Watch| if write { watch.write } else { watch.read };
        let physical = |c: &mut Cpu, linear: u64| -> Result<u64, Stop> {
            Ok(c.translate(linear, access, class)?.physical | linear & (PAGE - 1))
        };
        // In the first page and in the second.
        let first = size.min(PAGE - (linear & (PAGE - 1)));
        for (at, len) in [(linear, first), (linear.wrapping_add(first), size - first)] {
            if len == 0 {
                continue;
            }
            let list = &self.watchpoints.list;
            let mut found =
                list.iter().filter(wanted).any(|watch| !watch.physical && overlap(watch, at, len));
            if !found && list.iter().any(|watch| watch.physical) {
                let place = physical(self, at)?;
                let list = &self.watchpoints.list;
                found = list.iter().filter(wanted).any(|watch| watch.physical && overlap(watch, place, len));
            }
            if found {
                let (cpu, rip, physical) = (self.id, self.rip, physical(self, linear)?);
                let before = self.seen_value(physical, size);
                return Ok(Some(Watched { cpu, rip, linear, physical, size, write, before, after: None }));
            }
        }
        Ok(None)
    }

    /// Keeps an access until its instruction is over.
    pub(crate) fn note_watched(&mut self, watched: Watched) {
        /// More than any instruction makes that runs alone.
        const MOST: usize = 64;
        if self.watchpoints.seen.len() < MOST {
            self.watchpoints.seen.push(watched);
        }
    }

    /// Tells of what the instruction at `rip` has done; if it was ended by an exception, it has done nothing.
    #[cold]
    pub(crate) fn tell_watched(&mut self, rip: Option<u64>) {
        let seen = std::mem::take(&mut self.watchpoints.seen);
        if self.why == crate::state::Why::Fault && rip.is_some() {
            return;
        }
        for mut watched in seen {
            watched.rip = rip.unwrap_or(watched.rip);
            watched.after = self.seen_value(watched.physical, watched.size);
            let goes_on = self.watchpoints.sink.as_mut().is_some_and(|sink| sink(&watched));
            if !goes_on {
                self.watchpoints = Watchpoints::default();
                self.refresh_breakpoints();
                return;
            }
        }
    }

    /// The bytes of a page that an access begins with, eight at most.
    fn seen_value(&self, physical: u64, size: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let len = size.min(8).min(PAGE - (physical & (PAGE - 1))) as usize;
        self.ram.read(physical, &mut bytes[..len]).then(|| u64::from_le_bytes(bytes))
    }
}
