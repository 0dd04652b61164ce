//! The devices of the PC: pure state machines with `&mut self`, wired together by the board.

pub mod bus;
pub mod char;
pub mod chipset;
pub mod clock;
pub mod dma;
mod host_time;
mod host_tsc;
pub mod interrupts;
pub mod irq;
pub mod pci;
pub mod power;
pub mod testdev;
pub mod virtio;
