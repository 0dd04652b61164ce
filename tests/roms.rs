//! The test ROMs: each image of test-roms, interpreted and translated, plainly and with all switches of `--debug` (with
//! `ROM_SWITCHES=each` in the environment with each of them too), prints what its
//! `expected.txt` says and ends as it says. test-roms/README.md has the form of these files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::{Guest, Options, run};
use libtest_mimic::{Failed, Trial};
use regex::Regex;
use softmetal::config::DebugFlags;

/// A ROM takes seconds, with every speed-up off on a busy host a minute or two.
const LIMIT: Duration = Duration::from_secs(300);

/// The status with which a ROM ends by the debug-exit port when nothing has failed.
const PASSED: i32 = 1;

/// The setting that makes several runs of one file.
const CPUS: &str = "#! cpus:";

/// The setting of what does not bear to be held up for milliseconds, as a CPU is that waits for each translation. With one
/// processor its clock can count instructions.
const TIMES: &str = "#! times: the host's";

fn main() -> ExitCode {
    let engines = engines();
    let each_switch = std::env::var_os("ROM_SWITCHES").is_some_and(|which| which == "each");
    let mut trials = Vec::new();
    for (name, image, expected) in roms() {
        let times = fs::read_to_string(&expected).unwrap_or_default().lines().any(|line| line == TIMES);
        for cpus in cpu_counts(&expected) {
            for (engine, arguments) in &engines {
                let (image, expected, mut more) = (image.clone(), expected.clone(), arguments.clone());
                let waits = arguments.iter().any(|argument| argument.contains(AT_ONCE));
                // Several processors that all wait for their compilers do not meet as they should, or take very long.
                if waits && cpus > 1 {
                    continue;
                }
                // What the switches change is the same on each of them; where time is short, all at once are enough.
                let one_switch =
                    arguments.iter().any(|argument| argument.starts_with("no-") && !argument.contains(','));
                if one_switch && (cpus > 1 || !each_switch) {
                    continue;
                }
                let one_pass = arguments.iter().any(|argument| argument == "t1-at-once");
                if one_pass && cpus > 1 && !each_switch {
                    continue;
                }
                if times && waits {
                    more.extend(["--clock", "instructions"].map(str::to_owned));
                }
                let on = if cpus == 1 { String::new() } else { format!(" on {cpus} CPUs") };
                trials.push(Trial::test(format!("{name}{on} {engine}"), move || {
                    judge(&image, &expected, cpus, more).map_err(|error| Failed::from(format!("{error:#}")))
                }));
            }
        }
    }
    run(trials)
}

/// Each run that the folders describe: its name, the image, and the file of what it prints.
fn roms() -> Vec<(String, PathBuf, PathBuf)> {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        paths
    };
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut roms = Vec::new();
    for folder in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("test-roms")) {
        let rom = stem(&folder);
        let image = folder.join(format!("{rom}.bin"));
        if !image.is_file() {
            continue;
        }
        let expected: Vec<PathBuf> =
            files(&folder).into_iter().filter(|path| stem(path).starts_with("expected")).collect();
        assert!(!expected.is_empty(), "{} has an image, but no expected.txt", folder.display());
        for file in expected {
            let name = format!("{rom}{}", &stem(&file)["expected".len()..]);
            roms.push((name, image.clone(), file));
        }
    }
    roms
}

/// The numbers of CPUs that a file of expectations holds for.
fn cpu_counts(expected: &Path) -> Vec<usize> {
    let text = fs::read_to_string(expected).unwrap_or_default();
    let counts = text.lines().find_map(|line| line.strip_prefix(CPUS)).unwrap_or("1");
    let number =
        |count: &str| count.parse().unwrap_or_else(|_| panic!("{}: {CPUS}{counts}", expected.display()));
    counts.split_whitespace().map(number).collect()
}

/// With it a CPU waits for each translation.
const AT_ONCE: &str = "jit-at-once";

