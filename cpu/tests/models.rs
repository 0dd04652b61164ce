//! The models: CPUID of each against the levels of the x86-64 psABI and against itself, and every instruction of iced's
//! tables against the bits of CPUID.

use iced_x86::{Code, CpuidFeature as F, EncodingKind, Mnemonic};
use softmetal_cpu::{Model, Options, state::cr4, testing::is_defined};
use softmetal_cpu_testing::{
    Machine, Segments,
    forms::{codes_for, form_in},
    random::Random,
};

const MODELS: [Model; 3] = [Model::V2, Model::V3, Model::Max];
/// Registers of a leaf.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// A machine of this model, in 64-bit mode at CPL 0 with what its CR4 and XCR0 can enable.
fn machine(model: Model, cpus: usize) -> Machine {
    let mut m = Machine::new(Options { model, cpus, ..Options::default() });
    let mut state = m.cpu.state();
    if model == Model::V2 {
        state.cr4 &= !cr4::OSXSAVE;
        state.xcr0 = 1;
    }
    m.cpu.set_state(&state);
    m
}

fn cpuid_of(m: &mut Machine, leaf: u32, subleaf: u32) -> [u32; 4] {
    m.load(&[0x0f, 0xa2]);
    let mut user = m.cpu.user();
    user.gpr[0] = 0xdead_beef_0000_0000 | u64::from(leaf);
    user.gpr[1] = 0xdead_beef_0000_0000 | u64::from(subleaf);
    user.rip = softmetal_cpu_testing::layout::INSN;
    m.run_user(&mut user).expect("CPUID does not fault");
    let all = [user.gpr[0], user.gpr[3], user.gpr[1], user.gpr[2]];
    assert!(all.iter().all(|v| v >> 32 == 0), "CPUID clears the upper halves");
    all.map(|v| v as u32)
}

#[allow(dead_code)]
fn cpuid(model: Model, leaf: u32, subleaf: u32) -> [u32; 4] {
    cpuid_of(&mut machine(model, 1), leaf, subleaf)
}

/// A place in CPUID: leaf, subleaf, register, bit.
type Place = (u32, u32, usize, u32);

fn has(m: &mut Machine, (leaf, subleaf, register, bit): Place) -> bool {
    cpuid_of(m, leaf, subleaf)[register] >> bit & 1 != 0
}

/// What the psABI counts to x86-64 itself, and to each level beyond it, where CPUID shows it.
const BASE: &[(&str, Place)] = &[
    ("CMOV", (1, 0, EDX, 15)),
    ("CX8", (1, 0, EDX, 8)),
    ("FPU", (1, 0, EDX, 0)),
    ("FXSR", (1, 0, EDX, 24)),
    ("MMX", (1, 0, EDX, 23)),
    ("SCE", (0x8000_0001, 0, EDX, 11)),
    ("SSE", (1, 0, EDX, 25)),
    ("SSE2", (1, 0, EDX, 26)),
];
const LEVEL_2: &[(&str, Place)] = &[
    ("CMPXCHG16B", (1, 0, ECX, 13)),
    ("LAHF-SAHF", (0x8000_0001, 0, ECX, 0)),
    ("POPCNT", (1, 0, ECX, 23)),
    ("SSE3", (1, 0, ECX, 0)),
    ("SSE4_1", (1, 0, ECX, 19)),
    ("SSE4_2", (1, 0, ECX, 20)),
    ("SSSE3", (1, 0, ECX, 9)),
];
const LEVEL_3: &[(&str, Place)] = &[
    ("AVX", (1, 0, ECX, 28)),
    ("AVX2", (7, 0, EBX, 5)),
    ("BMI1", (7, 0, EBX, 3)),
    ("BMI2", (7, 0, EBX, 8)),
    ("F16C", (1, 0, ECX, 29)),
    ("FMA", (1, 0, ECX, 12)),
    ("LZCNT", (0x8000_0001, 0, ECX, 5)),
    ("MOVBE", (1, 0, ECX, 22)),
    ("XSAVE", (1, 0, ECX, 26)),
];
/// Extensions for programs that no level up to the third has.
const BEYOND: &[(&str, Place)] = &[
    ("PCLMULQDQ", (1, 0, ECX, 1)),
    ("AES", (1, 0, ECX, 25)),
    ("RDRAND", (1, 0, ECX, 30)),
    ("RDSEED", (7, 0, EBX, 18)),
    ("ADX", (7, 0, EBX, 19)),
    ("CLFLUSHOPT", (7, 0, EBX, 23)),
    ("CLWB", (7, 0, EBX, 24)),
    ("SHA", (7, 0, EBX, 29)),
    ("PKU", (7, 0, ECX, 3)),
    ("GFNI", (7, 0, ECX, 8)),
    ("VAES", (7, 0, ECX, 9)),
    ("VPCLMULQDQ", (7, 0, ECX, 10)),
    ("RDPID", (7, 0, ECX, 22)),
    ("CLDEMOTE", (7, 0, ECX, 25)),
    ("MOVDIRI", (7, 0, ECX, 27)),
    ("MOVDIR64B", (7, 0, ECX, 28)),
    ("SERIALIZE", (7, 0, EDX, 14)),
    ("LAM", (7, 1, EAX, 26)),
    ("XSAVEOPT", (0xd, 1, EAX, 0)),
    ("XSAVEC", (0xd, 1, EAX, 1)),
    ("XSAVES", (0xd, 1, EAX, 3)),
    ("PREFETCHW", (0x8000_0001, 0, ECX, 8)),
    ("WBNOINVD", (0x8000_0008, 0, EBX, 9)),
];

