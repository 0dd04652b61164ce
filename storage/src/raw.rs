//! Disks whose bytes are those of their medium.

use std::io;
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};
use vm_memory::VolatileSlice;

use crate::disk::{Disk, Limits, MAX_AT_ONCE, Place, SECTOR, check_range, check_writable, total};
use crate::medium::Medium;

/// A raw disk.
#[derive(Debug)]
pub struct Raw {
    medium: Arc<dyn Medium>,
    limits: Limits,
}

impl Raw {
    /// The disk in a medium, as long as that now is; a last sector that is not whole is left out.
    pub fn new(medium: Arc<dyn Medium>, read_only: bool) -> io::Result<Self> {
        let block_size = medium.alignment().max(SECTOR as usize) as u32;
        let size = medium.length()?;
        let size = size - size % u64::from(block_size);
        Ok(Self { medium, limits: Limits { size, block_size, read_only, discard_granularity: 4096 } })
    }

    fn may_write(&self, at: u64, length: u64) -> io::Result<()> {
        check_writable(&self.limits)?;
        check_range(&self.limits, at, length)
    }
}

impl Disk for Raw {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn read(&self, at: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        check_range(&self.limits, at, total(into))?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(into);
        self.medium.read(at, &mut vector.into_inner())
    }

    fn write(&self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.may_write(at, total(from))?;
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        self.medium.write(at, &vector.into_inner())
    }

    fn flush(&self) -> io::Result<()> {
        self.medium.flush()
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        self.may_write(at, length)?;
        self.medium.discard(at, length)
    }

    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.may_write(at, length)?;
        self.medium.zero(at, length, may_unmap)
    }

    fn read_at_once(&self, at: u64, into: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        check_range(&self.limits, at, total(into)).ok()?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(into);
        self.medium.read_at_once(at, &mut vector.into_inner())
    }

    fn place(&self, at: u64, length: u64, write: bool) -> Option<Place> {
        let allowed = if write { self.may_write(at, length) } else { check_range(&self.limits, at, length) };
        allowed.ok()?;
        Some(Place { medium: Arc::clone(&self.medium), at, _held: None })
    }

    fn write_at_once(&self, at: u64, from: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        (self.medium.is_buffered() && total(from) <= MAX_AT_ONCE).then(|| self.write(at, from))
    }
}
