//! The transport, driven as a guest drives it, with the entropy device behind it.

use super::driver::*;
use super::*;
use crate::virtio::rng::{Rng, RngState};

/// Bytes that count from 1.
fn rng() -> Rng {
    let mut next = 0u8;
    Rng::new(move |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_add(1);
            *byte = next;
        }
        true
    })
}

fn driver() -> Driver<Rng> {
    Driver::new(rng())
}

fn started() -> Driver<Rng> {
    let mut driver = driver();
    driver.start(VERSION_1);
    driver
}

const NEEDS_RESET: u64 = 0x40;

#[test]
fn configuration_space_tells_where_the_structures_are() {
    let driver = driver();
    let function = driver.function();
    let config = function.config();
    assert_eq!(config.read_u32(0), 0x1044_1af4);
    assert_eq!(config.read_u8(0x3d), 1);
    let mut at = usize::from(config.read_u8(0x34));
    let mut found = Vec::new();
    while at != 0 {
        if config.read_u8(at) == 9 {
            assert_eq!(config.read_u8(at + 4), 0, "BAR");
            found.push((config.read_u8(at + 3), config.read_u32(at + 8), config.read_u8(at + 2)));
        }
        at = config.read_u8(at + 1).into();
    }
    assert_eq!(
        found,
        [(1, 0, 16), (3, 0x1000, 16), (4, 0x2000, 16), (2, 0x3000, 20), (5, 0, 20)],
        "type, offset, length"
    );
}

#[test]
fn features_are_taken_only_as_a_whole() {
    let mut driver = driver();
    let offered = driver.offered();
    assert_eq!(offered, VERSION_1 | RING_RESET | EVENT_INDEX | 1 << 28);
    assert!(!driver.negotiate(0), "without VERSION_1");
    assert!(!driver.negotiate(VERSION_1 | 1), "not offered");
    assert!(driver.negotiate(offered));
    driver.write(0x08, 4, 1);
    driver.write(0x0c, 4, 0);
    assert_eq!(driver.read(0x0c, 4), (VERSION_1 | RING_RESET) >> 32, "settled with FEATURES_OK");
    driver.write(0x00, 4, 7);
    assert_eq!(driver.read(0x04, 4), 0);
}

#[test]
fn a_request_is_filled_and_the_pin_asserted() {
    let mut driver = started();
    driver.request(0x2000, 5, WRITE);
    assert_eq!(driver.peek(0x2000), [1, 2, 3, 4, 5, 0]);
    assert_eq!(driver.take_used(), Some((0, 5)));
    assert!(driver.wires.level(LINE));
    assert_eq!(driver.function().config().read_u8(6) & 8, 8, "interrupt status");
    assert_eq!((driver.read(ISR, 1), driver.read(ISR, 1)), (1, 0), "reading acknowledges");
    assert!(!driver.wires.level(LINE));
}

#[test]
fn writes_are_told_before_the_used_index_moves() {
    let mut driver = started();
    driver.request(0x2000, 5, WRITE);
    let used = rings(0)[2];
    let told = driver.written.take();
    assert_eq!(told[..3], [0x2000..0x2005, used + 4..used + 12, used..used + 4]);
}

#[test]
fn messages_go_to_the_vectors_that_the_driver_chose() {
    let mut driver = driver();
    driver.enable_msix();
    assert!(driver.negotiate(VERSION_1));
    driver.write(0x10, 2, 1);
    driver.write(0x16, 2, 0);
    driver.write(0x1a, 2, 2);
    assert_eq!(driver.read(0x1a, 2), 0xffff, "there is no such vector");
    driver.enable_queue(0, 0);
    driver.write(STATUS, 1, 0xf);
    driver.request(0x2000, 5, WRITE);
    assert_eq!(driver.wires.take_messages(), [(DOORBELL, 0x40)]);
    driver.function().config_changed();
    assert_eq!(driver.wires.take_messages(), [(DOORBELL, 0x41)]);
    assert_eq!(driver.read(0x15, 1), 1, "generation");
    assert!(!driver.wires.level(LINE), "the pin is silent");
    assert_eq!(driver.read(ISR, 1), 0);
}

