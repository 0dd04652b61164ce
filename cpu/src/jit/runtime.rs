//! What translated code calls.
#![allow(unsafe_code)]

use super::{Passage, host};
use crate::{
    fault::Done,
    group::granules,
    insn::Insn,
    mmu::{Access, access::Place},
    ram::PAGE,
    sem::{self, Class, Needs, Op},
    state::{Cpu, Mxcsr, TrapRule, Why},
};

/// The instruction faulted.
pub(super) const STOPPED: i64 = 1;
/// It wrote code, or unmasked an exception.
const DROPPED: i64 = 2;

/// Runs one instruction by its interpreter function: 0, or why the region ends.
///
/// # Safety
/// Called by translated code with its CPU and an instruction of a block that lives.
pub(super) unsafe extern "C" fn step(cpu: *mut Cpu, i: *const Insn, _: u64) -> i64 {
    // SAFETY: translated code runs within `Jit::run`, which has the CPU for itself, and hands it on; the instruction stands
    // in a block, which is not freed while translated code runs.
    let (c, i) = unsafe { (&mut *cpu, &*i) };
    host::leave_floats(c);
    let masked = c.exceptions_masked();
    let end = run(c, i);
    host::enter_floats(c);
    // What follows may count on masked exceptions.
    if end == 0 && masked && !c.exceptions_masked() { DROPPED } else { end }
}

/// The same where neither MXCSR nor the host's floating point are touched.
///
/// # Safety
/// As [`step`].
pub(super) unsafe extern "C" fn step_quietly(cpu: *mut Cpu, i: *const Insn, _: u64) -> i64 {
    // SAFETY: as in `step`.
    let (c, i) = unsafe { (&mut *cpu, &*i) };
    run(c, i)
}

fn run(c: &mut Cpu, i: &Insn) -> i64 {
    c.count_call(i);
    if !leaves_x87_alone(Op::from_number(i.op)) {
        host::leave_x87(c);
    }
    let dropped = c.statistics.invalidations;
    match sem::alone(i.op)(c, i) {
        Ok(()) if c.statistics.invalidations == dropped => 0,
        Ok(()) => DROPPED,
        Err(_) => STOPPED,
    }
}

/// Whether an instruction's function neither looks at the x87 unit nor changes it, nor the host's where it is that.
fn leaves_x87_alone(op: Op) -> bool {
    match op.class() {
        Class::Straight | Class::Plain => matches!(op.needs(), Needs::Nothing | Needs::Avx),
        Class::Ending => false,
        Class::Leave => matches!(op, Op::Movs | Op::Stos | Op::Lods | Op::Cmps | Op::Scas),
    }
}

/// Runs an instruction that ends its block by its function of plain Rust: 0 where translated code is to go on at `rip`, else
/// the dispatcher has to. `n` instructions of the block have run behind it. `function` is that of [`sem::leaving`].
///
/// # Safety
/// As [`step`].
pub(super) unsafe extern "C" fn end(cpu: *mut Cpu, i: *const Insn, n: u64, function: usize) -> i64 {
    // SAFETY: as in `step`.
    let (c, i) = unsafe { (&mut *cpu, &*i) };
    host::leave_floats(c);
    // SAFETY: the caller's promise.
    let stopped = unsafe { run_last(c, i, n, function) };
    host::enter_floats(c);
    stopped
}

/// The same where neither MXCSR nor the host's floating point are touched.
///
/// # Safety
/// As [`step`].
pub(super) unsafe extern "C" fn end_quietly(cpu: *mut Cpu, i: *const Insn, n: u64, function: usize) -> i64 {
    // SAFETY: as in `step`; the caller's promise.
    unsafe { run_last(&mut *cpu, &*i, n, function) }
}

