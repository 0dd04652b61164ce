//! Logs to be replayed, whole and as the records that are compressed in them: any bytes are a log or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal::journal::{entry, examine};

fuzz_target!(|bytes: &[u8]| {
    let _ = examine(bytes);
    let _ = entry::count(bytes);
});