#[test]
fn levels_are_those_of_the_psabi() {
    for (model, from) in [(Model::V2, 2), (Model::V3, 3), (Model::Max, 4)] {
        let mut m = machine(model, 1);
        for (level, list) in [(1, BASE), (2, LEVEL_2), (3, LEVEL_3), (4, BEYOND)] {
            for &(name, place) in list {
                assert_eq!(has(&mut m, place), level <= from, "{name} of {model:?}");
            }
        }
    }
}

/// Where CPUID shows that the instructions are there which iced counts to a feature; None where it never does.
fn place_of(feature: F) -> Option<Place> {
    Some(match feature {
        F::FPU | F::FPU287 | F::FPU387 => (1, 0, EDX, 0),
        F::TSC => (1, 0, EDX, 4),
        F::MSR => (1, 0, EDX, 5),
        F::CX8 => (1, 0, EDX, 8),
        F::SEP => (1, 0, EDX, 11),
        F::CMOV => (1, 0, EDX, 15),
        F::CLFSH => (1, 0, EDX, 19),
        F::MMX => (1, 0, EDX, 23),
        F::FXSR => (1, 0, EDX, 24),
        F::SSE => (1, 0, EDX, 25),
        F::SSE2 => (1, 0, EDX, 26),
        F::SSE3 => (1, 0, ECX, 0),
        F::PCLMULQDQ => (1, 0, ECX, 1),
        F::MONITOR => (1, 0, ECX, 3),
        F::VMX => (1, 0, ECX, 5),
        F::SMX => (1, 0, ECX, 6),
        F::SSSE3 => (1, 0, ECX, 9),
        F::FMA => (1, 0, ECX, 12),
        F::CMPXCHG16B => (1, 0, ECX, 13),
        F::SSE4_1 => (1, 0, ECX, 19),
        F::SSE4_2 => (1, 0, ECX, 20),
        F::MOVBE => (1, 0, ECX, 22),
        F::POPCNT => (1, 0, ECX, 23),
        F::AES => (1, 0, ECX, 25),
        F::XSAVE => (1, 0, ECX, 26),
        F::AVX => (1, 0, ECX, 28),
        F::F16C => (1, 0, ECX, 29),
        F::RDRAND => (1, 0, ECX, 30),
        F::FSGSBASE => (7, 0, EBX, 0),
        F::SGX1 => (7, 0, EBX, 2),
        F::BMI1 => (7, 0, EBX, 3),
        F::HLE_or_RTM | F::RTM => (7, 0, EBX, 11),
        F::AVX2 => (7, 0, EBX, 5),
        F::BMI2 => (7, 0, EBX, 8),
        F::INVPCID => (7, 0, EBX, 10),
        F::MPX => (7, 0, EBX, 14),
        F::AVX512F => (7, 0, EBX, 16),
        F::RDSEED => (7, 0, EBX, 18),
        F::ADX => (7, 0, EBX, 19),
        F::SMAP => (7, 0, EBX, 20),
        F::CLFLUSHOPT => (7, 0, EBX, 23),
        F::CLWB => (7, 0, EBX, 24),
        F::SHA => (7, 0, EBX, 29),
        F::PREFETCHWT1 => (7, 0, ECX, 0),
        F::PKU => (7, 0, ECX, 3),
        F::WAITPKG => (7, 0, ECX, 5),
        F::CET_SS => (7, 0, ECX, 7),
        F::GFNI => (7, 0, ECX, 8),
        F::VAES => (7, 0, ECX, 9),
        F::VPCLMULQDQ => (7, 0, ECX, 10),
        F::RDPID => (7, 0, ECX, 22),
        F::KL | F::AESKLE | F::WIDE_KL => (7, 0, ECX, 23),
        F::CLDEMOTE => (7, 0, ECX, 25),
        F::MOVDIRI => (7, 0, ECX, 27),
        F::MOVDIR64B => (7, 0, ECX, 28),
        F::ENQCMD => (7, 0, ECX, 29),
        F::UINTR => (7, 0, EDX, 5),
        F::SERIALIZE => (7, 0, EDX, 14),
        F::TSXLDTRK => (7, 0, EDX, 16),
        F::PCONFIG => (7, 0, EDX, 18),
        F::CET_IBT => (7, 0, EDX, 20),
        F::AMX_BF16 => (7, 0, EDX, 22),
        F::AMX_TILE => (7, 0, EDX, 24),
        F::AMX_INT8 => (7, 0, EDX, 25),
        F::RAO_INT => (7, 1, EAX, 3),
        F::SHA512 => (7, 1, EAX, 0),
        F::SM3 => (7, 1, EAX, 1),
        F::SM4 => (7, 1, EAX, 2),
        F::AVX_VNNI => (7, 1, EAX, 4),
        F::CMPCCXADD => (7, 1, EAX, 7),
        F::FRED => (7, 1, EAX, 17),
        F::LKGS => (7, 1, EAX, 18),
        F::WRMSRNS => (7, 1, EAX, 19),
        F::AMX_FP16 => (7, 1, EAX, 21),
        F::HRESET => (7, 1, EAX, 22),
        F::AVX_IFMA => (7, 1, EAX, 23),
        F::MSRLIST => (7, 1, EAX, 27),
        F::AVX_VNNI_INT8 => (7, 1, EDX, 4),
        F::AVX_NE_CONVERT => (7, 1, EDX, 5),
        F::AMX_COMPLEX => (7, 1, EDX, 8),
        F::AVX_VNNI_INT16 => (7, 1, EDX, 10),
        F::PREFETCHITI => (7, 1, EDX, 14),
        F::XSAVEOPT => (0xd, 1, EAX, 0),
        F::XSAVEC => (0xd, 1, EAX, 1),
        F::XSAVES => (0xd, 1, EAX, 3),
        F::PTWRITE => (0x14, 0, EBX, 4),
        F::SVM => (0x8000_0001, 0, ECX, 2),
        F::LZCNT => (0x8000_0001, 0, ECX, 5),
        F::SSE4A => (0x8000_0001, 0, ECX, 6),
        F::PREFETCHW => (0x8000_0001, 0, ECX, 8),
        F::XOP => (0x8000_0001, 0, ECX, 11),
        F::FMA4 => (0x8000_0001, 0, ECX, 16),
        F::TBM => (0x8000_0001, 0, ECX, 21),
        F::MONITORX => (0x8000_0001, 0, ECX, 29),
        F::SYSCALL => (0x8000_0001, 0, EDX, 11),
        F::RDTSCP => (0x8000_0001, 0, EDX, 27),
        F::X64 => (0x8000_0001, 0, EDX, 29),
        F::D3NOWEXT => (0x8000_0001, 0, EDX, 30),
        F::D3NOW => (0x8000_0001, 0, EDX, 31),
        F::CLZERO => (0x8000_0008, 0, EBX, 0),
        F::RDPRU => (0x8000_0008, 0, EBX, 4),
        F::MCOMMIT => (0x8000_0008, 0, EBX, 8),
        F::WBNOINVD => (0x8000_0008, 0, EBX, 9),
        _ => return None,
    })
}

