//! softmetal: a full-system x86 emulator.

mod accel;
#[cfg(test)]
mod bare;
mod board;
mod boot;
pub mod cli;
pub mod config;
pub mod console;
mod debug_log;
pub mod debugger;
mod dirty;
pub mod disks;
mod guest_ram;
pub mod journal;
mod lockstep;
pub mod machine;
pub mod memory_map;
mod origin;
mod outcome;
mod pc;
pub mod profile;
mod ram_port;
pub mod statistics;
#[cfg(feature = "testing")]
pub mod testing;
mod timers;
mod vcpu;
pub mod watch;

pub use machine::{Handle, Machine};
pub use outcome::Outcome;
