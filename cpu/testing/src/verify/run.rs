//! The loop: subjects, states, both sides, comparison.

use super::{
    Maker,
    difference::{Outcome, Part, describe, parts, same},
    line::line,
    line::usual,
    plan::{self, Class},
    quirks::{self, Verdict},
    replay::note,
    shrink::{Judged, shrink},
    side::Side,
    state::{self, State},
    subject::Subject,
    vectors::{Recorder, VectorError},
};
use crate::{Random, Segments, layout::*};
use iced_x86::{Code, CpuidFeature, Instruction};
use softmetal_cpu::testing::User;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

/// Of an encoding that always faults: a fault costs the host a signal.
const FAULTING_STATES: usize = 2;
/// Examples that are kept of each code's differences.
const EXAMPLES: usize = 4;

/// One encoding in so many is followed by a run of instructions.
const BLOCK_SHARE: u64 = 8;
/// Encodings that are tried until one is recorded.
const RECORD_ATTEMPTS: usize = 12;

/// Codes whose smallest case is looked for.
const SHRUNK: usize = 100;

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many cases.
    Count(u64),
}

/// What a case runs from.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The instruction.
    pub bytes: Vec<u8>,
    /// The segments in which it stands.
    pub segments: Segments,
    /// Its registers.
    pub before: User,
    /// Its scratch memory.
    pub scratch: Vec<u8>,
}

/// A case whose outcomes differ.
#[derive(Clone, Debug)]
pub struct Example {
    /// The case.
    pub case: Case,
    /// What differs.
    pub parts: Vec<Part>,
}

/// What is known of one code.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Cases that ran.
    pub cases: u64,
    /// Of these, cases that ended with an exception.
    pub faults: u64,
    /// Cases whose results need not be exact, and differed no more than they may.
    pub near: u64,
    /// Cases that differed.
    pub differences: u64,
    /// How often each kind of thing differed.
    pub kinds: BTreeMap<Part, u64>,
    /// The first of them.
    pub examples: Vec<Example>,
    /// The smallest that was found, as a line of an `.ins` file, and what differs then.
    pub smallest: Option<(String, String)>,
}

/// What a run has come to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases compared.
    pub cases: u64,
    /// Of these, cases that ended with an exception on the side that is right.
    pub faults: u64,
    /// Cases whose results need not be exact (approximations, transcendental functions), and differed no more than they may.
    pub near: u64,
    /// Cases that differed.
    pub differences: u64,
    /// Cases that were runs of several instructions.
    pub blocks: u64,
    /// The first of these that differed, in words.
    pub different_blocks: Vec<String>,
    /// By code: those that ran.
    pub codes: BTreeMap<String, Seen>,
    /// Codes of which none ran: no encoding that may run here was found.
    pub missed: Vec<String>,
    /// How many codes have run.
    pub covered: usize,
    /// How many codes there are to run.
    pub planned: usize,
    /// The time it took.
    pub elapsed: Duration,
}

/// The tester.
pub struct Verifier {
    pub(super) ours: Box<dyn Side>,
    pub(super) theirs: Box<dyn Side>,
    maker: Maker,
    pub(super) random: Random,
    pub(super) plan: Vec<Code>,
    /// What a round runs: places in `plan`, and how many bits the code has.
    entries: Vec<(usize, u32)>,
    /// The segments in which code can stand on both sides.
    places: Vec<Segments>,
    /// Where both sides are.
    segments: Option<Segments>,
    /// By code: whether prefixes may make it of another.
    pub(super) planned: Vec<bool>,
    states: Vec<State>,
    seen: Vec<Seen>,
    pub(super) tally: Tally,
    /// How many cases may run; it is met exactly.
    goal: u64,
    buffers: Buffers,
    recorder: Option<Recorder>,
}

#[derive(Default)]
struct Buffers {
    snapshot: Vec<u8>,
    ours: Vec<u8>,
    theirs: Vec<u8>,
    ranges: Vec<(u64, u64, bool)>,
}

