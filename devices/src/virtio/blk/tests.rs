//! The block device, driven as a guest drives it, with a disk in a temporary file or one that fails behind it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use softmetal_storage::{HostFile, Limits, Means, Medium, Raw, Throttle};
use vm_memory::VolatileSlice;

use super::*;
use crate::virtio::VirtioPci;
use crate::virtio::pci::driver::*;

const SIZE: u64 = 1 << 20;
const FLUSH: u64 = 1 << 9;
/// Where the driver keeps headers, data and status of request n.
const HEADERS: u64 = 0x4_0000;
const DATA: u64 = 0x5_0000;
const STATUSES: u64 = 0x4_8000;
const LIMIT: Duration = Duration::from_secs(60);

/// A disk in a file, and how it can be made to fail and to wait.
struct Disk0 {
    raw: Raw,
    fails: AtomicBool,
    waits: AtomicBool,
    reads: AtomicUsize,
    flushes: AtomicUsize,
}

impl Disk0 {
    fn new(read_only: bool) -> Arc<Self> {
        let file = HostFile::temporary().unwrap();
        file.set_length(SIZE).unwrap();
        let pattern: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
        file.write(0, &[io::IoSlice::new(&pattern)]).unwrap();
        let raw = Raw::new(Arc::new(file), read_only).unwrap();
        Arc::new(Self {
            raw,
            fails: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
        })
    }

    fn hold(&self) -> io::Result<()> {
        while self.waits.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn bytes(&self, at: u64) -> [u8; 512] {
        let mut bytes = [0; 512];
        self.raw.read(at, &[VolatileSlice::from(&mut bytes[..])]).unwrap();
        bytes
    }
}

impl Disk for Disk0 {
    fn limits(&self) -> Limits {
        self.raw.limits()
    }

    fn read(&self, at: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.hold()?;
        self.raw.read(at, into)
    }

