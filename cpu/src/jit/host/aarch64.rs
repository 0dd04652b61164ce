//! aarch64.

use super::{ANSWER, ENTRIES, EXIT, FILL, FRAME, Fix, NEAR, ROOM, STACK, STATUS, TLB};
use crate::{
    jit::Status,
    state::{Cpu, reg},
};
#[cfg(feature = "jit")]
use cranelift_codegen::binemit::Reloc;
use std::arch::{asm, naked_asm};
use std::mem::offset_of;

/// Bytes of memory for code, any of which jumps to any other: B and BL reach 128 MiB less an instruction (Arm ARM, "B").
pub(in crate::jit) const MEMORY: usize = 128 << 20;
/// Bytes of a stub: the jump, its padding, then what runs until it is linked, then the exit's number.
pub(in crate::jit) const STUB: usize = 24;
/// Where in a stub the exit's target stands, four bytes.
pub(in crate::jit) const STUB_TARGET: usize = 16;
/// And the number of its guest-physical page, four bytes.
pub(in crate::jit) const STUB_PAGE: usize = 20;
/// Jumps go by their stubs.
pub(in crate::jit) const STUB_SITE: Option<usize> = None;

/// There is nothing to note.
pub(in crate::jit) fn set_site(_: &mut [u8], _: u32) {}

/// Nobody asks.
pub(in crate::jit) fn distance_at(_: usize, _: usize) -> [u8; 4] {
    [0; 4]
}

/// Translated code computes nothing in floating point on this host.
pub(in crate::jit) fn leave_floats(_: &mut Cpu) {}

/// As [`leave_floats`].
pub(in crate::jit) fn enter_floats(_: &mut Cpu) {}

/// Runs translated code until it leaves.
///
/// # Safety
/// `code` is the body of a placed function whose frame has at most [`FRAME`] bytes, and nothing it refers to has been freed.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "C" fn enter(cpu: *mut Cpu, code: *const u8) {
    naked_asm!(
        "stp x29, x30, [sp, #-176]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "sub sp, sp, #{frame}",
        "mov x9, sp",
        "mov x10, #{stack}",
        "str x9, [x0, x10]",
        "br x1",
        frame = const FRAME,
        stack = const STACK,
    )
}

/// Where exits jump to: the CPU in the first argument's register.
///
/// # Safety
/// Reached from translated code only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "C" fn leave() {
    naked_asm!(
        "mov x10, #{stack}",
        "ldr x9, [x0, x10]",
        "mov sp, x9",
        "add sp, sp, #{frame}",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "ldp x29, x30, [sp], #176",
        "ret",
        frame = const FRAME,
        stack = const STACK,
    )
}

/// Where a stub that is not linked calls: its address is the return address less what precedes it.
///
/// # Safety
/// Reached from stubs only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "C" fn unlinked() {
    naked_asm!(
        "sub x9, x30, #12",
        "mov x10, #{exit}",
        "str x9, [x0, x10]",
        "mov x10, #{status}",
        "mov w9, #{unlinked}",
        "str w9, [x0, x10]",
        "b {leave}",
        exit = const EXIT,
        status = const STATUS,
        unlinked = const Status::Unlinked as u32,
        leave = sym leave,
    )
}

