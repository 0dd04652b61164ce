//! What fuzzers and benchmarks need of a machine and nobody else: its board, and processors that stand still until told.

use std::sync::Arc;

use anyhow::Result;
use softmetal_cpu::{Bus, Cpu, Ram};

use crate::board::Board;
use crate::config::{ClockSource, Config};
use crate::console::Console;
use crate::disks;
use crate::journal::Journal;
use crate::machine::Ends;
use crate::pc::{FrontPanel, Pc};
use crate::timers::CountedTimers;

/// A PC whose processors stand still, to do to its devices what a guest could. Its time moves by [`Bench::advance`], and by
/// what the first processor is told to run.
pub struct Bench {
    pub(crate) board: Arc<Board>,
    pub(crate) timers: CountedTimers,
    #[allow(
        clippy::vec_box,
        reason = "a CPU is large and holds pointers into itself, so it stays where it was made"
    )]
    pub(crate) cpus: Vec<Box<Cpu>>,
    pub(crate) ram: Arc<Ram>,
    pub(crate) front_panel: FrontPanel,
}

impl Bench {
    /// The PC that `config` describes.
    pub fn new(config: Config) -> Result<Self> {
        let config = Config { clock: ClockSource::Instructions, ..config };
        // A console that is gone takes whatever the serial port sends.
        let ends = Ends::new(&Console::new());
        Ok(Pc::build(&config, &ends, &Journal::None, &disks::open_all(&config)?)?.bench())
    }

    /// The devices, as processors see them.
    pub fn bus(&self) -> &dyn Bus {
        &*self.board
    }

    /// The first processor, which stands at the kernel's entry.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.cpus[0]
    }

    /// RAM, as processors see it.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Lets so many nanoseconds pass, and the devices act that are due then.
    pub fn advance(&self, ns: u64) {
        self.board.clock.advance(ns);
        self.timers.serve();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.front_panel.pm.lock().press_power_button();
    }

    /// Offers input to the first serial port.
    pub fn serial_input(&self, bytes: &[u8]) {
        self.front_panel.com1.lock().receive(bytes);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.board.take_apart();
    }
}
