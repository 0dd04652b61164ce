//! From a region to Cranelift's representation: registers, exits, the order of things. What instructions mean is in
//! `evaluate.rs`, guest memory in `memory.rs`, the flags in `flags.rs`, the way from page to page in `pages.rs`.
//!
//! Registers and flags are variables within a region; what differs from the CPU state is stored when the region is
//! left, in blocks that are rarely run. An instruction changes variables only when all of it has been done, so at any place
//! from where the region can be left they are what they were at its beginning.

use super::{
    Passage, Status,
    cache::Name,
    carried::Carried,
    flags::Pending,
    grouped::Grouped,
    pages::page_number,
    region::{FLAGS, Node, Region, Set, Step, VECTORS, Way},
    runtime,
    x87::Pointers,
};
use crate::{
    attention::Attention,
    fault::Done,
    flags::Flags,
    insn::{Insn, Kind},
    sem::{self, Needs, Op},
    state::{Cpu, Mxcsr, reg},
    width::Width,
};
use cranelift_codegen::{
    ir::{
        AbiParam, Block, ExtFuncData, ExternalName, FuncRef, GlobalValueData, InstBuilder, MemFlagsData,
        SigRef, Signature, TrapCode, Type, UserExternalName, Value, condcodes::IntCC, types::*,
    },
    isa::CallConv,
};
use cranelift_frontend::{FunctionBuilder, Variable};
use smallvec::SmallVec;
use std::mem::offset_of;

/// The CPU state: always there, always aligned.
pub(super) const STATE: MemFlagsData = MemFlagsData::trusted();

/// Guest memory: there when it has been looked up, aligned or not.
pub(super) const GUEST: MemFlagsData = MemFlagsData::new().with_notrap();

/// An integer of the width in hand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Val {
    Known(u64),
    Computed(Value),
}

/// A truth value: 0 or 1 of 8 bits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bit {
    Known(bool),
    Computed(Value),
}

/// The instruction cannot be translated.
#[derive(Debug)]
pub(super) struct Untranslatable;

/// What the code wants to know when it is placed.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Exits: the number of the guest-physical page, and the target relative to it.
    pub(super) exits: Vec<(u32, i32)>,
    /// Instructions whose addresses stand in cells: node and place in it.
    pub(super) cells: Vec<(usize, usize)>,
}

/// Offsets of the CPU state, as instructions have them.
pub(super) const fn at(offset: usize) -> i32 {
    offset as i32
}

const GPR: usize = offset_of!(Cpu, gpr);
pub(super) const FLAG_WORDS: [i32; 4] = [
    at(offset_of!(Cpu, flags) + offset_of!(Flags, z)),
    at(offset_of!(Cpu, flags) + offset_of!(Flags, s)),
    at(offset_of!(Cpu, flags) + offset_of!(Flags, l)),
    at(offset_of!(Cpu, flags) + offset_of!(Flags, t)),
];
/// Where flags stand that are not words yet.
const RAW: [i32; 2] = {
    let first = offset_of!(Cpu, translated) + offset_of!(Passage, raw);
    [at(first), at(first + 8)]
};
pub(super) const PAGE: i32 = at(GPR + 8 * reg::PAGE as usize);
const PASSAGE: usize = offset_of!(Cpu, translated);

/// Where a vector register's half stands.
fn vector_offset(r: u32) -> i32 {
    at(offset_of!(Cpu, xmm)) + 16 * r as i32
}

/// A general register's type at a width.
pub(super) fn integer(w: Width) -> Type {
    match w.0 {
        1 => I8,
        2 => I16,
        4 => I32,
        _ => I64,
    }
}

