//! Programs of random instructions and branches, translated and interpreted: after the same number of instructions both are in
//! the same state. They loop, call, fault and are resumed elsewhere, and some change their own code.

use iced_x86::{Code, Mnemonic as M, code_asm::*};
use softmetal_cpu::{CpuState, Exit, Options, Translate, state::efer};
use softmetal_cpu_testing::{
    Level, Machine, Random, Segments, assemble, assemble_for, forms, layout::*, options, pte, random::cases,
};

/// Two pages of code, and where they can be written.
const PAGES: u64 = 2;
const ALIAS: u64 = CODE - 0x10_0000;
/// Where the second page lies.
const SECOND: u64 = CODE_FRAME + 0x1000;
/// What the handler of all exceptions adds up, and the addresses at which it goes on, 16 of them.
const SUM: u64 = KERNEL_DATA;
const PADS: u64 = KERNEL_DATA + 0x100;

/// A block of a program: its bytes, and where in them the distance to another block stands.
struct Block {
    bytes: Vec<u8>,
    branches: Vec<(usize, usize)>,
}

struct Program {
    segments: Segments,
    code: Vec<u8>,
    /// Addresses of its blocks.
    blocks: Vec<u64>,
    registers: [u64; 16],
    mxcsr: u32,
}

/// Those with answers of their own, those that need a system, and those that go elsewhere.
fn fits(code: Code) -> bool {
    !matches!(
        code.mnemonic(),
        M::Rdtsc
            | M::Rdtscp
            | M::Rdrand
            | M::Rdseed
            | M::Rdpmc
            | M::Cpuid
            | M::Syscall
            | M::Sysenter
            | M::Hlt
    ) && !code.op_code().fwait()
}

/// A memory operand whose base is a register needs one that leads somewhere: the scratch memory, flags unchanged.
fn aim(segments: Segments, register: usize, random: &mut Random, bytes: &mut Vec<u8>) {
    if segments != Segments::LONG {
        // mov r32, imm32
        bytes.push(0xb8 | register as u8);
        bytes.extend(((DATA + random.below(0x2000)) as u32).to_le_bytes());
        return;
    }
    let (b, x) = ((register >> 3) as u8, (register & 7) as u8);
    // movzx r32, r8; lea r64, [r64 + r64*8 + DATA]
    bytes.extend([0x40 | b << 2 | b, 0x0f, 0xb6, 0xc0 | x << 3 | x]);
    bytes.extend([0x48 | b << 2 | b << 1 | b, 0x8d, 0x84 | x << 3, 0xc0 | x << 3 | x]);
    bytes.extend((DATA as u32).to_le_bytes());
}

fn instruction(segments: Segments, random: &mut Random, codes: &[Code], bytes: &mut Vec<u8>) {
    let Some(form) = forms::form_in(segments, random.pick(codes), random) else { return };
    let insn = form.insn;
    let index = insn.memory_index();
    if index.is_gpr() && index.size() >= 4 && !random.once_in(8) {
        // mov r32, imm32
        let number = index.full_register().number() as u8;
        bytes.extend((number > 7).then_some(0x41));
        bytes.push(0xb8 | number & 7);
        bytes.extend((random.below(0x100) as u32).to_le_bytes());
    }
    let base = insn.memory_base();
    if base.is_gpr() && base.size() >= 4 && !random.once_in(8) {
        let number = base.full_register().number();
        if number != 4 && base != index {
            aim(segments, number, random, bytes);
        }
    }
    bytes.extend(form.bytes);
}

