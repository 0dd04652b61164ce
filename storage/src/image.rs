//! Images as files: made, looked at, copied, made larger and smaller.

use std::fs::{self, OpenOptions as FileOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::check::{Findings, check};
use crate::disk::{Disk, SECTOR};
use crate::header::Header;
use crate::host_file::{Cache, HostFile};
use crate::lock;
use crate::medium::Medium;
use crate::open::{Format, OpenError, OpenOptions, open, probe};
use crate::qcow2::{self, Shape, Unlinked};

/// Clusters of qcow2 images, where the user does not say.
pub const CLUSTER_SIZE: usize = 64 << 10;
/// The largest disks: what 64-bit offsets of files reach, with room to spare.
pub const MAX_SIZE: u64 = 1 << 60;
/// Bytes that are copied at once, and looked at whether they are zeros.
const PIECE: usize = 2 << 20;
const GRAIN: usize = 64 << 10;

/// Makes an empty image; the file must not be there yet. On a `backing` image, with its format, it begins with that one's
/// content.
pub fn create(
    path: &Path,
    format: Format,
    size: u64,
    cluster_size: usize,
    backing: Option<(&Path, Format)>,
) -> io::Result<()> {
    FileOptions::new().write(true).create_new(true).open(path)?;
    let made = (|| {
        let file = HostFile::open(path, true, Cache::Unsafe)?;
        lock::take(file.file(), true)?;
        match format {
            Format::Raw => file.set_length(size),
            Format::Qcow2 => {
                let backing =
                    backing.map(|(path, format)| (path.display().to_string(), format.name().to_owned()));
                qcow2::create(Arc::new(file), Shape { size, cluster_size, backing })
            }
        }
    })();
    // What is not whole shall not look like an image.
    made.inspect_err(|_| drop(fs::remove_file(path)))
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes that the file takes on the host's disk.
    pub host_size: u64,
    /// What only qcow2 images have.
    pub qcow2: Option<Qcow2Info>,
}

/// What a qcow2 image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Info {
    /// Of the format: 2 or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Snapshots inside.
    pub snapshots: u32,
    /// The name of the image behind it, as it stands there.
    pub backing: Option<String>,
    /// The name of that one's format.
    pub backing_format: Option<String>,
}

/// Reads what an image says of itself. Images that others are using can be read, too.
pub fn info(path: &Path, format: Option<Format>) -> Result<Info, OpenError> {
    let host = |error| OpenError::Host { path: path.display().to_string(), error };
    let (file, format) = bare(path, format, false)?;
    let about = fs::metadata(path).map_err(host)?;
    let (file_size, host_size) = (file.length().map_err(host)?, about.blocks() * SECTOR);
    let qcow2 = match format {
        Format::Raw => None,
        Format::Qcow2 => {
            let wrong = |error| OpenError::NotQcow2 { path: path.display().to_string(), error };
            let header = Header::read(&*file).map_err(wrong)?;
            let names = Unlinked::open(file, false).map_err(wrong)?.header();
            let info = Qcow2Info {
                version: header.version,
                cluster_size: header.cluster_size(),
                snapshots: header.snapshots,
                backing: names.backing,
                backing_format: names.backing_format,
            };
            Some((info, header.size))
        }
    };
    let size = qcow2.as_ref().map_or(file_size, |(_, size)| *size);
    Ok(Info { path: path.into(), format, size, file_size, host_size, qcow2: qcow2.map(|(info, _)| info) })
}

/// Opens a file without what lies behind it.
fn bare(path: &Path, format: Option<Format>, writable: bool) -> Result<(Arc<dyn Medium>, Format), OpenError> {
    let host = |error| OpenError::Host { path: path.display().to_string(), error };
    let file = HostFile::open(path, writable, Cache::Writeback).map_err(host)?;
    if writable {
        take_lock(&file, path, true)?;
    }
    let format = match format {
        Some(format) => format,
        None => probe(path, &file)?,
    };
    Ok((Arc::new(file), format))
}

fn take_lock(file: &HostFile, path: &Path, writable: bool) -> Result<(), OpenError> {
    lock::take(file.file(), writable).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse { path: path.display().to_string() },
        _ => OpenError::Host { path: path.display().to_string(), error },
    })
}

/// Checks the tables of a qcow2 image that nobody uses. `progress` hears how many of how many tables are done. A raw image
/// has no tables: `None`.
pub fn check_file(
    path: &Path,
    format: Option<Format>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Findings>, OpenError> {
    let (file, format) = bare(path, format, false)?;
    if format == Format::Raw {
        return Ok(None);
    }
    // Tables that move while they are looked at tell nothing.
    let lock = HostFile::open(path, false, Cache::Writeback);
    let lock = lock.map_err(|error| OpenError::Host { path: path.display().to_string(), error })?;
    take_lock(&lock, path, false)?;
    let wrong = |error| OpenError::NotQcow2 { path: path.display().to_string(), error };
    check(&*file, progress).map(Some).map_err(wrong)
}

/// Copies a disk, with all that lies behind it, to a new image. What is zero takes no space there. `progress` hears how many
/// bytes are done.
pub fn convert(
    from: &dyn Disk,
    to: &Path,
    format: Format,
    cluster_size: usize,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let size = from.limits().size;
    create(to, format, size, cluster_size, None)?;
    let mut copy = || -> io::Result<()> {
        let options = OpenOptions { path: to.into(), format: Some(format), ..OpenOptions::default() };
        let target = match size {
            0 => return Ok(()),
            _ => open(&options).map_err(io::Error::other)?,
        };
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < size {
            let count = (size - at).min(PIECE as u64) as usize;
            let piece = &mut piece[..count];
            from.read(at, &[VolatileSlice::from(&mut *piece)])?;
            let mut begin = 0;
            while begin < count {
                let end = |from: usize| (from + GRAIN).min(count);
                if is_zero(&piece[begin..end(begin)]) {
                    begin = end(begin);
                    continue;
                }
                let mut stop = end(begin);
                while stop < count && !is_zero(&piece[stop..end(stop)]) {
                    stop = end(stop);
                }
                target.write(at + begin as u64, &[VolatileSlice::from(&mut piece[begin..stop])])?;
                begin = stop;
            }
            at += count as u64;
            progress(at);
        }
        target.flush()
    };
    copy().inspect_err(|_| drop(fs::remove_file(to)))
}

fn is_zero(bytes: &[u8]) -> bool {
    let (wide, rest) = bytes.as_chunks::<16>();
    wide.iter().all(|bytes| u128::from_ne_bytes(*bytes) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Makes a disk larger, with zeros, or smaller: what lies behind its end is gone then.
pub fn resize(path: &Path, format: Option<Format>, size: u64) -> Result<(), OpenError> {
    let host = |error| OpenError::Host { path: path.display().to_string(), error };
    let (file, format) = bare(path, format, true)?;
    match format {
        Format::Raw => {
            file.set_length(size).map_err(host)?;
            file.flush().map_err(host)
        }
        Format::Qcow2 => {
            let wrong = |error| OpenError::NotQcow2 { path: path.display().to_string(), error };
            let image = Unlinked::open_to_resize(Arc::clone(&file)).map_err(wrong)?;
            let header = image.header();
            if header.external_data {
                return Err(OpenError::ExternalData { path: path.display().to_string() });
            }
            // Of an image that lies on another one, the new end must not show what that one has there.
            image.resize(size, header.backing.is_some()).map_err(wrong)?;
            file.flush().map_err(host)
        }
    }
}
