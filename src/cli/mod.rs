//! The command line: what the user wants, messages, signals, and the guests that are fetched.

pub mod args;
pub mod cpio;
pub mod debian;
pub mod initramfs;
mod messages;
mod signals;
