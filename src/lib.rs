//! softmetal: a full-system x86 emulator.

pub mod config;
pub mod timers;
