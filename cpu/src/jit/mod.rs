//! The translator: hot blocks and what follows them, as code of the host. DESIGN: a *region* is formed from decoded blocks
//! (`region.rs`), emitted over the same semantics that the interpreter runs (`emitter.rs`, `evaluate.rs`, `flags.rs`,
//! `memory.rs`, `vectors/`), compiled by Cranelift on another thread (`compiler.rs`), placed in memory (`cache.rs`) and
//! linked to others (`host.rs`).
//!
//! The interpreter's blocks are what everything hangs on: a block counts how often it begins; when it is hot, it is
//! translated, and its first instruction's handler becomes [`translated`], which enters the code. What translated code
//! cannot do it leaves to the interpreter, at the very instruction. Regions die with the first of their blocks, so all that
//! is true of blocks (their page, their mode, written code) is true of them.
#![allow(unsafe_code)]
#![cfg_attr(not(feature = "jit"), allow(dead_code, reason = "there is no compiler that would use it"))]

#[cfg(not(feature = "jit"))]
mod absent;
mod cache;
#[cfg(feature = "jit")]
mod carried;
#[cfg(feature = "jit")]
mod compiler;
mod counters;
mod devices;
#[cfg(feature = "jit")]
mod emitter;
#[cfg(feature = "jit")]
mod evaluate;
#[cfg(feature = "jit")]
mod flags;
#[cfg(feature = "jit")]
mod grouped;
mod host;
#[cfg(feature = "jit")]
mod indirect;
#[cfg(feature = "jit")]
mod lookup;
#[cfg(feature = "jit")]
mod memory;
#[cfg(feature = "jit")]
mod mmx;
mod one_pass;
#[cfg(feature = "jit")]
mod pages;
mod placements;
#[cfg_attr(all(feature = "jit", target_arch = "x86_64"), path = "quick/mod.rs")]
#[cfg_attr(not(all(feature = "jit", target_arch = "x86_64")), path = "no_quick.rs")]
mod quick;
mod region;
mod runtime;
mod segmented;
#[cfg(feature = "jit")]
mod segments;
mod service;
#[cfg(feature = "jit")]
mod sink;
#[cfg(feature = "jit")]
mod system;
mod targets;
#[cfg(feature = "jit")]
mod vectors;
mod worth;
#[cfg(feature = "jit")]
#[cfg_attr(not(target_arch = "x86_64"), path = "no_x87.rs")]
mod x87;

pub use counters::{Counters, NotInline};
pub use placements::{Placement, Placements};
pub(crate) use region::{Code, INSTRUCTIONS, Part};
pub(crate) use service::Service;
pub(crate) use targets::Targets;

use crate::{
    attention::{Attention, Request},
    blocks::{BLOCK, Head},
    insn::Insn,
    jumps::JumpCache,
    mode::Mode,
    sem::Op,
    state::{Cpu, Why},
    statistics::Doing,
};
#[cfg(not(feature = "jit"))]
use absent::{compiler, system, vectors, x87};
use cache::{Cache, Placed};
use compiler::Compiler;
use devices::Devices;
use one_pass::Quick;
use placements::Told;
use region::{Reach, Region};
use rustc_hash::FxHashMap;
use service::{Compiled, Inbox};
use std::{ptr::null, sync::Arc};
use targets::Rings;

/// How many translations a CPU asks for at a time: among those that wait for it, the hottest are looked for anew each time.
const QUEUE: usize = 6;

/// The part of the threshold from which on a block is translated with one that has reached it.
const WARM: u32 = 16;

/// What a candidate's count begins with, downwards.
const HOTTEST: i32 = i32::MAX;

/// How often a block begins that was not worth it as a region before it is looked at again.
const AGAIN: i32 = 1 << 22;

/// Whether softmetal has been built with its translator.
pub const HAS_TRANSLATOR: bool = cfg!(feature = "jit");

/// How often a block begins before it is translated in one pass: what it costs is won back after some thirty times.
const ONE_PASS: u32 = 20;

