//! Which code is translated together, and what is known of it before.
//!
//! A region is the hot block and those that follow it by direct branches, by indirect ones as far as they have been seen, and by
//! returns from functions that it calls, as far as they have been decoded, which means: have run. Where a branch leaves its page, the region goes on in the guest-physical
//! page that it led to last; on the way, translated code looks whether the page tables still lead there. Everything here is
//! copied from the blocks, so that a region can be compiled on another thread.

use super::{Targets, segmented, vectors, worth::is_worth_it};
use crate::{
    effects::Effects,
    flags::bits,
    insn::{Insn, Kind, attr},
    mode::Mode,
    sem::{self, Class, Needs, Op},
    state::reg,
    vector::VecOp,
};
use smallvec::SmallVec;

/// Most blocks of a region.
const BLOCKS: usize = 30;
const _: () = assert!(BLOCKS <= u32::BITS as usize, "sets of blocks are words");
/// Most instructions, which bounds what runs between two looks at the attention word.
pub(crate) const INSTRUCTIONS: usize = 400;

/// Most places that a RET leads to within a region: functions that are called from more have no caller of their own.
const RETURNS: usize = 3;
/// Linear pages that a region reaches to either side.
const REACH: i32 = 1 << 16;

/// A set of registers: bits 15:0 are the general ones, bit 16 the flags, bits 63:32 the halves of vector registers, by their
/// numbers as [`crate::emit::Emit::xmm`] has them.
pub(super) type Set = u64;
/// The bit of the flags.
pub(super) const FLAGS: Set = 1 << 16;
/// Where the bits of vector registers begin.
pub(super) const VECTORS: u32 = 32;
/// All of them.
pub(super) const ALL: Set = 0xffff_ffff_0001_ffff;

/// A decoded block, as regions are made of them.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Guest-physical page.
    pub(crate) page: u64,
    /// Page offset of its first instruction.
    pub(crate) start: u16,
    /// The guest-physical page that its only instruction reaches into, if it does.
    pub(crate) second: Option<u64>,
    /// Its instructions, a synthetic end included.
    pub(crate) insns: Vec<Insn>,
    /// Where branches lead, relative to the page.
    pub(crate) taken: i32,
    /// Where it goes on otherwise.
    pub(crate) fall: i32,
    /// Guest-physical pages of these, as far as they are known.
    pub(crate) taken_page: Option<u64>,
    pub(crate) fall_page: Option<u64>,
    /// Where its indirect branch led, relative to the page, the most frequent first.
    pub(crate) targets: Targets,
    /// How often it has begun, [`u32::MAX`] where that is not known any more.
    pub(crate) begins: u32,
    /// What tells it from other blocks at the same place.
    pub(crate) id: u32,
    /// Where its first instruction is in the interpreter's memory.
    pub(crate) first: *const Insn,
}

// SAFETY: `first` is only compared and stored; nothing follows it but the CPU's own thread.
#[allow(unsafe_code, reason = "a pointer that is carried, not followed")]
unsafe impl Send for Part {}

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Into host instructions.
    Emit,
    /// Into a call of its interpreter function.
    Call,
    /// Into a call of the function that it is, and on from where that leads: the last of its block.
    End,
    /// The interpreter runs it: the region is left in front of it.
    Leave,
}

/// An instruction with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) way: Way,
    /// What it reads: bits of general registers, and [`FLAGS`]. For [`Way::Call`], what must be in the CPU state.
    pub(super) reads: Set,
    /// What it may write.
    pub(super) writes: Set,
    /// Flags are written whatever happens.
    pub(super) kills_flags: bool,
    /// The region may be left at its beginning.
    pub(super) may_leave: bool,
    /// It reads memory, it writes memory.
    pub(super) memory: [bool; 2],
    /// Its own code raises flags in MXCSR.
    pub(super) floats: bool,
    /// Its function neither looks at MXCSR nor computes with the host's floating point.
    pub(super) quiet: bool,
}

