//! What a machine is made of: the parsed and checked wishes of the user, before anything starts.
//!
//! The command line makes a [`Config`], `Machine::build` turns it into a machine. Everything in here is plain
//! data; whoever holds a `Config` holds values that are in range.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use softmetal_cpu::Model;
use thiserror::Error;

use crate::debugger::BreakAt;
use crate::disks::DiskConfig;
use crate::lockstep::STRETCH;
use crate::profile::SymbolFile;
use crate::statistics::Sampling;
use crate::watch::WatchRange;

/// The least guest memory that makes sense: the real-mode area and one MiB above it.
pub const MIN_MEMORY: u64 = 2 << 20;
/// The most guest memory: RAM, the PCI hole and the 64-bit PCI window fit below 2^40.
pub const MAX_MEMORY: u64 = 512 << 30;
/// The most vCPUs: local APIC ids are 8 bits wide and 255 is the broadcast id.
pub const MAX_CPUS: u32 = 255;
/// The most instructions between two comparisons of [`Config::lockstep`]: the log of a stretch stays in memory.
pub const MAX_STRETCH: u64 = 1 << 26;
/// Guest memory where the user does not say.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// A whole machine, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which engine runs the guest's instructions.
    pub accel: Accel,
    /// The user has asked for [`Accel::Auto`] by name, and is told what that has taken.
    pub says_engine: bool,
    /// The engine was chosen for the user, so that another may take its place.
    pub automatic: bool,
    /// Which processor the vCPUs are.
    pub cpu: Model,
    /// The processor may lack what KVM cannot offer, and show what it cannot hide.
    pub leak: bool,
    /// The processor is the host's, as KVM offers it; what KVM cannot run, [`Self::cpu`] does.
    pub host_cpu: bool,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Guest RAM in bytes: a multiple of 4 KiB from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: u64,
    /// What is booted.
    pub kernel: KernelSource,
    /// The initial RAM disk; for kernels that take modules, lists of them as [`Self::read_modules`] reads them.
    pub initrd: Vec<PathBuf>,
    /// The kernel's command line.
    pub append: String,
    /// The disks, in the order in which the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// Where the first serial port leads.
    pub serial: SerialTarget,
    /// Where the virtio terminal leads, if there is one.
    pub console: Option<SerialTarget>,
    /// Channels between programs in the guest and on the host; their names differ.
    pub channels: Vec<Channel>,
    /// Whether there is a memory balloon, and to how many bytes the guest is to confine itself.
    pub balloon: Option<u64>,
    /// Virtio devices have the interface from before virtio 1.0, too.
    pub transitional: bool,
    /// Whether the debug-exit port (0xf4) is there.
    pub debug_exit: bool,
    /// Whether the devices of test suites are there.
    pub testdev: bool,
    /// A reset ends the machine instead of starting it again.
    pub no_reboot: bool,
    /// What moves guest time.
    pub clock: ClockSource,
    /// Where the log of the run is written.
    pub record: Option<PathBuf>,
    /// The log that takes the devices' place.
    pub replay: Option<PathBuf>,
    /// Memory whose accesses are printed.
    pub watch: Vec<WatchRange>,
    /// Where processors stop and their state is printed.
    pub breaks: Vec<BreakAt>,
    /// Speed-ups that are switched off.
    pub debug: DebugFlags,
    /// Two engines run the guest and are compared every so many instructions, 1 to [`MAX_STRETCH`].
    pub lockstep: Option<u64>,
    /// Whether and where to the guest's functions are written in which its time goes.
    pub profile: Option<ProfileTo>,
    /// Names for these functions.
    pub symbols: Vec<SymbolFile>,
    /// Where the counters are written at the end, as JSON.
    pub stats: Option<PathBuf>,
    /// How talkative the messages on standard error are: 0 warnings, 1 info, 2 debug, 3 trace.
    pub verbosity: u8,
}

impl Config {
    /// A machine with the defaults of the command line, booting `kernel`.
    #[must_use]
    pub fn new(kernel: KernelSource) -> Self {
        Self {
            accel: Accel::Auto,
            says_engine: false,
            automatic: false,
            cpu: Model::Max,
            leak: false,
            host_cpu: false,
            cpus: 1,
            memory: DEFAULT_MEMORY,
            kernel,
            initrd: Vec::new(),
            append: String::new(),
            disks: Vec::new(),
            serial: SerialTarget::Stdio,
            console: None,
            channels: Vec::new(),
            balloon: None,
            transitional: false,
            debug_exit: false,
            testdev: false,
            no_reboot: false,
            clock: ClockSource::Host,
            record: None,
            replay: None,
            watch: Vec::new(),
            breaks: Vec::new(),
            debug: DebugFlags::empty(),
            lockstep: None,
            profile: None,
            symbols: Vec::new(),
            stats: None,
            verbosity: 0,
        }
    }

