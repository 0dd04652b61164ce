//! Instructions with a VEX prefix on vector registers. Most mean what their twin without the V means, with one operand
//! more: the tables of the twins serve both.

use crate::{
    decode_sse4,
    decode_vector::{by_immediate, packed},
    insn::{Insn, Kind, attr},
    sem::{Op, avx::field},
    vector::{FloatOp, Fused, Lanes, VecOp},
    width::Width,
};
use iced_x86::{EncodingKind, Instruction, Mnemonic as M, OpKind, Register};
use rustc_hash::FxHashMap;
use std::sync::LazyLock;

/// By the number of a mnemonic that begins with V, the mnemonic without it.
static TWINS: LazyLock<Vec<Option<M>>> = LazyLock::new(|| {
    let by_name: FxHashMap<String, M> = M::values().map(|m| (format!("{m:?}").to_lowercase(), m)).collect();
    let twin = |m: M| by_name.get(format!("{m:?}").to_lowercase().strip_prefix('v')?).copied();
    M::values().map(twin).collect()
});

/// The legacy mnemonic with the same meaning.
fn twin(m: M) -> Option<M> {
    TWINS.get(m as usize).copied().flatten()
}

/// The semantics of an instruction with a VEX prefix that is none of the general registers'. EVEX and XOP are undefined.
pub(crate) fn pick(x: &Instruction, i: &mut Insn) -> Op {
    if x.encoding() != EncodingKind::VEX {
        return Op::Undefined;
    }
    i.imm = i.imm & 0xff | if is_wide(x) { field::WIDE } else { 0 };
    i.cc = if x.op_count() > 1 { x.op1_register().number() as u8 } else { 0 };
    if x.op_count() < 3 || x.op_count() == 3 && x.op2_kind() == OpKind::Immediate8 {
        i.imm |= field::ALONE;
    }
    if x.op_count() == 4 && x.op3_kind() == OpKind::Register {
        i.imm |= (x.op3_register().number() as i32 & 15) << field::FOURTH;
    }
    if let Some(op) = pick_move(x, i) {
        return op;
    }
    if let Some(op) = pick_permute(x, i) {
        return op;
    }
    if let Some(op) = pick_fused(x, i) {
        return op;
    }
    if let Some(op) = pick_new(x, i) {
        return op;
    }
    let Some(twin) = twin(x.mnemonic()) else { return Op::Undefined };
    if let Some(op) = packed(twin).or_else(|| decode_sse4::packed(twin)) {
        return pick_packed(x, op, i);
    }
    pick_float(twin, i)
}

/// Whether it works on 256 bits.
fn is_wide(x: &Instruction) -> bool {
    (0..x.op_count()).any(|k| x.op_kind(k) == OpKind::Register && x.op_register(k).is_ymm())
        || x.memory_size().size() == 32
}

fn numbered(i: &mut Insn, number: u8, op: Op) -> Op {
    i.imm |= i32::from(number) << field::OP;
    op
}

fn stepped(i: &mut Insn, step: u8, op: Op) -> Op {
    i.imm |= i32::from(step & 15) << field::STEP;
    op
}

fn float(i: &mut Insn, op: FloatOp, lanes: Lanes, semantics: Op) -> Op {
    i.imm |= (lanes as i32) << field::LANES;
    numbered(i, op as u8, semantics)
}

