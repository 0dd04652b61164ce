//! The semantics, a function per mnemonic, grouped as the SDM groups instructions, and the one list of them.

pub(crate) mod arith;
pub(crate) mod avx;
pub(crate) mod bits;
mod forms;
pub(crate) mod logic;
pub(crate) mod mmx;
pub(crate) mod moves;
pub(crate) mod pairs;
pub(crate) mod shift;
pub(crate) mod sse4;
pub(crate) mod sse_float;
pub(crate) mod sse_integer;
pub(crate) mod sse_moves;

use crate::{
    emit::{Emit, Emitted},
    fault::Done,
    insn::{Insn, Kind, Step},
    interp::{Dyn, Ending, Straight, apart, ending, straight},
    state::Cpu,
    sys,
};
use forms::{alu, any, cc, end, end_one, load, one, shifted, stack, stack32, vector, vector_y};
use sse4::{crc32_forms, extract_forms, insert_forms, packed_forms, widen_forms, xmm0_forms};

/// Which part of the CPU an instruction needs: decode turns it into #UD or #NM where the mode says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    X87,
    Mmx,
    Sse,
    Avx,
    Wait,
}

/// What kind of semantics an instruction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Over [`Emit`]; the next instruction follows.
    Straight,
    /// Plain Rust; the next instruction follows.
    Plain,
    /// Over [`Emit`]; the last of its block.
    Ending,
    /// Plain Rust; the last of its block.
    Leave,
}

