//! The host's monotonic clock, without asking the host each time. Where its TSC runs evenly, time is what the clock said a
//! moment ago and the TSC's ticks since then. Each millisecond the clock is asked
//! anew, so that what NTP does to it comes through, and no error adds up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::NS_PER_SEC;
use crate::host_tsc;

/// For so long a moment is good.
const SPAN_NS: u64 = 1_000_000;

/// The rate is measured over so much time at first, over twice as much each time after that, and over so much in the end.
const BASELINE_NS: (u64, u64) = (1_000_000, 512_000_000);

/// Time that has come to be ahead of the host's goes slower by at most one part in so many.
const SLOWEST: u64 = 1_000;

/// A processor may look whether the moment in hand is still the last one a little before it reads its counter. What it reads then
/// has gone on at the old rate, by no more than this.
const REORDERING_NS: u64 = 2;

/// Time that far ahead is not made slower but left to the host's clock.
const LOST_NS: u64 = 4 * SPAN_NS;

/// A rate may differ by one part in so many from what the processor says of itself, ...
const OUTLIER: u64 = 64;

/// ... and more so many times in turn: a host that was suspended, or moved.
const OUTLIERS: u32 = 3;

/// Bits of a rate behind the point.
const FRACTION: u32 = 32;

/// Nanoseconds since it was made; never goes back, whichever thread asks.
pub(crate) struct HostTime {
    start: Instant,
    ticks: Option<Ticks>,
}

impl HostTime {
    /// Begins now.
    pub(crate) fn new() -> HostTime {
        let start = Instant::now();
        HostTime { start, ticks: nominal_hz().map(|hz| Ticks::new(start, hz)) }
    }

    /// How long it has been.
    #[inline]
    pub(crate) fn ns(&self) -> u64 {
        match &self.ticks {
            Some(ticks) => ticks.ns(self.start),
            None => elapsed(self.start),
        }
    }
}

/// The TSC's frequency, if the host vouches that all processors count evenly together; measured once.
fn nominal_hz() -> Option<u64> {
    static HZ: OnceLock<Option<u64>> = OnceLock::new();
    *HZ.get_or_init(|| host_tsc::even().then(host_tsc::frequency).flatten())
}

/// A moment, and how time goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    tsc: u64,
    ns: u64,
    /// Nanoseconds of a tick, with [`FRACTION`] bits behind the point.
    rate: u64,
}

impl Moment {
    fn ns_at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.wrapping_sub(self.tsc));
        self.ns.saturating_add((ticks * u128::from(self.rate) >> FRACTION) as u64)
    }
}

/// Time by ticks.
struct Ticks {
    /// Guards the moment for readers: odd while a writer is at work, and different after each change.
    sequence: AtomicU64,
    tsc: AtomicU64,
    ns: AtomicU64,
    rate: AtomicU64,
    /// So many ticks is a moment good; 0 where the TSC is not asked any more.
    span: AtomicU64,
    /// Whoever comes for another moment.
    writer: Mutex<Measured>,
}

/// How fast the TSC runs.
#[derive(Debug)]
struct Measured {
    /// Measured from here, by the TSC and the clock.
    since: (u64, u64),
    /// For so long.
    baseline: u64,
    rate: u64,
    /// What the processor says.
    nominal: u64,
    /// Measurements in turn that said otherwise.
    outliers: u32,
    /// It is not asked any more.
    given_up: bool,
}

impl Measured {
    fn new(since: (u64, u64), nominal: u64) -> Measured {
        let baseline = BASELINE_NS.0;
        Measured { since, baseline, rate: nominal, nominal, outliers: 0, given_up: false }
    }

    /// The rate, now that it is `ns` by the clock at `tsc`.
    fn rate_at(&mut self, tsc: u64, ns: u64) -> u64 {
        let (ticks, passed) = (tsc.wrapping_sub(self.since.0), ns.saturating_sub(self.since.1));
        if passed >= self.baseline {
            self.since = (tsc, ns);
            let rate = (u128::from(passed) << FRACTION).checked_div(ticks.into()).unwrap_or(0);
            if rate.abs_diff(self.nominal.into()) <= u128::from(self.nominal / OUTLIER) {
                (self.rate, self.outliers) = (rate as u64, 0);
                self.baseline = (2 * self.baseline).min(BASELINE_NS.1);
            } else {
                self.outliers += 1;
                self.baseline = BASELINE_NS.0;
                self.given_up |= self.outliers == OUTLIERS;
            }
        }
        self.rate
    }

