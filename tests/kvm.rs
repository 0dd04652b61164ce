//! Machines in KVM, and machines that move between engines. What needs /dev/kvm is ignored where that does not serve, with the
//! reason.

mod common;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{Terminal, initramfs, kernel, run};
use libtest_mimic::{Completion, Failed, Trial};
use softmetal::cli::debian::{Flavour, Guests};
use softmetal::config::{Accel, Config, KernelSource, SerialTarget};
use softmetal::console::Console;
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
    let anywhere: [Named; 5] = [
        ("auto comes to an engine that works", auto_works),
        ("a device that may not be opened is explained", forbidden),
        ("a machine moves between translator and interpreter", software_switches),
        ("Ctrl-A e moves the machine to the next engine", keys_switch),
        ("the host's processor is for KVM alone", host_processor),
    ];
    let debian = Guests::hindrance().map(|why| format!("Debian's kernels cannot be fetched: {why}"));
    let with_kvm: [Named; 3] = [
        ("a probe that hangs costs less than a second", hanging_probe),
        ("a machine moves between KVM, interpreter and translator", all_switches),
        ("flaws of a model are refused, and listed where they are accepted", flaws),
    ];
    let mut trials: Vec<Trial> = anywhere.into_iter().map(|test| trial(test, None)).collect();
    trials.push(trial(("Linux boots and computes while its engine changes", linux_switches), debian.clone()));
    trials.push(trial(("Linux boots and computes in KVM", linux_in_kvm), hindrance.clone().or(debian)));
    trials.extend(with_kvm.into_iter().map(|test| trial(test, hindrance.clone())));
    let software = doctor().contains("imitation in software");
    for (rom, cpus, in_software) in ROMS {
        let (hindrance, but) = match in_software {
            _ if !software => (hindrance.clone(), [].as_slice()),
            Nothing(why) => {
                let why = format!("this host's KVM is an imitation in software: {why}");
                (hindrance.clone().or(Some(why)), [].as_slice())
            }
            But(topics) => (hindrance.clone(), topics),
        };
        let name = format!("{rom} on {cpus} CPUs does in KVM what it does interpreted");
        trials.push(Trial::ignorable_test(name, move || match &hindrance {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => same_topics(rom, cpus, but)
                .map(|()| Completion::Completed)
                .map_err(|error| Failed::from(format!("{error:#}"))),
        }));
    }
    run(trials)
}

/// What a KVM in software, which runs user code of 64 bits on the host's processor and imitates everything else, makes of a ROM.
#[derive(Clone, Copy)]
enum InSoftware {
    /// What it should, but for these topics.
    But(&'static [&'static str]),
    /// Nothing that could be judged.
    Nothing(&'static str),
}

use InSoftware::{But, Nothing};

/// The test ROMs that judge what KVM and processor do together, with how many processors. What the interpreter does not run in place
/// of such a KVM it does wrong: user code that loads segment registers, jumps far or looks at selectors finds the host's descriptors,
/// not the guest's; a store into two pages writes the first before the second faults; of a port that the map allows KVM does not look
/// at the byte behind; the local APIC reports no illegal vector.
const ROMS: [(&str, u32, InSoftware); 15] = [
    ("real16", 1, But(&[])),
    ("protected32", 1, But(&[])),
    ("paging32", 1, But(&[])),
    ("paging57", 1, But(&["bases exactly"])),
    ("paging64", 1, But(&["implicit accesses"])),
    ("exceptions64", 1, But(&["illegal vector of an IPI exactly", "I/O permissions"])),
    ("debug", 1, But(&[])),
    (
        "compat",
        1,
        But(&[
            "far jumps",
            "far calls",
            "IRET",
            "call gates",
            "SYSEXIT",
            "addresses at the edges",
            "stack addresses at the edges",
        ]),
    ),
    ("v86", 1, But(&[])),
    ("tasks", 1, But(&[])),
    ("split", 1, But(&["writes exactly"])),
    ("selfmod", 1, But(&[])),
    (
        "apic",
        2,
        Nothing("its local APIC differs in what is exact, and its interrupts come when a stretch is over"),
    ),
    ("clocks", 1, Nothing("interrupts come when a stretch is over, too late for what counts ticks")),
    (
        "litmus",
        2,
        Nothing("a LOCK of the interpreter is none for user code in KVM, unless its operand is aligned"),
    ),
];

