//! Decoded blocks: where they are kept, how they are found, and how they go when their code is written.
//!
//! A block lies within one guest-physical page and holds no virtual address, so it serves every mapping of the page. (An
//! instruction that reaches into the next page is a block by itself: `crossing.rs`.) Its bytes are marked in [`crate::ram::Ram`] by 64-byte granule; a store into a marked granule drops the blocks that overlap
//! it. The memory of a dropped block stays until no handler can be inside it, its instructions replaced by `stale`.
#![allow(unsafe_code)]

mod crossing;

use crate::{
    decode::{self, Decoded},
    fault::{Fault, Stop},
    group::granules,
    insn::{Insn, Links, Step, Stub, attr, mark_devices},
    interp,
    jit::{self, Part},
    mmu::{Access, Class, Mapping},
    mode::Mode,
    ram::{PAGE, peek},
    state::{Cpu, Why, reg, seg},
    statistics::Doing,
    width::B,
};
use crossing::Crossing;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};

/// Entries of the fetch TLB.
pub(crate) const FETCHES: usize = 1024;
/// Most instructions of a block. Handlers call each other in tail position; where a build does not make jumps of these
/// calls, this bounds the depth of the stack.
pub(crate) const BLOCK: usize = 64;
/// How often a block is decoded whose bytes others are changing.
const ATTEMPTS: usize = 8;
/// Dropped blocks that wait for their memory to be freed.
const GRAVES: usize = 256;

/// Where in the fetch TLB a page stands.
pub(crate) const fn fetch_index(linear: u64) -> usize {
    (linear >> 12 ^ linear >> 20) as usize % FETCHES
}

/// Which page a linear page's code is in. Translated code looks here too: see `jit/pages.rs`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FetchEntry {
    /// Linear page; bit 0 is set for CPL 3.
    pub(crate) page: u64,
    /// See [`crate::mmu::Mmu::fetch_generation`].
    pub(crate) generation: u64,
    pub(crate) physical: u64,
    code: *mut CodePage,
}

/// Where code was found.
struct Fetched {
    /// Guest-physical address.
    physical: u64,
    /// The page's blocks; null for device memory.
    code: *mut CodePage,
    /// The page is global.
    global: bool,
}

impl FetchEntry {
    pub(crate) const EMPTY: FetchEntry =
        FetchEntry { page: u64::MAX, generation: 0, physical: 0, code: std::ptr::null_mut() };

    /// It vouches for nothing any more.
    pub(crate) fn forget(&mut self) {
        self.generation = 0;
    }
}

/// The blocks of a guest-physical page.
#[derive(Default)]
pub(crate) struct CodePage {
    blocks: FxHashMap<u32, Box<Block>>,
    /// Instructions that begin here and reach into another page.
    crossing: FxHashMap<u32, Crossing>,
    /// Where there may be some that reach into this one.
    reached_from: SmallVec<[(u64, u32); 1]>,
}

/// Memory for instructions, links and stubs, 32 bytes each.
type Cells = Box<[UnsafeCell<[u64; 4]>]>;

/// What stands in front of the first instruction of a block.
#[repr(C)]
pub(crate) struct Head {
    /// The handler that runs the first instruction.
    pub(crate) step: Cell<Step>,
    /// The block's translation, or null.
    pub(crate) code: Cell<*const u8>,
    /// Guest-physical page; what is in no page of RAM is never translated. Bit 0: no link may lead here, for the block reaches
    /// into another page or has been dropped.
    page: Cell<u64>,
    /// How often it may begin until it is translated.
    count: Cell<i32>,
    /// Tells it from other blocks at the same place.
    id: u32,
}

const _: () = assert!(size_of::<Head>() == 32);

impl Head {
    /// From a first instruction to its block's translation.
    #[cfg(feature = "jit")]
    pub(crate) const CODE_FROM_INSN: i32 = std::mem::offset_of!(Head, code) as i32 - size_of::<Head>() as i32;

    /// # Safety
    /// `first` is the first instruction of a block that has not been freed.
    pub(crate) unsafe fn of<'a>(first: *const Insn) -> &'a Head {
        // SAFETY: the caller's promise; `assemble` puts a head in front.
        unsafe { &*first.cast::<Head>().sub(1) }
    }

