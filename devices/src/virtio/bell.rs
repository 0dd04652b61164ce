//! How what works for a device on other threads gets its attention.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

/// The transport, as back ends know it.
pub(super) trait Function: Send {
    /// Lets the device work on a queue.
    fn run_queue(&mut self, index: usize);

    /// The driver is interrupted for what it was not told yet.
    fn interrupt_at_last(&mut self);
}

/// Rung by back ends: workers with a completed request, a terminal with input.
///
/// Ringing takes the lock of the device. So a back end rings from a thread of its own, with no lock held that the device
/// takes; and a device that waits for its back end, as it must in a reset, waits for work to end, not for a ring to return.
#[derive(Clone, Default)]
pub struct Bell(Arc<OnceLock<Weak<Mutex<dyn Function>>>>);

impl Bell {
    /// From now on it rings at this transport.
    pub(super) fn hang(&self, function: Weak<Mutex<dyn Function>>) {
        // It is hung once, where the transport is made.
        let _ = self.0.set(function);
    }

    /// [`VirtioDevice::process`](super::VirtioDevice::process) is called for queue `index`, if the driver is there and the
    /// queue is enabled; then the driver is interrupted, if it wants to be. Before the device is on a board, and after
    /// that is gone, nothing happens.
    pub fn ring(&self, index: usize) {
        if let Some(function) = self.0.get().and_then(Weak::upgrade) {
            function.lock().run_queue(index);
        }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("hung", &self.0.get().is_some()).finish()
    }
}