/// A block of the region.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) part: Part,
    /// How many linear pages behind the region's entry it lies.
    pub(super) distance: i32,
    pub(super) steps: Vec<Step>,
    /// Where in the region its branches lead, if they do.
    pub(super) taken: Option<usize>,
    pub(super) fall: Option<usize>,
    /// It ends with an indirect branch: where in the region it may go on.
    pub(super) targets: SmallVec<[usize; 2]>,
    /// It ends here, in front of another block, without an instruction of its own.
    pub(super) cut: bool,
    /// Edges that lead to it within the region.
    pub(super) predecessors: usize,
    /// It is the target of an edge from itself or from a block behind it.
    pub(super) closes_cycle: bool,
    /// The cycle that it is part of: nodes that lead to each other.
    pub(super) cycle: Option<usize>,
    /// What may differ from the CPU state at its beginning.
    pub(super) dirty: Set,
    /// Whether anybody wants the flags at its beginning.
    pub(super) flags_live: bool,
}

/// What regions are made of.
pub(crate) trait Code {
    /// The decoded block at an offset of a guest-physical page.
    fn part(&self, page: u64, offset: u16) -> Option<Part>;
    /// The guest-physical page at a linear address, if it is known.
    fn page_at(&self, linear: u64) -> Option<u64>;
    /// How often the block at an offset of a page has begun.
    fn begins(&self, page: u64, offset: u16) -> u32;
}

/// How far a region reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// How often blocks have begun that a hotter one takes along.
    pub(crate) warm: u32,
    /// Into other pages.
    pub(crate) pages: bool,
    /// Into blocks at which regions begin.
    pub(crate) regions: bool,
    /// Most instructions.
    pub(crate) instructions: usize,
    /// No region is formed that is better left as single blocks, or would be left as soon as it was entered.
    pub(crate) choosy: bool,
}

/// A region, ready to be translated.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Where its entry was when it became hot.
    linear: u64,
    pub(super) mode: Mode,
    pub(super) nodes: Vec<Node>,
    /// How many cycles they have.
    pub(super) cycles: usize,
    /// Registers that its own code uses, without the flags.
    pub(super) used: Set,
    /// It computes in floating point, under the guest's MXCSR.
    pub(super) floats: bool,
}

/// Whether direct branches lead from the block's end to its targets.
pub(super) fn goes_on(last: &Insn) -> (bool, bool) {
    match Op::from_number(last.op) {
        Op::Jcc | Op::Jrcxz | Op::LoopCc => (true, true),
        Op::Jmp | Op::Onward | Op::Call | Op::Call32 | Op::NearCall16 | Op::NearCall32 => (true, false),
        _ => (false, false),
    }
}

/// A page distance and an offset in that page, from an offset relative to a page at some distance.
fn place(distance: i32, offset: i32) -> (i32, u16) {
    (distance + (offset >> 12), (offset & 0xfff) as u16)
}

/// Where a block may lead within a region: distance, offset, guest-physical page.
fn successors(
    distance: i32,
    part: &Part,
    page_at: impl Fn(i32) -> Option<u64>,
) -> SmallVec<[(i32, u16, u64); 8]> {
    let Some(last) = part.insns.last() else { return SmallVec::new() };
    let (taken, fall) = goes_on(last);
    // Behind a call stands what its RET leads to.
    let fall = fall || is_call(last);
    let indirect = part.targets.iter().map(|target| target.offset).map(|offset| {
        let steps = offset >> 12;
        (is_followed(part), offset, if steps == 0 { Some(part.page) } else { page_at(distance + steps) })
    });
    [(fall, part.fall, part.fall_page), (taken, part.taken, part.taken_page)]
        .into_iter()
        .chain(indirect)
        .filter_map(|(goes, offset, page)| {
            let (distance, start) = place(distance, offset);
            let page = page.or(part.second.filter(|_| offset >> 12 == 1))?;
            (goes && distance.abs() < REACH).then_some((distance, start, page))
        })
        .collect()
}

