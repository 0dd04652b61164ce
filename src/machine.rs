//! A machine: a PC that is run, reset and worked on from outside.

use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use softmetal_devices::char::CharBackend;

use crate::config::Config;
use crate::console::{Console, Output};
use crate::disks::{self, OpenDisk};
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::pc::{FrontPanel, Pc};
use crate::profile::PerfMap;
use crate::statistics::Report;

/// A machine that is built and not yet running.
pub struct Machine {
    config: Config,
    serial: SerialEnd,
    journal: Journal,
    disks: Vec<OpenDisk>,
    perf_map: Option<Arc<PerfMap>>,
    pc: Pc,
    handle: Handle,
}

impl Machine {
    /// Builds the machine that `config` describes, its first serial port connected to `console`.
    pub fn build(config: &Config, console: &Console) -> Result<Self> {
        let mut config = config.clone();
        let journal = Journal::open(&mut config)?;
        let serial = SerialEnd::new(console);
        let perf_map = PerfMap::open(&config)?;
        let disks = disks::open_all(&config)?;
        let mut pc = Pc::build(&config, &serial, &journal, &disks)?;
        pc.tell_placements(perf_map.as_ref());
        let handle = Handle(Arc::new(Mutex::new(Connection { ended: false, pc: pc.front_panel() })));
        Ok(Self { config, serial, journal, disks, perf_map, pc, handle })
    }

    /// What works on the machine from outside while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the machine to its end. A guest that resets it finds it as after power-on, unless `no_reboot` is set.
    /// `report` gets what it has done.
    pub fn run(self, report: &mut Report) -> Result<Outcome> {
        let Self { config, serial, journal, disks, perf_map, mut pc, handle } = self;
        loop {
            let outcome = pc.run(config.sampling(), report);
            // What the guest has not flushed, a real disk would write in the end, too.
            disks::flush_all(&disks);
            let outcome = outcome?;
            if outcome != Outcome::Reset || config.no_reboot {
                return Ok(journal.finish(outcome));
            }
            log::info!("the guest resets the machine");
            pc = Pc::build(&config, &serial, &journal, &disks).context("the machine cannot start again")?;
            pc.tell_placements(perf_map.as_ref());
            if !handle.connect(pc.front_panel()) {
                return Ok(journal.finish(Outcome::Terminated));
            }
        }
    }
}

/// Works on a running machine from other threads; it stays right when the guest resets the machine.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Connection>>);

struct Connection {
    ended: bool,
    pc: FrontPanel,
}

impl Handle {
    /// Presses the power button. False when the guest does not listen to it.
    pub fn press_power_button(&self) -> bool {
        let pc = self.pc();
        pc.pm.lock().press_power_button()
    }

    /// Offers input to the first serial port, which takes as much as it has room for: so many bytes. It takes none before
    /// the guest listens, so that drivers that clear the port when they start lose nothing.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        let pc = self.pc();
        let mut com1 = pc.com1.lock();
        if com1.wants_input() { com1.receive(bytes) } else { 0 }
    }

    /// Stops the guest between two instructions, and its clock with it. Returns when it stands.
    pub fn pause(&self) {
        let pc = self.pc();
        pc.run.pause();
        pc.clock.pause();
    }

    /// Lets the guest go on after [`Handle::pause`]; it does not notice that time has passed.
    pub fn resume(&self) {
        let pc = self.pc();
        pc.clock.resume();
        pc.timers.resumed();
        pc.run.resume();
    }

    /// Lets the guest go on that an error of the host has stopped; what failed is tried again. False where it is not
    /// stopped.
    pub fn try_again(&self) -> bool {
        let pc = self.pc();
        if !pc.run.is_paused() {
            return false;
        }
        pc.disks.iter().for_each(|disk| disk.lock().device_mut().retry());
        self.resume();
        true
    }

    /// Ends the machine at once.
    pub fn terminate(&self) {
        let mut connection = self.0.lock();
        connection.ended = true;
        connection.pc.run.end(Outcome::Terminated);
    }

    /// The PC of this moment. The lock is not held while working on it: a serial port may wait for its reader.
    fn pc(&self) -> FrontPanel {
        self.0.lock().pc.clone()
    }

    /// Turns to the PC that has taken the place of the last one. False when the machine was ended meanwhile.
    fn connect(&self, pc: FrontPanel) -> bool {
        let mut connection = self.0.lock();
        connection.pc = pc;
        !connection.ended
    }
}

/// The console's side of the first serial port, for one PC after the other.
pub(crate) struct SerialEnd {
    output: Output,
    input_wanted: Arc<Mutex<Box<dyn Fn() + Send>>>,
}

impl SerialEnd {
    pub(crate) fn new(console: &Console) -> Self {
        Self { output: console.output(), input_wanted: Arc::new(Mutex::new(console.input_wanted())) }
    }

    /// Where the port sends to.
    pub(crate) fn output(&self) -> Box<dyn CharBackend> {
        Box::new(self.output.clone())
    }

    /// What the port calls when it has room again.
    pub(crate) fn input_wanted(&self) -> Box<dyn Fn() + Send> {
        let wanted = Arc::clone(&self.input_wanted);
        Box::new(move || (*wanted.lock())())
    }
}
