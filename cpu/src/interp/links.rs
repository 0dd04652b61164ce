//! From one block to the next.
#![allow(unsafe_code)]

use crate::{
    attention::Attention,
    insn::{Insn, Links},
    jumps::{JumpEntry, jump_index},
    state::{Cpu, Why, reg},
};
use std::ptr::null;

/// The links behind the last instruction of a block.
///
/// # Safety
/// `i` is the last instruction of a block: `attr::LAST` is set, or it is the synthetic end.
#[inline(always)]
pub(super) unsafe fn links<'a>(i: &Insn) -> &'a Links {
    // SAFETY: `blocks::Block` puts Links right behind the last instruction.
    unsafe { &*std::ptr::from_ref(i).add(1).cast() }
}

impl Cpu {
    #[inline(always)]
    pub(crate) fn attention_ref(&self) -> &Attention {
        // SAFETY: points into attention_owner, which lives as long as the CPU.
        unsafe { &*self.attention }
    }
}

/// The attention word wants the CPU between two blocks.
#[cold]
#[inline(never)]
pub(super) fn pause(c: &mut Cpu, l: &Links, taken: bool) -> *const Insn {
    // The last byte of the block.
    c.left = Some(c.page_relative(i64::from(l.fall_offset) - 1));
    leave(c, l, taken)
}

/// The same before an indirect jump, which is the instruction.
#[cold]
#[inline(never)]
pub(super) fn pause_at(c: &mut Cpu, i: &Insn, to: u64) -> *const Insn {
    c.left = Some(c.rip_of(i));
    c.rip = to;
    c.why = Why::Continue;
    null()
}

/// Goes on by way of the dispatcher.
fn leave(c: &mut Cpu, l: &Links, taken: bool) -> *const Insn {
    let offset = if taken { l.taken_offset } else { l.fall_offset };
    c.rip = c.page_relative(offset.into());
    c.why = Why::Continue;
    null()
}

/// The handler of a link that is not made yet: makes it where the target lies in the same page.
pub(crate) fn unlinked(c: &mut Cpu, i: &Insn) -> *const Insn {
    // SAFETY: this step stands only in stubs.
    let stub = unsafe { &*std::ptr::from_ref(i).cast::<crate::insn::Stub>() };
    // SAFETY: a stub lives in the same allocation as its links.
    let l = unsafe { &*stub.owner };
    let offset = if stub.taken { l.taken_offset } else { l.fall_offset };
    let rip = c.page_relative(offset.into());
    let known = through_cache(c, rip);
    if !known.is_null() {
        link(c, l, stub.taken, known);
        return known;
    }
    let Ok(to) = c.find_block(rip) else { return null() };
    if c.blocks.linkable {
        link(c, l, stub.taken, to);
    }
    to
}

/// Has a link lead to a block of a page of RAM, if it lies in this one: the page tables may lead elsewhere now than when the
/// block was entered that the link belongs to.
fn link(c: &mut Cpu, l: &Links, taken: bool, to: *const Insn) {
    // SAFETY: blocks have a head in front.
    if unsafe { crate::blocks::Head::of(to) }.linkable() == Some(l.page) {
        c.statistics.links += 1;
        if taken { l.taken.set(to) } else { l.fall.set(to) }
    }
}

/// A link that leaves the page: through the jump cache each time.
pub(crate) fn far_link(c: &mut Cpu, i: &Insn) -> *const Insn {
    // SAFETY: this step stands only in stubs.
    let stub = unsafe { &*std::ptr::from_ref(i).cast::<crate::insn::Stub>() };
    // SAFETY: a stub lives in the same allocation as its links.
    let l = unsafe { &*stub.owner };
    let offset = if stub.taken { l.taken_offset } else { l.fall_offset };
    let rip = c.page_relative(offset.into());
    let to = through_cache(c, rip);
    if !to.is_null() {
        // SAFETY: blocks have a head in front.
        stub.page.set(unsafe { crate::blocks::Head::of(to) }.page());
    }
    to
}

/// A link that always returns to the dispatcher.
pub(crate) fn leave_link(c: &mut Cpu, i: &Insn) -> *const Insn {
    // SAFETY: this step stands only in stubs.
    let stub = unsafe { &*std::ptr::from_ref(i).cast::<crate::insn::Stub>() };
    // SAFETY: a stub lives in the same allocation as its links.
    leave(c, unsafe { &*stub.owner }, stub.taken)
}

/// What the instructions of a dropped block become: the code there has changed.
pub(crate) fn stale(c: &mut Cpu, i: &Insn) -> *const Insn {
    c.statistics.stale += 1;
    c.rip = c.rip_of(i);
    c.why = Why::Continue;
    // The jump cache may still lead here.
    let place = c.jump_place(c.rip);
    *c.jumps.entry(place, c.rip) = JumpEntry::EMPTY;
    c.forget_unexecuted(i);
    null()
}

#[inline(always)]
pub(super) fn through_cache(c: &mut Cpu, rip: u64) -> *const Insn {
    let way = &c.ways[(rip >> 63) as usize];
    for index in [jump_index(rip), jump_index(rip) ^ 1] {
        // SAFETY: a way leads to a table of the CPU's; jump_index is below its size, which is even.
        let e = unsafe { &*way.entries.add(index) };
        if e.rip == rip && e.context == way.context {
            c.gpr[reg::PAGE as usize] = rip & !0xfff;
            return e.insn;
        }
    }
    c.rip = rip;
    c.why = Why::Continue;
    null()
}
