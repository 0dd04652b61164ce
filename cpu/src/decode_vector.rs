//! Which semantics a floating-point or vector instruction has.

use crate::{
    decode::wants_alignment,
    decode_avx,
    insn::{Insn, Kind, attr},
    mode::Mode,
    sem::Op,
    sys::x87::operand,
    vector::VecOp,
    width::Width,
};
use iced_x86::{Code, EncodingKind, Instruction, MemorySize, Mnemonic as M, Register};

/// The second half of decode's `pick`: x87, MMX, SSE. What is not known is undefined.
pub(crate) fn pick(x: &Instruction, _: Mode, i: &mut Insn) -> Op {
    if x.encoding() != EncodingKind::Legacy {
        return decode_avx::pick(x, i);
    }
    if wants_alignment(x) {
        i.attr |= attr::ALIGNED;
    }
    if let Some(op) = pick_x87(x, i) {
        return op;
    }
    if let Some(op) = packed(x.mnemonic()) {
        return pick_packed(x, op, i);
    }
    if let Some(op) = crate::decode_sse4::pick(x, i) {
        return op;
    }
    if let Some(op) = pick_move(x, i) {
        return op;
    }
    pick_float(x, i)
}

/// The operand of an x87 instruction as its semantics want it in `cc`.
fn x87_operand(x: &Instruction) -> u8 {
    match x.memory_size() {
        MemorySize::Float32 => operand::F32,
        MemorySize::Float64 => operand::F64,
        MemorySize::Float80 => operand::F80,
        MemorySize::Int16 => operand::I16,
        MemorySize::Int32 => operand::I32,
        MemorySize::Int64 => operand::I64,
        MemorySize::Bcd => operand::BCD,
        _ => operand::REGISTER,
    }
}