    /// The block begins: true if it has become hot.
    #[inline(always)]
    pub(crate) fn begins(&self) -> bool {
        let left = self.count.get().wrapping_sub(1);
        self.count.set(left);
        left <= 0
    }

    /// Guest-physical page.
    pub(crate) fn page(&self) -> u64 {
        self.page.get() & !1
    }

    /// The page to which links may lead that lead here: its number, as `Links::page` has it.
    pub(crate) fn linkable(&self) -> Option<u32> {
        let page = self.page.get();
        (page & 1 == 0).then_some((page / PAGE) as u32)
    }

    /// How often it may still begin until it is translated.
    pub(crate) fn left(&self) -> i32 {
        self.count.get()
    }

    /// It may begin so often until it is translated.
    pub(crate) fn count_anew(&self, times: i32) {
        self.count.set(times);
    }

    /// Where that is counted.
    pub(crate) fn count_address(&self) -> u64 {
        self.count.as_ptr() as u64
    }

    /// From now on the block is this code.
    ///
    /// # Safety
    /// `first` is the instruction that this head stands in front of, and `code` translated code.
    pub(crate) unsafe fn translate(&self, first: *const Insn, code: *const u8) {
        self.code.set(code);
        // SAFETY: the caller's promise.
        unsafe { &*first }.step.set(jit::translated);
    }

    /// The block is interpreted again, and counted.
    ///
    /// # Safety
    /// `first` is the instruction that this head stands in front of.
    pub(crate) unsafe fn leave_translation(&self, first: *const Insn, threshold: i32) {
        self.code.set(std::ptr::null());
        self.count.set(threshold);
        // SAFETY: the caller's promise.
        unsafe { &*first }.step.set(jit::counted);
    }
}

/// A decoded block: its head, instructions, then Links, then two Stubs.
struct Block {
    cells: Cells,
    /// Instructions, a synthetic end included.
    len: usize,
    start: u16,
    /// Past its last byte.
    end: u16,
}

impl Block {
    fn first(&self) -> *const Insn {
        self.cells[1].get().cast()
    }
    fn head(&self) -> &Head {
        // SAFETY: `assemble` wrote a Head there.
        unsafe { &*self.cells[0].get().cast() }
    }
    fn links(&self) -> &Links {
        // SAFETY: `assemble` wrote Links there.
        unsafe { &*self.cells[self.len + 1].get().cast() }
    }
    /// The guest-physical page that its branch leads to, as far as that is known.
    fn leads_to(&self, taken: bool) -> Option<u64> {
        let links = self.links();
        let offset = if taken { links.taken_offset } else { links.fall_offset };
        // SAFETY: `assemble` wrote a stub there.
        let stub = unsafe { &*self.stub(taken).cast::<Stub>() };
        match stub.page.get() {
            _ if (0..PAGE as i32).contains(&offset) => Some(self.head().page()),
            0 => None,
            page => Some(page),
        }
    }
    fn stub(&self, taken: bool) -> *const Insn {
        self.cells[self.len + if taken { 2 } else { 3 }].get().cast()
    }
    /// A copy of its instructions.
    fn insns(&self) -> Vec<Insn> {
        // SAFETY: the cells behind the head are instructions.
        self.cells[1..=self.len].iter().map(|cell| unsafe { &*cell.get().cast::<Insn>() }.clone()).collect()
    }
    fn unlink(&self, dead: &[(*const Insn, usize)]) {
        let links = self.links();
        for &(first, _) in dead {
            if links.taken.get() == first {
                links.taken.set(self.stub(true));
            }
            if links.fall.get() == first {
                links.fall.set(self.stub(false));
            }
        }
    }
    /// Makes every instruction return to the dispatcher.
    fn kill(&self) {
        let head = self.head();
        head.code.set(std::ptr::null());
        head.page.set(head.page.get() | 1);
        for cell in &self.cells[1..=self.len] {
            // SAFETY: len cells behind the head are instructions.
            unsafe { &*cell.get().cast::<Insn>() }.step.set(interp::stale);
        }
        for taken in [true, false] {
            // SAFETY: stubs are laid out with their step first, as instructions are.
            unsafe { &*self.stub(taken) }.step.set(interp::leave_link);
        }
    }
    fn overlaps(&self, granules: u64) -> bool {
        crate::group::granules(self.start.into(), (self.end - self.start).into()) & granules != 0
    }
}

