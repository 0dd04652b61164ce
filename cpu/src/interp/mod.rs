//! The interpreter: semantics with values for `Val`. Each handler is one piece of semantics with the operand kinds and
//! width fixed at compile time ([`At`]) or read from the instruction ([`Dyn`]). A handler ends by calling the next one in
//! tail position, which the compiler makes a jump; the end of a block returns to [`execute`].
#![allow(unsafe_code)]

mod evaluate;
mod form;
mod links;
mod operands;

pub(crate) use form::{At, AtOp, Cc, Dyn, Form};
pub(crate) use links::{far_link, leave_link, stale, unlinked};

use crate::{
    emit::{Emit, Emitted},
    fault::{Done, Stop},
    insn::Insn,
    state::Cpu,
    width::D,
};
use evaluate::Interp;
use std::ptr::null;

/// The semantics of an instruction after which the next in memory follows.
pub(crate) trait Straight {
    fn run<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E>;
}

/// The semantics of an instruction that ends its block.
pub(crate) trait Ending {
    fn run<E: Emit>(e: &mut E, i: &Insn) -> Result<E::Flow, E::Stop>;
}

#[cold]
#[inline(never)]
fn stopped(c: &mut Cpu, i: &Insn) -> *const Insn {
    c.rip = c.rip_of(i);
    c.forget_unexecuted(i);
    null()
}

/// Semantics in a function of their own. A local whose address a slow path takes keeps the compiler from making a jump of
/// a tail call; so the general forms, which have slow paths, keep their locals here.
#[inline(never)]
pub(crate) fn apart<S: Straight, F: Form>(c: &mut Cpu, i: &Insn) -> Done {
    S::run(Interp::<F>::of(c), i)
}

/// A handler for [`Straight`] semantics.
pub(crate) fn straight<S: Straight, F: Form>(c: &mut Cpu, i: &Insn) -> *const Insn {
    let done = if F::FAST { S::run(Interp::<F>::of(c), i) } else { apart::<S, F>(c, i) };
    match done {
        Ok(()) => {
            // SAFETY: every block has something behind each instruction but its last, which is never Straight.
            let next = unsafe { &*std::ptr::from_ref(i).add(1) };
            (next.step.get())(c, next)
        }
        Err(Stop) if F::FAST => straight::<S, Dyn>(c, i),
        Err(Stop) => stopped(c, i),
    }
}

/// A handler for [`Ending`] semantics.
pub(crate) fn ending<S: Ending, F: Form>(c: &mut Cpu, i: &Insn) -> *const Insn {
    match S::run(Interp::<F>::of(c), i) {
        Ok(next) => next,
        Err(Stop) if F::FAST => ending::<S, Dyn>(c, i),
        Err(Stop) => stopped(c, i),
    }
}

/// A handler for two instructions in a row. What the first or second cannot do here, its general form does.
pub(crate) fn pair<S: Straight, F: Form, T: Straight, G: Form>(c: &mut Cpu, i: &Insn) -> *const Insn {
    if S::run(Interp::<F>::of(c), i).is_err() {
        return straight::<S, Dyn>(c, i);
    }
    // SAFETY: as in `straight`, twice: a pair's second instruction is not its block's last.
    let second = unsafe { &*std::ptr::from_ref(i).add(1) };
    if T::run(Interp::<G>::of(c), second).is_err() {
        return straight::<T, Dyn>(c, second);
    }
    // SAFETY: as above.
    let next = unsafe { &*std::ptr::from_ref(second).add(1) };
    (next.step.get())(c, next)
}

/// A handler for an instruction and the one that ends the block behind it.
pub(crate) fn pair_ending<S: Straight, F: Form, T: Ending, G: Form>(c: &mut Cpu, i: &Insn) -> *const Insn {
    if S::run(Interp::<F>::of(c), i).is_err() {
        return straight::<S, Dyn>(c, i);
    }
    // SAFETY: as in `straight`.
    ending::<T, G>(c, unsafe { &*std::ptr::from_ref(i).add(1) })
}

/// Runs blocks from `first` until one is left.
pub(crate) fn execute(c: &mut Cpu, first: *const Insn) {
    let mut next = first;
    while !next.is_null() {
        // SAFETY: handlers give instructions of blocks that live until the dispatcher frees them.
        let i = unsafe { &*next };
        next = (i.step.get())(c, i);
    }
}

const _: () = assert!(D.0 == 4);
