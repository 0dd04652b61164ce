//! Small programs for the test machine, and the options under which each should run.

use iced_x86::{IcedError, code_asm::CodeAssembler};
use softmetal_cpu::{Options, Translate};

/// Assembles 64-bit code for an address.
///
/// # Panics
/// If the code cannot be encoded.
pub fn assemble(at: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    assemble_for(64, at, build)
}

/// Assembles 16-, 32- or 64-bit code.
///
/// # Panics
/// If the code cannot be encoded.
pub fn assemble_for(
    bitness: u32,
    at: u64,
    build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut a = CodeAssembler::new(bitness).expect("16, 32 and 64 are bitnesses");
    build(&mut a).expect("the test's instructions exist");
    a.assemble(at).expect("the test's branches reach")
}

/// Every risky speed-up on, and each off; then every block translated when it runs for the first time, and those that run
/// for the third time with what follows them; then in one pass, first for ever, then until they run for the third time.
pub fn options() -> [Options; 9] {
    let plain = Options { cpus: 1, ..Options::default() };
    [
        plain,
        Options { no_chain: true, ..plain },
        Options { no_specialise: true, ..plain },
        Options { no_fuse: true, ..plain },
        Options { no_tlb: true, ..plain },
        translated(0),
        translated(2),
        translated_alone(u32::MAX),
        translated_alone(2),
    ]
}

/// Blocks are translated at once when they have run so often.
pub fn translated(threshold: u32) -> Options {
    Options {
        cpus: 1,
        jit: Some(Translate { threshold, at_once: true, one_pass: None, paths: None }),
        ..Options::default()
    }
}

/// Blocks are translated in one pass when they run for the first time, and with what follows them when they have run so
/// often.
pub fn translated_alone(threshold: u32) -> Options {
    let jit = Translate { threshold, at_once: true, one_pass: Some(0), paths: Some(2) };
    Options { cpus: 1, jit: Some(jit), ..Options::default() }
}