/// x87. `cc` has the operand and how often the stack is popped.
fn pick_x87(x: &Instruction, i: &mut Insn) -> Option<Op> {
    let cc = x87_operand(x);
    let (op, cc) = match x.mnemonic() {
        M::Wait => return Some(Op::Fwait),
        M::Fld | M::Fild | M::Fbld => (Op::Fld, cc),
        M::Fld1 | M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 | M::Fldz => (Op::FldConstant, cc),
        M::Fst | M::Fist => (Op::Fst, cc),
        M::Fstp | M::Fistp | M::Fbstp => (Op::Fst, cc | operand::POP),
        M::Fisttp => (Op::Fst, cc | operand::POP | operand::TRUNCATE),
        M::Fstpnce => (Op::Fstpnce, cc),
        M::Fxch => (Op::Fxch, cc),
        M::Fcmovb
        | M::Fcmove
        | M::Fcmovbe
        | M::Fcmovu
        | M::Fcmovnb
        | M::Fcmovne
        | M::Fcmovnbe
        | M::Fcmovnu => {
            i.dst = match x.mnemonic() {
                M::Fcmovb => 2,
                M::Fcmovnb => 3,
                M::Fcmove => 4,
                M::Fcmovne => 5,
                M::Fcmovbe => 6,
                M::Fcmovnbe => 7,
                M::Fcmovu => 10,
                _ => 11,
            };
            (Op::Fcmov, cc)
        }
        M::Fadd | M::Fiadd => (Op::Fadd, cc),
        M::Faddp => (Op::Fadd, cc | operand::POP),
        M::Fmul | M::Fimul => (Op::Fmul, cc),
        M::Fmulp => (Op::Fmul, cc | operand::POP),
        M::Fsub | M::Fisub => (Op::Fsub, cc),
        M::Fsubp => (Op::Fsub, cc | operand::POP),
        M::Fsubr | M::Fisubr => (Op::Fsubr, cc),
        M::Fsubrp => (Op::Fsubr, cc | operand::POP),
        M::Fdiv | M::Fidiv => (Op::Fdiv, cc),
        M::Fdivp => (Op::Fdiv, cc | operand::POP),
        M::Fdivr | M::Fidivr => (Op::Fdivr, cc),
        M::Fdivrp => (Op::Fdivr, cc | operand::POP),
        M::Fscale => {
            (i.dst, i.src) = (0, 1);
            (Op::Fscale, cc)
        }
        M::Fsqrt => (Op::Fsqrt, cc),
        M::Frndint => (Op::Frndint, cc),
        M::Fabs => (Op::Fabs, cc),
        M::Fchs => (Op::Fchs, cc),
        M::Fprem => (Op::Fprem, cc),
        M::Fprem1 => (Op::Fprem1, cc),
        M::Fxtract => (Op::Fxtract, cc),
        M::Fsin => (Op::Fsin, cc),
        M::Fcos => (Op::Fcos, cc),
        M::Fsincos => (Op::Fsincos, cc),
        M::Fptan => (Op::Fptan, cc),
        M::F2xm1 => (Op::F2xm1, cc),
        M::Fpatan | M::Fyl2x | M::Fyl2xp1 => {
            (i.dst, i.src) = (1, 0);
            let op = match x.mnemonic() {
                M::Fpatan => Op::Fpatan,
                M::Fyl2x => Op::Fyl2x,
                _ => Op::Fyl2xp1,
            };
            (op, cc | operand::POP)
        }
        M::Fcom | M::Ficom => (Op::Fcom, cc),
        M::Fcomp | M::Ficomp => (Op::Fcom, cc | operand::POP),
        M::Fucom => (Op::Fucom, cc),
        M::Fucomp => (Op::Fucom, cc | operand::POP),
        M::Fcompp | M::Fucompp => {
            i.src = 1;
            (if x.mnemonic() == M::Fcompp { Op::Fcom } else { Op::Fucom }, cc | operand::POP_TWO)
        }
        M::Fcomi => (Op::Fcomi, cc),
        M::Fcomip => (Op::Fcomi, cc | operand::POP),
        M::Fucomi => (Op::Fucomi, cc),
        M::Fucomip => (Op::Fucomi, cc | operand::POP),
        M::Ftst => (Op::Ftst, cc),
        M::Fxam => (Op::Fxam, cc),
        M::Fninit => (Op::Fninit, cc),
        M::Fnclex => (Op::Fnclex, cc),
        M::Fldcw => (Op::Fldcw, cc),
        M::Fnstcw => (Op::Fnstcw, cc),
        M::Fnstsw => (Op::Fnstsw, cc),
        M::Fincstp => (Op::Fincstp, cc),
        M::Fdecstp => (Op::Fdecstp, cc),
        M::Ffree => (Op::Ffree, cc),
        M::Ffreep => (Op::Ffree, cc | operand::POP),
        M::Fnop => (Op::FnopWaiting, cc),
        M::Fneni | M::Fndisi | M::Fnsetpm => (Op::Fnop, cc),
        M::Fnstenv => (Op::Fnstenv, cc),
        M::Fldenv => (Op::Fldenv, cc),
        M::Fnsave => (Op::Fnsave, cc),
        M::Frstor => (Op::Frstor, cc),
        _ => return None,
    };
    match x.code() {
        Code::Fnstenv_m14byte | Code::Fldenv_m14byte | Code::Fnsave_m94byte | Code::Frstor_m94byte => {
            i.w = Width(2)
        }
        Code::Fnstenv_m28byte | Code::Fldenv_m28byte | Code::Fnsave_m108byte | Code::Frstor_m108byte => {
            i.w = Width(4)
        }
        _ => {}
    }
    i.cc = cc;
    Some(op)
}

fn is_mm(r: Register) -> bool {
    r.is_mm()
}

