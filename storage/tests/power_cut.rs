//! What is left of a disk when the power goes: a medium that forgets, sector by sector and in no order, what was not flushed.
//! All that was flushed must be there, and an image must be in order by the judgement of `qemu-img check`.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use softmetal_storage::{Disk, Format, HostFile, Medium, OpenOptions, Qcow2, Raw, open};
use vm_memory::VolatileSlice;

const SECTOR: usize = 512;
/// Small clusters make many tables.
const SIZE: u64 = 8 << 20;

/// Numbers by xorshift.
#[derive(Clone, Debug)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What was done and is not flushed.
#[derive(Clone, Debug)]
enum Change {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct State {
    /// What whoever reads sees.
    now: Vec<u8>,
    kept: Vec<u8>,
    changes: Vec<Change>,
    /// Changes until the power goes.
    countdown: Option<u64>,
    /// What was kept, and what may have been, when the power went.
    cut: Option<(Vec<u8>, Vec<Change>)>,
}

impl State {
    fn step(&mut self) {
        match &mut self.countdown {
            Some(0) => {
                self.cut = Some((self.kept.clone(), self.changes.clone()));
                self.countdown = None;
            }
            Some(count) => *count -= 1,
            None => {}
        }
    }

    fn change(&mut self, change: Change) {
        self.step();
        apply(&mut self.now, &change, |_| true);
        self.changes.push(change);
    }
}

/// Does a change, of bytes those sectors that are `chosen`.
fn apply(content: &mut Vec<u8>, change: &Change, mut chosen: impl FnMut(usize) -> bool) {
    match change {
        Change::Length(length) if chosen(0) => content.resize(*length as usize, 0),
        Change::Length(_) => {}
        Change::Bytes(at, bytes) => {
            let mut at = *at as usize;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let count = (SECTOR - at % SECTOR).min(rest.len());
                if chosen(at) {
                    if content.len() < at + count {
                        content.resize(at + count, 0);
                    }
                    content[at..at + count].copy_from_slice(&rest[..count]);
                }
                at += count;
                rest = &rest[count..];
            }
        }
    }
}

/// A medium whose power can go.
#[derive(Debug, Default)]
struct Forgetful(Mutex<State>);

impl Forgetful {
    /// What is there after the power has gone, if it has: some sectors of what was not flushed.
    fn remains(&self, numbers: &mut Numbers) -> Option<Vec<u8>> {
        let (mut content, changes) = self.0.lock().cut.take()?;
        // How much of it: nothing, all, or anything between.
        let share = [0, 1, 30, 50, 70, 99, 100][numbers.below(7) as usize];
        for change in &changes {
            apply(&mut content, change, |_| numbers.below(100) < share);
        }
        Some(content)
    }
}

impl Medium for Forgetful {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.lock().change(Change::Length(length));
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let state = self.0.lock();
        let mut rest = state.now.get(at as usize..).unwrap_or_default();
        for buffer in into {
            let count = buffer.len().min(rest.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            buffer[count..].fill(0);
            rest = &rest[count..];
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.lock().change(Change::Bytes(at, from.iter().flat_map(|part| part.iter().copied()).collect()));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step();
        state.kept = state.now.clone();
        state.changes.clear();
        Ok(())
    }

    fn zero(&self, at: u64, length: u64, _may_unmap: bool) -> io::Result<()> {
        self.0.lock().change(Change::Bytes(at, vec![0; length as usize]));
        Ok(())
    }

    fn discard(&self, at: u64, length: u64) -> io::Result<()> {
        // As hosts do it.
        self.zero(at, length, true)
    }
}

/// What may stand in each sector: what was flushed, and what was written since.
struct Model {
    kept: Vec<u64>,
    since: Vec<Vec<u64>>,
}

impl Model {
    fn new() -> Self {
        let sectors = SIZE as usize / SECTOR;
        Self { kept: vec![0; sectors], since: vec![Vec::new(); sectors] }
    }

    fn write(&mut self, sector: usize, count: usize, value: u64) {
        self.since[sector..sector + count].iter_mut().for_each(|values| values.push(value));
    }

    fn flushed(&mut self) {
        for (kept, since) in self.kept.iter_mut().zip(&mut self.since) {
            *kept = since.last().copied().unwrap_or(*kept);
            since.clear();
        }
    }

