//! Moving a running machine from one engine to another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use softmetal_cpu::{HAS_TRANSLATOR, Translate};
use softmetal_devices::interrupts::LapicPage;
use softmetal_devices::irq::MsiSink;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{Processor, SOFTWARE, kvm};
use crate::board::Board;
use crate::config::Accel;
use crate::debugger::Debugger;
use crate::outcome::{Outcome, Run};
use crate::ram_port::RamPort;
use crate::vcpu::Engine;

/// Rescues in a second that a machine bears whose engine was chosen for its speed.
const RESCUES: u32 = 20_000;

/// What moves a machine between engines.
pub(crate) struct Switchboard {
    pub(crate) board: Arc<Board>,
    pub(crate) memory: RamPort,
    pub(crate) run: Arc<Run>,
    /// How the translator works.
    pub(crate) translate: Translate,
    /// Why this machine stays with its engine.
    pub(crate) fixed: Option<&'static str>,
    /// The machine repeats the run of a log.
    pub(crate) follows_log: bool,
    /// The processor is the host's, so that only KVM can run the machine.
    pub(crate) only_kvm: bool,
    /// The engine was chosen for the user, so another may take its place.
    pub(crate) automatic: bool,
    /// Whether KVM can have the machine that has begun elsewhere; why not. It is asked once.
    pub(crate) may_enter_kvm: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    pub(crate) state: Mutex<State>,
}

/// Who runs the machine.
pub(crate) struct State {
    pub(crate) now: Accel,
    vm: Option<Arc<kvm::Vm>>,
    /// Why KVM cannot have it.
    refused: Option<String>,
    /// It is out of KVM for as long as it is paused.
    resting: bool,
    /// Those of the processors, in their order; none before the machine is built and after its end.
    engines: Vec<Arc<Mutex<Engine>>>,
}

impl State {
    /// A machine that is to begin with this engine; KVM takes it over.
    pub(crate) fn of(accel: Accel) -> Self {
        let now = match accel {
            Accel::Auto => SOFTWARE,
            Accel::Kvm => Accel::Interp,
            accel => accel,
        };
        Self { now, vm: None, refused: None, resting: false, engines: Vec::new() }
    }
}

impl Switchboard {
    /// The engine that runs the machine.
    pub(crate) fn engine(&self) -> Accel {
        self.state.lock().now
    }

    /// Moves the machine to another engine: its processors stop between two instructions and go on where they were. Time goes
    /// on. The error is a sentence; the machine goes on as it was, unless it has failed. Not for a processor's thread.
    pub(crate) fn switch(&self, to: Accel) -> Result<(), String> {
        let mut state = self.state.lock();
        let to = if to == Accel::Auto { SOFTWARE } else { to };
        if state.now == to || state.engines.is_empty() {
            return Ok(());
        }
        if let Some(why) = self.fixed {
            return Err(format!("the machine stays with its engine: {why}"));
        }
        if self.only_kvm && to != Accel::Kvm {
            return Err("the machine stays in KVM: --cpu host is the host's processor".into());
        }
        if to == Accel::Jit && !HAS_TRANSLATOR {
            return Err("the translator is not in this build".into());
        }
        if to == Accel::Kvm && state.vm.is_none() {
            if state.refused.is_none() {
                state.refused = (self.may_enter_kvm)().err();
            }
            if let Some(why) = &state.refused {
                return Err(why.clone());
            }
        }
        state.resting = false;
        let paused = self.run.pause();
        if !paused && to == Accel::Kvm {
            // The user has paused it: it comes to KVM when its clock goes on.
            state.resting = true;
            return Ok(());
        }
        let result = self.switch_stopped(&mut state, to);
        if paused {
            self.run.resume();
        }
        result
    }

    /// From here on the machine knows which pages of RAM are written, or no more.
    pub(crate) fn log_writes(&self, on: bool) -> Result<(), String> {
        let mut state = self.state.lock();
        self.stopped(&mut state, |state, processors| {
            self.memory.dirty().switch(on);
            for processor in processors {
                if on {
                    processor.cpu.log_writes();
                } else {
                    processor.cpu.stop_logging_writes();
                }
            }
            state.vm.as_ref().map_or(Ok(()), |vm| vm.log_writes()).map_err(|error| error.to_string())
        })
    }

    /// The pages of RAM that were written since the last time, by processors and by devices, whatever engine has run the machine
    /// meanwhile.
    pub(crate) fn written_pages(&self) -> Result<BTreeSet<u64>, String> {
        let mut state = self.state.lock();
        self.stopped(&mut state, |state, processors| {
            if let Some(vm) = &state.vm {
                vm.collect_written().map_err(|error| error.to_string())?;
            }
            let mut pages = self.memory.dirty().take();
            pages.extend(processors.iter_mut().flat_map(|processor| processor.cpu.written_pages()));
            Ok(pages)
        })
    }

