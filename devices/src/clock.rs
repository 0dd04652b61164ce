//! Guest time: one clock, from which the TSC and every timer chip derive theirs, so that a guest that calibrates one
//! against another finds them coherent however loaded the host is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{host_time::HostTime, host_tsc};

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;

/// The guest's TSC frequency on hosts without a TSC of their own.
const PORTABLE_TSC_HZ: u64 = 1_000_000_000;

/// The clock that owns guest time: nanoseconds since power-on, standing still while the machine is paused.
///
/// Reading takes no lock: vCPUs read it for every RDTSC.
pub struct Clock {
    source: Source,
    tsc_hz: u64,
    /// Guards `base` and `paused` for readers: odd while a writer is at work, and different after each change.
    sequence: AtomicU64,
    /// Running: guest time minus the source's time (wrapping). Paused: guest time itself.
    base: AtomicU64,
    paused: AtomicBool,
    writer: Mutex<()>,
}

/// Where time comes from.
enum Source {
    /// The host's monotonic clock.
    Host(HostTime),
    /// Nanoseconds that [`Clock::advance`] added up.
    Manual(AtomicU64),
    /// A counter elsewhere, a nanosecond each, and what [`Clock::advance`] added.
    Counted(Box<dyn Fn() -> u64 + Send + Sync>, AtomicU64),
}

/// What a snapshot keeps of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Guest time in nanoseconds since power-on.
    pub now: u64,
    /// The guest's TSC frequency, for the one who loads to compare: it is not adopted.
    pub tsc_hz: u64,
}

impl Clock {
    /// A clock that follows the host's monotonic clock, its TSC at the host's frequency where there is one and at
    /// 1 GHz elsewhere. May take up to 5 ms for calibration.
    pub fn host() -> Arc<Clock> {
        Clock::host_with_tsc(host_tsc::frequency().unwrap_or(PORTABLE_TSC_HZ))
    }

    /// A clock that follows the host's monotonic clock, its TSC at a given frequency.
    pub fn host_with_tsc(tsc_hz: u64) -> Arc<Clock> {
        Clock::new(Source::Host(HostTime::new()), tsc_hz)
    }

    /// A clock that moves by a nanosecond with each step of `counter`, which never goes back, and by
    /// [`advance`](Clock::advance): for runs that are the same each time.
    pub fn counted(tsc_hz: u64, counter: impl Fn() -> u64 + Send + Sync + 'static) -> Arc<Clock> {
        Clock::new(Source::Counted(Box::new(counter), AtomicU64::new(0)), tsc_hz)
    }

    /// A clock that moves only by [`advance`](Clock::advance): for tests, and for runs that take their time from a log.
    pub fn manual(tsc_hz: u64) -> Arc<Clock> {
        Clock::new(Source::Manual(AtomicU64::new(0)), tsc_hz)
    }

    fn new(source: Source, tsc_hz: u64) -> Arc<Clock> {
        assert!(tsc_hz > 0, "a TSC needs a frequency");
        Arc::new(Clock {
            source,
            tsc_hz,
            sequence: AtomicU64::new(0),
            base: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            writer: Mutex::new(()),
        })
    }