/// A region under construction.
pub(super) struct Emitter<'a, 'b> {
    pub(super) b: &'a mut FunctionBuilder<'b>,
    pub(super) region: &'a Region,
    /// The CPU.
    pub(super) cpu: Value,
    registers: [Variable; 16],
    vectors: [Variable; 32],
    pub(super) flags: [Variable; 4],
    budget: Variable,
    pub(super) blocks: Vec<Block>,
    pub(super) carried: Carried,
    pub(super) grouped: Grouped,
    /// Flags of nodes with a single way in, as it left them.
    inherited: Vec<Option<Pending>>,
    pub(super) pending: Pending,
    /// What differs from the CPU state.
    pub(super) dirty: Set,
    /// What the instruction in hand will change.
    new_registers: SmallVec<[(u8, Value); 4]>,
    new_vectors: SmallVec<[(u8, Value); 4]>,
    /// Results whose computation raises flags in MXCSR.
    pub(super) exceptional: Vec<Value>,
    pub(super) new_flags: Option<Pending>,
    pub(super) node: usize,
    pub(super) index: usize,
    /// Where the instruction in hand leaves the region for the interpreter.
    bail: Option<Block>,
    pub(super) needed: Needed,
    /// The x87 unit is known to be the host's.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other hosts have no such unit"))]
    pub(super) unit_is_live: bool,
    /// It is known to be not, and no exception of it to be pending.
    pub(super) mmx_is_ready: bool,
    /// What its last instruction was, as far as the CPU state does not have it.
    pub(super) pointers: Option<Pointers>,
    /// What the instruction in hand will make of that.
    pub(super) new_pointers: Option<Option<Pointers>>,
    /// Its instructions, without and with an operand.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other hosts have no such unit"))]
    pub(super) unit: [SigRef; 2],
    systemv: SigRef,
    systemv_end: SigRef,
    exit: SigRef,
    leave: FuncRef,
    slow: FuncRef,
    lookup: FuncRef,
}

impl<'a, 'b> Emitter<'a, 'b> {
    /// Emits all of a region into an empty function.
    pub(super) fn run(b: &'a mut FunctionBuilder<'b>, region: &'a Region) -> Result<Needed, Untranslatable> {
        let pointer = |n: usize| {
            let mut s = Signature::new(CallConv::SystemV);
            s.params = vec![AbiParam::new(I64); n];
            s
        };
        let [systemv, systemv_end] = [3, 4].map(|n| {
            let mut s = pointer(n);
            s.returns.push(AbiParam::new(I64));
            b.import_signature(s)
        });
        let preserve_all = b.import_signature(Signature { call_conv: CallConv::PreserveAll, ..pointer(3) });
        let unit =
            [0, 1].map(|n| b.import_signature(Signature { call_conv: CallConv::PreserveAll, ..pointer(n) }));
        let exit = b.import_signature(Signature { call_conv: CallConv::Winch, ..pointer(1) });
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let cpu = b.block_params(entry)[0];
        let registers = std::array::from_fn(|_| b.declare_var(I64));
        let vectors = std::array::from_fn(|_| b.declare_var(I8X16));
        let flags = std::array::from_fn(|_| b.declare_var(I64));
        let budget = b.declare_var(I32);
        let blocks: Vec<Block> = region.nodes.iter().map(|_| b.create_block()).collect();
        let leave = import(b, Name::Leave, exit);
        let slow = import(b, Name::Slow, preserve_all);
        let two = b.import_signature(Signature { call_conv: CallConv::Winch, ..pointer(2) });
        let lookup = import(b, Name::Lookup, two);
        let mut e = Emitter {
            b,
            region,
            cpu,
            registers,
            vectors,
            flags,
            budget,
            inherited: vec![None; blocks.len()],
            blocks,
            carried: Carried::new(region.cycles),
            grouped: Grouped::default(),
            pending: Pending::Variables,
            dirty: 0,
            new_registers: SmallVec::new(),
            new_vectors: SmallVec::new(),
            exceptional: Vec::new(),
            new_flags: None,
            node: 0,
            index: 0,
            bail: None,
            needed: Needed::default(),
            unit_is_live: false,
            mmx_is_ready: false,
            pointers: None,
            new_pointers: None,
            unit,
            systemv,
            systemv_end,
            exit,
            leave,
            slow,
            lookup,
        };
        e.enter();
        for k in 0..region.nodes.len() {
            e.node(k)?;
        }
        e.emit_ways_in();
        e.b.seal_all_blocks();
        e.keep_results();
        Ok(e.needed)
    }

