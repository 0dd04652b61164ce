//! The two ways to configuration space: the ports 0xCF8 and 0xCFC ("configuration mechanism #1" of the PCI Local Bus
//! Specification) and the memory-mapped window of PCI Express.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Slot;
use super::bus::PciBus;
use super::config::EXTENDED_SIZE;
use crate::bus::{ByteDevice, Device, put_value, value_of};
use crate::chipset::reset::{RESET_CONTROL_PORT, ResetControl};

/// First port: the configuration address register, then the data window.
pub const CONFIG_PORT: u64 = 0xcf8;
/// Ports of both.
pub const CONFIG_PORTS: u64 = 8;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// What of the configuration address register can be written; the other bits read as zero.
const ADDRESS_WRITABLE: u32 = ADDRESS_ENABLE | 0x00ff_fffc;
const RESET_CONTROL_OFFSET: u64 = RESET_CONTROL_PORT - CONFIG_PORT;

/// What an access to the ports means; it depends on the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A double word at the first port.
    Address,
    /// A byte at the second: another register in the same place.
    ResetControl,
    /// Up to four bytes in the data window, from this one.
    Data(usize),
    /// Nothing that anything answers.
    None,
}

impl Access {
    fn of(offset: u64, width: usize) -> Self {
        match (offset, width) {
            (0, 4) => Self::Address,
            (RESET_CONTROL_OFFSET, 1) => Self::ResetControl,
            (4..=7, 1 | 2 | 4) if offset as usize + width <= 8 => Self::Data(offset as usize - 4),
            _ => Self::None,
        }
    }
}

/// The ports.
pub struct ConfigPorts {
    bus: Arc<Mutex<PciBus>>,
    reset: Arc<Mutex<ResetControl>>,
}

impl ConfigPorts {
    /// Ports to the functions of `bus`; `reset` is the register that shares a place with the address.
    pub fn new(bus: Arc<Mutex<PciBus>>, reset: Arc<Mutex<ResetControl>>) -> Self {
        Self { bus, reset }
    }
}

/// Bus, slot and register that the configuration address names, when it is enabled.
fn target(address: u32, lane: usize) -> Option<(u8, Slot, usize)> {
    let [register, devfn, bus, _] = address.to_le_bytes();
    (address & ADDRESS_ENABLE != 0).then(|| (bus, Slot::from_devfn(devfn), usize::from(register & !3) + lane))
}

impl Device for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match Access::of(offset, data.len()) {
            Access::Address => put_value(data, self.bus.lock().state.config_address.into()),
            Access::ResetControl => self.reset.lock().read(0, data),
            Access::Data(lane) => {
                let bus = self.bus.lock();
                match target(bus.state.config_address, lane) {
                    Some((number, slot, register)) => bus.read_config(number, slot, register, data),
                    None => data.fill(0xff),
                }
            }
            Access::None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match Access::of(offset, data.len()) {
            Access::Address => {
                self.bus.lock().state.config_address = value_of(data) as u32 & ADDRESS_WRITABLE
            }
            Access::ResetControl => self.reset.lock().write_byte(0, data.first().copied().unwrap_or(0)),
            Access::Data(lane) => {
                let mut bus = self.bus.lock();
                if let Some((number, slot, register)) = target(bus.state.config_address, lane) {
                    bus.write_config(number, slot, register, data);
                }
            }
            Access::None => {}
        }
    }
}

/// Bytes of the memory-mapped window: 256 buses of 1 MiB.
pub const ECAM_SIZE: u64 = 256 << 20;
/// Bytes of the window per bus.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;

/// The memory-mapped window (PCI Express Base Specification, "Enhanced Configuration Access Mechanism").
pub struct Ecam {
    bus: Arc<Mutex<PciBus>>,
}

impl Ecam {
    /// A window to the functions of `bus`.
    pub fn new(bus: Arc<Mutex<PciBus>>) -> Self {
        Self { bus }
    }
}

/// Bus, slot and register of an offset in the window.
fn ecam_target(offset: u64) -> (u8, Slot, usize) {
    let (bus, devfn) = ((offset >> 20) as u8, (offset >> 12) as u8);
    (bus, Slot::from_devfn(devfn), offset as usize % EXTENDED_SIZE)
}

/// The double words, or parts of them, that an access of `len` bytes at `offset` touches: where, and which bytes.
fn double_words(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset.checked_add(done as u64)?;
        // A part that is not naturally aligned goes byte by byte.
        let left = len - done;
        let step = [4, 2, 1].into_iter().find(|&step| step <= left && at.is_multiple_of(step as u64))?;
        let range = done..done + step;
        done += step;
        Some((at, range))
    })
}

