//! Running from a log: a bus that answers as the board did, and the thread that brings what came between instructions.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use parking_lot::Mutex;
use softmetal_cpu::{Attention, Bus, Cpu, Event, Exit, Request};
use softmetal_devices::chipset::debug_console::DEBUG_CONSOLE_PORT;
use softmetal_devices::chipset::uart::{COM1, UART_PORTS};

use super::answers::Script;
use super::entry::{End, Entry, Happening, Moment, Question};
use super::{Reader, digest_memory, moment};
use crate::board::Board;
use crate::outcome::{Outcome, Run};
use crate::ram_port::RamPort;
use crate::vcpu::{AtStops, Engine};

/// More questions than there can be between two checkpoints.
const MOST_QUESTIONS: usize = 1 << 24;

/// The log that is being followed. The first thing that is not as it says ends the run.
pub(crate) struct Replayer {
    state: Mutex<State>,
}

struct State {
    reader: Reader,
    /// Read ahead up to the next moment.
    queue: VecDeque<Entry>,
    /// What is on its way to the CPU.
    armed: Option<(Moment, Happening)>,
    failure: Option<String>,
    /// Of the CPU that runs.
    attention: Option<Arc<Attention>>,
}

impl State {
    /// Reads ahead up to the next moment between two instructions.
    fn next_moment(&mut self) -> Result<Moment, String> {
        loop {
            if let Some(Entry::At(moment, _)) = self.queue.back() {
                return Ok(*moment);
            }
            if self.queue.len() > MOST_QUESTIONS {
                return Err(self.reader.wrong("it is damaged: no checkpoint comes for too long"));
            }
            let entry = self.reader.next()?;
            if let Entry::Start { .. } = entry {
                return Err(self
                    .reader
                    .wrong("it is damaged: a machine begins before the last one has ended"));
            }
            self.queue.push_back(entry);
        }
    }
}

/// What a machine of the log begins with.
pub(crate) struct Start {
    pub(crate) tsc_hz: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) rng_seed: [u8; 32],
    pub(crate) memory: u64,
    pub(crate) registers: u64,
}