fn is_call(last: &Insn) -> bool {
    use Op::{Call, Call32, CallTo, CallTo32, NearCall16, NearCall32, NearCallTo16, NearCallTo32};
    matches!(
        Op::from_number(last.op),
        Call | Call32 | CallTo | CallTo32 | NearCall16 | NearCall32 | NearCallTo16 | NearCallTo32
    )
}

pub(super) fn is_return(last: &Insn) -> bool {
    matches!(Op::from_number(last.op), Op::Ret | Op::Ret32 | Op::NearRet16 | Op::NearRet32)
}

/// Whether a block's last instruction is a branch to a computed address.
pub(super) fn is_indirect(last: &Insn) -> bool {
    use Op::{CallTo, CallTo32, JmpTo, JmpTo32, NearCallTo16, NearCallTo32, NearJmpTo};
    is_return(last)
        || matches!(
            Op::from_number(last.op),
            JmpTo | JmpTo32 | CallTo | CallTo32 | NearJmpTo | NearCallTo16 | NearCallTo32
        )
}

/// Whether the places to which a block's indirect branch led are part of its region.
fn is_followed(part: &Part) -> bool {
    part.insns
        .last()
        .is_some_and(|last| is_indirect(last) && (!is_return(last) || part.targets.len() <= RETURNS))
}

impl Region {
    /// Gathers the region of the block at an offset of a page, which has been seen at `linear`.
    pub(crate) fn gather(
        page: u64,
        (start, linear): (u16, u64),
        mode: Mode,
        code: &impl Code,
        reach: Reach,
    ) -> Option<Region> {
        let page_at = |distance: i32| code.page_at(linear.wrapping_add_signed(i64::from(distance) << 12));
        let part_at = |page: u64, start: u16| {
            let mut part = code.part(page, start)?;
            segmented::make_canonical(&mut part.insns, mode);
            Some(part)
        };
        let entry = part_at(page, start)?;
        if Step::new(entry.insns.first()?, mode).way == Way::Leave {
            return None;
        }
        let mut parts: Vec<(i32, Part)> = vec![(0, entry)];
        let mut room = reach.instructions.saturating_sub(parts[0].1.insns.len());
        let mut at = 0;
        while at < parts.len() {
            let wanted = successors(parts[at].0, &parts[at].1, page_at);
            at += 1;
            for (distance, offset, page) in wanted {
                let known = |p: &(i32, Part)| p.0 == distance && p.1.start == offset;
                let elsewhere = |p: &(i32, Part)| p.0 == distance && p.1.page != page;
                let out = distance != 0 && !reach.pages;
                if out || parts.len() >= BLOCKS || parts.iter().any(|p| known(p) || elsewhere(p)) {
                    continue;
                }
                let fits = |next: &Part| {
                    next.begins >= reach.warm
                        && (reach.regions || next.begins != u32::MAX)
                        && next.insns.len() <= room
                        && (reach.pages || next.second.is_none())
                };
                if let Some(next) = part_at(page, offset).filter(fits) {
                    room -= next.insns.len();
                    parts.push((distance, next));
                }
            }
        }
        let mut nodes: Vec<Node> =
            parts.into_iter().map(|(distance, part)| Node::new(distance, part, mode)).collect();
        cut(&mut nodes);
        order(&mut nodes);
        if reach.choosy && !is_worth_it(&nodes, code) {
            return None;
        }
        let mut region = Region { linear, mode, nodes, cycles: 0, used: 0, floats: false };
        region.find_cycles();
        region.analyse();
        Some(region)
    }

    /// Page offset of its entry.
    pub(crate) fn start(&self) -> u16 {
        self.nodes[0].part.start
    }

    /// Guest-physical address of the page that its entry is in.
    pub(crate) fn page(&self) -> u64 {
        self.nodes[0].part.page
    }

    /// A linear address of its entry: there may be others.
    pub(crate) fn linear(&self) -> u64 {
        self.linear
    }

