//! `--debug lockstep`: two engines run the same guest and are the same, instruction by instruction; where one has a fault, it is
//! found.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Emulator, Named, demo_guest, initramfs, kernel, run, trials};
use libtest_mimic::{Failed, Trial};
use softmetal::cli::debian::{Flavour, Guests};

/// For a guest that runs half a minute on an idle host.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let built_in: &[Named] = &[
        ("the_demo_guest_on_two_engines", demo_on_two_engines),
        ("the_demo_guest_translated", demo_translated),
        ("resets_and_crashes_on_two_engines", ends),
        ("a_recorded_run_on_two_engines", recorded),
    ];
    let debian: &[Named] = &[("debians_cloud_kernel_translated", || debian_on_two_engines("jit"))];
    // The demo guest and the ROMs have been through these two.
    let long: &[Named] = &[("debians_cloud_kernel_on_two_engines", || debian_on_two_engines("interp"))];
    let foreign =
        (Emulator::chosen() == Emulator::Qemu).then(|| "this is about softmetal's own command".to_owned());
    let hindrance = Guests::hindrance().map(|why| format!("Debian's packages cannot be fetched: {why}"));
    let mut all = trials(built_in, foreign.as_deref());
    if cfg!(feature = "planted") {
        all.extend(trials(&[("planted_faults_are_found", planted)], foreign.as_deref()));
    }
    if foreign.is_none() {
        all.extend(roms());
    }
    let hindrance = foreign.or(hindrance);
    all.extend(trials(debian, hindrance.as_deref()));
    all.extend(trials(long, hindrance.as_deref()).into_iter().map(|trial| trial.with_ignored_flag(true)));
    run(all)
}

/// What a run gave.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    output: String,
    messages: String,
}

impl Ran {
    /// How many instructions ran without a difference.
    fn compared(&self) -> Result<u64> {
        let count =
            self.messages.split("lockstep: no difference in ").nth(1).and_then(|rest| rest.split(' ').next());
        let count = count.with_context(|| format!("no end without a difference: {self:?}"))?;
        Ok(count.replace(',', "").parse()?)
    }
}

/// Runs softmetal to its end with nothing typed.
fn softmetal(arguments: &[&str], planted: &str) -> Result<Ran> {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_softmetal"));
    let command = command.args(arguments).env("SOFTMETAL_PLANTED", planted).timeout(LIMIT);
    let Output { status, stdout, stderr } = command.output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { status: status.code(), output: text(stdout), messages: text(stderr) })
}

fn demo(append: &str, more: &[&str]) -> Result<Ran> {
    let kernel = demo_guest().display().to_string();
    let mut arguments = vec!["run", "--kernel", &kernel, "--memory", "64M", "--append", append];
    arguments.extend(more);
    softmetal(&arguments, "")
}

fn demo_on_two_engines() -> Result<()> {
    for (debug, run, least) in [
        ("lockstep", "cpu;mem;test;bench", 50_000_000),
        ("lockstep=777,no-tlb", "cpu;mem", 100_000),
        ("lockstep,no-chain,no-fuse", "cpu;mem", 100_000),
        ("lockstep=100", "cpu", 100_000),
    ] {
        let ran = demo(&format!("quick run={run}"), &["--debug", debug])?;
        let last = run.rsplit(';').next().unwrap_or(run);
        let done = ran.output.contains(&format!("softmetal> {last}")) && ran.output.contains("Powering off");
        ensure!(ran.status == Some(0) && done, "{debug}: {ran:?}");
        ensure!(ran.compared()? > least, "{debug}: {ran:?}");
        let begins = "softmetal: lockstep: the interpreter, and the interpreter with ";
        ensure!(ran.messages.starts_with(begins), "{debug}: {ran:?}");
    }
    Ok(())
}

/// The translator follows the interpreter, with code that is hot and with all code.
fn demo_translated() -> Result<()> {
    for (debug, run, least) in [
        ("lockstep", "cpu;mem;test;bench", 50_000_000),
        ("lockstep=2000,no-chain", "cpu;mem;test", 1_000_000),
        ("lockstep,jit-at-once", "cpu;mem", 100_000),
        ("lockstep,t1-at-once", "cpu;mem", 100_000),
    ] {
        let ran = demo(&format!("quick run={run}"), &["--accel", "jit", "--debug", debug])?;
        ensure!(ran.status == Some(0) && ran.output.contains("Powering off"), "{debug}: {ran:?}");
        ensure!(ran.compared()? > least, "{debug}: {ran:?}");
        ensure!(ran.messages.contains("the translator"), "{debug}: {ran:?}");
    }
    Ok(())
}

