//! A split virtqueue: the rings themselves are the crate `virtio-queue`'s; checked limits, the telling of writes, the
//! suppression of interrupts and state for snapshots are added here.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

use crate::dma::{Dma, NotRam};

/// Parts that a chain can have. The standard allows as many as the queue is long; drivers exceed that in indirect tables.
const MAX_PARTS: usize = 1024;
/// Times that a device looks whether the driver has added buffers while it worked on those it knew of.
pub(super) const MAX_ROUNDS: usize = 64;

const DESCRIPTOR_SIZE: usize = 16;
const RING_HEADER_SIZE: u64 = 4;
const AVAILABLE_ENTRY_SIZE: u64 = 2;
const USED_ENTRY_SIZE: u64 = 8;
const RING_TRAILER_SIZE: u64 = 2;

/// What the driver did wrong, so that the queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenQueue {
    /// A ring or a buffer is not in RAM.
    #[error(transparent)]
    NotRam(#[from] NotRam),
    /// The driver has made more buffers available than the ring holds.
    #[error("the index of the available ring is beyond the ring")]
    AvailableIndex,
    /// Descriptors lead nowhere, in a circle, or are too many.
    #[error("the descriptor chain from {head} has no end")]
    EndlessChain {
        /// The first descriptor.
        head: u16,
    },
    /// A chain has more bytes than any driver of this kind of device puts into one.
    #[error("the descriptor chain from {head} is longer than the {limit} bytes that make sense")]
    TooLong {
        /// The first descriptor.
        head: u16,
        /// How many bytes are the limit.
        limit: u64,
    },
    /// A part for the device to read follows one for it to write.
    #[error("the descriptor chain from {head} goes back to readable parts after writable ones")]
    Order {
        /// The first descriptor.
        head: u16,
    },
}

/// A buffer or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is: RAM.
    pub address: u64,
    /// How long.
    pub length: u32,
    /// Whether the device writes it; otherwise it reads it.
    pub writable: bool,
}

/// A chain of descriptors that the driver has made available: first the parts to read, then those to write. All of them
/// are RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// What the driver knows the chain by.
    pub head: u16,
    /// Its parts.
    pub parts: Vec<Part>,
}

impl Chain {
    /// The parts that the device reads.
    pub fn readable(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.writable)
    }

    /// The parts that the device writes.
    pub fn writable(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.writable)
    }

    /// How many bytes the device is to read. More than `limit` are no request but an attempt to keep the host busy.
    pub fn readable_bytes(&self, limit: u64) -> Result<u64, BrokenQueue> {
        let bytes = self.readable().map(|part| u64::from(part.length)).sum();
        if bytes > limit { Err(BrokenQueue::TooLong { head: self.head, limit }) } else { Ok(bytes) }
    }

    /// Reads what there is from byte `skip` of the readable parts on, as far as `bytes` reaches; the answer is how many.
    pub fn read(&self, skip: u64, bytes: &mut [u8], dma: &Dma) -> Result<usize, NotRam> {
        let (mut skip, mut done) = (skip, 0);
        for part in self.readable() {
            let length = u64::from(part.length);
            if skip >= length {
                skip -= length;
                continue;
            }
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let count = usize::try_from(length - skip).map_or(rest.len(), |length| length.min(rest.len()));
            if count == 0 {
                break;
            }
            dma.read(part.address.saturating_add(skip), &mut rest[..count])?;
            (skip, done) = (0, done + count);
        }
        Ok(done)
    }

    /// Writes `bytes` to the beginning of the writable parts, as far as they reach; the answer is how many.
    pub fn write(&self, bytes: &[u8], dma: &Dma) -> Result<usize, NotRam> {
        let mut done = 0;
        for part in self.writable() {
            let rest = bytes.get(done..).unwrap_or_default();
            let count = rest.len().min(part.length as usize);
            if count == 0 && rest.is_empty() {
                break;
            }
            dma.write(part.address, &rest[..count])?;
            done += count;
        }
        Ok(done)
    }
}

/// What a snapshot keeps of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    size: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
}