    /// The mode of its code.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Its blocks: page, page offset, identity, first instruction.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, u16, u32, *const Insn)> + '_ {
        self.nodes.iter().map(|Node { part, .. }| (part.page, part.start, part.id, part.first))
    }

    /// Its blocks' first instructions, and whether an indirect branch of their own ends them.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (*const Insn, bool)> + '_ {
        let indirect = |node: &Node| !node.cut && node.part.insns.last().is_some_and(is_indirect);
        self.nodes.iter().map(move |node| (node.part.first, indirect(node)))
    }

    /// Blocks that hardly anything but others of the region leads to, without its entry.
    pub(crate) fn inner(&self) -> impl Iterator<Item = *const Insn> + '_ {
        let mut led_to = [0u32; BLOCKS];
        for node in &self.nodes {
            for to in node.successors() {
                led_to[to] = led_to[to].saturating_add(node.part.begins);
            }
        }
        let inner =
            self.nodes.iter().zip(led_to).skip(1).filter(|(node, led_to)| node.part.begins / 2 <= *led_to);
        inner.map(|(node, _)| node.part.first)
    }

    /// Whether it is more than a block alone.
    pub(crate) fn is_path(&self) -> bool {
        self.nodes.len() > 1 || self.nodes.iter().any(|node| node.closes_cycle)
    }

    /// Guest instructions.
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().map(|node| node.steps.len()).sum()
    }

    /// Numbers the cycles: nodes from which each other can be reached.
    fn find_cycles(&mut self) {
        let reached: Vec<u32> = (0..self.nodes.len()).map(|k| self.reached_from(k)).collect();
        let leads = |from: usize, to: usize| reached[from] >> to & 1 != 0;
        for k in 0..self.nodes.len() {
            if !leads(k, k) || self.nodes[k].cycle.is_some() {
                continue;
            }
            let all = (k..self.nodes.len()).filter(|&other| leads(k, other) && leads(other, k));
            all.for_each(|other| self.nodes[other].cycle = Some(self.cycles));
            self.cycles += 1;
        }
    }

    /// Nodes, a bit each, to which one leads, itself only if it is part of a cycle.
    fn reached_from(&self, node: usize) -> u32 {
        let (mut reached, mut open) = (0u32, vec![node]);
        while let Some(at) = open.pop() {
            for to in self.nodes[at].successors() {
                if reached >> to & 1 == 0 {
                    reached |= 1 << to;
                    open.push(to);
                }
            }
        }
        reached
    }

    fn analyse(&mut self) {
        for node in &self.nodes {
            for step in &node.steps {
                if step.way == Way::Emit {
                    self.used |= (step.reads | step.writes) & !FLAGS;
                }
                self.floats |= step.floats;
            }
        }
        // What may differ from the CPU state, forwards.
        let n = self.nodes.len();
        let mut changed = true;
        while changed {
            changed = false;
            for k in 0..n {
                let out = self.nodes[k].dirty_behind(self.nodes[k].dirty);
                for to in self.nodes[k].successors() {
                    changed |= self.nodes[to].dirty | out != self.nodes[to].dirty;
                    self.nodes[to].dirty |= out;
                }
            }
        }
        // Who wants the flags, backwards.
        changed = true;
        while changed {
            changed = false;
            for k in (0..n).rev() {
                let live = self.flags_live_in(k);
                changed |= live != self.nodes[k].flags_live;
                self.nodes[k].flags_live = live;
            }
        }
    }

    fn flags_live_in(&self, k: usize) -> bool {
        let node = &self.nodes[k];
        for step in &node.steps {
            if step.may_leave || step.reads & FLAGS != 0 {
                return true;
            }
            if step.kills_flags {
                return false;
            }
        }
        // In front of an edge that goes back, the attention word may end the region.
        node.closes_cycle || self.flags_live_out(k)
    }

    /// Whether anybody wants the flags behind a node.
    pub(super) fn flags_live_out(&self, k: usize) -> bool {
        let node = &self.nodes[k];
        let (taken, fall) = node.part.insns.last().filter(|_| !node.cut).map_or((true, false), goes_on);
        // Whatever does not lead to a node leaves the region.
        let live = |goes: bool, to: Option<usize>| goes && to.is_none_or(|to| self.nodes[to].flags_live);
        !taken && !fall || live(taken, node.taken) || live(fall, node.fall)
    }
}

