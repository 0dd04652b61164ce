//! 16- and 32-bit code of protected mode, compared with the host's own CPU.

use iced_x86::{Code, CpuidFeature as F, Mnemonic as M};
use softmetal_cpu_testing::{Segments, forms, options, sweep::Sweep};

const INTEGER: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::X64,
    F::CMOV,
    F::CX8,
    F::MULTIBYTENOP,
    F::POPCNT,
    F::LZCNT,
    F::MOVBE,
    F::BMI1,
    F::BMI2,
    F::ADX,
    F::SSE2,
];

fn integer(code: Code) -> bool {
    let sse2 = code.cpuid_features().contains(&F::SSE2);
    let vendors_differ = matches!(
        code,
        // 0F 0D with a register is a NOP on Intel and undefined on AMD.
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D
    );
    !vendors_differ && (!sse2 || matches!(code.mnemonic(), M::Movnti | M::Pause | M::Lfence | M::Mfence))
}

#[test]
fn random_forms_of_every_integer_instruction() {
    for (k, segments) in Segments::LEGACY.into_iter().enumerate() {
        let codes: Vec<Code> =
            forms::codes_for(segments.bitness(), INTEGER).into_iter().filter(|&code| integer(code)).collect();
        let sweep = Sweep {
            codes: &codes,
            seed: 100 + k as u64,
            forms: 40,
            states: 8,
            prepare: &|_, _, _| (),
            strict: false,
            options: options()[0],
        };
        let Some(swept) = sweep.run_in(segments) else { continue };
        println!(
            "{segments:x?}: {} codes, {} cases, {} codes that do not run there",
            swept.ran.len(),
            swept.differences.cases,
            swept.skipped.len()
        );
        swept.differences.assert_none();
    }
}