    fn write(&self, at: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.hold()?;
        self.raw.write(at, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.hold()
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        self.raw.discard(at, length)
    }

    fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.raw.write_zeroes(at, length, may_unmap)
    }
}

fn options(on_write_error: OnWriteError) -> BlkOptions {
    BlkOptions { name: "disk".into(), serial: "number one".into(), on_write_error, halt: Box::new(|_| ()) }
}

/// A device that does everything at once, or with threads.
fn device(disk: &Arc<Disk0>, threads: usize) -> Blk {
    let workers =
        (threads > 0).then(|| Workers::start("disk", threads, Throttle::default(), Means::Any).unwrap());
    Blk::new(disk.clone(), workers.map(Arc::new), options(OnWriteError::Report))
}

fn driver_of(blk: Blk) -> Driver<Blk> {
    let mut driver = Driver::new(blk);
    assert!(driver.negotiate(VERSION_1 | FLUSH | RING_RESET));
    begin(&mut driver);
    driver.write(STATUS, 1, 0xf);
    driver
}

/// Enables queue 0 with the eight descriptors that the driver of these tests knows.
fn begin(driver: &mut Driver<Blk>) {
    driver.write(0x16, 2, 0);
    driver.write(0x18, 2, 8);
    driver.enable_queue(0, 0);
    (driver.available[0], driver.used[0]) = (0, 0);
}

fn driver(disk: &Arc<Disk0>, threads: usize) -> Driver<Blk> {
    driver_of(device(disk, threads))
}

impl Driver<Blk> {
    /// Offers a request of header, data (to be written by the device where `flags` says so) and status, in slot 0 or 1.
    fn ask(&mut self, slot: u16, kind: u32, sector: u64, length: u32, flags: u16) {
        let place = u64::from(slot);
        let (header, data, status) = (HEADERS + place * 16, DATA + place * 0x1_0000, STATUSES + place);
        self.poke(header, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        self.poke(status, &[0xee]);
        let first = slot * 3;
        let table = rings(0)[0];
        let at = |descriptor: u16| table + u64::from(descriptor) * 16;
        self.descriptor(at(first), (header, 16, NEXT, first + 1));
        self.descriptor(at(first + 1), (data, length, flags | NEXT, first + 2));
        self.descriptor(at(first + 2), (status, 1, WRITE, 0));
        self.offer(first);
        self.notify();
    }

    /// Waits for an answer: the status of the slot and how much was written.
    fn answer(&mut self, slot: u16) -> (u8, u32) {
        let end = Instant::now() + LIMIT;
        loop {
            self.function().run_queue(0);
            if let Some((head, written)) = self.take_used() {
                assert_eq!(head, u32::from(slot) * 3);
                return (self.peek::<1>(STATUSES + u64::from(slot))[0], written);
            }
            assert!(Instant::now() < end, "no answer");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn done(&mut self, kind: u32, sector: u64, length: u32, flags: u16) -> (u8, u32) {
        self.ask(0, kind, sector, length, flags);
        self.answer(0)
    }
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

#[test]
fn configuration_says_what_the_disk_is() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 0);
    assert_eq!(driver.read(0x2000, 8), SIZE / 512);
    assert_eq!(driver.read(0x2000 + 20, 4), 512);
    assert_eq!(driver.read(0x2000 + 34, 2), 4);
    assert_eq!(driver.read(0x2000 + 4000, 4), 0, "zeros beyond the end");
    let mut read_only = driver_of(device(&Disk0::new(true), 0));
    let offered = read_only.offered();
    assert_eq!(offered & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5, "read-only, no discard and no zeros");
    assert_eq!(driver.offered() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 13 | 1 << 14);
}

#[test]
fn data_goes_both_ways_with_and_without_threads() {
    for threads in [0, 2] {
        let disk = Disk0::new(false);
        let mut driver = driver(&disk, threads);
        assert_eq!(driver.done(IN, 3, 1024, WRITE), (0, 1025));
        assert_eq!((driver.peek::<2>(DATA), driver.peek::<2>(DATA + 512)), ([3; 2], [4; 2]));
        driver.poke(DATA, &[0x77; 1024]);
        assert_eq!(driver.done(OUT, 9, 1024, 0), (0, 1));
        assert_eq!((disk.bytes(9 * 512), disk.bytes(10 * 512)), ([0x77; 512], [0x77; 512]));
        assert_eq!(disk.bytes(11 * 512), [11; 512]);
        assert_eq!(driver.done(FLUSH_REQUEST, 0, 0, 0), (0, 1));
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 1, "the guest's own");
        assert_eq!(driver.done(GET_ID, 0, 20, WRITE), (0, 21));
        assert_eq!(&driver.peek::<20>(DATA), b"number one\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(driver.done(99, 0, 512, WRITE).0, 2, "unsupported");
    }
}

#[test]
fn those_who_look_after_ram_hear_of_data_before_the_used_index_moves() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 0);
    driver.ask(0, IN, 0, 512, WRITE);
    let written = driver.written.take();
    let data = written.iter().position(|range| *range == (DATA..DATA + 512)).unwrap();
    let status = written.iter().position(|range| *range == (STATUSES..STATUSES + 1)).unwrap();
    let used = rings(0)[2];
    let index = written.iter().position(|range| *range == (used..used + 4)).unwrap();
    assert!(data < index && status < index, "{written:?}");
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 0);
    let range = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    driver.poke(DATA, &[range(8, 2, 1), range(20, 1, 0)].concat());
    assert_eq!(driver.done(WRITE_ZEROES, 0, 32, 0), (0, 1));
    assert_eq!([7, 8, 9, 10, 20].map(|at| disk.bytes(at * 512)[0]), [7, 0, 0, 10, 0]);
    driver.poke(DATA, &range(30, 1, 0));
    assert_eq!(driver.done(DISCARD, 0, 16, 0).0, 0);
    driver.poke(DATA, &range(30, 1, 1));
    assert_eq!(driver.done(DISCARD, 0, 16, 0).0, 2, "a flag that discards do not have");
    driver.poke(DATA, &range(SIZE / 512, 1, 0));
    assert_eq!(driver.done(WRITE_ZEROES, 0, 16, 0).0, 1, "beyond the end");
    driver.poke(DATA, &range(u64::MAX, 1, 0));
    assert_eq!(driver.done(WRITE_ZEROES, 0, 16, 0).0, 1);
    assert_eq!(driver.done(WRITE_ZEROES, 0, 15, 0).0, 1, "no whole range");
}

