//! The log of a run: everything that came to the processor from outside, so that the run can be had again without its
//! devices.
//!
//! A log begins with a line of text and a [`Header`], what the machine was; behind them, compressed, stand [`entry`]s. The
//! answers of the board stand in the order of the questions; what comes between two instructions (an interrupt, the end) says
//! how many instructions had run, and what was in the registers. A replay asks the log in place of the board, runs to each
//! such moment, and compares.

mod answers;
pub mod entry;
mod recorder;
mod replayer;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};
use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use softmetal_cpu::{Cpu, Model};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::config::{Config, KernelSource, UseError};
use crate::outcome::Outcome;
use entry::{Entry, Last, Moment};

pub(crate) use answers::{Answers, Script};
pub(crate) use recorder::{Recorder, Tape};
pub(crate) use replayer::{Playback, Replayer, Start, execute};

/// The first bytes of every log.
const MAGIC: &[u8] = b"softmetal log\n";
/// What this build reads and writes.
const FORMAT: u32 = 2;
/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// More than any header has.
const MAX_HEADER: usize = 1 << 20;

/// What a machine was, so that it can be built again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// Version of the softmetal that wrote it.
    softmetal: String,
    /// Bytes of guest memory.
    memory: u64,
    /// The kernel's command line.
    append: String,
    /// The kernel; the built-in demo guest has no path.
    kernel: Image,
    initrd: Vec<Image>,
    /// A reset ended the run.
    no_reboot: bool,
    /// The processor's model, by its name.
    #[serde(default)]
    cpu: String,
}

/// A file that the guest was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    path: Option<Vec<u8>>,
    /// [`digest`] of what was in it; none for lists of modules.
    digest: Option<u64>,
}

impl Image {
    fn path(&self) -> Option<PathBuf> {
        self.path.as_ref().map(|bytes| OsString::from_vec(bytes.clone()).into())
    }

    /// A file as the user names it, or a list of modules.
    fn named(path: &Path) -> Self {
        let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let digest = fs::read(path).ok().map(|bytes| digest(&bytes));
        Self { path: Some(absolute.into_os_string().into_vec()), digest }
    }
}

impl Header {
    fn of(config: &Config) -> Result<Self> {
        let kernel = match &config.kernel {
            KernelSource::File(path) => Image::named(path),
            _ => Image { path: None, digest: Some(digest(&config.read_kernel()?)) },
        };
        Ok(Self {
            format: FORMAT,
            softmetal: env!("CARGO_PKG_VERSION").into(),
            memory: config.memory,
            append: config.append.clone(),
            kernel,
            initrd: config.initrd.iter().map(|path| Image::named(path)).collect(),
            no_reboot: config.no_reboot,
            cpu: config.cpu.name().into(),
        })
    }

    /// Makes `config` the machine of the log. Files that the user names may have moved, not changed.
    fn complete(&self, config: &Config) -> Result<Config> {
        let mut config = config.clone();
        config.memory = self.memory;
        config.append = self.append.clone();
        config.no_reboot = self.no_reboot;
        config.cpus = 1;
        config.cpu = Model::from_name(&self.cpu).ok_or_else(|| {
            UseError::new(format!("--replay: this softmetal has no processor '{}'", self.cpu))
        })?;
        if config.kernel == KernelSource::Recorded {
            config.kernel = match self.kernel.path() {
                Some(path) => KernelSource::File(path),
                None => KernelSource::BuiltIn(crate::cli::DEMO),
            };
            config.initrd = self.initrd.iter().filter_map(Image::path).collect();
        }
        let changed = |name: &str| {
            UseError::new(format!("{name} is not the file that the log was made with; it should be the same"))
        };
        if self.kernel.digest != Some(digest(&config.read_kernel()?)) {
            return Err(changed(&config.kernel.name()).into());
        }
        for (path, then) in config.initrd.iter().zip(&self.initrd) {
            let now = fs::read(path).ok().map(|bytes| digest(&bytes));
            if then.digest.is_some() && now.is_some() && now != then.digest {
                return Err(changed(&path.display().to_string()).into());
            }
        }
        Ok(config)
    }
}

