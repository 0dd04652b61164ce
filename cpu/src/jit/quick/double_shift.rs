//! SHLD and SHRD in one-pass translation, where nobody wants their flags: one instruction of the host's, in place of the dozens
//! that say what the flags are. Clocks are scaled by them.

use super::{Writer, assembler::RCX, flags::Change, values::Bit};
use crate::{
    emit::Emit,
    insn::{Insn, Kind},
    sem::Op,
    state::reg,
    width::B,
};

impl Writer {
    /// SHLD or SHRD of a register whose flags are written again before they are read; false if it is something else.
    pub(super) fn double_shift(&mut self, i: &Insn) -> bool {
        let op = Op::from_number(i.op);
        let fits = matches!(op, Op::Shld | Op::Shrd) && i.dst_kind() == Kind::Reg && i.w.0 >= 4;
        if !fits || self.flags_are_live() {
            return false;
        }
        let (from, a) = (self.get(i.w, i.src), self.get(i.w, i.dst));
        let from = self.host(from);
        let to = self.copy_of(a);
        let left = op == Op::Shld;
        if i.cc == 1 {
            let count = self.get(B, reg::RCX);
            let count = self.host(count);
            self.asm.copy32(RCX, count);
            self.asm.double_shift_by_cl(left, i.w, to, from);
        } else {
            self.asm.double_shift(left, i.w, to, from, i.imm64() as u8);
        }
        self.bind(to, i.w.0);
        let v = self.standing(to);
        self.set(i.w, i.dst, v);
        // What is known of the flags holds no more.
        self.new_flags.push(Change::Zero(Bit::Known(false)));
        true
    }
}
