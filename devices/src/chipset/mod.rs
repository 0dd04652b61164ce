//! The chips of the board.

pub mod acpi_pm;
pub mod debug_console;
pub mod debug_exit;
pub mod i8042;
mod keyboard;
mod mouse;
pub mod reset;
pub mod uart;
