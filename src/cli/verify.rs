//! `softmetal verify`: the emulated CPU against one that is right.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use regex::RegexBuilder;
use softmetal_cpu::HAS_TRANSLATOR;
use softmetal_cpu_testing::verify::{
    Engine, Limit, Setup, Tally, Vectors, against_host, against_itself, coverage, replay, report,
};

use crate::cli::messages::say;
use crate::config::UseError;

/// The outcome for the shell: something differs.
const DIFFERENT: u8 = 1;

pub(super) const EXAMPLES: &str = "\
Examples:
  softmetal verify                           ten seconds of everything, against this host's CPU
  softmetal verify --count 100000000         so many cases, however long that takes
  softmetal verify --seed 42 --count 1000000 the same cases as the last time with that seed and count
  softmetal verify --only 'adc|sbb'          instructions whose name matches: add, Adc_rm32_r32, ^VEX_, cvt.*2dq
  softmetal verify --against interp          the interpreter with all its speed-ups against itself without
  softmetal verify --accel jit               the translator; fewer cases a second, since each is translated
  softmetal verify --accel t1                the translator in one pass, as warm code is translated
  softmetal verify --record FILE             writes the cases and what this host's CPU makes of them,
  softmetal verify --against FILE            to be compared with on hosts that have no such CPU

A case is one instruction, in some encoding, from some state of registers and memory. It runs on the emulated CPU and on
the one that it is compared with; registers, flags, memory and exceptions must be the same. For each instruction that
differs, the smallest case that was found is printed as a line for cpu/tests/ins, with what is right behind the arrow.

Exit status:
  0    nothing differs
  1    something differs
  2    wrong use, or this host cannot serve
  4    the host refused something";

/// The arguments of the command.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Arguments {
    /// Whose work is checked: interp (the interpreter), jit (the translator) or t1 (the translator in one pass)
    #[arg(long, value_name = "ENGINE", default_value = "interp", value_parser = parse_accel)]
    accel: Engine,
    /// What is right: host (this machine's CPU), interp (the interpreter without its speed-ups), or a file of --record
    #[arg(long, value_name = "WHOM", default_value = "host", value_parser = parse_against)]
    against: Against,
    /// Stop after this time [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "count", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Stop after so many cases
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where the random sequence starts; a new one each time if it is left out
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only instructions whose mnemonic or name in iced's tables matches, in any case
    #[arg(long, value_name = "REGEX", value_parser = parse_regex)]
    only: Option<String>,
    /// Write the cases with what is right to a file, for --against on other hosts; fewer a second
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print what becomes of each instruction, as Markdown, and run nothing
    #[arg(long)]
    coverage: bool,
}

/// What the emulated CPU is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Against {
    Host,
    Interp,
    File(PathBuf),
}

/// The engines of this build.
const RIGHT: &str = if HAS_TRANSLATOR { "right are interp, jit and t1" } else { "right is interp" };

fn parse_accel(text: &str) -> Result<Engine, UseError> {
    match text {
        "interp" => Ok(Engine::Interp),
        "jit" | "t1" if !HAS_TRANSLATOR => Err(UseError::new(format!(
            "'{text}' is not in this build, which was made without the translator; {RIGHT}"
        ))),
        "jit" => Ok(Engine::Jit),
        "t1" => Ok(Engine::OnePass),
        "kvm" => Err(UseError::new(format!(
            "'{text}' is not in this build, which emulates the processor; {RIGHT}"
        ))),
        _ => Err(UseError::new(format!("'{text}' is no engine; {RIGHT}"))),
    }
}

fn parse_against(text: &str) -> Result<Against, UseError> {
    match text {
        "host" => Ok(Against::Host),
        "interp" => Ok(Against::Interp),
        _ if Path::new(text).is_file() => Ok(Against::File(text.into())),
        _ => Err(UseError::new(format!(
            "'{text}' is nothing to compare with; right are host, interp, and a file that --record has made"
        ))),
    }
}

fn regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(pattern).case_insensitive(true).build()
}

fn parse_regex(text: &str) -> Result<String, UseError> {
    match regex(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(UseError::new(format!("'{text}' is no regular expression"))),
    }
}

/// Runs it; the answer is the status of the process.
pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    if arguments.coverage {
        print(&coverage());
        return Ok(0);
    }
    let pattern = regex(arguments.only.as_deref().unwrap_or(""))?;
    let wanted = |code: iced_x86::Code| {
        pattern.is_match(&format!("{code:?}")) || pattern.is_match(&format!("{:?}", code.mnemonic()))
    };
    let tally = match &arguments.against {
        Against::File(path) => replayed(arguments, path, &wanted)?,
        _ => compared(arguments, &wanted)?,
    };
    print(&report(&tally));
    Ok(if tally.differences == 0 { 0 } else { DIFFERENT })
}