/// How often it has begun when it is translated once more in one pass, with those behind it in its page.
const PATHS: u32 = 2000;

/// Most instructions of those.
const PATH: usize = 250;

/// How the translator is to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translate {
    /// How often a block begins before it is translated with those behind it, by Cranelift.
    pub threshold: u32,
    /// How often it begins before it is translated alone, in one pass, on hosts for which there is that; None: never.
    pub one_pass: Option<u32>,
    /// How often it begins before it is translated so with those behind it in its page; None: never.
    pub paths: Option<u32>,
    /// The CPU waits for each translation, and Cranelift's verifier looks at it: for tests.
    pub at_once: bool,
}

impl Translate {
    /// The threshold where blocks are interpreted until they are hot.
    pub const FROM_INTERPRETER: u32 = 1000;
    /// Where they have been translated alone before, there is less to win: some nanosecond an instruction. Compiling one takes 40
    /// microseconds, which a host with one processor takes from the guest.
    const FROM_ONE_PASS: u32 = 256_000;
}

impl Default for Translate {
    fn default() -> Self {
        let threshold = if quick::EXISTS { Self::FROM_ONE_PASS } else { Self::FROM_INTERPRETER };
        Translate { threshold, one_pass: Some(ONE_PASS), paths: Some(PATHS), at_once: false }
    }
}

/// Why translated code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// To go on at `rip`.
    Continue = 0,
    /// An exit that leads to no region yet: [`Passage::exit`].
    Unlinked = 1,
    /// The interpreter has to run the instruction [`Passage::resume`].
    Resume = 2,
    /// An instruction has ended early: `Cpu::why`.
    Stopped = 3,
    /// As `Resume`; the instruction is the first of its block.
    ResumeFirst = 4,
    /// A block translated in one pass has become hot: its first instruction is [`Passage::resume`].
    Hot = 5,
}

/// What translated code and its surroundings hand each other.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Passage {
    /// The host's stack pointer at the entry.
    pub(crate) stack: u64,
    /// Where the slow path goes on that has not found the access in the TLB.
    pub(crate) slow: usize,
    /// What the slow path found.
    pub(crate) answer: u64,
    /// The stub of the exit that was taken.
    pub(crate) exit: usize,
    /// The instruction at which the interpreter goes on.
    pub(crate) resume: *const Insn,
    /// What the flags follow from, where they are not words yet.
    pub(crate) raw: [u64; 2],
    /// Where floating-point results go that are computed for their flags alone.
    pub(crate) kept: [u64; 2],
    /// A [`Status`], and above its eight bits what `raw` is.
    pub(crate) status: u32,
    /// The guest's x87 unit is in the host's: see `host/x87.rs`.
    pub(crate) x87: u8,
    /// CF, ZF and PF of the last x87 comparison there.
    #[cfg(target_arch = "x86_64")]
    pub(crate) relation: [u8; 3],
    /// A control or status word on its way.
    #[cfg(target_arch = "x86_64")]
    pub(crate) word: u16,
    /// How often the other place in the TLB will still answer before its entry goes where it belongs: see [`crate::mmu::OTHER`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) turns: u32,
    /// The host's MXCSR while translated code runs.
    #[cfg(target_arch = "x86_64")]
    pub(crate) mxcsr: u32,
    /// And otherwise: what Rust expects.
    #[cfg(target_arch = "x86_64")]
    pub(crate) host_mxcsr: u32,
    /// The slow path has come to a device.
    pub(crate) device: bool,
    /// Translated code is not entered: the count of instructions must stop soon.
    pub(crate) off: bool,
}

