//! Pages that loops carry: within a cycle of a region, what [`Near`] says of a page stands in variables, so an access compares
//! its address with what is in registers and loads nothing but its operand. They are loaded on the way into the cycle, and
//! anew where the table may have changed: behind a miss, and behind plain Rust.

use super::emitter::{Emitter, STATE, at};
use crate::{
    mmu::near::{Near, NearPage},
    state::Cpu,
};
use cranelift_codegen::ir::{Block, InstBuilder, Value, types::I64};
use cranelift_frontend::Variable;
use smallvec::SmallVec;
use std::mem::offset_of;

/// Most pages that a cycle carries: more would push each other out of the registers.
const MOST: usize = 6;

/// Fields of a page's entry, in the order in which they are carried.
const FIELDS: [usize; 3] =
    [offset_of!(NearPage, tag), offset_of!(NearPage, room), offset_of!(NearPage, addend)];

/// What is carried of a page: its tag, room and addend.
type Page = [Variable; 3];

/// What a region's cycles carry.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// By cycle: places in [`Near`], and their variables.
    cycles: Vec<SmallVec<[(usize, Page); MOST]>>,
    /// Where cycles are entered from outside: node, and the block that loads what it carries.
    ways_in: Vec<(usize, Block)>,
}

impl Carried {
    /// Nothing yet, for a region with so many cycles.
    pub(super) fn new(cycles: usize) -> Self {
        Carried { cycles: vec![SmallVec::new(); cycles], ways_in: Vec::new() }
    }
}

impl Emitter<'_, '_> {
    /// Where to jump to for a node, from a node or from the region's entry.
    pub(super) fn way_to(&mut self, node: usize, from: Option<usize>) -> Block {
        let cycle = |node: usize| self.region.nodes[node].cycle;
        if cycle(node).is_none() || from.is_some_and(|from| cycle(from) == cycle(node)) {
            return self.blocks[node];
        }
        if let Some((_, block)) = self.carried.ways_in.iter().find(|(to, _)| *to == node) {
            return *block;
        }
        let block = self.b.create_block();
        self.carried.ways_in.push((node, block));
        block
    }

    /// What is known of the page at a place in [`Near`]: tag, room, addend.
    pub(super) fn near_page(&mut self, index: usize) -> [Value; 3] {
        match self.page_carried(index) {
            Some(page) => page.map(|field| self.b.use_var(field)),
            None => self.load_page(index),
        }
    }

    /// The page at a place in [`Near`] is another.
    pub(super) fn page_changed(&mut self, index: usize) {
        if let Some(page) = self.page_carried(index) {
            self.carry(index, page);
        }
    }

    /// All of them may be.
    pub(super) fn pages_changed(&mut self) {
        self.grouped.forget();
        if let Some(cycle) = self.region.nodes[self.node].cycle {
            self.carry_all(cycle);
        }
    }

    fn page_carried(&mut self, index: usize) -> Option<Page> {
        let cycle = self.region.nodes[self.node].cycle?;
        let pages = &mut self.carried.cycles[cycle];
        if let Some((_, page)) = pages.iter().find(|(known, _)| *known == index) {
            return Some(*page);
        }
        if pages.len() == MOST {
            return None;
        }
        let page = [0; 3].map(|_| self.b.declare_var(I64));
        pages.push((index, page));
        Some(page)
    }

    fn load_page(&mut self, index: usize) -> [Value; 3] {
        let near = self.load_state(I64, at(offset_of!(Cpu, near)));
        let page = at(index * size_of::<NearPage>());
        FIELDS.map(|field| self.b.ins().load(I64, STATE, near, page + at(field)))
    }

    fn carry(&mut self, index: usize, page: Page) {
        for (variable, v) in page.into_iter().zip(self.load_page(index)) {
            self.b.def_var(variable, v);
        }
    }

    fn carry_all(&mut self, cycle: usize) {
        for (index, page) in self.carried.cycles[cycle].clone() {
            self.carry(index, page);
        }
    }

    /// Emits the ways into cycles: all that they carry is known.
    pub(super) fn emit_ways_in(&mut self) {
        for (node, block) in std::mem::take(&mut self.carried.ways_in) {
            self.b.switch_to_block(block);
            if let Some(cycle) = self.region.nodes[node].cycle {
                self.carry_all(cycle);
            }
            let block = self.blocks[node];
            self.b.ins().jump(block, &[]);
        }
    }
}

/// The place in [`Near`] is a place in its table.
const _: () = assert!(size_of::<Near>().is_multiple_of(size_of::<NearPage>()));
