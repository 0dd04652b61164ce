//! The timer thread: sleeps until the earliest deadline of all timed devices, then lets those that are due act.

use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use softmetal_cpu::{Attention, Request};
use softmetal_devices::clock::{Alarm, Clock, Timed};

/// A device with deadlines, shared with the address space that reaches it.
pub(crate) type SharedTimed = Arc<Mutex<dyn Timed + Send>>;

/// Does something again and again.
pub(crate) struct Ticker {
    period: u64,
    next: u64,
    work: Box<dyn FnMut() + Send>,
}

impl Ticker {
    /// Does `work` every so many nanoseconds of guest time.
    pub(crate) fn new(period: u64, work: impl FnMut() + Send + 'static) -> Self {
        Self { period, next: period, work: Box::new(work) }
    }
}

impl Timed for Ticker {
    fn deadline(&self) -> Option<u64> {
        Some(self.next)
    }

    fn expire(&mut self, now: u64) {
        if self.next <= now {
            self.next = now.saturating_add(self.period);
            (self.work)();
        }
    }
}

/// What wakes the timer thread.
///
/// Lock order: a device rings with its own lock held, so the bell's lock comes after every device's and is never held
/// while one is taken.
#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
    /// The processor that serves the devices itself: it is to look up.
    processor: OnceLock<Arc<Attention>>,
}

struct BellState {
    /// The earliest deadline rung since the thread began its last round.
    earliest: u64,
    stop: bool,
    /// The thread waits for the clock to go on.
    waits_for_clock: bool,
}

impl Default for BellState {
    fn default() -> Self {
        Self { earliest: u64::MAX, stop: false, waits_for_clock: false }
    }
}

/// The timer thread before it runs: devices are built with its alarm, and then given to it.
pub(crate) struct Timers {
    bell: Arc<Bell>,
    clock: Arc<Clock>,
    devices: Vec<SharedTimed>,
}

impl Timers {
    /// Timers that follow `clock`.
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        Self { bell: Arc::default(), clock, devices: Vec::new() }
    }

    /// The bell for devices.
    pub(crate) fn alarm(&self) -> Alarm {
        let bell = Arc::clone(&self.bell);
        Alarm::new(move |deadline| {
            let mut state = bell.state.lock();
            if deadline < state.earliest {
                state.earliest = deadline;
                bell.rung.notify_one();
                if let Some(processor) = bell.processor.get() {
                    processor.request(Request::EXIT);
                }
            }
        })
    }

    /// What tells the thread that the clock goes on.
    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.bell))
    }

    /// Takes a device whose deadlines are to be kept.
    pub(crate) fn add(&mut self, device: SharedTimed) {
        self.devices.push(device);
    }

    /// Starts the thread.
    pub(crate) fn start(self) -> std::io::Result<RunningTimers> {
        let bell = Arc::clone(&self.bell);
        let thread = thread::Builder::new().name("timers".into()).spawn(move || self.run())?;
        Ok(RunningTimers { bell, thread: Some(thread) })
    }

    /// For a clock that counts a processor's instructions: the processor's own thread serves the devices, between two
    /// instructions, and each run of the machine does so between the same ones.
    pub(crate) fn follow(self, processor: Arc<Attention>) -> CountedTimers {
        let _ = self.bell.processor.set(processor);
        CountedTimers(self)
    }

    /// Lets every device act that is due. Returns the next deadline.
    fn serve_all(&self) -> u64 {
        // From here on rings are noted, so a deadline that moves behind our back in this round is seen.
        self.bell.state.lock().earliest = u64::MAX;
        self.devices.iter().map(|device| self.serve(device)).min().unwrap_or(u64::MAX)
    }

    fn run(self) {
        loop {
            let next = self.serve_all();
            if !self.sleep_until(next) {
                return;
            }
        }
    }

    /// Lets a device act if it is due. Returns its next deadline.
    fn serve(&self, device: &SharedTimed) -> u64 {
        let mut device = device.lock();
        let now = self.clock.now();
        if device.deadline().is_some_and(|deadline| deadline <= now) {
            device.expire(now);
        }
        device.deadline().unwrap_or(u64::MAX)
    }

    /// Sleeps until guest time `next` or an earlier ring's deadline. False when the thread is to end.
    fn sleep_until(&self, next: u64) -> bool {
        let mut state = self.bell.state.lock();
        loop {
            if state.stop {
                return false;
            }
            let deadline = next.min(state.earliest);
            let rest = self.clock.time_until(deadline);
            if rest.is_zero() {
                return true;
            }
            let paused = self.clock.is_paused();
            if deadline == u64::MAX || paused {
                // Resuming rings where it is waited for: a clock may stand for a moment thousands of times a second.
                state.waits_for_clock = paused;
                self.bell.rung.wait(&mut state);
                state.waits_for_clock = false;
                if self.clock.is_paused() {
                    continue;
                }
                return !state.stop;
            }
            self.bell.rung.wait_for(&mut state, rest);
        }
    }
}