impl Default for Passage {
    fn default() -> Self {
        Passage {
            stack: 0,
            slow: 0,
            answer: 0,
            exit: 0,
            resume: null(),
            raw: [0; 2],
            kept: [0; 2],
            status: 0,
            x87: 0,
            #[cfg(target_arch = "x86_64")]
            relation: [0; 3],
            #[cfg(target_arch = "x86_64")]
            word: 0,
            #[cfg(target_arch = "x86_64")]
            turns: 1,
            #[cfg(target_arch = "x86_64")]
            mxcsr: crate::state::Mxcsr::RESET,
            #[cfg(target_arch = "x86_64")]
            host_mxcsr: crate::state::Mxcsr::RESET,
            device: false,
            off: false,
        }
    }
}

/// A region that is in use.
#[derive(Debug)]
struct Live {
    placed: Placed,
    /// The blocks that it was made of, its entry first.
    blocks: Vec<*const Insn>,
    /// Stubs of other regions that jump here.
    incoming: Vec<usize>,
    /// Entries of the jump cache that have its code, and the addresses for which they were made.
    jumps: Vec<((usize, usize), u64)>,
}

/// Entries of the jump cache that have some code have other code from now on, or none.
fn lead(jumps: &mut JumpCache, places: &[((usize, usize), u64)], from: *const u8, to: *const u8) {
    for &place in places {
        jumps.lead(place, from, to);
    }
}

/// The translations of a CPU.
#[derive(Debug)]
pub(crate) struct Jit {
    options: Translate,
    service: Arc<Service>,
    inbox: Arc<Inbox>,
    /// For translations that are waited for.
    own: Option<Compiler>,
    cache: Cache,
    /// By the first instruction of their entry's block.
    regions: FxHashMap<*const Insn, Live>,
    /// What translates in one pass, if something does.
    quick_translator: Option<quick::Translator>,
    /// Blocks translated in one pass, by their first instruction.
    quick: FxHashMap<*const Insn, Box<Quick>>,
    /// Where their indirect branches led.
    rings: Rings,
    /// Which instructions go to devices.
    devices: Devices,
    /// Regions by the blocks that they are made of.
    members: FxHashMap<*const Insn, Vec<*const Insn>>,
    /// Hot blocks that wait for their translation, their modes and linear addresses. They are counted on.
    candidates: FxHashMap<*const Insn, (Mode, u64)>,
    /// Translations that have been asked for and have not come.
    asked: usize,
    full: bool,
    told: Told,
    pub(crate) statistics: Counters,
    /// By semantics: how often the interpreter ran one for translated code, and how often its function was called.
    left: Vec<[u64; 2]>,
}

// SAFETY: the pointers are to instructions of the CPU's own blocks, which move with it.
unsafe impl Send for Jit {}

impl Jit {
    /// The translator of a CPU; None where the host has none.
    pub(crate) fn new(
        options: Translate,
        service: &Arc<Service>,
        attention: &Arc<Attention>,
    ) -> Option<Box<Self>> {
        let cache = match Cache::new(service.parts()) {
            Ok(cache) => cache,
            Err(error) => {
                log::warn!("no memory for translated code, everything is interpreted: {error}");
                return None;
            }
        };
        let own = if options.at_once { Some(Compiler::new(true)?) } else { None };
        Some(Box::new(Jit {
            options,
            service: Arc::clone(service),
            inbox: Arc::new(Inbox::new(attention)),
            own,
            cache,
            regions: FxHashMap::default(),
            quick_translator: options.one_pass.and_then(|_| quick::Translator::new()),
            quick: FxHashMap::default(),
            rings: Rings::default(),
            devices: Devices::default(),
            members: FxHashMap::default(),
            candidates: FxHashMap::default(),
            asked: 0,
            full: false,
            told: Told::default(),
            statistics: Counters::default(),
            left: vec![[0; 2]; usize::from(Op::COUNT)],
        }))
    }

    /// An instruction was not inline: the interpreter ran it, or its function was `called`.
    fn count(&mut self, op: u16, called: bool) {
        if let Some(counts) = self.left.get_mut(usize::from(op)) {
            counts[usize::from(called)] += 1;
        }
    }

