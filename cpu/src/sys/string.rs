//! String instructions: SDM 1 "String Instructions". They run in bulk, a page at a time, and end the block: the dispatcher
//! looks for interrupts and comes back while the count is not 0.
#![allow(unsafe_code)]

use crate::{
    fault::{Done, Stop},
    flags::{
        Arith,
        bits::{DF, RF},
    },
    insn::{Insn, attr},
    mode::Mode,
    ram::{PAGE, peek, poke},
    state::{Cpu, reg, seg},
    width::{B, Q, W, Width},
};
use std::cell::Cell;

/// Iterations between two looks at the attention word.
const BATCH: u64 = 4096;

/// Words of 8 bytes that are moved in one turn of a loop, where there are as many.
const TURN: u64 = 8;

/// A string instruction's registers and directions.
struct Strings {
    /// Address size.
    a: Width,
    /// Element size.
    w: Width,
    repeat: bool,
    /// Some iterations have been counted as instructions.
    counted: Cell<bool>,
}

impl Strings {
    fn new(i: &Insn) -> Self {
        Strings {
            a: Width(i.asize),
            w: i.w,
            repeat: i.has(attr::REP | attr::REPNE),
            counted: Cell::new(false),
        }
    }
    /// Iterations until somebody must look: all of `most`, but one where each is followed by a single-step trap.
    fn batch(&self, c: &Cpu, most: u64) -> u64 {
        let most = if c.iterations_trap() { 1 } else { most };
        let most = if self.counts(c) { most.min(c.attention_ref().room()) } else { most };
        self.count(c).min(most)
    }
    /// Iterations left; 1 without a prefix.
    fn count(&self, c: &Cpu) -> u64 {
        if self.repeat { c.get(self.a, reg::RCX) } else { 1 }
    }
    /// What an index register moves by.
    fn step(&self, c: &Cpu) -> u64 {
        let size = u64::from(self.w.0);
        if c.eflags & DF != 0 { size.wrapping_neg() } else { size }
    }
    fn advance(&self, c: &mut Cpu, r: u8, by: u64) {
        let v = c.get(self.a, r).wrapping_add(by);
        c.set(self.a, r, v);
    }
    fn counted(&self, c: &mut Cpu, n: u64) {
        if self.repeat {
            let left = c.get(self.a, reg::RCX).wrapping_sub(n);
            c.set(self.a, reg::RCX, left);
            if self.counts(c) {
                c.attention_ref().due(n as i32);
                self.counted.set(true);
            }
        }
    }
    /// Whether each iteration counts as an instruction.
    fn counts(&self, c: &Cpu) -> bool {
        self.repeat && c.mode.contains(Mode::COUNTING)
    }
    /// The block's end counts the instruction, whose iterations have been counted.
    fn count_once(&self, c: &Cpu) {
        if self.counted.get() {
            c.attention_ref().due(-1);
        }
    }
    /// Linear address of the source element.
    fn source(&self, c: &mut Cpu, i: &Insn) -> Result<u64, Stop> {
        linear(c, self, i.seg.into(), reg::RSI, false)
    }
    /// Linear address of the destination element.
    fn destination(&self, c: &mut Cpu, write: bool) -> Result<u64, Stop> {
        let s = if c.mode.is_64() { seg::NONE } else { seg::ES };
        linear(c, self, s, reg::RDI, write)
    }
    /// Elements from `linear` that lie in its page, in the direction of travel; 0 if the first one crosses it.
    fn in_page(&self, c: &Cpu, linear: u64) -> u64 {
        let (offset, size) = (linear & (PAGE - 1), u64::from(self.w.0));
        if offset + size > PAGE {
            0
        } else if c.eflags & DF != 0 {
            (offset >> size.trailing_zeros()) + 1
        } else {
            (PAGE - offset) >> size.trailing_zeros()
        }
    }
    /// Elements before the index register wraps at the address size.
    fn before_wrap(&self, c: &Cpu, r: u8) -> u64 {
        if self.a == Q {
            return u64::MAX;
        }
        let v = c.get(self.a, r);
        let size = u64::from(self.w.0);
        let room = if c.eflags & DF != 0 { v } else { self.a.mask(u64::MAX) - v };
        room >> size.trailing_zeros()
    }
    /// Runs the instruction again if iterations are left.
    fn again(&self, c: &mut Cpu, i: &Insn) {
        self.count_once(c);
        if self.repeat && self.count(c) != 0 {
            c.rip = c.rip_of(i);
            // Events between iterations push RF set.
            c.eflags |= RF;
        }
    }
}