/// What is one integer operation on each half.
fn pick_packed(x: &Instruction, op: VecOp, i: &mut Insn) -> Op {
    if i.src_kind() == Kind::Imm
        || x.op_count() == 3 && x.op2_kind() == OpKind::Immediate8 && by_immediate(op) != op
    {
        return numbered(i, by_immediate(op) as u8, Op::AvxShiftByImmediate);
    }
    if matches!(op, VecOp::ShlBytes | VecOp::ShrBytes) {
        return numbered(i, op as u8, Op::AvxShiftByImmediate);
    }
    if by_immediate(op) != op {
        return numbered(i, op as u8, Op::AvxShiftByCount);
    }
    // Where the immediate has bits for each half.
    let step = match x.mnemonic() {
        M::Vshufpd | M::Vblendpd => 2,
        M::Vblendps => 4,
        M::Vmpsadbw => 3,
        _ => 0,
    };
    stepped(i, step, Op::AvxPacked);
    numbered(i, op as u8, Op::AvxPacked);
    match op {
        VecOp::And => Op::Vpand,
        VecOp::AndNot => Op::Vpandn,
        VecOp::Or => Op::Vpor,
        VecOp::Xor => Op::Vpxor,
        VecOp::CmpEqB => Op::Vpcmpeqb,
        VecOp::CmpEqD => Op::Vpcmpeqd,
        VecOp::MinUB => Op::Vpminub,
        VecOp::SubB => Op::Vpsubb,
        VecOp::AddD => Op::Vpaddd,
        VecOp::AddQ => Op::Vpaddq,
        _ => Op::AvxPacked,
    }
}

/// Moves, and what moves single lanes.
fn pick_move(x: &Instruction, i: &mut Insn) -> Option<Op> {
    let to_memory = i.dst_kind() != Kind::Reg;
    let from_memory = i.src_kind() != Kind::Reg;
    let wide = is_wide(x);
    let whole = || match (wide, to_memory) {
        (true, _) => Op::VmovY,
        (false, true) => Op::VstoreX,
        (false, false) => Op::VmovX,
    };
    Some(match x.mnemonic() {
        M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => whole(),
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => {
            i.attr |= attr::ALIGNED;
            whole()
        }
        M::Vmovd | M::Vmovq if to_memory => by_width(i.w, Op::VstoreD, Op::VstoreQ),
        M::Vmovd | M::Vmovq if from_memory || !x.op1_register().is_xmm() => {
            by_width(i.w2, Op::VloadD, Op::VloadQ)
        }
        M::Vmovd | M::Vmovq if !x.op0_register().is_xmm() => by_width(i.w, Op::VtoGeneralD, Op::VtoGeneralQ),
        M::Vmovq => Op::VmovqX,
        M::Vmovss if to_memory => Op::VstoreD,
        M::Vmovss if from_memory => Op::VloadD,
        M::Vmovss => Op::VmergeD,
        M::Vmovsd if to_memory => Op::VstoreQ,
        M::Vmovsd if from_memory => Op::VloadQ,
        M::Vmovsd => Op::VmergeQ,
        M::Vmovlps | M::Vmovlpd if to_memory => Op::VstoreQ,
        M::Vmovlps | M::Vmovlpd => Op::VloadLow,
        M::Vmovhps | M::Vmovhpd if to_memory => Op::VstoreHigh,
        M::Vmovhps | M::Vmovhpd => Op::VloadHigh,
        M::Vmovhlps => Op::Vmovhlps,
        M::Vmovlhps => Op::Vmovlhps,
        M::Vmovddup => Op::Vmovddup,
        M::Vmovsldup => immediate(i, 0xa0, VecOp::ShufD),
        M::Vmovshdup => immediate(i, 0xf5, VecOp::ShufD),
        M::Vmovmskps => stepped_mask(i, 4, VecOp::MaskD),
        M::Vmovmskpd => stepped_mask(i, 2, VecOp::MaskQ),
        M::Vpmovmskb => stepped_mask(i, 0, VecOp::MaskB),
        M::Vpinsrb => stepped(i, 1, Op::Vpinsr),
        M::Vpinsrw => stepped(i, 2, Op::Vpinsr),
        M::Vpinsrd => stepped(i, 4, Op::Vpinsr),
        M::Vpinsrq => stepped(i, 8, Op::Vpinsr),
        M::Vpextrb => stepped(i, 1, Op::Vpextr),
        M::Vpextrw => stepped(i, 2, Op::Vpextr),
        M::Vpextrd | M::Vextractps => stepped(i, 4, Op::Vpextr),
        M::Vpextrq => stepped(i, 8, Op::Vpextr),
        M::Vmaskmovps | M::Vpmaskmovd => stepped(i, 4, Op::VmaskedMove),
        M::Vmaskmovpd | M::Vpmaskmovq => stepped(i, 8, Op::VmaskedMove),
        M::Vmaskmovdqu => {
            // Operand 0 is memory at DS:rDI, operands 1 and 2 are data and mask.
            i.dst = x.op1_register().number() as u8;
            i.src = x.op2_register().number() as u8;
            Op::Vmaskmovdqu
        }
        M::Vldmxcsr => Op::Vldmxcsr,
        M::Vstmxcsr => Op::Vstmxcsr,
        M::Vzeroupper | M::Vzeroall => {
            i.cc = if x.code_size() == iced_x86::CodeSize::Code64 { 16 } else { 8 };
            stepped(i, u8::from(x.mnemonic() == M::Vzeroall), Op::VzeroRegisters)
        }
        M::Vgatherdps | M::Vpgatherdd => gather(x, i, 4, 4),
        M::Vgatherdpd | M::Vpgatherdq => gather(x, i, 4, 8),
        M::Vgatherqps | M::Vpgatherqd => gather(x, i, 8, 4),
        M::Vgatherqpd | M::Vpgatherqq => gather(x, i, 8, 8),
        _ => return None,
    })
}

