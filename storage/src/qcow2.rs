//! Disks in qcow2 images, by the crate `imago`.

use std::io;
use std::sync::Arc;

use imago::format::PreallocateMode;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping, StorageExt,
};
use parking_lot::RwLock;
use vm_memory::VolatileSlice;

use crate::disk::{Disk, Limits, MAX_AT_ONCE, Place, SECTOR, check_range, check_writable, total};
use crate::imago_file::ImagoFile;
use crate::medium::Medium;

/// Zeros are written in pieces of this size where the image cannot say that there are some.
const PIECE: usize = 1 << 20;

pub(crate) type Image = FormatAccess<ImagoFile>;
type Format = imago::qcow2::Qcow2<ImagoFile>;

/// A disk in an image, and in the images behind it.
pub struct Qcow2 {
    /// Written to be changed where places of data go away that others may be using.
    image: Arc<RwLock<Image>>,
    limits: Limits,
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) backing: Option<String>,
    pub(crate) backing_format: Option<String>,
    pub(crate) external_data: bool,
}

/// What is opened, before it is known what lies behind it.
pub(crate) struct Unlinked(Format);

impl Unlinked {
    /// Reads an image's header.
    pub(crate) fn open(medium: Arc<dyn Medium>, writable: bool) -> io::Result<Self> {
        let format = Format::builder(ImagoFile::qcow2(medium)).write(writable);
        let image = format.backing(None).data_file(None).open(DenyImplicitOpenGate::default())?;
        Ok(Self(image))
    }

    /// Opens an image for [`Unlinked::resize`] alone, which writes its tables as a whole.
    pub(crate) fn open_to_resize(medium: Arc<dyn Medium>) -> io::Result<Self> {
        let format = Format::builder(ImagoFile::plain(medium)).write(true);
        Ok(Self(format.backing(None).data_file(None).open(DenyImplicitOpenGate::default())?))
    }

    /// Changes the size of the disk; where it `hides` what lies behind the image, the new end reads as zeros for certain.
    pub(crate) fn resize(self, size: u64, hides: bool) -> io::Result<()> {
        let mut image = FormatAccess::new(self.0);
        let mode = if hides { PreallocateMode::Zero } else { PreallocateMode::None };
        image.resize(size, mode)?;
        image.flush()
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            backing: self.0.implicit_backing_file().cloned(),
            backing_format: self.0.implicit_backing_format().cloned(),
            external_data: self.0.requires_external_data_file(),
        }
    }

    /// The image, with what lies behind it.
    pub(crate) fn link(mut self, backing: Option<Image>) -> Image {
        self.0.set_backing(backing);
        FormatAccess::new(self.0)
    }
}

/// A raw image, to lie behind others.
pub(crate) fn raw_image(medium: Arc<dyn Medium>) -> io::Result<Image> {
    let raw = imago::raw::Raw::builder(ImagoFile::plain(medium)).open(DenyImplicitOpenGate::default())?;
    Ok(FormatAccess::new(raw))
}

/// How an image is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) size: u64,
    pub(crate) cluster_size: usize,
    /// The name of the image behind it, and its format's.
    pub(crate) backing: Option<(String, String)>,
}

/// Makes an empty image in an empty medium.
pub(crate) fn create(medium: Arc<dyn Medium>, shape: Shape) -> io::Result<()> {
    let mut builder =
        Format::create_builder(ImagoFile::plain(medium)).size(shape.size).cluster_size(shape.cluster_size);
    if let Some((name, format)) = shape.backing {
        builder = builder.backing(name, format);
    }
    builder.create()
}

impl Qcow2 {
    /// An image that stands alone, in a medium.
    pub fn open(medium: Arc<dyn Medium>, read_only: bool) -> io::Result<Self> {
        let image = Unlinked::open(medium, !read_only)?;
        let header = image.header();
        if header.backing.is_some() || header.external_data {
            return Err(io::Error::other("the image needs other files"));
        }
        Ok(Self::new(image.link(None), read_only))
    }

    /// Makes an empty image of this size in an empty medium.
    pub fn create(medium: Arc<dyn Medium>, size: u64) -> io::Result<()> {
        Self::create_with(medium, size, 64 << 10)
    }

    /// As [`Qcow2::create`], with clusters of this size: a power of two from 512 bytes to 2 MiB.
    pub fn create_with(medium: Arc<dyn Medium>, size: u64, cluster_size: usize) -> io::Result<()> {
        create(medium, Shape { size, cluster_size, backing: None })
    }

