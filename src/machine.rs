//! A machine: a PC that is run, reset and worked on from outside.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use softmetal_cpu::CpuState;
use softmetal_devices::char::CharBackend;
use softmetal_devices::virtio::balloon::BalloonReport;

use crate::accel::Processor;
use crate::config::{Accel, Config};
use crate::console::{Console, LineEnd, Output, Port, Window};
use crate::debugger::{self, StopSink, Stopped};
use crate::disks::{self, OpenDisk};
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::pc::{FrontPanel, Pc};
use crate::profile::PerfMap;
use crate::statistics::Report;

/// A machine that is built and not yet running.
pub struct Machine {
    config: Config,
    ends: Ends,
    journal: Journal,
    disks: Vec<OpenDisk>,
    perf_map: Option<Arc<PerfMap>>,
    pc: Pc,
    handle: Handle,
}

impl Machine {
    /// Builds the machine that `config` describes, its ports connected to `console`.
    pub fn build(config: &Config, console: &Console) -> Result<Self> {
        let mut config = config.clone();
        let journal = Journal::open(&mut config)?;
        let ends = Ends::new(console);
        let perf_map = PerfMap::open(&config)?;
        let disks = disks::open_all(&config)?;
        let mut pc = Pc::build(&config, &ends, &journal, &disks)?;
        pc.tell_placements(perf_map.as_ref());
        let handle = Handle(Arc::new(Mutex::new(Connection {
            ended: false,
            pc: pc.front_panel(),
            window: console.window(),
        })));
        Ok(Self { config, ends, journal, disks, perf_map, pc, handle })
    }

    /// What works on the machine from outside while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What moves it between engines.
    #[cfg(test)]
    pub(crate) fn switchboard(&self) -> Arc<crate::accel::Switchboard> {
        self.pc.front_panel().switchboard
    }

