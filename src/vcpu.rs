//! A virtual CPU's thread.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use softmetal_cpu::{Cpu, Exit, Ram};

use crate::journal::{self, Replayer, Tape};
use crate::outcome::{Outcome, Run};
use crate::timers::CountedTimers;

/// What makes a CPU look up besides what others ask of it.
pub(crate) enum Course {
    /// It runs; its log, if there is one, and the devices' timers, if its instructions are the time.
    Live { tape: Option<Arc<Tape>>, timers: Option<CountedTimers> },
    /// It follows a log.
    Replay(Arc<Replayer>, Arc<Ram>),
}

/// Starts the thread of vCPU number `index`. It runs until `run` ends.
pub(crate) fn start(
    index: usize,
    cpu: Box<Cpu>,
    run: &Arc<Run>,
    course: Course,
) -> io::Result<JoinHandle<Box<Cpu>>> {
    run.join(cpu.attention());
    let guard = EndOnPanic(Arc::clone(run));
    let work = move || match course {
        Course::Live { tape, timers } => execute(index, cpu, &guard.0, tape.as_deref(), timers.as_ref()),
        Course::Replay(log, ram) => journal::execute(cpu, &guard.0, &log, &ram),
    };
    thread::Builder::new().name(format!("vcpu {index}")).spawn(work)
}

fn execute(
    index: usize,
    mut cpu: Box<Cpu>,
    run: &Run,
    tape: Option<&Tape>,
    timers: Option<&CountedTimers>,
) -> Box<Cpu> {
    let attention = cpu.attention();
    if let Some(tape) = tape {
        tape.begin();
    }
    let mut idle = Idle::default();
    while run.goes_on() {
        let mut limit = timers.map_or(u64::MAX, CountedTimers::serve);
        if let Some(tape) = tape {
            limit = limit.min(tape.limit(&cpu));
            if let Some(failure) = tape.failure() {
                run.end(Outcome::Failed(failure));
                break;
            }
        }
        let exit = if limit == u64::MAX { cpu.run() } else { cpu.run_for(limit) };
        match exit {
            Exit::Halted if timers.is_some_and(CountedTimers::skip) => {
                if idle.for_long(&cpu) {
                    attention.wait(Some(Duration::from_millis(1)));
                }
            }
            // A request that came before the wait began ends it at once: nothing is lost.
            Exit::Halted | Exit::WaitForSipi => attention.wait(None),
            Exit::Requested | Exit::Counted => {}
            Exit::TripleFault => run.end(Outcome::Crashed(describe(index, &cpu))),
        }
    }
    cpu
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
