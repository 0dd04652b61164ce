//! Far JMP and CALL through gates and to tasks outside of long mode: SDM 3A "Call Gates", "Task-Gate Descriptor".

use super::{
    segment::{Descriptor, rights},
    task::Cause,
};
use crate::{
    fault::{Done, Fault, Stop, vector},
    state::{Cpu, Segment, seg},
    width::{D, W, Width},
};

/// A call gate's target, checked.
struct Target {
    selector: u16,
    code: Descriptor,
    offset: u64,
    w: Width,
    /// Parameters to copy.
    count: u64,
}

impl Cpu {
    /// JMP (`call` false) or CALL far to a system descriptor.
    pub(crate) fn through_gate(&mut self, selector: u16, d: Descriptor, call: bool) -> Done {
        let code = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        let cause = if call { Cause::Call } else { Cause::Jump };
        if !matches!(d.kind(), 1 | 4 | 5 | 9 | 12) || d.dpl() < self.cpl || d.dpl() < rpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if matches!(d.kind(), 1 | 9) {
            return self.enter_task(selector, cause, 0, None);
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        if d.kind() == 5 {
            return self.enter_task((d.raw >> 16) as u16, cause, 0, None);
        }
        let t = self.gate_code_segment(d)?;
        let conforming = t.code.kind() & rights::CONFORMING != 0;
        if call && !conforming && t.code.dpl() < self.cpl {
            return self.call_inward(t);
        }
        if !conforming && t.code.dpl() != self.cpl {
            return Err(self.raise(Fault::gp(u32::from(t.selector & !3))));
        }
        let Target { selector, code: mut d, offset, w, .. } = t;
        if offset > d.segment(selector).limit.into() {
            return Err(self.raise(Fault::gp(0)));
        }
        self.mark_accessed(&mut d)?;
        if call {
            let (cs, ip, sp) = (u64::from(self.segments[seg::CS].selector), self.ip(), self.gpr[4]);
            self.push(w, cs).and_then(|()| self.push(w, w.mask(ip))).inspect_err(|_| self.gpr[4] = sp)?;
        }
        self.set_code(d.segment(selector), self.cpl, offset);
        Ok(())
    }

    fn gate_code_segment(&mut self, gate: Descriptor) -> Result<Target, Stop> {
        let wide = gate.kind() == 12;
        let selector = (gate.raw >> 16) as u16;
        let code = u32::from(selector & !3);
        if code == 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        let d = self.descriptor(selector, vector::GP)?;
        if !d.is_code() || d.dpl() > self.cpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        let offset = gate.raw & 0xffff | if wide { gate.raw >> 32 & 0xffff_0000 } else { 0 };
        Ok(Target { selector, code: d, offset, w: if wide { D } else { W }, count: gate.raw >> 32 & 31 })
    }

    /// A call to an inner level: the stack comes from the TSS, parameters are copied to it.
    fn call_inward(&mut self, t: Target) -> Done {
        let Target { selector, code: mut d, offset, w, count } = t;
        let cpl = d.dpl();
        let (ss, sp) = self.inner_stack(cpl, 0)?;
        let cs = d.segment(selector & !3 | u16::from(cpl));
        let mut parameters = [0; 31];
        for (k, v) in (0..).zip(&mut parameters[..count as usize]) {
            *v = self.peek_stack_at(w, k * u64::from(w.0))?.0;
        }
        if offset > cs.limit.into() {
            return Err(self.raise(Fault::gp(0)));
        }
        let old = self.segments;
        let (ip, old_sp, old_cpl) = (self.ip(), self.gpr[4], self.cpl);
        self.use_stack(ss, sp, cpl);
        let result = (|| {
            self.push(w, old[seg::SS].selector.into())?;
            self.push(w, w.mask(old_sp))?;
            for &v in parameters[..count as usize].iter().rev() {
                self.push(w, v)?;
            }
            self.push(w, old[seg::CS].selector.into())?;
            self.push(w, w.mask(ip))?;
            self.mark_accessed(&mut d)
        })();
        if let Err(stop) = result {
            self.name_stack(ss.selector, 0);
            self.segments = old;
            self.cpl = old_cpl;
            self.gpr[4] = old_sp;
            self.refresh_mode();
            return Err(stop);
        }
        self.set_code(cs, cpl, offset);
        Ok(())
    }

    /// Goes to an inner level's stack.
    pub(crate) fn use_stack(&mut self, ss: Segment, sp: u64, cpl: u8) {
        self.cpl = cpl;
        self.segments[seg::SS] = ss;
        self.gpr[4] =
            if ss.attributes & Segment::BIG != 0 { sp } else { self.gpr[4] & !0xffff | sp & 0xffff };
        self.refresh_mode();
    }

    /// A push beyond the limit of a new stack gives #SS with that stack's selector.
    pub(crate) fn name_stack(&mut self, selector: u16, ext: u32) {
        if self.fault == Fault::ss(0) {
            self.fault = Fault::ss(u32::from(selector & !3) | ext);
        }
    }
}
