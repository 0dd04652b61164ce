//! From page to page within a region: the fetch TLB says whether the page tables lead where they led when the region was
//! made. What it knows of holds until an instruction invalidates it, and no such instruction is part of a region.

use super::emitter::{Emitter, PAGE, STATE, at};
use crate::{
    blocks::{FETCHES, FetchEntry},
    mmu::Mmu,
    mode::Mode,
    state::Cpu,
};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::*};
use std::mem::offset_of;

/// The number of a guest-physical page, as exits have it.
pub(super) fn page_number(page: u64) -> u32 {
    (page >> 12) as u32
}

impl Emitter<'_, '_> {
    /// Where a node lies, relative to the page in hand.
    pub(super) fn offset_of(&self, node: usize) -> i32 {
        let (from, to) = (&self.region.nodes[self.node], &self.region.nodes[node]);
        ((to.distance - from.distance) << 12) + i32::from(to.part.start)
    }

    /// Whether something is to be done on the way to a node.
    pub(super) fn turns_page(&self, node: usize) -> bool {
        let (from, to) = (&self.region.nodes[self.node], &self.region.nodes[node]);
        to.distance != from.distance || to.part.second.is_some()
    }

    /// On the way to a node: if its code lies in other pages, looks whether they are mapped; leaves the region for `offset` if
    /// they are not.
    pub(super) fn turn_page(&mut self, node: usize, offset: i32) {
        if !self.turns_page(node) {
            return;
        }
        let (from, to) = (&self.region.nodes[self.node], &self.region.nodes[node]);
        let steps = to.distance - from.distance;
        // An instruction that has just run there has its page mapped.
        let known = steps == 0 || steps == 1 && from.part.second == Some(to.part.page);
        let first = (!known).then_some((steps, to.part.page));
        let second = to.part.second.map(|page| (steps + 1, page));
        let mut elsewhere: Option<Value> = None;
        for (steps, page) in [first, second].into_iter().flatten() {
            let differs = self.leads_elsewhere(steps, page);
            elsewhere = Some(match elsewhere {
                Some(other) => self.b.ins().bor(other, differs),
                None => differs,
            });
        }
        if let Some(elsewhere) = elsewhere {
            let (out, on) = (self.cold(), self.b.create_block());
            self.b.ins().brif(elsewhere, out, &[], on, &[]);
            self.to(out);
            self.flush(self.dirty);
            self.flush_budget(0);
            let rip = self.page_relative(offset);
            self.jump_through_cache(rip);
            self.to(on);
        }
        if steps != 0 {
            let page = self.page_relative(steps << 12);
            self.store_state(page, PAGE);
        }
    }

    /// Zero only if the fetch TLB has a linear page, so many behind the one in hand, at a guest-physical page.
    fn leads_elsewhere(&mut self, steps: i32, physical: u64) -> Value {
        let linear = self.page_relative(steps << 12);
        let (near, far) = (self.b.ins().ushr_imm_u(linear, 12), self.b.ins().ushr_imm_u(linear, 20));
        let index = self.b.ins().bxor(near, far);
        let index = self.b.ins().band_imm_u(index, FETCHES as i64 - 1);
        let index = self.b.ins().ishl_imm_u(index, i64::from(size_of::<FetchEntry>().trailing_zeros()));
        let entries = self.load_state(I64, at(offset_of!(Cpu, mmu) + offset_of!(Mmu, fetch)));
        let entry = self.b.ins().iadd(entries, index);
        let user = i64::from(self.region.mode.contains(Mode::USER));
        let tag = self.b.ins().bor_imm_s(linear, user);
        let physical = self.constant(I64, physical as i64);
        let [own, shared] = [0, 8].map(|k| self.load_state(I64, at(offset_of!(Cpu, fetch_generations) + k)));
        let mut is = |wanted: Value, offset: usize| {
            let found = self.b.ins().load(I64, STATE, entry, at(offset));
            self.b.ins().icmp(IntCC::Equal, found, wanted)
        };
        let (page, frame) =
            (is(tag, offset_of!(FetchEntry, page)), is(physical, offset_of!(FetchEntry, physical)));
        let generation = offset_of!(FetchEntry, generation);
        let (own, shared) = (is(own, generation), is(shared, generation));
        let (valid, right) = (self.b.ins().bor(own, shared), self.b.ins().band(page, frame));
        let leads = self.b.ins().band(valid, right);
        self.b.ins().icmp_imm_s(IntCC::Equal, leads, 0)
    }
}

const _: () = assert!(FETCHES.is_power_of_two() && size_of::<FetchEntry>().is_power_of_two());