#[test]
fn requests_that_cannot_be_get_an_error() {
    for threads in [0, 1] {
        let disk = Disk0::new(false);
        let mut driver = driver(&disk, threads);
        for (kind, sector, length, flags) in [
            (IN, SIZE / 512, 512, WRITE),
            (IN, SIZE / 512 - 1, 1024, WRITE),
            (IN, u64::MAX, 512, WRITE),
            (IN, 1 << 55, 512, WRITE),
            (IN, 0, 511, WRITE),
            (OUT, SIZE / 512, 512, 0),
            (OUT, 0, 100, 0),
        ] {
            assert_eq!(driver.done(kind, sector, length, flags).0, 1, "{kind} {sector} {length}");
        }
        assert_eq!(driver.done(IN, 0, 512, WRITE).0, 0);
        let mut read_only = driver_of(device(&Disk0::new(true), threads));
        assert_eq!(read_only.done(OUT, 0, 512, 0).0, 1);
        assert_eq!(read_only.done(IN, 0, 512, WRITE).0, 0);
    }
}

#[test]
fn a_chain_without_room_for_a_status_comes_back_untouched() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 0);
    let table = rings(0)[0];
    driver.poke(HEADERS, &[0; 16]);
    driver.descriptor(table, (HEADERS, 16, 0, 0));
    driver.offer(0);
    driver.notify();
    assert_eq!(driver.take_used(), Some((0, 0)));
    assert_eq!(driver.status() & 0x40, 0);
}

#[test]
fn how_bytes_are_spread_over_descriptors_has_no_meaning() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 0);
    let table = rings(0)[0];
    driver.poke(HEADERS, &[&OUT.to_le_bytes()[..], &[0; 4], &5u64.to_le_bytes()].concat());
    driver.poke(HEADERS + 16, &[0x5a; 512]);
    driver.poke(STATUSES, &[0xee]);
    for (number, (address, length, flags)) in [
        (HEADERS, 3, NEXT),
        (HEADERS + 3, 100, NEXT),
        (HEADERS + 103, 425, NEXT),
        (STATUSES, 1, WRITE | NEXT),
        (STATUSES + 1, 0, WRITE),
    ]
    .into_iter()
    .enumerate()
    {
        driver.descriptor(table + number as u64 * 16, (address, length, flags, number as u16 + 1));
    }
    driver.offer(0);
    driver.notify();
    assert_eq!((driver.take_used(), driver.peek(STATUSES)), (Some((0, 1)), [0]));
    assert_eq!(disk.bytes(5 * 512), [0x5a; 512]);
}

#[test]
fn a_driver_without_flushes_gets_writes_that_are_kept() {
    for threads in [0, 1] {
        let disk = Disk0::new(false);
        let mut driver = Driver::new(device(&disk, threads));
        assert!(driver.negotiate(VERSION_1));
        begin(&mut driver);
        driver.write(STATUS, 1, 0xf);
        assert_eq!(driver.done(OUT, 0, 512, 0).0, 0);
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 1);
        assert_eq!(driver.done(IN, 0, 512, WRITE).0, 0);
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 1, "reads need none");
    }
}

#[test]
fn several_requests_are_in_flight() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 2);
    disk.waits.store(true, Ordering::SeqCst);
    driver.ask(0, IN, 1, 512, WRITE);
    driver.ask(1, IN, 2, 512, WRITE);
    let end = Instant::now() + LIMIT;
    while disk.reads.load(Ordering::SeqCst) < 2 {
        assert!(Instant::now() < end, "the second waits for the first");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(driver.take_used(), None);
    disk.waits.store(false, Ordering::SeqCst);
    let end = Instant::now() + LIMIT;
    let mut heads = Vec::new();
    while heads.len() < 2 {
        assert!(Instant::now() < end);
        driver.function().run_queue(0);
        heads.extend(driver.take_used().map(|(head, _)| head));
    }
    heads.sort_unstable();
    assert_eq!(heads, [0, 3]);
}

