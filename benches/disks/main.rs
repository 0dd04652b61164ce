//! Disks under softmetal and under QEMU's TCG: the same Debian, the same images, the same cache mode, one after the other. fio
//! measures inside the guest.
//!
//! `cargo bench --bench disks -- [SECONDS]`, each row for so long. Needs the Debian of `tests/disks.rs` (`SOFTMETAL_KIT=1` makes it)
//! and qemu-system-x86_64.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::{Emulator, Guest, Kit, Options};
use softmetal_storage::image::{CLUSTER_SIZE, create};
use softmetal_storage::{Format, OpenOptions, open};
use vm_memory::VolatileSlice;

const BOOT: Duration = Duration::from_secs(360);
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

fn main() -> Result<()> {
    if let Some(why) = Kit::hindrance() {
        bail!("nothing to measure: {why}");
    }
    let seconds = std::env::args().filter_map(|word| word.parse::<u32>().ok()).next().unwrap_or(10);
    let kit = Kit::get()?;
    let folder = tempfile::tempdir()?;
    for format in [Format::Raw, Format::Qcow2] {
        let image = folder.path().join(format!("disk.{}", format.name()));
        create(&image, format, SIZE, CLUSTER_SIZE, None)?;
        let disk =
            open(&OpenOptions { path: image.clone(), format: Some(format), ..OpenOptions::default() })?;
        let mut bytes = vec![0x5a; 1 << 20];
        for at in (0..SIZE).step_by(bytes.len()) {
            disk.write(at, &[VolatileSlice::from(&mut bytes[..])])?;
        }
        disk.flush()?;
        drop(disk);
        let options = Options {
            kernel: kit.kernel.clone(),
            initrd: Some(kit.initrd.clone()),
            memory: "1G",
            append: "root=/dev/vda systemd.show_status=0 no_timer_check",
            disks: vec![(kit.disk.clone(), "qcow2", false), (image, format.name(), true)],
            arguments: ["--accel", "jit"].map(str::to_owned).to_vec(),
            ..Options::default()
        };
        let qemu = measure(Emulator::Qemu, &options, seconds)?;
        let ours = measure(Emulator::Softmetal, &options, seconds)?;
        println!("\n{}, cache=writeback            QEMU TCG   softmetal   ratio   goal", format.name());
        for (((name, _, goal, requests), qemu), ours) in ROWS.iter().zip(qemu).zip(ours) {
            let unit = if *requests { "IOPS" } else { "KiB/s" };
            println!("{name:<28}{qemu:>12.0}{ours:>12.0} {unit:<6}{:>6.2}{goal:>7.1}", ours / qemu.max(1.0));
        }
    }
    Ok(())
}

/// What each row gives, in requests or KiB a second.
fn measure(emulator: Emulator, options: &Options, seconds: u32) -> Result<Vec<f64>> {
    let mut guest = Guest::start_on(emulator, options)?;
    guest.expect("login: ", BOOT)?;
    guest.send("root\n")?;
    guest.expect("# ", BOOT)?;
    let mut results = Vec::new();
    for (name, words, _, requests) in ROWS {
        let command = format!(
            "fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --size=512M --time_based --runtime={seconds} {words} \
             --minimal --terse-version=3"
        );
        let text = guest.run(&command, BOOT).with_context(|| format!("{emulator:?}: {name}"))?;
        let line = text.lines().find(|line| line.starts_with("3;")).context("fio says nothing")?;
        let fields: Vec<f64> = line.split(';').map(|field| field.parse().unwrap_or(0.0)).collect();
        // Fields of terse output, version 3: bandwidth and requests a second of reads, then of writes.
        let (read, write) = if requests { (7, 48) } else { (6, 47) };
        results.push(fields.get(read).copied().unwrap_or(0.0) + fields.get(write).copied().unwrap_or(0.0));
    }
    guest.send("poweroff -f\n")?;
    guest.finish(BOOT)?;
    Ok(results)
}