    /// What the translator has done, and what was not inline, the most frequent first.
    pub(crate) fn report(&self) -> (Counters, Vec<NotInline>) {
        let named = |(k, [interpreted, called]): (usize, &[u64; 2])| NotInline {
            name: format!("{:?}", Op::from_number(k as u16)).to_lowercase(),
            interpreted: *interpreted,
            called: *called,
        };
        let mut left: Vec<_> = self.left.iter().enumerate().map(named).collect();
        left.retain(|op| op.interpreted + op.called != 0);
        left.sort_by_key(|op| std::cmp::Reverse(op.interpreted + op.called));
        let (regions, bytes) = (self.regions.len() as u64, self.cache.used() as u64);
        (Counters { regions, bytes, ..self.statistics }, left)
    }

    /// How often a block begins before it is translated.
    pub(crate) fn threshold(&self) -> i32 {
        i32::try_from(self.options.threshold).unwrap_or(i32::MAX)
    }

    /// What its code and its surroundings hand each other, at first.
    pub(crate) fn passage(&self) -> Passage {
        Passage { slow: self.cache.fill(), ..Passage::default() }
    }

    /// How often a block has begun that is worth translating as part of a region.
    pub(crate) fn warm(&self) -> u32 {
        self.options.threshold / WARM
    }

    /// Where the indirect branch at a block's end led, as far as that has been seen.
    pub(crate) fn targets(&self, first: *const Insn) -> Targets {
        self.rings.of(first)
    }

    /// How often a block has begun, [`u32::MAX`] where it is not counted any more.
    pub(crate) fn begins(&self, first: *const Insn, head: &Head) -> u32 {
        if self.regions.contains_key(&first) {
            return u32::MAX;
        }
        let left = head.left();
        if let Some(quick) = self.quick.get(&first) {
            return quick.begun.saturating_add_signed(quick.count.saturating_sub(left));
        }
        // What has not been translated in one pass counts from fewer: most often it has hardly begun.
        let threshold = self.first_threshold();
        let counted = match left {
            _ if left <= threshold => threshold - left,
            ..=AGAIN => (AGAIN - left).saturating_add(threshold),
            _ => (HOTTEST - left).saturating_add(threshold),
        };
        counted.max(0) as u32
    }

    /// A block may begin so often until something is done about it.
    fn count_anew(&mut self, first: *const Insn, head: &Head, times: i32) {
        let begun = self.begins(first, head);
        if let Some(quick) = self.quick.get_mut(&first) {
            (quick.begun, quick.count) = (begun, times);
        }
        head.count_anew(times);
    }

    /// How often a block begins before anything is done about it.
    pub(crate) fn first_threshold(&self) -> i32 {
        match (&self.quick_translator, self.options.one_pass) {
            (Some(_), Some(times)) => i32::try_from(times).unwrap_or(i32::MAX).min(self.threshold()),
            _ => self.threshold(),
        }
    }

    /// Which instructions of a block go to devices, a bit each.
    pub(crate) fn devices(&self, first: *const Insn, len: usize) -> u64 {
        self.devices.of(first, len)
    }

    /// Translated code left an instruction to the interpreter because it goes to a device. No translated code runs.
    fn meet_device(&mut self, i: *const Insn, now: u64, jumps: &mut JumpCache) {
        if !self.devices.meet(i, now) {
            return;
        }
        let has = |first: &*const Insn| {
            // SAFETY: what has been translated lives.
            let length = unsafe { devices::length(*first) };
            (0..length).any(|k| first.wrapping_add(k) == i)
        };
        let near = |first: &*const Insn| *first <= i && first.wrapping_add(BLOCK) > i;
        let block =
            self.quick.keys().chain(self.members.keys()).copied().find(|first| near(first) && has(first));
        let Some(first) = block else { return };
        self.drop_translations(first, jumps);
        // SAFETY: as above; the head stands in front of its first instruction.
        unsafe { Head::of(first).leave_translation(first, self.first_threshold()) };
    }

