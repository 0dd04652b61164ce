//! The entropy device: fills the driver's buffers with random bytes. Virtio 1.2 "Entropy Device".

use serde::{Deserialize, Serialize};

use super::{BrokenQueue, Queue, VirtioDevice};
use crate::dma::Dma;

/// Bytes that one request gets at most: the standard lets a device give fewer than were asked for, and a guest that asks
/// for gigabytes shall not keep its processor busy.
const MAX_BYTES: usize = 4096;

/// Where random bytes come from.
pub trait RandomSource: Send {
    /// Fills `bytes`; false where there are none.
    fn fill(&mut self, bytes: &mut [u8]) -> bool;
}

impl<F: FnMut(&mut [u8]) -> bool + Send> RandomSource for F {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self(bytes)
    }
}

/// The device remembers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}

/// The entropy device.
pub struct Rng {
    source: Box<dyn RandomSource>,
}

impl Rng {
    /// A device that takes its bytes from `source`.
    pub fn new(source: impl RandomSource + 'static) -> Self {
        Self { source: Box::new(source) }
    }
}

impl VirtioDevice for Rng {
    type State = RngState;

    const DEVICE_TYPE: u16 = 4;
    /// Unclassified, as the PCI code-and-ID list has no class for it.
    const PCI_CLASS: [u8; 3] = [0x00, 0xff, 0x00];

    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }

    fn name(&self) -> &str {
        "virtio-rng"
    }

    fn process(&mut self, _index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        queue.serve(dma, |chain| {
            let mut written = 0;
            for part in chain.writable() {
                let mut bytes = vec![0; (part.length as usize).min(MAX_BYTES - written)];
                if !self.source.fill(&mut bytes) {
                    break;
                }
                dma.write(part.address, &bytes)?;
                written += bytes.len();
            }
            Ok(written as u32)
        })
    }

    fn reset(&mut self) {}

    fn save(&self) -> RngState {
        RngState {}
    }

    fn load(&mut self, _state: RngState) {}
}
