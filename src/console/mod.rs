//! The host side of the guest's ports: the serial port, the virtio terminal, channels. Terminal, pipe, file or socket.
//!
//! A [`Console`] is made before the machine, so that its ports have somewhere to send to; it is [opened](Console::open) when
//! the machine stands, so that nothing is left behind where building fails.

mod escape;
mod inbox;
mod line;
mod outbox;
mod socket;
mod terminal;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Result;

use crate::config::Config;
use crate::machine::Handle;
use crate::statistics::balloon_in_words;
use escape::Wish;
use line::{Feed, Line};

pub(crate) use line::LineEnd;
pub use line::Output;

/// A virtio port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The terminal.
    Terminal,
    /// A channel, by its number from 0 on.
    Channel(usize),
}

/// The host side of the guest's ports.
#[derive(Debug)]
pub struct Console {
    serial: Line,
    terminal: Option<Line>,
    channels: Vec<(String, Line)>,
    window: Window,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console that leads nowhere yet, for a machine with serial ports alone; output waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            serial: Line::new("--serial"),
            terminal: None,
            channels: Vec::new(),
            window: Window::default(),
        }
    }

    /// A console for all ports that `config` asks for.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let channel = |channel: &crate::config::Channel| (channel.name.clone(), Line::new("--channel"));
        Self {
            terminal: config.console.as_ref().map(|_| Line::new("--console")),
            channels: config.channels.iter().map(channel).collect(),
            ..Self::new()
        }
    }

    /// Where the serial port sends to.
    #[must_use]
    pub fn output(&self) -> Output {
        self.serial.output()
    }

    /// What the serial port calls when it wants input after having refused some.
    #[must_use]
    pub fn input_wanted(&self) -> Box<dyn Fn() + Send> {
        self.serial.input_wanted()
    }

    /// The end of the virtio terminal, if there is one.
    pub(crate) fn terminal(&self) -> Option<LineEnd> {
        self.terminal.as_ref().map(|line| line.end(true))
    }

    /// The ends of channels and their names.
    pub(crate) fn channels(&self) -> Vec<(String, LineEnd)> {
        self.channels.iter().map(|(name, line)| (name.clone(), line.end(false))).collect()
    }

    /// The size of the virtio terminal's window.
    pub(crate) fn window(&self) -> Window {
        self.window.clone()
    }

    /// Connects all ports as `config` says, the guest's side by way of `machine`; a terminal goes raw, and Ctrl-A begins a
    /// command on it.
    pub fn open(&mut self, config: &Config, machine: &Handle) -> Result<()> {
        let memory = config.memory;
        let wish = || {
            let machine = machine.clone();
            Box::new(move |wish| obey(wish, &machine, memory))
        };
        let tell = |port| {
            let machine = machine.clone();
            Feed::Tell(Box::new(move || machine.attend(port)))
        };
        let serial = machine.clone();
        let feed = Feed::Offer(Box::new(move |bytes| serial.serial_input(bytes)));
        self.serial.open(&config.serial, feed, wish())?;
        if let (Some(line), Some(target)) = (&mut self.terminal, &config.console) {
            self.window.look();
            line.open(target, tell(Port::Terminal), wish())?;
        }
        for (number, (wanted, (_, line))) in config.channels.iter().zip(&mut self.channels).enumerate() {
            let target = crate::config::SerialTarget::Unix(wanted.path.clone());
            line.open(&target, tell(Port::Channel(number)), wish())?;
        }
        Ok(())
    }
}

/// Does what the user wishes of a machine with so much memory.
fn obey(wish: Wish, machine: &Handle, memory: u64) {
    let say = |text: &str| {
        // Standard error may be gone; the answer is then of no use.
        let _ = write!(std::io::stderr(), "\r\n{text}\r\n");
    };
    if wish == Wish::End {
        machine.terminate();
        return;
    }
    if wish == Wish::Engine {
        match machine.switch_to_next_accel() {
            Ok(accel) => say(&format!("the machine runs on {}", accel.name())),
            Err(error) => say(&format!("{error:#}")),
        }
        return;
    }
    let Some((target, report)) = machine.balloon() else {
        say("this machine has no balloon: start it with --balloon");
        return;
    };
    let step = memory / 8;
    let target = match wish {
        Wish::LessMemory => target.saturating_add(step).min(memory - step),
        Wish::MoreMemory => target.saturating_sub(step),
        Wish::ShowMemory | Wish::End | Wish::Engine => {
            say(&format!("the balloon {}", balloon_in_words(&report)));
            return;
        }
    };
    machine.inflate_balloon(target);
    say(&format!("the balloon shall hold {} of {} MiB", target >> 20, memory >> 20));
}

/// The size of the terminal's window, as the guest is told it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window(Arc<AtomicU32>);

impl Window {
    /// Columns and rows, zero where they are not known.
    pub(crate) fn size(&self) -> (u16, u16) {
        let both = self.0.load(Relaxed);
        (both as u16, (both >> 16) as u16)
    }

    /// Looks how large the terminal on standard input is now.
    pub(crate) fn look(&self) {
        if let Some((columns, rows)) = terminal::size() {
            self.0.store(u32::from(columns) | u32::from(rows) << 16, Relaxed);
        }
    }
}

/// Leaves nothing behind, however the process ends: puts the terminal back, removes the socket.
pub fn clean_up() {
    terminal::restore();
    socket::remove_all();
}

/// The process is about to be stopped: the terminal is the shell's meanwhile.
pub(crate) fn suspend() {
    terminal::suspend();
}

/// The process goes on after a stop.
pub(crate) fn resume() {
    terminal::resume();
}
