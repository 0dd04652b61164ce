//! Files of symbols: each is refused, or answers for every address. Input: an address to which the file is moved, then the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal::profile::Symbols;

fuzz_target!(|bytes: &[u8]| {
    let Some((at, file)) = bytes.split_first_chunk::<8>() else { return };
    let at = u64::from_le_bytes(*at);
    for at in [None, Some(at)] {
        if let Ok(mut symbols) = Symbols::parse(file, at) {
            symbols.add(symbols.clone());
            for address in [0, u64::MAX, at.unwrap_or(0x40_0000)] {
                let _ = symbols.find(address);
            }
        }
    }
});