#[test]
fn the_transport_hears_of_what_is_done() {
    let disk = Disk0::new(false);
    let Driver { shared: function, wires, .. } = driver(&disk, 1);
    let offer = |kind: u32| {
        let mut function = function.lock();
        let dma = crate::virtio::pci::driver::dma(&function);
        let [table, available, _] = rings(0);
        let put = |at: u64, bytes: &[u8]| dma.write(at, bytes).unwrap();
        put(HEADERS, &[&kind.to_le_bytes()[..], &[0; 12]].concat());
        for (number, (address, length, flags)) in
            [(HEADERS, 16u32, NEXT), (DATA, 512, NEXT | WRITE), (STATUSES, 1, WRITE)].into_iter().enumerate()
        {
            let next = number as u16 + 1;
            let bytes = [
                &address.to_le_bytes()[..],
                &length.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ];
            put(table + number as u64 * 16, &bytes.concat());
        }
        put(available + 4, &0u16.to_le_bytes());
        put(available + 2, &1u16.to_le_bytes());
        crate::pci::PciDevice::write_bar(&mut *function, 0, NOTIFY, &[0, 0]);
    };
    offer(IN);
    let end = Instant::now() + LIMIT;
    while !wires.level(LINE) {
        assert!(Instant::now() < end, "no interrupt");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_forgets_it() {
    for whole in [true, false] {
        let disk = Disk0::new(false);
        let mut driver = driver(&disk, 1);
        disk.waits.store(true, Ordering::SeqCst);
        driver.ask(0, IN, 1, 512, WRITE);
        driver.ask(1, IN, 2, 512, WRITE);
        let end = Instant::now() + LIMIT;
        while disk.reads.load(Ordering::SeqCst) < 1 {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        let release = Arc::clone(&disk);
        let releasing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            release.waits.store(false, Ordering::SeqCst);
        });
        if whole {
            driver.write(STATUS, 1, 0);
        } else {
            driver.write(0x16, 2, 0);
            driver.write(0x3a, 2, 1);
        }
        assert!(!disk.waits.load(Ordering::SeqCst), "what had begun is over");
        releasing.join().unwrap();
        assert_eq!(disk.reads.load(Ordering::SeqCst), 1, "what had not begun never does");
        if whole {
            assert!(driver.negotiate(VERSION_1 | FLUSH));
        }
        begin(&mut driver);
        driver.write(STATUS, 1, 0xf);
        driver.function().run_queue(0);
        assert_eq!(driver.take_used(), None, "nothing comes from before");
        assert_eq!(driver.done(IN, 7, 512, WRITE), (0, 513));
        assert_eq!(driver.peek(DATA), [7; 4]);
    }
}

#[test]
fn the_hosts_errors_are_reported_or_stop_the_machine() {
    let disk = Disk0::new(false);
    let mut driver = driver(&disk, 1);
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(driver.done(OUT, 0, 512, 0).0, 1);
    assert_eq!(driver.done(FLUSH_REQUEST, 0, 0, 0).0, 1);

    let reasons = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&reasons);
    let mut options = options(OnWriteError::Stop);
    options.halt = Box::new(move |reason| heard.lock().push(reason.into()));
    let workers = Workers::start("disk", 1, Throttle::default(), Means::Any).unwrap();
    let mut driver = driver_of(Blk::new(disk.clone(), Some(Arc::new(workers)), options));
    driver.poke(DATA, &[0x42; 512]);
    driver.ask(0, OUT, 6, 512, 0);
    let end = Instant::now() + LIMIT;
    while driver.function().device().nothing_failed() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
    driver.function().run_queue(0);
    assert_eq!(driver.take_used(), None, "the guest learns nothing");
    assert!(reasons.lock()[0].starts_with("disk: writing at 3072 failed"), "{reasons:?}");
    disk.fails.store(false, Ordering::SeqCst);
    driver.function().device_mut().retry();
    assert_eq!(driver.answer(0).0, 0);
    assert_eq!(disk.bytes(6 * 512), [0x42; 512]);
}

