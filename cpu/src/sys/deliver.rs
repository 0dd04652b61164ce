//! Delivery of exceptions and interrupts: SDM 3A "Interrupt and Exception Handling".

use crate::{
    fault::{Done, Fault, Stop, vector},
    flags::bits::{IF, NT, RF, TF, VM},
    mode::Mode,
    spaces::Trap,
    state::{Cpu, Segment, Shadow, Why, cr0, seg},
    statistics::Doing,
    sys::{
        segment::{Descriptor, rights},
        task::Cause,
    },
    width::{D, Q, W, Width},
};

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An exception, NMI or INT1: no check of the gate's DPL.
    Exception,
    /// An external interrupt.
    External,
    /// INT n, INT3, INTO: the gate's DPL must allow it.
    Software,
}

impl Source {
    /// The EXT bit of error codes for faults during delivery.
    fn ext(self) -> u32 {
        u32::from(self != Source::Software)
    }
}

/// How exceptions combine: SDM 3A "Interrupt 8—Double Fault Exception (#DF)".
fn contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

impl Cpu {
    /// Delivers the exception in `self.fault`, and those that its delivery raises. After a triple fault the CPU has shut
    /// down.
    pub(crate) fn deliver_fault(&mut self) {
        let mut fault = self.fault;
        let mut first = None;
        loop {
            if fault.vector == vector::PF {
                self.cr2 = fault.address;
            } else if fault.vector == vector::DB {
                self.dr[7] &= !super::debug::GENERAL_DETECT;
            }
            let (rsp, eflags) = (self.gpr[4], self.eflags);
            // The image of RF is set for faults, so that an instruction breakpoint does not strike again.
            if fault.vector != vector::DB && fault.vector != vector::BP && fault.vector != vector::OF {
                self.eflags |= RF;
            }
            self.why = Why::Continue;
            if self.deliver(fault.vector, Source::Exception, fault.error_code).is_ok() {
                return;
            }
            if self.why == Why::Outside {
                (self.gpr[4], self.eflags) = (rsp, eflags);
                self.refresh_mode();
                self.injected = Some(fault);
                return;
            }
            self.gpr[4] = rsp;
            self.eflags = eflags;
            self.refresh_mode();
            let second = self.fault;
            let before = first.unwrap_or(fault.vector);
            fault = if before == vector::DF {
                self.activity = crate::state::Activity::Shutdown;
                self.why = Why::TripleFault;
                return;
            } else if contributory(before) && contributory(second.vector)
                || before == vector::PF && (contributory(second.vector) || second.vector == vector::PF)
            {
                if second.vector == vector::PF {
                    self.cr2 = second.address;
                }
                Fault::with_code(vector::DF, 0)
            } else {
                second
            };
            first = Some(fault.vector);
        }
    }

