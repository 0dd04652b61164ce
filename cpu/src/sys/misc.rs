//! What belongs nowhere else.

use crate::{
    fault::{Done, Fault, vector},
    insn::Insn,
    state::{Cpu, reg, seg},
    width::{B, Width},
};

/// #UD: an encoding that means nothing, or nothing in this mode.
pub(crate) fn undefined(c: &mut Cpu, _: &Insn) -> Done {
    Err(c.raise(Fault::UD))
}

/// #GP(0): more than fifteen bytes.
pub(crate) fn too_long(c: &mut Cpu, _: &Insn) -> Done {
    Err(c.raise(Fault::gp(0)))
}

/// #NM: CR0 says that the x87 or SSE state belongs to another task.
pub(crate) fn device_not_available(c: &mut Cpu, _: &Insn) -> Done {
    Err(c.raise(Fault::NM))
}

/// XLAT: SDM 2C "XLAT/XLATB".
pub(crate) fn xlat(c: &mut Cpu, i: &Insn) -> Done {
    let a = Width(i.asize);
    let offset = a.mask(c.get(a, reg::RBX).wrapping_add(c.get(B, reg::RAX)));
    let s = usize::from(i.seg & 7);
    let at = if c.mode.is_64() {
        offset.wrapping_add(c.seg_base[s])
    } else if c.flat_segment(s) {
        offset as u32 as u64
    } else {
        c.segment_check(s, offset, 1, false)?
    };
    let v = c.read(B, at)?;
    c.set(B, reg::RAX, v);
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB: nothing to flush, but the address must be readable.
pub(crate) fn clflush(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.operand_address(i, 1, false)?;
    c.read(B, at).map_err(|stop| c.operand_fault(i, stop))?;
    Ok(())
}

/// MOVDIR64B: SDM 2B "MOVDIR64B". 64 bytes to an aligned address in ES, in one step; the size of the register is that of
/// the address.
pub(crate) fn movdir64b(c: &mut Cpu, i: &Insn) -> Done {
    let from = c.operand_address(i, 64, false)?;
    let mut bytes = [0; 64];
    c.read_bytes(from, &mut bytes).map_err(|stop| c.operand_fault(i, stop))?;
    let offset = c.get(i.w, i.dst);
    let to = if c.mode.is_64() || c.flat_segment(seg::ES) {
        offset
    } else {
        c.segment_check(seg::ES, offset, 64, true)?
    };
    if to & 63 != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    c.write_whole(to, &bytes)
}

/// SERIALIZE: SDM 2B "SERIALIZE". It ends its block, so that what other CPUs have written is seen as code, too.
pub(crate) fn serialize(_: &mut Cpu, _: &Insn) -> Done {
    drain_stores();
    Ok(())
}

/// BOUND: SDM 2A "BOUND".
pub(crate) fn bound(c: &mut Cpu, i: &Insn) -> Done {
    let w = i.w;
    let size = u64::from(w.0);
    // Two reads, one after the other, each with the checks of its own.
    let at = c.far_address(i, 0, size, false)?;
    let low = w.sext(c.read(w, at)?) as i64;
    let at = c.far_address(i, size, size, false)?;
    let high = w.sext(c.read(w, at)?) as i64;
    let v = w.sext(c.get(w, i.dst)) as i64;
    if v < low || v > high {
        return Err(c.raise(Fault::new(vector::BR)));
    }
    Ok(())
}

/// SALC: AL := CF ? FFh : 0. Undocumented, there on every processor outside of 64-bit mode.
pub(crate) fn salc(c: &mut Cpu, _: &Insn) -> Done {
    let v = if c.flags.cf() { 0xff } else { 0 };
    c.set(B, reg::RAX, v);
    Ok(())
}

/// MFENCE: SDM 2B "MFENCE".
pub(crate) fn mfence(_: &mut Cpu, _: &Insn) -> Done {
    drain_stores();
    Ok(())
}

/// Earlier stores are visible to all before a later load reads: a part of what MFENCE and the serialising instructions do
/// (SDM 3A "Serializing Instructions"), and the only reordering that the host's memory order, which is x86's, leaves open.
pub(crate) fn drain_stores() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// How many PAUSEs a guest spins before the host may give the core to another thread. What it waits for is most often
/// about to come; where it is not, the CPU that would bring it may be waiting for this very core.
const PATIENCE: u32 = 32;

/// PAUSE: SDM 2B "PAUSE". Spinning CPUs must not keep those from running that they wait for.
pub(crate) fn pause(c: &mut Cpu, _: &Insn) -> Done {
    c.pauses = c.pauses.wrapping_add(1);
    if c.pauses.is_multiple_of(PATIENCE) && c.options.cpus > 1 {
        std::thread::yield_now();
    }
    Ok(())
}
