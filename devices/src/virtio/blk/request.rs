//! What a driver asks of a disk: parsed, then executed.

use std::io;

use serde::{Deserialize, Serialize};
use softmetal_storage::{Disk, Limits, SECTOR};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::dma::{Dma, NotRam};
use crate::virtio::{Chain, Part};

/// Bytes that a request may move: far more than drivers ask for, and not so many that one keeps a disk busy for long.
const MAX_BYTES: u64 = 64 << 20;
/// More than this takes a while even where the host has it in its memory.
const MAX_AT_ONCE: u64 = 64 << 10;
/// Ranges in a request to discard or zero.
pub(super) const MAX_RANGES: u32 = 64;
/// Sectors of each of these.
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// Type, priority (which has no meaning here), first sector.
const HEADER_SIZE: usize = 16;
/// First sector, number of sectors, flags.
const RANGE_SIZE: usize = 16;
const UNMAP: u32 = 1 << 0;

/// The answers of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as isize,
    IoError = VIRTIO_BLK_S_IOERR as isize,
    Unsupported = VIRTIO_BLK_S_UNSUPP as isize,
}

/// Sectors to discard or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) unmap: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Work {
    Read {
        at: u64,
        into: Vec<Part>,
    },
    Write {
        at: u64,
        from: Vec<Part>,
    },
    Flush,
    GetId {
        into: Vec<Part>,
    },
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
    /// Nothing, as this is no request that can be served.
    Refuse(Status),
}

impl Work {
    /// The bytes that it moves.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Read { into: parts, .. } | Self::Write { from: parts, .. } => length(parts),
            _ => 0,
        }
    }

    /// Whether it changes the disk.
    pub(super) fn changes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Flush | Self::Discard(_) | Self::WriteZeroes(_))
    }
}

/// A request, with where its answer goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) head: u16,
    pub(super) work: Work,
    /// Where the status goes; `None` where the driver has left no room for one.
    pub(super) status: Option<u64>,
    /// What the driver is told of bytes written: all it has room for, as of a disk that fails in the middle nobody knows.
    pub(super) room: u32,
}

impl Request {
    /// Reads a chain. How its bytes are spread over descriptors has no meaning.
    pub(super) fn parse(chain: &Chain, limits: &Limits, dma: &Dma) -> Result<Self, NotRam> {
        let mut readable: Vec<Part> = chain.readable().copied().collect();
        let mut writable: Vec<Part> = chain.writable().copied().collect();
        let status = take_last_byte(&mut writable);
        let mut header = [0; HEADER_SIZE];
        let whole = take(&mut readable, &mut header, dma)?;
        let room =
            u32::try_from(length(&writable)).unwrap_or(u32::MAX).saturating_add(status.is_some().into());
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = u64::from_le_bytes([
            header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
        ]);
        let work = match kind {
            _ if !whole || status.is_none() => Work::Refuse(Status::IoError),
            VIRTIO_BLK_T_IN => transfer(sector, &writable, limits)
                .map_or(Work::Refuse(Status::IoError), |at| Work::Read { at, into: writable }),
            VIRTIO_BLK_T_OUT if limits.read_only => Work::Refuse(Status::IoError),
            VIRTIO_BLK_T_OUT => transfer(sector, &readable, limits)
                .map_or(Work::Refuse(Status::IoError), |at| Work::Write { at, from: readable }),
            VIRTIO_BLK_T_FLUSH => Work::Flush,
            VIRTIO_BLK_T_GET_ID => Work::GetId { into: writable },
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if limits.read_only => {
                Work::Refuse(Status::IoError)
            }
            VIRTIO_BLK_T_DISCARD => match ranges(&mut readable, limits, 0, dma)? {
                Ok(ranges) => Work::Discard(ranges),
                Err(status) => Work::Refuse(status),
            },
            VIRTIO_BLK_T_WRITE_ZEROES => match ranges(&mut readable, limits, UNMAP, dma)? {
                Ok(ranges) => Work::WriteZeroes(ranges),
                Err(status) => Work::Refuse(status),
            },
            _ => Work::Refuse(Status::Unsupported),
        };
        Ok(Self { head: chain.head, work, status, room })
    }

    /// Does it, if that is likely to need no waiting: the answer, or `None` where it is left to [`Request::execute`].
    pub(super) fn execute_at_once(
        &self,
        disk: &dyn Disk,
        id: &[u8],
        dma: &Dma,
    ) -> Option<io::Result<Status>> {
        if self.work.bytes() > MAX_AT_ONCE {
            return None;
        }
        match &self.work {
            Work::Read { at, into } => {
                Some(disk.read_at_once(*at, &slices(into, dma).ok()?)?.map(|()| Status::Ok))
            }
            Work::Write { at, from } => {
                Some(disk.write_at_once(*at, &slices(from, dma).ok()?)?.map(|()| Status::Ok))
            }
            Work::GetId { .. } | Work::Refuse(_) => Some(self.execute(disk, id, dma)),
            Work::Flush | Work::Discard(_) | Work::WriteZeroes(_) => None,
        }
    }

