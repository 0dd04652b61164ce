//! CPUID: SDM 2A "CPUID". It promises what is complete and nothing else.

use crate::{
    fault::Done,
    insn::Insn,
    state::{Cpu, cr4, reg},
    sys::xsave::{EXTENDED, area_size, component},
    width::D,
};

/// Bits of leaf 1 EDX.
const LEAF1_EDX: u32 = 1 // FPU
    | 1 << 1 // VME
    | 1 << 2 // DE
    | 1 << 3 // PSE
    | 1 << 4 // TSC
    | 1 << 5 // MSR
    | 1 << 6 // PAE
    | 1 << 7 // MCE
    | 1 << 8 // CX8
    | 1 << 9 // APIC
    | 1 << 11 // SEP
    | 1 << 12 // MTRR
    | 1 << 13 // PGE
    | 1 << 14 // MCA
    | 1 << 15 // CMOV
    | 1 << 16 // PAT
    | 1 << 17 // PSE-36
    | 1 << 19 // CLFSH
    | 1 << 23 // MMX
    | 1 << 24 // FXSR
    | 1 << 25 // SSE
    | 1 << 26; // SSE2

/// Bits of leaf 1 ECX.
const LEAF1_ECX: u32 = 1 // SSE3
    | 1 << 1 // PCLMULQDQ
    | 1 << 9 // SSSE3
    | 1 << 12 // FMA
    | 1 << 13 // CMPXCHG16B
    | 1 << 17 // PCID
    | 1 << 19 // SSE4.1
    | 1 << 20 // SSE4.2
    | 1 << 21 // x2APIC
    | 1 << 22 // MOVBE
    | 1 << 23 // POPCNT
    | 1 << 24 // TSC-Deadline
    | 1 << 25 // AES
    | 1 << 26 // XSAVE
    | 1 << 28 // AVX
    | 1 << 29; // F16C

/// Leaf 7 EBX.
const LEAF7_EBX: u32 = 1 // FSGSBASE
    | 1 << 1 // IA32_TSC_ADJUST
    | 1 << 3 // BMI1
    | 1 << 5 // AVX2
    | 1 << 7 // SMEP
    | 1 << 8 // BMI2
    | 1 << 9 // ERMS
    | 1 << 10 // INVPCID
    | 1 << 13 // FCS and FDS are deprecated
    | 1 << 19 // ADX
    | 1 << 20 // SMAP
    | 1 << 29; // SHA

/// Leaf 7 ECX.
const LEAF7_ECX: u32 = 1 << 2 // UMIP
    | 1 << 3 // PKU
    | 1 << 8 // GFNI
    | 1 << 9 // VAES
    | 1 << 10 // VPCLMULQDQ
    | 1 << 16; // LA57

/// Leaf 7 EDX.
const LEAF7_EDX: u32 = 1 << 4 // FSRM
    | 1 << 26 // IBRS and IBPB
    | 1 << 27 // STIBP
    | 1 << 29 // IA32_ARCH_CAPABILITIES
    | 1 << 31; // SSBD

/// Leaf 7.2 EDX: BHI_DIS_S of IA32_SPEC_CTRL. Kernels clear the branch history by software on each system call where a
/// processor with enhanced IBRS lacks it.
const LEAF7_2_EDX: u32 = 1 << 4; // BHI_CTRL

/// Leaf 8000_0001 EDX.
const EXTENDED_EDX: u32 = 1 << 11 // SYSCALL
    | 1 << 20 // NX
    | 1 << 26 // 1 GiB pages
    | 1 << 27 // RDTSCP
    | 1 << 29; // long mode

/// The processor's name: the brand string of leaves 8000_0002h to 8000_0004h, which is at most 48 bytes.
pub const BRAND: &str = "softmetal virtual CPU";

/// Family 6, model EFh, stepping 8. No processor has that model: programs that choose their code by the model (GCC's
/// `target_clones` with `arch=`) would run what a processor of that model can do, and this one cannot.
pub(crate) const SIGNATURE: u32 = 0x000e_06f8;

/// EAX and EDX of leaf 1, as SMBIOS tells a processor's kind ("Processor ID").
pub const PROCESSOR_ID: u64 = SIGNATURE as u64 | (LEAF1_EDX as u64) << 32;

