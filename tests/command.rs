//! The command from outside: help, bad input, and what is left behind. None of this needs a running guest.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

struct Answer {
    status: Option<i32>,
    output: String,
    messages: String,
}

/// Runs softmetal in `folder`.
fn softmetal(folder: &Path, arguments: &str) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.current_dir(folder).args(arguments.split_whitespace());
    let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
    Answer {
        status: output.status.code(),
        output: String::from_utf8(output.stdout).unwrap(),
        messages: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Checks that the command is refused with `status` and one sentence that has all `parts`, before anything starts.
fn refuses(folder: &TempDir, arguments: &str, status: i32, parts: &[&str]) {
    let before = names(folder.path());
    let answer = softmetal(folder.path(), arguments);
    let message = &answer.messages;
    assert_eq!(answer.status, Some(status), "{arguments}: {message}");
    assert_eq!(answer.output, "", "{arguments}: standard output is the guest's");
    assert!(message.starts_with("softmetal: error: "), "{arguments}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments}: {part:?} is missing in: {message}");
    }
    assert_eq!(names(folder.path()), before, "{arguments}: something is left behind");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The start of a bzImage: setup sectors and header (Documentation/arch/x86/boot.rst), nothing to run.
fn bzimage(protocol: u16, xloadflags: u16, protected_mode_bytes: usize) -> Vec<u8> {
    const SETUP_SECTORS: usize = 4;
    let mut image = vec![0; (1 + SETUP_SECTORS) * 512];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SETUP_SECTORS as u8]);
    put(0x1f4, &((protected_mode_bytes / 16) as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &protocol.to_le_bytes());
    put(0x211, &[1]); // LOADED_HIGH
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &xloadflags.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x400_0000_u32.to_le_bytes()); // needs 64 MiB
    image.resize(image.len() + protected_mode_bytes, 0xf4);
    image
}

/// Protocol 2.15, 64-bit entry.
fn good_bzimage() -> Vec<u8> {
    bzimage(0x20f, 0b11, 64 << 10)
}

#[test]
fn help_teaches() {
    let folder = folder();
    for arguments in ["--help", "run --help", "demo --help"] {
        let answer = softmetal(folder.path(), arguments);
        assert_eq!((answer.status, answer.messages.as_str()), (Some(0), ""), "{arguments}");
        for part in ["Examples:", "Exit status:", "softmetal demo debian", "Ctrl-A x"] {
            assert!(answer.output.contains(part), "{arguments}: {part}");
        }
    }
    let run = softmetal(folder.path(), "run --help").output;
    for part in
        ["--kernel", "[default: 512M]", "unix=PATH", "--no-reboot", "--debug-exit", "--stats", "--symbols"]
    {
        assert!(run.contains(part), "{part}");
    }
    let list = softmetal(folder.path(), "run --debug help");
    assert_eq!(list.status, Some(0));
    assert!(list.output.contains("no-chain") && list.output.contains("no-tlb"), "{}", list.output);
    assert!(list.output.contains("profile[=FILE]"), "{}", list.output);
    let list = softmetal(folder.path(), "run --cpu help");
    assert_eq!((list.status, list.messages.as_str()), (Some(0), ""));
    for name in ["max", "v2", "v3"] {
        assert!(
            list.output.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "{}",
            list.output
        );
    }
    assert!(softmetal(folder.path(), "--version").output.starts_with("softmetal "));
}

#[test]
fn wrong_words() {
    let folder = folder();
    for (arguments, parts) in [
        ("", ["say what to do", "softmetal demo"]),
        ("jump", ["'jump'", "--help"]),
        ("run", ["--kernel is missing", "softmetal demo"]),
        ("run --kernel k --memory lots", ["--memory: 'lots' is no size", "512M"]),
        ("run --kernel k --memory 8000000G", ["--memory: '8000000G' is too much", "512G"]),
        ("run --kernel k --memory 4K", ["--memory: '4K' is too little", "128M"]),
        ("run --kernel k --cpus 1000", ["--cpus: '1000'", "1 to 255"]),
        ("run --kernel k --accel kvm --record log", ["--accel kvm: --record needs", "counts"]),
        ("run --kernel k --serial tcp:1", ["--serial: 'tcp:1'", "stdio, file=PATH, unix=PATH, none"]),
        ("run --kernel k --cpu v4", ["--cpu: 'v4' is no processor", "max, v2, v3"]),
        ("demo --cpu V2", ["--cpu: 'V2' is no processor", "--cpu help"]),
        ("run --kernel k --debug no-such", ["--debug: 'no-such'", "no-chain"]),
        (
            "run --kernel k --debug profile=",
            ["'profile='", "no-tlb, t1-at-once, lockstep[=N], profile[=FILE]"],
        ),
        ("run --kernel k --symbols System.map", ["--symbols", "--debug profile"]),
        ("run --kernel k --append a --append b", ["--append", "--help"]),
    ] {
        refuses(&folder, arguments, 2, &parts);
    }
}

