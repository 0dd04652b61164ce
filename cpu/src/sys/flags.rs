//! Instructions on RFLAGS: SDM 1 "Flag Control (EFLAG) Instructions".

use crate::{
    fault::{Done, Fault},
    flags::bits::{self, AC, DF, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM},
    insn::Insn,
    mode::Mode,
    state::{Cpu, Shadow, cr4, reg},
    width::B,
};

impl Cpu {
    /// I/O privilege level.
    pub(crate) fn iopl(&self) -> u8 {
        (self.eflags >> 12 & 3) as u8
    }
}

/// CLD.
pub(crate) fn cld(c: &mut Cpu, _: &Insn) -> Done {
    c.eflags &= !DF;
    Ok(())
}

/// STD.
pub(crate) fn std(c: &mut Cpu, _: &Insn) -> Done {
    c.eflags |= DF;
    Ok(())
}

/// LAHF.
pub(crate) fn lahf(c: &mut Cpu, _: &Insn) -> Done {
    let v = c.flags.to_bits() & 0xd5 | bits::FIXED;
    c.set(B, reg::AH, v);
    Ok(())
}

/// SAHF: OF stays.
pub(crate) fn sahf(c: &mut Cpu, _: &Insn) -> Done {
    let of = c.flags.to_bits() & bits::OF;
    c.flags = crate::flags::Flags::from_bits(c.get(B, reg::AH) & 0xd5 | of);
    Ok(())
}

/// PUSHF, PUSHFD, PUSHFQ: SDM 2B. VM and RF are pushed as 0.
pub(crate) fn pushf(c: &mut Cpu, i: &Insn) -> Done {
    if c.mode.contains(Mode::V86) && c.iopl() < 3 {
        if c.cr4 & cr4::VME == 0 || i.w.0 != 2 {
            return Err(c.raise(Fault::gp(0)));
        }
        // Virtual-8086 extensions: IF is VIF's image and IOPL reads 3.
        let f = c.rflags();
        let v = f & !IF | IOPL | if f & VIF != 0 { IF } else { 0 };
        return c.push(i.w, v);
    }
    let v = c.rflags() & !(VM | RF);
    c.push(i.w, v)
}

/// POPF, POPFD, POPFQ: SDM 2B. What may change depends on CPL and IOPL.
pub(crate) fn popf(c: &mut Cpu, i: &Insn) -> Done {
    let virtual_if = c.mode.contains(Mode::V86) && c.iopl() < 3;
    if virtual_if && (c.cr4 & cr4::VME == 0 || i.w.0 != 2) {
        return Err(c.raise(Fault::gp(0)));
    }
    let (v, after) = c.peek_stack(i.w)?;
    let old = c.rflags();
    let mut may = STATUS | TF | DF | NT | AC | bits::ID;
    if virtual_if {
        let vif = v & IF != 0;
        if v & TF != 0 || vif && old & VIP != 0 {
            return Err(c.raise(Fault::gp(0)));
        }
        c.commit_stack(after);
        may &= 0xffff;
        let new = old & !(may | VIF | RF) | v & may | if vif { VIF } else { 0 };
        c.set_rflags(new);
        c.refresh_mode();
        return Ok(());
    }
    if c.cpl == 0 {
        may |= IOPL | IF;
    } else if c.cpl <= c.iopl() {
        may |= IF;
    }
    if i.w.0 == 2 {
        may &= 0xffff;
    }
    c.commit_stack(after);
    c.set_rflags(old & !(may | RF) | v & may);
    c.refresh_mode();
    Ok(())
}

/// CLI: SDM 2A "CLI".
pub(crate) fn cli(c: &mut Cpu, _: &Insn) -> Done {
    if c.cpl <= c.iopl() {
        c.eflags &= !IF;
    } else if c.virtual_interrupts() {
        c.eflags &= !VIF;
    } else {
        return Err(c.raise(Fault::gp(0)));
    }
    Ok(())
}

/// STI: SDM 2B "STI". Interrupts wait for one more instruction if IF was clear.
pub(crate) fn sti(c: &mut Cpu, _: &Insn) -> Done {
    if c.cpl <= c.iopl() {
        if c.eflags & IF == 0 {
            c.eflags |= IF;
            c.cast_shadow(Shadow::Sti);
        }
    } else if c.virtual_interrupts() {
        if c.eflags & VIP != 0 {
            return Err(c.raise(Fault::gp(0)));
        }
        c.eflags |= VIF;
    } else {
        return Err(c.raise(Fault::gp(0)));
    }
    Ok(())
}

impl Cpu {
    /// Whether an instruction cannot begin because VIF was set with VIP, by IRET, SYSRET or a task switch. SDM 3B "Class
    /// 2—Maskable Hardware Interrupt Handling in Virtual-8086 Mode Using the Virtual Interrupt Mechanism".
    #[inline]
    pub(crate) fn virtual_interrupt_pending(&self) -> bool {
        self.eflags & (VIF | VIP) == VIF | VIP && self.iopl() < 3 && self.virtual_interrupts()
    }

    /// Whether CLI and STI without I/O privilege act on VIF: VME in virtual-8086 mode, PVI at CPL 3.
    fn virtual_interrupts(&self) -> bool {
        if self.mode.contains(Mode::V86) {
            self.cr4 & cr4::VME != 0
        } else {
            self.cr4 & cr4::PVI != 0 && self.cpl == 3 && self.mode.contains(Mode::PROTECTED)
        }
    }
}

/// CLAC: SDM 2A "CLAC".
pub(crate) fn clac(c: &mut Cpu, _: &Insn) -> Done {
    access_control(c, false)
}

/// STAC: SDM 2B "STAC".
pub(crate) fn stac(c: &mut Cpu, _: &Insn) -> Done {
    access_control(c, true)
}

fn access_control(c: &mut Cpu, on: bool) -> Done {
    if c.cpl != 0 {
        return Err(c.raise(Fault::UD));
    }
    if on {
        c.eflags |= AC;
    } else {
        c.eflags &= !AC;
    }
    // At CPL 0 nothing else depends on AC.
    c.select_data_tlb();
    Ok(())
}