fn linear(c: &mut Cpu, s: &Strings, segment: usize, r: u8, write: bool) -> Result<u64, Stop> {
    let offset = c.get(s.a, r);
    let size = u64::from(s.w.0);
    let linear = if c.mode.is_64() {
        offset.wrapping_add(c.seg_base[segment])
    } else if c.flat_segment(segment) {
        offset as u32 as u64
    } else {
        c.segment_check(segment, offset, size, write)?
    };
    c.check_alignment(linear, size)?;
    Ok(linear)
}

/// Whether bulk work is right: flat addresses in this segment, and in ES, so that one check serves a page.
fn bulk(c: &Cpu, segment: usize) -> bool {
    (c.mode.is_64() || c.flat_segment(segment)) && !c.mode.contains(Mode::ALIGN)
}

/// Runs `one` up to [`BATCH`] times. `one` says whether to stop early.
fn each(c: &mut Cpu, i: &Insn, s: &Strings, mut one: impl FnMut(&mut Cpu) -> Result<bool, Stop>) -> Done {
    for _ in 0..s.batch(c, BATCH) {
        let stop = one(c)?;
        s.counted(c, 1);
        if stop {
            s.count_once(c);
            return Ok(());
        }
    }
    s.again(c, i);
    Ok(())
}

/// MOVS: SDM 2B "MOVS/MOVSB/MOVSW/MOVSD/MOVSQ".
pub(crate) fn movs(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    let mut left = s.batch(c, BATCH * 8);
    while s.repeat && left != 0 && bulk(c, i.seg.into()) {
        let (from, to) = (s.source(c, i)?, s.destination(c, true)?);
        let n = left
            .min(s.in_page(c, from))
            .min(s.in_page(c, to))
            .min(s.before_wrap(c, reg::RSI))
            .min(s.before_wrap(c, reg::RDI));
        if n == 0 {
            break;
        }
        let (Some(p), Some(q)) = (c.span(from, false)?, c.span(to, true)?) else { break };
        // SAFETY: n elements in the direction of travel lie within the pages of p and q.
        unsafe { copy(p, q, n, s.w, step) };
        s.advance(c, reg::RSI, step.wrapping_mul(n));
        s.advance(c, reg::RDI, step.wrapping_mul(n));
        s.counted(c, n);
        left -= n;
    }
    if left == 0 {
        s.again(c, i);
        return Ok(());
    }
    // Where bulk work is right, this is the element across two pages; elsewhere it is all of them.
    let n = if bulk(c, i.seg.into()) { 1 } else { left };
    for _ in 0..n.min(s.count(c)) {
        // The source has been read before the destination's segment is looked at.
        let from = s.source(c, i)?;
        let v = c.read(s.w, from)?;
        let to = s.destination(c, true)?;
        c.write(s.w, to, v)?;
        s.advance(c, reg::RSI, step);
        s.advance(c, reg::RDI, step);
        s.counted(c, 1);
    }
    s.again(c, i);
    Ok(())
}

/// Copies elements one after the other, as the instruction does where the operands overlap.
///
/// # Safety
/// n elements of w bytes, `step` apart, are readable at p and writable at q.
unsafe fn copy(p: *const u8, q: *mut u8, n: u64, w: Width, step: u64) {
    let size = u64::from(w.0);
    // Forwards and not into what is still to be read: words of 8 do the same as elements.
    let distance = (q.addr() as u64).wrapping_sub(p.addr() as u64);
    let mut done = 0;
    if step == size && distance >= 8 {
        let bytes = n * size;
        while done + 8 * TURN <= bytes {
            for k in 0..TURN {
                let at = (done + 8 * k) as usize;
                // SAFETY: the caller's promise.
                unsafe { poke(Q, q.add(at), peek(Q, p.add(at))) };
            }
            done += 8 * TURN;
        }
        while done + 8 <= bytes {
            // SAFETY: the caller's promise.
            unsafe { poke(Q, q.add(done as usize), peek(Q, p.add(done as usize))) };
            done += 8;
        }
        while done < bytes {
            // SAFETY: the caller's promise.
            unsafe { poke(B, q.add(done as usize), peek(B, p.add(done as usize))) };
            done += 1;
        }
        return;
    }
    for k in 0..n {
        let at = step.wrapping_mul(k) as isize;
        // SAFETY: the caller's promise.
        unsafe { poke(w, q.offset(at), peek(w, p.offset(at))) };
    }
}

