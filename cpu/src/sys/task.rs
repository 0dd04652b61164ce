//! Hardware task switches: SDM 3A "Task Management". They do not exist in long mode.

use super::{
    debug::dr6,
    segment::{Descriptor, rights},
};
use crate::{
    fault::{Done, Fault, Stop, vector},
    flags::bits::{self, NT, VM},
    mmu::{Access, Class},
    ram::PAGE,
    state::{Cpu, Segment, cr0, cr4, seg},
    width::{D, W, Width},
};

/// What brings a task switch about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// JMP: the old task ends.
    Jump,
    /// CALL, or a task gate in the IDT: the new task is nested in the old one.
    Call,
    /// IRET with NT set.
    Return,
}

/// Where things stand in a TSS: SDM 3A "Task-State Segment (TSS)" and "16-Bit Task-State Segment (TSS)".
struct Layout {
    w: Width,
    ip: u64,
    flags: u64,
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    registers: u64,
    /// ES, CS, SS, DS, and in the wide form FS, GS.
    selectors: u64,
    count: usize,
    ldt: u64,
    last: u32,
}

const NARROW: Layout =
    Layout { w: W, ip: 14, flags: 16, registers: 18, selectors: 34, count: 4, ldt: 42, last: 43 };
const WIDE: Layout =
    Layout { w: D, ip: 32, flags: 36, registers: 40, selectors: 72, count: 6, ldt: 96, last: 103 };
/// PDBR in a wide TSS.
const CR3: u64 = 28;
/// The T bit's word in a wide TSS.
const TRAP: u64 = 100;

/// S and type of TSS descriptors; 8 is set for the wide ones.
const AVAILABLE: u32 = 1;
const BUSY: u32 = 3;

/// What a TSS holds.
struct Image {
    wide: bool,
    ip: u64,
    flags: u64,
    registers: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    cr3: u64,
    trap: bool,
}

fn layout(wide: bool) -> &'static Layout {
    if wide { &WIDE } else { &NARROW }
}

