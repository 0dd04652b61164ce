//! What an instruction reads and writes, by running its semantics over nothing: an instance of [`Emit`] that only takes notes.

use crate::{
    emit::{Emit, Emitted, HIGH},
    fault::Stop,
    flags::{Arith, bits},
    insn::{Insn, Kind},
    state::Cpu,
    vector::{FloatOp, Fused, Lanes, TernaryOp, VecOp},
    width::Width,
};

/// Sets of registers by number, a bit each, and of flags by their place in RFLAGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "tests look at it from outside"))]
pub struct Effects {
    /// General registers read, those of the address among them.
    pub read: u16,
    /// General registers written, in whole or in part, perhaps only on a condition.
    pub written: u16,
    /// Vector registers read.
    pub vectors_read: u16,
    /// Vector registers written.
    pub vectors_written: u16,
    /// Halves of vector registers read and written, by their numbers with [`HIGH`].
    halves: [u32; 2],
    /// Status flags read, those among them that are only kept.
    pub flags_read: u64,
    /// Status flags written in any case.
    pub flags_written: u64,
    /// Status flags written on a condition.
    pub flags_perhaps: u64,
    /// Memory is read.
    pub memory_read: bool,
    /// Memory is written.
    pub memory_written: bool,
    /// Part of the work is plain Rust over the CPU state, which takes no notes.
    pub opaque: bool,
    /// The vector operations that it is made of, as far as there is room.
    operations: [Option<VecOp>; OPERATIONS],
    /// Those of three operands.
    ternary: [Option<TernaryOp>; 1],
    /// Its floating-point operation, and its immediate.
    float: Option<(FloatOp, Lanes, u8)>,
    /// Its fused one.
    fused: Option<(Fused, Lanes)>,
    /// It has vector operations that are not in those lists: more of them.
    pub(crate) other_vector: bool,
    /// It works on MMX registers, and the x87 unit becomes the MMX unit; that is plain Rust too.
    pub(crate) mmx: bool,
}

/// Vector operations that are noted.
const OPERATIONS: usize = 6;

/// The instruction never ends early here.
pub(crate) enum Never {}

impl Effects {
    fn reads(&mut self, r: u8) {
        self.read |= 1u16.checked_shl((r >> 3).into()).unwrap_or(0);
    }
    fn writes(&mut self, r: u8) {
        self.written |= 1u16.checked_shl((r >> 3).into()).unwrap_or(0);
    }
    /// The registers of the memory operand's address.
    fn addresses(&mut self, i: &Insn) {
        for r in [i.base, i.index] {
            // Those behind the sixteen are no registers of the program's.
            self.read |= 1u16.checked_shl(r.into()).unwrap_or(0);
        }
    }
    fn memory(&mut self, i: &Insn, read: bool, write: bool) {
        self.addresses(i);
        self.memory_read |= read;
        self.memory_written |= write;
    }
    fn vector(&mut self, r: u8) {
        self.vectors_read |= 1 << (r & 15);
        self.halves[0] |= 1 << (r & 31);
    }
    fn set_vector(&mut self, r: u8) {
        self.vectors_written |= 1 << (r & 15);
        self.halves[1] |= 1 << (r & 31);
    }
    /// Halves of vector registers read, by their numbers with [`HIGH`].
    pub(crate) fn halves_read(&self) -> u32 {
        self.halves[0]
    }
    /// Those written.
    pub(crate) fn halves_written(&self) -> u32 {
        self.halves[1]
    }
    fn operation(&mut self, op: VecOp) {
        match self.operations.iter_mut().find(|slot| slot.is_none_or(|known| known == op)) {
            Some(slot) => *slot = Some(op),
            None => self.other_vector = true,
        }
    }
    fn ternary_operation(&mut self, op: TernaryOp) {
        match self.ternary.iter_mut().find(|slot| slot.is_none_or(|known| known == op)) {
            Some(slot) => *slot = Some(op),
            None => self.other_vector = true,
        }
    }
    /// Its floating-point operation with the lanes and the immediate.
    pub(crate) fn float_operation(&self) -> Option<(FloatOp, Lanes, u8)> {
        self.float
    }
    /// Its fused one with the lanes.
    pub(crate) fn fused_operation(&self) -> Option<(Fused, Lanes)> {
        self.fused
    }
    /// The operations on three vectors that it is made of.
    pub(crate) fn ternary_operations(&self) -> impl Iterator<Item = TernaryOp> + '_ {
        self.ternary.iter().flatten().copied()
    }
    /// The vector operations that it is made of; see [`Effects::other_vector`].
    pub(crate) fn operations(&self) -> impl Iterator<Item = VecOp> + '_ {
        self.operations.iter().flatten().copied()
    }
}

