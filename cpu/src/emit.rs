//! Where an instruction's meaning goes. Semantics are written once over this trait: the interpreter computes them, a
//! translator emits them, an analysis records what they touch. `Val` is opaque, so that semantics cannot branch in Rust on a
//! value that only the guest knows.

use crate::{
    fault::Stop,
    flags::Arith,
    insn::{Insn, Kind},
    state::Cpu,
    sys,
    vector::{FloatOp, Fused, Lanes, TernaryOp, VecOp},
    width::{B, Q, Width},
};

/// What a piece of semantics gives: it may end early.
pub(crate) type Emitted<E> = Result<(), <E as Emit>::Stop>;

/// Added to a vector register's number: its upper half, bits 255 to 128.
pub(crate) const HIGH: u8 = 16;

/// An instance of the semantics.
pub(crate) trait Emit: Sized {
    /// An integer of the width in hand, zero-extended.
    type Val: Copy;
    /// A truth value.
    type Bit: Copy;
    /// 128 bits.
    type Vec: Copy;
    /// The instruction ended early.
    type Stop;
    /// Where to go on.
    type Flow;

    // Operands.

    /// Width of operand 0.
    #[inline(always)]
    fn width(&self, i: &Insn) -> Width {
        i.w
    }
    /// What decode put into `cc`.
    #[inline(always)]
    fn number(&self, i: &Insn) -> u8 {
        i.cc
    }
    /// What kind of operand operand 0 is.
    #[inline(always)]
    fn target_kind(&self, i: &Insn) -> Kind {
        i.dst_kind()
    }
    /// Operand 1 (operand 0 if there is one only): register, immediate or memory, at the width of operand 0.
    #[inline(always)]
    fn source(&mut self, i: &Insn) -> Result<Self::Val, Self::Stop> {
        self.source_w(self.width(i), i)
    }
    /// Operand 1 at another width.
    fn source_w(&mut self, w: Width, i: &Insn) -> Result<Self::Val, Self::Stop>;
    /// Reads operand 0.
    fn target(&mut self, i: &Insn) -> Result<Self::Val, Self::Stop>;
    /// Operand 0 := v.
    fn put(&mut self, i: &Insn, v: Self::Val) -> Emitted<Self>;
    /// Operand 0 := f(operand 0), atomically if LOCKed; gives the values before and after.
    fn update(
        &mut self,
        i: &Insn,
        f: impl Fn(&mut Self, Self::Val) -> Self::Val,
    ) -> Result<(Self::Val, Self::Val), Self::Stop>;
    /// The immediate at a width.
    #[inline(always)]
    fn imm(&mut self, w: Width, i: &Insn) -> Self::Val {
        self.int(w, i.imm64())
    }
    /// Linear address of the memory operand, displaced by `by` bytes, for `size` bytes. Checks the segment.
    fn address(
        &mut self,
        i: &Insn,
        by: Option<Self::Val>,
        size: u8,
        write: bool,
    ) -> Result<Self::Val, Self::Stop>;
    /// The memory operand's offset, as LEA gives it, cut to the address size.
    fn offset(&mut self, i: &Insn) -> Self::Val;
    /// A general register by its byte offset.
    fn get(&mut self, w: Width, r: u8) -> Self::Val;
    /// Sets one; 32-bit values clear the upper half.
    fn set(&mut self, w: Width, r: u8, v: Self::Val);
    /// Sets one if `c`, and leaves all 64 bits alone if not.
    fn set_if(&mut self, c: Self::Bit, w: Width, r: u8, v: Self::Val);

    // Memory.

    /// Loads through the memory operand's address.
    fn load(&mut self, w: Width, i: &Insn, at: Self::Val) -> Result<Self::Val, Self::Stop>;
    /// Stores through the memory operand's address.
    fn store(&mut self, w: Width, i: &Insn, at: Self::Val, v: Self::Val) -> Emitted<Self>;
    /// f applied to memory at an address from [`Emit::address`], atomically if LOCKed.
    fn modify(
        &mut self,
        w: Width,
        i: &Insn,
        at: Self::Val,
        f: impl Fn(&mut Self, Self::Val) -> Self::Val,
    ) -> Result<(Self::Val, Self::Val), Self::Stop>;
    /// Loads from the stack, at an offset in SS.
    fn stack_load(&mut self, w: Width, at: Self::Val) -> Result<Self::Val, Self::Stop>;
    /// Stores to the stack, at an offset in SS.
    fn stack_store(&mut self, w: Width, at: Self::Val, v: Self::Val) -> Emitted<Self>;