    fn check(&self, disk: &dyn Disk) {
        let mut bytes = vec![0; SIZE as usize];
        disk.read(0, &[VolatileSlice::from(&mut bytes[..])]).unwrap();
        for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
            let (words, _) = bytes.as_chunks::<8>();
            let value = u64::from_le_bytes(words[0]);
            assert!(words.iter().all(|word| *word == words[0]), "sector {sector} is torn");
            let may_be = value == self.kept[sector] || self.since[sector].contains(&value);
            let (kept, since) = (self.kept[sector], &self.since[sector]);
            assert!(
                may_be,
                "sector {sector} has {value}, not {kept} which was flushed, and none of {since:?}"
            );
        }
    }
}

/// Works on a disk until the power goes, and returns what is left with what may be there.
fn work(
    medium: &Arc<Forgetful>,
    disk: &dyn Disk,
    mut model: Model,
    numbers: &mut Numbers,
) -> (Vec<u8>, Model) {
    let mut value = numbers.next() >> 8;
    medium.0.lock().countdown = Some(numbers.below(600));
    loop {
        let count = [1, 1, 2, 8, 8, 8, 64, 200][numbers.below(8) as usize];
        let sector = numbers.below(SIZE / SECTOR as u64 - count);
        let (at, length) = (sector * SECTOR as u64, count * SECTOR as u64);
        let mut flush = false;
        match numbers.below(10) {
            0..7 => {
                value += 1;
                let mut bytes = value.to_le_bytes().repeat(length as usize / 8);
                model.write(sector as usize, count as usize, value);
                disk.write(at, &[VolatileSlice::from(&mut bytes[..])]).unwrap();
            }
            7 => {
                model.write(sector as usize, count as usize, 0);
                disk.write_zeroes(at, length, numbers.below(2) == 0).unwrap();
            }
            _ => {
                disk.flush().unwrap();
                flush = true;
            }
        }
        if let Some(content) = medium.remains(numbers) {
            return (content, model);
        }
        if flush {
            model.flushed();
        }
    }
}

fn has_qemu_img() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        eprintln!("qemu-img is not on this host: images are not checked (Debian: qemu-utils)");
    }
    there
}

fn rounds() -> u64 {
    std::env::var("POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

#[test]
fn a_raw_disk_keeps_what_was_flushed() {
    for round in 1..=rounds() {
        let mut numbers = Numbers(round * 0x9e37_79b9_7f4a_7c15);
        let medium = Arc::<Forgetful>::default();
        medium.set_length(SIZE).unwrap();
        medium.flush().unwrap();
        let disk = Raw::new(medium.clone(), false).unwrap();
        let (content, model) = work(&medium, &disk, Model::new(), &mut numbers);
        let left = Arc::<Forgetful>::default();
        left.0.lock().now = content;
        model.check(&Raw::new(left, true).unwrap());
    }
}

#[test]
fn a_qcow2_image_keeps_what_was_flushed_and_stays_in_order() {
    let judge = has_qemu_img();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.qcow2");
    let mut leaks = 0;
    for round in 1..=rounds() {
        let mut numbers = Numbers(round * 0x9e37_79b9_7f4a_7c15);
        let medium = Arc::<Forgetful>::default();
        Qcow2::create_with(medium.clone(), SIZE, 1 << (9 + numbers.below(4) * 2)).unwrap();
        medium.flush().unwrap();
        let disk = Qcow2::open(medium.clone(), false).unwrap();
        let (content, model) = work(&medium, &disk, Model::new(), &mut numbers);
        fs::write(&path, &content).unwrap();
        if judge {
            let answer = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&path).output().unwrap();
            // 3: some clusters are counted that nobody uses.
            let text = String::from_utf8_lossy(&answer.stdout).into_owned()
                + &String::from_utf8_lossy(&answer.stderr);
            assert!(matches!(answer.status.code(), Some(0 | 3)), "round {round}: {text}");
            leaks += u64::from(answer.status.code() == Some(3));
        }
        let left: Arc<dyn Medium> = Arc::new(HostFile::open(&path, false, Default::default()).unwrap());
        model.check(&Qcow2::open(left, true).unwrap());
    }
    eprintln!("{leaks} of {} images have clusters that nobody uses", rounds());
    let options = OpenOptions { path, format: Some(Format::Qcow2), ..OpenOptions::default() };
    open(&options).unwrap().write_zeroes(0, SIZE, true).unwrap();
}
