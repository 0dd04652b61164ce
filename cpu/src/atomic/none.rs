//! A host of which nothing is known.
#![allow(unsafe_code)]

use crate::width::Width;

/// Compare-and-exchange of an operand that is not aligned: what was found.
///
/// # Safety
/// `w` bytes of guest RAM at `p` are writable.
pub(crate) unsafe fn exchange_unaligned(_w: Width, _p: *mut u8, _expected: u64, _new: u64) -> Option<u64> {
    None
}

/// Compare-and-exchange of 16 bytes: what was found.
///
/// # Safety
/// 16 bytes of guest RAM at `p`, which is aligned to them, are writable.
pub(crate) unsafe fn exchange_128(_p: *mut u8, _expected: u128, _new: u128) -> Option<u128> {
    None
}
