//! What translated code calls for operations that Cranelift has none for: operands and result in vector registers. Each
//! function is one operation, so that the host's instruction, where it has one, is all there is to run.
#![expect(
    improper_ctypes_definitions,
    reason = "vectors are passed in vector registers, as the System V convention has it; they just are no type of C's"
)]

use super::Helper;
use crate::vector::{
    TernaryOp, VecOp,
    wide::{self, Wide, can, can3},
};

/// Whether there is something for every operation: Cranelift's own want SSE4.1 at times.
pub(in crate::jit) fn every_operation() -> bool {
    is_x86_feature_detected!("sse4.1")
}

/// An operation that the host has an instruction for.
extern "sysv64" fn by_instruction<const OP: u8>(a: Wide, b: Wide, imm: u64) -> Wide {
    wide::at_once(VecOp::from_number(OP), a, b, imm as u8).unwrap_or(a)
}

/// Any operation: its number stands above the immediate.
extern "sysv64" fn any(a: Wide, b: Wide, imm: u64) -> Wide {
    wide::eval(VecOp::from_number((imm >> 8) as u8), a, b, imm as u8)
}

extern "sysv64" fn any_ternary(a: Wide, b: Wide, c: Wide, imm: u64) -> Wide {
    wide::eval3(TernaryOp::from_number((imm >> 8) as u8), a, b, c, imm as u8)
}

extern "sysv64" fn sha256_rounds(a: Wide, b: Wide, c: Wide, imm: u64) -> Wide {
    wide::at_once3(TernaryOp::Sha256Rounds, a, b, c, imm as u8).unwrap_or(a)
}

/// The function for an operation.
pub(super) fn binary(op: VecOp) -> Option<Helper> {
    macro_rules! hot {
        ($($name:ident)*) => {
            match op {
                $(VecOp::$name if can(op) => by_instruction::<{ VecOp::$name as u8 }> as *const () as usize,)*
                _ => any as *const () as usize,
            }
        };
    }
    let address = hot! {
        AesEnc AesEncLast AesDec AesDecLast AesImc ClMulQ Sha1Rounds Sha1NextE Sha1Msg1 Sha1Msg2 Sha256Msg1 Sha256Msg2
        Affine AffineInverse MulField Crc32B Crc32W Crc32D Crc32Q SignB SignW SignD HSubSW HAddSW HMinPosUW StringLength
    };
    Some(Helper { address, number: op as u8 })
}

/// The function for an operation on three operands.
pub(super) fn ternary(op: TernaryOp) -> Option<Helper> {
    let address = match op {
        TernaryOp::Sha256Rounds if can3(op) => sha256_rounds as *const () as usize,
        _ => any_ternary as *const () as usize,
    };
    Some(Helper { address, number: op as u8 })
}