/// All decoded code of a CPU.
#[derive(Default)]
pub(crate) struct BlockStore {
    pages: FxHashMap<u64, Box<CodePage>>,
    #[allow(clippy::vec_box, reason = "handlers may still point into a dropped block")]
    graves: Vec<Box<Block>>,
    /// Blocks of one instruction that lies in device memory, or in two pages, by its physical address and mode.
    loose: FxHashMap<(u64, Mode), ([u8; 15], Box<Block>)>,
    /// Whether the block found last belongs to a page, so that links of the same page may lead to it.
    pub(crate) linkable: bool,
    /// How many blocks of pages have been built.
    built: u32,
}

impl BlockStore {
    /// What tells the block at a place from others there, and its first instruction.
    pub(crate) fn identity(&self, page: u64, offset: u16, mode: Mode) -> Option<(u32, *const Insn)> {
        let block = self.find(page, offset, mode)?;
        Some((block.head().id, block.first()))
    }

    /// The page that an instruction reaches into, if it is in two.
    fn second(&self, page: u64, offset: u16, mode: Mode) -> Option<u64> {
        Some(self.pages.get(&page)?.crossing.get(&key(offset, mode))?.second)
    }

    fn find(&self, page: u64, offset: u16, mode: Mode) -> Option<&Block> {
        let (code, key) = (self.pages.get(&page)?, key(offset, mode));
        match code.blocks.get(&key) {
            Some(block) => Some(block),
            None => code.crossing.get(&key).map(|crossing| &*crossing.block),
        }
    }
}

/// The key of a block in its page.
fn key(offset: u16, mode: Mode) -> u32 {
    u32::from(offset) << 16 | u32::from(mode.bits())
}

/// How the end of a block finds its successors.
#[derive(Clone, Copy, PartialEq)]
enum Linking {
    /// Links within the page, jump cache beyond.
    Page,
    /// Jump cache always: for blocks that belong to no page.
    Cache,
    /// Back to the dispatcher.
    Leave,
}

impl Cpu {
    /// Where to run from `self.rip`; faults are those of the fetch.
    pub(crate) fn enter(&mut self) -> Result<*const Insn, Stop> {
        let (place, context) = (self.jump_place(self.rip), self.context_at(self.rip));
        let e = *self.jumps.entry(place, self.rip);
        if e.rip == self.rip && e.context == context && !e.insn.is_null() {
            self.gpr[reg::PAGE as usize] = self.rip & !(PAGE - 1);
            self.statistics.jumps += 1;
            return Ok(e.insn);
        }
        self.find_block(self.rip)
    }

    /// The block at a linear address, decoded if need be, and the page register set for it.
    #[inline(never)]
    pub(crate) fn find_block(&mut self, rip: u64) -> Result<*const Insn, Stop> {
        self.within(Doing::Code, |c| c.look_up(rip))
    }

    fn look_up(&mut self, rip: u64) -> Result<*const Insn, Stop> {
        self.statistics.lookups += 1;
        self.blocks.linkable = false;
        self.rip = rip;
        self.gpr[reg::PAGE as usize] = rip & !(PAGE - 1);
        if self.blocks.graves.len() >= GRAVES {
            // No handler may be inside a dropped block when it is freed: go by the dispatcher.
            self.why = Why::Continue;
            return Err(Stop);
        }
        if self.mode.is_64() {
            if !self.canonical(rip) {
                return Err(self.raise(Fault::gp(0)));
            }
        } else if !self.mode.contains(Mode::FLAT) && self.ip() > self.segments[seg::CS].limit.into() {
            return Err(self.raise(Fault::gp(0)));
        }
        let Fetched { physical, code, global } = self.fetch_page(rip)?;
        let offset = (rip & (PAGE - 1)) as u16;
        if code.is_null() || self.code_room() < 15 * BLOCK as u64 {
            return self.loose_block(rip, physical);
        }
        let key = key(offset, self.mode);
        // SAFETY: code pages are boxed and live until the dispatcher frees them; nothing else refers to them now.
        let known = unsafe { &*code }.blocks.get(&key).map(|block| block.first());
        let first = match known {
            Some(first) => first,
            None => match self.build_here(rip, physical, code)? {
                Some(first) => first,
                None => return self.loose_block(rip, physical),
            },
        };
        self.blocks.linkable = true;
        if self.context_at(rip) != u64::MAX {
            // SAFETY: a first instruction, with a head in front.
            let global = match unsafe { Head::of(first) }.linkable() {
                Some(_) => global,
                None => global && self.behind_is_global(rip),
            };
            if self.mmu.note_code(rip, global) {
                self.refresh_tlb();
            }
            self.note_jump(rip, first);
        }
        Ok(first)
    }

