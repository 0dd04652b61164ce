//! Boot content: ACPI and SMBIOS tables, memory map, kernel loading.
//!
//! Everything here is either a pure function from parameters to bytes, a pure parser of a user's file, or a copy of
//! such bytes into guest RAM. Where things sit on the board comes in as a [`Layout`]; this crate knows neither
//! devices nor CPUs.

#![forbid(unsafe_code)]

pub mod acpi;
mod layout;
pub mod linux;
pub mod low_memory;
pub mod memory_map;
pub mod smbios;

pub use layout::Layout;