    /// Guest time in nanoseconds since power-on.
    #[inline]
    pub fn now(&self) -> u64 {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            if sequence & 1 == 0 {
                let now = self.now_unchecked();
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == sequence {
                    return now;
                }
            }
            std::hint::spin_loop();
        }
    }

    /// The guest's TSC: [`now`](Clock::now) in ticks of [`tsc_hz`](Clock::tsc_hz). Offsets are the CPU's business.
    #[inline]
    pub fn tsc(&self) -> u64 {
        self.ns_to_tsc(self.now())
    }

    /// The guest's TSC frequency in Hz.
    #[inline]
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// The TSC's value at guest time `ns`.
    #[inline]
    pub fn ns_to_tsc(&self, ns: u64) -> u64 {
        ns_to_ticks(ns, self.tsc_hz)
    }

    /// The first nanosecond at which the TSC has reached `tsc`: a deadline is never early.
    #[inline]
    pub fn tsc_to_ns(&self, tsc: u64) -> u64 {
        ticks_to_ns(tsc, self.tsc_hz)
    }

    /// Stops guest time. Nothing happens if it stands already.
    pub fn pause(&self) {
        self.change(|clock| {
            if !clock.is_paused() {
                clock.base.store(clock.now_unchecked(), Ordering::Relaxed);
                clock.paused.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Lets guest time go on from where it stopped.
    pub fn resume(&self) {
        self.change(|clock| {
            if clock.is_paused() {
                let now = clock.base.load(Ordering::Relaxed);
                clock.base.store(now.wrapping_sub(clock.source_ns()), Ordering::Relaxed);
                clock.paused.store(false, Ordering::Relaxed);
            }
        });
    }

    /// Whether guest time stands still.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Moves a manual or counted clock forward; while paused, guest time stands all the same. A host clock cannot be moved.
    pub fn advance(&self, ns: u64) {
        if let Source::Manual(elapsed) | Source::Counted(_, elapsed) = &self.source {
            elapsed.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// Moves a manual or counted clock so that guest time becomes `ns`, if that lies ahead.
    pub fn advance_to(&self, ns: u64) {
        self.advance(ns.saturating_sub(self.now()));
    }

    /// How long to sleep until guest time `deadline`, in host time; zero if it has passed. While the clock is paused,
    /// or is a manual one, only [`resume`](Clock::resume) or [`advance`](Clock::advance) brings the deadline nearer.
    pub fn time_until(&self, deadline: u64) -> Duration {
        Duration::from_nanos(deadline.saturating_sub(self.now()))
    }

    /// What a snapshot keeps.
    pub fn save(&self) -> ClockState {
        ClockState { now: self.now(), tsc_hz: self.tsc_hz }
    }

    /// Sets guest time to that of a snapshot; running or paused, the clock stays so.
    pub fn load(&self, state: &ClockState) {
        self.change(|clock| {
            let origin = if clock.is_paused() { 0 } else { clock.source_ns() };
            clock.base.store(state.now.wrapping_sub(origin), Ordering::Relaxed);
        });
    }

    fn now_unchecked(&self) -> u64 {
        let base = self.base.load(Ordering::Relaxed);
        if self.is_paused() { base } else { base.wrapping_add(self.source_ns()) }
    }

    fn source_ns(&self) -> u64 {
        match &self.source {
            Source::Host(time) => time.ns(),
            Source::Manual(elapsed) => elapsed.load(Ordering::Relaxed),
            Source::Counted(counter, skipped) => counter().wrapping_add(skipped.load(Ordering::Relaxed)),
        }
    }

    /// Runs a change of `base` and `paused` so that no reader sees one without the other.
    fn change(&self, change: impl FnOnce(&Clock)) {
        let _writer = self.writer.lock();
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.let_readers_finish();
        change(self);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}

impl Clock {
    /// A processor may check `sequence` a little before it reads the host's counter, although the program says
    /// otherwise. Such a reader has seen a time later than the one that a change would take now: so take a later one.
    fn let_readers_finish(&self) {
        const REORDERING_NS: u64 = 1_000;
        if let Source::Host(_) = self.source {
            let start = self.source_ns();
            while self.source_ns() - start < REORDERING_NS {
                std::hint::spin_loop();
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).field("tsc_hz", &self.tsc_hz).finish()
    }
}

/// How often a counter of `hz` has ticked in `ns`, rounded down; wraps at 64 bits as the counter does.
#[inline]
pub fn ns_to_ticks(ns: u64, hz: u64) -> u64 {
    // Seconds and the rest apart: exact, and without a 128-bit division on the way of RDTSC.
    let (seconds, rest) = (ns / NS_PER_SEC, ns % NS_PER_SEC);
    let rest_ticks = match rest.checked_mul(hz) {
        Some(product) => product / NS_PER_SEC,
        None => (u128::from(rest) * u128::from(hz) / u128::from(NS_PER_SEC)) as u64,
    };
    seconds.wrapping_mul(hz).wrapping_add(rest_ticks)
}

/// The first nanosecond at which a counter of `hz` has ticked `ticks` times; saturates at the end of time.
///
/// # Panics
/// If `hz` is zero.
#[inline]
pub fn ticks_to_ns(ticks: u64, hz: u64) -> u64 {
    let ns = (u128::from(ticks) * u128::from(NS_PER_SEC)).div_ceil(u128::from(hz));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Something that wants to act at a moment of guest time.
///
/// The board's event loop sleeps until the smallest deadline of all, then calls `expire` on whoever is due.
pub trait Timed {
    /// When to act next, in guest nanoseconds; `None` if nothing is under way.
    fn deadline(&self) -> Option<u64>;

    /// Does what is due at `now`. Early and repeated calls do no harm.
    fn expire(&mut self, now: u64);
}

/// The bell that a device rings when its deadline moved to an earlier moment, so that the event loop sleeps less long.
///
/// It is rung with the device's lock held: the one who listens notes it and must not call back into the device.
#[derive(Clone)]
pub struct Alarm(Arc<dyn Fn(u64) + Send + Sync>);

impl Alarm {
    /// A bell that calls `listener` with the new deadline in guest nanoseconds.
    pub fn new(listener: impl Fn(u64) + Send + Sync + 'static) -> Alarm {
        Alarm(Arc::new(listener))
    }

    /// A bell that nobody hears: for tests, and for boards that ask for deadlines after each access.
    pub fn silent() -> Alarm {
        Alarm::new(|_| ())
    }

    /// Says that the device now waits for `deadline`.
    pub fn ring(&self, deadline: u64) {
        (self.0)(deadline);
    }

    /// Rings if a deadline came up or moved nearer between `before` and `after`.
    pub fn ring_if_earlier(&self, before: Option<u64>, after: Option<u64>) {
        if let Some(deadline) = after
            && before.is_none_or(|before| deadline < before)
        {
            self.ring(deadline);
        }
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_NS: u64 = 365 * 86_400 * NS_PER_SEC;

    #[test]
    fn time_stands_while_paused_and_goes_on_without_a_jump() {
        let clock = Clock::manual(2_000_000_000);
        clock.advance(100);
        clock.pause();
        clock.pause();
        clock.advance(1_000);
        assert_eq!((clock.now(), clock.tsc()), (100, 200));
        clock.resume();
        clock.resume();
        assert_eq!(clock.now(), 100);
        clock.advance(5);
        assert_eq!((clock.now(), clock.tsc()), (105, 210));
    }

    #[test]
    fn a_counted_clock_follows_its_counter_and_skips() {
        let count = Arc::new(AtomicU64::new(5));
        let counter = Arc::clone(&count);
        let clock = Clock::counted(2_000_000_000, move || counter.load(Ordering::Relaxed));
        assert_eq!((clock.now(), clock.tsc()), (5, 10));
        clock.advance_to(100);
        count.fetch_add(7, Ordering::Relaxed);
        assert_eq!(clock.now(), 107);
        clock.pause();
        count.fetch_add(7, Ordering::Relaxed);
        assert_eq!(clock.now(), 107);
    }

    #[test]
    fn host_time_runs_and_never_goes_back() {
        let clock = Clock::host_with_tsc(3_000_000_000);
        let mut last = clock.now();
        for round in 0..1_000 {
            match round % 10 {
                3 => clock.pause(),
                7 => clock.resume(),
                _ => {}
            }
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        clock.resume();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now() >= last + 2_000_000);
    }

    #[test]
    fn readers_beside_pause_and_resume_see_monotone_time() {
        let clock = Clock::host_with_tsc(1_000_000_000);
        let reader = {
            let clock = clock.clone();
            std::thread::spawn(move || {
                let mut last = 0;
                for _ in 0..20_000 {
                    let now = clock.now();
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                }
            })
        };
        while !reader.is_finished() {
            clock.pause();
            clock.resume();
        }
        reader.join().unwrap();
    }

    #[test]
    fn conversion_is_exact_for_centuries_and_deadlines_are_never_early() {
        for hz in [1_193_182, 25_000_000, 999_999_937, 2_112_000_000, 5_700_000_000, 30_000_000_000] {
            let clock = Clock::manual(hz);
            for ns in [0, 1, 838, 999_999_999, 1_000_000_001, 10 * YEAR_NS + 12_345] {
                let exact = u128::from(ns) * u128::from(hz) / u128::from(NS_PER_SEC);
                assert_eq!(u128::from(clock.ns_to_tsc(ns)), exact);
            }
            for tsc in [1, 2, 1_000, 123_456_789_012_345] {
                let ns = clock.tsc_to_ns(tsc);
                assert!(clock.ns_to_tsc(ns) >= tsc);
                assert!(clock.ns_to_tsc(ns - 1) < tsc);
            }
            let _ = (clock.ns_to_tsc(u64::MAX), clock.tsc_to_ns(u64::MAX));
        }
        assert_eq!(Clock::manual(1).tsc_to_ns(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_loaded_clock_continues_from_the_saved_time() {
        let clock = Clock::manual(1_000_000_000);
        clock.advance(77_000);
        let bytes = rmp_serde::to_vec_named(&clock.save()).unwrap();

        let state: ClockState = rmp_serde::from_slice(&bytes).unwrap();
        let running = Clock::manual(1_000_000_000);
        running.advance(1_000_000);
        running.load(&state);
        running.advance(3);
        assert_eq!(running.now(), 77_003);

        let paused = Clock::manual(1_000_000_000);
        paused.pause();
        paused.load(&state);
        paused.advance(10);
        assert_eq!(paused.now(), 77_000);
        paused.resume();
        paused.advance(1);
        assert_eq!(paused.now(), 77_001);
    }

    #[test]
    fn the_alarm_rings_only_for_earlier_deadlines() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let alarm = {
            let heard = heard.clone();
            Alarm::new(move |deadline| heard.lock().push(deadline))
        };
        alarm.ring_if_earlier(None, Some(10));
        alarm.ring_if_earlier(Some(10), Some(20));
        alarm.ring_if_earlier(Some(20), None);
        alarm.ring_if_earlier(Some(20), Some(15));
        assert_eq!(*heard.lock(), [10, 15]);
    }
}
