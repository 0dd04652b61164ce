//! SSE instructions over the CPU state: MXCSR and byte-masked stores.

use crate::{
    fault::{Done, Fault},
    insn::Insn,
    state::{Cpu, Mxcsr, reg},
    width::{B, D, Width},
};

/// LDMXCSR: SDM 2A "LDMXCSR". Pending exceptions that it unmasks do not arise.
pub(crate) fn ldmxcsr(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.operand_address(i, 4, false)?;
    let v = c.read(D, at).map_err(|stop| c.operand_fault(i, stop))? as u32;
    if v & !Mxcsr::MASK != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.mxcsr = v;
    Ok(())
}

/// STMXCSR: SDM 2B "STMXCSR".
pub(crate) fn stmxcsr(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.operand_address(i, 4, true)?;
    c.write(D, at, c.mxcsr.into()).map_err(|stop| c.operand_fault(i, stop))
}

/// Stores those of `size` bytes at DS:rDI whose mask byte has its top bit set.
fn masked_store(c: &mut Cpu, i: &Insn, size: u64, data: u128, mask: u128) -> Done {
    let a = Width(i.asize);
    let offset = a.mask(c.get(a, reg::RDI));
    let s = usize::from(i.seg & 7);
    let at = if c.mode.is_64() {
        offset.wrapping_add(c.seg_base[s])
    } else if c.flat_segment(s) {
        offset as u32 as u64
    } else {
        c.segment_check(s, offset, size, true)?
    };
    // Eight bytes are enough for sixteen, too.
    c.check_alignment(at, 8)?;
    // All of it must be writable, whatever the mask leaves out. The manual lets a mask of zeros choose.
    c.check_write(at, size)?;
    for (k, (byte, mask)) in data.to_le_bytes().into_iter().zip(mask.to_le_bytes()).enumerate() {
        if mask & 0x80 != 0 {
            c.write(B, at.wrapping_add(k as u64), byte.into())?;
        }
    }
    Ok(())
}

/// MASKMOVDQU: SDM 2B "MASKMOVDQU".
pub(crate) fn maskmovdqu(c: &mut Cpu, i: &Insn) -> Done {
    let (data, mask) = (c.xmm[usize::from(i.dst & 15)], c.xmm[usize::from(i.src & 15)]);
    masked_store(c, i, 16, data, mask)
}

/// MASKMOVQ: SDM 2B "MASKMOVQ".
pub(crate) fn maskmovq(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    let mm = |r: u8| u128::from(c.x87.regs[usize::from(r & 7)].significand);
    let (data, mask) = (mm(i.dst), mm(i.src));
    // Silicon goes over to MMX even if the store faults.
    super::x87::become_mmx(c, i)?;
    masked_store(c, i, 8, data, mask)
}