/// Features that every one of these processors has, without a bit for them.
fn always(feature: F) -> bool {
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::CPUID
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::RDPMC
    )
}

/// Encodings that mean something without the extension that gives them their name: hints, and prefixes that are ignored.
fn older_meaning(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Lzcnt
            | M::Tzcnt
            | M::Wbnoinvd
            | M::Cldemote
            | M::Endbr32
            | M::Endbr64
            | M::Rdsspd
            | M::Rdsspq
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Prefetch
    )
}

/// Instructions that iced counts to what is always there, and that no processor with long mode has, or that mean #UD.
fn never(code: Code) -> bool {
    use Mnemonic as M;
    matches!(code.mnemonic(), M::Ud0 | M::Ud1 | M::Ud2) || matches!(code.mnemonic(), M::Rsm)
}

#[test]
fn an_instruction_is_there_exactly_if_cpuid_says_so() {
    let all: Vec<F> = F::values().collect();
    let mut random = Random::new(1);
    for model in MODELS {
        let mut m = machine(model, 1);
        let there: Vec<F> = all
            .iter()
            .copied()
            .filter(|&f| always(f) || place_of(f).is_some_and(|place| has(&mut m, place)))
            .collect();
        let (mut defined, mut undefined, mut wrong) = (0, 0, Vec::new());
        for segments in [Segments::LONG, Segments::FLAT32, Segments::LOCAL16] {
            let bitness = segments.bitness();
            for code in codes_for(bitness, &all) {
                let Some(form) = (0..40).find_map(|_| form_in(segments, code, &mut random)) else { continue };
                // iced gives some encodings to the newest of several instructions.
                let code = form.insn.code();
                if never(code) || code.op_code().encoding() == EncodingKind::D3NOW {
                    continue;
                }
                let expected =
                    code.cpuid_features().iter().all(|f| there.contains(f)) || older_meaning(code.mnemonic());
                if expected != is_defined(&form.bytes, bitness, model) {
                    wrong.push(format!(
                        "{bitness}: {code:?} {:02x?} {:?}",
                        form.bytes,
                        code.cpuid_features()
                    ));
                }
                *if expected { &mut defined } else { &mut undefined } += 1;
            }
        }
        assert!(wrong.is_empty(), "{model:?}: {} are wrong:\n{}", wrong.len(), wrong.join("\n"));
        println!("{model:?}: {defined} encodings defined, {undefined} not");
        assert!(defined > 2500 && undefined > 100, "{model:?}: {defined} {undefined}");
    }
}
