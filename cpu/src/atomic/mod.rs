//! Atomic operations on guest memory that Rust does not have: unaligned and of 128 bits. None means that this host cannot
//! do it, and the other CPUs have to stop for it.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod none;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use none as host;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as host;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as host;

pub(crate) use host::{exchange_128, exchange_unaligned};
