//! Linux's KVM: hardware virtualization, or a software imitation of it.

mod extended;
mod features;
mod kick;
mod leaked;
mod probe;
mod registers;
#[cfg(test)]
mod tests;
mod tsc;
mod vcpu;
mod vm;

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

pub(crate) use features::{Leaks, host_processor_name, lacking, leaked};
pub(crate) use probe::{Findings, probe, run_probe};
pub(crate) use tsc::{TscFacts, tsc_base, tsc_facts};
pub(crate) use vcpu::Vcpu;
pub(crate) use vm::Vm;

/// Where the kernel offers it.
const DEVICE: &str = "/dev/kvm";
/// The version of the interface since 2007.
const API: i32 = 12;

/// Why KVM does not serve.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("there is no {DEVICE}: the host has no virtualization, or its kernel's kvm module is not loaded")]
    Missing,
    #[error(
        "{DEVICE} may not be opened by this user; add it to the group that owns the device (usermod -aG kvm USER), and log in again"
    )]
    Forbidden,
    #[error("{DEVICE} cannot be opened: {0}")]
    Unusable(io::Error),
    #[error("{DEVICE} is something else than the kernel's KVM")]
    Foreign,
    #[error("KVM's interface has version {0}, not {API}")]
    Version(i32),
    #[error("KVM lacks {0}")]
    Lacks(&'static str),
    #[error("KVM refuses {0}: {1}")]
    Refused(&'static str, io::Error),
    #[error("KVM has at most {0} processors for a machine")]
    Processors(usize),
}

impl Error {
    fn refused(what: &'static str, error: kvm_ioctls::Error) -> Self {
        Self::Refused(what, io::Error::from_raw_os_error(error.errno()))
    }
}

/// What this host's KVM can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Memory that can only be read.
    pub(crate) read_only: bool,
    pub(crate) xsave: bool,
    pub(crate) debug_registers: bool,
    pub(crate) tsc_scaling: bool,
    /// Processors of a machine.
    pub(crate) processors: usize,
    /// State components that it takes, and where PKRU stands among them.
    components: u64,
    pkru: usize,
}

impl Host {
    fn open() -> Result<(Kvm, Self), Error> {
        // To tell apart why it does not open.
        let opened = OpenOptions::new().read(true).write(true).open(Path::new(DEVICE));
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            io::ErrorKind::PermissionDenied => Error::Forbidden,
            _ => Error::Unusable(error),
        })?;
        let kvm = Kvm::new().map_err(|error| Error::Unusable(io::Error::from_raw_os_error(error.errno())))?;
        let version = kvm.get_api_version();
        if version < 0 {
            return Err(Error::Foreign);
        }
        if version != API {
            return Err(Error::Version(version));
        }
        for (cap, what) in [
            (Cap::UserMemory, "user memory"),
            (Cap::SplitIrqchip, "a split irqchip"),
            (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
            (Cap::ImmediateExit, "immediate exits"),
            (Cap::VcpuEvents, "KVM_GET_VCPU_EVENTS"),
            (Cap::MpState, "KVM_GET_MP_STATE"),
            (Cap::ExtCpuid, "KVM_SET_CPUID2"),
        ] {
            if !vm::has(&kvm, cap) {
                return Err(Error::Lacks(what));
            }
        }
        let (components, pkru) = features::components(&kvm);
        let xsave = vm::has(&kvm, Cap::Xsave) && vm::has(&kvm, Cap::Xcrs);
        let host = Self {
            read_only: vm::has(&kvm, Cap::ReadonlyMem),
            xsave,
            debug_registers: vm::has(&kvm, Cap::Debugregs),
            tsc_scaling: vm::has(&kvm, Cap::TscControl),
            processors: kvm.get_max_vcpus(),
            components,
            pkru,
        };
        Ok((kvm, host))
    }

    fn layout(&self) -> extended::Layout {
        extended::Layout { components: self.components, pkru: self.pkru }
    }
}
