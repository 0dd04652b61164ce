//! Disks of whole machines: Debian's kernels write to them, are killed, and find what they have flushed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{Emulator, Guest, Kit, Named, Options, initramfs, kernel, run, trials};
use softmetal::cli::debian::{Flavour, Guests};
use softmetal_storage::image::{CLUSTER_SIZE, check_file, convert, create};
use softmetal_storage::{Format, OpenOptions, open};
use tempfile::TempDir;

/// A kernel that sees no timer tick for a while, as on a very busy host, shall not give up.
const PATIENT: &str = "no_timer_check";
/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let small: &[Named] = &[
        ("data_comes_back", data_comes_back),
        ("drivers_come_and_go", drivers_come_and_go),
        ("runs_with_disks_are_repeated_and_compared", runs_with_disks_are_repeated_and_compared),
        ("killed_at_any_moment_raw", || killed_at_any_moment(Format::Raw)),
        ("killed_at_any_moment_qcow2", || killed_at_any_moment(Format::Qcow2)),
    ];
    let whole: &[Named] = &[("debian_lives_on_a_disk", debian_lives_on_a_disk)];
    let hindrance = Guests::hindrance().map(|why| format!("Debian's kernels cannot be fetched: {why}"));
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own command".to_owned());
    let hindrance = hindrance.or(foreign);
    let mut all = trials(small, hindrance.as_deref());
    all.extend(trials(whole, hindrance.or_else(Kit::hindrance).as_deref()));
    run(all)
}

/// A kernel, its RAM disk, and a folder for disks, which goes with the value.
struct Setup {
    options: Options,
    folder: TempDir,
}