    /// All of RAM counts as written.
    pub(crate) fn note_all_of_ram(&self) {
        for region in self.memory.ram.memory().iter() {
            let start = region.start_addr().0;
            self.memory.dirty().note(start..start + region.len());
        }
    }

    /// Whether the machine knows which pages are written.
    pub(crate) fn is_logging_writes(&self) -> bool {
        self.memory.dirty().is_on()
    }

    /// Does something while the processors stand.
    fn stopped<T>(
        &self,
        state: &mut State,
        work: impl FnOnce(&mut State, &mut [&mut Processor]) -> Result<T, String>,
    ) -> Result<T, String> {
        if state.engines.is_empty() {
            return Err("the machine does not run".into());
        }
        let paused = self.run.pause();
        let engines = state.engines.clone();
        let mut guards: Vec<_> = engines.iter().map(|engine| engine.lock()).collect();
        let mut processors: Vec<&mut Processor> =
            guards.iter_mut().filter_map(|engine| engine.processor()).collect();
        let result = match processors.len() == engines.len() {
            true => work(state, &mut processors),
            false => Err("the machine has two engines in lockstep".into()),
        };
        drop(processors);
        drop(guards);
        if paused {
            self.run.resume();
        }
        result
    }

    /// The processors are there.
    pub(crate) fn open(&self, engines: Vec<Arc<Mutex<Engine>>>) {
        self.state.lock().engines = engines;
    }

