//! Whole machines: Debian's own kernels boot to a shell and are used like a machine.
//!
//! The kernels come by apt. Where that cannot work, the tests are ignored and say so.

mod common;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{
    Emulator, Guest, Named, Options, check_interrupts, check_time, check_warnings, initramfs, kernel, run,
    trials,
};

use rustix::process::Signal;
use softmetal::cli::debian::{Flavour, Guests};
use tempfile::TempDir;

/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let tests: &[Named] = &[
        ("cloud_kernel_in_128_mib", || session(Flavour::Cloud, "128M", false)),
        ("cloud_kernel_in_4_gib_with_compressed_ram_disk", || session(Flavour::Cloud, "4G", true)),
        ("generic_kernel_in_128_mib", || session(Flavour::Generic, "128M", true)),
        ("generic_kernel_in_4_gib", || session(Flavour::Generic, "4G", false)),
        ("rt_kernel_with_two_processors", rt_kernel),
        ("reset_ends_with_no_reboot", reset_ends_with_no_reboot),
        ("reset_starts_again", reset_starts_again),
        ("debug_exit_gives_the_status", debug_exit_gives_the_status),
        ("kernel_panic_reboots_with_panic_1", kernel_panic_resets),
        ("input_typed_ahead_waits_for_the_shell", input_typed_ahead_waits_for_the_shell),
    ];
    let only_softmetal: &[Named] = &[
        ("sigterm_presses_the_power_button", sigterm_presses_the_power_button),
        ("second_sigterm_ends_the_process", second_sigterm_ends_the_process),
        ("triple_fault_is_a_crash", triple_fault_is_a_crash),
        ("serial_file_and_socket", serial_file_and_socket),
    ];
    let hindrance = Guests::hindrance().map(|why| format!("Debian's kernels cannot be fetched: {why}"));
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own command".to_owned());
    let mut all = trials(tests, hindrance.as_deref());
    all.extend(trials(only_softmetal, hindrance.or(foreign).as_deref()));
    run(all)
}

/// A kernel and a RAM disk; the folder goes with the value.
struct Setup {
    options: Options,
    _folder: TempDir,
}

fn setup(flavour: Flavour, script: Option<&str>, compressed: bool) -> Result<Setup> {
    let kernel = kernel(flavour)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), script, compressed)?;
    let options =
        Options { kernel: kernel.image, initrd: Some(initrd), memory: "256M", ..Options::default() };
    Ok(Setup { options, _folder: folder })
}

/// Boots, does what a user does, looks at the kernel's warnings, powers off.
fn session(flavour: Flavour, memory: &'static str, compressed: bool) -> Result<()> {
    let mut setup = setup(flavour, None, compressed)?;
    setup.options.memory = memory;
    let start = Instant::now();
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    eprintln!("{flavour:?} kernel, {memory}: shell after {:.1} s", start.elapsed().as_secs_f64());

    let uname = guest.run("uname -a", SOON)?;
    ensure!(uname.contains("Linux") && uname.contains("x86_64"), "uname says {uname}");
    let cpus = guest.run("grep -c ^processor /proc/cpuinfo", SOON)?;
    ensure!(cpus.trim() == "1", "there are {cpus} processors");
    let root = guest.run("ls /", SOON)?;
    ensure!(root.contains("init") && root.contains("proc"), "ls / says {root}");

    let total = guest.run("awk '/MemTotal/ { print $2 }' /proc/meminfo", SOON)?;
    let total: u64 = total.trim().parse().with_context(|| format!("MemTotal is {total}"))?;
    let expected = if memory == "4G" { 3_700_000..4_194_304 } else { 70_000..131_072 };
    ensure!(expected.contains(&total), "MemTotal is {total} KiB with {memory}");

    let sum = guest.run("dd if=/dev/zero bs=1M count=4 2>/dev/null | md5sum", SOON)?;
    ensure!(sum.starts_with("b5cfa9d6c8febd618f91ac2843d50a1c "), "4 MiB of zeros give {sum}");
    let sum = guest.run("seq 1 20000 | sort -r | sha256sum", SOON)?;
    let expected = "32e8bfc1888e4abc71c499baefe2efcad2ecc01d1c18f4a453d5d62b502a2c3e ";
    ensure!(sum.starts_with(expected), "sorted numbers give {sum}");
    let series = "BEGIN { t = e = 1; for (i = 1; i < 20; i++) { t /= i; e += t }";
    let numbers = guest.run(&format!("awk '{series}; printf \"%.15f %d\\n\", e, 65536 * 32767 }}'"), SOON)?;
    let (_, e) = (1..20).fold((1.0, 1.0), |(t, e), i| (t / f64::from(i), e + t / f64::from(i)));
    let expected = format!("{e:.15} {}", 65536 * 32767);
    ensure!(numbers.trim() == expected, "awk says {numbers}, not {expected}");

    check_time(&mut guest)?;
    check_job_control(&mut guest)?;
    check_warnings(&mut guest)?;
    guest.power_off()
}

/// The kernel in which even interrupt handlers are threads.
fn rt_kernel() -> Result<()> {
    let mut setup = setup(Flavour::Rt, None, false)?;
    setup.options.cpus = 2;
    let start = Instant::now();
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    eprintln!("Rt kernel: shell after {:.1} s", start.elapsed().as_secs_f64());
    let uname = guest.run("uname -a", SOON)?;
    ensure!(uname.contains("PREEMPT_RT"), "uname says {uname}");
    let threads = guest.run("ps | grep -c 'irq/4-ttyS[0]'", SOON)?;
    ensure!(threads.trim() == "1", "the serial port's interrupt has {threads} threads");
    check_time(&mut guest)?;
    check_interrupts(&mut guest, 2)?;
    check_warnings(&mut guest)?;
    guest.power_off()
}

