//! Disks whose writes are kept before they are done.

use std::io;

use vm_memory::VolatileSlice;

use crate::disk::{Disk, Limits, Place};

/// A disk that flushes after each change.
pub(crate) struct WriteThrough<D>(pub(crate) D);

impl<D: Disk> Disk for WriteThrough<D> {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn read(&self, at: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.0.read(at, into)
    }

    fn write(&self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.0.write(at, from)?;
        self.0.flush()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        self.0.discard(at, length)?;
        self.0.flush()
    }

    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(at, length, may_unmap)?;
        self.0.flush()
    }

    fn place(&self, at: u64, length: u64, write: bool) -> Option<Place> {
        if write { None } else { self.0.place(at, length, false) }
    }

    fn read_at_once(&self, at: u64, into: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        self.0.read_at_once(at, into)
    }
}
