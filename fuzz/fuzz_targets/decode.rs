//! Bytes as code, in every mode: a block is decoded that lies within the bytes, and whose operands lie within the registers.
//! Input: two bytes of mode, two of the place in the page, then code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal_cpu::testing::decode;

fuzz_target!(|bytes: &[u8]| {
    let [m0, m1, o0, o1, code @ ..] = bytes else { return };
    let offset = u16::from_le_bytes([*o0, *o1]) & 0xfff;
    let room = 4096 - usize::from(offset);
    decode(&code[..code.len().min(room)], offset, u16::from_le_bytes([*m0, *m1]));
});
