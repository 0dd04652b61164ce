//! One-pass translation, for code that is warm: the same semantics as everywhere, in one pass over its instructions, on the
//! CPU's own thread: a block at a time, later with the blocks of its page that follow it (`paths.rs`). It costs some hundredth
//! of what Cranelift takes and runs several times as fast as the interpreter; blocks that turn out hot are translated again,
//! by Cranelift, as parts of regions.
//!
//! Between two instructions all of the CPU state is in memory, but for flags that nobody has asked for (`flags.rs`). Copies of
//! guest registers stay in host registers while there is room (`values.rs`). So a way out is short: it says which
//! instruction, and what the flags follow from.

mod assembler;
mod double_shift;
mod evaluate;
mod flags;
mod float;
mod grouped;
mod memory;
mod paths;
mod segments;
mod system;
mod time;
mod values;
mod vectors;
mod x87;

use super::{
    Passage, Status,
    cache::{Hole, Name},
    host::Fix,
    region::{Region, Step, Way},
    runtime,
    service::{Compiled, Source},
    targets::SEEN,
};
use crate::{
    attention::Attention,
    fault::Done,
    flags::Flags,
    insn::Insn,
    jumps::{SHORT, SHORT_FOLD, ShortEntry, ShortTable},
    mode::Mode,
    sem::{self, Class, Needs, Op},
    state::{Cpu, reg},
    width::{D, Q},
};
use assembler::{Alu, Assembler, At, Host, RAX, RBP, RCX, RDI, RDX, RSI, Shift, cond};
use flags::{Change, Pending, Raw};
use grouped::{Groups, Origin, Touch};
use paths::{Leaving, Place};
use smallvec::SmallVec;
use std::mem::offset_of;
use values::{Fixed, HELD, Held, Node, Two, Val};
use vectors::Vectors;

/// Bytes of the longest translation.
const ROOM: usize = 64 << 10;
/// Blocks that have functions called for what a region has inline count as if they had begun 1 << this times: they are part of
/// one sooner.
const CALLING: u8 = 4;

/// RBP points so far into the CPU that all that is needed often is within reach of a short displacement.
const BIAS: i32 = 128;

/// The instruction cannot be translated.
#[derive(Debug)]
struct Unsupported;

/// Code that is rarely run, written behind the block.
#[derive(Clone, Copy, Debug)]
enum Cold {
    /// An access missed the TLB. `bail`: the instruction's number among all.
    Miss { site: usize, back: usize, linear: Host, what: u64, bail: usize },
    /// A called function did not return as usual. `ran`: how many instructions have run that are not counted yet.
    Called { site: usize, ran: u32, ip: u16, len: u8 },
    /// What ended the block sends the CPU to the dispatcher.
    Ended { site: usize },
    /// A branch that leads out of the page.
    Far { site: usize, offset: i32 },
    /// The attention word wants the CPU, in front of a block at this page offset.
    Due { site: usize, start: u16, flags: Option<Raw> },
    /// A block has become hot, whose first instruction is at this address; instructions are not counted yet.
    Hot { site: usize, first: u64, flags: Option<Raw>, owed: u32 },
    /// A way from one block to another, or out.
    Way { site: usize, from: usize, offset: i32, to: Option<usize>, leaving: Leaving },
}

/// Where an instruction is left to the interpreter.
#[derive(Clone, Debug, Default)]
struct Bail {
    /// Address of the instruction in the interpreter's block.
    insn: u64,
    /// It is the first of its block.
    first: bool,
    /// Instructions that have run in blocks before this and are not counted yet.
    owed: u32,
    sites: SmallVec<[usize; 4]>,
    raw: Option<Raw>,
    /// Somebody will jump here.
    used: bool,
    at: usize,
}

/// Whether there is one-pass translation.
pub(super) const EXISTS: bool = true;

/// What translates.
#[derive(Debug)]
pub(super) struct Translator(Box<Writer>);