/// What an access calls that begins with no page known to be near: looks in the TLB, and notes the page. The arguments stand
/// in the host's registers for them: the CPU, the linear address, and what `runtime::fill` wants to know. All registers are
/// kept but x16, which is the linker's.
///
/// # Safety
/// Reached from translated code only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "C" fn probe() {
    naked_asm!(
        "stp x9, x10, [sp, #-32]!",
        "stp x11, x12, [sp, #16]",
        // The entry: see `mmu::index`.
        "lsr x9, x1, #12",
        "eor x9, x9, x1, lsr #21",
        "and x9, x9, #({entries} - 1)",
        "mov x10, #{tlb}",
        "ldr x10, [x0, x10]",
        "add x9, x10, x9, lsl #5",
        "and x10, x2, #1",
        "ldr x10, [x9, x10, lsl #3]",
        "eor x10, x10, x1",
        "cmp x10, #0xfff",
        "b.hi 2f",
        "ubfx x11, x2, #1, #7",
        "add x11, x11, x10",
        "cmp x11, #0x1000",
        "b.hi 2f",
        "ldr x10, [x9, #16]",
        "lsr x11, x2, #8",
        "mov x12, #{near}",
        "ldr x12, [x0, x12]",
        "add x11, x12, x11, lsl #5",
        "and x12, x1, #0xfffffffffffff000",
        "stp x12, x10, [x11]",
        "mov x12, #{room}",
        "str x12, [x11, #16]",
        "add x10, x10, x1",
        "mov x12, #{answer}",
        "str x10, [x0, x12]",
        "ldp x11, x12, [sp, #16]",
        "ldp x9, x10, [sp], #32",
        "ret",
        "2:",
        "ldp x11, x12, [sp, #16]",
        "ldp x9, x10, [sp], #32",
        "mov x16, #{fill}",
        "ldr x16, [x0, x16]",
        "br x16",
        entries = const ENTRIES,
        tlb = const TLB,
        near = const NEAR,
        room = const ROOM,
        answer = const ANSWER,
        fill = const FILL,
    )
}

/// A jump to anywhere: `ldr x16, .+8; br x16` and the address.
pub(in crate::jit) fn veneer(to: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&0x5800_0050u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&0xd61f_0200u32.to_le_bytes());
    bytes[8..].copy_from_slice(&(to as u64).to_le_bytes());
    bytes
}

/// Where a stub calls, before it is linked.
const STUB_CALL: usize = 8;

