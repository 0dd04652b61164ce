//! What a machine is given at its start that is not in its description: time, date, identity, random numbers. From the host,
//! the same each time, or from a log.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::{Result, bail};
use softmetal_cpu::Attention;
use softmetal_devices::clock::Clock;

use crate::accel;
use crate::config::{ClockSource, Config};
use crate::journal::{Journal, Start};

/// Fills a buffer with random bytes; false where there are none.
pub(crate) type Random = Box<dyn FnMut(&mut [u8]) -> bool + Send>;

/// See the module.
pub(crate) struct Origin {
    pub(crate) clock: Arc<Clock>,
    /// What the RTC shows at the start.
    pub(crate) unix_seconds: i64,
    /// The SMBIOS identity.
    pub(crate) uuid: [u8; 16],
    /// What a kernel may seed its random numbers with.
    pub(crate) rng_seed: [u8; 32],
    /// Random bytes for devices.
    pub(crate) random: Random,
    /// Random numbers for the processors' RDRAND and RDSEED.
    pub(crate) processor_random: Random,
    /// Where the processor is plugged in whose instructions are the time.
    pub(crate) counter: Option<Arc<OnceLock<Arc<Attention>>>>,
    /// How the machine of the log stood at its start.
    pub(crate) start: Option<Start>,
}

impl Origin {
    /// What this machine begins with.
    pub(crate) fn new(config: &Config, journal: &Journal) -> Result<Self> {
        match (journal, config.clock) {
            (Journal::Replay(log), _) => Ok(Self::of_log(log.start()?)),
            (_, ClockSource::Host) => Self::of_host(config),
            (_, ClockSource::Instructions) => Ok(Self::the_same_each_time()),
        }
    }

    fn of_host(config: &Config) -> Result<Self> {
        let (mut uuid, mut rng_seed) = ([0; 16], [0; 32]);
        if !host_random(&mut uuid) || !host_random(&mut rng_seed) {
            bail!("the host gives no random numbers");
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_seconds = since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0);
        Ok(Self {
            clock: match accel::choice::tsc(config) {
                Some(tsc) => Clock::host_with_tsc(tsc.hz),
                None => Clock::host(),
            },
            unix_seconds,
            uuid,
            rng_seed,
            random: Box::new(host_random),
            processor_random: Box::new(host_random),
            counter: None,
            start: None,
        })
    }

    /// An instruction is a nanosecond, and nothing comes from the host.
    fn the_same_each_time() -> Self {
        /// 1 January 2026.
        const DATE: i64 = 1_767_225_600;
        const TSC_HZ: u64 = 1_000_000_000;
        let counter: Arc<OnceLock<Arc<Attention>>> = Arc::default();
        let processor = Arc::clone(&counter);
        let clock = Clock::counted(TSC_HZ, move || processor.get().map_or(0, |cpu| cpu.instructions()));
        let mut numbers = Numbers(1);
        let (mut uuid, mut rng_seed) = ([0; 16], [0; 32]);
        numbers.fill(&mut uuid);
        numbers.fill(&mut rng_seed);
        Self {
            clock,
            unix_seconds: DATE,
            uuid,
            rng_seed,
            random: numbers.endless(),
            processor_random: Numbers(2).endless(),
            counter: Some(counter),
            start: None,
        }
    }

    fn of_log(start: Start) -> Self {
        Self {
            clock: Clock::manual(start.tsc_hz),
            unix_seconds: 0,
            uuid: start.uuid,
            rng_seed: start.rng_seed,
            random: Box::new(|_| false),
            processor_random: Box::new(|_| false),
            counter: None,
            start: Some(start),
        }
    }
}

/// Numbers that look random and are the same in each run: the SplitMix64 sequence.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    fn endless(mut self) -> Random {
        Box::new(move |bytes| {
            self.fill(bytes);
            true
        })
    }
}

/// Random bytes from the host.
fn host_random(bytes: &mut [u8]) -> bool {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::warn!("the host gives no random numbers: {error}");
                return false;
            }
        }
    }
    true
}
