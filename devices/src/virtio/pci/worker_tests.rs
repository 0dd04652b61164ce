//! A device with two queues whose requests another thread works on: what disks need of the transport.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::driver::*;
use super::*;
use crate::virtio::Bell;

const PATIENCE: Duration = Duration::from_secs(20);

/// Notes chains, and gives those back that its worker is done with.
struct Slow {
    work: Sender<(usize, u16)>,
    done: Arc<Mutex<Vec<(usize, u16)>>>,
    bell: Sender<Bell>,
    activated: u32,
    resets: Vec<Option<usize>>,
}

/// The worker's side.
struct Worker {
    work: Receiver<(usize, u16)>,
    done: Arc<Mutex<Vec<(usize, u16)>>>,
    bell: Bell,
}

impl Worker {
    fn work(&self) -> (usize, u16) {
        self.work.recv_timeout(PATIENCE).unwrap()
    }

    fn is_idle(&self) -> bool {
        self.work.try_recv().is_err()
    }

    /// Is done with a chain, and says so from another thread.
    fn done(&self, queue: usize, head: u16) {
        let (done, bell) = (self.done.clone(), self.bell.clone());
        let worker = std::thread::spawn(move || {
            done.lock().push((queue, head));
            bell.ring(queue);
        });
        worker.join().unwrap();
    }
}

/// Both queues enabled, with a message each.
fn started(features: u64) -> (Driver<Slow>, Worker) {
    let (work, taken) = channel();
    let (bell, hung) = channel();
    let done = Arc::<Mutex<Vec<_>>>::default();
    let mut driver = Driver::new(Slow { work, done: done.clone(), bell, activated: 0, resets: Vec::new() });
    driver.enable_msix();
    start(&mut driver, features);
    (driver, Worker { work: taken, done, bell: hung.recv_timeout(PATIENCE).unwrap() })
}

impl VirtioDevice for Slow {
    type State = ();

    const DEVICE_TYPE: u16 = 2;
    const PCI_CLASS: [u8; 3] = [1, 0, 0];

    fn queue_sizes(&self) -> Vec<u16> {
        vec![8, 8]
    }

    fn name(&self) -> &str {
        "slow"
    }

    fn connect(&mut self, bell: Bell) {
        self.bell.send(bell).unwrap();
    }

    fn activate(&mut self, _features: u64) {
        self.activated += 1;
    }

    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        for (_, head) in self.done.lock().extract_if(.., |(of, _)| *of == index) {
            queue.push_used(head, 0, dma)?;
        }
        while let Some(chain) = queue.pop(dma)? {
            self.work.send((index, chain.head)).unwrap();
        }
        queue.ask_for_notification(dma).map(drop)
    }

    fn reset_queue(&mut self, index: usize) {
        self.done.lock().retain(|(of, _)| *of != index);
        self.resets.push(Some(index));
    }

    fn reset(&mut self) {
        self.done.lock().clear();
        self.activated = 0;
        self.resets.push(None);
    }

    fn save(&self) {}

    fn load(&mut self, _state: ()) {}
}

fn start(driver: &mut Driver<Slow>, features: u64) {
    assert!(driver.negotiate(features));
    driver.enable_queue(0, 0);
    driver.enable_queue(1, 1);
    driver.write(STATUS, 1, 0xf);
    driver.function().device.resets.clear();
}

#[test]
fn requests_are_given_back_when_workers_ring() {
    let (mut driver, worker) = started(VERSION_1);
    driver.request_in(0, 0, (0x2000, 4, 0));
    driver.request_in(1, 3, (0x2000, 4, 0));
    driver.request_in(1, 4, (0x2000, 4, 0));
    assert_eq!([worker.work(), worker.work(), worker.work()], [(0, 0), (1, 3), (1, 4)]);
    assert_eq!([driver.take_used_of(0), driver.take_used_of(1)], [None; 2]);
    assert_eq!(driver.wires.take_messages(), []);
    worker.done(1, 4);
    assert_eq!(
        [driver.take_used_of(1), driver.take_used_of(1), driver.take_used_of(0)],
        [Some((4, 0)), None, None]
    );
    assert_eq!(driver.wires.take_messages(), [(DOORBELL, 0x41)]);
    worker.done(0, 0);
    worker.done(1, 3);
    assert_eq!([driver.take_used_of(0), driver.take_used_of(1)], [Some((0, 0)), Some((3, 0))]);
    assert_eq!(driver.wires.take_messages(), [(DOORBELL, 0x40), (DOORBELL, 0x41)]);
}

