//! PCI: a root bus with its functions, the two ways to their configuration registers, and the wiring of their
//! interrupts.

pub mod access;
pub mod bus;
pub mod config;
pub mod host_bridge;
pub mod intx;
pub mod isa_bridge;
pub mod msix;

use std::fmt;

pub use bus::{PciBus, PciDevice};
pub use config::{Bar, BarKind, ConfigSpace, Identity};
pub use intx::{Intx, IntxRouter, Pin};
pub use msix::Msix;

/// Where a function sits on its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    device: u8,
    function: u8,
}

impl Slot {
    /// Function `function` (0 to 7) of device `device` (0 to 31).
    ///
    /// # Panics
    /// If a bus has no such place. The board chooses places, guests do not.
    pub const fn new(device: u8, function: u8) -> Self {
        assert!(device < 32 && function < 8, "a PCI bus has 32 devices of 8 functions");
        Self { device, function }
    }

    /// From the eight bits that configuration addresses carry.
    pub const fn from_devfn(devfn: u8) -> Self {
        Self { device: devfn >> 3, function: devfn & 7 }
    }

    /// The eight bits that configuration addresses carry.
    pub const fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }

    /// The device number.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function number.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}