impl Translator {
    /// One for this host.
    pub(super) fn new() -> Option<Self> {
        Some(Translator(Box::new(Writer::new())))
    }

    /// Translates a block; None where it is better interpreted.
    pub(super) fn translate(&mut self, source: Source<'_>) -> Option<&Compiled> {
        self.0.translate(source)
    }

    /// Translates all blocks of a region that is within one page. By block: where it counts how often it may begin, and the
    /// ring of its indirect branch, as [`Source`] has them.
    pub(super) fn translate_path(&mut self, region: &Region, counted: &[(u64, u64)]) -> Option<&Compiled> {
        self.0.translate_path(region, counted)
    }

    /// By block of the path that was translated last: which one counts how often it begins; None where nothing leads to it.
    pub(super) fn counters(&self) -> impl Iterator<Item = Option<usize>> {
        self.0.counters()
    }
}

/// What writes translations, and what it keeps between them.
#[derive(Debug)]
struct Writer {
    asm: Assembler,
    mode: Mode,
    page: u32,
    /// All blocks, and which one is in hand.
    places: Vec<Place>,
    block: usize,
    /// Of the block in hand: the address of its first instruction, where it counts, its ring.
    first: u64,
    count: u64,
    ring: u64,
    /// Page offsets to which it leads, and the blocks that are there.
    taken: (i32, Option<usize>),
    fall: (i32, Option<usize>),
    /// Blocks to which its RET may lead.
    returns: SmallVec<[usize; 2]>,
    /// Instructions of blocks before it on the way here that are not counted yet.
    owed: u32,
    /// See [`segmented::span`].
    span: (i32, i32),
    nodes: Vec<Node>,
    held: [Held; HELD],
    /// By host register: the guest register that it holds.
    holds: [Option<u8>; 16],
    /// By host register: how many bytes its value fits.
    bound: [u8; 16],
    /// By host register: where its value comes from, of an address that has been computed.
    known_as: [Option<Origin>; 16],
    groups: Groups,
    last_origin: u32,
    /// By instruction of the block in hand.
    touches: Vec<Touch>,
    /// Host registers that the instruction in hand uses.
    pinned: u16,
    /// Those that the flags follow from.
    kept: u16,
    victim: u8,
    vectors: Vectors,
    pending: Pending,
    /// The words have what is pending.
    stored: bool,
    new_registers: SmallVec<[(u8, Val); 4]>,
    new_flags: SmallVec<[Change; 2]>,
    index: usize,
    /// The instruction in hand needs more than there is.
    failed: bool,
    /// It has led on to other blocks.
    parted: bool,
    /// By instruction.
    live: Vec<bool>,
    bails: Vec<Bail>,
    cold: Vec<Cold>,
    holes: Vec<Hole>,
    exits: Vec<(u32, i32)>,
    /// What came out, in memory that the next one uses too.
    compiled: Compiled,
    /// The host counts bits.
    counts_bits: bool,
    /// It has LAHF and SAHF.
    loads_flags: bool,
    /// The x87 unit is known to be the host's.
    unit_is_live: bool,
    /// All exceptions of MXCSR are known to be masked.
    masked: bool,
}

/// What is put back where an instruction turns out not to be supported.
struct Mark {
    asm: usize,
    held: [Held; HELD],
    holds: [Option<u8>; 16],
    bound: [u8; 16],
    groups: Groups,
    cold: usize,
    holes: usize,
    exits: usize,
    /// Ways to the interpreter in front of the instruction.
    sites: usize,
    unit_is_live: bool,
    masked: bool,
    vectors: Vectors,
}