/// A test ROM passes, fails and skips the same topics in KVM and interpreted, on the same processor, `but` for these in KVM.
fn same_topics(rom: &str, cpus: u32, but: &[&str]) -> Result<()> {
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
    let interpreted = topics("interp")?;
    ensure!(!interpreted.is_empty(), "nothing was judged");
    for (accel, but) in [("jit", [].as_slice()), ("kvm", but)] {
        let judged = |topics: Vec<String>| -> Vec<String> {
            // PASS, FAIL or SKIP, a space, the topic and a colon.
            let named = |line: &str, topic: &str| {
                line.get(5..)
                    .and_then(|rest| rest.strip_prefix(topic))
                    .is_some_and(|rest| rest.starts_with(':'))
            };
            topics.into_iter().filter(|line| !but.iter().any(|topic| named(line, topic))).collect()
        };
        let (here, there) = (judged(topics(accel)?), judged(interpreted.clone()));
        ensure!(here == there, "interp: {there:#?}\n{accel}: {here:#?}");
    }
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
    ensure!(messages.contains("KVM left for"), "{messages}");
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

/// The prompt answers under each engine, to which the user's keys bring it.
fn keys_switch() -> Result<()> {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin");
    let mut command = Command::new(SOFTMETAL);
    command.args(["run", "--accel", "jit", "--kernel", image, "--append", "quick"]);
    let mut terminal = Terminal::start(command);
    terminal.wait_for("softmetal> ");
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        terminal.typed(b"\x01e");
        let says = |text: &str| -> Option<String> {
            let (name, _) = text.split_once("the machine runs on ")?.1.split_once("\r\n")?;
            Some(name.trim().to_owned())
        };
        let mut text = terminal.wait_for("the machine runs on ");
        while says(&text).is_none() {
            text += &terminal.wait_for("\n");
        }
        seen.extend(says(&text));
        terminal.typed(b"mem\r");
        ensure!(terminal.wait_for("softmetal> ").contains("RAM:"), "{text}");
    }
    ensure!(seen.contains("interp") && seen.contains("jit"), "{seen:?}");
    terminal.typed(b"poweroff\r");
    ensure!(terminal.end().success());
    Ok(())
}

fn host_processor() -> Result<()> {
    for accel in ["interp", "jit"] {
        let mut command = Command::new(SOFTMETAL);
        let output =
            command.args(["demo", "--accel", accel, "--cpu", "host"]).stdin(Stdio::null()).output()?;
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        let named = format!("--accel {accel}");
        ensure!(output.status.code() == Some(2) && messages.contains(&named), "{messages}");
        ensure!(messages.contains("--cpu max"), "{messages}");
    }
    Ok(())
}

/// What a checksum in a guest is of, and is.
const SORTED: &str = "seq 1 20000 | sort -r | sha256sum";
const SUM: &str = "32e8bfc1888e4abc71c499baefe2efcad2ecc01d1c18f4a453d5d62b502a2c3e";

/// A Debian kernel comes to its shell, starts programs, computes and powers off, in KVM to the end; how long that took, and what
/// KVM was left for, are printed.
fn linux_in_kvm() -> Result<()> {
    let script =
        format!("i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo round $i: $({SORTED}); done; poweroff -f\n");
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), Some(&script), false)?;
    let [output, messages] = ["output", "messages"].map(|name| folder.path().join(name));
    let mut command = Command::new(SOFTMETAL);
    command.args(["run", "--accel", "kvm", "--cpu", "v2,leak=on", "--append", "console=ttyS0 quiet", "-v"]);
    command.arg("--kernel").arg(kernel.image).arg("--initrd").arg(initrd).stdin(Stdio::null());
    command.stdout(std::fs::File::create(&output)?).stderr(std::fs::File::create(&messages)?);
    let start = Instant::now();
    let mut child = command.spawn()?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > LIMIT => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let text = |path| Ok::<_, std::io::Error>(String::from_utf8_lossy(&std::fs::read(path)?).into_owned());
    let (console, messages) = (text(output)?, text(messages)?);
    ensure!(status.is_some_and(|status| status.success()), "{status:?}\n{messages}\n{console}");
    ensure!(console.matches(SUM).count() == 5, "{messages}\n{console}");
    ensure!(!messages.contains("goes on without KVM"), "{messages}");
    let counts = messages.lines().find_map(|line| line.split_once("KVM left for")).unwrap_or_default().1;
    let rescues =
        counts.split(',').find_map(|count| count.trim().strip_prefix("rescues by the interpreter "));
    let (seconds, rescues) = (start.elapsed().as_secs_f64(), rescues.unwrap_or("no"));
    eprintln!("{seconds:.1} s, {rescues} rescues; KVM was left for {}", counts.trim());
    Ok(())
}