/// The operation of a mnemonic that is operand 0 := op(operand 0, operand 1, immediate), as XMM registers have it.
pub(crate) fn packed(mnemonic: M) -> Option<VecOp> {
    Some(match mnemonic {
        M::Andps | M::Andpd | M::Pand => VecOp::And,
        M::Andnps | M::Andnpd | M::Pandn => VecOp::AndNot,
        M::Orps | M::Orpd | M::Por => VecOp::Or,
        M::Xorps | M::Xorpd | M::Pxor => VecOp::Xor,
        M::Psllw => VecOp::ShlW,
        M::Pslld => VecOp::ShlD,
        M::Psllq => VecOp::ShlQ,
        M::Psrlw => VecOp::ShrW,
        M::Psrld => VecOp::ShrD,
        M::Psrlq => VecOp::ShrQ,
        M::Psraw => VecOp::SarW,
        M::Psrad => VecOp::SarD,
        M::Pslldq => VecOp::ShlBytes,
        M::Psrldq => VecOp::ShrBytes,
        M::Paddb => VecOp::AddB,
        M::Paddw => VecOp::AddW,
        M::Paddd => VecOp::AddD,
        M::Paddq => VecOp::AddQ,
        M::Psubb => VecOp::SubB,
        M::Psubw => VecOp::SubW,
        M::Psubd => VecOp::SubD,
        M::Psubq => VecOp::SubQ,
        M::Paddsb => VecOp::AddSB,
        M::Paddsw => VecOp::AddSW,
        M::Psubsb => VecOp::SubSB,
        M::Psubsw => VecOp::SubSW,
        M::Paddusb => VecOp::AddUsB,
        M::Paddusw => VecOp::AddUsW,
        M::Psubusb => VecOp::SubUsB,
        M::Psubusw => VecOp::SubUsW,
        M::Pavgb => VecOp::AvgB,
        M::Pavgw => VecOp::AvgW,
        M::Pminub => VecOp::MinUB,
        M::Pmaxub => VecOp::MaxUB,
        M::Pminsw => VecOp::MinSW,
        M::Pmaxsw => VecOp::MaxSW,
        M::Pcmpeqb => VecOp::CmpEqB,
        M::Pcmpeqw => VecOp::CmpEqW,
        M::Pcmpeqd => VecOp::CmpEqD,
        M::Pcmpgtb => VecOp::CmpGtB,
        M::Pcmpgtw => VecOp::CmpGtW,
        M::Pcmpgtd => VecOp::CmpGtD,
        M::Pmullw => VecOp::MulLoW,
        M::Pmulhw => VecOp::MulHiW,
        M::Pmulhuw => VecOp::MulHiUW,
        M::Pmuludq => VecOp::MulUDQ,
        M::Pmaddwd => VecOp::MAddWD,
        M::Psadbw => VecOp::SadBW,
        M::Punpcklbw => VecOp::UnpackLoB,
        M::Punpcklwd => VecOp::UnpackLoW,
        M::Punpckldq | M::Unpcklps => VecOp::UnpackLoD,
        M::Punpcklqdq | M::Unpcklpd => VecOp::UnpackLoQ,
        M::Punpckhbw => VecOp::UnpackHiB,
        M::Punpckhwd => VecOp::UnpackHiW,
        M::Punpckhdq | M::Unpckhps => VecOp::UnpackHiD,
        M::Punpckhqdq | M::Unpckhpd => VecOp::UnpackHiQ,
        M::Packsswb => VecOp::PackSWB,
        M::Packssdw => VecOp::PackSDW,
        M::Packuswb => VecOp::PackUsWB,
        M::Pshufd => VecOp::ShufD,
        M::Pshuflw | M::Pshufw => VecOp::ShufLoW,
        M::Pshufhw => VecOp::ShufHiW,
        M::Shufps => VecOp::ShufPs,
        M::Shufpd => VecOp::ShufPd,
        M::Rcpps => VecOp::RcpPs,
        M::Rsqrtps => VecOp::RsqrtPs,
        _ => return None,
    })
}

/// The form of a shift that takes its count from the immediate.
pub(crate) fn by_immediate(op: VecOp) -> VecOp {
    match op {
        VecOp::ShlW => VecOp::ShlImmW,
        VecOp::ShlD => VecOp::ShlImmD,
        VecOp::ShlQ => VecOp::ShlImmQ,
        VecOp::ShrW => VecOp::ShrImmW,
        VecOp::ShrD => VecOp::ShrImmD,
        VecOp::ShrQ => VecOp::ShrImmQ,
        VecOp::SarW => VecOp::SarImmW,
        VecOp::SarD => VecOp::SarImmD,
        op => op,
    }
}

