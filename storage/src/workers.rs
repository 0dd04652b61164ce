//! The threads that work on a disk.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ring::{Bell, Ring, Transfer};
use crate::throttle::{Budget, Throttle};

/// A piece of work on a disk.
pub trait Job: Send {
    /// Does it. [`Workers::drain`] waits for the end of this.
    fn run(&mut self);

    /// Tells whoever waits for it. That may take locks of somebody who waits in [`Workers::drain`].
    fn tell(self: Box<Self>);

    /// The transfer that does the same as [`Job::run`], if there is one.
    fn transfer(&self) -> Option<Transfer> {
        None
    }

    /// The transfer has been made: called in place of [`Job::run`].
    fn transferred(&mut self) {}
}

/// By what means data is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Means {
    /// The host's io_uring for what is small, where it offers that; threads for all else.
    #[default]
    Any,
    /// Threads.
    Threads,
    /// The host's io_uring, for all that it can do.
    IoUring,
}

impl Means {
    /// Those that can be asked for, with their names on the command line, which are QEMU's.
    pub const LIST: [(&'static str, Self); 2] = [("threads", Self::Threads), ("io_uring", Self::IoUring)];
}

/// Threads that take jobs from a queue, as fast as a throttle lets them, and one that has the host's kernel make transfers. They
/// end with this value, after the jobs that have begun.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    throttled: bool,
    /// Where there is a ring: what wakes its thread, and the largest transfers that it gets.
    ring: Option<(Bell, u64)>,
}

/// Beginning a transfer keeps a thread busy for as long as it is large; the ring has one thread.
const MAX_TRANSFER: u64 = 128 << 10;

struct Shared {
    state: Mutex<State>,
    /// There is something to do, or the end.
    work: Condvar,
    /// A job has ended.
    ended: Condvar,
}

struct State {
    jobs: VecDeque<Waiting>,
    transfers: VecDeque<(Transfer, Waiting)>,
    /// The ring's thread waits for transfers to end, or for its bell.
    ring_waits: bool,
    /// The tags of the jobs that run.
    running: Vec<usize>,
    idle: usize,
    stop: bool,
    budget: Budget,
}

/// Between two attempts where the host's ring fails.
const PAUSE: Duration = Duration::from_millis(10);

struct Waiting {
    tag: usize,
    bytes: u64,
    job: Box<dyn Job>,
}

impl Workers {
    /// Starts so many threads with this name. Where io_uring is asked for and the host does not offer it, that is an error.
    pub fn start(name: &str, count: usize, throttle: Throttle, means: Means) -> io::Result<Self> {
        let state = State {
            jobs: VecDeque::new(),
            transfers: VecDeque::new(),
            ring_waits: false,
            running: Vec::new(),
            idle: 0,
            stop: false,
            budget: Budget::new(throttle, Instant::now()),
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), ended: Condvar::new() });
        let throttled = throttle != Throttle::default();
        let mut workers = Self { shared, threads: Mutex::default(), throttled, ring: None };
        for _ in 0..count.max(1) {
            let shared = Arc::clone(&workers.shared);
            workers.spawn(name, move || shared.work())?;
        }
        // Transfers that are under way cannot be slowed down.
        if means != Means::Threads && !throttled {
            let largest = if means == Means::IoUring { u64::MAX } else { MAX_TRANSFER };
            match workers.start_ring(name, largest) {
                Err(error) if means == Means::IoUring => return Err(error),
                Err(error) => log::debug!("{name}: the host offers no io_uring: {error}"),
                Ok(()) => {}
            }
        }
        Ok(workers)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn start_ring(&mut self, name: &str, largest: u64) -> io::Result<()> {
        let bell = Bell::new()?;
        let (shared, its) = (Arc::clone(&self.shared), bell.clone());
        let (tell, told) = sync_channel(1);
        self.spawn(name, move || shared.transfer(its, &tell))?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))?;
        self.ring = Some((bell, largest));
        Ok(())
    }

    /// Whether jobs may have to wait for their turn.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Adds a job that moves so many bytes, under a tag. Not to be called after [`Workers::stop`]: it would never be done.
    pub fn submit(&self, tag: usize, bytes: u64, job: Box<dyn Job>) {
        let waiting = Waiting { tag, bytes, job };
        if let Some((bell, largest)) = &self.ring
            && bytes <= *largest
            && let Some(transfer) = waiting.job.transfer()
        {
            let mut state = self.shared.state.lock();
            state.transfers.push_back((transfer, waiting));
            let waits = std::mem::take(&mut state.ring_waits);
            drop(state);
            if waits {
                bell.ring();
            }
            return;
        }
        let mut state = self.shared.state.lock();
        state.jobs.push_back(waiting);
        if state.idle > 0 {
            self.shared.work.notify_one();
        }
    }

    /// Forgets the jobs whose tags are `among` that have not begun, and waits until the others of them have ended. Not to
    /// be called by a job.
    pub fn drain(&self, among: impl Fn(usize) -> bool) {
        let mut state = self.shared.state.lock();
        let jobs = std::mem::take(&mut state.jobs);
        let (forgotten, kept): (VecDeque<_>, _) = jobs.into_iter().partition(|waiting| among(waiting.tag));
        state.jobs = kept;
        let transfers = std::mem::take(&mut state.transfers);
        let (unmade, kept): (VecDeque<_>, _) =
            transfers.into_iter().partition(|(_, waiting)| among(waiting.tag));
        state.transfers = kept;
        drop(state);
        // Before what runs is waited for: that may wait for places that transfers hold.
        drop(unmade);
        drop(forgotten);
        let mut state = self.shared.state.lock();
        self.shared.ended.wait_while(&mut state, |state| state.running.iter().any(|tag| among(*tag)));
    }

    /// Ends the threads, as [`Workers::drain`] does with jobs.
    pub fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.work.notify_all();
        self.drain(|_| true);
        if let Some((bell, _)) = &self.ring {
            bell.ring();
        }
        for thread in self.threads.lock().drain(..) {
            // The last owner may be a job's thread itself, which cannot wait for its own end.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                log::error!("a thread that works on a disk has panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            let Some(bytes) = state.jobs.front().map(|waiting| waiting.bytes) else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            let now = Instant::now();
            if let Err(wait) = state.budget.spend(bytes, now) {
                self.work.wait_until(&mut state, now + wait);
                continue;
            }
            let Some(Waiting { tag, mut job, .. }) = state.jobs.pop_front() else { continue };
            state.running.push(tag);
            drop(state);
            job.run();
            state = self.state.lock();
            state.has_ended(tag);
            self.ended.notify_all();
            drop(state);
            job.tell();
            state = self.state.lock();
        }
    }

    /// Has a ring make the transfers; `tell` hears whether there is one.
    fn transfer(&self, bell: Bell, tell: &SyncSender<io::Result<()>>) {
        let ring = Ring::new(bell);
        let failed = ring.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
        // Who has started this thread waits for the answer.
        let _ = tell.send(failed.map_or(Ok(()), Err));
        let Ok(mut ring) = ring else { return };
        let mut ended = Vec::new();
        let mut state = self.state.lock();
        while !state.stop || ring.is_busy() {
            while ring.room() > 0
                && let Some((transfer, waiting)) = state.transfers.pop_front()
            {
                let tag = waiting.tag;
                state.running.push(tag);
                if let Err(waiting) = ring.add(transfer, waiting) {
                    state.has_ended(tag);
                    self.leave_to_threads(&mut state, waiting);
                }
            }
            state.ring_waits = true;
            drop(state);
            if let Err(error) = ring.wait(|waiting: Waiting, whole| ended.push((waiting, whole))) {
                log::error!("io_uring fails: {error}");
                thread::sleep(PAUSE);
            }
            for (waiting, _) in ended.iter_mut().filter(|(_, whole)| *whole) {
                waiting.job.transferred();
            }
            state = self.state.lock();
            state.ring_waits = false;
            let mut done = Vec::with_capacity(ended.len());
            for (waiting, whole) in ended.drain(..) {
                state.has_ended(waiting.tag);
                // What the kernel has not made whole shows what is wrong when it is made anew.
                if whole { done.push(waiting.job) } else { self.leave_to_threads(&mut state, waiting) }
            }
            self.ended.notify_all();
            if !done.is_empty() {
                drop(state);
                done.into_iter().for_each(|job| job.tell());
                state = self.state.lock();
            }
        }
    }

    fn leave_to_threads(&self, state: &mut State, waiting: Waiting) {
        state.jobs.push_front(waiting);
        self.work.notify_one();
    }
}

