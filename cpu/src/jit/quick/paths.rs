//! Blocks that follow each other, translated together in one pass: a path.
//!
//! A block that only one other leads to takes over what that one has in host registers, and what its flags follow from. Where
//! ways join, the CPU state has everything; the attention word is looked at where a way goes back. Instructions are counted
//! where a path is left, or joined. How often blocks begin is counted for the first and for those that ways go back to: the
//! others are as much more often or rarely run as they were before there was a path.

use super::{
    Cold, ROOM, Writer,
    assembler::{Alu, At, Host, RAX, RBP, RCX, RDI, cond},
    flags::Pending,
    grouped::Groups,
    values::{Bit, HELD, Held},
    vectors::Vectors,
};
use crate::{
    attention::Attention,
    insn::{self, Insn},
    jit::{
        region::{self, FLAGS, Region, Step, Way},
        segmented,
        service::{Compiled, Source},
        targets::SEEN,
    },
    mode::Mode,
    ram::PAGE,
    sem::{Needs, Op},
    state::{Cpu, reg},
    width::{D, Q},
};
use smallvec::SmallVec;
use std::mem::offset_of;

/// What a block may take at the most, with its ways out.
const MARGIN: usize = 2 << 10;

/// How often an indirect branch has to have been seen leading somewhere.
const ENOUGH: u64 = SEEN as u64 / 2;

/// A block to translate.
#[derive(Debug)]
struct Piece<'a> {
    insns: &'a [Insn],
    ring: u64,
    taken: (i32, Option<usize>),
    fall: (i32, Option<usize>),
    returns: SmallVec<[usize; 2]>,
    /// It ends in front of another block, without an instruction of its own.
    cut: bool,
}

/// What is known of a block while those around it are written.
#[derive(Debug)]
pub(super) struct Place {
    /// Page offset and address of its first instruction.
    start: u16,
    first: u64,
    /// Address of the count of how often it may still begin.
    count: u64,
    /// 1 << this is what a time counts, a byte in the code at each of these places.
    pub(super) weight: u8,
    times: SmallVec<[usize; 2]>,
    /// How often it had begun.
    begins: u32,
    /// Several ways lead here.
    joins: bool,
    /// It counts how often it begins: it is the first, or a way goes back to it.
    counts: bool,
    /// The block in front of it, or this one, that does so.
    counted_by: Option<usize>,
    /// It does not write the flags before somebody may look at them.
    flags_live: bool,
    /// Something that has been written leads here.
    reached: bool,
    /// What the only block that leads here has left.
    left: Option<Box<Left>>,
    /// Where it stands, and the branches that are to lead there.
    at: Option<usize>,
    sites: SmallVec<[usize; 2]>,
}

impl Place {
    fn new(first: u64, start: u16, count: u64) -> Self {
        Place {
            start,
            first,
            count,
            weight: 0,
            times: SmallVec::new(),
            begins: 0,
            joins: true,
            counts: false,
            counted_by: None,
            flags_live: true,
            reached: false,
            left: None,
            at: None,
            sites: SmallVec::new(),
        }
    }
}

/// What is not in the CPU state yet where a block ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pending: Pending,
    stored: bool,
    kept: u16,
    owed: u32,
}

/// All that a block leaves to one that nothing else leads to.
#[derive(Debug)]
struct Left {
    held: [Held; HELD],
    holds: [Option<u8>; 16],
    bound: [u8; 16],
    groups: Groups,
    vectors: Vectors,
    unit_is_live: bool,
    masked: bool,
    leaving: Leaving,
}

/// Whether somebody may look at the flags as they are at the beginning of a block, or behind it.
fn wants_flags(steps: &[Step]) -> bool {
    // Floating point is left to the interpreter while an exception is unmasked.
    let looks = |step: &Step| step.may_leave || step.floats || step.reads & FLAGS != 0;
    let first = steps.iter().find(|step| looks(step) || step.kills_flags);
    first.is_none_or(looks)
}

