//! Which semantics an instruction has that came after SSE2, legacy encoding: SSE3 to SSE4.2, AES, PCLMULQDQ, SHA, GFNI.

use crate::{
    insn::{Insn, Kind},
    sem::Op,
    vector::{TernaryOp, VecOp},
    width::Width,
};
use iced_x86::{Code, Instruction, Mnemonic as M};

/// The semantics, and the operation in `cc`.
pub(crate) fn pick(x: &Instruction, i: &mut Insn) -> Option<Op> {
    if let Some(op) = packed(x.mnemonic()) {
        i.cc = op as u8;
        return Some(if x.op0_register().is_mm() { on_mmx(op) } else { Op::Packed });
    }
    if let Some((op, operation)) = lanes(x, i) {
        i.cc = operation as u8;
        return Some(op);
    }
    if let Some(operation) = ternary(x.mnemonic()) {
        i.cc = operation as u8;
        return Some(Op::WithXmm0);
    }
    Some(match x.mnemonic() {
        M::Lddqu | M::Movntdqa => Op::MovX,
        M::Movddup => Op::Movddup,
        M::Movsldup => shuffled(i, 0b10_10_00_00),
        M::Movshdup => shuffled(i, 0b11_11_01_01),
        M::Addsubps => Op::Addsubps,
        M::Addsubpd => Op::Addsubpd,
        M::Haddps => Op::Haddps,
        M::Haddpd => Op::Haddpd,
        M::Hsubps => Op::Hsubps,
        M::Hsubpd => Op::Hsubpd,
        M::Dpps => Op::Dpps,
        M::Dppd => Op::Dppd,
        M::Roundps => Op::Roundps,
        M::Roundpd => Op::Roundpd,
        M::Roundss => Op::Roundss,
        M::Roundsd => Op::Roundsd,
        M::Ptest => Op::Ptest,
        M::Pcmpistri => Op::Pcmpistri,
        M::Pcmpistrm => Op::Pcmpistrm,
        M::Pcmpestri | M::Pcmpestri64 => with_lengths(x, i, Op::Pcmpestri),
        M::Pcmpestrm | M::Pcmpestrm64 => with_lengths(x, i, Op::Pcmpestrm),
        _ => return None,
    })
}

/// The operation of a mnemonic that is operand 0 := op(operand 0, operand 1, immediate).
pub(crate) fn packed(mnemonic: M) -> Option<VecOp> {
    Some(match mnemonic {
        M::Pshufb => VecOp::ShufB,
        M::Palignr => VecOp::Align,
        M::Phaddw => VecOp::HAddW,
        M::Phaddd => VecOp::HAddD,
        M::Phaddsw => VecOp::HAddSW,
        M::Phsubw => VecOp::HSubW,
        M::Phsubd => VecOp::HSubD,
        M::Phsubsw => VecOp::HSubSW,
        M::Pmaddubsw => VecOp::MAddUbSW,
        M::Pmulhrsw => VecOp::MulHRsW,
        M::Psignb => VecOp::SignB,
        M::Psignw => VecOp::SignW,
        M::Psignd => VecOp::SignD,
        M::Pabsb => VecOp::AbsB,
        M::Pabsw => VecOp::AbsW,
        M::Pabsd => VecOp::AbsD,
        M::Pblendw => VecOp::BlendW,
        M::Blendps => VecOp::BlendD,
        M::Blendpd => VecOp::BlendQ,
        M::Pminsb => VecOp::MinSB,
        M::Pmaxsb => VecOp::MaxSB,
        M::Pminuw => VecOp::MinUW,
        M::Pmaxuw => VecOp::MaxUW,
        M::Pminsd => VecOp::MinSD,
        M::Pmaxsd => VecOp::MaxSD,
        M::Pminud => VecOp::MinUD,
        M::Pmaxud => VecOp::MaxUD,
        M::Pcmpeqq => VecOp::CmpEqQ,
        M::Pcmpgtq => VecOp::CmpGtQ,
        M::Pmulld => VecOp::MulLoD,
        M::Pmuldq => VecOp::MulDQ,
        M::Packusdw => VecOp::PackUsDW,
        M::Mpsadbw => VecOp::MpSadBW,
        M::Phminposuw => VecOp::HMinPosUW,
        M::Aesenc => VecOp::AesEnc,
        M::Aesenclast => VecOp::AesEncLast,
        M::Aesdec => VecOp::AesDec,
        M::Aesdeclast => VecOp::AesDecLast,
        M::Aesimc => VecOp::AesImc,
        M::Aeskeygenassist => VecOp::AesKeyGenAssist,
        M::Pclmulqdq => VecOp::ClMulQ,
        M::Gf2p8affineqb => VecOp::Affine,
        M::Gf2p8affineinvqb => VecOp::AffineInverse,
        M::Gf2p8mulb => VecOp::MulField,
        M::Sha1rnds4 => VecOp::Sha1Rounds,
        M::Sha1nexte => VecOp::Sha1NextE,
        M::Sha1msg1 => VecOp::Sha1Msg1,
        M::Sha1msg2 => VecOp::Sha1Msg2,
        M::Sha256msg1 => VecOp::Sha256Msg1,
        M::Sha256msg2 => VecOp::Sha256Msg2,
        _ => return None,
    })
}

