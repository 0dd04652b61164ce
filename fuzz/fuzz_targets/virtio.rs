//! Whatever a driver does to a virtio device: it answers, and after a reset it is as good as new. Input: a byte that says which
//! device, then a script for `hostile::drive`.
#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use softmetal_devices::virtio::balloon::{Balloon, Reclaim};
use softmetal_devices::virtio::console::{Console, PortEnd};
use softmetal_devices::virtio::hostile::drive;
use softmetal_devices::virtio::rng::Rng;

/// A back end with something to say, that comes and goes.
struct Talkative(u8);

impl PortEnd for Talkative {
    fn is_connected(&self) -> bool {
        self.0 % 2 == 0
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.0 = self.0.wrapping_add(1);
        bytes.len().saturating_sub(usize::from(self.0 % 4))
    }
    fn has_input(&self) -> bool {
        self.0 % 8 != 0
    }
    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        self.0 = self.0.wrapping_add(1);
        bytes.len().min(usize::from(self.0))
    }
    fn again(&mut self) {}
}

struct Lost;

impl Reclaim for Lost {
    fn discard(&self, _range: Range<u64>) {}
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, script)) = bytes.split_first() else { return };
    match which % 4 {
        0 => drive(
            Rng::new(|bytes: &mut [u8]| {
                bytes.fill(7);
                true
            }),
            script,
            |function, _| function.lock().run_queue(0),
        ),
        1 => drive(Console::terminal(Talkative(0)), script, |function, byte| match byte {
            0..16 => function.lock().resize(byte.into(), 24),
            _ => function.lock().attend(usize::from(byte % 3)),
        }),
        2 => {
            let channels =
                ["a", "b"].map(|name| (name.to_owned(), Box::new(Talkative(1)) as Box<dyn PortEnd>));
            drive(Console::channels(channels.into()), script, |function, byte| {
                function.lock().attend(usize::from(byte % 5));
            });
        }
        _ => drive(Balloon::new(Lost), script, |function, byte| match byte {
            0..64 => function.lock().set_target(u64::from(byte) << 34),
            _ => function.lock().ask_for_statistics(),
        }),
    }
});