/// Whether a machine writes a log, or runs from one.
pub(crate) enum Journal {
    None,
    Record(Arc<Tape>),
    Replay(Arc<Replayer>),
}

impl Journal {
    /// Opens the log that `config` names. What is replayed is the machine of the log.
    pub(crate) fn open(config: &mut Config) -> Result<Self> {
        if let Some(path) = &config.record {
            let header = Header::of(config)?;
            return Ok(Self::Record(Tape::create(path, &header)?));
        }
        if let Some(path) = config.replay.clone() {
            let (header, log) = Reader::open(&path)?;
            *config = header.complete(config)?;
            return Ok(Self::Replay(Replayer::new(log)));
        }
        Ok(Self::None)
    }

    /// The last machine has run. What is wrong with the log takes the place of how it ended.
    pub(crate) fn finish(&self, outcome: Outcome) -> Outcome {
        let Self::Record(tape) = self else { return outcome };
        tape.finish();
        tape.failure().map_or(outcome, Outcome::Failed)
    }
}

/// Writes a log.
struct Writer {
    encoder: FrameEncoder<BufWriter<File>>,
    last: Last,
    bytes: Vec<u8>,
}

impl Writer {
    fn create(path: &Path, header: &Header) -> Result<Self> {
        let work = || -> Result<Self> {
            let mut file = BufWriter::new(File::create(path)?);
            let header = rmp_serde::to_vec_named(header)?;
            file.write_all(MAGIC)?;
            file.write_all(&u32::try_from(header.len())?.to_le_bytes())?;
            file.write_all(&header)?;
            file.flush()?;
            let info = FrameInfo::new().block_checksums(true).content_checksum(true);
            let encoder = FrameEncoder::with_frame_info(info, file);
            Ok(Self { encoder, last: Last::default(), bytes: Vec::new() })
        };
        work().with_context(|| format!("cannot write the log {}", path.display()))
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        self.bytes.clear();
        entry::write(&mut self.bytes, entry, &mut self.last);
        self.encoder.write_all(&self.bytes)
    }

    /// What has been written reaches the file.
    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()?;
        self.encoder.get_mut().flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        self.encoder.get_mut().flush()
    }
}

/// Reads a log.
struct Reader {
    path: PathBuf,
    decoder: BufReader<FrameDecoder<BufReader<File>>>,
    last: Last,
}

impl Reader {
    fn open(path: &Path) -> Result<(Header, Self)> {
        let named = |what: String| UseError::new(format!("--replay {}: {what}", path.display()));
        let mut file = File::open(path).map(BufReader::new).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                named("there is no such file; it should be one that --record has written".into())
            }
            _ => named(format!("cannot be read: {error}")),
        })?;
        let header = read_header(&mut file).map_err(|what| named(what.to_string()))?;
        let decoder = BufReader::new(FrameDecoder::new(file));
        Ok((header, Self { path: path.into(), decoder, last: Last::default() }))
    }

    /// The next entry. A log that has ended has no next one: it was cut off.
    fn next(&mut self) -> Result<Entry, String> {
        match entry::read(&mut self.decoder, &mut self.last) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(self.wrong("it ends before the run does: it was cut off, or the run was")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.wrong("it ends before the run does: it was cut off, or the run was"))
            }
            Err(error) => Err(self.wrong(&format!("it is damaged: {error}"))),
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("the log {} cannot be followed to its end: {what}", self.path.display())
    }
}

