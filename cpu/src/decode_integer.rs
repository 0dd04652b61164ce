//! Which semantics an instruction has that is not of the vector units, and what they want to know.

use crate::{
    decode::{flat_32, implied_width, is_near_branch, page_base, register, segment},
    insn::{Insn, Kind, attr},
    mode::Mode,
    sem::Op,
    width::Width,
};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// The semantics of an instruction, and what they want to know in `cc`, `w` and LOCK.
pub(crate) fn pick(x: &Instruction, mode: Mode, i: &mut Insn) -> Op {
    use Mnemonic as M;
    // Alignment checks are in the general forms.
    let long = mode.plain_64();
    let either = |i: &Insn, in_64: Op, in_flat_32: Op, else_: Op| {
        if long {
            in_64
        } else if flat_32(mode) && i.w.0 == 4 {
            in_flat_32
        } else {
            else_
        }
    };
    match x.mnemonic() {
        M::Add => Op::Add,
        M::Sub => Op::Sub,
        M::Adc => Op::Adc,
        M::Sbb => Op::Sbb,
        M::Cmp => Op::Cmp,
        M::And => Op::And,
        M::Or => Op::Or,
        M::Xor => Op::Xor,
        M::Test => Op::Test,
        M::Mov => pick_mov(x),
        M::Shl | M::Sal => Op::Shl,
        M::Shr => Op::Shr,
        M::Sar => Op::Sar,
        M::Rol => Op::Rol,
        M::Ror => Op::Ror,
        M::Rcl => Op::Rcl,
        M::Rcr => Op::Rcr,
        M::Shld | M::Shrd => {
            i.cc = u8::from(x.op2_kind() == OpKind::Register);
            if x.mnemonic() == M::Shld { Op::Shld } else { Op::Shrd }
        }
        M::Inc => Op::Inc,
        M::Dec => Op::Dec,
        M::Neg => Op::Neg,
        M::Not => Op::Not,
        M::Movzx => {
            if i.w2.0 == 1 {
                Op::MovzxB
            } else {
                Op::MovzxW
            }
        }
        M::Movsx => {
            if i.w2.0 == 1 {
                Op::MovsxB
            } else {
                Op::MovsxW
            }
        }
        M::Movsxd => Op::Movsxd,
        M::Lea => Op::Lea,
        M::Imul => match x.op_count() {
            1 => Op::ImulWide,
            2 => Op::Imul,
            _ => Op::ImulImm,
        },
        M::Mul => Op::Mul,
        M::Div => Op::Div,
        M::Idiv => Op::Idiv,
        M::Cbw => with_width(i, 2, Op::ExtendAccumulator),
        M::Cwde => with_width(i, 4, Op::ExtendAccumulator),
        M::Cdqe => with_width(i, 8, Op::ExtendAccumulator),
        M::Cwd => with_width(i, 2, Op::ExtendToPair),
        M::Cdq => with_width(i, 4, Op::ExtendToPair),
        M::Cqo => with_width(i, 8, Op::ExtendToPair),
        M::Bt => Op::Bt,
        M::Bts => Op::Bts,
        M::Btr => Op::Btr,
        M::Btc => Op::Btc,
        M::Bsf => Op::Bsf,
        M::Bsr => Op::Bsr,
        M::Popcnt => Op::Popcnt,
        M::Lzcnt => Op::Lzcnt,
        M::Tzcnt => Op::Tzcnt,
        M::Movbe => Op::Movbe,
        M::Crc32 => {
            i.cc = crate::decode_sse4::crc32(i.w2) as u8;
            Op::Crc32
        }
        M::Adcx => Op::Adcx,
        M::Adox => Op::Adox,
        M::Andn | M::Blsi | M::Blsmsk | M::Blsr | M::Bextr | M::Bzhi | M::Mulx | M::Pdep | M::Pext | M::Rorx
        | M::Sarx | M::Shlx | M::Shrx => pick_vex(x, mode, i),
        M::Bswap => Op::Bswap,
        M::Seta
        | M::Setae
        | M::Setb
        | M::Setbe
        | M::Sete
        | M::Setg
        | M::Setge
        | M::Setl
        | M::Setle
        | M::Setne
        | M::Setno
        | M::Setnp
        | M::Setns
        | M::Seto
        | M::Setp
        | M::Sets => Op::Setcc,
        M::Cmova
        | M::Cmovae
        | M::Cmovb
        | M::Cmovbe
        | M::Cmove
        | M::Cmovg
        | M::Cmovge
        | M::Cmovl
        | M::Cmovle
        | M::Cmovne
        | M::Cmovno
        | M::Cmovnp
        | M::Cmovns
        | M::Cmovo
        | M::Cmovp
        | M::Cmovs => Op::Cmovcc,
        M::Xchg => {
            if i.dst_kind() != Kind::Reg {
                i.attr |= attr::LOCK;
            }
            Op::Xchg
        }
        M::Xadd => Op::Xadd,
        M::Cmpxchg => Op::Cmpxchg,
        M::Cmpxchg8b => Op::Cmpxchg8b,
        M::Cmpxchg16b => {
            i.attr |= attr::ALIGNED;
            Op::Cmpxchg16b
        }
        M::Push => match x.op0_kind() {
            OpKind::Register if x.op0_register().is_segment_register() => {
                i.w = Width(implied_width(x));
                Op::PushSegment
            }
            _ => either(i, Op::Push, Op::Push32, Op::PushLegacy),
        },
        M::Pop => match x.op0_kind() {
            OpKind::Register if x.op0_register().is_segment_register() => {
                i.w = Width(implied_width(x));
                Op::PopSegment
            }
            _ => either(i, Op::Pop, Op::Pop32, Op::PopLegacy),
        },
        M::Pusha => with_width(i, 2, Op::Pusha),
        M::Pushad => with_width(i, 4, Op::Pusha),
        M::Popa => with_width(i, 2, Op::Popa),
        M::Popad => with_width(i, 4, Op::Popa),
        M::Leave => {
            i.w = Width(match x.code() {
                Code::Leavew => 2,
                Code::Leaved => 4,
                _ => 8,
            });
            either(i, Op::Leave, Op::Leave32, Op::LeaveLegacy)
        }
        M::Enter => {
            i.w = Width(match x.code() {
                Code::Enterw_imm16_imm8 => 2,
                Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            });
            i.imm = i32::from(x.immediate16());
            i.cc = x.immediate8_2nd();
            Op::Enter
        }
        M::Clc => Op::Clc,
        M::Stc => Op::Stc,
        M::Cmc => Op::Cmc,
        M::Cld => Op::Cld,
        M::Std => Op::Std,
        M::Lahf => Op::Lahf,
        M::Sahf => Op::Sahf,
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetch
        // In the space of hints, a NOP for processors that do not know them; RDSSP is one without shadow stacks.
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Rdsspd
        | M::Rdsspq
        | M::Lfence
        | M::Sfence
        | M::Reservednop => Op::Nop,
        M::Pause => Op::Pause,
        M::Mfence => Op::Mfence,
        M::Movnti | M::Movdiri => Op::Mov,
        M::Movdir64b => Op::Movdir64b,
        M::Clflush | M::Clflushopt | M::Clwb => Op::Clflush,
        M::Xlatb => {
            i.seg = segment(x, mode);
            i.asize = x.memory_base().size() as u8;
            Op::Xlat
        }
        M::Movsb | M::Movsw | M::Movsq => Op::Movs,
        M::Movsd if x.is_string_instruction() => Op::Movs,
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => Op::Stos,
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Op::Lods,
        M::Cmpsb | M::Cmpsw | M::Cmpsq => Op::Cmps,
        M::Cmpsd if x.is_string_instruction() => Op::Cmps,
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => Op::Scas,
        M::Insb | M::Insw | M::Insd => Op::Ins,
        M::Outsb | M::Outsw | M::Outsd => Op::Outs,
        M::Ja
        | M::Jae
        | M::Jb
        | M::Jbe
        | M::Je
        | M::Jg
        | M::Jge
        | M::Jl
        | M::Jle
        | M::Jne
        | M::Jno
        | M::Jnp
        | M::Jns
        | M::Jo
        | M::Jp
        | M::Js => near(x, mode, i, Op::Jcc, Op::JccLegacy),
        M::Jmp if is_near_branch(x) => near(x, mode, i, Op::Jmp, Op::JmpLegacy),
        M::Jmp if is_far(x) => far_target(x, i, Op::JmpFar),
        M::Jmp => either(i, Op::JmpTo, Op::JmpTo32, Op::JmpToLegacy),
        M::Call if is_near_branch(x) => {
            near_target(x, mode, i);
            either(i, Op::Call, Op::Call32, Op::CallLegacy)
        }
        M::Call if is_far(x) => far_target(x, i, Op::CallFar),
        M::Call => either(i, Op::CallTo, Op::CallTo32, Op::CallToLegacy),
        M::Ret => {
            i.w = Width(match x.code() {
                Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retnd | Code::Retnd_imm16 => 4,
                _ => 8,
            });
            if long && i.w.0 != 8 { Op::RetLegacy } else { either(i, Op::Ret, Op::Ret32, Op::RetLegacy) }
        }
        M::Retf => {
            i.w = Width(match x.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            });
            Op::RetFar
        }
        M::Jcxz | M::Jecxz | M::Jrcxz => {
            i.asize = match x.mnemonic() {
                M::Jcxz => 2,
                M::Jecxz => 4,
                _ => 8,
            };
            near(x, mode, i, Op::Jrcxz, Op::JcxzLegacy)
        }
        M::Loop | M::Loope | M::Loopne => {
            i.asize = loop_counter(x.code());
            i.cc = match x.mnemonic() {
                M::Loope => 1,
                M::Loopne => 2,
                _ => 0,
            };
            near(x, mode, i, Op::LoopCc, Op::LoopLegacy)
        }
        M::Iret | M::Iretd | M::Iretq => {
            i.w = Width(match x.mnemonic() {
                M::Iret => 2,
                M::Iretd => 4,
                _ => 8,
            });
            Op::Iret
        }
        M::Int => Op::Int,
        M::Int3 => {
            i.imm = 3;
            i.cc = 1;
            Op::Int
        }
        M::Int1 => Op::Int1,
        M::Into => Op::Into,
        M::Syscall => Op::Syscall,
        M::Sysret | M::Sysretq => {
            i.w = Width(if x.mnemonic() == M::Sysretq { 8 } else { 4 });
            Op::Sysret
        }
        M::Sysenter => Op::Sysenter,
        M::Sysexit | M::Sysexitq => {
            i.w = Width(if x.mnemonic() == M::Sysexitq { 8 } else { 4 });
            Op::Sysexit
        }
        M::Pushf => with_width(i, 2, Op::Pushf),
        M::Pushfd => with_width(i, 4, Op::Pushf),
        M::Pushfq => with_width(i, 8, Op::Pushf),
        M::Popf => with_width(i, 2, Op::Popf),
        M::Popfd => with_width(i, 4, Op::Popf),
        M::Popfq => with_width(i, 8, Op::Popf),
        M::Cli => Op::Cli,
        M::Sti => Op::Sti,
        M::Clac => Op::Clac,
        M::Stac => Op::Stac,
        M::Hlt => Op::Hlt,
        M::In => {
            i.w = Width(x.op0_register().size() as u8);
            i.cc = u8::from(x.op1_kind() == OpKind::Register);
            Op::In
        }
        M::Out => {
            i.w = Width(x.op1_register().size() as u8);
            i.cc = u8::from(x.op0_kind() == OpKind::Register);
            Op::Out
        }
        M::Cpuid => Op::Cpuid,
        M::Rdtsc => Op::Rdtsc,
        M::Rdtscp => Op::Rdtscp,
        M::Rdpid => Op::Rdpid,
        M::Rdrand | M::Rdseed => Op::Rdrand,
        M::Serialize => Op::Serialize,
        M::Rdpmc => Op::Rdpmc,
        M::Rdmsr => Op::Rdmsr,
        M::Wrmsr => Op::Wrmsr,
        M::Sgdt => Op::Sgdt,
        M::Sidt => Op::Sidt,
        M::Sldt => Op::Sldt,
        M::Str => Op::Str,
        M::Lgdt => with_width(i, lgdt_width(x.code()), Op::Lgdt),
        M::Lidt => with_width(i, lgdt_width(x.code()), Op::Lidt),
        M::Lldt => Op::Lldt,
        M::Ltr => Op::Ltr,
        M::Smsw => Op::Smsw,
        M::Lmsw => Op::Lmsw,
        M::Lar => Op::Lar,
        M::Lsl => Op::Lsl,
        M::Verr => Op::Verr,
        M::Verw => Op::Verw,
        M::Arpl => Op::Arpl,
        M::Clts => Op::Clts,
        M::Invlpg => Op::Invlpg,
        M::Invpcid => Op::Invpcid,
        // WBNOINVD is WBINVD, whose prefix means nothing, to processors that do not know it.
        M::Wbinvd | M::Wbnoinvd | M::Invd => Op::Wbinvd,
        M::Rdfsbase => Op::Rdfsbase,
        M::Rdgsbase => Op::Rdgsbase,
        M::Wrfsbase => Op::Wrfsbase,
        M::Wrgsbase => Op::Wrgsbase,
        M::Swapgs => Op::Swapgs,
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
            i.cc = match x.mnemonic() {
                M::Les => 0,
                M::Lss => 2,
                M::Lds => 3,
                M::Lfs => 4,
                _ => 5,
            };
            Op::LoadFar
        }
        M::Xgetbv => Op::Xgetbv,
        M::Xsetbv => Op::Xsetbv,
        M::Rdpkru => Op::Rdpkru,
        M::Wrpkru => Op::Wrpkru,
        M::Xsave => with_width(i, 4, Op::Xsave),
        M::Xsave64 => with_width(i, 8, Op::Xsave),
        M::Xsaveopt => with_width(i, 4, Op::Xsaveopt),
        M::Xsaveopt64 => with_width(i, 8, Op::Xsaveopt),
        M::Xsavec => with_width(i, 4, Op::Xsavec),
        M::Xsavec64 => with_width(i, 8, Op::Xsavec),
        M::Xsaves => with_width(i, 4, Op::Xsaves),
        M::Xsaves64 => with_width(i, 8, Op::Xsaves),
        M::Xrstor => with_width(i, 4, Op::Xrstor),
        M::Xrstor64 => with_width(i, 8, Op::Xrstor),
        M::Xrstors => with_width(i, 4, Op::Xrstors),
        M::Xrstors64 => with_width(i, 8, Op::Xrstors),
        M::Fxsave | M::Fxsave64 => with_width(i, if x.mnemonic() == M::Fxsave64 { 8 } else { 4 }, Op::Fxsave),
        M::Fxrstor | M::Fxrstor64 => {
            with_width(i, if x.mnemonic() == M::Fxrstor64 { 8 } else { 4 }, Op::Fxrstor)
        }
        M::Aaa => Op::Aaa,
        M::Aas => Op::Aas,
        M::Aam => Op::Aam,
        M::Aad => Op::Aad,
        M::Daa => Op::Daa,
        M::Das => Op::Das,
        M::Bound => {
            i.w = Width(x.op0_register().size() as u8);
            Op::Bound
        }
        M::Salc => Op::Salc,
        _ => crate::decode_vector::pick(x, mode, i),
    }
}

