//! Each device, attacked by scripts that are the same in each run. The fuzz target `virtio` finds scripts of its own.

use std::ops::Range;

use super::*;
use crate::virtio::balloon::{Balloon, Reclaim};
use crate::virtio::console::{Console, PortEnd};
use crate::virtio::rng::Rng;

/// Scripts for each device, and how long they are.
const SCRIPTS: u64 = 400;
const LENGTH: usize = 3000;

/// Bytes from a seed (SplitMix64), so chosen that a driver starts properly now and then.
fn script(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u8
    };
    (0..LENGTH)
        .map(|at| if at == 0 { 0 } else { next() })
        .map(|byte| if byte % 3 == 0 { byte % 8 } else { byte })
        .collect()
}

struct Talkative(u8);

impl PortEnd for Talkative {
    fn is_connected(&self) -> bool {
        self.0.is_multiple_of(2)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.0 = self.0.wrapping_add(1);
        bytes.len().saturating_sub(usize::from(self.0 % 4))
    }

    fn has_input(&self) -> bool {
        !self.0.is_multiple_of(8)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        self.0 = self.0.wrapping_add(1);
        bytes.len().min(usize::from(self.0))
    }

    fn again(&mut self) {}
}

struct Lost;

impl Reclaim for Lost {
    fn discard(&self, range: Range<u64>) {
        assert!(range.end <= RAM as u64, "{range:x?} is not RAM");
    }
}

#[test]
fn the_entropy_device() {
    for seed in 0..SCRIPTS {
        let rng = Rng::new(|bytes: &mut [u8]| {
            bytes.fill(7);
            true
        });
        drive(rng, &script(seed), |function, _| function.lock().run_queue(0));
    }
}

#[test]
fn a_terminal() {
    for seed in 0..SCRIPTS {
        drive(Console::terminal(Talkative(0)), &script(seed), |function, byte| match byte {
            0..16 => function.lock().resize(byte.into(), 24),
            _ => function.lock().attend(usize::from(byte % 3)),
        });
    }
}

#[test]
fn channels() {
    for seed in 0..SCRIPTS {
        let channels =
            ["a", "b", "c"].map(|name| (name.to_owned(), Box::new(Talkative(1)) as Box<dyn PortEnd>));
        drive(Console::channels(channels.into()), &script(seed), |function, byte| {
            function.lock().attend(usize::from(byte % 5));
        });
    }
}

#[test]
fn the_balloon() {
    for seed in 0..SCRIPTS {
        drive(Balloon::new(Lost), &script(seed), |function, byte| match byte {
            0..64 => function.lock().set_target(u64::from(byte) << 34),
            _ => function.lock().ask_for_statistics(),
        });
    }
}
