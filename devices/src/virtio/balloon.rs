//! The memory balloon: the guest gives memory back to the host, because it is asked to or because it does not use it, and
//! tells how it is doing. Virtio 1.2 "Memory Balloon Device".
//!
//! What the guest gives is discarded at once, and reads as zeros when the guest takes it back, without asking.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{BrokenQueue, Queue, VirtioDevice, VirtioPci, read_bytes};
use crate::dma::Dma;

/// VIRTIO_BALLOON_F_STATS_VQ: the guest has statistics.
const F_STATS_VQ: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the guest may take memory back before it has to end programs.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_PAGE_REPORTING: the guest tells of memory that it does not use.
const F_PAGE_REPORTING: u64 = 1 << 5;

/// A page of the balloon, on every guest and host.
pub const PAGE: u64 = 4096;
/// The most bytes of page numbers in a chain: 64 MiB of guest memory. Linux's have a kilobyte.
const MAX_NUMBERS: u64 = 64 << 10;

/// Where guest memory goes that the guest does not need.
pub trait Reclaim: Send {
    /// The content of `range`, RAM that devices can reach, is of no use to anybody: it may be lost, and read as zeros. Who
    /// knows what was there, such as code that was translated, forgets it before this returns.
    fn discard(&self, range: Range<u64>);
}

/// What the guest says of its memory, in bytes or as counts since it started. Guests leave out what they do not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// Bytes read from swap.
    pub swapped_in: Option<u64>,
    /// Bytes written to swap.
    pub swapped_out: Option<u64>,
    /// Page faults that read from a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes that nothing is in.
    pub free: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// Bytes that programs could get without swapping.
    pub available: Option<u64>,
    /// Bytes of files that are kept in memory.
    pub caches: Option<u64>,
}

impl MemoryStatistics {
    /// Bytes of a statistic: `struct virtio_balloon_stat`.
    const ENTRY: usize = 10;
    /// The most of them that are looked at. Sixteen kinds are known at most.
    const ENTRIES: usize = 32;

    fn parse(bytes: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in bytes.chunks_exact(Self::ENTRY) {
            let (tag, value) = entry.split_at(2);
            let tag = u16::from_le_bytes(tag.try_into().unwrap_or_default());
            let value = u64::from_le_bytes(value.try_into().unwrap_or_default());
            let place = match tag {
                0 => &mut statistics.swapped_in,
                1 => &mut statistics.swapped_out,
                2 => &mut statistics.major_faults,
                3 => &mut statistics.minor_faults,
                4 => &mut statistics.free,
                5 => &mut statistics.total,
                6 => &mut statistics.available,
                7 => &mut statistics.caches,
                _ => continue,
            };
            *place = Some(value);
        }
        statistics
    }
}

/// What the balloon has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonReport {
    /// Bytes that are in the balloon, as the driver says.
    pub inflated: u64,
    /// Bytes that the balloon has got since power-on.
    pub given: u64,
    /// Bytes that were reported as not used since power-on.
    pub reported: u64,
    /// What the guest has said last.
    pub statistics: Option<MemoryStatistics>,
}

/// What a snapshot keeps of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    features: u64,
    target_pages: u32,
    actual_pages: u32,
    /// The buffer in which the guest sends statistics, while it waits for being asked.
    waiting: Option<u16>,
    asked: bool,
    report: BalloonReport,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// The balloon.
pub struct Balloon {
    memory: Box<dyn Reclaim>,
    state: BalloonState,
}

impl Balloon {
    /// A balloon that is empty and shall stay so. What it gets goes to `memory`.
    pub fn new(memory: impl Reclaim + 'static) -> Self {
        Self { memory: Box::new(memory), state: BalloonState::default() }
    }

    /// How many bytes the balloon shall hold.
    pub fn target(&self) -> u64 {
        u64::from(self.state.target_pages) * PAGE
    }

    /// What it has done.
    pub fn report(&self) -> BalloonReport {
        BalloonReport { inflated: u64::from(self.state.actual_pages) * PAGE, ..self.state.report }
    }

    /// Queues for which no feature was agreed on do not exist, and those behind them move up.
    fn purpose(&self, queue: usize) -> Option<Purpose> {
        let with = |feature, purpose| (self.state.features & feature != 0).then_some(purpose);
        let further = [with(F_STATS_VQ, Purpose::Statistics), with(F_PAGE_REPORTING, Purpose::Reporting)];
        let mut all = [Purpose::Inflate, Purpose::Deflate].into_iter().chain(further.into_iter().flatten());
        all.nth(queue)
    }

    fn statistics_queue(&self) -> Option<usize> {
        (self.state.features & F_STATS_VQ != 0).then_some(2)
    }

    /// Takes pages by their numbers. Neighbours go together.
    fn inflate(&mut self, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        let mut too_long = Ok(());
        queue.serve(dma, |chain| {
            match chain.readable_bytes(MAX_NUMBERS) {
                Err(broken) => too_long = Err(broken),
                Ok(bytes) => {
                    let mut numbers = vec![0; bytes as usize];
                    chain.read(0, &mut numbers, dma)?;
                    for range in runs(&numbers) {
                        self.state.report.given += discard(&*self.memory, range, dma);
                    }
                }
            }
            Ok(0)
        })?;
        too_long
    }

