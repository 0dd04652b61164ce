//! What others than processors do to guest RAM: the processors hear of it, and so do the logs of the run.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, fallocate};
use softmetal_cpu::{Ram, Rights};
use softmetal_devices::dma::DmaSink;
use softmetal_devices::virtio::balloon::Reclaim;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::dirty::DirtyPages;
use crate::journal::Tape;
use crate::statistics::DmaCount;

/// The way into guest RAM for devices, chips, and logs that are followed.
#[derive(Clone)]
pub(crate) struct RamPort {
    pub(crate) ram: Arc<Ram>,
    tapes: Vec<Arc<Tape>>,
    count: Arc<DmaCount>,
    map: Arc<OnceLock<Arc<dyn RamMap>>>,
    dirty: Arc<DirtyPages>,
}

/// Who else has a map of guest RAM, besides the processors.
pub(crate) trait RamMap: Send + Sync {
    /// The rights of pages in this range have changed.
    fn rights_changed(&self, range: Range<u64>);
}

impl RamPort {
    pub(crate) fn new(ram: Arc<Ram>, tapes: Vec<Arc<Tape>>) -> Self {
        Self { ram, tapes, count: Arc::default(), map: Arc::default(), dirty: Arc::default() }
    }

    /// Tells of changing rights from here on. May be called once.
    pub(crate) fn tell_map(&self, map: Arc<dyn RamMap>) {
        let already = self.map.set(map).is_err();
        assert!(!already, "one other has a map of RAM");
    }

    /// The pages that are written.
    pub(crate) fn dirty(&self) -> &Arc<DirtyPages> {
        &self.dirty
    }

    /// What was written so far.
    pub(crate) fn count(&self) -> &DmaCount {
        &self.count
    }

    /// Writes bytes, as a device does. Addresses that are not RAM are passed over.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        if self.ram.memory().write_slice(bytes, GuestAddress(at)).is_ok() {
            self.written(at..at.saturating_add(bytes.len() as u64));
        }
    }

    /// Changes which accesses reach pages.
    pub(crate) fn set_rights(&self, range: Range<u64>, rights: Rights) {
        self.ram.set_rights(range.clone(), rights);
        if let Some(map) = self.map.get() {
            map.rights_changed(range.clone());
        }
        self.tapes.iter().for_each(|tape| tape.rights(range.clone(), rights));
    }
}

/// Processors that have decoded code there drop it.
impl DmaSink for RamPort {
    fn written(&self, range: Range<u64>) {
        let len = range.end.saturating_sub(range.start);
        self.count.note(len);
        self.ram.written(range.start, len);
        self.dirty.note(range.clone());
        self.tapes.iter().for_each(|tape| tape.written(self.ram.memory(), range.start, len));
    }
}

/// The host gets its memory back: holes are punched into the file behind RAM. The pages stay mapped, and are zeros when
/// they are touched again.
impl Reclaim for RamPort {
    fn discard(&self, range: Range<u64>) {
        // A log would have to hold the zeros.
        if !self.tapes.is_empty() {
            return;
        }
        let Some(region) = self.ram.memory().find_region(GuestAddress(range.start)) else { return };
        let Some(file) = region.file_offset() else { return };
        let begin = range.start - region.start_addr().0;
        let length = region.len().saturating_sub(begin).min(range.end.saturating_sub(range.start));
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(file.file(), how, file.start() + begin, length) {
            log::debug!(
                "the host takes {length:#x} bytes of guest memory at {:#x} not back: {error}",
                range.start
            );
        }
        self.dirty.note(range.start..range.start.saturating_add(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_ram;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_discarded_is_the_hosts_again() {
        let ram = Arc::new(Ram::new(guest_ram::allocate(3 << 30 | 64 << 20).unwrap()));
        let port = RamPort::new(Arc::clone(&ram), Vec::new());
        let high = 4 << 30;
        for base in [16 << 20, high] {
            let region = ram.memory().find_region(GuestAddress(base)).unwrap();
            let used = || region.file_offset().unwrap().file().metadata().unwrap().blocks() * 512;
            let before = used();
            port.write(base, &vec![7; 8 << 20]);
            assert!(used() >= before + (8 << 20));
            port.discard(base + 0x1000..base + (8 << 20) - 0x1000);
            // Pages at both ends stay, whole ones where the host's are larger.
            assert!(used() <= before + (256 << 10));
            let byte = |at| ram.memory().read_obj::<u8>(GuestAddress(at)).unwrap();
            assert_eq!([byte(base + 0xfff), byte(base + 0x1000), byte(base + (8 << 20) - 1)], [7, 0, 7]);
        }
        port.discard(3 << 30..high);
        port.discard(u64::MAX - 1..u64::MAX);

        let recorded = RamPort::new(Arc::clone(&ram), vec![Tape::in_memory()]);
        recorded.write(0x5000, &[9]);
        recorded.discard(0x5000..0x6000);
        assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(0x5000)).unwrap(), 9, "a log cannot hold it");
    }
}