fn by_width(w: Width, d: Op, q: Op) -> Op {
    if w.0 == 8 { q } else { d }
}

fn stepped_mask(i: &mut Insn, step: u8, op: VecOp) -> Op {
    stepped(i, step, Op::Vmask);
    numbered(i, op as u8, Op::Vmask)
}

fn immediate(i: &mut Insn, imm: i32, op: VecOp) -> Op {
    i.imm |= imm;
    numbered(i, op as u8, Op::AvxPacked)
}

/// Gathers: SDM 2A "Vector SIB (VSIB) Memory Addressing". The mask is the last operand; the three registers must differ.
fn gather(x: &Instruction, i: &mut Insn, index: u8, element: u8) -> Op {
    let (base, vector) = (x.memory_base(), x.memory_index());
    i.cc = x.op2_register().number() as u8;
    i.index = vector.number() as u8;
    if i.dst == i.cc || i.dst == i.index || i.cc == i.index {
        return Op::Undefined;
    }
    i.asize = match (base, x.memory_displ_size()) {
        (Register::None, 4) => 4,
        (Register::None, _) => 8,
        (base, _) => base.size() as u8,
    };
    // Whether index or element are 256 bits wide, as many as the wider of both has.
    let wide = vector.is_ymm() || x.op0_register().is_ymm();
    i.imm = if wide { field::WIDE } else { 0 };
    stepped(i, element, Op::Vgather);
    numbered(i, index, Op::Vgather)
}

/// What moves lanes across halves, blends, broadcasts.
fn pick_permute(x: &Instruction, i: &mut Insn) -> Option<Op> {
    let broadcast = |i: &mut Insn, bytes: u8, op: VecOp| {
        stepped(i, bytes, Op::Vbroadcast);
        numbered(i, op as u8, Op::Vbroadcast)
    };
    let operation = |i: &mut Insn, step: u8, op: VecOp| {
        stepped(i, step, Op::AvxPacked);
        numbered(i, op as u8, Op::AvxPacked)
    };
    Some(match x.mnemonic() {
        M::Vbroadcastss | M::Vpbroadcastd => broadcast(i, 4, VecOp::BroadcastD),
        M::Vbroadcastsd | M::Vpbroadcastq => broadcast(i, 8, VecOp::BroadcastQ),
        M::Vpbroadcastb => broadcast(i, 1, VecOp::BroadcastB),
        M::Vpbroadcastw => broadcast(i, 2, VecOp::BroadcastW),
        M::Vbroadcastf128 | M::Vbroadcasti128 => Op::Vbroadcast128,
        M::Vextractf128 | M::Vextracti128 => Op::Vextract128,
        M::Vinsertf128 | M::Vinserti128 => Op::Vinsert128,
        M::Vperm2f128 | M::Vperm2i128 => Op::Vpermute128,
        M::Vpermq | M::Vpermpd => Op::VpermuteQ,
        M::Vpermd | M::Vpermps => Op::VpermuteD,
        M::Vpermilps if x.op2_kind() == OpKind::Immediate8 => operation(i, 0, VecOp::ShufD),
        M::Vpermilpd if x.op2_kind() == OpKind::Immediate8 => operation(i, 2, VecOp::ShufQ),
        M::Vpermilps => operation(i, 0, VecOp::LookupD),
        M::Vpermilpd => operation(i, 0, VecOp::LookupQ),
        M::Vpblendd => operation(i, 4, VecOp::BlendD),
        M::Vpsllvd => operation(i, 0, VecOp::ShlVarD),
        M::Vpsllvq => operation(i, 0, VecOp::ShlVarQ),
        M::Vpsrlvd => operation(i, 0, VecOp::ShrVarD),
        M::Vpsrlvq => operation(i, 0, VecOp::ShrVarQ),
        M::Vpsravd => operation(i, 0, VecOp::SarVarD),
        M::Vblendvps => stepped(i, 4, Op::Vblendv),
        M::Vblendvpd => stepped(i, 8, Op::Vblendv),
        M::Vpblendvb => stepped(i, 1, Op::Vblendv),
        M::Vptest => Op::Vtest,
        M::Vtestps => stepped(i, 4, Op::Vtest),
        M::Vtestpd => stepped(i, 8, Op::Vtest),
        _ => return None,
    })
}

