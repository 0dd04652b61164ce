//! The vector operations that semantics are made of: one list, evaluated here, emitted by a translator.

mod approximate;
mod arithmetic;
mod bitwise;
mod float;
mod fused;
mod lanes;
mod multiply;
mod shuffle;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
mod variable;
#[cfg_attr(target_arch = "x86_64", path = "wide_x86_64.rs")]
#[cfg_attr(not(target_arch = "x86_64"), path = "wide_portable.rs")]
pub(crate) mod wide;

pub(crate) use float::{FloatOp, Lanes};
pub(crate) use fused::Fused;

/// The list: name and function of each operation.
macro_rules! vector_operations {
    ($($(#[$doc:meta])* $name:ident => $function:path;)*) => {
        /// Operations on 128 bits that raise nothing. The name says meaning and lanes as the mnemonic does: B, W, D and Q
        /// are lanes of 8, 16, 32 and 64 bits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum VecOp { $($(#[$doc])* $name,)* }

        /// Every [`VecOp`] in order.
        const OPERATIONS: &[VecOp] = &[$(VecOp::$name,)*];

        impl VecOp {
            /// The operation on values; `imm` for those that take one.
            #[inline(always)]
            pub(crate) fn eval(self, a: u128, b: u128, imm: u8) -> u128 {
                match self {
                    $(VecOp::$name => $function(a, b, imm),)*
                }
            }
        }
    };
}

vector_operations! {
    /// a & b.
    And => bitwise::and;
    /// !a & b.
    AndNot => bitwise::and_not;
    /// a | b.
    Or => bitwise::or;
    /// a ^ b.
    Xor => bitwise::xor;
    /// Left by b's low 64 bits; 0 from the lane's width on.
    ShlW => bitwise::shl_w;
    ShlD => bitwise::shl_d;
    ShlQ => bitwise::shl_q;
    /// Right, zeros coming in.
    ShrW => bitwise::shr_w;
    ShrD => bitwise::shr_d;
    ShrQ => bitwise::shr_q;
    /// Right, the sign coming in.
    SarW => bitwise::sar_w;
    SarD => bitwise::sar_d;
    /// The same by the immediate.
    ShlImmW => bitwise::shl_imm_w;
    ShlImmD => bitwise::shl_imm_d;
    ShlImmQ => bitwise::shl_imm_q;
    ShrImmW => bitwise::shr_imm_w;
    ShrImmD => bitwise::shr_imm_d;
    ShrImmQ => bitwise::shr_imm_q;
    SarImmW => bitwise::sar_imm_w;
    SarImmD => bitwise::sar_imm_d;
    /// All 128 bits by `imm` bytes.
    ShlBytes => bitwise::shl_bytes;
    ShrBytes => bitwise::shr_bytes;
    AddB => arithmetic::add_b;
    AddW => arithmetic::add_w;
    AddD => arithmetic::add_d;
    AddQ => arithmetic::add_q;
    SubB => arithmetic::sub_b;
    SubW => arithmetic::sub_w;
    SubD => arithmetic::sub_d;
    SubQ => arithmetic::sub_q;
    /// Saturating, signed.
    AddSB => arithmetic::add_sb;
    AddSW => arithmetic::add_sw;
    SubSB => arithmetic::sub_sb;
    SubSW => arithmetic::sub_sw;
    /// Saturating, unsigned.
    AddUsB => arithmetic::add_usb;
    AddUsW => arithmetic::add_usw;
    SubUsB => arithmetic::sub_usb;
    SubUsW => arithmetic::sub_usw;
    /// (a + b + 1) / 2, unsigned.
    AvgB => arithmetic::avg_b;
    AvgW => arithmetic::avg_w;
    MinUB => arithmetic::min_ub;
    MaxUB => arithmetic::max_ub;
    MinSW => arithmetic::min_sw;
    MaxSW => arithmetic::max_sw;
    /// All ones where the lanes are equal.
    CmpEqB => arithmetic::cmp_eq_b;
    CmpEqW => arithmetic::cmp_eq_w;
    CmpEqD => arithmetic::cmp_eq_d;
    /// All ones where a > b, signed.
    CmpGtB => arithmetic::cmp_gt_b;
    CmpGtW => arithmetic::cmp_gt_w;
    CmpGtD => arithmetic::cmp_gt_d;
    /// Low halves of the products.
    MulLoW => multiply::mul_lo_w;
    /// High halves, signed.
    MulHiW => multiply::mul_hi_w;
    /// High halves, unsigned.
    MulHiUW => multiply::mul_hi_uw;
    /// Products of the even 32-bit lanes.
    MulUDQ => multiply::mul_udq;
    /// Sums of two adjacent signed products.
    MAddWD => multiply::madd_wd;
    /// Sums of absolute differences in each half.
    SadBW => multiply::sad_bw;
    /// Lanes of a's low half between b's: a0 b0 a1 b1 ..
    UnpackLoB => shuffle::unpack_lo_b;
    UnpackLoW => shuffle::unpack_lo_w;
    UnpackLoD => shuffle::unpack_lo_d;
    UnpackLoQ => shuffle::unpack_lo_q;
    /// Of the high halves.
    UnpackHiB => shuffle::unpack_hi_b;
    UnpackHiW => shuffle::unpack_hi_w;
    UnpackHiD => shuffle::unpack_hi_d;
    UnpackHiQ => shuffle::unpack_hi_q;
    /// a's lanes narrowed, then b's, with signed saturation.
    PackSWB => shuffle::pack_swb;
    PackSDW => shuffle::pack_sdw;
    /// Signed lanes to unsigned ones.
    PackUsWB => shuffle::pack_uswb;
    /// Lanes of b by two bits of `imm` each.
    ShufD => shuffle::shuf_d;
    /// The same in b's low half.
    ShufLoW => shuffle::shuf_lo_w;
    /// In b's high half.
    ShufHiW => shuffle::shuf_hi_w;
    /// Two lanes of a, then two of b.
    ShufPs => shuffle::shuf_ps;
    ShufPd => shuffle::shuf_pd;
    /// 16-bit lane `imm` of a replaced by b's low bits.
    InsertW => shuffle::insert_w;
    /// 16-bit lane `imm` of a.
    ExtractW => shuffle::extract_w;
    /// The sign of each lane of a, lane 0 in bit 0.
    MaskB => shuffle::mask_b;
    MaskD => shuffle::mask_d;
    MaskQ => shuffle::mask_q;
    /// b's low 32 bits, the rest a's.
    MergeD => shuffle::merge_d;
    /// b's low 64 bits, the rest a's.
    MergeQ => shuffle::merge_q;
    /// a's lanes left by b's; 0 from the lane's width on.
    ShlVarD => variable::shl_d;
    ShlVarQ => variable::shl_q;
    /// Right, zeros coming in.
    ShrVarD => variable::shr_d;
    ShrVarQ => variable::shr_q;
    /// Right, the sign coming in.
    SarVarD => variable::sar_d;
    /// Lanes of a by the low two bits of b's.
    LookupD => variable::lookup_d;
    /// Lanes of a by bit 1 of b's.
    LookupQ => variable::lookup_q;
    /// b's low lane in all.
    BroadcastB => variable::broadcast_b;
    BroadcastW => variable::broadcast_w;
    BroadcastD => variable::broadcast_d;
    BroadcastQ => variable::broadcast_q;
    /// Lanes of b by one bit of `imm` each.
    ShufQ => variable::shuf_q;
    /// About 1 / b in four f32.
    RcpPs => approximate::rcp_ps;
    /// About 1 / sqrt(b) in four f32.
    RsqrtPs => approximate::rsqrt_ps;
}

impl VecOp {
    /// The inverse of `as u8`.
    #[inline(always)]
    pub(crate) fn from_number(n: u8) -> VecOp {
        OPERATIONS[usize::from(n).min(OPERATIONS.len() - 1)]
    }
}
