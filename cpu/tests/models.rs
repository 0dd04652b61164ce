//! The models: CPUID of each against the levels of the x86-64 psABI and against itself, and every instruction of iced's
//! tables against the bits of CPUID.

use iced_x86::{Code, CpuidFeature as F, EncodingKind, Mnemonic};
use softmetal_cpu::{CpuState, Model, Options, state::cr4, testing::is_defined};
use softmetal_cpu_testing::{
    Machine, Segments,
    forms::{codes_for, form_in},
    layout::*,
    options, pte,
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
    user.rip = INSN;
    m.run_user(&mut user).expect("CPUID does not fault");
    let all = [user.gpr[0], user.gpr[3], user.gpr[1], user.gpr[2]];
    assert!(all.iter().all(|v| v >> 32 == 0), "CPUID clears the upper halves");
    all.map(|v| v as u32)
}

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

#[test]
fn leaves_beyond_the_last_answer_as_the_last_and_no_others_do() {
    for (model, last) in [(Model::V2, 0x16), (Model::V3, 0x16), (Model::Max, 0x1f)] {
        let [basic, b, c, d] = cpuid(model, 0, 0);
        let vendor: Vec<u8> = [b, d, c].iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!((basic, vendor.as_slice()), (last, b"GenuineIntel".as_slice()));
        assert_eq!(cpuid(model, 0x8000_0000, 0), [0x8000_0008, 0, 0, 0]);
        for leaf in [last + 1, 0x4000_0000, 0x7fff_ffff, 0x8000_0009, 0xc000_0000, u32::MAX] {
            assert_eq!(cpuid(model, leaf, 1), cpuid(model, last, 1), "{leaf:x}");
        }
    }
}

#[test]
fn topology_and_caches_agree_for_every_number_of_processors() {
    for cpus in [1usize, 2, 3, 4, 8, 64, 255] {
        for model in MODELS {
            let mut m = machine(model, cpus);
            let bits = cpus.next_power_of_two().trailing_zeros();
            let [_, b, _, d] = cpuid_of(&mut m, 1, 0);
            assert_eq!(b >> 16 & 0xff, (1u32 << bits).min(255), "logical processors of {cpus}");
            assert_eq!((b >> 24, b >> 8 & 0xff), (0, 8), "initial APIC id, CLFLUSH line");
            assert_eq!(d >> 28 & 1 != 0, cpus > 1);
            for leaf in if model == Model::Max { &[0xb, 0x1f][..] } else { &[0xb] } {
                let [threads, cores, none] = [0, 1, 2].map(|k| cpuid_of(&mut m, *leaf, k));
                assert_eq!(threads, [0, 1, 1 << 8, 0], "one thread per core");
                assert_eq!(cores, [bits, cpus as u32, 2 << 8 | 1, 0]);
                assert_eq!(none, [0, 0, 2, 0]);
            }
            let mut sizes = Vec::new();
            for k in 0..4 {
                let [a, b, c, _] = cpuid_of(&mut m, 4, k);
                let level = a >> 5 & 7;
                let sharing = (a >> 14 & 0xfff) + 1;
                assert_eq!(sharing, if level == 3 { 1 << bits } else { 1 }, "who shares cache {k}");
                assert_eq!((a >> 26) + 1, (1u32 << bits).min(64), "cores of the package");
                let (ways, line) = ((b >> 22) + 1, (b & 0xfff) + 1);
                assert_eq!(line, 64);
                sizes.push((level, a & 31, ways * line * (c + 1) >> 10));
            }
            assert_eq!(sizes, [(1, 1, 48), (1, 2, 32), (2, 3, 2048), (3, 3, 16384)]);
            assert_eq!(cpuid_of(&mut m, 4, 4), [0; 4]);
            let l2 = cpuid_of(&mut m, 0x8000_0006, 0)[ECX];
            assert_eq!((l2 >> 16, l2 & 0xff), (2048, 64), "leaf 80000006h says the same as leaf 4");
        }
    }
}

#[test]
fn each_processor_has_its_own_apic_id() {
    let options = Options { cpus: 4, ..Options::default() };
    let mut m = Machine::new(options);
    m.cpu = m.another_cpu(3, options);
    assert_eq!(cpuid_of(&mut m, 1, 0)[EBX] >> 24, 3);
    for (leaf, subleaf) in [(0xb, 0), (0xb, 1), (0x1f, 0), (0x1f, 1)] {
        assert_eq!(cpuid_of(&mut m, leaf, subleaf)[EDX], 3);
    }
}