    /// Does it.
    pub(super) fn execute(&self, disk: &dyn Disk, id: &[u8], dma: &Dma) -> io::Result<Status> {
        match &self.work {
            Work::Read { at, into } => disk.read(*at, &slices(into, dma)?)?,
            Work::Write { at, from } => disk.write(*at, &slices(from, dma)?)?,
            Work::Flush => disk.flush()?,
            Work::GetId { into } => {
                let mut text = [0; VIRTIO_BLK_ID_BYTES as usize];
                let length = id.len().min(text.len());
                text[..length].copy_from_slice(&id[..length]);
                let mut rest = &text[..];
                for slice in slices(into, dma)? {
                    let (bytes, behind) = rest.split_at(slice.len().min(rest.len()));
                    slice.copy_from(bytes);
                    rest = behind;
                }
            }
            Work::Discard(ranges) => {
                ranges.iter().try_for_each(|range| disk.discard(range.at, range.length))?;
            }
            Work::WriteZeroes(ranges) => {
                ranges.iter().try_for_each(|range| disk.write_zeroes(range.at, range.length, range.unmap))?;
            }
            Work::Refuse(status) => return Ok(*status),
        }
        Ok(Status::Ok)
    }

    /// Tells of what was written into guest RAM beside the status.
    pub(super) fn note_writes(&self, dma: &Dma) {
        if let Work::Read { into, .. } | Work::GetId { into } = &self.work {
            into.iter().for_each(|part| dma.note_write(part.address, part.length as usize));
        }
    }
}

fn length(parts: &[Part]) -> u64 {
    parts.iter().map(|part| u64::from(part.length)).sum()
}

/// Cuts the last byte off; the answer is where it is.
fn take_last_byte(parts: &mut Vec<Part>) -> Option<u64> {
    while parts.last().is_some_and(|part| part.length == 0) {
        parts.pop();
    }
    let last = parts.last_mut()?;
    last.length -= 1;
    Some(last.address + u64::from(last.length))
}

/// Cuts the first bytes off and reads them; false where there are not so many.
fn take(parts: &mut Vec<Part>, bytes: &mut [u8], dma: &Dma) -> Result<bool, NotRam> {
    let mut taken = 0;
    for part in parts.iter_mut() {
        let count = (bytes.len() - taken).min(part.length as usize);
        dma.read(part.address, &mut bytes[taken..taken + count])?;
        part.address += count as u64;
        part.length -= count as u32;
        taken += count;
        if taken == bytes.len() {
            break;
        }
    }
    parts.retain(|part| part.length > 0);
    Ok(taken == bytes.len())
}

/// The offset of a transfer that the disk can do.
fn transfer(sector: u64, parts: &[Part], limits: &Limits) -> Option<u64> {
    let length = length(parts);
    within(sector.checked_mul(SECTOR)?, length, limits).filter(|_| length <= MAX_BYTES)
}

/// The offset, if all of the range is blocks of the disk.
fn within(at: u64, length: u64, limits: &Limits) -> Option<u64> {
    let block = u64::from(limits.block_size);
    let end = at.checked_add(length)?;
    (end <= limits.size && at.is_multiple_of(block) && length.is_multiple_of(block)).then_some(at)
}

/// The ranges of a request to discard or zero; with flags that are not `known`, the standard asks for "unsupported".
fn ranges(
    parts: &mut Vec<Part>,
    limits: &Limits,
    known: u32,
    dma: &Dma,
) -> Result<Result<Vec<Range>, Status>, NotRam> {
    let size = length(parts);
    let count = size / RANGE_SIZE as u64;
    if count == 0 || count > MAX_RANGES.into() || !size.is_multiple_of(RANGE_SIZE as u64) {
        return Ok(Err(Status::IoError));
    }
    let mut ranges = Vec::new();
    for _ in 0..count {
        let mut bytes = [0; RANGE_SIZE];
        take(parts, &mut bytes, dma)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (sector, sectors, flags) = (u64::from(word(4)) << 32 | u64::from(word(0)), word(8), word(12));
        if flags & !known != 0 {
            return Ok(Err(Status::Unsupported));
        }
        let length = u64::from(sectors) * SECTOR;
        match sector.checked_mul(SECTOR).and_then(|at| within(at, length, limits)) {
            Some(at) if sectors <= MAX_RANGE_SECTORS => {
                ranges.push(Range { at, length, unmap: flags & UNMAP != 0 });
            }
            _ => return Ok(Err(Status::IoError)),
        }
    }
    Ok(Ok(ranges))
}

/// The host memory behind parts of guest RAM.
fn slices<'a>(parts: &[Part], dma: &'a Dma) -> io::Result<Vec<VolatileSlice<'a>>> {
    let mut slices = Vec::with_capacity(parts.len());
    for part in parts {
        for slice in dma.memory().get_slices(GuestAddress(part.address), part.length as usize) {
            slices.push(slice.map_err(io::Error::other)?);
        }
    }
    Ok(slices)
}