/// The list of semantics. `straight`: the next instruction in memory follows. `ending`: the last of its block. `plain` and
/// `leave` are the same for plain Rust over the CPU state. After `=>` the function, then its specialised forms.
macro_rules! semantics {
    (
        straight { $($needs:ident { $($s:ident => $sf:path, $sform:ident;)* })* }
        plain { $($pneeds:ident { $($p:ident => $pf:path;)* })* }
        ending { $($c:ident => $cf:path, $cform:ident;)* }
        leave { $($l:ident => $lf:path;)* }
    ) => {
        /// Types that carry a piece of semantics into a handler.
        mod ids {
            $($(pub(super) struct $s;)*)* $($(pub(super) struct $p;)*)* $(pub(super) struct $c;)* $(pub(super) struct $l;)*
        }
        $($(impl Straight for ids::$s {
            #[inline(always)]
            fn run<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> { $sf(e, i) }
        })*)*
        $($(impl Straight for ids::$p {
            #[inline(always)]
            fn run<E: Emit>(e: &mut E, i: &Insn) -> Emitted<E> { e.plain(i, $pf) }
        })*)*
        $(impl Ending for ids::$c {
            #[inline(always)]
            fn run<E: Emit>(e: &mut E, i: &Insn) -> Result<E::Flow, E::Stop> { $cf(e, i) }
        })*
        $(impl Ending for ids::$l {
            #[inline(always)]
            fn run<E: Emit>(e: &mut E, i: &Insn) -> Result<E::Flow, E::Stop> { e.leave(i, $lf) }
        })*

        /// The semantics of a decoded instruction.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub(crate) enum Op { $($($s,)*)* $($($p,)*)* $($c,)* $($l,)* }

        /// Every [`Op`] in order.
        const OPS: &[Op] = &[$($(Op::$s,)*)* $($(Op::$p,)*)* $(Op::$c,)* $(Op::$l,)*];

        impl Op {
            /// How many there are.
            pub(crate) const COUNT: u16 = OPS.len() as u16;
            /// The inverse of `as u16`.
            pub(crate) fn from_number(n: u16) -> Op {
                OPS[usize::from(n).min(OPS.len() - 1)]
            }
            /// Whether it is the last of its block.
            pub(crate) fn ends_block(self) -> bool {
                matches!(self, $(Op::$c)|* | $(Op::$l)|*)
            }
            /// What kind of semantics it has.
            pub(crate) fn class(self) -> Class {
                match self {
                    $($(Op::$s)|*)|* => Class::Straight,
                    $($(Op::$p)|*)|* => Class::Plain,
                    $(Op::$c)|* => Class::Ending,
                    $(Op::$l)|* => Class::Leave,
                }
            }
            /// Which part of the CPU it needs.
            pub(crate) fn needs(self) -> Needs {
                match self {
                    $($(Op::$s => Needs::$needs,)*)* $($(Op::$p => Needs::$pneeds,)*)* $(Op::$c => Needs::Nothing,)* $(Op::$l => Needs::Nothing,)*
                }
            }
        }

        /// The best handler for an instruction's form.
        pub(crate) fn specialised(op: Op, w: u8, dst: Kind, src: Kind, c: u8) -> Step {
            match op {
                $($(Op::$s => $sform::<ids::$s>(w, dst, src, c),)*)*
                $($(Op::$p => any::<ids::$p>(w, dst, src, c),)*)*
                $(Op::$c => $cform::<ids::$c>(w, dst, src, c),)*
                $(Op::$l => end::<ids::$l>(w, dst, src, c),)*
            }
        }

        /// What an instruction reads and writes, as its semantics say.
        pub(crate) fn effects(i: &Insn) -> crate::effects::Effects {
            let mut e = crate::effects::Effects::default();
            match Op::from_number(i.op) {
                $($(Op::$s => drop(<ids::$s as Straight>::run(&mut e, i)),)*)*
                $($(Op::$p => drop(<ids::$p as Straight>::run(&mut e, i)),)*)*
                $(Op::$c => drop(<ids::$c as Ending>::run(&mut e, i)),)*
                $(Op::$l => drop(<ids::$l as Ending>::run(&mut e, i)),)*
            }
            e
        }

        /// The semantics of an instruction, over whatever they are to become; something if they end its block.
        #[cfg_attr(not(feature = "jit"), allow(dead_code, reason = "the translator is what they are made over"))]
        pub(crate) fn emit<E: Emit>(e: &mut E, i: &Insn) -> Result<Option<E::Flow>, E::Stop> {
            match Op::from_number(i.op) {
                $($(Op::$s => <ids::$s as Straight>::run(e, i).map(|()| None),)*)*
                $($(Op::$p => <ids::$p as Straight>::run(e, i).map(|()| None),)*)*
                $(Op::$c => <ids::$c as Ending>::run(e, i).map(Some),)*
                $(Op::$l => <ids::$l as Ending>::run(e, i).map(Some),)*
            }
        }

        /// The function that runs one instruction that does not end its block, in its general form, and nothing behind it.
        pub(crate) fn alone(op: u16) -> fn(&mut Cpu, &Insn) -> Done {
            match Op::from_number(op) {
                $($(Op::$s => apart::<ids::$s, Dyn>,)*)*
                $($(Op::$p => apart::<ids::$p, Dyn>,)*)*
                $(Op::$c)|* | $(Op::$l)|* => |_, _| Ok(()),
            }
        }

        /// The function of an instruction of [`Class::Leave`]: what it does, without what follows from its end.
        #[cfg_attr(not(feature = "jit"), allow(dead_code, reason = "translated code calls it"))]
        pub(crate) fn leaving(op: u16) -> Option<fn(&mut Cpu, &Insn) -> Done> {
            match Op::from_number(op) {
                $(Op::$l => Some($lf),)*
                _ => None,
            }
        }

        /// The handler that serves every form.
        pub(crate) fn general(op: u16) -> Step {
            match Op::from_number(op) {
                $($(Op::$s => straight::<ids::$s, Dyn>,)*)*
                $($(Op::$p => straight::<ids::$p, Dyn>,)*)*
                $(Op::$c => ending::<ids::$c, Dyn>,)*
                $(Op::$l => ending::<ids::$l, Dyn>,)*
            }
        }
    };
}

