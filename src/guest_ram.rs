//! The host memory behind guest RAM: one shared memory file. An offset in it is the guest-physical address; the PCI hole is a
//! hole in the file too.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::memory_map;

/// Memory for a machine with `bytes` of RAM, all zeros. The host gives pages as the guest touches them.
pub(crate) fn allocate(bytes: u64) -> Result<GuestMemoryMmap> {
    let mebibytes = bytes >> 20;
    let failed =
        || format!("the host does not give {mebibytes} MiB for guest memory; try a smaller --memory");
    let file = rustix::fs::memfd_create("guest RAM", MemfdFlags::CLOEXEC).with_context(failed)?;
    let file = Arc::new(File::from(file));
    let layout = memory_map::layout();
    let (low, high) = (layout.low_ram(bytes), layout.high_ram(bytes));
    file.set_len(low.end.max(high.end)).with_context(failed)?;
    let mut regions = Vec::new();
    for range in [low, high].into_iter().filter(|range| !range.is_empty()) {
        let size = range.end - range.start;
        let backing = FileOffset::from_arc(Arc::clone(&file), range.start);
        regions.push((GuestAddress(range.start), usize::try_from(size).with_context(failed)?, Some(backing)));
    }
    GuestMemoryMmap::from_ranges_with_files(regions).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn memory_lies_on_both_sides_of_the_hole() {
        let ram = allocate(4 << 30).unwrap();
        ram.write_obj(0x1234_u32, GuestAddress(0xbfff_fffc)).unwrap();
        ram.write_obj(0x5678_u32, GuestAddress(0x1_3fff_fffc)).unwrap();
        assert_eq!(ram.read_obj::<u32>(GuestAddress(0xbfff_fffc)).unwrap(), 0x1234);
        assert_eq!(ram.read_obj::<u32>(GuestAddress(0x1_0000_0000)).unwrap(), 0);
        assert!(ram.find_region(GuestAddress(0xc000_0000)).is_none());
        assert!(ram.find_region(GuestAddress(0x1_4000_0000)).is_none());
    }
}
