//! A virtual CPU's thread.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use softmetal_cpu::{Cpu, Exit};

use crate::outcome::{Outcome, Run};

/// Starts the thread of vCPU number `index`. It runs until `run` ends.
pub(crate) fn start(index: usize, cpu: Box<Cpu>, run: &Arc<Run>) -> io::Result<JoinHandle<Box<Cpu>>> {
    run.join(cpu.attention());
    let guard = EndOnPanic(Arc::clone(run));
    thread::Builder::new().name(format!("vcpu {index}")).spawn(move || execute(index, cpu, &guard.0))
}

fn execute(index: usize, mut cpu: Box<Cpu>, run: &Run) -> Box<Cpu> {
    let attention = cpu.attention();
    while run.goes_on() {
        match cpu.run() {
            // A request that came before the wait began ends it at once: nothing is lost.
            Exit::Halted | Exit::WaitForSipi => attention.wait(None),
            Exit::Requested => {}
            Exit::TripleFault => run.end(Outcome::Crashed(describe(index, &cpu))),
        }
    }
    cpu
}

fn describe(index: usize, cpu: &Cpu) -> String {
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