impl Cpu {
    /// The TSS that a selector names for a switch: in the GDT, of the right state, present. `fault` is the vector for what
    /// is wrong with it.
    fn switch_target(&mut self, selector: u16, wanted: u32, fault: u8, ext: u32) -> Result<Descriptor, Stop> {
        let code = u32::from(selector & !3) | ext;
        if selector & 4 != 0 || selector & !3 == 0 {
            return Err(self.raise(Fault::with_code(fault, code)));
        }
        let d = self.descriptor(selector, fault).inspect_err(|_| self.add_ext(ext))?;
        if d.kind() & !8 != wanted {
            return Err(self.raise(Fault::with_code(fault, code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        Ok(d)
    }

    /// JMP or CALL to a TSS or through a task gate, whose own rights the caller has checked; or an event through one.
    pub(crate) fn enter_task(&mut self, selector: u16, cause: Cause, ext: u32, error: Option<u32>) -> Done {
        let d = self.switch_target(selector, AVAILABLE, vector::GP, ext)?;
        self.switch_task(selector, d, cause, ext, error)
    }

    /// IRET with NT set: back to the task that the link field of the TSS names.
    pub(crate) fn return_to_task(&mut self) -> Done {
        let link = self.read_system(W, self.tr.base as u32 as u64)? as u16;
        let d = self.switch_target(link, BUSY, vector::TS, 0)?;
        self.switch_task(link, d, Cause::Return, 0, None)
    }

    /// Checks that bytes of a system structure can be written.
    fn system_writable(&mut self, linear: u64, size: u64) -> Done {
        self.place(linear, Access::Write, Class::Supervisor)?;
        let last = linear.wrapping_add(size - 1) as u32 as u64;
        if (last ^ linear) & !(PAGE - 1) != 0 {
            self.place(last & !(PAGE - 1), Access::Write, Class::Supervisor)?;
        }
        Ok(())
    }

    fn read_image(&mut self, tss: &Segment) -> Result<Image, Stop> {
        let wide = tss.kind() & 8 != 0;
        let l = layout(wide);
        let base = tss.base;
        let at = |offset: u64| base.wrapping_add(offset) as u32 as u64;
        let step = u64::from(l.w.0);
        let mut image = Image {
            wide,
            ip: self.read_system(l.w, at(l.ip))?,
            flags: self.read_system(l.w, at(l.flags))?,
            registers: [0; 8],
            selectors: [0; 6],
            ldt: self.read_system(W, at(l.ldt))? as u16,
            cr3: 0,
            trap: false,
        };
        for (k, v) in (0..).zip(&mut image.registers) {
            *v = self.read_system(l.w, at(l.registers + k * step))?;
        }
        for (k, v) in (0..).zip(&mut image.selectors[..l.count]) {
            *v = self.read_system(W, at(l.selectors + k * step))? as u16;
        }
        if wide {
            image.cr3 = self.read_system(D, at(CR3))?;
            image.trap = self.read_system(W, at(TRAP))? & 1 != 0;
        }
        Ok(image)
    }

    /// Writes what the old task leaves into its TSS, whose pages were checked.
    fn save_task(&mut self, flags: u64) -> Done {
        let l = layout(self.tr.kind() & 8 != 0);
        let (base, ip) = (self.tr.base, self.ip());
        let at = |offset: u64| base.wrapping_add(offset) as u32 as u64;
        let step = u64::from(l.w.0);
        self.write_system(l.w, at(l.ip), l.w.mask(ip))?;
        self.write_system(l.w, at(l.flags), l.w.mask(flags))?;
        for k in 0..8 {
            self.write_system(l.w, at(l.registers + k * step), l.w.mask(self.gpr[k as usize]))?;
        }
        for k in 0..l.count {
            let selector = self.segments[k].selector;
            self.write_system(W, at(l.selectors + k as u64 * step), selector.into())?;
        }
        Ok(())
    }

    /// SDM 3A "Task Switching". What goes wrong once the new task's state is loaded is an exception in the new task.
    fn switch_task(
        &mut self,
        selector: u16,
        d: Descriptor,
        cause: Cause,
        ext: u32,
        error: Option<u32>,
    ) -> Done {
        let mut tss = d.segment(selector);
        let wide = tss.kind() & 8 != 0;
        if tss.limit < layout(wide).last {
            return Err(self.raise(Fault::with_code(vector::TS, u32::from(selector & !3) | ext)));
        }
        let old = self.tr;
        let old_last = layout(old.kind() & 8 != 0).last;
        if old.limit < old_last {
            return Err(self.raise(Fault::with_code(vector::TS, u32::from(old.selector & !3) | ext)));
        }
        let image = self.read_image(&tss)?;
        let old_at = self.gdtr.base.wrapping_add(u64::from(old.selector & !7) + 4) as u32 as u64;
        let new_at = d.at.wrapping_add(4) as u32 as u64;
        self.system_writable(old.base as u32 as u64, u64::from(old_last) + 1)?;
        self.system_writable(tss.base as u32 as u64, 2)?;
        self.system_writable(old_at, 4)?;
        self.system_writable(new_at, 4)?;

        if cause != Cause::Call {
            let upper = self.read_system(D, old_at)?;
            self.write_system(D, old_at, upper & !(2 << 8))?;
        }
        let flags = self.rflags();
        self.save_task(if cause == Cause::Return { flags & !NT } else { flags })?;
        let mut new_flags = image.flags;
        if cause == Cause::Call {
            self.write_system(W, tss.base as u32 as u64, old.selector.into())?;
            new_flags |= NT;
        }
        if cause != Cause::Return {
            let upper = self.read_system(D, new_at)?;
            self.write_system(D, new_at, upper | 2 << 8)?;
        }
        tss.attributes |= 2;
        self.tr = tss;
        self.cr0 |= cr0::TS;
        // Local breakpoints are the old task's.
        self.dr[7] &= !0x155;
        self.refresh_breakpoints();
        self.load_image(&image, new_flags);
        let loaded = self.load_task(&image).and_then(|()| match error {
            Some(code) => self.push(if wide { D } else { W }, code.into()),
            None => Ok(()),
        });
        if image.trap {
            self.breakpoints.pending |= dr6::BT;
        }
        if loaded.is_err() {
            // The new task's CS:EIP is what the handler sees: deliver it there, before its first instruction.
            self.injected = Some(self.fault);
            self.why = crate::state::Why::Continue;
        }
        Ok(())
    }

    /// The part of the new state that needs no check; segments are visible but not usable yet.
    fn load_image(&mut self, image: &Image, flags: u64) {
        let mask = if image.wide { 0x003f_7fd5 } else { 0x7fd5 };
        self.set_rflags(flags & mask | bits::FIXED);
        for (r, &v) in self.gpr[..8].iter_mut().zip(&image.registers) {
            *r = if image.wide { v } else { 0xffff_0000 | v };
        }
        let v86 = flags & mask & VM != 0;
        for (segment, &selector) in self.segments.iter_mut().zip(&image.selectors) {
            *segment = if v86 {
                Segment { attributes: 0xf3, ..Segment::real(selector) }
            } else {
                Segment { selector, attributes: Segment::UNUSABLE, ..Segment::default() }
            };
        }
        self.ldtr = Segment { selector: image.ldt, attributes: Segment::UNUSABLE, ..Segment::default() };
        self.cpl = if v86 { 3 } else { (image.selectors[seg::CS] & 3) as u8 };
        self.refresh_mode();
        self.set_ip(image.ip);
    }

    /// The part that is checked: page tables, LDT, segments, instruction pointer.
    fn load_task(&mut self, image: &Image) -> Done {
        if image.wide && self.paging() && image.cr3 != self.cr3 {
            if self.cr4 & cr4::PAE != 0 {
                self.load_pdptrs(image.cr3)?;
            }
            self.load_cr3(image.cr3, false);
        }
        self.load_task_ldt(image.ldt)?;
        if self.eflags & VM == 0 {
            let cs = self.task_code(image.selectors[seg::CS])?;
            self.segments[seg::CS] = cs;
            self.refresh_mode();
            self.set_ip(image.ip);
            let ss = self.task_stack(image.selectors[seg::SS])?;
            self.segments[seg::SS] = ss;
            for s in [seg::DS, seg::ES, seg::FS, seg::GS] {
                let segment = self.task_data(image.selectors[s])?;
                self.segments[s] = segment;
            }
            self.refresh_mode();
        }
        if image.ip > self.segments[seg::CS].limit.into() {
            return Err(self.raise(Fault::gp(0)));
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Done {
        if selector & !3 == 0 {
            return Ok(());
        }
        let bad = Fault::with_code(vector::TS, u32::from(selector & !3));
        if selector & 4 != 0 {
            return Err(self.raise(bad));
        }
        let d = self.descriptor(selector, vector::TS)?;
        if d.kind() != 2 || !d.present() {
            return Err(self.raise(bad));
        }
        self.ldtr = d.segment(selector);
        Ok(())
    }

    fn task_code(&mut self, selector: u16) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        let bad = Fault::with_code(vector::TS, code);
        if selector & !3 == 0 {
            return Err(self.raise(bad));
        }
        let mut d = self.descriptor(selector, vector::TS)?;
        let rpl = (selector & 3) as u8;
        let level = if d.kind() & rights::CONFORMING != 0 { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || !level {
            return Err(self.raise(bad));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    fn task_stack(&mut self, selector: u16) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        let bad = Fault::with_code(vector::TS, code);
        if selector & !3 == 0 || (selector & 3) as u8 != self.cpl {
            return Err(self.raise(bad));
        }
        let mut d = self.descriptor(selector, vector::TS)?;
        if !d.is_data() || d.kind() & rights::RW == 0 || d.dpl() != self.cpl {
            return Err(self.raise(bad));
        }
        if !d.present() {
            return Err(self.raise(Fault::ss(code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    fn task_data(&mut self, selector: u16) -> Result<Segment, Stop> {
        if selector & !3 == 0 {
            return Ok(Segment { selector, attributes: Segment::UNUSABLE, ..Segment::default() });
        }
        let code = u32::from(selector & !3);
        let mut d = self.descriptor(selector, vector::TS)?;
        let readable = d.is_data() || d.is_code() && d.kind() & rights::RW != 0;
        let conforming = d.is_code() && d.kind() & rights::CONFORMING != 0;
        let rpl = (selector & 3) as u8;
        if !readable || !conforming && (rpl > d.dpl() || self.cpl > d.dpl()) {
            return Err(self.raise(Fault::with_code(vector::TS, code)));
        }
        if !d.present() {
            return Err(self.raise(Fault::with_code(vector::NP, code)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }
}