    /// The block at an address where a page has none of its own: decoded, or one that reaches into the next page.
    fn build_here(
        &mut self,
        rip: u64,
        physical: u64,
        code: *mut CodePage,
    ) -> Result<Option<*const Insn>, Stop> {
        let (page, offset) = (physical & !(PAGE - 1), (physical & (PAGE - 1)) as u16);
        let near_end = u64::from(offset) + 15 > PAGE;
        if near_end && let Some(first) = self.known_crossing(rip, page, offset)? {
            return Ok(Some(first));
        }
        match self.build(page, offset) {
            Built::Block(block) => {
                let first = block.first();
                // SAFETY: as in `look_up`; building drops no pages.
                unsafe { &mut *code }.blocks.insert(key(offset, self.mode), block);
                Ok(Some(first))
            }
            Built::Short => self.build_crossing(rip, page, offset),
            Built::Nothing => Ok(None),
        }
    }

    /// Bytes from RIP to the limit of the code segment, where it has one to look at. Instructions near it run one by one.
    fn code_room(&self) -> u64 {
        if self.mode.intersects(Mode::LONG.union(Mode::FLAT)) {
            return u64::MAX;
        }
        (u64::from(self.segments[seg::CS].limit) + 1).saturating_sub(self.ip())
    }

    /// Frees dropped blocks. Called by the dispatcher, where no handler is inside any block.
    #[inline]
    pub(crate) fn bury(&mut self) {
        if self.blocks.graves.len() >= GRAVES {
            self.forget_all_jumps();
            self.blocks.graves.clear();
        }
    }

    /// Where the code at `rip` is.
    fn fetch_page(&mut self, rip: u64) -> Result<Fetched, Stop> {
        let tag = rip & !(PAGE - 1) | u64::from(self.cpl == 3);
        let [own, shared] = [false, true].map(|global| self.mmu.fetch_generation(global));
        let entry = *self.mmu.fetch_entry(rip);
        let global = entry.generation == shared;
        if entry.page == tag && (global || entry.generation == own) {
            return Ok(Fetched { physical: entry.physical | rip & (PAGE - 1), code: entry.code, global });
        }
        let Mapping { physical: page, global, .. } = self.fetch_translate(rip)?;
        let physical = page | rip & (PAGE - 1);
        if !self.ram.page(page).is_some_and(|page| page.rights.read) {
            return Ok(Fetched { physical, code: std::ptr::null_mut(), global });
        }
        let code: *mut CodePage = &mut **self.blocks.pages.entry(page).or_default();
        let generation = if global { shared } else { own };
        *self.mmu.fetch_entry(rip) = FetchEntry { page: tag, generation, physical: page, code };
        Ok(Fetched { physical, code, global })
    }

    /// The mapping of a page of code.
    fn fetch_translate(&mut self, rip: u64) -> Result<Mapping, Stop> {
        let class = if self.cpl == 3 { Class::User } else { Class::Supervisor };
        self.statistics.fetch_misses += 1;
        self.within(Doing::Mmu, |c| c.translate(rip, Access::Execute, class))
    }

