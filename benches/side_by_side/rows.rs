//! The rows: what work there is, how much of it, and on how many processors.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use softmetal::cli::debian::Flavour;

/// Where a row's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By the static program of benches/guest, under Debian's cloud kernel or on the host.
    Program,
    /// By Debian's programs, in a large RAM disk under the same kernel, or on the host in a folder of the same files.
    Debian,
    /// By a kernel that comes up.
    Boot(Flavour),
    /// By a guest for the bare machine.
    Bare,
}

/// A row, as it can be run.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) name: String,
    /// How often its work is done at 100 %.
    pub(crate) rounds: u32,
    /// Processors of the machine, and as many cores of the host.
    pub(crate) processors: usize,
    pub(crate) place: Place,
}

/// The kernels to boot, by processors: how often.
const BOOTS: &[(&str, Flavour, usize, u32)] = &[
    ("cloud-kernel", Flavour::Cloud, 1, 3),
    ("generic-kernel", Flavour::Generic, 1, 2),
    ("cloud-kernel-2-cpus", Flavour::Cloud, 2, 3),
    ("generic-kernel-2-cpus", Flavour::Generic, 2, 2),
];

/// The rows of benches/guest/bare.
const BARE: &[(&str, u32)] = &[
    ("cr3-load", 140),
    ("invlpg", 680),
    ("page-walk", 820),
    ("interrupt", 550),
    ("exception", 600),
    ("self-ipi", 320),
    ("port-io", 2200),
    ("mmio", 2300),
    ("real-16", 2500),
    ("protected-32", 5000),
    ("mode-switch", 160),
];

impl Row {
    /// How often the work is done at so many per cent.
    pub(crate) fn work(&self, percent: u32) -> u32 {
        (u64::from(self.rounds) * u64::from(percent) / 100).max(1) as u32
    }

    /// Whether it is meant by one of these names of rows and groups.
    pub(crate) fn is_one_of(&self, names: &[String]) -> bool {
        names.is_empty() || names.iter().any(|name| *name == self.group || *name == self.name)
    }

    /// Machines as a whole have no counterpart on the host.
    pub(crate) fn runs_natively(&self) -> bool {
        matches!(self.place, Place::Program | Place::Debian)
    }
}

/// All rows, in the order of the table.
pub(crate) fn all(program: &Path, scripts: &Path) -> Result<Vec<Row>> {
    let mut rows = listed(Command::new(program).arg("list"), Place::Program)?;
    rows.extend(listed(Command::new("sh").arg(scripts.join("run.sh")).arg("list"), Place::Debian)?);
    rows.extend(BOOTS.iter().map(|&(name, flavour, processors, rounds)| Row {
        group: "boot".to_owned(),
        name: name.to_owned(),
        rounds,
        processors,
        place: Place::Boot(flavour),
    }));
    rows.extend(BARE.iter().map(|&(name, rounds)| Row {
        group: "bare".to_owned(),
        name: name.to_owned(),
        rounds,
        processors: 1,
        place: Place::Bare,
    }));
    Ok(rows)
}

/// What a program prints of its rows: group, name, rounds and processors.
fn listed(command: &mut Command, place: Place) -> Result<Vec<Row>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} fails: {}", String::from_utf8_lossy(&output.stderr));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [group, name, rounds, processors] = words[..] else { bail!("\"{line}\" is no row") };
        let (group, name) = (group.to_owned(), name.to_owned());
        Ok(Row { group, name, rounds: rounds.parse()?, processors: processors.parse()?, place })
    };
    String::from_utf8(output.stdout)?.lines().map(row).collect()
}