/// The switches that are the translator's.
const TRANSLATORS: [&str; 3] = [AT_ONCE, "no-t1", "t1-at-once"];

/// What runs the ROMs, and the arguments for it: the interpreter plainly, with each switch of `--debug` and with all of them;
/// the translator with what is hot, and with everything translated by either of its tiers.
fn engines() -> Vec<(String, Vec<String>)> {
    let names = DebugFlags::LIST.iter().map(|(name, ..)| *name).filter(|name| !TRANSLATORS.contains(name));
    let names: Vec<&str> = names.collect();
    let interpreted = names.iter().map(|name| (*name).to_owned()).chain([names.join(",")]);
    let mut runs = vec![("plain".to_owned(), "interp", None)];
    runs.extend(interpreted.map(|list| (list.clone(), "interp", Some(list))));
    runs.push(("jit".to_owned(), "jit", None));
    runs.extend([AT_ONCE, "t1-at-once"].map(|name| (format!("jit {name}"), "jit", Some(name.to_owned()))));
    let arguments = |engine: &str, list: Option<String>| -> Vec<String> {
        let debug = list.into_iter().flat_map(|list| ["--debug".to_owned(), list]);
        ["--accel".to_owned(), engine.to_owned()].into_iter().chain(debug).collect()
    };
    runs.into_iter().map(|(name, engine, list)| (name, arguments(engine, list))).collect()
}

/// What a file of expectations says.
struct Expected {
    append: &'static str,
    arguments: Vec<String>,
    status: i32,
    typed: Option<String>,
    lines: Vec<Regex>,
}

impl Expected {
    fn parse(text: &str) -> Result<Self> {
        let mut expected =
            Self { append: "", arguments: Vec::new(), status: PASSED, typed: None, lines: Vec::new() };
        for line in text.lines() {
            if line.starts_with(CPUS) || line == TIMES {
                // Looked at before: main.
            } else if let Some(setting) = line.strip_prefix("#!") {
                let (name, value) = setting.split_once(':').with_context(|| format!("{line}: no colon"))?;
                let value = value.trim();
                match name.trim() {
                    "append" => expected.append = value.to_owned().leak(),
                    "arguments" => expected.arguments = value.split(' ').map(str::to_owned).collect(),
                    "status" => expected.status = value.parse().with_context(|| line.to_owned())?,
                    "type" => expected.typed = Some(format!("{value}\r")),
                    _ => bail!("{line}: no such setting"),
                }
            } else if !line.starts_with('#') && !line.is_empty() {
                expected.lines.push(Regex::new(line)?);
            }
        }
        if expected.lines.is_empty() {
            bail!("nothing is expected");
        }
        Ok(expected)
    }

    /// The expressions match lines of the console in their order; other lines may stand between.
    fn compare(&self, console: &str) -> Result<()> {
        let mut lines = console.lines();
        for expression in &self.lines {
            if !lines.any(|line| expression.is_match(line)) {
                bail!("no line, or not in its place: {expression}\nthe console has:\n{console}");
            }
        }
        Ok(())
    }
}

fn judge(image: &Path, expected: &Path, cpus: usize, more: Vec<String>) -> Result<()> {
    let text = fs::read_to_string(expected)?;
    let expected = Expected::parse(&text).with_context(|| expected.display().to_string())?;
    let mut arguments = expected.arguments.clone();
    arguments.extend(more);
    let mut guest = Guest::start(&Options {
        kernel: image.to_owned(),
        memory: "64M",
        append: expected.append,
        cpus,
        debug_exit: true,
        arguments,
        ..Options::default()
    })?;
    if let Some(typed) = &expected.typed {
        guest.send(typed)?;
    }
    let (status, messages) = guest.finish(LIMIT)?;
    let console = guest.text();
    for line in console.lines().filter(|line| line.starts_with("SKIP ")) {
        eprintln!("{line}");
    }
    expected.compare(&console)?;
    if status.code() != Some(expected.status) {
        bail!("{status}, not {}; {messages}{console}", expected.status);
    }
    Ok(())
}
