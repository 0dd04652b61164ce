//! What is translated in one pass: blocks alone, and paths that begin with one.

use super::{Jit, devices, lead, quick, region, region::Region, service::Source};
use crate::{
    blocks::Head,
    insn::{Insn, Links},
    jumps::JumpCache,
    mode::Mode,
    ram::PAGE,
};
use std::ptr::null;

/// A block translated in one pass.
#[derive(Debug)]
pub(super) struct Quick {
    pub(super) code: *const u8,
    /// Its code as a block alone, which `code` may be.
    pub(super) alone: *const u8,
    /// It is still counted for its path.
    pub(super) begins_path: bool,
    /// How often it had begun when its count was set last, and what that was set to.
    pub(super) begun: u32,
    pub(super) count: i32,
    /// The other blocks of its path.
    pub(super) others: Vec<*const Insn>,
    /// Those of them that do not count how often they begin.
    uncounted: Vec<Uncounted>,
    /// Stubs that jump here.
    pub(super) incoming: Vec<usize>,
    /// Entries of the jump cache that have its code, and the addresses for which they were made.
    pub(super) jumps: Vec<((usize, usize), u64)>,
}

/// What shares are parts of.
const WHOLE: u64 = 1 << 16;

/// A block within a path, for which another one counts.
#[derive(Clone, Copy, Debug)]
struct Uncounted {
    block: *const Insn,
    by: *const Insn,
    /// How often that one had begun, as far as it was counted, when the path was translated.
    since: u32,
    /// How often this one begins when that one begins [`WHOLE`] times. No floating point: blocks are dropped while the host's
    /// MXCSR is the guest's.
    share: u64,
}

impl Default for Quick {
    fn default() -> Self {
        Quick {
            code: null(),
            alone: null(),
            begins_path: false,
            begun: 0,
            count: 0,
            others: Vec::new(),
            uncounted: Vec::new(),
            incoming: Vec::new(),
            jumps: Vec::new(),
        }
    }
}

impl Jit {
    /// How often a block begins before it is translated as the beginning of a path.
    pub(super) fn path_threshold(&self) -> i32 {
        let paths = self.options.paths.and_then(|times| i32::try_from(times).ok()).unwrap_or(i32::MAX);
        paths.max(self.first_threshold()).min(self.threshold())
    }

    /// A path is no more: its entry is a block alone again. False if there is none.
    pub(super) fn leave_path(&mut self, entry: *const Insn, jumps: &mut JumpCache) -> bool {
        let Some(quick) = self.quick.get_mut(&entry).filter(|quick| !quick.others.is_empty()) else {
            return false;
        };
        self.statistics.dropped += 1;
        let (others, alone) = (std::mem::take(&mut quick.others), quick.alone);
        for not in std::mem::take(&mut quick.uncounted) {
            let more = self.more(&not);
            if let Some(quick) = self.quick.get_mut(&not.block) {
                quick.begun = quick.begun.saturating_add(more);
            }
        }
        // SAFETY: the entry's block lives.
        unsafe { self.become_code(entry, alone, jumps) };
        self.leave(entry, &others);
        true
    }

    /// A block translated in one pass is other code from now on, wherever jumps to it stand.
    ///
    /// # Safety
    /// `entry` is the first instruction of a block that lives, and `code` a translation of it.
    unsafe fn become_code(&mut self, entry: *const Insn, code: *const u8, jumps: &mut JumpCache) {
        let Some(quick) = self.quick.get_mut(&entry) else { return };
        let before = std::mem::replace(&mut quick.code, code);
        for &stub in &quick.incoming {
            self.cache.link(stub, code);
        }
        lead(jumps, &quick.jumps, before, code);
        // SAFETY: the caller's promise; the head stands in front of its first instruction.
        unsafe { Head::of(entry).translate(entry, code) };
    }

    /// A block has a region of its own: paths lead there from now on, they do not go on in the block.
    pub(super) fn leave_paths_through(&mut self, block: *const Insn, jumps: &mut JumpCache) {
        for entry in self.members.get(&block).cloned().unwrap_or_default() {
            if entry != block && self.leave_path(entry, jumps) {
                // SAFETY: the entry's block lives, since the path did.
                self.count_anew(entry, unsafe { Head::of(entry) }, 1);
                if let Some(quick) = self.quick.get_mut(&entry) {
                    // Another is made when it begins next.
                    quick.begins_path = true;
                }
            }
        }
    }

