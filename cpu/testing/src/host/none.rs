//! Hosts that cannot run x86 instructions.

use super::HostFault;
use crate::Segments;
use softmetal_cpu::testing::User;
use std::convert::Infallible;

/// There is none.
pub struct Host(Infallible);

impl Host {
    /// None: this host is no x86-64 Linux.
    pub fn new() -> Option<Host> {
        None
    }
    /// Chooses the segments that instructions run in from now on.
    pub fn enter(&mut self, _: Segments) -> bool {
        match self.0 {}
    }
    /// The selectors after the last instruction.
    pub fn segments(&self) -> Segments {
        match self.0 {}
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
