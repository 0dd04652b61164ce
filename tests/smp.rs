//! Several processors: Debian's kernels bring them up, use them, take them away, and a program checks what they agree on.
//!
//! The kernels come by apt and the program by the host's C compiler. Where that cannot work, the tests are ignored and
//! say so.
//!
//! `SOAK_MINUTES=30 SOAK_CPUS=2 cargo test --release --test smp -- --ignored soak` lets the program check for as
//! long as one likes; `SOAK_ACCEL=jit` has it translated.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{
    Guest, Named, Options, check_interrupts, check_warnings, initramfs, interrupts, kernel, run, trials,
};
use softmetal::cli::cpio::Archive;
use softmetal::cli::debian::{Flavour, Guests};
use tempfile::TempDir;

/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);
/// For how long the translator is watched: code is translated, dropped, and translated anew for other address spaces.
const TRANSLATED: usize = 60;
/// For a round of all checks by more threads than the host may have cores.
const CHECKS: Duration = Duration::from_secs(300);

/// The program's sources.
const SOURCES: &[&str] = &["tests/guest/smp.c", "tests/guest/smp_code.c"];

fn main() -> ExitCode {
    let tests: &[Named] = &[
        ("two_processors_agree", || agree(Flavour::Cloud, 2, 3, "interp", 1)),
        ("two_processors_agree_when_translated", || agree(Flavour::Cloud, 2, 3, "jit", TRANSLATED)),
        ("four_processors_agree", || agree(Flavour::Generic, 4, 4, "interp", 1)),
        ("processors_go_and_come_back", processors_go_and_come_back),
        ("sixty_four_processors", sixty_four_processors),
        ("a_reset_of_four_processors", a_reset_of_four_processors),
    ];
    let hindrance = Guests::hindrance()
        .map(|why| format!("Debian's kernels cannot be fetched: {why}"))
        .or_else(|| (!compiler_works()).then(|| "there is no C compiler that links statically".to_owned()));
    let soak: &[Named] = &[("soak", soak)];
    let mut all = trials(tests, hindrance.as_deref());
    all.extend(trials(soak, hindrance.as_deref()).into_iter().map(|trial| trial.with_ignored_flag(true)));
    run(all)
}

fn compile(sources: &[PathBuf], to: &Path) -> Result<bool> {
    let mut command = Command::new("gcc");
    command
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-s", "-o"])
        .arg(to)
        .args(sources);
    let status =
        command.stdout(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status.success())
}

/// The program runs in x86 guests: a compiler for another processor is none.
fn compiler_works() -> bool {
    if !cfg!(target_arch = "x86_64") {
        return false;
    }
    let try_it = || -> Result<bool> {
        let folder = tempfile::tempdir()?;
        let source = folder.path().join("try.c");
        fs::write(&source, "#include <pthread.h>\nint main(void) { return !pthread_self(); }\n")?;
        compile(&[source], &folder.path().join("try"))
    };
    try_it().unwrap_or(false)
}

/// A kernel and a RAM disk; the folder goes with the value.
struct Setup {
    options: Options,
    _folder: TempDir,
}

/// A machine with so many processors, the program at `/smp`.
fn setup(flavour: Flavour, cpus: usize) -> Result<Setup> {
    let kernel = kernel(flavour)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), None, false)?;
    let program = folder.path().join("smp");
    let sources: Vec<_> =
        SOURCES.iter().map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).collect();
    ensure!(compile(&sources, &program)?, "{} does not compile", SOURCES.join(" with "));
    let mut more = Archive::default();
    more.file("smp", 0o755, &fs::read(&program)?);
    // The kernel unpacks one archive after the other.
    OpenOptions::new().append(true).open(&initrd)?.write_all(&more.finish())?;
    let options =
        Options { kernel: kernel.image, initrd: Some(initrd), memory: "512M", cpus, ..Options::default() };
    Ok(Setup { options, _folder: folder })
}

/// Nothing that a kernel says when processors lose sight of each other.
fn check_complaints(guest: &mut Guest) -> Result<()> {
    let pattern = "stall|lockup|hung_task|unstable|BUG:|WARNING:|Oops|not responding|stuck";
    // With what the kernel says of the processors behind it.
    let complaints = guest.run(&format!("dmesg | grep -A 60 -E '{pattern}' | head -n 300 || true"), SOON)?;
    ensure!(complaints.trim().is_empty(), "the kernel complains:\n{complaints}");
    Ok(())
}