    /// A block is gone: so are the translations made of it.
    pub(crate) fn forget(&mut self, block: *const Insn, jumps: &mut JumpCache) {
        self.devices.forget(block);
        self.drop_translations(block, jumps);
    }

    fn drop_translations(&mut self, block: *const Insn, jumps: &mut JumpCache) {
        let threshold = self.first_threshold();
        self.candidates.remove(&block);
        self.rings.retire(block);
        if let Some(quick) = self.quick.remove(&block) {
            quick.incoming.iter().for_each(|&stub| self.cache.unlink(stub));
            lead(jumps, &quick.jumps, quick.code, null());
            self.leave(block, &quick.others);
        }
        for entry in self.members.remove(&block).unwrap_or_default() {
            self.leave_path(entry, jumps);
            let Some(region) = self.regions.remove(&entry) else { continue };
            self.statistics.dropped += 1;
            // SAFETY: a dropped block's memory stays until the dispatcher frees it, after this.
            unsafe { Head::of(entry).leave_translation(entry, threshold) };
            for stub in region.incoming {
                self.cache.unlink(stub);
            }
            lead(jumps, &region.jumps, region.placed.code, null());
            self.leave(entry, &region.blocks);
        }
    }

    /// What begins with `entry` is not made of these blocks any more.
    fn leave(&mut self, entry: *const Insn, blocks: &[*const Insn]) {
        for other in blocks {
            if let Some(members) = self.members.get_mut(other) {
                members.retain(|e| *e != entry);
            }
        }
    }

    /// Drops everything. No translated code runs.
    fn clear(&mut self, jumps: &mut JumpCache) {
        let threshold = self.first_threshold();
        for &entry in self.regions.keys().chain(self.quick.keys()) {
            // SAFETY: regions die with their blocks, so this one lives.
            unsafe { Head::of(entry).leave_translation(entry, threshold) };
        }
        jumps.forget_code();
        self.regions.clear();
        self.quick.clear();
        self.rings.clear();
        self.members.clear();
        self.cache.clear();
        self.full = false;
        self.statistics.cleared += 1;
    }

    /// Puts a translation in place, unless a block of it has changed. `alive` gives the identity of a block by page and offset.
    fn install(
        &mut self,
        region: &Region,
        compiled: Option<Compiled>,
        jumps: &mut JumpCache,
        alive: impl Fn(u64, u16) -> Option<(u32, *const Insn)>,
    ) {
        let Some(compiled) = compiled else {
            self.statistics.refused += 1;
            return;
        };
        let blocks: Vec<*const Insn> = region.blocks().map(|(.., first)| first).collect();
        let same = region.blocks().all(|(page, start, id, first)| alive(page, start) == Some((id, first)));
        let entry = blocks[0];
        if !same || self.regions.contains_key(&entry) {
            self.statistics.stale += 1;
            if alive(region.page(), region.start()).is_some_and(|(_, first)| first == entry)
                && !self.regions.contains_key(&entry)
            {
                let times = self.threshold();
                // SAFETY: the block lives.
                self.count_anew(entry, unsafe { Head::of(entry) }, times);
            }
            return;
        }
        // SAFETY: the block lives.
        let head = unsafe { Head::of(entry) };
        // SAFETY: the blocks live, and each has the instructions that the region was made of.
        let cells: Vec<u64> =
            compiled.cells.iter().map(|&(node, k)| unsafe { blocks[node].add(k) } as u64).collect();
        let Some(placed) = self.cache.place(&compiled, &cells) else {
            self.full = true;
            let times = self.threshold();
            self.count_anew(entry, head, times);
            return;
        };
        self.told.translated(&placed, region.linear());
        self.statistics.translated += 1;
        self.statistics.instructions += region.len() as u64;
        for &block in &blocks {
            self.members.entry(block).or_default().push(entry);
        }
        // What led to its translation in one pass leads here from now on.
        let quick = self.quick.remove(&entry).map(|quick| *quick).unwrap_or_default();
        for &stub in &quick.incoming {
            self.cache.link(stub, placed.code);
        }
        lead(jumps, &quick.jumps, quick.code, placed.code);
        for other in &quick.others {
            // Once for the path; the region has its own.
            if let Some(members) = self.members.get_mut(other)
                && let Some(at) = members.iter().position(|e| *e == entry)
            {
                members.swap_remove(at);
            }
        }
        self.regions.insert(entry, Live { placed, blocks, incoming: quick.incoming, jumps: quick.jumps });
        self.leave_paths_through(entry, jumps);
        // SAFETY: the head stands in front of this instruction.
        unsafe { head.translate(entry, placed.code) };
    }
}

