//! Disks under softmetal and under QEMU's TCG: the same Debian, images with the same content, the same cache mode. fio measures
//! inside the guests, row by row in turn on the same two cores; the guest whose turn it is not is idle. Where bytes count, a last
//! column has what the host itself moves to or from such a file, with no guest at all: no emulator can be faster.
//!
//! `cargo bench --bench disks -- [SECONDS] [ROUNDS] [raw|qcow2|none|writeback|ROW..]`: each row for so long (10) and so often (1,
//! of several the median counts), some formats, cache modes or rows only, by a part of the name. Needs the Debian of
//! `tests/disks.rs` (`SOFTMETAL_KIT=1` makes it) and qemu-system-x86_64. The images lie in TMPDIR: with `TMPDIR=/dev/shm` it is the
//! emulators that are measured, wherever the host's disk is slow or its cache small.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use common::{Emulator, Guest, Kit, Options};
use softmetal_storage::image::{CLUSTER_SIZE, create};
use softmetal_storage::{Format, OpenOptions, open};
use vm_memory::VolatileSlice;

const BOOT: Duration = Duration::from_secs(900);
/// Bytes of the disk that is measured.
const SIZE: u64 = 512 << 20;

/// What fio does: name, its words, how many times as fast as QEMU softmetal is to be, and whether requests or bytes count.
const ROWS: [(&str, &str, f64, bool); 6] = [
    ("4k random read, depth 1", "--rw=randread --bs=4k --iodepth=1", 3.0, true),
    ("4k random read, depth 16", "--rw=randread --bs=4k --iodepth=16", 3.0, true),
    ("4k random write, depth 1", "--rw=randwrite --bs=4k --iodepth=1", 3.0, true),
    ("4k random write, depth 16", "--rw=randwrite --bs=4k --iodepth=16", 3.0, true),
    ("1M read, depth 8", "--rw=read --bs=1M --iodepth=8", 2.0, false),
    ("1M write, depth 8", "--rw=write --bs=1M --iodepth=8", 2.0, false),
];
const SIDES: [(Emulator, &str); 2] = [(Emulator::Qemu, "QEMU TCG"), (Emulator::Softmetal, "softmetal")];

fn main() -> Result<()> {
    if let Some(why) = Kit::hindrance() {
        bail!("nothing to measure: {why}");
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut numbers = words.iter().filter_map(|word| word.parse::<u32>().ok());
    let (seconds, rounds) = (numbers.next().unwrap_or(10), numbers.next().unwrap_or(1).max(1));
    let names: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| word.parse::<u32>().is_err()).collect();
    let chosen = |all: &[&str], name: &str| {
        !names.iter().any(|word| all.iter().any(|one| one.contains(word)))
            || names.iter().any(|word| name.contains(word))
    };
    // Two cores, whatever the host has: one for the guest's processor, one for its devices.
    let pinned = Command::new("taskset").args(["-pc", "0,1", &std::process::id().to_string()]).output();
    if !pinned.is_ok_and(|answer| answer.status.success()) {
        eprintln!("taskset cannot pin to cores 0 and 1; both emulators run on all");
    }
    let kit = Kit::get()?;
    for format in [Format::Raw, Format::Qcow2] {
        for cache in ["writeback", "none"] {
            let rows: Vec<_> = ROWS.iter().filter(|row| chosen(&ROWS.map(|row| row.0), row.0)).collect();
            if chosen(&["raw", "qcow2"], format.name()) && chosen(&["writeback", "none"], cache) {
                compare(&kit, format, cache, &rows, seconds, rounds)?;
            }
        }
    }
    Ok(())
}

/// What a row gives: requests or KiB a second, and the host's processor time of a request or a MiB, in microseconds.
type Measured = (f64, f64);

fn compare(
    kit: &Kit,
    format: Format,
    cache: &'static str,
    rows: &[&(&str, &str, f64, bool)],
    seconds: u32,
    rounds: u32,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut guests = Vec::new();
    for (emulator, name) in SIDES {
        let image = folder.path().join(format!("{name}.{}", format.name()));
        fill(&image, format)?;
        guests.push(boot(emulator, kit, image, format, cache)?);
    }
    let file = folder.path().join("host");
    fill(&file, Format::Raw)?;
    println!("\n{}, cache={cache}", format.name());
    println!(
        "{:<28}{:>12}{:>12}{:>13}{:>6}   CPU µs a request or MiB   host alone",
        "", SIDES[0].1, SIDES[1].1, "ratio", "goal"
    );
    for (name, words, goal, requests) in rows {
        let mut results: [Vec<Measured>; 2] = Default::default();
        let mut alone: f64 = 0.0;
        for _ in 0..rounds {
            if !requests {
                for threads in [1, 2] {
                    let value = host_alone(&file, words.contains("write"), cache == "none", threads)?;
                    alone = alone.max(value);
                }
            }
            for (guest, results) in guests.iter_mut().zip(&mut results) {
                results.push(measure(guest, words, *requests, seconds).with_context(|| (*name).to_owned())?);
            }
        }
        let [(qemu, qemu_cpu), (ours, our_cpu)] = results.map(median);
        let unit = if *requests { "IOPS" } else { "KiB/s" };
        let ratio = ours / qemu.max(1.0);
        let alone = if *requests { String::new() } else { format!("{alone:>18.0}") };
        println!(
            "{name:<28}{qemu:>12.0}{ours:>12.0} {unit:<6}{ratio:>6.2}{goal:>6.1}{qemu_cpu:>12.0}{our_cpu:>8.0}{alone}"
        );
    }
    for mut guest in guests {
        guest.send("poweroff -f\n")?;
        guest.finish(BOOT)?;
    }
    Ok(())
}

