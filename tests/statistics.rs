//! What a run leaves behind for those who want to know what it was made of: `-v`, `--stats`, `--debug profile`.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::demo_guest;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(180);

struct Ran {
    console: String,
    messages: String,
    elapsed: f64,
}

/// Runs the demo guest doing this in `folder` to its end.
fn demo(folder: &TempDir, append: &str, more: &str) -> Ran {
    let start = Instant::now();
    let kernel = demo_guest();
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_softmetal"))
        .current_dir(folder.path())
        .args(["run", "--memory", "64M", "--kernel"])
        .arg(kernel)
        .args(["--append", append])
        .args(more.split_whitespace())
        .timeout(LIMIT)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{messages}");
    Ran {
        console: String::from_utf8_lossy(&output.stdout).into_owned(),
        messages,
        elapsed: start.elapsed().as_secs_f64(),
    }
}

fn json(folder: &TempDir, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(values: &Value) -> f64 {
    values.as_object().unwrap().values().filter_map(Value::as_f64).sum()
}

/// Checks what holds of every report; gives its time.
fn check(report: &Value) -> f64 {
    let seconds = report["seconds"].as_f64().unwrap();
    let cpus = report["cpus"].as_array().unwrap();
    for cpu in cpus {
        let times = sum(&cpu["seconds"]);
        assert!((times - seconds).abs() < 1e-6, "{times} of {seconds}: {cpu}");
        let count = |name: &str| number(&cpu[name]);
        assert!(count("user_instructions") <= count("instructions"), "{cpu}");
        assert!(count("tlb_fills") <= count("tlb_misses"), "{cpu}");
        assert!(count("blocks") <= count("lookups") && count("blocks") <= count("decoded"), "{cpu}");
        let misses = count("tlb_misses") + count("fetch_misses");
        assert!(count("walks") + count("second_level") <= misses, "{cpu}");
        let in_spaces: u64 =
            cpu["address_spaces"].as_array().unwrap().iter().map(|s| number(&s["instructions"])).sum();
        assert_eq!(in_spaces, count("user_instructions"), "{cpu}");
    }
    // What left the CPUs has reached devices, which have had a few accesses of the firmware's before.
    let left: u64 = cpus.iter().map(|cpu| number(&cpu["device_accesses"])).sum();
    let devices = report["devices"].as_array().unwrap();
    let came: u64 = devices.iter().map(|device| number(&device["reads"]) + number(&device["writes"])).sum();
    assert!((left..left + 10).contains(&came), "{left}: {report}");
    seconds
}

#[test]
fn times_add_up_and_counts_agree() {
    times_and_counts("interp", "interpreter", "interpreter");
    times_and_counts("jit", "translated", "translated code");
}

/// Runs the demo guest on this engine, most of whose work is in the report under `part` and in the messages under `shown`.
fn times_and_counts(accel: &str, part: &str, shown: &str) {
    let folder = tempfile::tempdir().unwrap();
    let ran = demo(&folder, "run=cpu;mem;test", &format!("-v --stats stats.json --cpus 2 --accel {accel}"));
    let report = json(&folder, "stats.json");
    let seconds = check(&report);
    assert!(seconds > 0.0 && seconds <= ran.elapsed, "{seconds} of {}", ran.elapsed);
    let [first, second] = &report["cpus"].as_array().unwrap()[..] else { panic!("{report}") };
    let instructions = number(&first["instructions"]);
    assert!(instructions > 10_000_000 && number(&second["instructions"]) == 0, "{report}");
    assert!(first["seconds"][part].as_f64().unwrap() > 0.0, "{report}");
    // The second processor was never started.
    assert_eq!(second["seconds"]["idle"].as_f64().map(|idle| idle > 0.9 * seconds), Some(true), "{second}");
    let console = |device: &&Value| device["name"] == "COM1";
    let com1 = report["devices"].as_array().unwrap().iter().find(console).unwrap();
    assert!(number(&com1["writes"]) as usize >= ran.console.len(), "{com1}");

    let has = |start: &str, part: &str| {
        let mut lines = ran.messages.lines().filter_map(|line| line.strip_prefix("softmetal: info:   "));
        assert!(
            lines.any(|line| line.starts_with(start) && line.contains(part)),
            "{start}: {}",
            ran.messages
        );
    };
    let words: Vec<&str> = ran.messages.split_whitespace().collect();
    let total = words.windows(3).find(|words| words[1] == "instructions" && words[2] == "in").unwrap()[0];
    assert_eq!(total.replace(',', "").parse(), Ok(instructions));
    has(shown, " %");
    has("halted", " %");
    has("devices ", "COM1 ");
    has("exceptions ", "#PF ");
}

#[test]
fn without_v_nothing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(demo(&folder, "run=mem", "").messages, "");
}

