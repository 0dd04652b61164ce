//! Who runs a case: the emulated CPU, or who says what is right.

use crate::{
    Segments,
    compare::narrow,
    host::{Host, HostFault},
    layout::*,
    machine::{Machine, flag},
};
use softmetal_cpu::{Options, testing::User};

/// A CPU that runs code from given registers and its own scratch memory, which lies at [`SCRATCH`].
pub trait Side {
    /// Chooses the segments that code runs in from now on, and what is in place goes. False where
    /// there are none of that kind.
    fn enter(&mut self, segments: Segments) -> bool;
    /// Brings the segments back that a run has changed; what is in place stays.
    fn leave(&mut self);
    /// The selectors that the last run left, of code that is not 64-bit code.
    fn selectors(&mut self) -> Segments;
    /// Puts one instruction, or a run of them, in place.
    fn load(&mut self, code: &[u8]);
    /// Runs what is in place once. `user` becomes what it left, or, where it faulted, what stood then.
    fn run(&mut self, user: &mut User) -> Result<(), HostFault>;
    /// The same for a run of instructions of `len` bytes.
    fn run_block(&mut self, user: &mut User, len: usize) -> Result<(), HostFault>;
    /// Reads scratch memory; `at` is linear.
    fn read(&mut self, at: u64, out: &mut [u8]);
    /// Writes scratch memory, which is not read-only there.
    fn write(&mut self, at: u64, bytes: &[u8]);
    /// Sets all of the scratch memory, the read-only page too.
    fn set_scratch(&mut self, bytes: &[u8]);
}

/// The emulated CPU, at CPL 3.
pub struct Emulated {
    machine: Machine,
    segments: Segments,
}

impl Emulated {
    /// With speed-ups switched off as `options` says.
    pub fn new(options: Options) -> Emulated {
        let mut machine = Machine::new(options);
        machine.cpu.set_state(&Machine::user_state());
        Emulated { machine, segments: Segments::LONG }
    }

    /// EAX to EDX of CPUID.
    pub fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut user = crate::compare::blank();
        (user.gpr[0], user.gpr[1]) = (leaf.into(), subleaf.into());
        self.load(&[0x0f, 0xa2]);
        let done = self.run(&mut user);
        assert!(done.is_ok(), "CPUID raises no exception");
        [user.gpr[0], user.gpr[3], user.gpr[1], user.gpr[2]].map(|v| v as u32)
    }
}

/// The emulated CPU's fault in the terms of a host's.
fn fault(fault: softmetal_cpu::Fault) -> HostFault {
    HostFault {
        vector: fault.vector,
        error: fault.error_code.unwrap_or(0),
        cr2: if fault.vector == 14 { fault.address } else { 0 },
    }
}

impl Side for Emulated {
    fn enter(&mut self, segments: Segments) -> bool {
        self.segments = segments;
        self.machine.cpu.set_state(&match segments {
            Segments::LONG => Machine::user_state(),
            segments => Machine::user_state_in(segments),
        });
        true
    }
    fn leave(&mut self) {
        self.enter(self.segments);
    }
    fn selectors(&mut self) -> Segments {
        let [es, cs, ss, ds, ..] = self.machine.cpu.state().segments.map(|s| s.selector);
        Segments { cs, ss, ds, es }
    }
    fn load(&mut self, code: &[u8]) {
        self.machine.load(code);
    }
    fn run(&mut self, user: &mut User) -> Result<(), HostFault> {
        let before = *user;
        let result = self.machine.run_user(user).map_err(fault);
        if self.segments != Segments::LONG {
            narrow(&before, user);
        }
        // RF stands in the image that a fault pushes.
        user.rflags &= !flag::RF;
        result
    }
    fn run_block(&mut self, user: &mut User, len: usize) -> Result<(), HostFault> {
        self.machine.cpu.load_user(user);
        let result = self.machine.cpu.run_to_fault();
        *user = self.machine.cpu.user();
        user.rflags &= !flag::RF;
        match result {
            // UD2 stands behind the code.
            Some(fault) if fault.vector == 6 && user.rip == INSN + len as u64 => Ok(()),
            Some(stopped) => Err(fault(stopped)),
            None => Err(HostFault { vector: u8::MAX, error: 0, cr2: 0 }),
        }
    }
    fn read(&mut self, at: u64, out: &mut [u8]) {
        self.machine.read(SCRATCH_FRAME + (at - SCRATCH), out);
    }
    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.machine.write(SCRATCH_FRAME + (at - SCRATCH), bytes);
    }
    fn set_scratch(&mut self, bytes: &[u8]) {
        self.machine.write(SCRATCH_FRAME, bytes);
    }
}

impl Side for Host {
    fn enter(&mut self, segments: Segments) -> bool {
        Host::enter(self, segments)
    }
    fn leave(&mut self) {}
    fn selectors(&mut self) -> Segments {
        self.segments()
    }
    fn load(&mut self, code: &[u8]) {
        Host::load(self, code);
    }
    fn run(&mut self, user: &mut User) -> Result<(), HostFault> {
        Host::run(self, user)
            .map_err(|fault| HostFault { cr2: if fault.vector == 14 { fault.cr2 } else { 0 }, ..fault })
    }
    fn run_block(&mut self, user: &mut User, _: usize) -> Result<(), HostFault> {
        Side::run(self, user)
    }
    fn read(&mut self, at: u64, out: &mut [u8]) {
        let at = (at - SCRATCH) as usize;
        out.copy_from_slice(&self.scratch()[at..at + out.len()]);
    }
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - SCRATCH) as usize;
        self.scratch()[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn set_scratch(&mut self, bytes: &[u8]) {
        Host::set_scratch(self, bytes);
    }
}
