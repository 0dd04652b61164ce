//! The vector operations that semantics are made of: one list, evaluated here, emitted by a translator.

mod aes;
mod approximate;
mod arithmetic;
mod bitwise;
mod float;
mod fused;
mod galois;
#[cfg(target_arch = "x86_64")]
#[path = "instructions_x86_64.rs"]
mod instructions;
mod lanes;
mod multiply;
mod sha;
mod shuffle;
mod sse41;
mod ssse3;
mod strings;
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
    /// About 1 / b in four f32.
    RcpPs => approximate::rcp_ps;
    /// About 1 / sqrt(b) in four f32.
    RsqrtPs => approximate::rsqrt_ps;
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
    /// Bytes of a by the bytes of b; 0 where those have their top bit set.
    ShufB => ssse3::shuf_b;
    /// Sixteen bytes of a:b from byte `imm` on.
    Align => ssse3::align;
    /// Sums of two lanes side by side, of a and then of b.
    HAddW => ssse3::h_add_w;
    HAddD => ssse3::h_add_d;
    HAddSW => ssse3::h_add_sw;
    /// Differences, the lower lane less the higher.
    HSubW => ssse3::h_sub_w;
    HSubD => ssse3::h_sub_d;
    HSubSW => ssse3::h_sub_sw;
    /// Sums of two adjacent products of a's unsigned bytes and b's signed ones, saturating.
    MAddUbSW => ssse3::madd_ub_sw;
    /// Bits 30:15 of the signed products, rounded.
    MulHRsW => ssse3::mul_hrsw;
    /// a times the sign of b: -1, 0 or 1.
    SignB => ssse3::sign_b;
    SignW => ssse3::sign_w;
    SignD => ssse3::sign_d;
    /// Absolute values of b.
    AbsB => ssse3::abs_b;
    AbsW => ssse3::abs_w;
    AbsD => ssse3::abs_d;
    /// b where the lane's bit in `imm` is set, else a.
    BlendW => sse41::blend_w;
    BlendD => sse41::blend_d;
    BlendQ => sse41::blend_q;
    /// Lane `imm` of a replaced by b's low bits.
    InsertB => sse41::insert_b;
    InsertD => sse41::insert_d;
    InsertQ => sse41::insert_q;
    /// Lane `imm` of a, zeros above.
    ExtractB => sse41::extract_b;
    ExtractD => sse41::extract_d;
    ExtractQ => sse41::extract_q;
    /// INSERTPS from a register.
    InsertPs => sse41::insert_ps;
    MinSB => sse41::min_sb;
    MaxSB => sse41::max_sb;
    MinUW => sse41::min_uw;
    MaxUW => sse41::max_uw;
    MinSD => sse41::min_sd;
    MaxSD => sse41::max_sd;
    MinUD => sse41::min_ud;
    MaxUD => sse41::max_ud;
    CmpEqQ => sse41::cmp_eq_q;
    CmpGtQ => sse41::cmp_gt_q;
    /// Low halves of the products.
    MulLoD => sse41::mul_lo_d;
    /// Signed products of the even 32-bit lanes.
    MulDQ => sse41::mul_dq;
    /// Signed lanes to unsigned ones.
    PackUsDW => sse41::pack_usdw;
    /// b's lowest lanes made wider with their signs.
    SxBW => sse41::sx_bw;
    SxBD => sse41::sx_bd;
    SxBQ => sse41::sx_bq;
    SxWD => sse41::sx_wd;
    SxWQ => sse41::sx_wq;
    SxDQ => sse41::sx_dq;
    /// With zeros.
    ZxBW => sse41::zx_bw;
    ZxBD => sse41::zx_bd;
    ZxBQ => sse41::zx_bq;
    ZxWD => sse41::zx_wd;
    ZxWQ => sse41::zx_wq;
    ZxDQ => sse41::zx_dq;
    /// MPSADBW: sums of absolute differences at eight places.
    MpSadBW => sse41::mp_sad_bw;
    /// PHMINPOSUW: the least 16-bit lane of b and its number.
    HMinPosUW => sse41::h_min_pos;
    /// A round of AES on the state a with the key b; the last has no MixColumns.
    AesEnc => aes::encrypt;
    AesEncLast => aes::encrypt_last;
    /// The inverse rounds.
    AesDec => aes::decrypt;
    AesDecLast => aes::decrypt_last;
    /// InvMixColumns of b.
    AesImc => aes::mix_back;
    /// AESKEYGENASSIST of b.
    AesKeyGenAssist => aes::key_assist;
    /// The product of the 64-bit lanes that bits 0 and 4 of `imm` choose, without carries.
    ClMulQ => galois::carry_less;
    /// Bytes of a by the matrices in b, plus `imm`: GF2P8AFFINEQB.
    Affine => galois::affine;
    /// Their inverses.
    AffineInverse => galois::affine_inverse;
    /// Products of bytes in the field of AES.
    MulField => galois::mul_field;
    /// CRC-32C of b's low bytes, from a's low 32 bits on.
    Crc32B => galois::crc32_b;
    Crc32W => galois::crc32_w;
    Crc32D => galois::crc32_d;
    Crc32Q => galois::crc32_q;
    /// The steps of SHA-1.
    Sha1Rounds => sha::sha1_rounds;
    Sha1NextE => sha::sha1_next_e;
    Sha1Msg1 => sha::sha1_msg1;
    Sha1Msg2 => sha::sha1_msg2;
    /// The message schedule of SHA-256.
    Sha256Msg1 => sha::sha256_msg1;
    Sha256Msg2 => sha::sha256_msg2;
    /// How many elements of a, bytes or words as `imm` says for PCMPISTRI, stand before the first 0.
    StringLength => strings::length;
    /// The bits of a that PCMPISTRM with `imm` makes a mask of.
    StringMask => strings::mask;
}

