//! From a stretch that differs to the instruction.
//!
//! Both engines go back to the beginning of the stretch. The second runs one block at a time, the first follows by single
//! instructions, until they differ. What only shows when the second runs far at a stretch is enclosed by halving instead. What
//! does not show again at all is told as it was.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use softmetal_cpu::CpuState;

use super::follower::Follower;
use super::memories::Memories;
use super::report::{self, Found, How};
use super::{Difference, Lockstep, Start, all, touched};
use crate::journal::entry::Entry;

/// Instructions that a report shows.
const SHOWN: usize = 40;

/// An instruction that the first engine has run.
pub(super) struct Step {
    /// How many had run before it.
    pub(super) number: u64,
    /// As it found it.
    pub(super) state: CpuState,
    pub(super) linear: u64,
    pub(super) bytes: Vec<u8>,
}

struct Search<'a> {
    /// A new CPU for the first engine, on its memory: the machine's own cannot go back.
    first: Follower,
    second: &'a mut Follower,
    memories: &'a Memories,
    start: &'a Start,
    entries: &'a Arc<Vec<Entry>>,
    /// Pages that either has written since the start.
    pages: BTreeSet<u64>,
    steps: VecDeque<Step>,
}

/// Finds where the engines part in the stretch that ends behind `end` instructions, and says it.
pub(super) fn trace_back(
    lockstep: &mut Lockstep,
    entries: &Arc<Vec<Entry>>,
    end: u64,
    difference: Difference,
    pages: Vec<u64>,
) -> String {
    let Lockstep { plan, board, memories, second, start, .. } = lockstep;
    let mut first = Follower::new(plan.first, board, &memories.first);
    first.cpu.log_writes();
    let pages = all(pages.into_iter().chain(entries.iter().flat_map(touched)));
    let mut search =
        Search { first, second, memories, start, entries, pages, steps: VecDeque::with_capacity(SHOWN) };
    let found = search.by_blocks(end).or_else(|| search.by_halves(end)).unwrap_or_else(|| {
        search.go_back();
        let _ = search.show_way(end);
        Found { from: start.instructions, to: end, how: How::NotAgain, difference }
    });
    report::found(plan, &found, search.steps.make_contiguous())
}

impl Search<'_> {
    /// Both stand at the beginning of the stretch.
    fn go_back(&mut self) {
        self.note_written();
        self.memories.go_back(&self.pages);
        for engine in [&mut self.first, &mut *self.second] {
            engine.begin(self.entries, self.start.instructions);
            engine.set_state(&self.start.state);
        }
        self.steps.clear();
    }

    fn note_written(&mut self) -> Vec<u64> {
        let mut pages = self.first.cpu.written_pages();
        pages.extend(self.second.cpu.written_pages());
        self.pages.extend(&pages);
        pages
    }

    /// Compares where both stand; `course`: whether the second came there.
    fn difference(&mut self, course: Result<(), String>) -> Option<Difference> {
        let mut pages = self.note_written();
        // What devices have written is the same if the places in the log are.
        pages.sort_unstable();
        pages.dedup();
        if let Err(what) = course {
            return Some(Difference::Course(what));
        }
        if self.first.place() != self.second.place() {
            let what = "the engines do not ask the same of the board";
            return Some(Difference::Course(what.into()));
        }
        self.memories.difference([self.first.cpu.state(), self.second.cpu.state()], &pages)
    }

    /// The second runs block by block from the start.
    fn by_blocks(&mut self, end: u64) -> Option<Found> {
        self.go_back();
        loop {
            let from = self.second.instructions();
            let course = self.second.follow_block(end);
            let to = self.second.instructions();
            self.show_way(to).ok()?;
            if let Some(difference) = self.difference(course) {
                return Some(self.in_block(from, to, difference));
            }
            if to >= end || to == from && self.second.cpu.state().activity != softmetal_cpu::Activity::Active
            {
                return None;
            }
        }
    }

    /// The engines differ behind a block: do they when both run its instructions one by one?
    fn in_block(&mut self, from: u64, to: u64, difference: Difference) -> Found {
        let steps = std::mem::take(&mut self.steps);
        let alone = self.one_by_one(from, to);
        let found = match alone {
            Some((number, difference)) => Found { from: number, to: number + 1, how: How::Alone, difference },
            None => Found { from, to, how: How::Block, difference },
        };
        self.steps = steps;
        found
    }

    fn one_by_one(&mut self, from: u64, to: u64) -> Option<(u64, Difference)> {
        self.go_back();
        self.first.follow(from).ok()?;
        self.note_written();
        self.memories.make_equal(&self.pages);
        self.second.become_like(&self.first);
        (from..to.max(from + 1)).find_map(|number| {
            let first = self.first.follow(number + 1);
            let course = self.second.follow(number + 1);
            first.ok()?;
            Some((number, self.difference(course)?))
        })
    }

    /// The second runs as far as it can at a stretch: the fewest instructions behind which the engines differ.
    fn by_halves(&mut self, end: u64) -> Option<Found> {
        let (mut same, mut differs) = (self.start.instructions, end);
        let mut difference = self.both_to(end)?;
        while differs - same > 1 {
            let middle = same + (differs - same) / 2;
            match self.both_to(middle) {
                Some(earlier) => (differs, difference) = (middle, earlier),
                None => same = middle,
            }
        }
        self.go_back();
        self.show_way(differs).ok()?;
        Some(Found { from: same, to: differs, how: How::Stretch, difference })
    }

    fn both_to(&mut self, to: u64) -> Option<Difference> {
        self.go_back();
        self.first.follow(to).ok()?;
        let course = self.second.follow(to);
        self.difference(course)
    }

    /// The first engine goes on by single instructions, and each is noted.
    fn show_way(&mut self, to: u64) -> Result<(), String> {
        // What comes before the first one.
        self.first.follow(self.first.instructions())?;
        while self.first.instructions() < to {
            let number = self.first.instructions();
            let state = self.first.cpu.state();
            let linear = report::linear(&state);
            let mut bytes = [0; 15];
            let len = self.first.cpu.examine(linear, &mut bytes);
            if self.steps.len() == SHOWN {
                self.steps.pop_front();
            }
            self.steps.push_back(Step { number, state, linear, bytes: bytes[..len].to_vec() });
            self.first.follow(number + 1)?;
        }
        Ok(())
    }
}