/// The code that a CPU has decoded, for regions of a mode.
struct Decoded<'a> {
    cpu: &'a Cpu,
    mode: Mode,
}

impl Code for Decoded<'_> {
    fn part(&self, page: u64, offset: u16) -> Option<Part> {
        self.cpu.part(page, offset, self.mode)
    }
    fn page_at(&self, linear: u64) -> Option<u64> {
        self.cpu.fetched_page(linear, self.mode)
    }
    fn begins(&self, page: u64, offset: u16) -> u32 {
        self.cpu.begins(page, offset, self.mode)
    }
}

/// The handler of the first instruction of a block that is counted: see [`Head`].
pub(crate) fn counted(c: &mut Cpu, i: &Insn) -> *const Insn {
    // SAFETY: this step stands only in first instructions.
    let head = unsafe { Head::of(i) };
    if head.begins() {
        c.within(Doing::Translating, |c| c.translate_warm(i, head));
        if !head.code.get().is_null() {
            return translated(c, i);
        }
    }
    (head.step.get())(c, i)
}

/// The handler of the first instruction of a block that has been translated.
pub(crate) fn translated(c: &mut Cpu, i: &Insn) -> *const Insn {
    // SAFETY: as above.
    let head = unsafe { Head::of(i) };
    if c.translated.off {
        return (head.step.get())(c, i);
    }
    c.whereabouts.set(Doing::Translated);
    // SAFETY: a head's code is that of a region in place; regions are freed by the dispatcher only.
    unsafe { host::enter(c, head.code.get()) };
    host::leave_x87(c);
    c.whereabouts.set(Doing::Interpreter);
    c.left()
}

impl Cpu {
    /// What the translator has done, if there is one, and the instructions that were not inline, those that ran most first.
    pub fn translations(&self) -> Option<(Counters, Vec<NotInline>)> {
        self.jit.as_ref().map(|jit| jit.report())
    }

    /// An instruction's function was called by translated code.
    fn count_call(&mut self, i: &Insn) {
        if let Some(jit) = &mut self.jit {
            jit.count(i.op, true);
        }
    }

    /// Translated code was left: where the interpreter goes on.
    fn left(&mut self) -> *const Insn {
        let status = self.translated.status & 0xff;
        self.settle_flags(self.translated.status >> 8);
        if let Some(jit) = &mut self.jit {
            jit.statistics.entered += 1;
        }
        if status == Status::Stopped as u32 {
            return null();
        }
        self.why = Why::Continue;
        if status == Status::Resume as u32 || status == Status::ResumeFirst as u32 {
            let resume = self.translated.resume;
            // SAFETY: an instruction of a block that lives, since the code made of it was left just now.
            let i = unsafe { &*resume };
            let device = std::mem::take(&mut self.translated.device).then(|| self.instructions());
            if let Some(jit) = &mut self.jit {
                if let Some(now) = device {
                    jit.meet_device(resume, now, &mut self.jumps);
                }
                jit.statistics.resumed += 1;
                jit.count(i.op, false);
            }
            if status == Status::ResumeFirst as u32 {
                // Its own handler may lead back into the code that has just refused it.
                // SAFETY: this status is that of first instructions.
                return (unsafe { Head::of(resume) }.step.get())(self, i);
            }
            return resume;
        }
        if status == Status::Hot as u32 {
            let first = self.translated.resume;
            // SAFETY: as above; a head stands in front of a first instruction.
            let (i, head) = unsafe { (&*first, Head::of(first)) };
            self.within(Doing::Translating, |c| c.translate_hot(i, head));
            return first;
        }
        let unlinked = status == Status::Unlinked as u32;
        if let Some(jit) = &mut self.jit {
            jit.statistics.unlinked += u64::from(unlinked);
        }
        if unlinked && let Some(jit) = &self.jit {
            let target = jit.cache.target(self.translated.exit);
            self.rip = self.page_relative(target.into());
        }
        if self.attention_ref().due(0) {
            return null();
        }
        let Ok(first) = self.enter() else { return null() };
        // SAFETY: a first instruction, with a head in front.
        let known = !unsafe { Head::of(first) }.code.get().is_null();
        if unlinked {
            self.link(first);
        } else if let Some(jit) = &mut self.jit {
            jit.statistics.missed += u64::from(known);
        }
        first
    }

