//! Flags that one block leaves and another looks at, where the operands they follow from are known to the translator in part.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::{End, Machine, Random, assemble, layout::*, options, random::cases};

/// Values that are constants in the code, and those that are loaded.
const VALUES: [u64; 10] =
    [0, 1, 0x0f, 0x13, 0x80, 0xf3, 0x8000, 0x7fff_ffff, 0x8000_0000_0000_0013, u64::MAX];

#[test]
fn known_operands() {
    let code = assemble(KERNEL_CODE, |a| {
        for known in VALUES {
            for (n, _) in VALUES.iter().enumerate() {
                for width in [1, 2, 4, 8] {
                    for operation in 0..5 {
                        a.mov(rax, known)?;
                        a.mov(rcx, qword_ptr(KERNEL_DATA as i32 + 8 * n as i32))?;
                        match (operation, width) {
                            (0, 1) => a.cmp(al, cl)?,
                            (0, 2) => a.cmp(ax, cx)?,
                            (0, 4) => a.cmp(eax, ecx)?,
                            (0, _) => a.cmp(rax, rcx)?,
                            (1, 1) => a.cmp(cl, al)?,
                            (1, 2) => a.cmp(cx, ax)?,
                            (1, 4) => a.cmp(ecx, eax)?,
                            (1, _) => a.cmp(rcx, rax)?,
                            (2, 1) => a.add(al, cl)?,
                            (2, 2) => a.add(ax, cx)?,
                            (2, 4) => a.add(eax, ecx)?,
                            (2, _) => a.add(rax, rcx)?,
                            (3, 1) => a.sub(al, cl)?,
                            (3, 2) => a.sub(ax, cx)?,
                            (3, 4) => a.sub(eax, ecx)?,
                            (3, _) => a.sub(rax, rcx)?,
                            (_, 1) => a.and(al, cl)?,
                            (_, 2) => a.and(ax, cx)?,
                            (_, 4) => a.and(eax, ecx)?,
                            (_, _) => a.and(rax, rcx)?,
                        }
                        let mut next = a.create_label();
                        a.jmp(next)?;
                        a.set_label(&mut next)?;
                        a.pushfq()?;
                        a.pop(rdx)?;
                        a.add(rdi, rdx)?;
                        a.rol(rdi, 5)?;
                        a.add(rdi, rax)?;
                        // A word for each, so that the first that differs is found.
                        a.mov(qword_ptr(rbx), rdi)?;
                        a.add(rbx, 8)?;
                    }
                }
            }
        }
        a.hlt()
    });
    let cases = VALUES.len() * VALUES.len() * 4 * 5;
    let results = KERNEL_DATA + 0x1000;
    let mut first = None;
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        for (n, v) in VALUES.into_iter().enumerate() {
            m.write_u64(KERNEL_DATA + 8 * n as u64, v);
        }
        let mut state = Machine::supervisor_state();
        state.gpr[3] = results;
        m.cpu.set_state(&state);
        assert!(matches!(m.run(), End::Halt(_)), "{options:?}");
        let got: Vec<u64> =
            m.bytes(results, 8 * cases).as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let want = first.get_or_insert_with(|| got.clone());
        let differs = (0..cases).find(|&k| got[k] != want[k]);
        let place =
            differs.map(|k| (VALUES[k / 20 / VALUES.len()], VALUES[k / 20 % VALUES.len()], k / 5 % 4, k % 5));
        assert_eq!(place, None, "known, loaded, width, operation; {options:?}");
    }
}

/// Legacy prefix, REX.W and whether the operands are bytes, for a width.
fn width(random: &mut Random, bytes: &mut Vec<u8>) -> u8 {
    match random.below(4) {
        0 => return 0,
        1 => bytes.push(0x66),
        2 => bytes.push(0x48),
        _ => {}
    }
    1
}

/// RAX, RCX, RDX, RBX, RSI or RDI.
fn register(random: &mut Random) -> u8 {
    random.pick(&[0, 1, 2, 3, 6, 7])
}

/// One instruction, which reads and writes registers, flags and some words at RBP.
fn instruction(random: &mut Random, bytes: &mut Vec<u8>) {
    let (a, b) = (register(random), register(random));
    let both = 0xc0 | a << 3 | b;
    let value = random.pick(&VALUES);
    // [rbp + 8 * k], of a few
    let word = [0x45 | a << 3, 8 * random.below(4) as u8];
    match random.below(16) {
        0 => {
            bytes.push(0xb8 | a);
            bytes.extend((value as u32).to_le_bytes());
        }
        1 => {
            bytes.extend([0x48, 0xb8 | a]);
            bytes.extend(value.to_le_bytes());
        }
        // Of the low four registers, low and high bytes.
        2 => bytes.extend([0xb0 | random.below(8) as u8, value as u8]),
        3..6 => {
            let wide = width(random, bytes);
            bytes.extend([(random.below(8) as u8) << 3 | wide, both]);
        }
        6 => {
            let wide = width(random, bytes);
            let operation = random.below(8) as u8;
            bytes.extend([0x80 | wide | wide << 1, 0xc0 | operation << 3 | b, value as u8]);
        }
        7 => {
            let wide = width(random, bytes);
            // INC, DEC; NOT, NEG.
            let (opcode, operation) = random.pick(&[(0xfe, 0), (0xfe, 1), (0xf6, 2), (0xf6, 3)]);
            bytes.extend([opcode | wide, 0xc0 | operation << 3 | b]);
        }
        8 => {
            let wide = width(random, bytes);
            let operation = random.pick(&[0, 1, 2, 3, 4, 5, 7]);
            match random.once_in(2) {
                true => bytes.extend([0xd2 | wide, 0xc0 | operation << 3 | b]),
                false => bytes.extend([0xc0 | wide, 0xc0 | operation << 3 | b, random.below(70) as u8]),
            }
        }
        9 => bytes.extend([0x0f, 0x90 | random.below(16) as u8, 0xc0 | random.below(8) as u8]),
        10 => bytes.extend([0x48, 0x0f, 0x40 | random.below(16) as u8, both]),
        11 => {
            bytes.push(0x48);
            bytes.extend([0x8b, word[0], word[1]]);
        }
        12 => {
            let wide = width(random, bytes);
            // To memory, and from it.
            let direction = if random.once_in(2) { 2 } else { 0 };
            bytes.extend([(random.below(8) as u8) << 3 | direction | wide, word[0], word[1]]);
        }
        13 => {
            // MOVZX, MOVSX, IMUL, BT, BTS, SHLD, SHRD, XADD, CMPXCHG.
            let opcode = random.pick(&[0xb6, 0xbe, 0xb7, 0xbf, 0xaf, 0xa3, 0xab, 0xa5, 0xad, 0xc1, 0xb1]);
            bytes.extend([0x48, 0x0f, opcode, both]);
        }
        // A branch to the next instruction, either way.
        14 => bytes.extend([0x70 | random.below(16) as u8, 0]),
        // PUSHFQ; POP.
        _ => bytes.extend([0x9c, 0x58 | a]),
    }
}

