//! Hosts without KVM: the same names, and nothing that could be made of them.
#![allow(dead_code, reason = "nobody makes here what KVM is made of")]

use std::convert::Infallible;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use softmetal_cpu::{Attention, Cpu, Exit, FeatureBit, Lacking, Model};
use softmetal_devices::clock::Clock;
use softmetal_devices::interrupts::{IOAPIC_PINS, LapicPage, LocalApics};
use thiserror::Error;

use super::{Counts, Trouble};
use crate::board::Board;
use crate::ram_port::{RamMap, RamPort};

/// Why KVM does not serve.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("KVM is for x86-64 hosts with Linux")]
    Absent,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Leaks {
    pub(crate) lacking: Vec<FeatureBit>,
    pub(crate) unoffered: Vec<FeatureBit>,
    pub(crate) without: Lacking,
}

pub(crate) struct Seen;

pub(crate) struct Findings {
    pub(crate) nanoseconds: f64,
    pub(crate) seen: Option<Seen>,
    pub(crate) processors: usize,
}

impl Findings {
    pub(crate) fn is_software(&self) -> bool {
        false
    }
}

pub(crate) fn lacking(_: Model) -> Result<Leaks, Error> {
    Err(Error::Absent)
}

pub(crate) fn host_processor_name() -> Option<String> {
    None
}

pub(crate) fn leaked(_: Model, _: &Seen) -> Vec<String> {
    Vec::new()
}

pub(crate) fn probe(_: &Path, _: Duration, _: bool) -> Result<Findings, String> {
    Err(Error::Absent.to_string())
}

pub(crate) fn run_probe(_: bool, _: &mut dyn Write) -> std::io::Result<()> {
    Ok(())
}

pub(crate) struct TscFacts {
    pub(crate) hz: u64,
    pub(crate) fixed: bool,
}

pub(crate) fn tsc_facts() -> Result<TscFacts, Error> {
    Err(Error::Absent)
}

pub(crate) fn tsc_base(_: &Clock) -> u64 {
    0
}

pub(crate) struct Vm(Infallible);

impl Vm {
    pub(crate) fn new(_: &RamPort, _: Arc<Attention>, _: bool) -> Result<Arc<Self>, Error> {
        Err(Error::Absent)
    }
    pub(crate) fn log_writes(&self) -> Result<(), Error> {
        match self.0 {}
    }
    pub(crate) fn collect_written(&self) -> Result<(), Error> {
        match self.0 {}
    }
    pub(crate) fn align(&self, _: &Clock) {
        match self.0 {}
    }
    pub(crate) fn hold(&self) {
        match self.0 {}
    }
    pub(crate) fn release(&self) {
        match self.0 {}
    }
    pub(crate) fn take_held(&self) -> Vec<(u64, u32)> {
        match self.0 {}
    }
}

impl RamMap for Vm {
    fn rights_changed(&self, _: Range<u64>) {
        match self.0 {}
    }
}

impl LocalApics for Vm {
    fn send(&self, _: u64, _: u32) -> bool {
        match self.0 {}
    }
    fn tell_ends(&self, _: &[Option<(u64, u32)>; IOAPIC_PINS]) {
        match self.0 {}
    }
    fn set_intr(&self, _: bool) {
        match self.0 {}
    }
}

pub(crate) struct Vcpu(Infallible);

impl Vcpu {
    pub(crate) fn new(_: &Arc<Vm>, _: &Arc<Board>, _: usize, _: &Cpu) -> Result<Self, Error> {
        Err(Error::Absent)
    }
    pub(crate) fn counts(&self) -> Counts {
        match self.0 {}
    }
    pub(crate) fn run(&mut self, _: &mut Cpu) -> Result<Exit, Trouble> {
        match self.0 {}
    }
    pub(crate) fn set_allowance(&mut self, _: Option<u32>) {
        match self.0 {}
    }
    pub(crate) fn enter(&mut self, _: &Cpu, _: &LapicPage) -> Result<(), Error> {
        match self.0 {}
    }
    pub(crate) fn leave(&mut self, _: &mut Cpu) -> Result<LapicPage, Error> {
        match self.0 {}
    }
}
