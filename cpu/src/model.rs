//! The processors that can be had, and the features that each has: the one list from which CPUID, the control registers and
//! the decoder follow. SDM 1 "Processor Identification and Feature Determination"; levels from the x86-64 psABI,
//! "Micro-Architecture Levels".

use crate::{
    sem::Op,
    state::{Options, cr4},
    sys::xsave::component,
};
use iced_x86::{CpuidFeature, Instruction};

/// A processor. Programs find the extensions of its level and no others; for kernels each has what a PC of its time has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Model {
    /// x86-64-v2, and for kernels PCID, x2APIC, the TSC deadline timer, an invariant TSC, pages of 1 GiB. No XSAVE.
    V2,
    /// x86-64-v3, and for kernels XSAVE with AVX state, FSGSBASE, INVPCID, SMEP.
    V3,
    /// Every extension that there is.
    #[default]
    Max,
}

impl Model {
    /// Each model's name on the command line and what it is.
    pub const LIST: &'static [(&'static str, Self, &'static str)] = &[
        ("max", Self::Max, "every extension that softmetal has (the default)"),
        ("v2", Self::V2, "x86-64-v2: SSE4.2, POPCNT, CMPXCHG16B; no AVX, no XSAVE"),
        ("v3", Self::V3, "x86-64-v3: v2 with AVX2, BMI1, BMI2, F16C, FMA, LZCNT, MOVBE, XSAVE"),
    ];

    /// The model of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::LIST.iter().find(|(known, ..)| *known == name).map(|(_, model, _)| *model)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::LIST.iter().find(|(_, model, _)| *model == self).map_or("", |(name, ..)| name)
    }

    pub(crate) fn has(self, feature: Feature) -> bool {
        LIST[feature as usize].since <= self
    }

    /// The bits of features in a register of a CPUID leaf.
    pub(crate) const fn cpuid_bits(self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        let (mut bits, mut k) = (0, 0);
        while k < LIST.len() {
            let entry = &LIST[k];
            let here =
                entry.leaf == leaf && entry.subleaf == subleaf && entry.register as u8 == register as u8;
            if here && entry.since as u8 <= self as u8 {
                bits |= 1 << entry.bit;
            }
            k += 1;
        }
        bits
    }

    /// State components of XCR0.
    fn components(self) -> u64 {
        match self {
            Self::V2 => 0,
            Self::V3 => component::X87 | component::SSE | component::AVX,
            Self::Max => component::ALL,
        }
    }

    /// What an instruction whose semantics are `op` does on this model: another thing, or #UD, where its extension is
    /// missing.
    #[inline(always)]
    pub(crate) fn admit(self, x: &Instruction, op: Op) -> Op {
        // The semantics are those of the largest model.
        if self == Self::Max { op } else { self.admit_smaller(x, op) }
    }

    #[inline(never)]
    fn admit_smaller(self, x: &Instruction, op: Op) -> Op {
        let set = &INSTRUCTIONS[self as usize];
        let all = x.cpuid_features().iter().all(|&f| set[f as usize / 64] >> (f as usize % 64) & 1 != 0);
        if all { op } else { without_extension(op) }
    }
}

/// Encodings that older processors take for something else.
fn without_extension(op: Op) -> Op {
    match op {
        // The prefix F3 is ignored.
        Op::Lzcnt => Op::Bsr,
        Op::Tzcnt => Op::Bsf,
        // WBNOINVD: its prefix is ignored.
        Op::Wbinvd => Op::Wbinvd,
        // Hints.
        Op::Nop => Op::Nop,
        _ => Op::Undefined,
    }
}

/// Registers of a CPUID leaf.
#[allow(missing_docs, reason = "the names are the manual's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Features that a model has and a machine does not, because what runs it cannot: CPUID and the control registers are
/// without them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking(u128);

const _: () = assert!(LIST.len() <= 128);

impl Lacking {
    /// A machine that has all that its model has.
    pub const NONE: Self = Self(0);

    /// And this feature.
    #[must_use]
    pub fn and(self, feature: FeatureBit) -> Self {
        Self(self.0 | 1 << feature.index)
    }

    fn has(self, index: usize) -> bool {
        self.0 >> index & 1 != 0
    }
}

/// A feature of a model, as CPUID shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureBit {
    /// Its name.
    pub name: &'static str,
    /// The leaf.
    pub leaf: u32,
    /// The subleaf, 0 where the leaf has none.
    pub subleaf: u32,
    /// The register.
    pub register: Register,
    /// The bit.
    pub bit: u32,
    /// What the processor needs for it.
    pub needs: Needs,
    index: usize,
}

/// What a feature takes to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Instructions that compute: they need nothing but the silicon.
    Silicon,
    /// Registers or state that who runs the machine has to know of.
    Support,
    /// It says how the processor behaves, or which flaws it has: as it is, so it is told.
    Nothing,
}

