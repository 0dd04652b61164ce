//! Which handlers semantics get: a function for each family of operand forms, from width and operand kinds to a handler.

use crate::{
    insn::{Kind, Step},
    interp::{At, Cc, Dyn, Ending, Straight, ending, straight},
};

/// The five operand forms of most integer instructions, at four widths.
pub(super) fn alu<S: Straight>(w: u8, dst: Kind, src: Kind, _: u8) -> Step {
    use Kind::{Flat32, Imm, Mem, Reg};
    macro_rules! widths {
        ($d:literal, $s:literal) => {
            match w {
                1 => straight::<S, At<1, $d, $s>> as Step,
                2 => straight::<S, At<2, $d, $s>>,
                4 => straight::<S, At<4, $d, $s>>,
                _ => straight::<S, At<8, $d, $s>>,
            }
        };
    }
    macro_rules! widths_32 {
        ($d:literal, $s:literal) => {
            match w {
                1 => straight::<S, At<1, $d, $s>> as Step,
                2 => straight::<S, At<2, $d, $s>>,
                _ => straight::<S, At<4, $d, $s>>,
            }
        };
    }
    match (dst, src) {
        (Reg, Reg) => widths!(0, 0),
        (Reg, Mem) => widths!(0, 1),
        (Reg, Imm) => widths!(0, 2),
        (Mem, Reg) => widths!(1, 0),
        (Mem, Imm) => widths!(1, 2),
        (Reg, Flat32) => widths_32!(0, 4),
        (Flat32, Reg) => widths_32!(4, 0),
        (Flat32, Imm) => widths_32!(4, 2),
        _ => straight::<S, Dyn>,
    }
}

/// Register or memory alone, at four widths.
pub(super) fn one<S: Straight>(w: u8, dst: Kind, _: Kind, _: u8) -> Step {
    macro_rules! widths {
        ($d:literal) => {
            match w {
                1 => straight::<S, At<1, $d, $d>> as Step,
                2 => straight::<S, At<2, $d, $d>>,
                4 => straight::<S, At<4, $d, $d>>,
                _ => straight::<S, At<8, $d, $d>>,
            }
        };
    }
    match dst {
        Kind::Reg => widths!(0),
        Kind::Mem => widths!(1),
        Kind::Flat32 if w == 1 => straight::<S, At<1, 4, 4>>,
        Kind::Flat32 if w == 4 => straight::<S, At<4, 4, 4>>,
        _ => straight::<S, Dyn>,
    }
}

/// A 32- or 64-bit register from register or memory.
pub(super) fn load<S: Straight>(w: u8, dst: Kind, src: Kind, _: u8) -> Step {
    use Kind::{Flat32, Mem, Reg};
    match (w, dst, src) {
        (4, Reg, Reg) => straight::<S, At<4, 0, 0>>,
        (4, Reg, Mem) => straight::<S, At<4, 0, 1>>,
        (4, Reg, Flat32) => straight::<S, At<4, 0, 4>>,
        (8, Reg, Reg) => straight::<S, At<8, 0, 0>>,
        (8, Reg, Mem) => straight::<S, At<8, 0, 1>>,
        _ => straight::<S, Dyn>,
    }
}

/// 64 bits: register, memory or immediate.
pub(super) fn stack<S: Straight>(w: u8, dst: Kind, src: Kind, _: u8) -> Step {
    match (w, dst, src) {
        (8, Kind::Reg, _) => straight::<S, At<8, 0, 0>>,
        (8, Kind::Mem, _) => straight::<S, At<8, 1, 1>>,
        (8, _, Kind::Imm) => straight::<S, At<8, 2, 2>>,
        _ => straight::<S, Dyn>,
    }
}

/// 32 bits: register, memory or immediate.
pub(super) fn stack32<S: Straight>(w: u8, dst: Kind, src: Kind, _: u8) -> Step {
    match (w, dst, src) {
        (4, Kind::Reg, _) => straight::<S, At<4, 0, 0>>,
        (4, Kind::Flat32, _) => straight::<S, At<4, 4, 4>>,
        (4, _, Kind::Imm) => straight::<S, At<4, 2, 2>>,
        _ => straight::<S, Dyn>,
    }
}

/// Vector registers from register or memory, and back.
pub(super) fn vector<S: Straight>(_: u8, dst: Kind, src: Kind, _: u8) -> Step {
    match (dst, src) {
        (Kind::Reg, Kind::Reg) => straight::<S, At<16, 0, 0>>,
        (Kind::Reg, Kind::Mem) => straight::<S, At<16, 0, 1>>,
        (Kind::Mem, Kind::Reg) => straight::<S, At<16, 1, 0>>,
        _ => straight::<S, Dyn>,
    }
}

/// Vector registers of 128 or 256 bits, and memory.
pub(super) fn vector_y<S: Straight>(w: u8, dst: Kind, src: Kind, _: u8) -> Step {
    match (w, dst, src) {
        (32, Kind::Reg, Kind::Reg) => straight::<S, At<32, 0, 0>>,
        (32, Kind::Reg, Kind::Mem) => straight::<S, At<32, 0, 1>>,
        (32, Kind::Mem, Kind::Reg) => straight::<S, At<32, 1, 0>>,
        (_, Kind::Reg, Kind::Reg) => straight::<S, At<16, 0, 0>>,
        (_, Kind::Reg, Kind::Mem) => straight::<S, At<16, 0, 1>>,
        _ => straight::<S, Dyn>,
    }
}

/// A vector register and an immediate.
pub(super) fn shifted<S: Straight>(_: u8, dst: Kind, src: Kind, _: u8) -> Step {
    match (dst, src) {
        (Kind::Reg, Kind::Imm) => straight::<S, At<16, 0, 2>>,
        _ => straight::<S, Dyn>,
    }
}

/// The general form only.
pub(super) fn any<S: Straight>(_: u8, _: Kind, _: Kind, _: u8) -> Step {
    straight::<S, Dyn>
}

/// One handler for each condition.
pub(super) fn cc<S: Ending>(_: u8, _: Kind, _: Kind, c: u8) -> Step {
    macro_rules! conditions {
        ($($n:literal)*) => { match c { $($n => ending::<S, Cc<$n>>,)* _ => ending::<S, Dyn> } };
    }
    conditions!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// The general form of what ends a block.
pub(super) fn end<S: Ending>(_: u8, _: Kind, _: Kind, _: u8) -> Step {
    ending::<S, Dyn>
}

/// Register or memory as wide as a pointer, ending a block.
pub(super) fn end_one<S: Ending>(w: u8, dst: Kind, _: Kind, _: u8) -> Step {
    match (w, dst) {
        (8, Kind::Reg) => ending::<S, At<8, 0, 0>>,
        (8, Kind::Mem) => ending::<S, At<8, 1, 1>>,
        (4, Kind::Reg) => ending::<S, At<4, 0, 0>>,
        (4, Kind::Flat32) => ending::<S, At<4, 4, 4>>,
        _ => ending::<S, Dyn>,
    }
}