#[test]
fn sizes_of_leaf_d_are_those_of_the_components_that_are_enabled() {
    assert!((0..4).all(|k| cpuid(Model::V2, 0xd, k) == [0; 4]), "no XSAVE");
    for (model, all, largest) in [(Model::V3, 7u64, 832), (Model::Max, 0x207, 2696)] {
        let mut m = machine(model, 1);
        for xcr0 in [1, 3, 7, 0x203, 0x207].into_iter().filter(|v| v & !all == 0) {
            let mut state = m.cpu.state();
            state.xcr0 = xcr0;
            m.cpu.set_state(&state);
            let [low, enabled, most, high] = cpuid_of(&mut m, 0xd, 0);
            assert_eq!((u64::from(low) | u64::from(high) << 32, most), (all, largest));
            // The end of the last enabled component, as its own subleaf has it; in the compacted format, their sum.
            let (mut standard, mut compacted) = (576, 576);
            for k in (2..63).filter(|k| xcr0 >> k & 1 != 0) {
                let [size, offset, flags, _] = cpuid_of(&mut m, 0xd, k);
                assert!(size > 0 && offset >= 576 && flags == 0, "component {k}");
                standard = standard.max(offset + size);
                compacted += size;
            }
            assert_eq!(enabled, standard, "XCR0 {xcr0:x}");
            let expected = if model == Model::Max { compacted } else { 0 };
            assert_eq!(cpuid_of(&mut m, 0xd, 1)[EBX], expected, "XCR0 {xcr0:x}");
        }
        for k in (2..64).filter(|k| k > &62 || all >> k & 1 == 0) {
            assert_eq!(cpuid_of(&mut m, 0xd, k), [0; 4], "component {k}");
        }
    }
}

#[test]
fn addresses_and_name() {
    for (model, linear) in [(Model::V2, 48), (Model::V3, 48), (Model::Max, 57)] {
        assert_eq!(cpuid(model, 0x8000_0008, 0)[EAX], linear << 8 | 46);
        let name: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| cpuid(model, leaf, 0))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(name.split(|b| *b == 0).next(), Some(softmetal_cpu::BRAND.as_bytes()));
        let processor = u64::from(cpuid(model, 1, 0)[EAX]) | u64::from(cpuid(model, 1, 0)[EDX]) << 32;
        assert_eq!(processor, softmetal_cpu::PROCESSOR_ID);
    }
}

/// Bits of CR4 that belong to a feature, with its place.
const CR4: &[(u64, Place)] = &[
    (cr4::UMIP, (7, 0, ECX, 2)),
    (cr4::FSGSBASE, (7, 0, EBX, 0)),
    (cr4::PCIDE, (1, 0, ECX, 17)),
    (cr4::OSXSAVE, (1, 0, ECX, 26)),
    (cr4::SMEP, (7, 0, EBX, 7)),
    (cr4::SMAP, (7, 0, EBX, 20)),
    (cr4::PKE, (7, 0, ECX, 3)),
    (cr4::LAM_SUP, (7, 1, EAX, 26)),
];

#[test]
fn what_a_model_lacks_is_a_reserved_bit() {
    for model in MODELS {
        let mut m = machine(model, 1);
        let state = m.cpu.state();
        for &(bit, place) in CR4 {
            let there = has(&mut m, place);
            // MOV CR4, RAX
            assert_eq!(run(&mut m, &[0x0f, 0x22, 0xe0], &state, state.cr4 | bit), there, "{model:?} {bit:x}");
        }
        let lam = has(&mut m, (7, 1, EAX, 26));
        for bit in [61, 62] {
            // MOV CR3, RAX
            assert_eq!(
                run(&mut m, &[0x0f, 0x22, 0xd8], &state, state.cr3 | 1 << bit),
                lam,
                "{model:?} {bit}"
            );
        }
        // XSETBV
        for (components, first) in [(1, Model::V3), (3, Model::V3), (7, Model::V3), (0x207, Model::Max)] {
            let may = run(&mut m, &[0x0f, 0x01, 0xd1], &state, components);
            assert_eq!(may, model >= first, "{model:?} {components:x}");
        }
        // WRMSR of IA32_XSS, and of IA32_LSTAR with an address of 57 bits.
        for (msr, high) in [(0xda0, 0), (0xc000_0082, 0x00f0_0000u64)] {
            let mut state = state.clone();
            (state.gpr[1], state.gpr[2]) = (msr, high);
            assert_eq!(run(&mut m, &[0x0f, 0x30], &state, 0), model == Model::Max, "{model:?} {msr:x}");
        }
    }
}