fn pick_packed(x: &Instruction, op: VecOp, i: &mut Insn) -> Op {
    let shift = i.src_kind() == Kind::Imm;
    let op = if shift { by_immediate(op) } else { op };
    i.cc = op as u8;
    if is_mm(x.op0_register()) {
        return match op {
            _ if shift => Op::MmxPackedShift,
            VecOp::UnpackLoB | VecOp::UnpackLoW | VecOp::UnpackLoD => Op::MmxUnpackLow,
            VecOp::UnpackHiB => numbered(i, VecOp::UnpackLoB, Op::MmxUnpackHigh),
            VecOp::UnpackHiW => numbered(i, VecOp::UnpackLoW, Op::MmxUnpackHigh),
            VecOp::UnpackHiD => numbered(i, VecOp::UnpackLoD, Op::MmxUnpackHigh),
            VecOp::PackSWB | VecOp::PackSDW | VecOp::PackUsWB => Op::MmxPack,
            _ => Op::MmxPacked,
        };
    }
    match op {
        VecOp::And => Op::Pand,
        VecOp::AndNot => Op::Pandn,
        VecOp::Or => Op::Por,
        VecOp::Xor => Op::Pxor,
        VecOp::AddB => Op::Paddb,
        VecOp::AddW => Op::Paddw,
        VecOp::AddD => Op::Paddd,
        VecOp::AddQ => Op::Paddq,
        VecOp::SubB => Op::Psubb,
        VecOp::SubW => Op::Psubw,
        VecOp::SubD => Op::Psubd,
        VecOp::SubQ => Op::Psubq,
        VecOp::CmpEqB => Op::Pcmpeqb,
        VecOp::CmpEqW => Op::Pcmpeqw,
        VecOp::CmpEqD => Op::Pcmpeqd,
        VecOp::CmpGtB => Op::Pcmpgtb,
        VecOp::CmpGtD => Op::Pcmpgtd,
        VecOp::MinUB => Op::Pminub,
        VecOp::MaxUB => Op::Pmaxub,
        VecOp::MulUDQ => Op::Pmuludq,
        VecOp::UnpackLoB => Op::Punpcklbw,
        VecOp::UnpackLoW => Op::Punpcklwd,
        VecOp::UnpackLoD => Op::Punpckldq,
        VecOp::UnpackLoQ => Op::Punpcklqdq,
        VecOp::UnpackHiQ => Op::Punpckhqdq,
        VecOp::ShufD => Op::Pshufd,
        VecOp::ShufPs => Op::Shufps,
        VecOp::ShlBytes => Op::Pslldq,
        VecOp::ShrBytes => Op::Psrldq,
        VecOp::ShlImmD => Op::PslldImm,
        VecOp::ShrImmD => Op::PsrldImm,
        VecOp::ShlImmQ => Op::PsllqImm,
        VecOp::ShrImmQ => Op::PsrlqImm,
        VecOp::MulLoW => Op::Pmullw,
        VecOp::MulHiW => Op::Pmulhw,
        VecOp::MulHiUW => Op::Pmulhuw,
        VecOp::MAddWD => Op::Pmaddwd,
        VecOp::SadBW => Op::Psadbw,
        VecOp::AddSB => Op::Paddsb,
        VecOp::AddSW => Op::Paddsw,
        VecOp::SubSB => Op::Psubsb,
        VecOp::SubSW => Op::Psubsw,
        VecOp::AddUsB => Op::Paddusb,
        VecOp::AddUsW => Op::Paddusw,
        VecOp::SubUsB => Op::Psubusb,
        VecOp::SubUsW => Op::Psubusw,
        VecOp::AvgB => Op::Pavgb,
        VecOp::AvgW => Op::Pavgw,
        VecOp::MinSW => Op::Pminsw,
        VecOp::MaxSW => Op::Pmaxsw,
        VecOp::CmpGtW => Op::Pcmpgtw,
        VecOp::UnpackHiB => Op::Punpckhbw,
        VecOp::UnpackHiW => Op::Punpckhwd,
        VecOp::UnpackHiD => Op::Punpckhdq,
        VecOp::PackSWB => Op::Packsswb,
        VecOp::PackSDW => Op::Packssdw,
        VecOp::PackUsWB => Op::Packuswb,
        VecOp::ShufLoW => Op::Pshuflw,
        VecOp::ShufHiW => Op::Pshufhw,
        VecOp::ShufPd => Op::Shufpd,
        VecOp::ShlW => Op::Psllw,
        VecOp::ShlD => Op::Pslld,
        VecOp::ShlQ => Op::Psllq,
        VecOp::ShrW => Op::Psrlw,
        VecOp::ShrD => Op::Psrld,
        VecOp::ShrQ => Op::Psrlq,
        VecOp::SarW => Op::Psraw,
        VecOp::SarD => Op::Psrad,
        VecOp::RcpPs => Op::Rcpps,
        VecOp::RsqrtPs => Op::Rsqrtps,
        VecOp::ShlImmW => Op::PsllwImm,
        VecOp::ShrImmW => Op::PsrlwImm,
        VecOp::SarImmW => Op::PsrawImm,
        VecOp::SarImmD => Op::PsradImm,
        // The rest are no mnemonics with two XMM operands.
        _ => Op::Undefined,
    }
}

