//! Decimal arithmetic, outside of 64-bit mode: SDM 1 "Decimal Arithmetic Instructions".

use crate::{
    fault::{Done, Fault, vector},
    flags::Arith,
    insn::Insn,
    state::{Cpu, reg},
    width::{B, W},
};

/// SF, ZF and PF from AL; CF and AF given; OF 0.
fn flags(c: &mut Cpu, al: u64, cf: bool, af: bool) {
    c.flags.set(B, Arith::Explicit { r: al, cf, of: false, af });
}

/// AAA: SDM 2A "AAA".
pub(crate) fn aaa(c: &mut Cpu, _: &Insn) -> Done {
    adjust_unpacked(c, 0x106)
}

/// AAS: SDM 2A "AAS".
pub(crate) fn aas(c: &mut Cpu, _: &Insn) -> Done {
    adjust_unpacked(c, 0x106u64.wrapping_neg())
}

fn adjust_unpacked(c: &mut Cpu, by: u64) -> Done {
    let mut ax = c.get(W, reg::RAX);
    let adjust = ax & 15 > 9 || c.flags.af();
    if adjust {
        ax = W.mask(ax.wrapping_add(by));
    }
    ax &= 0xff0f;
    c.set(W, reg::RAX, ax);
    flags(c, ax & 0xff, adjust, adjust);
    Ok(())
}

/// DAA: SDM 2A "DAA".
pub(crate) fn daa(c: &mut Cpu, _: &Insn) -> Done {
    let old = c.get(B, reg::RAX);
    let (old_cf, old_af) = (c.flags.cf(), c.flags.af());
    let mut al = old;
    let low = old & 15 > 9 || old_af;
    if low {
        al = al.wrapping_add(6);
    }
    let high = old > 0x99 || old_cf;
    if high {
        al = al.wrapping_add(0x60);
    }
    let al = B.mask(al);
    c.set(B, reg::RAX, al);
    flags(c, al, high, low);
    Ok(())
}

/// DAS: SDM 2A "DAS".
pub(crate) fn das(c: &mut Cpu, _: &Insn) -> Done {
    let old = c.get(B, reg::RAX);
    let (old_cf, old_af) = (c.flags.cf(), c.flags.af());
    let mut al = old;
    let mut cf = false;
    let low = old & 15 > 9 || old_af;
    if low {
        cf = old_cf || old < 6;
        al = al.wrapping_sub(6);
    }
    if old > 0x99 || old_cf {
        al = al.wrapping_sub(0x60);
        cf = true;
    }
    let al = B.mask(al);
    c.set(B, reg::RAX, al);
    flags(c, al, cf, low);
    Ok(())
}

/// AAM: SDM 2A "AAM".
pub(crate) fn aam(c: &mut Cpu, i: &Insn) -> Done {
    let base = u64::from(i.imm as u8);
    if base == 0 {
        return Err(c.raise(Fault::new(vector::DE)));
    }
    let al = c.get(B, reg::RAX);
    c.set(W, reg::RAX, al / base << 8 | al % base);
    flags(c, al % base, false, false);
    Ok(())
}

/// AAD: SDM 2A "AAD".
pub(crate) fn aad(c: &mut Cpu, i: &Insn) -> Done {
    let ax = c.get(W, reg::RAX);
    let al = B.mask((ax & 0xff) + (ax >> 8) * u64::from(i.imm as u8));
    c.set(W, reg::RAX, al);
    flags(c, al, false, false);
    Ok(())
}
