//! Runs that are repeated: from a log, and by a clock that counts instructions.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Emulator, Guest, Named, Options, demo_guest, initramfs, kernel, run, trials};
use softmetal::cli::debian::{Flavour, Guests};
use tempfile::TempDir;

/// For a guest that runs some seconds on an idle host.
const LIMIT: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let built_in: &[Named] = &[
        ("the_demo_guest_runs_from_its_log", demo_from_its_log),
        ("a_log_holds_resets_and_typed_input", resets_and_input),
        ("a_crash_and_a_debug_exit_are_repeated", crash_and_exit),
        ("a_replay_says_where_it_goes_another_way", another_way),
        ("a_broken_log_is_refused", broken_logs),
        ("instructions_as_time_make_runs_the_same", demo_is_the_same_each_time),
    ];
    let debian: &[Named] = &[
        ("debians_cloud_kernel_runs_from_its_log", debian_from_its_log),
        ("debians_cloud_kernel_is_the_same_each_time", debian_is_the_same_each_time),
    ];
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own command".to_owned());
    let hindrance = Guests::hindrance().map(|why| format!("Debian's packages cannot be fetched: {why}"));
    let mut all = trials(built_in, foreign.as_deref());
    all.extend(trials(debian, foreign.or(hindrance).as_deref()));
    run(all)
}

/// What a run gave.
#[derive(Debug, PartialEq)]
struct Ran {
    status: Option<i32>,
    output: String,
    messages: String,
}

/// Runs softmetal to its end with nothing typed.
fn softmetal(arguments: &[&str]) -> Result<Ran> {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_softmetal"));
    let Output { status, stdout, stderr } = command.args(arguments).timeout(LIMIT).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { status: status.code(), output: text(stdout), messages: text(stderr) })
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

/// The demo guest doing this, with further arguments.
fn demo(append: &str, more: &[&str]) -> Result<Ran> {
    let kernel = demo_guest().display().to_string();
    let mut arguments = vec!["run", "--kernel", &kernel, "--memory", "64M", "--append", append];
    arguments.extend(more);
    softmetal(&arguments)
}

fn demo_from_its_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = path(&folder, "log");
    // Every switch of the interpreter, where the guest does little.
    for (append, debug) in [
        ("quick run=cpu;mem;test;bench", ""),
        ("quick run=cpu;mem", ""),
        ("quick run=cpu;mem", "no-chain"),
        ("quick run=cpu;mem", "no-specialise"),
        ("quick run=cpu;mem", "no-tlb"),
    ] {
        let then = demo(append, &["--record", &log])?;
        ensure!(then.status == Some(0) && then.output.contains("softmetal> mem"), "{then:?}");
        let mut arguments = vec!["run", "--replay", &log];
        arguments.extend(["--debug", debug].iter().filter(|_| !debug.is_empty()));
        let now = softmetal(&arguments)?;
        ensure!(now == then, "{debug}: {now:?}\nthen: {then:?}");
    }
    // One engine's log is every other's.
    for (records, replays) in [
        ("interp", &["--accel", "jit"][..]),
        ("interp", &["--accel", "jit", "--debug", "jit-at-once"]),
        ("jit", &["--accel", "interp"]),
    ] {
        let then = demo("quick run=cpu;mem;test", &["--accel", records, "--record", &log])?;
        ensure!(then.status == Some(0) && then.output.contains("softmetal> test"), "{records}: {then:?}");
        let now = softmetal(&[&["run", "--replay", &log], replays].concat())?;
        ensure!(now == then, "{records}, {replays:?}: {now:?}\nthen: {then:?}");
    }
    // The log knows the processor.
    let then = demo("quick run=cpu", &["--cpu", "v2", "--record", &log])?;
    let other = demo("quick run=cpu", &[])?;
    ensure!(then.status == Some(0) && then.output != other.output, "{then:?}");
    let now = softmetal(&["run", "--replay", &log])?;
    ensure!(now == then, "{now:?}\nthen: {then:?}");
    Ok(())
}

/// A machine that is talked to, with its log; all that it has sent.
fn recorded(
    options: &Options,
    log: &str,
    talk: impl Fn(&mut Guest) -> Result<()>,
) -> Result<(ExitStatus, String)> {
    let mut options = options.clone();
    options.arguments.extend(["--record".to_owned(), log.to_owned()]);
    options.arguments.extend(["--serial".to_owned(), "stdio".to_owned()]);
    let mut guest = Guest::start(&options)?;
    talk(&mut guest)?;
    let (status, messages) = guest.finish(LIMIT)?;
    ensure!(messages.is_empty(), "{messages}");
    Ok((status, guest.console()))
}

fn resets_and_input() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = path(&folder, "log");
    let options = Options { kernel: demo_guest(), memory: "64M", append: "quick", ..Options::default() };
    let (status, console) = recorded(&options, &log, |guest| {
        for command in ["mem", "reboot", "poweroff"] {
            guest.expect("softmetal> ", LIMIT)?;
            guest.send(&format!("{command}\r"))?;
        }
        Ok(())
    })?;
    ensure!(
        status.code() == Some(0) && console.matches("Hello from the softmetal").count() == 2,
        "{console}"
    );
    let now = softmetal(&["run", "--replay", &log])?;
    ensure!(now.status == Some(0) && now.output == console, "{now:?}\nthen:\n{console}");
    Ok(())
}

