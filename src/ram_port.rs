//! What others than processors do to guest RAM: the processors hear of it, and so do the logs of the run.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use softmetal_cpu::{Ram, Rights};
use softmetal_devices::dma::DmaSink;
use vm_memory::{Bytes, GuestAddress};

use crate::journal::Tape;
use crate::statistics::DmaCount;

/// The way into guest RAM for devices, chips, and logs that are followed.
#[derive(Clone)]
pub(crate) struct RamPort {
    pub(crate) ram: Arc<Ram>,
    tapes: Vec<Arc<Tape>>,
    count: Arc<DmaCount>,
    map: Arc<OnceLock<Arc<dyn RamMap>>>,
}

/// Who else has a map of guest RAM, besides the processors.
pub(crate) trait RamMap: Send + Sync {
    /// The rights of pages in this range have changed.
    fn rights_changed(&self, range: Range<u64>);
}

impl RamPort {
    pub(crate) fn new(ram: Arc<Ram>, tapes: Vec<Arc<Tape>>) -> Self {
        Self { ram, tapes, count: Arc::default(), map: Arc::default() }
    }

    /// Tells of changing rights from here on. May be called once.
    pub(crate) fn tell_map(&self, map: Arc<dyn RamMap>) {
        let already = self.map.set(map).is_err();
        assert!(!already, "one other has a map of RAM");
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
        self.tapes.iter().for_each(|tape| tape.written(self.ram.memory(), range.start, len));
    }
}