/// A queue of a device.
#[derive(Debug)]
pub struct Queue {
    rings: virtio_queue::Queue,
    max_size: u16,
}

impl Queue {
    /// A queue of at most so many descriptors, disabled.
    ///
    /// # Panics
    /// If the size is not a power of two up to 32768, which is a mistake of ours.
    pub fn new(max_size: u16) -> Self {
        let rings = virtio_queue::Queue::new(max_size);
        let rings = rings.unwrap_or_else(|error| panic!("queue size {max_size}: {error}"));
        Self { rings, max_size }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.rings.reset();
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// The driver chooses a size; one that is not allowed changes nothing.
    pub fn set_size(&mut self, size: u16) {
        // What a driver may choose is checked right there, and the old size stays.
        let _ = self.rings.try_set_size(size);
    }

    /// Where the descriptors, the available ring and the used ring are.
    pub fn addresses(&self) -> [u64; 3] {
        [self.rings.desc_table(), self.rings.avail_ring(), self.rings.used_ring()]
    }

    /// The driver says where the rings are, in the order of [`Queue::addresses`]. Each keeps its old place where the new
    /// one is not aligned as it must be.
    pub fn set_addresses(&mut self, [descriptors, available, used]: [u64; 3]) {
        let _ = self.rings.try_set_desc_table_address(GuestAddress(descriptors));
        let _ = self.rings.try_set_avail_ring_address(GuestAddress(available));
        let _ = self.rings.try_set_used_ring_address(GuestAddress(used));
    }

    /// Whether the driver has enabled the queue.
    pub fn is_enabled(&self) -> bool {
        self.rings.ready()
    }

    /// The driver enables the queue, after telling where its rings are.
    pub fn enable(&mut self, with_event_index: bool, dma: &Dma) -> Result<(), BrokenQueue> {
        self.rings.set_event_idx(with_event_index);
        self.check_rings(dma)?;
        self.rings.set_ready(true);
        Ok(())
    }

    /// The next chain that the driver has made available.
    pub fn pop(&mut self, dma: &Dma) -> Result<Option<Chain>, BrokenQueue> {
        let mut available = self.rings.iter(dma.memory()).map_err(|error| match error {
            Error::InvalidAvailRingIndex => BrokenQueue::AvailableIndex,
            _ => NotRam { address: 0, length: 0 }.into(),
        })?;
        let Some(descriptors) = available.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let mut chain = Chain { head, parts: Vec::new() };
        let mut ends = false;
        for descriptor in descriptors {
            let part = Part {
                address: descriptor.addr().0,
                length: descriptor.len(),
                writable: descriptor.is_write_only(),
            };
            if !part.writable && chain.parts.last().is_some_and(|before| before.writable) {
                return Err(BrokenQueue::Order { head });
            }
            let length = part.length as usize;
            if !dma.is_ram(part.address, length) {
                return Err(NotRam { address: part.address, length }.into());
            }
            if chain.parts.len() == MAX_PARTS {
                return Err(BrokenQueue::EndlessChain { head });
            }
            chain.parts.push(part);
            ends = !descriptor.has_next();
        }
        if ends { Ok(Some(chain)) } else { Err(BrokenQueue::EndlessChain { head }) }
    }

    /// Gives a chain back to the driver, after `written` bytes of its writable parts were written.
    pub fn push_used(&mut self, head: u16, written: u32, dma: &Dma) -> Result<(), BrokenQueue> {
        let used = self.rings.used_ring();
        let entry = u64::from(self.rings.next_used() % self.size()) * USED_ENTRY_SIZE;
        self.rings
            .add_used(dma.memory(), head, written)
            .map_err(|_| NotRam { address: used, length: USED_ENTRY_SIZE as usize })?;
        dma.note_write(used.saturating_add(RING_HEADER_SIZE + entry), USED_ENTRY_SIZE as usize);
        dma.note_write(used, RING_HEADER_SIZE as usize);
        Ok(())
    }

    /// Serves all chains that there are, by a device that is done with each at once: `serve` gets a chain and answers how
    /// many bytes it has written.
    pub fn serve(
        &mut self,
        dma: &Dma,
        mut serve: impl FnMut(&Chain) -> Result<u32, NotRam>,
    ) -> Result<(), BrokenQueue> {
        // Each round is bounded by the size of the ring; drivers that go on adding buffers notify again in the end.
        for _ in 0..MAX_ROUNDS {
            for _ in 0..self.size() {
                let Some(chain) = self.pop(dma)? else { break };
                let written = serve(&chain)?;
                self.push_used(chain.head, written, dma)?;
            }
            if !self.ask_for_notification(dma)? {
                break;
            }
        }
        Ok(())
    }

    /// Asks the driver to notify when it adds the next buffer. True when it has added some meanwhile, without notifying.
    pub fn ask_for_notification(&mut self, dma: &Dma) -> Result<bool, BrokenQueue> {
        let used = self.rings.used_ring();
        let broken = NotRam { address: used, length: RING_TRAILER_SIZE as usize };
        let more = self.rings.enable_notification(dma.memory()).map_err(|_| broken)?;
        let trailer = RING_HEADER_SIZE + u64::from(self.size()) * USED_ENTRY_SIZE;
        let place = if self.rings.event_idx_enabled() { trailer } else { 0 };
        dma.note_write(used.saturating_add(place), RING_TRAILER_SIZE as usize);
        Ok(more)
    }

    /// Whether the driver wants an interrupt for what was given back since [`Queue::next_used`] was `before`.
    pub fn wants_interrupt(&mut self, before: u16, dma: &Dma) -> Result<bool, BrokenQueue> {
        if self.next_used() == before {
            return Ok(false);
        }
        let available = self.rings.avail_ring();
        if self.rings.event_idx_enabled() {
            let broken = NotRam { address: available, length: RING_TRAILER_SIZE as usize };
            return self.rings.needs_notification(dma.memory()).map_err(|_| broken.into());
        }
        // The used index must be visible before the driver's wish is looked at: it sets the wish, then looks at the index.
        fence(Ordering::SeqCst);
        let mut flags = [0; 2];
        dma.read(available, &mut flags)?;
        Ok(u32::from(u16::from_le_bytes(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// The number of chains given back, modulo 65536.
    pub fn next_used(&self) -> u16 {
        self.rings.next_used()
    }

    /// The state, to be saved.
    pub fn save(&self) -> QueueState {
        let [descriptors, available, used] = self.addresses();
        QueueState {
            size: self.size(),
            enabled: self.is_enabled(),
            descriptors,
            available,
            used,
            next_available: self.rings.next_avail(),
            next_used: self.rings.next_used(),
        }
    }

    /// Takes over a saved state. A queue that cannot be right in this memory is broken.
    pub fn load(&mut self, state: &QueueState, with_event_index: bool, dma: &Dma) -> Result<(), BrokenQueue> {
        self.reset();
        self.set_size(state.size.min(self.max_size));
        self.set_addresses([state.descriptors, state.available, state.used]);
        self.rings.set_next_avail(state.next_available);
        self.rings.set_next_used(state.next_used);
        if state.enabled { self.enable(with_event_index, dma) } else { Ok(()) }
    }

    /// RAM does not go away, so rings that are in it once stay there.
    fn check_rings(&self, dma: &Dma) -> Result<(), BrokenQueue> {
        let [descriptors, available, used] = self.addresses();
        let size = u64::from(self.size());
        let ring = |entry: u64| (RING_HEADER_SIZE + size * entry + RING_TRAILER_SIZE) as usize;
        for (address, length) in [
            (descriptors, usize::from(self.size()) * DESCRIPTOR_SIZE),
            (available, ring(AVAILABLE_ENTRY_SIZE)),
            (used, ring(USED_ENTRY_SIZE)),
        ] {
            // The crate takes an available ring at address zero for none.
            if address == 0 || !dma.is_ram(address, length) {
                return Err(NotRam { address, length }.into());
            }
        }
        Ok(())
    }
}
