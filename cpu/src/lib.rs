//! The x86 CPU: architectural state, MMU, instruction semantics written once, and the engines that run them.

mod atomic;
mod attention;
mod blocks;
mod bus;
mod cpu;
mod decode;
mod decode_avx;
mod decode_integer;
mod decode_sse4;
mod decode_vector;
#[cfg(any(test, feature = "testing"))]
mod effects;
mod emit;
mod fault;
mod flags;
pub mod float;
mod group;
mod insn;
mod interp;
mod mmu;
mod mode;
mod model;
pub mod planted;
mod ram;
mod sem;
mod show;
mod spaces;
pub mod state;
mod statistics;
mod sync;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vector;
mod width;

pub use attention::{Attention, Request};
pub use bus::{Bus, Event, Gp};
pub use cpu::Exit;
pub use fault::Fault;
pub use model::Model;
pub use ram::{Ram, Rights};
pub use spaces::{AddressSpace, Trap};
pub use state::{Activity, Cpu, CpuState, Options};
pub use statistics::{Doing, Flush, Profile, Sample, Statistics, Whereabouts};
pub use sys::cpuid::{BRAND, PROCESSOR_ID};
pub use sys::watch::{Watch, WatchSink, Watched};
