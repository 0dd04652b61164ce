//! The chips of the board.

pub mod acpi_pm;
pub mod debug_console;
pub mod debug_exit;
pub mod reset;
pub mod uart;
