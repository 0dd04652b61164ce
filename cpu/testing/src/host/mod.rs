//! The host's own CPU, where it is an x86-64 under Linux: runs one instruction from given registers and memory.

use crate::Segments;
use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod child;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod compat;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux_x86_64;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use child::{Child, may_call_system};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux_x86_64::Host;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use none::{Child, Host, may_call_system};

/// The exception that an instruction raised on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFault {
    /// Vector.
    pub vector: u8,
    /// Error code, 0 where there is none.
    pub error: u32,
    /// CR2, of a page fault.
    pub cr2: u64,
}

/// Whether this host's processor is one whose ways have all been looked at: AMD's family 1Ah. On others, what differs may be the
/// maker's choice where manuals leave one, and a person has to look before it may count as a fault; so comparisons of what was
/// not yet looked at there are left out. With SOFTMETAL_JUDGE=1 in the environment they take place on every host.
#[cfg(target_arch = "x86_64")]
pub fn is_known() -> bool {
    let (vendor, signature) = (std::arch::x86_64::__cpuid(0), std::arch::x86_64::__cpuid(1).eax);
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
    let family = (signature >> 8 & 15) + (signature >> 20 & 0xff);
    amd && family == 0x1a || std::env::var_os("SOFTMETAL_JUDGE").is_some_and(|v| v == "1")
}
/// No other host has such a processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_known() -> bool {
    false
}

/// The same for tests, which say why they do nothing.
pub fn judges() -> bool {
    let known = is_known();
    if !known {
        eprintln!("not compared: nobody has looked at what this host's processor does in its own way");
    }
    known
}

/// Whether the host has the extensions that a code belongs to, of those that came after what every x86-64 has.
#[cfg(target_arch = "x86_64")]
pub fn host_has(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    code.cpuid_features().iter().all(|f| match *f {
        F::SSE3 => is_x86_feature_detected!("sse3"),
        F::SSSE3 => is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        F::SHA => is_x86_feature_detected!("sha"),
        F::GFNI => is_x86_feature_detected!("gfni"),
        F::AVX => is_x86_feature_detected!("avx"),
        F::AVX2 => is_x86_feature_detected!("avx2"),
        F::FMA => is_x86_feature_detected!("fma"),
        F::F16C => is_x86_feature_detected!("f16c"),
        F::VAES => is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        F::POPCNT => is_x86_feature_detected!("popcnt"),
        F::LZCNT => is_x86_feature_detected!("lzcnt"),
        F::MOVBE => is_x86_feature_detected!("movbe"),
        F::BMI1 => is_x86_feature_detected!("bmi1"),
        F::BMI2 => is_x86_feature_detected!("bmi2"),
        F::ADX => is_x86_feature_detected!("adx"),
        F::CLFLUSHOPT => leaf_7().ebx >> 23 & 1 != 0,
        F::CLWB => leaf_7().ebx >> 24 & 1 != 0,
        F::MOVDIRI => leaf_7().ecx >> 27 & 1 != 0,
        F::SERIALIZE => leaf_7().edx >> 14 & 1 != 0,
        _ => true,
    })
}
/// What the standard library has no names for.
#[cfg(target_arch = "x86_64")]
fn leaf_7() -> std::arch::x86_64::CpuidResult {
    std::arch::x86_64::__cpuid_count(7, 0)
}
/// No other host has any.
#[cfg(not(target_arch = "x86_64"))]
pub fn host_has(_: Code) -> bool {
    false
}

/// Whether an instruction may run on the host: it neither leaves its place, nor needs privilege, nor reads what differs
/// between machines, nor changes what the process lives on. Its memory operands are the caller's business.
pub fn runs_on_host(insn: &Instruction) -> bool {
    use Mnemonic as M;
    let varies = matches!(
        insn.mnemonic(),
        M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Rdrand
            | M::Rdseed
            | M::Rdpid
            // Writes where a register leads.
            | M::Movdir64b
            | M::Xgetbv
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Xsave
            | M::Xsave64
            | M::Xrstor
            | M::Xrstor64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Popf
            | M::Popfd
            | M::Popfq
            | M::Pushf
            | M::Pushfd
            | M::Pushfq
            | M::Wrpkru
            | M::Lfs
            | M::Lgs
            | M::Lss
            | M::Monitor
            | M::Mwait
    );
    let segments = (0..insn.op_count()).any(|k| insn.op_register(k).is_segment_register());
    let prefix = matches!(insn.segment_prefix(), Register::FS | Register::GS);
    insn.flow_control() == FlowControl::Next
        && !insn.is_invalid()
        && host_has(insn.code())
        && !insn.is_privileged()
        && !varies
        && !segments
        && !prefix
}

/// As [`runs_on_host`], for an instruction that stands in code of these segments.
pub fn runs_in(segments: Segments, insn: &Instruction) -> bool {
    if segments == Segments::LONG {
        return runs_on_host(insn);
    }
    use Mnemonic as M;
    // FS and GS belong to the process; around the instruction lies the trampoline's code.
    let kept = !matches!(insn.op0_register(), Register::FS | Register::GS)
        && !matches!(insn.memory_segment(), Register::CS | Register::FS | Register::GS)
        && !matches!(insn.segment_prefix(), Register::CS | Register::FS | Register::GS);
    let of_segments = match insn.mnemonic() {
        M::Push | M::Les | M::Lds | M::Into => true,
        M::Pop | M::Mov => (0..insn.op_count()).any(|k| insn.op_register(k).is_segment_register()),
        _ => false,
    };
    kept && (of_segments || runs_on_host(insn))
}

/// Bytes that an instruction writes to memory through its operands, for those who must know before they run it.
pub(crate) fn writes_memory(insn: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    factory.info(insn).used_memory().iter().any(|m| {
        matches!(
            m.access(),
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        )
    })
}
