//! A CPU that follows another's log: the board's answers and what came between instructions are taken from there, in the places
//! where they stand.

use std::sync::Arc;

use parking_lot::Mutex;
use softmetal_cpu::{Attention, Cpu, CpuState, Event, Exit, Options, Ram, Request};

use crate::board::Board;
use crate::journal::entry::{Entry, Happening, Moment, Question};
use crate::journal::{Answers, Script};
use crate::ram_port::RamPort;

/// See the module.
pub(super) struct Follower {
    pub(super) cpu: Box<Cpu>,
    part: Arc<Part>,
}

/// The log as one follower goes through it.
struct Part(Mutex<State>);

struct State {
    entries: Arc<Vec<Entry>>,
    /// Those before it have come.
    next: usize,
    /// What is on its way to the CPU.
    armed: Option<(Moment, Happening)>,
    /// How many instructions the CPU has run that are not of this log.
    ahead: u64,
    failure: Option<String>,
    memory: RamPort,
    attention: Arc<Attention>,
}

impl State {
    /// The first thing that goes another way ends the CPU's run.
    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
        self.attention.request(Request::EXIT);
    }

    /// What devices and chips have done to memory at this point.
    fn apply_writes(&mut self) {
        loop {
            match self.entries.get(self.next) {
                Some(Entry::Dma(at, bytes)) => self.memory.write(*at, bytes),
                Some(Entry::Rights(range, rights)) => self.memory.set_rights(range.clone(), *rights),
                _ => return,
            }
            self.next += 1;
        }
    }

    /// What comes next between two instructions of which at most `limit` have run.
    fn next_moment(&self, limit: u64) -> Option<Moment> {
        let ahead = self.entries.get(self.next..).unwrap_or_default();
        let moments = ahead.iter().filter_map(|entry| match entry {
            Entry::At(moment, _) => Some(*moment),
            _ => None,
        });
        moments.take(1).find(|moment| moment.instructions <= limit)
    }
}

impl Script for Part {
    fn ask(&self, question: Question) -> Option<u64> {
        let mut state = self.0.lock();
        state.apply_writes();
        let then = match state.entries.get(state.next) {
            Some(Entry::Asked(then, answer)) if *then == question => {
                let answer = *answer;
                state.next += 1;
                state.apply_writes();
                return answer;
            }
            Some(Entry::Asked(then, _)) => then.to_string(),
            Some(Entry::At(_, what)) => format!("{what}, and before it nothing"),
            _ => "nothing more".into(),
        };
        state.fail(format!("the first engine has {then} where the second has {question}"));
        Some(0)
    }

    fn interrupt(&self) -> Option<u8> {
        match self.0.lock().armed {
            Some((_, Happening::Interrupt(vector))) => Some(vector),
            _ => None,
        }
    }

    fn event(&self, cpu: &Cpu, event: Event) {
        let mut state = self.0.lock();
        let now = cpu.instructions().wrapping_sub(state.ahead);
        match state.armed.take() {
            Some((then, what)) if what == event.into() && then.instructions == now => {}
            _ => state.fail(format!("{} comes behind {now} instructions", Happening::from(event))),
        }
    }
}

impl Follower {
    /// A CPU with its own view of `ram`, in its reset state.
    pub(super) fn new(options: Options, board: &Arc<Board>, ram: &Arc<Ram>) -> Self {
        let attention = Arc::<Attention>::default();
        let part = Arc::new(Part(Mutex::new(State {
            entries: Arc::default(),
            next: 0,
            armed: None,
            ahead: 0,
            failure: None,
            memory: RamPort::new(Arc::clone(ram), Vec::new()),
            attention,
        })));
        let script = Arc::clone(&part) as Arc<dyn Script>;
        let mut cpu =
            Cpu::new(0, options, Arc::clone(ram), Arc::new(Answers::new(Arc::clone(board), script)));
        part.0.lock().attention = cpu.attention();
        cpu.log_writes();
        Self { cpu, part }
    }

    /// Stands at the beginning of a log, behind so many instructions.
    pub(super) fn begin(&mut self, entries: &Arc<Vec<Entry>>, instructions: u64) {
        self.stand(entries, 0, instructions);
    }