    pub(crate) fn new(image: Image, read_only: bool) -> Self {
        // What is smaller than the medium's blocks is dealt with by `imago`.
        let size = image.size() - image.size() % SECTOR;
        let limits = Limits { size, block_size: SECTOR as u32, read_only, discard_granularity: 64 << 10 };
        Self { image: Arc::new(RwLock::new(image)), limits }
    }

    fn may_write(&self, at: u64, length: u64) -> io::Result<()> {
        check_writable(&self.limits)?;
        check_range(&self.limits, at, length)
    }
}

impl Disk for Qcow2 {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn read(&self, at: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        check_range(&self.limits, at, total(into))?;
        // imago takes no vector of empty pieces.
        if total(into) == 0 {
            return Ok(());
        }
        let (vector, _guard) = IoVectorMut::from_volatile_slice(into);
        self.image.read().readv(vector, at)
    }

    fn write(&self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.may_write(at, total(from))?;
        if total(from) == 0 {
            return Ok(());
        }
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        self.image.read().writev(vector, at)
    }

    fn read_at_once(&self, at: u64, into: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        check_range(&self.limits, at, total(into)).ok()?;
        if total(into) == 0 {
            return Some(Ok(()));
        }
        // Who holds the lock may be waiting for the host's disk.
        let image = self.image.try_read()?;
        let (mut vector, _guard) = IoVectorMut::from_volatile_slice(into);
        let mut at = at;
        while !vector.is_empty() {
            let (mapping, length) = image.get_mapping(at, vector.len()).ok()?;
            if length == 0 {
                return None;
            }
            let (mut piece, rest) = vector.split_at(length);
            match mapping {
                Mapping::Raw { storage, offset, .. } => {
                    let read = storage.medium().read_at_once(offset, &mut piece.into_inner())?;
                    if read.is_err() {
                        return Some(read);
                    }
                }
                Mapping::Zero { .. } => piece.fill(0),
                _ => return None,
            }
            vector = rest;
            at += length;
        }
        Some(Ok(()))
    }

    fn place(&self, at: u64, length: u64, write: bool) -> Option<Place> {
        let allowed = if write { self.may_write(at, length) } else { check_range(&self.limits, at, length) };
        allowed.ok()?;
        // Held for as long as bytes are moved: what clusters serve for changes under the other kind of lock only. A write to clusters
        // that have their place needs no order among those of tables.
        let image = self.image.try_read_arc()?;
        let (medium, at) = match image.get_mapping(at, length).ok()? {
            (Mapping::Raw { storage, offset, writable, .. }, there)
                if there >= length && (writable || !write) =>
            {
                (Arc::clone(storage.medium()), offset)
            }
            _ => return None,
        };
        Some(Place { medium, at, _held: Some(Box::new(image)) })
    }

    fn write_at_once(&self, at: u64, from: &[VolatileSlice<'_>]) -> Option<io::Result<()>> {
        let length = total(from);
        self.may_write(at, length).ok()?;
        if length == 0 {
            return Some(Ok(()));
        }
        let image = self.image.try_read()?;
        // Only where there is a place for all of it.
        match image.get_mapping(at, length).ok()? {
            (Mapping::Raw { storage, offset, writable: true, .. }, there)
                if there >= length && length <= MAX_AT_ONCE && storage.medium().is_buffered() =>
            {
                let (vector, _guard) = IoVector::from_volatile_slice(from);
                Some(storage.writev(vector, offset))
            }
            _ => None,
        }
    }

    fn flush(&self) -> io::Result<()> {
        if self.limits.read_only {
            return Ok(());
        }
        let image = self.image.read();
        image.flush()?;
        image.sync()
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(at, length, true)
    }

    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.may_write(at, length)?;
        if may_unmap {
            let mut image = self.image.write();
            match image.discard_to_zero(at, length) {
                // Images of version 2 have no entries for zeros.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    // Before the clusters serve for other data, the host's disk must know that they are free: after a power
                    // cut, that data would stand here, too.
                    image.flush()?;
                    return image.sync();
                }
            }
        }
        match self.image.read().write_zeroes(at, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            result => return result,
        }
        let mut zeros = vec![0; PIECE.min(length as usize)];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(PIECE as u64);
            self.write(at + done, &[VolatileSlice::from(&mut zeros[..count as usize])])?;
            done += count;
        }
        Ok(())
    }
}
