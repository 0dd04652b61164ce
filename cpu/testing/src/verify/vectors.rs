//! Recorded cases: what they run from, and what was right on the host where they were recorded, so that any host can be the
//! judge's seat. A file is an LZ4 frame of MessagePack values: a [`Header`], then vectors up to the end.

use super::{Maker, difference::Outcome, line::usual, run::Case};
use crate::{HostFault, Segments, layout::*};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use softmetal_cpu::{float::F80, testing::User};
use std::{
    fmt,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// What begins a file.
const MAGIC: &str = "softmetal vectors";
/// Raised whenever old files can no longer be read.
const VERSION: u32 = 1;

/// What is wrong with a file of vectors.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The system says no.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// It is something else.
    #[error(
        "{0} holds no recorded vectors: make such a file with 'softmetal verify --record FILE' on an x86-64 host"
    )]
    Foreign(PathBuf),
    /// It is of another time.
    #[error("{0} has vectors of version {1}; this build reads version {VERSION}: record them again")]
    Version(PathBuf, u32),
    /// It ends early, or is damaged.
    #[error("{0} is damaged behind {1} vectors: {2}")]
    Damaged(PathBuf, u64, String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    magic: String,
    version: u32,
    amd: bool,
}

/// Bytes as MessagePack's own kind of them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(v.to_vec()))
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
        }
        deserializer.deserialize_byte_buf(Whole)
    }
}

/// Parts of memory: offset in the scratch memory, and bytes.
type Pieces = Vec<(u16, Bytes)>;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    /// Place in [`places`].
    place: u8,
    bytes: Bytes,
    /// What differs from registers that say nothing.
    before: Changes,
    memory: Pieces,
    /// What differs from before.
    after: Changes,
    memory_after: Pieces,
    /// Vector, error code, address.
    fault: Option<(u8, u32, u64)>,
    /// CS, SS, DS, ES after instructions that may load them.
    selectors: Option<(u16, u16, u16, u16)>,
}

fn places() -> impl Iterator<Item = Segments> {
    std::iter::once(Segments::LONG).chain(Segments::LEGACY)
}

/// Registers that differ: a bit for each, and their values one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Changes(u64, Bytes);

/// Numbers of bits in [`Changes`]: 16 general registers, then these.
const XMM: usize = 16;
const YMM_HIGH: usize = 32;
const ST: usize = 48;
const WORDS: usize = 56;

/// The register of a bit as bytes.
fn field(user: &User, bit: usize) -> Vec<u8> {
    match bit {
        0..XMM => user.gpr[bit].to_le_bytes().to_vec(),
        XMM..YMM_HIGH => user.xmm[bit - XMM].to_le_bytes().to_vec(),
        YMM_HIGH..ST => user.ymm_high[bit - YMM_HIGH].to_le_bytes().to_vec(),
        ST..WORDS => {
            let r = user.x87.regs[bit - ST];
            [&r.significand.to_le_bytes()[..], &r.sign_exponent.to_le_bytes()].concat()
        }
        _ => {
            // Each word as eight bytes would waste most of them.
            let (v, size) = match bit - WORDS {
                0 => (user.rflags, 4),
                1 => (user.mxcsr.into(), 4),
                2 => (user.x87.control.into(), 2),
                3 => (user.x87.status.into(), 2),
                4 => (user.x87.tags.into(), 1),
                _ => (user.rip, 8),
            };
            v.to_le_bytes()[..size].to_vec()
        }
    }
}

/// How many bits of [`Changes`] there are.
const FIELDS: usize = WORDS + 6;

fn set_field(user: &mut User, bit: usize, bytes: &[u8]) {
    let word = bytes.iter().rev().fold(0u128, |v, b| v << 8 | u128::from(*b));
    match bit {
        0..XMM => user.gpr[bit] = word as u64,
        XMM..YMM_HIGH => user.xmm[bit - XMM] = word,
        YMM_HIGH..ST => user.ymm_high[bit - YMM_HIGH] = word,
        ST..WORDS => {
            user.x87.regs[bit - ST] = F80 { significand: word as u64, sign_exponent: (word >> 64) as u16 };
        }
        _ => match bit - WORDS {
            0 => user.rflags = word as u64,
            1 => user.mxcsr = word as u32,
            2 => user.x87.control = word as u16,
            3 => user.x87.status = word as u16,
            4 => user.x87.tags = word as u8,
            _ => user.rip = word as u64,
        },
    }
}

