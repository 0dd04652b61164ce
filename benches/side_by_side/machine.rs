//! A machine under one of the emulators, or the host itself, told what to run and timed by the lines it prints.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use softmetal::cli::initramfs::READY;

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Native,
    Softmetal,
    Qemu,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Softmetal => "softmetal",
            Self::Qemu => "qemu",
        }
    }
}

/// What the machines are made of.
pub(crate) struct Setup {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// The program on the host.
    pub(crate) program: PathBuf,
    /// Cores of the host that a machine may use, as taskset has them, and how many processors it has.
    pub(crate) cores: String,
    pub(crate) cpus: usize,
}

const MEMORY: &str = "1G";

/// A line, and when it came.
type Line = (Instant, String);

/// A machine that waits at its shell, or a shell of the host.
pub(crate) struct Machine {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Line>,
    program: String,
    /// From the start to the shell.
    pub(crate) boot: Duration,
}

impl Machine {
    /// Starts one and waits for its shell.
    pub(crate) fn start(engine: Engine, setup: &Setup, limit: Duration) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &setup.cores]);
        let cpus = setup.cpus.to_string();
        match engine {
            Engine::Native => {
                command.arg("sh");
            }
            Engine::Softmetal => {
                command.arg(env!("CARGO_BIN_EXE_softmetal")).arg("run");
                command.args(["--memory", MEMORY, "--cpus", &cpus, "--append", "console=ttyS0 quiet"]);
                command.arg("--kernel").arg(&setup.kernel).arg("--initrd").arg(&setup.initrd);
            }
            Engine::Qemu => {
                command.args(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", "q35"]);
                command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-m", MEMORY]);
                command.args(["-smp", &cpus, "-append", "console=ttyS0 quiet"]);
                command.arg("-kernel").arg(&setup.kernel).arg("-initrd").arg(&setup.initrd);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send((Instant::now(), text)).is_err() {
                    return;
                }
            }
        });
        let native = engine == Engine::Native;
        let program = if native { setup.program.display().to_string() } else { "/bench".to_owned() };
        let mut machine = Self { child, input, lines, program, boot: Duration::ZERO };
        if !native {
            let (ready, _) =
                machine.expect(READY, limit).with_context(|| format!("{} does not boot", engine.name()))?;
            machine.boot = ready - begin;
        }
        Ok(machine)
    }

    /// Waits for a line that begins so.
    fn expect(&mut self, beginning: &str, limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.1.starts_with(beginning) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no line \"{beginning}\" within {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the machine has ended before a line \"{beginning}\"")
                }
            }
        }
    }

    fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}")
            .and_then(|()| self.input.flush())
            .context("the machine takes no input")
    }

    /// What a command prints, in a line.
    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Result<String> {
        // The shell's echo of the command does not begin so.
        self.send(&format!("echo \"answer: $({command})\""))?;
        let (_, line) = self.expect("answer: ", limit)?;
        Ok(line.trim_start_matches("answer: ").to_owned())
    }

    /// Runs a row with all its rounds scaled, and gives the time of one hundred per cent.
    pub(crate) fn time(&mut self, row: &str, percent: u32, limit: Duration) -> Result<Duration> {
        let command = format!("{} {percent} {row}", self.program);
        self.send(&command)?;
        let (begin, _) = self.expect("begin ", limit)?;
        let (end, line) = self.expect("end ", limit)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.get(2) == Some(&row) && words.get(4) == Some(&"ok"), "{row} ends with \"{line}\"");
        Ok(end - begin)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails where it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program's rows: group, name and rounds.
pub(crate) fn rows(program: &Path) -> Result<Vec<(String, String, u32)>> {
    let output = Command::new(program).arg("list").output().context("cannot start the benchmark")?;
    let text = String::from_utf8(output.stdout)?;
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [group, name, rounds] = words[..] else { bail!("\"{line}\" is no row") };
        Ok((group.to_owned(), name.to_owned(), rounds.parse()?))
    };
    text.lines().map(row).collect()
}