    /// Has the exit just taken lead to the region of a block, if it has one and the block is of the same page: the page tables
    /// may lead elsewhere now than when the region was entered.
    fn link(&mut self, first: *const Insn) {
        let stub = self.translated.exit;
        // SAFETY: a first instruction, with a head in front.
        let page = unsafe { Head::of(first) }.linkable();
        let Some(jit) = self.jit.as_mut() else { return };
        if page.is_none() {
            jit.cache.go_by_cache(stub);
        }
        if page != Some(jit.cache.page(stub)) {
            return;
        }
        let code = match (jit.regions.get_mut(&first), jit.quick.get_mut(&first)) {
            (Some(region), _) => {
                region.incoming.push(stub);
                region.placed.code
            }
            (None, Some(quick)) => {
                quick.incoming.push(stub);
                quick.code
            }
            (None, None) => return,
        };
        jit.cache.link(stub, code);
        jit.statistics.linked += 1;
    }

    /// A block has begun so often that something is to be done: has it translated, alone where there is that.
    #[cold]
    #[inline(never)]
    fn translate_warm(&mut self, i: &Insn, head: &Head) {
        let (mode, linear) = (self.mode, self.page_relative(i.ip.into()));
        if let Some(jit) = &mut self.jit {
            // SAFETY: what is counted is the first instruction of a block that lives.
            let alone = unsafe { jit.translate_alone(i, mode, linear) };
            if jit.full {
                // Where no translated code runs, there will be room.
                self.attention_owner.mention(Request::TRANSLATED);
            }
            if alone {
                return;
            }
        }
        self.translate_block(i, head);
    }

    /// The jump cache leads from an address to a block that has been translated: from now on to its code at once.
    fn code_at(&mut self, rip: u64) -> *const u8 {
        let (place, context) = (self.jump_place(rip), self.context_at(rip));
        let jump = self.jumps.entry(place, rip);
        if jump.rip != rip || jump.context != context {
            return null();
        }
        let Some(jit) = &mut self.jit else { return null() };
        let (code, jumps) = match (jit.regions.get_mut(&jump.insn), jit.quick.get_mut(&jump.insn)) {
            (Some(region), _) => (region.placed.code, &mut region.jumps),
            (None, Some(alone)) => (alone.code, &mut alone.jumps),
            (None, None) => return null(),
        };
        if !jumps.contains(&(place, rip)) {
            jumps.push((place, rip));
        }
        jump.code = code;
        code
    }

