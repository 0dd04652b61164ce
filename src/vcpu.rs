//! A virtual CPU's thread.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use softmetal_cpu::{Cpu, Doing, Exit};
use softmetal_devices::bus;
use softmetal_devices::virtio::gathering::Gathering;

use crate::accel::{Counts, Processor, Switchboard, Trouble};
use crate::debugger::Debugger;
use crate::journal::{self, Replayer, Tape};
use crate::lockstep::Lockstep;
use crate::outcome::{Outcome, Run};
use crate::ram_port::RamPort;
use crate::timers::CountedTimers;

/// What runs a processor's instructions.
pub(crate) enum Engine {
    /// One engine at a time.
    One(Box<Processor>),
    /// The CPU that the machine was built with, and another behind it.
    Lockstep(Box<Lockstep>),
}

impl Engine {
    /// The calling thread runs the guest from here on.
    pub(crate) fn begin(&self) {
        if let Self::Lockstep(both) = self {
            both.begin();
        }
    }

    /// As [`Cpu::run_for`].
    pub(crate) fn run_for(&mut self, instructions: u64) -> Result<Exit, Trouble> {
        match self {
            Self::One(processor) => processor.run_for(instructions),
            Self::Lockstep(both) => Ok(both.run_for(instructions)),
        }
    }

    /// The processor as the machine knows it.
    pub(crate) fn cpu(&self) -> &Cpu {
        match self {
            Self::One(processor) => &processor.cpu,
            Self::Lockstep(both) => both.cpu(),
        }
    }

    /// The processor whose engine can change.
    pub(crate) fn processor(&mut self) -> Option<&mut Processor> {
        match self {
            Self::One(processor) => Some(processor),
            Self::Lockstep(_) => None,
        }
    }

    /// The processor without what ran it; of two, the one that the machine knows.
    #[cfg(feature = "testing")]
    pub(crate) fn into_cpu(self) -> Box<Cpu> {
        match self {
            Self::One(processor) => processor.cpu,
            Self::Lockstep(both) => both.into_cpu(),
        }
    }

    /// What a processor in KVM has left it for.
    pub(crate) fn counts(&self) -> Option<Counts> {
        match self {
            Self::One(processor) => processor.counts(),
            Self::Lockstep(_) => None,
        }
    }

    /// The guest runs no more. What is wrong with the engine takes the place of how the run ended.
    pub(crate) fn finish(&mut self, outcome: Outcome) -> Outcome {
        match self {
            Self::One(_) => outcome,
            Self::Lockstep(both) => both.finish().map_or(outcome, Outcome::Failed),
        }
    }
}

/// What makes a CPU look up besides what others ask of it.
pub(crate) enum Course {
    /// It runs; its log, if there is one, and the devices' timers, if its instructions are the time.
    /// Its engine may change.
    Live { tape: Option<Arc<Tape>>, timers: Option<CountedTimers>, gathering: Option<Arc<Gathering>> },
    /// It follows a log.
    Replay(Arc<Replayer>, RamPort),
}

/// Who is told when a processor stops.
pub(crate) struct AtStops {
    pub(crate) debugger: Arc<Debugger>,
    pub(crate) switchboard: Arc<Switchboard>,
}

impl AtStops {
    /// The processor stands before an instruction with a breakpoint. By its thread.
    pub(crate) fn stopped(&self, index: usize, engine: &mut Engine) {
        if let Some(processor) = engine.processor() {
            self.debugger.stopped(index, &mut processor.cpu, &self.switchboard);
        }
    }
}

/// Starts the thread of vCPU number `index`. It runs until `run` ends.
pub(crate) fn start(
    index: usize,
    engine: Arc<Mutex<Engine>>,
    run: &Arc<Run>,
    course: Course,
    stops: AtStops,
) -> io::Result<JoinHandle<()>> {
    run.join(engine.lock().cpu().attention());
    let guard = EndOnPanic(Arc::clone(run));
    let work = move || match course {
        Course::Live { tape, timers, gathering } => {
            let gathering = gathering.as_deref();
            execute(index, &engine, &guard.0, tape.as_deref(), timers.as_ref(), &stops, gathering);
        }
        Course::Replay(log, memory) => journal::execute(&mut engine.lock(), &guard.0, &log, &memory, &stops),
    };
    thread::Builder::new().name(format!("vcpu {index}")).spawn(work)
}

fn execute(
    index: usize,
    engine: &Mutex<Engine>,
    run: &Run,
    tape: Option<&Tape>,
    timers: Option<&CountedTimers>,
    stops: &AtStops,
    gathering: Option<&Gathering>,
) {
    bus::keep_tables();
    let (attention, place) = {
        let engine = engine.lock();
        engine.begin();
        (engine.cpu().attention(), engine.cpu().whereabouts())
    };
    if let Some(tape) = tape {
        tape.begin();
    }
    let mut idle = Idle::default();
    while run.goes_on(&place) {
        // While it waits for the end of a pause others have it.
        let mut engine = engine.lock();
        let mut limit = timers.map_or(u64::MAX, |timers| place.during(Doing::Device, || timers.serve()));
        if let Some(tape) = tape {
            limit = limit.min(tape.limit(engine.cpu()));
            if let Some(failure) = tape.failure() {
                run.end(Outcome::Failed(failure));
                break;
            }
        }
        let exit = match engine.run_for(limit) {
            Ok(exit) => exit,
            Err(Trouble::Stuck(why)) => {
                stops.switchboard.retreat(&why);
                continue;
            }
            Err(Trouble::Failed(why)) => {
                run.end(Outcome::Failed(why));
                continue;
            }
        };
        match exit {
            Exit::Halted if timers.is_some_and(|timers| place.during(Doing::Device, || timers.skip())) => {
                if idle.for_long(engine.cpu()) {
                    place.during(Doing::Idle, || attention.wait(Some(Duration::from_millis(1))));
                }
            }
            // A request that came before the wait began ends it at once: nothing is lost.
            Exit::Halted | Exit::WaitForSipi => {
                if let Some(gathering) = gathering {
                    place.during(Doing::Device, || gathering.processor_is_idle());
                }
                place.during(Doing::Idle, || attention.wait(None));
            }
            Exit::Requested | Exit::Counted | Exit::Outside => {}
            Exit::Breakpoint => stops.stopped(index, &mut engine),
            Exit::TripleFault => run.end(Outcome::Crashed(describe(index, engine.cpu()))),
        }
    }
}

/// Whether a guest for which halted time passes at once has been asleep for so many deadlines that it may never wake: then
/// its processor need not keep the host's busy.
#[derive(Default)]
struct Idle {
    instructions: u64,
    deadlines: u32,
}

impl Idle {
    fn for_long(&mut self, cpu: &Cpu) -> bool {
        const LONG: u32 = 10_000;
        let now = cpu.instructions();
        self.deadlines = if self.instructions == now { self.deadlines.saturating_add(1) } else { 0 };
        self.instructions = now;
        self.deadlines > LONG
    }
}

pub(crate) fn describe(index: usize, cpu: &Cpu) -> String {
    format!("the guest crashed with a triple fault on CPU {index}:\n{}", cpu.state())
}

/// Ends the run when its thread panics, so that nobody waits for it for ever.
struct EndOnPanic(Arc<Run>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end(Outcome::Terminated);
        }
    }
}
