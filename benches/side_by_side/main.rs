//! The same work under softmetal, under Debian's QEMU without KVM, and on the host itself: `cargo bench --bench side_by_side`.
//!
//! Each row runs under one, then under the other, pinned to the same cores, timed by the host's clock. docs/side-by-side.md
//! says what the rows do and how to read the numbers.

mod host;
mod images;
mod machine;
mod picture;
mod report;
mod rows;
mod side;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use images::Images;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use machine::{Machine, Parts, Taken};
use report::{Basis, QEMU, Report, Seen};
use rows::{Place, Row};
use side::{Engine, Side};

/// For a small command.
const SOON: Duration = Duration::from_secs(60);

/// Compares softmetal with QEMU's TCG, row by row.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench side_by_side --")]
struct Args {
    /// How often each row runs under each engine; medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How much of each row's work is done
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    percent: u32,
    /// Only these rows or groups
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Lists the rows: group, name, rounds of work, processors
    #[arg(long)]
    list: bool,
    /// Not on the host itself
    #[arg(long)]
    no_native: bool,
    /// Not under QEMU
    #[arg(long)]
    no_qemu: bool,
    /// Further arguments of `softmetal run`, such as "--accel interp"
    #[arg(long, value_name = "ARGUMENTS", default_value = "", allow_hyphen_values = true)]
    softmetal_args: String,
    /// A second softmetal, run in turn with this one
    #[arg(long, value_name = "BINARY")]
    other: Option<PathBuf>,
    /// The second one's arguments, where they are others; without --other, this softmetal is the second too
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    other_args: Option<String>,
    /// Compares with the numbers of an earlier run, a .json file
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Which times table and pictures are made of: on a host that is busy with other things, "cpu" is what says something
    #[arg(long, value_name = "TIMES", default_value = "clock")]
    by: Basis,
    /// Goes on with the run whose numbers are at --out, or with more --rounds: what is there is not run again
    #[arg(long)]
    resume: bool,
    /// Makes table and pictures of the numbers at --out once more, and runs nothing
    #[arg(long, conflicts_with = "resume")]
    show: bool,
    /// The host's cores: for rows of one processor the first, for the others both
    #[arg(long, value_name = "CORES", default_value = "0,1", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Ends a row after so many seconds as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    limit: u64,
    /// Where the table (.md), the numbers (.json) and the pictures (.svg, .groups.svg) go
    #[arg(long, value_name = "PATH", default_value = "target/side-by-side/report")]
    out: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether each row gave its result everywhere.
fn run(args: &Args) -> Result<bool> {
    // Given by cargo, without a meaning here.
    let _ = args.bench;
    let against = args.against.as_deref().map(Report::read).transpose()?;
    let out =
        Output { path: args.out.clone(), against: against.map(|report| report.by(args.by)), by: args.by };
    if args.show {
        return out.finish(&Report::read(&out.numbers())?);
    }
    ensure!(!args.cores.is_empty() && args.cores.len() <= 2, "--cores takes one core or two");
    let both: Vec<String> = args.cores.iter().map(ToString::to_string).collect();
    let images = Images::new([both[0].clone(), both.join(",")])?;
    let mut rows = rows::all(&images.program()?, &images.scripts())?;
    rows.retain(|row| row.is_one_of(&args.only));
    ensure!(!rows.is_empty(), "there is no row or group named {}", args.only.join(", "));
    if args.list {
        rows.iter().for_each(|row| println!("{} {} {} {}", row.group, row.name, row.rounds, row.processors));
        return Ok(true);
    }
    let sides = Side::all(args);
    let described = sides.iter().map(|side| (side.name.to_owned(), side.description())).collect();
    let mut report = Report::new(described, args.percent, args.rounds.into());
    report.host = host::name()?;
    report.softmetal = host::softmetal();
    report.qemu = host::version("qemu-system-x86_64");
    for side in &sides {
        if let Engine::Softmetal { binary, .. } = &side.engine {
            report.builds.insert(side.name.to_owned(), host::build(binary)?);
        }
    }
    let before = host::Load::now()?;
    report.load[0].clone_from(&before.average);
    if args.resume {
        report.resume(Report::read(&out.numbers())?)?;
    }
    let (mut todo, mut steps) = (Vec::new(), 0);
    for row in &rows {
        let there = report.row(&row.group, &row.name);
        if there.is_some_and(|there| there.work != row.work(args.percent)) {
            bail!("{} {} did other work in the run to go on with", row.group, row.name);
        }
        let missing = |side: &&Side| {
            usize::from(args.rounds).saturating_sub(there.map_or(0, |there| there.rounds(side.name)))
        };
        let missing: usize = sides.iter().filter(|side| side.runs(row)).map(|side| missing(&side)).sum();
        if missing > 0 {
            todo.push(row);
            steps += missing;
        }
    }
    let mut runner = Runner { args, images, sides, machines: BTreeMap::new(), bar: bar(steps) };
    let (stolen, ticks) = (report.stolen, report.ticks);
    let mut held: Option<(&Row, Parts)> = None;
    for row in todo {
        // Neighbours of one kind take their turns on the same machines.
        let parts = match held.take() {
            Some((last, parts)) if takes_turns(last, row) => parts,
            _ => {
                runner.machines.clear();
                runner.images.parts(row, args.percent)?
            }
        };
        let measured = runner.row(row, &parts, &mut report);
        held = Some((row, parts));
        runner.say(&table::line(&measured));
        report.put(measured);
        let now = host::Load::now()?;
        report.load[1].clone_from(&now.average);
        report.stolen = stolen + now.stolen - before.stolen;
        report.ticks = ticks + now.ticks - before.ticks;
        out.write(&report)?;
    }
    runner.bar.finish_and_clear();
    out.finish(&report)
}

/// Whether both can run on one machine, one after the other.
fn takes_turns(a: &Row, b: &Row) -> bool {
    matches!(a.place, Place::Program | Place::Debian) && a.place == b.place && a.processors == b.processors
}

/// A step for each run of a row.
fn bar(steps: usize) -> ProgressBar {
    let target =
        if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left, {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(steps as u64), target).with_style(style)
}

/// Where the results go.
struct Output {
    path: PathBuf,
    against: Option<Report>,
    by: Basis,
}

impl Output {
    fn numbers(&self) -> PathBuf {
        self.path.with_extension("json")
    }