fn check_job_control(guest: &mut Guest) -> Result<()> {
    let jobs = guest.run("sleep 1000 & sleep 1; jobs; kill %1; wait %1; true", SOON)?;
    ensure!(jobs.contains("sleep 1000"), "the shell has no job control: {jobs}");
    guest.send("sleep 1000\n")?;
    guest.expect("\n", SOON)?;
    std::thread::sleep(Duration::from_millis(500));
    guest.send("\x03")?;
    guest.expect("# ", SOON)?;
    guest.run("true", SOON).map(drop)
}

fn reset_ends_with_no_reboot() -> Result<()> {
    let mut setup = setup(Flavour::Cloud, None, false)?;
    setup.options.no_reboot = true;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    guest.send("reboot -f\n")?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0), "reboot with --no-reboot ends with {status}: {messages}");
    Ok(())
}

fn reset_starts_again() -> Result<()> {
    let setup = setup(Flavour::Cloud, None, false)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    guest.send("reboot -f\n")?;
    guest.expect(softmetal::cli::initramfs::READY, BOOT)?;
    guest.expect("# ", SOON)?;
    guest.power_off()
}

fn debug_exit_gives_the_status() -> Result<()> {
    let mut setup = setup(Flavour::Cloud, Some("/root/outb\n"), false)?;
    setup.options.debug_exit = true;
    let mut guest = Guest::start(&setup.options)?;
    let (status, messages) = guest.finish(BOOT)?;
    ensure!(
        status.code() == Some(0x15 << 1 | 1),
        "writing 0x15 ends with {status}: {messages}; {}",
        guest.tail()
    );
    Ok(())
}

fn kernel_panic_resets() -> Result<()> {
    let mut setup = setup(Flavour::Cloud, None, false)?;
    setup.options.initrd = None;
    setup.options.append = "panic=1";
    setup.options.no_reboot = true;
    let mut guest = Guest::start(&setup.options)?;
    guest.expect("Kernel panic - not syncing: VFS: Unable to mount root fs", BOOT)?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0), "the reset after a panic ends with {status}: {messages}");
    Ok(())
}

fn input_typed_ahead_waits_for_the_shell() -> Result<()> {
    let setup = setup(Flavour::Cloud, None, false)?;
    let mut guest = Guest::start(&setup.options)?;
    guest.send("echo typed-$((40 + 2))-ahead\npoweroff -f\n")?;
    guest.expect("typed-42-ahead", BOOT)?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0), "poweroff ends with {status}: {messages}; {}", guest.tail());
    Ok(())
}

fn sigterm_presses_the_power_button() -> Result<()> {
    let setup = setup(Flavour::Cloud, None, false)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    guest.signal(Signal::TERM)?;
    guest.expect("softmetal: power button", SOON)?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0), "the power button ends with {status}: {messages}");
    Ok(())
}

fn second_sigterm_ends_the_process() -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    let setup = setup(Flavour::Cloud, None, false)?;
    // Early in the boot nobody listens to the power button.
    let mut guest = Guest::start(&setup.options)?;
    guest.expect("Linux version", BOOT)?;
    guest.signal(Signal::TERM)?;
    std::thread::sleep(Duration::from_millis(300));
    guest.signal(Signal::TERM)?;
    let (status, messages) = guest.finish(Duration::from_secs(10))?;
    ensure!(
        status.signal() == Some(Signal::TERM.as_raw()),
        "a second SIGTERM ends with {status}: {messages}"
    );
    Ok(())
}

fn triple_fault_is_a_crash() -> Result<()> {
    let mut setup = setup(Flavour::Cloud, None, false)?;
    setup.options.append = "reboot=triple,force";
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    guest.send("reboot -f\n")?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(6), "a triple fault ends with {status}: {messages}");
    let message = messages.to_lowercase();
    ensure!(message.contains("softmetal: error: ") && message.contains("triple fault"), "{messages}");
    ensure!(message.contains("rip") && message.contains("cr3"), "the message holds no CPU state: {messages}");
    Ok(())
}

/// The guest's output reaches a file, and a client of the socket gets what came before it.
fn serial_file_and_socket() -> Result<()> {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let mut setup = setup(Flavour::Cloud, Some("echo serial-$((6 * 7)); poweroff -f\n"), false)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("console");
    setup.options.append = "quiet";
    setup.options.arguments = vec!["--serial".into(), format!("file={}", file.display())];
    let mut guest = Guest::start(&setup.options)?;
    let (status, messages) = guest.finish(BOOT)?;
    ensure!(status.code() == Some(0), "the run into a file ends with {status}: {messages}");
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains("serial-42"), "the file holds {text:?}");

    let socket = folder.path().join("socket");
    setup.options.arguments = vec!["--serial".into(), format!("unix={}", socket.display())];
    let mut guest = Guest::start(&setup.options)?;
    let deadline = Instant::now() + SOON;
    while !socket.exists() {
        ensure!(Instant::now() < deadline, "the socket does not appear");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut text = String::new();
    UnixStream::connect(&socket)?.read_to_string(&mut text)?;
    let (status, messages) = guest.finish(SOON)?;
    ensure!(status.code() == Some(0), "the run into a socket ends with {status}: {messages}");
    ensure!(text.contains("serial-42"), "the socket gave {text:?}");
    ensure!(!socket.exists(), "the socket stays behind");
    Ok(())
}
