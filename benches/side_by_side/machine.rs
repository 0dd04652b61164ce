//! A machine under one of the emulators, or the host itself, told what to run and timed by the lines it prints.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::iter::Sum;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use softmetal::cli::initramfs::READY;

use crate::side::{Engine, Side};

/// QEMU's translator and all the processor that it has.
pub(crate) const QEMU_ARGUMENTS: &[&str] = &["-accel", "tcg", "-cpu", "max", "-machine", "q35"];

/// What a machine is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) append: String,
    pub(crate) memory: &'static str,
    /// On the host: a command in place of the machine, a shell.
    pub(crate) native: Vec<String>,
    /// Cores of the host that it may use, as taskset has them, and how many processors it has.
    pub(crate) cores: String,
    pub(crate) processors: usize,
}

/// A line, when it came, and what the machine had used of processors by then.
struct Line {
    text: String,
    when: Instant,
    used: Duration,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// By the host's clock.
    pub(crate) clock: Duration,
    /// Of the host's processors: what all threads of the process used, as user and as system.
    pub(crate) used: Duration,
}

impl Taken {
    fn between(begin: &Line, end: &Line) -> Self {
        Self { clock: end.when - begin.when, used: end.used.saturating_sub(begin.used) }
    }
}

impl Sum for Taken {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { clock: a.clock + b.clock, used: a.used + b.used })
    }
}

/// A machine, or a shell of the host.
pub(crate) struct Machine {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Line>,
    /// Gives the last line of standard error when it has ended.
    messages: Option<JoinHandle<String>>,
    /// The last line that it printed.
    last: String,
    began: Instant,
}

fn command(side: &Side, parts: &Parts) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &parts.cores]);
    let processors = parts.processors.to_string();
    match &side.engine {
        Engine::Native => {
            command.args(&parts.native);
            return command;
        }
        Engine::Softmetal { binary, arguments } => {
            command.arg(binary).arg("run").args(["--memory", parts.memory, "--cpus", &processors]);
            command.arg("--debug-exit").args(arguments).args(["--append", &parts.append]).arg("--kernel");
            command.arg(&parts.kernel);
            if let Some(initrd) = &parts.initrd {
                command.arg("--initrd").arg(initrd);
            }
        }
        Engine::Qemu => {
            command.arg("qemu-system-x86_64").args(QEMU_ARGUMENTS);
            command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
            command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
            command.args(["-m", parts.memory, "-smp", &processors]);
            command.args(["-append", &parts.append]).arg("-kernel").arg(&parts.kernel);
            if let Some(initrd) = &parts.initrd {
                command.arg("-initrd").arg(initrd);
            }
        }
    }
    command
}

impl Machine {
    /// Starts one.
    pub(crate) fn start(side: &Side, parts: &Parts) -> Result<Self> {
        let mut command = command(side, parts);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let errors = child.stderr.take().context("standard error is piped")?;
        let (sender, lines) = channel();
        let (process, alone) = (child.id(), side.engine != Engine::Native);
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let when = Instant::now();
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let timed = ["begin ", "end ", READY].iter().any(|beginning| text.starts_with(beginning));
                let used = if timed { used(process, alone) } else { Duration::ZERO };
                if sender.send(Line { text, when, used }).is_err() {
                    return;
                }
            }
        });
        let messages = thread::spawn(move || {
            let lines = BufReader::new(errors).split(b'\n').map_while(Result::ok);
            let last = lines.filter(|line| !line.is_empty()).last().unwrap_or_default();
            String::from_utf8_lossy(&last).trim_end().to_owned()
        });
        Ok(Self { child, input, lines, messages: Some(messages), last: String::new(), began })
    }

    /// Waits for the shell of Debian's guests; the answer is how long it took from the start.
    pub(crate) fn boot(&mut self, limit: Duration) -> Result<Taken> {
        let ready = self.expect(READY, limit).context("it does not boot")?;
        Ok(Taken { clock: ready.when - self.began, used: ready.used })
    }

    /// Waits for a line that begins so.
    fn expect(&mut self, beginning: &str, limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.text.starts_with(beginning) => return Ok(line),
                Ok(line) if line.text.is_empty() => {}
                Ok(line) => self.last = line.text,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no line \"{beginning}\" within {} s; the last one is \"{}\"",
                        limit.as_secs(),
                        self.last
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!(
                    "it has ended ({}) before a line \"{beginning}\"; the last lines are \"{}\" and \"{}\"",
                    self.end()?,
                    self.last,
                    self.messages.take().and_then(|said| said.join().ok()).unwrap_or_default()
                ),
            }
        }
    }

    /// Its exit status, sooner or later: who has closed standard output but goes on is of no use.
    fn end(&mut self) -> Result<ExitStatus> {
        let soon = Instant::now() + Duration::from_secs(1);
        while Instant::now() < soon {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").and_then(|()| self.input.flush()).context("it takes no input")
    }

    /// What a command prints, in a line.
    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Result<String> {
        // The shell's echo of the command does not begin so.
        self.send(&format!("echo \"answer: $({command})\""))?;
        let line = self.expect("answer: ", limit)?;
        Ok(line.text.trim_start_matches("answer: ").to_owned())
    }

    /// Runs a command that does a row's work, and gives the time from its first line to its last.
    pub(crate) fn time(&mut self, command: &str, row: &str, limit: Duration) -> Result<Taken> {
        self.send(command)?;
        self.time_what_runs(row, limit)
    }

    /// The same for a guest that has been told what to run.
    pub(crate) fn time_what_runs(&mut self, row: &str, limit: Duration) -> Result<Taken> {
        let begin = self.expect("begin ", limit)?;
        let end = self.expect("end ", limit)?;
        let (taken, line) = (Taken::between(&begin, &end), end.text);
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.get(2) == Some(&row), "it ends with \"{line}\"");
        ensure!(
            words.get(4) == Some(&"ok"),
            "wrong result: {}",
            words.get(5..).unwrap_or_default().join(" ")
        );
        Ok(taken)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails where it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process, and all that it has started where it is not alone, has used of processors.
fn used(process: u32, alone: bool) -> Duration {
    if alone {
        return Usage::of(process).map_or(Duration::ZERO, |usage| usage.used());
    }
    let all: Vec<(u32, Usage)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, Usage::of(process)?)))
        .collect();
    let mut family = vec![process];
    let mut sum = Duration::ZERO;
    while let Some(parent) = family.pop() {
        family.extend(all.iter().filter(|(_, usage)| usage.parent == parent).map(|(child, _)| *child));
        sum += all.iter().find(|(id, _)| *id == parent).map_or(Duration::ZERO, |(_, usage)| usage.used());
    }
    sum
}

/// From /proc/PID/stat.
struct Usage {
    parent: u32,
    /// Its threads' and its late children's, as user and as system, in ticks.
    ticks: [u64; 4],
}

impl Usage {
    /// proc(5): the name in brackets may hold anything; behind it are state, parent and, from the 12th on, the times.
    fn of(process: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |n: usize| fields.get(n)?.parse().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: [number(11)?, number(12)?, number(13)?, number(14)?],
        })
    }

    fn used(&self) -> Duration {
        // USER_HZ is 100 on x86-64 and aarch64 Linux.
        Duration::from_millis(10 * self.ticks.iter().sum::<u64>())
    }
}
