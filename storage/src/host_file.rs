//! A file of the host as a medium.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FsWord, OFlags, fallocate, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, preadv, preadv2, pwritev};

use crate::medium::Medium;

/// What the host's memory does for a disk; the names and meanings are QEMU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// The host caches reads and writes; the guest's flushes reach its disk.
    #[default]
    Writeback,
    /// Past the host's cache (O_DIRECT); the guest's flushes reach its disk.
    None,
    /// The host caches reads; each write reaches its disk before it is done.
    Writethrough,
    /// As `Writeback`, and the guest's flushes do nothing: for disks that may be lost.
    Unsafe,
}

impl Cache {
    /// Each with its name on the command line.
    pub const LIST: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("writeback", Self::Writeback),
        ("writethrough", Self::Writethrough),
        ("unsafe", Self::Unsafe),
    ];
}

/// Vectors that the host takes at once.
const MAX_VECTORS: usize = 1024;
/// Zeros are written in pieces of this size where the host cannot make them in another way.
const PIECE: usize = 1 << 20;
/// What O_DIRECT asks for on file systems and disks of today.
const DIRECT_ALIGNMENT: usize = 4096;

/// A regular file or a block device of the host.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    direct: bool,
    flushes: bool,
    /// It lies in the host's memory, as a whole.
    in_memory: bool,
}

/// tmpfs: statfs(2).
const TMPFS_MAGIC: FsWord = 0x0102_1994;

impl HostFile {
    /// Opens a file, to be read only if not `writable`.
    pub fn open(path: &Path, writable: bool, cache: Cache) -> io::Result<Self> {
        let direct = cache == Cache::None;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(writable);
        if direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        let file = options.open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what =
                if kind.is_dir() { "this is a directory" } else { "this is no file and no block device" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let in_memory = fstatfs(&file).is_ok_and(|about| about.f_type == TMPFS_MAGIC);
        Ok(Self { file, direct, flushes: cache != Cache::Unsafe, in_memory })
    }

    /// A file of which nothing is to be kept.
    pub fn temporary() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, direct: false, flushes: false, in_memory: false })
    }

    /// The file, for locks.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes zeros as data.
    fn write_zeros(&self, at: u64, length: u64) -> io::Result<()> {
        let zeros = aligned(PIECE, |_| Ok(()))?;
        let mut done = 0;
        while done < length {
            let count = (length - done).min(PIECE as u64);
            self.write(at + done, &[IoSlice::new(&zeros.bytes()[..count as usize])])?;
            done += count;
        }
        Ok(())
    }

    fn is_aligned(&self, buffers: impl Iterator<Item = (usize, usize)>) -> bool {
        let wrong = |value: usize| !value.is_multiple_of(DIRECT_ALIGNMENT);
        !self.direct || !{ buffers }.any(|(address, length)| wrong(address) || wrong(length))
    }
}

/// Bytes that begin at a multiple of [`DIRECT_ALIGNMENT`].
struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.length]
    }
}

fn aligned(length: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Aligned> {
    let mut bytes = vec![0; length + DIRECT_ALIGNMENT];
    let begin = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT).min(DIRECT_ALIGNMENT);
    fill(&mut bytes[begin..begin + length])?;
    Ok(Aligned { bytes, begin, length })
}

/// Goes through buffers with calls that may do a part of them.
fn fill(
    mut buffers: &mut [IoSliceMut<'_>],
    mut at: u64,
    mut call: impl FnMut(&mut [IoSliceMut<'_>], u64) -> Result<usize, Errno>,
) -> io::Result<()> {
    loop {
        while buffers.first().is_some_and(|buffer| buffer.is_empty()) {
            buffers = &mut buffers[1..];
        }
        if buffers.is_empty() {
            return Ok(());
        }
        let count = buffers.len().min(MAX_VECTORS);
        match call(&mut buffers[..count], at) {
            Ok(0) => {
                buffers.iter_mut().for_each(|buffer| buffer.fill(0));
                return Ok(());
            }
            Ok(count) => {
                at = at.saturating_add(count as u64);
                IoSliceMut::advance_slices(&mut buffers, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Medium for HostFile {
    fn length(&self) -> io::Result<u64> {
        let about = self.file.metadata()?;
        if about.file_type().is_block_device() {
            use std::io::{Seek, SeekFrom};
            return { &self.file }.seek(SeekFrom::End(0));
        }
        Ok(about.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn read(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        if self.is_aligned(into.iter().map(|buffer| (buffer.as_ptr().addr(), buffer.len()))) {
            return fill(into, at, |buffers, at| preadv(&self.file, buffers, at));
        }
        let length = into.iter().map(|buffer| buffer.len()).sum();
        let read = aligned(length, |bytes| {
            fill(&mut [IoSliceMut::new(bytes)], at, |buffers, at| preadv(&self.file, buffers, at))
        })?;
        let mut rest = read.bytes();
        for buffer in into {
            let (bytes, behind) = rest.split_at(buffer.len());
            buffer.copy_from_slice(bytes);
            rest = behind;
        }
        Ok(())
    }

    fn write(&self, mut at: u64, from: &[IoSlice<'_>]) -> io::Result<()> {
        if !self.is_aligned(from.iter().map(|buffer| (buffer.as_ptr().addr(), buffer.len()))) {
            let length = from.iter().map(|buffer| buffer.len()).sum();
            let copy = aligned(length, |bytes| {
                let mut rest = bytes;
                for buffer in from {
                    let (bytes, behind) = rest.split_at_mut(buffer.len());
                    bytes.copy_from_slice(buffer);
                    rest = behind;
                }
                Ok(())
            })?;
            return self.file.write_all_at(copy.bytes(), at);
        }
        let mut copies: Vec<IoSlice<'_>>;
        let mut buffers: &mut [IoSlice<'_>] = match from {
            [one] => return self.file.write_all_at(one, at),
            several => {
                copies = several.to_vec();
                &mut copies
            }
        };
        while !buffers.is_empty() {
            let count = buffers.len().min(MAX_VECTORS);
            match pwritev(&self.file, &buffers[..count], at) {
                Ok(0) if buffers[..count].iter().all(|buffer| buffer.is_empty()) => {
                    buffers = &mut buffers[count..];
                }
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    at = at.saturating_add(count as u64);
                    IoSlice::advance_slices(&mut buffers, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.flushes { self.file.sync_data() } else { Ok(()) }
    }

    fn zero(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        let flags = match may_unmap {
            true => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        match fallocate(&self.file, flags, at, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => self.write_zeros(at, length),
            Err(error) => Err(error.into()),
        }
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length) {
            // Where the host cannot do it, the bytes stay.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn alignment(&self) -> usize {
        if self.direct { DIRECT_ALIGNMENT } else { 1 }
    }

    fn read_at_once(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> Option<io::Result<()>> {
        let aligned = || self.is_aligned(into.iter().map(|buffer| (buffer.as_ptr().addr(), buffer.len())));
        if self.direct && !(self.in_memory && aligned()) {
            return None;
        }
        // A file system that needs no flag to do it.
        let flags = if self.in_memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
        let result = fill(into, at, |buffers, at| preadv2(&self.file, buffers, at, flags));
        match result {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported) => {
                None
            }
            result => Some(result),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // What lies in memory has nothing to wait for: the kernel would have a thread of its own copy it.
        (!self.in_memory).then(|| self.file.as_fd())
    }

    fn is_buffered(&self) -> bool {
        !self.direct || self.in_memory
    }
}
