//! Boot content: ACPI and SMBIOS tables, memory map, kernel loading.
//!
//! Everything here is either a pure function from parameters to bytes, a pure parser of a user's file, or a copy of
//! such bytes into guest RAM. Where things sit on the board comes in as a [`Layout`]; this crate knows neither
//! devices nor CPUs.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod elf;
mod entry;
mod error;
mod kernel;
mod layout;
pub mod linux;
pub mod low_memory;
pub mod memory_map;
pub mod multiboot;
mod places;
pub mod pvh;
mod recognise;
pub mod smbios;

pub use entry::{EntryState, FlatSegments, LongEntry, ProtectedEntry};
pub use error::BootError;
pub use kernel::{Boot, Kernel, Module, load};
pub use layout::Layout;
