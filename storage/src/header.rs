//! The header of a qcow2 image, as the qcow2 specification ("QCOW2 Image Format", docs/interop/qcow2.txt of QEMU) has it.

use std::io::{self, IoSliceMut};

use crate::medium::Medium;

/// The first bytes of every image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Tables of the first level and of counts are no longer; QEMU has the same limits.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Bytes that headers of version 3 have at least.
const LENGTH: usize = 104;

/// An image is known to be inconsistent.
pub(crate) const CORRUPT: u64 = 1 << 1;
/// Data lies in another file.
pub(crate) const EXTERNAL_DATA: u64 = 1 << 2;
/// Entries of the second level are twice as long.
pub(crate) const EXTENDED_L2: u64 = 1 << 4;

/// What stands in the header, as far as it is of use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    pub(crate) encryption: u32,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) reftable_offset: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) incompatible: u64,
    /// Counts of references have two to the power of this bits.
    pub(crate) refcount_order: u32,
}

impl Header {
    /// Reads a header from the first bytes of an image.
    pub(crate) fn parse(bytes: &[u8; LENGTH]) -> Result<Self, &'static str> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        if bytes[..4] != MAGIC {
            return Err("its first bytes are not those of one");
        }
        let version = word(4);
        let new = match version {
            2 => false,
            3 => true,
            _ => return Err("its version is neither 2 nor 3"),
        };
        let header = Self {
            version,
            cluster_bits: word(20),
            size: long(24),
            encryption: word(32),
            l1_entries: word(36),
            l1_offset: long(40),
            reftable_offset: long(48),
            reftable_clusters: word(56),
            snapshots: word(60),
            incompatible: if new { long(72) } else { 0 },
            refcount_order: if new { word(96) } else { 4 },
        };
        match () {
            () if !(9..=21).contains(&header.cluster_bits) => {
                Err("its clusters have no size that is allowed")
            }
            () if u64::from(header.l1_entries) * 8 > MAX_L1_BYTES => {
                Err("its table of the first level is too long")
            }
            () if header.reftable_bytes() > MAX_REFTABLE_BYTES => Err("its table of counts is too long"),
            () if header.reftable_clusters == 0 => Err("it has no counts of references"),
            () if header.refcount_order > 6 => Err("its counts of references have no width that is allowed"),
            () => Ok(header),
        }
    }

    /// Reads a header where it stands.
    pub(crate) fn read(medium: &dyn Medium) -> io::Result<Self> {
        // As many bytes as the strictest medium gives.
        let mut bytes = vec![0; 4096];
        medium.read(0, &mut [IoSliceMut::new(&mut bytes)])?;
        let wrong = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let (first, _) = bytes.as_chunks::<LENGTH>();
        Self::parse(&first[0]).map_err(wrong)
    }

    /// Whether the image has parts that nothing here knows of: extensions of the header other than names.
    pub(crate) fn has_extensions(medium: &dyn Medium) -> io::Result<bool> {
        /// The format of the image behind it; names of features.
        const NAMES: [u32; 2] = [0xe279_2aca, 0x6803_f857];
        const VERSION_2_LENGTH: usize = 72;
        let mut bytes = vec![0; 4096];
        medium.read(0, &mut [IoSliceMut::new(&mut bytes)])?;
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        let mut at = if word(4) == 2 { VERSION_2_LENGTH } else { word(100) as usize };
        while at < bytes.len() {
            match word(at) {
                0 => return Ok(false),
                name if NAMES.contains(&name) => {}
                _ => return Ok(true),
            }
            at = at.saturating_add(8 + (word(at + 4) as usize).next_multiple_of(8));
        }
        // More than is looked at here.
        Ok(true)
    }

    pub(crate) fn reftable_bytes(&self) -> u64 {
        u64::from(self.reftable_clusters) << self.cluster_bits
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
}
