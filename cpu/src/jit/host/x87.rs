//! The host's x87 unit as the guest's. While [`Passage::x87`] is set, registers, control and status word of the guest's unit
//! are in the host's, and [`X87`] has what they were before; the last-instruction pointers always stand there.
//!
//! That needs all exceptions masked, so that the host never traps. Rust has no use for the unit: code that is called meanwhile
//! does not notice, unless it wants the guest's state, see [`leave_x87`].

use super::{ANSWER, Unit, X87_LIVE, X87_RELATION};
use crate::state::{Cpu, F80, X87};
use std::{
    arch::{asm, naked_asm},
    mem::offset_of,
};

const CONTROL: usize = offset_of!(Cpu, x87) + offset_of!(X87, control);
const STATE_WORD: usize = offset_of!(Cpu, x87) + offset_of!(X87, status);
const TAGS: usize = offset_of!(Cpu, x87) + offset_of!(X87, tags);
const SIGNIFICAND: usize = offset_of!(Cpu, x87) + offset_of!(X87, regs) + offset_of!(F80, significand);
const EXPONENT: usize = offset_of!(Cpu, x87) + offset_of!(X87, regs) + offset_of!(F80, sign_exponent);
const _: () = assert!(size_of::<F80>() == 16);

/// What FNSAVE stores: SDM 1 "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE", 32-bit protected mode.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Image {
    control: u32,
    status: u32,
    tags: u32,
    pointers: [u32; 4],
    /// From ST(0) on.
    registers: [[u8; 10]; 8],
}
const _: () = assert!(size_of::<Image>() == 108);

/// The guest's unit is no longer in the host's.
pub(in crate::jit) fn leave_x87(c: &mut Cpu) {
    if c.translated.x87 == 0 {
        return;
    }
    let mut image = Image::default();
    // SAFETY: stores 108 bytes, and leaves the unit as functions find it, with all registers empty.
    unsafe {
        asm!(
            "fnsave [{}]", in(reg) &raw mut image,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    c.translated.x87 = 0;
    let unit = &mut c.x87;
    unit.control = image.control as u16;
    unit.status = image.status as u16;
    unit.tags = (0..8).fold(0, |tags, r| if image.tags >> (2 * r) & 3 == 3 { tags } else { tags | 1 << r });
    for (k, bytes) in image.registers.into_iter().enumerate() {
        unit.regs[unit.physical(k)] = F80::from_le_bytes(bytes);
    }
}

/// Has the host's unit be the guest's: leaves 1 as the answer, or 0 where an exception is unmasked. The CPU is in the first
/// argument's register. All other registers are kept.
///
/// # Safety
/// Reached from translated code only, which runs within [`super::enter`], whose caller calls [`leave_x87`].
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "sysv64" fn enter_x87() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push r8",
        "sub rsp, 112",
        "mov qword ptr [rdi + {answer}], 0",
        "movzx eax, word ptr [rdi + {control}]",
        "mov ecx, eax",
        "not ecx",
        "test cl, 0x3f",
        "jnz 4f",
        "mov [rsp], eax",
        "movzx eax, word ptr [rdi + {status}]",
        "test al, al",
        "js 4f",
        "mov [rsp + 4], eax",
        // Two bits for each register: 3 is empty, and which of the others it is, the unit sees by itself.
        "movzx ecx, byte ptr [rdi + {tags}]",
        "xor ecx, 0xff",
        "mov edx, ecx",
        "shl edx, 4",
        "or ecx, edx",
        "and ecx, 0x0f0f",
        "lea edx, [rcx * 4]",
        "or ecx, edx",
        "and ecx, 0x3333",
        "lea edx, [rcx * 2]",
        "or ecx, edx",
        "and ecx, 0x5555",
        "lea ecx, [rcx + rcx * 2]",
        "mov [rsp + 8], ecx",
        "xor ecx, ecx",
        "mov [rsp + 12], rcx",
        "mov [rsp + 20], rcx",
        // The registers, from ST(0) on.
        "shr eax, 11",
        "lea rdx, [rsp + 28]",
        "mov esi, 8",
        "3:",
        "and eax, 7",
        "mov ecx, eax",
        "shl ecx, 4",
        "mov r8, [rdi + rcx + {significand}]",
        "mov [rdx], r8",
        "movzx r8d, word ptr [rdi + rcx + {exponent}]",
        "mov [rdx + 8], r8w",
        "add rdx, 10",
        "inc eax",
        "dec esi",
        "jnz 3b",
        "frstor [rsp]",
        "mov byte ptr [rdi + {live}], 1",
        "mov qword ptr [rdi + {answer}], 1",
        "4:",
        "add rsp, 112",
        "pop r8",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "ret",
        answer = const ANSWER,
        control = const CONTROL,
        status = const STATE_WORD,
        tags = const TAGS,
        significand = const SIGNIFICAND,
        exponent = const EXPONENT,
        live = const X87_LIVE,
    )
}

/// Whether it has FISTTP.
pub(in crate::jit) fn has_fisttp() -> bool {
    is_x86_feature_detected!("sse3")
}

/// FCMOVNE from ST(0).
const MOVE_IF_NOT_EQUAL: u16 = 0x3c8;