impl Writer {
    fn new() -> Self {
        Writer {
            asm: Assembler::new(ROOM),
            mode: Mode::default(),
            page: 0,
            places: Vec::new(),
            block: 0,
            first: 0,
            count: 0,
            ring: 0,
            taken: (0, None),
            fall: (0, None),
            returns: SmallVec::new(),
            owed: 0,
            span: (0, 0),
            nodes: Vec::new(),
            held: [Held::Nowhere; HELD],
            holds: [None; 16],
            bound: [8; 16],
            known_as: [None; 16],
            groups: Groups::default(),
            last_origin: 0,
            touches: Vec::new(),
            pinned: 0,
            kept: 0,
            victim: 0,
            vectors: Vectors::default(),
            pending: Pending::Words,
            stored: true,
            new_registers: SmallVec::new(),
            new_flags: SmallVec::new(),
            index: 0,
            failed: false,
            parted: false,
            live: Vec::new(),
            bails: Vec::new(),
            cold: Vec::new(),
            holes: Vec::new(),
            exits: Vec::new(),
            compiled: Compiled::default(),
            counts_bits: super::host::counts_bits(),
            loads_flags: super::host::loads_flags(),
            unit_is_live: false,
            masked: false,
        }
    }

    // The CPU state.

    fn place(offset: usize) -> At {
        At::new(RBP, offset as i32 - BIAS)
    }
    fn register_place(guest: usize) -> At {
        Self::place(offset_of!(Cpu, gpr) + 8 * guest)
    }
    fn flag_place(n: usize) -> At {
        Self::place(offset_of!(Cpu, flags) + 8 * n)
    }
    fn tlb_place() -> At {
        Self::place(offset_of!(Cpu, tlb))
    }
    fn segment_place(segment: u8) -> At {
        Self::place(offset_of!(Cpu, seg_base) + 8 * usize::from(segment & 7))
    }
    fn vector_place(r: u8) -> At {
        Self::place(offset_of!(Cpu, xmm) + 16 * usize::from(r & 31))
    }
    fn answer_place() -> At {
        Self::passage(offset_of!(Passage, answer))
    }
    fn passage(offset: usize) -> At {
        Self::place(offset_of!(Cpu, translated) + offset)
    }

    fn hole(&mut self, offset: usize, name: Name) {
        self.holes.push(Hole { offset, fix: Fix::Jump, name, addend: -4 });
    }
    fn jump_to_name(&mut self, name: Name) {
        let at = self.asm.jump();
        self.hole(at, name);
    }

    /// Translates one instruction; true if it ended the block.
    fn instruction(&mut self, i: &Insn, step: &Step) -> bool {
        self.nodes.clear();
        (self.pinned, self.failed, self.parted) = (0, false, false);
        self.vectors.unpin();
        self.new_registers.clear();
        self.new_flags.clear();
        self.bails.push(Bail {
            insn: self.insn_address(self.index),
            first: self.index == 0,
            owed: self.owed,
            raw: self.raw_flags(),
            ..Bail::default()
        });
        if self.index == 0 {
            self.check_block();
        }
        let mut way = step.way;
        if way == Way::Emit || self.knows_system(i) {
            let mark = Mark {
                asm: self.asm.len(),
                held: self.held,
                holds: self.holds,
                bound: self.bound,
                groups: self.groups,
                cold: self.cold.len(),
                holes: self.holes.len(),
                exits: self.exits.len(),
                sites: self.bails.last().map_or(0, |bail| bail.sites.len()),
                unit_is_live: self.unit_is_live,
                masked: self.masked,
                vectors: self.vectors,
            };
            let before = self.leaving();
            let done = match Op::from_number(i.op).needs() {
                Needs::X87 | Needs::Wait => self.x87(i).map(|()| false),
                _ if self.read_time(i) || self.double_shift(i) => Ok(false),
                Needs::Nothing if let Some(done) = self.system(i) => done,
                _ => sem::emit(self, i).map(|flow| flow.is_some()),
            };
            match done {
                Ok(ended) if !self.failed => {
                    if !ended {
                        self.commit();
                    }
                    if !self.failed {
                        return ended;
                    }
                }
                _ => {}
            }
            // Other blocks would have to be told.
            self.asm.full |= self.parted;
            self.back_to(mark);
            self.take_over(before);
            way = match Op::from_number(i.op).class() {
                _ if step.way != Way::Emit => step.way,
                Class::Straight | Class::Plain => Way::Call,
                Class::Ending | Class::Leave => Way::Leave,
            };
        }
        if way == Way::Call && step.way == Way::Emit {
            self.places[self.block].weight = CALLING;
        }
        match way {
            Way::Call => self.call(i, step.quiet),
            Way::End if let Some(function) = sem::leaving(i.op) => self.end(i, function, step.quiet),
            Way::Emit | Way::Leave | Way::End => {
                let site = self.asm.jump();
                self.bail_from(site);
            }
        }
        way != Way::Call
    }

