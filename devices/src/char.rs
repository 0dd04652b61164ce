//! Where the bytes of a character device (serial port, debug console) go on the host.

use std::sync::Arc;

use parking_lot::Mutex;

/// The host side of a character device. Called with the device locked: an implementation must not call back into it, and
/// should not block for long, because the vCPU waits.
pub trait CharBackend: Send {
    /// The guest has sent `bytes`.
    fn write(&mut self, bytes: &[u8]);
}

/// A back end that drops everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl CharBackend for Discard {
    fn write(&mut self, _: &[u8]) {}
}

/// A back end that keeps everything in memory; clones share what they keep.
#[derive(Debug, Default, Clone)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// What has been written since the last call.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock())
    }
}

impl CharBackend for Capture {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}