/// The same with three operands.
macro_rules! ternary_operations {
    ($($(#[$doc:meta])* $name:ident => $function:path;)*) => {
        /// Operations on three operands of 128 bits that raise nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum TernaryOp { $($(#[$doc])* $name,)* }

        /// Every [`TernaryOp`] in order.
        const TERNARY: &[TernaryOp] = &[$(TernaryOp::$name,)*];

        impl TernaryOp {
            /// The operation on values; `imm` for those that take one.
            #[inline(always)]
            pub(crate) fn eval(self, a: u128, b: u128, c: u128, imm: u8) -> u128 {
                match self {
                    $(TernaryOp::$name => $function(a, b, c, imm),)*
                }
            }
        }
    };
}

ternary_operations! {
    /// b where the sign of c's lane is set, else a: PBLENDVB, BLENDVPS, BLENDVPD.
    SelectB => sse41::select_b;
    SelectD => sse41::select_d;
    SelectQ => sse41::select_q;
    /// SHA256RNDS2; c is XMM0.
    Sha256Rounds => sha::sha256_rounds;
    /// PCMPESTRI and its relatives. c has the lengths of a and b. The low lane becomes IntRes2, the high lane has its index
    /// in bits 7:0, bit 8 if b is shorter than a register (ZF), bit 9 if a is (SF).
    CompareStrings => strings::compare;
}

/// [`VecOp::eval`] of what came after SSE2, for hosts without an instruction for it: once, as large as it is.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn portable(op: VecOp, a: u128, b: u128, imm: u8) -> u128 {
    op.eval(a, b, imm)
}
/// The same with three operands.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn portable3(op: TernaryOp, a: u128, b: u128, c: u128, imm: u8) -> u128 {
    op.eval(a, b, c, imm)
}

impl VecOp {
    /// The inverse of `as u8`.
    #[inline(always)]
    pub(crate) fn from_number(n: u8) -> VecOp {
        OPERATIONS[usize::from(n).min(OPERATIONS.len() - 1)]
    }
}

impl TernaryOp {
    /// The inverse of `as u8`.
    #[inline(always)]
    pub(crate) fn from_number(n: u8) -> TernaryOp {
        TERNARY[usize::from(n).min(TERNARY.len() - 1)]
    }
}