impl Setup {
    fn new(script: Option<&str>) -> Result<Self> {
        let kernel = kernel(Flavour::Cloud)?;
        let folder = tempfile::tempdir()?;
        let initrd = initramfs(&kernel, folder.path(), script, false)?;
        let arguments = ["--accel", "jit"].map(str::to_owned).to_vec();
        let options = Options {
            kernel: kernel.image,
            initrd: Some(initrd),
            memory: "256M",
            append: PATIENT,
            arguments,
            ..Options::default()
        };
        Ok(Self { options, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn disk(&mut self, text: &str) {
        self.options.arguments.extend(["--disk".into(), format!("{}/{text}", self.folder.path().display())]);
    }

    fn image(&self, name: &str, format: Format, size: u64) -> Result<PathBuf> {
        let path = self.path(name);
        create(&path, format, size, CLUSTER_SIZE, None)?;
        Ok(path)
    }
}

/// What an image holds, as a raw file.
fn raw(image: &Path, format: Format) -> Result<Vec<u8>> {
    let copy = image.with_extension("copy");
    let options =
        OpenOptions { path: image.into(), format: Some(format), read_only: true, ..OpenOptions::default() };
    convert(&*open(&options)?, &copy, Format::Raw, 0, &mut |_| ())?;
    let bytes = fs::read(&copy)?;
    fs::remove_file(&copy)?;
    Ok(bytes)
}

/// Nothing is wrong with an image; clusters that nobody uses are no fault where a machine was killed.
/// The answer is how many of these there are.
fn check(image: &Path) -> Result<u64> {
    let Some(found) = check_file(image, Some(Format::Qcow2), &mut |_, _| ())? else { return Ok(0) };
    ensure!(found.error_count == 0, "{}: {:?}", image.display(), found.errors);
    if let Ok(answer) = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(image).output() {
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        let expected = if found.leaks == 0 { 0 } else { 3 };
        ensure!(answer.status.code() == Some(expected), "qemu-img check: {text}");
    }
    Ok(found.leaks)
}

fn data_comes_back() -> Result<()> {
    let mut setup = Setup::new(None)?;
    let disks = [
        ("a.img", Format::Raw, ""),
        ("b.qcow2", Format::Qcow2, ""),
        ("c.img", Format::Raw, ",cache=writethrough,iops=2000"),
        ("d.qcow2", Format::Qcow2, ",cache=none,bps=50M"),
    ];
    for (name, format, more) in disks {
        setup.image(name, format, 16 * MIB)?;
        setup.disk(&format!("{name},format={},serial=number-{}{more}", format.name(), &name[..1]));
    }
    let pattern: Vec<u8> = (0..16 * MIB).map(|at| (at >> 9) as u8 ^ at as u8).collect();
    fs::write(setup.path("e.img"), &pattern)?;
    setup.disk("e.img,format=raw,readonly=on");
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    for (number, (name, ..)) in disks.iter().enumerate() {
        let disk = char::from(b'a' + number as u8);
        let serial = guest.run(&format!("cat /sys/block/vd{disk}/serial"), SOON)?;
        ensure!(serial.trim() == format!("number-{}", &name[..1]), "{serial}");
        let copy = format!(
            "dd if=/dev/vde of=/dev/vd{disk} bs=64k && dd if=/dev/zero of=/dev/vd{disk} bs=512 seek=100 count=33 conv=notrunc && \
             sync && blockdev --flushbufs /dev/vd{disk}"
        );
        guest.run(&copy, SOON)?;
        let sums = guest.run(&format!("cat /dev/vd{disk} | md5sum; cat /dev/vd{disk} | wc -c"), SOON)?;
        ensure!(sums.contains("16777216"), "{sums}");
    }
    let error = guest.run("dd if=/dev/zero of=/dev/vde bs=512 count=1 2>&1; cat /sys/block/vde/ro", SOON)?;
    ensure!(error.trim().ends_with('1'), "the disk should be read-only: {error}");
    guest.power_off()?;
    let mut expected = pattern.clone();
    expected[100 * 512..133 * 512].fill(0);
    for (name, format, _) in disks {
        ensure!(raw(&setup.path(name), format)? == expected, "{name} does not hold what was written");
        if format == Format::Qcow2 {
            ensure!(check(&setup.path(name))? == 0, "clusters that nobody uses");
        }
    }
    ensure!(fs::read(setup.path("e.img"))? == pattern, "a read-only disk has changed");
    Ok(())
}

/// Drivers take all that is offered, let go of the device and take it again.
fn drivers_come_and_go() -> Result<()> {
    let mut setup = Setup::new(None)?;
    setup.image("a.qcow2", Format::Qcow2, 64 * MIB)?;
    setup.disk("a.qcow2");
    setup.options.cpus = 2;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let features = guest.run("cat /sys/block/vda/device/features", SOON)?;
    let taken: Vec<usize> = features.trim().match_indices('1').map(|(bit, _)| bit).collect();
    // Segments, block size, flush, several queues, discard, zeros; indirect descriptors, event index, version 1.
    for bit in [2, 6, 9, 12, 13, 14, 28, 29, 32] {
        ensure!(taken.contains(&bit), "the driver does not take feature {bit}: {features}");
    }
    let device = guest.run("basename $(readlink -f /sys/block/vda/device)", SOON)?.trim().to_owned();
    for round in 0..5 {
        guest.run(&format!("dd if=/dev/urandom of=/tmp/x bs=4k count=100; dd if=/tmp/x of=/dev/vda bs=4k seek={round}00; sync"), SOON)?;
        // With requests on their way.
        guest.send("dd if=/dev/zero of=/dev/vda bs=64k seek=100 count=300 & sleep 0.1\n")?;
        guest.run(
            &format!(
                "echo {device} > /sys/bus/virtio/drivers/virtio_blk/unbind; wait; echo {device} > /sys/bus/virtio/drivers/virtio_blk/bind; \
                 dd if=/dev/vda of=/tmp/y bs=4k skip={round}00 count=100; cmp /tmp/x /tmp/y"
            ),
            SOON,
        )?;
    }
    let discards = guest.run("busybox --list | grep -cx blkdiscard; true", SOON)?;
    if discards.trim() == "1" {
        guest.run("busybox blkdiscard -o 1048576 -l 33554432 /dev/vda", SOON)?;
        let sum =
            guest.run("dd if=/dev/vda bs=64k skip=16 count=512 2>/dev/null | tr -d '\\0' | wc -c", SOON)?;
        ensure!(sum.trim() == "0", "what was discarded reads as {sum} other bytes");
    }
    guest.power_off()?;
    ensure!(check(&setup.path("a.qcow2"))? == 0, "clusters that nobody uses");
    Ok(())
}

/// A log of a run with a disk, and two engines that agree on one.
fn runs_with_disks_are_repeated_and_compared() -> Result<()> {
    let script =
        "dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=16 2>/dev/null; sync; md5sum /dev/vda; poweroff -f";
    let mut setup = Setup::new(Some(script))?;
    setup.options.arguments.clear();
    let pattern: Vec<u8> = (0..4 * MIB).map(|at| (at >> 7) as u8).collect();
    fs::write(setup.path("a.img"), &pattern)?;
    let log = setup.path("log").display().to_string();
    let plain = setup.options.clone();
    setup.disk("a.img,format=raw");
    let output = |options: &Options| -> Result<String> {
        let mut guest = Guest::start(options)?;
        let (status, messages) = guest.finish(2 * BOOT)?;
        ensure!(status.success(), "{messages}");
        let text = guest.text();
        let sum = text.lines().find(|line| line.ends_with("/dev/vda")).context("no sum of the disk")?;
        Ok(sum.to_owned())
    };
    let mut recorded = setup.options.clone();
    recorded.arguments.extend(["--record".into(), log.clone()]);
    let first = output(&recorded)?;
    let mut expected = pattern.clone();
    expected.copy_within(0..MIB as usize, MIB as usize);
    ensure!(fs::read(setup.path("a.img"))? == expected, "the disk does not hold what was written");
    let mut replayed = plain;
    replayed.arguments.extend(["--replay".into(), log]);
    ensure!(output(&replayed)? == first, "the log gives something else");
    let mut compared = setup.options.clone();
    compared.arguments.extend(["--debug".into(), "lockstep".into()]);
    ensure!(output(&compared)? == first, "two engines give something else");
    Ok(())
}

/// A guest with a journal that is killed finds all that it was told is kept.
fn killed_at_any_moment(format: Format) -> Result<()> {
    // After `sync` of a line has ended, the guest says so.
    let script = "mkdir -p /m; mount -t ext4 /dev/vda /m || exit; n=0; echo begun; while true; do n=$((n+1)); echo line $n >> /m/log; \
                  dd if=/dev/urandom of=/m/f$((n%50)) bs=1k count=$((n%70)) 2>/dev/null; sync; echo kept $n; done";
    let mut setup = Setup::new(Some(script))?;
    let empty = setup.path("empty.img");
    let answer = Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&empty).arg("64M").output();
    if answer.is_err() {
        eprintln!("mkfs.ext4 is not on this host: nothing is killed");
        return Ok(());
    }
    setup.disk(&format!("disk.{0},format={0}", format.name()));
    let disk = setup.path(&format!("disk.{}", format.name()));
    let kills: u32 = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let (mut most, mut leaking, mut leaks) = (0, 0, 0);
    let begin = Instant::now();
    for round in 0..kills {
        let _ = fs::remove_file(&disk);
        let options =
            OpenOptions { path: empty.clone(), format: Some(Format::Raw), ..OpenOptions::default() };
        convert(&*open(&options)?, &disk, format, CLUSTER_SIZE, &mut |_| ())?;
        let mut guest = Guest::start(&setup.options)?;
        guest.expect("begun", BOOT)?;
        let moment = begin.elapsed().subsec_nanos() % 3000;
        std::thread::sleep(Duration::from_millis(moment.into()));
        guest.signal(rustix::process::Signal::KILL)?;
        let _ = guest.finish(SOON);
        let text = guest.text();
        // A last line may be cut in the middle.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let kept = whole.lines().rev().find_map(|line| line.trim().strip_prefix("kept ")?.parse().ok());
        let kept: usize = kept.unwrap_or(0);
        most = most.max(kept);
        if format == Format::Qcow2 {
            let here = check(&disk).with_context(|| format!("round {round}, killed after {moment} ms"))?;
            leaks += here;
            leaking += u32::from(here > 0);
            // The next machine finds everything in order.
            drop(open(&OpenOptions { path: disk.clone(), format: Some(format), ..OpenOptions::default() })?);
            ensure!(check(&disk)? == 0, "round {round}: clusters that nobody uses");
        }
        let copy = setup.path("copy.img");
        fs::write(&copy, raw(&disk, format)?)?;
        let repair = Command::new("/usr/sbin/e2fsck").args(["-fy"]).arg(&copy).output()?;
        ensure!(matches!(repair.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&repair.stdout));
        let log = Command::new("/usr/sbin/debugfs").args(["-R", "cat /log"]).arg(&copy).output()?;
        let lines =
            String::from_utf8_lossy(&log.stdout).lines().filter(|line| line.starts_with("line ")).count();
        if lines < kept {
            bail!(
                "round {round}: {lines} lines are there of {kept} that were flushed, killed after {moment} ms"
            );
        }
    }
    ensure!(most > 0, "no guest came to write anything in {kills} rounds");
    eprintln!(
        "{kills} kills, up to {most} flushes before one; {leaking} left clusters that nobody uses, {leaks} in all"
    );
    Ok(())
}

/// Debian boots from its disk through its own initial RAM disk, without a failed service, and again.
fn debian_lives_on_a_disk() -> Result<()> {
    let kit = Kit::get()?;
    let folder = tempfile::tempdir()?;
    let (disk, scratch) = (folder.path().join("debian.qcow2"), folder.path().join("scratch.qcow2"));
    create(&disk, Format::Qcow2, 4 << 30, CLUSTER_SIZE, Some((&kit.disk, Format::Qcow2)))?;
    create(&scratch, Format::Qcow2, 256 * MIB, CLUSTER_SIZE, None)?;
    let arguments = [
        "--accel".into(),
        "jit".into(),
        "--disk".into(),
        format!("{},backing={}", disk.display(), kit.disk.display()),
        "--disk".into(),
        scratch.display().to_string(),
    ];
    let options = Options {
        kernel: kit.kernel,
        initrd: Some(kit.initrd),
        memory: "1G",
        append: "root=/dev/vda systemd.show_status=0 no_timer_check",
        arguments: arguments.to_vec(),
        ..Options::default()
    };
    let boots: u32 = std::env::var("REBOOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seconds: u32 = std::env::var("FIO_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut guest = Guest::start(&options)?;
    for boot in 0..=boots {
        let begin = Instant::now();
        guest.expect("login: ", 2 * BOOT).with_context(|| format!("boot {boot}"))?;
        eprintln!("boot {boot}: login after {:.1} s", begin.elapsed().as_secs_f32());
        guest.send("root\n")?;
        guest.expect("# ", BOOT)?;
        let failed =
            guest.run("systemctl is-system-running --wait; systemctl --failed --no-legend --plain", BOOT);
        let failed = failed.with_context(|| format!("boot {boot}"))?;
        ensure!(failed.trim() == "running", "boot {boot}: {failed}");
        guest.run("echo here >> /root/boots; sync", SOON)?;
        let count = guest.run("wc -l < /root/boots", SOON)?;
        ensure!(count.trim() == (boot + 1).to_string(), "boot {boot}: {count}");
        if boot < boots {
            guest.send("reboot\n")?;
        }
    }
    let limit = BOOT + Duration::from_secs(10 * u64::from(seconds));
    guest.run(
        &format!(
            "fio --name=v --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=512-64k \
             --blockalign=512 --verify=crc32c --verify_backlog=200 --size=200M --time_based --runtime={seconds} --output=/root/fio"
        ),
        limit,
    )?;
    guest.send("poweroff\n")?;
    let (status, messages) = guest.finish(BOOT)?;
    ensure!(status.success(), "{messages}");
    ensure!(check(&disk)? == 0 && check(&scratch)? == 0, "clusters that nobody uses");
    Ok(())
}
