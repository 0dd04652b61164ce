//! From the name of an image to a disk.

use std::fs::Metadata;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::check;
use crate::disk::Disk;
use crate::header::Header;
use crate::host_file::{Cache, HostFile};
use crate::lock;
use crate::medium::Medium;
use crate::qcow2::{self, Image, Qcow2, Shape, Unlinked};
use crate::raw::Raw;
use crate::write_through::WriteThrough;

/// Images behind an image, and behind those, and so on.
const MAX_DEPTH: usize = 32;

/// How a disk lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte by byte.
    Raw,
    /// As QEMU's images of version 2 and 3.
    Qcow2,
}

impl Format {
    /// Each with its name on the command line.
    pub const LIST: [(&'static str, Self); 2] = [("raw", Self::Raw), ("qcow2", Self::Qcow2)];

    /// The format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::LIST.into_iter().find_map(|(known, format)| (known == name).then_some(format))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Which image is opened, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The file.
    pub path: PathBuf,
    /// Its format, where the user says it.
    pub format: Option<Format>,
    /// Nothing is written.
    pub read_only: bool,
    /// What is written goes to a file without a name, and is gone in the end.
    pub ephemeral: bool,
    /// What the host's memory does.
    pub cache: Cache,
    /// Files that may lie behind the image, in whichever folder.
    pub backing: Vec<PathBuf>,
}

/// Why an image cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The host says no.
    #[error("{path}: cannot be opened: {error}")]
    Host {
        /// The file.
        path: String,
        /// What the host says.
        error: io::Error,
    },
    /// The host's file system has no O_DIRECT.
    #[error(
        "{path}: its file system cannot go past the host's cache; leave cache=none out, or write cache=writeback"
    )]
    NoDirect {
        /// The file.
        path: String,
    },
    /// Somebody else has it.
    #[error(
        "{path}: is in use by another program, and two that write would destroy it; end the other one, or use \
             readonly=on in both"
    )]
    InUse {
        /// The file.
        path: String,
    },
    /// Its content can be read in two ways.
    #[error(
        "{path}: looks like a {looks} image, but its name does not say so, and a guest can write that into a raw disk; \
             write format=qcow2 or format=raw"
    )]
    Ambiguous {
        /// The file.
        path: String,
        /// What it may be.
        looks: &'static str,
    },
    /// It is in a format that others know.
    #[error(
        "{path}: looks like a {looks} image, which is not known here; qemu-img convert -O qcow2 makes one that is, \
             or write format=raw if it is a raw disk"
    )]
    Foreign {
        /// The file.
        path: String,
        /// What it seems to be.
        looks: &'static str,
    },
    /// It is not what its name or the user says.
    #[error("{path}: is no qcow2 image that can be used: {error}")]
    NotQcow2 {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// An image that needs a file of data beside it.
    #[error(
        "{path}: keeps its data in another file, which is not known here; qemu-img convert -O qcow2 makes one that is \
             whole"
    )]
    ExternalData {
        /// The file.
        path: String,
    },
    /// What is in it cannot be read.
    #[error("{path}: is encrypted, which is not known here; qemu-img convert makes an image that is not")]
    Encrypted {
        /// The file.
        path: String,
    },
    /// Its clusters are used several times.
    #[error(
        "{path}: has snapshots inside, and can only be read; write readonly=on or ephemeral=on, or remove them by \
             qemu-img snapshot -d"
    )]
    Snapshots {
        /// The file.
        path: String,
    },
    /// An image leads to a file that nobody has allowed.
    #[error(
        "{path}: lies on {backing}, which is not in the folder of the disk; write backing={backing} if it may be read"
    )]
    BackingOutside {
        /// The file.
        path: String,
        /// What it names.
        backing: String,
    },
    /// An image leads to something that is no file.
    #[error("{path}: lies on '{backing}', which is no name of a file")]
    BackingName {
        /// The file.
        path: String,
        /// What it names.
        backing: String,
    },
    /// An image lies on one in a format that is not known.
    #[error(
        "{path}: lies on an image in the format '{format}', which is not known here; qemu-img rebase or convert can help"
    )]
    BackingFormat {
        /// The file.
        path: String,
        /// Its name for the format.
        format: String,
    },
    /// Images lie on one another in a circle.
    #[error("{path}: lies on itself, by way of other images")]
    Cycle {
        /// The file.
        path: String,
    },
    /// Too many images lie on one another.
    #[error("{path}: lies on more than {MAX_DEPTH} images; qemu-img convert makes one of them")]
    TooDeep {
        /// The file.
        path: String,
    },
    /// There is nothing in it.
    #[error("{path}: is empty, so there is no disk in it; 'softmetal image create' makes one")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Opens a disk. Its images are locked against other programs as long as it lives.
