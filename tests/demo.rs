//! The demo guest: booted in every way that the command line has. It needs nothing from outside, so these tests run
//! everywhere.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use common::{Guest, Options, Terminal, demo_guest, read_until};
use rustix::process::Signal;

const PROMPT: &str = "softmetal> ";
const SOON: Duration = Duration::from_secs(60);

fn options(append: &'static str) -> Options {
    Options { kernel: demo_guest(), memory: "64M", append, ..Options::default() }
}

/// Runs the guest to its end: the status, what it sent, and what softmetal said.
fn run(options: &Options) -> (ExitStatus, String, String) {
    let mut guest = Guest::start(options).unwrap();
    let (status, messages) = guest.finish(SOON).unwrap();
    (status, guest.tail(), messages)
}

#[test]
fn the_built_in_guest_tests_the_cpu_and_answers() {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_softmetal"))
        .args(["demo", "--memory", "64M"])
        // Typed ahead: it waits until the guest listens.
        .write_stdin("mem\rpoweroff\r")
        .timeout(Duration::from_secs(180))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in
        ["Hello from the softmetal demo guest", "all checksums right", "softmetal> mem", "Powering off."]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("FAIL"), "{text}");
}

#[test]
fn debug_exit_gives_odd_statuses() {
    for (append, status) in [("run=exit 0", 1), ("run=exit 21", 43), ("run=exit 127", 255)] {
        let (end, console, messages) = run(&Options { debug_exit: true, ..options(append) });
        assert_eq!(end.code(), Some(status), "{append}: {console}{messages}");
        assert_eq!(messages, "");
    }
    let (end, console, _) = run(&options("run=exit 21"));
    assert_eq!(end.code(), Some(0));
    assert!(console.contains("There is no debug-exit port."), "{console}");
}

#[test]
fn a_triple_fault_is_a_crash_with_the_state_of_the_cpu() {
    let (end, console, messages) = run(&options("run=crash"));
    assert_eq!(end.code(), Some(6), "{console}{messages}");
    let message = messages.to_lowercase();
    assert!(message.starts_with("softmetal: error: ") && message.contains("triple fault"), "{messages}");
    assert!(message.contains("rip") && message.contains("cr3"), "{messages}");
}

#[test]
fn a_reset_ends_or_starts_again() {
    let (end, console, messages) = run(&Options { no_reboot: true, ..options("run=reboot") });
    assert_eq!(end.code(), Some(0), "{console}{messages}");

    let mut guest = Guest::start(&options("quick")).unwrap();
    for _ in 0..2 {
        guest.expect("Hello from the softmetal demo guest", SOON).unwrap();
        guest.expect(PROMPT, SOON).unwrap();
        guest.send("reboot\r").unwrap();
    }
    guest.expect(PROMPT, SOON).unwrap();
    guest.send("poweroff\r").unwrap();
    assert_eq!(guest.finish(SOON).unwrap().0.code(), Some(0));
}

#[test]
fn every_debug_flag_gives_the_same_answers() {
    let list = ["none", "no-chain", "no-specialise", "no-tlb", "no-chain,no-specialise,no-tlb"];
    let memory = list.map(|flags| {
        let mut options = options("run=mem;peek 1000 16");
        if flags != "none" {
            options.arguments = vec!["--debug".into(), flags.into()];
        }
        let (end, console, messages) = run(&options);
        assert_eq!(end.code(), Some(0), "{flags}: {console}{messages}");
        let answers = console.split_once("softmetal> mem").map(|(_, answers)| answers.to_owned());
        answers.unwrap_or_else(|| panic!("{flags}: {console}"))
    });
    assert!(memory.iter().all(|answer| *answer == memory[0]), "{memory:?}");
}

#[test]
fn watched_memory_is_told_of_and_stays_the_same() {
    let (_, expected, _) = run(&options("quick run=peek 3000 16"));
    let answer = |console: &str| console.split_once("softmetal> peek").map(|(_, answer)| answer.to_owned());
    for (range, count) in [("0x3000+4:r", 4), ("phys:0x3002+3", 3), ("0x3000+16:w", 0)] {
        let mut options = options("quick run=peek 3000 16");
        options.arguments = vec!["--watch".into(), range.into()];
        let (end, console, messages) = run(&options);
        assert_eq!(end.code(), Some(0), "{range}: {console}{messages}");
        assert_eq!(answer(&console), answer(&expected), "{range}");
        assert_eq!(messages.lines().count(), count, "{range}: {messages}");
        let told =
            |line: &str| line.starts_with("softmetal: watch: CPU 0 at rip 0x") && line.contains("reads 0x");
        assert!(messages.lines().all(told), "{range}: {messages}");
    }
}

#[test]
fn output_goes_to_a_file_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("console");
    let arguments = vec!["--serial".into(), format!("file={}", file.display())];
    let (end, console, messages) = run(&Options { arguments, ..options("run=mem") });
    assert_eq!(end.code(), Some(0), "{messages}");
    assert!(console.trim_end().ends_with("with:"), "standard output has {console}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("Hello from the softmetal demo guest") && text.contains("Powering off."), "{text}");
}

