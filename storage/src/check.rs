//! Whether the tables of a qcow2 image fit together: each cluster must be counted as often as it is used.

use std::io::{self, IoSlice, IoSliceMut};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::header::{CORRUPT, EXTENDED_L2, EXTERNAL_DATA, Header};
use crate::medium::Medium;

/// Findings that are kept in words.
const MAX_FINDINGS: usize = 100;

/// What an entry holds beside flags: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is used once, so that it may be written.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong, so that data is or will be lost: in words, the first hundred.
    pub errors: Vec<String>,
    /// How often something is wrong.
    pub error_count: u64,
    /// Clusters that are counted and not used: they take space, and that is all.
    pub leaks: u64,
    /// Clusters of data.
    pub data_clusters: u64,
    /// Clusters that the disk has.
    pub all_clusters: u64,
}

impl Findings {
    fn error(&mut self, text: impl FnOnce() -> String) {
        self.error_count += 1;
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(text());
        }
    }
}

/// Why an image cannot be checked.
fn unknown(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what}; qemu-img check knows such images"))
}

/// Looks at all tables of the image in a medium. `progress` hears how many of how many tables are done.
pub fn check(medium: &dyn Medium, progress: &mut dyn FnMut(u64, u64)) -> io::Result<Findings> {
    Ok(checked(medium, progress)?.findings)
}

/// Images of more clusters are left as they are: looking at them takes a while.
const MAX_CLUSTERS: u64 = 1 << 20;

/// Gives back what machines leave that are killed while they write: clusters that are counted, as counts are written first, and
/// used by nothing. The answer is how many. An image in which anything is wrong stays as it is.
pub(crate) fn free_leaks(medium: &dyn Medium) -> io::Result<u64> {
    let header = Header::read(medium)?;
    let large = medium.length()? >> header.cluster_bits > MAX_CLUSTERS;
    // Lists of what has changed, for one, are extensions whose clusters are not known here.
    if large || header.refcount_order < 3 || Header::has_extensions(medium)? {
        return Ok(0);
    }
    let Check { findings, mut leaked, blocks, .. } = checked(medium, &mut |_, _| ())?;
    if findings.error_count > 0 || leaked.is_empty() {
        return Ok(0);
    }
    let (size, width) = (header.cluster_size(), 1 << (header.refcount_order - 3));
    let in_block = size / width;
    leaked.sort_unstable();
    for (number, at) in blocks {
        let range = number * in_block..(number + 1) * in_block;
        let [from, to] = [range.start, range.end].map(|end| leaked.partition_point(|cluster| *cluster < end));
        let here = &leaked[from..to];
        if here.is_empty() {
            continue;
        }
        let mut block = vec![0; size as usize];
        medium.read(at, &mut [IoSliceMut::new(&mut block)])?;
        for cluster in here {
            let place = ((cluster - range.start) * width) as usize;
            block[place..place + width as usize].fill(0);
        }
        medium.write(at, &[IoSlice::new(&block)])?;
    }
    medium.flush()?;
    Ok(leaked.len() as u64)
}

fn checked<'a>(medium: &'a dyn Medium, progress: &mut dyn FnMut(u64, u64)) -> io::Result<Check<'a>> {
    let header = Header::read(medium)?;
    match header {
        Header { snapshots: 1.., .. } => return Err(unknown("it has snapshots inside")),
        Header { encryption: 1.., .. } => return Err(unknown("it is encrypted")),
        Header { incompatible, .. } if incompatible & EXTERNAL_DATA != 0 => {
            return Err(unknown("its data is in another file"));
        }
        Header { incompatible, .. } if incompatible & EXTENDED_L2 != 0 => {
            return Err(unknown("it has subclusters"));
        }
        _ => {}
    }
    let mut check = Check {
        medium,
        header,
        end: medium.length()?,
        uses: FxHashMap::default(),
        once: Vec::new(),
        leaked: Vec::new(),
        blocks: Vec::new(),
        findings: Findings::default(),
    };
    check.findings.all_clusters = header.size.div_ceil(header.cluster_size());
    if header.incompatible & CORRUPT != 0 {
        check.findings.error(|| "the image is marked as corrupt".into());
    }
    check.references(progress)?;
    check.counts(progress)?;
    Ok(check)
}