/// SSE4's lanes that become wider, INSERTPS, the string comparisons.
fn pick_new(x: &Instruction, i: &mut Insn) -> Option<Op> {
    let extend = |i: &mut Insn, step: u8, op: VecOp| {
        stepped(i, step, Op::Vextend);
        Some(numbered(i, op as u8, Op::Vextend))
    };
    let lengths = if matches!(x.mnemonic(), M::Vpcmpestri64 | M::Vpcmpestrm64) { 8 } else { 4 };
    match x.mnemonic() {
        M::Vpmovsxbw => extend(i, 8, VecOp::SxBW),
        M::Vpmovsxbd => extend(i, 4, VecOp::SxBD),
        M::Vpmovsxbq => extend(i, 2, VecOp::SxBQ),
        M::Vpmovsxwd => extend(i, 8, VecOp::SxWD),
        M::Vpmovsxwq => extend(i, 4, VecOp::SxWQ),
        M::Vpmovsxdq => extend(i, 8, VecOp::SxDQ),
        M::Vpmovzxbw => extend(i, 8, VecOp::ZxBW),
        M::Vpmovzxbd => extend(i, 4, VecOp::ZxBD),
        M::Vpmovzxbq => extend(i, 2, VecOp::ZxBQ),
        M::Vpmovzxwd => extend(i, 8, VecOp::ZxWD),
        M::Vpmovzxwq => extend(i, 4, VecOp::ZxWQ),
        M::Vpmovzxdq => extend(i, 8, VecOp::ZxDQ),
        M::Vinsertps => {
            if i.src_kind() == Kind::Reg {
                Some(numbered(i, VecOp::InsertPs as u8, Op::AvxPacked))
            } else {
                // The lane of the source is of registers only.
                i.imm &= !0xc0;
                Some(numbered(i, VecOp::InsertPs as u8, Op::VpackedD))
            }
        }
        M::Vpcmpistri => Some(Op::Vpcmpistri),
        M::Vpcmpistrm => Some(Op::Vpcmpistrm),
        M::Vpcmpestri | M::Vpcmpestri64 => {
            i.cc = lengths;
            Some(Op::Vpcmpestri)
        }
        M::Vpcmpestrm | M::Vpcmpestrm64 => {
            i.cc = lengths;
            Some(Op::Vpcmpestrm)
        }
        _ => None,
    }
}