#[test]
fn chains_and_indirect_tables_are_followed() {
    let mut driver = started();
    let table = rings(0)[0];
    driver.descriptor(table, (0x3000, 4, NEXT, 2));
    driver.descriptor(table + 32, (0x2000, 2, NEXT | WRITE, 1));
    driver.descriptor(table + 16, (0x2100, 3, WRITE, 0));
    driver.offer(0);
    driver.notify();
    assert_eq!(
        (driver.take_used(), driver.peek(0x2000), driver.peek(0x2100)),
        (Some((0, 5)), [1, 2], [3, 4, 5])
    );

    driver.descriptor(0x5000, (0x2200, 2, NEXT | WRITE, 1));
    driver.descriptor(0x5010, (0x2300, 0, NEXT | WRITE, 2));
    driver.descriptor(0x5020, (0x2400, 2, WRITE, 0));
    driver.descriptor(table + 48, (0x5000, 48, INDIRECT, 0));
    driver.offer(3);
    driver.notify();
    assert_eq!(
        (driver.take_used(), driver.peek(0x2200), driver.peek(0x2400)),
        (Some((3, 4)), [6, 7], [8, 9])
    );
}

#[test]
fn one_request_gets_a_bounded_number_of_bytes() {
    let mut driver = started();
    driver.request(0x2_0000, 0x8_0000, WRITE);
    assert_eq!(driver.take_used(), Some((0, 4096)));
    assert_eq!(driver.peek(0x2_0000 + 4096), [0; 8]);
    driver.request(0x2000, 5, 0);
    assert_eq!(driver.take_used(), Some((0, 0)), "nothing to write to");
}

#[test]
fn drivers_can_do_without_interrupts() {
    let mut driver = started();
    let available = rings(0)[1];
    driver.poke(available, &[1, 0]);
    driver.request(0x2000, 1, WRITE);
    assert!(driver.take_used().is_some() && !driver.wires.level(LINE));

    driver.start(VERSION_1 | EVENT_INDEX);
    let (used_event, available_event) = (available + 4 + 8 * 2, rings(0)[2] + 4 + 8 * 8);
    driver.poke(used_event, &2u16.to_le_bytes());
    for count in 1..=3 {
        driver.request(0x2000, 1, WRITE);
        assert_eq!(driver.peek_word(available_event), count, "asks to be notified of the next");
        assert_eq!(driver.wires.level(LINE), count == 3, "after {count}");
    }
}

#[test]
fn hostile_rings_end_in_needs_reset() {
    let table = rings(0)[0];
    type Attack = fn(&mut Driver<Rng>, u64);
    let attacks: [(&str, Attack); 9] = [
        ("a circle", |driver, table| {
            driver.descriptor(table, (0x2000, 1, NEXT | WRITE, 1));
            driver.descriptor(table + 16, (0x2000, 1, NEXT | WRITE, 0));
        }),
        ("a descriptor that is not there", |driver, table| {
            driver.descriptor(table, (0x2000, 1, NEXT | WRITE, 8));
        }),
        ("a buffer outside of RAM", |driver, table| {
            driver.descriptor(table, (RAM as u64 - 1, 2, WRITE, 0));
        }),
        ("a buffer at the end of the address space", |driver, table| {
            driver.descriptor(table, (u64::MAX, u32::MAX, WRITE, 0));
        }),
        ("an indirect table outside of RAM", |driver, table| {
            driver.descriptor(table, (RAM as u64, 16, INDIRECT, 0));
        }),
        ("an indirect table of broken length", |driver, table| {
            driver.descriptor(table, (0x5000, 17, INDIRECT, 0));
        }),
        ("indirect tables in a circle", |driver, table| {
            driver.descriptor(0x5000, (0x5000, 16, INDIRECT, 0));
            driver.descriptor(table, (0x5000, 16, INDIRECT, 0));
        }),
        ("an endless indirect table", |driver, table| {
            for index in 0..2048 {
                driver.descriptor(0x8_0000 + index * 16, (0x2000, 1, NEXT | WRITE, index as u16 + 1));
            }
            driver.descriptor(table, (0x8_0000, 2048 * 16, INDIRECT, 0));
        }),
        ("readable after writable", |driver, table| {
            driver.descriptor(table, (0x2000, 1, NEXT | WRITE, 1));
            driver.descriptor(table + 16, (0x2000, 1, 0, 0));
        }),
    ];
    for (name, attack) in attacks {
        let mut driver = started();
        attack(&mut driver, table);
        driver.offer(0);
        driver.notify();
        assert_eq!(driver.status(), 0xf | NEEDS_RESET, "{name}");
        assert_eq!(driver.take_used(), None, "{name}");
        assert_eq!(driver.read(ISR, 1), 2, "{name}: configuration interrupt");
        driver.start(VERSION_1);
        driver.request(0x2000, 1, WRITE);
        assert!(driver.take_used().is_some(), "{name}: a reset heals");
    }
}

