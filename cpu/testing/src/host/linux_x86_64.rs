//! The trampoline: a page of code that loads all registers, runs one instruction, and stores them again; beside it the
//! context page that it loads from and stores to. Both lie at fixed addresses below 2 GiB, so that the code reaches the
//! context without a register, and the instruction stands where it stands in the test machine.
//!
//! The instruction may fault: a signal handler then notes vector, error code and address, and goes on behind it.
#![allow(unsafe_code)]

use super::{
    HostFault,
    compat::{self, Selectors},
};
use crate::{Segments, compare::narrow, layout::*, machine::flag};
use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, dword_ptr, gpr32::*, gpr64::*, ptr, qword_ptr, word_ptr},
};
use softmetal_cpu::{float::F80, testing::User};
use std::{
    ffi::c_void,
    mem::offset_of,
    ptr::null_mut,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What the trampoline loads, stores and remembers.
#[repr(C, align(64))]
pub(super) struct Context {
    /// The XSAVE area: legacy region, header, upper halves of the YMM registers.
    state: [u8; AREA],
    pub(super) gpr: [u64; 16],
    rflags: u64,
    pub(super) host_rsp: u64,
    host_mxcsr: u32,
    host_control: u32,
    pub(super) selectors: Selectors,
    /// Set by the signal handler; -1 while there was no fault.
    vector: i64,
    error: u64,
    cr2: u64,
    rip: u64,
    ss: u16,
}

/// Bytes of the XSAVE area in its standard format, up to the end of AVX state, and where that begins.
pub(super) const AREA: usize = AVX + 256;
const AVX: usize = 576;
/// XSTATE_BV.
const HEADER: usize = 512;

/// The context is the page behind the code.
pub(super) const CONTEXT: u64 = CODE + 0x1000;
/// Where the trampoline stores what the instruction left.
const EPILOGUE: u64 = CODE + 0x400;
/// Bytes for instructions and the jump behind them: the rest of the page.
const INSN_ROOM: usize = 0x7f0;

/// Nothing is mapped so far below and above the scratch memory: all that 16-bit segments reach.
const EMPTY: u64 = 0x1_0000;

/// One user at a time: the addresses are fixed.
static LOCK: Mutex<()> = Mutex::new(());

/// The host's CPU.
pub struct Host {
    /// The code page once more, writable.
    alias: *mut u8,
    context: *mut Context,
    len: usize,
    segments: Segments,
    /// The instruction that is loaded.
    loaded: Vec<u8>,
    stack: Vec<u8>,
    _lock: MutexGuard<'static, ()>,
}

/// Notes the fault of the tested instruction and goes on at the epilogue; any other signal takes its default way.
extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a ucontext_t to handlers installed with SA_SIGINFO.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as u64;
    if (INSN..INSN + INSN_ROOM as u64).contains(&compat::linear(registers)) {
        let context = CONTEXT as *mut Context;
        // SAFETY: code at INSN runs only while a Host exists, whose context page is mapped at CONTEXT.
        unsafe {
            (*context).vector = registers[libc::REG_TRAPNO as usize];
            (*context).error = registers[libc::REG_ERR as usize] as u64;
            (*context).cr2 = registers[libc::REG_CR2 as usize] as u64;
            (*context).rip = rip;
            (*context).ss = compat::stack_selector(registers);
        }
        if compat::interrupted(registers) {
            compat::resume(registers);
        } else {
            registers[libc::REG_RIP as usize] = EPILOGUE as i64;
        }
        return;
    }
    // SAFETY: restoring a default action is always allowed; the instruction then faults again and ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// Maps pages of `fd` at a fixed address that must be free.
fn map_at(at: u64, len: usize, protection: i32, fd: i32, offset: i64) -> Option<*mut u8> {
    let kind = if fd < 0 { libc::MAP_ANONYMOUS | libc::MAP_PRIVATE } else { libc::MAP_SHARED };
    // SAFETY: a new mapping at a place where there was none changes nothing that exists.
    let p = unsafe {
        libc::mmap(at as *mut c_void, len, protection, kind | libc::MAP_FIXED_NOREPLACE, fd, offset)
    };
    (p as u64 == at).then_some(p.cast())
}

impl Host {
    /// Takes the host's CPU. None where the fixed addresses are not free, or mappings are forbidden. Waits while another
    /// thread has it.
    pub fn new() -> Option<Host> {
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"softmetal-oracle".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: fd is ours.
        if fd < 0 || unsafe { libc::ftruncate(fd, 0x1000) } != 0 {
            return None;
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let code = map_at(CODE, 0x1000, libc::PROT_READ | libc::PROT_EXEC, fd, 0);
        let context = map_at(CONTEXT, 0x1000, rw, -1, 0);
        let scratch = map_at(SCRATCH, SCRATCH_SIZE as usize, rw, -1, 0);
        let below = map_at(SCRATCH - EMPTY, EMPTY as usize, libc::PROT_NONE, -1, 0);
        let above = map_at(SCRATCH + SCRATCH_SIZE, EMPTY as usize, libc::PROT_NONE, -1, 0);
        // SAFETY: a new mapping at any free address.
        let alias = unsafe { libc::mmap(null_mut(), 0x1000, rw, libc::MAP_SHARED, fd, 0) };
        // SAFETY: fd is ours and mapped as often as it will be.
        unsafe { libc::close(fd) };
        let all = [code, context, scratch, below, above];
        if all.iter().any(Option::is_none) || alias == libc::MAP_FAILED {
            return None;
        }
        let mut host = Host {
            alias: alias.cast(),
            context: CONTEXT as *mut Context,
            len: 0,
            segments: Segments::LONG,
            loaded: Vec::new(),
            stack: vec![0; 64 << 10],
            _lock: lock,
        };
        host.protect(true);
        host.write(CODE, &prologue().ok()?);
        host.write(EPILOGUE, &epilogue().ok()?);
        host.write(compat::PROLOGUE, &compat::prologue(save, load).ok()?);
        host.write(compat::EPILOGUE, &compat::epilogue(store, restore).ok()?);
        host.catch_faults();
        Some(host)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let offset = (at - CODE) as usize;
        assert!(offset + bytes.len() <= 0x1000, "the trampoline fits its page");
        // SAFETY: alias is a writable mapping of one page, checked above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.alias.add(offset), bytes.len()) };
    }

    fn catch_faults(&mut self) {
        let stack =
            libc::stack_t { ss_sp: self.stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: self.stack.len() };
        // SAFETY: the stack lives as long as the Host; it is put away again when the Host goes.
        unsafe { libc::sigaltstack(&stack, null_mut()) };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            // SAFETY: zeros are a valid sigaction, and the handler touches only what its comment says.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(signal, &action, null_mut());
            }
        }
    }

    /// Makes the read-only page of the scratch memory so, or writable for the test's own use.
    fn protect(&mut self, on: bool) {
        let protection = if on { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: the page belongs to this Host's scratch mapping.
        unsafe { libc::mprotect(SCRATCH_READ_ONLY as *mut c_void, 0x1000, protection) };
    }

    /// Chooses the segments that instructions run in from now on; what is loaded goes. False, and as it was, where this
    /// process has no such segments. In other code than 64-bit code, the upper halves of registers become zero, and R8 to
    /// R15 stay as they are.
    pub fn enter(&mut self, segments: Segments) -> bool {
        let available = segments == Segments::LONG || compat::available(segments);
        if available && segments != self.segments {
            self.segments = segments;
            self.loaded.clear();
        }
        available
    }

    /// The selectors after the last instruction that was not 64-bit code.
    pub fn segments(&self) -> Segments {
        // SAFETY: the context page is mapped while self lives.
        unsafe { (*std::hint::black_box(self.context)).selectors.segments() }
    }

    /// Puts one instruction, or a run of them, in its place.
    pub fn load(&mut self, insn: &[u8]) {
        assert!(insn.len() + 8 <= INSN_ROOM, "the instructions fit behind the trampoline");
        if self.loaded == insn {
            return;
        }
        self.loaded = insn.to_vec();
        self.len = insn.len();
        let mut bytes = insn.to_vec();
        if self.segments == Segments::LONG {
            let next = INSN + insn.len() as u64 + 5;
            bytes.push(0xe9);
            bytes.extend((EPILOGUE.wrapping_sub(next) as u32).to_le_bytes());
        } else {
            bytes.extend(compat::tail(self.segments));
        }
        self.write(INSN, &bytes);
        serialize();
    }

    /// Runs what is loaded once. `user` becomes what it left, or, where it faulted, what stood then.
    pub fn run(&mut self, user: &mut User) -> Result<(), HostFault> {
        let after = self.segments.ip() + self.len as u64;
        let long = self.segments == Segments::LONG;
        let before = *user;
        // SAFETY: the context page is mapped while self lives, and nothing else refers to it.
        let context = unsafe { &mut *self.context };
        context.gpr = user.gpr;
        // TF, IF, AC and the like stay as the process needs them.
        context.rflags = user.rflags & (flag::STATUS | flag::DF | flag::ID) | 0x202;
        put_state(&mut context.state, user);
        context.vector = -1;
        context.selectors = Selectors::new(self.segments);
        let entry = if long { CODE } else { compat::PROLOGUE };
        let enter: extern "C" fn() =
            // SAFETY: the prologue was written there; it saves what the calling convention wants saved.
            unsafe { std::mem::transmute(entry as *const ()) };
        enter();
        // SAFETY: as above; the trampoline has changed the page.
        let context = unsafe { &*std::hint::black_box(self.context) };
        user.gpr = context.gpr;
        let kept = flag::STATUS | flag::DF | flag::ID;
        user.rflags = user.rflags & !kept | context.rflags & kept;
        take_state(&context.state, user);
        if !long {
            narrow(&before, user);
        }
        if context.vector >= 0 {
            // SAFETY: as above.
            unsafe { (*self.context).selectors.set_ss(context.ss) };
            user.rip = context.rip;
            return Err(HostFault {
                vector: context.vector as u8,
                error: context.error as u32,
                cr2: context.cr2,
            });
        }
        user.rip = after;
        Ok(())
    }

    /// The data that instructions work on, but for its read-only page: see [`Host::set_scratch`].
    pub fn scratch(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as self; no instruction runs while the slice is borrowed.
        unsafe { std::slice::from_raw_parts_mut(SCRATCH as *mut u8, SCRATCH_SIZE as usize) }
    }

    /// Sets all of the scratch memory, the read-only page included.
    pub fn set_scratch(&mut self, bytes: &[u8]) {
        self.protect(false);
        self.scratch()[..bytes.len()].copy_from_slice(bytes);
        self.protect(true);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the four mappings are this Host's own; nothing refers to them any more.
        unsafe {
            libc::sigaltstack(&none, null_mut());
            libc::munmap(self.alias.cast(), 0x1000);
            libc::munmap(CODE as *mut c_void, 0x2000);
            libc::munmap((SCRATCH - EMPTY) as *mut c_void, (SCRATCH_SIZE + 2 * EMPTY) as usize);
        }
    }
}

/// SDM 3A "Handling Self- and Cross-Modifying Code": code written through another linear address needs a serializing
/// instruction. IRET is the one that no hypervisor intercepts.
fn serialize() {
    // SAFETY: it returns to the next instruction, with flags and stack as they are; what it pushes, it pops.
    unsafe {
        std::arch::asm!(
            "mov {stack}, rsp",
            "mov {v:e}, ss",
            "push {v}",
            "push {stack}",
            "pushfq",
            "mov {v:e}, cs",
            "push {v}",
            "lea {v}, [rip + 2f]",
            "push {v}",
            "iretq",
            "2:",
            stack = out(reg) _,
            v = out(reg) _,
        );
    }
}

/// General registers by their numbers.
pub(super) const GPR: [iced_x86::code_asm::AsmRegister64; 16] =
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

pub(super) fn field(offset: usize) -> iced_x86::code_asm::AsmMemoryOperand {
    qword_ptr(CONTEXT + offset as u64)
}

/// Saves the host's registers.
fn save(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for r in [rbx, rbp, r12, r13, r14, r15] {
        a.push(r)?;
    }
    a.pushfq()?;
    // Nobody expects the other vector and x87 registers back.
    a.stmxcsr(dword_ptr(CONTEXT + offset_of!(Context, host_mxcsr) as u64))?;
    a.fnstcw(word_ptr(CONTEXT + offset_of!(Context, host_control) as u64))?;
    a.mov(field(offset_of!(Context, host_rsp)), rsp)
}

/// Loads the test's vector registers and flags.
fn load(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let state = ptr(CONTEXT + offset_of!(Context, state) as u64);
    if avx() {
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xrstor64(state)?;
    } else {
        a.fxrstor64(state)?;
    }
    a.push(field(offset_of!(Context, rflags)))?;
    a.popfq()
}

/// Stores them.
fn store(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.pushfq()?;
    a.pop(field(offset_of!(Context, rflags)))?;
    let state = ptr(CONTEXT + offset_of!(Context, state) as u64);
    if avx() {
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xsave64(state)?;
        a.vzeroupper()
    } else {
        a.fxsave64(state)
    }
}

/// Brings the host's registers back, and returns.
fn restore(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.fninit()?;
    a.fldcw(word_ptr(CONTEXT + offset_of!(Context, host_control) as u64))?;
    a.ldmxcsr(dword_ptr(CONTEXT + offset_of!(Context, host_mxcsr) as u64))?;
    a.popfq()?;
    for r in [r15, r14, r13, r12, rbp, rbx] {
        a.pop(r)?;
    }
    a.ret()
}

/// From the host's registers to the instruction.
fn prologue() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    save(&mut a)?;
    load(&mut a)?;
    for (k, r) in GPR.into_iter().enumerate() {
        a.mov(r, field(offset_of!(Context, gpr) + 8 * k))?;
    }
    a.jmp(INSN)?;
    a.assemble(CODE)
}

