//! Whether a region is worth what its compilation costs, and its entry and exit each time: it is where loops are that run
//! around for long before they leave it. Other code is as fast translated block by block, or faster.
//!
//! How often blocks began says how often each way out is taken, within the limits of such an estimate.

use super::region::{Code, Node, Step, Way, goes_on};

/// Instructions that are to run in a region, on the average, between its entry and its exit.
const INSTRUCTIONS_INSIDE: u64 = 400;

/// How many instructions take as long as one of floating point, which one-pass translation has in line, but stores the result
/// of each.
const FLOATS: u64 = 4;

/// Whether a region of these nodes is worth it.
pub(super) fn is_worth_it(nodes: &[Node], code: &impl Code) -> bool {
    let (mut inside, mut exits) = (0, 0);
    for node in nodes {
        let begins = u64::from(node.part.begins);
        inside += begins * node.steps.iter().map(won).sum::<u64>();
        exits += exits_of(nodes, node, code);
    }
    inside >= exits.saturating_mul(INSTRUCTIONS_INSIDE)
}

/// What is won by an instruction in a region, as instructions.
fn won(step: &Step) -> u64 {
    if step.floats { FLOATS } else { 1 }
}

/// How often a node's end has led out of the region, at the most.
fn exits_of(nodes: &[Node], node: &Node, code: &impl Code) -> u64 {
    let begins = u64::from(node.part.begins);
    let Some(last) = node.part.insns.last() else { return begins };
    if node.steps.last().is_some_and(|step| matches!(step.way, Way::Leave | Way::End)) {
        return begins;
    }
    if node.cut {
        return if node.taken.is_some() { 0 } else { begins };
    }
    let part = &node.part;
    match goes_on(last) {
        (true, true) => {
            let ways = [(node.taken, part.taken, part.taken_page), (node.fall, part.fall, part.fall_page)];
            let often = ways.map(|(to, offset, page)| match (to, page) {
                (Some(to), _) => u64::from(nodes[to].part.begins),
                (None, Some(page)) => u64::from(code.begins(page, (offset & 0xfff) as u16)),
                (None, None) => 0,
            });
            // What one way was not, the other was.
            let out = |k: usize| if ways[k].0.is_some() { 0 } else { often[k].min(begins) };
            match (ways[0].0, ways[1].0) {
                (None, None) => begins,
                _ => out(0) + out(1),
            }
        }
        (true, false) | (false, true) => {
            if node.taken.is_some() || node.fall.is_some() {
                0
            } else {
                begins
            }
        }
        (false, false) => {
            let seen: u64 = part.targets.iter().map(|target| u64::from(target.times)).sum();
            let here = |offset: i32| {
                node.targets.iter().any(|&to| {
                    let to = &nodes[to];
                    to.distance == node.distance + (offset >> 12)
                        && i32::from(to.part.start) == offset & 0xfff
                })
            };
            let stayed: u64 = part
                .targets
                .iter()
                .filter(|target| here(target.offset))
                .map(|target| u64::from(target.times))
                .sum();
            (begins * (seen - stayed)).checked_div(seen).unwrap_or(begins)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        decode,
        jit::{
            region::{Code, INSTRUCTIONS, Part, Reach, Region},
            targets::Target,
        },
        mode::Mode,
        model::Model,
    };
    use std::ptr::null;

    const PAGE: u64 = 0x5000;
    const MODE: Mode = Mode::LONG.union(Mode::FLAT).union(Mode::PROTECTED).union(Mode::USER);

    /// A page of blocks: where each begins, its bytes, how often it has begun, where its indirect branch led.
    struct Page(Vec<(u16, &'static [u8], u32, Vec<i32>)>);

    impl Code for Page {
        fn part(&self, page: u64, offset: u16) -> Option<Part> {
            let (start, bytes, begins, targets) =
                self.0.iter().find(|block| block.0 == offset && page == PAGE)?;
            let block = decode::block(bytes, *start, MODE, Model::Max, 64);
            Some(Part {
                page,
                start: *start,
                second: None,
                insns: block.insns,
                taken: block.taken_offset,
                fall: block.fall_offset,
                taken_page: Some(PAGE),
                fall_page: Some(PAGE),
                targets: targets.iter().map(|&offset| Target { offset, times: 1 }).collect(),
                begins: *begins,
                id: 0,
                first: null(),
            })
        }
        fn page_at(&self, _: u64) -> Option<u64> {
            None
        }
        fn begins(&self, page: u64, offset: u16) -> u32 {
            self.part(page, offset).map_or(0, |part| part.begins)
        }
    }

    fn is_region(page: &Page) -> bool {
        let reach = Reach { warm: 0, pages: true, regions: true, instructions: INSTRUCTIONS, choosy: true };
        Region::gather(PAGE, (0x100, PAGE + 0x100), MODE, page, reach).is_some()
    }

    /// inc rax; cmp rax, rbx; jne 0x100; ret
    fn counts(loops: u32, leaves: u32) -> Page {
        let around: &[u8] = &[0x48, 0xff, 0xc0, 0x48, 0x39, 0xd8, 0x75, 0xf8];
        Page(vec![(0x100, around, loops, vec![]), (0x108, &[0xc3], leaves, vec![0x800])])
    }

    #[test]
    fn a_loop_that_goes_round_for_long_is_worth_it() {
        assert!(is_region(&counts(100_000, 100)));
        // It is left after every other time.
        assert!(!is_region(&counts(100_000, 50_000)));
    }

    #[test]
    fn straight_code_is_not() {
        // inc rax; add rax, rbx; ret
        let page = Page(vec![(0x100, &[0x48, 0xff, 0xc0, 0x48, 0x01, 0xd8, 0xc3], 100_000, vec![0x800])]);
        assert!(!is_region(&page));
    }

    #[test]
    fn what_goes_round_by_an_indirect_branch_is_a_loop() {
        // inc rax; jmp [rbx], to another and back
        let step: &[u8] = &[0x48, 0xff, 0xc0, 0xff, 0x23];
        let back = |to| Page(vec![(0x100, step, 100_000, vec![0x200]), (0x200, step, 100_000, vec![to])]);
        assert!(is_region(&back(0x100)));
        assert!(!is_region(&back(0x900)));
    }
}
