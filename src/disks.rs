//! The disks of a machine: what the user asks for, and what is opened for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::id;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use softmetal_devices::clock::Clock;
use softmetal_devices::virtio::blk::{Blk, BlkOptions, OnWriteError};
use softmetal_storage::{Cache, Disk, Format, Means, OpenError, OpenOptions, Throttle, Workers, open};

use crate::config::{Config, UseError, parse_size, split_list};
use crate::outcome::Run;

/// The most disks.
pub const MAX_DISKS: usize = 16;
/// Bytes that a guest can ask for as the identity of a disk.
const MAX_SERIAL: usize = 20;

/// A disk as the user asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// Which image, and how it is opened.
    pub open: OpenOptions,
    /// What it may do in a second.
    pub throttle: Throttle,
    /// By what means data is moved.
    pub means: Means,
    /// What becomes of writes that the host cannot do.
    pub on_write_error: OnWriteError,
    /// What the guest can ask for as its identity.
    pub serial: String,
}

/// The words of `--disk` and what they mean.
const WORDS: &str = "format=raw|qcow2, readonly=on, ephemeral=on, cache=writeback|none|writethrough|unsafe, \
                     aio=io_uring|threads, iops=N, bps=SIZE, \
                     werror=report|stop, serial=TEXT, backing=FILE";

impl FromStr for DiskConfig {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        let mut items = split_list(text.as_bytes()).into_iter();
        let path: PathBuf = OsStr::from_bytes(&items.next().unwrap_or_default()).into();
        if path.as_os_str().is_empty() {
            return Err(UseError::new(format!("'{text}' names no file; right is FILE,{WORDS}")));
        }
        let mut disk = Self { open: OpenOptions { path, ..OpenOptions::default() }, ..Self::default() };
        for item in items {
            let item = String::from_utf8_lossy(&item).into_owned();
            let (key, value) = item.split_once('=').unwrap_or((&item, "on"));
            disk.set(key, value)?;
        }
        if disk.means == Means::IoUring && disk.throttle != Throttle::default() {
            return Err(UseError::new("'aio=io_uring' cannot be with iops= or bps=; right is aio=threads"));
        }
        Ok(disk)
    }
}

impl DiskConfig {
    fn set(&mut self, key: &str, value: &str) -> Result<(), UseError> {
        let wrong = |right: &str| UseError::new(format!("'{key}={value}' cannot be; right is {key}={right}"));
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(wrong("on or off")),
        };
        match key {
            "format" => {
                self.open.format = Some(Format::from_name(value).ok_or_else(|| wrong("raw or qcow2"))?);
            }
            "readonly" => self.open.read_only = switch()?,
            "ephemeral" => self.open.ephemeral = switch()?,
            "cache" => {
                let found = Cache::LIST.into_iter().find(|(name, _)| *name == value);
                self.open.cache = found.ok_or_else(|| wrong("none, writeback, writethrough or unsafe"))?.1;
            }
            "aio" => {
                let found = Means::LIST.into_iter().find(|(name, _)| *name == value);
                self.means = found.ok_or_else(|| wrong("io_uring or threads"))?.1;
            }
            "iops" => {
                let count = value.parse().ok().filter(|count: &u64| *count > 0);
                self.throttle.iops = Some(count.ok_or_else(|| wrong("N, requests in a second"))?);
            }
            "bps" => {
                self.throttle.bps = Some(bytes(value).ok_or_else(|| wrong("SIZE, such as 10M, a second"))?)
            }
            "werror" => {
                self.on_write_error = match value {
                    "report" => OnWriteError::Report,
                    "stop" => OnWriteError::Stop,
                    _ => return Err(wrong("report or stop")),
                }
            }
            "serial" if value.len() <= MAX_SERIAL && value.is_ascii() => self.serial = value.into(),
            "serial" => return Err(wrong("up to 20 letters and digits")),
            "backing" if !value.is_empty() => self.open.backing.push(value.into()),
            _ => {
                return Err(UseError::new(format!("'{key}' is nothing that a disk has; right are {WORDS}")));
            }
        }
        Ok(())
    }
}

/// A number of bytes, with a suffix or without.
fn bytes(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = if plain { text.parse().ok() } else { parse_size(text).ok() };
    bytes.filter(|bytes| *bytes > 0)
}

/// A disk whose image is open.
#[derive(Clone)]
pub(crate) struct OpenDisk {
    pub(crate) config: DiskConfig,
    pub(crate) disk: Arc<dyn Disk>,
}

