//! Virtio devices in Debian's kernel: its drivers take all that is offered, come and go, and what the devices are for works.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{Emulator, Guest, Named, Options, Terminal, check_warnings, initramfs, kernel, run, trials};
use softmetal::cli::debian::{Flavour, Guests};
use tempfile::TempDir;

/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let tests: &[Named] = &[
        ("linux_takes_all_features_and_drivers_come_and_go", || {
            drivers_come_and_go(&[], "no_timer_check", 0xf)
        }),
        ("so_do_drivers_from_before_virtio_1", || {
            drivers_come_and_go(&["--transitional"], "no_timer_check virtio_pci.force_legacy=1", 0x7)
        }),
        ("a_terminal_with_the_size_of_its_window", a_terminal),
        ("a_channel_for_programs", a_channel),
        ("a_terminal_carries_much_in_both_directions", much_in_both_directions),
        ("memory_that_the_guest_frees_is_the_hosts_again", freed_memory_goes_back),
        ("a_balloon_takes_what_it_is_asked_for", a_balloon),
    ];
    let hindrance = Guests::hindrance().map(|why| format!("Debian's kernels cannot be fetched: {why}"));
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own devices".to_owned());
    run(trials(tests, hindrance.or(foreign).as_deref()))
}

/// A cloud kernel with a RAM disk; the folder goes with the value.
struct Setup {
    options: Options,
    folder: TempDir,
}

fn setup(arguments: &[&str]) -> Result<Setup> {
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), None, false)?;
    let place = folder.path().display().to_string();
    // Hosts whose build has no translator have the time.
    let engine = if softmetal_cpu::HAS_TRANSLATOR { "jit" } else { "interp" };
    let arguments = ["--accel", engine].into_iter().chain(arguments.iter().copied());
    let arguments = arguments.map(|argument| argument.replace("FOLDER", &place)).collect();
    let options = Options {
        kernel: kernel.image,
        initrd: Some(initrd),
        memory: "256M",
        arguments,
        ..Options::default()
    };
    Ok(Setup { options, folder })
}

/// Every virtio device that the machine can have: where a new one is added, this is where its test begins.
const ALL_DEVICES: &[&str] = &[
    "--console",
    "file=FOLDER/terminal",
    "--channel",
    "name=test,path=FOLDER/socket",
    "--balloon",
    "--disk",
    "FOLDER/disk",
];

/// The features that a device offers and those that the driver took, as debug messages tell them.
fn negotiations(messages: &str) -> Vec<(String, u64, u64)> {
    let parse = |line: &str| {
        let (name, rest) = line.split_once(": the driver takes the features 0x")?;
        let (taken, offered) = rest.trim().split_once(" of 0x")?;
        let name = name.rsplit(' ').next()?.to_owned();
        Some((name, u64::from_str_radix(taken, 16).ok()?, u64::from_str_radix(offered, 16).ok()?))
    };
    messages.lines().filter_map(parse).collect()
}

/// With further arguments, what the kernel is told, and the status that a driver then gives a device that it uses.
fn drivers_come_and_go(more: &[&str], append: &'static str, working: u32) -> Result<()> {
    let mut setup = setup(&[ALL_DEVICES, more].concat())?;
    setup.options.append = append;
    setup.options.arguments.extend(["-vv".into()]);
    let pattern: Vec<u8> = (0..4 << 20).map(|at: u32| (at >> 9) as u8).collect();
    fs::write(setup.folder.path().join("disk"), &pattern)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let list = guest.run("ls /sys/bus/virtio/devices", SOON)?;
    let devices: Vec<&str> = list.split_whitespace().collect();
    const ROUNDS: usize = 3;
    for round in 0..=ROUNDS {
        for device in &devices {
            let path = format!("/sys/bus/virtio/devices/{device}");
            let status = guest.run(&format!("cat {path}/status"), SOON)?;
            ensure!(
                status.trim() == format!("{working:#010x}"),
                "{device} in round {round}: status {status}"
            );
            if round < ROUNDS {
                let driver = guest.run(&format!("readlink -f {path}/driver"), SOON)?;
                let driver = driver.trim();
                guest.run(&format!("echo {device} >{driver}/unbind"), SOON)?;
                let status = guest.run(&format!("cat {path}/status"), SOON)?;
                ensure!(status.trim() == "0x00000001", "{device} without its driver: status {status}");
                guest.run(&format!("echo {device} >{driver}/bind"), SOON)?;
            }
        }
    }
    // With all drivers bound anew, the devices work.
    let random = guest.run("dd if=/dev/hwrng bs=64 count=1 iflag=fullblock 2>/dev/null | wc -c", SOON)?;
    ensure!(random.trim() == "64", "/dev/hwrng gives {random} bytes");
    guest.run("echo from the terminal >/dev/hvc0", SOON)?;
    guest.run("dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=16 conv=fsync", SOON)?;
    check_warnings(&mut guest)?;
    guest.send("poweroff -f\n")?;
    let (_, messages) = guest.finish(SOON)?;
    let terminal = fs::read_to_string(setup.folder.path().join("terminal"))?;
    ensure!(terminal.contains("from the terminal"), "the terminal shows {terminal:?}");
    let (disk, mib) = (fs::read(setup.folder.path().join("disk"))?, 1 << 20);
    ensure!(
        disk[mib..2 * mib] == pattern[..mib] && disk[2 * mib..] == pattern[2 * mib..],
        "the disk's content"
    );
    let negotiations = negotiations(&messages);
    for (name, taken, offered) in &negotiations {
        // Linux's balloon driver does without indirect descriptors, whoever offers them.
        let declined = if name == "virtio-balloon" { 1 << 28 } else { 0 };
        ensure!(taken | declined == *offered, "{name}: the driver takes {taken:#x} of {offered:#x}");
    }
    let times = devices.len() * (ROUNDS + 1);
    ensure!(negotiations.len() == times, "{times} negotiations should be in:\n{messages}");
    Ok(())
}