/// Programs over a handful of values, known and loaded, so that they are equal, or differ in one bit, much of the time.
#[test]
fn few_values() {
    for seed in 0..cases(150) {
        let mut random = Random::new(9000 + seed);
        let mut code = Vec::new();
        for _ in 0..120 {
            instruction(&mut random, &mut code);
        }
        // hlt
        code.push(0xf4);
        let words: [u64; 4] = std::array::from_fn(|_| random.pick(&VALUES));
        let mut first = None;
        for options in options() {
            let mut m = Machine::new(options);
            m.program(&code);
            for (k, v) in words.into_iter().enumerate() {
                m.write_u64(KERNEL_DATA + 8 * k as u64, v);
            }
            let mut state = Machine::supervisor_state();
            state.gpr[5] = KERNEL_DATA;
            m.cpu.set_state(&state);
            assert!(matches!(m.run(), End::Halt(_)), "program {seed}: {options:?}");
            // Of the state, what the program has made: the rest never changes.
            let state = m.cpu.state();
            let got = (state.gpr, state.rflags, m.bytes(KERNEL_DATA, 32));
            assert_eq!(got, *first.get_or_insert_with(|| got.clone()), "program {seed}: {options:?}");
        }
    }
}

/// Numbers of all kinds, and their relations as conditions and as the word of flags, in the block that compares and behind it,
/// where it is left because of a fault, too.
#[test]
fn relations() {
    let numbers =
        [0, 1 << 63, 1, 1f64.to_bits(), (-2f64).to_bits(), f64::INFINITY.to_bits(), f64::NAN.to_bits()];
    let code = assemble(KERNEL_CODE, |a| {
        for first in 0..numbers.len() {
            for second in 0..numbers.len() {
                for way in 0..3 {
                    a.movsd_2(xmm0, qword_ptr(KERNEL_DATA as i32 + 8 * first as i32))?;
                    a.movsd_2(xmm1, qword_ptr(KERNEL_DATA as i32 + 8 * second as i32))?;
                    // All flags are set that a comparison clears.
                    a.mov(eax, 0x7fff_ffff)?;
                    a.add(eax, eax)?;
                    a.xor(ecx, ecx)?;
                    match way {
                        0 => a.comisd(xmm0, xmm1)?,
                        1 => a.ucomisd(xmm0, xmm1)?,
                        // No f32 of these lanes is a NaN.
                        _ => a.comiss(xmm0, xmm1)?,
                    }
                    a.seta(al)?;
                    a.setp(cl)?;
                    a.lea(rax, qword_ptr(rax + 2 * rcx))?;
                    a.setl(cl)?;
                    a.lea(rax, qword_ptr(rax + 4 * rcx))?;
                    // Another block, which takes the flags over from memory.
                    let mut next = a.create_label();
                    a.jmp(next)?;
                    a.set_label(&mut next)?;
                    a.pushfq()?;
                    a.pop(rdx)?;
                    a.add(rdi, rdx)?;
                    a.rol(rdi, 5)?;
                    a.add(rdi, rax)?;
                    // An access to two pages, which translated code leaves to the interpreter.
                    a.comisd(xmm1, xmm0)?;
                    a.mov(eax, dword_ptr(rsi))?;
                    a.pushfq()?;
                    a.pop(rdx)?;
                    a.add(rdi, rdx)?;
                    a.mov(qword_ptr(rbx), rdi)?;
                    a.add(rbx, 8)?;
                }
            }
        }
        a.stmxcsr(dword_ptr(rbx))?;
        a.hlt()
    });
    let mut expected = None;
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        for (k, number) in numbers.into_iter().enumerate() {
            m.write_u64(KERNEL_DATA + 8 * k as u64, number);
        }
        let mut state = Machine::supervisor_state();
        state.gpr[3] = KERNEL_DATA + 0x1000;
        state.gpr[6] = KERNEL_DATA + 0x2ffe;
        m.cpu.set_state(&state);
        let end = m.run();
        assert!(matches!(end, End::Halt(_)), "{options:?}: {end:?}");
        let words: Vec<u64> = (0..numbers.len().pow(2) * 3 + 1)
            .map(|k| m.read_u64(KERNEL_DATA + 0x1000 + 8 * k as u64))
            .collect();
        assert_eq!(words, *expected.get_or_insert_with(|| words.clone()), "{options:?}");
    }
}
