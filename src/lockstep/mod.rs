//! Lockstep: two engines run the same guest, each on a memory of its own, and are compared every so many instructions.
//!
//! The first engine is the machine's processor. What the board answers and brings it goes to a log in memory; then the second
//! engine runs the same stretch from that log. Behind it their registers must be the same, and the pages that either has
//! written. What differs is traced back to its block and instruction ([`search`]), from the third memory, which has everything
//! as it was before the stretch.

mod follower;
mod memories;
mod report;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use anyhow::Result;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use softmetal_cpu::{Activity, Cpu, CpuState, Exit, Options, Ram};

use crate::board::Board;
use crate::journal::PAGE;
use crate::journal::Tape;
use crate::journal::entry::Entry;
use crate::outcome::{Outcome, Run};
use crate::timers::Waker;
use follower::Follower;
use memories::{Memories, Unequal};

/// Instructions between two comparisons, where the user does not say. Comparing costs some microseconds, and the search for
/// a difference goes through a stretch block by block.
pub(crate) const STRETCH: u64 = 50_000;
/// Instructions between two comparisons of all memory: a store that no engine has told of is found late, but it is found.
const WHOLE: u64 = 1 << 29;

/// Which engines run, and where they are compared.
pub(crate) struct Plan {
    pub(crate) first: Options,
    pub(crate) second: Options,
    /// Instructions of a stretch.
    pub(crate) stretch: u64,
}

impl Plan {
    /// The plain interpreter and `engine`; where that is the same, the interpreter's general handlers.
    ///
    /// Registers are compared between stretches: a translator enters its code no more some hundred instructions before the
    /// end of one, so a stretch should be much longer.
    pub(crate) fn new(engine: Options, stretch: u64) -> Self {
        let Options { model, cpus, counting, .. } = engine;
        let first = Options { model, cpus, counting, ..Options::default() };
        let mut second = engine;
        if report::engine(&first) == report::engine(&second) {
            second.no_specialise = true;
        }
        Self { first, second, stretch }
    }
}

/// Two engines with one guest.
pub(crate) struct Lockstep {
    plan: Plan,
    board: Arc<Board>,
    run: Arc<Run>,
    timers: Waker,
    tape: Arc<Tape>,
    first: Box<Cpu>,
    second: Follower,
    memories: Memories,
    start: Start,
    /// When all memory is compared again.
    whole: u64,
    progress: ProgressBar,
    /// What differs: the guest does not run on.
    difference: Option<String>,
}

/// Where both engines were the same.
struct Start {
    instructions: u64,
    state: CpuState,
}

/// What is not the same on both sides.
enum Difference {
    /// The second engine asks or does something else.
    Course(String),
    /// The registers.
    State(Box<[CpuState; 2]>),
    /// Memory.
    Memory(Unequal),
}

impl Lockstep {
    /// `first` is about to begin; `tape` is the log in memory of what comes to it. `run` and `timers` are the machine's.
    pub(crate) fn new(
        plan: Plan,
        mut first: Box<Cpu>,
        tape: Arc<Tape>,
        ram: &Arc<Ram>,
        board: &Arc<Board>,
        run: &Arc<Run>,
        timers: Waker,
    ) -> Result<Self> {
        let memories = Memories::new(ram, ram.bytes())?;
        let mut second = Follower::new(plan.second, board, &memories.second);
        let state = first.state();
        second.set_state(&state);
        #[cfg(feature = "planted")]
        plant(&mut second.cpu);
        first.log_writes();
        let (a, b) = (report::engine(&plan.first), report::engine(&plan.second));
        say(&format!("lockstep: {a}, and {b}, compared every {} instructions", plan.stretch));
        // A guest's output on the same terminal leaves no line for it.
        let shown = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        let progress = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        progress.set_style(
            ProgressStyle::with_template("softmetal: lockstep: {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Ok(Self {
            plan,
            board: Arc::clone(board),
            run: Arc::clone(run),
            timers,
            tape,
            start: Start { instructions: first.instructions(), state },
            first,
            second,
            memories,
            whole: WHOLE,
            progress,
            difference: None,
        })
    }

    /// The calling thread runs the guest from here on.
    pub(crate) fn begin(&self) {
        self.tape.begin();
    }

    /// The processor as the machine knows it.
    pub(crate) fn cpu(&self) -> &Cpu {
        &self.first
    }

    /// The processor as the machine knows it, alone.
    #[cfg(feature = "testing")]
    pub(crate) fn into_cpu(self: Box<Self>) -> Box<Cpu> {
        self.first
    }

