//! The floating-point environment: rounding, masks and flags of MXCSR or of the x87 control and status words.

/// Invalid operation.
pub const IE: u32 = 1 << 0;
/// Denormal operand.
pub const DE: u32 = 1 << 1;
/// Division by zero.
pub const ZE: u32 = 1 << 2;
/// Overflow.
pub const OE: u32 = 1 << 3;
/// Underflow.
pub const UE: u32 = 1 << 4;
/// Precision (inexact result).
pub const PE: u32 = 1 << 5;

/// Flags of the conditions that are found by looking at the operands.
/// SDM 1 "SIMD Floating-Point Exceptions": when one of these is unmasked, the others are not looked for.
pub const PRE_COMPUTATION: u32 = IE | DE | ZE;
const ALL: u32 = 0x3f;

const DAZ: u32 = 1 << 6;
const MASK_SHIFT: u32 = 7;
const RC_SHIFT: u32 = 13;
const FTZ: u32 = 1 << 15;
// MXCSR has nothing here: the x87 precision control.
const PC_SHIFT: u32 = 16;

/// SDM 1 "Rounding Control (RC) Field", in its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// To the nearest value, ties to even.
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
}

impl Rounding {
    /// The mode that the low two bits of `field` encode.
    #[inline]
    pub fn from_bits(field: u32) -> Rounding {
        match field & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}

/// What an operation reads of the control word, and the exceptions that it raises.
///
/// Several elements of one packed instruction share an `Env`: flags accumulate, and [`Env::mxcsr`] and
/// [`Env::unmasked`] then speak for the whole instruction.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    /// MXCSR's layout, sticky flags included, with the x87 precision control above it.
    control: u32,
    raised: u32,
    rounded_up: bool,
}

impl Env {
    /// The environment of an SSE or AVX instruction.
    #[inline]
    pub fn sse(mxcsr: u32) -> Env {
        Env { control: mxcsr & 0xffff, raised: 0, rounded_up: false }
    }

    /// The environment of an x87 instruction, from the control word and the status word.
    #[inline]
    pub fn x87(control_word: u16, status_word: u16) -> Env {
        let (cw, sw) = (u32::from(control_word), u32::from(status_word));
        let control =
            (sw & ALL) | (cw & ALL) << MASK_SHIFT | (cw >> 10 & 3) << RC_SHIFT | (cw >> 8 & 3) << PC_SHIFT;
        Env { control, raised: 0, rounded_up: false }
    }

    /// The rounding mode.
    #[inline]
    pub fn rounding(&self) -> Rounding {
        Rounding::from_bits(self.control >> RC_SHIFT)
    }

    /// Bits of significand that x87 add, subtract, multiply, divide and square root round to.
    #[inline]
    pub(super) fn precision(&self) -> u32 {
        match self.control >> PC_SHIFT & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    #[inline]
    pub(super) fn daz(&self) -> bool {
        self.control & DAZ != 0
    }

    /// Whether masked underflow flushes to zero.
    #[inline]
    pub(super) fn ftz(&self) -> bool {
        self.control & FTZ != 0
    }

    /// This environment with the rounding of an immediate operand: bits 1:0, or unchanged when bit 2 is set.
    #[inline]
    pub(super) fn rounding_of(&self, imm8: u8) -> Env {
        if imm8 & 4 != 0 {
            return *self;
        }
        Env { control: self.control & !(3 << RC_SHIFT) | u32::from(imm8 & 3) << RC_SHIFT, ..*self }
    }

    #[inline]
    pub(super) fn without_ftz(self) -> Env {
        Env { control: self.control & !FTZ, ..self }
    }

    #[inline]
    pub(super) fn masked(&self, exception: u32) -> bool {
        self.control >> MASK_SHIFT & exception == exception
    }

    #[inline]
    pub(super) fn raise(&mut self, exceptions: u32) {
        self.raised |= exceptions;
    }

    /// Raises `exceptions`; true when one of them is unmasked, so that the operation must end here.
    #[inline]
    pub(super) fn raise_and_stop(&mut self, exceptions: u32) -> bool {
        self.raised |= exceptions;
        !self.masked(exceptions)
    }

    #[inline]
    pub(super) fn set_rounded_up(&mut self, up: bool) {
        self.rounded_up = up;
    }

    /// Whether the host's own arithmetic, which rounds to nearest, may serve normal operands and results: only PE
    /// can then be raised, and it must be masked.
    #[inline]
    pub(super) fn host_rounds(&self) -> bool {
        const PM: u32 = PE << MASK_SHIFT;
        self.control & (3 << RC_SHIFT | PM) == PM
    }

    /// Whether PE is sticky already, so that nobody can see whether a masked PE is raised again.
    #[inline]
    pub(super) fn inexact_is_known(&self) -> bool {
        (self.control | self.raised) & PE != 0
    }

    /// The exceptions raised so far. PE may be missing where it is masked and was sticky before.
    #[inline]
    pub fn raised(&self) -> u32 {
        self.raised
    }

    /// The raised exceptions that are not masked: an SSE instruction then writes no destination and faults with #XM
    /// (#UD without CR4.OSXMMEXCPT).
    #[inline]
    pub fn unmasked(&self) -> u32 {
        self.raised & !(self.control >> MASK_SHIFT) & ALL
    }

    /// MXCSR after the instruction, sticky flags added.
    #[inline]
    pub fn mxcsr(&self) -> u32 {
        let flags =
            if self.unmasked() & PRE_COMPUTATION != 0 { self.raised & PRE_COMPUTATION } else { self.raised };
        self.control & 0xffff | flags
    }

    /// Whether an x87 instruction must leave its register destination (and the stack) alone.
    /// SDM 1 "x87 FPU Floating-Point Exception Conditions": invalid operand, denormal operand and division by zero,
    /// unmasked; overflow and underflow deliver a result with its exponent adjusted.
    #[inline]
    pub fn x87_keeps_register(&self) -> bool {
        self.unmasked() & PRE_COMPUTATION != 0
    }

    /// Whether FLD m32fp or m64fp must push nothing: only an unmasked invalid operand stops a load, a denormal is
    /// loaded and then reported.
    #[inline]
    pub fn x87_keeps_stack(&self) -> bool {
        self.unmasked() & IE != 0
    }

    /// SDM 1 "Inexact-Result (Precision) Exception (#P)": when unmasked overflow or underflow stops a store to
    /// memory, inexactness is not reported and C1 is clear.
    #[inline]
    pub(super) fn drop_inexact_of_stopped_store(&mut self) {
        if self.unmasked() & (OE | UE) != 0 {
            self.raised &= !PE;
            self.rounded_up = false;
        }
    }

    /// Whether an x87 store must leave memory and the stack alone: as for a register, and on unmasked overflow and
    /// underflow too.
    #[inline]
    pub fn x87_keeps_memory(&self) -> bool {
        self.unmasked() & !PE != 0
    }

    /// x87 C1: the last result was rounded away from zero.
    #[inline]
    pub fn rounded_up(&self) -> bool {
        self.rounded_up
    }
}