/// # Safety
/// `function` is the address of a function of [`sem::leaving`].
unsafe fn run_last(c: &mut Cpu, i: &Insn, n: u64, function: usize) -> i64 {
    c.count_call(i);
    if !leaves_x87_alone(Op::from_number(i.op)) {
        host::leave_x87(c);
    }
    let n = n as i32;
    // SAFETY: the caller's promise.
    let function: fn(&mut Cpu, &Insn) -> Done = unsafe { std::mem::transmute(function) };
    c.rip = c.page_relative(i64::from(i.ip) + i64::from(i.len));
    c.why = Why::Continue;
    let written = c.statistics.invalidations;
    if function(c, i).is_err() {
        c.rip = c.rip_of(i);
        c.attention_ref().due(n - 1);
        return STOPPED;
    }
    if c.attention_ref().due(n) || !c.undisturbed(written) {
        return STOPPED;
    }
    // No trap follows, and a shadow lasts for the next instruction.
    c.trap_rule = TrapRule::default();
    c.shadow_from = c.instructions();
    c.cross_privilege();
    0
}

/// The code that the jump cache leads to from an address, or null.
///
/// # Safety
/// As [`step`].
pub(super) unsafe extern "C" fn code_at(cpu: *mut Cpu, rip: u64, _: u64) -> *const u8 {
    // SAFETY: as in `step`.
    unsafe { &mut *cpu }.code_at(rip)
}

/// The time-stamp counter, where RDTSC is allowed. Neither MXCSR nor the host's floating point are touched.
///
/// # Safety
/// As [`step`].
pub(super) unsafe extern "C" fn time(cpu: *const Cpu, _: u64, _: u64) -> i64 {
    // SAFETY: as in `step`.
    unsafe { &*cpu }.tsc() as i64
}

/// Calls a pure function of Rust's own convention.
///
/// # Safety
/// Called by translated code with the address of such a function.
pub(super) unsafe extern "C" fn pure(f: usize, a: u64, b: u64) -> u64 {
    // SAFETY: the emitter put the address of such a function there.
    let f: fn(u64, u64) -> u64 = unsafe { std::mem::transmute(f) };
    f(a, b)
}

/// An access missed the TLB: leaves its host address in [`Passage::answer`], or 0 where the interpreter has to do it. `what`
/// is in bit 0 whether it writes, then the size, and from bit 8 where in [`crate::mmu::near::Near`] the page is noted.
///
/// # Safety
/// Called by translated code with its CPU.
pub(super) unsafe extern "C" fn fill(cpu: *mut Cpu, linear: u64, what: u64) {
    // SAFETY: as in `step`.
    let c = unsafe { &mut *cpu };
    let (size, write) = (what >> 1 & 0x7f, what & 1 != 0);
    let host = c.address_of(linear, size, write);
    c.translated.answer = host.map_or(0, |host| host as u64);
    if let Some(host) = c.probe(linear, size, write) {
        // SAFETY: `near` points to what `mmu` owns, replaced whenever the class of accesses is.
        unsafe { (*c.near).note((what >> 8) as usize, linear, host) };
    }
}

impl Cpu {
    fn exceptions_masked(&self) -> bool {
        self.mxcsr & Mxcsr::MASKS == Mxcsr::MASKS
    }

    /// Host address of an access within a page of RAM, if nothing but the access is to be done.
    fn address_of(&mut self, linear: u64, size: u64, write: bool) -> Option<*mut u8> {
        if (linear & (PAGE - 1)) + size > PAGE || self.breakpoints.data || self.untag(linear) != linear {
            return None;
        }
        let fault = self.fault;
        let access = if write { Access::Write } else { Access::Read };
        let class = self.data_class();
        let Ok(place) = self.place(linear, access, class) else {
            // The interpreter will come to the same.
            (self.fault, self.why) = (fault, Why::Continue);
            return None;
        };
        let Place::Ram(host, physical) = place else {
            self.translated.device = true;
            return None;
        };
        if !write || self.probe(linear, size, true).is_some() {
            return Some(host);
        }
        // Beside code, or in a page that cannot be read.
        let page = self.ram.page(physical)?;
        let beside =
            page.rights.read && page.marks.may_write_beside(self.seat.index(), granules(physical, size));
        if beside && page.marks.holds_code() {
            self.count_beside(physical);
        }
        beside.then_some(host)
    }
}

/// The layout that translated code knows.
const _: () = assert!(std::mem::offset_of!(Passage, answer) % 8 == 0);
