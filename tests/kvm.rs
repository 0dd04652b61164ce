//! Machines in KVM, and machines that move between engines. What needs /dev/kvm is ignored where that does not serve, with the
//! reason.

mod common;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::run;
use libtest_mimic::{Completion, Failed, Trial};
use softmetal::config::{Accel, Config, KernelSource, SerialTarget};
use softmetal::console::{Console, Wiring};
use softmetal::statistics::Report;
use softmetal::{Machine, Outcome};
use softmetal_cpu::Model;

/// The binary under test.
const SOFTMETAL: &str = env!("CARGO_BIN_EXE_softmetal");

/// How long a machine may take that has to do with KVM.
const LIMIT: Duration = Duration::from_secs(400);

type Named = (&'static str, fn() -> Result<()>);

fn main() -> ExitCode {
    let hindrance = hindrance();
    let trial = |(name, test): Named, hindrance: Option<String>| {
        Trial::ignorable_test(name, move || match &hindrance {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                test().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
            }
        })
    };
    let anywhere: [Named; 3] = [
        ("auto comes to an engine that works", auto_works),
        ("a device that may not be opened is explained", forbidden),
        ("a machine moves between translator and interpreter", software_switches),
    ];
    let with_kvm: [Named; 3] = [
        ("a probe that hangs costs less than a second", hanging_probe),
        ("a machine moves between KVM, interpreter and translator", all_switches),
        ("flaws of a model are refused, and listed where they are accepted", flaws),
    ];
    let mut trials: Vec<Trial> = anywhere.into_iter().map(|test| trial(test, None)).collect();
    trials.extend(with_kvm.into_iter().map(|test| trial(test, hindrance.clone())));
    // A KVM in software runs system code as far as some kernels need it, and slowly: what these judge is not in it.
    let software = doctor().lines().find(|line| line.contains("imitation in software")).map(str::to_owned);
    for (rom, cpus) in ROMS {
        let hindrance = hindrance.clone().or(software.clone());
        let name = format!("{rom} on {cpus} CPUs does in KVM what it does interpreted");
        trials.push(Trial::ignorable_test(name, move || match &hindrance {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => same_topics(rom, cpus)
                .map(|()| Completion::Completed)
                .map_err(|error| Failed::from(format!("{error:#}"))),
        }));
    }
    run(trials)
}

/// The test ROMs that judge what KVM and processor do together, and with how many processors.
const ROMS: [(&str, u32); 7] = [
    ("real16", 1),
    ("protected32", 1),
    ("paging64", 1),
    ("exceptions64", 1),
    ("selfmod", 1),
    ("apic", 2),
    ("litmus", 2),
];

/// A test ROM passes, fails and skips the same topics in KVM and interpreted, on the same processor.
fn same_topics(rom: &str, cpus: u32) -> Result<()> {
    let image = format!("{}/test-roms/{rom}/{rom}.bin", env!("CARGO_MANIFEST_DIR"));
    let topics = |accel: &str| -> Result<Vec<String>> {
        let mut command = Command::new(SOFTMETAL);
        command.args(["run", "--accel", accel, "--cpu", "v2,leak=on", "--kernel", &image, "--debug-exit"]);
        command.args(["--memory", "64M", "--no-reboot", "--cpus", &cpus.to_string()]);
        let output = command.stdin(Stdio::null()).output()?;
        let console = String::from_utf8_lossy(&output.stdout).into_owned();
        let verdicts = console
            .lines()
            .filter(|line| ["PASS ", "FAIL ", "SKIP "].iter().any(|verdict| line.starts_with(verdict)));
        Ok(verdicts.map(str::to_owned).collect())
    };
    let (interpreted, in_kvm) = (topics("interp")?, topics("kvm")?);
    ensure!(!interpreted.is_empty() && interpreted == in_kvm, "{interpreted:#?}\n{in_kvm:#?}");
    Ok(())
}

/// Why KVM does not serve here, if it does not.
fn hindrance() -> Option<String> {
    let text = doctor();
    let first = text.lines().next().unwrap_or("softmetal doctor says nothing").to_owned();
    (!first.starts_with("KVM works")).then_some(first)
}

/// What `softmetal doctor` says.
fn doctor() -> String {
    let output = Command::new(SOFTMETAL).arg("doctor").stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Runs the demo's prompt with these commands; what it has printed, its messages, and how long it took.
fn demo(command: &mut Command, commands: &str) -> Result<(String, String, Duration)> {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin");
    let append = format!("quick run={commands};poweroff");
    command.args(["--kernel", image, "--append", &append, "-v"]).stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().context("softmetal does not start")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (console, messages) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}\n{messages}{console}", output.status);
    Ok((console, messages, start.elapsed()))
}

fn auto_works() -> Result<()> {
    let (console, messages, _) = demo(Command::new(SOFTMETAL).args(["run", "--accel", "auto"]), "mem")?;
    ensure!(console.contains("RAM:"), "{console}");
    let lines: Vec<&str> = messages.lines().filter(|line| line.contains("--accel auto takes")).collect();
    ensure!(lines.len() == 1, "it should say once what it takes: {messages}");
    Ok(())
}

