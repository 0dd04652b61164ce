//! What the translator knows of the host's machine code: the way in and out, links that are patched, where a function's
//! prologue ends.
//!
//! Translated functions have Cranelift's calling convention `Winch`, which saves no registers. They never return: every
//! exit is a call in their code that is made a jump here. One trampoline saves the host's registers and reserves the frame
//! of whichever function runs, so that jumps lead behind prologues; leaving is resetting the stack pointer.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg_attr(not(target_arch = "x86_64"), path = "host/no_x87.rs")]
mod x87;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::*;
pub(super) use x87::*;

use crate::{
    mmu::{ENTRIES, TlbEntry, near::NearPage, near::ROOM},
    state::Cpu,
};
use std::mem::offset_of;

/// Bytes of stack that a translated function may use.
pub(super) const FRAME: u32 = 4096;

/// Where the trampoline keeps the stack pointer.
const STACK: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, stack);
/// Where an exit that is not linked leaves the address of its stub.
const EXIT: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, exit);
/// Where the guest's MXCSR is.
#[cfg(target_arch = "x86_64")]
const MXCSR: usize = offset_of!(Cpu, mxcsr);
/// Where the host's is taken from and put while translated code runs.
#[cfg(target_arch = "x86_64")]
const RUNNING: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, mxcsr);
/// And otherwise.
#[cfg(target_arch = "x86_64")]
const RESTING: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, host_mxcsr);
/// Whether the x87 unit is in the host's.
#[cfg(target_arch = "x86_64")]
const X87_LIVE: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, x87);
/// Where x87 comparisons leave their flags.
#[cfg(target_arch = "x86_64")]
const X87_RELATION: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, relation);
/// Where an exit says what it is.
const STATUS: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, status);

/// Where the slow path leaves the host address of an access.
const ANSWER: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, answer);
/// Where it goes on if it does not find it.
const FILL: usize = offset_of!(Cpu, translated) + offset_of!(super::Passage, slow);
const TLB: usize = offset_of!(Cpu, tlb);
const NEAR: usize = offset_of!(Cpu, near);

// What `probe` of each host knows of the TLB's layout.
const _: () = assert!(size_of::<TlbEntry>() == 32 && size_of::<NearPage>() == 32);
const _: () = assert!(offset_of!(TlbEntry, read) == 0 && offset_of!(TlbEntry, write) == 8);
const _: () = assert!(offset_of!(NearPage, tag) == 0 && offset_of!(NearPage, addend) == 8);
const _: () = assert!(offset_of!(NearPage, room) == 16 && offset_of!(NearPage, room_16) == 24);
const _: () = assert!(offset_of!(TlbEntry, addend) == 16);

/// An instruction of the host's x87 unit, which Cranelift takes for a call.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other hosts have none"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// On registers alone, by the 11 bits of its opcode.
    Registers(u16),
    /// With memory at the first argument.
    Memory(u16),
    /// FCMOVcc from a register, if the first argument's low byte is not 0.
    Conditional(u8),
}

impl Unit {
    /// As a number.
    pub(super) fn number(self) -> u32 {
        match self {
            Unit::Registers(opcode) => opcode.into(),
            Unit::Memory(opcode) => 0x1_0000 | u32::from(opcode),
            Unit::Conditional(k) => 0x2_0000 | u32::from(k),
        }
    }
    /// The inverse.
    pub(super) fn from_number(k: u32) -> Self {
        match k >> 16 {
            0 => Unit::Registers(k as u16),
            1 => Unit::Memory(k as u16),
            _ => Unit::Conditional(k as u8),
        }
    }
}

/// What in a function's code is to be filled in when it is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    /// A call of 32 bits relative to its end, made a jump.
    Jump,
    /// A call that stays one.
    Call,
    /// The address of a cell, relative.
    #[cfg(target_arch = "x86_64")]
    Address,
    /// The high part of such an address, where it takes two instructions.
    #[cfg(target_arch = "aarch64")]
    AddressHigh,
    /// And the low part.
    #[cfg(target_arch = "aarch64")]
    AddressLow,
}