    // Integers: operands and results have width w.

    fn int(&mut self, w: Width, k: u64) -> Self::Val;
    fn add(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    fn sub(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    fn and(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    fn or(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    fn xor(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    /// Low half of the product.
    fn mul(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    /// High half of the unsigned product.
    fn umulh(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    /// High half of the signed product.
    fn smulh(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Val;
    /// Quotient and remainder of hi:lo / d; #DE where d is 0 or the quotient does not fit.
    fn udivrem(
        &mut self,
        w: Width,
        hi: Self::Val,
        lo: Self::Val,
        d: Self::Val,
    ) -> Result<(Self::Val, Self::Val), Self::Stop>;
    /// The same, signed.
    fn sdivrem(
        &mut self,
        w: Width,
        hi: Self::Val,
        lo: Self::Val,
        d: Self::Val,
    ) -> Result<(Self::Val, Self::Val), Self::Stop>;
    /// n is below 64; bits shifted past the width are lost.
    fn shl(&mut self, w: Width, a: Self::Val, n: Self::Val) -> Self::Val;
    fn shr(&mut self, w: Width, a: Self::Val, n: Self::Val) -> Self::Val;
    fn sar(&mut self, w: Width, a: Self::Val, n: Self::Val) -> Self::Val;
    /// Rotates left by n modulo the width.
    fn rotl(&mut self, w: Width, a: Self::Val, n: Self::Val) -> Self::Val;
    /// n modulo m, both small.
    fn rem(&mut self, n: Self::Val, m: u64) -> Self::Val;
    fn zext(&mut self, from: Width, to: Width, a: Self::Val) -> Self::Val;
    fn sext(&mut self, from: Width, to: Width, a: Self::Val) -> Self::Val;
    fn trunc(&mut self, from: Width, to: Width, a: Self::Val) -> Self::Val;
    /// Bytes in reverse.
    fn bswap(&mut self, w: Width, a: Self::Val) -> Self::Val;
    /// Number of the lowest set bit; any value if there is none.
    fn lowest(&mut self, w: Width, a: Self::Val) -> Self::Val;
    /// Number of the highest set bit; any value if there is none.
    fn highest(&mut self, w: Width, a: Self::Val) -> Self::Val;

    /// How many bits are set.
    fn popcount(&mut self, w: Width, a: Self::Val) -> Self::Val;
    /// A function of plain Rust, without side effects.
    fn helper(&mut self, f: fn(u64, u64) -> u64, a: Self::Val, b: Self::Val) -> Self::Val;

    // Truth.

    fn eq(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Bit;
    fn ult(&mut self, w: Width, a: Self::Val, b: Self::Val) -> Self::Bit;
    /// The top bit.
    fn sign(&mut self, w: Width, a: Self::Val) -> Self::Bit;
    /// Bit n of a.
    fn bit(&mut self, w: Width, a: Self::Val, n: Self::Val) -> Self::Bit;
    fn truth(&mut self, k: bool) -> Self::Bit;
    fn not(&mut self, a: Self::Bit) -> Self::Bit;
    fn xor_bit(&mut self, a: Self::Bit, b: Self::Bit) -> Self::Bit;
    fn or_bit(&mut self, a: Self::Bit, b: Self::Bit) -> Self::Bit;
    fn and_bit(&mut self, a: Self::Bit, b: Self::Bit) -> Self::Bit;
    fn select(&mut self, w: Width, c: Self::Bit, a: Self::Val, b: Self::Val) -> Self::Val;
    fn bit_value(&mut self, w: Width, c: Self::Bit) -> Self::Val;

    // Flags.

    fn set_flags(&mut self, w: Width, f: Arith<Self::Val, Self::Bit>);
    fn set_flags_if(&mut self, c: Self::Bit, w: Width, f: Arith<Self::Val, Self::Bit>);
    fn set_carry(&mut self, c: Self::Bit);
    /// CF and OF if `c`; AF, ZF, SF, PF stay.
    fn set_carry_overflow_if(&mut self, c: Self::Bit, cf: Self::Bit, of: Self::Bit);
    fn set_zero(&mut self, z: Self::Bit);
    fn carry(&mut self) -> Self::Bit;
    /// OF.
    fn overflow(&mut self) -> Self::Bit;
    fn zero(&mut self) -> Self::Bit;
    /// The condition of Jcc, SETcc, CMOVcc.
    fn condition(&mut self, i: &Insn) -> Self::Bit;

    // Control.

    /// To the immediate target if `c`, on if not.
    fn branch(&mut self, i: &Insn, c: Self::Bit) -> Self::Flow;
    /// To the immediate target.
    fn jump(&mut self, i: &Insn) -> Self::Flow;
    /// #GP(0) for a branch target that is not canonical (64-bit mode), or beyond the limit of CS.
    fn check_target(&mut self, to: Self::Val) -> Emitted<Self>;
    /// To a computed offset in CS, checked before.
    fn jump_to(&mut self, i: &Insn, to: Self::Val) -> Self::Flow;
    /// Offset of the next instruction in CS.
    fn next_rip(&mut self, i: &Insn) -> Self::Val;
    /// Plain Rust over the CPU state.
    fn plain(&mut self, i: &Insn, f: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Emitted<Self>;
    /// Plain Rust that may change where, or in which mode, the CPU goes on: `rip` is the next instruction's when f begins.
    fn leave(
        &mut self,
        i: &Insn,
        f: fn(&mut Cpu, &Insn) -> Result<(), Stop>,
    ) -> Result<Self::Flow, Self::Stop>;

    // Vectors.

    /// An XMM register, or with [`HIGH`] the upper half of a YMM register.
    fn xmm(&mut self, r: u8) -> Self::Vec;
    /// Sets one; the other half stays.
    fn set_xmm(&mut self, r: u8, v: Self::Vec);
    /// #MF if an x87 exception is pending: so MMX instructions begin.
    #[inline(always)]
    fn begin_mmx(&mut self, i: &Insn) -> Emitted<Self> {
        self.plain(i, sys::x87::fwait)
    }
    /// The x87 unit becomes the MMX unit; nothing can fault any more. So they end.
    #[inline(always)]
    fn end_mmx(&mut self, i: &Insn) -> Emitted<Self> {
        self.plain(i, sys::x87::become_mmx)
    }
    /// An MMX register; what MMX instructions do to the x87 unit besides, their semantics say.
    fn mm(&mut self, r: u8) -> Self::Val;
    fn set_mm(&mut self, r: u8, v: Self::Val);
    /// Operand 1: an XMM register, or 16 bytes of memory, aligned if the instruction asks for it.
    fn source_x(&mut self, i: &Insn) -> Result<Self::Vec, Self::Stop>;
    /// Operand 1: the low part of an XMM register, or that many bytes of memory.
    fn source_lane(&mut self, w: Width, i: &Insn) -> Result<Self::Val, Self::Stop>;
    /// Operand 1: an MMX register or 8 bytes of memory.
    fn source_mm(&mut self, i: &Insn) -> Result<Self::Val, Self::Stop>;
    /// Operand 0, an XMM register or 16 bytes of memory, := v.
    fn put_x(&mut self, i: &Insn, v: Self::Vec) -> Emitted<Self>;
    /// Operand 1: both halves of a YMM register, or 32 bytes of memory, aligned if the instruction asks for it.
    fn source_y(&mut self, i: &Insn) -> Result<[Self::Vec; 2], Self::Stop>;
    /// Operand 0, a YMM register or 32 bytes of memory, := v.
    fn put_y(&mut self, i: &Insn, v: [Self::Vec; 2]) -> Emitted<Self>;
    /// Memory operand 0 := the low bytes.
    fn put_lane(&mut self, w: Width, i: &Insn, v: Self::Val) -> Emitted<Self>;
    /// 64-bit lane n.
    fn lane(&mut self, v: Self::Vec, n: u8) -> Self::Val;
    /// v with its 64-bit lane n replaced.
    fn with_lane(&mut self, v: Self::Vec, n: u8, x: Self::Val) -> Self::Vec;
    /// x in the low lane, zeros above.
    fn lane_alone(&mut self, x: Self::Val) -> Self::Vec;
    /// An integer operation on all 128 bits; `imm` for those that take one.
    fn vec(&mut self, op: VecOp, a: Self::Vec, b: Self::Vec, imm: u8) -> Self::Vec;
    /// The same of an operation that came after SSE2: where the host has no instruction for it, a fast form ends.
    fn vec_new(&mut self, op: VecOp, a: Self::Vec, b: Self::Vec, imm: u8) -> Result<Self::Vec, Self::Stop> {
        Ok(self.vec(op, a, b, imm))
    }
    /// An operation on three operands.
    fn vec3(&mut self, op: TernaryOp, a: Self::Vec, b: Self::Vec, c: Self::Vec, imm: u8) -> Self::Vec;
    /// The same, as [`Emit::vec_new`].
    fn vec3_new(
        &mut self,
        op: TernaryOp,
        a: Self::Vec,
        b: Self::Vec,
        c: Self::Vec,
        imm: u8,
    ) -> Result<Self::Vec, Self::Stop> {
        Ok(self.vec3(op, a, b, c, imm))
    }
    /// A floating-point operation under MXCSR; #XM where an unmasked exception arises.
    fn float(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: Self::Vec,
        b: Self::Vec,
        imm: u8,
    ) -> Result<Self::Vec, Self::Stop>;
    /// Operand 1, a general register or memory, as the low lane of a vector; zeros are above.
    #[inline(always)]
    fn source_w_alone(&mut self, w: Width, i: &Insn) -> Result<Self::Vec, Self::Stop> {
        let v = self.source_w(w, i)?;
        Ok(self.lane_alone(v))
    }
    /// The low lane of operand 1, a vector register or memory, as that of a vector. Nobody looks at what is above.
    #[inline(always)]
    fn source_low(&mut self, w: Width, i: &Insn) -> Result<Self::Vec, Self::Stop> {
        let v = self.source_lane(w, i)?;
        Ok(self.lane_alone(v))
    }
    /// COMISS and its relatives, of the low lanes: ZF, PF and CF tell the relation, OF, SF and AF are 0.
    #[inline(always)]
    fn relate(&mut self, op: FloatOp, lanes: Lanes, a: Self::Vec, b: Self::Vec) -> Emitted<Self> {
        let v = self.float(op, lanes, a, b, 0)?;
        let v = self.lane(v, 0);
        let v = self.trunc(Q, B, v);
        let bit = |e: &mut Self, n| {
            let n = e.int(B, n);
            e.bit(B, v, n)
        };
        let (less, equal, unordered) = (bit(self, 0), bit(self, 1), bit(self, 2));
        let cf = self.or_bit(less, unordered);
        let zf = self.or_bit(equal, unordered);
        // PF is the parity of the result, whose ZF is replaced after.
        let (even, odd) = (self.int(B, 3), self.int(B, 1));
        let r = self.select(B, unordered, even, odd);
        let no = self.truth(false);
        self.set_flags(B, Arith::Explicit { r, cf, of: no, af: no });
        self.set_zero(zf);
        Ok(())
    }
    /// [`Emit::float`] on both halves: the exceptions of all lanes arise together.
    fn float_y(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: [Self::Vec; 2],
        b: [Self::Vec; 2],
        imm: u8,
    ) -> Result<[Self::Vec; 2], Self::Stop>;
    /// x * y + z, rounded once, on one half or both (as many as each slice has). Lanes that take no part are z's.
    fn fused(
        &mut self,
        form: Fused,
        lanes: Lanes,
        x: &[Self::Vec],
        y: &[Self::Vec],
        z: &[Self::Vec],
    ) -> Result<[Self::Vec; 2], Self::Stop>;
}