    /// What there is so far.
    fn write(&self, report: &Report) -> Result<()> {
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        let write = |extension: &str, text: String| {
            let path = self.path.with_extension(extension);
            // In one step: a reader, or an end in the middle, finds the old numbers or the new ones.
            let new = self.path.with_extension("new");
            fs::write(&new, text)
                .and_then(|()| fs::rename(&new, &path))
                .with_context(|| path.display().to_string())
        };
        write("json", serde_json::to_string_pretty(report)?)?;
        let report = &report.by(self.by);
        write("md", table::markdown(report, self.against.as_ref()))?;
        if report.has(QEMU) {
            write("svg", picture::rows(report))?;
            write("groups.svg", picture::groups(report))?;
        }
        Ok(())
    }

    fn finish(&self, report: &Report) -> Result<bool> {
        self.write(report)?;
        print!("{}", table::markdown(&report.by(self.by), self.against.as_ref()));
        for (row, side, why) in report.failures() {
            eprintln!("failed: {} {} under {side}: {why}", row.group, row.name);
        }
        Ok(report.failures().next().is_none())
    }
}

/// Runs rows, on machines that stay for the next row.
struct Runner<'a> {
    args: &'a Args,
    images: Images,
    sides: Vec<Side>,
    machines: BTreeMap<&'static str, Machine>,
    bar: ProgressBar,
}

impl Runner<'_> {
    fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.args.limit)
    }

    /// Runs a row until it has its rounds under each side that has not failed.
    fn row(&mut self, row: &Row, parts: &Parts, report: &mut Report) -> report::Row {
        let mut measured = report.row(&row.group, &row.name).cloned().unwrap_or_else(|| report::Row {
            group: row.group.clone(),
            name: row.name.clone(),
            work: row.work(self.args.percent),
            processors: row.processors,
            seconds: BTreeMap::new(),
            used_seconds: BTreeMap::new(),
            failures: BTreeMap::new(),
        });
        for round in 0..usize::from(self.args.rounds) {
            for side in self.sides.clone().iter().filter(|side| side.runs(row)) {
                if measured.rounds(side.name) > round {
                    continue;
                }
                self.bar.set_message(format!("{} {} under {}", row.group, row.name, side.name));
                if !measured.failures.contains_key(side.name) {
                    match self.time(row, side, parts, report) {
                        Ok(taken) => {
                            let name = || side.name.to_owned();
                            measured.seconds.entry(name()).or_default().push(taken.clock.as_secs_f64());
                            measured.used_seconds.entry(name()).or_default().push(taken.used.as_secs_f64());
                        }
                        Err(error) => {
                            measured.failures.insert(side.name.to_owned(), format!("{error:#}"));
                            // What state it is in nobody knows.
                            self.machines.remove(side.name);
                        }
                    }
                }
                self.bar.inc(1);
            }
        }
        measured
    }

    fn time(&mut self, row: &Row, side: &Side, parts: &Parts, report: &mut Report) -> Result<Taken> {
        let limit = self.limit();
        match row.place {
            Place::Boot(_) => {
                (0..row.work(self.args.percent)).map(|_| Machine::start(side, parts)?.boot(limit)).sum()
            }
            Place::Bare => Machine::start(side, parts)?.time_what_runs(&row.name, limit),
            Place::Program | Place::Debian => {
                if !self.machines.contains_key(side.name) {
                    let machine = self.start(side, parts, report)?;
                    self.machines.insert(side.name, machine);
                }
                let machine = self.machines.get_mut(side.name).context("it has just been started")?;
                let percent = self.args.percent;
                let command = match (row.place, &side.engine) {
                    (Place::Debian, _) => format!("/bin/dash /programs/run.sh {percent} {}", row.name),
                    (_, Engine::Native) => {
                        format!("{} {percent} {}", self.images.program_path().display(), row.name)
                    }
                    _ => format!("/bench {percent} {}", row.name),
                };
                machine.time(&command, &row.name, limit)
            }
        }
    }

    /// A machine at its shell, which has said what it sees.
    fn start(&self, side: &Side, parts: &Parts, report: &mut Report) -> Result<Machine> {
        let began = Instant::now();
        let mut machine = Machine::start(side, parts)?;
        if side.engine != Engine::Native {
            machine.boot(self.limit())?;
            let flags = machine.ask("grep -m 1 ^flags /proc/cpuinfo | cut -d: -f2", SOON)?;
            let clock = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
            let seen = Seen { flags: flags.trim().to_owned(), clock_source: machine.ask(clock, SOON)? };
            report.seen.insert(side.name.to_owned(), seen);
        }
        self.say(&format!(
            "started {} with {} processors in {:.1} s",
            side.name,
            parts.processors,
            began.elapsed().as_secs_f64()
        ));
        Ok(machine)
    }
}