    /// Delivers an external interrupt or NMI; a fault on the way is delivered in turn.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8, source: Source) {
        let (rsp, eflags) = (self.gpr[4], self.eflags);
        self.why = Why::Continue;
        if self.deliver(vector, source, None).is_err() {
            self.gpr[4] = rsp;
            self.eflags = eflags;
            self.refresh_mode();
            if self.why == Why::Outside {
                self.injected = Some(Fault::new(vector));
                return;
            }
            self.deliver_fault();
        }
    }

    /// One delivery. State changes only when nothing can fault any more, but for RSP and RFLAGS, which callers restore.
    #[inline(never)]
    pub(crate) fn deliver(&mut self, vector: u8, source: Source, error: Option<u32>) -> Done {
        let statistics = &mut self.statistics;
        match source {
            Source::Exception => statistics.exceptions[usize::from(vector & 31)] += 1,
            Source::External => statistics.interrupts[usize::from(vector)] += 1,
            Source::Software => statistics.software_interrupts[usize::from(vector)] += 1,
        }
        // The handler's first instruction runs in no shadow.
        self.shadow = Shadow::None;
        self.within(Doing::Delivery, |c| c.enter_handler(vector, source, error))
    }

    fn enter_handler(&mut self, vector: u8, source: Source, error: Option<u32>) -> Done {
        self.spaces.way = match (source, vector) {
            (Source::External, _) | (_, vector::NMI) => Trap::Interrupt,
            (Source::Software, _) => Trap::SystemCall,
            (Source::Exception, vector::PF) => Trap::PageFault,
            (Source::Exception, _) => Trap::Exception,
        };
        if self.cr0 & cr0::PE == 0 {
            return self.deliver_real(vector);
        }
        if self.long_mode() {
            self.deliver_long(vector, source, error)
        } else {
            self.deliver_protected(vector, source, error)
        }
    }

    /// Real mode: the vector table, 16 bits of everything.
    fn deliver_real(&mut self, vector: u8) -> Done {
        let entry = u64::from(vector) * 4;
        if entry + 3 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(0)));
        }
        let at = self.idtr.base.wrapping_add(entry) as u32 as u64;
        let target = self.read_system(D, at)?;
        let (flags, cs, ip) = (self.rflags(), self.segments[seg::CS].selector, self.ip());
        self.push(W, flags & 0xffff)?;
        self.push(W, cs.into())?;
        self.push(W, ip & 0xffff)?;
        self.eflags &= !(IF | TF | crate::flags::bits::AC | RF);
        let selector = (target >> 16) as u16;
        self.segments[seg::CS].selector = selector;
        self.segments[seg::CS].base = u64::from(selector) << 4;
        self.refresh_mode();
        self.set_ip(target & 0xffff);
        Ok(())
    }

    /// The error code of a fault that a gate causes.
    fn gate_code(vector: u8, source: Source) -> u32 {
        u32::from(vector) << 3 | 2 | source.ext()
    }

    /// The code segment that a gate names, checked: SDM 2A "INT n/INTO/INT3/INT1".
    fn gate_target(&mut self, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
        if selector & !3 == 0 {
            return Err(self.raise(Fault::gp(ext)));
        }
        let code = u32::from(selector & !3) | ext;
        let d = self.descriptor(selector, vector::GP).inspect_err(|_stop| {
            self.add_ext(ext);
        })?;
        if !d.is_code() || d.dpl() > self.cpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        Ok(d)
    }

    pub(crate) fn add_ext(&mut self, ext: u32) {
        if self.fault.vector != vector::PF
            && let Some(code) = &mut self.fault.error_code
        {
            *code |= ext;
        }
    }

    /// Long mode: 16-byte gates, the interrupt stack table, five words pushed always.
    fn deliver_long(&mut self, vector: u8, source: Source, error: Option<u32>) -> Done {
        let code = Self::gate_code(vector, source);
        let entry = u64::from(vector) * 16;
        if entry + 15 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(code)));
        }
        let at = self.idtr.base.wrapping_add(entry);
        let low = self.read_system(Q, at)?;
        let high = self.read_system(Q, at.wrapping_add(8))?;
        let kind = low >> 40 & 31;
        if kind != 14 && kind != 15 || high >> 40 & 31 != 0 {
            return Err(self.raise(Fault::gp(code)));
        }
        if source == Source::Software && ((low >> 45 & 3) as u8) < self.cpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        let selector = (low >> 16) as u16;
        let mut target = self.gate_target(selector, source.ext())?;
        if target.attributes() & (Segment::LONG | Segment::BIG) != Segment::LONG {
            return Err(self.raise(Fault::gp(u32::from(selector & !3) | source.ext())));
        }
        let rip = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        if !self.canonical(rip) {
            return Err(self.raise(Fault::gp(source.ext())));
        }
        let conforming = target.kind() & rights::CONFORMING != 0;
        let new_cpl = if conforming { self.cpl } else { target.dpl() };
        let inner = new_cpl < self.cpl;
        let ist = low >> 32 & 7;
        let stack = if ist != 0 {
            self.tss_64(28 + 8 * ist, source.ext())?
        } else if inner {
            self.tss_64(4 + 8 * u64::from(new_cpl), source.ext())?
        } else {
            self.gpr[4]
        };
        if !self.canonical(stack) {
            return Err(self.raise(Fault::ss(source.ext())));
        }
        let frame = [
            u64::from(self.segments[seg::SS].selector),
            self.gpr[4],
            self.rflags(),
            u64::from(self.segments[seg::CS].selector),
            self.ip(),
        ];
        let mut top = stack & !15;
        let class_cpl = std::mem::replace(&mut self.cpl, new_cpl);
        self.refresh_tlb();
        let pushed = (|| {
            for v in frame.into_iter().chain(error.map(u64::from)) {
                top = top.wrapping_sub(8);
                self.write(Q, top, v).map_err(|stop| self.stack_fault(stop))?;
            }
            self.mark_accessed(&mut target)
        })();
        if let Err(stop) = pushed {
            self.cpl = class_cpl;
            self.refresh_tlb();
            if self.fault.vector == vector::SS {
                self.add_ext(source.ext());
            }
            return Err(stop);
        }
        self.gpr[4] = top;
        self.segments[seg::CS] = target.segment(selector & !3 | u16::from(new_cpl));
        if inner {
            self.segments[seg::SS] = Segment {
                selector: new_cpl.into(),
                base: 0,
                limit: 0,
                attributes: Segment::UNUSABLE | u32::from(new_cpl) << 5,
            };
        }
        self.enter_gate(kind & 1 == 0);
        self.refresh_mode();
        self.rip = rip;
        Ok(())
    }

    /// The flags that a gate clears; an interrupt gate clears IF too.
    fn enter_gate(&mut self, interrupt: bool) {
        self.eflags &= !(TF | NT | RF | VM);
        if interrupt {
            self.eflags &= !IF;
        }
    }

    /// A stack pointer out of the 64-bit TSS.
    fn tss_64(&mut self, offset: u64, ext: u32) -> Result<u64, Stop> {
        if offset + 7 > u64::from(self.tr.limit) {
            let code = u32::from(self.tr.selector & !3) | ext;
            return Err(self.raise(Fault::with_code(vector::TS, code)));
        }
        self.read_system(Q, self.tr.base.wrapping_add(offset))
    }

    /// Protected mode: 8-byte gates of 16 and 32 bits.
    fn deliver_protected(&mut self, vector: u8, source: Source, error: Option<u32>) -> Done {
        let code = Self::gate_code(vector, source);
        let entry = u64::from(vector) * 8;
        if entry + 7 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(code)));
        }
        let gate = self.read_system(Q, self.idtr.base.wrapping_add(entry) as u32 as u64)?;
        let kind = gate >> 40 & 31;
        // Task gates (5), interrupt and trap gates of 16 (6, 7) and 32 bits (14, 15).
        if !matches!(kind, 5 | 6 | 7 | 14 | 15) {
            return Err(self.raise(Fault::gp(code)));
        }
        if source == Source::Software && ((gate >> 45 & 3) as u8) < self.cpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if gate >> 47 & 1 == 0 {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        if kind == 5 {
            return self.enter_task((gate >> 16) as u16, Cause::Call, source.ext(), error);
        }
        let wide = kind >= 14;
        let w = if wide { D } else { W };
        let selector = (gate >> 16) as u16;
        let mut target = self.gate_target(selector, source.ext())?;
        let conforming = target.kind() & rights::CONFORMING != 0;
        let new_cpl = if conforming { self.cpl } else { target.dpl() };
        let v86 = self.mode.contains(Mode::V86);
        if v86 && new_cpl != 0 {
            return Err(self.raise(Fault::gp(u32::from(selector & !3) | source.ext())));
        }
        let offset = gate & 0xffff | if wide { gate >> 32 & 0xffff_0000 } else { 0 };
        let new_cs = target.segment(selector & !3 | u16::from(new_cpl));
        if offset > new_cs.limit.into() {
            return Err(self.raise(Fault::gp(source.ext())));
        }
        let old = self.segments;
        let (flags, ip, old_sp, old_cpl) = (self.rflags(), self.ip(), self.gpr[4], self.cpl);
        let switch = new_cpl < self.cpl;
        let result = (|| {
            if switch {
                let (ss, sp) = self.inner_stack(new_cpl, source.ext())?;
                self.eflags &= !VM;
                self.use_stack(ss, sp, new_cpl);
                if v86 {
                    for s in [seg::GS, seg::FS, seg::DS, seg::ES] {
                        self.push(w, old[s].selector.into())?;
                    }
                }
                self.push(w, old[seg::SS].selector.into())?;
                self.push(w, w.mask(old_sp))?;
            }
            self.push(w, w.mask(flags))?;
            self.push(w, old[seg::CS].selector.into())?;
            self.push(w, w.mask(ip))?;
            if let Some(error) = error {
                self.push(w, w.mask(error.into()))?;
            }
            self.mark_accessed(&mut target)
        })();
        if let Err(stop) = result {
            if switch {
                self.name_stack(self.segments[seg::SS].selector, source.ext());
            }
            self.segments = old;
            self.cpl = old_cpl;
            self.gpr[4] = old_sp;
            self.set_rflags(flags);
            self.refresh_mode();
            return Err(stop);
        }
        if switch && v86 {
            for s in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.segments[s] = Segment { attributes: Segment::UNUSABLE, ..Segment::default() };
            }
        }
        self.segments[seg::CS] = new_cs;
        self.enter_gate(kind & 1 == 0);
        self.refresh_mode();
        self.set_ip(offset);
        Ok(())
    }

    /// SS and ESP for an inner level from a 16- or 32-bit TSS, checked.
    pub(crate) fn inner_stack(&mut self, cpl: u8, ext: u32) -> Result<(Segment, u64), Stop> {
        let bad = Fault::with_code(vector::TS, u32::from(self.tr.selector & !3) | ext);
        let wide = self.tr.kind() & 8 != 0;
        let (at, w): (u64, Width) =
            if wide { (4 + 8 * u64::from(cpl), D) } else { (2 + 4 * u64::from(cpl), W) };
        let size = u64::from(w.0);
        if at + size + 1 > u64::from(self.tr.limit) {
            return Err(self.raise(bad));
        }
        let base = self.tr.base;
        let sp = self.read_system(w, base.wrapping_add(at) as u32 as u64)?;
        let selector = self.read_system(W, base.wrapping_add(at + size) as u32 as u64)? as u16;
        let code = u32::from(selector & !3) | ext;
        let bad = Fault::with_code(vector::TS, code);
        if selector & !3 == 0 || (selector & 3) as u8 != cpl {
            return Err(self.raise(bad));
        }
        let mut d = self.descriptor(selector, vector::TS).inspect_err(|_| self.add_ext(ext))?;
        if !d.is_data() || d.kind() & rights::RW == 0 || d.dpl() != cpl {
            return Err(self.raise(bad));
        }
        if !d.present() {
            return Err(self.raise(Fault::ss(code)));
        }
        self.mark_accessed(&mut d)?;
        Ok((d.segment(selector), sp))
    }
}