#[test]
fn resets_are_parts_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    demo(&folder, "run=reboot", "--stats once.json --no-reboot");
    let once = json(&folder, "once.json");
    check(&once);
    assert_eq!(once["power_ons"], 1);
}

#[test]
fn a_profile_finds_the_functions_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // The whole image, wherever it is, and nothing of what the firmware leaves below it.
    fs::write(folder.path().join("map"), "0000000000010000 T everything\n0000000004000000 B end\n").unwrap();
    let counted = "--clock instructions";
    let ran = demo(&folder, "run=mem", &format!("{counted} --stats plain.json"));
    assert_eq!(ran.messages, "");
    let options = format!("{counted} --stats profiled.json --debug profile=folded --symbols map");
    assert_eq!(demo(&folder, "run=mem", &options).messages, "");
    let (plain, profiled) = (json(&folder, "plain.json"), json(&folder, "profiled.json"));
    assert_eq!(plain["cpus"][0]["instructions"], profiled["cpus"][0]["instructions"]);
    check(&plain);
    check(&profiled);

    let text = fs::read_to_string(folder.path().join("folded")).unwrap();
    let (mut all, mut named) = (0, 0);
    for line in text.lines() {
        let (frames, count) = line.rsplit_once(' ').unwrap();
        let count: u64 = count.parse().unwrap();
        let (whose, function) = frames.split_once(';').unwrap();
        assert!(whose == "kernel" || whose.starts_with("user CR3 0x"), "{line}");
        assert!(function == "everything" || function.starts_with("0x"), "{line}");
        all += count;
        named += if function == "everything" { count } else { 0 };
    }
    assert!(named > 0 && 10 * named >= 9 * all, "{text}");
    // One at most each half a millisecond, and the one at the end.
    let seconds = profiled["seconds"].as_f64().unwrap();
    assert!(all as f64 <= 2000.0 * seconds + 2.0, "{all} samples in {seconds} s");

    let printed = demo(&folder, "run=mem", "--debug profile --symbols map").messages;
    assert!(
        printed.contains(" samples, ") && printed.contains("%  kernel               everything"),
        "{printed}"
    );
}

/// Linux's `perf` finds names of translated code where it looks for them; nobody else finds anything there.
#[test]
fn profilers_of_the_host_learn_names_of_translated_code() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("map"), "0000000000010000 T everything\n0000000004000000 B end\n").unwrap();
    let map_of = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_softmetal"));
        command.current_dir(folder.path()).args(["run", "--memory", "64M", "--kernel"]).arg(demo_guest());
        command.args(["--append", "quick run=cpu;mem"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{more:?}");
        let path = format!("/tmp/perf-{}.map", child.id());
        let text = fs::read_to_string(&path).ok();
        let _ = fs::remove_file(path);
        text
    };
    let profile = ["--debug", "profile,jit-at-once", "--symbols", "map"];
    let map = map_of(&[&["--accel", "jit"][..], &profile].concat()).expect("there is a map");
    let mut lines = map.lines().map(|line| {
        let [address, bytes, name] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let number = |text| u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{line}"));
        (number(address), number(bytes), name)
    });
    let (_, _, shared) = lines.next().unwrap();
    assert_eq!(shared, "softmetal: shared by all translations");
    // What is rarely run stands apart; nothing lies in anything else.
    let mut pieces: Vec<_> = lines.collect();
    pieces.sort_unstable();
    let mut end = 0;
    let mut named = 0;
    for (address, bytes, name) in pieces {
        assert!(address >= end && bytes > 0, "{map}");
        end = address + bytes;
        assert!(name == "everything" || name.starts_with("0x"), "{name}");
        named += u32::from(name == "everything");
    }
    assert!(named > 20, "{map}");

    assert_eq!(map_of(&["--accel", "jit"]), None);
    assert_eq!(map_of(&[&["--accel", "interp"][..], &profile].concat()), None);
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "this host has no translator")]
fn the_translator_has_a_part_of_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let ran = demo(&folder, "run=cpu;mem;test", "--accel jit --stats stats.json -v");
    let report = json(&folder, "stats.json");
    check(&report);
    let cpu = &report["cpus"][0];
    assert!(
        number(&cpu["translator"]["translated"]) > 0 && number(&cpu["translator"]["entered"]) > 0,
        "{cpu}"
    );
    assert!(cpu["seconds"]["translated"].as_f64().unwrap() > 0.0, "{cpu}");
    for row in ["  translated code  ", "  translator  "] {
        assert!(ran.messages.contains(row), "{row}: {}", ran.messages);
    }
}
