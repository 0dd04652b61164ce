//! Indirect branches within a region: the places where one led are compared with where it leads. Where they are many, a
//! table says which of them to look at.

use super::{emitter::Emitter, targets::MOST};
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, InstBuilder, JumpTableData, Value, ValueListPool, condcodes::IntCC, types::*,
};
use smallvec::SmallVec;
use std::iter::empty;

/// So many places are compared one after the other.
const IN_TURN: usize = 3;

/// A place within the region: node, and page offset of its address.
type Site = (usize, i32);

/// Which bits of a page offset tell many places apart best: how far to shift it, and how many bits stay.
fn table_for(offsets: &[i32]) -> (u32, u32) {
    // Twice as many slots as places, so that few share one.
    let bits = (2 * offsets.len()).next_power_of_two().trailing_zeros().min(MOST.ilog2() + 2);
    let shared = |shift: u32| {
        let mut slots: SmallVec<[i32; MOST]> =
            offsets.iter().map(|&offset| slot(offset, shift, bits)).collect();
        slots.sort_unstable();
        slots.windows(2).filter(|pair| pair[0] == pair[1]).count()
    };
    ((0..8).min_by_key(|&shift| shared(shift)).unwrap_or(0), bits)
}

fn slot(offset: i32, shift: u32, bits: u32) -> i32 {
    offset >> shift & ((1 << bits) - 1)
}

impl Emitter<'_, '_> {
    /// To one of the places within the region where the node's indirect branch may lead, if that is the address, else out of the
    /// region.
    pub(super) fn go_to_address(&mut self, rip: Value) {
        let region = self.region;
        let sites: SmallVec<[Site; MOST]> =
            region.nodes[self.node].targets.iter().map(|&site| (site, self.offset_of(site))).collect();
        if sites.is_empty() {
            return self.exit_to_address(rip);
        }
        let page = self.page();
        let offset = self.b.ins().isub(rip, page);
        let offset = self.wrap(offset);
        let elsewhere = self.cold();
        if sites.len() <= IN_TURN {
            self.go_if_there(offset, &sites, elsewhere);
        } else {
            self.go_by_table(offset, &sites, elsewhere);
        }
        self.to(elsewhere);
        self.exit_to_address(rip);
    }

    /// To the site at an offset, or to a block if it is none of them.
    fn go_if_there(&mut self, offset: Value, sites: &[Site], elsewhere: Block) {
        for (k, &(site, place)) in sites.iter().enumerate() {
            let last = k + 1 == sites.len();
            let (here, on) = (self.b.create_block(), if last { elsewhere } else { self.b.create_block() });
            let expected = self.expected(place);
            let equal = self.b.ins().icmp_imm_s(IntCC::Equal, offset, expected);
            self.b.ins().brif(equal, here, &[], on, &[]);
            self.to(here);
            self.go(Some(site), place);
            if !last {
                self.to(on);
            }
        }
    }

    /// An offset as linear addresses of the mode wrap.
    fn expected(&self, offset: i32) -> i64 {
        if self.region.mode.is_64() { offset.into() } else { i64::from(offset as u32) }
    }

    fn go_by_table(&mut self, offset: Value, sites: &[Site], elsewhere: Block) {
        let offsets: SmallVec<[i32; MOST]> = sites.iter().map(|site| site.1).collect();
        let (shift, bits) = table_for(&offsets);
        let index = self.b.ins().ireduce(I32, offset);
        let index = self.b.ins().ushr_imm_u(index, i64::from(shift));
        let index = self.b.ins().band_imm_u(index, (1 << bits) - 1);
        let mut slots: Vec<SmallVec<[Site; 4]>> = vec![SmallVec::new(); 1 << bits];
        for &site in sites {
            slots[slot(site.1, shift, bits) as usize].push(site);
        }
        let blocks: Vec<Block> = slots
            .iter()
            .map(|sites| if sites.is_empty() { elsewhere } else { self.b.create_block() })
            .collect();
        let pool: &mut ValueListPool = &mut self.b.func.dfg.value_lists;
        let mut call = |block| BlockCall::new(block, empty::<BlockArg>(), pool);
        let calls: Vec<BlockCall> = blocks.iter().map(|&block| call(block)).collect();
        let table = JumpTableData::new(call(elsewhere), &calls);
        let table = self.b.create_jump_table(table);
        self.b.ins().br_table(index, table);
        for (block, sites) in blocks.into_iter().zip(slots).filter(|(_, sites)| !sites.is_empty()) {
            self.to(block);
            self.go_if_there(offset, &sites, elsewhere);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_are_aligned_do_not_share_slots() {
        for step in [1, 4, 16, 64] {
            let offsets: Vec<i32> = (0..MOST as i32).map(|k| 0x123 + step * k).collect();
            let (shift, bits) = table_for(&offsets);
            let mut slots: Vec<i32> = offsets.iter().map(|&offset| slot(offset, shift, bits)).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), offsets.len(), "{step}");
        }
    }
}