    /// Decodes a block of a page of RAM.
    fn build(&mut self, page: u64, offset: u16) -> Built {
        let mode = self.mode;
        let limit = if mode.contains(Mode::SINGLE) { 1 } else { BLOCK };
        // Decode from a copy, mark the granules it covers, and look whether the bytes are still the same: whoever writes
        // them after that will find the mark. Where others write all the time, the block is of the loose kind.
        for _ in 0..ATTEMPTS {
            let ram = Arc::clone(&self.ram);
            let Some(host) = ram.page(page).filter(|host| host.rights.read) else { break };
            let mut bytes = [0; PAGE as usize];
            let start = usize::from(offset);
            let copied = start..(start + 15 * BLOCK).min(PAGE as usize);
            let copy = |bytes: &mut [u8], range: std::ops::Range<usize>| {
                for (byte, at) in bytes.iter_mut().zip(range) {
                    // SAFETY: at is below the page's size.
                    *byte = unsafe { peek(B, host.host.add(at)) } as u8;
                }
            };
            // Most blocks are short: copy a little first, more when the decoder asks for it.
            let mut have = (start + 96).min(copied.end);
            copy(&mut bytes[start..have], start..have);
            let mut decoded = decode::block(&bytes[start..have], offset, mode, self.options.model, limit);
            while have < copied.end && decoded.short {
                let more = (have + 256).min(copied.end);
                copy(&mut bytes[have..more], have..more);
                have = more;
                decoded = decode::block(&bytes[start..have], offset, mode, self.options.model, limit);
            }
            if decoded.insns.is_empty() {
                return Built::Short;
            }
            self.plant_stops(&mut decoded);
            let end = decoded.end;
            let granules = granules(offset.into(), u64::from(end - offset));
            ram.group().mark(host.marks, page, granules, &self.seat);
            self.within(Doing::Mmu, |c| {
                ram.group().protect(host.marks, page, &c.seat, |pages| c.mmu.protect(pages));
            });
            fence(SeqCst);
            let same = (start..usize::from(end)).all(|at| {
                // SAFETY: end is at most the page's size.
                unsafe { peek(B, host.host.add(at)) as u8 == bytes[at] }
            });
            if same {
                let linking = if mode.contains(Mode::SINGLE) || self.options.no_chain {
                    Linking::Leave
                } else if mode.contains(Mode::FLAT) {
                    Linking::Page
                } else {
                    // Each step is checked against the limit of the code segment.
                    Linking::Cache
                };
                return Built::Block(self.assemble(decoded, (page, offset), linking));
            }
        }
        Built::Nothing
    }

    /// Lays out a block of a page of RAM.
    fn assemble(&mut self, decoded: Decoded, place: (u64, u16), linking: Linking) -> Box<Block> {
        self.statistics.blocks += 1;
        self.statistics.decoded += decoded.insns.len() as u64;
        self.blocks.built = self.blocks.built.wrapping_add(1);
        let counted = self
            .jit
            .as_ref()
            .filter(|_| linking != Linking::Leave && !self.untranslated)
            .map(|jit| (self.blocks.built, jit.first_threshold()));
        assemble(decoded, place, linking, &self.options, counted)
    }

    /// A block of one instruction that is decoded each time: it comes from a device, its bytes change all the time, or it lies
    /// in two pages and the code segment has a limit.
    fn loose_block(&mut self, rip: u64, physical: u64) -> Result<*const Insn, Stop> {
        self.statistics.loose += 1;
        let mut bytes = [0; 15];
        let room = (PAGE - (rip & (PAGE - 1))).min(15) as usize;
        if !self.ram.page(physical).is_some_and(|page| page.rights.read) {
            self.reach_outside()?;
        }
        self.fetch_bytes(physical, &mut bytes[..room]);
        let offset = (rip & (PAGE - 1)) as u16;
        let mut decoded = decode::one(&bytes[..room], offset, self.mode, self.options.model);
        if decoded.is_none() && room < 15 {
            let second = rip.wrapping_add(room as u64);
            if self.mode.is_64() && !self.canonical(second) {
                return Err(self.raise(Fault::gp(0)));
            }
            if self.code_room() <= room as u64 {
                return Err(self.raise(Fault::gp(0)));
            }
            // It begins its page.
            let next = self.fetch_translate(second & self.mode.ip_mask())?;
            self.fetch_bytes(next.physical, &mut bytes[room..]);
            decoded = decode::one(&bytes, offset, self.mode, self.options.model);
        }
        if let Some(decoded) = &decoded
            && u64::from(decoded.end.wrapping_sub(offset)) > self.code_room()
        {
            return Err(self.raise(Fault::gp(0)));
        }
        if let Some(decoded) = &mut decoded {
            self.plant_stops(decoded);
        }
        let key = (physical, self.mode);
        match self.blocks.loose.get(&key) {
            Some((known, block)) if *known == bytes => Ok(block.first()),
            _ => {
                let Some(decoded) = decoded else {
                    // 15 bytes and no end: longer than an instruction may be.
                    return Err(self.raise(Fault::gp(0)));
                };
                let linking = if self.mode.contains(Mode::SINGLE) || self.options.no_chain {
                    Linking::Leave
                } else {
                    Linking::Cache
                };
                let block = assemble(decoded, (0, offset), linking, &self.options, None);
                let first = block.first();
                if let Some((_, old)) = self.blocks.loose.insert(key, (bytes, block)) {
                    self.blocks.graves.push(old);
                }
                Ok(first)
            }
        }
    }

