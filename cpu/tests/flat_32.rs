//! Flat 32-bit code, which has fast handlers of its own: random programs come to the same end on the general ones.

mod legacy_machine;

use iced_x86::{IcedError, code_asm::*};
use legacy_machine::*;
use softmetal_cpu_testing::{
    End, Random,
    layout::{KERNEL_CODE, KERNEL_DATA},
    options,
};

/// Where EBX, ESI and EDI point.
const DATA: u64 = KERNEL_DATA;
const DATA_SIZE: usize = 0x200;
/// ESP.
const TOP: u64 = KERNEL_DATA + 0x9000;
const STACK_SIZE: usize = 0x800;

/// Registers that programs change.
const WIDE: [AsmRegister32; 4] = [eax, ecx, edx, ebp];
const HALF: [AsmRegister16; 4] = [ax, cx, dx, bp];
const BYTE: [AsmRegister8; 6] = [al, ah, cl, ch, dl, dh];

/// One memory operand within the data, by every way to write an address.
fn place(a: &mut CodeAssembler, random: &mut Random) -> Result<AsmMemoryOperand, IcedError> {
    let base = random.pick(&[ebx, esi, edi]);
    let by = random.below(DATA_SIZE as u64 - 8) as i32;
    Ok(match random.below(5) {
        0 => ptr(DATA as i32 + by),
        1 => {
            // The sum goes round 4 GiB.
            let index = random.pick(&WIDE);
            a.mov(index, 0x8000_0000u32)?;
            ptr(base + index * 2 + by)
        }
        2 => {
            let index = random.pick(&WIDE);
            a.and(index, 0xf)?;
            ptr(base + index * 4 + (by & 0xff))
        }
        _ => ptr(base + by),
    })
}

fn memory32(m: AsmMemoryOperand) -> AsmMemoryOperand {
    dword_ptr(m)
}

/// The address of the POP in a register.
fn here(a: &mut CodeAssembler, r: AsmRegister32) -> Result<(), IcedError> {
    let mut next = a.create_label();
    a.call(next)?;
    a.set_label(&mut next)?;
    a.pop(r)
}

/// One instruction, or a few that belong together.
fn step(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let (x, y) = (random.pick(&WIDE), random.pick(&WIDE));
    let (half, byte) = (random.pick(&HALF), random.pick(&BYTE));
    let k = random.operand() as i32;
    match random.below(30) {
        0 => a.mov(x, y),
        1 => a.mov(x, k),
        2 => place(a, random).and_then(|m| a.mov(x, memory32(m))),
        3 => place(a, random).and_then(|m| a.mov(memory32(m), x)),
        4 => place(a, random).and_then(|m| a.mov(byte_ptr(m), byte)),
        5 => place(a, random).and_then(|m| a.mov(word_ptr(m), k & 0x7fff)),
        6 => place(a, random).and_then(|m| a.add(x, memory32(m))),
        7 => place(a, random).and_then(|m| a.adc(memory32(m), x)),
        8 => place(a, random).and_then(|m| a.sub(memory32(m), k)),
        9 => place(a, random).and_then(|m| a.xor(byte, byte_ptr(m))),
        10 => place(a, random).and_then(|m| a.or(half, word_ptr(m))),
        11 => place(a, random).and_then(|m| a.cmp(byte_ptr(m), k & 0x7f)),
        12 => place(a, random).and_then(|m| a.sbb(word_ptr(m), half)),
        13 => place(a, random).and_then(|m| a.inc(memory32(m))),
        14 => place(a, random).and_then(|m| a.neg(byte_ptr(m))),
        15 => place(a, random).and_then(|m| a.not(memory32(m))),
        16 => place(a, random).and_then(|m| a.movzx(x, byte_ptr(m))),
        17 => place(a, random).and_then(|m| a.movsx(x, word_ptr(m))),
        18 => a.lea(x, ptr(x + y * 4 + k)),
        19 => a.imul_2(x, y),
        20 => place(a, random).and_then(|m| a.shl(memory32(m), 5)),
        21 => a.shr(x, 3),
        22 => a.push(x).and_then(|()| a.pop(y)),
        23 => {
            let (from, to) = (place(a, random)?, place(a, random)?);
            a.push(memory32(from))?;
            a.pop(memory32(to))
        }
        24 => {
            a.push(k)?;
            a.pop(x)
        }
        25 => {
            // A frame, as compilers make it.
            a.push(ebp)?;
            a.mov(ebp, esp)?;
            a.sub(esp, 0x20)?;
            a.mov(dword_ptr(ebp - 8), x)?;
            a.leave()
        }
        26 => {
            let (mut function, mut back) = (a.create_label(), a.create_label());
            a.call(function)?;
            a.jmp(back)?;
            a.set_label(&mut function)?;
            a.add(eax, edx)?;
            a.ret()?;
            a.set_label(&mut back)?;
            a.nop()
        }
        27 => {
            // Through a register, with an argument that RET takes away.
            let mut back = a.create_label();
            a.push(x)?;
            here(a, ecx)?;
            // POP, ADD, CALL and JMP have 8 bytes.
            a.add(ecx, 8)?;
            a.call(ecx)?;
            a.jmp(back)?;
            a.mov(eax, dword_ptr(esp + 4))?;
            a.ret_1(4)?;
            a.set_label(&mut back)?;
            a.nop()
        }
        28 => {
            // Through memory. POP, ADD, MOV and JMP have 10 bytes.
            let m = dword_ptr(ebx + 8 * random.below(15) as i32);
            here(a, edx)?;
            a.add(edx, 10)?;
            a.mov(m + 4, edx)?;
            a.jmp(m + 4)?;
            a.nop()
        }
        _ => {
            let mut skip = a.create_label();
            a.cmp(x, y)?;
            a.jle(skip)?;
            a.xor(x, k)?;
            a.set_label(&mut skip)?;
            a.nop()
        }
    }
}

#[test]
fn random_programs_end_alike_on_all_handlers() {
    for seed in 0..400 {
        let program = code(32, KERNEL_CODE, |a| {
            let mut random = Random::new(seed);
            for _ in 0..60 {
                step(a, &mut random)?;
            }
            a.hlt()
        });
        let mut ends = options().into_iter().map(|options| {
            let mut m = protected(options);
            let mut state = m.cpu.state();
            let mut random = Random::new(seed + 1_000_000);
            state.gpr = std::array::from_fn(|_| random.operand() & 0xffff_ffff);
            (state.gpr[3], state.gpr[4], state.gpr[6], state.gpr[7]) = (DATA, TOP, DATA + 8, DATA + 64);
            m.cpu.set_state(&state);
            let fill: Vec<u8> = (0..DATA_SIZE * 2).map(|_| random.next() as u8).collect();
            m.write(DATA, &fill);
            m.program(&program);
            let end = m.run();
            assert!(matches!(end, End::Halt(_)), "program {seed}: {end:?}");
            let stack = m.bytes(TOP - STACK_SIZE as u64, STACK_SIZE);
            (m.cpu.user(), m.bytes(DATA, DATA_SIZE * 2), stack)
        });
        let first = ends.next().expect("there are options");
        for (k, other) in ends.enumerate() {
            assert_eq!(first, other, "program {seed}, options {}", k + 1);
        }
    }
}