/// Methods that compute, and have no effect.
macro_rules! pure {
    ($($name:ident($($type:ty),*) -> $result:ty = $value:expr;)*) => {
        $(fn $name(&mut self, $(_: $type),*) -> $result { $value })*
    };
}

impl Emit for Effects {
    type Val = ();
    type Bit = ();
    type Vec = ();
    type Stop = Never;
    type Flow = ();

    fn source_w(&mut self, _: Width, i: &Insn) -> Result<(), Never> {
        match i.src_kind() {
            Kind::Reg => self.reads(i.src),
            Kind::Imm => {}
            _ => self.memory(i, true, false),
        }
        Ok(())
    }
    fn target(&mut self, i: &Insn) -> Result<(), Never> {
        match i.dst_kind() {
            Kind::Reg => self.reads(i.dst),
            _ => self.memory(i, true, false),
        }
        Ok(())
    }
    fn put(&mut self, i: &Insn, (): ()) -> Emitted<Self> {
        match i.dst_kind() {
            Kind::Reg => self.writes(i.dst),
            _ => self.memory(i, false, true),
        }
        Ok(())
    }
    fn update(&mut self, i: &Insn, f: impl Fn(&mut Self, ())) -> Result<((), ()), Never> {
        self.target(i)?;
        f(self, ());
        self.put(i, ())?;
        Ok(((), ()))
    }
    fn address(&mut self, i: &Insn, _: Option<()>, _: u8, _: bool) -> Result<(), Never> {
        self.addresses(i);
        Ok(())
    }
    fn offset(&mut self, i: &Insn) {
        self.addresses(i);
    }
    fn get(&mut self, _: Width, r: u8) {
        self.reads(r);
    }
    fn set(&mut self, _: Width, r: u8, (): ()) {
        self.writes(r);
    }
    fn set_if(&mut self, (): (), _: Width, r: u8, (): ()) {
        self.writes(r);
    }
    fn load(&mut self, _: Width, i: &Insn, (): ()) -> Result<(), Never> {
        self.memory(i, true, false);
        Ok(())
    }
    fn store(&mut self, _: Width, i: &Insn, (): (), (): ()) -> Emitted<Self> {
        self.memory(i, false, true);
        Ok(())
    }
    fn modify(&mut self, _: Width, i: &Insn, (): (), f: impl Fn(&mut Self, ())) -> Result<((), ()), Never> {
        self.memory(i, true, true);
        f(self, ());
        Ok(((), ()))
    }
    fn stack_load(&mut self, _: Width, (): ()) -> Result<(), Never> {
        self.memory_read = true;
        Ok(())
    }
    fn stack_store(&mut self, _: Width, (): (), (): ()) -> Emitted<Self> {
        self.memory_written = true;
        Ok(())
    }

    pure! {
        int(Width, u64) -> () = ();
        add(Width, (), ()) -> () = ();
        sub(Width, (), ()) -> () = ();
        and(Width, (), ()) -> () = ();
        or(Width, (), ()) -> () = ();
        xor(Width, (), ()) -> () = ();
        mul(Width, (), ()) -> () = ();
        umulh(Width, (), ()) -> () = ();
        smulh(Width, (), ()) -> () = ();
        udivrem(Width, (), (), ()) -> Result<((), ()), Never> = Ok(((), ()));
        sdivrem(Width, (), (), ()) -> Result<((), ()), Never> = Ok(((), ()));
        shl(Width, (), ()) -> () = ();
        shr(Width, (), ()) -> () = ();
        sar(Width, (), ()) -> () = ();
        rotl(Width, (), ()) -> () = ();
        rem((), u64) -> () = ();
        zext(Width, Width, ()) -> () = ();
        sext(Width, Width, ()) -> () = ();
        trunc(Width, Width, ()) -> () = ();
        bswap(Width, ()) -> () = ();
        lowest(Width, ()) -> () = ();
        highest(Width, ()) -> () = ();
        popcount(Width, ()) -> () = ();
        helper(fn(u64, u64) -> u64, (), ()) -> () = ();
        eq(Width, (), ()) -> () = ();
        ult(Width, (), ()) -> () = ();
        sign(Width, ()) -> () = ();
        bit(Width, (), ()) -> () = ();
        truth(bool) -> () = ();
        not(()) -> () = ();
        xor_bit((), ()) -> () = ();
        or_bit((), ()) -> () = ();
        and_bit((), ()) -> () = ();
        select(Width, (), (), ()) -> () = ();
        bit_value(Width, ()) -> () = ();
        branch(&Insn, ()) -> () = ();
        jump(&Insn) -> () = ();
        check_target(()) -> Emitted<Self> = Ok(());
        jump_to(&Insn, ()) -> () = ();
        next_rip(&Insn) -> () = ();
        lane((), u8) -> () = ();
        with_lane((), u8, ()) -> () = ();
        lane_alone(()) -> () = ();
    }