    /// The moment that follows upon another, now that it is `ns` by the clock at `tsc`. `reach`: so many ticks may the last one
    /// have been followed.
    fn next(&mut self, last: Moment, reach: u64, (tsc, ns): (u64, u64)) -> Moment {
        let rate = self.rate_at(tsc, ns);
        // What readers may have seen. Where the counter has gone back, nobody knows how far they had come.
        let seen = last.ns_at(last.tsc.wrapping_add(tsc.wrapping_sub(last.tsc).min(reach)));
        let begin = ns.max(seen + REORDERING_NS);
        let ahead = begin - ns;
        self.given_up |= ahead > LOST_NS;
        // What it is ahead is gone when the next moment comes, if that can be.
        let slower = ahead.min(SPAN_NS / SLOWEST);
        Moment {
            tsc,
            ns: begin,
            rate: rate - (u128::from(rate) * u128::from(slower) / u128::from(SPAN_NS)) as u64,
        }
    }
}

impl Ticks {
    fn new(start: Instant, hz: u64) -> Ticks {
        let nominal = ((u128::from(NS_PER_SEC) << FRACTION) / u128::from(hz.max(1))) as u64;
        let (tsc, ns) = stamp(start);
        Ticks {
            sequence: AtomicU64::new(0),
            tsc: AtomicU64::new(tsc),
            ns: AtomicU64::new(ns),
            rate: AtomicU64::new(nominal),
            span: AtomicU64::new((u128::from(SPAN_NS) * u128::from(hz) / u128::from(NS_PER_SEC)) as u64),
            writer: Mutex::new(Measured::new((tsc, ns), nominal)),
        }
    }

    #[inline]
    fn ns(&self, start: Instant) -> u64 {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            let last = self.moment();
            let ticks = host_tsc::read().wrapping_sub(last.tsc);
            fence(Ordering::Acquire);
            if sequence & 1 == 0 && self.sequence.load(Ordering::Relaxed) == sequence {
                if ticks < self.span.load(Ordering::Relaxed) {
                    // A span's ticks are a millisecond, so the product has 53 bits.
                    return last.ns + (ticks * last.rate >> FRACTION);
                }
                if let Some(ns) = self.renew(start, sequence) {
                    return ns;
                }
            }
            std::hint::spin_loop();
        }
    }

    fn moment(&self) -> Moment {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        Moment { tsc: load(&self.tsc), ns: load(&self.ns), rate: load(&self.rate) }
    }

    /// Asks the clock, unless somebody else has. Gives the time where the TSC does not tell it any more.
    #[cold]
    fn renew(&self, start: Instant, seen: u64) -> Option<u64> {
        let mut measured = self.writer.lock();
        let span = self.span.load(Ordering::Relaxed);
        if span == 0 {
            return Some(elapsed(start).max(self.ns.load(Ordering::Relaxed)));
        }
        if self.sequence.load(Ordering::Relaxed) != seen {
            return None;
        }
        self.sequence.store(seen.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let next = measured.next(self.moment(), span, stamp(start));
        self.tsc.store(next.tsc, Ordering::Relaxed);
        self.ns.store(next.ns, Ordering::Relaxed);
        self.rate.store(next.rate, Ordering::Relaxed);
        if measured.given_up {
            self.span.store(0, Ordering::Relaxed);
        }
        self.sequence.store(seen.wrapping_add(2), Ordering::Release);
        None
    }
}

