//! Starts a machine with its serial port on pipes, and talks to it as a user at a terminal would.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use softmetal::cli::initramfs::READY;

use super::Screen;

/// How much of the console a failure shows.
const TAIL: usize = 3000;
/// For switching a machine off.
const FINISH: Duration = Duration::from_secs(60);

/// What runs the guest. `SOFTMETAL_TEST_ON=qemu` runs the tests on QEMU: the way to see whether a test is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emulator {
    Softmetal,
    Qemu,
}

impl Emulator {
    pub(crate) fn chosen() -> Self {
        match std::env::var("SOFTMETAL_TEST_ON").as_deref() {
            Err(_) | Ok("softmetal") => Self::Softmetal,
            Ok("qemu") => Self::Qemu,
            Ok(other) => panic!("SOFTMETAL_TEST_ON is softmetal or qemu, not {other}"),
        }
    }
}

/// The machine that a test wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub memory: &'static str,
    /// Processors; 0 is one, too.
    pub cpus: usize,
    pub append: &'static str,
    pub debug_exit: bool,
    pub no_reboot: bool,
    /// Disks: the image, its format, and whether what is written to it is kept.
    pub disks: Vec<(PathBuf, &'static str, bool)>,
    /// Their cache mode; empty is the one that they have by themselves.
    pub cache: &'static str,
    /// Further arguments, for softmetal only.
    pub arguments: Vec<String>,
}

impl Options {
    fn command(&self, emulator: Emulator) -> Command {
        let append = format!("console=ttyS0 {}", self.append);
        let cpus = self.cpus.max(1).to_string();
        let cache = if self.cache.is_empty() { "writeback" } else { self.cache };
        match emulator {
            Emulator::Softmetal => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
                command.arg("run").args(["--memory", self.memory, "--cpus", &cpus, "--append", &append]);
                command.arg("--kernel").arg(&self.kernel);
                if let Some(initrd) = &self.initrd {
                    command.arg("--initrd").arg(initrd);
                }
                command.args(self.debug_exit.then_some("--debug-exit"));
                command.args(self.no_reboot.then_some("--no-reboot"));
                for (path, format, kept) in &self.disks {
                    let keep = if *kept { "off" } else { "on" };
                    command
                        .arg("--disk")
                        .arg(format!("{},format={format},ephemeral={keep},cache={cache}", path.display()));
                }
                command.args(&self.arguments);
                command
            }
            Emulator::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none"]);
                command.args(["-serial", "stdio", "-m", self.memory, "-smp", &cpus, "-append", &append]);
                command.arg("-kernel").arg(&self.kernel);
                if let Some(initrd) = &self.initrd {
                    command.arg("-initrd").arg(initrd);
                }
                if self.debug_exit {
                    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
                }
                for (path, format, kept) in &self.disks {
                    let keep = if *kept { "off" } else { "on" };
                    let drive = format!(
                        "file={},if=virtio,format={format},cache={cache},snapshot={keep}",
                        path.display()
                    );
                    command.arg("-drive").arg(drive);
                }
                command.args(self.no_reboot.then_some("-no-reboot"));
                command
            }
        }
    }
}

/// A running machine. Its process ends with this value.
pub(crate) struct Guest {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    messages: Option<JoinHandle<String>>,
    /// All that the guest has sent.
    console: Vec<u8>,
    /// How much of `console` has been looked at.
    seen: usize,
    commands: u32,
}

impl Guest {
    /// Starts a machine.
    pub(crate) fn start(options: &Options) -> Result<Self> {
        Self::start_on(Emulator::chosen(), options)
    }

    /// Starts a machine on one of the emulators.
    pub(crate) fn start_on(emulator: Emulator, options: &Options) -> Result<Self> {
        let mut command = options.command(emulator);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take().context("standard input is piped")?;
        let mut stdout = child.stdout.take().context("standard output is piped")?;
        let mut stderr = child.stderr.take().context("standard error is piped")?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let messages = thread::spawn(move || {
            let mut text = Vec::new();
            // What has been said before an error counts all the same.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let messages = Some(messages);
        Ok(Self { child, input, output, messages, console: Vec::new(), seen: 0, commands: 0 })
    }

    /// Starts a machine and waits for the shell of the test RAM disk.
    pub(crate) fn boot(options: &Options, limit: Duration) -> Result<Self> {
        let mut guest = Self::start(options)?;
        guest.expect(READY, limit)?;
        guest.expect("# ", limit)?;
        Ok(guest)
    }

    /// Waits for `text` on the console; the answer is what came before it.
    pub(crate) fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(position) = find(&self.console[self.seen..], text.as_bytes()) {
                let before =
                    String::from_utf8_lossy(&self.console[self.seen..self.seen + position]).into_owned();
                self.seen += position + text.len();
                return Ok(before);
            }
            if !self.receive(deadline).with_context(|| format!("waiting for {text:?}"))? {
                bail!("no {text:?} within {limit:?}; {}", self.tail());
            }
        }
    }