    fn back_to(&mut self, mark: Mark) {
        self.asm.cut(mark.asm);
        (self.held, self.holds, self.bound) = (mark.held, mark.holds, mark.bound);
        self.groups = mark.groups;
        self.cold.truncate(mark.cold);
        self.holes.truncate(mark.holes);
        self.exits.truncate(mark.exits);
        (self.unit_is_live, self.masked, self.vectors) = (mark.unit_is_live, mark.masked, mark.vectors);
        self.nodes.clear();
        self.pinned = 0;
        self.failed = false;
        self.new_registers.clear();
        self.new_flags.clear();
        if let Some(bail) = self.bails.last_mut() {
            bail.sites.truncate(mark.sites);
            bail.used = mark.sites != 0;
        }
    }

    /// Whether somebody wants the flags behind the instruction in hand.
    fn flags_are_live(&self) -> bool {
        self.live.get(self.index).copied().unwrap_or(true)
    }

    /// The instruction is done: its registers and flags change.
    fn commit(&mut self) {
        let changes = std::mem::take(&mut self.new_flags);
        let live = self.flags_are_live();
        if live {
            changes.iter().for_each(|&change| self.prepare_change(change));
        }
        let registers = std::mem::take(&mut self.new_registers);
        let last = |k: usize, r: u8| registers[k + 1..].iter().all(|(other, _)| *other != r);
        let mut values: SmallVec<[(usize, Fixed, Option<Origin>); 4]> = SmallVec::new();
        for (k, &(r, v)) in registers.iter().enumerate() {
            if last(k, r) {
                let origin = self.origin(v);
                values.push((r.into(), self.fixed(v), origin));
            }
        }
        for (guest, v, origin) in values {
            self.set_origin(guest, origin);
            match v {
                Fixed::In(host) => {
                    self.asm.store(Q, host, Self::register_place(guest));
                    self.hold(guest, Held::All(host));
                }
                Fixed::Known(k) => {
                    match i32::try_from(k as i64) {
                        Ok(k) => self.asm.store_constant(Q, k, Self::register_place(guest)),
                        Err(_) => {
                            self.asm.constant(RAX, k);
                            self.asm.store(Q, RAX, Self::register_place(guest));
                        }
                    }
                    self.hold(guest, Held::Known(k));
                }
            }
        }
        if live {
            changes.into_iter().for_each(|change| self.change_flags(change));
        } else if !changes.is_empty() {
            self.drop_flags();
        }
    }

    // Ways out.

    /// Whether exits to a page offset go by a stub.
    fn near(&self, offset: i32) -> bool {
        (0..0x1000).contains(&offset) && self.mode.contains(Mode::FLAT)
    }

    fn stub(&mut self, offset: i32) -> Name {
        self.exits.push((self.page, offset));
        Name::Exit(self.exits.len() as u32 - 1)
    }

    /// To a page offset.
    fn go(&mut self, offset: i32) {
        if self.near(offset) {
            let name = self.stub(offset);
            return self.jump_to_name(name);
        }
        self.asm.load(Q, RSI, Self::register_place(reg::PAGE.into()));
        self.asm.alu_constant(Alu::Add, Q, RSI, offset);
        if !self.mode.is_64() {
            self.asm.copy32(RSI, RSI);
        }
        self.go_to(RSI);
    }

