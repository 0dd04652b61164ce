//! A transitional function, driven as an old driver does it.

use std::sync::Arc;

use super::*;
use crate::dma::recorder::memory;
use crate::irq::Recorder;
use crate::pci::PciDevice;
use crate::virtio::pci::driver::{EVENT_INDEX, LINE, VERSION_1, WRITE};
use crate::virtio::rng::Rng;

/// The first page of the queue.
const PAGE: u32 = 0x10;
const DESCRIPTORS: u64 = 0x1_0000;
/// The entropy device's queue has eight descriptors.
const AVAILABLE: u64 = DESCRIPTORS + 8 * 16;
const USED: u64 = DESCRIPTORS + 0x1000;
const BUFFER: u64 = 0x2000;

const FEATURES: u64 = 0x04;
const QUEUE_PAGE: u64 = 0x08;
const SELECT: u64 = 0x0e;
const NOTIFY: u64 = 0x10;
const STATUS: u64 = 0x12;
const ISR: u64 = 0x13;

struct Old {
    function: VirtioPci<Rng>,
    wires: Arc<Recorder>,
    offered: u16,
}

impl Old {
    fn new() -> Self {
        let (dma, _) = memory(0x10_0000);
        let wires = Recorder::new();
        let fill = |bytes: &mut [u8]| {
            bytes.fill(0x55);
            true
        };
        let mut function = VirtioPci::transitional(Rng::new(fill), wires.line(LINE), wires.clone(), dma);
        function.write_config(4, &[3, 0]);
        Self { function, wires, offered: 0 }
    }

    fn write(&mut self, port: u64, width: usize, value: u64) {
        self.function.write_bar(BAR, port, &value.to_le_bytes()[..width]);
    }

    fn read(&mut self, port: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function.read_bar(BAR, port, &mut data[..width]);
        value_of(&data[..width])
    }

    /// All of it, up to DRIVER_OK.
    fn start(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(STATUS, 1, status);
        }
        self.write(FEATURES, 4, features);
        self.queue();
        self.write(STATUS, 1, 7);
    }

    fn queue(&mut self) {
        self.offered = 0;
        self.function.dma.write(DESCRIPTORS, &[0; 0x2000]).unwrap();
        self.write(SELECT, 2, 0);
        self.write(QUEUE_PAGE, 4, PAGE.into());
    }

    /// Asks for so many bytes, and says so.
    fn ask(&mut self, length: u32) {
        let descriptor = [&BUFFER.to_le_bytes()[..], &length.to_le_bytes(), &WRITE.to_le_bytes(), &[0; 2]];
        self.function.dma.write(DESCRIPTORS, &descriptor.concat()).unwrap();
        self.offered += 1;
        self.function.dma.write(AVAILABLE + 2, &self.offered.to_le_bytes()).unwrap();
        self.write(NOTIFY, 2, 0);
    }

    /// How many buffers came back, and the length of the first.
    fn used(&self) -> (u16, u32) {
        let mut bytes = [0; 12];
        self.function.dma.read(USED, &mut bytes).unwrap();
        (
            u16::from_le_bytes([bytes[2], bytes[3]]),
            u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
        )
    }
}

#[test]
fn old_drivers_know_what_it_is() {
    let old = Old::new();
    let config = old.function.config();
    assert_eq!((config.read_u32(0), config.read_u8(8), config.read_u16(0x2e)), (0x1005_1af4, 0, 4));
    assert_eq!(config.read_u32(0x10) & 1, 1, "ports");
    let mut at = usize::from(config.read_u8(0x34));
    while at != 0 {
        if config.read_u8(at) == 9 {
            assert_eq!(config.read_u8(at + 4), 4, "new drivers find the structures");
        }
        at = config.read_u8(at + 1).into();
    }
}