impl Device for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let bus = self.bus.lock();
        for (at, part) in double_words(offset, data.len()) {
            let (number, slot, register) = ecam_target(at);
            bus.read_config(number, slot, register, &mut data[part]);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bus = self.bus.lock();
        for (at, part) in double_words(offset, data.len()) {
            let (number, slot, register) = ecam_target(at);
            bus.write_config(number, slot, register, &data[part]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::AddressSpace;
    use crate::pci::bus::tests::Probe;
    use crate::power::recorder::{PowerRecorder, Wish};

    struct Bench {
        bus: Arc<Mutex<PciBus>>,
        ports: ConfigPorts,
        ecam: Ecam,
        power: Arc<PowerRecorder>,
    }

    fn bench() -> Bench {
        let (ports, memory) = (Arc::new(AddressSpace::new("ports")), Arc::new(AddressSpace::new("memory")));
        let mut bus = PciBus::new(ports, memory);
        bus.plug(Slot::new(2, 0), Probe::new(0x5678)).unwrap();
        let bus = Arc::new(Mutex::new(bus));
        let power = PowerRecorder::new();
        let reset = Arc::new(Mutex::new(ResetControl::new(power.clone())));
        Bench { ports: ConfigPorts::new(bus.clone(), reset), ecam: Ecam::new(bus.clone()), bus, power }
    }

    impl Bench {
        fn inl(&mut self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.ports.read(offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn outl(&mut self, offset: u64, value: u32) {
            self.ports.write(offset, &value.to_le_bytes());
        }
    }

    #[test]
    fn linux_finds_configuration_mechanism_1() {
        let mut b = bench();
        b.ports.write(3, &[0x01]);
        b.outl(0, 0x8000_0000);
        assert_eq!(b.inl(0), 0x8000_0000);
        b.outl(0, 0xffff_ffff);
        assert_eq!(b.inl(0), 0x80ff_fffc, "reserved bits are zero");
    }

    #[test]
    fn data_window_reads_and_writes_every_width() {
        let mut b = bench();
        b.outl(0, 0x8000_1000);
        assert_eq!(b.inl(4), 0x5678_1234);
        let mut data = [0; 2];
        b.ports.read(6, &mut data);
        assert_eq!(data, [0x78, 0x56]);
        b.ports.read(5, &mut data[..1]);
        assert_eq!(data[0], 0x12);
        b.ports.read(7, &mut data);
        assert_eq!(data, [0xff, 0xff], "beyond the window");
        b.outl(0, 0x8000_1014);
        b.ports.write(6, &[0xb0, 0xfe]);
        assert_eq!(b.inl(4), 0xfeb0_0000);
        b.outl(0, 0x0000_1014);
        assert_eq!(b.inl(4), u32::MAX, "not enabled");
        b.outl(4, 0);
        b.outl(0, 0x8001_1000);
        assert_eq!(b.inl(4), u32::MAX, "no such bus");
        b.outl(0, 0x8000_1014);
        assert_eq!(b.inl(4), 0xfeb0_0000);
    }

    #[test]
    fn byte_at_cf9_is_the_reset_control_register() {
        let mut b = bench();
        b.outl(0, 0x8000_1000);
        b.ports.write(1, &[0x02]);
        let mut data = [0];
        b.ports.read(1, &mut data);
        assert_eq!(data, [0x02]);
        assert_eq!(b.inl(0), 0x8000_1000, "the address is untouched");
        b.ports.write(1, &[0x06]);
        assert_eq!(b.power.take(), [Wish::Reset]);
        b.ports.write(1, &[0x00, 0x06]);
        assert!(b.power.take().is_empty());
    }

    #[test]
    fn window_reaches_every_function_and_nothing_else() {
        let mut b = bench();
        let mut data = [0; 8];
        b.ecam.read(2 << 15, &mut data);
        assert_eq!(data, [0x34, 0x12, 0x78, 0x56, 0, 0, 0, 0]);
        b.ecam.read((2 << 15) + 0x100, &mut data[..4]);
        assert_eq!(data[..4], [0; 4], "no extended capability");
        for offset in [0, 1 << 12, (2 << 15) + 0x1000, ECAM_BUS_SIZE + (2 << 15), ECAM_SIZE - 8] {
            data = [0; 8];
            b.ecam.read(offset, &mut data);
            assert_eq!(data, [0xff; 8], "{offset:#x}");
        }
        b.ecam.write((2 << 15) + 0x14, &0x8000_0000_feb0_0000u64.to_le_bytes());
        b.ecam.read((2 << 15) + 0x16, &mut data[..1]);
        assert_eq!(data[0], 0xb0);
        // Over the end of the function's 4 KiB, unaligned.
        b.ecam.read((2 << 15) + 0xffd, &mut data);
        assert_eq!(data, [0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]);
        b.ecam.read(u64::MAX - 1, &mut data);
    }

    #[test]
    fn address_is_saved() {
        let mut b = bench();
        b.outl(0, 0x8000_1004);
        let saved = rmp_serde::to_vec_named(&b.bus.lock().save()).unwrap();
        let mut other = bench();
        other.bus.lock().load(rmp_serde::from_slice(&saved).unwrap());
        assert_eq!(other.inl(0), 0x8000_1004);
    }
}
