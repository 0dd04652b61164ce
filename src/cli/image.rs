//! `softmetal image`: disks as files.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use softmetal_storage::image::{self, CLUSTER_SIZE, MAX_SIZE};
use softmetal_storage::{Format, OpenError, OpenOptions, SECTOR, open};

use crate::cli::messages::say;
use crate::config::{UseError, parse_size};

/// The outcome for the shell: an image is not in order.
const DIFFERENT: u8 = 1;

pub(super) const EXAMPLES: &str = "\
Examples:
  softmetal image create disk.qcow2 20G                 an empty disk that takes space as it is filled
  softmetal image overlay test.qcow2 disk.qcow2         a disk that begins as disk.qcow2 and leaves that as it is
  softmetal image info test.qcow2                       what it is, and what lies behind it
  softmetal image check test.qcow2                      whether its tables are in order
  softmetal image convert test.qcow2 whole.qcow2        a copy that stands alone; zeros take no space in it
  softmetal image convert disk.qcow2 disk.img --to raw
  softmetal image resize disk.qcow2 +10G

Images are raw or qcow2. For others (VMDK, VDI, VHDX, encrypted ones), for snapshots inside images, for compression and for
repairing, there is qemu-img (Debian: qemu-utils).

Exit status:
  0    done; check: the image is in order
  1    check: it is not
  2    wrong use: a file or a size that cannot be right
  4    the host refused something";

/// The arguments of the command.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Verb {
    /// Make an empty disk
    #[command(after_help = EXAMPLES)]
    Create {
        /// The new file
        file: PathBuf,
        /// Bytes of the disk: 512M, 20G; a plain number is MiB
        #[arg(value_parser = parse_disk_size)]
        size: u64,
        /// raw or qcow2; what the file's name says, if this is left out
        #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
        format: Option<Format>,
        /// Bytes of a cluster of qcow2: a power of two from 512 to 2M
        #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_cluster_size)]
        cluster_size: usize,
    },
    /// Make a disk that begins with another one's content and leaves that as it is
    #[command(after_help = EXAMPLES)]
    Overlay {
        /// The new file, qcow2
        file: PathBuf,
        /// The image behind it; it must not be changed any more
        backing: PathBuf,
        /// The format of the image behind it
        #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
        backing_format: Option<Format>,
    },
    /// Say what an image is
    #[command(after_help = EXAMPLES)]
    Info {
        /// The image
        file: PathBuf,
        /// Its format
        #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
        format: Option<Format>,
    },
    /// Look whether the tables of an image are in order
    #[command(after_help = EXAMPLES)]
    Check {
        /// The image
        file: PathBuf,
        /// Its format
        #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
        format: Option<Format>,
    },
    /// Copy a disk, with all images behind it, to a new file
    #[command(after_help = EXAMPLES)]
    Convert {
        /// The image
        from: PathBuf,
        /// The new file
        to: PathBuf,
        /// The format of the image
        #[arg(long = "from", value_name = "FORMAT", value_parser = parse_format)]
        from_format: Option<Format>,
        /// raw or qcow2; what the new file's name says, if this is left out
        #[arg(long = "to", value_name = "FORMAT", value_parser = parse_format)]
        to_format: Option<Format>,
        /// A file that may lie behind the image, in whichever folder
        #[arg(long, value_name = "FILE")]
        backing: Vec<PathBuf>,
        /// Bytes of a cluster of qcow2
        #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_cluster_size)]
        cluster_size: usize,
    },
    /// Make a disk larger, or smaller
    #[command(after_help = EXAMPLES)]
    Resize {
        /// The image
        file: PathBuf,
        /// Bytes of the disk: 20G, or so many more: +10G
        size: String,
        /// Its format
        #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
        format: Option<Format>,
        /// Throw away what lies behind the new end
        #[arg(long)]
        shrink: bool,
    },
}

fn parse_format(text: &str) -> Result<Format, UseError> {
    Format::from_name(text).ok_or_else(|| {
        UseError::new(format!(
            "'{text}' is no format that is known here; right are raw and qcow2, others know qemu-img"
        ))
    })
}

fn parse_disk_size(text: &str) -> Result<u64, UseError> {
    let size = parse_size(text)?;
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR) {
        return Err(UseError::new(format!(
            "'{text}' is no size of a disk: whole sectors of 512 bytes, up to 1048576T"
        )));
    }
    Ok(size)
}

fn parse_cluster_size(text: &str) -> Result<usize, UseError> {
    let size = parse_size(text).ok().filter(|size| size.is_power_of_two() && (512..=2 << 20).contains(size));
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| {
        UseError::new(format!("'{text}' is no size of clusters: a power of two from 512b to 2M"))
    })
}

/// The format of a new file.
fn format_of(path: &Path, said: Option<Format>) -> Format {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("qcow2"));
    said.unwrap_or(if named { Format::Qcow2 } else { Format::Raw })
}

/// Mistakes of the host keep their status; all others are wrong use.
fn refused(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Host { error: ref cause, .. } if cause.kind() != std::io::ErrorKind::NotFound => {
            error.into()
        }
        error => UseError::new(error.to_string()).into(),
    }
}

/// A file that could not be made.
fn not_made(path: &Path, error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            UseError::new(format!("{}: is there already; remove it first", path.display())).into()
        }
        _ => anyhow::Error::from(error).context(format!("cannot make {}", path.display())),
    }
}

