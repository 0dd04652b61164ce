//! Guest RAM as devices reach it: every access is checked, and whoever must know of writes is told.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Learns what devices have written into guest RAM: to drop translations of code that was there, and to mark pages dirty.
pub trait DmaSink: Send + Sync {
    /// The bytes of `range` have changed. Called after the write and before the guest is told that it is done, with the
    /// device locked: an implementation must not call back into devices.
    fn written(&self, range: Range<u64>);
}

/// A sink for machines where nobody has to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl DmaSink for Unwatched {
    fn written(&self, _range: Range<u64>) {}
}

/// An access to what is not RAM. Guests choose the addresses, so this is the guest's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at {address:#x} are not all RAM")]
pub struct NotRam {
    /// The first address.
    pub address: u64,
    /// How many bytes.
    pub length: usize,
}

/// A device's way to guest RAM.
#[derive(Clone)]
pub struct Dma {
    memory: GuestMemoryMmap,
    sink: Arc<dyn DmaSink>,
}

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dma").finish_non_exhaustive()
    }
}

impl Dma {
    /// Access to `memory`; `sink` is told of writes.
    pub fn new(memory: GuestMemoryMmap, sink: Arc<dyn DmaSink>) -> Self {
        Self { memory, sink }
    }

    /// Whether all of so many bytes are RAM.
    pub fn is_ram(&self, address: u64, length: usize) -> bool {
        let end = u64::try_from(length).ok().and_then(|length| address.checked_add(length));
        end.is_some() && self.memory.check_range(GuestAddress(address), length)
    }

    /// Reads bytes: all of them or none.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let length = bytes.len();
        let outside = NotRam { address, length };
        if !self.is_ram(address, length) {
            return Err(outside);
        }
        self.memory.read_slice(bytes, GuestAddress(address)).map_err(|_| outside)
    }

    /// Writes bytes, all of them or none, and tells the sink.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let length = bytes.len();
        let outside = NotRam { address, length };
        if !self.is_ram(address, length) {
            return Err(outside);
        }
        let written = self.memory.write_slice(bytes, GuestAddress(address)).map_err(|_| outside);
        self.note_write(address, length);
        written
    }

    /// The memory, for crates that access it themselves. Who writes there calls [`Dma::note_write`] afterwards.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Tells the sink of a write that was made by way of [`Dma::memory`].
    pub fn note_write(&self, address: u64, length: usize) {
        if length > 0 {
            self.sink.written(address..address.saturating_add(length as u64));
        }
    }
}

#[cfg(test)]
pub(crate) mod recorder {
    use std::ops::Range;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::{Dma, DmaSink};

    /// A sink for tests that remembers.
    #[derive(Default)]
    pub(crate) struct DmaRecorder(Mutex<Vec<Range<u64>>>);

    impl DmaRecorder {
        /// What was written since the last call.
        pub(crate) fn take(&self) -> Vec<Range<u64>> {
            std::mem::take(&mut self.0.lock())
        }
    }

    impl DmaSink for DmaRecorder {
        fn written(&self, range: Range<u64>) {
            self.0.lock().push(range);
        }
    }

    /// So many bytes of RAM from address 0, and what is told of writes to it.
    pub(crate) fn memory(size: usize) -> (Dma, Arc<DmaRecorder>) {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        let sink = Arc::<DmaRecorder>::default();
        (Dma::new(ram, sink.clone()), sink)
    }
}

#[cfg(test)]
mod tests {
    use super::recorder::memory;
    use super::*;

    #[test]
    fn writes_are_told_and_read_back() {
        let (dma, sink) = memory(0x1000);
        dma.write(0xffe, &[1, 2]).unwrap();
        dma.write(0x10, &[]).unwrap();
        assert_eq!(sink.take(), vec![0xffe..0x1000]);
        let mut bytes = [0; 2];
        dma.read(0xffe, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    fn accesses_that_leave_ram_do_nothing() {
        let (dma, sink) = memory(0x1000);
        for address in [0xfff, 0x1000, u64::MAX] {
            assert_eq!(dma.write(address, &[7, 7]), Err(NotRam { address, length: 2 }));
            assert!(dma.read(address, &mut [0; 2]).is_err());
        }
        assert!(!dma.is_ram(0, usize::MAX) && dma.is_ram(0, 0x1000));
        let mut last = [1];
        dma.read(0xfff, &mut last).unwrap();
        assert_eq!(last, [0], "not even the part that is RAM");
        assert!(sink.take().is_empty());
    }
}
