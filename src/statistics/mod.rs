//! What a machine has done and where its time went, from power-on to its end: for `-v` and `--stats`.

mod json;
mod sampler;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use softmetal_cpu::{AddressSpace, Counters, Cpu, Doing, NotInline, Profile, Statistics};
use softmetal_devices::bus::Traffic;
use softmetal_devices::virtio::balloon::BalloonReport;

pub(crate) use sampler::Sampler;
pub(crate) use text::balloon_in_words;

use crate::accel::Counts;

/// What is to be found out by sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Nothing: no thread runs for it.
    Nothing,
    /// Where time goes.
    Time,
    /// And in which code of the guest.
    Code,
}

/// How long a CPU's thread was about something, by [`Doing`].
pub type Times = [Duration; Doing::ALL.len()];

/// What a CPU has done.
#[derive(Clone, Debug, Default)]
pub struct CpuReport {
    /// Its counters.
    pub statistics: Statistics,
    /// Where its time went; all zero where nobody wanted to know.
    pub times: Times,
    /// User code, the most expensive address space first.
    pub spaces: Vec<AddressSpace>,
    /// What its translator has done, if it has one.
    pub translator: Option<Counters>,
    /// What that could not do, what ran most first.
    pub not_inline: Vec<NotInline>,
    /// What it has left KVM for, by name, if it has been there.
    pub kvm: Option<Vec<(&'static str, u64)>>,
}

impl CpuReport {
    /// Both together. Address spaces of one machine have their page tables at different places, or are the same one.
    fn add(&mut self, other: &CpuReport) {
        self.statistics += &other.statistics;
        self.times.iter_mut().zip(other.times).for_each(|(own, other)| *own += other);
        if let Some(counters) = other.translator {
            *self.translator.get_or_insert_default() += counters;
        }
        if let Some(others) = &other.kvm {
            match &mut self.kvm {
                Some(own) => own.iter_mut().zip(others).for_each(|(own, other)| own.1 += other.1),
                None => self.kvm = Some(others.clone()),
            }
        }
        for other in &other.not_inline {
            match self.not_inline.iter_mut().find(|own| own.name == other.name) {
                Some(own) => {
                    own.interpreted += other.interpreted;
                    own.called += other.called;
                }
                None => self.not_inline.push(other.clone()),
            }
        }
        self.not_inline.sort_by_key(|left| std::cmp::Reverse(left.interpreted + left.called));
        let mut by_root: BTreeMap<Option<u64>, AddressSpace> = BTreeMap::new();
        for space in self.spaces.iter().chain(&other.spaces) {
            add_space(by_root.entry(space.root).or_default(), space, space.root);
        }
        self.spaces = by_root.into_values().collect();
        self.spaces.sort_by_key(|space| std::cmp::Reverse(space.instructions));
        // A guest may reset its machine as often as it likes.
        if let Some(rest) = self.spaces.get(SPACES..).filter(|rest| !rest.is_empty()) {
            let mut others = AddressSpace::default();
            rest.iter().for_each(|space| add_space(&mut others, space, None));
            self.spaces.truncate(SPACES);
            self.spaces.push(others);
        }
    }
}

/// Address spaces that are kept apart.
const SPACES: usize = 4096;

fn add_space(sum: &mut AddressSpace, space: &AddressSpace, root: Option<u64>) {
    sum.root = root;
    sum.instructions += space.instructions;
    sum.entries += space.entries;
    sum.traps.iter_mut().zip(space.traps).for_each(|(own, other)| *own += other);
}

/// What devices have written into RAM by themselves.
#[derive(Debug, Default)]
pub(crate) struct DmaCount {
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl DmaCount {
    pub(crate) fn note(&self, bytes: u64) {
        self.writes.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// What a machine has done, all its power-ons together.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How long it ran; zero where nobody wanted to know.
    pub duration: Duration,
    /// How often it was switched on: once, and for each reset.
    pub power_ons: u64,
    /// Its CPUs.
    pub cpus: Vec<CpuReport>,
    /// Accesses to devices.
    pub devices: Vec<Traffic>,
    /// Writes of devices into RAM.
    pub dma_writes: u64,
    /// Bytes that they wrote.
    pub dma_bytes: u64,
    /// What the balloon has done since the last power-on, if there is one.
    pub balloon: Option<BalloonReport>,
    /// Guest code that samples have found.
    pub profile: Profile,
}

impl Report {
    /// Adds what a CPU has done since it was made.
    pub(crate) fn add_cpu(&mut self, index: usize, cpu: &Cpu, times: Times, kvm: Option<Counts>) {
        let (translator, not_inline) =
            cpu.translations().map_or((None, Vec::new()), |(counters, left)| (Some(counters), left));
        let (statistics, spaces) = (cpu.statistics(), cpu.address_spaces());
        let kvm = kvm.map(|counts| counts.named().to_vec());
        let report = CpuReport { statistics, times, spaces, translator, not_inline, kvm };
        if self.cpus.len() <= index {
            self.cpus.resize_with(index + 1, CpuReport::default);
        }
        self.cpus[index].add(&report);
        self.profile += cpu.profile();
    }

    /// Adds accesses to devices.
    pub(crate) fn add_traffic(&mut self, traffic: Vec<Traffic>) {
        for traffic in traffic {
            match self.devices.iter_mut().find(|known| known.label == traffic.label) {
                Some(known) => {
                    known.reads += traffic.reads;
                    known.writes += traffic.writes;
                }
                None => self.devices.push(traffic),
            }
        }
    }

    /// Adds what devices wrote into RAM.
    pub(crate) fn add_dma(&mut self, dma: &DmaCount) {
        self.dma_writes += dma.writes.load(Relaxed);
        self.dma_bytes += dma.bytes.load(Relaxed);
    }

    /// All CPUs as one.
    fn sum(&self) -> CpuReport {
        let mut sum = CpuReport::default();
        self.cpus.iter().for_each(|cpu| sum.add(cpu));
        sum
    }
}

/// What a CPU's thread is about, in words.
fn name(doing: Doing) -> &'static str {
    match doing {
        Doing::Interpreter => "interpreter",
        Doing::Translated => "translated code",
        Doing::Translating => "translating",
        Doing::Dispatch => "between blocks",
        Doing::Code => "finding and decoding code",
        Doing::Mmu => "TLB misses and flushes",
        Doing::Delivery => "delivering events",
        Doing::Device => "devices",
        Doing::Others => "waiting for other CPUs",
        Doing::Idle => "halted",
        Doing::Paused => "paused",
        Doing::Hardware => "KVM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_ons_add_up() {
        let space =
            |root, instructions| AddressSpace { root: Some(root), instructions, ..Default::default() };
        let cpu = |instructions, spaces: &[AddressSpace]| CpuReport {
            statistics: Statistics { instructions, ..Statistics::default() },
            times: [Duration::from_secs(1); Doing::ALL.len()],
            spaces: spaces.to_vec(),
            ..CpuReport::default()
        };
        let mut one = cpu(10, &[space(1, 5), space(2, 3)]);
        one.add(&cpu(20, &[space(2, 4), space(3, 1)]));
        assert_eq!(one.statistics.instructions, 30);
        assert_eq!(one.times, [Duration::from_secs(2); Doing::ALL.len()]);
        assert_eq!(one.spaces, [space(2, 7), space(1, 5), space(3, 1)]);

        let many: Vec<_> = (0..2 * SPACES as u64).map(|root| space(root, 1)).collect();
        one.add(&cpu(0, &many));
        assert_eq!(one.spaces.len(), SPACES + 1);
        assert_eq!(one.spaces.iter().map(|space| space.instructions).sum::<u64>(), 13 + 2 * SPACES as u64);
        assert_eq!(one.spaces.last().map(|space| space.root), Some(None));

        let mut report = Report::default();
        let traffic = |label: &str, reads| Traffic { label: label.into(), reads, writes: 1 };
        report.add_traffic(vec![traffic("RTC", 1), traffic("PIT", 2)]);
        report.add_traffic(vec![traffic("PIT", 5)]);
        let devices: Vec<_> = report.devices.iter().map(|t| (t.label.as_str(), t.reads, t.writes)).collect();
        assert_eq!(devices, [("RTC", 1, 1), ("PIT", 7, 2)]);
    }
}