    /// Runs the machine to its end. A guest that resets it finds it as after power-on, unless `no_reboot` is set.
    /// `report` gets what it has done.
    pub fn run(self, report: &mut Report) -> Result<Outcome> {
        let Self { config, ends, journal, disks, perf_map, mut pc, handle } = self;
        loop {
            let outcome = pc.run(config.sampling(), report);
            // What the guest has not flushed, a real disk would write in the end, too.
            disks::flush_all(&disks);
            let outcome = outcome?;
            if outcome != Outcome::Reset || config.no_reboot {
                return Ok(journal.finish(outcome));
            }
            log::info!("the guest resets the machine");
            pc = Pc::build(&config, &ends, &journal, &disks).context("the machine cannot start again")?;
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
    window: Window,
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

    /// Something has changed at the host's end of a virtio port.
    pub(crate) fn attend(&self, port: Port) {
        let pc = self.pc();
        let (function, number) = match port {
            Port::Terminal => (pc.virtio.terminal, 0),
            Port::Channel(number) => (pc.virtio.channels, number),
        };
        if let Some(function) = function {
            function.lock().attend(number);
        }
    }

    /// The window of the terminal may have another size.
    pub(crate) fn window_changed(&self) {
        let (pc, window) = (self.pc(), self.0.lock().window.clone());
        window.look();
        if let Some(terminal) = pc.virtio.terminal {
            let (columns, rows) = window.size();
            terminal.lock().resize(columns, rows);
        }
    }

    /// Asks the guest to do with `less` of its memory: the balloon shall hold so many bytes. What the balloon does from then
    /// on is the guest's business. False where there is no balloon.
    pub fn inflate_balloon(&self, less: u64) -> bool {
        let Some(balloon) = self.pc().virtio.balloon else { return false };
        balloon.lock().set_target(less);
        true
    }

    /// How many bytes the balloon shall hold, and what it has done; `None` where there is no balloon.
    #[must_use]
    pub fn balloon(&self) -> Option<(u64, BalloonReport)> {
        let balloon = self.pc().virtio.balloon?;
        let balloon = balloon.lock();
        Some((balloon.device().target(), balloon.device().report()))
    }

    /// Stops the guest between two instructions, and its clock with it. Returns when it stands.
    pub fn pause(&self) {
        let pc = self.pc();
        pc.run.pause();
        pc.switchboard.rest();
        pc.clock.pause();
    }

    /// Lets the guest go on after [`Handle::pause`]; it does not notice that time has passed.
    pub fn resume(&self) {
        let pc = self.pc();
        pc.clock.resume();
        pc.switchboard.wake();
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
        pc.virtio.disks.iter().for_each(|disk| disk.lock().device_mut().retry());
        self.resume();
        true
    }

    /// Moves the running machine to another engine: its processors stop between two instructions and go on where they were;
    /// devices and time do not notice. The error is a sentence, and the machine goes on as it was.
    pub fn switch_accel(&self, to: Accel) -> Result<()> {
        let pc = self.pc();
        pc.switchboard.switch(to).map_err(|why| anyhow!(why))
    }

    /// As [`Handle::switch_accel`], to the next engine that there is. Returns which one that is.
    pub fn switch_to_next_accel(&self) -> Result<Accel> {
        let pc = self.pc();
        pc.switchboard.switch_to_next().map_err(|why| anyhow!(why))
    }

    /// The engine that runs the machine.
    pub fn accel(&self) -> Accel {
        self.pc().switchboard.engine()
    }

    /// From here on the machine knows which pages of RAM are written, or no more: what copies RAM while the machine runs begins
    /// with this, then copies all of it, then what [`Handle::written_pages`] says. The error is a sentence.
    pub fn log_writes(&self, on: bool) -> Result<()> {
        let pc = self.pc();
        pc.switchboard.log_writes(on).map_err(|why| anyhow!(why))
    }

    /// The guest-physical addresses of the pages of RAM that were written since the last time, in their order: by processors,
    /// whatever engines have run them meanwhile, and by devices. Some may have been written with what was there. After a reset all
    /// of RAM counts as written. None without [`Handle::log_writes`].
    pub fn written_pages(&self) -> Result<Vec<u64>> {
        let pc = self.pc();
        let pages = pc.switchboard.written_pages().map_err(|why| anyhow!(why))?;
        Ok(pages.into_iter().collect())
    }

    /// The machine stops at these linear addresses, before the instruction there runs, and at no others; whoever
    /// [`Handle::on_stop`] has named is told. What runs the machine is the same to the guest: it sees nothing of it. In KVM four at
    /// most are had: with more, the machine goes to the translator; a KVM in software may not see those in user code. The error is a sentence.
    pub fn set_breakpoints(&self, linear: &[u64]) -> Result<()> {
        let pc = self.pc();
        pc.switchboard.set_breakpoints(&pc.debugger, linear).map_err(|why| anyhow!(why))
    }

    /// Who is told from here on when a processor stops at a breakpoint, and says what becomes of the machine.
    pub fn on_stop(&self, sink: StopSink) {
        self.pc().debugger.set_sink(sink);
    }

    /// The state of a processor of a machine that stands ([`Handle::pause`], [`crate::debugger::Verdict::Stand`]). The error is a
    /// sentence.
    pub fn cpu_state(&self, cpu: usize) -> Result<CpuState> {
        let pc = self.pc();
        pc.switchboard.with_standing(cpu, |processor| processor.cpu.state()).map_err(|why| anyhow!(why))
    }

    /// Runs one instruction of a processor of a machine that stands; the others stand on. No interrupt is delivered before or
    /// behind it; a fault that it raises is. The error is a sentence.
    pub fn single_step(&self, cpu: usize) -> Result<Stopped> {
        let pc = self.pc();
        let step = |processor: &mut Processor| debugger::single_step(cpu, &mut processor.cpu);
        pc.switchboard.with_standing(cpu, step).map_err(|why| anyhow!(why))
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
        // What the user has asked for meanwhile holds for the new one, too.
        if let (Some(old), Some(new)) = (&connection.pc.virtio.balloon, &pc.virtio.balloon) {
            let target = old.lock().device().target();
            new.lock().set_target(target);
        }
        if let Err(why) = pc.switchboard.inherit_breakpoints(&pc.debugger, &connection.pc.debugger) {
            log::error!("the machine does not stop any more: {why}");
        }
        // Whoever copies RAM begins anew with it.
        if connection.pc.switchboard.is_logging_writes() {
            match pc.switchboard.log_writes(true) {
                Ok(()) => pc.switchboard.note_all_of_ram(),
                Err(why) => log::error!("written pages are not noted any more: {why}"),
            }
        }
        connection.pc = pc;
        !connection.ended
    }
}

/// The console's side of the ports, for one PC after the other.
pub(crate) struct Ends {
    output: Output,
    input_wanted: Arc<Mutex<Box<dyn Fn() + Send>>>,
    /// The virtio terminal, if there is one.
    pub(crate) terminal: Option<LineEnd>,
    /// Channels and their names.
    pub(crate) channels: Vec<(String, LineEnd)>,
    /// The size of the terminal's window.
    pub(crate) window: Window,
}

impl Ends {
    pub(crate) fn new(console: &Console) -> Self {
        Self {
            output: console.output(),
            input_wanted: Arc::new(Mutex::new(console.input_wanted())),
            terminal: console.terminal(),
            channels: console.channels(),
            window: console.window(),
        }
    }

    /// Where the serial port sends to.
    pub(crate) fn output(&self) -> Box<dyn CharBackend> {
        Box::new(self.output.clone())
    }

    /// What the serial port calls when it has room again.
    pub(crate) fn input_wanted(&self) -> Box<dyn Fn() + Send> {
        let wanted = Arc::clone(&self.input_wanted);
        Box::new(move || (*wanted.lock())())
    }
}
