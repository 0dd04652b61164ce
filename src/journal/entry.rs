//! What a log holds, as bytes: a tag, then numbers of 7 bits a byte. Reading is pure and takes any bytes.

use std::io::{self, Read};
use std::ops::Range;

use softmetal_cpu::{Event, Rights};

/// A point between two instructions of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Instructions that have run.
    pub instructions: u64,
    /// The next one's address, for messages.
    pub rip: u64,
    /// [`softmetal_cpu::Cpu::digest`].
    pub registers: u64,
}

/// The data of one access: 1 to 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    bytes: [u8; 8],
    len: u8,
}

impl Data {
    /// These bytes, eight of them at most.
    #[must_use]
    pub fn new(from: &[u8]) -> Self {
        let mut bytes = [0; 8];
        let len = from.len().min(8);
        bytes[..len].copy_from_slice(&from[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What the CPU asks of the board. Whatever tells two questions apart is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the methods of `softmetal_cpu::Bus`")]
pub enum Question {
    MmioRead { at: u64, len: u8 },
    MmioWrite { at: u64, data: Data },
    PortRead { port: u16, len: u8 },
    PortWrite { port: u16, data: Data },
    Cr8,
    SetCr8(u8),
    ApicBase,
    SetApicBase(u64),
    ApicMsrRead(u32),
    ApicMsrWrite { msr: u32, value: u64 },
    TscDeadline,
    SetTscDeadline(u64),
    Tsc,
    Random,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MmioRead { at, len } => write!(f, "a read of {len} bytes at {at:#x}"),
            Self::MmioWrite { at, data } => write!(f, "a write of {:02x?} to {at:#x}", data.bytes()),
            Self::PortRead { port, len } => write!(f, "a read of {len} bytes from port {port:#x}"),
            Self::PortWrite { port, data } => write!(f, "a write of {:02x?} to port {port:#x}", data.bytes()),
            Self::Cr8 => write!(f, "a read of CR8"),
            Self::SetCr8(value) => write!(f, "a write of {value:#x} to CR8"),
            Self::ApicBase => write!(f, "a read of the APIC's base"),
            Self::SetApicBase(value) => write!(f, "a write of {value:#x} to the APIC's base"),
            Self::ApicMsrRead(msr) => write!(f, "a read of MSR {msr:#x}"),
            Self::ApicMsrWrite { msr, value } => write!(f, "a write of {value:#x} to MSR {msr:#x}"),
            Self::TscDeadline => write!(f, "a read of the TSC deadline"),
            Self::SetTscDeadline(value) => write!(f, "a TSC deadline of {value:#x}"),
            Self::Tsc => write!(f, "a read of the TSC"),
            Self::Random => write!(f, "RDRAND or RDSEED"),
        }
    }
}

/// How a run ended, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Outcome`")]
pub enum End {
    PoweredOff,
    Reset,
    DebugExit(u8),
    Crashed,
    Terminated,
}

/// What happens between two instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// An external interrupt with this vector is delivered.
    Interrupt(u8),
    /// A non-maskable interrupt is delivered.
    Nmi,
    /// INIT.
    Init,
    /// Nothing: for comparison.
    Checkpoint,
    /// The run is over; guest memory has this digest.
    End(End, u64),
}

impl From<Event> for Happening {
    fn from(event: Event) -> Self {
        match event {
            Event::Interrupt(vector) => Self::Interrupt(vector),
            Event::Nmi => Self::Nmi,
            Event::Init => Self::Init,
        }
    }
}

impl std::fmt::Display for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interrupt(vector) => write!(f, "interrupt {vector:#x}"),
            Self::Nmi => write!(f, "an NMI"),
            Self::Init => write!(f, "INIT"),
            Self::Checkpoint => write!(f, "a checkpoint"),
            Self::End(..) => write!(f, "the end"),
        }
    }
}

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A machine begins: what the host has given to it, and how it stands before its first instruction.
    Start {
        /// The TSC's frequency.
        tsc_hz: u64,
        /// The SMBIOS identity.
        uuid: [u8; 16],
        /// What firmware gives a kernel to seed its random numbers.
        rng_seed: [u8; 32],
        /// Guest memory, as [`super::digest_memory`] has it.
        memory: u64,
        /// The processor's registers.
        registers: u64,
    },
    /// A question with its answer; refusals are `None`.
    Asked(Question, Option<u64>),
    /// A device has written into guest memory.
    Dma(u64, Vec<u8>),
    /// A chip has changed which accesses reach pages of guest memory.
    Rights(Range<u64>, Rights),
    /// Something between two instructions.
    At(Moment, Happening),
}

