//! `softmetal verify` from outside.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use lz4_flex::frame::FrameEncoder;

struct Answer {
    status: Option<i32>,
    output: String,
    messages: String,
}

fn verify(arguments: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.arg("verify").args(arguments);
    let output = command.timeout(Duration::from_secs(300)).output().unwrap();
    Answer {
        status: output.status.code(),
        output: String::from_utf8(output.stdout).unwrap(),
        messages: String::from_utf8(output.stderr).unwrap(),
    }
}

fn refuses(arguments: &[&str], part: &str) {
    let Answer { status, output, messages } = verify(arguments);
    assert_eq!((status, output.as_str()), (Some(2), ""), "{arguments:?}: {messages}");
    assert!(messages.contains(part), "{arguments:?}: {part:?} is missing in: {messages}");
}

/// Whether this host can be compared with; it says so where it cannot.
fn host_serves() -> bool {
    let answer = verify(&["--count", "1"]);
    if answer.status == Some(2) {
        assert!(answer.messages.contains("--against FILE"), "{}", answer.messages);
    }
    answer.status == Some(0)
}

fn vectors() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/x86-64.lz4")
}

#[test]
fn help_teaches_by_examples() {
    let answer = verify(&["--help"]);
    assert_eq!(answer.status, Some(0));
    for part in ["--against interp", "--only 'adc|sbb'", "--record FILE", "Exit status"] {
        assert!(answer.output.contains(part), "{part} is missing in:\n{}", answer.output);
    }
}

#[test]
fn wrong_use_is_refused_in_a_sentence() {
    refuses(&["--accel", "kvm"], "right are interp, jit and t1");
    refuses(&["--against", "nobody"], "right are host, interp, and a file");
    refuses(&["--against", "interp", "--only", "("], "no regular expression");
    refuses(&["--against", "interp", "--only", "nonesuch"], "matches no instruction");
    refuses(&["--against", file!(), "--record", "x"], "--against FILE");
    refuses(&["--against", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], "--record FILE");
}

#[test]
fn without_speed_ups_everything_is_the_same() {
    let answer = verify(&["--against", "interp", "--count", "100000", "--seed", "1"]);
    assert_eq!(answer.status, Some(0), "{}{}", answer.output, answer.messages);
    assert!(answer.output.contains("Nothing differs."), "{}", answer.output);
}

#[test]
fn translated_code_does_the_same() {
    let answer = verify(&["--accel", "jit", "--against", "interp", "--count", "100000", "--seed", "1"]);
    assert_eq!(answer.status, Some(0), "{}{}", answer.output, answer.messages);
    assert!(answer.output.contains("Nothing differs."), "{}", answer.output);
}

#[test]
fn the_host_agrees() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    if !host_serves() {
        return;
    }
    let answer = verify(&["--count", "200000"]);
    assert_eq!(answer.status, Some(0), "{}{}", answer.output, answer.messages);
    let seed = answer.messages.split("--seed ").nth(1).unwrap().split(' ').next().unwrap();
    // The same seed runs the same cases.
    let met = |answer: &Answer| answer.output.lines().nth(1).map(str::to_owned);
    assert_eq!(met(&verify(&["--count", "200000", "--seed", seed])), met(&answer));
}

/// What the CPU that the vectors come from does not have: the extensions, and the registers of PREFETCH, of Intel's.
const NOT_RECORDED: [&str; 10] = [
    "Cldemote_m8",
    "Movdir64b_r16_m512",
    "Movdir64b_r32_m512",
    "Movdir64b_r64_m512",
    "Movdiri_m32_r32",
    "Movdiri_m64_r64",
    "Reservednop_rm16_r16_0F0D",
    "Reservednop_rm32_r32_0F0D",
    "Reservednop_rm64_r64_0F0D",
    "Serialize",
];

#[test]
fn recorded_vectors_hold_every_instruction() {
    let answer = verify(&["--against", vectors()]);
    assert_eq!(answer.status, Some(0), "{}{}", answer.output, answer.messages);
    let missed = answer.output.lines().find_map(|line| line.strip_prefix("Not met: ")).unwrap_or("");
    let missed: Vec<&str> = missed.split(' ').filter(|name| !NOT_RECORDED.contains(name)).collect();
    assert!(
        missed.concat().is_empty(),
        "not in the vectors: {missed:?}; tests/vectors/README.md says how to make them"
    );
    assert!(fs::metadata(vectors()).unwrap().len() < 1 << 20);
}

#[test]
fn what_is_recorded_can_be_replayed() {
    if !host_serves() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors");
    let name = file.to_str().unwrap();
    let recorded = verify(&["--record", name, "--count", "500", "--only", "^(adc|vaddps|fadd)"]);
    assert_eq!(recorded.status, Some(0), "{}{}", recorded.output, recorded.messages);
    let replayed = verify(&["--against", name]);
    assert_eq!(replayed.status, Some(0), "{}{}", replayed.output, replayed.messages);
    assert!(replayed.output.starts_with("500 cases"), "{}", replayed.output);
    assert_eq!(
        verify(&["--against", name, "--only", "xor"]).output.lines().next().map(|l| &l[..7]),
        Some("0 cases")
    );
}

/// A file that says that NOP makes RAX 1, in MessagePack.
fn wrong_vectors(path: &Path) {
    let mut out = FrameEncoder::new(fs::File::create(path).unwrap());
    out.write_all(b"\x93\xb1softmetal vectors\x01\xc2").unwrap();
    // 64-bit code, the instruction, nothing before, no memory.
    out.write_all(b"\x98\x00\xc4\x01\x90\x92\x00\xc4\x00\x90").unwrap();
    // Behind it RAX (bit 0) and RIP (bit 61), no memory, no exception, no selectors.
    out.write_all(
        b"\x92\xcf\x20\0\0\0\0\0\0\x01\xc4\x10\x01\0\0\0\0\0\0\0\x01\x08\xf0\x1f\0\0\0\0\x90\xc0\xc0",
    )
    .unwrap();
    out.finish().unwrap();
}

#[test]
fn a_difference_is_told_as_a_line_and_by_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors");
    wrong_vectors(&file);
    let answer = verify(&["--against", file.to_str().unwrap()]);
    assert_eq!(answer.status, Some(1), "{}{}", answer.output, answer.messages);
    assert!(answer.output.contains("cpl3: [90] \"nop\" => rax=1\n"), "{}", answer.output);
    assert!(answer.output.contains("# rax: 0, expected 1"), "{}", answer.output);
    // Half a file is no file.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    let answer = verify(&["--against", file.to_str().unwrap()]);
    assert!(matches!(answer.status, Some(2 | 4)), "{}", answer.messages);
}

#[test]
fn the_coverage_table_is_up_to_date() {
    let answer = verify(&["--coverage"]);
    assert_eq!(answer.status, Some(0));
    let kept = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify-coverage.md")).unwrap();
    assert!(
        answer.output == kept,
        "docs/verify-coverage.md is old: softmetal verify --coverage > docs/verify-coverage.md"
    );
}