impl Verifier {
    /// Compares `ours` with `theirs`, whose maker is `maker`, over the codes of these features that are wanted.
    pub fn new(
        mut ours: Box<dyn Side>,
        mut theirs: Box<dyn Side>,
        maker: Maker,
        features: &BTreeSet<CpuidFeature>,
        wanted: &dyn Fn(Code) -> bool,
        seed: u64,
    ) -> Verifier {
        let mut plan = Vec::new();
        let mut index = vec![None; Code::values().len()];
        let mut entries = Vec::new();
        let places: Vec<Segments> = std::iter::once(Segments::LONG)
            .chain(Segments::LEGACY)
            .filter(|&segments| ours.enter(segments) && theirs.enter(segments))
            .collect();
        for bitness in [64, 32, 16] {
            if !places.iter().any(|place| place.bitness() == bitness) {
                continue;
            }
            for code in plan::codes(features, bitness).into_iter().filter(|&code| wanted(code)) {
                if matches!(plan::class(code, bitness), Class::Elsewhere(_)) {
                    continue;
                }
                let k = *index[code as usize].get_or_insert_with(|| {
                    plan.push(code);
                    plan.len() - 1
                });
                entries.push((k, bitness));
            }
        }
        let mut verifier = Verifier {
            planned: index.iter().map(Option::is_some).collect(),
            ours,
            theirs,
            maker,
            random: Random::new(seed),
            seen: vec![Seen::default(); plan.len()],
            tally: Tally { planned: plan.len(), ..Tally::default() },
            goal: u64::MAX,
            plan,
            entries,
            places,
            segments: None,
            states: vec![State::new()],
            buffers: Buffers::default(),
            recorder: None,
        };
        let mut bytes = vec![0; SCRATCH_SIZE as usize];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&verifier.random.operand().to_le_bytes());
        }
        verifier.set_scratch(&bytes);
        verifier
    }

    /// Runs each encoding from so many states, two at least.
    pub(super) fn with_states(mut self, count: usize) -> Self {
        self.states.resize(count.max(FAULTING_STATES), State::new());
        self
    }

    /// How many codes there are to run.
    pub fn planned(&self) -> usize {
        self.plan.len()
    }

    /// Writes all cases with what is right to a file. Fewer states of each encoding run then, and registers that an
    /// instruction does not use hold nothing, so that the file is small.
    pub fn record(&mut self, path: &Path) -> Result<(), VectorError> {
        self.recorder = Some(Recorder::create(path, self.maker)?);
        Ok(())
    }

    pub(super) fn set_scratch(&mut self, bytes: &[u8]) {
        self.ours.set_scratch(bytes);
        self.theirs.set_scratch(bytes);
    }

    /// Runs until the limit; `progress` is told now and then, and says whether to go on.
    ///
    /// # Errors
    /// Where recording fails.
    pub fn run(
        mut self,
        limit: Limit,
        progress: &mut dyn FnMut(&Tally) -> bool,
    ) -> Result<Tally, VectorError> {
        let started = Instant::now();
        let mut told = started;
        if let Limit::Count(count) = limit {
            self.goal = count;
        }
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        'all: loop {
            // Each round meets every code, in a new order.
            for k in (1..order.len()).rev() {
                order.swap(k, self.random.below(k as u64 + 1) as usize);
            }
            let before = self.tally.cases;
            for &k in &order {
                let (code, bitness) = self.entries[k];
                if self.recorder.is_some() {
                    self.record_one(code, bitness)?;
                } else {
                    self.code(code, bitness);
                    if self.random.below(BLOCK_SHARE) == 0 {
                        self.block();
                    }
                }
                let now = Instant::now();
                let over = match limit {
                    Limit::Time(time) => now - started >= time,
                    Limit::Count(_) => self.left() == 0,
                };
                if over {
                    break 'all;
                }
                if now - told >= Duration::from_millis(100) {
                    told = now;
                    self.note(started.elapsed());
                    if !progress(&self.tally) {
                        break 'all;
                    }
                }
            }
            if self.tally.cases == before {
                break;
            }
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.finish()?;
        }
        Ok(self.end(started.elapsed()))
    }

    /// How many more cases may run.
    pub(super) fn left(&self) -> usize {
        usize::try_from(self.goal.saturating_sub(self.tally.cases)).unwrap_or(usize::MAX)
    }

    /// Adds up.
    fn end(mut self, elapsed: Duration) -> Tally {
        self.note(elapsed);
        self.find_smallest();
        for (code, seen) in self.plan.iter().zip(self.seen) {
            if seen.cases == 0 {
                self.tally.missed.push(format!("{code:?}"));
            } else {
                self.tally.codes.insert(format!("{code:?}"), seen);
            }
        }
        self.tally
    }

    fn note(&mut self, elapsed: Duration) {
        self.tally.elapsed = elapsed;
        self.tally.covered = self.seen.iter().filter(|seen| seen.cases > 0).count();
    }

    /// One encoding of a code, from some states.
    fn code(&mut self, k: usize, bitness: u32) {
        let Some(subject) = self.subject(k, bitness) else { return };
        let base = state::base(&mut self.random);
        let mut count = 0;
        let wanted = if subject.faults { FAULTING_STATES } else { self.states.len() }.min(self.left());
        for _ in 0..wanted {
            state::draw(&subject, &base, &mut self.random, &mut self.states[count]);
            let user = &self.states[count].user;
            if subject.faults || subject.ranges(user, &mut self.buffers.ranges) {
                count += 1;
            }
        }
        self.batch(k, &subject, count);
    }

    /// An encoding of a code; None where this draw gives none that may run here.
    fn subject(&mut self, k: usize, bitness: u32) -> Option<Subject> {
        let code = self.plan[k];
        let class = plan::class(code, bitness);
        let fitting = self.places.iter().filter(|place| place.bitness() == bitness);
        let choice = self.random.below(fitting.clone().count() as u64) as usize;
        let &segments = fitting.clone().nth(choice)?;
        let planned = &self.planned;
        let allowed = |insn: &Instruction| match class {
            Class::Compared => planned[insn.code() as usize] && plan::may_run(segments, insn),
            Class::AsFault => plan::class(insn.code(), bitness) == class,
            Class::Elsewhere(_) => false,
        };
        let mut subject = Subject::random(segments, code, &mut self.random, &allowed)?;
        subject.faults |= class == Class::AsFault;
        quirks::comparable(self.maker, &subject).then_some(subject)
    }

    /// One case of a code, compared and recorded.
    fn record_one(&mut self, k: usize, bitness: u32) -> Result<(), VectorError> {
        for _ in 0..RECORD_ATTEMPTS {
            if self.left() == 0 {
                break;
            }
            let Some(subject) = self.subject(k, bitness) else { continue };
            let base = usual(subject.segments);
            state::draw(&subject, &base, &mut self.random, &mut self.states[0]);
            let state = &self.states[0];
            let mut case = Case {
                bytes: subject.bytes.clone(),
                segments: subject.segments,
                before: state.user,
                scratch: vec![0; SCRATCH_SIZE as usize],
            };
            let at = (state.poke_at - SCRATCH) as usize;
            case.scratch[at..at + state.poke_len].copy_from_slice(state.poked());
            if !self.allowed(&subject, &case.before) {
                continue;
            }
            let judged = self.judge(&subject, &case);
            self.count(k, &judged.theirs);
            if !judged.parts.is_empty() {
                self.tally.differences += 1;
                note(&mut self.seen[k], &judged.parts);
                let examples = &mut self.seen[k].examples;
                if examples.len() < EXAMPLES {
                    examples.push(Example { case: case.clone(), parts: judged.parts });
                }
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.record(&case, &judged.theirs, &judged.memory)?;
            }
            // Prefixes may have made another of it.
            if subject.code == self.plan[k] && !subject.insn.is_invalid() {
                break;
            }
        }
        Ok(())
    }

    /// Runs the first `count` states.
    fn batch(&mut self, k: usize, subject: &Subject, count: usize) {
        self.enter(subject);
        self.buffers.snapshot.resize(SCRATCH_SIZE as usize, 0);
        self.theirs.read(SCRATCH, &mut self.buffers.snapshot);
        let (mut good, mut ran) = (true, 0);
        let writes = subject.writes_memory();
        for s in 0..count {
            let (ours, theirs) = self.case(subject, s);
            self.count(k, &theirs);
            ran += 1;
            good &= same(&ours, &theirs) || self.tolerated(k, subject, &ours, &theirs);
            if writes && good {
                good = subject.ranges(&self.states[s].user, &mut self.buffers.ranges) && self.windows_agree();
            }
            if !good {
                break;
            }
        }
        if !good || !self.memory_agrees() {
            self.investigate(k, subject, count, ran);
        }
    }

    /// Whether outcomes that are not the same are no fault of either side.
    fn tolerated(&mut self, k: usize, subject: &Subject, ours: &Outcome, theirs: &Outcome) -> bool {
        let verdict = quirks::judge(self.maker, subject, ours, theirs);
        if verdict == Verdict::Near {
            self.tally.near += 1;
            self.seen[k].near += 1;
        }
        verdict != Verdict::Wrong
    }

    /// One state on both sides.
    fn case(&mut self, subject: &Subject, s: usize) -> (Outcome, Outcome) {
        let state = &self.states[s];
        if state.poke_len > 0 {
            self.ours.write(state.poke_at, state.poked());
            self.theirs.write(state.poke_at, state.poked());
        }
        let loads = subject.loads_segment;
        (run(&mut *self.ours, &state.user, loads), run(&mut *self.theirs, &state.user, loads))
    }

    /// Puts a subject in place on both sides.
    fn enter(&mut self, subject: &Subject) {
        self.place(subject.segments, &subject.bytes);
    }

    /// Puts code in place on both sides.
    pub(super) fn place(&mut self, segments: Segments, code: &[u8]) {
        if self.segments != Some(segments) {
            self.ours.enter(segments);
            self.theirs.enter(segments);
            self.segments = Some(segments);
        }
        self.ours.load(code);
        self.theirs.load(code);
    }

    /// Compares what is written, and what lies near.
    fn windows_agree(&mut self) -> bool {
        for &(from, to, writes) in &self.buffers.ranges {
            if !writes || to <= from {
                continue;
            }
            let len = (to - from) as usize;
            let (ours, theirs) = (&mut self.buffers.ours, &mut self.buffers.theirs);
            ours.resize(len.max(ours.len()), 0);
            theirs.resize(len.max(theirs.len()), 0);
            self.ours.read(from, &mut ours[..len]);
            self.theirs.read(from, &mut theirs[..len]);
            if ours[..len] != theirs[..len] {
                return false;
            }
        }
        true
    }

    /// Compares all of the memory.
    pub(super) fn memory_agrees(&mut self) -> bool {
        let (ours, theirs) = (&mut self.buffers.ours, &mut self.buffers.theirs);
        ours.resize(SCRATCH_SIZE as usize, 0);
        theirs.resize(SCRATCH_SIZE as usize, 0);
        self.ours.read(SCRATCH, ours);
        self.theirs.read(SCRATCH, theirs);
        ours == theirs
    }

    fn count(&mut self, k: usize, theirs: &Outcome) {
        let faults = u64::from(theirs.fault.is_some());
        self.tally.cases += 1;
        self.tally.faults += faults;
        self.seen[k].cases += 1;
        self.seen[k].faults += faults;
    }

    /// Runs a batch again from its beginning, and compares everything after each state. `ran` of them have been counted.
    fn investigate(&mut self, k: usize, subject: &Subject, count: usize, ran: usize) {
        let snapshot = std::mem::take(&mut self.buffers.snapshot);
        self.set_scratch(&snapshot);
        self.buffers.snapshot = snapshot;
        for s in 0..count {
            let state = &self.states[s];
            self.theirs.write(state.poke_at, state.poked());
            self.theirs.read(SCRATCH, &mut self.buffers.snapshot);
            let (ours, theirs) = self.case(subject, s);
            if s >= ran {
                self.count(k, &theirs);
            }
            let user = self.states[s].user;
            let mut different = parts(&ours, &theirs);
            if !different.is_empty() && quirks::judge(self.maker, subject, &ours, &theirs) != Verdict::Wrong {
                different.clear();
            }
            if !self.memory_agrees() {
                if !quirks::memory_allowed(self.maker, subject, &self.buffers.ours, &self.buffers.theirs) {
                    different.push(Part::Memory);
                }
                let theirs = std::mem::take(&mut self.buffers.theirs);
                self.ours.set_scratch(&theirs);
                self.buffers.theirs = theirs;
            }
            if different.is_empty() {
                continue;
            }
            self.tally.differences += 1;
            let seen = &mut self.seen[k];
            note(seen, &different);
            if seen.examples.len() < EXAMPLES {
                seen.examples.push(Example {
                    case: Case {
                        bytes: subject.bytes.clone(),
                        segments: subject.segments,
                        before: user,
                        scratch: self.buffers.snapshot.clone(),
                    },
                    parts: different,
                });
            }
        }
    }

    /// The smallest case of each code that differs.
    fn find_smallest(&mut self) {
        let different = (0..self.seen.len()).filter(|&k| self.seen[k].differences > 0);
        for k in different.take(SHRUNK).collect::<Vec<_>>() {
            let examples = std::mem::take(&mut self.seen[k].examples);
            let lines = examples.iter().map(|example| {
                let case = shrink(self, example.case.clone(), &example.parts);
                let subject = Subject::new(case.segments, self.plan[k], &case.bytes);
                let judged = self.judge(&subject, &case);
                (line(&case, &judged.theirs, &judged.memory), judged.text)
            });
            let smallest = lines.min_by_key(|(line, _)| line.len());
            self.seen[k].smallest = smallest;
            self.seen[k].examples = examples;
        }
    }

    /// What these bytes are, or were made from, for the plan.
    pub(super) fn code_of(&self, case: &Case) -> Code {
        Subject::new(case.segments, Code::INVALID, &case.bytes).code
    }

    /// Whether a case may run here.
    pub(super) fn allowed(&mut self, subject: &Subject, before: &User) -> bool {
        let fault = plan::class(subject.code, subject.segments.bitness()) == Class::AsFault;
        let runs = fault
            || subject.faults
            || self.planned[subject.code as usize] && plan::may_run(subject.segments, &subject.insn);
        runs && (fault || subject.faults || subject.ranges(before, &mut self.buffers.ranges))
    }

    /// Runs one case on both sides, and compares everything.
    pub(super) fn judge(&mut self, subject: &Subject, case: &Case) -> Judged {
        self.enter(subject);
        self.set_scratch(&case.scratch);
        let ours = run(&mut *self.ours, &case.before, subject.loads_segment);
        let theirs = run(&mut *self.theirs, &case.before, subject.loads_segment);
        let mut different = parts(&ours, &theirs);
        if !different.is_empty() && quirks::judge(self.maker, subject, &ours, &theirs) != Verdict::Wrong {
            different.clear();
        }
        if !self.memory_agrees()
            && !quirks::memory_allowed(self.maker, subject, &self.buffers.ours, &self.buffers.theirs)
        {
            different.push(Part::Memory);
        }
        let text = describe(&different, &ours, &theirs);
        Judged { parts: different, text, theirs, memory: self.buffers.theirs.clone() }
    }
}

/// Runs what is in place from these registers. What it did to segment registers is undone.
pub(super) fn run(side: &mut dyn Side, before: &User, loads_segment: bool) -> Outcome {
    let mut user = *before;
    let fault = side.run(&mut user).err();
    let selectors = loads_segment.then(|| side.selectors());
    if loads_segment {
        side.leave();
    }
    Outcome { user, fault, selectors }
}