fn elapsed(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

/// The TSC, and what the clock says then. The tightest of a few tries, lest a preemption part the two.
fn stamp(start: Instant) -> (u64, u64) {
    const TIGHT: u64 = 400;
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..4 {
        let before = host_tsc::read();
        let ns = elapsed(start);
        let width = host_tsc::read().wrapping_sub(before);
        if width < best.0 {
            best = (width, before.wrapping_add(width / 2), ns);
        }
        if width < TIGHT {
            break;
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks of a millisecond.
    const SPAN: u64 = 2_000_000;
    /// Of half a nanosecond.
    const RATE: u64 = 1 << (FRACTION - 1);

    fn measured() -> (Measured, Moment) {
        (Measured::new((0, 0), RATE), Moment { tsc: 0, ns: 0, rate: RATE })
    }

    #[test]
    fn time_that_is_behind_jumps_and_time_that_is_ahead_goes_slower() {
        let (mut m, first) = measured();
        // The rate stays what it is.
        m.baseline = u64::MAX;
        let second = m.next(first, SPAN, (SPAN, SPAN_NS + 700));
        assert_eq!((second.tsc, second.ns), (SPAN, SPAN_NS + 700));
        // The clock has come 500 ns less far than the ticks say.
        let third = m.next(second, SPAN, (2 * SPAN, 2 * SPAN_NS + 200));
        let expected = second.ns_at(2 * SPAN) + REORDERING_NS;
        assert_eq!(third.ns, expected);
        assert!(third.ns > 2 * SPAN_NS + 200);
        assert!(third.rate < RATE && third.rate > RATE - RATE / 500);
        // A millisecond later it is right.
        assert!(third.ns_at(3 * SPAN).abs_diff(3 * SPAN_NS + 200) < 10);
    }

    #[test]
    fn time_never_goes_back_whatever_the_counter_does() {
        let (mut m, first) = measured();
        let mut last = first;
        for (tsc, ns) in [(SPAN, 900_000), (SPAN + 5, 900_001), (3, 900_002), (SPAN * 3, 950_000)] {
            let next = m.next(last, SPAN, (tsc, ns));
            assert!(next.ns > last.ns && next.ns >= ns, "{next:?} after {last:?}");
            last = next;
        }
        let far = m.next(last, SPAN, (SPAN * 900, last.ns + 1));
        // Nobody has followed the last one for so long.
        assert!(far.ns <= last.ns_at(last.tsc + SPAN) + REORDERING_NS);
    }

    #[test]
    fn the_rate_is_the_clocks() {
        let (mut m, mut last) = measured();
        // The processor says 2 GHz and counts 2.002 GHz.
        let ticks = SPAN + SPAN / 1_000;
        for k in 1..2_000 {
            last = m.next(last, SPAN, (k * ticks, k * SPAN_NS));
        }
        assert!(last.ns.abs_diff(1_999 * SPAN_NS) < 10, "{last:?}");
        assert!(!m.given_up);
        assert!(m.rate.abs_diff(RATE - RATE / 1_001) < RATE / 1_000_000);
    }

    #[test]
    fn a_counter_at_another_pace_is_given_up() {
        let (mut m, mut last) = measured();
        for k in 1..4 {
            assert!(!m.given_up);
            last = m.next(last, SPAN, (k * SPAN * 2, k * SPAN_NS));
        }
        assert!(m.given_up);
        // Once is nothing: the host was suspended.
        let (mut m, first) = measured();
        let second = m.next(first, SPAN, (9_000 * SPAN, 2 * SPAN_NS));
        let third = m.next(second, SPAN, (9_001 * SPAN, 3 * SPAN_NS));
        m.next(third, SPAN, (9_002 * SPAN, 4 * SPAN_NS));
        assert!(!m.given_up);
        assert_eq!(m.outliers, 0);
    }

    #[test]
    fn where_the_counter_is_given_up_the_clock_is_asked() {
        let start = Instant::now();
        let ticks = Ticks::new(start, 1_000_000_000);
        let before = ticks.ns(start);
        ticks.ns.store(before + 5_000_000, Ordering::Relaxed);
        ticks.span.store(0, Ordering::Relaxed);
        // What was told stays told.
        assert_eq!(ticks.ns(start), before + 5_000_000);
        std::thread::sleep(std::time::Duration::from_millis(6));
        let now = ticks.ns(start);
        assert!(now > before + 5_000_000 && now <= elapsed(start));
    }

    #[test]
    fn threads_agree_and_follow_the_clock() {
        let time = std::sync::Arc::new(HostTime::new());
        let latest = std::sync::Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (time, latest) = (time.clone(), latest.clone());
                std::thread::spawn(move || {
                    while elapsed(time.start) < 60_000_000 {
                        let before = latest.load(Ordering::SeqCst);
                        let now = time.ns();
                        assert!(now >= before, "{now} after {before}");
                        latest.fetch_max(now, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // It may be ahead by what a rounded frequency makes of the first milliseconds, and this thread may wait in between.
        let (before, now, after) = (elapsed(time.start), time.ns(), elapsed(time.start));
        assert!(now + 1_000_000 > before && now < after + 1_000_000, "{before} {now} {after}");
    }
}