/// The same on MMX registers.
fn on_mmx(op: VecOp) -> Op {
    match op {
        VecOp::ShufB => Op::MmxShuffle,
        VecOp::Align => Op::MmxAlign,
        VecOp::HAddW | VecOp::HAddD | VecOp::HAddSW | VecOp::HSubW | VecOp::HSubD | VecOp::HSubSW => {
            Op::MmxPack
        }
        _ => Op::MmxPacked,
    }
}

/// What moves single lanes, or reads less than a register of memory.
pub(crate) fn lanes(x: &Instruction, i: &mut Insn) -> Option<(Op, VecOp)> {
    Some(match x.mnemonic() {
        M::Pmovsxbw => (Op::Widen, VecOp::SxBW),
        M::Pmovsxbd => (Op::Widen, VecOp::SxBD),
        M::Pmovsxbq => (Op::Widen, VecOp::SxBQ),
        M::Pmovsxwd => (Op::Widen, VecOp::SxWD),
        M::Pmovsxwq => (Op::Widen, VecOp::SxWQ),
        M::Pmovsxdq => (Op::Widen, VecOp::SxDQ),
        M::Pmovzxbw => (Op::Widen, VecOp::ZxBW),
        M::Pmovzxbd => (Op::Widen, VecOp::ZxBD),
        M::Pmovzxbq => (Op::Widen, VecOp::ZxBQ),
        M::Pmovzxwd => (Op::Widen, VecOp::ZxWD),
        M::Pmovzxwq => (Op::Widen, VecOp::ZxWQ),
        M::Pmovzxdq => (Op::Widen, VecOp::ZxDQ),
        M::Pinsrb => (Op::Insert, VecOp::InsertB),
        M::Pinsrd => (Op::Insert, VecOp::InsertD),
        M::Pinsrq => (Op::Insert, VecOp::InsertQ),
        M::Pextrb => (Op::Extract, VecOp::ExtractB),
        M::Pextrd | M::Extractps => (Op::Extract, VecOp::ExtractD),
        M::Pextrq => (Op::Extract, VecOp::ExtractQ),
        // SSE2's, of registers alone, has another encoding.
        M::Pextrw if matches!(x.code(), Code::Pextrw_r32m16_xmm_imm8 | Code::Pextrw_r64m16_xmm_imm8) => {
            (Op::Extract, VecOp::ExtractW)
        }
        M::Insertps => {
            if i.src_kind() != Kind::Reg {
                // The lane of the source is of registers only.
                i.imm &= 0x3f;
            }
            (Op::Insertps, VecOp::InsertPs)
        }
        _ => return None,
    })
}

/// Those with XMM0 as their third operand.
fn ternary(mnemonic: M) -> Option<TernaryOp> {
    Some(match mnemonic {
        M::Pblendvb => TernaryOp::SelectB,
        M::Blendvps => TernaryOp::SelectD,
        M::Blendvpd => TernaryOp::SelectQ,
        M::Sha256rnds2 => TernaryOp::Sha256Rounds,
        _ => return None,
    })
}

/// PSHUFD with an immediate of its own.
fn shuffled(i: &mut Insn, imm: u8) -> Op {
    i.imm = imm.into();
    Op::Pshufd
}

/// The width of the lengths in `cc`.
fn with_lengths(x: &Instruction, i: &mut Insn, op: Op) -> Op {
    let long = matches!(x.code(), Code::Pcmpestri64_xmm_xmmm128_imm8 | Code::Pcmpestrm64_xmm_xmmm128_imm8);
    i.cc = if long { 8 } else { 4 };
    op
}

/// The operation of CRC32 on so many bytes.
pub(crate) fn crc32(w: Width) -> VecOp {
    match w.0 {
        1 => VecOp::Crc32B,
        2 => VecOp::Crc32W,
        4 => VecOp::Crc32D,
        _ => VecOp::Crc32Q,
    }
}
