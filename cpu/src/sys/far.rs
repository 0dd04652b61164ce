//! Far transfers and IRET: SDM 2A "CALL", "JMP", "IRET", 2B "RET".

use crate::{
    fault::{Done, Fault, Stop, vector},
    flags::bits::{self, AC, DF, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM},
    insn::Insn,
    mode::Mode,
    state::{Cpu, Segment, cr4, seg},
    sys::segment::{Descriptor, rights},
    width::{D, Q, W, Width},
};

/// Where a far transfer goes.
struct Target {
    selector: u16,
    offset: u64,
}

fn target(c: &mut Cpu, i: &Insn) -> Result<Target, Stop> {
    if i.cc == 0 {
        return Ok(Target { selector: i.disp as u16, offset: i.imm as u32 as u64 });
    }
    let (selector, offset) = c.read_far_pointer(i)?;
    Ok(Target { selector, offset })
}

impl Cpu {
    /// CS, and RIP after the mode has followed it. `cpl` becomes the new privilege.
    pub(crate) fn set_code(&mut self, cs: Segment, cpl: u8, ip: u64) {
        self.segments[seg::CS] = Segment { selector: cs.selector & !3 | u16::from(cpl), ..cs };
        self.cpl = cpl;
        self.refresh_mode();
        self.set_ip(ip);
    }

    /// CS of real and virtual-8086 mode.
    pub(crate) fn set_code_real(&mut self, selector: u16, ip: u64) {
        let cs = &mut self.segments[seg::CS];
        cs.selector = selector;
        cs.base = u64::from(selector) << 4;
        self.refresh_mode();
        self.set_ip(ip);
    }

    /// #GP(0) if an offset lies outside of the code segment that it is for.
    fn check_offset(&mut self, cs: &Segment, offset: u64) -> Done {
        let fits = if self.long_mode() && cs.attributes & Segment::LONG != 0 {
            self.canonical(offset)
        } else {
            offset <= cs.limit.into()
        };
        if fits { Ok(()) } else { Err(self.raise(Fault::gp(0))) }
    }