    /// Takes another one's place: its registers, and its place in the log.
    pub(super) fn become_like(&mut self, other: &Follower) {
        let (entries, next) = {
            let state = other.part.0.lock();
            (Arc::clone(&state.entries), state.next)
        };
        self.stand(&entries, next, other.instructions());
        self.set_state(&other.cpu.state());
    }

    fn stand(&mut self, entries: &Arc<Vec<Entry>>, next: usize, instructions: u64) {
        let mut state = self.part.0.lock();
        state.entries = Arc::clone(entries);
        state.next = next;
        state.ahead = self.cpu.instructions().wrapping_sub(instructions);
        state.armed = None;
        state.failure = None;
    }

    pub(super) fn set_state(&mut self, state: &CpuState) {
        self.cpu.set_state(state);
    }

    /// How many instructions have run, as the log counts them.
    pub(super) fn instructions(&self) -> u64 {
        self.cpu.instructions().wrapping_sub(self.part.0.lock().ahead)
    }

    /// How much of the log has come.
    pub(super) fn place(&self) -> usize {
        let mut state = self.part.0.lock();
        state.apply_writes();
        state.next
    }

    /// Runs until `target` instructions have run, and takes what comes until then. An error says what went another way.
    pub(super) fn follow(&mut self, target: u64) -> Result<(), String> {
        loop {
            let next = self.next_moment(target);
            self.run_to(next.map_or(target, |moment| moment.instructions))?;
            if next.is_none() {
                return Ok(());
            }
            self.arrive()?;
        }
    }

    /// Runs a block, but not beyond `target`, and takes what comes until then.
    pub(super) fn follow_block(&mut self, target: u64) -> Result<(), String> {
        /// More instructions than run between two looks at the count. Where less is left, they run one by one.
        const ROOM: u64 = 1024;
        let next = self.next_moment(target);
        let goal = next.map_or(target, |moment| moment.instructions);
        let now = self.instructions();
        if goal.saturating_sub(now) > ROOM {
            self.cpu.run_past(1);
            return self.check();
        }
        self.follow((now + 1).min(target))
    }

    /// Where the log ends with a triple fault: the next instruction has one.
    pub(super) fn fail_next(&mut self) -> Result<(), String> {
        let exit = self.cpu.run_for(1);
        self.check()?;
        match exit {
            Exit::TripleFault => Ok(()),
            _ => Err("the first engine ends with a triple fault, the second goes on".into()),
        }
    }

    fn next_moment(&self, limit: u64) -> Option<Moment> {
        let mut state = self.part.0.lock();
        state.apply_writes();
        state.next_moment(limit)
    }

    fn run_to(&mut self, goal: u64) -> Result<(), String> {
        loop {
            let exit = self.cpu.run_for(goal.saturating_sub(self.instructions()));
            self.check()?;
            let now = self.instructions();
            match exit {
                // Of an earlier failure.
                Exit::Requested => {}
                _ if now == goal => return Ok(()),
                _ => {
                    return Err(format!(
                        "the second engine stops behind {now} instructions, not {goal}: {exit:?}"
                    ));
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let mut state = self.part.0.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        match state.armed.take() {
            Some((_, what)) => Err(format!("{what} does not come to the second engine, which holds it back")),
            None => Ok(()),
        }
    }

    /// The next moment has come: brings what it has.
    fn arrive(&mut self) -> Result<(), String> {
        let mut state = self.part.0.lock();
        state.apply_writes();
        let (then, what) = match state.entries.get(state.next) {
            Some(Entry::At(then, what)) => (*then, what.clone()),
            Some(Entry::Asked(question, _)) => {
                return Err(format!("the first engine has {question}, the second has not"));
            }
            _ => return Ok(()),
        };
        state.next += 1;
        if then.registers != self.cpu.digest() {
            return Err(format!("{what} finds other values in the registers"));
        }
        let request = match what {
            Happening::Interrupt(_) => Request::INTERRUPT,
            Happening::Nmi => Request::NMI,
            Happening::Init => Request::INIT,
            Happening::Checkpoint | Happening::End(..) => return Ok(()),
        };
        state.armed = Some((then, what));
        drop(state);
        self.cpu.attention().request(request);
        Ok(())
    }
}
