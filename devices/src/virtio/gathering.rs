//! Interrupts that wait for one another: a driver with several requests on their way is interrupted for many of them at once,
//! when its processor has nothing else to do, when there are enough, or after some time.

use std::fmt;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bell::Function;
use crate::clock::{Alarm, Clock, Timed};

/// How long an interrupt waits at most, in nanoseconds: far less than disks take.
const LIMIT: u64 = 250_000;
/// How long at most where processors have become idle before that: waking the timers' thread costs something.
const PATIENCE: u64 = 8 * LIMIT;
/// So often in a row interrupts wait for as long as they may before they do not wait any more, and for how many notifications:
/// processors are busy, or become idle where nobody sees it, as those of KVM do.
const TRIALS: u32 = 4;
const PAUSE: u32 = 1024;
/// No moment.
const NEVER: u64 = u64::MAX;

/// Knows whose interrupts wait. The board tells it when a processor has nothing to do.
pub struct Gathering {
    clock: Arc<Clock>,
    alarm: Alarm,
    /// Whether an interrupt waits.
    waits: AtomicBool,
    /// Since when.
    since: AtomicU64,
    /// How long it may.
    limit: AtomicU64,
    /// How often in a row one has waited for that long.
    late: AtomicU32,
    /// For so many notifications none waits.
    at_once: AtomicU32,
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
        let [since, limit, deadline] = [0, LIMIT, NEVER].map(AtomicU64::new);
        let (waits, functions) = (AtomicBool::new(false), Mutex::default());
        let (late, at_once) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { clock, alarm, waits, since, limit, late, at_once, deadline, functions })
    }

    /// From now on this function's interrupts may wait.
    pub(super) fn add(&self, function: Weak<Mutex<dyn Function>>) {
        self.functions.lock().push(function);
    }

    /// A driver notifies a device: whether the interrupts for that may wait.
    pub(super) fn may_wait(&self) -> bool {
        // Processors that notify at the same time may count one less; that does no harm.
        let at_once = self.at_once.load(Ordering::Relaxed);
        if at_once > 0 {
            self.at_once.store(at_once - 1, Ordering::Relaxed);
        }
        at_once == 0
    }

    /// An interrupt waits from now on. Called with the function locked.
    pub(super) fn wait(&self) {
        // Ordered before the processor's look at this word: it is the one that calls, or another one that the timers help.
        if self.waits.swap(true, Ordering::SeqCst) {
            return;
        }
        let now = self.clock.now();
        self.since.store(now, Ordering::SeqCst);
        // A look that comes too early does no harm, and is not rung for twice in a limit.
        let deadline = now.saturating_add(self.limit.load(Ordering::SeqCst));
        if self.deadline.compare_exchange(NEVER, deadline, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.alarm.ring(deadline);
        }
    }

    /// A processor has nothing to do: no interrupt waits any longer. Not to be called with a device locked.
    pub fn processor_is_idle(&self) {
        if self.waits.load(Ordering::SeqCst) {
            self.limit.store(PATIENCE, Ordering::SeqCst);
            self.late.store(0, Ordering::Relaxed);
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
        let Gathering { waits, since, limit, late, at_once, deadline, .. } = &*self.0;
        if deadline.load(Ordering::SeqCst) > now {
            return;
        }
        // What waits may have begun to after the alarm rang.
        let end = since.load(Ordering::SeqCst).saturating_add(limit.load(Ordering::SeqCst));
        let waits = waits.load(Ordering::SeqCst);
        if waits && end > now {
            return deadline.store(end, Ordering::SeqCst);
        }
        deadline.store(NEVER, Ordering::SeqCst);
        if waits {
            limit.store(LIMIT, Ordering::SeqCst);
            if late.fetch_add(1, Ordering::Relaxed) + 1 == TRIALS {
                late.store(0, Ordering::Relaxed);
                at_once.store(PAUSE, Ordering::Relaxed);
            }
        }
        // Whoever began to wait meanwhile has found the old deadline, or rings for a new one.
        self.0.flush();
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