    // The CPU state.

    pub(super) fn load_state(&mut self, t: Type, offset: i32) -> Value {
        self.b.ins().load(t, STATE, self.cpu, offset)
    }
    pub(super) fn store_state(&mut self, v: Value, offset: i32) {
        self.b.ins().store(STATE, v, self.cpu, offset);
    }
    pub(super) fn constant(&mut self, t: Type, k: i64) -> Value {
        self.b.ins().iconst(t, k)
    }
    fn attention(&mut self) -> Value {
        self.load_state(I64, at(offset_of!(Cpu, attention)))
    }
    /// Linear address of the page.
    pub(super) fn page(&mut self) -> Value {
        self.load_state(I64, PAGE)
    }
    /// A linear address relative to the page, wrapped as the mode does.
    pub(super) fn page_relative(&mut self, offset: i32) -> Value {
        let page = self.page();
        let v = self.b.ins().iadd_imm_s(page, i64::from(offset));
        self.wrap(v)
    }
    /// Linear addresses have 32 bits outside of 64-bit mode.
    pub(super) fn wrap(&mut self, v: Value) -> Value {
        if self.region.mode.is_64() {
            return v;
        }
        let v = self.b.ins().ireduce(I32, v);
        self.b.ins().uextend(I64, v)
    }

    // Registers.

    /// All 64 bits of one.
    pub(super) fn register(&mut self, n: usize) -> Value {
        match self.new_registers.iter().rev().find(|(r, _)| usize::from(*r) == n) {
            Some((_, v)) => *v,
            None => self.b.use_var(self.registers[n & 15]),
        }
    }
    /// Sets all 64 bits, when the instruction is done.
    pub(super) fn set_register(&mut self, n: usize, v: Value) {
        self.new_registers.push((n as u8, v));
    }

    /// A half of a vector register.
    pub(super) fn vector(&mut self, n: u8) -> Value {
        match self.new_vectors.iter().rev().find(|(r, _)| *r == n) {
            Some((_, v)) => *v,
            None => self.b.use_var(self.vectors[usize::from(n & 31)]),
        }
    }
    /// Sets one, when the instruction is done.
    pub(super) fn set_vector(&mut self, n: u8, v: Value) {
        let v = self.cast(I8X16, v);
        self.new_vectors.push((n & 31, v));
    }

    /// Loads the variables of `set` from the CPU state.
    fn reload(&mut self, set: Set) {
        for r in 0..32 {
            if set >> (VECTORS + r) & 1 != 0 {
                let v = self.load_state(I8X16, vector_offset(r));
                self.b.def_var(self.vectors[r as usize], v);
            }
        }
        for r in 0..16 {
            if set >> r & 1 != 0 {
                let v = self.load_state(I64, at(GPR + 8 * r));
                self.b.def_var(self.registers[r], v);
            }
        }
        if set & FLAGS != 0 {
            for (variable, offset) in self.flags.into_iter().zip(FLAG_WORDS) {
                let v = self.load_state(I64, offset);
                self.b.def_var(variable, v);
            }
            self.pending = Pending::Variables;
        }
    }

    /// Stores what differs from the CPU state.
    pub(super) fn flush(&mut self, set: Set) {
        for r in 0..32 {
            if set >> (VECTORS + r) & 1 != 0 {
                let v = self.b.use_var(self.vectors[r as usize]);
                self.store_state(v, vector_offset(r));
            }
        }
        for r in 0..16 {
            if set >> r & 1 != 0 {
                let v = self.b.use_var(self.registers[r]);
                self.store_state(v, at(GPR + 8 * r));
            }
        }
        if set & FLAGS != 0 {
            let words = self.flag_words(self.pending);
            for (word, offset) in words.into_iter().zip(FLAG_WORDS) {
                self.store_state(word, offset);
            }
        }
    }

