//! Operand widths.

/// An operand width in bytes: 1, 2, 4 or 8 for integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Width(pub u8);

/// 8 bits.
pub(crate) const B: Width = Width(1);
/// 16 bits.
pub(crate) const W: Width = Width(2);
/// 32 bits.
pub(crate) const D: Width = Width(4);
/// 64 bits.
pub(crate) const Q: Width = Width(8);

impl Width {
    /// How many bits.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.0 as u32 * 8
    }
    /// `v` cut to this width.
    #[inline(always)]
    pub(crate) const fn mask(self, v: u64) -> u64 {
        match self.0 {
            1 => v as u8 as u64,
            2 => v as u16 as u64,
            4 => v as u32 as u64,
            _ => v,
        }
    }
    /// The low part of `v`, sign-extended to 64 bits.
    #[inline(always)]
    pub(crate) const fn sext(self, v: u64) -> u64 {
        match self.0 {
            1 => v as i8 as u64,
            2 => v as i16 as u64,
            4 => v as i32 as u64,
            _ => v,
        }
    }
}
