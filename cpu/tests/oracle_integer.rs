//! Integer instructions, compared with the host's own CPU: all 8-bit operands, then random forms of every instruction.

use iced_x86::{Code, CpuidFeature as F, Encoder, Instruction, Mnemonic, Register};
use softmetal_cpu::Options;
use softmetal_cpu_testing::{
    compare::{Differences, Pair, blank, flags_text},
    flag, forms,
    layout::*,
    options,
    sweep::{Sweep, Swept, blocks},
};

fn encode(insn: &Instruction) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    encoder.encode(insn, INSN).expect("an instruction of 64-bit mode");
    encoder.take_buffer()
}

/// Runs `op al, cl` for all values of AL and CL and both carries.
fn all_pairs(codes: &[Code]) {
    let Some(mut pair) = Pair::new() else { return };
    let mut differences = Differences::default();
    for &code in codes {
        let insn = match code.op_code().op_count() {
            1 => Instruction::with1(code, Register::CL),
            _ => Instruction::with2(code, Register::AL, Register::CL),
        };
        pair.load(&encode(&insn.expect("register operands")));
        let mut user = blank();
        for carry in [0, flag::STATUS] {
            for n in 0..0x1_0000u64 {
                user.gpr[0] = 0x1122_3344_5566_0000 | n & 0xff;
                user.gpr[1] = 0x8877_6655_4433_2200 | n >> 8;
                user.rflags = 0x202 | carry;
                differences.check(&mut pair, &user);
            }
        }
    }
    differences.assert_none();
}

#[test]
fn all_8_bit_pairs_of_the_alu() {
    use Code::*;
    all_pairs(&[
        Add_rm8_r8,
        Or_rm8_r8,
        Adc_rm8_r8,
        Sbb_rm8_r8,
        And_rm8_r8,
        Sub_rm8_r8,
        Xor_rm8_r8,
        Cmp_rm8_r8,
        Test_rm8_r8,
    ]);
}

#[test]
fn all_8_bit_products() {
    all_pairs(&[Code::Mul_rm8, Code::Imul_rm8]);
}

#[test]
fn all_8_bit_shifts_and_rotates_with_all_counts() {
    use Code::*;
    all_pairs(&[
        Rol_rm8_CL, Ror_rm8_CL, Rcl_rm8_CL, Rcr_rm8_CL, Shl_rm8_CL, Shr_rm8_CL, Sar_rm8_CL, Sal_rm8_CL,
    ]);
}

#[test]
fn all_8_bit_values_of_one_operand() {
    use Code::*;
    let Some(mut pair) = Pair::new() else { return };
    let mut differences = Differences::default();
    for code in [Inc_rm8, Dec_rm8, Neg_rm8, Not_rm8] {
        pair.load(&encode(&Instruction::with1(code, Register::AH).expect("a register operand")));
        let mut user = blank();
        for flags in 0..64 {
            for n in 0..256 {
                user.gpr[0] = 0x1122_3344_5566_0077 | n << 8;
                user.rflags = 0x202
                    | (flags & 1)
                    | (flags & 2) << 1
                    | (flags & 4) << 2
                    | (flags & 0x18) << 3
                    | (flags & 0x20) << 6;
                differences.check(&mut pair, &user);
            }
        }
    }
    differences.assert_none();
}

/// All dividends of 16 bits with some divisors, #DE included.
#[test]
fn all_8_bit_quotients_of_some_divisors() {
    let Some(mut pair) = Pair::new() else { return };
    let mut differences = Differences::default();
    for code in [Code::Div_rm8, Code::Idiv_rm8] {
        pair.load(&encode(&Instruction::with1(code, Register::CL).expect("a register operand")));
        let mut user = blank();
        for divisor in [0, 1, 2, 3, 7, 0x10, 0x7f, 0x80, 0x81, 0xfe, 0xff] {
            for n in (0..0x1_0000).step_by(3) {
                user.gpr[0] = 0x1122_3344_5566_0000 | n;
                user.gpr[1] = divisor;
                // A fault costs the host a signal.
                if divisor == 0 && n > 30 || n >> 8 >= divisor && code == Code::Div_rm8 && n % 64 != 0 {
                    continue;
                }
                differences.check(&mut pair, &user);
            }
        }
    }
    differences.assert_none();
}

fn is_integer(code: Code) -> bool {
    use Mnemonic as M;
    let sse2 = code.cpuid_features().contains(&F::SSE2);
    let vendors_differ = matches!(
        code,
        // 0F 0D with a register is a NOP on Intel and undefined on AMD.
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
            // Reads two bytes on Intel, four on AMD.
            | Code::Movsxd_r16_rm16
    );
    !vendors_differ && (!sse2 || matches!(code.mnemonic(), M::Movnti | M::Pause | M::Lfence | M::Mfence))
}

fn integer_codes() -> Vec<Code> {
    forms::codes(forms::INTEGER).into_iter().filter(|&code| is_integer(code)).collect()
}

fn sweep(seed: u64, forms: u64, options: Options) -> Option<Swept> {
    let codes = integer_codes();
    Sweep { codes: &codes, seed, forms, states: 8, prepare: &|_, _, _| (), strict: false, options }.run()
}

#[test]
fn random_forms_of_every_integer_instruction() {
    let Some(swept) = sweep(1, 150, options()[0]) else { return };
    println!("{} codes, {} cases; skipped {:?}", swept.ran.len(), swept.differences.cases, swept.skipped);
    swept.differences.assert_none();
    assert!(swept.ran.len() > 550, "all codes that may run on the host have forms");
}

#[test]
fn the_same_without_speed_ups() {
    for (k, options) in options().into_iter().enumerate().skip(2) {
        // Each form is translated.
        let forms = if options.jit.is_some() { 8 } else { 20 };
        let Some(swept) = sweep(3 + k as u64, forms, options) else { return };
        swept.differences.assert_none();
    }
}

/// Runs of instructions, so that flags and registers pass from any of them to any other.
#[test]
fn random_blocks() {
    for (k, options) in options().into_iter().enumerate() {
        let count = if options.jit.is_some() { 800 } else { 2000 };
        let Some(differences) = blocks(&integer_codes(), 10 + k as u64, count, options) else { return };
        differences.assert_none();
    }
}

/// Prints which status flags differ from this host's, those included that the manual leaves undefined.
#[test]
#[ignore = "a report, for those who choose what undefined flags become"]
fn census() {
    for (code, flags) in sweep(2, 60, options()[0]).unwrap_or_default().ran {
        if flags != 0 {
            println!("{code:?}: {}", flags_text(flags));
        }
    }
}