fn numbered(i: &mut Insn, number: VecOp, op: Op) -> Op {
    i.cc = number as u8;
    op
}

/// Moves of MMX and SSE.
fn pick_move(x: &Instruction, i: &mut Insn) -> Option<Op> {
    let (to, from) = (x.op0_register(), x.op1_register());
    let (to_memory, from_memory) = (i.dst_kind() != Kind::Reg, i.src_kind() != Kind::Reg);
    Some(match x.mnemonic() {
        M::Movaps
        | M::Movups
        | M::Movapd
        | M::Movupd
        | M::Movdqa
        | M::Movdqu
        | M::Movntps
        | M::Movntpd
        | M::Movntdq => Op::MovX,
        M::Movd | M::Movq if is_mm(to) && is_mm(from) => Op::MmxMovq,
        M::Movd | M::Movq if is_mm(to) => Op::MmxLoad,
        M::Movd | M::Movq | M::Movntq if is_mm(from) => Op::MmxStore,
        M::Movd | M::Movq if to_memory => pick_width(i.w.0, Op::StoreD, Op::StoreQ),
        M::Movd | M::Movq if from_memory => pick_width(i.w2.0, Op::LoadD, Op::LoadQ),
        M::Movd | M::Movq if !to.is_xmm() => pick_width(i.w.0, Op::ToGeneralD, Op::ToGeneralQ),
        M::Movd | M::Movq if !from.is_xmm() => pick_width(i.w2.0, Op::LoadD, Op::LoadQ),
        M::Movq => Op::MovqX,
        M::Movss if to_memory => Op::StoreD,
        M::Movss if from_memory => Op::LoadD,
        M::Movss => Op::MergeD,
        M::Movsd if to_memory => Op::StoreQ,
        M::Movsd if from_memory => Op::LoadQ,
        M::Movsd => Op::MergeQ,
        M::Movlps | M::Movlpd if to_memory => Op::StoreQ,
        M::Movlps | M::Movlpd => Op::LoadLow,
        M::Movhps | M::Movhpd if to_memory => Op::StoreHigh,
        M::Movhps | M::Movhpd => Op::LoadHigh,
        M::Movhlps => Op::Movhlps,
        M::Movlhps => Op::Movlhps,
        M::Movmskps => Op::Movmskps,
        M::Movmskpd => Op::Movmskpd,
        M::Pmovmskb => {
            if is_mm(from) {
                Op::MmxPmovmskb
            } else {
                Op::Pmovmskb
            }
        }
        M::Movq2dq => Op::Movq2dq,
        M::Movdq2q => Op::Movdq2q,
        M::Maskmovdqu | M::Maskmovq => {
            // Operand 0 is memory at DS:rDI, operands 1 and 2 are data and mask.
            i.dst = i.src;
            i.src = x.op2_register().number() as u8;
            if x.mnemonic() == M::Maskmovq { Op::Maskmovq } else { Op::Maskmovdqu }
        }
        M::Pinsrw => {
            if is_mm(to) {
                Op::MmxPinsrw
            } else {
                Op::Pinsrw
            }
        }
        M::Pextrw => match x.code() {
            Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => Op::MmxPextrw,
            Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => Op::Pextrw,
            _ => Op::Undefined,
        },
        M::Emms => Op::Emms,
        M::Ldmxcsr => Op::Ldmxcsr,
        M::Stmxcsr => Op::Stmxcsr,
        _ => return None,
    })
}

