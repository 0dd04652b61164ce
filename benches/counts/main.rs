//! How many instructions the host runs for telling pieces of work: `cargo bench --features testing --bench counts`.
//!
//! Callgrind counts them, so that the figures are the same on a busy host, and from run to run to the last instruction. They
//! are compared with the committed ones; a loss of more than five percent fails. What they do not see is the host's caches,
//! branch prediction and memory: the benches that take the time are for that.

mod baseline;
mod board;
mod callgrind;
mod events;
mod memory;
mod processor;
mod programs;
mod translated;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use baseline::{Baseline, Line};
use clap::Parser;
use work::Entry;

/// By how many percent a figure may rise.
const TOLERANCE: f64 = 5.0;

/// Counts the host's instructions and compares with the committed counts.
#[derive(Parser)]
struct Args {
    /// Only what has one of these in its name
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// Writes the new counts into the file with which later runs are compared; so does BLESS=1 in the environment
    #[arg(long)]
    bless: bool,
    /// Does this piece of work: what callgrind runs
    #[arg(long, hide = true, value_name = "NAME")]
    measure: Option<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// All pieces of work, in the order of the table.
fn all() -> Vec<Entry> {
    [processor::entries(), memory::entries(), events::entries(), translated::entries(), board::entries()]
        .concat()
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let _ = args.bench;
    if let Some(name) = &args.measure {
        let entry = all().into_iter().find(|entry| entry.name == name).context("no such piece of work")?;
        println!("{}", entry.measure());
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = all();
    chosen.retain(|e| args.only.is_empty() || args.only.iter().any(|part| e.name.contains(part.as_str())));
    ensure!(!chosen.is_empty(), "no piece of work has {} in its name", args.only.join(" or "));
    let tools = callgrind::tools()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/counts")
        .join(format!("{}.txt", std::env::consts::ARCH));
    let old = Baseline::read(&path)?;

    let counts = count(&chosen)?;
    let (mut losses, mut news) = (0, 0);
    println!("{:<32} {:>12} {:>12} {:>13}", "host instructions per unit", "committed", "now", "change");
    for entry in &chosen {
        let now = counts[entry.name];
        let change = old.line(entry.name).map(|line| Change::between(line.count, now));
        let before = old.line(entry.name).map_or_else(|| "new".into(), |line| format!("{:.2}", line.count));
        losses += u32::from(change == Some(Change::Loss));
        news += u32::from(change.is_none_or(|change| change == Change::Gain));
        let percent = match (old.line(entry.name), &change) {
            (Some(line), Some(change)) => format!("{:+.1} %{}", percent(line.count, now), change.mark()),
            _ => String::new(),
        };
        println!("{:<32} {before:>12} {now:>12.2} {percent:>13}  per {}", entry.name, entry.unit);
    }
    let gone: Vec<_> = old.names().filter(|name| all().iter().all(|entry| entry.name != *name)).collect();
    for name in &gone {
        println!("{name:<32} is committed and no longer counted");
    }

    if args.bless || std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        let lines =
            chosen.iter().map(|e| Line { name: e.name.into(), count: counts[e.name], unit: e.unit.into() });
        old.with(lines, all().iter().map(|entry| entry.name)).write(&path, &tools)?;
        println!("\n{} says so from now on", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let again = "cargo bench --features testing --bench counts -- --bless";
    if old.is_empty() {
        println!("\nnothing is committed for this architecture; to commit to these counts: {again}");
        return Ok(ExitCode::SUCCESS);
    }
    if old.tools() != tools {
        println!("\nthe committed counts are of {}; these are of {tools}", old.tools());
    }
    if losses > 0 {
        println!("\n{losses} rose by more than {TOLERANCE} %. Where that is meant: {again}");
        return Ok(ExitCode::FAILURE);
    }
    if news > 0 || !gone.is_empty() {
        println!("\nso that what is gained stays, and what is new is watched: {again}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts of all pieces of work per unit, by name.
fn count(entries: &[Entry]) -> Result<BTreeMap<&'static str, f64>> {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::new());
    let worker = || -> Result<()> {
        while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (instructions, units) = callgrind::count(entry.name)?;
            let all = &mut *counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            all.insert(entry.name, instructions as f64 / units as f64);
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panics with its error"))
    })?;
    Ok(counts.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// How a count compares with the committed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Loss,
    Same,
    Gain,
}

impl Change {
    fn between(old: f64, new: f64) -> Self {
        match percent(old, new) {
            p if p > TOLERANCE => Change::Loss,
            p if p < -TOLERANCE => Change::Gain,
            _ => Change::Same,
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Change::Loss => " LOSS",
            Change::Same => "",
            Change::Gain => " gain",
        }
    }
}

fn percent(old: f64, new: f64) -> f64 {
    (rounded(new) / old - 1.0) * 100.0
}

/// As the file has it.
fn rounded(count: f64) -> f64 {
    (count * 100.0).round() / 100.0
}
