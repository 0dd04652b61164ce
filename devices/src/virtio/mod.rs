//! Virtio devices (Virtual I/O Device Version 1.2) and the PCI transport that carries them.
//!
//! A device implements [`VirtioDevice`] and knows its queues and its configuration, nothing else: features, status,
//! interrupts and the rings belong to [`VirtioPci`] and [`Queue`]. A guest that breaks the rules of a ring gets
//! DEVICE_NEEDS_RESET, as the standard has it.

pub mod blk;
pub mod pci;
pub mod queue;
pub mod rng;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use pci::{VirtioPci, VirtioPciState};
pub use queue::{BrokenQueue, Chain, Part, Queue, QueueState};

use crate::dma::Dma;

/// A virtio device behind a transport.
pub trait VirtioDevice: Send {
    /// What a snapshot keeps of the device itself.
    type State: Serialize + DeserializeOwned + Send;

    /// The device's number in "Device Types".
    const DEVICE_TYPE: u16;
    /// Base class, subclass and programming interface of its PCI function.
    const PCI_CLASS: [u8; 3];
    /// The largest size of each queue: powers of two.
    const QUEUE_SIZES: &'static [u16];

    /// The name that address maps show.
    fn name(&self) -> &str;

    /// The features of this kind of device that it offers; those of transport and rings are not its own.
    fn features(&self) -> u64 {
        0
    }

    /// The guest reads device configuration. Beyond its end there are zeros.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// The guest writes device configuration.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready, with the `features` that both sides have.
    fn activate(&mut self, _features: u64) {}

    /// The driver has made buffers available in queue `index`, or may have. Returns without waiting for anything.
    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue>;

    /// Queue `index` was reset alone: what was taken out of it must not come back, nor be touched any more.
    fn reset_queue(&mut self, _index: usize) {}

    /// Back to the state after power-on. The queues are reset already.
    fn reset(&mut self);

    /// The state, to be saved.
    fn save(&self) -> Self::State;

    /// Takes over a saved state.
    fn load(&mut self, state: Self::State);
}
