//! AVX instructions over the CPU state: masked moves and gathers, whose lanes are accesses of their own.

use crate::{
    fault::{Done, Stop},
    insn::{Insn, Kind},
    sem::avx::field,
    state::Cpu,
    vector::{FloatOp, Lanes},
    width::Width,
};

/// Bytes of an element.
fn lane_bytes(i: &Insn) -> Width {
    Width((i.imm >> field::STEP & 15) as u8)
}

fn is_wide(i: &Insn) -> bool {
    i.imm & field::WIDE != 0
}

/// Bytes of lane n of register r, lanes of width w.
fn lane(c: &Cpu, r: u8, w: Width, n: usize) -> u64 {
    let bits = 8 * usize::from(w.0) * n;
    let half = c.xmm[usize::from(r & 15) + 16 * (bits / 128)];
    w.mask((half >> (bits % 128)) as u64)
}

fn set_lane(c: &mut Cpu, r: u8, w: Width, n: usize, v: u64) {
    let bits = 8 * usize::from(w.0) * n;
    let half = &mut c.xmm[usize::from(r & 15) + 16 * (bits / 128)];
    let mask = u128::from(w.mask(u64::MAX)) << (bits % 128);
    *half = *half & !mask | u128::from(w.mask(v)) << (bits % 128);
}

fn negative(w: Width, v: u64) -> bool {
    v >> (8 * w.0 - 1) & 1 != 0
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: SDM 2C "VMASKMOV". Lanes whose mask is not set are not touched, and
/// cannot fault; none of them must be aligned.
pub(crate) fn masked_move(c: &mut Cpu, i: &Insn) -> Done {
    let w = lane_bytes(i);
    let size = if is_wide(i) { 32 } else { 16 };
    let count = size / usize::from(w.0);
    let store = i.dst_kind() != Kind::Reg;
    let offset = c.far_offset(i);
    let mut chosen = Vec::with_capacity(8);
    let mut loaded = [0; 8];
    for n in 0..count {
        if !negative(w, lane(c, i.cc, w, n)) {
            continue;
        }
        let at = lane_address(c, i, offset, n * usize::from(w.0), w, store)?;
        if store {
            c.check_write(at, w.0.into()).map_err(|stop| c.operand_fault(i, stop))?;
            chosen.push((n, at));
        } else {
            loaded[n & 7] = c.read(w, at).map_err(|stop| c.operand_fault(i, stop))?;
        }
    }
    if store {
        for (n, at) in chosen {
            let v = lane(c, i.src, w, n);
            c.write(w, at, v).map_err(|stop| c.operand_fault(i, stop))?;
        }
        return Ok(());
    }
    let r = usize::from(i.dst & 15);
    (c.xmm[r], c.xmm[r + 16]) = (0, 0);
    for n in 0..count {
        set_lane(c, i.dst, w, n, loaded[n & 7]);
    }
    Ok(())
}

/// Linear address of the lane that begins `by` bytes behind an offset. Lanes that are not touched need not lie within the
/// segment; offsets do not wrap from one lane to the next. SDM 2C "VMASKMOV": no #AC.
fn lane_address(c: &mut Cpu, i: &Insn, offset: u64, by: usize, w: Width, write: bool) -> Result<u64, Stop> {
    let at = offset.wrapping_add(by as u64);
    let s = usize::from(i.seg & 7);
    if c.mode.is_64() {
        Ok(at.wrapping_add(c.seg_base[s]))
    } else if c.flat_segment(s) {
        Ok(at as u32 as u64)
    } else {
        c.segment_check(s, at.min(0xffff_ffff), w.0.into(), write)
    }
}

/// VGATHERDPS, VPGATHERQD and their relatives: SDM 2C "VPGATHERDD/VPGATHERDQ". The lanes come from the lowest on; each that
/// has come clears its mask, so that a fault between two leaves work to be gone on with. The manual's pseudo-code first
/// spreads the sign of each lane of the mask; silicon leaves the lanes alone that a fault kept from coming.
pub(crate) fn gather(c: &mut Cpu, i: &Insn) -> Done {
    let w = lane_bytes(i);
    let indices = Width(((i.imm >> field::OP) & 15) as u8);
    let size = if is_wide(i) { 32 } else { 16 };
    // As many as the wider of index and element has lanes.
    let count = size / usize::from(w.0.max(indices.0));
    let index = i.index;
    for n in 0..count {
        if negative(w, lane(c, i.cc, w, n)) {
            let offset = lane(c, index, indices, n);
            let offset = if indices.0 == 4 { offset as i32 as i64 as u64 } else { offset };
            let at = element_address(c, i, offset << (i.scale & 3), w)?;
            let v = c.read(w, at).map_err(|stop| c.operand_fault(i, stop))?;
            set_lane(c, i.dst, w, n, v);
        }
        set_lane(c, i.cc, w, n, 0);
    }
    // What is above the gathered lanes becomes 0, in the mask too.
    for r in [i.dst, i.cc] {
        for n in count..32 / usize::from(w.0) {
            set_lane(c, r, w, n, 0);
        }
    }
    Ok(())
}

/// Linear address of a gathered element: `i.index` is no general register here.
fn element_address(c: &mut Cpu, i: &Insn, offset: u64, w: Width) -> Result<u64, Stop> {
    let base = c.gpr.get(usize::from(i.base)).copied().unwrap_or(0);
    let offset = base.wrapping_add(i.disp as i64 as u64).wrapping_add(offset);
    let offset = if i.asize == 4 { offset as u32 as u64 } else { offset };
    c.segment_address(i, offset, w.0.into(), false)
}

/// VCVTPS2PH to memory: SDM 2C "VCVTPS2PH".
pub(crate) fn half_to_memory(c: &mut Cpu, i: &Insn) -> Done {
    let r = usize::from(i.src & 15);
    let size = if is_wide(i) { 16 } else { 8 };
    let at = c.operand_address(i, size, true)?;
    // Nothing may change where the store does not succeed.
    c.check_write(at, size).map_err(|stop| c.operand_fault(i, stop))?;
    let b = if is_wide(i) { [c.xmm[r], c.xmm[r + 16]] } else { [c.xmm[r], 0] };
    let [low, high] = c.avx_float(FloatOp::NarrowHalf, Lanes::Ps, b, b, i.imm as u8)?;
    let bytes = (low | high << 64).to_le_bytes();
    c.write_bytes(at, &bytes[..size as usize]).map_err(|stop| c.operand_fault(i, stop))
}