/// Instructions of general registers with a VEX prefix, which is for protected mode.
fn pick_vex(x: &Instruction, mode: Mode, i: &mut Insn) -> Op {
    use Mnemonic as M;
    if !mode.contains(Mode::PROTECTED) {
        return Op::Undefined;
    }
    // The register beside destination and register-or-memory operand.
    i.cc = match x.mnemonic() {
        M::Andn | M::Mulx | M::Pdep | M::Pext => register(x.op1_register()),
        M::Bextr | M::Bzhi | M::Sarx | M::Shlx | M::Shrx => register(x.op2_register()),
        _ => 0,
    };
    match x.mnemonic() {
        M::Andn => Op::Andn,
        M::Blsi => Op::Blsi,
        M::Blsmsk => Op::Blsmsk,
        M::Blsr => Op::Blsr,
        M::Bextr => Op::Bextr,
        M::Bzhi => Op::Bzhi,
        M::Mulx => Op::Mulx,
        M::Pdep => Op::Pdep,
        M::Pext => Op::Pext,
        M::Rorx => Op::Rorx,
        M::Sarx => Op::Sarx,
        M::Shlx => Op::Shlx,
        _ => Op::Shrx,
    }
}

fn with_width(i: &mut Insn, w: u8, op: Op) -> Op {
    i.w = Width(w);
    op
}

