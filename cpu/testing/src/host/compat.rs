//! The trampoline for code that is not 64-bit code: it loads the data segments, jumps far into the code segment (32-bit code
//! of compatibility mode, or a segment of the LDT), and the far jump behind the instruction comes back to 64-bit code.
//!
//! FS and GS are left alone: the process lives on their bases.
#![allow(unsafe_code)]

use super::linux_x86_64::{CONTEXT, Context, GPR, field};
use crate::{
    layout::*,
    segments::{GRANULARITY, LDT, Segments, linux, segment},
};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, fword_ptr, gpr64::rsp, qword_ptr, segment as register, word_ptr},
};
use softmetal_cpu::state::Segment;
use std::{mem::offset_of, sync::OnceLock};

/// The entry, in the code page.
pub(super) const PROLOGUE: u64 = CODE + 0x200;
/// Where the far jump behind the instruction leads.
pub(super) const EPILOGUE: u64 = CODE + 0x600;

/// Selectors that the trampoline loads and stores; a part of the context page.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Selectors {
    /// Operand of the far jump: offset and selector.
    target: u32,
    cs: u16,
    ss: u16,
    ds: u16,
    es: u16,
    host_ss: u16,
    host_ds: u16,
    host_es: u16,
}

impl Selectors {
    /// For code at [`INSN`].
    pub(super) fn new(segments: Segments) -> Self {
        let Segments { cs, ss, ds, es } = segments;
        Selectors { target: segments.ip() as u32, cs, ss, ds, es, ..Selectors::default() }
    }

    /// The stack segment of the instruction that faulted: the epilogue sees the signal handler's.
    pub(super) fn set_ss(&mut self, ss: u16) {
        self.ss = ss;
    }

    /// What the instruction left.
    pub(super) fn segments(&self) -> Segments {
        Segments { cs: self.cs, ss: self.ss, ds: self.ds, es: self.es }
    }
}

/// Whether this process has these segments. Makes the LDT when it is first asked.
pub(super) fn available(segments: Segments) -> bool {
    static MADE: OnceLock<bool> = OnceLock::new();
    let Segments { cs, ss, ds, es } = segments;
    let all = [cs, ss, ds, es];
    let made = *MADE.get_or_init(write_ldt);
    if !made && all.iter().any(|selector| selector & 4 != 0) {
        return false;
    }
    all.into_iter().filter(|&selector| selector != 0).all(present)
}

/// LAR: whether a selector leads to a segment that is present and can be used at CPL 3.
fn present(selector: u16) -> bool {
    let (rights, found): (u32, u8);
    // SAFETY: LAR reads a descriptor and changes nothing but its destination and ZF.
    unsafe {
        std::arch::asm!(
            "lar {rights:e}, {selector:e}",
            "setz {found}",
            rights = out(reg) rights,
            selector = in(reg) u32::from(selector),
            found = out(reg_byte) found,
            options(nomem, nostack),
        );
    }
    found != 0 && rights & 1 << 15 != 0
}

/// Gives the process the segments of [`LDT`]. False where the kernel has no modify_ldt.
pub(super) fn write_ldt() -> bool {
    /// Linux's struct user_desc.
    #[repr(C)]
    struct UserDesc {
        entry_number: u32,
        base: u32,
        limit: u32,
        flags: u32,
    }
    /// modify_ldt's function "write", in the form in which no flag is implied.
    const WRITE: libc::c_ulong = 0x11;
    LDT.iter().enumerate().all(|(k, d)| {
        let big = u32::from(d.attributes & Segment::BIG != 0);
        // Data, data that expands downwards, code.
        let contents = d.attributes >> 2 & 3;
        let read_only = u32::from(d.attributes & 2 == 0);
        let absent = u32::from(d.attributes & 0x80 == 0);
        let flags = big | contents << 1 | read_only << 3 | absent << 5;
        let pages = d.attributes & GRANULARITY != 0;
        let (limit, flags) = if pages { (d.limit >> 12, flags | 1 << 4) } else { (d.limit, flags) };
        let desc = UserDesc { entry_number: k as u32, base: d.base, limit, flags };
        // SAFETY: the structure is the one that the call takes; segments at CPL 3 that nobody loads change nothing.
        unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, &raw const desc, size_of::<UserDesc>()) == 0 }
    })
}