#[test]
fn a_request_by_ports() {
    let mut old = Old::new();
    assert_eq!(old.read(0, 4), EVENT_INDEX | 1 << 28, "no feature of later times");
    assert_eq!((old.read(0x0c, 2), old.read(QUEUE_PAGE, 4)), (8, 0));
    old.start(0);
    assert_eq!((old.read(STATUS, 1), old.read(QUEUE_PAGE, 4)), (7, PAGE.into()));
    old.ask(5);
    assert_eq!(old.used(), (1, 5));
    assert!(old.wires.level(LINE));
    assert_eq!((old.read(ISR, 1), old.read(ISR, 1)), (1, 0), "reading acknowledges");
    assert!(!old.wires.level(LINE));
    old.write(STATUS, 1, 0);
    assert_eq!((old.read(STATUS, 1), old.read(QUEUE_PAGE, 4)), (0, 0));
}

#[test]
fn a_queue_that_is_taken_back_and_set_up_again() {
    let mut old = Old::new();
    old.start(EVENT_INDEX);
    old.ask(1);
    old.write(QUEUE_PAGE, 4, 0);
    old.ask(1);
    assert_eq!(old.used().0, 1);
    old.queue();
    old.ask(3);
    assert_eq!(old.used(), (1, 3));
    old.write(SELECT, 2, 7);
    old.write(QUEUE_PAGE, 4, 1);
    old.write(NOTIFY, 2, 7);
    assert_eq!((old.read(0x0c, 2), old.read(QUEUE_PAGE, 4)), (0, 0), "there is no such queue");
}

#[test]
fn the_next_driver_chooses_features_of_its_own() {
    let mut old = Old::new();
    old.start(0);
    // As Linux does it when a driver goes and the next one comes.
    old.write(STATUS, 1, 0);
    old.write(QUEUE_PAGE, 4, 0);
    old.write(STATUS, 1, 1);
    old.write(STATUS, 1, 3);
    old.write(FEATURES, 4, EVENT_INDEX);
    old.queue();
    old.write(STATUS, 1, 7);
    assert_eq!(old.read(FEATURES, 4), EVENT_INDEX);
}

#[test]
fn drivers_that_begin_before_they_are_ready() {
    let mut old = Old::new();
    for status in [0, 1, 3] {
        old.write(STATUS, 1, status);
    }
    assert!(!old.function.config().command().contains(Command::BUS_MASTER));
    old.queue();
    old.ask(2);
    assert_eq!((old.used(), old.read(STATUS, 1)), ((1, 2), 3));
    old.write(STATUS, 1, 7);
    assert_eq!(old.read(STATUS, 1), 7);
    old.ask(2);
    assert_eq!(old.used(), (2, 2));
}

#[test]
fn vectors_move_the_device_configuration() {
    let mut old = Old::new();
    assert_eq!(old.read(0x14, 4), 0, "device configuration");
    let msix = old.function.config().read_u8(0x34);
    old.function.write_config(usize::from(msix) + 3, &[0x80]);
    assert_eq!((old.read(0x14, 2), old.read(0x16, 2)), (0xffff, 0xffff));
    old.write(0x14, 2, 0);
    old.write(0x16, 2, 1);
    assert_eq!((old.read(0x14, 2), old.read(0x16, 2)), (0, 1));
    old.write(0x16, 2, 2);
    assert_eq!(old.read(0x16, 2), 0xffff, "there is no such vector");
}

#[test]
fn rings_outside_of_memory_stop_the_device_until_a_reset() {
    let mut old = Old::new();
    old.write(STATUS, 1, 3);
    old.write(QUEUE_PAGE, 4, 0xffff_ffff);
    old.write(STATUS, 1, 7);
    old.write(NOTIFY, 2, 0);
    assert_eq!(old.read(STATUS, 1), 7, "an old driver does not know the bit");
    old.start(0);
    old.ask(4);
    assert_eq!(old.used(), (1, 4));
}

#[test]
fn new_drivers_use_the_structures() {
    let mut old = Old::new();
    let mut bytes = [0; 4];
    old.function.write_bar(4, 0, &1u32.to_le_bytes());
    old.function.read_bar(4, 4, &mut bytes);
    assert_eq!(u64::from(u32::from_le_bytes(bytes)) << 32 & VERSION_1, VERSION_1);
}