#[test]
fn hostile_indices_end_in_needs_reset() {
    let available = rings(0)[1];
    let mut driver = started();
    driver.poke(available + 2, &9u16.to_le_bytes());
    driver.notify();
    assert_eq!(driver.status(), 0xf | NEEDS_RESET, "more buffers than the ring holds");
    let mut driver = started();
    driver.offer(8);
    driver.notify();
    assert_eq!(driver.status(), 0xf | NEEDS_RESET, "a head that is not there");
    for rings in
        [[0x1_0000, 0, 0x1_2000], [0x1_0000, 0x1_1000, RAM as u64], [u64::MAX - 15, 0x1_1000, 0x1_2000]]
    {
        let mut driver = driver_with_rings(rings);
        driver.write(STATUS, 1, 0xf);
        driver.notify();
        assert_eq!(driver.status(), 0xf | NEEDS_RESET, "{rings:x?}");
    }
}

fn driver_with_rings(rings: [u64; 3]) -> Driver<Rng> {
    let mut driver = driver();
    assert!(driver.negotiate(VERSION_1));
    for (register, address) in [0x20, 0x28, 0x30].into_iter().zip(rings) {
        driver.write(register, 8, address);
    }
    driver.write(0x1c, 2, 1);
    driver
}

#[test]
fn queues_are_set_up_while_they_are_disabled() {
    let mut driver = driver();
    assert!(driver.negotiate(VERSION_1 | RING_RESET));
    assert_eq!((driver.read(0x12, 2), driver.read(0x18, 2)), (1, 8));
    for (size, expected) in [(4, 4), (3, 4), (16, 4), (0, 4)] {
        driver.write(0x18, 2, size);
        assert_eq!(driver.read(0x18, 2), expected);
    }
    driver.enable_queue(0, 0);
    assert_eq!(driver.read(0x1c, 2), 1);
    driver.write(0x18, 2, 8);
    driver.write(0x20, 8, 0x9000);
    assert_eq!((driver.read(0x18, 2), driver.read(0x20, 8)), (4, rings(0)[0]), "too late");
    driver.write(0x1c, 2, 0);
    assert_eq!(driver.read(0x1c, 2), 1, "only a reset disables");
    driver.write(0x3a, 2, 1);
    assert_eq!((driver.read(0x3a, 2), driver.read(0x1c, 2), driver.read(0x18, 2)), (0, 0, 8));
    driver.write(0x16, 2, 5);
    assert_eq!((driver.read(0x18, 2), driver.read(0x1a, 2), driver.read(0x20, 8)), (0, 0xffff, 0));
    driver.write(0x1c, 2, 1);
    driver.write(0x1a, 2, 0);
    driver.write(0x3a, 2, 1);
    assert_eq!(driver.status() & NEEDS_RESET, 0, "there is no such queue");
}

#[test]
fn a_queue_is_reset_and_used_again_while_the_device_runs() {
    let mut driver = driver();
    driver.start(VERSION_1 | RING_RESET);
    driver.request(0x2000, 1, WRITE);
    driver.write(0x3a, 2, 1);
    driver.request(0x2000, 1, WRITE);
    driver.used[0] = 1;
    assert_eq!(driver.take_used(), None, "the queue is disabled");
    (driver.available[0], driver.used[0]) = (0, 0);
    driver.enable_queue(0, 0);
    driver.request(0x2000, 2, WRITE);
    assert_eq!(driver.take_used(), Some((0, 2)));
}

