//! Breakpoints and single steps from outside: the same on every engine. What needs /dev/kvm is skipped, said, where that does not
//! serve.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use softmetal::config::{Accel, Config, KernelSource, SerialTarget};
use softmetal::console::Console;
use softmetal::debugger::{StopReason, Stopped, Verdict};
use softmetal::statistics::Report;
use softmetal::{Handle, Machine, Outcome};
use softmetal_cpu::{CpuState, HAS_TRANSLATOR, Model};

/// The binary under test.
const SOFTMETAL: &str = env!("CARGO_BIN_EXE_softmetal");
/// The demo guest's entry in 64-bit mode.
const ENTRY: u64 = 0x10_0200;
/// How long a stop may take on a busy host.
const LIMIT: Duration = Duration::from_secs(100);

/// Those that there are.
fn engines() -> Vec<Accel> {
    let mut engines = vec![Accel::Interp];
    engines.extend(HAS_TRANSLATOR.then_some(Accel::Jit));
    let doctor = Command::new(SOFTMETAL).arg("doctor").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout);
    match text.starts_with("KVM works") {
        true => engines.push(Accel::Kvm),
        false => eprintln!("not with KVM: {text}"),
    }
    engines
}

/// The demo guest that describes its memory and powers off, in a thread of its own.
struct Guest {
    handle: Handle,
    stops: Receiver<Stopped>,
    run: thread::JoinHandle<Outcome>,
}

impl Guest {
    /// It stands at each breakpoint.
    fn start(accel: Accel, append: &str, breakpoints: &[u64]) -> Self {
        let image = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin")).unwrap();
        let mut config = Config::new(KernelSource::BuiltIn(image.leak()));
        (config.accel, config.cpu, config.leak) = (accel, Model::V2, true);
        (config.memory, config.serial) = (64 << 20, SerialTarget::None);
        config.append = append.into();
        let mut console = Console::of(&config);
        let machine = Machine::build(&config, &console).unwrap();
        let handle = machine.handle();
        console.open(&config, &handle).unwrap();
        let (sender, stops): (Sender<Stopped>, _) = channel();
        handle.on_stop(Box::new(move |stopped| match sender.send(stopped.clone()) {
            Ok(()) => Verdict::Stand,
            Err(_) => Verdict::Enough,
        }));
        handle.set_breakpoints(breakpoints).unwrap();
        let run = thread::spawn(move || {
            let _console = console;
            machine.run(&mut Report::default()).unwrap()
        });
        Self { handle, stops, run }
    }

    /// The next stop, when the machine stands.
    fn stopped(&self) -> Stopped {
        let stopped = self.stops.recv_timeout(LIMIT).expect("it should stop");
        let start = Instant::now();
        while let Err(error) = self.handle.cpu_state(0) {
            assert!(start.elapsed() < LIMIT, "{error}");
            thread::sleep(Duration::from_millis(1));
        }
        stopped
    }
}

/// What a stop is: where, and the general registers.
fn told(stopped: &Stopped) -> (u64, [u64; 16], StopReason) {
    assert_eq!((stopped.cpu, stopped.linear), (0, stopped.state.rip));
    (stopped.linear, stopped.state.gpr, stopped.why)
}

#[test]
fn stops_and_steps_are_the_same_on_every_engine() {
    let mut seen = Vec::new();
    for accel in engines() {
        let guest = Guest::start(accel, "quick run=mem;poweroff", &[ENTRY]);
        let first = guest.stopped();
        assert_eq!((first.linear, first.why), (ENTRY, StopReason::Breakpoint));
        // The TSC may have another offset behind KVM.
        let now = guest.handle.cpu_state(0).unwrap();
        assert_eq!(CpuState { tsc_offset: first.state.tsc_offset, ..now }, first.state, "{accel:?}");
        let mut story = vec![told(&first)];
        story.extend((0..400).map(|_| told(&guest.handle.single_step(0).unwrap())));
        assert!(story[1..].iter().all(|step| step.2 == StopReason::Step));
        // A loop's instruction: it comes again.
        let again = story[350].0;
        guest.handle.set_breakpoints(&[again]).unwrap();
        for _ in 0..3 {
            guest.handle.resume();
            let stopped = guest.stopped();
            assert_eq!(stopped.linear, again, "{accel:?}");
            story.push(told(&stopped));
        }
        assert!(guest.handle.cpu_state(1).is_err() && guest.handle.single_step(1).is_err());
        guest.handle.set_breakpoints(&[]).unwrap();
        guest.handle.resume();
        assert_eq!(guest.run.join().unwrap(), Outcome::PoweredOff, "{accel:?}");
        seen.push((accel, story));
    }
    for (accel, story) in &seen[1..] {
        assert!(*story == seen[0].1, "{accel:?} does otherwise than {:?}", seen[0].0);
    }
}