/// Makes an instruction of the call whose displacement stands at `offset`; false where there is none. A call of five bytes has
/// room for it, and all that a call may change, an instruction of the unit leaves alone. Operands are where the call has its
/// first argument.
pub(in crate::jit) fn make_x87(code: &mut [u8], offset: usize, what: Unit) -> bool {
    let Some(call) = offset.checked_sub(1).and_then(|at| code.get_mut(at..at + 5)) else { return false };
    if call[0] != 0xe8 {
        return false;
    }
    let bytes = |opcode: u16| [0xd8 | (opcode >> 8 & 7) as u8, opcode as u8];
    let [first, second] = match what {
        Unit::Registers(opcode) => bytes(opcode),
        // [rdi]
        Unit::Memory(opcode) => bytes(opcode & 0x738 | 7),
        Unit::Conditional(k) => bytes(MOVE_IF_NOT_EQUAL | u16::from(k & 7)),
    };
    match what {
        // test dil, dil
        Unit::Conditional(_) => call.copy_from_slice(&[0x40, 0x84, 0xff, first, second]),
        // nop dword ptr [rax]
        _ => call.copy_from_slice(&[first, second, 0x0f, 0x1f, 0]),
    }
    true
}

/// Bytes of each function of [`relations`].
const EACH_RELATION: usize = 32;

/// FUCOMI, FCOMI, FUCOMIP and FCOMIP for each register: CF, ZF and PF are stored in [`super::super::Passage::relation`] of the
/// CPU, the first argument. AMD's processors leave C1 alone, Intel's clear it: so do the two instructions in front.
#[unsafe(naked)]
unsafe extern "sysv64" fn relations() {
    naked_asm!(
        ".set softmetal_x87_opcode, 0xdb",
        ".rept 2",
        ".set softmetal_x87_modrm, 0xe8",
        ".rept 16",
        "fdecstp",
        "fincstp",
        ".byte softmetal_x87_opcode, softmetal_x87_modrm",
        "setb [rdi + {relation}]",
        "setz [rdi + {relation} + 1]",
        "setp [rdi + {relation} + 2]",
        "ret",
        ".balign 32, 0xcc",
        ".set softmetal_x87_modrm, softmetal_x87_modrm + 1",
        ".endr",
        ".set softmetal_x87_opcode, softmetal_x87_opcode + 4",
        ".endr",
        relation = const X87_RELATION,
    )
}

/// Address of the function for one of them, by its opcode.
pub(in crate::jit) fn x87_relation(opcode: u16) -> usize {
    let (pops, modrm) = (opcode >> 8 & 7 == 7, usize::from(opcode & 0xff));
    let place = 16 * usize::from(pops) + (modrm.wrapping_sub(0xe8) & 15);
    relations as *const () as usize + EACH_RELATION * place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a function.
    fn bytes<const N: usize>(at: usize) -> [u8; N] {
        // SAFETY: machine code of this program, within the tables above.
        unsafe { *(at as *const [u8; N]) }
    }

    #[test]
    fn calls_become_instructions() {
        let made = |what| {
            let mut code = [0x90, 0xe8, 1, 2, 3, 4, 0x90];
            assert!(make_x87(&mut code, 2, what));
            assert_eq!((code[0], code[6]), (0x90, 0x90));
            let mut decoder = iced_x86::Decoder::new(64, &code[1..6], iced_x86::DecoderOptions::NONE);
            let first = decoder.decode();
            let last = decoder.decode();
            assert!(!decoder.can_decode());
            (format!("{:?}", first.code()), format!("{:?}", last.code()))
        };
        let first = |what| made(what).0;
        assert_eq!(first(Unit::Registers(0x0c1)), "Fadd_st0_sti");
        assert_eq!(first(Unit::Registers(0x6d9)), "Fcompp");
        assert_eq!(first(Unit::Memory(0x042)), "Fadd_m32fp");
        assert_eq!(first(Unit::Memory(0x53f)), "Fnstsw_m2byte");
        assert_eq!(made(Unit::Registers(0x1fa)), ("Fsqrt".into(), "Nop_rm32".into()));
        assert_eq!(made(Unit::Conditional(3)), ("Test_rm8_r8".into(), "Fcmovne_st0_sti".into()));
    }

    #[test]
    fn only_calls_become_instructions() {
        assert!(!make_x87(&mut [0xe9, 0, 0, 0, 0], 1, Unit::Registers(0x0c1)));
        assert!(!make_x87(&mut [0xe8, 0, 0, 0], 1, Unit::Registers(0x0c1)));
        assert!(!make_x87(&mut [0xe8, 0, 0, 0, 0], 0, Unit::Registers(0x0c1)));
    }

    #[test]
    fn every_relation_has_its_function() {
        for (high, first) in [(3, 0xdb), (7, 0xdf)] {
            for modrm in 0xe8..0xf8u8 {
                let at = x87_relation(high << 8 | u16::from(modrm));
                assert_eq!(bytes(at), [0xd9, 0xf6, 0xd9, 0xf7, first, modrm], "{first:#x} {modrm:#x}");
            }
        }
    }
}