/// Arithmetic, comparisons and conversions of floating point.
fn pick_float(twin: M, i: &mut Insn) -> Op {
    use FloatOp as F;
    use Lanes::{Pd, Ps, Sd, Ss};
    let source = i.w2.0;
    let (op, lanes, semantics) = match twin {
        M::Addps => (F::Add, Ps, Op::AvxFloat),
        M::Addpd => (F::Add, Pd, Op::AvxFloat),
        M::Addss => (F::Add, Ss, Op::AvxScalar),
        M::Addsd => (F::Add, Sd, Op::AvxScalar),
        M::Subps => (F::Sub, Ps, Op::AvxFloat),
        M::Subpd => (F::Sub, Pd, Op::AvxFloat),
        M::Subss => (F::Sub, Ss, Op::AvxScalar),
        M::Subsd => (F::Sub, Sd, Op::AvxScalar),
        M::Mulps => (F::Mul, Ps, Op::AvxFloat),
        M::Mulpd => (F::Mul, Pd, Op::AvxFloat),
        M::Mulss => (F::Mul, Ss, Op::AvxScalar),
        M::Mulsd => (F::Mul, Sd, Op::AvxScalar),
        M::Divps => (F::Div, Ps, Op::AvxFloat),
        M::Divpd => (F::Div, Pd, Op::AvxFloat),
        M::Divss => (F::Div, Ss, Op::AvxScalar),
        M::Divsd => (F::Div, Sd, Op::AvxScalar),
        M::Minps => (F::Min, Ps, Op::AvxFloat),
        M::Minpd => (F::Min, Pd, Op::AvxFloat),
        M::Minss => (F::Min, Ss, Op::AvxScalar),
        M::Minsd => (F::Min, Sd, Op::AvxScalar),
        M::Maxps => (F::Max, Ps, Op::AvxFloat),
        M::Maxpd => (F::Max, Pd, Op::AvxFloat),
        M::Maxss => (F::Max, Ss, Op::AvxScalar),
        M::Maxsd => (F::Max, Sd, Op::AvxScalar),
        M::Sqrtps => (F::Sqrt, Ps, Op::AvxFloat),
        M::Sqrtpd => (F::Sqrt, Pd, Op::AvxFloat),
        M::Sqrtss => (F::Sqrt, Ss, Op::AvxScalar),
        M::Sqrtsd => (F::Sqrt, Sd, Op::AvxScalar),
        M::Cmpps => (F::Cmp, Ps, Op::AvxFloat),
        M::Cmppd => (F::Cmp, Pd, Op::AvxFloat),
        M::Cmpss => (F::Cmp, Ss, Op::AvxScalar),
        M::Cmpsd => (F::Cmp, Sd, Op::AvxScalar),
        M::Cvtss2sd => (F::Widen, Ss, Op::AvxScalar),
        M::Cvtsd2ss => (F::Narrow, Sd, Op::AvxScalar),
        M::Cvtdq2ps => (F::FromD, Ps, Op::AvxFloat),
        M::Cvtps2dq => (F::ToD, Ps, Op::AvxFloat),
        M::Cvttps2dq => (F::ToDTruncated, Ps, Op::AvxFloat),
        M::Cvtps2pd => (F::Widen, Ps, Op::AvxWiden),
        M::Cvtdq2pd => (F::FromD, Pd, Op::AvxWiden),
        M::Cvtpd2ps => (F::Narrow, Pd, Op::AvxNarrow),
        M::Cvtpd2dq => (F::ToD, Pd, Op::AvxNarrow),
        M::Cvttpd2dq => (F::ToDTruncated, Pd, Op::AvxNarrow),
        M::Addsubps => (F::AddSub, Ps, Op::AvxFloat),
        M::Addsubpd => (F::AddSub, Pd, Op::AvxFloat),
        M::Haddps => (F::HAdd, Ps, Op::AvxFloat),
        M::Haddpd => (F::HAdd, Pd, Op::AvxFloat),
        M::Hsubps => (F::HSub, Ps, Op::AvxFloat),
        M::Hsubpd => (F::HSub, Pd, Op::AvxFloat),
        M::Dpps => (F::Dot, Ps, Op::AvxFloat),
        M::Dppd => (F::Dot, Pd, Op::AvxFloat),
        M::Roundps => (F::Round, Ps, Op::AvxFloat),
        M::Roundpd => (F::Round, Pd, Op::AvxFloat),
        M::Roundss => (F::Round, Ss, Op::AvxScalar),
        M::Roundsd => (F::Round, Sd, Op::AvxScalar),
        M::Cvtsi2ss | M::Cvtsi2sd => {
            let lanes = if twin == M::Cvtsi2ss { Ss } else { Sd };
            let (step, op) = if source == 8 { (8, F::FromQ) } else { (4, F::FromD) };
            stepped(i, step, Op::AvxFromInteger);
            (op, lanes, Op::AvxFromInteger)
        }
        M::Rcpss => return numbered(i, VecOp::RcpPs as u8, Op::AvxApproximateScalar),
        M::Rsqrtss => return numbered(i, VecOp::RsqrtPs as u8, Op::AvxApproximateScalar),
        M::Comiss => return Op::Vcomiss,
        M::Comisd => return Op::Vcomisd,
        M::Ucomiss => return Op::Vucomiss,
        M::Ucomisd => return Op::Vucomisd,
        M::Cvtss2si => return Op::Vcvtss2si,
        M::Cvttss2si => return Op::Vcvttss2si,
        M::Cvtsd2si => return Op::Vcvtsd2si,
        M::Cvttsd2si => return Op::Vcvttsd2si,
        _ => return Op::Undefined,
    };
    float(i, op, lanes, semantics)
}