impl Changes {
    fn between(old: &User, new: &User) -> Changes {
        let mut changes = Changes::default();
        for bit in 0..FIELDS {
            let v = field(new, bit);
            if field(old, bit) != v {
                changes.0 |= 1 << bit;
                changes.1.0.extend(v);
            }
        }
        changes
    }

    /// None where the bytes do not fit the bits.
    fn apply(&self, old: &User) -> Option<User> {
        let mut user = *old;
        let mut rest = &self.1.0[..];
        for bit in (0..FIELDS).filter(|bit| self.0 >> bit & 1 == 1) {
            let (value, after) = rest.split_at_checked(field(old, bit).len())?;
            set_field(&mut user, bit, value);
            rest = after;
        }
        (rest.is_empty() && self.0 >> FIELDS == 0).then_some(user)
    }
}

/// Runs of bytes that differ; runs less than four bytes apart are one.
fn pieces(old: &[u8], new: &[u8]) -> Pieces {
    let runs = super::line::runs(old, new);
    runs.into_iter().map(|(a, b)| (a as u16, Bytes(new[a..b].to_vec()))).collect()
}

/// None where a piece lies outside of the scratch memory.
fn patch(pieces: &Pieces, memory: &mut [u8]) -> Option<()> {
    for (at, Bytes(bytes)) in pieces {
        let at = usize::from(*at);
        memory.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    }
    Some(())
}

/// A file being written.
pub(super) struct Recorder {
    path: PathBuf,
    out: FrameEncoder<BufWriter<File>>,
}

impl Recorder {
    /// Makes the file; what is recorded comes from a CPU of this maker.
    pub(super) fn create(path: &Path, maker: Maker) -> Result<Recorder, VectorError> {
        let file = File::create(path).map_err(|e| VectorError::Io(path.into(), e))?;
        let mut recorder = Recorder { path: path.into(), out: FrameEncoder::new(BufWriter::new(file)) };
        recorder.put(&Header { magic: MAGIC.into(), version: VERSION, amd: maker == Maker::Amd })?;
        Ok(recorder)
    }

    fn put(&mut self, value: &impl Serialize) -> Result<(), VectorError> {
        let bytes = rmp_serde::to_vec(value).map_err(io::Error::other);
        bytes.and_then(|bytes| self.out.write_all(&bytes)).map_err(|e| VectorError::Io(self.path.clone(), e))
    }

    /// Adds a case and what is right.
    pub(super) fn record(&mut self, case: &Case, right: &Outcome, memory: &[u8]) -> Result<(), VectorError> {
        let place = places().position(|place| place == case.segments).unwrap_or(0) as u8;
        let empty = vec![0; SCRATCH_SIZE as usize];
        self.put(&Vector {
            place,
            bytes: Bytes(case.bytes.clone()),
            before: Changes::between(&usual(case.segments), &case.before),
            memory: pieces(&empty, &case.scratch),
            after: Changes::between(&case.before, &right.user),
            memory_after: pieces(&case.scratch, memory),
            fault: right.fault.map(|fault| (fault.vector, fault.error, fault.cr2)),
            selectors: right.selectors.map(|s| (s.cs, s.ss, s.ds, s.es)),
        })
    }

    /// Ends the file.
    pub(super) fn finish(self) -> Result<(), VectorError> {
        let path = self.path;
        let ended = self.out.finish().map_err(io::Error::other).and_then(|mut file| file.flush());
        ended.map_err(|e| VectorError::Io(path, e))
    }
}

/// A file being read.
pub struct Vectors {
    path: PathBuf,
    from: BufReader<FrameDecoder<BufReader<File>>>,
    /// Who made the CPU that it comes from.
    pub maker: Maker,
    read: u64,
}

/// A case, and what is right: registers and memory.
pub(super) type Recorded = (Case, Outcome, Vec<u8>);