struct Check<'a> {
    medium: &'a dyn Medium,
    header: Header,
    /// The length of the file.
    end: u64,
    /// How often clusters are used, by their numbers.
    uses: FxHashMap<u64, u64>,
    /// Clusters of which it is said whether they are used once.
    once: Vec<(u64, bool)>,
    /// Clusters that are counted and not used at all.
    leaked: Vec<u64>,
    /// Blocks of counts: their numbers, and where they are.
    blocks: Vec<(u64, u64)>,
    findings: Findings,
}

impl Check<'_> {
    /// A table of 64-bit entries.
    fn table(&self, at: u64, bytes: u64) -> io::Result<Vec<u64>> {
        let mut table = vec![0; bytes as usize];
        self.medium.read(at, &mut [IoSliceMut::new(&mut table)])?;
        let (entries, _) = table.as_chunks::<8>();
        Ok(entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
    }

    /// Whether this can be a place in the image; if so, its clusters are used.
    fn uses(&mut self, at: u64, bytes: u64, what: &str) -> bool {
        let size = self.header.cluster_size();
        let whole = at.is_multiple_of(size) && at != 0;
        // The last cluster need not be whole.
        let inside = at.checked_add(bytes).is_some_and(|end| end <= self.end.saturating_add(size - 1));
        if !whole || !inside {
            self.findings.error(|| format!("{what} at {at:#x} is no place in the image"));
            return false;
        }
        for cluster in at / size..(at + bytes).div_ceil(size) {
            *self.uses.entry(cluster).or_default() += 1;
        }
        true
    }

    /// Follows the tables to all that is used.
    fn references(&mut self, progress: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let size = self.header.cluster_size();
        let l1_bytes = u64::from(self.header.l1_entries) * 8;
        *self.uses.entry(0).or_default() += 1;
        if l1_bytes == 0 || !self.uses(self.header.l1_offset, l1_bytes, "the table of the first level") {
            return Ok(());
        }
        let entries = self.table(self.header.l1_offset, l1_bytes.next_multiple_of(8))?;
        let mut seen = FxHashSet::default();
        let total = entries.len() as u64;
        for (number, entry) in (0..).zip(entries) {
            progress(number, total);
            let at = entry & OFFSET;
            if at == 0 || !self.uses(at, size, "a table of the second level") {
                continue;
            }
            self.once.push((at / size, entry & COPIED != 0));
            // A table that serves twice is found by its count; looking at it twice would take forever where all do.
            if seen.insert(at) {
                for entry in self.table(at, size)? {
                    self.data(entry);
                }
            }
        }
        Ok(())
    }

    /// An entry of the second level.
    fn data(&mut self, entry: u64) {
        let size = self.header.cluster_size();
        if entry & COMPRESSED != 0 {
            let bits = 62 - (self.header.cluster_bits - 8);
            let at = entry & ((1 << bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> bits;
            let end = (at & !511) + (sectors + 1) * 512;
            if end > self.end.next_multiple_of(size).max(self.end) {
                self.findings.error(|| format!("compressed data at {at:#x} is no place in the image"));
                return;
            }
            for cluster in at / size..end.div_ceil(size) {
                *self.uses.entry(cluster).or_default() += 1;
            }
            self.findings.data_clusters += 1;
            return;
        }
        let at = entry & OFFSET;
        if at != 0 && self.uses(at, size, "data") {
            self.findings.data_clusters += 1;
            self.once.push((at / size, entry & COPIED != 0));
        }
    }

    /// Compares what is used with what is counted.
    fn counts(&mut self, progress: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let size = self.header.cluster_size();
        let bytes = self.header.reftable_bytes();
        if !self.uses(self.header.reftable_offset, bytes, "the table of counts") {
            return Ok(());
        }
        let entries = self.table(self.header.reftable_offset, bytes)?;
        let mut blocks = Vec::new();
        let mut seen = FxHashSet::default();
        for (number, entry) in (0..).zip(entries) {
            let at = entry & OFFSET;
            if at != 0 && self.uses(at, size, "a block of counts") && seen.insert(at) {
                blocks.push((number, at));
            }
        }
        let mut counted = FxHashMap::default();
        let total = blocks.len() as u64;
        let order = self.header.refcount_order;
        let in_block = size * 8 >> order;
        self.blocks.clone_from(&blocks);
        for (done, (number, at)) in (0..).zip(blocks) {
            progress(done, total);
            let mut block = vec![0; size as usize];
            self.medium.read(at, &mut [IoSliceMut::new(&mut block)])?;
            for index in 0..in_block {
                let count = count(&block, index, order);
                if count > 0 {
                    counted.insert(number * in_block + index, count);
                }
            }
        }
        let mut wrong: Vec<_> = self.uses.iter().map(|(cluster, uses)| (*cluster, *uses)).collect();
        wrong.retain(|(cluster, uses)| counted.get(cluster).copied().unwrap_or(0) < *uses);
        wrong.sort_unstable();
        for (cluster, uses) in wrong {
            let count = counted.get(&cluster).copied().unwrap_or(0);
            let at = cluster * size;
            self.findings
                .error(|| format!("the cluster at {at:#x} is used {uses} times and counted {count} times"));
        }
        let more = |(cluster, count): &(&u64, &u64)| **count > self.uses.get(cluster).copied().unwrap_or(0);
        self.findings.leaks = counted.iter().filter(more).count() as u64;
        self.leaked = counted.keys().filter(|cluster| !self.uses.contains_key(cluster)).copied().collect();
        for (cluster, once) in std::mem::take(&mut self.once) {
            let count = counted.get(&cluster).copied().unwrap_or(0);
            if once != (count == 1) && count != 0 {
                let at = cluster * size;
                let says = if once { "used once" } else { "used several times" };
                self.findings.error(|| {
                    format!("the cluster at {at:#x} is said to be {says} and is counted {count} times")
                });
            }
        }
        Ok(())
    }
}

/// A count of references of two to the power of `order` bits.
fn count(block: &[u8], index: u64, order: u32) -> u64 {
    let bits = 1 << order;
    if bits < 8 {
        let per_byte = 8 / bits;
        let byte = block.get((index / per_byte) as usize).copied().unwrap_or(0);
        return u64::from(byte) >> (index % per_byte * bits) & ((1 << bits) - 1);
    }
    let bytes = bits as usize / 8;
    let at = index as usize * bytes;
    block.get(at..at + bytes).unwrap_or_default().iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::host_file::{Cache, HostFile};

    const CLUSTER: usize = 64 << 10;

    /// An image of five clusters (header, table of counts, counts, first level, and one that is counted and not used), with an
    /// extension of the header of this type.
    fn image(path: &Path, extension: u32) -> Vec<u8> {
        let mut bytes = vec![0; 5 * CLUSTER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &16u32.to_be_bytes());
        put(24, &(1u64 << 20).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &(3 * CLUSTER as u64).to_be_bytes());
        put(48, &(CLUSTER as u64).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        put(104, &extension.to_be_bytes());
        put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
        put(2 * CLUSTER, &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        fs::write(path, &bytes).unwrap();
        bytes
    }

    #[test]
    fn clusters_of_a_killed_machine_are_freed_where_nothing_else_can_need_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        let free = || {
            let file = HostFile::open(&path, true, Cache::Writeback).unwrap();
            free_leaks(&file).unwrap()
        };
        let mut expected = image(&path, 0);
        assert_eq!(free(), 1);
        expected[2 * CLUSTER + 9] = 0;
        assert!(fs::read(&path).unwrap() == expected, "nothing else is changed");
        assert_eq!(free(), 0);
        // Dirty bitmaps have clusters that no table of the disk leads to.
        image(&path, 0x2385_2875);
        assert_eq!(free(), 0);
        let mut wrong = image(&path, 0);
        wrong[3 * CLUSTER + 6] = 0x80;
        fs::write(&path, &wrong).unwrap();
        assert_eq!(free(), 0, "a broken image stays as it is");
    }
}
