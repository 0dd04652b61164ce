//! Which code is translated together, and what is known of it before.
//!
//! A region is the hot block and those that follow it by direct branches in its page, as far as they have been decoded,
//! which means: have run. Everything here is copied from the blocks, so that a region can be compiled on another thread.

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
/// Most instructions, which bounds what runs between two looks at the attention word.
pub(crate) const INSTRUCTIONS: usize = 400;

/// The bit of the flags in sets of registers; the general registers have bits 15:0.
pub(super) const FLAGS: u32 = 1 << 16;
/// All of them.
pub(super) const ALL: u32 = 0x1_ffff;

/// A decoded block, as regions are made of them.
#[derive(Clone, Debug)]
pub(crate) struct Part {
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
    /// The interpreter runs it: the region is left in front of it.
    Leave,
}

/// An instruction with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) way: Way,
    /// What it reads: bits of general registers, and [`FLAGS`]. For [`Way::Call`], what must be in the CPU state.
    pub(super) reads: u32,
    /// What it may write.
    pub(super) writes: u32,
    /// Flags are written whatever happens.
    pub(super) kills_flags: bool,
    /// The region may be left at its beginning.
    pub(super) may_leave: bool,
}

/// A block of the region.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) part: Part,
    pub(super) steps: Vec<Step>,
    /// Where in the region its branches lead, if they do.
    pub(super) taken: Option<usize>,
    pub(super) fall: Option<usize>,
    /// It ends here, in front of another block, without an instruction of its own.
    pub(super) cut: bool,
    /// Edges that lead to it within the region.
    pub(super) predecessors: usize,
    /// It is the target of an edge from itself or from a block behind it.
    pub(super) closes_cycle: bool,
    /// What may differ from the CPU state at its beginning.
    pub(super) dirty: u32,
    /// Whether anybody wants the flags at its beginning.
    pub(super) flags_live: bool,
}

/// A region, ready to be translated.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Guest-physical address of its page.
    page: u64,
    /// Where its entry was when it became hot.
    linear: u64,
    pub(super) mode: Mode,
    pub(super) nodes: Vec<Node>,
    /// General registers that it uses.
    pub(super) used: u32,
}

/// Whether direct branches lead from the block's end to its targets.
fn goes_on(last: &Insn) -> (bool, bool) {
    match Op::from_number(last.op) {
        Op::Jcc | Op::Jrcxz | Op::LoopCc => (true, true),
        Op::Jmp | Op::Onward | Op::Call | Op::Call32 => (true, false),
        _ => (false, false),
    }
}

impl Region {
    /// Gathers the region of the block at `start`, which has been seen at `linear`. `find` gives decoded blocks of the page by their offset.
    pub(crate) fn gather(
        page: u64,
        (start, linear): (u16, u64),
        mode: Mode,
        find: impl Fn(u16) -> Option<Part>,
    ) -> Option<Region> {
        let mut parts: Vec<Part> = vec![find(start)?];
        let mut room = INSTRUCTIONS.saturating_sub(parts[0].insns.len());
        let mut at = 0;
        // Where each step is checked against the code segment's limit, a block stands alone.
        while at < parts.len() && mode.contains(Mode::FLAT) {
            let part = &parts[at];
            at += 1;
            let Some(last) = part.insns.last() else { continue };
            let (taken, fall) = goes_on(last);
            let wanted: SmallVec<[i32; 2]> = [(fall, part.fall), (taken, part.taken)]
                .into_iter()
                .filter(|(goes, _)| *goes)
                .map(|w| w.1)
                .collect();
            for offset in wanted {
                let Some(offset) = u16::try_from(offset).ok().filter(|o| *o < 0x1000) else { continue };
                if parts.len() >= BLOCKS || parts.iter().any(|p| p.start == offset) {
                    continue;
                }
                if let Some(next) =
                    find(offset).filter(|next| next.insns.len() <= room && next.second.is_none())
                {
                    room -= next.insns.len();
                    parts.push(next);
                }
            }
        }
        let mut nodes: Vec<Node> = parts.into_iter().map(|part| Node::new(part, mode)).collect();
        cut(&mut nodes);
        order(&mut nodes);
        let mut region = Region { page, linear, mode, nodes, used: 0 };
        region.analyse();
        Some(region)
    }

