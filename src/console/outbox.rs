//! The guest's output on its way to the host: filled by a port, emptied by a writer thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How much output waits: beyond it the guest waits too, or, where nobody listens, the oldest output is forgotten.
pub(crate) const CAPACITY: usize = 64 << 10;

/// Who takes the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Nobody yet: the newest [`CAPACITY`] bytes are kept.
    Absent,
    /// Somebody: nothing is lost, a slow reader slows the guest.
    Present,
    /// Nobody ever again: output is dropped.
    Gone,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    reader: Reader,
    /// The writer thread holds bytes that it has taken and not written yet.
    writing: bool,
    /// Counts calls of [`Outbox::interrupt`].
    interrupts: u64,
    /// Output was refused since there was room for it.
    refused: bool,
}

/// A bounded queue of output.
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Told of readers that come and go, and of room after output was refused. Called with nothing locked.
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        let state = State {
            bytes: VecDeque::new(),
            reader: Reader::Absent,
            writing: false,
            interrupts: 0,
            refused: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), listener: OnceLock::new() }
    }

    /// From now on `listener` is told when a reader comes or goes, and when there is room after output was refused.
    pub(crate) fn on_change(&self, listener: Box<dyn Fn() + Send + Sync>) {
        // A line is opened once.
        let _ = self.listener.set(listener);
    }

    fn tell(&self) {
        if let Some(listener) = self.listener.get() {
            listener();
        }
    }

    /// Whether somebody reads.
    pub(crate) fn has_reader(&self) -> bool {
        self.state.lock().reader == Reader::Present
    }

    /// The guest sends, and takes back what there is no room for: the answer is how much there was. Where nobody reads,
    /// all of it is taken; the newest is kept if `keeps`.
    pub(crate) fn offer(&self, bytes: &[u8], keeps: bool) -> usize {
        let mut state = self.state.lock();
        match state.reader {
            Reader::Gone => bytes.len(),
            Reader::Absent => {
                if keeps {
                    state.bytes.extend(bytes);
                    let excess = state.bytes.len().saturating_sub(CAPACITY);
                    state.bytes.drain(..excess);
                }
                bytes.len()
            }
            Reader::Present => {
                let count = bytes.len().min(CAPACITY.saturating_sub(state.bytes.len()));
                state.bytes.extend(&bytes[..count]);
                state.refused |= count < bytes.len();
                self.changed.notify_all();
                count
            }
        }
    }

    /// The guest sends. Waits while there is a reader and the queue is full.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        while state.reader == Reader::Present && state.bytes.len() >= CAPACITY {
            self.changed.wait(&mut state);
        }
        if state.reader == Reader::Gone {
            return;
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(bytes);
        if state.reader == Reader::Absent {
            let excess = state.bytes.len().saturating_sub(CAPACITY);
            state.bytes.drain(..excess);
        } else if was_empty {
            self.changed.notify_all();
        }
    }

    /// A reader is there and will [`take`](Self::take). With [`Self::leave`] undone when it goes.
    pub(crate) fn enter(&self) {
        self.set_reader(Reader::Present);
    }

    /// The reader has gone; another may come.
    pub(crate) fn leave(&self) {
        self.set_reader(Reader::Absent);
    }

    /// Nobody reads any more: what is queued is forgotten, what comes is dropped, and who waits goes on.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.reader = Reader::Gone;
        state.bytes.clear();
        self.changed.notify_all();
        drop(state);
        self.tell();
    }

    /// The number that [`Self::take`] wants to know of interrupts before it.
    pub(crate) fn interrupts(&self) -> u64 {
        self.state.lock().interrupts
    }

    /// Makes a waiting [`Self::take`] return `None`.
    pub(crate) fn interrupt(&self) {
        self.state.lock().interrupts += 1;
        self.changed.notify_all();
    }

    /// Waits for output and takes all of it. The bytes taken before count as written. `None` when the queue is closed, or
    /// interrupted more often than `interrupts` says.
    pub(crate) fn take(&self, interrupts: u64) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        state.writing = false;
        self.changed.notify_all();
        loop {
            if state.reader == Reader::Gone || state.interrupts != interrupts {
                return None;
            }
            if !state.bytes.is_empty() {
                state.writing = true;
                self.changed.notify_all();
                let bytes = std::mem::take(&mut state.bytes).into();
                let refused = std::mem::take(&mut state.refused);
                drop(state);
                if refused {
                    self.tell();
                }
                return Some(bytes);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the reader has everything, or is not there, or `limit` is over.
    pub(crate) fn drain(&self, limit: Option<Duration>) {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state.lock();
        let pending = |state: &MutexGuard<'_, State>| {
            state.reader == Reader::Present && (state.writing || !state.bytes.is_empty())
        };
        while pending(&state) {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if self.changed.wait_until(&mut state, deadline).timed_out() => return,
                Some(_) => {}
            }
        }
    }

    fn set_reader(&self, reader: Reader) {
        let mut state = self.state.lock();
        if state.reader != Reader::Gone {
            state.reader = reader;
            state.writing = false;
        }
        self.changed.notify_all();
        drop(state);
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn without_a_reader_the_newest_output_is_kept() {
        let outbox = Outbox::new();
        outbox.write(b"old");
        outbox.write(&[b'x'; CAPACITY]);
        outbox.write(b"new");
        outbox.enter();
        let kept = outbox.take(0).unwrap();
        assert_eq!(kept.len(), CAPACITY);
        assert!(kept.starts_with(b"xxx") && kept.ends_with(b"xnew"));
    }

    #[test]
    fn a_slow_reader_slows_the_guest_and_loses_nothing() {
        let outbox = Arc::new(Outbox::new());
        outbox.enter();
        let guest = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                for count in 0..300_000_u32 {
                    outbox.write(&count.to_le_bytes());
                }
                outbox.drain(None);
                outbox.interrupt();
            })
        };
        let mut all = Vec::new();
        while let Some(bytes) = outbox.take(0) {
            assert!(bytes.len() <= CAPACITY + 4);
            all.extend(bytes);
        }
        guest.join().unwrap();
        let expected: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        assert!(all == expected);
    }

    #[test]
    fn who_must_not_wait_is_told_when_there_is_room() {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        let (outbox, told) = (Outbox::new(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&told);
        outbox.on_change(Box::new(move || {
            count.fetch_add(1, Relaxed);
        }));
        assert_eq!(outbox.offer(b"lost", false), 4);
        assert_eq!(outbox.offer(b"kept", true), 4);
        outbox.enter();
        assert_eq!((told.load(Relaxed), outbox.has_reader()), (1, true));
        assert_eq!(outbox.offer(&[b'x'; CAPACITY], true), CAPACITY - 4);
        assert_eq!(outbox.offer(b"y", true), 0);
        assert!(outbox.take(0).unwrap().starts_with(b"keptx"));
        assert_eq!(told.load(Relaxed), 2);
        assert_eq!(outbox.offer(b"y", true), 1);
        assert_eq!(outbox.take(0).unwrap(), b"y");
        assert_eq!(told.load(Relaxed), 2, "nothing was refused");
        outbox.leave();
        outbox.close();
        assert_eq!((told.load(Relaxed), outbox.has_reader(), outbox.offer(b"z", true)), (4, false, 1));
    }

    #[test]
    fn closing_frees_who_waits() {
        let outbox = Arc::new(Outbox::new());
        outbox.enter();
        let guest = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                outbox.write(&[0; 2 * CAPACITY]);
                outbox.write(b"waits");
            })
        };
        thread::sleep(Duration::from_millis(20));
        outbox.close();
        guest.join().unwrap();
        outbox.drain(None);
        assert_eq!(outbox.take(0), None);
    }

    #[test]
    fn draining_gives_up_in_time() {
        let outbox = Outbox::new();
        outbox.enter();
        outbox.write(b"stuck");
        outbox.drain(Some(Duration::from_millis(10)));
        assert_eq!(outbox.take(0).unwrap(), b"stuck");
        outbox.drain(Some(Duration::from_millis(10)));
        outbox.leave();
        outbox.drain(None);
    }
}
