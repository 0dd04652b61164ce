//! The bytes in which disks lie.

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

/// A file of bytes that keeps what was written before a flush. Several threads may use it at the same time.
pub trait Medium: Send + Sync + Debug {
    /// How many bytes there are.
    fn length(&self) -> io::Result<u64>;

    /// Cuts off what is behind `length`, or adds zeros up to it.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Fills `into` with what is there from offset `at` on; beyond the end there are zeros.
    fn read(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()>;

    /// Writes all of `from` from offset `at` on; what lies beyond the end is added.
    fn write(&self, at: u64, from: &[IoSlice<'_>]) -> io::Result<()>;

    /// Makes sure that all that was written is kept.
    fn flush(&self) -> io::Result<()>;

    /// The range, which lies within the file, reads as zeros; where it `may_unmap`, it may take no space.
    fn zero(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()>;

    /// Nobody needs the range, which lies within the file. Doing nothing is right.
    fn discard(&self, at: u64, length: u64) -> io::Result<()>;

    /// Offsets, lengths and the addresses of buffers are multiples of this.
    fn alignment(&self) -> usize {
        1
    }

    /// As [`Medium::read`], if that is done without waiting for the host's disk; `None` where it is not, and then `into`
    /// may have changed.
    fn read_at_once(&self, _at: u64, _into: &mut [IoSliceMut<'_>]) -> Option<io::Result<()>> {
        None
    }

    /// The file of the host's where the same bytes have the same offsets, if there is one from which and to which the host moves
    /// bytes while nobody waits.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether writes go to the host's memory first, so that they are done at once as a rule.
    fn is_buffered(&self) -> bool {
        false
    }
}
