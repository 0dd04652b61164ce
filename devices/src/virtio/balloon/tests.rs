//! The balloon, driven as a guest drives it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::virtio::pci::driver::*;

type Discarded = Arc<Mutex<Vec<Range<u64>>>>;

impl Reclaim for Discarded {
    fn discard(&self, range: Range<u64>) {
        self.lock().push(range);
    }
}

const ALL: u64 = F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING;
const BUFFER: u64 = 0x8_0000;

fn balloon(features: u64) -> (Driver<Balloon>, Discarded) {
    let discarded = Discarded::default();
    let mut driver = Driver::new(Balloon::new(discarded.clone()));
    start(&mut driver, features);
    (driver, discarded)
}

fn start(driver: &mut Driver<Balloon>, features: u64) {
    assert!(driver.negotiate(VERSION_1 | features));
    (0..4).for_each(|queue| driver.enable_queue(queue, 0));
    driver.write(STATUS, 1, 0xf);
}

fn numbers(driver: &mut Driver<Balloon>, numbers: &[u32]) -> u32 {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    driver.poke(BUFFER, &bytes);
    bytes.len() as u32
}

#[test]
fn pages_in_the_balloon_are_discarded() {
    let (mut driver, discarded) = balloon(ALL);
    assert_eq!(driver.offered() & 0xff_ffff, ALL);
    driver.read(ISR, 1);
    driver.function().set_target(5 * PAGE);
    assert_eq!((driver.read(0x2000, 4), driver.read(ISR, 1), driver.read(0x15, 1)), (5, 2, 1));
    driver.function().set_target(5 * PAGE);
    assert_eq!(driver.read(ISR, 1), 0);

    // Upwards, downwards, alone, and none: the last page of RAM is number 255.
    let length = numbers(&mut driver, &[3, 4, 9, 8, 7, 1, 256, u32::MAX]);
    driver.request_in(0, 0, (BUFFER, length, 0));
    assert_eq!(driver.take_used_of(0), Some((0, 0)));
    assert_eq!(*discarded.lock(), [0x3000..0x5000, 0x7000..0xa000, 0x1000..0x2000]);
    driver.write(0x2004, 4, 6);
    assert_eq!(driver.read(0x2004, 4), 6);
    let report = driver.function().device().report();
    assert_eq!((report.inflated, report.given, report.reported), (6 * PAGE, 6 * PAGE, 0));
    let length = numbers(&mut driver, &[3]);
    driver.request_in(1, 0, (BUFFER, length, 0));
    assert_eq!(driver.take_used_of(1), Some((0, 0)));

    start(&mut driver, ALL);
    assert_eq!((driver.read(0x2000, 4), driver.read(0x2004, 4)), (5, 0), "the target is the user's");
}

#[test]
fn reported_memory_is_discarded() {
    for (features, queue) in [(ALL, 3), (F_PAGE_REPORTING, 2)] {
        let (mut driver, discarded) = balloon(features);
        let table = rings(queue as u64)[0];
        driver.descriptor(table, (0x2_0000, 0x8000, WRITE | NEXT, 1));
        driver.descriptor(table + 16, (0x9_0000, 0x1000, WRITE, 0));
        driver.offer_in(queue, 0);
        driver.notify_queue(queue);
        assert_eq!(driver.take_used_of(queue), Some((0, 0)));
        assert_eq!(*discarded.lock(), [0x2_0000..0x2_8000, 0x9_0000..0x9_1000]);
        assert_eq!(driver.function().device().report().reported, 0x9000);
    }
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let (mut driver, _) = balloon(ALL);
    let send = |driver: &mut Driver<Balloon>, entries: &[(u16, u64)]| {
        let bytes = entries.iter().flat_map(|(tag, value)| {
            tag.to_le_bytes().into_iter().chain(value.to_le_bytes()).collect::<Vec<_>>()
        });
        let bytes: Vec<u8> = bytes.collect();
        driver.poke(BUFFER, &bytes);
        driver.request_in(2, 0, (BUFFER, bytes.len() as u32, 0));
    };
    let known = |driver: &Driver<Balloon>| driver.function().device().report().statistics;
    send(&mut driver, &[]);
    assert_eq!((known(&driver), driver.take_used_of(2)), (None, None));
    for free in [100, 200] {
        driver.function().ask_for_statistics();
        assert_eq!(driver.take_used_of(2), Some((0, 0)), "the buffer asks");
        send(&mut driver, &[(4, free), (5, 1000), (77, 1), (6, 500)]);
        let statistics = known(&driver).unwrap();
        assert_eq!(
            (statistics.free, statistics.total, statistics.available),
            (Some(free), Some(1000), Some(500))
        );
        assert_eq!((statistics.caches, driver.take_used_of(2)), (None, None));
    }
    let saved = rmp_serde::to_vec_named(&driver.function().save()).unwrap();
    driver.function().load(rmp_serde::from_slice(&saved).unwrap());
    driver.function().ask_for_statistics();
    assert_eq!(driver.take_used_of(2), Some((0, 0)), "a snapshot knows the buffer");
    driver.function().ask_for_statistics();
    assert_eq!(driver.take_used_of(2), None, "the guest has not answered");
}

#[test]
fn hostile_buffers() {
    let (mut driver, discarded) = balloon(ALL);
    // Statistics without end, and more buffers than one.
    for head in 0..4 {
        driver.request_in(2, head, (BUFFER, 0x4_0000, 0));
    }
    assert_eq!([driver.take_used_of(2), driver.take_used_of(2)], [Some((0, 0)), Some((1, 0))]);
    // Half a number, nothing, and a megabyte of numbers.
    driver.request_in(0, 0, (BUFFER, 3, 0));
    driver.request_in(0, 1, (BUFFER, 0, 0));
    assert_eq!(driver.status(), 0xf);
    driver.request_in(0, 2, (0, RAM as u32, 0));
    assert_eq!(driver.status(), 0x4f);
    assert!(discarded.lock().is_empty());
}