/// The far jump to the epilogue.
pub(super) fn tail(segments: Segments) -> Vec<u8> {
    let mut bytes = if segments.bitness() == 16 { vec![0x66, 0xea] } else { vec![0xea] };
    bytes.extend((EPILOGUE as u32).to_le_bytes());
    bytes.extend(linux::CODE64.to_le_bytes());
    bytes
}

/// Linear address of the instruction that a signal interrupted.
pub(super) fn linear(registers: &[libc::greg_t; 23]) -> u64 {
    let cs = registers[libc::REG_CSGSFS as usize] as u16;
    (registers[libc::REG_RIP as usize] as u64).wrapping_add(segment(cs).base)
}

/// Whether a signal interrupted code that is not 64-bit code.
pub(super) fn interrupted(registers: &[libc::greg_t; 23]) -> bool {
    registers[libc::REG_CSGSFS as usize] as u16 != linux::CODE64
}

/// The stack segment that a signal interrupted.
pub(super) fn stack_selector(registers: &[libc::greg_t; 23]) -> u16 {
    (registers[libc::REG_CSGSFS as usize] >> 48) as u16
}

/// Makes a signal handler return to the epilogue.
pub(super) fn resume(registers: &mut [libc::greg_t; 23]) {
    // CS, GS, FS and SS, 16 bits each; FS and GS stay as they are.
    let kept = registers[libc::REG_CSGSFS as usize] & 0x0000_ffff_ffff_0000;
    let selectors = u64::from(linux::DATA) << 48 | u64::from(linux::CODE64);
    registers[libc::REG_CSGSFS as usize] = kept | selectors as i64;
    registers[libc::REG_RIP as usize] = EPILOGUE as i64;
}

fn selector(offset: usize) -> iced_x86::code_asm::AsmMemoryOperand {
    word_ptr(CONTEXT + (offset_of!(Context, selectors) + offset) as u64)
}

/// Loads segments and registers, and goes to the instruction. `save` stores the host's registers but for RSP and the
/// segments, `load` brings the test's vector registers and flags.
pub(super) fn prologue(
    save: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    load: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    save(&mut a)?;
    a.mov(selector(offset_of!(Selectors, host_ss)), register::ss)?;
    a.mov(selector(offset_of!(Selectors, host_ds)), register::ds)?;
    a.mov(selector(offset_of!(Selectors, host_es)), register::es)?;
    load(&mut a)?;
    a.mov(register::ds, selector(offset_of!(Selectors, ds)))?;
    a.mov(register::es, selector(offset_of!(Selectors, es)))?;
    for (k, r) in GPR.into_iter().enumerate().filter(|&(_, r)| r != rsp) {
        a.mov(r, field(offset_of!(Context, gpr) + 8 * k))?;
    }
    a.mov(register::ss, selector(offset_of!(Selectors, ss)))?;
    a.mov(rsp, field(offset_of!(Context, gpr) + 8 * 4))?;
    a.jmp(fword_ptr(CONTEXT + (offset_of!(Context, selectors) + offset_of!(Selectors, target)) as u64))?;
    a.assemble(PROLOGUE)
}

/// Stores the test's registers and segments and brings the host's back. `store` puts away flags and vector registers,
/// `restore` is the way back to who called.
pub(super) fn epilogue(
    store: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    restore: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for (k, r) in GPR.into_iter().enumerate() {
        a.mov(qword_ptr(CONTEXT + (offset_of!(Context, gpr) + 8 * k) as u64), r)?;
    }
    a.mov(selector(offset_of!(Selectors, ss)), register::ss)?;
    a.mov(selector(offset_of!(Selectors, ds)), register::ds)?;
    a.mov(selector(offset_of!(Selectors, es)), register::es)?;
    a.mov(register::ss, selector(offset_of!(Selectors, host_ss)))?;
    a.mov(rsp, field(offset_of!(Context, host_rsp)))?;
    store(&mut a)?;
    a.mov(register::ds, selector(offset_of!(Selectors, host_ds)))?;
    a.mov(register::es, selector(offset_of!(Selectors, host_es)))?;
    restore(&mut a)?;
    a.assemble(EPILOGUE)
}