    fn fetch_bytes(&mut self, physical: u64, out: &mut [u8]) {
        if !self.ram.read(physical, out) {
            for (k, byte) in out.iter_mut().enumerate() {
                self.outside(|bus, id| bus.mmio_read(id, physical + k as u64, std::slice::from_mut(byte)));
            }
        }
    }

    /// Granules that hold code were written, by whomever: drops the blocks that overlap them.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop_blocks(&mut self, page: u64, granules: u64) {
        let Some(code) = self.blocks.pages.get_mut(&page) else { return };
        let mut dead = Vec::new();
        let graves = &mut self.blocks.graves;
        for (_, block) in code.blocks.extract_if(|_, block| block.overlaps(granules)) {
            if let Some(jit) = &mut self.jit {
                jit.forget(block.first(), &mut self.jumps);
            }
            block.kill();
            dead.push((block.first(), block.len));
            graves.push(block);
        }
        for block in code.blocks.values() {
            block.unlink(&dead);
        }
        self.drop_crossing(page, granules, &mut dead);
        self.statistics.invalidations += dead.len() as u64;
    }

    /// Drops what other CPUs and devices have written since the last time.
    #[cold]
    pub(crate) fn drop_written(&mut self) {
        let written = self.seat.take_written();
        if written.all {
            self.forget_code();
        }
        for (page, granules) in written.pages {
            self.drop_blocks(page, granules);
        }
    }

    /// Drops all code: memory may be another than it was.
    pub(crate) fn forget_code(&mut self) {
        let pages: Vec<u64> = self.blocks.pages.keys().copied().collect();
        pages.into_iter().for_each(|page| self.drop_blocks(page, u64::MAX));
    }

    /// Drops the blocks that are decoded each time.
    pub(crate) fn forget_loose_blocks(&mut self) {
        let loose = std::mem::take(&mut self.blocks.loose);
        self.blocks.graves.extend(loose.into_values().map(|(_, block)| block));
    }

    /// Takes back what the block's end will not count, or already has not: `i` and what follows it did not run.
    pub(crate) fn forget_unexecuted(&mut self, i: &Insn) {
        let mut at = std::ptr::from_ref(i);
        let mut left = 1;
        // SAFETY: every block ends with an instruction that has LAST set.
        unsafe {
            while !(*at).has(attr::LAST) {
                at = at.add(1);
                left += 1;
            }
            let links = &*at.add(1).cast::<Links>();
            // A synthetic end is not an instruction.
            let synthetic = i32::from((*at).len == 0);
            self.attention_ref().due(links.n - (left - synthetic));
        }
    }

    /// The block at an offset of a page, for a region.
    pub(crate) fn part(&self, page: u64, offset: u16, mode: Mode) -> Option<Part> {
        let block = self.blocks.find(page, offset, mode)?;
        let (links, jit) = (block.links(), self.jit.as_ref());
        let begins = jit.map_or(0, |jit| jit.begins(block.first(), block.head()));
        let mut insns = block.insns();
        let devices = jit.map_or(0, |jit| jit.devices(block.first(), insns.len()));
        mark_devices(&mut insns, devices);
        Some(Part {
            page,
            start: block.start,
            second: self.blocks.second(page, offset, mode),
            insns,
            taken_page: block.leads_to(true),
            fall_page: block.leads_to(false),
            taken: links.taken_offset,
            fall: links.fall_offset,
            id: block.head().id,
            first: block.first(),
            begins,
            targets: jit.map(|jit| jit.targets(block.first())).unwrap_or_default(),
        })
    }

    /// How often the block at an offset of a page has begun, 0 where there is none.
    pub(crate) fn begins(&self, page: u64, offset: u16, mode: Mode) -> u32 {
        let (block, jit) = (self.blocks.find(page, offset, mode), self.jit.as_ref());
        block.zip(jit).map_or(0, |(block, jit)| jit.begins(block.first(), block.head()))
    }

    /// The guest-physical page of a linear page with code, if the fetch TLB knows it.
    pub(crate) fn fetched_page(&self, linear: u64, mode: Mode) -> Option<u64> {
        let entry = self.mmu.fetched(linear);
        let tag = linear & !(PAGE - 1) | u64::from(mode.contains(Mode::USER));
        let live = [false, true].map(|global| self.mmu.fetch_generation(global)).contains(&entry.generation);
        (entry.page == tag && live).then_some(entry.physical)
    }

    /// INVLPG's part of the fetch TLB and of the jump cache.
    pub(crate) fn forget_fetched(&mut self, linear: u64) {
        let fetch = self.mmu.fetch_entry(linear);
        if fetch.page >> 12 == linear >> 12 {
            *fetch = FetchEntry::EMPTY;
        }
        self.jumps.forget(linear);
    }
}

