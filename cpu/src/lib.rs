//! The x86 CPU: architectural state, MMU, instruction semantics written once, and the engines that run them.

pub mod float;
