//! A driver for tests: what an operating system does with a virtio function, a register at a time.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::bus::value_of;
use crate::dma::recorder::{DmaRecorder, memory};
use crate::irq::Recorder;
use crate::pci::PciDevice;
use crate::virtio::{VirtioDevice, VirtioPci};

/// Queues that the driver has room for.
pub(crate) const QUEUES: usize = 16;
pub(crate) const RAM: usize = 0x10_0000;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_INDEX: u64 = 1 << 29;
pub(crate) const RING_RESET: u64 = 1 << 40;
/// The line of the function's pin.
pub(crate) const LINE: u32 = 19;
pub(crate) const DOORBELL: u64 = 0xfee0_0000;

pub(crate) const STATUS: u64 = 0x14;
pub(crate) const ISR: u64 = 0x1000;
pub(crate) const NOTIFY: u64 = 0x3000;

/// Where the driver puts the rings of a queue.
pub(crate) fn rings(queue: u64) -> [u64; 3] {
    [0x1_0000, 0x1_1000, 0x1_2000].map(|at| at + queue * 0x4000)
}

/// A function's way to RAM.
pub(crate) fn dma<D: VirtioDevice>(function: &VirtioPci<D>) -> crate::dma::Dma {
    function.dma.clone()
}

pub(crate) struct Driver<D: VirtioDevice> {
    pub(crate) shared: Arc<Mutex<VirtioPci<D>>>,
    pub(crate) wires: Arc<Recorder>,
    pub(crate) written: Arc<DmaRecorder>,
    /// How many chains were made available in each queue, and how many taken back.
    pub(crate) available: [u16; QUEUES],
    pub(crate) used: [u16; QUEUES],
}