fn pick_width(w: u8, d: Op, q: Op) -> Op {
    if w == 8 { q } else { d }
}

/// Arithmetic, comparisons and conversions of SSE and SSE2.
fn pick_float(x: &Instruction, i: &mut Insn) -> Op {
    match x.mnemonic() {
        M::Addss => Op::Addss,
        M::Addsd => Op::Addsd,
        M::Addps => Op::Addps,
        M::Addpd => Op::Addpd,
        M::Subss => Op::Subss,
        M::Subsd => Op::Subsd,
        M::Subps => Op::Subps,
        M::Subpd => Op::Subpd,
        M::Mulss => Op::Mulss,
        M::Mulsd => Op::Mulsd,
        M::Mulps => Op::Mulps,
        M::Mulpd => Op::Mulpd,
        M::Divss => Op::Divss,
        M::Divsd => Op::Divsd,
        M::Divps => Op::Divps,
        M::Divpd => Op::Divpd,
        M::Minss => Op::Minss,
        M::Minsd => Op::Minsd,
        M::Minps => Op::Minps,
        M::Minpd => Op::Minpd,
        M::Maxss => Op::Maxss,
        M::Maxsd => Op::Maxsd,
        M::Maxps => Op::Maxps,
        M::Maxpd => Op::Maxpd,
        M::Sqrtss => Op::Sqrtss,
        M::Sqrtsd => Op::Sqrtsd,
        M::Sqrtps => Op::Sqrtps,
        M::Sqrtpd => Op::Sqrtpd,
        M::Cmpss | M::Cmpsd | M::Cmpps | M::Cmppd => {
            // SSE has the first eight predicates only.
            i.imm &= 7;
            match x.mnemonic() {
                M::Cmpss => Op::Cmpss,
                M::Cmpsd => Op::Cmpsd,
                M::Cmpps => Op::Cmpps,
                _ => Op::Cmppd,
            }
        }
        M::Rcpss => numbered(i, VecOp::RcpPs, Op::ApproximateScalar),
        M::Rsqrtss => numbered(i, VecOp::RsqrtPs, Op::ApproximateScalar),
        M::Comiss => Op::Comiss,
        M::Comisd => Op::Comisd,
        M::Ucomiss => Op::Ucomiss,
        M::Ucomisd => Op::Ucomisd,
        M::Cvtss2sd => Op::Cvtss2sd,
        M::Cvtsd2ss => Op::Cvtsd2ss,
        M::Cvtps2pd => Op::Cvtps2pd,
        M::Cvtpd2ps => Op::Cvtpd2ps,
        M::Cvtdq2ps => Op::Cvtdq2ps,
        M::Cvtps2dq => Op::Cvtps2dq,
        M::Cvttps2dq => Op::Cvttps2dq,
        M::Cvtdq2pd => Op::Cvtdq2pd,
        M::Cvtpd2dq => Op::Cvtpd2dq,
        M::Cvttpd2dq => Op::Cvttpd2dq,
        M::Cvtsi2ss => pick_width(i.w2.0, Op::Cvtsi2ssD, Op::Cvtsi2ssQ),
        M::Cvtsi2sd => pick_width(i.w2.0, Op::Cvtsi2sdD, Op::Cvtsi2sdQ),
        M::Cvtss2si => Op::Cvtss2si,
        M::Cvttss2si => Op::Cvttss2si,
        M::Cvtsd2si => Op::Cvtsd2si,
        M::Cvttsd2si => Op::Cvttsd2si,
        M::Cvtpi2ps => Op::Cvtpi2ps,
        M::Cvtpi2pd => Op::Cvtpi2pd,
        M::Cvtps2pi => Op::Cvtps2pi,
        M::Cvttps2pi => Op::Cvttps2pi,
        M::Cvtpd2pi => Op::Cvtpd2pi,
        M::Cvttpd2pi => Op::Cvttpd2pi,
        _ => Op::Undefined,
    }
}
