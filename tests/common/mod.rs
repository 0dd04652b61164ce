//! What the whole-machine tests share: Debian guests in the cache folder, and a driver for a machine's console.

// Not every test crate uses all of it.
#![allow(dead_code, unreachable_pub)]

mod clock;
mod dmesg;
mod driver;
mod interrupts;
mod kit;
pub(crate) mod lz4;
mod screen;
mod terminal;
mod trials;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use softmetal::cli::debian::{Flavour, Guests, Kernel};
use softmetal::cli::packages::Root;

#[allow(unused_imports)]
pub(crate) use clock::check_time;
#[allow(unused_imports)]
pub(crate) use dmesg::check_warnings;
#[allow(unused_imports)]
pub(crate) use driver::{Emulator, Guest, Options};
#[allow(unused_imports)]
pub(crate) use interrupts::{check_interrupts, interrupts};
#[allow(unused_imports)]
pub(crate) use kit::Kit;
#[allow(unused_imports)]
pub(crate) use screen::Screen;
#[allow(unused_imports)]
pub(crate) use terminal::{Terminal, read_until};
#[allow(unused_imports)]
pub(crate) use trials::{Named, run, trials};

/// A program that writes 0x15 to port 0xf4: Debian's kernels have no /dev/port.
const OUTB: [u8; 34] = [
    0xb8, 0xad, 0, 0, 0, // mov eax, 173 (ioperm)
    0xbf, 0xf4, 0, 0, 0, // mov edi, 0xf4
    0xbe, 0x01, 0, 0, 0, // mov esi, 1
    0xba, 0x01, 0, 0, 0, // mov edx, 1
    0x0f, 0x05, // syscall
    0xb0, 0x15, // mov al, 0x15
    0xe6, 0xf4, // out 0xf4, al
    0x6a, 0x3c, 0x58, // mov eax, 60 (exit)
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
    0x90,
];

/// The built-in demo guest as a file. Its command line: `quick`, or `run=COMMAND;COMMAND` and power off.
pub(crate) fn demo_guest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-roms/demo/demo.bin")
}

/// Kernels and busybox stay here from one test run to the next; git ignores it.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/guests")
}

/// A kernel, fetched when it is not in the cache. One test fetches, the others wait for it.
pub(crate) fn kernel(flavour: Flavour) -> Result<Kernel> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    with_guests(|guests| {
        guests.busybox()?;
        guests.kernel(flavour)
    })
}

/// The folder of a package's files, fetched when it is not in the cache.
pub(crate) fn package(name: &str) -> Result<PathBuf> {
    with_guests(|guests| guests.package(name))
}

/// The files of packages as one tree.
pub(crate) fn packages(names: &[&str]) -> Result<Root> {
    with_guests(|guests| Root::new(guests, names))
}

/// A RAM disk for `kernel` in `folder`; init runs `script` before the shell.
pub(crate) fn initramfs(
    kernel: &Kernel,
    folder: &Path,
    script: Option<&str>,
    compressed: bool,
) -> Result<PathBuf> {
    let mut contents = with_guests(|guests| guests.initramfs(kernel, script.map(str::to_owned)))?;
    contents.files.push(("root/outb".into(), executable(&OUTB)));
    let mut bytes = contents.build();
    if compressed {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&bytes)?;
        bytes = gzip.finish()?;
    }
    let path = folder.join("initrd");
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn with_guests<T>(work: impl FnOnce(&Guests<'_>) -> Result<T>) -> Result<T> {
    let say = |line: &str| eprintln!("guests: {line}");
    work(&Guests::new(&cache(), &say))
}

/// A static x86-64 program of one segment with this code.
fn executable(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let word = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let long = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    // Executable, x86-64, version; entry, program headers, no section headers; flags, sizes and counts.
    half(&mut elf, &[2, 62]);
    word(&mut elf, &[1]);
    long(&mut elf, &[BASE + HEADERS, 64, 0]);
    word(&mut elf, &[0]);
    half(&mut elf, &[64, 56, 1, 0, 0, 0]);
    // One segment to load, readable and executable: the whole file at BASE.
    word(&mut elf, &[1, 5]);
    long(&mut elf, &[0, BASE, BASE, size, size, 0x1000]);
    elf.extend_from_slice(code);
    elf
}
