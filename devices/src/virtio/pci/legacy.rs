//! The legacy interface of transitional functions, for drivers from before virtio 1.0: the sections "Legacy Interfaces" of
//! virtio 1.2, above all "A Note on PCI Device Layout". Registers are ports, queues are as long as the device says and lie in
//! one piece, and there is no FEATURES_OK.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::{Gathered, NO_VECTOR, VirtioDevice, VirtioPci};
use crate::bus::value_of;
use crate::pci::config::{Command, register};

/// The BAR of the interface.
pub(super) const BAR: usize = 0;
/// Registers, and the longest device configuration.
pub(super) const BAR_SIZE: u64 = 128;

/// Rings are addressed by pages of this size, and the used ring begins with one.
const PAGE_SIZE: u64 = 4096;
const DESCRIPTOR_SIZE: u64 = 16;
const AVAILABLE_ENTRY_SIZE: u64 = 2;
/// Flags, index, and the event index behind the entries.
const AVAILABLE_REST: u64 = 6;

/// The status bits that old drivers do not know; the transport uses them itself.
const HIDDEN: u8 = (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET) as u8;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;

/// The PCI device ID of a kind of device, as old drivers know it.
///
/// # Panics
/// If that kind is younger than the interface, which is a mistake of ours.
pub(super) fn device_id(device_type: u16) -> u16 {
    match device_type {
        // Network card, disk.
        1 => 0x1000,
        2 => 0x1001,
        // The old balloon, terminals, random numbers.
        5 => 0x1002,
        3 => 0x1003,
        4 => 0x1005,
        other => panic!("devices of type {other} have no legacy interface"),
    }
}

/// Registers in front of the device configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    DeviceFeatures,
    DriverFeatures,
    QueuePage,
    QueueSize,
    QueueSelect,
    QueueNotify,
    DeviceStatus,
    Isr,
    ConfigVector,
    QueueVector,
}

/// What an access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Register(Register),
    /// So many bytes from the beginning of the device configuration.
    Device(u64),
    Nothing,
}

impl Register {
    /// Each register with its offset and its width.
    const ALL: [(Self, u64, usize); 10] = [
        (Self::DeviceFeatures, 0x00, 4),
        (Self::DriverFeatures, 0x04, 4),
        (Self::QueuePage, 0x08, 4),
        (Self::QueueSize, 0x0c, 2),
        (Self::QueueSelect, 0x0e, 2),
        (Self::QueueNotify, 0x10, 2),
        (Self::DeviceStatus, 0x12, 1),
        (Self::Isr, 0x13, 1),
        (Self::ConfigVector, 0x14, 2),
        (Self::QueueVector, 0x16, 2),
    ];

    /// What lies at an offset: the vector registers are there only while messages are in use.
    fn at(offset: u64, length: usize, with_vectors: bool) -> Place {
        let device = if with_vectors { 0x18 } else { 0x14 };
        if let Some(offset) = offset.checked_sub(device) {
            return Place::Device(offset);
        }
        let found = Self::ALL.into_iter().find(|(_, at, width)| (*at, *width) == (offset, length));
        found.map_or(Place::Nothing, |(register, ..)| Place::Register(register))
    }
}

/// Where the descriptors, the available ring and the used ring of a queue are whose first page is given.
fn rings(page: u32, size: u16) -> [u64; 3] {
    let (descriptors, size) = (u64::from(page) * PAGE_SIZE, u64::from(size));
    let available = descriptors + DESCRIPTOR_SIZE * size;
    let used = (available + AVAILABLE_ENTRY_SIZE * size + AVAILABLE_REST).next_multiple_of(PAGE_SIZE);
    [descriptors, available, used]
}

impl<D: VirtioDevice> VirtioPci<D> {
    pub(super) fn read_legacy(&mut self, offset: u64, data: &mut [u8]) {
        match Register::at(offset, data.len(), self.msix.is_enabled()) {
            Place::Device(offset) => self.device.read_config(offset, data),
            Place::Nothing => data.fill(0xff),
            Place::Register(register) => {
                let value = self.read_legacy_register(register).to_le_bytes();
                data.iter_mut().zip(value).for_each(|(byte, source)| *byte = source);
            }
        }
    }

    /// The upper half came with virtio 1.0.
    fn legacy_features(&self) -> u64 {
        self.offered() & u64::from(u32::MAX)
    }