/// Timers that a processor serves itself.
pub(crate) struct CountedTimers(Timers);

impl CountedTimers {
    /// Lets the devices act that are due. Returns how long until the next one wants to, in instructions.
    pub(crate) fn serve(&self) -> u64 {
        let Timers { clock, bell, .. } = &self.0;
        let mut next = self.0.serve_all();
        // What one does may make another due.
        if next.min(bell.state.lock().earliest) <= clock.now() {
            next = self.0.serve_all();
        }
        let next = next.min(bell.state.lock().earliest);
        if next == u64::MAX { u64::MAX } else { next.saturating_sub(clock.now()).max(1) }
    }

    /// The processor halts: time goes on to the next deadline at once. False if there is none.
    pub(crate) fn skip(&self) -> bool {
        match self.serve() {
            u64::MAX => false,
            wait => {
                self.0.clock.advance(wait);
                true
            }
        }
    }
}

/// The timer thread; ends when this is dropped.
pub(crate) struct RunningTimers {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the timer thread that the clock goes on after a pause.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Bell>);

impl Waker {
    pub(crate) fn resumed(&self) {
        // Under the lock, so that the thread does not go to sleep between seeing the pause and hearing this.
        if self.0.state.lock().waits_for_clock {
            self.0.rung.notify_one();
        }
    }
}

impl Drop for RunningTimers {
    fn drop(&mut self) {
        self.bell.state.lock().stop = true;
        self.bell.rung.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the timer thread has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const MILLISECOND: u64 = 1_000_000;
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Reports when it was served.
    struct OneShot {
        deadline: Option<u64>,
        fired: Sender<(u64, u64)>,
    }

    impl Timed for OneShot {
        fn deadline(&self) -> Option<u64> {
            self.deadline
        }

        fn expire(&mut self, now: u64) {
            if let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) {
                self.deadline = None;
                let _ = self.fired.send((deadline, now));
            }
        }
    }

    struct Rig {
        clock: Arc<Clock>,
        alarm: Alarm,
        device: Arc<Mutex<OneShot>>,
        fired: Receiver<(u64, u64)>,
        waker: Waker,
        timers: RunningTimers,
    }

    fn rig() -> Rig {
        let clock = Clock::host_with_tsc(1_000_000_000);
        let (sender, fired) = channel();
        let device = Arc::new(Mutex::new(OneShot { deadline: None, fired: sender }));
        let mut timers = Timers::new(Arc::clone(&clock));
        let alarm = timers.alarm();
        timers.add(device.clone());
        Rig { clock, alarm, device, fired, waker: timers.waker(), timers: timers.start().unwrap() }
    }

    impl Rig {
        fn arm(&self, deadline: u64) {
            let mut device = self.device.lock();
            device.deadline = Some(deadline);
            self.alarm.ring(deadline);
        }
    }

    #[test]
    fn deadlines_are_kept_and_never_early() {
        let rig = rig();
        for _ in 0..50 {
            rig.arm(rig.clock.now() + MILLISECOND);
            let (deadline, now) = rig.fired.recv_timeout(PATIENCE).unwrap();
            assert!(now >= deadline);
        }
    }

    #[test]
    fn a_ticker_catches_up_once() {
        let (sender, ticks) = channel();
        let mut ticker = Ticker::new(10, move || sender.send(()).unwrap());
        for (now, next, count) in [(9, 10, 0), (10, 20, 1), (19, 20, 0), (95, 105, 1)] {
            ticker.expire(now);
            assert_eq!((ticker.deadline(), ticks.try_iter().count()), (Some(next), count));
        }
    }

    #[test]
    fn an_earlier_ring_shortens_the_sleep() {
        let rig = rig();
        rig.arm(rig.clock.now() + 3_600_000 * MILLISECOND);
        assert!(rig.fired.recv_timeout(Duration::from_millis(20)).is_err());
        rig.arm(rig.clock.now() + MILLISECOND);
        rig.fired.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn nothing_fires_while_the_clock_stands() {
        let rig = rig();
        rig.clock.pause();
        rig.arm(rig.clock.now() + MILLISECOND);
        assert!(rig.fired.recv_timeout(Duration::from_millis(30)).is_err());
        rig.clock.resume();
        rig.waker.resumed();
        rig.fired.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn ends_when_dropped_in_the_middle_of_a_long_sleep() {
        let rig = rig();
        rig.arm(u64::MAX - 1);
        drop(rig.timers);
    }
}
