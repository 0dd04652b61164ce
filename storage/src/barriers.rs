//! The order in which parts of a qcow2 image reach the host's disk.
//!
//! `imago` writes an image's tables in an order in which each write leaves an image that is right: data before the table
//! that leads to it, counts of references before references. Between two flushes the host may turn any order around, and
//! a power cut then leaves the second write without the first. So whenever the writes go over from one kind to
//! another kind of table, what was written before is flushed. Writes of data are never held up.
//!
//! One order is not `imago`'s: it enters a new table into the first level before the counts say that the table's cluster is
//! in use. So entries of the first level stay here until a flush has written all the rest.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::header::Header;
use crate::medium::Medium;

/// What a cluster of an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data = 1 << 0,
    Header = 1 << 1,
    /// Where the tables for parts of the disk are.
    L1 = 1 << 2,
    /// Where the clusters of a part of the disk are.
    L2 = 1 << 3,
    /// Where the counts of references are.
    RefTable = 1 << 4,
    RefBlock = 1 << 5,
}

/// Which tables are where.
#[derive(Debug, Default)]
struct Places {
    cluster_bits: u32,
    l1: Range<u64>,
    reftable: Range<u64>,
    /// The tables of the second level, by the offsets of their clusters.
    tables: FxHashMap<u64, Kind>,
}

/// Bits of an entry of a table that are the offset of a cluster: the qcow2 specification, "L1 table entry".
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
impl Places {
    /// Reads where the tables are.
    fn find(medium: &dyn Medium) -> io::Result<Self> {
        let header = Header::read(medium)?;
        let cluster_bits = header.cluster_bits;
        let range = |begin: u64, length: u64| begin..begin.saturating_add(length);
        let mut places = Self {
            cluster_bits,
            l1: range(header.l1_offset, u64::from(header.l1_entries) * 8),
            reftable: range(header.reftable_offset, header.reftable_bytes()),
            tables: FxHashMap::default(),
        };
        for (table, kind) in [(places.l1.clone(), Kind::L2), (places.reftable.clone(), Kind::RefBlock)] {
            // Clusters are whole units of whatever a medium asks for.
            let length = (table.end - table.start).next_multiple_of(medium.alignment() as u64);
            let mut entries = vec![0; length as usize];
            medium.read(table.start, &mut [IoSliceMut::new(&mut entries)])?;
            entries.truncate((table.end - table.start) as usize);
            places.note(&entries, kind);
        }
        Ok(places)
    }

    fn kind(&self, at: u64) -> Kind {
        let cluster = at >> self.cluster_bits << self.cluster_bits;
        match () {
            () if cluster == 0 => Kind::Header,
            () if self.l1.contains(&at) => Kind::L1,
            () if self.reftable.contains(&at) => Kind::RefTable,
            () => self.tables.get(&cluster).copied().unwrap_or(Kind::Data),
        }
    }

    /// Takes note of the tables to which entries of the first level lead.
    fn note(&mut self, entries: &[u8], kind: Kind) {
        let (entries, _) = entries.as_chunks::<8>();
        let offsets = entries.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET).filter(|at| *at != 0);
        self.tables.extend(offsets.map(|at| (at, kind)));
    }
}

/// Which kinds have been written since the last flush, and where they are.
#[derive(Debug, Default)]
pub(crate) struct Barriers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    places: Option<Places>,
    written: u8,
    /// Parts of the table of the first level that are still to be written.
    roots: BTreeMap<u64, Vec<u8>>,
}

impl Barriers {
    /// Writes to the image, after a flush if one is needed.
    pub(crate) fn write(&self, medium: &dyn Medium, at: u64, from: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.0.lock();
        let State { places, written, roots } = &mut *state;
        let places = match places {
            Some(places) => places,
            None => places.insert(Places::find(medium)?),
        };
        let kind = places.kind(at);
        if kind == Kind::Data {
            drop(state);
            // Noted when it is done, and before a table can lead to it: a flush on the way need not have had it.
            let result = medium.write(at, from);
            self.data();
            return result;
        }
        if kind == Kind::L1 {
            let bytes: Vec<u8> = from.iter().flat_map(|part| part.iter().copied()).collect();
            places.note(&bytes, Kind::L2);
            roots.insert(at, bytes);
            return Ok(());
        }
        if *written & !(kind as u8) != 0 {
            medium.flush()?;
            *written = 0;
        }
        *written |= kind as u8;
        medium.write(at, from)?;
        match kind {
            Kind::RefTable => from.iter().for_each(|entries| places.note(entries, Kind::RefBlock)),
            // Tables of the first level may have moved.
            Kind::Header => *places = Places::find(medium)?,
            Kind::Data | Kind::L1 | Kind::L2 | Kind::RefBlock => {}
        }
        Ok(())
    }

    /// Data has been written.
    pub(crate) fn data(&self) {
        self.0.lock().written |= Kind::Data as u8;
    }

    /// `imago` has written all that it knows: the table of the first level may follow.
    pub(crate) fn settle(&self, medium: &dyn Medium) -> io::Result<()> {
        let mut state = self.0.lock();
        let State { written, roots, .. } = &mut *state;
        if roots.is_empty() {
            return Ok(());
        }
        medium.flush()?;
        *written = Kind::L1 as u8;
        for (at, bytes) in roots.iter() {
            medium.write(*at, &[IoSlice::new(bytes)])?;
        }
        roots.clear();
        Ok(())
    }

    /// Flushes.
    pub(crate) fn flush(&self, medium: &dyn Medium) -> io::Result<()> {
        // What is written from here on is not known to be kept.
        let before = std::mem::take(&mut self.0.lock().written);
        medium.flush().inspect_err(|_| self.0.lock().written |= before)
    }
}
