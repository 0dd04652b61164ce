//! Accesses beside each other: fields of a structure, a frame on the stack. Where a page was found near for one, it has been
//! looked at for [`SPAN`] bytes, and others that lie within them are not looked for again.
//!
//! Addresses are compared as values and constants added to them; what was found holds to the end of the node, or until plain
//! Rust runs.

use super::{
    emitter::Emitter,
    region::{Set, Way},
};
use crate::{
    insn::{Insn, Kind},
    mmu::near::SPAN,
    state::reg,
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Bytes of [`SPAN`] in front of an access that are looked at with it, at the most, less one.
const BEFORE: i64 = SPAN as i64 / 2 - 1;

/// How many instructions behind an access others of its group are looked for.
const AHEAD: usize = 16;

/// Number of RSP.
const STACK: u8 = reg::RSP >> 3;

/// Whether an instruction has an operand in memory besides the stack.
fn has_operand(i: &Insn) -> bool {
    let memory = |kind: Kind| matches!(kind, Kind::Mem | Kind::Far);
    memory(i.dst_kind()) || memory(i.src_kind())
}

/// What was found for an access.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// What its address begins with.
    root: Value,
    /// Place in [`crate::mmu::near::Near`].
    index: usize,
    /// The first of the bytes, relative to the root.
    from: i64,
    /// Host address of that.
    host: Value,
    /// All of them are known to be in the page: 8 bits.
    known: Value,
}

/// Base, index, and how far that is shifted.
type BaseAndIndex = (Value, Value, u8);

/// What a node's accesses have in common.
#[derive(Debug, Default)]
pub(super) struct Grouped {
    /// Values that are others and a constant.
    origins: FxHashMap<Value, (Value, i64)>,
    /// Sums of base and shifted index.
    sums: SmallVec<[(BaseAndIndex, Value); 4]>,
    groups: SmallVec<[Group; 4]>,
}

impl Grouped {
    /// Another node begins.
    pub(super) fn begin(&mut self) {
        self.origins.clear();
        self.sums.clear();
        self.groups.clear();
    }

    /// What was found holds no more.
    pub(super) fn forget(&mut self) {
        self.groups.clear();
    }
}

impl Emitter<'_, '_> {
    /// A value of 64 bits and a constant.
    pub(super) fn sum(&mut self, a: Value, k: i64) -> Value {
        let v = self.b.ins().iadd_imm_s(a, k);
        let (root, offset) = self.origin(a);
        self.grouped.origins.insert(v, (root, offset.wrapping_add(k)));
        v
    }

    /// Base and shifted index, the same value each time.
    pub(super) fn base_and_index(&mut self, base: Value, x: Value, shift: u8) -> Value {
        let key = (base, x, shift);
        if let Some((_, sum)) = self.grouped.sums.iter().find(|(known, _)| *known == key) {
            return *sum;
        }
        let x = if shift == 0 { x } else { self.b.ins().ishl_imm_u(x, i64::from(shift)) };
        let sum = self.b.ins().iadd(base, x);
        self.grouped.sums.push((key, sum));
        sum
    }

    fn origin(&self, v: Value) -> (Value, i64) {
        self.grouped.origins.get(&v).copied().unwrap_or((v, 0))
    }

    /// Host address of an access; where the TLB does not vouch for it and cannot be made to, the interpreter runs the
    /// instruction. `index`: place in [`crate::mmu::near::Near`]. `what`: see `runtime::fill`.
    pub(super) fn look_near(&mut self, linear: Value, size: u64, index: usize, what: u64) -> Value {
        let (root, offset) = self.origin(linear);
        let holds = |from: i64| {
            let inside = offset.wrapping_sub(from);
            inside >= 0 && inside.saturating_add(size as i64) <= SPAN as i64
        };
        let group = self
            .grouped
            .groups
            .iter()
            .find(|group| group.root == root && group.index == index && holds(group.from))
            .copied();
        match group {
            Some(group) => self.follow(group, offset, what),
            None if self.is_followed(what & 1 != 0) => {
                let from = Some(offset & !BEFORE).filter(|&from| holds(from)).unwrap_or(offset);
                self.lead((root, from), offset, index, what)
            }
            None => self.look_alone(linear, index, what),
        }
    }