    /// Takes what the guest sends next; false when `deadline` passes before anything comes.
    fn receive(&mut self, deadline: Instant) -> Result<bool> {
        match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => self.console.extend(bytes),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                let end = self.finish(Duration::from_secs(10));
                bail!("the machine has ended: {end:?}; {}", self.tail());
            }
        }
        Ok(true)
    }

    /// Watches `screen`, on which all that the guest sends appears, until `done` says so of its text.
    pub(crate) fn watch(
        &mut self,
        screen: &mut Screen,
        limit: Duration,
        done: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            screen.feed(&self.console[self.seen..]);
            self.seen = self.console.len();
            if done(&screen.text()) {
                return Ok(());
            }
            if !self.receive(deadline)? {
                bail!("after {limit:?} the screen shows\n{}", screen.text());
            }
        }
    }

    /// Types `text`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("the machine takes no input")
    }

    /// Runs a shell command; the answer is what it prints. A command that fails is an error.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.commands += 1;
        let number = self.commands;
        // The arithmetic keeps the typed line, which the shell echoes, apart from the answer.
        let (begin, end) = (number + 1000, number + 2000);
        self.send(&format!(
            "echo \"<$(({number} + 1000))>\"; {command}; echo \"<$?:$(({number} + 2000))>\"\n"
        ))?;
        self.expect(&format!("<{begin}>\r\n"), limit)?;
        let text = self
            .expect(&format!(":{end}>"), limit)
            .with_context(|| format!("while {command:?} was running"))?;
        let (text, status) = text.rsplit_once('<').context("the status follows a '<'")?;
        if status != "0" {
            bail!("{command:?} ended with status {status}: {text}");
        }
        self.expect("# ", limit)?;
        Ok(text.replace('\r', ""))
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot send a signal")
    }

    /// How many bytes of the guest's memory the host holds.
    pub(crate) fn shared_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no RssShmem")?;
        Ok(kibibytes.parse::<u64>()? << 10)
    }

    /// The processor time that the process has taken so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc(5): user and system time are fields 14 and 15, counted from behind the name, which ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Whether the process has ended.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end of the process; the answer is its status and what it said on standard error.
    pub(crate) fn finish(&mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let messages = self.messages.take().map(JoinHandle::join).transpose();
                let messages = messages.map_err(|_| anyhow!("the thread that reads messages panicked"))?;
                // The end of what it sent may still be on its way here.
                self.drain();
                return Ok((status, messages.unwrap_or_default()));
            }
            if Instant::now() > deadline {
                bail!("the machine does not end within {limit:?}; {}", self.tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All that a guest has sent which has ended, lines ending as on the host.
    pub(crate) fn text(&mut self) -> String {
        self.drain();
        String::from_utf8_lossy(&self.console).replace('\r', "")
    }

    /// Receives all that a guest has sent which has ended.
    fn drain(&mut self) {
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_secs(10)) {
            self.console.extend(bytes);
        }
    }

    /// Types the command that switches the machine off, and waits for its end.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        self.send("poweroff -f\n")?;
        let (status, messages) = self.finish(FINISH)?;
        ensure!(status.code() == Some(0), "poweroff ends with {status}: {messages}; {}", self.tail());
        Ok(())
    }

    /// All that the guest has sent so far.
    pub(crate) fn console(&mut self) -> String {
        self.console.extend(self.output.try_iter().flatten());
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// The end of the console, for the message of a failure.
    pub(crate) fn tail(&mut self) -> String {
        self.console.extend(self.output.try_iter().flatten());
        let start = self.console.len().saturating_sub(TAIL);
        let tail = String::from_utf8_lossy(&self.console[start..]);
        format!("the console ends with:\n{}\n", tail.replace('\r', ""))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails where the process has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}
