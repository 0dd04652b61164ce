//! What the CPU's tests share: a machine ([`Machine`]), the host's own CPU as an oracle ([`Host`]), comparison of the two,
//! and `.ins` files ([`ins`]).

pub mod bus;
pub mod chaos;
pub mod compare;
pub mod forms;
pub mod forms_legacy;
pub mod host;
pub mod ins;
pub mod layout;
mod machine;
pub mod process;
pub mod program;
pub mod random;
pub mod segments;
pub mod sweep;
pub mod ulp;
pub mod undefined;
pub mod verify;
pub mod workloads;

pub use host::{Child, Host, HostFault};
pub use machine::{End, Frame, Level, Machine, flag, pte};
pub use program::{assemble, assemble_for, options, translated, translated_alone};
pub use random::Random;
pub use segments::Segments;
pub use softmetal_cpu::testing::User;