#[test]
fn what_a_reset_leaves_behind_is_not_given_back() {
    let (mut driver, worker) = started(VERSION_1);
    driver.request_in(0, 0, (0x2000, 4, 0));
    assert_eq!(worker.work(), (0, 0));
    worker.done.lock().push((0, 0));
    driver.write(STATUS, 1, 0);
    assert_eq!(driver.function().device.resets, [None]);
    worker.bell.ring(0);
    worker.bell.ring(7);
    start(&mut driver, VERSION_1);
    assert_eq!([driver.take_used_of(0), driver.take_used_of(1)], [None; 2]);
    driver.request_in(1, 2, (0x2000, 4, 0));
    assert_eq!(worker.work(), (1, 2));
    worker.done(1, 2);
    assert_eq!(driver.take_used_of(1), Some((2, 0)));
    let Worker { bell, .. } = worker;
    drop(driver);
    bell.ring(0);
}

#[test]
fn a_queue_that_is_reset_alone_forgets_its_chains() {
    let (mut driver, worker) = started(VERSION_1 | RING_RESET);
    driver.request_in(0, 0, (0x2000, 4, 0));
    driver.request_in(1, 1, (0x2000, 4, 0));
    assert_eq!([worker.work(), worker.work()], [(0, 0), (1, 1)]);
    worker.done.lock().extend([(0, 0), (1, 1)]);
    driver.write(0x16, 2, 0);
    driver.write(0x3a, 2, 1);
    assert_eq!(driver.function().device.resets, [Some(0)]);
    worker.bell.ring(0);
    worker.bell.ring(1);
    assert_eq!([driver.take_used_of(0), driver.take_used_of(1)], [None, Some((1, 0))]);
}

#[test]
fn what_was_agreed_on_lasts_until_a_reset() {
    let (mut driver, _worker) = started(VERSION_1);
    for status in [0x3, 0x1, 0xb, 0xf, 0x80] {
        driver.write(STATUS, 1, status);
        assert_eq!(driver.status(), 0xc | status, "the driver cannot take back what it has said");
    }
    assert_eq!(driver.function().device.activated, 1);
    driver.write(0x08, 4, 0);
    driver.write(0x0c, 4, 1 << 29);
    assert_eq!(driver.read(0x0c, 4), 0);
    driver.write(STATUS, 1, 0);
    driver.write(STATUS, 1, 0x7);
    assert_eq!(
        (driver.status(), driver.function().device.activated),
        (3, 0),
        "no driver without its features"
    );
}

#[test]
fn requests_from_before_the_driver_was_ready_are_seen() {
    let (mut driver, worker) = started(VERSION_1);
    assert!(driver.negotiate(VERSION_1));
    driver.enable_queue(0, 0);
    driver.request_in(0, 5, (0x2000, 4, 0));
    assert!(worker.is_idle());
    driver.write(STATUS, 1, 0xf);
    assert_eq!(worker.work(), (0, 5));
}

#[test]
fn completions_wait_for_bus_mastering() {
    let (mut driver, worker) = started(VERSION_1);
    driver.request_in(0, 5, (0x2000, 4, 0));
    driver.function().write_config(4, &[2, 0]);
    worker.done(0, worker.work().1);
    assert_eq!(driver.take_used_of(0), None);
    driver.function().write_config(4, &[6, 0]);
    assert_eq!(driver.take_used_of(0), Some((5, 0)));
}
