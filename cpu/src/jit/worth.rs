//! Whether a region is worth what its compilation costs, and its entry and exit each time: it is where loops are that run
//! around for long before they leave it. Other code is as fast translated block by block, or faster.
//!
//! How often blocks began says how often each way out is taken, within the limits of such an estimate.

use super::region::{Code, Node, Step, Way, goes_on};

/// Instructions that are to run in a region, on the average, between its entry and its exit.
const INSTRUCTIONS_INSIDE: u64 = 100;

/// How many instructions take as long as one that is called.
const CALLED: u64 = 25;

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
    // One-pass translation has its function called.
    if step.floats { CALLED } else { 1 }
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