fn lgdt_width(code: Code) -> u8 {
    match code {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
        Code::Lgdt_m1632 | Code::Lidt_m1632 => 4,
        _ => 8,
    }
}

fn pick_mov(x: &Instruction) -> Op {
    let (a, b) = (x.op0_register(), x.op1_register());
    let register = |k: OpKind, r: Register, test: fn(Register) -> bool| k == OpKind::Register && test(r);
    match () {
        () if register(x.op0_kind(), a, Register::is_segment_register) => Op::MovToSegment,
        () if register(x.op1_kind(), b, Register::is_segment_register) => Op::MovFromSegment,
        () if register(x.op0_kind(), a, Register::is_cr) => Op::MovToCr,
        () if register(x.op1_kind(), b, Register::is_cr) => Op::MovFromCr,
        () if register(x.op0_kind(), a, Register::is_dr) => Op::MovToDr,
        () if register(x.op1_kind(), b, Register::is_dr) => Op::MovFromDr,
        () if register(x.op0_kind(), a, Register::is_tr) || register(x.op1_kind(), b, Register::is_tr) => {
            Op::Undefined
        }
        () => Op::Mov,
    }
}

/// The operand of a near branch: its size in `w`, the target relative to the page in `imm`.
fn near_target(x: &Instruction, mode: Mode, i: &mut Insn) {
    i.w = Width(match x.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    });
    let base = page_base(mode.bitness());
    i.imm = x.near_branch_target().wrapping_sub(base) as i32;
}