impl Vectors {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Vectors, VectorError> {
        let file = File::open(path).map_err(|e| VectorError::Io(path.into(), e))?;
        let mut from = BufReader::new(FrameDecoder::new(BufReader::new(file)));
        let header: Header =
            rmp_serde::from_read(&mut from).map_err(|_| VectorError::Foreign(path.into()))?;
        if header.magic != MAGIC {
            return Err(VectorError::Foreign(path.into()));
        }
        if header.version != VERSION {
            return Err(VectorError::Version(path.into(), header.version));
        }
        let maker = if header.amd { Maker::Amd } else { Maker::Intel };
        Ok(Vectors { path: path.into(), from, maker, read: 0 })
    }

    fn damaged(&self, why: impl fmt::Display) -> VectorError {
        VectorError::Damaged(self.path.clone(), self.read, why.to_string())
    }

    /// The next vector; None at the end.
    pub(super) fn next(&mut self) -> Result<Option<Recorded>, VectorError> {
        let mut first = [0];
        match self.from.read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(self.damaged(e)),
        }
        let vector: Vector =
            rmp_serde::from_read((&first[..]).chain(&mut self.from)).map_err(|e| self.damaged(e))?;
        self.read += 1;
        vector.open().map(Some).ok_or_else(|| self.damaged("a vector is not whole"))
    }
}

impl Vector {
    fn open(self) -> Option<Recorded> {
        let segments = places().nth(self.place.into())?;
        let before = self.before.apply(&usual(segments))?;
        let user = self.after.apply(&before)?;
        let mut scratch = vec![0; SCRATCH_SIZE as usize];
        patch(&self.memory, &mut scratch)?;
        let mut memory = scratch.clone();
        patch(&self.memory_after, &mut memory)?;
        let fault = self.fault.map(|(vector, error, cr2)| HostFault { vector, error, cr2 });
        let selectors = self.selectors.map(|(cs, ss, ds, es)| Segments { cs, ss, ds, es });
        let bytes = self.bytes.0;
        // More would not fit into the code page.
        (1..=64).contains(&bytes.len()).then_some(())?;
        Some((Case { bytes, segments, before, scratch }, Outcome { user, fault, selectors }, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::blank;

    #[test]
    fn registers_come_back() {
        let mut user = blank();
        user.gpr[3] = u64::MAX;
        user.xmm[15] = 1 << 127;
        user.ymm_high[0] = 7;
        user.x87.regs[7] = F80 { significand: 1 << 63, sign_exponent: 0xbfff };
        (user.rflags, user.mxcsr, user.x87.tags, user.rip) = (0x2d7, 0x1f81, 0x80, INSN + 3);
        let changes = Changes::between(&blank(), &user);
        assert_eq!(changes.apply(&blank()), Some(user));
        let mut short = changes.clone();
        short.1.0.pop();
        assert_eq!(short.apply(&blank()), None);
        assert_eq!(Changes(1 << 63, Bytes::default()).apply(&blank()), None);
    }

    #[test]
    fn files_come_back_and_damage_is_told() {
        let path = std::env::temp_dir().join(format!("softmetal-vectors-{}", std::process::id()));
        let case = Case {
            bytes: vec![0x90],
            segments: Segments::LONG,
            before: blank(),
            scratch: vec![0; SCRATCH_SIZE as usize],
        };
        let right = Outcome { user: blank(), fault: None, selectors: None };
        let mut memory = case.scratch.clone();
        memory[5] = 1;
        let mut recorder = Recorder::create(&path, Maker::Amd).expect("a temporary file");
        recorder.record(&case, &right, &memory).expect("a temporary file");
        recorder.finish().expect("a temporary file");
        let mut vectors = Vectors::open(&path).expect("the file is good");
        assert_eq!(vectors.maker, Maker::Amd);
        let (again, _, changed) = vectors.next().expect("a vector").expect("one");
        assert!(again == case && changed == memory);
        assert!(vectors.next().expect("the end").is_none());
        let whole = std::fs::read(&path).expect("a temporary file");
        std::fs::write(&path, &whole[..whole.len() - 9]).expect("a temporary file");
        let mut vectors = Vectors::open(&path);
        let told = vectors.as_mut().map_or(true, |vectors| vectors.next().is_err());
        std::fs::write(&path, b"something else").expect("a temporary file");
        let foreign = matches!(Vectors::open(&path), Err(VectorError::Foreign(_)));
        std::fs::remove_file(&path).expect("a temporary file");
        assert!(told && foreign);
    }
}
