//! x86-64.

use super::{
    ANSWER, ENTRIES, EXIT, FILL, FRAME, Fix, MXCSR, NEAR, RESTING, ROOM, RUNNING, STACK, STATUS, TLB,
};
use crate::{
    jit::{Passage, Status},
    mmu::{OTHER, TlbEntry, near::ROOM_16},
    state::{Cpu, Mxcsr, reg},
};
#[cfg(feature = "jit")]
use cranelift_codegen::binemit::Reloc;
use std::arch::{asm, naked_asm};
use std::mem::offset_of;

/// Bytes of memory for code, any of which jumps to any other. gcc -O2 on a dozen files fills half of it; with 64 MiB everything
/// was dropped four times, and two thirds of its blocks were translated again.
pub(in crate::jit) const MEMORY: usize = 256 << 20;
/// Bytes of a stub: the jump, its padding, then what runs until it is linked, then the exit's number.
pub(in crate::jit) const STUB: usize = 32;
/// How often the other place in the TLB answers before its entry goes where it belongs.
const PATIENCE: i32 = 16;
const TURNS: usize = offset_of!(Cpu, translated) + offset_of!(Passage, turns);

/// Where in a stub the exit's target stands, four bytes.
pub(in crate::jit) const STUB_TARGET: usize = 16;
/// And the number of its guest-physical page, four bytes.
pub(in crate::jit) const STUB_PAGE: usize = 20;
/// And where the jump that leads to it has its distance, relative to the memory for code; 0 where there is none.
pub(in crate::jit) const STUB_SITE: Option<usize> = Some(24);

/// Notes that in a stub.
pub(in crate::jit) fn set_site(stub: &mut [u8], site: u32) {
    stub[24..28].copy_from_slice(&site.to_le_bytes());
}

/// What a jump has there whose distance stands at `site`.
pub(in crate::jit) fn distance_at(site: usize, to: usize) -> [u8; 4] {
    relative(site + 4, to).to_le_bytes()
}

/// Between translated code and Rust that computes in floating point or looks at MXCSR: the flags that translated code has
/// raised become the guest's, and Rust finds its own MXCSR.
pub(in crate::jit) fn leave_floats(c: &mut Cpu) {
    let passage = &mut c.translated;
    // SAFETY: writes the word; then loads a valid one.
    unsafe {
        asm!("stmxcsr [{}]", in(reg) &raw mut passage.mxcsr, options(nostack, preserves_flags));
        asm!("ldmxcsr [{}]", in(reg) &raw const passage.host_mxcsr, options(nostack, preserves_flags));
    }
    c.mxcsr |= passage.mxcsr & Mxcsr::FLAGS;
}

/// The way back: see [`leave_floats`].
pub(in crate::jit) fn enter_floats(c: &mut Cpu) {
    c.translated.mxcsr = c.mxcsr & Mxcsr::MASK | Mxcsr::MASKS;
    // SAFETY: loads a valid word; translated code, which runs next, is all that knows.
    unsafe {
        asm!("ldmxcsr [{}]", in(reg) &raw const c.translated.mxcsr, options(nostack, preserves_flags));
    }
}

/// Runs translated code until it leaves.
///
/// # Safety
/// `code` is the body of a placed function whose frame has at most [`FRAME`] bytes, and nothing it refers to has been freed.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "sysv64" fn enter(cpu: *mut Cpu, code: *const u8) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, {frame} + 8",
        "mov [rdi + {stack}], rsp",
        "mov eax, [rdi + {mxcsr}]",
        "and eax, {valid}",
        "or eax, {masks}",
        "mov [rdi + {running}], eax",
        "ldmxcsr [rdi + {running}]",
        "jmp rsi",
        frame = const FRAME,
        stack = const STACK,
        mxcsr = const MXCSR,
        valid = const Mxcsr::MASK,
        masks = const Mxcsr::MASKS,
        running = const RUNNING,
    )
}

/// Where exits jump to: the CPU in the first argument's register.
///
/// # Safety
/// Reached from translated code only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "stmxcsr [rdi + {running}]",
        "mov eax, [rdi + {running}]",
        "and eax, {flags}",
        "or [rdi + {mxcsr}], eax",
        "ldmxcsr [rdi + {resting}]",
        "mov rsp, [rdi + {stack}]",
        "add rsp, {frame} + 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        frame = const FRAME,
        stack = const STACK,
        mxcsr = const MXCSR,
        flags = const Mxcsr::FLAGS,
        running = const RUNNING,
        resting = const RESTING,
    )
}

/// Where a stub that is not linked calls: its address is the return address less what precedes it.
///
/// # Safety
/// Reached from stubs only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "sysv64" fn unlinked() {
    naked_asm!(
        "pop rax",
        "sub rax, 13",
        "mov [rdi + {exit}], rax",
        "mov dword ptr [rdi + {status}], {unlinked}",
        "jmp {leave}",
        exit = const EXIT,
        status = const STATUS,
        unlinked = const Status::Unlinked as u32,
        leave = sym leave,
    )
}

