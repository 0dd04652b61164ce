//! What KVM cannot run, or only slowly, the interpreter runs in its place.

use std::time::{Duration, Instant};

use softmetal_cpu::{Cpu, Exit, Flush};

use super::super::tsc;
use super::Vcpu;
use crate::accel::Trouble;

/// How many instructions the interpreter runs in KVM's place when KVM cannot: few where that is rare, more where one such
/// instruction follows the other.
const STRETCH: std::ops::RangeInclusive<u64> = 256..=1 << 14;
/// Rescues that come sooner after another than this are in a row.
const SOON: Duration = Duration::from_micros(100);

/// What rescues there were.
pub(super) struct Rescues {
    /// How many instructions the next one may have.
    stretch: u64,
    /// When the last one ended.
    last: Option<Instant>,
    /// Those that a second may have.
    pub(super) allowance: Option<u32>,
    /// Those of the second that began then.
    second: (Instant, u32),
}

impl Default for Rescues {
    fn default() -> Self {
        Self { stretch: *STRETCH.start(), last: None, allowance: None, second: (Instant::now(), 0) }
    }
}

impl Vcpu {
    /// The interpreter runs a stretch of what KVM cannot.
    pub(super) fn rescue(&mut self, cpu: &mut Cpu, why: &str) -> Result<Exit, Trouble> {
        let before = self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)?;
        cpu.set_state(&before);
        let soon = self.rescues.last.is_some_and(|last| last.elapsed() < SOON);
        let next = if soon { self.rescues.stretch * 2 } else { self.rescues.stretch / 2 };
        self.rescues.stretch = next.clamp(*STRETCH.start(), *STRETCH.end());
        let start = cpu.instructions();
        let stretch = self.rescues.stretch;
        let exit = self.run_stretch(cpu, |cpu| cpu.run_confined(stretch));
        let done = cpu.instructions() - start;
        self.counts.rescues += 1;
        self.counts.rescued += done;
        log::trace!(
            "{why}: rescued at {:x}:{:x}, {done} instructions",
            before.segments[1].selector,
            before.rip
        );
        if exit == Exit::TripleFault {
            return Ok(exit);
        }
        let after = cpu.state();
        if exit == Exit::Outside && after == before {
            return Err(Trouble::Stuck(format!(
                "KVM stops with {why} at {:x}:{:x}, and the interpreter may not run that instruction in its place",
                before.segments[1].selector, before.rip
            )));
        }
        self.write_changes(&before, &after)?;
        let now = Instant::now();
        self.rescues.last = Some(now);
        if now.duration_since(self.rescues.second.0) > Duration::from_secs(1) {
            self.rescues.second = (now, 0);
        }
        self.rescues.second.1 += 1;
        if self.rescues.allowance.is_some_and(|allowance| self.rescues.second.1 > allowance) {
            return Err(Trouble::Stuck("KVM cannot run too much of what this guest does".into()));
        }
        Ok(exit)
    }

    /// The interpreter runs. Page tables may be others then: where KVM has shadows of them, it only
    /// sees what the guest writes.
    pub(super) fn run_stretch(&mut self, cpu: &mut Cpu, run: impl FnOnce(&mut Cpu) -> Exit) -> Exit {
        const TOLD: [Flush; 5] = [Flush::Cr3, Flush::Page, Flush::LargePage, Flush::Invpcid, Flush::Control];
        let flushes = |cpu: &Cpu| TOLD.map(|cause| cpu.flushes()[cause as usize]);
        let before = flushes(cpu);
        let exit = run(cpu);
        if flushes(cpu) != before {
            self.vm.forget_shadows();
        }
        // It may take no interrupt now that it could take then.
        self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
        exit
    }
}