    /// The same where it is rare: flags as they are, to be made words by [`Cpu::left`]; gives what the status says of them.
    fn flush_rare(&mut self, set: Set) -> u32 {
        self.flush(set & !FLAGS);
        if set & FLAGS == 0 {
            return 0;
        }
        match self.raw_flags() {
            Some(raw) => {
                for (v, offset) in raw.values.into_iter().flatten().zip(RAW) {
                    self.store_state(v, offset);
                }
                raw.kind << 8
            }
            None => {
                self.flush(FLAGS);
                0
            }
        }
    }

    /// Takes instructions off the budget, in the attention word.
    pub(super) fn flush_budget(&mut self, instructions: usize) {
        let mut budget = self.b.use_var(self.budget);
        if instructions != 0 {
            budget = self.b.ins().iadd_imm_s(budget, -(instructions as i64));
        }
        let attention = self.attention();
        self.b.ins().store(STATE, budget, attention, at(offset_of!(Attention, budget)));
    }

    // The way of a region.

    fn enter(&mut self) {
        let attention = self.attention();
        let budget = self.b.ins().load(I32, STATE, attention, at(offset_of!(Attention, budget)));
        self.b.def_var(self.budget, budget);
        let due = self.due(budget);
        let (out, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(due, out, &[], on, &[]);
        self.to(out);
        let rip = self.page_relative(self.region.start().into());
        self.leave_at(rip, Status::Continue, 0);
        self.to(on);
        if self.region.floats {
            let unmasked = self.has_unmasked_exceptions();
            self.refuse_if(unmasked);
        }
        if let Some(beyond) = self.is_beyond_limit() {
            self.refuse_if(beyond);
        }
        self.reload(self.region.used | FLAGS);
        let first = self.way_to(0, None);
        self.b.ins().jump(first, &[]);
    }

    /// Whether a floating-point exception would have to be raised.
    fn has_unmasked_exceptions(&mut self) -> Value {
        let mxcsr = self.load_state(I32, at(offset_of!(Cpu, mxcsr)));
        let masks = self.b.ins().band_imm_u(mxcsr, i64::from(Mxcsr::MASKS));
        self.b.ins().icmp_imm_u(IntCC::NotEqual, masks, i64::from(Mxcsr::MASKS))
    }

    /// Leaves the first block to the interpreter if `c`.
    fn refuse_if(&mut self, c: Value) {
        let (out, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(c, out, &[], on, &[]);
        self.to(out);
        let cell = self.insn_cell(0);
        let insn = self.b.ins().load(I64, STATE, cell, 0);
        self.store_state(insn, at(PASSAGE + offset_of!(Passage, resume)));
        self.leave_with(Status::ResumeFirst, 0);
        self.to(on);
    }

    /// Whether the attention word wants the CPU.
    fn due(&mut self, budget: Value) -> Value {
        let attention = self.attention();
        let request = self.b.ins().load(I32, STATE, attention, at(offset_of!(Attention, request)));
        let word = self.b.ins().bor(budget, request);
        self.b.ins().icmp_imm_s(IntCC::SignedLessThan, word, 0)
    }

    fn node(&mut self, k: usize) -> Result<(), Untranslatable> {
        let region = self.region;
        let node = &region.nodes[k];
        (self.node, self.dirty) = (k, node.dirty);
        self.b.switch_to_block(self.blocks[k]);
        self.pending = self.inherited[k].unwrap_or(Pending::Variables);
        self.grouped.begin();
        (self.unit_is_live, self.mmx_is_ready, self.pointers) = (false, false, None);
        for (index, (i, step)) in node.part.insns.iter().zip(&node.steps).enumerate() {
            self.index = index;
            let last = index + 1 == node.steps.len();
            if last && !node.cut && node.closes_cycle {
                let budget = self.b.use_var(self.budget);
                let due = self.due(budget);
                self.bail_if(due);
            }
            let ended = self.instruction(i, step)?;
            if ended {
                return Ok(());
            }
        }
        if node.cut {
            self.end_of_cut(node);
            return Ok(());
        }
        Err(Untranslatable)
    }

    /// On to the block in front of which this one was cut.
    fn end_of_cut(&mut self, node: &Node) {
        self.index = node.steps.len();
        self.settle_pointers();
        self.take_budget(node.steps.len());
        if node.closes_cycle {
            let budget = self.b.use_var(self.budget);
            let due = self.due(budget);
            let (out, on) = (self.cold(), self.b.create_block());
            self.b.ins().brif(due, out, &[], on, &[]);
            self.to(out);
            let flags = self.flush_rare(self.dirty);
            self.flush_budget(0);
            let rip = self.page_relative(node.part.taken);
            self.leave_at(rip, Status::Continue, flags);
            self.to(on);
        }
        self.go(node.taken, node.part.taken);
    }

    /// Emits one instruction; true if it ended the node.
    fn instruction(&mut self, i: &Insn, step: &Step) -> Result<bool, Untranslatable> {
        match step.way {
            Way::Leave => {
                let bail = self.bail_block();
                self.b.ins().jump(bail, &[]);
                self.finish_bail();
                Ok(true)
            }
            Way::End => {
                self.end(sem::leaving(i.op).ok_or(Untranslatable)?, step.quiet);
                Ok(true)
            }
            Way::Call => {
                self.call(i, step);
                (self.unit_is_live, self.mmx_is_ready) = (false, false);
                self.dirty = step.dirty_behind(self.dirty);
                self.pages_changed();
                Ok(false)
            }
            Way::Emit if self.read_time(Op::from_number(i.op)) => {
                self.commit();
                Ok(false)
            }
            Way::Emit if self.system(Op::from_number(i.op)) => {
                self.commit();
                // It may have changed the class of accesses.
                self.pages_changed();
                Ok(false)
            }
            Way::Emit if matches!(Op::from_number(i.op).needs(), Needs::X87 | Needs::Wait) => {
                self.x87(i)?;
                self.mmx_is_ready = false;
                self.commit();
                Ok(false)
            }
            Way::Emit if Op::from_number(i.op) == Op::Emms => {
                self.demand_mmx();
                self.become_mmx(0)?;
                self.commit();
                Ok(false)
            }
            Way::Emit => {
                let ended = sem::emit(self, i)?.is_some();
                if !ended {
                    self.commit();
                }
                Ok(ended)
            }
        }
    }

    /// The instruction is done.
    pub(super) fn commit(&mut self) {
        self.finish_bail();
        if let Some(pointers) = self.new_pointers.take() {
            self.pointers = pointers;
        }
        for (r, v) in std::mem::take(&mut self.new_registers) {
            self.b.def_var(self.registers[usize::from(r)], v);
            self.dirty |= 1 << r;
        }
        for (r, v) in std::mem::take(&mut self.new_vectors) {
            self.b.def_var(self.vectors[usize::from(r)], v);
            self.dirty |= 1 << (VECTORS + u32::from(r));
        }
        if let Some(flags) = self.new_flags.take() {
            self.pending = flags;
            self.dirty |= FLAGS;
        }
    }

    /// The node's last instruction is done: its instructions come off the budget.
    pub(super) fn commit_last(&mut self, i: &Insn) {
        self.commit();
        self.settle_pointers();
        // A synthetic end is no instruction.
        self.take_budget(self.index + usize::from(i.len != 0));
    }

    /// The CPU state has the x87 unit's pointers.
    fn settle_pointers(&mut self) {
        self.store_pointers();
        self.pointers = None;
    }

    fn take_budget(&mut self, instructions: usize) {
        let budget = self.b.use_var(self.budget);
        let budget = self.b.ins().iadd_imm_s(budget, -(instructions as i64));
        self.b.def_var(self.budget, budget);
    }

    /// To the node, or to the page offset if there is none.
    pub(super) fn go(&mut self, node: Option<usize>, offset: i32) {
        let Some(node) = node else { return self.exit_to(offset) };
        self.turn_page(node, offset);
        let target = &self.region.nodes[node];
        if target.predecessors == 1 && node != 0 && node > self.node {
            self.inherited[node] = Some(self.pending);
        } else if target.flags_live {
            let words = self.flag_words(self.pending);
            for (variable, word) in self.flags.into_iter().zip(words) {
                self.b.def_var(variable, word);
            }
        }
        let block = self.way_to(node, Some(self.node));
        self.b.ins().jump(block, &[]);
    }

    /// The block of a node, if nothing is to be done on the way to it but to go there.
    fn open_way(&mut self, node: Option<usize>) -> Option<Block> {
        let node = node?;
        let target = &self.region.nodes[node];
        if self.turns_page(node) {
            return None;
        }
        if target.predecessors == 1 && node != 0 && node > self.node {
            self.inherited[node] = Some(self.pending);
        } else if target.flags_live && !matches!(self.pending, Pending::Variables) {
            return None;
        }
        Some(self.way_to(node, Some(self.node)))
    }

    /// The end of a node that goes on in one of two places.
    pub(super) fn go_either_way(&mut self, c: Value) {
        let node = &self.region.nodes[self.node];
        let (taken, on) = (self.open_way(node.taken), self.open_way(node.fall));
        let (to_taken, to_on) =
            (taken.unwrap_or_else(|| self.b.create_block()), on.unwrap_or_else(|| self.b.create_block()));
        self.b.ins().brif(c, to_taken, &[], to_on, &[]);
        if taken.is_none() {
            self.to(to_taken);
            self.go_taken();
        }
        if on.is_none() {
            self.to(to_on);
            self.go_on();
        }
    }

    /// Where the node's last instruction goes if the branch is taken.
    pub(super) fn go_taken(&mut self) {
        let node = &self.region.nodes[self.node];
        self.go(node.taken, node.part.taken);
    }

    /// Where it goes otherwise.
    pub(super) fn go_on(&mut self) {
        let node = &self.region.nodes[self.node];
        self.go(node.fall, node.part.fall);
    }

    // Ways out.

    pub(super) fn cold(&mut self) -> Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        block
    }
    /// Goes on in a block that nothing else will lead to.
    pub(super) fn to(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    fn leave_now(&mut self) {
        let (leave, cpu) = (self.leave, self.cpu);
        self.b.ins().call(leave, &[cpu]);
        self.b.ins().trap(TrapCode::unwrap_user(1));
    }

    fn leave_with(&mut self, status: Status, flags: u32) {
        let status = self.constant(I32, i64::from(status as u32 | flags));
        self.store_state(status, at(PASSAGE + offset_of!(Passage, status)));
        self.leave_now();
    }

    /// Back to the dispatcher, to go on at a linear address.
    fn leave_at(&mut self, rip: Value, status: Status, flags: u32) {
        self.store_state(rip, at(offset_of!(Cpu, rip)));
        self.leave_with(status, flags);
    }

    /// To a page offset outside of the region.
    fn exit_to(&mut self, offset: i32) {
        self.flush(self.dirty);
        self.flush_budget(0);
        if !(0..0x1000).contains(&offset) || !self.region.mode.contains(crate::mode::Mode::FLAT) {
            let rip = self.page_relative(offset);
            return self.jump_through_cache(rip);
        }
        let k = self.needed.exits.len() as u32;
        self.needed.exits.push((page_number(self.region.nodes[self.node].part.page), offset));
        let stub = import(self.b, Name::Exit(k), self.exit);
        let cpu = self.cpu;
        self.b.ins().call(stub, &[cpu]);
        self.b.ins().trap(TrapCode::unwrap_user(1));
    }

    /// To a linear address outside of the region.
    pub(super) fn exit_to_address(&mut self, rip: Value) {
        self.flush(self.dirty);
        self.flush_budget(0);
        self.jump_through_cache(rip);
    }

    /// To a linear address, by way of the jump cache.
    pub(super) fn jump_through_cache(&mut self, rip: Value) {
        let (lookup, cpu) = (self.lookup, self.cpu);
        self.b.ins().call(lookup, &[cpu, rip]);
        self.b.ins().trap(TrapCode::unwrap_user(1));
    }

    /// Where the instruction in hand is left to the interpreter, with the state of its beginning.
    pub(super) fn bail_block(&mut self) -> Block {
        if let Some(bail) = self.bail {
            return bail;
        }
        let bail = self.cold();
        self.bail = Some(bail);
        bail
    }

    /// Leaves the instruction to the interpreter if `c`.
    pub(super) fn bail_if(&mut self, c: Value) {
        let (bail, on) = (self.bail_block(), self.b.create_block());
        self.b.ins().brif(c, bail, &[], on, &[]);
        self.to(on);
    }

    /// Emits what the bail block does. Called before variables change.
    pub(super) fn finish_bail(&mut self) {
        let Some(bail) = self.bail.take() else { return };
        let here = self.b.current_block();
        self.to(bail);
        self.store_pointers();
        let flags = self.flush_rare(self.dirty);
        self.flush_budget(0);
        let cell = self.insn_cell(self.index);
        let insn = self.b.ins().load(I64, STATE, cell, 0);
        self.store_state(insn, at(PASSAGE + offset_of!(Passage, resume)));
        self.leave_with(if self.index == 0 { Status::ResumeFirst } else { Status::Resume }, flags);
        if let Some(here) = here {
            self.b.switch_to_block(here);
        }
    }

    /// Address of the cell with the address of an instruction of this node in the interpreter's memory.
    fn insn_cell(&mut self, index: usize) -> Value {
        let wanted = (self.node, index);
        let k = self.needed.cells.iter().position(|cell| *cell == wanted).unwrap_or_else(|| {
            self.needed.cells.push(wanted);
            self.needed.cells.len() - 1
        });
        let (space, number) = Name::Cell(k as u32).number();
        let name = self.b.func.declare_imported_user_function(UserExternalName::new(space, number));
        let cell = self.b.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(name),
            offset: 0.into(),
            colocated: true,
            tls: false,
        });
        self.b.ins().symbol_value(I64, cell)
    }

