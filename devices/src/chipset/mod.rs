//! The chips of the board.

pub mod apic_bus;
pub mod hpet;
pub mod ioapic;
pub mod lapic;
mod lapic_timer;
pub mod pic;
pub mod pit;