    /// Whether the node has another access soon that may be in the group of that of the instruction in hand.
    fn is_followed(&self, write: bool) -> bool {
        let node = &self.region.nodes[self.node];
        let mut later = node.part.insns.iter().zip(&node.steps).skip(self.index);
        let Some((this, _)) = later.next() else { return false };
        let place = |i: &Insn| if has_operand(i) { (i.base, i.index) } else { (STACK, reg::ZERO) };
        let (base, x) = place(this);
        let stays = |r: u8, writes: Set| r >= reg::ZERO || writes >> r & 1 == 0;
        for (i, step) in later.take(AHEAD) {
            if step.way != Way::Emit {
                return false;
            }
            let apart = i64::from(i.disp) - i64::from(this.disp);
            let near = !has_operand(i) || !has_operand(this) || apart.abs() < SPAN as i64;
            if step.memory[usize::from(write)] && place(i) == (base, x) && near {
                return true;
            }
            // RSP moves by constants.
            if base != STACK && !stays(base, step.writes) || !stays(x, step.writes) {
                return false;
            }
        }
        false
    }

    /// An access by itself.
    fn look_alone(&mut self, linear: Value, index: usize, what: u64) -> Value {
        let hits = self.is_near(linear, index);
        // Every way to `done` is a block of its own: what the register allocator puts on an edge from a branch stands in the way
        // of those who do not take it.
        let (hit, miss, done) = (self.b.create_block(), self.cold(), self.b.create_block());
        let host = self.b.append_block_param(done, I64);
        self.b.ins().brif(hits, hit, &[], miss, &[]);
        self.to(miss);
        let found = self.look_far(linear, what);
        self.page_changed(index);
        self.b.ins().jump(done, &[found.into()]);
        self.to(hit);
        let [_, _, addend] = self.near_page(index);
        let there = self.b.ins().iadd(linear, addend);
        self.b.ins().jump(done, &[there.into()]);
        self.to(done);
        host
    }

    /// The first of a group.
    fn lead(&mut self, (root, from): (Value, i64), offset: i64, index: usize, what: u64) -> Value {
        let begin = if from == 0 { root } else { self.b.ins().iadd_imm_s(root, from) };
        let hits = self.is_near(begin, index);
        let (hit, miss, done) = (self.b.create_block(), self.cold(), self.b.create_block());
        let host = self.b.append_block_param(done, I64);
        let known = self.b.append_block_param(done, I8);
        self.b.ins().brif(hits, hit, &[], miss, &[]);
        self.to(miss);
        let found = self.look_far_from(root, offset, what);
        self.page_changed(index);
        // For those that follow.
        let now = self.is_near(begin, index);
        let found = self.b.ins().iadd_imm_s(found, from.wrapping_sub(offset));
        self.b.ins().jump(done, &[found.into(), now.into()]);
        self.to(hit);
        let [_, _, addend] = self.near_page(index);
        let there = self.b.ins().iadd(begin, addend);
        let yes = self.constant(I8, 1);
        self.b.ins().jump(done, &[there.into(), yes.into()]);
        self.to(done);
        self.grouped.groups.push(Group { root, index, from, host, known });
        self.b.ins().iadd_imm_s(host, offset.wrapping_sub(from))
    }

    /// Another of a group.
    fn follow(&mut self, group: Group, offset: i64, what: u64) -> Value {
        let (hit, miss, done) = (self.b.create_block(), self.cold(), self.b.create_block());
        let host = self.b.append_block_param(done, I64);
        self.b.ins().brif(group.known, hit, &[], miss, &[]);
        self.to(miss);
        let found = self.look_far_from(group.root, offset, what);
        self.page_changed(group.index);
        let found = self.b.ins().iadd_imm_s(found, group.from.wrapping_sub(offset));
        self.b.ins().jump(done, &[found.into()]);
        self.to(hit);
        self.b.ins().jump(done, &[group.host.into()]);
        self.to(done);
        self.b.ins().iadd_imm_s(host, offset.wrapping_sub(group.from))
    }

    fn is_near(&mut self, begin: Value, index: usize) -> Value {
        let [tag, room, _] = self.near_page(index);
        let offset = self.b.ins().isub(begin, tag);
        self.b.ins().icmp(IntCC::UnsignedLessThan, offset, room)
    }

    /// The same for an address that is another and a constant. It is computed here once more: then it is nowhere else, as long as
    /// its page is near.
    fn look_far_from(&mut self, root: Value, offset: i64, what: u64) -> Value {
        let linear = if offset == 0 { root } else { self.b.ins().iadd_imm_s(root, offset) };
        self.look_far(linear, what)
    }

    /// The TLB is filled, or the instruction left to the interpreter.
    fn look_far(&mut self, linear: Value, what: u64) -> Value {
        let found = self.slow_address(linear, what);
        let (back, bail) = (self.cold(), self.bail_block());
        self.b.ins().brif(found, back, &[], bail, &[]);
        self.to(back);
        found
    }
}
