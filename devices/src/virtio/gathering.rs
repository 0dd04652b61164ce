//! Interrupts that wait for one another: a driver with several requests on their way is interrupted for many of them at once,
//! when its processor has nothing else to do, when there are enough, or after some time.

use std::fmt;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bell::Function;
use crate::clock::{Alarm, Clock, Timed};

/// How long an interrupt waits at most, in nanoseconds: far less than disks take.
const LIMIT: u64 = 250_000;
/// No moment.
const NEVER: u64 = u64::MAX;

/// Knows whose interrupts wait. The board tells it when a processor has nothing to do.
pub struct Gathering {
    clock: Arc<Clock>,
    alarm: Alarm,
    /// Whether an interrupt waits.
    waits: AtomicBool,
    /// When the timers are to have a look.
    deadline: AtomicU64,
    functions: Mutex<Vec<Weak<Mutex<dyn Function>>>>,
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").field("waits", &self.waits).finish_non_exhaustive()
    }
}

impl Gathering {
    /// Nobody waits. `alarm` is rung when [`GatheringTimer`] has a deadline.
    pub fn new(clock: Arc<Clock>, alarm: Alarm) -> Arc<Self> {
        let (waits, deadline) = (AtomicBool::new(false), AtomicU64::new(NEVER));
        Arc::new(Self { clock, alarm, waits, deadline, functions: Mutex::default() })
    }

    /// From now on this function's interrupts may wait.
    pub(super) fn add(&self, function: Weak<Mutex<dyn Function>>) {
        self.functions.lock().push(function);
    }

    /// An interrupt waits from now on. Called with the function locked.
    pub(super) fn wait(&self) {
        // Ordered before the processor's look at this word: it is the one that calls, or another one that the timers help.
        if self.waits.swap(true, Ordering::SeqCst) {
            return;
        }
        // A look that comes too early does no harm, and waking the timers' thread costs something: never twice in a limit.
        let deadline = self.clock.now().saturating_add(LIMIT);
        if self.deadline.compare_exchange(NEVER, deadline, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.alarm.ring(deadline);
        }
    }

    /// A processor has nothing to do: no interrupt waits any longer. Not to be called with a device locked.
    pub fn processor_is_idle(&self) {
        if self.waits.load(Ordering::SeqCst) {
            self.flush();
        }
    }

    fn flush(&self) {
        if !self.waits.swap(false, Ordering::SeqCst) {
            return;
        }
        let functions = self.functions.lock().clone();
        for function in functions.iter().filter_map(Weak::upgrade) {
            function.lock().interrupt_at_last();
        }
    }
}

/// The timed side of a [`Gathering`].
#[derive(Debug)]
pub struct GatheringTimer(pub Arc<Gathering>);

impl Timed for GatheringTimer {
    fn deadline(&self) -> Option<u64> {
        Some(self.0.deadline.load(Ordering::SeqCst)).filter(|deadline| *deadline != NEVER)
    }

    fn expire(&mut self, now: u64) {
        if self.0.deadline.load(Ordering::SeqCst) <= now {
            self.0.deadline.store(NEVER, Ordering::SeqCst);
            self.0.flush();
        }
    }
}

/// What is not told yet in a queue, and whether waiting is worth it there: a driver that waits for each request alone gains
/// nothing by it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gathered {
    /// The used index at the last interrupt.
    since: Option<u16>,
    /// How often in a row waiting has brought one request only.
    alone: u32,
    /// For so many requests nothing waits.
    at_once: u32,
}

impl Gathered {
    /// So often waiting may be for nothing before it is given up, and for how many requests.
    const TRIALS: u32 = 4;
    const PAUSE: u32 = 128;
    /// So many requests wait at most.
    const MOST: u16 = 32;

    /// Of a saved queue.
    pub(super) fn untold_since(since: Option<u16>) -> Self {
        Self { since, ..Self::default() }
    }

    /// The used index at the last interrupt, if something is not told yet.
    pub(super) fn since(&self) -> Option<u16> {
        self.since
    }

    /// The used index has gone from `from` to `to`: whether the driver may hear of it later.
    pub(super) fn may_wait(&mut self, from: u16, to: u16) -> bool {
        let count = to.wrapping_sub(from);
        if self.at_once > 0 {
            self.at_once = self.at_once.saturating_sub(count.into());
            return false;
        }
        let may = (1..Self::MOST).contains(&count);
        if may {
            self.since = Some(from);
        }
        may
    }

    /// The driver hears of it now that the used index is `to`.
    pub(super) fn told(&mut self, to: u16) {
        let Some(from) = self.since.take() else { return };
        if to.wrapping_sub(from) > 1 {
            self.alone = 0;
            return;
        }
        self.alone += 1;
        if self.alone == Self::TRIALS {
            (self.alone, self.at_once) = (0, Self::PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
