//! CPUID: SDM 2A "CPUID". It promises what is complete and nothing else.

use crate::{
    fault::Done,
    insn::Insn,
    model::{Feature, Model, Register},
    state::{Cpu, cr4, reg},
    sys::xsave::{EXTENDED, area_size},
    width::D,
};

/// The processor's name: the brand string of leaves 8000_0002h to 8000_0004h, which is at most 48 bytes.
pub const BRAND: &str = "softmetal virtual CPU";

/// Family 6, model EFh, stepping 8. No processor has that model: programs that choose their code by the model (GCC's
/// `target_clones` with `arch=`) would run what a processor of that model can do, and this one cannot.
pub(crate) const SIGNATURE: u32 = 0x000e_06f8;

/// EAX and EDX of leaf 1, the same for every model, as SMBIOS tells a processor's kind ("Processor ID").
pub const PROCESSOR_ID: u64 = SIGNATURE as u64 | (Model::Max.cpuid_bits(1, 0, Register::Edx) as u64) << 32;

/// The last basic leaf, and that of the largest model.
const LAST: u32 = 0x16;
const LAST_OF_MAX: u32 = 0x1f;
/// The last subleaf of leaf 7.
const LAST_OF_7: u32 = 2;
/// The first and the last extended leaf.
const EXTENDED_LEAVES: u32 = 0x8000_0000;
const LAST_EXTENDED: u32 = 0x8000_0008;

/// An answer of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question.
    pub subleaf: u32,
    /// Whether ECX counts.
    pub indexed: bool,
    /// EAX, EBX, ECX, EDX.
    pub values: [u32; 4],
}

/// The subleaf, 0 for leaves that have none.
fn subleaf_of(leaf: u32, subleaf: u32) -> u32 {
    if matches!(leaf, 7 | 0xd) { subleaf } else { 0 }
}

impl Cpu {
    /// EAX, EBX, ECX, EDX of a leaf.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let bit = |on: bool, at: u32| u32::from(on) << at;
        let model = self.options.model;
        let [a, b, c, d] = [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx]
            .map(|register| self.options.cpuid_bits(leaf, subleaf_of(leaf, subleaf), register));
        let id = self.id as u32;
        let cpus = self.options.cpus.max(1) as u32;
        // Bits of an APIC id that number the CPUs of the package.
        let package_bits = cpus.next_power_of_two().trailing_zeros();
        let text = |s: &[u8]| u32::from_le_bytes([s[0], s[1], s[2], s[3]]);
        let last = if model == Model::Max { LAST_OF_MAX } else { LAST };
        match leaf {
            // Beyond the last basic leaf, the last one answers.
            _ if leaf < EXTENDED_LEAVES && leaf > last || leaf > LAST_EXTENDED => self.cpuid(last, subleaf),
            0 => [last, text(b"Genu"), text(b"ntel"), text(b"ineI")],
            1 => {
                let apic = self.bus.apic_base(self.id) & 1 << 11 != 0;
                let logical = (1 << package_bits).min(255) << 16;
                // CLFLUSH works on lines of 64 bytes.
                let ebx = id << 24 | logical | 8 << 8;
                let ecx = c | bit(self.cr4 & cr4::OSXSAVE != 0, 27);
                let edx = d | bit(cpus > 1, 28);
                [SIGNATURE, ebx, ecx, if apic { edx } else { edx & !(1 << 9) }]
            }
            // Leaf 4 has the caches. TLBs: 64 entries for instructions in pages of 4 KiB, 8 in larger ones; 64 for data in
            // pages of 4 KiB, 32 in larger ones; 1536 for both. Prefetching by 64 bytes.
            2 => [0x7603_6301, 0x00f0_b5ff, 0, 0x00c3_0000],
            4 => self.cache_leaf(subleaf, cpus),
            7 if subleaf == 0 => [LAST_OF_7, b, c | bit(self.cr4 & cr4::PKE != 0, 4), d],
            // The second form of the leaf says the same of a package without modules and dies.
            0xb | 0x1f => match subleaf {
                // One thread per core, then the cores of the package.
                0 => [0, 1, 1 << 8, id],
                1 => [package_bits, cpus, 2 << 8 | 1, id],
                _ => [0, 0, subleaf & 0xff, id],
            },
            0xd if !self.options.has(Feature::Xsave) => [0; 4],
            0xd => match subleaf {
                0 => {
                    let all = self.options.components();
                    [all as u32, area_size(self.xcr0, false) as u32, area_size(all, false) as u32, 0]
                }
                // There is no supervisor state.
                1 if self.options.has(Feature::Xsavec) => {
                    [a, area_size(self.xcr0 | self.msrs.xss, true) as u32, 0, 0]
                }
                1 => [a, 0, 0, 0],
                n => match EXTENDED.iter().find(|e| e.bit.trailing_zeros() == n) {
                    Some(e) if self.options.components() & e.bit != 0 => {
                        [e.size as u32, e.offset as u32, 0, 0]
                    }
                    _ => [0; 4],
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
            EXTENDED_LEAVES => [LAST_EXTENDED, 0, 0, 0],
            0x8000_0001 if !self.mode.is_64() => [0, 0, c, d & !(1 << 11)],
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                let byte = |k: usize| BRAND.as_bytes().get(at + k).copied().unwrap_or(0);
                std::array::from_fn(|k| text(&[0, 1, 2, 3].map(|n| byte(4 * k + n))))
            }
            // L2: 2 MiB, 16 ways, lines of 64 bytes.
            0x8000_0006 => [0, 0, 2048 << 16 | 8 << 12 | 64, 0],
            0x8000_0008 => {
                let linear = if self.options.has(Feature::La57) { 57 } else { 48 };
                [linear << 8 | crate::mmu::PHYSICAL_BITS, b, 0, 0]
            }
            // Nothing but bits of features, or nothing.
            _ => [a, b, c, d],
        }
    }

    /// Every leaf and subleaf that is not all zero, for engines that answer CPUID themselves.
    pub fn cpuid_table(&self) -> Vec<CpuidLeaf> {
        const SUBLEAVES: u32 = 10;
        let last = if self.options.model == Model::Max { LAST_OF_MAX } else { LAST };
        let mut table = Vec::new();
        for leaf in (0..=last).chain(EXTENDED_LEAVES..=LAST_EXTENDED) {
            let indexed = matches!(leaf, 4 | 7 | 0xb | 0xd | 0x1f);
            for subleaf in 0..if indexed { SUBLEAVES } else { 1 } {
                let values = self.cpuid(leaf, subleaf);
                // The topology's leaves answer subleaves that are not there with the number of the subleaf.
                let empty = values[..2] == [0; 2] && (matches!(leaf, 0xb | 0x1f) || values == [0; 4]);
                if !empty || subleaf == 0 {
                    table.push(CpuidLeaf { leaf, subleaf, indexed, values });
                }
            }
        }
        table
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
