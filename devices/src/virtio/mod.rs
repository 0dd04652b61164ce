//! Virtio devices (Virtual I/O Device Version 1.2) and the PCI transport that carries them.
//!
//! A device implements [`VirtioDevice`] and knows its queues and its configuration, nothing else: features, status,
//! interrupts and the rings belong to [`VirtioPci`] and [`Queue`]. A guest that breaks the rules of a ring gets
//! DEVICE_NEEDS_RESET, as the standard has it.

pub mod balloon;
mod bell;
pub mod blk;
pub mod console;
pub mod gathering;
#[cfg(any(test, feature = "testing"))]
pub mod hostile;
pub mod pci;
pub mod queue;
pub mod rng;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bell::Bell;
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

    /// The largest size of each queue: powers of two. How many there are does not change while the device exists.
    fn queue_sizes(&self) -> Vec<u16>;

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

    /// The device is on the board: what works for it on other threads rings `bell` when it has something for the guest.
    fn connect(&mut self, _bell: Bell) {}

    /// Whether the driver is to be told that device configuration has changed; asked, and so taken back, when it has become
    /// ready and after each access to configuration.
    fn take_config_change(&mut self) -> bool {
        false
    }

    /// The driver is ready, with the `features` that both sides have. Called once between two resets.
    fn activate(&mut self, _features: u64) {}

    /// The driver has made buffers available in queue `index`, or may have, or the bell was rung for it. Returns without
    /// waiting for anything: a device whose requests take time notes the chains, hands the work to others, and gives the
    /// chains back when it is called again because they have rung.
    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue>;

    /// A queue that is to be worked on because of what the device has learnt in [`VirtioDevice::process`]; asked after each
    /// call of that until there is none.
    fn follow_up(&mut self) -> Option<usize> {
        None
    }

    /// The driver has reset queue `index` alone. Chains that were taken from it are the driver's again: when this returns,
    /// nobody reads or writes them any more, nor is one of them given back later.
    fn reset_queue(&mut self, _index: usize) {}

    /// Back to the state after power-on. The queues are reset already, and for their chains the same holds as with
    /// [`VirtioDevice::reset_queue`].
    fn reset(&mut self);

    /// The state, to be saved.
    fn save(&self) -> Self::State;

    /// Takes over a saved state.
    fn load(&mut self, state: Self::State);
}

/// Reads from the bytes of device configuration; beyond their end there are zeros.
pub(crate) fn read_bytes(configuration: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..));
    for (byte, source) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *byte = *source;
    }
}