/// From the instruction back.
fn epilogue() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for (k, r) in GPR.into_iter().enumerate() {
        a.mov(field(offset_of!(Context, gpr) + 8 * k), r)?;
    }
    a.mov(rsp, field(offset_of!(Context, host_rsp)))?;
    store(&mut a)?;
    restore(&mut a)?;
    a.assemble(EPILOGUE)
}

/// Whether the host has AVX, and the system saves its state.
pub(super) fn avx() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// SDM 1 "XSAVE Area".
pub(super) fn put_state(area: &mut [u8; AREA], user: &User) {
    area.fill(0);
    let x = &user.x87;
    area[0..2].copy_from_slice(&x.control.to_le_bytes());
    area[2..4].copy_from_slice(&x.status.to_le_bytes());
    area[4] = x.tags;
    area[24..28].copy_from_slice(&user.mxcsr.to_le_bytes());
    for k in 0..8 {
        let r = x.regs[x.physical(k)];
        area[32 + 16 * k..40 + 16 * k].copy_from_slice(&r.significand.to_le_bytes());
        area[40 + 16 * k..42 + 16 * k].copy_from_slice(&r.sign_exponent.to_le_bytes());
    }
    for (k, (low, high)) in user.xmm.iter().zip(&user.ymm_high).enumerate() {
        area[160 + 16 * k..176 + 16 * k].copy_from_slice(&low.to_le_bytes());
        area[AVX + 16 * k..AVX + 16 + 16 * k].copy_from_slice(&high.to_le_bytes());
    }
    area[HEADER] = 7;
}

pub(super) fn take_state(area: &[u8; AREA], user: &mut User) {
    let u16_at = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|k| area[at + k]));
    let u128_at = |at: usize| u128::from_le_bytes(std::array::from_fn(|k| area[at + k]));
    let x = &mut user.x87;
    x.control = u16_at(0);
    x.status = u16_at(2);
    x.tags = area[4];
    user.mxcsr = u64_at(24) as u32;
    for k in 0..8 {
        let at = 32 + 16 * k;
        x.regs[x.physical(k)] = F80 { significand: u64_at(at), sign_exponent: u16_at(at + 8) };
    }
    for (k, (low, high)) in user.xmm.iter_mut().zip(&mut user.ymm_high).enumerate() {
        (*low, *high) = (u128_at(160 + 16 * k), u128_at(AVX + 16 * k));
    }
}
