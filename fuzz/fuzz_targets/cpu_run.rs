//! Code that runs from random states of every mode, under every set of options: the CPU neither panics nor hangs, and its
//! state can be taken and set. Input: a byte of options, eight of seed for the states, then code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal_cpu_testing::{Random, chaos, options};

/// What fits behind the place where the code goes.
const ROOM: usize = 0x800;

fuzz_target!(|bytes: &[u8]| {
    let Some(([which, seed @ ..], code)) = bytes.split_first_chunk::<9>() else { return };
    if code.is_empty() {
        return;
    }
    let options = options();
    let options = options[usize::from(*which) % options.len()];
    chaos::run(&mut Random::new(u64::from_le_bytes(*seed)), &code[..code.len().min(ROOM)], options, 2);
});
