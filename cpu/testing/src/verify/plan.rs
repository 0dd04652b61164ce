//! Which instructions are compared, and how each of the others is dealt with.

use crate::Segments;
use iced_x86::{
    Code, CpuidFeature as F, FlowControl, Instruction, Mnemonic as M, OpCodeOperandKind as K, Register,
};
use std::collections::BTreeSet;

/// Where a feature's bit is: leaf, subleaf, index of EAX to EDX, bit.
type Bit = (u32, u32, usize, u32);

const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// CPUID's bits of what a test of instructions can see.
const BITS: &[(Bit, &[F])] = &[
    ((1, 0, EDX, 0), &[F::FPU, F::FPU287, F::FPU387]),
    ((1, 0, EDX, 4), &[F::TSC]),
    ((1, 0, EDX, 5), &[F::MSR]),
    ((1, 0, EDX, 8), &[F::CX8]),
    ((1, 0, EDX, 11), &[F::SEP]),
    ((1, 0, EDX, 15), &[F::CMOV]),
    ((1, 0, EDX, 19), &[F::CLFSH]),
    ((1, 0, EDX, 23), &[F::MMX]),
    ((1, 0, EDX, 24), &[F::FXSR]),
    ((1, 0, EDX, 25), &[F::SSE]),
    ((1, 0, EDX, 26), &[F::SSE2, F::PAUSE]),
    ((1, 0, ECX, 0), &[F::SSE3]),
    ((1, 0, ECX, 1), &[F::PCLMULQDQ]),
    ((1, 0, ECX, 3), &[F::MONITOR]),
    ((1, 0, ECX, 9), &[F::SSSE3]),
    ((1, 0, ECX, 12), &[F::FMA]),
    ((1, 0, ECX, 13), &[F::CMPXCHG16B]),
    ((1, 0, ECX, 19), &[F::SSE4_1]),
    ((1, 0, ECX, 20), &[F::SSE4_2]),
    ((1, 0, ECX, 22), &[F::MOVBE]),
    ((1, 0, ECX, 23), &[F::POPCNT]),
    ((1, 0, ECX, 25), &[F::AES]),
    ((1, 0, ECX, 26), &[F::XSAVE]),
    ((1, 0, ECX, 28), &[F::AVX]),
    ((1, 0, ECX, 29), &[F::F16C]),
    ((1, 0, ECX, 30), &[F::RDRAND]),
    ((7, 0, EBX, 0), &[F::FSGSBASE]),
    ((7, 0, EBX, 3), &[F::BMI1]),
    ((7, 0, EBX, 5), &[F::AVX2]),
    ((7, 0, EBX, 8), &[F::BMI2]),
    ((7, 0, EBX, 10), &[F::INVPCID]),
    ((7, 0, EBX, 18), &[F::RDSEED]),
    ((7, 0, EBX, 19), &[F::ADX]),
    ((7, 0, EBX, 20), &[F::SMAP]),
    ((7, 0, EBX, 23), &[F::CLFLUSHOPT]),
    ((7, 0, EBX, 24), &[F::CLWB]),
    ((7, 0, EBX, 29), &[F::SHA]),
    ((7, 0, ECX, 3), &[F::PKU]),
    ((7, 0, ECX, 5), &[F::WAITPKG]),
    ((7, 0, ECX, 8), &[F::GFNI]),
    ((7, 0, ECX, 9), &[F::VAES]),
    ((7, 0, ECX, 10), &[F::VPCLMULQDQ]),
    ((7, 0, ECX, 22), &[F::RDPID]),
    ((7, 0, ECX, 25), &[F::CLDEMOTE]),
    ((7, 0, ECX, 27), &[F::MOVDIRI]),
    ((7, 0, ECX, 28), &[F::MOVDIR64B]),
    ((7, 0, EDX, 14), &[F::SERIALIZE]),
    ((0xd, 1, 0, 0), &[F::XSAVEOPT]),
    ((0xd, 1, 0, 1), &[F::XSAVEC]),
    ((0xd, 1, 0, 3), &[F::XSAVES]),
    ((0x8000_0001, 0, ECX, 5), &[F::LZCNT]),
    ((0x8000_0001, 0, ECX, 8), &[F::PREFETCHW]),
    ((0x8000_0001, 0, EDX, 11), &[F::SYSCALL]),
    ((0x8000_0001, 0, EDX, 27), &[F::RDTSCP]),
    ((0x8000_0001, 0, EDX, 29), &[F::X64]),
];

/// What every processor of 64 bits has.
const ALWAYS: &[F] =
    &[F::INTEL8086, F::INTEL186, F::INTEL286, F::INTEL386, F::INTEL486, F::CPUID, F::MULTIBYTENOP, F::RDPMC];

/// The features that a CPU's CPUID tells.
pub fn features(mut cpuid: impl FnMut(u32, u32) -> [u32; 4]) -> BTreeSet<F> {
    let mut found: BTreeSet<F> = ALWAYS.iter().copied().collect();
    let (basic, extended) = (cpuid(0, 0)[0], cpuid(0x8000_0000, 0)[0]);
    for ((leaf, subleaf, register, bit), features) in BITS {
        let last = if *leaf >= 0x8000_0000 { extended } else { basic };
        if *leaf <= last && cpuid(*leaf, *subleaf)[*register] >> bit & 1 == 1 {
            found.extend(*features);
        }
    }
    found
}

/// Who made a CPU, for what makers do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// "GenuineIntel", and whoever is not AMD.
    Intel,
    /// "AuthenticAMD" and "HygonGenuine".
    Amd,
}

impl Maker {
    /// By leaf 0 of CPUID.
    pub fn of(leaf: [u32; 4]) -> Maker {
        match &leaf[1].to_le_bytes() {
            b"Auth" | b"Hygo" => Maker::Amd,
            _ => Maker::Intel,
        }
    }
}

