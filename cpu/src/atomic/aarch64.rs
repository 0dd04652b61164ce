//! AArch64: pairs of registers are loaded and stored exclusively; operands that are not aligned stop the other CPUs.
#![allow(unsafe_code)]

use crate::width::Width;
use core::arch::asm;

/// Compare-and-exchange of an operand that is not aligned: nothing that every AArch64 host could do.
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
pub(crate) unsafe fn exchange_128(p: *mut u8, expected: u128, new: u128) -> Option<u128> {
    let (low, high): (u64, u64);
    // SAFETY: reads and writes 16 aligned bytes at p, for which the caller vouches. What was found is one value only once
    // the store has succeeded, so it is written back where it is not the expected one.
    unsafe {
        asm!(
            "2:",
            "ldaxp {low}, {high}, [{p}]",
            "cmp {low}, {expected_low}",
            "ccmp {high}, {expected_high}, #0, eq",
            "csel {store_low}, {new_low}, {low}, eq",
            "csel {store_high}, {new_high}, {high}, eq",
            "stlxp {failed:w}, {store_low}, {store_high}, [{p}]",
            "cbnz {failed:w}, 2b",
            "dmb ish",
            p = in(reg) p,
            low = out(reg) low,
            high = out(reg) high,
            expected_low = in(reg) expected as u64,
            expected_high = in(reg) (expected >> 64) as u64,
            new_low = in(reg) new as u64,
            new_high = in(reg) (new >> 64) as u64,
            store_low = out(reg) _,
            store_high = out(reg) _,
            failed = out(reg) _,
            options(nostack)
        );
    }
    Some(u128::from(low) | u128::from(high) << 64)
}