fn a_terminal() -> Result<()> {
    let setup = setup(&[])?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.args([
        "run",
        "--memory",
        "256M",
        "--console",
        "stdio",
        "--append",
        "quiet console=ttyS0 console=hvc0",
    ]);
    command.args(&setup.options.arguments);
    command.arg("--kernel").arg(&setup.options.kernel).arg("--initrd").args(&setup.options.initrd);
    let mut terminal = Terminal::start(command);
    terminal.resize(132, 50);
    terminal.wait_for("# ");
    let asks = |terminal: &mut Terminal, command: &str| {
        terminal.typed(format!("{command}; echo do''ne\r").as_bytes());
        // The guest's carriage return; the terminal adds one of its own.
        terminal.wait_for("done\r")
    };
    let text = asks(&mut terminal, "tty; stty size");
    ensure!(text.contains("/dev/hvc0") && text.contains("50 132"), "{text}");
    terminal.resize(99, 33);
    let deadline = Instant::now() + SOON;
    loop {
        let text = asks(&mut terminal, "stty size");
        if text.contains("33 99") {
            break;
        }
        ensure!(Instant::now() < deadline, "the size of the window does not change: {text}");
        thread::sleep(Duration::from_millis(100));
    }
    // A machine that starts again has it, too.
    terminal.typed(b"reboot -f\r");
    // Not the prompt that stands there.
    terminal.wait_for("the guest is up");
    terminal.wait_for("# ");
    let text = asks(&mut terminal, "stty size");
    ensure!(text.contains("33 99"), "after a reset: {text}");
    ensure!(terminal.is_raw(), "the terminal is raw");
    terminal.typed(b"poweroff -f\r");
    ensure!(terminal.end().success() && !terminal.is_raw(), "the end");
    Ok(())
}

/// Connects with a socket that may not be there yet.
fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + SOON;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SOON))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => bail!("{}: {error}", path.display()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn a_channel() -> Result<()> {
    let setup = setup(&[
        "--channel",
        "name=org.qemu.guest_agent.0,path=FOLDER/agent",
        "--channel",
        "name=other,path=FOLDER/other",
    ])?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let names = guest.run("cat /sys/class/virtio-ports/*/name", SOON)?;
    ensure!(names == "org.qemu.guest_agent.0\nother\n", "the ports are {names}");
    let port = guest.run("cd /sys/class/virtio-ports; grep -l guest_agent */name | cut -d/ -f1; cd", SOON)?;
    let port = format!("/dev/{}", port.trim());

    // Somebody who asks on the host, a program that answers in the guest.
    let mut host = connect(&setup.folder.path().join("agent"))?;
    guest.run(&format!("exec 5<>{port}"), SOON)?;
    host.write_all(b"ping\n")?;
    let heard = guest.run("read line <&5; echo \"heard $line\"; echo pong >&5", SOON)?;
    ensure!(heard == "heard ping\n", "the guest says {heard}");
    let mut answer = [0; 5];
    host.read_exact(&mut answer).context("the answer")?;
    ensure!(&answer == b"pong\n", "{answer:?}");

    // Who comes later finds the program still there.
    drop(host);
    let mut host = connect(&setup.folder.path().join("agent"))?;
    host.write_all(b"again\n")?;
    let heard = guest.run("read line <&5; echo \"heard $line\"", SOON)?;
    ensure!(heard == "heard again\n", "the guest says {heard}");

    // More than a buffer or a socket holds, unchanged, in both directions, and a reader who takes his time.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    guest.run("exec 5<&-", SOON)?;
    guest.send(&format!("dd if={port} of=/tmp/in bs=1000 count=3000 iflag=fullblock 2>/dev/null; cat /tmp/in >{port}; echo o''ver\n"))?;
    host.write_all(&bytes)?;
    thread::sleep(Duration::from_secs(1));
    let mut echoed = vec![0; bytes.len()];
    host.read_exact(&mut echoed).context("what comes back")?;
    ensure!(echoed == bytes, "3 MB come back changed");
    guest.expect("over", SOON)?;
    guest.expect("# ", SOON)?;
    guest.power_off()
}

/// A program's output of some megabytes, and input that is typed ahead while nobody reads.
fn much_in_both_directions() -> Result<()> {
    let setup = setup(&["--console", "unix=FOLDER/terminal"])?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let mut host = connect(&setup.folder.path().join("terminal"))?;
    // The port forgets its modes when nobody has it open.
    guest.run("exec 6<>/dev/hvc0; stty raw -echo <&6", SOON)?;
    guest.send("seq 1 200000 >/dev/hvc0; echo o''ver\n")?;
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let mut text = vec![0; expected.len()];
    host.read_exact(&mut text).context("the numbers")?;
    ensure!(text == expected.as_bytes(), "the numbers come changed");
    guest.expect("over", SOON)?;
    guest.expect("# ", SOON)?;
    let input: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let length = input.len();
    guest.send(&format!("dd if=/dev/hvc0 bs=1 count={length} 2>/dev/null | md5sum; echo o''ver\n"))?;
    let writer = thread::spawn(move || host.write_all(input.as_bytes()).map(|()| host));
    let sum = guest.expect("over", SOON)?;
    // md5sum of `seq 1 20000`.
    ensure!(sum.contains("e071f707df7bbeee2a6a1eb48011ddd0"), "the sum is {sum}");
    guest.expect("# ", SOON)?;
    drop(writer.join());
    guest.power_off()
}

/// Fills so many MiB of the guest's memory, and gives them back.
fn fill_and_free(guest: &mut Guest, mebibytes: u32) -> Result<[u64; 2]> {
    guest.run("mkdir -p /tmp/t; mount -t tmpfs -o size=90% t /tmp/t", SOON)?;
    guest.run(&format!("dd if=/dev/zero of=/tmp/t/x bs=1M count={mebibytes} 2>/dev/null"), SOON)?;
    let full = guest.shared_memory()?;
    guest.run("umount /tmp/t", SOON)?;
    // Linux reports within a few seconds, bit by bit.
    let deadline = Instant::now() + SOON;
    let mut freed = guest.shared_memory()?;
    while freed > full.saturating_sub(u64::from(mebibytes) << 19) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(500));
        freed = guest.shared_memory()?;
    }
    Ok([full, freed])
}

