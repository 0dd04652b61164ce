//! The threads that work on a disk.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::throttle::{Budget, Throttle};

/// A piece of work on a disk.
pub trait Job: Send {
    /// Does it. [`Workers::drain`] waits for the end of this.
    fn run(&mut self);

    /// Tells whoever waits for it. That may take locks of somebody who waits in [`Workers::drain`].
    fn tell(self: Box<Self>);
}

/// Threads that take jobs from a queue, as fast as a throttle lets them. They end with this value, after the jobs that
/// have begun.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    throttled: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do, or the end.
    work: Condvar,
    /// A job has ended.
    ended: Condvar,
}

struct State {
    jobs: VecDeque<Waiting>,
    /// The tags of the jobs that run.
    running: Vec<usize>,
    idle: usize,
    stop: bool,
    budget: Budget,
}

struct Waiting {
    tag: usize,
    bytes: u64,
    job: Box<dyn Job>,
}

impl Workers {
    /// Starts so many threads with this name.
    pub fn start(name: &str, count: usize, throttle: Throttle) -> io::Result<Self> {
        let budget = Budget::new(throttle, Instant::now());
        let state = State { jobs: VecDeque::new(), running: Vec::new(), idle: 0, stop: false, budget };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), ended: Condvar::new() });
        let workers = Self { shared, threads: Mutex::default(), throttled: throttle != Throttle::default() };
        for _ in 0..count.max(1) {
            let shared = Arc::clone(&workers.shared);
            let thread = thread::Builder::new().name(name.into()).spawn(move || shared.work())?;
            workers.threads.lock().push(thread);
        }
        Ok(workers)
    }

    /// Whether jobs may have to wait for their turn.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Adds a job that moves so many bytes, under a tag. Not to be called after [`Workers::stop`]: it would never be done.
    pub fn submit(&self, tag: usize, bytes: u64, job: Box<dyn Job>) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(Waiting { tag, bytes, job });
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
        self.shared.ended.wait_while(&mut state, |state| state.running.iter().any(|tag| among(*tag)));
        drop(state);
        drop(forgotten);
    }

    /// Ends the threads, as [`Workers::drain`] does with jobs.
    pub fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.work.notify_all();
        self.drain(|_| true);
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
            if let Some(place) = state.running.iter().position(|running| *running == tag) {
                state.running.swap_remove(place);
            }
            self.ended.notify_all();
            drop(state);
            job.tell();
            state = self.state.lock();
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
        let workers = Workers::start("test", 2, Throttle::default()).unwrap();
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
        let workers = Workers::start("test", 1, Throttle { iops: Some(1), bps: None }).unwrap();
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
        let workers = Workers::start("test", 1, Throttle::default()).unwrap();
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
        let workers = Workers::start("test", 1, Throttle::default()).unwrap();
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