fn crash_and_exit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = path(&folder, "log");
    for (append, status, more) in
        [("run=crash", 6, &["--record", &log][..]), ("run=exit 21", 43, &["--record", &log, "--debug-exit"])]
    {
        let then = demo(append, more)?;
        ensure!(then.status == Some(status), "{then:?}");
        let now = softmetal(&["run", "--replay", &log])?;
        ensure!(now == then, "{now:?}\nthen: {then:?}");
    }
    Ok(())
}

/// The same log, and a kernel that differs in a byte.
fn another_way() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, other) = (path(&folder, "log"), path(&folder, "kernel"));
    let then = demo("run=mem", &["--record", &log])?;
    ensure!(then.status == Some(0), "{then:?}");
    let mut image = fs::read(demo_guest())?;
    *image.last_mut().context("the image has bytes")? ^= 1;
    fs::write(&other, image)?;
    let now = softmetal(&["run", "--replay", &log, "--kernel", &other])?;
    ensure!(
        now.status == Some(2) && now.messages.contains("not the file that the log was made with"),
        "{now:?}"
    );
    Ok(())
}

fn broken_logs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, broken) = (path(&folder, "log"), path(&folder, "broken"));
    let then = demo("run=mem", &["--record", &log])?;
    let whole = fs::read(&log)?;
    let missing = softmetal(&["run", "--replay", &path(&folder, "none")])?;
    ensure!(missing.status == Some(2) && missing.messages.contains("there is no such file"), "{missing:?}");
    let kernel = demo_guest();
    let wrong = softmetal(&["run", "--replay", &kernel.display().to_string()])?;
    ensure!(wrong.status == Some(2) && wrong.messages.contains("this is no log"), "{wrong:?}");
    for keep in [5, 40, whole.len() / 2, whole.len() - 40] {
        fs::write(&broken, &whole[..keep])?;
        let now = softmetal(&["run", "--replay", &broken])?;
        ensure!(matches!(now.status, Some(2 | 4)), "{keep}: {now:?}");
        let cut = ["cut off", "no log", "damaged"].iter().any(|word| now.messages.contains(word));
        ensure!(cut && now.messages.lines().count() == 1, "{keep}: {now:?}");
        ensure!(then.output.starts_with(&now.output), "{keep}: {now:?}");
    }
    // A byte in the middle: the checksum sees it.
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 0x10;
    fs::write(&broken, &bytes)?;
    let now = softmetal(&["run", "--replay", &broken])?;
    ensure!(now.status == Some(4) && now.messages.contains("damaged"), "{now:?}");
    let refused = demo("", &["--record", &path(&folder, "no/folder")])?;
    ensure!(refused.status == Some(4) && refused.messages.contains("cannot write the log"), "{refused:?}");
    Ok(())
}

/// How many instructions the processor says that it has run.
fn instructions(ran: &Ran) -> Result<u64> {
    let (before, _) = ran.messages.split_once(" instructions in ").context("-v says how many have run")?;
    let count = before.rsplit(' ').next().context("-v prints the count")?;
    Ok(count.replace(',', "").parse()?)
}

fn demo_is_the_same_each_time() -> Result<()> {
    let once = |engine| demo("run=cpu;mem;test;bench", &["--clock", "instructions", "-v", "--accel", engine]);
    let (first, second, translated) = (once("interp")?, once("interp")?, once("jit")?);
    ensure!(first.status == Some(0) && first.output.contains("softmetal> bench"), "{first:?}");
    ensure!(first.output == second.output, "{first:?}\nand: {second:?}");
    ensure!(instructions(&first)? == instructions(&second)?, "{first:?}\nand: {second:?}");
    ensure!(first.output == translated.output, "{first:?}\nand: {translated:?}");
    ensure!(instructions(&first)? == instructions(&translated)?, "{first:?}\nand: {translated:?}");
    Ok(())
}

/// The cloud kernel with a RAM disk that works a little and powers off.
struct Cloud {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Cloud {
    fn new(folder: &Path) -> Result<Self> {
        let kernel = kernel(Flavour::Cloud)?;
        let script =
            "cat /proc/interrupts; date; sleep 1; dmesg | md5sum; ls -lR /proc/sys | wc; poweroff -f";
        let initrd = initramfs(&kernel, folder, Some(script), false)?;
        Ok(Self { kernel: kernel.image, initrd })
    }

    fn run(&self, more: &[&str]) -> Result<Ran> {
        let (kernel, initrd) = (self.kernel.display().to_string(), self.initrd.display().to_string());
        let mut arguments = vec!["run", "--kernel", &kernel, "--initrd", &initrd, "--memory", "256M"];
        arguments.extend(["--append", "console=ttyS0"]);
        arguments.extend(more);
        softmetal(&arguments)
    }
}

fn debian_from_its_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = path(&folder, "log");
    let then = Cloud::new(folder.path())?.run(&["--record", &log])?;
    ensure!(then.status == Some(0) && then.output.contains("Power down"), "{then:?}");
    let now = softmetal(&["run", "--replay", &log])?;
    ensure!(now == then, "{now:?}\nthen: {then:?}");
    println!("a boot's log has {} KiB", fs::metadata(&log)?.len() >> 10);
    Ok(())
}

fn debian_is_the_same_each_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cloud = Cloud::new(folder.path())?;
    let (first, second) =
        (cloud.run(&["--clock", "instructions", "-v"])?, cloud.run(&["--clock", "instructions", "-v"])?);
    ensure!(first.status == Some(0) && first.output.contains("Power down"), "{first:?}");
    ensure!(first.output == second.output, "{first:?}\nand: {second:?}");
    ensure!(instructions(&first)? == instructions(&second)?, "{first:?}\nand: {second:?}");
    Ok(())
}