/// A Debian kernel boots, sorts and computes checksums while its engine changes all the time; how often it computes, and that all
/// of them are right, it says itself.
fn linux_switches() -> Result<()> {
    let rounds = wanted_switches() / 15;
    let script = format!(
        "i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); s=$({SORTED}); \
         case $s in {SUM}*) echo round $i is right ;; *) echo round $i is WRONG: $s ;; esac; done; poweroff -f\n"
    );
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), Some(&script), false)?;
    let mut config = Config::new(KernelSource::File(kernel.image));
    config.accel = Accel::Jit;
    config.initrd = vec![initrd];
    config.append = "console=ttyS0 quiet".into();
    let engines = [Accel::Interp, Accel::Jit];
    let run = moved(config, &engines, Duration::from_millis(200), usize::MAX)?;
    ensure!(
        run.outcome == Outcome::PoweredOff,
        "{:?} after {} switches\n{}",
        run.outcome,
        run.switches,
        run.tail()
    );
    let right = run.console.lines().filter(|line| line.contains("is right")).count();
    ensure!(right == rounds && !run.console.contains("WRONG"), "{right} of {rounds}\n{}", run.tail());
    ensure!(run.switches > 1, "{} switches", run.switches);
    eprintln!("{} switches, {right} checksums right", run.switches);
    Ok(())
}

/// What a KVM in software does otherwise than processors do, by the topics that fail for it: the first where another engine goes on
/// with a guest that has seen its CPUID, the others without any switch. Seen on one that
/// runs user code of 64 bits on the host's processor and imitates everything else.
const FLAWS: [(&str, &str); 8] = [
    ("moves and addressing", "CPUID shows MOVBE, which was not asked for, and elsewhere it is not there"),
    ("local APIC", "the shadows of STI and POPF are not kept"),
    ("debug registers and single step", "single steps get lost, data breakpoints do nothing"),
    ("page protection", "a store into two pages writes the first before the second faults"),
    ("SMEP and SMAP", "CPUID shows SMAP, which was not asked for, and STAC is undefined"),
    ("ring 3", "INT n of user code is undefined, CLI and IN fault whatever the IOPL"),
    ("SYSCALL and SYSRET", "SYSCALL comes without EFER.SCE, too"),
    ("compatibility mode", "user code of 32 bits does not run"),
];

/// A machine that was moved between engines.
struct Moved {
    outcome: Outcome,
    switches: usize,
    console: String,
}

impl Moved {
    fn tail(&self) -> String {
        let start = self.console.len().saturating_sub(3000);
        self.console.get(start..).unwrap_or(&self.console).to_owned()
    }
}

/// Runs a machine and moves it to these engines in turn, so often at most; then it ends, if it has not ended by itself.
fn moved(mut config: Config, engines: &[Accel], every: Duration, wanted: usize) -> Result<Moved> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("console");
    config.serial = SerialTarget::File(output.clone());
    let mut console = Console::of(&config);
    let machine = Machine::build(&config, &console)?;
    let handle = machine.handle();
    console.open(&config, &handle)?;
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let mover = std::thread::spawn({
        let engines = engines.to_vec();
        move || {
            let start = Instant::now();
            for (switches, engine) in engines.iter().cycle().take(wanted).enumerate() {
                if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return Ok(switches);
                }
                let result = handle.switch_accel(*engine);
                if result.is_err() || start.elapsed() > LIMIT {
                    handle.terminate();
                    bail!("switch {switches} to {engine:?}: {result:?}, {:?}", start.elapsed());
                }
            }
            handle.terminate();
            Ok(wanted)
        }
    });
    let outcome = machine.run(&mut Report::default())?;
    drop(done);
    let switches =
        mover.join().map_err(|_| anyhow::anyhow!("the thread that moves the machine has panicked"))?;
    drop(console);
    let console = String::from_utf8_lossy(&std::fs::read(&output)?).into_owned();
    let moved = Moved { outcome, switches: 0, console };
    Ok(Moved { switches: switches.with_context(|| moved.tail())?, ..moved })
}

/// The demo guest checks its processor, timers and interrupts over and over while it moves from one engine to the next.
fn switches(engines: &[Accel], model: Model, every: Duration) -> Result<()> {
    let wanted = wanted_switches();
    let image = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin"))?;
    let mut config = Config::new(KernelSource::BuiltIn(image.leak()));
    config.accel = Accel::Jit;
    (config.cpu, config.leak) = (model, true);
    // It resets the machine each time, which begins with its first engine again.
    config.append = "quick run=test;reboot".into();
    let run = moved(config, engines, every, wanted)?;
    ensure!(
        run.outcome == Outcome::Terminated,
        "{:?} after {} switches\n{}",
        run.outcome,
        run.switches,
        run.tail()
    );
    let known = engines.contains(&Accel::Kvm) && doctor().contains("imitation in software");
    let known = |line: &str| known && FLAWS.iter().any(|(topic, _)| line.contains(topic));
    let text = &run.console;
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL") && !known(line)).collect();
    let passed = text.lines().filter(|line| line.starts_with("PASS")).count();
    ensure!(
        failed.is_empty(),
        "after {} switches, {passed} passed\n{}\n{text}",
        run.switches,
        failed.join("\n")
    );
    ensure!(run.switches == wanted && passed > 0, "{} switches, {passed} topics", run.switches);
    eprintln!("{} switches, {passed} topics passed", run.switches);
    Ok(())
}