impl Program {
    fn new(segments: Segments, random: &mut Random, codes: &[Code], changes: bool) -> Program {
        let count = 3 + random.below(22) as usize;
        let mut places = Vec::new();
        let mut blocks = Vec::new();
        for _ in 0..count {
            let mut block = Block { bytes: Vec::new(), branches: Vec::new() };
            for _ in 0..random.below(9) {
                instruction(segments, random, codes, &mut block.bytes);
            }
            if changes && random.once_in(2) {
                // mov r32, imm32: what others change.
                block.bytes.push(0xb8 | random.pick(&[0, 1, 2, 3, 5, 6, 7]));
                places.push((blocks.len(), block.bytes.len()));
                block.bytes.extend((random.operand() as u32).to_le_bytes());
            }
            if changes && random.once_in(4) && !places.is_empty() {
                // mov [where an immediate stands], al; its address comes later.
                let (which, offset) = random.pick(&places);
                block.bytes.extend([0x88, 0x04, 0x25]);
                let mark = 0x8000_0000 | (which << 12 | offset) as u32;
                block.bytes.extend(mark.to_le_bytes());
            }
            let other = random.below(count as u64) as usize;
            let near = |block: &mut Block, opcode: &[u8]| {
                block.bytes.extend(opcode);
                block.branches.push((block.bytes.len(), other));
                block.bytes.extend([0; 4]);
            };
            match random.below(12) {
                0..=5 => near(&mut block, &[0x0f, 0x80 | random.next() as u8 & 15]),
                6 => near(&mut block, &[0xe9]),
                7 => near(&mut block, &[0xe8]),
                // LOOP, LOOPE, LOOPNE or JRCXZ over a short jump over a near one.
                8 => near(&mut block, &[0xe0 | random.next() as u8 & 3, 2, 0xeb, 5, 0xe9]),
                9 => block.bytes.push(0xc3),
                10 if segments == Segments::LONG => {
                    // lea rax, [rip+..]; jmp or call rax
                    near(&mut block, &[0x48, 0x8d, 0x05]);
                    block.bytes.extend([0xff, random.pick(&[0xe0, 0xd0])]);
                }
                11 if segments == Segments::LONG => {
                    // lea rax, [rip+..]; add edx, ..
                    near(&mut block, &[0x48, 0x8d, 0x05]);
                    block.bytes.extend([0x81, 0xc2]);
                    block.bytes.extend((random.next() as u32 | 1).to_le_bytes());
                    for bit in 0..random.below(9) as u8 {
                        // lea rcx, [rip+..]; bt edx, bit; cmovc rax, rcx
                        let another = random.below(count as u64) as usize;
                        block.bytes.extend([0x48, 0x8d, 0x0d]);
                        block.branches.push((block.bytes.len(), another));
                        block.bytes.extend([0; 4]);
                        block.bytes.extend([0x0f, 0xba, 0xe2, bit, 0x48, 0x0f, 0x42, 0xc1]);
                    }
                    block.bytes.extend([0xff, random.pick(&[0xe0, 0xe0, 0xd0])]);
                }
                _ => {}
            }
            blocks.push(block);
        }
        let mut at = CODE + random.below(0x400);
        let mut starts = Vec::new();
        for block in &blocks {
            starts.push(at);
            at += block.bytes.len() as u64 + random.below(3) * random.below(40);
        }
        let mut code = vec![0x90; (PAGES << 12) as usize];
        for (block, &start) in blocks.iter().zip(&starts) {
            let mut bytes = block.bytes.clone();
            for &(place, to) in &block.branches {
                let from = start + place as u64 + 4;
                bytes[place..place + 4]
                    .copy_from_slice(&(starts[to].wrapping_sub(from) as u32).to_le_bytes());
            }
            for k in 0..bytes.len().saturating_sub(6) {
                let word = u32::from_le_bytes([bytes[k + 3], bytes[k + 4], bytes[k + 5], bytes[k + 6]]);
                if changes && bytes[k..k + 3] == [0x88, 0x04, 0x25] && word >> 31 == 1 {
                    let (which, offset) = ((word as usize & 0x7fff_ffff) >> 12, u64::from(word & 0xfff));
                    if let Some(&start) = starts.get(which) {
                        let there = (start - CODE + ALIAS + offset) as u32;
                        bytes[k + 3..k + 7].copy_from_slice(&there.to_le_bytes());
                    }
                }
            }
            let from = (start - CODE) as usize;
            let Some(room) = code.get_mut(from..from + bytes.len()) else { break };
            room.copy_from_slice(&bytes);
        }
        // The last goes back to the first.
        let end = code.len() - 5;
        let back = (starts[0].wrapping_sub(CODE + (PAGES << 12))) as u32;
        code[end] = 0xe9;
        code[end + 1..].copy_from_slice(&back.to_le_bytes());
        let registers = std::array::from_fn(|_| random.operand());
        // All exceptions masked, most of the time; each rounding, FTZ and DAZ.
        let mxcsr =
            random.pick(&[0x1f80, 0x1f80, 0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x9fc0, 0x1fc0, 0x0f80, 0x1f00]);
        Program { segments, code, blocks: starts, registers, mxcsr }
    }

