//! Random bytes, faulting and branching ones included, compared with the host's own CPU one step at a time: the emulated
//! CPU against a process that is traced.

use iced_x86::{Code, CpuidFeature as F};
use softmetal_cpu::Options;
use softmetal_cpu_testing::{
    Random, Segments, forms,
    layout::SCRATCH_SIZE,
    options,
    process::{Case, Process, random_bytes},
    random::cases,
    translated,
};
use std::{collections::BTreeMap, time::Instant};

/// Features of which every instruction is compared.
const FEATURES: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::X64,
    F::CMOV,
    F::CX8,
    F::CMPXCHG16B,
    F::MULTIBYTENOP,
    F::POPCNT,
    F::LZCNT,
    F::MOVBE,
    F::BMI1,
    F::BMI2,
    F::ADX,
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::MMX,
    F::SSE,
    F::SSE2,
    F::FXSR,
    F::FSGSBASE,
    F::PAUSE,
    F::CLFSH,
    F::SSE3,
    F::SSSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::AES,
    F::PCLMULQDQ,
    F::SHA,
    F::GFNI,
    F::AVX,
    F::AVX2,
    F::FMA,
    F::F16C,
    F::VAES,
    F::VPCLMULQDQ,
];

fn run(segments: Segments, seed: u64, count: u64) {
    run_with(options()[0], segments, seed, count);
}

fn run_with(options: Options, segments: Segments, seed: u64, count: u64) {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut process) = Process::new(options, FEATURES) else { return };
    if !process.enter(segments) {
        return;
    }
    let codes: Vec<Code> = forms::codes_for(segments.bitness(), FEATURES);
    let mut random = Random::new(seed);
    let mut scratch = vec![0; SCRATCH_SIZE as usize];
    let (mut ran, mut faulted, mut skipped) = (0, 0, 0);
    let mut wrong: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let start = Instant::now();
    for k in 0..cases(count) {
        if k % 512 == 0 {
            for chunk in scratch.chunks_mut(8) {
                chunk.copy_from_slice(&random.operand().to_le_bytes());
            }
            process.set_scratch(&scratch);
        }
        let bytes = random_bytes(segments, &codes, &mut random);
        let insn = process.decode(&bytes);
        let user = process.state(&insn, &mut random);
        match process.check(&bytes, &user) {
            Ok(Case::Ran) => ran += 1,
            Ok(Case::Faulted) => faulted += 1,
            Ok(Case::Skipped) => skipped += 1,
            Err(report) => {
                let name = if insn.is_invalid() {
                    format!("bad {:02x?}", &bytes[..4])
                } else {
                    format!("{:?}", insn.code())
                };
                wrong.entry(name).or_insert((0, report)).0 += 1
            }
        }
    }
    let rate = (ran + faulted) as f64 / start.elapsed().as_secs_f64();
    println!("{segments:x?}: {ran} ran, {faulted} faulted, {skipped} skipped, {rate:.0} a second");
    let total: u64 = wrong.values().map(|(n, _)| n).sum();
    let reports: Vec<String> =
        wrong.into_iter().map(|(code, (n, r))| format!("{code}, {n} times: {r}")).collect();
    assert!(ran > 0 && faulted > 0, "some cases run, and some fault");
    assert!(reports.is_empty(), "{total} cases differ from the host:\n{}", reports.join("\n"));
}

#[test]
fn random_bytes_of_64_bit_code() {
    run(Segments::LONG, 1, 40_000);
}

#[test]
fn random_bytes_of_32_bit_code() {
    run(Segments::FLAT32, 2, 20_000);
    run(Segments::LOCAL32, 3, 20_000);
}

#[test]
fn translated_random_bytes() {
    run_with(translated(0), Segments::LONG, 6, 5000);
    run_with(translated(0), Segments::FLAT32, 7, 2500);
    run_with(translated(0), Segments::LOCAL32, 8, 1000);
    run_with(translated(0), Segments::LOCAL16, 9, 1000);
}

#[test]
fn random_bytes_of_16_bit_code() {
    run(Segments::LOCAL16, 4, 20_000);
    run(Segments::WIDE_STACK16, 5, 20_000);
}