/// Whether an instruction does not fault, from this state with RAX set.
fn run(m: &mut Machine, insn: &[u8], state: &CpuState, rax: u64) -> bool {
    let before = m.cpu.state();
    let mut state = state.clone();
    state.gpr[0] = rax;
    state.rip = INSN;
    m.cpu.set_state(&state);
    m.load(insn);
    let result = m.step();
    // The next one finds the registers as they were.
    m.cpu.set_state(&before);
    result.is_ok()
}

#[test]
fn lzcnt_and_tzcnt_are_bsr_and_bsf_where_they_are_missing() {
    for (model, expected) in [(Model::V2, [7, 4]), (Model::V3, [24, 4]), (Model::Max, [24, 4])] {
        let mut m = machine(model, 1);
        for (insn, expected) in [[0xf3, 0x0f, 0xbd, 0xc3], [0xf3, 0x0f, 0xbc, 0xc3]].iter().zip(expected) {
            m.load(insn);
            let mut user = m.cpu.user();
            (user.rip, user.gpr[0], user.gpr[3], user.rflags) = (INSN, 99, 0x90, 0x202);
            m.run_user(&mut user).expect("it does not fault");
            assert_eq!(user.gpr[0], expected, "{model:?} {insn:x?}");
        }
        // Of zero BSF leaves its destination, and sets ZF; TZCNT gives the width, and sets CF.
        m.load(&[0xf3, 0x0f, 0xbc, 0xc3]);
        let mut user = m.cpu.user();
        (user.rip, user.gpr[0], user.gpr[3], user.rflags) = (INSN, 99, 0, 0x202);
        m.run_user(&mut user).expect("it does not fault");
        assert_eq!(user.gpr[0], if model == Model::V2 { 99 } else { 32 });
        assert_eq!(user.rflags & 0x41, if model == Model::V2 { 0x40 } else { 1 });
    }
}

/// With 5-level paging, LAM_U48 and LAM_U57 ignore bits from 48 and 57 on, and CR4.LAM_SUP from 57 on.
#[test]
fn linear_address_masking_with_five_levels() {
    const PML5: u64 = 0x40_0000;
    const U57: u64 = 1 << 61;
    const U48: u64 = 1 << 62;
    for options in options() {
        let mut m = Machine::new(options);
        m.write_u64(PML5, PML4 | pte::P | pte::W | pte::U);
        m.write_u64(PML5 + 511 * 8, PML4 | pte::P | pte::W | pte::U);
        m.write(SCRATCH_FRAME + 0x1000, &0x1234_5678u32.to_le_bytes());
        let base = CpuState { rip: INSN, ..Machine::supervisor_state() };
        let high = 0xffff_0000_0000_0000 | DATA;
        for (lam, sup, address, there) in [
            (0, false, DATA | 1 << 57, false),
            (U57, false, DATA | 1 << 57, true),
            (U57, false, DATA | 0x3f << 57, true),
            (U57, false, DATA | 1 << 56, false),
            (U48, false, DATA | 0x7fff << 48, true),
            (U48, false, DATA | 1 << 63, false),
            (U57, false, high & !(1 << 60), false),
            (0, true, high, true),
            (0, true, high & !(0x3f << 57), true),
            (0, true, high & !(1 << 56), false),
        ] {
            m.cpu.set_state(&CpuState {
                cr3: PML5 | lam,
                cr4: base.cr4 | cr4::LA57 | if sup { cr4::LAM_SUP } else { 0 },
                ..base.clone()
            });
            // MOV EAX, [RBX]
            m.load(&[0x8b, 0x03]);
            let mut user = m.cpu.user();
            (user.rip, user.gpr[3]) = (INSN, address);
            let result = m.run_user(&mut user);
            assert_eq!(result.is_ok(), there, "{address:x} with {lam:x}, {sup}: {result:?}");
            if there {
                assert_eq!(user.gpr[0], 0x1234_5678);
            }
        }
    }
}
