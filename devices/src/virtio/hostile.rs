//! A driver that does whatever a script of bytes says: with registers, with rings, with memory, at any moment. For fuzzing and
//! for tests.

use parking_lot::Mutex;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{VirtioDevice, VirtioPci};
use crate::dma::{Dma, Unwatched};
use crate::irq::{IrqLine, MsiSink};
use crate::pci::PciDevice;

/// Guest memory: so many bytes from address 0.
const RAM: usize = 1 << 20;
/// The queues that the driver sets up lie here, each in its own piece: descriptors, available ring, used ring.
const RINGS: u64 = 0x1_0000;
const RINGS_SIZE: u64 = 0x1000;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Descriptors of such a queue.
const QUEUE_SIZE: u64 = 16;
/// Queues that it knows.
const QUEUES: u64 = 64;
/// Indirect tables and buffers are here.
const BUFFERS: u64 = 0x8_0000;

/// Registers of the common configuration.
mod common {
    pub(super) const FEATURE_SELECT: u64 = 0x00;
    pub(super) const FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_ADDRESSES: u64 = 0x20;
    pub(super) const QUEUE_RESET: u64 = 0x3a;
}
const CONFIGURATION: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// The BAR of the structures of a transitional function, and that of its ports.
const BAR: usize = 4;
const LEGACY_BAR: usize = 0;
/// Queues that it sets up by way of ports; their first page.
const LEGACY_QUEUES: u64 = 8;
const LEGACY_PAGE: u64 = 0x60;
/// Pages of each.
const LEGACY_PAGES: u64 = 4;
/// Ports.
mod port {
    pub(super) const FEATURES: u64 = 0x04;
    pub(super) const QUEUE_PAGE: u64 = 0x08;
    pub(super) const QUEUE_SIZE: u64 = 0x0c;
    pub(super) const QUEUE_SELECT: u64 = 0x0e;
    pub(super) const QUEUE_NOTIFY: u64 = 0x10;
    pub(super) const STATUS: u64 = 0x12;
}
/// The structures' BAR, and a little more.
const BAR_MASK: u64 = 0x8fff;

/// Messages that lead nowhere.
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

/// Takes the script apart; zeros behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }

    /// An address: mostly of a buffer, sometimes of rings, of the end of RAM, or of nothing.
    fn address(&mut self) -> u64 {
        let (kind, offset) = (self.byte(), u64::from(self.half()));
        match kind {
            0..0xc0 => BUFFERS + offset,
            0xc0..0xe0 => RINGS + offset,
            0xe0..0xf0 => (RAM as u64).wrapping_sub(offset & 0xff),
            0xf0..0xf8 => u64::MAX - offset,
            _ => u64::from(self.word()) << (offset & 31),
        }
    }
}

/// The driver and the device that it attacks.
struct Attack<'a, D: VirtioDevice> {
    function: &'a Mutex<VirtioPci<D>>,
    dma: Dma,
    /// How many chains it has made available in each queue.
    available: [u16; QUEUES as usize],
}

/// Lets a script drive the device that `make` gives, back ends included: `outside` is called with a byte when something is to
/// happen there. Afterwards the device must be as good as new after a reset.
///
/// # Panics
/// If the device is not, or panics itself.
pub fn drive<D: VirtioDevice + 'static>(
    device: D,
    script: &[u8],
    outside: impl Fn(&Mutex<VirtioPci<D>>, u8),
) {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]);
    let ram = ram.unwrap_or_else(|error| panic!("a megabyte of memory: {error}"));
    let dma = Dma::new(ram, std::sync::Arc::new(Unwatched));
    let function =
        VirtioPci::transitional(device, IrqLine::unconnected(), std::sync::Arc::new(Nowhere), dma.clone())
            .shared();
    let mut attack = Attack { function: &function, dma, available: [0; QUEUES as usize] };
    let mut script = Script(script);
    while !script.0.is_empty() {
        attack.step(&mut script, &outside);
    }
    function.lock().reset();
    attack.start(u64::MAX);
    assert_eq!(attack.read(common::STATUS, 1), 0xf, "a reset heals");
}