impl State {
    /// A job with this tag does not run any more.
    fn has_ended(&mut self, tag: usize) {
        if let Some(place) = self.running.iter().position(|running| *running == tag) {
            self.running.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    struct Work<R, T>(R, T);

    impl<R: FnMut() + Send, T: FnOnce() + Send> Job for Work<R, T> {
        fn run(&mut self) {
            (self.0)();
        }

        fn tell(self: Box<Self>) {
            (self.1)();
        }
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn jobs_run_beside_one_another() {
        let workers = Workers::start("test", 2, Throttle::default(), Means::Any).unwrap();
        let ((to_first, first), (to_second, second)) = (channel(), channel());
        let (done, all) = channel();
        let told = move || done.send(()).unwrap();
        // Each waits for the other.
        let one = move || {
            to_second.send(()).unwrap();
            first.recv_timeout(LIMIT).unwrap();
        };
        let other = move || {
            second.recv_timeout(LIMIT).unwrap();
            to_first.send(()).unwrap();
        };
        workers.submit(0, 0, Box::new(Work(one, told.clone())));
        workers.submit(1, 0, Box::new(Work(other, told)));
        all.recv_timeout(LIMIT).unwrap();
        all.recv_timeout(LIMIT).unwrap();
    }

    #[test]
    fn draining_waits_for_what_has_begun_and_forgets_the_rest() {
        let workers = Workers::start("test", 1, Throttle { iops: Some(1), bps: None }, Means::Any).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let (begun, first) = channel();
        for _ in 0..100 {
            let (count, begun) = (Arc::clone(&count), begun.clone());
            let work = move || {
                begun.send(()).unwrap();
                thread::sleep(Duration::from_millis(20));
                count.fetch_add(1, Ordering::SeqCst);
            };
            workers.submit(0, 512, Box::new(Work(work, || ())));
        }
        first.recv_timeout(LIMIT).unwrap();
        workers.drain(|_| true);
        let done = count.load(Ordering::SeqCst);
        assert_eq!(done, 1, "one a second begins");
        workers.stop();
        assert_eq!(count.load(Ordering::SeqCst), done);
    }

    #[test]
    fn draining_one_tag_leaves_the_others() {
        let workers = Workers::start("test", 1, Throttle::default(), Means::Any).unwrap();
        let (go, wait) = channel::<()>();
        let (done, all) = channel();
        let (begun, first) = channel();
        let work = Work(
            move || {
                begun.send(()).unwrap();
                wait.recv_timeout(LIMIT).unwrap();
            },
            || (),
        );
        workers.submit(1, 0, Box::new(work));
        first.recv_timeout(LIMIT).unwrap();
        for tag in [1, 2, 1, 2] {
            let done = done.clone();
            workers.submit(tag, 0, Box::new(Work(move || done.send(tag).unwrap(), || ())));
        }
        workers.drain(|tag| tag == 3);
        let draining = thread::scope(|scope| {
            let draining = scope.spawn(|| workers.drain(|tag| tag == 1));
            go.send(()).unwrap();
            draining.join()
        });
        draining.unwrap();
        drop(done);
        // The first job may have ended before the draining began, and the second one of its tag have begun.
        let rest: Vec<usize> = all.iter().filter(|tag| *tag == 2).collect();
        assert_eq!(rest, [2, 2]);
    }

    #[test]
    fn what_waits_in_draining_may_hold_what_telling_takes() {
        let workers = Workers::start("test", 1, Throttle::default(), Means::Any).unwrap();
        let device = Arc::new(Mutex::new(()));
        let held = device.lock();
        let (begun, first) = channel();
        let telling = Arc::clone(&device);
        let work = Work(move || begun.send(()).unwrap(), move || drop(telling.lock()));
        workers.submit(0, 0, Box::new(work));
        first.recv_timeout(LIMIT).unwrap();
        workers.drain(|_| true);
        drop(held);
    }
}