/// FMA and F16C, which have no twins.
fn pick_fused(x: &Instruction, i: &mut Insn) -> Option<Op> {
    match x.mnemonic() {
        M::Vcvtph2ps => return Some(float(i, FloatOp::WidenHalf, Lanes::Ps, Op::AvxWiden)),
        M::Vcvtps2ph => {
            let op = if i.dst_kind() == Kind::Reg { Op::AvxNarrowToHalf } else { Op::VhalfToMemory };
            return Some(float(i, FloatOp::NarrowHalf, Lanes::Ps, op));
        }
        _ => {}
    }
    let form = FUSED.get(x.mnemonic() as usize).copied().flatten()?;
    let op = if form.scalar { Op::FusedScalar } else { Op::FusedPacked };
    stepped(i, form.order, op);
    i.imm |= (form.lanes as i32) << field::LANES;
    Some(numbered(i, form.signs.bits(), op))
}

/// What a mnemonic of FMA says.
#[derive(Clone, Copy)]
struct FusedForm {
    signs: Fused,
    /// 1, 2 or 3 for 132, 213 and 231.
    order: u8,
    lanes: Lanes,
    scalar: bool,
}

/// By the number of a mnemonic.
static FUSED: LazyLock<Vec<Option<FusedForm>>> = LazyLock::new(|| M::values().map(fused_form).collect());

fn fused_form(m: M) -> Option<FusedForm> {
    let name = format!("{m:?}");
    let rest = name.strip_prefix("Vf")?;
    let (rest, signs) =
        SIGNS.iter().find_map(|(prefix, signs)| Some((rest.strip_prefix(prefix)?, *signs)))?;
    let (digits, lanes) = rest.split_at_checked(3)?;
    let order = match digits {
        "132" => 1,
        "213" => 2,
        "231" => 3,
        _ => return None,
    };
    let (lanes, scalar) = match lanes {
        "ps" => (Lanes::Ps, false),
        "pd" => (Lanes::Pd, false),
        "ss" => (Lanes::Ss, true),
        "sd" => (Lanes::Sd, true),
        _ => return None,
    };
    Some(FusedForm { signs, order, lanes, scalar })
}

const fn sign(negate_product: bool, negate_even: bool, negate_odd: bool) -> Fused {
    Fused { negate_product, negate_even, negate_odd }
}

/// Mnemonics between VF and the digits. ADDSUB subtracts in the even lanes, SUBADD in the odd ones.
const SIGNS: [(&str, Fused); 6] = [
    ("maddsub", sign(false, true, false)),
    ("msubadd", sign(false, false, true)),
    ("madd", sign(false, false, false)),
    ("msub", sign(false, true, true)),
    ("nmadd", sign(true, false, false)),
    ("nmsub", sign(true, true, true)),
];