    /// Takes what is reported as not used.
    fn take_reported(&mut self, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        queue.serve(dma, |chain| {
            for part in chain.writable() {
                let range = part.address..part.address.saturating_add(part.length.into());
                self.state.report.reported += discard(&*self.memory, range, dma);
            }
            Ok(0)
        })
    }

    /// Reads statistics, keeps the buffer, and gives it back when new ones are wanted.
    fn take_statistics(&mut self, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        // One buffer at a time is what a driver has; one that adds others gets them back at once.
        for _ in 0..=queue.size() {
            if let Some(head) = self.state.waiting.filter(|_| self.state.asked) {
                (self.state.waiting, self.state.asked) = (None, false);
                queue.push_used(head, 0, dma)?;
            }
            let Some(chain) = queue.pop(dma)? else { break };
            let mut bytes = [0; MemoryStatistics::ENTRY * MemoryStatistics::ENTRIES];
            let count = chain.read(0, &mut bytes, dma)?;
            // The first buffer after a start has nothing in it yet.
            let statistics = MemoryStatistics::parse(&bytes[..count]);
            if statistics != MemoryStatistics::default() {
                self.state.report.statistics = Some(statistics);
            }
            if let Some(older) = self.state.waiting.replace(chain.head) {
                queue.push_used(older, 0, dma)?;
            }
        }
        queue.ask_for_notification(dma).map(drop)
    }
}

/// Discards what of `range` is RAM; the answer is how many bytes.
fn discard(memory: &dyn Reclaim, range: Range<u64>, dma: &Dma) -> u64 {
    let length = range.end.saturating_sub(range.start);
    if length == 0 || !usize::try_from(length).is_ok_and(|length| dma.is_ram(range.start, length)) {
        return 0;
    }
    memory.discard(range);
    length
}

/// The addresses of pages whose numbers these are, neighbours together, upwards or downwards.
fn runs(numbers: &[u8]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers.chunks_exact(4) {
        let start = u64::from(u32::from_le_bytes(number.try_into().unwrap_or_default())) * PAGE;
        match runs.last_mut() {
            Some(run) if run.end == start => run.end += PAGE,
            Some(run) if start + PAGE == run.start => run.start = start,
            _ => runs.push(start..start + PAGE),
        }
    }
    runs
}

impl VirtioPci<Balloon> {
    /// The balloon shall hold so many bytes. What the guest makes of it is seen in its [report](Balloon::report).
    pub fn set_target(&mut self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        if self.device().state.target_pages != pages {
            self.device_mut().state.target_pages = pages;
            self.config_changed();
        }
    }

    /// Asks the guest for new statistics. They are in the [report](Balloon::report) when it has answered.
    pub fn ask_for_statistics(&mut self) {
        if let Some(queue) = self.device().statistics_queue() {
            self.device_mut().state.asked = true;
            self.run_queue(queue);
        }
    }
}

impl VirtioDevice for Balloon {
    type State = BalloonState;

    const DEVICE_TYPE: u16 = 5;
    /// Unclassified, as the PCI code-and-ID list has no class for it.
    const PCI_CLASS: [u8; 3] = [0x00, 0xff, 0x00];

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; 4]
    }

    fn name(&self) -> &str {
        "virtio-balloon"
    }

    fn features(&self) -> u64 {
        F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut bytes = self.state.target_pages.to_le_bytes().to_vec();
        bytes.extend(self.state.actual_pages.to_le_bytes());
        read_bytes(&bytes, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        const ACTUAL: u64 = 4;
        if let (ACTUAL, Ok(bytes)) = (offset, data.try_into()) {
            self.state.actual_pages = u32::from_le_bytes(bytes);
        }
    }

    fn activate(&mut self, features: u64) {
        self.state.features = features;
    }

    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        match self.purpose(index) {
            Some(Purpose::Inflate) => self.inflate(queue, dma),
            // The pages are there when they are touched.
            Some(Purpose::Deflate) => queue.serve(dma, |_| Ok(0)),
            Some(Purpose::Statistics) => self.take_statistics(queue, dma),
            Some(Purpose::Reporting) => self.take_reported(queue, dma),
            None => Ok(()),
        }
    }

    fn reset_queue(&mut self, index: usize) {
        if self.purpose(index) == Some(Purpose::Statistics) {
            (self.state.waiting, self.state.asked) = (None, false);
        }
    }

    /// The target is the user's, who keeps it; the report goes on.
    fn reset(&mut self) {
        let BalloonState { target_pages, report, .. } = self.state;
        self.state = BalloonState { target_pages, report, ..BalloonState::default() };
    }

    fn save(&self) -> BalloonState {
        self.state.clone()
    }

    fn load(&mut self, state: BalloonState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests;
