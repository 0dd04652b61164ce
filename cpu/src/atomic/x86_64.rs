//! x86-64: LOCK works on any address, but outside of one cache line it stops the whole host, and hosts may punish it.
#![allow(unsafe_code)]

use crate::width::Width;
use core::arch::asm;

const LINE: usize = 64;

/// Compare-and-exchange of an operand that is not aligned: what was found. None where it lies in two cache lines.
///
/// # Safety
/// `w` bytes of guest RAM at `p` are writable.
pub(crate) unsafe fn exchange_unaligned(w: Width, p: *mut u8, expected: u64, new: u64) -> Option<u64> {
    if p.addr() % LINE + usize::from(w.0) > LINE {
        return None;
    }
    let mut found = expected;
    // SAFETY: reads and writes w bytes at p, for which the caller vouches.
    unsafe {
        match w.0 {
            2 => asm!("lock cmpxchg [{p}], {new:x}", p = in(reg) p, new = in(reg) new,
                inout("rax") found, options(nostack)),
            4 => asm!("lock cmpxchg [{p}], {new:e}", p = in(reg) p, new = in(reg) new,
                inout("rax") found, options(nostack)),
            8 => asm!("lock cmpxchg [{p}], {new}", p = in(reg) p, new = in(reg) new,
                inout("rax") found, options(nostack)),
            _ => return None,
        }
    }
    Some(w.mask(found))
}

/// Compare-and-exchange of 16 bytes: what was found.
///
/// # Safety
/// 16 bytes of guest RAM at `p`, which is aligned to them, are writable.
pub(crate) unsafe fn exchange_128(p: *mut u8, expected: u128, new: u128) -> Option<u128> {
    if !is_x86_feature_detected!("cmpxchg16b") {
        return None;
    }
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: reads and writes 16 aligned bytes at p, for which the caller vouches. RBX, which the compiler keeps for
    // itself, is restored.
    unsafe {
        asm!(
            "xchg rbx, rsi",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") p,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack)
        );
    }
    Some(u128::from(low) | u128::from(high) << 64)
}