/// What an access calls that begins with no page known to be near: looks in the TLB, and notes the page. The arguments stand
/// in the host's registers for them: the CPU, the linear address, and what `runtime::fill` wants to know. All registers are
/// kept.
///
/// # Safety
/// Reached from translated code only.
#[unsafe(naked)]
pub(in crate::jit) unsafe extern "sysv64" fn probe() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push r8",
        // The entry: see `mmu::index`.
        "mov rax, rsi",
        "shr rax, 12",
        "mov rcx, rsi",
        "shr rcx, 21",
        "xor rax, rcx",
        "and eax, {entries} - 1",
        "shl eax, 5",
        "add rax, [rdi + {tlb}]",
        "mov ecx, edx",
        "and ecx, 1",
        "mov rcx, [rax + 8 * rcx]",
        "xor rcx, rsi",
        "cmp rcx, 0xfff",
        "ja 2f",
        "4:",
        "mov r8d, edx",
        "shr r8d, 1",
        "and r8d, 0x7f",
        "add r8, rcx",
        "cmp r8, 0x1000",
        "ja 3f",
        "mov rcx, [rax + 16]",
        "mov eax, edx",
        "shr eax, 8",
        "shl eax, 5",
        "add rax, [rdi + {near}]",
        "mov r8, rsi",
        "and r8, -0x1000",
        "mov [rax], r8",
        "mov [rax + 8], rcx",
        "mov qword ptr [rax + 16], {room}",
        "mov qword ptr [rax + 24], {room_16}",
        "add rcx, rsi",
        "mov [rdi + {answer}], rcx",
        "pop r8",
        "pop rcx",
        "pop rax",
        "ret",
        // The other place: see `mmu::OTHER`.
        "2:",
        "mov r8, rax",
        "sub rax, [rdi + {tlb}]",
        "xor eax, {other}",
        "add rax, [rdi + {tlb}]",
        "mov ecx, edx",
        "and ecx, 1",
        "mov rcx, [rax + 8 * rcx]",
        "xor rcx, rsi",
        "cmp rcx, 0xfff",
        "ja 3f",
        // One of two pages that are used by turns is found here each time; none of them stays here for ever.
        "sub dword ptr [rdi + {turns}], 1",
        "jnz 5f",
        "mov dword ptr [rdi + {turns}], {patience}",
        "push r9",
        "mov rcx, [rax]",
        "mov r9, [r8]",
        "mov [r8], rcx",
        "mov [rax], r9",
        "mov rcx, [rax + 8]",
        "mov r9, [r8 + 8]",
        "mov [r8 + 8], rcx",
        "mov [rax + 8], r9",
        "mov rcx, [rax + 16]",
        "mov r9, [r8 + 16]",
        "mov [r8 + 16], rcx",
        "mov [rax + 16], r9",
        "mov rcx, [rax + 24]",
        "mov r9, [r8 + 24]",
        "mov [r8 + 24], rcx",
        "mov [rax + 24], r9",
        "pop r9",
        "mov rax, r8",
        "5:",
        "mov rcx, rsi",
        "and ecx, 0xfff",
        "jmp 4b",
        "3:",
        "pop r8",
        "pop rcx",
        "pop rax",
        "jmp [rdi + {fill}]",
        entries = const ENTRIES,
        other = const OTHER * size_of::<TlbEntry>(),
        turns = const TURNS,
        patience = const PATIENCE,
        tlb = const TLB,
        near = const NEAR,
        room = const ROOM,
        room_16 = const ROOM_16,
        answer = const ANSWER,
        fill = const FILL,
    )
}

/// A jump to anywhere: `jmp [rip]` and the address.
pub(in crate::jit) fn veneer(to: usize) -> [u8; 16] {
    let mut bytes = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcc, 0xcc];
    bytes[6..14].copy_from_slice(&(to as u64).to_le_bytes());
    bytes
}

/// A stub at `at` that is not linked, for an exit to `target` of `page`. `unlinked_at`: where the veneer to [`unlinked`] is.
pub(in crate::jit) fn stub(at: usize, (page, target): (u32, i32), unlinked_at: usize) -> [u8; STUB] {
    let mut bytes = [0xcc; STUB];
    bytes[..8].copy_from_slice(&jump_word(at, at + 8).to_le_bytes());
    bytes[STUB_CALL - 1] = 0xe8;
    bytes[STUB_CALL..STUB_CALL + 4].copy_from_slice(&relative(at + 13, unlinked_at).to_le_bytes());
    bytes[STUB_TARGET..STUB_TARGET + 4].copy_from_slice(&target.to_le_bytes());
    bytes[STUB_PAGE..STUB_PAGE + 4].copy_from_slice(&page.to_le_bytes());
    set_site(&mut bytes, 0);
    bytes
}