    fn set_flags(&mut self, _: Width, _: Arith<(), ()>) {
        self.flags_written |= bits::STATUS;
    }
    fn set_flags_if(&mut self, (): (), _: Width, _: Arith<(), ()>) {
        self.flags_perhaps |= bits::STATUS;
    }
    fn set_carry(&mut self, (): ()) {
        self.flags_written |= bits::CF;
    }
    fn set_carry_overflow_if(&mut self, (): (), (): (), (): ()) {
        self.flags_perhaps |= bits::CF | bits::OF;
    }
    fn set_zero(&mut self, (): ()) {
        self.flags_written |= bits::ZF;
    }
    fn carry(&mut self) {
        self.flags_read |= bits::CF;
    }
    fn overflow(&mut self) {
        self.flags_read |= bits::OF;
    }
    fn zero(&mut self) {
        self.flags_read |= bits::ZF;
    }
    fn condition(&mut self, i: &Insn) {
        self.flags_read |= match i.cc >> 1 & 7 {
            0 => bits::OF,
            1 => bits::CF,
            2 => bits::ZF,
            3 => bits::CF | bits::ZF,
            4 => bits::SF,
            5 => bits::PF,
            6 => bits::SF | bits::OF,
            _ => bits::ZF | bits::SF | bits::OF,
        };
    }
    fn plain(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Emitted<Self> {
        self.opaque = true;
        Ok(())
    }
    fn leave(&mut self, _: &Insn, _: fn(&mut Cpu, &Insn) -> Result<(), Stop>) -> Result<(), Never> {
        self.opaque = true;
        Ok(())
    }

    fn xmm(&mut self, r: u8) {
        self.vector(r);
    }
    fn set_xmm(&mut self, r: u8, (): ()) {
        self.set_vector(r);
    }
    fn begin_mmx(&mut self, _: &Insn) -> Emitted<Self> {
        (self.mmx, self.opaque) = (true, true);
        Ok(())
    }
    fn end_mmx(&mut self, i: &Insn) -> Emitted<Self> {
        self.begin_mmx(i)
    }
    fn mm(&mut self, _: u8) {
        self.mmx = true;
    }
    fn set_mm(&mut self, _: u8, (): ()) {
        self.mmx = true;
    }
    fn vec(&mut self, op: VecOp, (): (), (): (), _: u8) {
        self.operation(op);
    }
    fn vec3(&mut self, op: TernaryOp, (): (), (): (), (): (), _: u8) {
        self.ternary_operation(op);
    }
    fn float(&mut self, op: FloatOp, lanes: Lanes, (): (), (): (), imm: u8) -> Result<(), Never> {
        self.other_vector |= self.float.is_some();
        self.float = Some((op, lanes, imm));
        Ok(())
    }
    fn float_y(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        _: [(); 2],
        _: [(); 2],
        imm: u8,
    ) -> Result<[(); 2], Never> {
        self.float(op, lanes, (), (), imm)?;
        Ok([(); 2])
    }
    fn fused(&mut self, form: Fused, lanes: Lanes, _: &[()], _: &[()], _: &[()]) -> Result<[(); 2], Never> {
        self.other_vector |= self.fused.is_some();
        self.fused = Some((form, lanes));
        Ok([(); 2])
    }
    fn source_x(&mut self, i: &Insn) -> Result<(), Never> {
        match i.src_kind() {
            Kind::Reg => self.vector(i.src),
            _ => self.memory(i, true, false),
        }
        Ok(())
    }
    fn source_y(&mut self, i: &Insn) -> Result<[(); 2], Never> {
        self.source_x(i)?;
        if i.src_kind() == Kind::Reg {
            self.vector(i.src | HIGH);
        }
        Ok([(); 2])
    }
    fn source_lane(&mut self, _: Width, i: &Insn) -> Result<(), Never> {
        self.source_x(i)
    }
    fn source_mm(&mut self, i: &Insn) -> Result<(), Never> {
        if i.src_kind() != Kind::Reg {
            self.memory(i, true, false);
        }
        Ok(())
    }
    fn put_x(&mut self, i: &Insn, (): ()) -> Emitted<Self> {
        match i.dst_kind() {
            Kind::Reg => self.set_vector(i.dst),
            _ => self.memory(i, false, true),
        }
        Ok(())
    }
    fn put_y(&mut self, i: &Insn, _: [(); 2]) -> Emitted<Self> {
        if i.dst_kind() == Kind::Reg {
            self.set_vector(i.dst | HIGH);
        }
        self.put_x(i, ())
    }
    fn put_lane(&mut self, _: Width, i: &Insn, (): ()) -> Emitted<Self> {
        self.memory(i, false, true);
        Ok(())
    }
}