    /// Page offset of its entry.
    pub(crate) fn start(&self) -> u16 {
        self.nodes[0].part.start
    }

    /// Guest-physical address of its page.
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// A linear address of its entry: there may be others.
    pub(crate) fn linear(&self) -> u64 {
        self.linear
    }

    /// The mode of its code.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Its blocks: page offset, identity, first instruction.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u16, u32, *const Insn)> + '_ {
        self.nodes.iter().map(|node| (node.part.start, node.part.id, node.part.first))
    }

    /// Guest instructions.
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().map(|node| node.steps.len()).sum()
    }

    fn analyse(&mut self) {
        for node in &self.nodes {
            for step in &node.steps {
                self.used |= (step.reads | step.writes) & 0xffff;
            }
        }
        // What may differ from the CPU state, forwards.
        let n = self.nodes.len();
        let mut changed = true;
        while changed {
            changed = false;
            for k in 0..n {
                let out = self.nodes[k].dirty_behind(self.nodes[k].dirty);
                for to in [self.nodes[k].taken, self.nodes[k].fall].into_iter().flatten() {
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
    fn new(part: Part, mode: Mode) -> Self {
        let steps = part.insns.iter().map(|i| Step::new(i, mode)).collect();
        Node {
            part,
            steps,
            taken: None,
            fall: None,
            cut: false,
            predecessors: 0,
            closes_cycle: false,
            dirty: 0,
            flags_live: true,
        }
    }

    /// What differs from the CPU state behind it.
    fn dirty_behind(&self, mut dirty: u32) -> u32 {
        for step in &self.steps {
            dirty = step.dirty_behind(dirty);
        }
        dirty
    }
}

impl Step {
    /// What differs from the CPU state behind the instruction.
    pub(super) fn dirty_behind(&self, dirty: u32) -> u32 {
        match self.way {
            Way::Emit => dirty | self.writes,
            Way::Call => dirty & !(self.reads | self.writes),
            Way::Leave => 0,
        }
    }

    fn new(i: &Insn, mode: Mode) -> Self {
        let op = Op::from_number(i.op);
        let effects = sem::effects(i);
        let flags = |set: u64| if set & bits::STATUS != 0 { FLAGS } else { 0 };
        let mut step = Step {
            way: way(op, i, mode, &effects),
            reads: u32::from(effects.read) | flags(effects.flags_read),
            writes: u32::from(effects.written) | flags(effects.flags_written | effects.flags_perhaps),
            kills_flags: effects.flags_written & bits::STATUS == bits::STATUS && effects.flags_perhaps == 0,
            may_leave: true,
        };
        if step.writes & FLAGS != 0 && !step.kills_flags {
            // The flags that stay.
            step.reads |= FLAGS;
        }
        match step.way {
            Way::Emit => {
                step.may_leave = effects.memory_read
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
            Way::Leave => {
                (step.reads, step.writes) = (ALL, 0);
                step.kills_flags = false;
            }
        }
        step
    }
}

/// What plain Rust over the CPU state reads and writes of registers and flags.
fn touches(op: Op, i: &Insn) -> (u32, u32) {
    let register = |r: u8| 1u32.checked_shl(r.into()).filter(|_| r < 16).unwrap_or(0);
    let address = register(i.base) | register(i.index);
    match (op.needs(), op) {
        (_, Op::Fnstsw) => (address | 1, 1),
        (_, Op::Fcomi | Op::Fucomi) => (FLAGS, FLAGS),
        (_, Op::Fcmov) => (FLAGS, 0),
        (Needs::X87, _)
        | (_, Op::Ldmxcsr | Op::Stmxcsr | Op::Vldmxcsr | Op::Vstmxcsr | Op::Emms | Op::Fwait) => (address, 0),
        (_, Op::Mfence) => (0, 0),
        (_, Op::Cld | Op::Std) => (0, 0),
        (_, Op::Rdtsc) => (0, register(reg::RAX >> 3) | register(reg::RDX >> 3)),
        _ => (ALL, ALL),
    }
}

/// The vector operations that are emitted.
fn emitted(op: VecOp) -> bool {
    super::vectors::emits(op)
}

fn way(op: Op, i: &Insn, mode: Mode, effects: &Effects) -> Way {
    let apart = match op.class() {
        Class::Leave => return Way::Leave,
        Class::Plain => return Way::Call,
        Class::Ending => Way::Leave,
        Class::Straight => Way::Call,
    };
    let memory = |k: Kind| k == Kind::Far;
    let far = memory(i.dst_kind()) || memory(i.src_kind());
    let touches_memory = effects.memory_read || effects.memory_written;
    // Segments with bases and limits, and alignment checks, are the interpreter's.
    let flat_32 = crate::decode::flat_32(mode);
    let reachable = match mode.plain_64() {
        true => true,
        false => flat_32 && (!far || i.asize == 4 && matches!(i.seg, 0 | 2 | 3)) && !i.has(attr::IMM64),
    };
    if touches_memory && !reachable {
        return apart;
    }
    if mode.is_64() && mode.contains(Mode::ALIGN) && touches_memory {
        return apart;
    }
    let vectors = effects.other_vector || effects.operations().any(|op| !emitted(op));
    if vectors || op.needs() == Needs::Mmx {
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
    let starts: SmallVec<[u16; 32]> = nodes.iter().map(|node| node.part.start).collect();
    for node in nodes.iter_mut() {
        let inside = |i: &Insn| i.len != 0 && i.ip != node.part.start && starts.contains(&i.ip);
        if let Some(k) = node.part.insns.iter().position(inside) {
            let at = i32::from(node.part.insns[k].ip);
            node.part.insns.truncate(k);
            node.steps.truncate(k);
            (node.part.taken, node.part.fall, node.cut) = (at, at, true);
        }
    }
}

/// Puts the nodes in reverse post-order, and connects them.
fn order(nodes: &mut Vec<Node>) {
    let find =
        |nodes: &[Node], offset: i32| nodes.iter().position(|node| i32::from(node.part.start) == offset);
    let edges: Vec<(Option<usize>, Option<usize>)> = nodes
        .iter()
        .map(|node| {
            let (taken, fall) = match node.part.insns.last() {
                Some(last) if !node.cut => goes_on(last),
                _ => (true, false),
            };
            (
                taken.then(|| find(nodes, node.part.taken)).flatten(),
                fall.then(|| find(nodes, node.part.fall)).flatten(),
            )
        })
        .collect();
    // Depth first; on the way back a node has all that it leads to behind it.
    let mut post = Vec::with_capacity(nodes.len());
    let mut seen = vec![false; nodes.len()];
    let mut stack = vec![(0usize, 0u8)];
    seen[0] = true;
    while let Some((at, next)) = stack.pop() {
        let to = match next {
            0 => edges[at].0,
            1 => edges[at].1,
            _ => {
                post.push(at);
                continue;
            }
        };
        stack.push((at, next + 1));
        if let Some(to) = to.filter(|&to| !seen[to]) {
            seen[to] = true;
            stack.push((to, 0));
        }
    }
    post.reverse();
    let place = |old: Option<usize>| old.and_then(|old| post.iter().position(|&p| p == old));
    let mut ordered: Vec<Node> = post
        .iter()
        .map(|&old| Node { taken: place(edges[old].0), fall: place(edges[old].1), ..nodes[old].clone() })
        .collect();
    for k in 0..ordered.len() {
        for to in [ordered[k].taken, ordered[k].fall].into_iter().flatten() {
            ordered[to].predecessors += 1;
            if to <= k {
                ordered[k].closes_cycle = true;
            }
        }
    }
    *nodes = ordered;
}