fn hanging_probe() -> Result<()> {
    let mut command = Command::new(SOFTMETAL);
    command.args(["run", "--accel", "auto"]).env("SOFTMETAL_PROBE_FOR_EVER", "1");
    let (_, messages, took) = demo(&mut command, "mem")?;
    ensure!(messages.contains("KVM hangs"), "{messages}");
    // The deadline, and what the machine itself takes, on a host that is busy.
    ensure!(took < Duration::from_secs(10), "{took:?}");
    let mut command = Command::new(SOFTMETAL);
    command.args(["demo", "--accel", "kvm"]).env("SOFTMETAL_PROBE_FOR_EVER", "1").stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output()?;
    ensure!(output.status.code() == Some(2) && start.elapsed() < Duration::from_secs(5));
    Ok(())
}

/// As a user who may not open the device: root may open any.
fn forbidden() -> Result<()> {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("softmetal");
    std::fs::copy(SOFTMETAL, &copy)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(&copy);
    command.args(["demo", "--accel", "kvm", "--cpu", "v2,leak=on"]).stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output()?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    // A host whose users all may use KVM runs the demo, which waits for input that has ended.
    let explained = messages.contains("usermod -aG kvm") || messages.contains("there is no /dev/kvm");
    ensure!(explained || output.status.success(), "{}: {messages}", output.status);
    Ok(())
}

fn flaws() -> Result<()> {
    let refused = Command::new(SOFTMETAL).args(["demo", "--accel", "kvm"]).stdin(Stdio::null()).output()?;
    let messages = String::from_utf8_lossy(&refused.stderr).into_owned();
    if refused.status.success() {
        // A KVM that has all of it.
        return Ok(());
    }
    ensure!(refused.status.code() == Some(2) && messages.contains("leak=on accepts that"), "{messages}");
    let mut command = Command::new(SOFTMETAL);
    let (console, messages, _) =
        demo(command.args(["run", "--accel", "kvm", "--cpu", "v2,leak=on"]), "cpu;mem;devices;time")?;
    ensure!(console.contains("RAM:") && console.contains("PCI:"), "{console}");
    ensure!(messages.matches("is not right for").count() == 1, "{messages}");
    ensure!(messages.contains("KVM was left for"), "{messages}");
    Ok(())
}

fn software_switches() -> Result<()> {
    switches(&[Accel::Interp, Accel::Jit], Model::Max, Duration::from_millis(20))
}

fn all_switches() -> Result<()> {
    switches(&[Accel::Kvm, Accel::Interp, Accel::Jit], Model::V2, Duration::from_millis(200))
}

/// How often machines move: `KVM_SWITCHES` in the environment, else as many as a short test has time for.
fn wanted_switches() -> usize {
    std::env::var("KVM_SWITCHES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

/// What a KVM in software does otherwise than processors do: shadows of STI and POPF are not kept, single steps get lost, and
/// data breakpoints do nothing.
const FLAWS: [&str; 2] = ["local APIC", "debug registers and single step"];

/// The demo guest checks its processor, timers and interrupts over and over while it moves from one engine to the next.
fn switches(engines: &[Accel], model: Model, every: Duration) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("console");
    let wanted = wanted_switches();
    let image = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin"))?;
    let mut config = Config::new(KernelSource::BuiltIn(image.leak()));
    config.accel = Accel::Jit;
    (config.cpu, config.leak) = (model, true);
    config.serial = SerialTarget::File(output.clone());
    // It resets the machine each time, which begins with its first engine again.
    config.append = "quick run=test;reboot".into();
    let mut console = Console::new();
    let machine = Machine::build(&config, &console)?;
    let (port, end, handle) = (machine.handle(), machine.handle(), machine.handle());
    let wiring = Wiring {
        port: Box::new(move |bytes| port.serial_input(bytes)),
        end: Box::new(move || end.terminate()),
        engine: Box::new(|| {}),
    };
    console.open(&config.serial, wiring)?;
    let failure = Arc::new(std::sync::Mutex::new(None));
    let mover = std::thread::spawn({
        let (engines, failure) = (engines.to_vec(), Arc::clone(&failure));
        move || {
            let start = Instant::now();
            let mut done = 0;
            for engine in engines.iter().cycle().take(wanted) {
                std::thread::sleep(every);
                let result = handle.switch_accel(*engine);
                if result.is_err() || start.elapsed() > LIMIT {
                    let what = format!("switch {done} to {engine:?}: {result:?}, {:?}", start.elapsed());
                    *failure.lock().unwrap() = Some(what);
                    break;
                }
                done += 1;
            }
            handle.terminate();
            done
        }
    });
    let outcome = machine.run(&mut Report::default())?;
    let done = mover.join().map_err(|_| anyhow::anyhow!("the thread that moves the machine has panicked"))?;
    drop(console);
    let text = std::fs::read_to_string(&output)?;
    let tail: Vec<&str> = text.lines().rev().take(20).collect();
    if let Some(what) = failure.lock().unwrap().take() {
        bail!("{what}\n{}", tail.join("\n"));
    }
    ensure!(outcome == Outcome::Terminated, "{outcome:?} after {done} switches\n{}", tail.join("\n"));
    let known = engines.contains(&Accel::Kvm) && doctor().contains("imitation in software");
    let known = |line: &str| known && FLAWS.iter().any(|topic| line.contains(topic));
    let failed = text.lines().filter(|line| line.starts_with("FAIL") && !known(line));
    let failed: Vec<&str> = failed.collect();
    let passed = text.lines().filter(|line| line.starts_with("PASS")).count();
    ensure!(failed.is_empty(), "after {done} switches, {passed} passed\n{}\n{text}", failed.join("\n"));
    ensure!(done == wanted && passed > 0, "{done} switches, {passed} topics");
    eprintln!("{done} switches, {passed} topics passed");
    Ok(())
}