#[test]
fn without_a_serial_target_nothing_is_said() {
    let arguments = vec!["--serial".into(), "none".into()];
    let (end, console, messages) = run(&Options { arguments, ..options("run=mem") });
    assert_eq!((end.code(), messages.as_str()), (Some(0), ""));
    assert!(console.trim_end().ends_with("with:"), "standard output has {console}");
}

#[test]
fn a_socket_is_a_terminal_for_one_client_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let arguments = vec!["--serial".into(), format!("unix={}", path.display())];
    let options = Options { arguments, ..options("quick") };
    let mut guest = Guest::start(&options).unwrap();
    let connect = || {
        let deadline = Instant::now() + SOON;
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    };
    let mut first = connect();
    read_until(&mut first, PROMPT);
    first.write_all(b"mem\r").unwrap();
    read_until(&mut first, PROMPT);

    let (status, _, messages) = run(&options);
    assert_eq!(status.code(), Some(4), "{messages}");
    assert!(messages.contains("the socket is in use"), "{messages}");

    drop(first);
    let mut second = connect();
    second.write_all(b"poweroff\r").unwrap();
    let mut rest = String::new();
    second.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Powering off."), "{rest}");
    assert_eq!(guest.finish(SOON).unwrap().0.code(), Some(0));
    assert!(!path.exists(), "the socket stays behind");
}

/// Whether what this process starts ignores a signal.
fn ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 != 0
}

#[test]
fn signals_end_a_guest_that_does_not_listen() {
    for (signals, end) in [
        (&[Signal::TERM, Signal::TERM][..], Signal::TERM),
        (&[Signal::INT, Signal::INT], Signal::INT),
        (&[Signal::HUP], Signal::HUP),
    ] {
        // What a shell has told its background jobs to ignore stays ignored.
        if ignored(end) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let arguments = vec!["--serial".into(), format!("unix={}", path.display())];
        let mut guest = Guest::start(&Options { arguments, ..options("quick") }).unwrap();
        let deadline = Instant::now() + SOON;
        while !path.exists() {
            assert!(Instant::now() < deadline, "the socket does not appear");
            thread::sleep(Duration::from_millis(10));
        }
        for signal in signals {
            thread::sleep(Duration::from_millis(200));
            guest.signal(*signal).unwrap();
        }
        // A signal that comes while one like it waits is lost: on a busy host the two may be one.
        let deadline = Instant::now() + SOON;
        while !guest.ended().unwrap() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
            guest.signal(end).unwrap();
        }
        let (status, messages) = guest.finish(SOON).unwrap();
        assert_eq!(status.signal(), Some(end.as_raw()), "{messages}");
        assert!(!path.exists(), "the socket stays behind");
    }
}

/// The demo guest on a terminal of its own.
fn terminal(append: &str) -> Terminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.arg("run").arg("--kernel").arg(demo_guest()).args(["--memory", "64M", "--append", append]);
    Terminal::start(command)
}

#[test]
fn the_terminal_is_raw_and_comes_back_after_poweroff() {
    let mut terminal = terminal("quick");
    terminal.wait_for(PROMPT);
    assert!(terminal.is_raw());
    // Ctrl-C is the guest's, and so is Ctrl-A when typed twice.
    terminal.typed(b"\x03\x01\x01\rpoweroff\r");
    terminal.wait_for("Powering off.");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(!terminal.is_raw());
}

#[test]
fn ctrl_a_helps_and_ends() {
    let mut terminal = terminal("quick");
    terminal.wait_for(PROMPT);
    terminal.typed(b"\x01h");
    terminal.wait_for("end the machine at once");
    assert!(terminal.is_raw());
    terminal.typed(b"\x01x");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_comes_back_after_a_crash() {
    let mut terminal = terminal("quick");
    terminal.wait_for(PROMPT);
    terminal.typed(b"crash\r");
    terminal.wait_for("triple fault");
    assert_eq!(terminal.end().code(), Some(6));
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_comes_back_after_signals() {
    for (signals, end) in [(&[Signal::TERM, Signal::TERM][..], Signal::TERM), (&[Signal::HUP], Signal::HUP)] {
        // As under nohup: who inherits that goes on ignoring it.
        if ignored(end) {
            continue;
        }
        let mut terminal = terminal("quick");
        terminal.wait_for(PROMPT);
        for signal in signals {
            terminal.signal(*signal);
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(terminal.end().signal(), Some(end.as_raw()));
        assert!(!terminal.is_raw());
    }
}

#[test]
fn the_terminal_is_the_shells_while_the_process_is_stopped() {
    let mut terminal = terminal("quick");
    terminal.wait_for(PROMPT);
    terminal.signal(Signal::TSTP);
    terminal.until(|terminal| state(terminal.process()) == 'T');
    assert!(!terminal.is_raw());
    terminal.signal(Signal::CONT);
    terminal.until(Terminal::is_raw);
    terminal.typed(b"poweroff\r");
    assert_eq!(terminal.end().code(), Some(0));
}

/// The state of a process, as a letter (proc_pid_stat(5)).
fn state(process: u32) -> char {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).unwrap();
    status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap()
}
