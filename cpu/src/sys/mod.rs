//! Instructions that are plain Rust over the CPU state: privileged, far, string and control instructions. Every engine
//! calls the same functions.

pub(crate) mod atomic;
pub(crate) mod avx;
pub(crate) mod bcd;
pub(crate) mod control;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod deliver;
pub(crate) mod far;
pub(crate) mod flags;
pub(crate) mod fxsave;
pub(crate) mod gate;
pub(crate) mod interrupt;
pub(crate) mod io;
pub(crate) mod misc;
pub(crate) mod msr;
pub(crate) mod near;
pub(crate) mod random;
pub(crate) mod segment;
pub(crate) mod sse;
pub(crate) mod stack;
pub(crate) mod stops;
pub(crate) mod string;
pub(crate) mod syscall;
pub(crate) mod tables;
pub(crate) mod task;
pub(crate) mod watch;
pub(crate) mod x87;
pub(crate) mod xsave;