/// The features of the host, and its maker. None where it is no x86-64.
#[cfg(target_arch = "x86_64")]
pub fn host() -> Option<(BTreeSet<F>, Maker)> {
    let cpuid = |leaf, subleaf| {
        let r = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    };
    Some((features(cpuid), Maker::of(cpuid(0, 0))))
}

/// The features of the host, and its maker. None where it is no x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn host() -> Option<(BTreeSet<F>, Maker)> {
    None
}

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It runs on both sides, and all that it leaves is compared.
    Compared,
    /// User code may not run it: the exception is compared.
    AsFault,
    /// It does not run here, for this reason; test programs in `test-roms/` and tests with one machine have it.
    Elsewhere(&'static str),
}

/// The class of a code in user code of 16, 32 or 64 bits, whatever the host is.
pub fn class(code: Code, bitness: u32) -> Class {
    use Class::{AsFault, Compared, Elsewhere};
    let info = code.op_code();
    if info.fwait() {
        return Elsewhere("two instructions, WAIT and the one without it, which is compared");
    }
    let operand = |kind| (0..info.op_count()).any(|k| info.op_kind(k) == kind);
    let pops = code.mnemonic() == M::Pop;
    let segments = [K::seg_reg, K::es, K::cs, K::ss, K::ds, K::fs, K::gs].into_iter().any(operand);
    match code.mnemonic() {
        M::Cpuid => Elsewhere("tells of the processor: every one differs"),
        M::Rdtsc | M::Rdtscp | M::Rdpmc => Elsewhere("tells the time"),
        M::Rdrand | M::Rdseed => Elsewhere("gives random numbers"),
        M::Rdpid | M::Xgetbv | M::Rdpkru | M::Wrpkru => {
            Elsewhere("reads or writes what the operating system has set")
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => {
            Elsewhere("tells of the operating system, or is emulated by it")
        }
        M::Lar | M::Lsl | M::Verr | M::Verw => Elsewhere("reads descriptors of the operating system"),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
            Elsewhere("the host's own threads live on these bases")
        }
        M::Lds | M::Les if bitness != 64 => Compared,
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
            Elsewhere("loads a segment register from the operating system's tables")
        }
        M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xrstor
        | M::Xrstor64 => Elsewhere("which components are in use is the processor's own choice"),
        M::Monitor | M::Mwait => Elsewhere("waits"),
        M::Umonitor | M::Umwait | M::Tpause => Elsewhere("waits"),
        M::Syscall | M::Sysenter | M::Int | M::Int1 | M::Int3 | M::Into => {
            Elsewhere("enters the operating system")
        }
        M::Popf | M::Popfd | M::Popfq | M::Pushf | M::Pushfd | M::Pushfq => {
            Elsewhere("carries flags that the host's process lives on")
        }
        M::Xbegin | M::Xend | M::Xabort | M::Xtest => Elsewhere("transactions are not offered"),
        // Outside of supervisor code they are no instructions.
        M::Clac | M::Stac => AsFault,
        M::Ud0 if info.op_count() == 0 => Elsewhere("the UD0 of old processors, which has no ModRM byte"),
        M::Ud0 | M::Ud1 | M::Ud2 => AsFault,
        // FS and GS are the process's own.
        M::Push | M::Pop | M::Mov
            if bitness != 64 && segments && !(pops && [K::fs, K::gs].into_iter().any(operand)) =>
        {
            Compared
        }
        _ if operand(K::seg_reg) => Elsewhere("reads or loads a segment register"),
        _ if segments => Elsewhere("pushes or loads a segment register"),
        _ if is_privileged(code) => AsFault,
        _ => match flow(code) {
            FlowControl::Next => Compared,
            FlowControl::Exception => AsFault,
            _ if matches!(code.mnemonic(), M::Call | M::Jmp | M::Retf | M::Iret | M::Iretd | M::Iretq)
                && info_is_far(code) =>
            {
                Elsewhere("a far transfer, by way of the operating system's tables")
            }
            _ => Elsewhere("a branch"),
        },
    }
}

fn info_is_far(code: Code) -> bool {
    code.is_jmp_far()
        || code.is_jmp_far_indirect()
        || code.is_call_far()
        || code.is_call_far_indirect()
        || matches!(code.mnemonic(), M::Retf | M::Iret | M::Iretd | M::Iretq)
}

fn flow(code: Code) -> FlowControl {
    code.flow_control()
}

/// Whether user code must not run it: because of its privilege level, or of the I/O privilege level, which is 0.
fn is_privileged(code: Code) -> bool {
    let mut insn = Instruction::default();
    insn.set_code(code);
    insn.is_privileged()
        || matches!(
            code.mnemonic(),
            M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd | M::Cli | M::Sti
        )
}

/// All codes of 16-, 32- or 64-bit code that belong to the features.
pub fn codes(features: &BTreeSet<F>, bitness: u32) -> Vec<Code> {
    let features: Vec<F> = features.iter().copied().collect();
    crate::forms::codes_for(bitness, &features)
}

/// Whether an encoding may run in this process: its code may, and it does not use the segments that the process lives on, nor
/// those in which the trampoline lies.
pub(super) fn may_run(segments: Segments, insn: &Instruction) -> bool {
    let foreign = |r| matches!(r, Register::FS | Register::GS);
    let kept = if segments == Segments::LONG {
        !foreign(insn.segment_prefix())
    } else {
        (insn.mnemonic() == M::Push || !foreign(insn.op0_register()))
            && [insn.memory_segment(), insn.segment_prefix()]
                .into_iter()
                .all(|r| !foreign(r) && r != Register::CS)
    };
    kept && class(insn.code(), segments.bitness()) == Class::Compared
}