fn print(text: &str) {
    // Who closes the pipe early has read enough.
    let _ = stdout().write_all(text.as_bytes());
}

/// Against the host, or the interpreter without its speed-ups.
fn compared(arguments: &Arguments, wanted: &dyn Fn(iced_x86::Code) -> bool) -> Result<Tally> {
    let seed = arguments.seed.unwrap_or_else(new_seed);
    let setup = if arguments.against == Against::Interp {
        against_itself(arguments.accel, seed, wanted)
    } else {
        against_host(arguments.accel, seed, wanted).ok_or_else(|| {
            UseError::new(
                "this host cannot be compared with: that takes an x86-64 CPU, Linux, and the right to map memory at \
                 fixed addresses; try --against FILE, with what --record has written on such a host, or --against interp",
            )
        })?
    };
    let Setup { mut verifier, lacking } = setup;
    if verifier.planned() == 0 {
        return Err(UseError::new("--only matches no instruction that can be compared here").into());
    }
    if !lacking.is_empty() {
        let names: Vec<String> = lacking.iter().map(|feature| format!("{feature:?}")).collect();
        say(&format!("this host lacks {}: not compared", names.join(", ")));
    }
    if matches!(arguments.against, Against::Host) && !softmetal_cpu_testing::host::is_known() {
        say("nobody has compared with this processor before: what differs may be its maker's choice");
    }
    say(&format!("seed {seed}: --seed {seed} runs the same cases again"));
    if let Some(path) = &arguments.record {
        verifier.record(path)?;
    }
    let mut progress = Progress::new(limit(arguments));
    let tally = verifier.run(limit(arguments), &mut |tally| progress.show(tally));
    progress.end();
    Ok(tally?)
}

/// Against a file.
fn replayed(arguments: &Arguments, path: &Path, wanted: &dyn Fn(iced_x86::Code) -> bool) -> Result<Tally> {
    if arguments.record.is_some() {
        return Err(UseError::new("--record needs a CPU that is right: leave --against FILE out").into());
    }
    let mut vectors = Vectors::open(path).map_err(|error| UseError::new(error.to_string()))?;
    let everything = arguments.seconds.is_none() && arguments.count.is_none();
    let limit = if everything { Limit::Count(u64::MAX) } else { limit(arguments) };
    let mut progress = Progress::new(limit);
    let tally = replay(arguments.accel, &mut vectors, wanted, limit, &mut |tally| progress.show(tally));
    progress.end();
    Ok(tally?)
}

fn limit(arguments: &Arguments) -> Limit {
    match (arguments.count, arguments.seconds) {
        (Some(count), _) => Limit::Count(count),
        (None, seconds) => Limit::Time(Duration::from_secs(seconds.unwrap_or(10))),
    }
}

/// A new one each time.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    now.as_micros() as u64 % 1_000_000_007
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    limit: Limit,
    bar: ProgressBar,
    line: Option<Instant>,
}

/// Between lines of progress where there is no terminal.
const LINES: Duration = Duration::from_secs(30);

impl Progress {
    fn new(limit: Limit) -> Self {
        let length = match limit {
            Limit::Time(time) => time.as_millis() as u64,
            Limit::Count(count) => count,
        };
        let bar = ProgressBar::new(length);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}%  {msg}") {
            bar.set_style(style);
        }
        Self { limit, bar, line: (!stderr().is_terminal()).then(Instant::now) }
    }

    fn show(&mut self, tally: &Tally) -> bool {
        let rate = tally.cases as f64 / tally.elapsed.as_secs_f64().max(0.001);
        let text = format!(
            "{} cases, {}/s, {} of {} instructions, {} differ",
            HumanCount(tally.cases),
            HumanCount(rate as u64),
            tally.covered,
            tally.planned,
            HumanCount(tally.differences),
        );
        match &mut self.line {
            None => {
                self.bar.set_position(match self.limit {
                    Limit::Time(_) => tally.elapsed.as_millis() as u64,
                    Limit::Count(_) => tally.cases,
                });
                self.bar.set_message(text);
            }
            Some(last) if last.elapsed() >= LINES => {
                *last = Instant::now();
                say(&text);
            }
            Some(_) => {}
        }
        true
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_in_any_case() {
        let pattern = regex("^adc").unwrap();
        assert!(pattern.is_match("Adc_rm8_r8") && !pattern.is_match("Vaddpd"));
        assert!(parse_regex("a(").is_err());
    }

    #[test]
    fn engines_to_come_are_named() {
        let why = parse_accel("kvm").unwrap_err().to_string();
        assert!(why.contains("interp, jit and t1"), "{why}");
    }
}