/// A near branch takes the fast path in 64-bit mode, and in flat 32-bit code with 32-bit operands.
fn near(x: &Instruction, mode: Mode, i: &mut Insn, fast: Op, legacy: Op) -> Op {
    near_target(x, mode, i);
    let stackless = matches!(fast, Op::Jcc | Op::Jmp);
    let flat = i.w.0 == 4 && mode.contains(Mode::FLAT) && stackless;
    let plain = mode.plain_64() || mode.is_64() && stackless || flat;
    if plain { fast } else { legacy }
}

fn is_far(x: &Instruction) -> bool {
    matches!(x.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
        || matches!(
            x.code(),
            Code::Jmp_m1616
                | Code::Jmp_m1632
                | Code::Jmp_m1664
                | Code::Call_m1616
                | Code::Call_m1632
                | Code::Call_m1664
        )
}

/// The operands of a far branch: offset in `imm`, selector in `disp` (immediate), width in `w`; `cc` is 1 for memory.
fn far_target(x: &Instruction, i: &mut Insn, op: Op) -> Op {
    match x.op0_kind() {
        OpKind::FarBranch16 => {
            i.imm = i32::from(x.far_branch16());
            i.disp = i32::from(x.far_branch_selector());
            i.w = Width(2);
            i.cc = 0;
        }
        OpKind::FarBranch32 => {
            i.imm = x.far_branch32() as i32;
            i.disp = i32::from(x.far_branch_selector());
            i.w = Width(4);
            i.cc = 0;
        }
        _ => {
            i.w = Width(match x.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            });
            i.cc = 1;
        }
    }
    op
}

fn loop_counter(code: Code) -> u8 {
    match code {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}