    /// An instruction by its interpreter function.
    fn call(&mut self, i: &Insn, step: &Step) {
        if matches!(self.pending, Pending::Relation { .. }) && !step.quiet {
            // A comparison is repeated where somebody asks, under the MXCSR that it stood under.
            self.pending = Pending::Words(self.flag_words(self.pending));
        }
        let (dirty, index) = (self.dirty, self.index);
        self.settle_pointers();
        self.flush(dirty & step.reads);
        self.flush_budget(0);
        let cell = self.insn_cell(index);
        let insn = self.b.ins().load(I64, STATE, cell, 0);
        let function = if step.quiet { runtime::step_quietly } else { runtime::step } as *const ();
        let function = self.constant(I64, function as i64);
        let (systemv, cpu) = (self.systemv, self.cpu);
        let call = self.b.ins().call_indirect(systemv, function, &[cpu, insn, insn]);
        let ended = self.b.inst_results(call)[0];
        let (out, stopped, dropped, on) = (self.cold(), self.cold(), self.cold(), self.b.create_block());
        self.b.ins().brif(ended, out, &[], on, &[]);
        self.to(out);
        let is_stop = self.b.ins().icmp_imm_s(IntCC::Equal, ended, runtime::STOPPED);
        self.b.ins().brif(is_stop, stopped, &[], dropped, &[]);
        self.to(stopped);
        // It faulted: nothing has changed.
        let flags = self.flush_rare(dirty & !step.reads);
        self.flush_budget(index);
        let rip = self.page_relative(i.ip.into());
        self.leave_at(rip, Status::Stopped, flags);
        self.to(dropped);
        // It wrote code, perhaps this.
        let flags = self.flush_rare(dirty & !(step.reads | step.writes));
        self.flush_budget(index + 1);
        let rip = self.page_relative(i32::from(i.ip) + i32::from(i.len));
        self.leave_at(rip, Status::Continue, flags);
        self.to(on);
        self.reload(step.writes & (self.region.used | FLAGS));
    }