/// Stores elements one after the other; forwards, as words of 8 bytes where they are smaller.
///
/// # Safety
/// n elements of w bytes, `step` apart, are writable at q.
unsafe fn fill(q: *mut u8, n: u64, w: Width, step: u64, v: u64) {
    let size = u64::from(w.0);
    let mut done = 0;
    if step == size {
        // Of as many elements as fit.
        let word = match w.0 {
            1 => w.mask(v) * 0x0101_0101_0101_0101,
            2 => w.mask(v) * 0x0001_0001_0001_0001,
            4 => w.mask(v) * 0x0000_0001_0000_0001,
            _ => v,
        };
        let (fit, mut at) = (3 - size.trailing_zeros().min(3), q);
        let mut words = n >> fit;
        while words >= TURN {
            for k in 0..TURN {
                // SAFETY: the caller's promise: these words are within the elements.
                unsafe { poke(Q, at.wrapping_add(8 * k as usize), word) };
            }
            at = at.wrapping_add(8 * TURN as usize);
            words -= TURN;
        }
        for _ in 0..words {
            // SAFETY: as above.
            unsafe { poke(Q, at, word) };
            at = at.wrapping_add(8);
        }
        done = n >> fit << fit;
    }
    for k in done..n {
        // SAFETY: the caller's promise.
        unsafe { poke(w, q.offset(step.wrapping_mul(k) as isize), v) };
    }
}

/// STOS: SDM 2B "STOS/STOSB/STOSW/STOSD/STOSQ".
pub(crate) fn stos(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    let v = c.get(s.w, reg::RAX);
    let mut left = s.batch(c, BATCH * 8);
    while s.repeat && left != 0 && bulk(c, seg::ES) {
        let to = s.destination(c, true)?;
        let n = left.min(s.in_page(c, to)).min(s.before_wrap(c, reg::RDI));
        if n == 0 {
            break;
        }
        let Some(q) = c.span(to, true)? else { break };
        // SAFETY: n elements in the direction of travel lie within q's page.
        unsafe { fill(q, n, s.w, step, v) };
        s.advance(c, reg::RDI, step.wrapping_mul(n));
        s.counted(c, n);
        left -= n;
    }
    let n = if bulk(c, seg::ES) { 1 } else { left };
    for _ in 0..n.min(left).min(s.count(c)) {
        let to = s.destination(c, true)?;
        c.write(s.w, to, v)?;
        s.advance(c, reg::RDI, step);
        s.counted(c, 1);
    }
    s.again(c, i);
    Ok(())
}

/// LODS: SDM 2A "LODS/LODSB/LODSW/LODSD/LODSQ".
pub(crate) fn lods(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    each(c, i, &s, |c| {
        let from = s.source(c, i)?;
        let v = c.read(s.w, from)?;
        c.set(s.w, reg::RAX, v);
        s.advance(c, reg::RSI, step);
        Ok(false)
    })
}

/// Compares, sets the flags, and says whether REPE or REPNE ends.
fn compare(c: &mut Cpu, i: &Insn, w: Width, a: u64, b: u64) -> bool {
    let r = w.mask(a.wrapping_sub(b));
    c.flags.set(w, Arith::Sub { a, b, r });
    let equal = r == 0;
    i.has(attr::REP) && !equal || i.has(attr::REPNE) && equal
}

/// CMPS: SDM 2A "CMPS/CMPSB/CMPSW/CMPSD/CMPSQ".
pub(crate) fn cmps(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    each(c, i, &s, |c| {
        let from = s.source(c, i)?;
        let a = c.read(s.w, from)?;
        let to = s.destination(c, false)?;
        let b = c.read(s.w, to)?;
        s.advance(c, reg::RSI, step);
        s.advance(c, reg::RDI, step);
        Ok(compare(c, i, s.w, a, b))
    })
}

/// SCAS: SDM 2B "SCAS/SCASB/SCASW/SCASD".
pub(crate) fn scas(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    each(c, i, &s, |c| {
        let to = s.destination(c, false)?;
        let b = c.read(s.w, to)?;
        s.advance(c, reg::RDI, step);
        let a = c.get(s.w, reg::RAX);
        Ok(compare(c, i, s.w, a, b))
    })
}

/// INS: SDM 2A "INS/INSB/INSW/INSD".
pub(crate) fn ins(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    let port = c.get(W, reg::RDX) as u16;
    // Silicon looks at the permission even when the count is 0.
    c.port_allowed(port, s.w)?;
    each(c, i, &s, |c| {
        let to = s.destination(c, true)?;
        // The port is read once its value can be stored.
        c.check_write(to, s.w.0.into())?;
        let v = c.port_in(port, s.w);
        c.write(s.w, to, v)?;
        s.advance(c, reg::RDI, step);
        Ok(false)
    })
}

/// OUTS: SDM 2B "OUTS/OUTSB/OUTSW/OUTSD".
pub(crate) fn outs(c: &mut Cpu, i: &Insn) -> Done {
    let s = Strings::new(i);
    let step = s.step(c);
    let port = c.get(W, reg::RDX) as u16;
    // Silicon looks at the permission even when the count is 0.
    c.port_allowed(port, s.w)?;
    each(c, i, &s, |c| {
        let from = s.source(c, i)?;
        let v = c.read(s.w, from)?;
        c.port_out(port, s.w, v);
        s.advance(c, reg::RSI, step);
        Ok(false)
    })
}
