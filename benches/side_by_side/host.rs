//! The host: what it is, what is on it, how busy it is.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Its processor.
pub(crate) fn name() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':'])))
}

/// What a program says of its version.
pub(crate) fn version(program: &str) -> String {
    first_line(Command::new(program).arg("--version")).unwrap_or_else(|| "none".to_owned())
}

/// The version of softmetal, and the commit where git knows it.
pub(crate) fn softmetal() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let commit = first_line(&mut git).map_or_else(String::new, |commit| format!(" ({commit})"));
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

/// What tells a program from another build of it.
pub(crate) fn build(program: &Path) -> Result<String> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// How busy the host is.
pub(crate) struct Load {
    /// As /proc/loadavg has it.
    pub(crate) average: String,
    /// What the host's own hypervisor has taken, and all time, of all cores together, in ticks.
    pub(crate) stolen: f64,
    pub(crate) ticks: f64,
}

impl Load {
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        // proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let average = fs::read_to_string("/proc/loadavg")?;
        let average: Vec<&str> = average.split_whitespace().take(3).collect();
        let steal = ticks.get(7).copied().unwrap_or_default();
        Ok(Self { average: average.join(" "), stolen: steal, ticks: ticks.iter().sum::<f64>() })
    }
}