    /// The node's last instruction, where it is plain Rust: by its function.
    fn end(&mut self, function: fn(&mut Cpu, &Insn) -> Done, quiet: bool) {
        self.settle_pointers();
        self.flush(self.dirty);
        self.flush_budget(0);
        let cell = self.insn_cell(self.index);
        let insn = self.b.ins().load(I64, STATE, cell, 0);
        let own = self.constant(I64, function as usize as i64);
        let end = if quiet { runtime::end_quietly } else { runtime::end } as *const ();
        let end = self.constant(I64, end as i64);
        let instructions = self.constant(I64, self.index as i64 + 1);
        let (systemv, cpu) = (self.systemv_end, self.cpu);
        let call = self.b.ins().call_indirect(systemv, end, &[cpu, insn, instructions, own]);
        let ended = self.b.inst_results(call)[0];
        let (out, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(ended, out, &[], on, &[]);
        self.to(out);
        self.leave_with(Status::Stopped, 0);
        self.to(on);
        let rip = self.load_state(I64, at(offset_of!(Cpu, rip)));
        self.jump_through_cache(rip);
    }

    /// Fills the TLB for an access that missed, out of line; gives its host address, 0 if the interpreter must do it.
    pub(super) fn slow_address(&mut self, linear: Value, what: u64) -> Value {
        let what = self.constant(I64, what as i64);
        let (slow, cpu) = (self.slow, self.cpu);
        self.b.ins().call(slow, &[cpu, linear, what]);
        self.load_state(I64, at(PASSAGE + offset_of!(Passage, answer)))
    }

    /// The guest's time-stamp counter.
    pub(super) fn call_time(&mut self) -> Value {
        let function = self.constant(I64, runtime::time as *const () as i64);
        let (systemv, cpu) = (self.systemv, self.cpu);
        let call = self.b.ins().call_indirect(systemv, function, &[cpu, cpu, cpu]);
        self.b.inst_results(call)[0]
    }

    /// A pure function of plain Rust.
    pub(super) fn call_pure(&mut self, f: fn(u64, u64) -> u64, a: Value, b: Value) -> Value {
        let function = self.constant(I64, f as usize as i64);
        let thunk = self.constant(I64, runtime::pure as *const () as i64);
        let systemv = self.systemv;
        let call = self.b.ins().call_indirect(systemv, thunk, &[function, a, b]);
        self.b.inst_results(call)[0]
    }

    /// What kind of memory operand the instruction has, if it has one.
    pub(super) fn memory_kind(&self, i: &Insn) -> Kind {
        match (i.dst_kind(), i.src_kind()) {
            (Kind::Mem, _) | (_, Kind::Mem) => Kind::Mem,
            _ => Kind::Far,
        }
    }
}

/// A function by its name.
pub(super) fn import(b: &mut FunctionBuilder<'_>, name: Name, signature: SigRef) -> FuncRef {
    let (space, number) = name.number();
    let name = b.func.declare_imported_user_function(UserExternalName::new(space, number));
    b.import_function(ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated: true,
        patchable: false,
    })
}
