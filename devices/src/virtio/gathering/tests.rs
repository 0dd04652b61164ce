//! Interrupts gathered and told, with the entropy device behind them.

use super::*;
use crate::dma::recorder::memory;
use crate::irq::Recorder;
use crate::pci::PciDevice;
use crate::virtio::VirtioPci;
use crate::virtio::pci::driver::{Driver, EVENT_INDEX, LINE, VERSION_1, WRITE};
use crate::virtio::rng::Rng;

/// A driver of a function whose interrupts may wait, and the rest of its board.
fn rig(features: u64) -> (Driver<Rng>, Arc<Gathering>, GatheringTimer, Arc<Clock>) {
    let clock = Clock::manual(1_000_000_000);
    let gathering = Gathering::new(Arc::clone(&clock), Alarm::silent());
    let (dma, written) = memory(crate::virtio::pci::driver::RAM);
    let wires = Recorder::new();
    let rng = Rng::new(|_: &mut [u8]| true);
    let function = VirtioPci::new(rng, wires.line(LINE), wires.clone(), dma);
    let mut driver = Driver::of(function.shared_with(Some(&gathering)), wires, written);
    driver.start(features);
    (driver, Arc::clone(&gathering), GatheringTimer(gathering), clock)
}

impl Driver<Rng> {
    /// A request; whether the driver was interrupted at once.
    fn interrupts(&mut self) -> bool {
        self.request(0x2000, 1, WRITE);
        assert!(self.take_used().is_some(), "it is done, and the driver could see that");
        self.interrupted()
    }

    fn interrupted(&mut self) -> bool {
        self.read(crate::virtio::pci::driver::ISR, 1) & 1 != 0
    }
}

#[test]
fn one_interrupt_for_several_requests() {
    for features in [VERSION_1, VERSION_1 | EVENT_INDEX] {
        let (mut driver, gathering, ..) = rig(features);
        for _ in 0..20 {
            assert!((0..5).all(|_| !driver.interrupts()));
            gathering.processor_is_idle();
            assert!(driver.interrupted());
            gathering.processor_is_idle();
            assert!(!driver.interrupted(), "once");
            // A driver that takes notice asks for the next one.
            let used_event = crate::virtio::pci::driver::rings(0)[1] + 4 + 8 * 2;
            let used = driver.used[0];
            driver.poke(used_event, &used.to_le_bytes());
        }
    }
}

#[test]
fn no_interrupt_waits_for_long() {
    let (mut driver, _, mut timer, clock) = rig(VERSION_1);
    assert!(timer.deadline().is_none() && !driver.interrupts());
    let deadline = timer.deadline().unwrap();
    assert_eq!(deadline, clock.now() + LIMIT);
    timer.expire(deadline - 1);
    assert!(!driver.interrupted());
    timer.expire(deadline);
    assert!(driver.interrupted() && timer.deadline().is_none());
    // And not for many.
    let count = (1..).find(|_| driver.interrupts()).unwrap();
    assert_eq!(count, Gathered::MOST);
}

#[test]
fn timers_are_rung_less_often_where_processors_become_idle() {
    let (mut driver, gathering, mut timer, clock) = rig(VERSION_1);
    assert!(!driver.interrupts());
    gathering.processor_is_idle();
    assert!(driver.interrupted());
    // The deadline of then is looked at, and nothing waits.
    clock.advance(LIMIT);
    timer.expire(clock.now());
    assert!(timer.deadline().is_none() && !driver.interrupted());
    assert!(!driver.interrupts() && !driver.interrupts());
    assert_eq!(timer.deadline(), Some(clock.now() + PATIENCE));
    // What begins to wait behind an alarm waits for as long.
    clock.advance(PATIENCE / 2);
    gathering.processor_is_idle();
    assert!(driver.interrupted() && !driver.interrupts());
    let end = clock.now() + PATIENCE;
    clock.advance(PATIENCE / 2);
    timer.expire(clock.now());
    assert!(!driver.interrupted());
    assert_eq!(timer.deadline(), Some(end));
    clock.advance(PATIENCE / 2);
    timer.expire(end);
    assert!(driver.interrupted() && timer.deadline().is_none());
}

#[test]
fn nothing_waits_where_no_processor_is_seen_idle() {
    let (mut driver, gathering, mut timer, clock) = rig(VERSION_1);
    for _ in 0..TRIALS {
        assert!(!driver.interrupts() && !driver.interrupts());
        clock.advance(LIMIT);
        timer.expire(clock.now());
        assert!(driver.interrupted());
    }
    assert!((0..PAUSE).all(|_| driver.interrupts()));
    // It is tried again.
    assert!(!driver.interrupts());
    gathering.processor_is_idle();
    assert!(driver.interrupted());
}

#[test]
fn who_waits_for_each_request_is_interrupted_at_once() {
    let (mut driver, gathering, ..) = rig(VERSION_1);
    let mut late = 0;
    for _ in 0..10_000 {
        if !driver.interrupts() {
            late += 1;
            gathering.processor_is_idle();
            assert!(driver.interrupted());
        }
    }
    assert!((1..500).contains(&late), "{late}");
    // Until there are several.
    let mut at_once = 0;
    for _ in 0..10_000 {
        at_once += u32::from(driver.interrupts()) + u32::from(driver.interrupts());
        gathering.processor_is_idle();
        driver.interrupted();
    }
    assert!(at_once < 200, "{at_once}");
}

#[test]
fn a_reset_forgets_what_waits_and_a_saved_state_does_not() {
    let (mut driver, gathering, ..) = rig(VERSION_1);
    assert!(!driver.interrupts());
    let state = driver.function().save();
    driver.function().reset();
    gathering.processor_is_idle();
    assert!(!driver.interrupted());
    driver.function().load(state);
    assert!(!driver.interrupted());
    driver.function().resume();
    assert!(driver.interrupted());
}