#[test]
fn files_that_cannot_be_kernels() {
    let folder = folder();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("empty", b"");
    write("script", b"#!/bin/sh\nexit 0\n");
    write("text", b"This is no kernel.\n");
    write("zeros", &[0; 70_000]);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.resize(4096, 0);
    write("elf", &elf);
    // The header of Linux's arm64 Image: "ARM\x64" at 56.
    let mut arm64 = vec![0; 70_000];
    arm64[56..60].copy_from_slice(b"ARM\x64");
    write("arm64", &arm64);
    write("old", &bzimage(0x204, 0, 64 << 10));
    write("truncated", &good_bzimage()[..30_000]);
    write("short", &good_bzimage()[..1000]);
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (name, parts) in [
        ("missing", ["no such file", "bzImage"]),
        ("folder", ["is a directory", "bzImage"]),
        ("empty", ["is empty", "bzImage"]),
        ("script", ["script", "bzImage"]),
        ("text", ["no kernel that could be booted", "bzImage"]),
        ("zeros", ["no kernel that could be booted", "bzImage"]),
        ("elf", ["damaged ELF", "build it again"]),
        ("arm64", ["ARM64 kernel", "kernel for x86"]),
        ("old", ["boot protocol 2.4", "too old"]),
        ("truncated", ["truncated", "copy it again"]),
        ("short", ["truncated", "copy it again"]),
    ] {
        let arguments = format!("run --kernel {name} --serial file=console");
        refuses(&folder, &arguments, 2, &[name, parts[0], parts[1]]);
        let arguments = format!("run --kernel {name} --serial unix=socket");
        refuses(&folder, &arguments, 2, &[name]);
    }
    refuses(&folder, "run --kernel /dev/null", 2, &["/dev/null", "not a regular file"]);
}

#[test]
fn files_that_cannot_be_ram_disks() {
    let folder = folder();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("kernel", &good_bzimage());
    write("empty", b"");
    write("huge", b"070701");
    let file = fs::OpenOptions::new().write(true).open(folder.path().join("huge")).unwrap();
    file.set_len(600 << 20).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (name, part) in
        [("missing", "no such file"), ("empty", "empty"), ("folder", "directory"), ("huge", "--memory")]
    {
        let arguments = format!("run --kernel kernel --initrd {name} --serial file=console");
        refuses(&folder, &arguments, 2, &[name, part]);
    }
}

#[test]
fn too_little_memory_for_the_kernel() {
    let folder = folder();
    fs::write(folder.path().join("kernel"), good_bzimage()).unwrap();
    refuses(
        &folder,
        "run --kernel kernel --memory 32M --serial file=console",
        2,
        &["kernel", "MiB", "--memory"],
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    let folder = folder();
    fs::write(folder.path().join("kernel"), good_bzimage()).unwrap();
    let long = "x".repeat(5000);
    refuses(
        &folder,
        &format!("run --kernel kernel --serial none --append {long}"),
        2,
        &["2047", "shorten --append"],
    );
}

#[test]
fn serial_ports_that_the_host_refuses() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("kernel"), good_bzimage()).unwrap();
    fs::write(path("file"), "precious").unwrap();
    fs::create_dir(path("folder")).unwrap();
    let _listener = UnixListener::bind(path("used")).unwrap();
    let long = "x".repeat(120);
    for (target, part) in [
        ("unix=used", "the socket is in use"),
        ("unix=file", "no socket"),
        ("unix=folder", "no socket"),
        ("unix=nowhere/socket", "its folder does not exist"),
        (&format!("unix={long}"), "too long"),
        ("file=folder", "cannot be written"),
        ("file=nowhere/file", "cannot be written"),
    ] {
        refuses(&folder, &format!("run --kernel kernel --serial {target}"), 4, &["--serial", target, part]);
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"precious");
}

#[test]
fn results_that_cannot_be_written_are_refused_before_the_guest_runs() {
    let folder = folder();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("kernel", &good_bzimage());
    write("text", b"no symbols in here\n");
    write("elf", b"\x7fELF and so on");
    for (arguments, status, parts) in [
        ("--stats nowhere/stats", 4, ["--stats nowhere/stats", "cannot be written"]),
        ("--debug profile=nowhere/p", 4, ["--debug profile nowhere/p", "cannot be written"]),
        ("--debug profile --symbols gone", 2, ["--symbols gone", "no such file"]),
        ("--debug profile --symbols text", 2, ["--symbols text", "System.map"]),
        ("--debug profile --symbols elf", 2, ["--symbols elf", "damaged ELF"]),
    ] {
        refuses(&folder, &format!("run --kernel kernel --serial file=console {arguments}"), status, &parts);
    }
}

#[test]
fn demo_debian_without_apt_says_how_to_do_it_by_hand() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.args(["demo", "debian"]).env("PATH", folder.path()).env("XDG_CACHE_HOME", folder.path());
    let output = command.output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{messages}");
    assert!(output.stdout.is_empty());
    for part in ["apt-get is not on this host", "apt-get download", "softmetal run --kernel"] {
        assert!(messages.contains(part), "{part}: {messages}");
    }
}