impl Node {
    fn new(distance: i32, part: Part, mode: Mode) -> Self {
        let steps = part.insns.iter().map(|i| Step::new(i, mode)).collect();
        Node {
            part,
            distance,
            steps,
            taken: None,
            fall: None,
            targets: SmallVec::new(),
            cut: false,
            predecessors: 0,
            closes_cycle: false,
            cycle: None,
            dirty: 0,
            flags_live: true,
        }
    }

    /// Where in the region it may go on.
    fn successors(&self) -> SmallVec<[usize; 8]> {
        [self.taken, self.fall].into_iter().flatten().chain(self.targets.iter().copied()).collect()
    }

    /// What differs from the CPU state behind it.
    fn dirty_behind(&self, mut dirty: Set) -> Set {
        for step in &self.steps {
            dirty = step.dirty_behind(dirty);
        }
        dirty
    }
}

impl Step {
    /// What differs from the CPU state behind the instruction.
    pub(super) fn dirty_behind(&self, dirty: Set) -> Set {
        match self.way {
            Way::Emit => dirty | self.writes,
            Way::Call => dirty & !(self.reads | self.writes),
            Way::End | Way::Leave => 0,
        }
    }

    pub(super) fn new(i: &Insn, mode: Mode) -> Self {
        let op = Op::from_number(i.op);
        let effects = sem::effects(i);
        let flags = |set: u64| if set & bits::STATUS != 0 { FLAGS } else { 0 };
        let mut step = Step {
            way: way(op, i, mode, &effects),
            reads: Set::from(effects.read)
                | flags(effects.flags_read)
                | Set::from(effects.halves_read()) << VECTORS,
            writes: Set::from(effects.written)
                | flags(effects.flags_written | effects.flags_perhaps)
                | Set::from(effects.halves_written()) << VECTORS,
            kills_flags: effects.flags_written & bits::STATUS == bits::STATUS && effects.flags_perhaps == 0,
            may_leave: true,
            memory: [effects.memory_read, effects.memory_written],
            floats: false,
            quiet: is_quiet(op, &effects),
        };
        if step.writes & FLAGS != 0 && !step.kills_flags {
            // The flags that stay.
            step.reads |= FLAGS;
        }
        match step.way {
            Way::Emit if effects.opaque && !effects.mmx => {
                (step.reads, step.writes) = touches(op, i);
                step.kills_flags = false;
            }
            Way::Emit => {
                let float = effects.float_operation();
                step.floats = float.is_some() || effects.fused_operation().is_some();
                step.may_leave = float.is_some_and(|(op, ..)| vectors::may_refuse(op))
                    || effects.memory_read
                    || effects.memory_written
                    || matches!(op, Op::Div | Op::Idiv)
                    || op.ends_block()
                        && !matches!(op, Op::Jcc | Op::Jmp | Op::Onward | Op::Jrcxz | Op::LoopCc);
            }
            Way::Call if effects.opaque => {
                let (reads, writes) = touches(op, i);
                (step.reads, step.writes) = (reads, writes);
                step.kills_flags = false;
            }
            // What it writes in part it reads, as far as the CPU state is concerned.
            Way::Call => step.reads |= step.writes,
            Way::End | Way::Leave => {
                (step.reads, step.writes) = (ALL, 0);
                step.kills_flags = false;
            }
        }
        step
    }
}

/// Whether the interpreter's function neither looks at MXCSR nor computes with the host's floating point; what it may ask the
/// bus does not.
fn is_quiet(op: Op, effects: &Effects) -> bool {
    if op.class() == Class::Leave {
        return !matches!(op, Op::Xsave | Op::Xsaveopt | Op::Xsavec | Op::Xsaves | Op::Xrstor | Op::Xrstors);
    }
    if matches!(op, Op::Rdtsc | Op::Rdtscp) {
        return true;
    }
    if op.needs() == Needs::X87 {
        return !matches!(op, Op::Fxsave | Op::Fxrstor | Op::Fsqrt);
    }
    !effects.opaque
        && !effects.other_vector
        // The approximations compute in floating point.
        && effects.operations().all(|op| vectors::emits(op) && !matches!(op, VecOp::RcpPs | VecOp::RsqrtPs))
        && effects.float_operation().is_none()
        && effects.fused_operation().is_none()
}

