//! The chips of the board.

pub mod acpi_pm;
pub mod apic_bus;
mod civil;
pub mod debug_console;
pub mod debug_exit;
pub mod hpet;
pub mod i8042;
pub mod ioapic;
mod keyboard;
pub mod lapic;
mod mouse;
pub mod pic;
pub mod pit;
pub mod reset;
pub mod rtc;
pub mod uart;