    /// Whether the processor has to know at each instruction how many it has run.
    pub(crate) fn counts_instructions(&self) -> bool {
        self.clock == ClockSource::Instructions
            || self.record.is_some()
            || self.replay.is_some()
            || self.lockstep.is_some()
    }

    /// What has to be found out while the machine runs.
    pub(crate) fn sampling(&self) -> Sampling {
        match () {
            () if self.profile.is_some() => Sampling::Code,
            () if self.stats.is_some() || self.verbosity > 0 => Sampling::Time,
            () => Sampling::Nothing,
        }
    }

    /// The kernel's bytes. A file that cannot serve is a [`UseError`] that names it.
    pub fn read_kernel(&self) -> Result<Cow<'static, [u8]>, UseError> {
        match &self.kernel {
            KernelSource::File(path) => {
                read_file("--kernel", path, "a kernel such as a Linux bzImage").map(Cow::Owned)
            }
            KernelSource::BuiltIn(image) => Ok(Cow::Borrowed(image)),
            KernelSource::Recorded => Err(UseError::new("--kernel is missing: only a log can do without")),
        }
    }

    /// What goes to memory beside the kernel. For one that `takes_modules`, each `--initrd` is a list with commas between
    /// (two commas are a comma of a name), each item a file and, after a space, its arguments. For others it is one file.
    pub fn read_modules(&self, takes_modules: bool) -> Result<Vec<ModuleFile>, UseError> {
        if takes_modules {
            let items = self.initrd.iter().flat_map(|list| split_list(list.as_os_str().as_bytes()));
            return items.map(|item| ModuleFile::read(&item)).collect();
        }
        let read = |path: &PathBuf| {
            let file = path.display().to_string();
            let bytes = read_file("--initrd", path, "an initial RAM disk")?;
            Ok(ModuleFile { command_line: file.clone(), file, bytes })
        };
        self.initrd.iter().map(read).collect()
    }
}

/// A file that goes to memory beside the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    /// The file's name for messages.
    pub file: String,
    /// Its name and arguments, as the user gave them.
    pub command_line: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl ModuleFile {
    /// Reads what an item of a list names: everything up to the first space.
    fn read(item: &[u8]) -> Result<Self, UseError> {
        let name = item.split(|byte| *byte == b' ').next().unwrap_or_default();
        let path = Path::new(OsStr::from_bytes(name));
        Ok(Self {
            file: path.display().to_string(),
            command_line: String::from_utf8_lossy(item).into_owned(),
            bytes: read_file("--initrd", path, "a module for the kernel")?,
        })
    }
}

/// Splits at commas; two of them are one that belongs to the item.
pub(crate) fn split_list(list: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let separates = byte == b',' && bytes.next_if_eq(&b',').is_none();
        match items.last_mut() {
            Some(item) if !separates => item.push(byte),
            _ => items.push(Vec::new()),
        }
    }
    items
}

/// The engine that runs guest instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The best that this host and this build have.
    Auto,
    /// The interpreter: on every host.
    Interp,
    /// The translator: hot code as the host's own.
    Jit,
    /// The host's virtualization.
    Kvm,
}

impl Accel {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Interp => "interp",
            Self::Jit => "jit",
            Self::Kvm => "kvm",
        }
    }
}

/// What moves guest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// The host's clock.
    Host,
    /// The guest's own instructions, a nanosecond each; while it halts, time goes on to the next timer at once.
    Instructions,
}

/// Where the kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSource {
    /// A file on the host.
    File(PathBuf),
    /// An image inside the binary: the demo guest.
    BuiltIn(&'static [u8]),
    /// The one that the log to be replayed names.
    Recorded,
}

impl KernelSource {
    /// How messages call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::BuiltIn(_) => "(the built-in demo guest)".into(),
            Self::Recorded => "(the kernel of the log)".into(),
        }
    }
}

/// Where a profile of the guest goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileTo {
    /// The most expensive functions are printed.
    Messages,
    /// All of them go to a file; those that cost most are printed where messages are wanted.
    File(PathBuf),
}