    /// A code segment for JMP or CALL without a gate: privilege does not change.
    fn direct_code(&mut self, selector: u16, mut d: Descriptor) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        let conforming = d.kind() & rights::CONFORMING != 0;
        let rpl = (selector & 3) as u8;
        let allowed = if conforming { d.dpl() <= self.cpl } else { rpl <= self.cpl && d.dpl() == self.cpl };
        let both = Segment::LONG | Segment::BIG;
        if !allowed || self.long_mode() && d.attributes() & both == both {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// A 64-bit call gate's target, checked up to the code segment's own rights.
    fn long_gate(&mut self, selector: u16, gate: Descriptor) -> Result<(u16, Descriptor, u64), Stop> {
        let code = u32::from(selector & !3);
        let upper = self.descriptor_upper(gate, selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        if gate.dpl() < self.cpl || gate.dpl() < rpl || upper >> 40 & 31 != 0 {
            return Err(self.raise(Fault::gp(code)));
        }
        if !gate.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        let inner = (gate.raw >> 16) as u16;
        if inner & !3 == 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        let d = self.descriptor(inner, vector::GP)?;
        let code = u32::from(inner & !3);
        let both = Segment::LONG | Segment::BIG;
        if !d.is_code() || d.dpl() > self.cpl || d.attributes() & both != Segment::LONG {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        let offset = gate.raw & 0xffff | gate.raw >> 32 & 0xffff_0000 | upper << 32;
        if !self.canonical(offset) {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok((inner, d, offset))
    }
}

/// JMP far.
pub(crate) fn jmp_far(c: &mut Cpu, i: &Insn) -> Done {
    let t = target(c, i)?;
    if !c.mode.contains(Mode::PROTECTED) {
        if t.offset > c.segments[seg::CS].limit.into() {
            return Err(c.raise(Fault::gp(0)));
        }
        c.set_code_real(t.selector, t.offset);
        return Ok(());
    }
    if t.selector & !3 == 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let d = c.descriptor(t.selector, vector::GP)?;
    if d.is_code() {
        let cs = c.direct_code(t.selector, d)?;
        c.check_offset(&cs, t.offset)?;
        c.set_code(cs, c.cpl, t.offset);
        return Ok(());
    }
    if c.long_mode() && d.kind() == 12 {
        let (selector, d, offset) = c.long_gate(t.selector, d)?;
        if d.kind() & rights::CONFORMING == 0 && d.dpl() != c.cpl {
            return Err(c.raise(Fault::gp(u32::from(selector & !3))));
        }
        c.set_code(d.segment(selector), c.cpl, offset);
        return Ok(());
    }
    if c.long_mode() {
        return Err(c.raise(Fault::gp(u32::from(t.selector & !3))));
    }
    c.through_gate(t.selector, d, false)
}

/// CALL far.
pub(crate) fn call_far(c: &mut Cpu, i: &Insn) -> Done {
    let t = target(c, i)?;
    let (cs, ip, rsp) = (u64::from(c.segments[seg::CS].selector), c.ip(), c.gpr[4]);
    let push_both = |c: &mut Cpu, w: Width| {
        c.push(w, cs).and_then(|()| c.push(w, w.mask(ip))).inspect_err(|_| c.gpr[4] = rsp)
    };
    if !c.mode.contains(Mode::PROTECTED) {
        if t.offset > c.segments[seg::CS].limit.into() {
            return Err(c.raise(Fault::gp(0)));
        }
        push_both(c, i.w)?;
        c.set_code_real(t.selector, t.offset);
        return Ok(());
    }
    if t.selector & !3 == 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let d = c.descriptor(t.selector, vector::GP)?;
    if d.is_code() {
        let segment = c.direct_code(t.selector, d)?;
        c.check_offset(&segment, t.offset)?;
        push_both(c, i.w)?;
        c.set_code(segment, c.cpl, t.offset);
        return Ok(());
    }
    if c.long_mode() && d.kind() == 12 {
        let (selector, d, offset) = c.long_gate(t.selector, d)?;
        if d.kind() & rights::CONFORMING != 0 || d.dpl() == c.cpl {
            push_both(c, Q)?;
            c.set_code(d.segment(selector), c.cpl, offset);
            return Ok(());
        }
        return call_inner(c, selector, d, offset, [cs, ip]);
    }
    if c.long_mode() {
        return Err(c.raise(Fault::gp(u32::from(t.selector & !3))));
    }
    c.through_gate(t.selector, d, true)
}

/// A call through a 64-bit gate to an inner level: the stack comes from the TSS, SS becomes null.
fn call_inner(c: &mut Cpu, selector: u16, d: Descriptor, offset: u64, back: [u64; 2]) -> Done {
    let cpl = d.dpl();
    let at = 4 + 8 * u64::from(cpl);
    if at + 7 > u64::from(c.tr.limit) {
        let code = u32::from(c.tr.selector & !3);
        return Err(c.raise(Fault::with_code(vector::TS, code)));
    }
    let stack = c.read_system(Q, c.tr.base.wrapping_add(at))?;
    if !c.canonical(stack) {
        return Err(c.raise(Fault::ss(0)));
    }
    let frame = [u64::from(c.segments[seg::SS].selector), c.gpr[4], back[0], back[1]];
    let old = std::mem::replace(&mut c.cpl, cpl);
    c.refresh_tlb();
    let mut top = stack;
    let pushed = frame.into_iter().try_for_each(|v| {
        top = top.wrapping_sub(8);
        c.write(Q, top, v).map_err(|stop| c.stack_fault(stop))
    });
    if let Err(stop) = pushed {
        c.cpl = old;
        c.refresh_tlb();
        return Err(stop);
    }
    c.gpr[4] = top;
    let dpl = u32::from(cpl) << 5;
    c.segments[seg::SS] =
        Segment { selector: cpl.into(), base: 0, limit: 0, attributes: Segment::UNUSABLE | dpl };
    c.set_code(d.segment(selector), cpl, offset);
    Ok(())
}

/// What a far return pops, before anything is committed.
struct Frame {
    cs: u16,
    ip: u64,
    flags: Option<u64>,
    /// SS and RSP.
    stack: Option<(u16, u64)>,
}

impl Cpu {
    /// The code segment of a return, checked against its selector's RPL: the new CPL.
    fn return_code(&mut self, selector: u16) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        if selector & !3 == 0 {
            return Err(self.raise(Fault::gp(0)));
        }
        let mut d = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        let conforming = d.kind() & rights::CONFORMING != 0;
        let level = if conforming { d.dpl() <= rpl } else { d.dpl() == rpl };
        let both = Segment::LONG | Segment::BIG;
        if !d.is_code() || rpl < self.cpl || !level || self.long_mode() && d.attributes() & both == both {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// The stack segment of a return to level `cpl`, into code `cs`.
    fn return_stack(&mut self, selector: u16, cpl: u8, cs: &Segment) -> Result<Segment, Stop> {
        let to_64 = self.long_mode() && cs.attributes & Segment::LONG != 0;
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if to_64 && cpl != 3 && rpl == cpl {
                let dpl = u32::from(cpl) << 5;
                return Ok(Segment { selector, base: 0, limit: 0, attributes: Segment::UNUSABLE | dpl });
            }
            return Err(self.raise(Fault::gp(0)));
        }
        let code = u32::from(selector & !3);
        let mut d = self.descriptor(selector, vector::GP)?;
        if rpl != cpl || !d.is_data() || d.kind() & rights::RW == 0 || d.dpl() != cpl {
            return Err(self.raise(Fault::gp(code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::ss(code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// Commits a far return in protected mode. `release` bytes of parameters are dropped on both stacks.
    fn far_return(&mut self, frame: Frame, after: u64, release: u64) -> Done {
        let cs = self.return_code(frame.cs)?;
        let cpl = (frame.cs & 3) as u8;
        let stack = match frame.stack {
            Some((ss, sp)) => Some((self.return_stack(ss, cpl, &cs)?, sp)),
            None => None,
        };
        self.check_offset(&cs, frame.ip)?;
        let old_cpl = self.cpl;
        match stack {
            None => self.gpr[4] = self.with_stack_pointer(after.wrapping_add(release)),
            Some((ss, sp)) => {
                self.segments[seg::SS] = ss;
                self.cpl = cpl;
                self.segments[seg::CS] = cs;
                self.refresh_mode();
                self.gpr[4] = self.with_stack_pointer(sp.wrapping_add(release));
            }
        }
        self.set_code(cs, cpl, frame.ip);
        if cpl > old_cpl {
            self.drop_inner_segments();
            self.refresh_mode();
        }
        Ok(())
    }
}

/// RET far.
pub(crate) fn ret_far(c: &mut Cpu, i: &Insn) -> Done {
    let size = u64::from(i.w.0);
    let release = u64::from(i.imm as u16);
    let (ip, _) = c.peek_stack(i.w)?;
    let (cs, after) = c.peek_stack_at(i.w, size)?;
    let cs = cs as u16;
    if !c.mode.contains(Mode::PROTECTED) {
        if ip > c.segments[seg::CS].limit.into() {
            return Err(c.raise(Fault::gp(0)));
        }
        c.gpr[4] = c.with_stack_pointer(after.wrapping_add(release));
        c.set_code_real(cs, ip);
        return Ok(());
    }
    let stack = if (cs & 3) as u8 > c.cpl {
        let (sp, _) = c.peek_stack_at(i.w, 2 * size + release)?;
        let (ss, _) = c.peek_stack_at(i.w, 3 * size + release)?;
        Some((ss as u16, sp))
    } else {
        None
    };
    c.far_return(Frame { cs, ip, flags: None, stack }, after, release)
}

/// IRET, IRETD, IRETQ.
pub(crate) fn iret(c: &mut Cpu, i: &Insn) -> Done {
    crate::sys::misc::drain_stores();
    let w = i.w;
    let size = u64::from(w.0);
    let v86 = c.mode.contains(Mode::V86);
    // Virtual-8086 mode without I/O privilege: with VME, VIF stands in for IF.
    let virtual_if = v86 && c.iopl() < 3;
    if virtual_if && (c.cr4 & cr4::VME == 0 || w != W) {
        return Err(c.raise(Fault::gp(0)));
    }
    // Even an IRET that faults ends the blocking of NMIs.
    c.nmi_blocked = false;
    if c.mode.contains(Mode::PROTECTED) && c.eflags & NT != 0 {
        if c.long_mode() {
            return Err(c.raise(Fault::gp(0)));
        }
        return c.return_to_task();
    }
    let (ip, _) = c.peek_stack(w)?;
    let (cs, _) = c.peek_stack_at(w, size)?;
    let (flags, after) = c.peek_stack_at(w, 2 * size)?;
    let cs = cs as u16;
    if !c.mode.contains(Mode::PROTECTED) {
        if ip > c.segments[seg::CS].limit.into() {
            return Err(c.raise(Fault::gp(0)));
        }
        let old = c.rflags();
        if virtual_if && (flags & TF != 0 || flags & IF != 0 && old & VIP != 0) {
            return Err(c.raise(Fault::gp(0)));
        }
        c.gpr[4] = after;
        let mut may = STATUS | TF | IF | DF | NT | RF | AC | bits::ID;
        if !v86 {
            may |= IOPL;
        }
        let mut flags = flags;
        if virtual_if {
            may = may & !IF | VIF;
            flags = flags & !VIF | if flags & IF != 0 { VIF } else { 0 };
        }
        if w == W {
            may &= 0xffff | if virtual_if { VIF } else { 0 };
        }
        c.set_rflags(old & !may | flags & may);
        c.set_code_real(cs, ip);
        return Ok(());
    }
    if w == D && flags & VM != 0 && c.cpl == 0 && !c.long_mode() {
        return iret_to_v86(c, ip, cs, flags);
    }
    let stack = if c.mode.is_64() || (cs & 3) as u8 > c.cpl {
        let (sp, _) = c.peek_stack_at(w, 3 * size)?;
        let (ss, _) = c.peek_stack_at(w, 4 * size)?;
        Some((ss as u16, sp))
    } else {
        None
    };
    let old_cpl = c.cpl;
    let old = c.rflags();
    let frame = Frame { cs, ip, flags: Some(flags), stack };
    let flags = frame.flags.unwrap_or(old);
    c.far_return(frame, after, 0)?;
    let mut may = STATUS | TF | DF | NT | RF | AC | bits::ID;
    if old_cpl == 0 {
        may |= IOPL | VIF | VIP;
    }
    if old_cpl <= (old >> 12 & 3) as u8 {
        may |= IF;
    }
    if w == W {
        may &= 0xffff;
    }
    c.set_rflags(old & !may | flags & may);
    c.refresh_mode();
    Ok(())
}

/// IRETD to virtual-8086 mode: six more words.
fn iret_to_v86(c: &mut Cpu, ip: u64, cs: u16, flags: u64) -> Done {
    let mut words = [0; 6];
    for (k, word) in words.iter_mut().enumerate() {
        *word = c.peek_stack_at(D, 12 + 4 * k as u64)?.0;
    }
    let [sp, ss, es, ds, fs, gs] = words;
    if ip > 0xffff {
        return Err(c.raise(Fault::gp(0)));
    }
    let keep = c.rflags() & 0xffff_ffff_0000_0000;
    c.set_rflags(keep | flags & 0x003f_7fd5 | bits::FIXED);
    for (s, selector) in [
        (seg::CS, cs),
        (seg::SS, ss as u16),
        (seg::ES, es as u16),
        (seg::DS, ds as u16),
        (seg::FS, fs as u16),
        (seg::GS, gs as u16),
    ] {
        c.segments[s] = Segment { attributes: 0xf3, ..Segment::real(selector) };
    }
    c.gpr[4] = sp;
    c.cpl = 3;
    c.refresh_mode();
    c.set_ip(ip);
    Ok(())
}