/// Where a stub calls, before it is linked.
const STUB_CALL: usize = 9;

/// Code that stands at `at`, for stubs to call whose exits go by the jump cache, by way of code at `lookup`.
pub(in crate::jit) fn by_cache(at: usize, lookup: usize) -> Vec<u8> {
    const PAGE: usize = offset_of!(Cpu, gpr) + 8 * reg::PAGE as usize;
    // pop rax; mov eax, [rax + target]; add rax, [rdi + PAGE]; mov rsi, rax; jmp lookup
    let mut code = vec![0x58, 0x8b, 0x40, (STUB_TARGET - STUB_CALL - 4) as u8, 0x48, 0x03, 0x87];
    code.extend_from_slice(&(PAGE as u32).to_le_bytes());
    code.extend_from_slice(&[0x48, 0x89, 0xc6, 0xe9]);
    let end = at + code.len() + 4;
    code.extend_from_slice(&relative(end, lookup).to_le_bytes());
    code
}

/// What a stub at `at` calls when it goes by such code: where in the stub that stands, and the four bytes.
pub(in crate::jit) fn call_by_cache(at: usize, code: usize) -> (usize, [u8; 4]) {
    (STUB_CALL, relative(at + STUB_CALL + 4, code).to_le_bytes())
}

/// The first eight bytes of a stub at `at` that jumps to `to`: written as a whole, it links or unlinks.
pub(in crate::jit) fn jump_word(at: usize, to: usize) -> u64 {
    0xe9 | u64::from(relative(at + 5, to) as u32) << 8 | 0xcc_cccc << 40
}

fn relative(from: usize, to: usize) -> i32 {
    to.wrapping_sub(from) as i32
}

/// Bytes of a function's prologue, and of its frame; None where it is not of the known form.
pub(in crate::jit) fn prologue(code: &[u8]) -> Option<(usize, u32)> {
    // push rbp; mov rbp, rsp
    let rest = code.strip_prefix(&[0x55, 0x48, 0x89, 0xe5])?;
    Some(match rest {
        // sub rsp, imm8 and imm32
        [0x48, 0x83, 0xec, n, ..] => (8, u32::from(*n)),
        [0x48, 0x81, 0xec, a, b, c, d, ..] => (11, u32::from_le_bytes([*a, *b, *c, *d])),
        _ => (4, 0),
    })
}

/// How a relocation of Cranelift's is filled in.
#[cfg(feature = "jit")]
pub(in crate::jit) fn fix(kind: Reloc) -> Option<Fix> {
    match kind {
        Reloc::X86CallPCRel4 => Some(Fix::Call),
        Reloc::X86PCRel4 => Some(Fix::Address),
        _ => None,
    }
}

/// Makes a jump of the call whose displacement stands at `offset`; false where there is none.
pub(in crate::jit) fn make_jump(code: &mut [u8], offset: usize) -> bool {
    match offset.checked_sub(1).and_then(|at| code.get_mut(at)) {
        Some(byte) if *byte == 0xe8 => {
            *byte = 0xe9;
            true
        }
        _ => false,
    }
}

/// Makes a jump of the call through a register that returns to `back`; false where there is none.
pub(in crate::jit) fn make_indirect_jump(code: &mut [u8], back: usize) -> bool {
    match back.checked_sub(2).and_then(|at| code.get_mut(at..back)) {
        Some([0xff, modrm]) if *modrm & 0xf8 == 0xd0 => {
            *modrm = *modrm & !0x38 | 0x20;
            true
        }
        _ => false,
    }
}

/// Fills in the field at `offset` of code that will stand at `base`; false where it is out of reach.
pub(in crate::jit) fn fill(
    code: &mut [u8],
    offset: usize,
    base: usize,
    _: Fix,
    target: usize,
    addend: i64,
) -> bool {
    let distance = (target as i64).wrapping_add(addend).wrapping_sub((base + offset) as i64);
    match (i32::try_from(distance), code.get_mut(offset..offset + 4)) {
        (Ok(distance), Some(field)) => {
            field.copy_from_slice(&distance.to_le_bytes());
            true
        }
        _ => false,
    }
}

/// Code at these addresses was written through another mapping: x86 sees that by itself.
pub(in crate::jit) fn synchronise(_: usize, _: usize) {}

/// Whether the host has POPCNT.
pub(in crate::jit) fn counts_bits() -> bool {
    std::arch::is_x86_feature_detected!("popcnt")
}

/// Whether it has CMPXCHG16B.
pub(in crate::jit) fn exchanges_pairs() -> bool {
    std::arch::is_x86_feature_detected!("cmpxchg16b")
}

/// Whether it has LAHF and SAHF in 64-bit mode: SDM 2A "CPUID", leaf 8000_0001H, ECX bit 0.
pub(in crate::jit) fn loads_flags() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 != 0
}