    /// The machine has ended: nothing is moved any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.engines.clear();
        state.vm = None;
    }

    /// The machine is paused, and its clock is about to be: it leaves KVM, whose timers and TSC cannot stand still.
    pub(crate) fn rest(&self) {
        let mut state = self.state.lock();
        if state.now == Accel::Kvm && !state.engines.is_empty() {
            state.resting = self.switch_stopped(&mut state, Accel::Interp).is_ok();
        }
    }

    /// The pause is about to end, and the clock goes on: back into KVM.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.resting)
            && let Err(why) = self.switch_stopped(&mut state, Accel::Kvm)
        {
            log::warn!("the machine does not come back to KVM: {why}");
        }
    }

    /// The machine stands soon, and its clock: for a processor's thread.
    pub(crate) fn stand(self: &Arc<Self>) {
        self.run.pause_soon();
        // Who has the lock may be waiting for this thread.
        if self.state.try_lock().is_some_and(|state| state.now != Accel::Kvm) {
            self.board.clock.pause();
            return;
        }
        let this = Arc::clone(self);
        let work = move || {
            this.run.pause();
            this.rest();
            this.board.clock.pause();
        };
        if let Err(error) = thread::Builder::new().name("stand".into()).spawn(work) {
            self.run.end(Outcome::Failed(format!("cannot start a thread that leaves KVM: {error}")));
        }
    }

    /// Works on the CPU of a processor of a machine that stands.
    pub(crate) fn with_standing<T>(
        &self,
        index: usize,
        work: impl FnOnce(&mut Processor) -> T,
    ) -> Result<T, String> {
        let state = self.state.lock();
        if !self.run.is_paused() || state.now == Accel::Kvm {
            return Err("the machine runs; pause it first".into());
        }
        let engine = state.engines.get(index).ok_or_else(|| format!("there is no processor {index}"))?;
        // A replay, and two engines in lockstep, do not let go of it.
        let engine = engine.try_lock();
        let mut engine = engine.ok_or("the processor is not to be had: it follows a log")?;
        engine.processor().map(work).ok_or_else(|| "the machine has two engines in lockstep".into())
    }

    /// Gives all processors other breakpoints.
    pub(crate) fn set_breakpoints(&self, debugger: &Debugger, places: &[u64]) -> Result<(), String> {
        if self.follows_log {
            return Err("a replay has the breakpoints of its beginning".into());
        }
        let mut state = self.state.lock();
        self.stopped(&mut state, |_, processors| {
            debugger.set_places(places);
            processors.iter_mut().for_each(|processor| debugger.arm(&mut processor.cpu));
            Ok(())
        })
    }

    /// The machine is one that was reset: its breakpoints are those of the one before.
    pub(crate) fn inherit_breakpoints(&self, new: &Debugger, old: &Debugger) -> Result<(), String> {
        if !new.succeed(old) || self.follows_log {
            return Ok(());
        }
        let mut state = self.state.lock();
        self.stopped(&mut state, |_, processors| {
            processors.iter_mut().for_each(|processor| new.arm(&mut processor.cpu));
            Ok(())
        })
    }

    /// The next engine that there is, in the order KVM, translator, interpreter.
    pub(crate) fn switch_to_next(&self) -> Result<Accel, String> {
        let order = [Accel::Kvm, Accel::Jit, Accel::Interp];
        let now = order.iter().position(|accel| *accel == self.engine()).unwrap_or(0);
        let mut last = Err(String::new());
        for step in 1..order.len() {
            let to = order[(now + step) % order.len()];
            last = self.switch(to).map(|()| to);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// The machine leaves KVM, which could not go on: as soon as the calling thread, a processor's, has come to
    /// [`Run::goes_on`].
    pub(crate) fn retreat(self: &Arc<Self>, why: &str) {
        if self.only_kvm {
            self.run.end(Outcome::Failed(format!(
                "{why}; with --cpu host no other engine can go on, with --cpu max,leak=on one could"
            )));
            return;
        }
        log::warn!("{why}; the machine goes on without KVM");
        let this = Arc::clone(self);
        let work = move || {
            let to = if HAS_TRANSLATOR { Accel::Jit } else { Accel::Interp };
            if let Err(why) = this.switch(to) {
                this.run.end(Outcome::Failed(why));
            }
        };
        if let Err(error) = thread::Builder::new().name("switch".into()).spawn(work) {
            self.run.end(Outcome::Failed(format!("cannot start a thread that leaves KVM: {error}")));
        }
    }

    fn switch_stopped(&self, state: &mut State, to: Accel) -> Result<(), String> {
        let engines = state.engines.clone();
        let mut guards: Vec<_> = engines.iter().map(|engine| engine.lock()).collect();
        let mut processors: Vec<&mut Processor> =
            guards.iter_mut().filter_map(|engine| engine.processor()).collect();
        if processors.len() != engines.len() {
            return Err("the machine stays with its engines: it has two".into());
        }
        if to == Accel::Kvm {
            self.enter_kvm(state, &mut processors)?;
        } else {
            if state.now == Accel::Kvm {
                self.leave_kvm(state, &mut processors).inspect_err(|why| {
                    self.run.end(Outcome::Failed(why.clone()));
                })?;
            }
            let wanted = (to == Accel::Jit).then_some(self.translate);
            if !processors.iter_mut().all(|processor| processor.set_translate(wanted)) {
                log::warn!("the translator does not work on this host: everything is interpreted");
            }
        }
        state.now = to;
        Ok(())
    }

    fn enter_kvm(&self, state: &mut State, processors: &mut [&mut Processor]) -> Result<(), String> {
        let failed = |error: kvm::Error| error.to_string();
        let vm = match (&state.vm, processors.first()) {
            (Some(vm), _) => Arc::clone(vm),
            (None, None) => return Err("the machine has no processor".into()),
            (None, Some(first)) => {
                let vm = kvm::Vm::new(&self.memory, first.cpu.attention(), self.only_kvm).map_err(failed)?;
                self.memory.tell_map(vm.clone());
                state.vm.insert(vm).clone()
            }
        };
        for (index, processor) in processors.iter_mut().enumerate() {
            if processor.hardware.is_none() {
                let vcpu = kvm::Vcpu::new(&vm, &self.board, index, &processor.cpu).map_err(failed)?;
                processor.hardware = Some(vcpu);
            }
        }
        // INIT and start-up messages that have come since are taken first.
        for processor in processors.iter_mut() {
            processor.cpu.run_for(0);
        }
        let interrupts = &self.board.interrupts;
        vm.hold();
        interrupts.give_away(vm.clone());
        vm.align(&self.board.clock);
        let pages: Vec<LapicPage> =
            (0..processors.len()).map(|cpu| interrupts.take_lapic_page(cpu)).collect();
        let entered = processors.iter_mut().zip(&pages).try_for_each(|(processor, page)| {
            let Processor { cpu, hardware, in_hardware, stuck } = &mut **processor;
            if let Some(vcpu) = hardware {
                vcpu.set_allowance(self.automatic.then_some(RESCUES));
                vcpu.enter(cpu, page)?;
                (*in_hardware, *stuck) = (true, false);
            }
            Ok(())
        });
        if let Err(error) = entered {
            // KVM has not run: everything is as it was.
            processors.iter_mut().for_each(|processor| processor.in_hardware = false);
            self.take_back(&vm, &pages);
            return Err(failed(error));
        }
        vm.release();
        Ok(())
    }

    fn leave_kvm(&self, state: &State, processors: &mut [&mut Processor]) -> Result<(), String> {
        let Some(vm) = &state.vm else { return Ok(()) };
        vm.hold();
        vm.align(&self.board.clock);
        let leave = |processor: &mut &mut Processor| {
            let Processor { cpu, hardware, in_hardware, stuck } = &mut **processor;
            (*in_hardware, *stuck) = (false, false);
            hardware.as_mut().map(|vcpu| vcpu.leave(cpu)).transpose()
        };
        let pages: Result<Option<Vec<_>>, _> = processors.iter_mut().map(leave).collect();
        let pages = pages.map_err(|error| error.to_string())?.unwrap_or_default();
        self.take_back(vm, &pages);
        Ok(())
    }

    fn take_back(&self, vm: &kvm::Vm, pages: &[LapicPage]) {
        let interrupts = &self.board.interrupts;
        for (cpu, page) in pages.iter().enumerate() {
            interrupts.set_lapic_page(cpu, page);
        }
        interrupts.take_back();
        for (address, data) in vm.take_held() {
            interrupts.send(address, data);
        }
    }
}