    /// The same, under a condition.
    fn go_if(&mut self, cc: u8, offset: i32) {
        let site = self.asm.jump_if(cc);
        if self.near(offset) {
            let name = self.stub(offset);
            self.hole(site, name);
        } else {
            self.cold.push(Cold::Far { site, offset });
        }
    }

    /// To a linear address.
    fn go_to(&mut self, to: Host) {
        if to != RSI {
            self.asm.copy(RSI, to);
        }
        // The small table is looked in here, as the stub does that follows: the host foresees the target of a jump of its own
        // better than that of one which all blocks share.
        let entry = size_of::<ShortEntry>().trailing_zeros() as u8;
        self.asm.copy(RAX, RSI);
        self.asm.copy(RDX, RSI);
        self.asm.shift(Shift::Right, Q, RAX, SHORT_FOLD as u8);
        self.asm.alu(Alu::Xor, D, RAX, RSI);
        self.asm.alu_constant(Alu::And, D, RAX, SHORT as i32 - 1);
        self.asm.shift(Shift::Left, D, RAX, entry);
        let table = offset_of!(Cpu, short);
        self.asm.alu_load(Alu::Add, Q, RAX, Self::place(table + offset_of!(ShortTable, entries)));
        self.asm.alu_load(Alu::Xor, Q, RDX, Self::place(table + offset_of!(ShortTable, number)));
        self.asm.alu_load(Alu::Cmp, Q, RDX, At::new(RAX, offset_of!(ShortEntry, key) as i32));
        let unknown = self.asm.jump_if(cond::NOT_EQUAL);
        self.hole(unknown, Name::Lookup);
        self.asm.alu_constant(Alu::And, Q, RSI, -0x1000);
        self.asm.store(Q, RSI, Self::register_place(reg::PAGE.into()));
        self.asm.jump_through(At::new(RAX, offset_of!(ShortEntry, code) as i32));
    }

    /// Notes where the block's indirect branch leads, as long as that is asked: by RAX, RCX and RDX.
    fn note_target(&mut self, to: Host) {
        if self.ring == 0 {
            return;
        }
        self.asm.copy32(RDX, to);
        self.asm.alu_load(Alu::Sub, D, RDX, Self::register_place(reg::PAGE.into()));
        // How many instructions have run says whose turn it is.
        self.asm.load(Q, RAX, Self::place(offset_of!(Cpu, attention)));
        self.asm.load(D, RAX, At::new(RAX, offset_of!(Attention, budget) as i32));
        self.asm.alu_constant(Alu::And, D, RAX, SEEN as i32 - 1);
        self.asm.constant(RCX, self.ring);
        self.asm.store(D, RDX, At { base: Some(RCX), index: Some((RAX, 2)), disp: 0 });
    }

    fn page_relative(&mut self, offset: i32) -> Val {
        let page = self.register(reg::PAGE.into());
        let v = self.two(Two::Add, Q, page, Val::Known(i64::from(offset) as u64));
        if self.mode.is_64() { v } else { self.cut(D, v) }
    }

    /// Leaves the instruction to the interpreter under a condition.
    fn bail(&mut self, cc: u8) {
        let site = self.asm.jump_if(cc);
        self.bail_from(site);
    }

    fn bail_from(&mut self, site: usize) {
        if let Some(bail) = self.bails.last_mut() {
            bail.sites.push(site);
            bail.used = true;
        }
    }

    fn miss(&mut self, cold: Cold) {
        self.cold.push(cold);
        if let Some(bail) = self.bails.last_mut() {
            bail.used = true;
        }
    }

    /// An instruction by its interpreter function.
    fn call(&mut self, i: &Insn, quiet: bool) {
        // Whoever asks for the count finds it as at the block's beginning, as in the interpreter.
        self.settle();
        let function = if quiet { runtime::step_quietly } else { runtime::step } as *const ();
        let site = self.call_function(function);
        self.cold.push(Cold::Called { site, ran: self.index as u32, ip: i.ip, len: i.len });
        self.unit_is_live = false;
        self.forget_copies();
        self.drop_flags();
    }