/// What decoding has come to.
enum Built {
    Block(Box<Block>),
    /// The first instruction does not end in the page.
    Short,
    Nothing,
}

/// Lays a decoded block out in memory.
/// `page`: its guest-physical page, zero where links never stay in one. `counted`: its identity, and how often it may begin
/// until it is translated.
fn assemble(
    decoded: Decoded,
    (page, start): (u64, u16),
    linking: Linking,
    options: &crate::state::Options,
    counted: Option<(u32, i32)>,
) -> Box<Block> {
    let Decoded { mut insns, end, taken_offset, fall_offset, n, .. } = decoded;
    let len = insns.len();
    if let Some(last) = insns.last_mut() {
        last.attr |= attr::LAST;
    }
    if options.no_specialise {
        for insn in &insns {
            insn.step.set(crate::sem::general(insn.op));
        }
    } else if !options.no_fuse {
        crate::sem::pairs::fuse(&insns);
    }
    let cells: Cells = (0..len + 4).map(|_| UnsafeCell::new([0; 4])).collect();
    let at = |k: usize| cells[k].get();
    let links: *mut Links = at(len + 1).cast();
    let (id, count) = counted.unwrap_or_default();
    let head = Head {
        step: Cell::new(insns.first().map_or(interp::stale as Step, |first| first.step.get())),
        code: Cell::new(std::ptr::null()),
        page: Cell::new(page),
        count: Cell::new(count),
        id,
    };
    if let (Some(first), true) = (insns.first(), counted.is_some()) {
        first.step.set(jit::counted);
    }
    let step = |offset: i32| match linking {
        Linking::Page if (0..PAGE as i32).contains(&offset) => interp::unlinked,
        Linking::Page | Linking::Cache => interp::far_link,
        Linking::Leave => interp::leave_link,
    };
    // SAFETY: a cell has the size and alignment of a Head, an instruction, Links and a Stub (asserted above and in insn.rs),
    // and len + 4 cells were made.
    unsafe {
        at(0).cast::<Head>().write(head);
        for (k, insn) in insns.into_iter().enumerate() {
            at(k + 1).cast::<Insn>().write(insn);
        }
        let stub = |k: usize, offset: i32, taken: bool| {
            at(k).cast::<Stub>().write(Stub {
                step: Cell::new(step(offset)),
                owner: links,
                taken,
                page: Cell::new(0),
            });
            at(k).cast::<Insn>().cast_const()
        };
        let taken = stub(len + 2, taken_offset, true);
        let fall = stub(len + 3, fall_offset, false);
        links.write(Links {
            taken: Cell::new(taken),
            fall: Cell::new(fall),
            n,
            page: (page / PAGE) as u32,
            taken_offset,
            fall_offset,
        });
    }
    Box::new(Block { cells, len, start, end })
}
