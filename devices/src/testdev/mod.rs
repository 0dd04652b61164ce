//! The devices that CPU and interrupt test suites expect from a PC: QEMU's `pc-testdev` and `pci-testdev`.

pub mod pc;
pub mod pci;