/// A bar, where somebody looks.
fn bar(total: u64, template: &str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Does what the arguments say; the answer is the status of the process.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    match &arguments.verb {
        Verb::Create { file, size, format, cluster_size } => {
            let format = format_of(file, *format);
            image::create(file, format, *size, *cluster_size, None).map_err(|error| not_made(file, error))?;
            Ok(0)
        }
        Verb::Overlay { file, backing, backing_format } => overlay(file, backing, *backing_format),
        Verb::Info { file, format } => info(file, *format),
        Verb::Check { file, format } => check(file, *format),
        Verb::Convert { from, to, from_format, to_format, backing, cluster_size } => {
            let options = OpenOptions {
                path: from.clone(),
                format: *from_format,
                read_only: true,
                backing: backing.clone(),
                ..OpenOptions::default()
            };
            convert(&options, to, format_of(to, *to_format), *cluster_size)
        }
        Verb::Resize { file, size, format, shrink } => resize(file, size, *format, *shrink),
    }
}

fn overlay(file: &Path, backing: &Path, format: Option<Format>) -> Result<u8> {
    let options = OpenOptions { path: backing.into(), format, read_only: true, ..OpenOptions::default() };
    let behind = image::info(backing, format).map_err(refused)?;
    let size = open(&options).map_err(refused)?.limits().size;
    // The name is read from where the new file is.
    let whole = backing.canonicalize().with_context(|| format!("cannot find {}", backing.display()))?;
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let beside = folder.canonicalize().is_ok_and(|folder| whole.parent() == Some(&*folder));
    let name = match whole.file_name() {
        Some(name) if beside => Path::new(name),
        _ => &whole,
    };
    image::create(file, Format::Qcow2, size, CLUSTER_SIZE, Some((name, behind.format)))
        .map_err(|error| not_made(file, error))?;
    if !beside {
        say(&format!("to use it, say --disk {},backing={}", file.display(), whole.display()));
    }
    Ok(0)
}

fn info(file: &Path, format: Option<Format>) -> Result<u8> {
    let info = image::info(file, format).map_err(refused)?;
    let mut text = format!(
        "file:          {}\nformat:        {}\ndisk:          {} ({} bytes)\nfile size:     {}\non the host:   {}\n",
        file.display(),
        info.format.name(),
        HumanBytes(info.size),
        info.size,
        HumanBytes(info.file_size),
        HumanBytes(info.host_size),
    );
    if let Some(about) = info.qcow2 {
        text +=
            &format!("version:       {}\ncluster size:  {}\n", about.version, HumanBytes(about.cluster_size));
        if about.snapshots > 0 {
            text += &format!("snapshots:     {} (qemu-img snapshot -l lists them)\n", about.snapshots);
        }
        if let Some(backing) = about.backing {
            let format = about.backing_format.unwrap_or_else(|| "not said".into());
            // What stands in an image may be made to confuse a terminal.
            text += &format!("lies on:       {} ({})\n", backing.escape_debug(), format.escape_debug());
        }
    }
    stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(0)
}

fn check(file: &Path, format: Option<Format>) -> Result<u8> {
    let progress = bar(0, "{bar:40} {pos}/{len} tables");
    let found = image::check_file(file, format, &mut |done, total| {
        progress.set_length(total);
        progress.set_position(done);
    });
    progress.finish_and_clear();
    let Some(found) = found.map_err(refused)? else {
        println!("a raw image has no tables that could be out of order");
        return Ok(0);
    };
    for error in &found.errors {
        println!("error: {error}");
    }
    if found.error_count > found.errors.len() as u64 {
        println!("and {} more", found.error_count - found.errors.len() as u64);
    }
    let (errors, leaks) = (found.error_count, found.leaks);
    println!("{} of {} clusters hold data", found.data_clusters, found.all_clusters);
    match (errors, leaks) {
        (0, 0) => println!("the image is in order"),
        (0, _) => println!(
            "{leaks} clusters take space for nothing; the next machine that writes here gives it back, as does qemu-img check -r leaks"
        ),
        _ => println!("{errors} errors; qemu-img check -r all may mend some, from a copy of the image"),
    }
    Ok(if errors == 0 && leaks == 0 { 0 } else { DIFFERENT })
}

fn convert(from: &OpenOptions, to: &Path, format: Format, cluster_size: usize) -> Result<u8> {
    let disk = open(from).map_err(refused)?;
    let progress = bar(disk.limits().size, "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let copied = image::convert(&*disk, to, format, cluster_size, &mut |done| progress.set_position(done));
    progress.finish_and_clear();
    copied.map_err(|error| not_made(to, error))?;
    Ok(0)
}

fn resize(file: &Path, size: &str, format: Option<Format>, shrink: bool) -> Result<u8> {
    let old = image::info(file, format).map_err(refused)?.size;
    let new = match size.strip_prefix('+') {
        Some(more) => old.saturating_add(parse_disk_size(more)?),
        None => parse_disk_size(size)?,
    };
    if new > MAX_SIZE {
        return Err(UseError::new(format!("'{size}' makes a disk that is too large")).into());
    }
    if new < old && !shrink {
        return Err(UseError::new(format!(
            "{}: has {old} bytes, and what lies behind the first {new} would be lost; write --shrink if it may be",
            file.display()
        ))
        .into());
    }
    image::resize(file, format, new).map_err(refused)?;
    Ok(0)
}
