//! Arguments, one a line: whatever they are, the answer is a request or one sentence, and what is accepted is in range.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use softmetal::cli::args::{Request, parse};
use softmetal::config::{MAX_CPUS, MAX_MEMORY, MIN_MEMORY};

fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    match parse(std::iter::once("softmetal".into()).chain(words)) {
        Ok(Request::Run(config)) => {
            assert!((MIN_MEMORY..=MAX_MEMORY).contains(&config.memory));
            assert!((1..=MAX_CPUS).contains(&config.cpus));
        }
        Ok(_) => {}
        Err(sentence) => assert!(!sentence.to_string().contains('\n'), "{sentence}"),
    }
});