    fn read_legacy_register(&mut self, register: Register) -> u32 {
        let queue = self.queues.get(self.selected());
        match register {
            Register::DeviceFeatures => self.legacy_features() as u32,
            Register::DriverFeatures => self.registers.driver_features as u32,
            Register::QueuePage => queue
                .filter(|queue| queue.is_enabled())
                .map_or(0, |queue| (queue.addresses()[0] / PAGE_SIZE) as u32),
            Register::QueueSize => queue.map_or(0, |queue| queue.size().into()),
            Register::QueueSelect => self.registers.queue_select.into(),
            Register::QueueNotify => 0,
            Register::DeviceStatus => {
                let unsaid = if self.registers.is_early { DRIVER_OK } else { 0 };
                (self.registers.status & !(HIDDEN | unsaid)).into()
            }
            Register::Isr => self.take_isr().into(),
            Register::ConfigVector => self.registers.config_vector.into(),
            Register::QueueVector => {
                self.registers.queue_vectors.get(self.selected()).copied().unwrap_or(NO_VECTOR).into()
            }
        }
    }

    pub(super) fn write_legacy(&mut self, offset: u64, data: &[u8]) {
        let register = match Register::at(offset, data.len(), self.msix.is_enabled()) {
            Place::Register(register) => register,
            Place::Device(offset) => {
                self.device.write_config(offset, data);
                self.tell_config_change();
                return;
            }
            Place::Nothing => return,
        };
        let (value, selected) = (value_of(data), self.selected());
        match register {
            Register::DriverFeatures if !self.registers.has(VIRTIO_CONFIG_S_FEATURES_OK) => {
                self.registers.driver_features = value & self.legacy_features();
            }
            Register::QueuePage => self.set_queue_page(selected, value as u32),
            Register::QueueSelect => self.registers.queue_select = value as u16,
            Register::QueueNotify => {
                // The first drivers used their queues before they said that they were ready.
                let enabled = self.queues.get(value as usize).is_some_and(|queue| queue.is_enabled());
                if enabled && !self.registers.has(VIRTIO_CONFIG_S_DRIVER_OK) {
                    self.registers.is_early = true;
                    self.begin_legacy();
                }
                self.notified(value as usize);
            }
            Register::DeviceStatus if value == 0 => self.reset_device(),
            Register::DeviceStatus => self.set_legacy_status(value as u8),
            Register::ConfigVector => self.registers.config_vector = self.vector(value as u16),
            Register::QueueVector => {
                let vector = self.vector(value as u16);
                if let Some(place) = self.registers.queue_vectors.get_mut(selected) {
                    *place = vector;
                }
            }
            Register::DriverFeatures | Register::DeviceFeatures | Register::QueueSize | Register::Isr => {}
        }
    }

    fn set_legacy_status(&mut self, value: u8) {
        let lasting = self.registers.status & (HIDDEN | DRIVER_OK);
        self.registers.status = lasting | value & !(HIDDEN | DRIVER_OK);
        if value & DRIVER_OK != 0 {
            self.registers.is_early = false;
            self.begin_legacy();
        }
    }

    /// The features are what they are by now.
    fn settle_legacy(&mut self) {
        self.registers.status |= VIRTIO_CONFIG_S_FEATURES_OK as u8;
    }

    /// The driver is ready, whether it has said so or not.
    fn begin_legacy(&mut self) {
        if self.registers.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            return;
        }
        self.settle_legacy();
        self.tell_features(self.legacy_features());
        self.registers.status |= VIRTIO_CONFIG_S_DRIVER_OK as u8;
        // Linux before 2.6.34 has the device use memory without having allowed it.
        let command = self.config.command() | Command::BUS_MASTER;
        self.config.write(register::COMMAND, &command.bits().to_le_bytes());
        self.msix.sync(&self.config);
        self.driver_is_ready();
    }

    /// The driver says where a queue lies, and so enables it; page 0 takes that back.
    fn set_queue_page(&mut self, index: usize, page: u32) {
        if page != 0 {
            self.settle_legacy();
        }
        let with_event_index = self.registers.negotiated(VIRTIO_RING_F_EVENT_IDX);
        let Some(queue) = self.queues.get_mut(index) else { return };
        if page == 0 {
            queue.reset();
            self.gathered[index] = Gathered::default();
            self.device.reset_queue(index);
        } else if !queue.is_enabled() {
            queue.set_addresses(rings(page, queue.size()));
            if let Err(broken) = queue.enable(with_event_index, &self.dma) {
                self.needs_reset(index, broken);
            }
        }
    }
}

#[cfg(test)]
mod tests;
