//! Instructions that lie in two pages. Each is a block by itself, which belongs to the page it begins in and names the
//! guest-physical page that it reaches into: it serves only where the page tables lead to both. A store into either drops
//! it. As what the page tables say of the second page may change, links never lead to it; the jump cache may, for it forgets
//! with a page what begins in the page before.

use super::{ATTEMPTS, Block, Fetched, Linking, key};
use crate::{
    decode,
    fault::Stop,
    group::granules,
    insn::Insn,
    mode::Mode,
    ram::{PAGE, peek},
    state::Cpu,
    statistics::Doing,
    width::B,
};
use std::sync::{
    Arc,
    atomic::{Ordering::SeqCst, fence},
};

/// An instruction in two pages.
pub(super) struct Crossing {
    /// Guest-physical page that it reaches into.
    pub(super) second: u64,
    pub(super) block: Box<Block>,
}

impl Crossing {
    /// Whether it has bytes in these granules of a page.
    fn lies_in(&self, page: u64, here: u64, written: u64) -> bool {
        let (start, end) = (u64::from(self.block.start), u64::from(self.block.end));
        page == here && granules(start, PAGE - start) & written != 0
            || page == self.second && granules(0, end - PAGE) & written != 0
    }
}

impl Cpu {
    /// Linear address of the page behind the one that `rip` is in.
    fn behind(&self, rip: u64) -> u64 {
        (rip & !(PAGE - 1)).wrapping_add(PAGE) & self.mode.ip_mask()
    }

    /// Whether the page behind, which has just been fetched, is global.
    pub(super) fn behind_is_global(&mut self, rip: u64) -> bool {
        let (behind, shared) = (self.behind(rip), self.mmu.fetch_generation(true));
        let entry = self.mmu.fetch_entry(behind);
        entry.page >> 12 == behind >> 12 && entry.generation == shared
    }

    /// Guest-physical page behind the one that `rip` is in; None where it is no RAM, or not to be relied upon.
    fn page_behind(&mut self, rip: u64) -> Result<Option<u64>, Stop> {
        let behind = self.behind(rip);
        // Each step is checked against the code segment's limit, each block is to be entered anew, or an address is beyond all:
        // it goes another way.
        let usual = self.mode.contains(Mode::FLAT) && !self.mode.contains(Mode::SINGLE);
        if !usual || self.mode.is_64() && !self.canonical(behind) {
            return Ok(None);
        }
        let Fetched { physical, code, .. } = self.fetch_page(behind)?;
        Ok((!code.is_null()).then_some(physical))
    }

    /// The block of an instruction that begins at an offset of a page and is known to reach into the page behind it.
    pub(super) fn known_crossing(
        &mut self,
        rip: u64,
        page: u64,
        offset: u16,
    ) -> Result<Option<*const Insn>, Stop> {
        let key = key(offset, self.mode);
        if !self.blocks.pages.get(&page).is_some_and(|code| code.crossing.contains_key(&key)) {
            return Ok(None);
        }
        let second = self.page_behind(rip)?;
        let known = self.blocks.pages.get(&page).and_then(|code| code.crossing.get(&key));
        Ok(known.filter(|crossing| Some(crossing.second) == second).map(|crossing| crossing.block.first()))
    }

    /// Decodes it.
    pub(super) fn build_crossing(
        &mut self,
        rip: u64,
        page: u64,
        offset: u16,
    ) -> Result<Option<*const Insn>, Stop> {
        let Some(second) = self.page_behind(rip)? else { return Ok(None) };
        let ram = Arc::clone(&self.ram);
        let readable = |page: u64| ram.page(page).filter(|host| host.rights.read);
        let (Some(one), Some(two)) = (readable(page), readable(second)) else { return Ok(None) };
        let room = (PAGE as usize - usize::from(offset)).min(15);
        let bytes = || -> [u8; 15] {
            std::array::from_fn(|k| {
                let (host, at) =
                    if k < room { (one.host, usize::from(offset) + k) } else { (two.host, k - room) };
                // SAFETY: the offset is below the page's size.
                unsafe { peek(B, host.add(at)) as u8 }
            })
        };
        // As in `build`: marked first, then compared with what was decoded.
        for _ in 0..ATTEMPTS {
            let before = bytes();
            let decoded = decode::one(&before, offset, self.mode, self.options.model);
            let Some(mut decoded) = decoded.filter(|decoded| u64::from(decoded.end) > PAGE) else { break };
            let end = u64::from(decoded.end);
            let pieces = [
                (page, one.marks, granules(offset.into(), PAGE - u64::from(offset))),
                (second, two.marks, granules(0, end - PAGE)),
            ];
            for (page, marks, granules) in pieces {
                ram.group().mark(marks, page, granules, &self.seat);
                self.within(Doing::Mmu, |c| {
                    ram.group().protect(marks, page, &c.seat, |pages| c.mmu.protect(pages));
                });
            }
            fence(SeqCst);
            let len = (end - u64::from(offset)) as usize;
            if bytes()[..len] != before[..len] {
                continue;
            }
            self.plant_stops(&mut decoded);
            let linking = if self.options.no_chain { Linking::Leave } else { Linking::Cache };
            let block = self.assemble(decoded, (page | 1, offset), linking);
            let (first, key) = (block.first(), key(offset, self.mode));
            if let Some(code) = self.blocks.pages.get_mut(&second) {
                code.reached_from.retain(|from| *from != (page, key));
                code.reached_from.push((page, key));
            }
            let Some(code) = self.blocks.pages.get_mut(&page) else { break };
            if let Some(old) = code.crossing.insert(key, Crossing { second, block }) {
                self.bury_crossing(old, &mut Vec::new());
            }
            return Ok(Some(first));
        }
        Ok(None)
    }

    /// Drops those that have bytes in these granules.
    pub(super) fn drop_crossing(&mut self, page: u64, granules: u64, dead: &mut Vec<(*const Insn, usize)>) {
        let Some(code) = self.blocks.pages.get_mut(&page) else { return };
        let reached = std::mem::take(&mut code.reached_from);
        let mut gone: Vec<Crossing> = code
            .crossing
            .extract_if(|_, crossing| crossing.lies_in(page, page, granules))
            .map(|(_, crossing)| crossing)
            .collect();
        for (from, key) in reached {
            let Some(code) = self.blocks.pages.get_mut(&from) else { continue };
            let Some(crossing) = code.crossing.get(&key).filter(|crossing| crossing.second == page) else {
                continue;
            };
            if crossing.lies_in(page, from, granules) {
                gone.extend(code.crossing.remove(&key));
            } else if let Some(code) = self.blocks.pages.get_mut(&page) {
                code.reached_from.push((from, key));
            }
        }
        for crossing in gone {
            self.bury_crossing(crossing, dead);
        }
    }

    fn bury_crossing(&mut self, crossing: Crossing, dead: &mut Vec<(*const Insn, usize)>) {
        let block = crossing.block;
        if let Some(jit) = &mut self.jit {
            jit.forget(block.first(), &mut self.jumps);
        }
        block.kill();
        dead.push((block.first(), block.len));
        self.blocks.graves.push(block);
    }
}