/// KiB a second that so many threads read from a file, or write to it, 1 MiB at a time, for a second.
fn host_alone(file: &Path, write: bool, direct: bool, threads: u64) -> Result<f64> {
    const PIECE: usize = 1 << 20;
    let mut options = File::options();
    options.read(true).write(true);
    if direct {
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
    }
    let file = options.open(file)?;
    let begin = Instant::now();
    let one = |first: u64| -> Result<u64> {
        // O_DIRECT wants memory that begins with a page.
        let mut memory = vec![0x5a; PIECE + 4096];
        let begins = memory.as_ptr().align_offset(4096);
        let buffer = &mut memory[begins..begins + PIECE];
        let (mut piece, mut moved) = (first, 0);
        while begin.elapsed() < Duration::from_secs(1) {
            let at = piece * PIECE as u64 % SIZE;
            if write {
                file.write_all_at(buffer, at)?
            } else {
                file.read_exact_at(buffer, at)?
            }
            (piece, moved) = (piece + threads, moved + PIECE as u64 / 1024);
        }
        Ok(moved)
    };
    let moved: Result<u64> = thread::scope(|scope| {
        let each: Vec<_> = (0..threads).map(|first| scope.spawn(move || one(first))).collect();
        each.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread has panicked"))?).sum()
    });
    Ok(moved? as f64 / begin.elapsed().as_secs_f64())
}

/// An image without holes.
fn fill(image: &Path, format: Format) -> Result<()> {
    create(image, format, SIZE, CLUSTER_SIZE, None)?;
    let disk = open(&OpenOptions { path: image.into(), format: Some(format), ..OpenOptions::default() })?;
    let mut bytes = vec![0x5a; 1 << 20];
    for at in (0..SIZE).step_by(bytes.len()) {
        disk.write(at, &[VolatileSlice::from(&mut bytes[..])])?;
    }
    Ok(disk.flush()?)
}

fn boot(emulator: Emulator, kit: &Kit, image: PathBuf, format: Format, cache: &'static str) -> Result<Guest> {
    let options = Options {
        kernel: kit.kernel.clone(),
        initrd: Some(kit.initrd.clone()),
        memory: "1G",
        append: "root=/dev/vda systemd.show_status=0 no_timer_check",
        disks: vec![(kit.disk.clone(), "qcow2", false), (image, format.name(), true)],
        cache,
        arguments: ["--accel", "jit"].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut guest = Guest::start_on(emulator, &options)?;
    guest.expect("login: ", BOOT)?;
    guest.send("root\n")?;
    guest.expect("# ", BOOT)?;
    guest.run("systemctl is-system-running --wait", BOOT)?;
    Ok(guest)
}

fn measure(guest: &mut Guest, words: &str, requests: bool, seconds: u32) -> Result<Measured> {
    let command = format!(
        "fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --size=512M --time_based --runtime={seconds} {words} \
         --minimal --terse-version=3"
    );
    let limit = Duration::from_secs(120 + 3 * u64::from(seconds));
    let mut before = guest.cpu_seconds()?;
    let text = match guest.run(&command, limit) {
        Ok(text) => text,
        Err(error) => {
            // A serial port that has lost a character: QEMU's does under load.
            eprintln!("{words}: once more, as nothing came: {error}");
            guest.send("\x03\n")?;
            guest.expect("# ", limit)?;
            before = guest.cpu_seconds()?;
            guest.run(&command, limit)?
        }
    };
    let cpu = guest.cpu_seconds()? - before;
    let line = text.lines().find(|line| line.starts_with("3;")).context("fio says nothing")?;
    let fields: Vec<f64> = line.split(';').map(|field| field.parse().unwrap_or(0.0)).collect();
    // Fields of terse output, version 3: bandwidth and requests a second of reads, then of writes.
    let (read, write) = if requests { (7, 48) } else { (6, 47) };
    let value = fields.get(read).copied().unwrap_or(0.0) + fields.get(write).copied().unwrap_or(0.0);
    let pieces = value * f64::from(seconds) / if requests { 1.0 } else { 1024.0 };
    Ok((value, cpu * 1e6 / pieces.max(1.0)))
}

fn median(mut results: Vec<Measured>) -> Measured {
    results.sort_by(|one, other| one.0.total_cmp(&other.0));
    results.get(results.len() / 2).copied().unwrap_or_default()
}