impl Model {
    /// What the model has that CPUID shows.
    pub fn features(self) -> impl Iterator<Item = FeatureBit> {
        let bit = |(index, entry): (usize, &Entry)| FeatureBit {
            name: NAMES[index],
            leaf: entry.leaf,
            subleaf: entry.subleaf,
            register: entry.register,
            bit: entry.bit,
            needs: needs(FEATURES[index]),
            index,
        };
        LIST.iter().enumerate().filter(move |(_, entry)| entry.since <= self).map(bit)
    }
}

fn needs(feature: Feature) -> Needs {
    use Feature::*;
    match feature {
        Ibrs | Stibp | Ssbd | ArchCapabilities | BhiCtrl | DeprecatedSelectors | Erms | Fsrm | Fzrm
        | Fsrs | Fsrc => Needs::Nothing,
        Sse3 | Pclmulqdq | Ssse3 | Sse41 | Sse42 | Movbe | Popcnt | Aes | Rdrand | Bmi1 | Bmi2 | Rdseed
        | Adx | Clflushopt | Clwb | Sha | Gfni | Cldemote | Movdiri | Movdir64b | Serialize | Lahf64
        | Lzcnt | Prefetchw | Wbnoinvd => Needs::Silicon,
        _ => Needs::Support,
    }
}

impl Options {
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.model.has(feature) && !self.lacking.has(feature as usize)
    }

    /// Bits of CR4 that may be set.
    pub(crate) fn cr4_bits(&self) -> u64 {
        let optional = [
            (Feature::Umip, cr4::UMIP),
            (Feature::La57, cr4::LA57),
            (Feature::Fsgsbase, cr4::FSGSBASE),
            (Feature::Pcid, cr4::PCIDE),
            (Feature::Xsave, cr4::OSXSAVE),
            (Feature::Smep, cr4::SMEP),
            (Feature::Smap, cr4::SMAP),
            (Feature::Pku, cr4::PKE),
            (Feature::Lam, cr4::LAM_SUP),
        ];
        let all = optional.iter().filter(|(feature, _)| self.has(*feature)).map(|(_, bit)| *bit);
        all.fold(cr4::ALWAYS, |bits, bit| bits | bit)
    }

    /// State components of XCR0.
    pub(crate) fn components(&self) -> u64 {
        if !self.has(Feature::Xsave) {
            return 0;
        }
        let lacks = [(Feature::Avx, component::AVX), (Feature::Pku, component::PKRU)];
        let lacks = lacks.iter().filter(|(feature, _)| !self.has(*feature));
        lacks.fold(self.model.components(), |all, (_, component)| all & !component)
    }

    /// As [`Model::cpuid_bits`], without what is lacking.
    pub(crate) fn cpuid_bits(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        if self.lacking == Lacking::NONE {
            return self.model.cpuid_bits(leaf, subleaf, register);
        }
        let lacks = LIST.iter().enumerate().filter(|(index, entry)| {
            self.lacking.has(*index)
                && (entry.leaf, entry.subleaf, entry.register) == (leaf, subleaf, register)
        });
        let bits = self.model.cpuid_bits(leaf, subleaf, register);
        lacks.fold(bits, |bits, (_, entry)| bits & !(1 << entry.bit))
    }
}

/// A feature: where CPUID shows it, the first model that has it, the instructions that come with it.
struct Entry {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
    since: Model,
    instructions: &'static [CpuidFeature],
}

macro_rules! features {
    ($($leaf:literal $subleaf:literal $register:ident { $($bit:literal $name:ident $since:ident ($($instructions:ident)*))* })*) => {
        /// What CPUID can show, by the manual's names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(dead_code, reason = "most are only in the list")]
        pub(crate) enum Feature { $($($name,)*)* }
        const FEATURES: &[Feature] = &[$($(Feature::$name,)*)*];
        const NAMES: &[&str] = &[$($(stringify!($name),)*)*];
        const LIST: &[Entry] = &[$($(Entry {
            leaf: $leaf,
            subleaf: $subleaf,
            register: Register::$register,
            bit: $bit,
            since: Model::$since,
            instructions: &[$(CpuidFeature::$instructions),*],
        },)*)*];
    };
}