    /// The last instruction, where it is plain Rust: by its function.
    fn end(&mut self, i: &Insn, function: fn(&mut Cpu, &Insn) -> Done, quiet: bool) {
        self.settle();
        self.asm.constant(RCX, function as usize as u64);
        self.asm.constant(RDX, self.index as u64 + 1);
        let end = if quiet { runtime::end_quietly } else { runtime::end } as *const ();
        let site = self.call_function(end);
        self.cold.push(Cold::Ended { site });
        self.asm.load(Q, RSI, Self::place(offset_of!(Cpu, rip)));
        let next = i32::from(i.ip) + i32::from(i.len);
        if matches!(Op::from_number(i.op), Op::Movs | Op::Stos) && self.near(next) && self.mode.is_64() {
            self.asm.load(Q, RAX, Self::register_place(reg::PAGE.into()));
            self.asm.alu_constant(Alu::Add, Q, RAX, next);
            self.asm.alu(Alu::Cmp, Q, RAX, RSI);
            let done = self.asm.jump_if(cond::EQUAL);
            let name = self.stub(next);
            self.hole(done, name);
        }
        self.jump_to_name(Name::Lookup);
    }

    /// Calls a function with the CPU and the instruction in hand; the branch to where it did not give 0.
    fn call_function(&mut self, function: *const ()) -> usize {
        self.asm.constant(RSI, self.insn_address(self.index));
        self.asm.constant(RAX, function as u64);
        self.asm.call_register(RAX);
        self.asm.lea(Q, RDI, At::new(RBP, -BIAS));
        self.asm.test(D, RAX, RAX);
        self.asm.jump_if(cond::NOT_EQUAL)
    }

    fn insn_address(&self, index: usize) -> u64 {
        self.first + (index * size_of::<Insn>()) as u64
    }

    fn call_slow(&mut self, what: u64) {
        self.asm.constant(RDX, what);
        let at = self.asm.call();
        self.hole(at, Name::Slow);
    }

    // What is rarely run.

    fn land_here(&mut self, site: usize) {
        let here = self.asm.len();
        self.asm.patch(site, here);
    }

    fn write_cold(&mut self) {
        let mut leaving: SmallVec<[usize; 16]> = SmallVec::new();
        let mut resuming: SmallVec<[usize; 16]> = SmallVec::new();
        // Ways may have cold code of their own, which joins the rest.
        let mut at = 0;
        while at < self.cold.len() {
            if let Cold::Way { site, from, offset, to, leaving } = self.cold[at] {
                self.land_here(site);
                self.block = from;
                self.take_over(leaving);
                self.follow((offset, to), false);
            }
            at += 1;
        }
        let mut bails = std::mem::take(&mut self.bails);
        for bail in bails.iter_mut().filter(|bail| bail.used) {
            resuming.push(self.write_bail(bail));
        }
        let mut at = 0;
        while at < self.cold.len() {
            match self.cold[at] {
                Cold::Miss { site, back, linear, what, bail } => {
                    self.land_here(site);
                    let fails = self.write_miss(linear, what, back);
                    let at = bails.get(bail).map_or(0, |bail| bail.at);
                    self.asm.patch(fails, at);
                }
                Cold::Called { site, ran, ip, len } => {
                    self.land_here(site);
                    leaving.push(self.write_called(ran, ip, len));
                }
                Cold::Ended { site } => {
                    self.land_here(site);
                    self.asm.constant(RAX, u64::from(Status::Stopped as u32));
                    self.leave();
                }
                Cold::Far { site, offset } => {
                    self.land_here(site);
                    self.go(offset);
                }
                Cold::Due { site, start, flags } => {
                    self.land_here(site);
                    let kind = self.hand_flags(flags);
                    self.asm.constant(RAX, u64::from(Status::Continue as u32 | kind << 8));
                    self.asm.constant(RCX, 0);
                    self.asm.constant(RDX, start.into());
                    leaving.push(self.asm.jump());
                }
                Cold::Hot { site, first, flags, owed } => {
                    self.land_here(site);
                    let kind = self.hand_flags(flags);
                    self.take_off_budget(owed);
                    self.asm.constant(RAX, u64::from(Status::Hot as u32 | kind << 8));
                    self.asm.constant(RCX, first);
                    resuming.push(self.asm.jump());
                }
                Cold::Way { .. } => {}
            }
            at += 1;
        }
        self.cold.clear();
        // With the instruction's address in RCX.
        resuming.into_iter().for_each(|site| self.land_here(site));
        self.asm.store(Q, RCX, Self::passage(offset_of!(Passage, resume)));
        self.leave();
        // With a page offset in RDX, and in RCX how many instructions have run.
        leaving.into_iter().for_each(|site| self.land_here(site));
        self.asm.load(Q, RSI, Self::place(offset_of!(Cpu, attention)));
        let budget = At::new(RSI, offset_of!(Attention, budget) as i32);
        self.asm.subtract_from(budget, RCX);
        self.asm.alu_load(Alu::Add, Q, RDX, Self::register_place(reg::PAGE.into()));
        if !self.mode.is_64() {
            self.asm.copy32(RDX, RDX);
        }
        self.asm.store(Q, RDX, Self::place(offset_of!(Cpu, rip)));
        self.leave();
        self.bails = bails;
    }