impl Cpu {
    /// EAX, EBX, ECX, EDX of a leaf.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let bit = |on: bool, at: u32| u32::from(on) << at;
        let id = self.id as u32;
        let cpus = self.options.cpus.max(1) as u32;
        // Bits of an APIC id that number the CPUs of the package.
        let package_bits = cpus.next_power_of_two().trailing_zeros();
        let text = |s: &[u8]| u32::from_le_bytes([s[0], s[1], s[2], s[3]]);
        match leaf {
            0 => [0x16, text(b"Genu"), text(b"ntel"), text(b"ineI")],
            1 => {
                let apic = self.bus.apic_base(self.id) & 1 << 11 != 0;
                let logical = (1 << package_bits).min(255) << 16;
                // CLFLUSH works on lines of 64 bytes.
                let ebx = id << 24 | logical | 8 << 8;
                let ecx = LEAF1_ECX | bit(self.cr4 & cr4::OSXSAVE != 0, 27);
                let edx = LEAF1_EDX | bit(cpus > 1, 28);
                [SIGNATURE, ebx, ecx, if apic { edx } else { edx & !(1 << 9) }]
            }
            // Leaf 4 says it, and says the TLBs in FEh.
            2 => [0x00fe_ff01, 0, 0, 0],
            4 => self.cache_leaf(subleaf, cpus),
            // Thermal and power: ARAT, the APIC timer always runs.
            6 => [1 << 2, 0, 0, 0],
            7 => match subleaf {
                0 => [2, LEAF7_EBX, LEAF7_ECX | bit(self.cr4 & cr4::PKE != 0, 4), LEAF7_EDX],
                2 => [0, 0, 0, LEAF7_2_EDX],
                _ => [0; 4],
            },
            0xb => match subleaf {
                // One thread per core, then the cores of the package.
                0 => [0, 1, 1 << 8, id],
                1 => [package_bits, cpus, 2 << 8 | 1, id],
                _ => [0, 0, subleaf & 0xff, id],
            },
            0xd => match subleaf {
                0 => {
                    let all = component::ALL;
                    [all as u32, area_size(self.xcr0, false) as u32, area_size(all, false) as u32, 0]
                }
                // XSAVEOPT, XSAVEC, XGETBV of register 1, XSAVES; there is no supervisor state.
                1 => [0xf, area_size(self.xcr0 | self.msrs.xss, true) as u32, 0, 0],
                n => match EXTENDED.iter().find(|e| e.bit.trailing_zeros() == n) {
                    Some(e) => [e.size as u32, e.offset as u32, 0, 0],
                    None => [0; 4],
                },
            },
            // The TSC's frequency as a ratio of the crystal's, which is also the APIC timer's.
            0x15 => {
                let (tsc, crystal) = (self.bus.tsc_hz(), self.bus.apic_timer_hz());
                // In lowest terms: Linux multiplies the crystal's kHz by the numerator in 32 bits.
                let divisor = greatest_common_divisor(tsc, crystal).max(1);
                [(crystal / divisor) as u32, (tsc / divisor) as u32, crystal as u32, 0]
            }
            0x16 => {
                let mhz = (self.bus.tsc_hz() / 1_000_000) as u32;
                [mhz, mhz, 100, 0]
            }
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            // LAHF in 64-bit mode, LZCNT.
            0x8000_0001 => {
                let edx = if self.mode.is_64() { EXTENDED_EDX } else { EXTENDED_EDX & !(1 << 11) };
                [0, 0, 1 | 1 << 5, edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                let byte = |k: usize| BRAND.as_bytes().get(at + k).copied().unwrap_or(0);
                std::array::from_fn(|k| text(&[0, 1, 2, 3].map(|n| byte(4 * k + n))))
            }
            // L2: 2 MiB, 16 ways, lines of 64 bytes.
            0x8000_0006 => [0, 0, 2048 << 16 | 8 << 12 | 64, 0],
            // Invariant TSC.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => [57 << 8 | crate::mmu::PHYSICAL_BITS, 0, 0, 0],
            // Beyond the last basic leaf, the last one answers.
            0x17..0x8000_0000 | 0x8000_0009.. => self.cpuid(0x16, subleaf),
            _ => [0; 4],
        }
    }

    /// Deterministic cache parameters.
    fn cache_leaf(&self, subleaf: u32, cpus: u32) -> [u32; 4] {
        // (type, level, ways, sets, CPUs that share it)
        let (kind, level, ways, sets, shared) = match subleaf {
            0 => (1, 1, 12, 64, 1),
            1 => (2, 1, 8, 64, 1),
            2 => (3, 2, 16, 2048, 1),
            3 => (3, 3, 16, 16384, cpus),
            _ => return [0; 4],
        };
        let cores = cpus.next_power_of_two() - 1;
        let eax = kind | level << 5 | 1 << 8 | (shared.next_power_of_two() - 1) << 14 | cores.min(63) << 26;
        [eax, (ways - 1) << 22 | 63, sets - 1, 0]
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// CPUID.
pub(crate) fn cpuid(c: &mut Cpu, _: &Insn) -> Done {
    crate::sys::misc::drain_stores();
    let (leaf, subleaf) = (c.get(D, reg::RAX) as u32, c.get(D, reg::RCX) as u32);
    let [a, b, x, d] = c.cpuid(leaf, subleaf);
    c.set(D, reg::RAX, a.into());
    c.set(D, reg::RBX, b.into());
    c.set(D, reg::RCX, x.into());
    c.set(D, reg::RDX, d.into());
    Ok(())
}
