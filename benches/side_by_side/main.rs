//! The same work under softmetal, under Debian's QEMU without KVM, and on the host itself: `cargo bench --bench side_by_side`.
//!
//! The guest is Debian's cloud kernel with one static program, whose source is in benches/guest. Both machines stand at their
//! shells; each row runs under one, then under the other, pinned to the same core, timed by the host's clock.

mod machine;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use machine::{Engine, Machine, Setup, rows};
use report::{Report, Row};
use softmetal::cli::cpio::Archive;
use softmetal::cli::debian::{Flavour, Guests};

/// For a boot.
const BOOT: Duration = Duration::from_secs(300);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);
/// For a row.
const ROW: Duration = Duration::from_secs(3600);

/// Compares softmetal with QEMU's TCG, row by row.
#[derive(Parser)]
struct Args {
    /// How often each row runs under each engine; medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How much of each row's work is done
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    percent: u32,
    /// Only these rows or groups
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Without QEMU
    #[arg(long)]
    no_qemu: bool,
    /// Where the table (.md), the numbers (.json) and the picture (.svg) go
    #[arg(long, value_name = "PATH", default_value = "target/side-by-side/report")]
    out: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = args.bench;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/side-by-side");
    fs::create_dir_all(&folder)?;
    let program = compile(&folder)?;
    let all = rows(&program)?;
    let wanted =
        |group: &str, name: &str| args.only.is_empty() || args.only.iter().any(|o| o == group || o == name);
    let chosen: Vec<_> = all.into_iter().filter(|(group, name, _)| wanted(group, name)).collect();
    ensure!(!chosen.is_empty(), "there is no row or group named {}", args.only.join(", "));
    let setup = |cores: &str, cpus| -> Result<Setup> {
        let (kernel, initrd) = disk(&folder, &program)?;
        Ok(Setup { kernel, initrd, program: program.clone(), cores: cores.to_owned(), cpus })
    };
    let mut engines = vec![Engine::Native, Engine::Softmetal];
    if !args.no_qemu {
        engines.push(Engine::Qemu);
    }
    let before = load()?;
    let mut report = Report {
        host: fs::read_to_string("/proc/cpuinfo")?
            .lines()
            .find(|line| line.starts_with("model name"))
            .unwrap_or_default()
            .to_owned(),
        qemu: version("qemu-system-x86_64"),
        flags: BTreeMap::new(),
        load: [before.0, String::new()],
        steal_seconds: 0.0,
        percent: args.percent,
        rounds: args.rounds,
        rows: Vec::new(),
    };
    // Rows of several threads have a machine of two processors, on two cores.
    for threads in [false, true] {
        let rows: Vec<_> = chosen.iter().filter(|(group, ..)| (group == "threads") == threads).collect();
        if rows.is_empty() {
            continue;
        }
        let setup = if threads { setup("0,1", 2)? } else { setup("0", 1)? };
        let mut machines = Vec::new();
        for &engine in &engines {
            eprintln!("starting {} with {} processors", engine.name(), setup.cpus);
            let mut machine = Machine::start(engine, &setup, BOOT)?;
            let flags = machine.ask("grep -m 1 ^flags /proc/cpuinfo | cut -d: -f2", SOON)?;
            report.flags.insert(engine.name().to_owned(), flags.trim().to_owned());
            machines.push((engine, machine));
        }
        for (group, name, _) in rows {
            let mut row = Row { group: group.clone(), name: name.clone(), seconds: BTreeMap::new() };
            for _ in 0..args.rounds {
                for (engine, machine) in &mut machines {
                    let time = machine
                        .time(name, args.percent, ROW)
                        .with_context(|| format!("under {}", engine.name()))?;
                    row.seconds.entry(engine.name().to_owned()).or_default().push(time.as_secs_f64());
                }
            }
            let text = |e: &str| row.median(e).map_or_else(String::new, |s| format!("  {e} {s:.2} s"));
            let ratio = row.ratio().map_or_else(String::new, |r| format!("  ratio {r:.2}"));
            eprintln!("{group} {name}:{}{}{}{ratio}", text("native"), text("qemu"), text("softmetal"));
            report.rows.push(row);
        }
    }
    let after = load()?;
    report.load[1] = after.0;
    report.steal_seconds = after.1 - before.1;
    fs::create_dir_all(args.out.parent().unwrap_or(Path::new(".")))?;
    fs::write(args.out.with_extension("md"), report.markdown())?;
    fs::write(args.out.with_extension("svg"), report.svg())?;
    fs::write(args.out.with_extension("json"), serde_json::to_string_pretty(&report)?)?;
    print!("{}", report.markdown());
    println!(
        "load before {}, after {}; {:.1} s stolen",
        report.load[0], report.load[1], report.steal_seconds
    );
    Ok(())
}

/// Builds the program with the system's compiler.
fn compile(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("bench");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guest");
    let mut files: Vec<PathBuf> =
        fs::read_dir(sources)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "c"));
    files.sort();
    let mut command = Command::new("gcc");
    command.args(["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o"]);
    let status = command.arg(&program).args(&files).arg("-lm").status().context("cannot start gcc")?;
    ensure!(status.success(), "benches/guest does not compile");
    Ok(program)
}

/// Debian's cloud kernel, and a RAM disk with the program.
fn disk(folder: &Path, program: &Path) -> Result<(PathBuf, PathBuf)> {
    let say = |line: &str| eprintln!("guests: {line}");
    let guests = Guests::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/guests"), &say);
    let kernel = guests.kernel(Flavour::Cloud)?;
    let mut bytes = guests.initramfs(&kernel, None)?.build();
    let mut more = Archive::default();
    more.file("bench", 0o755, &fs::read(program)?);
    bytes.extend(more.finish());
    let initrd = folder.join("initrd");
    fs::write(&initrd, bytes)?;
    Ok((kernel.image, initrd))
}

/// The load averages, and the time that the hypervisor has taken, in seconds.
fn load() -> Result<(String, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let steal = stat
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(8))
        .and_then(|v| v.parse::<f64>().ok());
    let average = fs::read_to_string("/proc/loadavg")?;
    let average: Vec<&str> = average.split_whitespace().take(3).collect();
    Ok((average.join(" "), steal.unwrap_or(0.0) / 100.0))
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text =
        output.map(|o| String::from_utf8_lossy(&o.stdout).lines().next().unwrap_or_default().to_owned());
    text.unwrap_or_else(|_| "none".to_owned())
}
