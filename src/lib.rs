//! softmetal: a full-system x86 emulator.

pub mod cli;
pub mod config;
pub mod console;
pub mod memory_map;
pub mod timers;