/// All checks once or for so many seconds, and an interrupt of every kind on each processor.
fn agree(flavour: Flavour, cpus: usize, threads: usize, engine: &str, seconds: usize) -> Result<()> {
    let mut setup = setup(flavour, cpus)?;
    setup.options.arguments.extend(["--accel", engine].map(str::to_owned));
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let online = guest.run("grep -c ^processor /proc/cpuinfo", SOON)?;
    ensure!(online.trim() == cpus.to_string(), "there are {online} processors, not {cpus}");
    let says = guest.run(&format!("/smp {seconds} {threads}"), CHECKS)?;
    ensure!(says.contains("smp: all right"), "the program says {says}");
    eprint!("{flavour:?} kernel, {cpus} processors:\n{says}");
    check_interrupts(&mut guest, cpus)?;
    let calls = &interrupts(&mut guest)?["CAL"];
    ensure!(!calls.contains(&0), "calls of functions on other processors: {calls:?}");
    check_warnings(&mut guest)?;
    check_complaints(&mut guest)?;
    guest.power_off()
}

/// A number from the environment.
fn setting(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is a number, not {text}")),
        Err(_) => Ok(default),
    }
}

/// All checks over and over, with one thread more than there are processors.
fn soak() -> Result<()> {
    let (minutes, cpus) = (setting("SOAK_MINUTES", 30)?, setting("SOAK_CPUS", 2)?);
    let mut setup = setup(Flavour::Cloud, cpus)?;
    let engine = std::env::var("SOAK_ACCEL").unwrap_or_else(|_| "auto".to_owned());
    setup.options.arguments.extend(["--accel".to_owned(), engine]);
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let program = format!("/smp {} {}", minutes * 60, cpus + 1);
    let host = HostPauses::watch();
    let says = guest.run(&program, Duration::from_secs(minutes as u64 * 60) + CHECKS)?;
    let last: Vec<&str> = says.lines().rev().take(14).collect();
    eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    ensure!(says.contains("smp: all right"), "the program says {says}");
    let uptime = guest.run("cat /proc/uptime", SOON)?;
    eprintln!("after {} s", uptime.trim());
    let pause = host.longest();
    eprintln!("the host gave a thread of the test nothing for {:.1} s at most", pause.as_secs_f64());
    check_interrupts(&mut guest, cpus)?;
    // A guest whose host stands still for long is right to complain.
    check_complaints(&mut guest).with_context(|| format!("with the host absent for {pause:.1?} once"))?;
    check_warnings(&mut guest)?;
    guest.power_off()
}

/// The longest time in which the host did not run a thread that wanted to, as when it is itself a guest and was paused.
struct HostPauses {
    longest: Arc<AtomicU64>,
}

impl HostPauses {
    /// Begins to look, until this is dropped.
    fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(100);
        let longest = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&longest);
        thread::spawn(move || {
            let mut last = Instant::now();
            while let Some(longest) = seen.upgrade() {
                thread::sleep(STEP);
                let absent = last.elapsed().saturating_sub(STEP);
                longest.fetch_max(absent.as_millis() as u64, Relaxed);
                last = Instant::now();
            }
        });
        Self { longest }
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.load(Relaxed))
    }
}

/// A kernel stops a processor with all others standing by, starts it again by INIT and start-up IPIs, and asks all of
/// them where they are by NMI.
fn processors_go_and_come_back() -> Result<()> {
    let setup = setup(Flavour::Cloud, 4)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    for _ in 0..3 {
        for cpu in 1..4 {
            guest.run(&format!("echo 0 > /sys/devices/system/cpu/cpu{cpu}/online"), SOON)?;
        }
        let online = guest.run("cat /sys/devices/system/cpu/online", SOON)?;
        ensure!(online.trim() == "0", "processors {online} are left");
        for cpu in [3, 1, 2] {
            guest.run(&format!("echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"), SOON)?;
        }
        let online = guest.run("cat /sys/devices/system/cpu/online", SOON)?;
        ensure!(online.trim() == "0-3", "processors {online} are there");
    }
    guest.run("dmesg -n 1; echo 1 > /proc/sys/kernel/sysrq; echo l > /proc/sysrq-trigger", SOON)?;
    let answers = guest.run("dmesg | grep -c 'NMI backtrace for cpu'", SOON)?;
    ensure!(answers.trim() == "4", "{answers} processors answered the NMI");
    check_complaints(&mut guest)?;
    guest.power_off()
}

/// More processors than any host of this test has.
fn sixty_four_processors() -> Result<()> {
    let setup = setup(Flavour::Cloud, 64)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let online = guest.run("cat /sys/devices/system/cpu/online", SOON)?;
    ensure!(online.trim() == "0-63", "processors {online} are there");
    let says = guest.run("/smp 1 8 lock pair futex fork clock", CHECKS)?;
    ensure!(says.contains("smp: all right"), "the program says {says}");
    check_complaints(&mut guest)?;
    guest.power_off()
}

/// The second boot finds the processors as after power-on.
fn a_reset_of_four_processors() -> Result<()> {
    let setup = setup(Flavour::Cloud, 4)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    guest.send("reboot -f\n")?;
    guest.expect(softmetal::cli::initramfs::READY, BOOT)?;
    guest.expect("# ", SOON)?;
    let online = guest.run("cat /sys/devices/system/cpu/online", SOON)?;
    ensure!(online.trim() == "0-3", "processors {online} are there");
    guest.power_off()
}