#[test]
fn reset_forgets_everything_at_any_moment() {
    let mut driver = started();
    driver.request(0x2000, 1, WRITE);
    assert!(driver.wires.level(LINE));
    driver.write(STATUS, 1, 0);
    assert!(!driver.wires.level(LINE));
    assert_eq!((driver.status(), driver.read(0x1c, 2), driver.read(0x1a, 2)), (0, 0, 0xffff));
    driver.request(0x2000, 1, WRITE);
    driver.used[0] = 1;
    assert_eq!(driver.take_used(), None);
    driver.start(VERSION_1 | EVENT_INDEX);
    driver.request(0x2000, 1, WRITE);
    assert_eq!(driver.take_used(), Some((0, 1)));
    driver.function().reset();
    assert_eq!(driver.function().save(), super::driver::Driver::new(rng()).reset_state());
}

impl Driver<Rng> {
    fn reset_state(self) -> VirtioPciState<RngState> {
        self.function().reset();
        self.function().save()
    }
}

#[test]
fn nothing_happens_without_bus_mastering() {
    let mut driver = started();
    driver.function().write_config(4, &[2, 0]);
    driver.request(0x2000, 1, WRITE);
    assert_eq!(driver.take_used(), None);
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let mut driver = driver();
    let window = driver.function().window;
    let aim = |driver: &mut Driver<Rng>, bar: u8, offset: u32, length: u32| {
        driver.function().write_config(window + 4, &[bar]);
        driver.function().write_config(window + 8, &offset.to_le_bytes());
        driver.function().write_config(window + 12, &length.to_le_bytes());
    };
    aim(&mut driver, 0, STATUS as u32, 1);
    driver.function().write_config(window + 16, &[3]);
    assert_eq!(driver.status(), 3);
    aim(&mut driver, 0, 0x12, 2);
    let mut data = [0; 4];
    driver.function().read_config(window + 16, &mut data);
    assert_eq!(data[..2], [1, 0]);
    for (bar, offset, length) in [(1, 0x14, 1), (0, 0x14, 3), (0, 0x15, 2), (0, 0x14, 0), (0, 0xffff_fffc, 4)]
    {
        aim(&mut driver, bar, offset, length);
        driver.function().write_config(window + 16, &[0; 4]);
        driver.function().read_config(window + 16, &mut data);
        assert_eq!(driver.status(), 3, "{bar} {offset:#x} {length}");
    }
}

#[test]
fn accesses_of_any_kind_are_answered() {
    let mut driver = started();
    for width in [1, 2, 4, 8] {
        for offset in (0..BAR_SIZE).step_by(1).chain([BAR_SIZE, u64::MAX - 8]) {
            if offset != NOTIFY && offset != STATUS {
                driver.read(offset, width);
                driver.write(offset, width, 0xffff_ffff_ffff_ffff);
            }
        }
    }
    driver.start(VERSION_1);
    driver.request(0x2000, 1, WRITE);
    assert_eq!(driver.take_used(), Some((0, 1)));
}

#[test]
fn save_and_load_between_two_requests() {
    let mut driver = driver();
    driver.start(VERSION_1 | EVENT_INDEX);
    driver.request(0x2000, 1, WRITE);
    assert!(driver.wires.level(LINE));
    driver.descriptor(rings(0)[0], (0x2000, 3, WRITE, 0));
    driver.offer(0);

    let saved = rmp_serde::to_vec_named(&driver.function().save()).unwrap();
    let wires = driver.wires.clone();
    let mut function = VirtioPci::new(rng(), wires.line(LINE), wires, driver.function().dma.clone());
    function.load(rmp_serde::from_slice(&saved).unwrap());
    assert_eq!(function.save(), driver.function().save());
    driver.shared = Arc::new(parking_lot::Mutex::new(function));
    assert_eq!(driver.read(ISR, 1), 1, "the pin was asserted");
    driver.poke(rings(0)[1] + 4 + 16, &1u16.to_le_bytes());
    driver.notify();
    assert_eq!((driver.take_used(), driver.take_used()), (Some((0, 1)), Some((0, 3))));
    assert!(driver.wires.level(LINE));

    // A state that does not fit to this memory breaks the queue, not the machine.
    let (dma, _) = crate::dma::recorder::memory(0x1000);
    let mut small = VirtioPci::new(rng(), IrqLine::unconnected(), driver.wires.clone(), dma);
    let mut state = driver.function().save();
    state.registers.queue_vectors.clear();
    small.load(state);
    driver.shared = Arc::new(parking_lot::Mutex::new(small));
    assert_eq!(driver.status(), 0xf | NEEDS_RESET);
    assert_eq!(driver.read(0x1a, 2), 0xffff);
}