/// Most bytes of one [`Entry::Dma`].
pub(crate) const DMA_CHUNK: usize = 4096;
/// Most bytes of one [`Entry::Rights`]: the chips that change them govern the first MiB.
const RIGHTS_RANGE: u64 = 1 << 20;

/// What numbers are written relative to.
#[derive(Default)]
pub(crate) struct Last {
    tsc: u64,
    instructions: u64,
    rip: u64,
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small for small distances in both directions.
fn distance(out: &mut Vec<u8>, value: u64, last: &mut u64) {
    let by = value.wrapping_sub(*last) as i64;
    *last = value;
    number(out, (by << 1 ^ by >> 63) as u64);
}

fn data(out: &mut Vec<u8>, data: &Data) {
    out.push(data.len);
    out.extend(data.bytes());
}

/// Appends an entry.
pub(crate) fn write(out: &mut Vec<u8>, entry: &Entry, last: &mut Last) {
    match entry {
        Entry::Start { tsc_hz, uuid, rng_seed, memory, registers } => {
            *last = Last::default();
            out.push(0);
            number(out, *tsc_hz);
            out.extend(uuid);
            out.extend(rng_seed);
            out.extend(memory.to_le_bytes());
            out.extend(registers.to_le_bytes());
        }
        Entry::Asked(question, answer) => {
            let refused = if answer.is_none() { 0x80 } else { 0 };
            let mut tag = |tag: u8| out.push(tag | refused);
            match question {
                Question::MmioRead { at, len } => {
                    tag(1);
                    number(out, *at);
                    out.push(*len);
                }
                Question::MmioWrite { at, data: bytes } => {
                    tag(2);
                    number(out, *at);
                    data(out, bytes);
                }
                Question::PortRead { port, len } => {
                    tag(3);
                    number(out, (*port).into());
                    out.push(*len);
                }
                Question::PortWrite { port, data: bytes } => {
                    tag(4);
                    number(out, (*port).into());
                    data(out, bytes);
                }
                Question::Cr8 => tag(5),
                Question::SetCr8(value) => {
                    tag(6);
                    out.push(*value);
                }
                Question::ApicBase => tag(7),
                Question::SetApicBase(value) => {
                    tag(8);
                    number(out, *value);
                }
                Question::ApicMsrRead(msr) => {
                    tag(9);
                    number(out, (*msr).into());
                }
                Question::ApicMsrWrite { msr, value } => {
                    tag(10);
                    number(out, (*msr).into());
                    number(out, *value);
                }
                Question::TscDeadline => tag(11),
                Question::SetTscDeadline(value) => {
                    tag(12);
                    number(out, *value);
                }
                Question::Tsc => tag(13),
                Question::Random => tag(20),
            }
            match (question, answer) {
                (_, None) => {}
                (Question::Tsc, Some(tsc)) => distance(out, *tsc, &mut last.tsc),
                (_, Some(value)) => number(out, *value),
            }
        }
        Entry::Dma(at, bytes) => {
            out.push(14);
            number(out, *at);
            number(out, bytes.len() as u64);
            out.extend(bytes);
        }
        Entry::Rights(range, rights) => {
            out.push(21);
            number(out, range.start);
            number(out, range.end);
            out.push(u8::from(rights.read) | u8::from(rights.write) << 1);
        }
        Entry::At(moment, happening) => {
            match happening {
                Happening::Interrupt(vector) => out.extend([15, *vector]),
                Happening::Nmi => out.push(16),
                Happening::Init => out.push(17),
                Happening::Checkpoint => out.push(18),
                Happening::End(end, memory) => {
                    let (kind, value) = match end {
                        End::PoweredOff => (0, 0),
                        End::Reset => (1, 0),
                        End::DebugExit(value) => (2, *value),
                        End::Crashed => (3, 0),
                        End::Terminated => (4, 0),
                    };
                    out.extend([19, kind, value]);
                    out.extend(memory.to_le_bytes());
                }
            }
            distance(out, moment.instructions, &mut last.instructions);
            distance(out, moment.rip, &mut last.rip);
            out.extend(moment.registers.to_le_bytes());
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    Ok(array::<1>(from)?[0])
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(wrong("a number does not end"))
}

fn read_distance(from: &mut impl Read, last: &mut u64) -> io::Result<u64> {
    let by = read_number(from)?;
    *last = last.wrapping_add(by >> 1 ^ (by & 1).wrapping_neg());
    Ok(*last)
}

fn read_length(from: &mut impl Read) -> io::Result<u8> {
    Some(byte(from)?).filter(|len| (1..=8).contains(len)).ok_or_else(|| wrong("an access of no width"))
}

fn read_data(from: &mut impl Read) -> io::Result<Data> {
    let len = read_length(from)?;
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes[..usize::from(len)])?;
    Ok(Data { bytes, len })
}

fn read_port(from: &mut impl Read) -> io::Result<u16> {
    u16::try_from(read_number(from)?).map_err(|_| wrong("a port beyond the last"))
}

fn read_msr(from: &mut impl Read) -> io::Result<u32> {
    u32::try_from(read_number(from)?).map_err(|_| wrong("an MSR beyond the last"))
}

/// Reads the next entry; `None` where no byte is left.
pub(crate) fn read(from: &mut impl Read, last: &mut Last) -> io::Result<Option<Entry>> {
    let mut tag = [0];
    if from.read(&mut tag)? == 0 {
        return Ok(None);
    }
    let (tag, refused) = (tag[0] & 0x7f, tag[0] & 0x80 != 0);
    let question = match tag {
        0 => {
            *last = Last::default();
            return Ok(Some(Entry::Start {
                tsc_hz: Some(read_number(from)?)
                    .filter(|hz| *hz > 0)
                    .ok_or_else(|| wrong("a TSC that stands"))?,
                uuid: array(from)?,
                rng_seed: array(from)?,
                memory: u64::from_le_bytes(array(from)?),
                registers: u64::from_le_bytes(array(from)?),
            }));
        }
        1 => Question::MmioRead { at: read_number(from)?, len: read_length(from)? },
        2 => Question::MmioWrite { at: read_number(from)?, data: read_data(from)? },
        3 => Question::PortRead { port: read_port(from)?, len: read_length(from)? },
        4 => Question::PortWrite { port: read_port(from)?, data: read_data(from)? },
        5 => Question::Cr8,
        6 => Question::SetCr8(byte(from)?),
        7 => Question::ApicBase,
        8 => Question::SetApicBase(read_number(from)?),
        9 => Question::ApicMsrRead(read_msr(from)?),
        10 => Question::ApicMsrWrite { msr: read_msr(from)?, value: read_number(from)? },
        11 => Question::TscDeadline,
        12 => Question::SetTscDeadline(read_number(from)?),
        13 => Question::Tsc,
        14 => {
            let at = read_number(from)?;
            let len = usize::try_from(read_number(from)?).ok().filter(|len| *len <= DMA_CHUNK);
            let mut bytes = vec![0; len.ok_or_else(|| wrong("a write that is too long"))?];
            from.read_exact(&mut bytes)?;
            return Ok(Some(Entry::Dma(at, bytes)));
        }
        15..=19 => {
            let happening = match tag {
                15 => Happening::Interrupt(byte(from)?),
                16 => Happening::Nmi,
                17 => Happening::Init,
                18 => Happening::Checkpoint,
                _ => {
                    let [kind, value] = array(from)?;
                    let end = match kind {
                        0 => End::PoweredOff,
                        1 => End::Reset,
                        2 => End::DebugExit(value),
                        3 => End::Crashed,
                        4 => End::Terminated,
                        _ => return Err(wrong("an end of no known kind")),
                    };
                    Happening::End(end, u64::from_le_bytes(array(from)?))
                }
            };
            let moment = Moment {
                instructions: read_distance(from, &mut last.instructions)?,
                rip: read_distance(from, &mut last.rip)?,
                registers: u64::from_le_bytes(array(from)?),
            };
            return Ok(Some(Entry::At(moment, happening)));
        }
        20 => Question::Random,
        21 => {
            let range = read_number(from)?..read_number(from)?;
            if range.end.checked_sub(range.start).is_none_or(|len| len > RIGHTS_RANGE) {
                return Err(wrong("a range of memory that is too long"));
            }
            let bits = byte(from)?;
            return Ok(Some(Entry::Rights(range, Rights { read: bits & 1 != 0, write: bits & 2 != 0 })));
        }
        _ => return Err(wrong("a record of no known kind")),
    };
    let answer = match question {
        _ if refused => None,
        Question::Tsc => Some(read_distance(from, &mut last.tsc)?),
        _ => Some(read_number(from)?),
    };
    Ok(Some(Entry::Asked(question, answer)))
}

/// How many entries these bytes hold, or what is wrong with them.
pub fn count(mut from: impl Read) -> io::Result<usize> {
    let (mut last, mut count) = (Last::default(), 0);
    while read(&mut from, &mut last)?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Entry> {
        let moment = |instructions, rip| Moment { instructions, rip, registers: 0x0123_4567_89ab_cdef };
        let asked = |question, answer| Entry::Asked(question, answer);
        vec![
            Entry::Start { tsc_hz: 2_000_000_000, uuid: [1; 16], rng_seed: [2; 32], memory: 3, registers: 4 },
            asked(Question::MmioRead { at: 0xfee0_0020, len: 4 }, Some(u64::MAX)),
            asked(Question::MmioWrite { at: 0xfec0_0000, data: Data::new(&[1, 2, 3, 4]) }, Some(0)),
            asked(Question::PortRead { port: 0x3fd, len: 1 }, Some(0x60)),
            asked(Question::PortWrite { port: 0x3f8, data: Data::new(b"A") }, Some(0)),
            asked(Question::Cr8, Some(3)),
            asked(Question::SetCr8(7), Some(0)),
            asked(Question::ApicBase, Some(0xfee0_0900)),
            asked(Question::SetApicBase(1), None),
            asked(Question::ApicMsrRead(0x802), Some(9)),
            asked(Question::ApicMsrWrite { msr: 0x80b, value: 0 }, None),
            asked(Question::TscDeadline, Some(1 << 40)),
            asked(Question::SetTscDeadline(u64::MAX), Some(0)),
            asked(Question::Tsc, Some(1000)),
            asked(Question::Tsc, Some(900)),
            asked(Question::Random, Some(u64::MAX)),
            asked(Question::Random, None),
            Entry::Dma(0x1000, vec![5; DMA_CHUNK]),
            Entry::Rights(0xf_0000..0x10_0000, Rights { read: true, write: false }),
            Entry::At(moment(10, u64::MAX), Happening::Interrupt(0x20)),
            Entry::At(moment(10, 3), Happening::Nmi),
            Entry::At(moment(11, 0), Happening::Init),
            Entry::At(moment(1 << 50, 0), Happening::Checkpoint),
            Entry::At(moment(1 << 51, 0), Happening::End(End::DebugExit(3), u64::MAX)),
            Entry::At(moment(1 << 52, 0), Happening::End(End::Terminated, 0)),
        ]
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let (mut bytes, mut last) = (Vec::new(), Last::default());
        samples().iter().for_each(|entry| write(&mut bytes, entry, &mut last));
        let (mut from, mut last) = (&bytes[..], Last::default());
        for entry in samples() {
            assert_eq!(read(&mut from, &mut last).unwrap(), Some(entry));
        }
        assert_eq!(read(&mut from, &mut last).unwrap(), None);
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error() {
        let (mut bytes, mut last) = (Vec::new(), Last::default());
        samples().iter().for_each(|entry| write(&mut bytes, entry, &mut last));
        let mut x = 1_u64;
        for _ in 0..3000 {
            let mut broken = bytes.clone();
            for _ in 0..4 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (x >> 33) as usize % broken.len();
                broken[at] = (x >> 20) as u8;
            }
            broken.truncate((x >> 40) as usize % (bytes.len() + 1));
            let (mut from, mut last) = (&broken[..], Last::default());
            while let Ok(Some(_)) = read(&mut from, &mut last) {}
        }
    }
}