/// Opens the disks of a machine; a machine that runs from a log has none.
pub(crate) fn open_all(config: &Config) -> Result<Vec<OpenDisk>> {
    if config.disks.len() > MAX_DISKS {
        return Err(UseError::new(format!("--disk: a machine has at most {MAX_DISKS} disks")).into());
    }
    config.disks.iter().map(open_one).collect()
}

fn open_one(config: &DiskConfig) -> Result<OpenDisk> {
    match open(&config.open) {
        Ok(disk) => Ok(OpenDisk { config: config.clone(), disk }),
        Err(error @ OpenError::Host { .. }) if config.open.path.exists() => Err(error).context("--disk"),
        Err(error) => Err(UseError::new(format!("--disk {error}")).into()),
    }
}

/// Writes down what the disks' images still have in memory.
pub(crate) fn flush_all(disks: &[OpenDisk]) {
    for OpenDisk { config, disk } in disks.iter().filter(|disk| !disk.disk.limits().read_only) {
        if let Err(error) = disk.flush() {
            log::error!("{}: what the guest has written last is lost: {error}", config.open.path.display());
        }
    }
}

/// Threads that work on a disk.
const THREADS: usize = 4;

/// A disk as it is plugged in.
pub(crate) struct Attached {
    pub(crate) device: Blk,
    /// `None` where it answers between two instructions.
    pub(crate) workers: Option<Arc<Workers>>,
}

/// What stops the machine when the host cannot write.
#[derive(Clone)]
pub(crate) struct Halt {
    pub(crate) run: Arc<Run>,
    pub(crate) clock: Arc<Clock>,
}

impl Halt {
    fn halt(&self, reason: &str) {
        if !self.run.is_paused() {
            log::error!(
                "{reason}; the machine stands, and tries again when it gets SIGCONT (kill -CONT {})",
                id()
            );
        }
        self.run.pause_soon();
        self.clock.pause();
    }
}

impl OpenDisk {
    /// The device for this disk, which may answer `at_once` only.
    pub(crate) fn attach(&self, number: usize, at_once: bool, halt: Halt) -> Result<Attached> {
        let Self { config, disk } = self;
        let start = || Workers::start(&format!("disk {number}"), THREADS, config.throttle, config.means);
        let workers = (!at_once).then(start).transpose().context("cannot start the threads of a disk")?;
        let workers = workers.map(Arc::new);
        let options = BlkOptions {
            name: config.open.path.display().to_string(),
            serial: config.serial.clone(),
            on_write_error: config.on_write_error,
            halt: Box::new(move |reason| halt.halt(reason)),
        };
        Ok(Attached { device: Blk::new(Arc::clone(disk), workers.clone(), options), workers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_can_be_said_of_a_disk() {
        let text = "a,,b.img,format=raw,readonly,ephemeral=off,cache=none,aio=threads,iops=100,bps=10M,werror=stop,\
                    serial=x1,backing=c,,d,backing=e";
        let open = OpenOptions {
            path: "a,b.img".into(),
            format: Some(Format::Raw),
            read_only: true,
            ephemeral: false,
            cache: Cache::None,
            backing: vec!["c,d".into(), "e".into()],
        };
        let expected = DiskConfig {
            open,
            throttle: Throttle { iops: Some(100), bps: Some(10 << 20) },
            means: Means::Threads,
            on_write_error: OnWriteError::Stop,
            serial: "x1".into(),
        };
        assert_eq!(text.parse::<DiskConfig>().unwrap(), expected);
        assert_eq!("x,bps=4096".parse::<DiskConfig>().unwrap().throttle.bps, Some(4096));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_right() {
        for (text, part) in [
            ("", "names no file"),
            (",format=raw", "names no file"),
            ("a,format=vmdk", "format=raw or qcow2"),
            ("a,readonly=yes", "readonly=on or off"),
            ("a,cache=fast", "none, writeback, writethrough"),
            ("a,aio=native", "aio=io_uring or threads"),
            ("a,aio=io_uring,iops=9", "aio=threads"),
            ("a,iops=0", "iops=N"),
            ("a,bps=x", "bps=SIZE"),
            ("a,werror=ignore", "report or stop"),
            ("a,serial=123456789012345678901", "up to 20"),
            ("a,backing=", "right are format="),
            ("a,speed=9", "'speed' is nothing that a disk has"),
        ] {
            let message = text.parse::<DiskConfig>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