/// What the serial port or the virtio terminal is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialTarget {
    /// Standard input and output; a terminal goes raw.
    Stdio,
    /// Output goes to a file; there is no input.
    File(PathBuf),
    /// A listening Unix socket.
    Unix(PathBuf),
    /// Output vanishes; there is no input.
    None,
}

/// A channel between programs in the guest and on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its name in the guest: /dev/virtio-ports/NAME.
    pub name: String,
    /// The listening Unix socket.
    pub path: PathBuf,
}

impl FromStr for Channel {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        /// What Linux takes in a message, which is a page less its head.
        const LONGEST: usize = 255;
        let wrong = || UseError::new(format!("'{text}' is no channel; write name=NAME,path=SOCKET"));
        let rest = text.strip_prefix("name=").ok_or_else(wrong)?;
        let (name, path) = rest.split_once(",path=").ok_or_else(wrong)?;
        let fits = !name.is_empty() && name.len() <= LONGEST && !path.is_empty();
        if !fits || name.contains(|c: char| c.is_control() || c == '/') {
            return Err(wrong());
        }
        Ok(Self { name: name.into(), path: path.into() })
    }
}

bitflags::bitflags! {
    /// Speed-ups of the engines that the user can switch off, to find out which of them a bug is in.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DebugFlags: u32 {
        /// Every block goes back to the dispatcher instead of jumping to its successor.
        const NO_CHAIN = 1 << 0;
        /// Only the generic handlers run, not those specialised by width and operand kinds.
        const NO_SPECIALISE = 1 << 1;
        /// Every memory access walks the page tables.
        const NO_TLB = 1 << 2;
        /// No handler runs two instructions.
        const NO_FUSE = 1 << 3;
        /// Code is translated before it runs for the first time, and waited for.
        const JIT_AT_ONCE = 1 << 4;
        /// Warm code is interpreted until it is hot, not translated in one pass.
        const NO_T1 = 1 << 5;
        /// Code is translated in one pass before it runs for the first time.
        const T1_AT_ONCE = 1 << 6;
        /// What is translated in one pass is one block at a time.
        const NO_PATHS = 1 << 7;
    }
}

impl DebugFlags {
    /// Each flag's name on the command line and what it does.
    pub const LIST: &'static [(&'static str, Self, &'static str)] = &[
        ("jit-at-once", Self::JIT_AT_ONCE, "all code is translated before it runs, not only what is hot"),
        ("no-chain", Self::NO_CHAIN, "blocks of code are looked up each time instead of being linked"),
        ("no-fuse", Self::NO_FUSE, "a handler for each instruction, never one for two"),
        (
            "no-paths",
            Self::NO_PATHS,
            "with --accel jit, what is translated in one pass is one block at a time, never those behind it too",
        ),
        ("no-specialise", Self::NO_SPECIALISE, "generic instruction handlers only"),
        (
            "no-t1",
            Self::NO_T1,
            "with --accel jit, nothing is translated in one pass: code is interpreted until it is hot",
        ),
        ("no-tlb", Self::NO_TLB, "every memory access walks the page tables"),
        (
            "t1-at-once",
            Self::T1_AT_ONCE,
            "with --accel jit, all code is translated in one pass before it runs",
        ),
    ];
}

/// What `--debug` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// What is switched off.
    pub flags: DebugFlags,
    /// As [`Config::lockstep`].
    pub lockstep: Option<u64>,
    /// As [`Config::profile`].
    pub profile: Option<ProfileTo>,
}

impl Debug {
    /// The word that asks for two engines in lockstep, and what it does.
    pub const LOCKSTEP: (&'static str, &'static str) = (
        "lockstep[=N]",
        "runs the guest on two engines, compared every N instructions: the plain interpreter, and what the other options ask for",
    );

    /// The word that asks for a profile of the guest, and what it does.
    pub const PROFILE: (&'static str, &'static str) = (
        "profile[=FILE]",
        "finds out in which functions the guest's time goes, see --symbols; FILE gets all of them, for flame graphs; with \
         --accel jit, /tmp/perf-PID.map names translated code for perf",
    );

