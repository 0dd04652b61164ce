//! What KVM cannot run, or only slowly, the interpreter runs in its place.

use std::time::{Duration, Instant};

use softmetal_cpu::state::{Segment, seg};
use softmetal_cpu::{Activity, Cpu, Exit, Flush};
use softmetal_devices::interrupts::LapicPage;

use super::super::{Error, tsc};
use super::Vcpu;
use crate::accel::Trouble;

/// How many instructions the interpreter runs in KVM's place when KVM cannot: few where that is rare, more where one such
/// instruction follows the other.
const STRETCH: std::ops::RangeInclusive<u64> = 256..=1 << 14;
/// Rescues that come sooner after another than this are in a row.
const SOON: Duration = Duration::from_micros(100);
/// How many it runs of code that KVM would imitate: a millisecond or two, for which interrupts wait.
const SYSTEM_STRETCH: u64 = 1 << 17;

/// RFLAGS.TF and IF.
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;

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
        let exit = self.run_stretch(cpu, self.rescues.stretch);
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

    /// Where KVM imitates what is not user code of 64 bits, the interpreter runs that, which is faster and knows more instructions:
    /// up to what is KVM's or the devices', which KVM runs alone, or so many instructions. None where it is at user code.
    pub(super) fn run_system_code(&mut self, cpu: &mut Cpu) -> Result<Option<Exit>, Trouble> {
        let sregs = self.fd.get_sregs().map_err(|error| Error::refused("special registers", error))?;
        if sregs.ss.dpl == 3 && sregs.cs.l != 0 {
            self.set_single(false)?;
            return Ok(None);
        }
        // What was served comes to its end, and an interrupt that waits is taken.
        let window = self.fd.get_kvm_run().request_interrupt_window;
        self.pass()?;
        // The signal of that. Who else has sent one has asked for something, which is looked at next.
        self.fd.set_kvm_immediate_exit(0);
        self.fd.get_kvm_run().request_interrupt_window = window;
        let before = self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)?;
        if before.activity != Activity::Active {
            return Ok(None);
        }
        cpu.set_state(&before);
        if before.rflags & IF != 0 && before.injected.is_none() && has_interrupt(&self.lapic_registers()?) {
            // KVM delivers it.
            self.set_single(before.segments[seg::CS].attributes & Segment::LONG == 0 && before.rflags & TF == 0)?;
            return Ok(None);
        }
        let start = cpu.instructions();
        let exit = self.run_stretch(cpu, SYSTEM_STRETCH);
        self.counts.imitated += cpu.instructions() - start;
        if exit != Exit::TripleFault {
            let after = cpu.state();
            // What is not for the interpreter KVM runs alone.
            let [cs, ss] = [seg::CS, seg::SS].map(|s| after.segments[s].attributes);
            let is_user = ss >> 5 & 3 == 3 && cs & Segment::LONG != 0;
            let is_64 = cs & Segment::LONG != 0;
            self.set_single(exit == Exit::Outside && !is_user && !is_64 && after.rflags & TF == 0)?;
            self.write_changes(&before, &after)?;
        }
        Ok(Some(exit))
    }

    /// KVM has shut the processor down in the one instruction that it was given: it does not know the mode. As it was before; the
    /// answer is what is wrong.
    pub(super) fn take_back(&mut self, cpu: &mut Cpu) -> Result<Trouble, Trouble> {
        let good = cpu.state();
        let broken = self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)?;
        self.write_changes(&broken, &good)?;
        let place = format!("{:x}:{:x}", good.segments[seg::CS].selector, good.rip);
        Ok(Trouble::Stuck(format!(
            "KVM cannot run the instruction at {place} in the mode that the guest is in"
        )))
    }

    /// The interpreter runs up to so many instructions. Page tables may be others then: where KVM has shadows of them, it only
    /// sees what the guest writes.
    fn run_stretch(&mut self, cpu: &mut Cpu, instructions: u64) -> Exit {
        const TOLD: [Flush; 5] = [Flush::Cr3, Flush::Page, Flush::LargePage, Flush::Invpcid, Flush::Control];
        let flushes = |cpu: &Cpu| TOLD.map(|cause| cpu.statistics().flushes[cause as usize]);
        let before = flushes(cpu);
        let exit = cpu.run_confined(instructions);
        if flushes(cpu) != before {
            self.vm.forget_shadows();
        }
        // It may take no interrupt now that it could take then.
        self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
        exit
    }
}

/// Whether a local APIC with these registers has an interrupt for its processor: SDM 3A "Task and Processor Priorities".
fn has_interrupt(registers: &[u32; LapicPage::COUNT]) -> bool {
    const TPR: usize = 0x08;
    const SVR: usize = 0x0f;
    const ISR: usize = 0x10;
    const IRR: usize = 0x20;
    const ENABLED: u32 = 1 << 8;
    let class = |first: usize| {
        let words = &registers[first..first + 8];
        let highest = (0..8).rev().find(|&word| words[word] != 0);
        highest.map_or(0, |word| (32 * word as u32 + words[word].ilog2()) >> 4)
    };
    registers[SVR] & ENABLED != 0 && class(IRR) > class(ISR).max(registers[TPR] >> 4 & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_comes_before_its_class_is_masked_or_served() {
        let page = |entries: &[(usize, u32)]| {
            let mut page = [0; LapicPage::COUNT];
            page[0x0f] = 0x1ff;
            entries.iter().for_each(|&(number, value)| page[number] = value);
            page
        };
        let requested = (0x23, 1 << 0x11); // vector 71h
        for (entries, expected) in [
            (vec![], false),
            (vec![requested], true),
            (vec![requested, (0x08, 0x6f)], true),
            (vec![requested, (0x08, 0x70)], false),
            (vec![requested, (0x13, 1)], true),          // 60h is in service
            (vec![requested, (0x13, 1 << 0x10)], false), // 70h is
            (vec![requested, (0x0f, 0xff)], false),
        ] {
            assert_eq!(has_interrupt(&page(&entries)), expected, "{entries:x?}");
        }
    }
}