    /// Translates a block in one pass; false where that cannot be done.
    ///
    /// # Safety
    /// `first` is the first instruction of a block that lives.
    pub(super) unsafe fn translate_alone(&mut self, first: *const Insn, mode: Mode, linear: u64) -> bool {
        let (threshold, next) = (self.threshold(), self.path_threshold());
        let Some(translator) = &mut self.quick_translator else { return false };
        // SAFETY: the caller's promise; a block ends with an instruction that has LAST set, and its links follow.
        let (head, insns, links) = unsafe {
            let n = devices::length(first);
            (Head::of(first), std::slice::from_raw_parts(first, n), &*first.add(n).cast::<Links>())
        };
        let page = (head.page() / PAGE) as u32;
        let ring = if region::is_indirect(&insns[insns.len() - 1]) { self.rings.address(first) } else { 0 };
        let devices = self.devices.of(first, insns.len());
        let source = Source { insns, links, mode, page, devices, count: head.count_address(), ring };
        let Some(compiled) = translator.translate(source) else { return false };
        let Some(placed) = self.cache.place(compiled, &[]) else {
            self.full = true;
            head.count_anew(threshold);
            return true;
        };
        self.told.translated(&placed, linear);
        self.statistics.one_pass += 1;
        self.statistics.one_pass_instructions += links.n as u64;
        self.statistics.one_pass_bytes += compiled.code.len() as u64;
        let begins_path = next < threshold;
        let begun = self.first_threshold();
        let count = next.saturating_sub(begun).max(1);
        let (code, begun) = (placed.code, begun.max(0) as u32);
        let quick = Quick { code, alone: code, begins_path, begun, count, ..Quick::default() };
        self.quick.insert(first, Box::new(quick));
        head.count_anew(count);
        // SAFETY: the head stands in front of this instruction.
        unsafe { head.translate(first, placed.code) };
        true
    }

    /// How often a block has begun within paths where it is not counted, about.
    pub(super) fn not_counted(&self, block: *const Insn) -> u32 {
        let paths = self.members.get(&block).into_iter().flatten().filter_map(|entry| self.quick.get(entry));
        let uncounted = paths.flat_map(|path| &path.uncounted).filter(|not| not.block == block);
        uncounted.fold(0, |sum, not| sum.saturating_add(self.more(not)))
    }

    fn more(&self, not: &Uncounted) -> u32 {
        if !self.quick.contains_key(&not.by) {
            return 0;
        }
        // SAFETY: what has been translated lives.
        let now = self.counted(not.by, unsafe { Head::of(not.by) });
        (u64::from(now.saturating_sub(not.since)) * not.share / WHOLE) as u32
    }

    /// Whether a block that has become hot, or part of a path, is to begin one: it is asked once.
    pub(super) fn begins_path(&mut self, first: *const Insn, head: &Head) -> bool {
        let begins = self.begins(first, head);
        let threshold = self.threshold();
        let Some(quick) = self.quick.get_mut(&first).filter(|quick| quick.begins_path) else { return false };
        quick.begins_path = false;
        // It goes on counting for its region.
        self.count_anew(first, head, threshold.saturating_sub_unsigned(begins).max(1));
        true
    }

    /// Translates a path in one pass. No translated code runs.
    ///
    /// # Safety
    /// The region is made of blocks that live.
    pub(super) unsafe fn translate_path(&mut self, region: &Region, jumps: &mut JumpCache) {
        let blocks: Vec<*const Insn> = region.blocks().map(|(.., first)| first).collect();
        let (Some((&entry, others)), Some(translator)) = (blocks.split_first(), &mut self.quick_translator)
        else {
            return;
        };
        let rings = &mut self.rings;
        let counted: Vec<(u64, u64)> = region
            .ends()
            .map(|(first, indirect)| {
                // SAFETY: the caller's promise; a head stands in front of a first instruction.
                let count = unsafe { Head::of(first) }.count_address();
                (count, if indirect { rings.address(first) } else { 0 })
            })
            .collect();
        let Some(compiled) = translator.translate_path(region, &counted) else { return };
        let (Some(placed), Some(quick)) = (self.cache.place(compiled, &[]), self.quick.get_mut(&entry))
        else {
            self.full = true;
            return;
        };
        self.told.translated(&placed, region.linear());
        self.statistics.paths += 1;
        self.statistics.path_instructions += region.len() as u64;
        self.statistics.one_pass_bytes += compiled.code.len() as u64;
        quick.others = others.to_vec();
        // SAFETY: the caller's promise.
        unsafe { self.become_code(entry, placed.code, jumps) };
        let uncounted = self.uncounted(&blocks);
        if let Some(quick) = self.quick.get_mut(&entry) {
            quick.uncounted = uncounted;
        }
        for &block in others {
            self.members.entry(block).or_default().push(entry);
        }
        for block in region.inner() {
            // SAFETY: as above. It is not the entry.
            self.begins_path(block, unsafe { Head::of(block) });
        }
    }

    /// Those blocks of the path that was translated last that do not count how often they begin.
    fn uncounted(&self, blocks: &[*const Insn]) -> Vec<Uncounted> {
        let counters = self.quick_translator.iter().flat_map(quick::Translator::counters);
        let mut uncounted = Vec::new();
        for (k, (&block, by)) in blocks.iter().zip(counters).enumerate() {
            let Some(by) = by.filter(|&by| by != k).map(|by| blocks[by]) else { continue };
            // SAFETY: the region is made of blocks that live.
            let begins = |block| self.begins(block, unsafe { Head::of(block) });
            // SAFETY: as above.
            let since = self.counted(by, unsafe { Head::of(by) });
            let share = match begins(block) {
                u32::MAX => continue,
                begun => (u64::from(begun) * WHOLE / u64::from(begins(by).max(1))).min(WHOLE),
            };
            uncounted.push(Uncounted { block, by, since, share });
        }
        uncounted
    }
}