/// Code that stands at `at`, for stubs to call whose exits go by the jump cache, by way of code at `lookup`.
pub(in crate::jit) fn by_cache(at: usize, lookup: usize) -> Vec<u8> {
    const PAGE: u32 = (offset_of!(Cpu, gpr) + 8 * reg::PAGE as usize) as u32;
    let code = [
        // ldr w9, [x30, #target]
        0xb940_03c9 | ((STUB_TARGET - STUB_CALL - 4) as u32 / 4) << 10,
        // ldr x10, [x0, #PAGE]
        0xf940_000a | PAGE / 8 << 10,
        // add x1, x10, x9
        0x8b09_0141,
        // b lookup
        0x1400_0000 | displacement(at + 12, lookup),
    ];
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What a stub at `at` calls when it goes by such code: where in the stub that stands, and the four bytes.
pub(in crate::jit) fn call_by_cache(at: usize, code: usize) -> (usize, [u8; 4]) {
    (STUB_CALL, (0x9400_0000 | displacement(at + STUB_CALL, code)).to_le_bytes())
}

/// A stub at `at` that is not linked, for an exit to `target` of `page`. `unlinked_at`: where the veneer to [`unlinked`] is.
pub(in crate::jit) fn stub(at: usize, (page, target): (u32, i32), unlinked_at: usize) -> [u8; STUB] {
    let mut bytes = [0; STUB];
    bytes[..8].copy_from_slice(&jump_word(at, at + 8).to_le_bytes());
    bytes[8..12].copy_from_slice(&(0x9400_0000 | displacement(at + 8, unlinked_at)).to_le_bytes());
    bytes[STUB_TARGET..STUB_TARGET + 4].copy_from_slice(&target.to_le_bytes());
    bytes[STUB_PAGE..STUB_PAGE + 4].copy_from_slice(&page.to_le_bytes());
    bytes
}

/// The first eight bytes of a stub at `at` that jumps to `to`: written as a whole, it links or unlinks.
pub(in crate::jit) fn jump_word(at: usize, to: usize) -> u64 {
    // The second instruction is never reached: BRK.
    u64::from(0x1400_0000 | displacement(at, to)) | 0xd420_0000 << 32
}

/// The 26 bits of B and BL.
fn displacement(from: usize, to: usize) -> u32 {
    (to.wrapping_sub(from) as i64 >> 2) as u32 & 0x03ff_ffff
}

/// Bytes of a function's prologue, and of its frame; None where it is not of the known form.
pub(in crate::jit) fn prologue(code: &[u8]) -> Option<(usize, u32)> {
    let word = |k: usize| Some(u32::from_le_bytes(code.get(4 * k..4 * k + 4)?.try_into().ok()?));
    // stp x29, x30, [sp, #-16]!; mov x29, sp
    if word(0)? != 0xa9bf_7bfd || word(1)? != 0x9100_03fd {
        return None;
    }
    // Registers that a function saves for its caller, which is the entry: it has saved them.
    let saves = |word: u32| {
        // str x, [sp, #-16]!; str d, [sp, #-16]!
        matches!(word & 0xffff_ffe0, 0xf81f_0fe0 | 0xfc1f_0fe0)
            // stp x, x, [sp, #-16]!; stp d, d, [sp, #-16]!
            || matches!(word & 0xffff_83e0, 0xa9bf_03e0 | 0x6dbf_03e0)
    };
    // movz, movn, movk of x16; orr x16, xzr, #immediate
    let is_constant = |word: u32| {
        matches!(word & 0x7f80_001f, 0x5280_0010 | 0x1280_0010 | 0x7280_0010)
            || word & 0x7f80_03ff == 0x3200_03f0
    };
    let mut at = 2;
    while saves(word(at)?) {
        at += 1;
    }
    let saved = 16 * (at as u32 - 2);
    // sub sp, sp, #imm12, perhaps shifted
    let last = word(at)?;
    let (words, frame) = match last & 0xffc0_03ff {
        0xd100_03ff => (at + 1, last >> 10 & 0xfff),
        0xd140_03ff => (at + 1, (last >> 10 & 0xfff) << 12),
        // A frame that is too large for that has its size in x16, which is also too large for us.
        _ if word((at..).find(|&k| !word(k).is_some_and(is_constant))?) == Some(0xcb30_63ff) => return None,
        _ => (at, 0),
    };
    Some((4 * words, saved + frame))
}

/// How a relocation of Cranelift's is filled in.
#[cfg(feature = "jit")]
pub(in crate::jit) fn fix(kind: Reloc) -> Option<Fix> {
    match kind {
        Reloc::Arm64Call => Some(Fix::Call),
        Reloc::Aarch64AdrPrelPgHi21 => Some(Fix::AddressHigh),
        Reloc::Aarch64AddAbsLo12Nc => Some(Fix::AddressLow),
        _ => None,
    }
}

fn word(code: &mut [u8], at: usize) -> Option<&mut [u8; 4]> {
    code.get_mut(at..at + 4)?.try_into().ok()
}

/// Makes a jump of the call at `offset`; false where there is none.
pub(in crate::jit) fn make_jump(code: &mut [u8], offset: usize) -> bool {
    let Some(field) = word(code, offset) else { return false };
    let insn = u32::from_le_bytes(*field);
    *field = (insn & 0x7fff_ffff).to_le_bytes();
    insn & 0xfc00_0000 == 0x9400_0000
}

/// Makes a jump of the call through a register that returns to `back`; false where there is none.
pub(in crate::jit) fn make_indirect_jump(code: &mut [u8], back: usize) -> bool {
    let Some(field) = back.checked_sub(4).and_then(|at| word(code, at)) else { return false };
    let insn = u32::from_le_bytes(*field);
    // BLR to BR.
    *field = (insn & !(1 << 21)).to_le_bytes();
    insn & 0xffff_fc1f == 0xd63f_0000
}

/// Fills in the field at `offset` of code that will stand at `base`; false where it is out of reach.
pub(in crate::jit) fn fill(
    code: &mut [u8],
    offset: usize,
    base: usize,
    fix: Fix,
    target: usize,
    addend: i64,
) -> bool {
    let target = (target as i64).wrapping_add(addend);
    let here = (base + offset) as i64;
    let Some(field) = word(code, offset) else { return false };
    let insn = u32::from_le_bytes(*field);
    let (insn, fits) = match fix {
        Fix::AddressHigh => {
            let pages = (target >> 12) - (here >> 12);
            let bits = pages as u32;
            (insn | (bits & 3) << 29 | (bits >> 2 & 0x7_ffff) << 5, (-(1 << 20)..1 << 20).contains(&pages))
        }
        Fix::AddressLow => (insn | (target as u32 & 0xfff) << 10, true),
        Fix::Call | Fix::Jump => {
            let words = (target - here) >> 2;
            (insn & 0xfc00_0000 | words as u32 & 0x03ff_ffff, (-(1 << 25)..1 << 25).contains(&words))
        }
    };
    *field = insn.to_le_bytes();
    fits
}

/// Code at these addresses was written through another mapping: has the instruction side see it. `run` is where it runs. Whoever
/// runs it next is this thread, or one that the system starts or moves to another core later, which synchronises that core.
pub(in crate::jit) fn synchronise(run: usize, len: usize) {
    let sizes: u64;
    // SAFETY: reads a register that the system lets programs read, or answers for.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) sizes, options(nomem, nostack, preserves_flags)) };
    // Arm ARM, "CTR_EL0, Cache Type Register": the smallest lines of all caches, as logarithms of words.
    let (code_line, data_line) = (4usize << (sizes & 15), 4usize << (sizes >> 16 & 15));
    let lines = |line: usize| (run & !(line - 1)..run + len).step_by(line);
    // SAFETY: cache maintenance of addresses that are mapped; no memory changes.
    unsafe {
        // The stores had other addresses, so that nothing else orders what follows behind them.
        asm!("dsb ish", options(nostack, preserves_flags));
        for at in lines(data_line) {
            asm!("dc cvau, {at}", at = in(reg) at, options(nostack, preserves_flags));
        }
        asm!("dsb ish", options(nostack, preserves_flags));
        for at in lines(code_line) {
            asm!("ic ivau, {at}", at = in(reg) at, options(nostack, preserves_flags));
        }
        asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prologue_of(words: &[u32]) -> Option<(usize, u32)> {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        prologue(&code)
    }

    #[test]
    fn frames_of_every_form_are_known_or_refused() {
        const PUSH: [u32; 2] = [0xa9bf_7bfd, 0x9100_03fd];
        const NOP: u32 = 0xd503_201f;
        let known = |rest: &[u32]| prologue_of(&[&PUSH[..], rest, &[NOP]].concat());
        assert_eq!(known(&[]), Some((8, 0)));
        // sub sp, sp, #0x30; #1, lsl #12
        assert_eq!(known(&[0xd100_c3ff]), Some((12, 0x30)));
        assert_eq!(known(&[0xd140_07ff]), Some((12, 0x1000)));
        // stp x27, x28, [sp, #-16]!; sub sp, sp, #0x30
        assert_eq!(known(&[0xa9bf_73fb, 0xd100_c3ff]), Some((16, 0x40)));
        // movz x16, #0x1230; sub sp, sp, x16
        assert_eq!(known(&[0xd282_4610, 0xcb30_63ff]), None);
        // orr x16, xzr, #0x1ff0; sub sp, sp, x16
        assert_eq!(known(&[0xb27c_23f0, 0xcb30_63ff]), None);
        // movz x16, #0x1230 for something else
        assert_eq!(known(&[0xd282_4610]), Some((8, 0)));
        assert_eq!(prologue_of(&[NOP, NOP, NOP]), None);
    }
}
