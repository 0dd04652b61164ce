//! `pci-testdev`: a PCI function that counts accesses, to measure and to test them. QEMU's `docs/specs/pci-testdev`.

use serde::{Deserialize, Serialize};

use crate::bus::{put_value, value_of};
use crate::pci::config::ConfigState;
use crate::pci::{BarKind, ConfigSpace, Identity, PciDevice};

const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0005,
    revision: 0,
    class: [0xff, 0x00, 0x00],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A range with tests of its own.
#[derive(Clone, Copy, Debug)]
struct Region {
    kind: BarKind,
    size: u64,
    /// Where the accesses of the first test go; those of the others follow.
    first_target: u64,
    prefix: &'static str,
}

/// By number of the base address register.
const REGIONS: [Region; 2] = [
    Region { kind: BarKind::Memory32, size: 4096, first_target: 2048, prefix: "mmio" },
    Region { kind: BarKind::Io, size: 256, first_target: 128, prefix: "portio" },
];

/// A test that a guest can start.
#[derive(Clone, Copy, Debug)]
struct Test {
    name: &'static str,
    /// Whether only writes of [`DATA`] count.
    exact: bool,
}

/// By number. The names are those of QEMU, where they differ in the way that KVM takes.
const TESTS: [Test; 3] = [
    Test { name: "no-eventfd", exact: true },
    Test { name: "wildcard-eventfd", exact: false },
    Test { name: "datamatch-eventfd", exact: true },
];

/// What tests write.
const DATA: u32 = 0xfa;
/// The width of what tests write.
const WIDTH: u8 = 1;
/// The test register, at the start of each range.
const TEST: u64 = 0;

/// The test that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    bar: usize,
    test: usize,
    count: u32,
}

/// What the device remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciTestState {
    config: ConfigState,
    running: Option<Running>,
}

/// The test device.
pub struct PciTest {
    config: ConfigSpace,
    running: Option<Running>,
}

impl Default for PciTest {
    fn default() -> Self {
        let config = ConfigSpace::new(IDENTITY);
        let config = REGIONS
            .iter()
            .enumerate()
            .fold(config, |config, (index, region)| config.with_bar(index, region.kind, region.size));
        Self { config, running: None }
    }
}

impl PciTest {
    /// The state, to be saved.
    pub fn save(&self) -> PciTestState {
        PciTestState { config: self.config.save(), running: self.running }
    }

    /// Takes over a saved state.
    pub fn load(&mut self, state: &PciTestState) {
        self.config.load(&state.config);
        self.running = state.running.filter(|run| run.bar < REGIONS.len() && run.test < TESTS.len());
    }

    /// The header that describes the running test, as the guest sees it.
    fn header(&self) -> Option<Vec<u8>> {
        let Running { bar, test, count } = self.running?;
        let (region, kind) = (REGIONS.get(bar)?, TESTS.get(test)?);
        let mut header = vec![test as u8, WIDTH, 0, 0];
        for word in [target(region, test) as u32, DATA, count] {
            header.extend(word.to_le_bytes());
        }
        header.extend(format!("{}-{}\0", region.prefix, kind.name).as_bytes());
        Some(header)
    }
}

/// Where the accesses of a test go.
fn target(region: &Region, test: usize) -> u64 {
    region.first_target + test as u64 * u64::from(WIDTH)
}

impl PciDevice for PciTest {
    fn name(&self) -> &str {
        "PCI test device"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_bar(&mut self, _index: usize, offset: u64, data: &mut [u8]) {
        let header = self.header().unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|at| header.get(at..)).unwrap_or_default();
        let mut value = [0; 8];
        for (byte, source) in value.iter_mut().zip(rest) {
            *byte = *source;
        }
        put_value(data, u64::from_le_bytes(value));
    }

    fn write_bar(&mut self, index: usize, offset: u64, data: &[u8]) {
        if offset == TEST {
            let test = data.first().map(|&number| usize::from(number));
            self.running =
                test.filter(|test| *test < TESTS.len()).map(|test| Running { bar: index, test, count: 0 });
            return;
        }
        let Some(running) = self.running.as_mut().filter(|running| running.bar == index) else { return };
        let (Some(region), Some(test)) = (REGIONS.get(index), TESTS.get(running.test)) else { return };
        let as_asked = data.len() == usize::from(WIDTH) && value_of(data) == u64::from(DATA);
        if offset == target(region, running.test) && (as_asked || !test.exact) {
            running.count = running.count.wrapping_add(1);
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl PciTest {
        fn word(&mut self, bar: usize, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.read_bar(bar, offset, &mut data);
            u32::from_le_bytes(data)
        }
    }

    #[test]
    fn guests_find_the_device_and_its_ranges() {
        let device = PciTest::default();
        assert_eq!(device.config().read_u32(0), 0x0005_1b36);
        let sizes: Vec<_> = device.config().bars().map(|(index, bar)| (index, bar.size)).collect();
        assert_eq!(sizes, [(0, 4096), (1, 256)]);
    }

    #[test]
    fn a_guest_scans_runs_and_counts() {
        let mut device = PciTest::default();
        assert_eq!(device.word(0, 0), 0, "no test runs");
        for (bar, prefix) in [(0, "mmio"), (1, "portio")] {
            for (number, name) in [(0, "no-eventfd"), (1, "wildcard-eventfd"), (2, "datamatch-eventfd")] {
                device.write_bar(bar, 0, &[number]);
                assert_eq!(device.word(bar, 0), 0x100 | u32::from(number));
                let mut text = vec![0; prefix.len() + name.len() + 2];
                for (at, byte) in (16..).zip(text.chunks_mut(1)) {
                    device.read_bar(bar, at, byte);
                }
                assert_eq!(text, format!("{prefix}-{name}\0").as_bytes());
                let (offset, data) = (u64::from(device.word(bar, 4)), device.word(bar, 8));
                assert_eq!(data, 0xfa);
                for _ in 0..3 {
                    device.write_bar(bar, offset, &[data as u8]);
                }
                device.write_bar(1 - bar, offset, &[data as u8]);
                device.write_bar(bar, offset + 8, &[data as u8]);
                device.write_bar(bar, offset, &[0]);
                assert_eq!(device.word(bar, 12), if number == 1 { 4 } else { 3 }, "{prefix}-{name}");
            }
            device.write_bar(bar, 0, &[3]);
            assert_eq!(device.word(bar, 0), 0, "there is no such test");
        }
    }

    #[test]
    fn save_and_load_while_counting() {
        let mut device = PciTest::default();
        device.write_bar(0, 0, &[2]);
        device.write_bar(0, 2050, &[0xfa]);
        let saved = rmp_serde::to_vec_named(&device.save()).unwrap();
        let mut other = PciTest::default();
        other.load(&rmp_serde::from_slice(&saved).unwrap());
        other.write_bar(0, 2050, &[0xfa]);
        assert_eq!(other.word(0, 12), 2);
        let mut state = other.save();
        state.running = Some(Running { bar: 7, test: 9, count: 1 });
        other.load(&state);
        assert_eq!(other.word(0, 12), 0);
        device.reset();
        assert_eq!(device.word(0, 0), 0);
    }
}