features! {
    1 0 Edx {
        0 Fpu V2 (FPU FPU287 FPU387)
        1 Vme V2 ()
        2 De V2 ()
        3 Pse V2 ()
        4 Tsc V2 (TSC)
        5 Msr V2 (MSR)
        6 Pae V2 ()
        7 Mce V2 ()
        8 Cx8 V2 (CX8)
        9 Apic V2 ()
        11 Sep V2 (SEP)
        12 Mtrr V2 ()
        13 Pge V2 ()
        14 Mca V2 ()
        15 Cmov V2 (CMOV)
        16 Pat V2 ()
        17 Pse36 V2 ()
        19 Clfsh V2 (CLFSH)
        23 Mmx V2 (MMX)
        24 Fxsr V2 (FXSR)
        25 Sse V2 (SSE)
        26 Sse2 V2 (SSE2)
    }
    1 0 Ecx {
        0 Sse3 V2 (SSE3)
        1 Pclmulqdq Max (PCLMULQDQ)
        9 Ssse3 V2 (SSSE3)
        12 Fma V3 (FMA)
        13 Cmpxchg16b V2 (CMPXCHG16B)
        17 Pcid V2 ()
        19 Sse41 V2 (SSE4_1)
        20 Sse42 V2 (SSE4_2)
        21 X2apic V2 ()
        22 Movbe V3 (MOVBE)
        23 Popcnt V2 (POPCNT)
        24 TscDeadline V2 ()
        25 Aes Max (AES)
        26 Xsave V3 (XSAVE)
        28 Avx V3 (AVX)
        29 F16c V3 (F16C)
        30 Rdrand Max (RDRAND)
    }
    6 0 Eax {
        // The APIC timer always runs.
        2 Arat V2 ()
    }
    7 0 Ebx {
        0 Fsgsbase V3 (FSGSBASE)
        1 TscAdjust V2 ()
        3 Bmi1 V3 (BMI1)
        5 Avx2 V3 (AVX2)
        7 Smep V3 ()
        8 Bmi2 V3 (BMI2)
        9 Erms V3 ()
        10 Invpcid V3 (INVPCID)
        // FCS and FDS are deprecated.
        13 DeprecatedSelectors V2 ()
        18 Rdseed Max (RDSEED)
        19 Adx Max (ADX)
        20 Smap Max (SMAP)
        23 Clflushopt Max (CLFLUSHOPT)
        24 Clwb Max (CLWB)
        29 Sha Max (SHA)
    }
    7 0 Ecx {
        2 Umip Max ()
        3 Pku Max (PKU)
        8 Gfni Max (GFNI)
        9 Vaes Max (VAES)
        10 Vpclmulqdq Max (VPCLMULQDQ)
        16 La57 Max ()
        22 Rdpid Max (RDPID)
        25 Cldemote Max (CLDEMOTE)
        27 Movdiri Max (MOVDIRI)
        28 Movdir64b Max (MOVDIR64B)
    }
    7 0 Edx {
        4 Fsrm Max ()
        14 Serialize Max (SERIALIZE)
        // Registers by which kernels learn that there are no speculation flaws; every model has them, so that none spends time.
        26 Ibrs V2 ()
        27 Stibp V2 ()
        29 ArchCapabilities V2 ()
        31 Ssbd V2 ()
    }
    7 1 Eax {
        // Fast REP MOVSB of nothing, fast short REP STOSB, fast short REP CMPSB and SCASB.
        10 Fzrm Max ()
        11 Fsrs Max ()
        12 Fsrc Max ()
        26 Lam Max ()
    }
    7 2 Edx {
        // BHI_DIS_S of IA32_SPEC_CTRL. Kernels clear the branch history by software on each system call where a processor
        // with enhanced IBRS lacks it.
        4 BhiCtrl V2 ()
    }
    0xd 1 Eax {
        0 Xsaveopt Max (XSAVEOPT)
        1 Xsavec Max (XSAVEC)
        2 Xgetbv1 Max ()
        3 Xsaves Max (XSAVES)
    }
    0x8000_0001 0 Ecx {
        0 Lahf64 V2 ()
        5 Lzcnt V3 (LZCNT)
        8 Prefetchw Max (PREFETCHW)
    }
    0x8000_0001 0 Edx {
        11 Syscall V2 (SYSCALL)
        20 Nx V2 ()
        26 Page1gb V2 ()
        27 Rdtscp V2 (RDTSCP)
        29 LongMode V2 (X64)
    }
    0x8000_0007 0 Edx {
        8 InvariantTsc V2 ()
    }
    0x8000_0008 0 Ebx {
        9 Wbnoinvd Max (WBNOINVD)
    }
}

/// Instructions that came without a bit of CPUID, or before there was one.
const ALWAYS: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CPUID,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDPMC,
];

/// A bit for each of iced's features.
type Set = [u64; 3];

/// The instructions of each model.
static INSTRUCTIONS: [Set; 3] = [instructions(Model::V2), instructions(Model::V3), instructions(Model::Max)];

const fn instructions(model: Model) -> Set {
    let mut set = with([0; 3], ALWAYS);
    let mut k = 0;
    while k < LIST.len() {
        if LIST[k].since as u8 <= model as u8 {
            set = with(set, LIST[k].instructions);
        }
        k += 1;
    }
    set
}

const fn with(mut set: Set, features: &[CpuidFeature]) -> Set {
    let mut k = 0;
    while k < features.len() {
        let at = features[k] as usize;
        set[at / 64] |= 1 << (at % 64);
        k += 1;
    }
    set
}
