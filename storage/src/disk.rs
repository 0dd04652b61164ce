//! What a guest's disk is.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::medium::Medium;

/// The unit in which guests address disks, whatever the size of their blocks.
pub const SECTOR: u64 = 512;

/// More than this is not written at once: it may be more than the host takes without waiting.
pub(crate) const MAX_AT_ONCE: u64 = 64 << 10;

/// What a disk can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its size in bytes: whole sectors.
    pub size: u64,
    /// Offsets and lengths are multiples of this: a power of two from [`SECTOR`] on.
    pub block_size: u32,
    /// Writes fail.
    pub read_only: bool,
    /// What is discarded or zeroed in whole units of this many bytes costs no space.
    pub discard_granularity: u32,
}

/// A disk. Several threads may work on it at the same time; what they do to the same blocks has no order.
///
/// Offsets and lengths are multiples of [`Limits::block_size`] within [`Limits::size`]; anything else is an error. An
/// error may leave a part of the range changed. What was written is sure to be kept when a [`Disk::flush`] that began
/// after it has succeeded.
pub trait Disk: Send + Sync {
    /// What it can do.
    fn limits(&self) -> Limits;

    /// Fills `into` with what is there from offset `at` on.
    fn read(&self, at: u64, into: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Writes all of `from` from offset `at` on.
    fn write(&self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Makes sure that all writes that have ended are kept, whatever happens to this program and its host.
    fn flush(&self) -> io::Result<()>;

    /// Nobody needs what is there: it may take no space, and reads as anything from now on.
    fn discard(&self, at: u64, length: u64) -> io::Result<()>;

    /// The range reads as zeros; where it `may_unmap`, it may take no space.
    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()>;

    /// As [`Disk::read`], if that is done without waiting for anything; `None` where it is not, and then `into` may have
    /// changed.
    fn read_at_once(&self, _at: u64, _into: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        None
    }

    /// Where all of a range lies in one file, if reading or writing it there is all that is to be done.
    fn place(&self, _at: u64, _length: u64, _write: bool) -> Option<Place> {
        None
    }

    /// As [`Disk::write`], if that is likely to be done without waiting for anything; `None` where it is not, and nothing
    /// is written.
    fn write_at_once(&self, _at: u64, _from: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        None
    }
}

/// A place in a file, where a range of a disk stays as long as this is there.
pub struct Place {
    pub(crate) medium: Arc<dyn Medium>,
    /// Where the range begins.
    pub(crate) at: u64,
    /// What keeps it there.
    pub(crate) _held: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("medium", &self.medium).field("at", &self.at).finish_non_exhaustive()
    }
}

/// The length of all of these together.
pub(crate) fn total(slices: &[VolatileSlice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

/// An error for what lies beyond the end of a disk or between its blocks.
pub(crate) fn check_range(limits: &Limits, at: u64, length: u64) -> io::Result<()> {
    let block = u64::from(limits.block_size);
    let end = at.checked_add(length).filter(|end| *end <= limits.size);
    if end.is_some() && at.is_multiple_of(block) && length.is_multiple_of(block) {
        return Ok(());
    }
    let what = format!("{length} bytes at {at} are no blocks of a disk of {} bytes", limits.size);
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// An error for disks that only are read.
pub(crate) fn check_writable(limits: &Limits) -> io::Result<()> {
    match limits.read_only {
        true => Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only")),
        false => Ok(()),
    }
}