/// What plain Rust over the CPU state reads and writes of registers and flags.
fn touches(op: Op, i: &Insn) -> (Set, Set) {
    let register = |r: u8| if r < 16 { 1 << r } else { 0 };
    let address = register(i.base) | register(i.index);
    match (op.needs(), op) {
        (_, Op::Fxsave | Op::Fxrstor) => (ALL, ALL),
        (_, Op::Fnstsw) => (address | 1, 1),
        (_, Op::Fcomi | Op::Fucomi) => (FLAGS, FLAGS),
        (_, Op::Fcmov) => (FLAGS, 0),
        (Needs::X87, _)
        | (_, Op::Ldmxcsr | Op::Stmxcsr | Op::Vldmxcsr | Op::Vstmxcsr | Op::Emms | Op::Fwait) => (address, 0),
        (_, Op::Mfence) => (0, 0),
        (_, Op::Cli | Op::Cld | Op::Std | Op::Clac | Op::Stac | Op::Swapgs) => (0, 0),
        (_, Op::Rdtsc) => (0, register(reg::RAX >> 3) | register(reg::RDX >> 3)),
        (_, Op::Rdtscp) => (0, register(reg::RAX >> 3) | register(reg::RDX >> 3) | register(reg::RCX >> 3)),
        (_, Op::Pushf) => (FLAGS | register(4), register(4)),
        _ => (ALL, ALL),
    }
}

/// Whether an instruction's operand in memory, if it has one, is in a segment without base and limit.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "the translation of x87 instructions asks")
)]
pub(super) fn is_flat(i: &Insn, mode: Mode) -> bool {
    let memory = |k: Kind| k == Kind::Far;
    let far = memory(i.dst_kind()) || memory(i.src_kind());
    let flat_32 = crate::decode::flat_32(mode);
    mode.plain_64() || flat_32 && (!far || i.asize == 4 && matches!(i.seg, 0 | 2 | 3)) && !i.has(attr::IMM64)
}

fn way(op: Op, i: &Insn, mode: Mode, effects: &Effects) -> Way {
    let apart = match op.class() {
        Class::Leave => return Way::End,
        Class::Plain if op == Op::Emms || super::system::emits(op, mode) || super::x87::emits(i, mode) => {
            return Way::Emit;
        }
        Class::Plain => return Way::Call,
        Class::Ending => Way::Leave,
        Class::Straight => Way::Call,
    };
    let touches_memory = effects.memory_read || effects.memory_written;
    if touches_memory && i.goes_to_device() {
        return apart;
    }
    // Alignment checks are the interpreter's.
    if touches_memory && (mode.contains(Mode::ALIGN) || !mode.is_64() && i.has(attr::IMM64)) {
        return apart;
    }
    let vectors = effects.other_vector
        || effects.operations().any(|op| !vectors::emits(op))
        || effects.ternary_operations().any(|op| !vectors::emits_ternary(op))
        || effects.float_operation().is_some_and(|(op, lanes, imm)| !vectors::emits_float(op, lanes, imm))
        || effects.fused_operation().is_some_and(|(form, lanes)| !vectors::emits_fused(form, lanes));
    // With those that compute in floating point besides, the order of what they do counts.
    if vectors || effects.mmx && effects.float_operation().is_some() {
        return apart;
    }
    // A fault in the middle would leave part of a bit string's address behind; and what lies in two places is rare.
    if i.has(attr::LOCK) && i.w.0 > 8 {
        return apart;
    }
    Way::Emit
}