#[test]
fn breakpoints_survive_a_reset() {
    for accel in engines() {
        let guest = Guest::start(accel, "quick run=mem;reboot", &[ENTRY]);
        for _ in 0..2 {
            assert_eq!(guest.stopped().linear, ENTRY);
            guest.handle.resume();
        }
        guest.handle.terminate();
        assert_eq!(guest.run.join().unwrap(), Outcome::Terminated);
    }
}

#[test]
fn what_kvm_has_no_breakpoints_for_the_translator_has() {
    if !engines().contains(&Accel::Kvm) {
        return;
    }
    let many: Vec<u64> = (0..4).map(|k| 0x1000 + k).chain([ENTRY]).collect();
    let guest = Guest::start(Accel::Kvm, "quick run=mem;poweroff", &many);
    assert_eq!(guest.stopped().linear, ENTRY);
    assert_ne!(guest.handle.accel(), Accel::Kvm);
    guest.handle.resume();
    assert_eq!(guest.run.join().unwrap(), Outcome::PoweredOff);
}

#[test]
fn a_machine_that_runs_is_not_stepped() {
    let guest = Guest::start(Accel::Interp, "quick", &[]);
    let error = guest.handle.single_step(0).unwrap_err().to_string();
    assert!(error.contains("pause it first"), "{error}");
    guest.handle.pause();
    assert_eq!(guest.handle.single_step(0).map(|stopped| stopped.cpu).unwrap(), 0);
    guest.handle.resume();
    guest.handle.terminate();
    assert_eq!(guest.run.join().unwrap(), Outcome::Terminated);
}

/// The demo guest with these arguments; its messages.
fn messages(arguments: &[&str]) -> (bool, String) {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin");
    let mut command = Command::new(SOFTMETAL);
    command.args(["run", "--accel", "jit", "--kernel", image, "--append", "quick run=mem;poweroff"]);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_command_line_prints_what_it_stops_at() {
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map");
    std::fs::write(&map, format!("{ENTRY:016x} T entry\n{:016x} T _text\n", ENTRY - 0x200)).unwrap();
    let map = map.to_str().unwrap();
    for place in ["0x100200", "entry"] {
        let (success, text) = messages(&["--break", place, "--symbols", map]);
        assert!(success, "{text}");
        assert_eq!(text.matches("break: CPU 0 is at 0x100200 (entry)\n").count(), 1, "{text}");
        assert!(text.contains("RIP 0000000000100200"), "{text}");
    }
    let (success, text) = messages(&["--break", "exit", "--symbols", map]);
    assert!(!success && text.contains("no function 'exit'"), "{text}");
    // A log and its replay stop at the same places, and are otherwise as without.
    let log = folder.path().join("log");
    let log = log.to_str().unwrap();
    let recorded = messages(&["--break", "0x100200", "--record", log]);
    let replayed = messages(&["--break", "0x100200", "--replay", log]);
    assert_eq!((recorded.0, recorded.1.matches("break: CPU 0").count()), (true, 1), "{}", recorded.1);
    assert_eq!(recorded, replayed);
}

#[test]
fn a_machine_that_stands_goes_on_with_sigcont() {
    use std::io::{BufRead, BufReader};
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/test-roms/demo/demo.bin");
    let mut command = Command::new(SOFTMETAL);
    command.args(["run", "--accel", "jit", "--kernel", image, "--append", "quick run=mem;poweroff"]);
    command.args(["--break", "0x100200:stop"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("the machine stands until it gets SIGCONT")));
    thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
}