impl Writer {
    /// A block alone.
    pub(super) fn translate(&mut self, source: Source<'_>) -> Option<&Compiled> {
        let Source { insns, links, mode, page, devices, count, ring } = source;
        let first = insns.first()?;
        // The interpreter's own instructions, and these as they are translated.
        let mut canonical: SmallVec<[Insn; 16]> = insns.iter().cloned().collect();
        segmented::make_canonical(&mut canonical, mode);
        insn::mark_devices(&mut canonical, devices);
        self.places.clear();
        self.places.push(Place::new(std::ptr::from_ref(first) as u64, first.ip, count));
        let piece = Piece {
            insns: &canonical,
            ring,
            taken: (links.taken_offset, None),
            fall: (links.fall_offset, None),
            returns: SmallVec::new(),
            cut: false,
        };
        self.write(&[piece], mode, page)
    }

    /// Those of a region.
    pub(super) fn translate_path(&mut self, region: &Region, counted: &[(u64, u64)]) -> Option<&Compiled> {
        if segmented::checks_code(region.mode()) {
            // Each block would leave for the interpreter, with flags that nobody else looks at.
            return None;
        }
        self.places.clear();
        let mut pieces = Vec::with_capacity(region.nodes.len());
        for (k, (node, &(count, ring))) in region.nodes.iter().zip(counted).enumerate() {
            let part = &node.part;
            if node.distance != 0 || part.second.is_some() {
                return None;
            }
            let mut place = Place::new(part.first as u64, part.start, count);
            place.begins = part.begins;
            // The first is led to from outside.
            place.joins = k == 0 || node.predecessors != 1;
            place.flags_live = wants_flags(&node.steps);
            self.places.push(place);
            // Where it led before there was a path, it mostly leads.
            let seen: u64 = part.targets.iter().map(|target| u64::from(target.times)).sum();
            pieces.push(Piece {
                insns: &part.insns,
                ring: if seen < ENOUGH { ring } else { 0 },
                taken: (part.taken, node.taken),
                fall: (part.fall, node.fall),
                returns: match part.insns.last() {
                    Some(last) if !node.cut && region::is_return(last) => {
                        node.targets.iter().copied().collect()
                    }
                    _ => SmallVec::new(),
                },
                cut: node.cut,
            });
        }
        self.write(&pieces, region.mode(), (region.page() / PAGE) as u32)
    }

    /// By block of the path that was translated last: which one counts for it; None where nothing leads to it.
    pub(super) fn counters(&self) -> impl Iterator<Item = Option<usize>> {
        self.places.iter().map(|place| place.counted_by)
    }