    fn word(self, word: &str) -> Result<Self, UseError> {
        if let Some((_, flag, _)) = DebugFlags::LIST.iter().find(|(name, ..)| *name == word) {
            return Ok(Self { flags: self.flags | *flag, ..self });
        }
        match word.split_once('=') {
            None if word == "lockstep" => Ok(Self { lockstep: Some(STRETCH), ..self }),
            None if word == "profile" => Ok(Self { profile: Some(ProfileTo::Messages), ..self }),
            Some(("profile", path)) if !path.is_empty() => {
                Ok(Self { profile: Some(ProfileTo::File(path.into())), ..self })
            }
            Some(("lockstep", count)) => {
                let count = count.parse().ok().filter(|count| (1..=MAX_STRETCH).contains(count));
                let wrong = || {
                    UseError::new(format!(
                        "'{word}' is no number of instructions; right are lockstep=1 to lockstep={MAX_STRETCH}"
                    ))
                };
                Ok(Self { lockstep: Some(count.ok_or_else(wrong)?), ..self })
            }
            _ => {
                let names = DebugFlags::LIST.iter().map(|(name, ..)| *name);
                let names: Vec<&str> = names.chain([Self::LOCKSTEP.0, Self::PROFILE.0]).collect();
                Err(UseError::new(format!(
                    "'{word}' is no debug flag; right are {} (see --debug help)",
                    names.join(", ")
                )))
            }
        }
    }
}

impl FromStr for Debug {
    type Err = UseError;

    fn from_str(list: &str) -> Result<Self, UseError> {
        list.split(',').try_fold(Self::default(), Self::word)
    }
}

/// The user's wishes cannot be met as they are: one sentence that names the option or file and what would be right.
/// Wherever it is in an error's chain, the exit status is 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UseError(String);

impl UseError {
    /// The error with this sentence.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// Parses a size in bytes: `512M`, `4G`, `65536K`; a plain number counts MiB, as it does in QEMU.
pub fn parse_size(text: &str) -> Result<u64, UseError> {
    let wrong = || {
        UseError::new(format!("'{text}' is no size; write for example 512M or 4G (a plain number is MiB)"))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    // Digits alone fail to parse only where there are too many of them; such a size is too big like any other.
    let count: u64 = digits.parse().unwrap_or(u64::MAX);
    Ok(count.saturating_mul(1 << shift))
}

/// Parses the guest's memory: a size in range.
pub fn parse_memory(text: &str) -> Result<u64, UseError> {
    let bytes = parse_size(text)?;
    if bytes < MIN_MEMORY {
        return Err(UseError::new(format!(
            "'{text}' is too little: a machine needs at least 2M, Linux about 128M"
        )));
    }
    if bytes > MAX_MEMORY {
        return Err(UseError::new(format!(
            "'{text}' is too much: a machine has at most {}G",
            MAX_MEMORY >> 30
        )));
    }
    if !bytes.is_multiple_of(4096) {
        return Err(UseError::new(format!("'{text}' is not a whole number of 4 KiB pages")));
    }
    Ok(bytes)
}

impl FromStr for SerialTarget {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err(UseError::new(format!(
                "'{text}' is no serial target; right are stdio, file=PATH, unix=PATH, none"
            ))),
        }
    }
}