impl<D: VirtioDevice> Attack<'_, D> {
    fn write(&self, offset: u64, width: usize, value: u64) {
        self.function.lock().write_bar(BAR, offset, &value.to_le_bytes()[..width]);
    }

    fn read(&self, offset: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function.lock().read_bar(BAR, offset, &mut data[..width]);
        u64::from_le_bytes(data)
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        // Where there is no RAM, nothing is written.
        let _ = self.dma.write(at, bytes);
    }

    /// What a driver should do, with those of the features in `mask`.
    fn start(&mut self, mask: u64) {
        self.function.lock().write_config(4, &[6, 0]);
        self.available = [0; QUEUES as usize];
        for status in [0, 1, 3] {
            self.write(common::STATUS, 1, status);
        }
        for select in [0, 1] {
            self.write(common::FEATURE_SELECT, 4, select);
            let offered = self.read(common::FEATURE, 4);
            self.write(common::DRIVER_FEATURE_SELECT, 4, select);
            self.write(common::DRIVER_FEATURE, 4, offered & mask >> (32 * select));
        }
        self.write(common::STATUS, 1, 0xb);
        for queue in 0..self.read(common::QUEUES, 2).min(QUEUES) {
            self.enable(queue);
        }
        self.write(common::STATUS, 1, 0xf);
    }

    fn enable(&mut self, queue: u64) {
        let rings = RINGS + queue * RINGS_SIZE;
        self.poke(rings, &[0; RINGS_SIZE as usize]);
        self.available[queue as usize] = 0;
        self.write(common::QUEUE_SELECT, 2, queue);
        if self.read(common::QUEUE_SIZE, 2) > QUEUE_SIZE {
            self.write(common::QUEUE_SIZE, 2, QUEUE_SIZE);
        }
        for (place, at) in [rings, rings + AVAILABLE, rings + USED].into_iter().enumerate() {
            self.write(common::QUEUE_ADDRESSES + 8 * place as u64, 8, at);
        }
        self.write(common::QUEUE_ENABLE, 2, 1);
    }

    /// Writes a descriptor; `at` is its table.
    fn descriptor(&self, at: u64, index: u64, script: &mut Script<'_>) {
        let (address, length, flags) = (script.address(), script.half(), script.byte());
        // Lengths near zero, of a page or so, and absurd ones.
        let length = if flags & 0x80 != 0 { u32::from(length) << 16 } else { u32::from(length) };
        let next = u16::from(script.byte()) % (QUEUE_SIZE as u16 + 1);
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(u16::from(flags & 7).to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.poke(at.wrapping_add(16 * index), &bytes);
    }

    fn offer(&mut self, queue: u64, head: u16) {
        let rings = RINGS + queue * RINGS_SIZE;
        let index = self.available[queue as usize];
        let place = rings + AVAILABLE + 4 + u64::from(index % QUEUE_SIZE as u16) * 2;
        self.poke(place, &head.to_le_bytes());
        self.available[queue as usize] = index.wrapping_add(1);
        self.poke(rings + AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }

    fn port_write(&self, port: u64, width: usize, value: u64) {
        self.function.lock().write_bar(LEGACY_BAR, port, &value.to_le_bytes()[..width]);
    }

    fn port_read(&self, port: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function.lock().read_bar(LEGACY_BAR, port, &mut data[..width]);
        u64::from_le_bytes(data)
    }

    /// What a driver of old should do, with these features.
    fn start_legacy(&mut self, features: u32) {
        for status in [0, 1, 3] {
            self.port_write(port::STATUS, 1, status);
        }
        self.port_write(port::FEATURES, 4, features.into());
        for queue in 0..LEGACY_QUEUES {
            let page = LEGACY_PAGE + queue * LEGACY_PAGES;
            self.poke(page << 12, &[0; (LEGACY_PAGES << 12) as usize]);
            self.available[queue as usize] = 0;
            self.port_write(port::QUEUE_SELECT, 2, queue);
            self.port_write(port::QUEUE_PAGE, 4, page);
        }
        self.port_write(port::STATUS, 1, 7);
    }

    /// Makes a chain available in a queue that was set up by way of ports.
    fn offer_legacy(&mut self, queue: u64, head: u16) {
        self.port_write(port::QUEUE_SELECT, 2, queue);
        let size = self.port_read(port::QUEUE_SIZE, 2);
        let available = (LEGACY_PAGE + queue * LEGACY_PAGES << 12) + 16 * size;
        let index = self.available[queue as usize];
        self.poke(available + 4 + u64::from(index) % size.max(1) * 2, &head.to_le_bytes());
        self.available[queue as usize] = index.wrapping_add(1);
        self.poke(available + 2, &index.wrapping_add(1).to_le_bytes());
        self.port_write(port::QUEUE_NOTIFY, 2, queue);
    }

    fn step(&mut self, script: &mut Script<'_>, outside: &impl Fn(&Mutex<VirtioPci<D>>, u8)) {
        let what = script.byte();
        let width = 1 << (what >> 6);
        match what & 0x3f {
            0 | 1 => self.start(u64::MAX),
            2 => {
                // Without some of the features, but not without VERSION_1.
                let mask = u64::from(script.word()) | 0x1ff_ffff_ffff << 32;
                self.start(mask);
            }
            3..12 => {
                let (queue, index) =
                    (u64::from(script.byte()) % QUEUES, u64::from(script.byte()) % QUEUE_SIZE);
                self.descriptor(RINGS + queue * RINGS_SIZE, index, script);
            }
            12..16 => {
                // An indirect table.
                let (table, index) =
                    (BUFFERS + u64::from(script.byte()) * 0x100, u64::from(script.byte() % 16));
                self.descriptor(table, index, script);
            }
            16..24 => {
                let (queue, head) = (u64::from(script.byte()) % QUEUES, u16::from(script.byte()) % 17);
                self.offer(queue, head);
                self.write(NOTIFY + 4 * queue, 2, queue);
            }
            24..26 => {
                let queue = u64::from(script.half()) & 0x1ff;
                self.write(NOTIFY + 4 * queue, 2, queue);
            }
            26..32 => {
                let (at, value) = (script.address(), u64::from(script.word()));
                self.poke(at, &value.to_le_bytes()[..width]);
            }
            32..36 => {
                let (offset, value) = (u64::from(script.byte()) & 0x3f, u64::from(script.word()));
                self.write(offset, width, value);
            }
            36 | 37 => {
                let (offset, value) = (u64::from(script.half()) & BAR_MASK, u64::from(script.word()));
                self.write(offset, width, value);
            }
            38 => {
                self.read(u64::from(script.half()) & BAR_MASK, width);
            }
            39 => {
                let offset = CONFIGURATION + u64::from(script.byte() & 0x3f);
                self.write(offset, width, script.word().into());
                self.read(offset, width);
            }
            40 => {
                let (offset, data) = (usize::from(script.byte()), script.word().to_le_bytes());
                self.function.lock().write_config(offset, &data[..width.min(4)]);
                self.function.lock().read_config(offset, &mut [0; 4]);
            }
            41 => {
                let queue = u64::from(script.byte()) % QUEUES;
                self.write(common::QUEUE_SELECT, 2, queue);
                self.write(common::QUEUE_RESET, 2, 1);
                if queue < self.read(common::QUEUES, 2) {
                    self.enable(queue);
                }
            }
            42 => self.function.lock().reset(),
            43 => self.write(common::STATUS, 1, script.byte().into()),
            44 => {
                let mut function = self.function.lock();
                let state = function.save();
                function.load(state);
                function.resume();
            }
            45 | 46 => {
                // More buffers than there are.
                let (queue, index) = (u64::from(script.byte()) % QUEUES, script.half());
                self.poke(RINGS + queue * RINGS_SIZE + AVAILABLE + 2, &index.to_le_bytes());
            }
            47 => {
                let features = script.word();
                self.start_legacy(features);
            }
            48..51 => {
                let queue = u64::from(script.byte()) % LEGACY_QUEUES;
                let index = u64::from(script.byte()) % QUEUE_SIZE;
                self.descriptor(LEGACY_PAGE + queue * LEGACY_PAGES << 12, index, script);
                let head = u16::from(script.byte()) % 17;
                self.offer_legacy(queue, head);
            }
            51 => {
                let (port, value) = (u64::from(script.byte()) & 0x7f, u64::from(script.word()));
                self.port_write(port, width, value);
                self.port_read(port, width);
            }
            _ => outside(self.function, script.byte()),
        }
    }
}

#[cfg(test)]
mod tests;