impl<D: VirtioDevice + 'static> Driver<D> {
    /// Plugs a device in and enables memory and bus mastering.
    pub(crate) fn new(device: D) -> Self {
        let (dma, written) = memory(RAM);
        let wires = Recorder::new();
        let shared = VirtioPci::new(device, wires.line(LINE), wires.clone(), dma).shared();
        Self::of(shared, wires, written)
    }

    /// A driver of this function, with memory and bus mastering enabled.
    pub(crate) fn of(
        shared: Arc<Mutex<VirtioPci<D>>>,
        wires: Arc<Recorder>,
        written: Arc<DmaRecorder>,
    ) -> Self {
        shared.lock().write_config(4, &[6, 0]);
        Self { shared, wires, written, available: [0; QUEUES], used: [0; QUEUES] }
    }

    pub(crate) fn function(&self) -> MutexGuard<'_, VirtioPci<D>> {
        self.shared.lock()
    }

    pub(crate) fn write(&mut self, offset: u64, width: usize, value: u64) {
        self.function().write_bar(0, offset, &value.to_le_bytes()[..width]);
    }

    pub(crate) fn read(&mut self, offset: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function().read_bar(0, offset, &mut data[..width]);
        value_of(&data[..width])
    }

    pub(crate) fn status(&mut self) -> u64 {
        self.read(STATUS, 1)
    }

    pub(crate) fn offered(&mut self) -> u64 {
        let half = |driver: &mut Self, select| {
            driver.write(0, 4, select);
            driver.read(4, 4)
        };
        half(self, 0) | half(self, 1) << 32
    }

    /// Resets and negotiates up to FEATURES_OK; false when the device does not take the features.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        self.write(STATUS, 1, 0);
        (self.available, self.used) = ([0; QUEUES], [0; QUEUES]);
        self.write(STATUS, 1, 1);
        self.write(STATUS, 1, 3);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x08, 4, select);
            self.write(0x0c, 4, half);
        }
        self.write(STATUS, 1, 0xb);
        self.status() & 8 != 0
    }

    /// Clears the rings of a queue, and enables it.
    pub(crate) fn enable_queue(&mut self, queue: u64, vector: u64) {
        let [descriptors, available, used] = rings(queue);
        for at in [descriptors, available, used] {
            self.poke(at, &[0; 0x100]);
        }
        self.write(0x16, 2, queue);
        if self.read(0x18, 2) > 8 {
            self.write(0x18, 2, 8);
        }
        self.write(0x1a, 2, vector);
        self.write(0x20, 8, descriptors);
        // In halves, as 32-bit systems do it.
        self.write(0x28, 4, available);
        self.write(0x2c, 4, 0);
        self.write(0x30, 4, used);
        self.write(0x1c, 2, 1);
    }

    /// All of it, up to DRIVER_OK, with queue 0.
    pub(crate) fn start(&mut self, features: u64) {
        assert!(self.negotiate(features));
        self.enable_queue(0, 0);
        self.write(STATUS, 1, 0xf);
        self.written.take();
    }

    /// Enables MSI-X: message n of the table has data 0x40 + n, all unmasked.
    pub(crate) fn enable_msix(&mut self) {
        let vectors = self.function().queues.len() as u64 + 1;
        for vector in 0..vectors {
            let entry = 0x4000 + vector * 16;
            self.write(entry, 8, DOORBELL);
            self.write(entry + 8, 4, 0x40 + vector);
            self.write(entry + 12, 4, 0);
        }
        // MSI-X is the first capability.
        self.function().write_config(0x43, &[0x80]);
    }

    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.function().dma.write(at, bytes).unwrap();
    }

    pub(crate) fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.function().dma.read(at, &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn peek_word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.peek(at))
    }

    pub(crate) fn descriptor(&mut self, at: u64, (address, length, flags, next): (u64, u32, u16, u16)) {
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        self.poke(at, &bytes.concat());
    }

    /// Makes the chain from descriptor `head` of queue 0 available.
    pub(crate) fn offer(&mut self, head: u16) {
        self.offer_in(0, head);
    }

    /// Makes the chain from descriptor `head` of a queue available.
    pub(crate) fn offer_in(&mut self, queue: usize, head: u16) {
        let [_, available, _] = rings(queue as u64);
        let index = self.available[queue];
        self.poke(available + 4 + u64::from(index % 8) * 2, &head.to_le_bytes());
        self.available[queue] = index.wrapping_add(1);
        self.poke(available + 2, &index.wrapping_add(1).to_le_bytes());
    }

    pub(crate) fn notify(&mut self) {
        self.notify_queue(0);
    }

    pub(crate) fn notify_queue(&mut self, queue: usize) {
        self.written.take();
        self.write(NOTIFY + 4 * queue as u64, 2, queue as u64);
    }

    /// One descriptor of queue 0, offered and notified.
    pub(crate) fn request(&mut self, address: u64, length: u32, flags: u16) {
        self.request_in(0, 0, (address, length, flags));
    }

    /// One descriptor of a queue, number `head`, offered and notified.
    pub(crate) fn request_in(&mut self, queue: usize, head: u16, part: (u64, u32, u16)) {
        self.descriptor(rings(queue as u64)[0] + 16 * u64::from(head), (part.0, part.1, part.2, 0));
        self.offer_in(queue, head);
        self.notify_queue(queue);
    }

    /// The next chain that came back: its head and how much was written.
    pub(crate) fn take_used(&mut self) -> Option<(u32, u32)> {
        self.take_used_of(0)
    }

    /// The next chain that came back in a queue.
    pub(crate) fn take_used_of(&mut self, queue: usize) -> Option<(u32, u32)> {
        let used = rings(queue as u64)[2];
        let index = self.used[queue];
        if self.peek_word(used + 2) == index {
            return None;
        }
        let entry = used + 4 + u64::from(index % 8) * 8;
        self.used[queue] = index.wrapping_add(1);
        Some((u32::from_le_bytes(self.peek(entry)), u32::from_le_bytes(self.peek(entry + 4))))
    }
}