pub fn open(options: &OpenOptions) -> Result<Arc<dyn Disk>, OpenError> {
    let mut opening = Opening { options, folder: None, seen: Vec::new() };
    let writable = !options.read_only && !options.ephemeral;
    let (file, format) = opening.file(&options.path, options.format, writable)?;
    let read_only = options.read_only;
    if options.ephemeral && !read_only {
        let image = opening.image(&options.path, file, format, false)?;
        let overlay = overlay(image).map_err(|error| host(&options.path, error))?;
        return finish(&options.path, Qcow2::new(overlay, false), Cache::Unsafe);
    }
    match format {
        Format::Raw => {
            let raw = Raw::new(file, read_only).map_err(|error| host(&options.path, error))?;
            finish(&options.path, raw, options.cache)
        }
        Format::Qcow2 => {
            let image = opening.image(&options.path, file, format, writable)?;
            finish(&options.path, Qcow2::new(image, read_only), options.cache)
        }
    }
}

fn finish(path: &Path, disk: impl Disk + 'static, cache: Cache) -> Result<Arc<dyn Disk>, OpenError> {
    if disk.limits().size == 0 {
        return Err(OpenError::Empty { path: show(path) });
    }
    Ok(if cache == Cache::Writethrough { Arc::new(WriteThrough(disk)) } else { Arc::new(disk) })
}

/// An empty image on `image`, in a file without a name.
fn overlay(image: Image) -> io::Result<Image> {
    let file: Arc<dyn Medium> = Arc::new(HostFile::temporary()?);
    let shape = Shape { size: image.size(), cluster_size: 64 << 10, backing: None };
    qcow2::create(Arc::clone(&file), shape)?;
    Ok(Unlinked::open(file, true)?.link(Some(image)))
}

/// A disk on its way, image by image.
struct Opening<'a> {
    options: &'a OpenOptions,
    /// Where the first image lies: those behind it may lie there, too.
    folder: Option<PathBuf>,
    /// Device and number of each file so far.
    seen: Vec<(u64, u64)>,
}

