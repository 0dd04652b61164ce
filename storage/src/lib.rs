//! The disks of guests: images on the host behind one trait.
//!
//! A [`Medium`] is a file of bytes, as the host has it ([`HostFile`]). A [`Disk`] is what a guest sees: a [`Raw`] one is
//! the medium itself, a [`Qcow2`] one lies in it in the format of that name, by the crate `imago`. [`open()`] makes a disk
//! of what the user asks for. [`Workers`] are the threads that work on a disk; where the host offers io_uring, it moves what needs
//! nothing but moving (a [`Transfer`]).

mod barriers;
mod check;
mod disk;
mod header;
mod host_file;
pub mod image;
mod imago_file;
mod lock;
mod medium;
mod open;
mod qcow2;
mod raw;
mod ring;
mod throttle;
mod workers;
mod write_through;

pub use check::{Findings, check};
pub use disk::{Disk, Limits, Place, SECTOR};
pub use host_file::{Cache, HostFile};
pub use medium::Medium;
pub use open::{Format, OpenError, OpenOptions, open};
pub use qcow2::Qcow2;
pub use raw::Raw;
pub use ring::Transfer;
pub use throttle::Throttle;
pub use workers::{Job, Means, Workers};
