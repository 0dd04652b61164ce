//! Transfers that the host's kernel makes by itself (io_uring): they do what threads do, are waited for, and hold what they need.
//! Where the host offers no io_uring, or the folder for tests lies in memory, threads do all of it, with the same results.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use softmetal_storage::{
    Cache, Disk, Format, HostFile, Job, Means, OpenOptions, Qcow2, Throttle, Transfer, Workers, open,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const SIZE: u64 = 4 << 20;
const PAGE: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(60);

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 * SIZE as usize)]).unwrap()
}

/// A new file for an image.
fn path(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn image(name: &str, format: Format, cache: Cache) -> (PathBuf, Arc<dyn Disk>) {
    let path = path(name);
    fs::write(&path, []).unwrap();
    if format == Format::Qcow2 {
        Qcow2::create(Arc::new(HostFile::open(&path, true, Cache::Writeback).unwrap()), SIZE).unwrap();
    } else {
        fs::File::options().write(true).open(&path).unwrap().set_len(SIZE).unwrap();
    }
    let options = OpenOptions { path: path.clone(), format: Some(format), cache, ..OpenOptions::default() };
    (path.clone(), open(&options).unwrap())
}

/// How many jobs were done by whom.
#[derive(Default)]
struct Counts {
    transfers: AtomicUsize,
    runs: AtomicUsize,
}

/// Moves a range of a disk to or from the parts of guest RAM.
struct Move {
    disk: Arc<dyn Disk>,
    memory: GuestMemoryMmap,
    at: u64,
    write: bool,
    parts: Vec<(u64, usize)>,
    counts: Arc<Counts>,
    done: Sender<u64>,
}

impl Job for Move {
    fn run(&mut self) {
        let slices: Vec<_> = { self.parts.iter() }
            .flat_map(|(address, length)| self.memory.get_slices(GuestAddress(*address), *length))
            .map(|slice| slice.unwrap())
            .collect();
        match self.write {
            true => self.disk.write(self.at, &slices).unwrap(),
            false => self.disk.read(self.at, &slices).unwrap(),
        }
        self.counts.runs.fetch_add(1, Ordering::SeqCst);
    }

    fn tell(self: Box<Self>) {
        // Tests that drain do not listen.
        let _ = self.done.send(self.at);
    }

    fn transfer(&self) -> Option<Transfer> {
        let length = self.parts.iter().map(|part| part.1 as u64).sum();
        let place = self.disk.place(self.at, length, self.write)?;
        Transfer::new(place, self.write, &self.memory, self.parts.iter().copied())
    }

    fn transferred(&mut self) {
        self.counts.transfers.fetch_add(1, Ordering::SeqCst);
    }
}

struct Rig {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    memory: GuestMemoryMmap,
    workers: Workers,
    counts: Arc<Counts>,
}

impl Rig {
    fn new(name: &str, format: Format, cache: Cache, means: Means) -> Self {
        let (path, disk) = image(name, format, cache);
        let workers = Workers::start("test", 2, Throttle::default(), means).unwrap();
        Self { path, disk, memory: memory(), workers, counts: Arc::default() }
    }

    /// Parts of guest RAM from `address` on, in the order in which they are moved.
    fn begin(&self, tag: usize, write: bool, at: u64, parts: Vec<(u64, usize)>, done: &Sender<u64>) {
        let bytes = parts.iter().map(|part| part.1 as u64).sum();
        let job = Move {
            disk: Arc::clone(&self.disk),
            memory: self.memory.clone(),
            at,
            write,
            parts,
            counts: Arc::clone(&self.counts),
            done: done.clone(),
        };
        self.workers.submit(tag, bytes, Box::new(job));
    }

    /// Whether the kernel is expected to move anything here.
    fn has_ring(&self) -> bool {
        let has = Workers::start("test", 1, Throttle::default(), Means::IoUring).is_ok()
            && self.disk.place(0, PAGE, false).is_some_and(|place| {
                Transfer::new(place, false, &self.memory, [(0, PAGE as usize)].into_iter()).is_some()
            });
        if !has {
            eprintln!("no io_uring here: threads do all");
        }
        has
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Numbers by xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Rounds of writes and reads beside one another, each in up to four parts, at pages that are those of one request alone.
fn moves_as_threads_do(name: &str, format: Format, cache: Cache, means: Means) -> Rig {
    let rig = Rig::new(name, format, cache, means);
    let mut state = 0x1234_5678_9abc_def1;
    let mut model = vec![0u8; SIZE as usize];
    let pages = SIZE / PAGE;
    for round in 0..40 {
        let (done, ended) = channel();
        let mut expected = Vec::new();
        // Pages of the disk and of the RAM in an order that is that of a permutation each.
        let mut page = next(&mut state) % pages;
        let mut count = 0;
        for request in 0..64u64 {
            let length = next(&mut state) % 4 + 1;
            if page + length > pages {
                page = 0;
                if count + length > pages / 2 {
                    break;
                }
            }
            let (at, address) = (page * PAGE, SIZE + (count * PAGE));
            let parts: Vec<_> =
                (0..length).rev().map(|part| (address + part * PAGE, PAGE as usize)).collect();
            let range = at as usize..(at + length * PAGE) as usize;
            let write = round == 0 || next(&mut state) & 1 == 0;
            let bytes = vec![(round * 64 + request) as u8 ^ 0x5a; range.len()];
            rig.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
            if write {
                model[range].copy_from_slice(&bytes);
            } else {
                expected.push((parts.clone(), model[range].to_vec()));
            }
            rig.begin(0, write, at, parts, &done);
            count += length;
            page += length + next(&mut state) % 3;
            if count + 4 > pages {
                break;
            }
        }
        drop(done);
        while ended.recv_timeout(LIMIT).is_ok() {}
        for (parts, bytes) in expected {
            for ((address, length), expected) in parts.iter().zip(bytes.chunks(PAGE as usize)) {
                let mut found = vec![0; *length];
                rig.memory.read_slice(&mut found, GuestAddress(*address)).unwrap();
                assert!(found == expected, "{format:?} {cache:?} {means:?}, round {round}: {address:#x}");
            }
        }
    }
    let whole = rig.memory.get_slice(GuestAddress(0), SIZE as usize).unwrap();
    rig.disk.read(0, &[whole]).unwrap();
    let mut found = vec![0; SIZE as usize];
    rig.memory.read_slice(&mut found, GuestAddress(0)).unwrap();
    assert!(found == model, "{format:?} {cache:?} {means:?}");
    rig
}

#[test]
fn transfers_do_what_threads_do() {
    for (format, cache) in [
        (Format::Raw, Cache::Writeback),
        (Format::Raw, Cache::None),
        (Format::Raw, Cache::Writethrough),
        (Format::Qcow2, Cache::Writeback),
    ] {
        for means in [Means::Threads, Means::IoUring, Means::Any] {
            if means == Means::IoUring && Workers::start("test", 1, Throttle::default(), means).is_err() {
                continue;
            }
            let name = format!("moves-{}-{cache:?}-{means:?}", format.name());
            let rig = moves_as_threads_do(&name, format, cache, means);
            let transfers = rig.counts.transfers.load(Ordering::SeqCst);
            match means {
                Means::Threads => assert_eq!(transfers, 0),
                _ if rig.has_ring() => assert!(transfers > 100, "{name}: {transfers}"),
                _ => {}
            }
        }
    }
}

#[test]
fn what_the_kernel_cannot_make_whole_is_left_to_threads() {
    let rig = Rig::new("short", Format::Raw, Cache::Writeback, Means::Any);
    // Somebody cuts the file off: there are zeros.
    fs::File::options().write(true).open(&rig.path).unwrap().set_len(PAGE + 100).unwrap();
    rig.memory.write_slice(&[7; 2 * PAGE as usize], GuestAddress(0)).unwrap();
    let (done, ended) = channel();
    rig.begin(0, false, PAGE, vec![(0, 2 * PAGE as usize)], &done);
    assert_eq!(ended.recv_timeout(LIMIT).unwrap(), PAGE);
    let mut found = vec![1; 2 * PAGE as usize];
    rig.memory.read_slice(&mut found, GuestAddress(0)).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
    assert_eq!(rig.counts.runs.load(Ordering::SeqCst), 1);
}

#[test]
fn draining_waits_for_transfers_and_forgets_those_that_have_not_begun() {
    let rig = Rig::new("drain", Format::Raw, Cache::Writeback, Means::Any);
    for round in 0..50 {
        let (done, ended) = channel();
        for request in 0..400u64 {
            let at = request * PAGE;
            rig.begin((request % 2) as usize, request % 3 == 0, at, vec![(at, PAGE as usize)], &done);
        }
        rig.workers.drain(|tag| tag == 0);
        let count = || {
            let Counts { transfers, runs } = &*rig.counts;
            transfers.load(Ordering::SeqCst) + runs.load(Ordering::SeqCst)
        };
        drop(done);
        if round % 2 == 0 {
            // Those of the other tag are all done.
            let odd = ended.iter().filter(|at| at / PAGE % 2 == 1).count();
            assert_eq!(odd, 200);
        } else {
            rig.workers.drain(|_| true);
            let before = count();
            while ended.recv_timeout(LIMIT).is_ok() {}
            assert_eq!(count(), before);
        }
    }
}

#[test]
fn clusters_stay_where_they_are_while_bytes_are_moved() {
    let rig = Rig::new("discard", Format::Qcow2, Cache::Writeback, Means::Any);
    let (done, ended) = channel();
    for round in 0..30u64 {
        for request in 0..64 {
            let at = (round * 7 + request) % 64 * (SIZE / 64);
            rig.begin(0, request % 4 != 0, at, vec![(at, PAGE as usize)], &done);
        }
        // As a worker does it, beside the transfers.
        rig.disk.discard(round % 8 * (SIZE / 8), SIZE / 8).unwrap();
    }
    drop(done);
    assert_eq!(ended.iter().count(), 30 * 64);
    rig.disk.flush().unwrap();
    let answer =
        std::process::Command::new("qemu-img").arg("check").arg("-U").arg(&rig.path).output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
}
