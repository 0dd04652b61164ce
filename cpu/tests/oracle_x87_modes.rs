//! x87 instructions in 16- and 32-bit code of protected mode, compared with the host's own CPU: environments in both
//! sizes, addresses and segments of every kind.

mod float_host;

use iced_x86::{Code, CpuidFeature as F, Mnemonic as M};
use softmetal_cpu_testing::{
    Random, Segments, User,
    compare::{Differences, Pair, blank},
    forms, forms_legacy,
    layout::*,
    random::cases,
};

/// Silicon's own approximations: oracle_vector.rs and float_transcendental.rs have them.
fn transcendental(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
    )
}

/// Whether the operand is one of several accesses and does not lie in one page: makers begin at different ends then, and
/// find another fault first.
fn is_torn(pair: &Pair, user: &User) -> bool {
    let insn = pair.insn();
    let size = insn.memory_size().size() as u64;
    let at = insn.virtual_address(0, 0, |r, _, _| pair.value(user, r)).unwrap_or(0);
    size > 8 && (at & 0xfff) + size > 0x1000
}

#[test]
fn random_forms_of_x87() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let features = [F::INTEL8086, F::FPU, F::FPU287, F::FPU387, F::CMOV, F::SSE3, F::INTEL386];
    for (k, segments) in Segments::LEGACY.into_iter().enumerate() {
        let Some(mut pair) = Pair::new() else { return };
        if !pair.enter(segments) {
            continue;
        }
        let mut random = Random::new(40 + k as u64);
        let mut floats = float_host::Random(0x1234_5678_9abc_def1 + 2 * k as u64);
        let mut found = Differences::default();
        let mut ran = 0;
        for code in forms::codes_for(segments.bitness(), &features) {
            if !format!("{code:?}").starts_with('F') || transcendental(code) {
                continue;
            }
            let before = found.cases;
            let bytes: Vec<u8> = (0..SCRATCH_SIZE / 8)
                .flat_map(|_| {
                    let v = float_host::extended(&mut random, &mut floats, Default::default());
                    if random.once_in(4) {
                        random.operand().to_le_bytes()
                    } else {
                        v.significand.to_le_bytes()
                    }
                })
                .collect();
            pair.set_scratch(&bytes);
            for _ in 0..cases(30) {
                let Some(form) = forms::form_in(segments, code, &mut random) else { continue };
                // The forms with WAIT in front are two instructions.
                if form.insn.code() != code {
                    break;
                }
                pair.load(&form.bytes);
                for _ in 0..8 {
                    let mut user = forms_legacy::aim(segments, &form, &mut random, &blank());
                    user.x87 = float_host::x87(&mut random, &mut floats);
                    if matches!(code.mnemonic(), M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
                        // They clear C1 says the manual; AMD leaves it.
                        user.x87.status &= !0x200;
                    }
                    if pair.confined(&user) && !is_torn(&pair, &user) {
                        found.check(&mut pair, &user);
                    }
                }
            }
            ran += u64::from(found.cases > before);
        }
        println!("{segments:x?}: {ran} codes, {} cases", found.cases);
        found.assert_none();
        assert!(ran > 130, "{ran} codes");
    }
}