fn read_header(from: &mut impl Read) -> Result<Header, String> {
    const NO_LOG: &str = "this is no log; it should be a file that --record has written";
    let mut magic = [0; MAGIC.len()];
    let mut len = [0; 4];
    from.read_exact(&mut magic).and_then(|()| from.read_exact(&mut len)).map_err(|_| NO_LOG)?;
    let len = u32::from_le_bytes(len) as usize;
    if magic != MAGIC {
        return Err(NO_LOG.into());
    }
    if len > MAX_HEADER {
        return Err("the log is damaged; make it again with --record".into());
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).map_err(|_| "the log is cut off; make it again with --record")?;
    let header: Header =
        rmp_serde::from_slice(&bytes).map_err(|_| "the log is damaged; make it again with --record")?;
    if header.format != FORMAT {
        return Err(format!(
            "the log was written by softmetal {} in a form that this one does not read",
            header.softmetal
        ));
    }
    Ok(header)
}

/// Reads a log that is in memory as a replay would, and says how many entries it has: any bytes are a log or an error.
pub fn examine(mut bytes: &[u8]) -> Result<usize, String> {
    read_header(&mut bytes)?;
    entry::count(BufReader::new(FrameDecoder::new(bytes))).map_err(|error| error.to_string())
}

/// A number that equal bytes share.
fn digest(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(bytes.len() as u64, |h, word| (h.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A number that equal guest memories share. Only what the memory file holds is looked at: pages that nobody has written are
/// zeros.
pub(crate) fn digest_memory(memory: &GuestMemoryMmap) -> u64 {
    let mut sum = 0_u64;
    let mut page = [0; PAGE];
    for_each_used_page(memory, |at| {
        let there = memory.read_slice(&mut page, GuestAddress(at));
        if there.is_ok() && page.iter().any(|byte| *byte != 0) {
            // The order does not matter, the place does.
            let place = at.wrapping_mul(0xff51_afd7_ed55_8ccd);
            sum = sum.wrapping_add(digest(&page).wrapping_mul(place | 1));
        }
    });
    sum
}

/// Goes through the pages that the memory file holds: the others have never been written.
pub(crate) fn for_each_used_page(memory: &GuestMemoryMmap, mut visit: impl FnMut(u64)) {
    for region in memory.iter() {
        let mut at = 0;
        while let Some(used) = next_used(region, at).filter(|used| *used < region.len()) {
            at = used & !(PAGE as u64 - 1);
            visit(region.start_addr().0 + at);
            at += PAGE as u64;
        }
    }
}

/// Where in a region, from `at` on, its file has the next byte that was ever written; `at` where the file cannot tell.
fn next_used(region: &impl GuestMemoryRegion, at: u64) -> Option<u64> {
    let Some(backing) = region.file_offset() else { return Some(at) };
    match rustix::fs::seek(backing.file(), SeekFrom::Data(backing.start() + at)) {
        Ok(offset) => Some(offset.saturating_sub(backing.start()).max(at)),
        Err(rustix::io::Errno::NXIO) => None,
        Err(_) => Some(at),
    }
}

/// Where `cpu` stands.
fn moment(cpu: &Cpu) -> Moment {
    let state_rip = cpu.state().rip;
    Moment { instructions: cpu.instructions(), rip: state_rip, registers: cpu.digest() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SerialTarget;
    use crate::console::Console;
    use crate::machine::Machine;
    use crate::statistics::Report;
    use entry::{Happening, Question};

    fn config() -> Config {
        let mut config = Config::new(KernelSource::BuiltIn(crate::cli::DEMO));
        config.memory = 64 << 20;
        config.append = "quick run=mem".into();
        config.serial = SerialTarget::None;
        config
    }

    fn run(config: &Config) -> Outcome {
        Machine::build(config, &Console::new()).unwrap().run(&mut Report::default()).unwrap()
    }

    /// A log like that of `path`, with something changed.
    fn forge(path: &Path, to: &Path, mut change: impl FnMut(usize, &mut Entry)) {
        let (header, mut reader) = Reader::open(path).unwrap();
        let mut writer = Writer::create(to, &header).unwrap();
        for number in 0.. {
            let Ok(mut entry) = reader.next() else { break };
            change(number, &mut entry);
            writer.write(&entry).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn a_replay_knows_when_memory_has_become_read_only() {
        let code = [
            0xb8, 0x90, 0, 0, 0x80, 0x66, 0xba, 0xf8, 0x0c,
            0xef, // out 0xcf8, 0x80000090: the host bridge's PAM0
            0xb0, 0x10, 0x66, 0xba, 0xfc, 0x0c, 0xee, // out 0xcfc, 0x10: 0xf0000 can only be read
            0xc6, 0x05, 0, 0, 0x0f, 0, 0x55, // mov byte [0xf0000], 0x55
            0xb0, 0x30, 0xee, // out 0xcfc, 0x30: it is RAM again
            0xa0, 0, 0, 0x0f, 0, 0x34, 0x2a, 0xe6,
            0xf4, // mov al, [0xf0000]; xor al, 0x2a; out 0xf4, al
            0xf4, 0xeb, 0xfd, // hlt, for ever
        ];
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut config = config();
        config.kernel = KernelSource::BuiltIn(crate::bare::kernel(&code).leak());
        config.debug_exit = true;
        config.record = Some(log.clone());
        let Outcome::DebugExit(value) = run(&config) else { panic!("the guest ends otherwise") };
        assert_ne!(value, 0x55 ^ 0x2a, "the guest has written there");
        config.record = None;
        config.replay = Some(log);
        assert_eq!(run(&config), Outcome::DebugExit(value));
        config.replay = None;
        config.lockstep = Some(1000);
        assert_eq!(run(&config), Outcome::DebugExit(value));
    }

    #[test]
    fn a_replay_leaves_a_forged_log_where_it_was_forged() {
        let folder = tempfile::tempdir().unwrap();
        let (log, forged) = (folder.path().join("log"), folder.path().join("forged"));
        assert_eq!(run(&Config { record: Some(log.clone()), ..config() }), Outcome::PoweredOff);
        let mut entries = Vec::new();
        forge(&log, &forged, |_, entry| entries.push(entry.clone()));
        assert_eq!(examine(&fs::read(&forged).unwrap()), Ok(entries.len()));
        let replay = Config { kernel: KernelSource::Recorded, replay: Some(forged.clone()), ..config() };
        assert_eq!(run(&replay), Outcome::PoweredOff);

        let last = |wanted: &dyn Fn(&Entry) -> bool| entries.iter().rposition(wanted).unwrap();
        let answer = last(&|entry| matches!(entry, Entry::Asked(Question::PortRead { port: 0x3fd, .. }, _)));
        let write = last(&|entry| matches!(entry, Entry::Asked(Question::PortWrite { port: 0x3f8, .. }, _)));
        let end = last(&|entry| matches!(entry, Entry::At(_, Happening::End(..))));
        type Forge = fn(&mut Entry);
        let forgeries: [(usize, Forge, &str); 6] = [
            // The transmitter stays busy: the guest asks again.
            (
                answer,
                |entry| {
                    if let Entry::Asked(_, answer) = entry {
                        *answer = Some(0)
                    }
                },
                "a read of 1 bytes from port 0x3fd comes, in the log",
            ),
            (
                write,
                |entry| {
                    if let Entry::Asked(Question::PortWrite { data, .. }, _) = entry {
                        *data = entry::Data::new(b"~");
                    }
                },
                "in the log a write of [7e] to port 0x3f8",
            ),
            (
                end,
                |entry| {
                    if let Entry::At(moment, _) = entry {
                        moment.registers ^= 1
                    }
                },
                "other values in the registers",
            ),
            (
                end,
                |entry| {
                    if let Entry::At(moment, _) = entry {
                        moment.rip ^= 1
                    }
                },
                "the end finds rip at",
            ),
            (
                end,
                |entry| {
                    if let Entry::At(_, Happening::End(_, memory)) = entry {
                        *memory ^= 1;
                    }
                },
                "guest memory at the end",
            ),
            (write, |entry| *entry = Entry::Asked(Question::Cr8, Some(0)), "in the log a read of CR8"),
        ];
        for (place, forgery, expected) in forgeries {
            forge(&log, &forged, |number, entry| {
                if number == place {
                    forgery(entry);
                }
            });
            match run(&replay) {
                Outcome::Failed(what) => {
                    assert!(
                        what.contains("leaves its log at instruction") && what.contains(expected),
                        "{what}"
                    );
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    /// A multiboot kernel that ends with a byte made of sixteen random numbers.
    fn random_kernel(folder: &Path) -> Config {
        const AT: u32 = 0x10_0000;
        let (magic, flags) = (0x1bad_b002_u32, 0x1_0000_u32);
        let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
        let header = [magic, flags, checksum, AT, AT, 0, 0, AT + 0x20];
        let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        // XOR EBX, EBX; MOV ECX, 8
        image.extend([0x31, 0xdb, 0xb9, 8, 0, 0, 0]);
        // RDRAND EAX; JNC back; XOR EBX, EAX; RDSEED EAX; JNC back; ADD EBX, EAX; LOOP
        image.extend([0x0f, 0xc7, 0xf0, 0x73, 0xfb, 0x31, 0xc3]);
        image.extend([0x0f, 0xc7, 0xf8, 0x73, 0xfb, 0x01, 0xc3, 0xe2, 0xf0]);
        // MOV AL, BL; OUT 0xf4, AL; HLT
        image.extend([0x88, 0xd8, 0xe6, 0xf4, 0xf4]);
        let path = folder.join("kernel");
        fs::write(&path, image).unwrap();
        Config { kernel: KernelSource::File(path), debug_exit: true, append: String::new(), ..config() }
    }

    #[test]
    fn random_numbers_of_instructions_are_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let config = random_kernel(folder.path());
        let mut values = Vec::new();
        for _ in 0..4 {
            let then = run(&Config { record: Some(log.clone()), ..config.clone() });
            let replay =
                Config { kernel: KernelSource::Recorded, replay: Some(log.clone()), ..config.clone() };
            assert_eq!(run(&replay), then);
            let Outcome::DebugExit(value) = then else { panic!("{then:?}") };
            values.push(value);
        }
        assert!(values.iter().any(|value| *value != values[0]), "the host's are other ones each time");
        let forged = folder.path().join("forged");
        let mut numbers = 0;
        forge(&log, &forged, |_, entry| {
            if let Entry::Asked(Question::Random, Some(number)) = entry {
                *number ^= 0x80;
                numbers += 1;
                if numbers > 1 {
                    *number ^= 0x80;
                }
            }
        });
        assert_eq!(numbers, 16);
        let replay = Config { kernel: KernelSource::Recorded, replay: Some(forged), ..config.clone() };
        assert!(matches!(run(&replay), Outcome::Failed(_)), "another number is another way");
    }

    #[test]
    fn random_numbers_are_the_same_by_a_clock_of_instructions() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config { clock: crate::config::ClockSource::Instructions, ..random_kernel(folder.path()) };
        let first = run(&config);
        assert!(matches!(first, Outcome::DebugExit(_)), "{first:?}");
        assert_eq!(run(&config), first);
    }

    #[test]
    fn an_interrupt_at_another_instruction_is_another_way() {
        let folder = tempfile::tempdir().unwrap();
        let (log, forged) = (folder.path().join("log"), folder.path().join("forged"));
        // The self-test has timers interrupt it.
        let config = Config { append: "run=test".into(), ..config() };
        assert_eq!(run(&Config { record: Some(log.clone()), ..config.clone() }), Outcome::PoweredOff);
        let mut interrupts = 0;
        forge(&log, &forged, |_, entry| {
            if let Entry::At(moment, Happening::Interrupt(_)) = entry {
                interrupts += 1;
                if interrupts == 20 {
                    moment.instructions += 1;
                }
            }
        });
        assert!(interrupts > 20, "{interrupts}");
        let replay = Config { kernel: KernelSource::Recorded, replay: Some(forged), ..config };
        match run(&replay) {
            Outcome::Failed(what) => assert!(what.contains("leaves its log at instruction"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
