//! The measurements as they are kept in JSON, and what follows from them: medians, ratios, means.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The sides, as the numbers name them.
pub(crate) const NATIVE: &str = "native";
pub(crate) const QEMU: &str = "qemu";
pub(crate) const SOFTMETAL: &str = "softmetal";
pub(crate) const OTHER: &str = "other";

/// Of the JSON file; another one is not read.
const VERSION: u32 = 4;

/// A row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) name: String,
    /// How often the row's work was done in each round.
    pub(crate) work: u32,
    /// Cores of the host and processors of the guest.
    pub(crate) processors: usize,
    /// By side, one for each round, by the host's clock.
    pub(crate) seconds: BTreeMap<String, Vec<f64>>,
    /// The same of the host's processors: what the process used.
    pub(crate) used_seconds: BTreeMap<String, Vec<f64>>,
    /// By side: why there are no more of them.
    pub(crate) failures: BTreeMap<String, String>,
}

/// Which times count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Basis {
    /// The host's clock.
    #[default]
    Clock,
    /// What the process used of the host's processors.
    Cpu,
}

/// What a guest, or the host, says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The flags of CPUID.
    pub(crate) flags: String,
    pub(crate) clock_source: String,
}

/// All that was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) host: String,
    /// Each side and how it was started.
    pub(crate) sides: Vec<(String, String)>,
    pub(crate) softmetal: String,
    /// What tells one build of softmetal from another, by side.
    pub(crate) builds: BTreeMap<String, String>,
    pub(crate) qemu: String,
    pub(crate) seen: BTreeMap<String, Seen>,
    /// /proc/loadavg at the beginning and the end.
    pub(crate) load: [String; 2],
    /// Time that the host's own hypervisor took, and all time, of all cores together, in ticks.
    pub(crate) stolen: f64,
    pub(crate) ticks: f64,
    /// How much of each row's work was done, in per cent.
    pub(crate) percent: u32,
    pub(crate) rounds: usize,
    /// Of the rows' seconds.
    pub(crate) basis: Basis,
    pub(crate) rows: Vec<Row>,
}

fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
}

/// The mean of ratios: their product's root.
pub(crate) fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

impl Row {
    /// None where the side did not do all it should.
    pub(crate) fn median(&self, side: &str) -> Option<f64> {
        let times = self.seconds.get(side).filter(|_| !self.failures.contains_key(side))?;
        median(times)
    }

    /// One side's time over another's, where both are long enough to be seen.
    pub(crate) fn over(&self, above: &str, below: &str) -> Option<f64> {
        let (above, below) = (self.median(above)?, self.median(below)?);
        (above > 0.0 && below > 0.0).then(|| above / below)
    }

    /// How many times faster than QEMU softmetal is.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.over(QEMU, SOFTMETAL)
    }

    /// The greatest distance between rounds of an emulator, as a part of its median. What runs natively may be over too soon.
    pub(crate) fn spread(&self) -> Option<f64> {
        let emulators = self.seconds.iter().filter(|(side, _)| *side != NATIVE).map(|(_, times)| times);
        let spreads = emulators.filter(|times| times.len() > 1).filter_map(|times| {
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            let most = times.iter().copied().fold(0.0, f64::max);
            Some((most - least) / median(times)?)
        });
        spreads.reduce(f64::max)
    }

    /// How many rounds there are of a side.
    pub(crate) fn rounds(&self, side: &str) -> usize {
        self.seconds.get(side).map_or(0, Vec::len)
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(sides: Vec<(String, String)>, percent: u32, rounds: usize) -> Self {
        Self {
            version: VERSION,
            host: String::new(),
            sides,
            softmetal: String::new(),
            builds: BTreeMap::new(),
            qemu: String::new(),
            seen: BTreeMap::new(),
            load: Default::default(),
            stolen: 0.0,
            ticks: 0.0,
            percent,
            rounds,
            basis: Basis::Clock,
            rows: Vec::new(),
        }
    }

    /// From a file of an earlier run.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let no_numbers = || format!("{} holds no measurements of this program", path.display());
        let value: serde_json::Value = serde_json::from_str(&text).with_context(no_numbers)?;
        ensure!(value["version"] == VERSION, "{} is of another version of this program", path.display());
        serde_json::from_value(value).with_context(no_numbers)
    }

    /// The same with other times in the place of the clock's.
    pub(crate) fn by(&self, basis: Basis) -> Self {
        let mut report = self.clone();
        if basis == Basis::Cpu {
            report.basis = basis;
            report.rows.iter_mut().for_each(|row| row.seconds.clone_from(&row.used_seconds));
        }
        report
    }

    /// Takes over from an earlier run what did not fail there. It may have had fewer rounds.
    pub(crate) fn resume(&mut self, earlier: Self) -> Result<()> {
        let same = |what, ours: &str, theirs: &str| {
            ensure!(ours == theirs, "the run to go on with had {what} {theirs}, not {ours}");
            Ok(())
        };
        same("the host", &self.host, &earlier.host)?;
        same("--percent", &self.percent.to_string(), &earlier.percent.to_string())?;
        same("the sides", &format!("{:?}", self.sides), &format!("{:?}", earlier.sides))?;
        same("the builds of softmetal", &format!("{:?}", self.builds), &format!("{:?}", earlier.builds))?;
        self.rows = earlier.rows.into_iter().filter(|row| row.failures.is_empty()).collect();
        self.load[0] = earlier.load[0].clone();
        self.stolen = earlier.stolen;
        self.ticks = earlier.ticks;
        self.seen = earlier.seen;
        Ok(())
    }

    /// A row by its name.
    pub(crate) fn row(&self, group: &str, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.name == name)
    }

    /// Puts a row in the place of its predecessor, or at the end.
    pub(crate) fn put(&mut self, row: Row) {
        match self.rows.iter_mut().find(|r| r.group == row.group && r.name == row.name) {
            Some(place) => *place = row,
            None => self.rows.push(row),
        }
    }

    /// Whether this side took part.
    pub(crate) fn has(&self, side: &str) -> bool {
        self.sides.iter().any(|(name, _)| name == side)
    }

    /// Two builds of softmetal run side by side.
    pub(crate) fn has_other(&self) -> bool {
        self.has(OTHER)
    }

    pub(crate) fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !groups.contains(&row.group.as_str()) {
                groups.push(&row.group);
            }
        }
        groups
    }

    pub(crate) fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.group == group)
    }

    /// What failed: group, row, side, why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Row, &str, &str)> {
        self.rows
            .iter()
            .flat_map(|row| row.failures.iter().map(move |(side, why)| (row, side.as_str(), why.as_str())))
    }
}