fn ends() -> Result<()> {
    for (append, status, more) in [
        ("run=crash", 6, &[][..]),
        ("run=exit 21", 43, &["--debug-exit"]),
        ("run=reboot", 0, &["--no-reboot"]),
    ] {
        let arguments = [&["--debug", "lockstep"], more].concat();
        let ran = demo(append, &arguments)?;
        ensure!(ran.status == Some(status) && ran.compared()? > 0, "{ran:?}");
    }
    Ok(())
}

/// A log is written and followed by two engines as by one.
fn recorded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log").display().to_string();
    let then = demo("quick run=cpu;mem", &["--record", &log, "--debug", "lockstep=10000"])?;
    ensure!(then.status == Some(0) && then.output.contains("softmetal> mem"), "{then:?}");
    for debug in ["no-chain", "lockstep=3000"] {
        let now = softmetal(&["run", "--replay", &log, "--debug", debug], "")?;
        ensure!(now.status == Some(0) && now.output == then.output, "{now:?}\nthen: {then:?}");
        ensure!(
            !debug.starts_with("lockstep") || now.compared()? == then.compared()?,
            "{now:?}\nthen: {then:?}"
        );
    }
    Ok(())
}

/// Each image of test-roms for one processor, as the first of its files of expectations has it.
fn roms() -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-roms");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut roms: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    roms.sort();
    let trial = |rom: PathBuf| {
        let name = rom.file_name()?.to_string_lossy().into_owned();
        let image = rom.join(format!("{name}.bin"));
        let expected = fs::read_to_string(rom.join("expected.txt")).ok()?;
        // What is typed there needs somebody who types.
        if !image.is_file() || expected.contains("#! type:") {
            return None;
        }
        Some(Trial::test(format!("{name}_in_lockstep"), move || {
            rom_on_two_engines(&image, &expected).map_err(|error| Failed::from(format!("{error:#}")))
        }))
    };
    roms.into_iter().filter_map(trial).collect()
}

fn rom_on_two_engines(image: &Path, expected: &str) -> Result<()> {
    let setting = |name: &str| {
        let lines = expected.lines().filter_map(|line| line.strip_prefix("#!")?.split_once(':'));
        lines.into_iter().find(|(is, _)| is.trim() == name).map(|(_, value)| value.trim())
    };
    let image = image.display().to_string();
    let mut arguments = vec!["run", "--kernel", &image, "--memory", "64M", "--debug-exit"];
    arguments.extend(["--debug", "lockstep=20000", "--append", setting("append").unwrap_or("")]);
    arguments.extend(setting("arguments").into_iter().flat_map(|list| list.split(' ')));
    let ran = softmetal(&arguments, "")?;
    let status = setting("status").map_or(Ok(1), str::parse)?;
    ensure!(ran.status == Some(status) && ran.compared()? > 0, "{ran:?}");
    Ok(())
}

/// The cloud kernel to its shell and power-off.
fn debian_on_two_engines(engine: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let kernel = kernel(Flavour::Cloud)?;
    let initrd = initramfs(&kernel, folder.path(), Some("cat /proc/interrupts; poweroff -f"), false)?;
    let (kernel, initrd) = (kernel.image.display().to_string(), initrd.display().to_string());
    let mut arguments = vec!["run", "--kernel", &kernel, "--initrd", &initrd, "--memory", "256M"];
    arguments.extend(["--append", "console=ttyS0 quiet", "--debug", "lockstep", "--accel", engine]);
    let ran = softmetal(&arguments, "")?;
    ensure!(ran.status == Some(0) && ran.output.contains("Power down"), "{ran:?}");
    ensure!(ran.compared()? > 300_000_000, "{ran:?}");
    Ok(())
}

/// Each fault that the demo guest meets is found in an instruction that has it.
fn planted() -> Result<()> {
    for (bug, instruction) in [("AfOfAdc", ": adc "), ("OfOfSub8", ": sub ")] {
        let kernel = demo_guest().display().to_string();
        let arguments = [
            "run",
            "--kernel",
            &kernel,
            "--memory",
            "64M",
            "--append",
            "quick run=cpu;mem;test",
            "--debug",
            "lockstep",
        ];
        let ran = softmetal(&arguments, bug)?;
        ensure!(
            ran.status == Some(4) && ran.messages.contains("the engines differ in instruction"),
            "{bug}: {ran:?}"
        );
        let line = ran.messages.lines().find(|line| line.starts_with("instruction "));
        ensure!(line.is_some_and(|line| line.contains(instruction)), "{bug}: {ran:?}");
        ensure!(ran.messages.contains("\nRFLAGS; the first wrote it in instruction "), "{bug}: {ran:?}");
    }
    Ok(())
}
