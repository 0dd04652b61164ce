//! What the manual leaves undefined, and so is not compared unless a test asks for it.
//!
//! iced's tables say which flags an instruction leaves undefined; some of them are defined for some counts only. Results
//! are undefined in four cases. What the silicon at hand does with them is printed by the ignored test `census` of
//! tests/oracle_integer.rs.

use crate::machine::flag;
use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, RflagsBits};
use softmetal_cpu::testing::User;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undefined {
    /// Bits of RFLAGS.
    pub flags: u64,
    /// The destination too.
    pub result: bool,
}

/// iced's flag bits as bits of RFLAGS.
pub fn rflags(bits: u32) -> u64 {
    let pairs = [
        (RflagsBits::OF, flag::OF),
        (RflagsBits::SF, flag::SF),
        (RflagsBits::ZF, flag::ZF),
        (RflagsBits::AF, flag::AF),
        (RflagsBits::CF, flag::CF),
        (RflagsBits::PF, flag::PF),
    ];
    pairs.iter().filter(|(theirs, _)| bits & theirs != 0).map(|(_, ours)| ours).sum()
}

/// The masked count of a shift or rotate, and the operand's width in bits.
fn shift(insn: &Instruction, user: &User) -> (u64, u64) {
    let last = insn.op_count() - 1;
    let width = match insn.op0_kind() {
        OpKind::Memory => insn.memory_size().size() as u64 * 8,
        _ => insn.op0_register().size() as u64 * 8,
    };
    let count = if insn.op_kind(last) == OpKind::Register { user.gpr[1] } else { insn.immediate(last) };
    (count & if width == 64 { 63 } else { 31 }, width)
}

/// What `insn` leaves undefined when it runs from `user`. `source` is the value of its source operand, for BSF and BSR.
pub fn undefined(insn: &Instruction, user: &User, source: u64) -> Undefined {
    let flags = rflags(insn.rflags_undefined());
    match insn.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => {
            let (count, width) = shift(insn, user);
            let flags = match count {
                // SDM 2B "SAL/SAR/SHL/SHR": a count of 0 changes no flag.
                0 => 0,
                1 => flags & !flag::OF,
                _ => flags | flag::OF,
            };
            // CF is undefined for SHL and SHR of all bits and more.
            let all = matches!(insn.mnemonic(), M::Shl | M::Sal | M::Shr) && count >= width;
            Undefined { flags: if all { flags | flag::CF } else { flags }, result: false }
        }
        M::Shld | M::Shrd => {
            let (count, width) = shift(insn, user);
            match count {
                0 => Undefined::default(),
                1 => Undefined { flags: flags & !flag::OF, result: false },
                // SDM 2B "SHLD": a count greater than the operand size leaves everything undefined. After a and b, Intel
                // shifts in a again, AMD b.
                n if n > width => Undefined { flags: flag::STATUS, result: true },
                _ => Undefined { flags: flags | flag::OF, result: false },
            }
        }
        M::Bsf | M::Bsr => Undefined { flags, result: source == 0 },
        M::Bswap => Undefined { flags, result: insn.op0_register().size() == 2 },
        _ => Undefined { flags, result: false },
    }
}

fn is_narrow_permutation(bytes: &[u8]) -> bool {
    matches!(bytes, [0xc4, map, vex, 0x00 | 0x01, ..] if map & 0x1f == 3 && vex & 0x87 == 5)
}

/// Operands that are accessed piece by piece: where one reaches beyond its segment's limit and into a page that is not there,
/// it is up to the implementation which fault comes first.
pub(crate) fn accessed_in_parts(insn: &Instruction) -> bool {
    let extended = matches!(insn.memory_size(), MemorySize::Float80 | MemorySize::Bcd);
    extended || matches!(insn.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
}

/// Pushes of a selector with 32 bits. SDM 2B "PUSH": Intel's processors write the lower half alone; AMD's write zeros above it.
pub(crate) fn is_wide_selector_push(insn: &Instruction) -> bool {
    insn.mnemonic() == M::Push
        && insn.op0_register().is_segment_register()
        && insn.stack_pointer_increment() == -4
}

/// Instructions that do different things on AMD's and Intel's CPUs, by their manuals or by their silicon.
pub(crate) fn makers_disagree(insn: &Instruction, bytes: &[u8], bitness: u32) -> bool {
    use iced_x86::{Code as C, FlowControl as F};
    let near = matches!(
        insn.flow_control(),
        F::UnconditionalBranch
            | F::ConditionalBranch
            | F::IndirectBranch
            | F::Call
            | F::IndirectCall
            | F::Return
    );
    let prefixes: Vec<u8> = bytes
        .iter()
        .copied()
        .take_while(|b| {
            matches!(b, 0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3)
                || bitness == 64 && b & 0xf0 == 0x40
        })
        .collect();
    let has = |prefix| prefixes.contains(&prefix);
    match insn.mnemonic() {
        // AMD's have one bit more in MXCSR.
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr => return true,
        // A repeat prefix says to AMD's which ZF goes on, whatever the opcode says.
        M::Loope | M::Loopne if has(0xf2) || has(0xf3) => return true,
        // AMD's read what lies behind the released parameters before they look at the selector.
        M::Retf if insn.op_count() > 0 && insn.immediate16() & !0xf8 != 0 => return true,
        // AMD's do not mind LOCK.
        M::INVALID if has(0xf0) && matches!(bytes.get(prefixes.len()..), Some([0x0f, 0x00, ..])) => {
            return true;
        }
        // SDM 2B "PINSRB/PINSRD/PINSRQ": VEX.W is ignored outside of 64-bit code; AMD's have no such instruction then.
        M::Vpinsrd | M::Vpextrd
            if bitness != 64 && matches!(bytes[prefixes.len()..], [0xc4, _, 0x80..=0xff, ..]) =>
        {
            return true;
        }
        // VPERMQ and VPERMPD without VEX.W, which Intel's do not take.
        M::INVALID if is_narrow_permutation(&bytes[prefixes.len()..]) => return true,
        M::Push if is_wide_selector_push(insn) => return true,
        // Between two elements comes the trap of a step, on AMD's.
        M::Vgatherdps
        | M::Vgatherdpd
        | M::Vgatherqps
        | M::Vgatherqpd
        | M::Vpgatherdd
        | M::Vpgatherdq
        | M::Vpgatherqd
        | M::Vpgatherqq => return true,
        // Their operands in memory need no alignment on AMD's.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => return insn.op1_kind() == OpKind::Memory,
        // Approximations have bits of their own.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss => {
            return true;
        }
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos => {
            return true;
        }
        _ => {}
    }
    // In 64-bit code, AMD's take an operand size of 16 bits seriously for near branches.
    bitness == 64 && near && has(0x66)
        || matches!(
            insn.code(),
            // Undefined with a register on AMD's.
            C::Reservednop_rm16_r16_0F0D | C::Reservednop_rm32_r32_0F0D | C::Reservednop_rm64_r64_0F0D
            // Reads two bytes on Intel's, four on AMD's.
            | C::Movsxd_r16_rm16
            // REX.W does not widen far pointers on AMD's.
            | C::Jmp_m1664 | C::Call_m1664 | C::Lss_r64_m1664 | C::Lfs_r64_m1664 | C::Lgs_r64_m1664
            // Undefined in long mode on AMD's.
            | C::Sysexitd | C::Sysexitq
        )
}