/// Ends blocks in front of others that begin inside them.
fn cut(nodes: &mut [Node]) {
    let starts: SmallVec<[(i32, u16); 32]> =
        nodes.iter().map(|node| (node.distance, node.part.start)).collect();
    for node in nodes.iter_mut() {
        let inside =
            |i: &Insn| i.len != 0 && i.ip != node.part.start && starts.contains(&(node.distance, i.ip));
        if let Some(k) = node.part.insns.iter().position(inside) {
            let at = i32::from(node.part.insns[k].ip);
            node.part.insns.truncate(k);
            node.steps.truncate(k);
            (node.part.taken, node.part.fall, node.cut) = (at, at, true);
        }
    }
}

/// Connects the nodes, and puts them in reverse post-order.
fn order(nodes: &mut Vec<Node>) {
    let find = |from: &Node, offset: i32| {
        let wanted = place(from.distance, offset);
        nodes.iter().position(|node| (node.distance, node.part.start) == wanted)
    };
    let mut edges = Vec::with_capacity(nodes.len());
    let mut behind_calls = vec![None; nodes.len()];
    for (k, node) in nodes.iter().enumerate() {
        let (taken, fall) = match node.part.insns.last() {
            Some(last) if !node.cut => goes_on(last),
            _ => (true, false),
        };
        let taken = taken.then(|| find(node, node.part.taken)).flatten();
        let mut targets: SmallVec<[usize; 2]> = SmallVec::new();
        if is_followed(&node.part) && !node.cut {
            targets.extend(node.part.targets.iter().filter_map(|target| find(node, target.offset)));
        }
        if !node.cut && node.part.insns.last().is_some_and(is_call) {
            behind_calls[k] = find(node, node.part.fall);
        }
        edges.push((taken, fall.then(|| find(node, node.part.fall)).flatten(), targets));
    }
    for (node, (taken, fall, targets)) in nodes.iter_mut().zip(edges) {
        (node.taken, node.fall, node.targets) = (taken, fall, targets);
    }
    for (call, &site) in behind_calls.iter().enumerate() {
        let Some(site) = site else { continue };
        for callee in nodes[call].successors() {
            let mut seen = vec![false; nodes.len()];
            connect_returns(nodes, &behind_calls, callee, site, &mut seen);
        }
    }
    // Depth first; on the way back a node has all that it leads to behind it.
    let mut post = Vec::with_capacity(nodes.len());
    let mut seen = vec![false; nodes.len()];
    let mut stack = vec![(0usize, 0usize)];
    seen[0] = true;
    while let Some((at, next)) = stack.pop() {
        let Some(&to) = nodes[at].successors().get(next) else {
            post.push(at);
            continue;
        };
        stack.push((at, next + 1));
        if !seen[to] {
            seen[to] = true;
            stack.push((to, 0));
        }
    }
    post.reverse();
    let place = |old: usize| post.iter().position(|&p| p == old);
    let mut ordered: Vec<Node> = post
        .iter()
        .map(|&old| Node {
            taken: nodes[old].taken.and_then(place),
            fall: nodes[old].fall.and_then(place),
            targets: nodes[old].targets.iter().filter_map(|&site| place(site)).collect(),
            ..nodes[old].clone()
        })
        .collect();
    for k in 0..ordered.len() {
        for to in ordered[k].successors() {
            ordered[to].predecessors += 1;
            if to <= k {
                ordered[k].closes_cycle = true;
            }
        }
    }
    *nodes = ordered;
}

/// A function that begins at `at` is called in front of `site`: so its RETs lead there. Calls within it are stepped over.
fn connect_returns(nodes: &mut [Node], behind: &[Option<usize>], at: usize, site: usize, seen: &mut [bool]) {
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    let node = &mut nodes[at];
    let last = node.part.insns.last().filter(|_| !node.cut);
    if last.is_some_and(is_return) {
        if node.targets.len() < RETURNS && !node.targets.contains(&site) {
            node.targets.push(site);
        }
        return;
    }
    let on: SmallVec<[usize; 8]> = match last.is_some_and(is_call) {
        true => behind[at].into_iter().collect(),
        false => node.successors(),
    };
    for to in on {
        connect_returns(nodes, behind, to, site, seen);
    }
}