    fn machine(&self, options: Options) -> Machine {
        let mut m = Machine::new(options);
        m.map(CODE + 0x1000, SECOND, Level::Small, pte::P | pte::U);
        for page in 0..PAGES {
            let frame = CODE_FRAME + (page << 12);
            m.map(ALIAS + (page << 12), frame, Level::Small, pte::P | pte::W | pte::U | pte::NX);
        }
        m.write(CODE_FRAME, &self.code[..0x1000]);
        m.write(SECOND, &self.code[0x1000..]);
        for (k, at) in self.blocks.iter().cycle().take(16).enumerate() {
            m.write_u64(PADS + 8 * k as u64, *at);
        }
        let handler = assemble(KERNEL_CODE, |a| {
            // With the error code, the frame has one form.
            a.push(0)?;
            let mut coded = a.create_label();
            a.set_label(&mut coded)?;
            a.push(rax)?;
            a.push(rcx)?;
            a.mov(rax, qword_ptr(rsp + 24))?;
            a.add(rax, qword_ptr(rsp + 16))?;
            a.rol(qword_ptr(SUM), 5)?;
            a.add(qword_ptr(SUM), rax)?;
            a.mov(rax, qword_ptr(rsp + 40))?;
            a.add(qword_ptr(SUM), rax)?;
            a.and(eax, 0xcd5)?;
            a.or(eax, 0x202)?;
            a.mov(qword_ptr(rsp + 40), rax)?;
            a.mov(rcx, qword_ptr(SUM))?;
            a.and(ecx, 15)?;
            a.mov(rcx, qword_ptr(PADS as i32 + rcx * 8))?;
            a.mov(qword_ptr(rsp + 24), rcx)?;
            a.mov(qword_ptr(rsp + 32), i32::from(self.segments.cs))?;
            a.mov(qword_ptr(rsp + 48), USER_STACK as i32)?;
            a.mov(ecx, i32::from(self.segments.ss))?;
            a.mov(qword_ptr(rsp + 56), rcx)?;
            a.mov(ds, ecx)?;
            a.mov(es, ecx)?;
            a.pop(rcx)?;
            a.pop(rax)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        m.program(&handler);
        for v in 0..=255 {
            let pushes = matches!(v, 8 | 10..=14 | 17 | 21);
            m.gate(v, KERNEL_CODE + if pushes { 2 } else { 0 }, 0, 3, 0xe);
        }
        let mut state = Machine::user_state_in(self.segments);
        state.gpr = self.registers;
        state.gpr[4] = USER_STACK;
        state.mxcsr = self.mxcsr;
        state.rip = self.blocks[0];
        state.efer &= !efer::SCE;
        m.cpu.set_state(&state);
        m
    }
}

/// All that a run may change, after a number of instructions.
fn after(m: &mut Machine, instructions: u64) -> (Exit, u64, CpuState, Vec<u8>) {
    let exit = m.cpu.run_for(instructions);
    let mut memory = m.bytes(SCRATCH_FRAME, SCRATCH_SIZE as usize);
    memory.extend(m.bytes(CODE_FRAME, 0x1000));
    memory.extend(m.bytes(SECOND, 0x1000));
    memory.extend(m.bytes(SUM, 8));
    (exit, m.cpu.instructions(), m.cpu.state(), memory)
}

fn run(segments: Segments, seed: u64, count: u64, codes: &[Code], changes: bool, slices: &[u64]) {
    const COUNTING: Options = Options {
        jit: None,
        no_chain: false,
        no_specialise: false,
        no_fuse: false,
        no_tlb: false,
        model: softmetal_cpu::Model::Max,
        lacking: softmetal_cpu::Lacking::NONE,
        cpus: 1,
        counting: true,
    };
    let (mut entered, mut paths, mut instructions, mut faults) = (0, 0, 0, 0);
    for n in 0..cases(count) {
        let mut random = Random::new(seed + n);
        let program = Program::new(segments, &mut random, codes, changes);
        let (threshold, one_pass) = [
            (0, None),
            (u32::MAX, Some(0)),
            (3, Some(0)),
            (1, None),
            (u32::MAX, Some(2)),
            (20, Some(1)),
            (20, None),
        ][n as usize % 7];
        let jit = Some(Translate { threshold, at_once: true, one_pass, paths: one_pass.map(|n| n + 2) });
        let translated = Options { jit, no_tlb: n % 5 == 4, ..COUNTING };
        let (mut a, mut b) = (program.machine(COUNTING), program.machine(translated));
        for (k, &slice) in slices.iter().enumerate() {
            let (want, got) = (after(&mut a, slice), after(&mut b, slice));
            if want == got {
                continue;
            }
            let differing: Vec<usize> =
                (0..want.3.len()).filter(|&k| want.3[k] != got.3[k]).take(20).collect();
            panic!(
                "program {} with thresholds {one_pass:?}, {threshold}, slice {k}: {:?} after {} and {:?} after {}\n{}\ntranslated:\n{}\nmemory \
                 that differs: {differing:x?}",
                seed + n,
                want.0,
                want.1,
                got.0,
                got.1,
                want.2,
                got.2
            );
        }
        let done = b.cpu.statistics();
        (instructions, faults) =
            (instructions + done.instructions, faults + done.exceptions.iter().sum::<u64>());
        if let Some((counters, _)) = b.cpu.translations() {
            (entered, paths) = (entered + counters.entered, paths + counters.paths);
        }
    }
    println!(
        "{instructions} instructions, {faults} faults, translated code entered {entered} times, {paths} paths"
    );
    assert!(entered > count, "what is to be translated is");
    assert!(paths > 0 || cfg!(not(target_arch = "x86_64")), "blocks that follow each other are paths");
}

const SLICES: [u64; 4] = [1000, 700, 2500, 4000];

fn integer_codes() -> Vec<Code> {
    forms::codes(forms::INTEGER).into_iter().filter(|&code| fits(code)).collect()
}

#[test]
fn integer_programs() {
    run(Segments::LONG, 1000, 60, &integer_codes(), false, &SLICES);
}

/// Few kinds of instructions, as programs have them: more of them run between two faults.
#[test]
fn plain_programs() {
    let plain = |code: Code| {
        use M::{
            Adc, Add, And, Cmovb, Cmove, Cmovl, Cmp, Dec, Imul, Inc, Lea, Mov, Movsx, Movsxd, Movzx, Neg,
            Not, Or, Rol, Sar, Sbb, Setb, Setg, Setp, Shl, Shr, Sub, Test, Xor,
        };
        matches!(
            code.mnemonic(),
            Adc | Add
                | And
                | Cmovb
                | Cmove
                | Cmovl
                | Cmp
                | Dec
                | Imul
                | Inc
                | Lea
                | Mov
                | Movsx
                | Movsxd
                | Movzx
                | Neg
                | Not
                | Or
                | Rol
                | Sar
                | Sbb
                | Setb
                | Setg
                | Setp
                | Shl
                | Shr
                | Sub
                | Test
                | Xor
        )
    };
    let codes: Vec<Code> = integer_codes().into_iter().filter(|&code| plain(code)).collect();
    run(Segments::LONG, 2000, 80, &codes, false, &SLICES);
}

#[test]
fn programs_with_vectors() {
    use iced_x86::CpuidFeature as F;
    let features = [forms::INTEGER, &[F::MMX, F::SSE, F::SSE2, F::SSE4_1, F::AVX, F::AVX2, F::FPU]].concat();
    let codes: Vec<Code> = forms::codes(&features).into_iter().filter(|&code| fits(code)).collect();
    run(Segments::LONG, 3000, 40, &codes, false, &SLICES);
}

/// Little else than what raises flags in MXCSR, reads and writes it: results that nobody reads, exceptions that become unmasked
/// on the way.
#[test]
fn programs_with_floating_point() {
    use iced_x86::CpuidFeature as F;
    let codes: Vec<Code> = forms::codes(&[F::SSE, F::SSE2, F::SSE3, F::SSE4_1, F::AVX, F::FMA, F::F16C])
        .into_iter()
        .filter(|&code| fits(code))
        .collect();
    run(Segments::LONG, 7000, 60, &codes, false, &SLICES);
}

/// x87 and what leaves that unit or wants its state: MMX, the approximations of the interpreter, SSE between them. Control words
/// from memory unmask exceptions at times.
fn x87_codes(bitness: u32) -> Vec<Code> {
    use iced_x86::CpuidFeature as F;
    let features = [F::FPU, F::FPU287, F::FPU387, F::CMOV, F::INTEL8086, F::INTEL386, F::MMX, F::SSE3];
    let x87 = |code: Code| format!("{code:?}").starts_with('F') || code.mnemonic() == M::Wait;
    let others =
        |code: Code| matches!(code.mnemonic(), M::Add | M::Mov | M::Paddd | M::Movq | M::Emms | M::Haddps);
    let all = forms::codes_for(bitness, &features).into_iter();
    all.filter(|&code| x87(code) || others(code)).collect()
}

#[test]
fn programs_with_x87() {
    run(Segments::LONG, 9000, 120, &x87_codes(64), false, &SLICES);
    run(Segments::FLAT32, 9500, 60, &x87_codes(32), false, &SLICES);
}

/// Shuffles, shifts, products and what else works on integers in vector registers, those with functions of their own among them.
#[test]
fn programs_with_integer_vectors() {
    use iced_x86::CpuidFeature as F;
    let features = [F::SSE2, F::SSSE3, F::SSE4_1, F::SSE4_2, F::AVX2, F::AES, F::PCLMULQDQ, F::SHA, F::GFNI];
    let codes: Vec<Code> = forms::codes(&features).into_iter().filter(|&code| fits(code)).collect();
    run(Segments::LONG, 8000, 60, &codes, false, &SLICES);
}

#[test]
fn programs_that_change_themselves() {
    run(Segments::LONG, 4000, 40, &integer_codes(), true, &[1000, 1500, 700]);
}

/// Compatibility mode with flat segments.
#[test]
fn programs_of_32_bits() {
    let codes: Vec<Code> =
        forms::codes_for(32, forms::INTEGER).into_iter().filter(|&code| fits(code)).collect();
    run(Segments::FLAT32, 5000, 60, &codes, false, &SLICES);
    run(Segments::FLAT32, 6000, 20, &codes, true, &[1000, 1500, 700]);
}

/// Where alignment is checked, jumps through memory are calls of the interpreter's function: two that lead to each other.
#[test]
fn jumps_through_memory_where_alignment_is_checked() {
    let jump = |at: u64| assemble_for(64, CODE, |a| a.jmp(qword_ptr(at)));
    for options in options() {
        let mut m = Machine::new(options);
        m.write(CODE_FRAME, &jump(DATA));
        m.write(CODE_FRAME + 0x40, &jump(DATA + 8));
        let data = SCRATCH_FRAME + (DATA - SCRATCH);
        m.write_u64(data, CODE + 0x40);
        m.write_u64(data + 8, CODE);
        let mut state = Machine::user_state_in(Segments::LONG);
        state.rip = CODE;
        state.cr0 |= 1 << 18; // AM
        state.rflags |= 1 << 18; // AC
        m.cpu.set_state(&state);
        assert_eq!(m.cpu.run_for(5001), Exit::Counted);
        assert_eq!(m.cpu.state().rip, CODE + 0x40, "{options:?}");
    }
}