fn freed_memory_goes_back() -> Result<()> {
    const FILLED: u32 = 300;
    let mut setup = setup(&["--balloon", "-v"])?;
    setup.options.memory = "512M";
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    for _ in 0..3 {
        let [full, freed] = fill_and_free(&mut guest, FILLED)?;
        eprintln!("host memory behind the guest: {} MiB, then {} MiB", full >> 20, freed >> 20);
        ensure!(full > u64::from(FILLED) << 20, "{FILLED} MiB are filled, {full} bytes are there");
        ensure!(full - freed > u64::from(FILLED) << 19, "from {full} only to {freed} bytes");
    }
    check_warnings(&mut guest)?;
    // Statistics come every two seconds.
    thread::sleep(Duration::from_secs(3));
    guest.send("poweroff -f\n")?;
    let (_, messages) = guest.finish(SOON)?;
    let line =
        messages.lines().find(|line| line.contains("balloon  ")).context("no line about the balloon")?;
    ensure!(line.contains("holds 0 bytes") && line.contains("the guest has total 4"), "{line}");

    let mut without = self::setup(&[])?;
    without.options.memory = "512M";
    let mut guest = Guest::boot(&without.options, BOOT)?;
    guest.run("mkdir /tmp/t; mount -t tmpfs -o size=90% t /tmp/t", SOON)?;
    guest
        .run(&format!("dd if=/dev/zero of=/tmp/t/x bs=1M count={FILLED} 2>/dev/null; umount /tmp/t"), SOON)?;
    ensure!(guest.shared_memory()? > u64::from(FILLED) << 20, "without a balloon it stays");
    guest.power_off()
}

fn a_balloon() -> Result<()> {
    let mut setup = setup(&["--balloon=256M"])?;
    setup.options.memory = "512M";
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let deadline = Instant::now() + SOON;
    loop {
        let free = guest.run("awk '/MemFree/ { print $2 }' /proc/meminfo", SOON)?;
        let free: u64 = free.trim().parse().context("MemFree")?;
        // What Linux may take back in need is in use in its books, not gone.
        if free < 256 << 10 {
            ensure!(free > 100 << 10, "MemFree is {free} KiB");
            break;
        }
        ensure!(Instant::now() < deadline, "MemFree is still {free} KiB");
        thread::sleep(Duration::from_millis(500));
    }
    let sum = guest.run("seq 1 20000 | sort -r | sha256sum", SOON)?;
    let expected = "32e8bfc1888e4abc71c499baefe2efcad2ecc01d1c18f4a453d5d62b502a2c3e ";
    ensure!(sum.starts_with(expected), "sorted numbers give {sum}");
    let held = guest.shared_memory()?;
    ensure!(held < 256 << 20, "the host still holds {held} bytes");
    guest.power_off()
}
