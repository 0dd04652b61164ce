//! A medium as `imago` sees one.

// The trait's methods are unsafe to call, because they check and order nothing; `imago` calls them where it has done so.
#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use crate::barriers::Barriers;
use crate::medium::Medium;

/// A medium that holds an image, whose format says which of its writes must not overtake others.
#[derive(Debug)]
pub(crate) struct ImagoFile {
    medium: Arc<dyn Medium>,
    barriers: Option<Barriers>,
    helper: CommonStorageHelper,
}

impl ImagoFile {
    /// A medium with a qcow2 image.
    pub(crate) fn qcow2(medium: Arc<dyn Medium>) -> Self {
        Self { medium, barriers: Some(Barriers::default()), helper: CommonStorageHelper::default() }
    }

    /// A medium that only is read, or has no structure.
    pub(crate) fn plain(medium: Arc<dyn Medium>) -> Self {
        Self { medium, barriers: None, helper: CommonStorageHelper::default() }
    }
}

impl ImagoFile {
    pub(crate) fn medium(&self) -> &Arc<dyn Medium> {
        &self.medium
    }

    fn note_data(&self) {
        if let Some(barriers) = &self.barriers {
            barriers.data();
        }
    }
}

impl fmt::Display for ImagoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("image file")
    }
}

impl Storage for ImagoFile {
    fn mem_align(&self) -> usize {
        self.medium.alignment()
    }

    fn req_align(&self) -> usize {
        self.medium.alignment()
    }

    fn size(&self) -> io::Result<u64> {
        self.medium.length()
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, _relative: P) -> io::Result<PathBuf> {
        // Which files are opened is decided before `imago` is asked.
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        self.medium.read(offset, &mut bufv.into_inner())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let buffers = bufv.into_inner();
        match &self.barriers {
            Some(barriers) => barriers.write(&*self.medium, offset, &buffers),
            None => self.medium.write(offset, &buffers),
        }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        let there = self.medium.length()?;
        let inside = there.saturating_sub(offset).min(length);
        if inside > 0 {
            self.medium.zero(offset, inside, true)?;
        }
        if end > there {
            // Not by setting the length: somebody else may have made the file longer meanwhile.
            let last = vec![0; self.medium.alignment().min(length as usize)];
            self.medium.write(end - last.len() as u64, &[IoSlice::new(&last)])?;
        }
        self.note_data();
        Ok(())
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.medium.zero(offset, length, false)?;
        self.note_data();
        Ok(())
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.medium.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.barriers.as_ref().map_or(Ok(()), |barriers| barriers.settle(&*self.medium))
    }

    fn sync(&self) -> io::Result<()> {
        match &self.barriers {
            Some(barriers) => barriers.flush(&*self.medium),
            None => self.medium.flush(),
        }
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, _mode: PreallocateMode) -> io::Result<()> {
        self.medium.set_length(new_size)
    }
}