impl Opening<'_> {
    /// Opens a file and locks it; finds out its format if that is not said.
    fn file(
        &mut self,
        path: &Path,
        format: Option<Format>,
        writable: bool,
    ) -> Result<(Arc<dyn Medium>, Format), OpenError> {
        let cache = self.options.cache;
        let file = HostFile::open(path, writable, cache).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput if cache == Cache::None && path.is_file() => {
                OpenError::NoDirect { path: show(path) }
            }
            _ => host(path, error),
        })?;
        let about: Metadata = file.file().metadata().map_err(|error| host(path, error))?;
        let identity = (about.dev(), about.ino());
        if self.seen.contains(&identity) {
            return Err(OpenError::Cycle { path: show(path) });
        }
        if self.seen.len() > MAX_DEPTH {
            return Err(OpenError::TooDeep { path: show(&self.options.path) });
        }
        self.seen.push(identity);
        lock::take(file.file(), writable).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: show(path) },
            _ => host(path, error),
        })?;
        let file: Arc<dyn Medium> = Arc::new(file);
        let format = match format {
            Some(format) => format,
            None => probe(path, &*file)?,
        };
        Ok((file, format))
    }

    /// The image in a file, with those behind it.
    fn image(
        &mut self,
        path: &Path,
        file: Arc<dyn Medium>,
        format: Format,
        writable: bool,
    ) -> Result<Image, OpenError> {
        if self.folder.is_none() {
            let whole = path.canonicalize().map_err(|error| host(path, error))?;
            self.folder = whole.parent().map(Path::to_path_buf);
        }
        let wrong = |error| OpenError::NotQcow2 { path: show(path), error };
        if format == Format::Raw {
            return qcow2::raw_image(file).map_err(|error| host(path, error));
        }
        let about = Header::read(&*file).map_err(wrong)?;
        if about.encryption != 0 {
            return Err(OpenError::Encrypted { path: show(path) });
        }
        if writable && about.snapshots != 0 {
            return Err(OpenError::Snapshots { path: show(path) });
        }
        if writable {
            match check::free_leaks(&*file) {
                Ok(0) => {}
                Ok(count) => {
                    log::info!("{}: {count} clusters are free again that a killed machine left", show(path))
                }
                Err(error) => log::debug!("{}: what takes space for nothing stays: {error}", show(path)),
            }
        }
        let image = Unlinked::open(file, writable).map_err(wrong)?;
        let header = image.header();
        if header.external_data {
            return Err(OpenError::ExternalData { path: show(path) });
        }
        let Some(name) = header.backing else { return Ok(image.link(None)) };
        let behind = self.backing_path(path, &name)?;
        let format = match header.backing_format.as_deref() {
            None => None,
            Some(name) => Some(Format::from_name(name).ok_or_else(|| OpenError::BackingFormat {
                path: show(path),
                format: name.escape_debug().to_string(),
            })?),
        };
        let (file, format) = self.file(&behind, format, false)?;
        let backing = self.image(&behind, file, format, false)?;
        Ok(image.link(Some(backing)))
    }

    /// Where the image is that another one names, if it may be read.
    fn backing_path(&self, path: &Path, name: &str) -> Result<PathBuf, OpenError> {
        let protocol = name.split('/').next().is_some_and(|first| first.contains(':'));
        if name.is_empty() || name.contains('\0') || protocol {
            return Err(OpenError::BackingName {
                path: show(path),
                backing: name.escape_debug().to_string(),
            });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let joined = folder.join(name);
        let whole = joined.canonicalize().map_err(|error| host(&joined, error))?;
        let named = |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|allowed| allowed == whole);
        let beside = self.folder.as_ref().is_some_and(|folder| whole.starts_with(folder));
        match beside || self.options.backing.iter().any(named) {
            true => Ok(whole),
            false => Err(OpenError::BackingOutside { path: show(path), backing: show(&whole) }),
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn host(path: &Path, error: io::Error) -> OpenError {
    OpenError::Host { path: show(path), error }
}

/// How images begin that are not raw.
const BEGINNINGS: [(usize, &[u8], &str); 9] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"WithoutFreeSpace", "Parallels"),
];

/// What a file seems to be, if it is not raw.
fn looks_like(file: &dyn Medium) -> io::Result<Option<&'static str>> {
    const LENGTH: usize = 4096;
    let mut bytes = vec![0; LENGTH];
    file.read(0, &mut [IoSliceMut::new(&mut bytes)])?;
    let found = BEGINNINGS.into_iter().find(|(at, magic, _)| bytes[*at..].starts_with(magic));
    Ok(found.map(|(.., name)| name))
}

/// The format of a file of which the user has not said it. A guest may have written what stands in a raw disk, so the
/// content alone makes nothing but a raw disk of it.
pub(crate) fn probe(path: &Path, file: &dyn Medium) -> Result<Format, OpenError> {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("qcow2"));
    let path = show(path);
    match looks_like(file).map_err(|error| OpenError::Host { path: path.clone(), error })? {
        Some("qcow2") if named => Ok(Format::Qcow2),
        Some(looks @ "qcow2") => Err(OpenError::Ambiguous { path, looks }),
        Some(looks) => Err(OpenError::Foreign { path, looks }),
        None if named => {
            let error = io::Error::new(io::ErrorKind::InvalidData, "its first bytes are not those of one");
            Err(OpenError::NotQcow2 { path, error })
        }
        None => Ok(Format::Raw),
    }
}