impl Replayer {
    pub(super) fn new(reader: Reader) -> Arc<Self> {
        let state = State { reader, queue: VecDeque::new(), armed: None, failure: None, attention: None };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The next machine of the log.
    pub(crate) fn start(&self) -> Result<Start> {
        let mut state = self.state.lock();
        match state.reader.next().map_err(|what| anyhow!(what))? {
            Entry::Start { tsc_hz, uuid, rng_seed, memory, registers } => {
                Ok(Start { tsc_hz, uuid, rng_seed, memory, registers })
            }
            _ => Err(anyhow!(state.reader.wrong("it is damaged: no machine begins where one should"))),
        }
    }

    fn fail(&self, state: &mut State, what: String) {
        state.failure.get_or_insert(what);
        if let Some(attention) = &state.attention {
            attention.request(Request::EXIT);
        }
    }

    /// The run is not that of the log.
    fn diverge(&self, state: &mut State, instructions: u64, what: &str) {
        self.fail(state, format!("the replay leaves its log at instruction {instructions}: {what}"));
    }

    /// Something comes to the CPU: is it what the log has, and where?
    fn event(&self, cpu: &Cpu, event: Event) {
        let mut state = self.state.lock();
        let here = moment(cpu);
        let happening = Happening::from(event);
        match state.armed.take() {
            Some((then, what)) if what == happening => self.compare(&mut state, &what, then, here),
            _ => self.diverge(
                &mut state,
                here.instructions,
                &format!("{happening} comes, which the log has not"),
            ),
        }
    }

    fn compare(&self, state: &mut State, what: &Happening, then: Moment, here: Moment) {
        let difference = if then.instructions != here.instructions {
            format!("{what} came at instruction {} in the log", then.instructions)
        } else if then.rip != here.rip {
            format!("{what} finds rip at {:#x}, in the log at {:#x}", here.rip, then.rip)
        } else if then.registers != here.registers {
            format!("{what} finds other values in the registers than the log, at rip {:#x}", here.rip)
        } else {
            return;
        };
        self.diverge(state, here.instructions, &difference);
    }

    /// The CPU has come as far as the next moment, or halts before it. Brings what is there; an end gives its outcome.
    fn arrive(&self, cpu: &Cpu, memory: &RamPort) -> Option<Outcome> {
        let mut state = self.state.lock();
        let here = moment(cpu);
        apply_writes(&mut state, memory);
        if let Some((_, what)) = &state.armed {
            let difference = format!("{what} does not come to the guest, which holds it back");
            self.diverge(&mut state, here.instructions, &difference);
            return None;
        }
        let (then, what) = match state.queue.pop_front() {
            Some(Entry::At(then, what)) => (then, what),
            Some(Entry::Asked(question, _)) => {
                let difference = format!("the log has {question} before this, the guest has not");
                self.diverge(&mut state, here.instructions, &difference);
                return None;
            }
            _ => return None,
        };
        if then.instructions != here.instructions {
            let difference = format!("the guest halts, in the log {what} comes at {}", then.instructions);
            self.diverge(&mut state, here.instructions, &difference);
            return None;
        }
        let request = match what {
            Happening::Interrupt(_) => Request::INTERRUPT,
            Happening::Nmi => Request::NMI,
            Happening::Init => Request::INIT,
            Happening::Checkpoint | Happening::End(..) => {
                self.compare(&mut state, &what, then, here);
                let Happening::End(end, digest) = what else { return None };
                if state.failure.is_none() && digest_memory(memory.ram.memory()) != digest {
                    self.diverge(
                        &mut state,
                        here.instructions,
                        "guest memory at the end is not as in the log",
                    );
                }
                return Some(match end {
                    End::PoweredOff => Outcome::PoweredOff,
                    End::Reset => Outcome::Reset,
                    End::DebugExit(value) => Outcome::DebugExit(value),
                    End::Crashed => Outcome::Crashed(crate::vcpu::describe(0, cpu)),
                    End::Terminated => Outcome::Terminated,
                });
            }
        };
        state.armed = Some((then, what));
        cpu.attention().request(request);
        None
    }
}

/// What devices and chips have done to memory at this point of the log.
fn apply_writes(state: &mut State, memory: &RamPort) {
    loop {
        match state.queue.front() {
            Some(Entry::Dma(at, bytes)) => memory.write(*at, bytes),
            Some(Entry::Rights(range, rights)) => memory.set_rights(range.clone(), *rights),
            _ => return,
        }
        state.queue.pop_front();
    }
}

/// Runs a guest from the log until its end, or until it is not as the log says.
pub(crate) fn execute(engine: &mut Engine, run: &Run, log: &Replayer, memory: &RamPort, stops: &AtStops) {
    log.state.lock().attention = Some(engine.cpu().attention());
    let place = engine.cpu().whereabouts();
    engine.begin();
    while run.goes_on(&place) {
        let next = log.state.lock().next_moment();
        let exit = match next {
            Ok(next) => {
                let left = next.instructions.saturating_sub(engine.cpu().instructions());
                // KVM, which alone has trouble, follows no log.
                engine.run_for(left).unwrap_or(Exit::Outside)
            }
            Err(what) => {
                run.end(Outcome::Failed(what));
                break;
            }
        };
        let outcome = match exit {
            Exit::Requested => None,
            Exit::Breakpoint => {
                stops.stopped(0, engine);
                None
            }
            Exit::Counted | Exit::Halted | Exit::WaitForSipi | Exit::TripleFault | Exit::Outside => {
                log.arrive(engine.cpu(), memory)
            }
        };
        let failure = log.state.lock().failure.clone();
        if let Some(outcome) = failure.map(Outcome::Failed).or(outcome) {
            run.end(outcome);
        }
    }
}

/// The log as the guest hears it. Of the board's devices only those hear the guest that bring its output to the host.
pub(crate) struct Playback {
    board: Arc<Board>,
    log: Arc<Replayer>,
    memory: RamPort,
}

impl Playback {
    pub(crate) fn new(board: Arc<Board>, log: Arc<Replayer>, memory: RamPort) -> Self {
        Self { board, log, memory }
    }

    /// What the guest sends goes to the host.
    fn pass_on(&self, question: &Question) {
        let Question::PortWrite { port, data } = question else { return };
        let at = u64::from(*port);
        if (COM1..COM1 + UART_PORTS).contains(&at) || at == DEBUG_CONSOLE_PORT {
            self.board.port_write(0, *port, data.bytes());
        }
    }
}

impl Script for Playback {
    fn ask(&self, question: Question) -> Option<u64> {
        let mut state = self.log.state.lock();
        apply_writes(&mut state, &self.memory);
        match state.queue.front() {
            Some(Entry::Asked(then, answer)) if *then == question => {
                let answer = *answer;
                state.queue.pop_front();
                apply_writes(&mut state, &self.memory);
                drop(state);
                self.pass_on(&question);
                return answer;
            }
            _ if state.failure.is_some() => {}
            other => {
                let then = match other {
                    Some(Entry::Asked(then, _)) => then.to_string(),
                    Some(Entry::At(at, what)) => format!("{what} at instruction {}", at.instructions),
                    _ => "nothing more".into(),
                };
                let difference = format!("{question} comes, in the log {then}");
                let now = state.attention.as_ref().map_or(0, |attention| attention.instructions());
                self.log.diverge(&mut state, now, &difference);
            }
        }
        Some(0)
    }

    fn interrupt(&self) -> Option<u8> {
        match self.log.state.lock().armed {
            Some((_, Happening::Interrupt(vector))) => Some(vector),
            _ => None,
        }
    }

    fn event(&self, cpu: &Cpu, event: Event) {
        self.log.event(cpu, event);
    }
}
