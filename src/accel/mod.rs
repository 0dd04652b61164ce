//! What runs the guest's instructions: our own engines or the host's KVM, chosen before the machine starts and changed while it
//! runs.

pub(crate) mod choice;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod kvm;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "absent.rs"]
pub(crate) mod kvm;
mod switch;
#[cfg(test)]
mod tests;

use softmetal_cpu::{Cpu, Exit, Translate};

pub(crate) use switch::{State, Switchboard};

use crate::config::Accel;

/// A processor with the engines that can run it.
pub(crate) struct Processor {
    pub(crate) cpu: Box<Cpu>,
    /// Its place in KVM, once it has been there.
    hardware: Option<kvm::Vcpu>,
    in_hardware: bool,
    /// KVM could not go on: it waits until another engine has it.
    stuck: bool,
}

impl Processor {
    /// A processor that our own engines run.
    pub(crate) fn new(cpu: Box<Cpu>) -> Box<Self> {
        Box::new(Self { cpu, hardware: None, in_hardware: false, stuck: false })
    }

    /// As [`Cpu::run_for`]; in KVM it runs until somebody asks.
    pub(crate) fn run_for(&mut self, instructions: u64) -> Result<Exit, Trouble> {
        match &mut self.hardware {
            Some(_) if self.stuck => {
                let attention = self.cpu.attention();
                attention.wait(None);
                attention.take();
                Ok(Exit::Requested)
            }
            Some(vcpu) if self.in_hardware => {
                let result = vcpu.run(&mut self.cpu);
                self.stuck = matches!(result, Err(Trouble::Stuck(_)));
                result
            }
            _ => Ok(self.cpu.run_for(instructions)),
        }
    }

    /// Our own engines run it from here on: the translator or the interpreter. False where there is no translator.
    fn set_translate(&mut self, wanted: Option<Translate>) -> bool {
        self.cpu.set_translate(wanted)
    }

    /// What it has left KVM for.
    pub(crate) fn counts(&self) -> Option<Counts> {
        self.hardware.as_ref().map(kvm::Vcpu::counts)
    }
}

/// Which of our own engines takes a machine that KVM cannot have.
pub(crate) const SOFTWARE: Accel = if softmetal_cpu::HAS_TRANSLATOR { Accel::Jit } else { Accel::Interp };

/// What the processors in KVM have left it for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ports: u64,
    pub(crate) memory: u64,
    /// Interrupts of the 8259 pair: the guest was ready for one, and took one.
    pub(crate) windows: u64,
    pub(crate) injections: u64,
    /// Level-triggered interrupts that ended.
    pub(crate) ends: u64,
    /// Somebody asked for something.
    pub(crate) kicks: u64,
    /// Stretches that the interpreter ran because KVM could not, and their instructions.
    pub(crate) rescues: u64,
    pub(crate) rescued: u64,
    /// Instructions of system code that the interpreter ran because KVM would have imitated it.
    pub(crate) imitated: u64,
    /// Times that user code ran in such a KVM.
    pub(crate) entries: u64,
}

impl Counts {
    /// Each with what it is, for people.
    pub(crate) fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("port accesses", self.ports),
            ("device memory", self.memory),
            ("interrupt windows", self.windows),
            ("8259 interrupts", self.injections),
            ("interrupt ends", self.ends),
            ("kicks", self.kicks),
            ("rescues by the interpreter", self.rescues),
            ("instructions of rescues", self.rescued),
            ("instructions of system code interpreted", self.imitated),
            ("stretches of user code", self.entries),
        ]
    }
}

/// Why a processor does not go on in KVM.
#[derive(Debug)]
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    allow(dead_code, reason = "our own engines have none")
)]
pub(crate) enum Trouble {
    /// KVM cannot run what the guest does, nor can the interpreter in its place: another engine can.
    Stuck(String),
    /// It is broken.
    Failed(String),
}

impl From<kvm::Error> for Trouble {
    fn from(error: kvm::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
