//! Input on its way to the guest: filled by a terminal, pipe or socket, emptied into a port as it takes it.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// How much input waits for a guest that does not read.
const CAPACITY: usize = 16 << 10;
/// What is offered to the serial port at once: more than its FIFO holds.
const CHUNK: usize = 64;

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The port may take input: true until it has refused some, and again when it asks.
    wanted: bool,
    /// The port wants to be told though there may be nothing.
    again: bool,
}

/// A bounded queue of input.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { bytes: VecDeque::new(), wanted: true, again: false }),
            changed: Condvar::new(),
        }
    }

    /// Adds input; waits while the queue is full, so that a pipe or socket is slowed down.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        while state.bytes.len() >= CAPACITY {
            self.changed.wait(&mut state);
        }
        state.bytes.extend(bytes);
        self.changed.notify_all();
    }

    /// Adds a typed byte. False, and the byte is lost, when the queue is full: waiting would make Ctrl-A deaf.
    pub(crate) fn try_push(&self, byte: u8) -> bool {
        let mut state = self.state.lock();
        let fits = state.bytes.len() < CAPACITY;
        if fits {
            state.bytes.push_back(byte);
            self.changed.notify_all();
        }
        fits
    }

    /// The port wants input again. Takes a lock only for a moment, so it may be called with the port locked.
    pub(crate) fn want(&self) {
        self.state.lock().wanted = true;
        self.changed.notify_all();
    }

    /// Whether there is input.
    pub(crate) fn has_bytes(&self) -> bool {
        !self.state.lock().bytes.is_empty()
    }

    /// Takes input: so many bytes. Who has taken all is [told](Self::announce) when there is more.
    pub(crate) fn take(&self, bytes: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let count = bytes.len().min(state.bytes.len());
        for (byte, source) in bytes.iter_mut().zip(state.bytes.drain(..count)) {
            *byte = source;
        }
        state.wanted |= state.bytes.is_empty();
        self.changed.notify_all();
        count
    }

    /// The port wants to be told once more, soon.
    pub(crate) fn again(&self) {
        self.state.lock().again = true;
        self.changed.notify_all();
    }

    /// Tells the port of input for ever, and again only when it has taken all that there was.
    pub(crate) fn announce(&self, port: &(dyn Fn() + Send + Sync)) -> ! {
        loop {
            let mut state = self.state.lock();
            while !(state.again || state.wanted && !state.bytes.is_empty()) {
                self.changed.wait(&mut state);
            }
            // Cleared before the port is told: what it wants while it looks must not be lost.
            (state.wanted, state.again) = (false, false);
            drop(state);
            port();
        }
    }

    /// Gives input to the port for ever. `port` answers how many bytes it has taken.
    pub(crate) fn feed(&self, port: &(dyn Fn(&[u8]) -> usize + Send)) -> ! {
        loop {
            self.feed_once(port);
        }
    }

    fn feed_once(&self, port: &(dyn Fn(&[u8]) -> usize + Send)) {
        let mut state = self.state.lock();
        while state.bytes.is_empty() || !state.wanted {
            self.changed.wait(&mut state);
        }
        // Cleared before the port is asked: a wish that comes while it answers must not be lost.
        state.wanted = false;
        let chunk: Vec<u8> = state.bytes.iter().copied().take(CHUNK).collect();
        drop(state);
        let taken = port(&chunk).min(chunk.len());
        if taken > 0 {
            let mut state = self.state.lock();
            state.bytes.drain(..taken);
            state.wanted = true;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::MutexGuard;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn all_input_arrives_in_order_at_a_port_that_takes_16_bytes_at_a_time() {
        let inbox = Arc::new(Inbox::new());
        let input: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
        let port = Arc::new(Mutex::new((Vec::new(), 16_usize)));
        let writer = {
            let (inbox, input) = (Arc::clone(&inbox), input.clone());
            thread::spawn(move || input.chunks(1000).for_each(|chunk| inbox.push(chunk)))
        };
        let guest = {
            let (inbox, port, length) = (Arc::clone(&inbox), Arc::clone(&port), input.len());
            thread::spawn(move || {
                loop {
                    let mut port = port.lock();
                    if port.0.len() == length {
                        return;
                    }
                    if port.1 == 0 {
                        port.1 = 16;
                        inbox.want();
                    }
                    // Whoever waits for the port gets it, on a busy host too.
                    MutexGuard::unlock_fair(port);
                    thread::yield_now();
                }
            })
        };
        let take = {
            let port = Arc::clone(&port);
            move |bytes: &[u8]| {
                let mut port = port.lock();
                let taken = bytes.len().min(port.1);
                port.0.extend_from_slice(&bytes[..taken]);
                port.1 -= taken;
                taken
            }
        };
        while port.lock().0.len() < input.len() {
            inbox.feed_once(&take);
        }
        writer.join().unwrap();
        guest.join().unwrap();
        assert!(port.lock().0 == input);
    }

    #[test]
    fn typing_into_a_full_queue_does_not_wait() {
        let inbox = Inbox::new();
        assert!((0..CAPACITY).all(|_| inbox.try_push(b'x')));
        assert!(!inbox.try_push(b'y'));
    }
}
