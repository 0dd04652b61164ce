//! Hosts that cannot run x86 instructions.

use super::HostFault;
use softmetal_cpu::testing::User;
use std::convert::Infallible;

/// There is none.
pub struct Host(Infallible);

impl Host {
    /// None: this host is no x86-64 Linux.
    pub fn new() -> Option<Host> {
        None
    }
    /// Puts one instruction in its place.
    pub fn load(&mut self, _: &[u8]) {
        match self.0 {}
    }
    /// Runs it.
    pub fn run(&mut self, _: &mut User) -> Result<(), HostFault> {
        match self.0 {}
    }
    /// The data that instructions work on.
    pub fn scratch(&mut self) -> &mut [u8] {
        match self.0 {}
    }
}
