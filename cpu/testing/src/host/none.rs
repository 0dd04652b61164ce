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
    /// Sets all of it.
    pub fn set_scratch(&mut self, _: &[u8]) {
        match self.0 {}
    }
}

/// There is none.
pub struct Child(Infallible);

impl Child {
    /// None: this host is no x86-64 Linux.
    pub fn new() -> Option<Child> {
        None
    }
    /// Chooses the segments that code runs in from now on.
    pub fn enter(&mut self, _: Segments) -> bool {
        match self.0 {}
    }
    /// The selectors after the last instruction.
    pub fn segments_left(&self) -> Segments {
        match self.0 {}
    }
    /// The data that instructions work on.
    pub fn scratch(&mut self) -> &mut [u8] {
        match self.0 {}
    }
    /// Runs one instruction.
    pub fn run(&mut self, _: &[u8], _: &mut User) -> Result<(), HostFault> {
        match self.0 {}
    }
}

/// Whether bytes may call the system of a host that runs them.
pub fn may_call_system(_: &[u8]) -> bool {
    true
}