/// A number that depends on what came before (SplitMix64).
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
}

#[test]
fn a_device_that_is_saved_at_any_moment_goes_on_elsewhere() {
    for mut seed in 0..20u64 {
        let disk = Disk0::new(false);
        let mut driver = driver(&disk, 2);
        let mut model: Vec<u8> = (0..SIZE / 512).map(|sector| sector as u8).collect();
        // What is asked in each slot: a write of this byte, or a read, of this sector.
        let mut asked: [Option<(usize, Option<u8>)>; 2] = [None; 2];
        let mut moves = 0;
        for round in 0..60 {
            let slot = (next(&mut seed) % 2) as u16;
            if asked[usize::from(slot)].is_none() {
                // No sector twice at a time, as that has no order.
                let sector = (next(&mut seed) % 1000) as usize * 2 + usize::from(slot);
                let data = DATA + u64::from(slot) * 0x1_0000;
                let byte = (next(&mut seed).is_multiple_of(2)).then_some(round as u8);
                disk.waits.store(next(&mut seed).is_multiple_of(2), Ordering::SeqCst);
                driver.poke(data, &[byte.unwrap_or(0xee); 512]);
                let (kind, flags) = if byte.is_some() { (OUT, 0) } else { (IN, WRITE) };
                driver.ask(slot, kind, sector as u64, 512, flags);
                asked[usize::from(slot)] = Some((sector, byte));
            }
            if next(&mut seed).is_multiple_of(3) {
                driver.become_another(device(&disk, 2), &disk.waits);
                driver.function().resume();
                moves += 1;
            }
            if next(&mut seed).is_multiple_of(2) {
                disk.waits.store(false, Ordering::SeqCst);
                for _ in 0..asked.iter().flatten().count() {
                    let (slot, (sector, byte)) = driver.any_answer(&mut asked);
                    let data = driver.peek::<512>(DATA + slot * 0x1_0000);
                    model[sector] = byte.unwrap_or(model[sector]);
                    assert_eq!(data, [model[sector]; 512], "sector {sector}");
                    assert_eq!(disk.bytes(sector as u64 * 512), [model[sector]; 512]);
                }
            }
        }
        disk.waits.store(false, Ordering::SeqCst);
        assert!(moves > 5, "{moves}");
        while asked.iter().any(Option::is_some) {
            driver.any_answer(&mut asked);
        }
        driver.function().run_queue(0);
        assert_eq!(driver.take_used(), None, "each is answered once");
    }
}

impl Driver<Blk> {
    /// Goes on with another function around `device`, with the state of this one; the disk may be waiting.
    fn become_another(&mut self, device: Blk, waits: &AtomicBool) {
        let mut before = self.function();
        let saved = rmp_serde::to_vec_named(&before.save()).unwrap();
        // Its workers end before the new ones begin.
        let waiting = waits.swap(false, Ordering::SeqCst);
        crate::pci::PciDevice::reset(&mut *before);
        waits.store(waiting, Ordering::SeqCst);
        let dma = crate::virtio::pci::driver::dma(&before);
        let mut function = VirtioPci::new(device, self.wires.line(LINE), self.wires.clone(), dma);
        function.load(rmp_serde::from_slice(&saved).unwrap());
        drop(before);
        self.shared = function.shared();
    }

    /// Waits for an answer to any of what was asked; the slot and what that was.
    fn any_answer(&mut self, asked: &mut [Option<(usize, Option<u8>)>; 2]) -> (u64, (usize, Option<u8>)) {
        let end = Instant::now() + LIMIT;
        loop {
            self.function().run_queue(0);
            if let Some((head, _)) = self.take_used() {
                let slot = (head / 3) as usize;
                assert_eq!(self.peek(STATUSES + slot as u64), [0]);
                return (slot as u64, asked[slot].take().unwrap());
            }
            assert!(Instant::now() < end, "no answer");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