semantics! {
    straight {
        Nothing {
            Add => arith::add, alu;
            Sub => arith::sub, alu;
            Adc => arith::adc, alu;
            Sbb => arith::sbb, alu;
            Cmp => arith::cmp, alu;
            And => logic::and, alu;
            Or => logic::or, alu;
            Xor => logic::xor, alu;
            Test => logic::test, alu;
            Mov => moves::mov, alu;
            Shl => shift::shl, alu;
            Shr => shift::shr, alu;
            Sar => shift::sar, alu;
            Inc => arith::inc, one;
            Dec => arith::dec, one;
            Neg => arith::neg, one;
            Not => logic::not, one;
            MovzxB => moves::movzx_b, load;
            MovzxW => moves::movzx_w, load;
            MovsxB => moves::movsx_b, load;
            MovsxW => moves::movsx_w, load;
            Movsxd => moves::movsxd, load;
            Lea => moves::lea, load;
            Imul => arith::imul, load;
            Push => moves::push::<_, 8>, stack;
            Pop => moves::pop::<_, 8>, stack;
            Push32 => moves::push::<_, 4>, stack32;
            Pop32 => moves::pop::<_, 4>, stack32;
            ImulImm => arith::imul_imm, any;
            ImulWide => arith::imul_wide, any;
            Mul => arith::mul, any;
            Div => arith::div, any;
            Idiv => arith::idiv, any;
            ExtendAccumulator => arith::extend_accumulator, any;
            ExtendToPair => arith::extend_to_pair, any;
            Rol => shift::rol, any;
            Ror => shift::ror, any;
            Rcl => shift::rcl, any;
            Rcr => shift::rcr, any;
            Shld => shift::shld, any;
            Shrd => shift::shrd, any;
            Bt => logic::bt, any;
            Bts => logic::bts, any;
            Btr => logic::btr, any;
            Btc => logic::btc, any;
            Bsf => logic::bsf, any;
            Bsr => logic::bsr, any;
            Bswap => logic::bswap, any;
            Setcc => logic::setcc, any;
            Cmovcc => moves::cmovcc, any;
            Xchg => moves::xchg, any;
            Xadd => arith::xadd, any;
            Cmpxchg => arith::cmpxchg, any;
            Leave => moves::leave::<_, 8>, any;
            Leave32 => moves::leave::<_, 4>, any;
            Push16 => moves::push::<_, 2>, any;
            Pop16 => moves::pop::<_, 2>, any;
            Leave16 => moves::leave::<_, 2>, any;
            Clc => moves::clc, any;
            Stc => moves::stc, any;
            Cmc => moves::cmc, any;
            Nop => moves::nop, any;
            Popcnt => bits::popcnt, any;
            Lzcnt => bits::lzcnt, any;
            Tzcnt => bits::tzcnt, any;
            Movbe => bits::movbe, any;
            Andn => bits::andn, any;
            Blsi => bits::blsi, any;
            Blsmsk => bits::blsmsk, any;
            Blsr => bits::blsr, any;
            Bextr => bits::bextr, any;
            Bzhi => bits::bzhi, any;
            Mulx => bits::mulx, any;
            Pdep => bits::pdep, any;
            Pext => bits::pext, any;
            Rorx => bits::rorx, any;
            Sarx => bits::sarx, any;
            Shlx => bits::shlx, any;
            Shrx => bits::shrx, any;
            Adcx => bits::adcx, any;
            Adox => bits::adox, any;
            Crc32 => sse4::crc32, crc32_forms;
        }
        Sse {
            MovX => sse_moves::mov, vector;
            LoadD => sse_moves::load_d, vector;
            LoadQ => sse_moves::load_q, vector;
            StoreD => sse_moves::store_d, vector;
            StoreQ => sse_moves::store_q, vector;
            ToGeneralD => sse_moves::to_general_d, vector;
            ToGeneralQ => sse_moves::to_general_q, vector;
            Pmovmskb => sse_moves::pmovmskb, vector;
            LoadLow => sse_moves::load_low, vector;
            LoadHigh => sse_moves::load_high, vector;
            MovqX => sse_moves::movq, vector;
            MergeQ => sse_moves::merge_q, vector;
            Movlhps => sse_moves::movlhps, vector;
            StoreHigh => sse_moves::store_high, vector;
            MergeD => sse_moves::merge_d, vector;
            Movhlps => sse_moves::movhlps, vector;
            Movmskps => sse_moves::movmskps, vector;
            Movmskpd => sse_moves::movmskpd, vector;
            Pand => sse_integer::pand, vector;
            Pandn => sse_integer::pandn, vector;
            Por => sse_integer::por, vector;
            Pxor => sse_integer::pxor, vector;
            Paddb => sse_integer::paddb, vector;
            Paddw => sse_integer::paddw, vector;
            Paddd => sse_integer::paddd, vector;
            Paddq => sse_integer::paddq, vector;
            Psubb => sse_integer::psubb, vector;
            Psubw => sse_integer::psubw, vector;
            Psubd => sse_integer::psubd, vector;
            Psubq => sse_integer::psubq, vector;
            Pcmpeqb => sse_integer::pcmpeqb, vector;
            Pcmpeqw => sse_integer::pcmpeqw, vector;
            Pcmpeqd => sse_integer::pcmpeqd, vector;
            Pcmpgtb => sse_integer::pcmpgtb, vector;
            Pcmpgtd => sse_integer::pcmpgtd, vector;
            Pminub => sse_integer::pminub, vector;
            Pmaxub => sse_integer::pmaxub, vector;
            Pmuludq => sse_integer::pmuludq, vector;
            Punpcklbw => sse_integer::punpcklbw, vector;
            Punpcklwd => sse_integer::punpcklwd, vector;
            Punpckldq => sse_integer::punpckldq, vector;
            Punpcklqdq => sse_integer::punpcklqdq, vector;
            Punpckhqdq => sse_integer::punpckhqdq, vector;
            Pshufd => sse_integer::pshufd, vector;
            Shufps => sse_integer::shufps, vector;
            Pmullw => sse_integer::pmullw, vector;
            Pmulhw => sse_integer::pmulhw, vector;
            Pmulhuw => sse_integer::pmulhuw, vector;
            Pmaddwd => sse_integer::pmaddwd, vector;
            Psadbw => sse_integer::psadbw, vector;
            Paddsb => sse_integer::paddsb, vector;
            Paddsw => sse_integer::paddsw, vector;
            Psubsb => sse_integer::psubsb, vector;
            Psubsw => sse_integer::psubsw, vector;
            Paddusb => sse_integer::paddusb, vector;
            Paddusw => sse_integer::paddusw, vector;
            Psubusb => sse_integer::psubusb, vector;
            Psubusw => sse_integer::psubusw, vector;
            Pavgb => sse_integer::pavgb, vector;
            Pavgw => sse_integer::pavgw, vector;
            Pminsw => sse_integer::pminsw, vector;
            Pmaxsw => sse_integer::pmaxsw, vector;
            Pcmpgtw => sse_integer::pcmpgtw, vector;
            Punpckhbw => sse_integer::punpckhbw, vector;
            Punpckhwd => sse_integer::punpckhwd, vector;
            Punpckhdq => sse_integer::punpckhdq, vector;
            Packsswb => sse_integer::packsswb, vector;
            Packssdw => sse_integer::packssdw, vector;
            Packuswb => sse_integer::packuswb, vector;
            Pshuflw => sse_integer::pshuflw, vector;
            Pshufhw => sse_integer::pshufhw, vector;
            Shufpd => sse_integer::shufpd, vector;
            Psllw => sse_integer::psllw, vector;
            Pslld => sse_integer::pslld, vector;
            Psllq => sse_integer::psllq, vector;
            Psrlw => sse_integer::psrlw, vector;
            Psrld => sse_integer::psrld, vector;
            Psrlq => sse_integer::psrlq, vector;
            Psraw => sse_integer::psraw, vector;
            Psrad => sse_integer::psrad, vector;
            Rcpps => sse_integer::rcpps, any;
            Rsqrtps => sse_integer::rsqrtps, any;
            PsllwImm => sse_integer::psllw_imm, shifted;
            PsrlwImm => sse_integer::psrlw_imm, shifted;
            PsrawImm => sse_integer::psraw_imm, shifted;
            PsradImm => sse_integer::psrad_imm, shifted;
            Pslldq => sse_integer::pslldq, shifted;
            Psrldq => sse_integer::psrldq, shifted;
            PslldImm => sse_integer::pslld_imm, shifted;
            PsrldImm => sse_integer::psrld_imm, shifted;
            PsllqImm => sse_integer::psllq_imm, shifted;
            PsrlqImm => sse_integer::psrlq_imm, shifted;
            Pinsrw => sse_integer::pinsrw, vector;
            Pextrw => sse_integer::pextrw, vector;
            ApproximateScalar => sse_integer::approximate_scalar, any;
            Addss => sse_float::addss, vector;
            Addsd => sse_float::addsd, vector;
            Addps => sse_float::addps, vector;
            Addpd => sse_float::addpd, vector;
            Subss => sse_float::subss, vector;
            Subsd => sse_float::subsd, vector;
            Subps => sse_float::subps, vector;
            Subpd => sse_float::subpd, vector;
            Mulss => sse_float::mulss, vector;
            Mulsd => sse_float::mulsd, vector;
            Mulps => sse_float::mulps, vector;
            Mulpd => sse_float::mulpd, vector;
            Divss => sse_float::divss, vector;
            Divsd => sse_float::divsd, vector;
            Divps => sse_float::divps, vector;
            Divpd => sse_float::divpd, vector;
            Minss => sse_float::minss, vector;
            Minsd => sse_float::minsd, vector;
            Minps => sse_float::minps, vector;
            Minpd => sse_float::minpd, vector;
            Maxss => sse_float::maxss, vector;
            Maxsd => sse_float::maxsd, vector;
            Maxps => sse_float::maxps, vector;
            Maxpd => sse_float::maxpd, vector;
            Sqrtss => sse_float::sqrtss, vector;
            Sqrtsd => sse_float::sqrtsd, vector;
            Sqrtps => sse_float::sqrtps, vector;
            Sqrtpd => sse_float::sqrtpd, vector;
            Cmpss => sse_float::cmpss, any;
            Cmpsd => sse_float::cmpsd, any;
            Cmpps => sse_float::cmpps, any;
            Cmppd => sse_float::cmppd, any;
            Cvtss2sd => sse_float::cvtss2sd, vector;
            Cvtsd2ss => sse_float::cvtsd2ss, vector;
            Cvtdq2ps => sse_float::cvtdq2ps, any;
            Cvtps2dq => sse_float::cvtps2dq, any;
            Cvttps2dq => sse_float::cvttps2dq, any;
            Cvtpd2dq => sse_float::cvtpd2dq, any;
            Cvttpd2dq => sse_float::cvttpd2dq, any;
            Cvtpd2ps => sse_float::cvtpd2ps, any;
            Ucomiss => sse_float::ucomiss, vector;
            Ucomisd => sse_float::ucomisd, vector;
            Comiss => sse_float::comiss, vector;
            Comisd => sse_float::comisd, vector;
            Cvtsi2sdD => sse_float::cvtsi2sd_d, vector;
            Cvtsi2sdQ => sse_float::cvtsi2sd_q, vector;
            Cvttsd2si => sse_float::cvttsd2si, vector;
            Cvtsi2ssD => sse_float::cvtsi2ss_d, vector;
            Cvtsi2ssQ => sse_float::cvtsi2ss_q, vector;
            Cvtss2si => sse_float::cvtss2si, any;
            Cvttss2si => sse_float::cvttss2si, vector;
            Cvtsd2si => sse_float::cvtsd2si, any;
            Cvtps2pd => sse_float::cvtps2pd, any;
            Cvtdq2pd => sse_float::cvtdq2pd, any;
            Cvtpi2ps => mmx::cvtpi2ps, any;
            Cvtpi2pd => mmx::cvtpi2pd, any;
            Cvtps2pi => mmx::cvtps2pi, any;
            Cvttps2pi => mmx::cvttps2pi, any;
            Cvtpd2pi => mmx::cvtpd2pi, any;
            Cvttpd2pi => mmx::cvttpd2pi, any;
            Addsubps => sse_float::addsubps, any;
            Addsubpd => sse_float::addsubpd, any;
            Haddps => sse_float::haddps, any;
            Haddpd => sse_float::haddpd, any;
            Hsubps => sse_float::hsubps, any;
            Hsubpd => sse_float::hsubpd, any;
            Dpps => sse_float::dpps, any;
            Dppd => sse_float::dppd, any;
            Roundps => sse_float::roundps, any;
            Roundpd => sse_float::roundpd, any;
            Roundss => sse_float::roundss, any;
            Roundsd => sse_float::roundsd, any;
            Packed => sse4::packed, packed_forms;
            Widen => sse4::widen, widen_forms;
            Movddup => sse4::movddup, vector;
            Insert => sse4::insert, insert_forms;
            Extract => sse4::extract, extract_forms;
            Insertps => sse4::insertps, any;
            WithXmm0 => sse4::with_xmm0, xmm0_forms;
            Ptest => sse4::ptest, vector;
            Pcmpistri => sse4::pcmpistri, any;
            Pcmpistrm => sse4::pcmpistrm, any;
            Pcmpestri => sse4::pcmpestri, any;
            Pcmpestrm => sse4::pcmpestrm, any;
            Movq2dq => mmx::movq2dq, any;
            Movdq2q => mmx::movdq2q, any;
        }
        Mmx {
            MmxPacked => mmx::packed, any;
            MmxPackedShift => mmx::packed_shift, any;
            MmxUnpackLow => mmx::unpack_low, any;
            MmxUnpackHigh => mmx::unpack_high, any;
            MmxPack => mmx::pack, any;
            MmxShuffle => mmx::shuffle, any;
            MmxAlign => mmx::align, any;
            MmxPinsrw => mmx::pinsrw, any;
            MmxPextrw => mmx::pextrw, any;
            MmxPmovmskb => mmx::pmovmskb, any;
            MmxLoad => mmx::load, any;
            MmxMovq => mmx::movq, any;
            MmxStore => mmx::store, any;
        }
        Avx {
            VmovX => avx::mov_x, vector;
            VmovY => avx::mov_y, vector_y;
            VstoreX => sse_moves::mov, vector;
            VloadD => avx::load_d, vector;
            VloadQ => avx::load_q, vector;
            VstoreD => sse_moves::store_d, vector;
            VstoreQ => sse_moves::store_q, vector;
            VstoreHigh => sse_moves::store_high, vector;
            VtoGeneralD => sse_moves::to_general_d, vector;
            VtoGeneralQ => sse_moves::to_general_q, vector;
            VmovqX => avx::movq, vector;
            VmergeD => avx::merge_d, vector;
            VmergeQ => avx::merge_q, vector;
            Vmovhlps => avx::movhlps, vector;
            Vmovlhps => avx::movlhps, vector;
            VloadLow => avx::load_low, vector;
            VloadHigh => avx::load_high, vector;
            Vmovddup => avx::movddup, any;
            Vmask => avx::mask, any;
            Vpinsr => avx::pinsr, any;
            Vpextr => avx::pextr, any;
            Vbroadcast => avx::broadcast, any;
            Vbroadcast128 => avx::broadcast_128, any;
            Vextract128 => avx::extract_128, any;
            Vinsert128 => avx::insert_128, any;
            Vpermute128 => avx::permute_128, any;
            VpermuteQ => avx::permute_q, any;
            VpermuteD => avx::permute_d, any;
            Vblendv => avx::blendv, any;
            Vextend => avx::extend, any;
            VzeroRegisters => avx::zero_registers, any;
            Vtest => avx::test, any;
            Vpand => avx::vpand, vector_y;
            Vpandn => avx::vpandn, vector_y;
            Vpor => avx::vpor, vector_y;
            Vpxor => avx::vpxor, vector_y;
            Vpcmpeqb => avx::vpcmpeqb, vector_y;
            Vpcmpeqd => avx::vpcmpeqd, vector_y;
            Vpminub => avx::vpminub, vector_y;
            Vpsubb => avx::vpsubb, vector_y;
            Vpaddd => avx::vpaddd, vector_y;
            Vpaddq => avx::vpaddq, vector_y;
            AvxPacked => avx::packed, any;
            AvxShiftByCount => avx::shift_by_count, any;
            AvxShiftByImmediate => avx::shift_by_immediate, any;
            AvxFloat => avx::float, any;
            AvxScalar => avx::scalar, any;
            AvxApproximateScalar => avx::approximate_scalar, any;
            AvxFromInteger => avx::from_integer, any;
            AvxWiden => avx::widen, any;
            AvxNarrow => avx::narrow, any;
            AvxNarrowToHalf => avx::narrow_to_half, any;
            FusedPacked => avx::fused_packed, any;
            FusedScalar => avx::fused_scalar, any;
            VpackedD => avx::packed_d, any;
            Vpcmpistri => sse4::pcmpistri, any;
            Vpcmpistrm => avx::pcmpistrm, any;
            Vpcmpestri => sse4::pcmpestri, any;
            Vpcmpestrm => avx::pcmpestrm, any;
            Vcomiss => sse_float::comiss, any;
            Vcomisd => sse_float::comisd, any;
            Vucomiss => sse_float::ucomiss, any;
            Vucomisd => sse_float::ucomisd, any;
            Vcvtss2si => sse_float::cvtss2si, any;
            Vcvttss2si => sse_float::cvttss2si, any;
            Vcvtsd2si => sse_float::cvtsd2si, any;
            Vcvttsd2si => sse_float::cvttsd2si, any;
        }
    }
    plain {
        Avx {
            VmaskedMove => sys::avx::masked_move;
            Vgather => sys::avx::gather;
            VhalfToMemory => sys::avx::half_to_memory;
            Vmaskmovdqu => sys::sse::maskmovdqu;
            Vldmxcsr => sys::sse::ldmxcsr;
            Vstmxcsr => sys::sse::stmxcsr;
        }
        Nothing {
            Cli => sys::flags::cli;
            Clac => sys::flags::clac;
            Stac => sys::flags::stac;
            Cld => sys::flags::cld;
            Std => sys::flags::std;
            Lahf => sys::flags::lahf;
            Sahf => sys::flags::sahf;
            Pushf => sys::flags::pushf;
            Rdtsc => sys::msr::rdtsc;
            Rdtscp => sys::msr::rdtscp;
            Rdpid => sys::msr::rdpid;
            Rdrand => sys::random::rdrand;
            Rdpmc => sys::msr::rdpmc;
            Rdmsr => sys::msr::rdmsr;
            Cmpxchg8b => sys::atomic::cmpxchg8b;
            Cmpxchg16b => sys::atomic::cmpxchg16b;
            Xlat => sys::misc::xlat;
            Enter => sys::stack::enter;
            PushLegacy => sys::stack::push;
            PopLegacy => sys::stack::pop;
            LeaveLegacy => sys::stack::leave;
            Pusha => sys::stack::pusha;
            Popa => sys::stack::popa;
            PushSegment => sys::segment::push_segment;
            MovFromSegment => sys::segment::mov_from_segment;
            Sgdt => sys::tables::sgdt;
            Sidt => sys::tables::sidt;
            Sldt => sys::tables::sldt;
            Str => sys::tables::str;
            Lgdt => sys::tables::lgdt;
            Lidt => sys::tables::lidt;
            Lldt => sys::tables::lldt;
            Ltr => sys::tables::ltr;
            Smsw => sys::control::smsw;
            Lar => sys::segment::lar;
            Lsl => sys::segment::lsl;
            Verr => sys::segment::verr;
            Verw => sys::segment::verw;
            Arpl => sys::segment::arpl;
            MovFromCr => sys::control::mov_from_cr;
            MovFromDr => sys::control::mov_from_dr;
            Rdfsbase => sys::segment::rdfsbase;
            Rdgsbase => sys::segment::rdgsbase;
            Wrfsbase => sys::segment::wrfsbase;
            Wrgsbase => sys::segment::wrgsbase;
            Swapgs => sys::segment::swapgs;
            Xgetbv => sys::xsave::xgetbv;
            Mfence => sys::misc::mfence;
            Rdpkru => sys::control::rdpkru;
            Clflush => sys::misc::clflush;
            Movdir64b => sys::misc::movdir64b;
            Aaa => sys::bcd::aaa;
            Aas => sys::bcd::aas;
            Aam => sys::bcd::aam;
            Aad => sys::bcd::aad;
            Daa => sys::bcd::daa;
            Das => sys::bcd::das;
            Bound => sys::misc::bound;
            Salc => sys::misc::salc;
        }
        Wait {
            Fwait => sys::x87::fwait;
        }
        Sse {
            Ldmxcsr => sys::sse::ldmxcsr;
            Stmxcsr => sys::sse::stmxcsr;
            Maskmovdqu => sys::sse::maskmovdqu;
        }
        Mmx {
            Emms => sys::x87::emms;
            Maskmovq => sys::sse::maskmovq;
        }
        X87 {
            Fld => sys::x87::fld;
            FldConstant => sys::x87::fld_constant;
            Fst => sys::x87::fst;
            Fstpnce => sys::x87::fstpnce;
            Fxch => sys::x87::fxch;
            Fcmov => sys::x87::fcmov;
            Fadd => sys::x87::fadd;
            Fmul => sys::x87::fmul;
            Fsub => sys::x87::fsub;
            Fsubr => sys::x87::fsubr;
            Fdiv => sys::x87::fdiv;
            Fdivr => sys::x87::fdivr;
            Fscale => sys::x87::fscale;
            Fsqrt => sys::x87::fsqrt;
            Frndint => sys::x87::frndint;
            Fabs => sys::x87::fabs;
            Fchs => sys::x87::fchs;
            Fprem => sys::x87::fprem;
            Fprem1 => sys::x87::fprem1;
            Fxtract => sys::x87::fxtract;
            Fsin => sys::x87::fsin;
            Fcos => sys::x87::fcos;
            Fsincos => sys::x87::fsincos;
            Fptan => sys::x87::fptan;
            Fpatan => sys::x87::fpatan;
            F2xm1 => sys::x87::f2xm1;
            Fyl2x => sys::x87::fyl2x;
            Fyl2xp1 => sys::x87::fyl2xp1;
            Fcom => sys::x87::fcom;
            Fucom => sys::x87::fucom;
            Ftst => sys::x87::ftst;
            Fcomi => sys::x87::fcomi;
            Fucomi => sys::x87::fucomi;
            Fxam => sys::x87::fxam;
            Fninit => sys::x87::fninit;
            Fnclex => sys::x87::fnclex;
            Fldcw => sys::x87::fldcw;
            Fnstcw => sys::x87::fnstcw;
            Fnstsw => sys::x87::fnstsw;
            Fincstp => sys::x87::fincstp;
            Fdecstp => sys::x87::fdecstp;
            Ffree => sys::x87::ffree;
            Fnop => sys::x87::fnop;
            FnopWaiting => sys::x87::fnop_waiting;
            Fnstenv => sys::x87::fnstenv;
            Fldenv => sys::x87::fldenv;
            Fnsave => sys::x87::fnsave;
            Frstor => sys::x87::frstor;
            Fxsave => sys::fxsave::fxsave;
            Fxrstor => sys::fxsave::fxrstor;
        }
    }
    ending {
        Jcc => moves::near::jcc, cc;
        Jmp => moves::near::jmp, end;
        Onward => moves::near::onward, end;
        JmpTo => moves::near::jmp_to::<_, 8>, end_one;
        JmpTo32 => moves::near::jmp_to::<_, 4>, end_one;
        Call => moves::near::call::<_, 8>, end;
        Call32 => moves::near::call::<_, 4>, end;
        CallTo => moves::near::call_to::<_, 8>, end_one;
        CallTo32 => moves::near::call_to::<_, 4>, end_one;
        Ret => moves::near::ret::<_, 8>, end;
        Ret32 => moves::near::ret::<_, 4>, end;
        Jrcxz => moves::near::jrcxz, end;
        LoopCc => moves::near::loop_cc, end;
        // Only the translator makes these, of the legacy forms.
        NearJmpTo => moves::near::sized_jmp_to, end;
        NearCall16 => moves::near::sized_call::<_, 2>, end;
        NearCall32 => moves::near::sized_call::<_, 4>, end;
        NearCallTo16 => moves::near::sized_call_to::<_, 2>, end;
        NearCallTo32 => moves::near::sized_call_to::<_, 4>, end;
        NearRet16 => moves::near::sized_ret::<_, 2>, end;
        NearRet32 => moves::near::sized_ret::<_, 4>, end;
    }
    leave {
        // Only debuggers make these.
        Stop => sys::stops::stop;
        Undefined => sys::misc::undefined;
        TooLong => sys::misc::too_long;
        DeviceNotAvailable => sys::misc::device_not_available;
        Movs => sys::string::movs;
        Stos => sys::string::stos;
        Lods => sys::string::lods;
        Cmps => sys::string::cmps;
        Scas => sys::string::scas;
        Ins => sys::string::ins;
        Outs => sys::string::outs;
        In => sys::io::in_;
        Out => sys::io::out;
        Hlt => sys::control::hlt;
        Sti => sys::flags::sti;
        Popf => sys::flags::popf;
        MovToSegment => sys::segment::mov_to_segment;
        PopSegment => sys::segment::pop_segment;
        LoadFar => sys::segment::load_far;
        MovToCr => sys::control::mov_to_cr;
        MovToDr => sys::control::mov_to_dr;
        Clts => sys::control::clts;
        Lmsw => sys::control::lmsw;
        Invlpg => sys::control::invlpg;
        Invpcid => sys::control::invpcid;
        Wrmsr => sys::msr::wrmsr;
        Xsetbv => sys::xsave::xsetbv;
        Wrpkru => sys::control::wrpkru;
        Xsave => sys::xsave::xsave;
        Xsaveopt => sys::xsave::xsaveopt;
        Xsavec => sys::xsave::xsavec;
        Xsaves => sys::xsave::xsaves;
        Xrstor => sys::xsave::xrstor;
        Xrstors => sys::xsave::xrstors;
        Syscall => sys::syscall::syscall;
        Sysret => sys::syscall::sysret;
        Sysenter => sys::syscall::sysenter;
        Sysexit => sys::syscall::sysexit;
        Int => sys::interrupt::int;
        Int1 => sys::interrupt::int1;
        Into => sys::interrupt::into;
        Iret => sys::far::iret;
        JmpFar => sys::far::jmp_far;
        CallFar => sys::far::call_far;
        RetFar => sys::far::ret_far;
        JccLegacy => sys::near::jcc;
        JmpLegacy => sys::near::jmp;
        JmpToLegacy => sys::near::jmp_to;
        CallLegacy => sys::near::call;
        CallToLegacy => sys::near::call_to;
        RetLegacy => sys::near::ret;
        JcxzLegacy => sys::near::jcxz;
        LoopLegacy => sys::near::loop_cc;
        Pause => sys::misc::pause;
        Cpuid => sys::cpuid::cpuid;
        Serialize => sys::misc::serialize;
        Wbinvd => sys::control::wbinvd;
    }
}