    /// Notes which blocks count.
    fn find_counters(&mut self, pieces: &[Piece<'_>]) {
        for (k, piece) in pieces.iter().enumerate() {
            let next = piece.returns.iter().copied().chain(piece.taken.1).chain(piece.fall.1);
            next.filter(|&to| to <= k).for_each(|to| self.places[to].counts = true);
        }
        (self.places[0].counts, self.places[0].counted_by) = (true, Some(0));
    }

    fn write(&mut self, pieces: &[Piece<'_>], mode: Mode, page: u32) -> Option<&Compiled> {
        self.asm.cut(0);
        self.asm.full = false;
        (self.mode, self.page) = (mode, page);
        self.last_origin = 0;
        self.bails.clear();
        self.cold.clear();
        self.holes.clear();
        self.exits.clear();
        self.find_counters(pieces);
        for (k, piece) in pieces.iter().enumerate() {
            let steps: SmallVec<[Step; 16]> = piece.insns.iter().map(|i| Step::new(i, mode)).collect();
            if k == 0 && steps.first()?.way == Way::Leave {
                return None;
            }
            if !self.begin(k, piece) {
                continue;
            }
            self.look_ahead(piece.insns, &steps);
            self.look_for_touches(piece.insns, &steps);
            let mut ended = false;
            for (index, (i, step)) in piece.insns.iter().zip(&steps).enumerate() {
                self.index = index;
                ended = self.instruction(i, step);
                if self.asm.full || self.asm.len() > ROOM - MARGIN {
                    return None;
                }
                if ended {
                    break;
                }
            }
            if !ended && piece.cut {
                self.owed += piece.insns.len() as u32;
                self.follow(self.taken, true);
            }
        }
        let cold_from = self.asm.len();
        self.write_cold();
        for place in &self.places {
            for &at in &place.times {
                self.asm.set_byte(at, 1 << place.weight);
            }
            for &site in &place.sites {
                self.asm.patch(site, place.at?);
            }
        }
        if self.asm.full {
            return None;
        }
        let compiled = &mut self.compiled;
        compiled.code.clear();
        compiled.code.extend_from_slice(self.asm.code());
        compiled.cold_from = cold_from;
        compiled.across.clear();
        compiled.across.extend(self.asm.across(cold_from));
        std::mem::swap(&mut compiled.holes, &mut self.holes);
        std::mem::swap(&mut compiled.exits, &mut self.exits);
        Some(compiled)
    }

    /// Behind which instructions somebody wants the flags.
    fn look_ahead(&mut self, insns: &[Insn], steps: &[Step]) {
        self.live.clear();
        self.live.resize(steps.len(), true);
        // In front of each block a path may be left.
        let mut live = true;
        for (k, (step, i)) in steps.iter().zip(insns).enumerate().rev() {
            self.live[k] = live;
            // What has to do with vectors may turn out to be called, and to fault.
            let leaves = step.may_leave || Op::from_number(i.op).needs() != Needs::Nothing;
            live = leaves || step.reads & FLAGS != 0 || live && !step.kills_flags;
        }
    }

    // The beginning of a block.

    /// Begins a block; false if nothing leads there.
    fn begin(&mut self, k: usize, piece: &Piece<'_>) -> bool {
        self.block = k;
        let place = &mut self.places[k];
        if k != 0 && !place.reached {
            return false;
        }
        (self.first, self.count, self.ring) = (place.first, place.count, piece.ring);
        (self.taken, self.fall) = (piece.taken, piece.fall);
        self.span = segmented::span(piece.insns, piece.taken.0);
        self.returns = piece.returns.clone();
        let flags_live = place.flags_live;
        match place.left.take() {
            Some(left) => {
                (self.held, self.holds, self.bound) = (left.held, left.holds, left.bound);
                self.groups = left.groups;
                (self.unit_is_live, self.masked) = (left.unit_is_live, left.masked);
                self.vectors = left.vectors;
                self.take_over(left.leaving);
                self.places[k].at = Some(self.asm.len());
                if !flags_live {
                    self.drop_flags();
                }
            }
            None => {
                self.forget_copies();
                self.drop_flags();
                (self.unit_is_live, self.masked) = (false, false);
                self.owed = 0;
                if k == 0 {
                    self.enter();
                }
                self.places[k].at = Some(self.asm.len());
            }
        }
        true
    }

    /// What every translation begins with: the look at the attention word, and the count.
    fn enter(&mut self) {
        self.asm.lea(Q, RBP, At::new(RDI, super::BIAS));
        self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, attention)));
        self.asm.load(D, RCX, Self::budget(RAX));
        self.look_at_attention(0, None);
        self.count_begin(0, None);
    }

    fn budget(attention: Host) -> At {
        At::new(attention, offset_of!(Attention, budget) as i32)
    }

    /// With the attention word's address in RAX, and the budget in RCX: out where it wants the CPU, in front of a block.
    fn look_at_attention(&mut self, to: usize, flags: Option<super::Raw>) {
        self.asm.alu_load(Alu::Or, D, RCX, At::new(RAX, offset_of!(Attention, request) as i32));
        let site = self.asm.jump_if(cond::SIGN);
        let start = self.places[to].start;
        self.cold.push(Cold::Due { site, start, flags });
    }

    /// Counts that a block begins, and leaves in front of it where it has become hot.
    fn count_begin(&mut self, block: usize, flags: Option<super::Raw>) {
        self.asm.constant(RAX, self.places[block].count);
        self.asm.alu_memory(Alu::Sub, D, At::new(RAX, 0), 1);
        let at = self.asm.len() - 1;
        self.places[block].times.push(at);
        let site = self.asm.jump_if(cond::NOT_GREATER);
        let first = self.places[block].first;
        self.cold.push(Cold::Hot { site, first, flags, owed: self.owed });
    }

    // Its end.

    /// The block's last instruction is done.
    pub(super) fn finish(&mut self, i: &Insn) {
        self.commit();
        // A synthetic end is no instruction.
        self.owed += self.index as u32 + u32::from(i.len != 0);
    }

    /// Brings the CPU state up to date: flags are words, instructions come off the budget.
    pub(super) fn settle(&mut self) {
        self.flush_flags();
        self.pay();
    }

    fn pay(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.take_off_budget(owed);
    }

    /// Takes instructions off the budget. Uses RAX.
    pub(super) fn take_off_budget(&mut self, owed: u32) {
        if owed != 0 {
            self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, attention)));
            self.asm.alu_memory(Alu::Sub, D, Self::budget(RAX), owed as i32);
        }
    }

    pub(super) fn leaving(&self) -> Leaving {
        Leaving { pending: self.pending, stored: self.stored, kept: self.kept, owed: self.owed }
    }

    /// Goes on from what another block has left.
    pub(super) fn take_over(&mut self, left: Leaving) {
        (self.pending, self.stored, self.kept) = (left.pending, left.stored, left.kept);
        self.owed = left.owed;
    }

    /// Leaves everything to a block that nothing else leads to.
    fn hand_over(&mut self, to: usize) {
        self.parted = true;
        let left = Left {
            held: self.held,
            holds: self.holds,
            bound: self.bound,
            groups: self.groups,
            vectors: self.vectors,
            unit_is_live: self.unit_is_live,
            masked: self.masked,
            leaving: self.leaving(),
        };
        self.places[to].left = Some(Box::new(left));
        self.reach(to);
    }

    /// The block in hand leads to this one.
    fn reach(&mut self, to: usize) {
        let by = self.places[self.block].counted_by;
        let place = &mut self.places[to];
        place.reached = true;
        place.counted_by = place.counted_by.or(if place.counts { Some(to) } else { by });
    }

    /// Goes on at a page offset, where a block of these may be. `inline`: what is written next is the next block.
    pub(super) fn follow(&mut self, (offset, to): (i32, Option<usize>), inline: bool) {
        let Some(to) = to else {
            self.settle();
            return self.go(offset);
        };
        let back = to <= self.block;
        if !self.places[to].joins {
            self.hand_over(to);
        } else if back {
            let flags = self.raw_flags();
            let owed = std::mem::take(&mut self.owed) as i32;
            self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, attention)));
            self.asm.load(D, RCX, Self::budget(RAX));
            self.asm.alu_constant(Alu::Sub, D, RCX, owed);
            self.asm.store(D, RCX, Self::budget(RAX));
            self.look_at_attention(to, flags);
            self.count_begin(to, flags);
            if self.places[to].flags_live {
                self.flush_flags();
            }
        } else {
            if self.places[to].flags_live {
                self.flush_flags();
            }
            self.pay();
            if self.places[to].counts {
                self.count_begin(to, self.raw_flags());
            }
        }
        self.reach(to);
        self.parted = true;
        if !inline || to != self.block + 1 {
            let site = self.asm.jump();
            self.places[to].sites.push(site);
        }
    }

    /// Under a condition to one place, else to the other.
    pub(super) fn part_ways(&mut self, c: Bit) {
        let (taken, fall) = (self.taken, self.fall);
        if (taken.1, fall.1) == (None, None) {
            self.settle();
            let cc = self.condition_now(c);
            self.go_if(cc, taken.0);
            return self.go(fall.0);
        }
        let begins = |way: (i32, Option<usize>)| way.1.map_or(0, |to| self.places[to].begins);
        // The one that is taken more often is written here.
        let turned = begins(taken) > begins(fall) && fall.1 != Some(self.block + 1);
        let cc = self.condition_now(c);
        let (cc, away, on) = if turned { (cc ^ 1, fall, taken) } else { (cc, taken, fall) };
        let site = self.asm.jump_if(cc);
        self.go_by(site, away);
        self.follow(on, true);
    }

    /// A branch at `site` leads there.
    fn go_by(&mut self, site: usize, (offset, to): (i32, Option<usize>)) {
        match to {
            Some(to) if !self.places[to].joins => {
                self.hand_over(to);
                self.places[to].sites.push(site);
            }
            _ => {
                if let Some(to) = to {
                    self.reach(to);
                }
                self.parted = true;
                self.cold.push(Cold::Way { site, from: self.block, offset, to, leaving: self.leaving() });
            }
        }
    }

    /// Goes on behind the calls that a RET may lead back to, if it leads to one of them.
    pub(super) fn return_to(&mut self, to: Host) {
        let returns = std::mem::take(&mut self.returns);
        if returns.is_empty() {
            return;
        }
        self.asm.copy(RAX, to);
        self.asm.alu_load(Alu::Sub, Q, RAX, Self::register_place(reg::PAGE.into()));
        for site in returns {
            let start = i32::from(self.places[site].start);
            self.asm.alu_constant(Alu::Cmp, Q, RAX, start);
            let equal = self.asm.jump_if(cond::EQUAL);
            self.go_by(equal, (start, Some(site)));
        }
    }
}