/// Reads all of a file that an option names; the sentence for a file that cannot serve says what it should be.
fn read_file(option: &str, path: &Path, should_be: &str) -> Result<Vec<u8>, UseError> {
    let wrong = |what: String| UseError::new(format!("{option} {}: {what}", path.display()));
    let about = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong(format!("there is no such file; it should be {should_be}")),
        _ => wrong(format!("cannot be read: {error}")),
    })?;
    if !about.is_file() {
        let kind = if about.is_dir() { "a directory" } else { "not a regular file" };
        return Err(wrong(format!("this is {kind}; it should be {should_be}")));
    }
    if about.len() > MAX_MEMORY {
        return Err(wrong(format!("is larger than any guest's memory; it should be {should_be}")));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.is_empty() {
        return Err(wrong(format!("the file is empty; it should be {should_be}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_qemus_habits() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512", 512 << 20),
            ("4g", 4 << 30),
            ("65536K", 64 << 20),
            ("1T", 1 << 40),
            ("128MiB", 128 << 20),
            ("4096b", 4096),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "12Q", "0x10", "1 G", "G4", "五"] {
            let message = parse_size(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("'{text}' is no size")), "{message}");
        }
    }

    #[test]
    fn absurd_memory_is_refused() {
        assert_eq!(parse_memory("2M").unwrap(), MIN_MEMORY);
        assert_eq!(parse_memory("512G").unwrap(), MAX_MEMORY);
        for text in ["0", "1", "2047K", "513G", "99999999999999999999999G", "18446744073709551615T", "4097K"]
        {
            let message = parse_memory(text).unwrap_err().to_string();
            let expected = match text {
                "0" | "1" | "2047K" => "too little",
                "4097K" => "4 KiB pages",
                _ => "too much",
            };
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn serial_targets() {
        assert_eq!("stdio".parse::<SerialTarget>().unwrap(), SerialTarget::Stdio);
        assert_eq!("none".parse::<SerialTarget>().unwrap(), SerialTarget::None);
        assert_eq!("file=a=b".parse::<SerialTarget>().unwrap(), SerialTarget::File("a=b".into()));
        assert_eq!("unix=/run/s".parse::<SerialTarget>().unwrap(), SerialTarget::Unix("/run/s".into()));
        for text in ["", "file", "file=", "unix=", "tcp=1", "stdio=1"] {
            assert!(text.parse::<SerialTarget>().unwrap_err().to_string().contains("file=PATH"), "{text}");
        }
    }

    #[test]
    fn channels_have_a_name_and_a_path() {
        let channel: Channel = "name=org.qemu.guest_agent.0,path=/run/a,b=c".parse().unwrap();
        assert_eq!(channel, Channel { name: "org.qemu.guest_agent.0".into(), path: "/run/a,b=c".into() });
        let long = format!("name={},path=x", "n".repeat(256));
        for text in [
            "",
            "name=a",
            "path=b",
            "name=,path=b",
            "name=a,path=",
            "name=a/b,path=c",
            "name=a\n,path=c",
            &long,
        ] {
            assert!(
                text.parse::<Channel>().unwrap_err().to_string().contains("name=NAME,path=SOCKET"),
                "{text}"
            );
        }
    }

    #[test]
    fn debug_flags_are_known_by_name() {
        assert_eq!(
            "no-tlb,no-chain".parse::<Debug>().unwrap().flags,
            DebugFlags::NO_TLB | DebugFlags::NO_CHAIN
        );
        let message = "no-tlb,fast".parse::<Debug>().unwrap_err().to_string();
        assert!(
            message.contains("'fast' is no debug flag") && message.contains("no-specialise"),
            "{message}"
        );
        let all = DebugFlags::LIST.iter().fold(DebugFlags::empty(), |flags, (_, flag, _)| flags | *flag);
        assert_eq!(all, DebugFlags::all(), "every flag has a name on the command line");
    }

    #[test]
    fn files_that_cannot_serve_are_named() {
        let dir = std::env::temp_dir();
        let mut config = Config::new(KernelSource::File(dir.clone()));
        let message = config.read_kernel().unwrap_err().to_string();
        assert!(
            message.contains("this is a directory; it should be a kernel such as a Linux bzImage"),
            "{message}"
        );
        config.kernel = KernelSource::File(dir.join("softmetal-no-such-file"));
        let message = config.read_kernel().unwrap_err().to_string();
        assert!(message.starts_with("--kernel ") && message.contains("no such file"), "{message}");
        config.initrd = vec!["/dev/null".into()];
        let message = config.read_modules(false).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
        config.initrd = vec!["/dev/null a=1".into()];
        let message = config.read_modules(true).unwrap_err().to_string();
        assert!(message.starts_with("--initrd /dev/null: ") && message.contains("a module"), "{message}");
        config.kernel = KernelSource::BuiltIn(b"image");
        assert_eq!(&*config.read_kernel().unwrap(), b"image");
    }

    #[test]
    fn modules_are_a_list_with_arguments() {
        let split = |list: &str| {
            let items = split_list(list.as_bytes());
            items.into_iter().map(|item| String::from_utf8(item).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(split("a"), ["a"]);
        assert_eq!(split("a x=1,b"), ["a x=1", "b"]);
        assert_eq!(split("a x=1,,2,b,,"), ["a x=1,2", "b,"]);
        assert_eq!(split("a,,,b"), ["a,", "b"]);

        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("one"), "1").unwrap();
        fs::write(path("two,three"), "2").unwrap();
        let list = format!("{} x=1 y,{}", path("one"), path("two,,three"));
        let mut config = Config::new(KernelSource::BuiltIn(b"image"));
        config.initrd = vec![list.into(), path("one").into()];
        let modules = config.read_modules(true).unwrap();
        let texts: Vec<_> = modules.iter().map(|module| module.command_line.as_str()).collect();
        assert_eq!(texts, [format!("{} x=1 y", path("one")), path("two,three"), path("one")]);
        assert_eq!(
            modules[1],
            ModuleFile { file: path("two,three"), command_line: path("two,three"), bytes: b"2".into() }
        );
        config.initrd = vec![path("two,three").into()];
        assert_eq!(config.read_modules(false).unwrap()[0].bytes, b"2", "a Linux kernel takes one file");
    }
}