    /// A block translated in one pass has become hot: it begins a path, or has it translated as a region.
    #[cold]
    #[inline(never)]
    fn translate_hot(&mut self, i: &Insn, head: &Head) {
        if !self.jit.as_mut().is_some_and(|jit| jit.begins_path(i, head)) {
            return self.translate_block(i, head);
        }
        let Some(jit) = &self.jit else { return };
        let warm = jit.path_threshold() as u32 / WARM;
        let reach = Reach { warm, pages: false, regions: false, instructions: PATH, choosy: false };
        let place = (i.ip, self.page_relative(i.ip.into()));
        let code = Decoded { cpu: self, mode: self.mode };
        let region = Region::gather(head.page(), place, self.mode, &code, reach);
        if let (Some(jit), Some(region)) = (&mut self.jit, region.filter(Region::is_path)) {
            // SAFETY: it has just been gathered from blocks that live.
            unsafe { jit.translate_path(&region, &mut self.jumps) };
            if jit.full {
                self.attention_owner.mention(Request::TRANSLATED);
            }
        }
    }

    /// A block is hot: has it translated.
    #[cold]
    #[inline(never)]
    fn translate_block(&mut self, i: &Insn, head: &Head) {
        let (mode, linear) = (self.mode, self.page_relative(i.ip.into()));
        let Some(jit) = &mut self.jit else { return };
        jit.count_anew(i, head, HOTTEST);
        if jit.own.is_none() {
            jit.candidates.insert(i, (mode, linear));
            if jit.asked == 0 {
                self.ask_for_translations();
            }
            return;
        }
        if jit.full {
            jit.clear(&mut self.jumps);
        }
        let region = self.gather(head.page(), (i.ip, linear), mode);
        let (Some(jit), Some(region)) = (&mut self.jit, region) else { return };
        let compiled = jit.own.as_mut().and_then(|own| own.compile(&region));
        self.install(region, compiled);
    }

    /// Asks for the translations of those blocks that began most often since they became candidates.
    fn ask_for_translations(&mut self) {
        let Some(jit) = &mut self.jit else { return };
        let mut hottest: Vec<(i32, *const Insn, (Mode, u64))> = Vec::with_capacity(jit.candidates.len());
        for (&first, &how) in &jit.candidates {
            // SAFETY: a block that is dropped is no candidate any more.
            hottest.push((unsafe { Head::of(first) }.left(), first, how));
        }
        hottest.sort_unstable_by_key(|(left, ..)| *left);
        hottest.truncate(QUEUE);
        for (_, first, (mode, linear)) in hottest {
            // SAFETY: as above; the head stands in front of the instruction.
            let (i, head) = unsafe { (&*first, Head::of(first)) };
            let region = self.gather(head.page(), (i.ip, linear), mode);
            let Some(jit) = &mut self.jit else { return };
            jit.candidates.remove(&first);
            match region {
                Some(region) => {
                    jit.asked += 1;
                    jit.service.ask(region, &jit.inbox);
                }
                None => jit.count_anew(first, head, AGAIN),
            }
        }
    }

    /// The region of a block at an offset of a page, seen at a linear address.
    fn gather(&self, page: u64, place: (u16, u64), mode: Mode) -> Option<Region> {
        // Without blocks that are translated alone there are no counts to choose by.
        let jit = self.jit.as_ref()?;
        let choosy = jit.quick_translator.is_some() && jit.own.is_none();
        let reach =
            Reach { warm: jit.warm(), pages: true, regions: true, instructions: INSTRUCTIONS, choosy };
        Region::gather(page, place, mode, &Decoded { cpu: self, mode }, reach)
    }

    fn install(&mut self, region: Region, compiled: Option<Compiled>) {
        let mode = region.mode();
        let blocks = &self.blocks;
        let Some(jit) = &mut self.jit else { return };
        jit.install(&region, compiled, &mut self.jumps, |page, offset| blocks.identity(page, offset, mode));
    }

    /// Puts in place what has been translated meanwhile. No translated code runs.
    #[cold]
    pub(crate) fn install_translations(&mut self) {
        let Some(jit) = &mut self.jit else { return };
        if jit.full {
            jit.clear(&mut self.jumps);
        }
        let ready = jit.inbox.take();
        jit.asked = jit.asked.saturating_sub(ready.len());
        let idle = jit.asked == 0;
        for (region, compiled) in ready {
            self.install(region, compiled);
        }
        if idle {
            self.ask_for_translations();
        }
    }
}