    /// As [`Cpu::run_for`], with the second engine behind. A difference ends the machine's run.
    pub(crate) fn run_for(&mut self, instructions: u64) -> Exit {
        let goal = self.first.instructions().saturating_add(instructions);
        loop {
            if self.difference.is_some() {
                return Exit::Requested;
            }
            let exit = self.stretch(goal);
            if exit != Exit::Counted || self.first.instructions() >= goal {
                return exit;
            }
        }
    }

    fn stretch(&mut self, goal: u64) -> Exit {
        let left = goal.saturating_sub(self.first.instructions());
        let exit = self.first.run_for(left.min(self.plan.stretch));
        let mut settled = exit;
        while settled == Exit::Requested {
            // It may stand behind the delivery of a fault, which no count of instructions says. Behind the next one it does not.
            settled = self.first.run_for(1);
        }
        // The guest's time stands while the second engine has its turn.
        self.board.clock.pause();
        self.compare();
        self.board.clock.resume();
        self.timers.resumed();
        exit
    }

    /// Has the second engine follow, and compares.
    fn compare(&mut self) {
        let entries = Arc::new(self.tape.take());
        if let Some(failure) = self.tape.failure() {
            return self.stop(failure);
        }
        let end = self.first.instructions();
        self.second.begin(&entries, self.start.instructions);
        let mut followed = self.second.follow(end);
        if self.first.state().activity == Activity::Shutdown {
            followed = followed.and_then(|()| self.second.fail_next());
        }
        let mut pages = self.first.written_pages();
        pages.extend(self.second.cpu.written_pages());
        pages.extend(entries.iter().flat_map(touched));
        pages.sort_unstable();
        pages.dedup();
        let state = self.first.state();
        let difference = match followed {
            Err(what) => Some(Difference::Course(what)),
            Ok(()) if self.second.place() != entries.len() => {
                Some(Difference::Course("the second engine asks less of the board than the first".into()))
            }
            Ok(()) => self.memories.difference([state.clone(), self.second.cpu.state()], &pages),
        };
        if let Some(difference) = difference {
            let found = search::trace_back(self, &entries, end, difference, pages);
            return self.stop(found);
        }
        let rights_changed = entries.iter().any(|entry| matches!(entry, Entry::Rights(..)));
        self.memories.keep(&pages, rights_changed);
        self.start = Start { instructions: end, state };
        if end >= self.whole {
            self.whole = end.saturating_add(WHOLE);
            self.compare_all_memory();
        }
        self.progress.set_message(HumanCount(end).to_string());
    }

    fn compare_all_memory(&mut self) {
        if let Some(unequal) = self.memories.unequal_anywhere() {
            let found = report::whole_memory(&self.plan, self.start.instructions, &unequal);
            self.stop(found);
        }
    }

    fn stop(&mut self, what: String) {
        self.run.end(Outcome::Failed(what.clone()));
        self.difference.get_or_insert(what);
    }

    /// The guest runs no more. What was found, if anything was.
    pub(crate) fn finish(&mut self) -> Option<String> {
        self.progress.finish_and_clear();
        if self.difference.is_none() {
            self.compare_all_memory();
        }
        if self.difference.is_none() {
            say(&format!("lockstep: no difference in {} instructions", HumanCount(self.start.instructions)));
        }
        self.difference.clone()
    }
}

impl Memories {
    /// What is not the same, where the engines stand with these registers and have written these pages.
    fn difference(&self, states: [CpuState; 2], pages: &[u64]) -> Option<Difference> {
        let [first, mut second] = states;
        // The second engine hears of an NMI when it is delivered.
        second.nmi_pending = first.nmi_pending;
        if first != second {
            return Some(Difference::State(Box::new([first, second])));
        }
        self.unequal(pages.iter().copied()).map(Difference::Memory)
    }
}

/// The pages that an entry of a log has written.
fn touched(entry: &Entry) -> impl Iterator<Item = u64> {
    let range = match entry {
        Entry::Dma(at, bytes) => *at..at.saturating_add(bytes.len() as u64),
        _ => 0..0,
    };
    (range.start & !(PAGE as u64 - 1)..range.end).step_by(PAGE)
}

/// The fault that the environment names goes into the second engine.
#[cfg(feature = "planted")]
fn plant(cpu: &mut Cpu) {
    use softmetal_cpu::planted::Bug;
    let name = std::env::var("SOFTMETAL_PLANTED").unwrap_or_default();
    if let Some(bug) = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name) {
        cpu.plant(bug);
    }
}

/// A line on standard error. That it is closed is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "softmetal: {line}");
}

/// All pages of several lists.
fn all(pages: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    pages.into_iter().collect()
}