    /// With the status in RAX.
    fn leave(&mut self) {
        self.asm.store(D, RAX, Self::passage(offset_of!(Passage, status)));
        self.jump_to_name(Name::Leave);
    }

    fn write_bail(&mut self, bail: &mut Bail) -> usize {
        bail.at = self.asm.len();
        for &site in &bail.sites {
            self.asm.patch(site, bail.at);
        }
        let kind = self.hand_flags(bail.raw);
        self.take_off_budget(bail.owed);
        let status = if bail.first { Status::ResumeFirst } else { Status::Resume };
        self.asm.constant(RAX, u64::from(status as u32 | kind << 8));
        self.asm.constant(RCX, bail.insn);
        self.asm.jump()
    }

    /// Leaves what the flags follow from for whoever makes words of it; its kind.
    fn hand_flags(&mut self, raw: Option<Raw>) -> u32 {
        let Some((kind, first, second)) = raw else { return 0 };
        for (k, v) in [Some(first), second].into_iter().flatten().enumerate() {
            let place = Self::passage(offset_of!(Passage, raw) + 8 * k);
            match v {
                Fixed::In(host) => self.asm.store(Q, host, place),
                Fixed::Known(v) => {
                    self.asm.constant(RAX, v);
                    self.asm.store(Q, RAX, place);
                }
            }
        }
        kind
    }

    /// RAX says how the function ended.
    fn write_called(&mut self, ran: u32, ip: u16, len: u8) -> usize {
        self.asm.alu_constant(Alu::Cmp, D, RAX, runtime::STOPPED as i32);
        // It wrote code, perhaps this, and is done.
        self.asm.constant(RAX, u64::from(Status::Continue as u32));
        self.asm.constant(RCX, u64::from(ran) + 1);
        self.asm.constant(RDX, u64::from(ip) + u64::from(len));
        let dropped = self.asm.jump_if(cond::NOT_EQUAL);
        // It faulted: nothing has changed.
        self.asm.constant(RAX, u64::from(Status::Stopped as u32));
        self.asm.constant(RCX, ran.into());
        self.asm.constant(RDX, ip.into());
        self.land_here(dropped);
        self.asm.jump()
    }
}

/// Within reach of a short displacement.
const _: () = assert!(offset_of!(Cpu, gpr) == 0 && offset_of!(Cpu, seg_base) + 64 <= 2 * BIAS as usize);
/// The flags stand in the order of their numbers.
const _: () = assert!(
    offset_of!(Flags, z) == 0
        && offset_of!(Flags, s) == 8
        && offset_of!(Flags, l) == 16
        && offset_of!(Flags, t) == 24
);
