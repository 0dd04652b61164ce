//! Transfers between files and guest RAM that the host's kernel does by itself: io_uring(7). One thread has the ring; it
//! begins what [`Workers`](crate::Workers) give it, many at a time, and tells when they have ended.

// The kernel moves bytes while nobody waits for it: that the files are open and the memory is there until the end is said here.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustc_hash::FxHashMap;
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::disk::Place;

/// So many transfers are under way at a time.
pub(crate) const DEPTH: usize = 128;
/// Vectors that the host takes at once.
const MAX_VECTORS: usize = 1024;
/// What completions call the bell.
const BELL: u64 = u64::MAX;

/// A piece of memory, as the kernel's `struct iovec` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Vector {
    base: usize,
    length: usize,
}

const _: () = assert!(size_of::<Vector>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<Vector>() == align_of::<libc::iovec>());

/// Bytes to be moved between a file and guest RAM, which both are there as long as this is.
pub struct Transfer {
    place: Place,
    write: bool,
    vectors: Vec<Vector>,
    length: usize,
    _memory: GuestMemoryMmap,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.write { "write" } else { "read" };
        write!(f, "{kind} of {} bytes at {}", self.length, self.place.at)
    }
}

impl Transfer {
    /// Between a place and these parts of guest RAM (address, length); `None` where the host would not do it as it is.
    pub fn new(
        place: Place,
        write: bool,
        memory: &GuestMemoryMmap,
        parts: impl Iterator<Item = (u64, usize)>,
    ) -> Option<Self> {
        place.medium.descriptor()?;
        let alignment = place.medium.alignment();
        let (mut vectors, mut total) = (Vec::new(), 0);
        for (address, length) in parts {
            for slice in memory.get_slices(GuestAddress(address), length) {
                let slice = slice.ok()?;
                let (base, length) = (slice.ptr_guard_mut().as_ptr().expose_provenance(), slice.len());
                if !base.is_multiple_of(alignment) || !length.is_multiple_of(alignment) {
                    return None;
                }
                vectors.push(Vector { base, length });
                total += length;
            }
        }
        let fits = !vectors.is_empty() && vectors.len() <= MAX_VECTORS && i32::try_from(total).is_ok();
        fits.then(|| Self { place, write, vectors, length: total, _memory: memory.clone() })
    }

    /// What the kernel is asked for. It is right as long as the transfer is there.
    fn entry(&self) -> Option<Entry> {
        let file = types::Fd(self.place.medium.descriptor()?.as_raw_fd());
        let (vectors, count) = (self.vectors.as_ptr().cast::<libc::iovec>(), self.vectors.len() as u32);
        Some(match self.write {
            true => opcode::Writev::new(file, vectors, count).offset(self.place.at).build(),
            false => opcode::Readv::new(file, vectors, count).offset(self.place.at).build(),
        })
    }
}

/// Wakes the thread of a ring.
#[derive(Clone, Debug)]
pub(crate) struct Bell(std::sync::Arc<OwnedFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(std::sync::Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn ring(&self) {
        // A counter that is full has rung.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn heard(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

/// A ring, with what is under way. `T` is what belongs to a transfer.
pub(crate) struct Ring<T> {
    ring: IoUring,
    bell: Bell,
    listens: bool,
    flights: FxHashMap<u64, (Transfer, T)>,
    next: u64,
}

impl<T> Ring<T> {
    /// A ring of the host's, if it offers one: containers and old kernels may not.
    pub(crate) fn new(bell: Bell) -> io::Result<Self> {
        // One more for the bell. Without a thread's leave, completions wait until it asks for them: nobody is interrupted.
        let entries = (2 * DEPTH) as u32;
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
        let ring = match ring {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            ring => ring?,
        };
        Ok(Self { ring, bell, listens: false, flights: FxHashMap::default(), next: 0 })
    }

    /// Whether transfers are under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// How many transfers may be begun now.
    pub(crate) fn room(&self) -> usize {
        DEPTH - self.flights.len()
    }

    /// Adds a transfer, to be begun by [`Ring::wait`]; gives back what belongs to one that cannot be.
    pub(crate) fn add(&mut self, transfer: Transfer, with: T) -> Result<(), T> {
        let Some(entry) = transfer.entry().filter(|_| self.room() > 0) else { return Err(with) };
        let number = self.next;
        // SAFETY: the transfer is kept in `flights`, with its vectors, its open file and its memory, until the kernel says that it has
        // ended; where it never does, they are leaked (see `Drop`).
        if unsafe { self.ring.submission().push(&entry.user_data(number)) }.is_err() {
            return Err(with);
        }
        self.next += 1;
        self.flights.insert(number, (transfer, with));
        Ok(())
    }

    /// Begins what was added, waits until something has ended or the bell has rung, and tells of what has ended: whether all of
    /// it was moved.
    pub(crate) fn wait(&mut self, mut ended: impl FnMut(T, bool)) -> io::Result<()> {
        if !self.listens {
            let entry = opcode::PollAdd::new(types::Fd(self.bell.0.as_fd().as_raw_fd()), libc::POLLIN as u32);
            // SAFETY: there is nothing but a descriptor, which is open as long as the ring.
            let pushed = unsafe { self.ring.submission().push(&entry.build().user_data(BELL)) };
            self.listens = pushed.is_ok();
        }
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            // Signals; completions that are to be taken first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        for completion in self.ring.completion() {
            if completion.user_data() == BELL {
                self.bell.heard();
                self.listens = false;
            } else if let Some((transfer, with)) = self.flights.remove(&completion.user_data()) {
                let whole = usize::try_from(completion.result()) == Ok(transfer.length);
                drop(transfer);
                ended(with, whole);
            }
        }
        Ok(())
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The kernel may still be moving their bytes: what that needs must never go.
        if !self.flights.is_empty() {
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}
