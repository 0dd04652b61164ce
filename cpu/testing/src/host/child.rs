//! A process for code that may do anything: fault, branch, change flags and segments. It has nothing in its address space
//! but a page of code and the scratch memory, which it shares with the test, and it is stepped with ptrace. What it runs can
//! harm nobody: system calls are not executed (SYSEMU), and it goes with its tracer.
//!
//! ptrace does not tell vector and error code of an exception. So the signal of a fault is delivered to a handler, which
//! never runs: the kernel has written both to the signal frame by then, on a stack that is shared, too.
#![allow(unsafe_code)]

use super::{
    HostFault, compat,
    linux_x86_64::{AREA, put_state, take_state},
};
use crate::{
    compare::narrow,
    layout::*,
    machine::flag,
    segments::{Segments, linux},
};
use iced_x86::{Decoder, DecoderOptions};
use softmetal_cpu::testing::User;
use std::{
    ffi::c_void,
    marker::PhantomData,
    mem::{offset_of, size_of, zeroed},
    ptr::null_mut,
};

/// The stack for signal frames, where no test aims.
const SIGNALS: u64 = 0x3a5c_9d00_0000;
/// Frames hold all vector registers of the host.
const SIGNALS_SIZE: usize = 64 << 10;
/// Behind the last address of a process: Linux's TASK_SIZE_MAX.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Linux's PTRACE_SYSEMU_SINGLESTEP.
const SYSEMU_SINGLESTEP: libc::c_uint = 32;
/// Iterations of a string instruction, each of which is a step.
const MOST_STEPS: u32 = 4096;
/// NT_X86_XSTATE of PTRACE_GETREGSET.
const XSTATE: usize = 0x202;
/// What stands behind an instruction: UD2.
const BEHIND: [u8; 2] = [0x0f, 0x0b];
/// Flags that ptrace lets a process have.
const SETTABLE: u64 = flag::STATUS | flag::DF | flag::TF | flag::NT | flag::AC;

/// Memory that test and process share.
struct Shared {
    fd: i32,
    here: *mut u8,
    len: usize,
}

impl Shared {
    fn new(len: usize) -> Option<Shared> {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"softmetal-child".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return None;
        }
        let mut shared = Shared { fd, here: null_mut(), len };
        // SAFETY: fd is ours.
        if unsafe { libc::ftruncate(fd, len as i64) } != 0 {
            return None;
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at any free address.
        let here = unsafe { libc::mmap(null_mut(), len, rw, libc::MAP_SHARED, fd, 0) };
        if here == libc::MAP_FAILED {
            return None;
        }
        shared.here = here.cast();
        Some(shared)
    }

    /// Maps it in the process, in place of what is there. Only system calls.
    fn map(&self, at: u64, protection: i32) -> bool {
        // Populated: a page that was never touched is not present to the CPU.
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
        // SAFETY: called in the forked process, which uses nothing at the fixed addresses.
        let p = unsafe { libc::mmap(at as *mut c_void, self.len, protection, flags, self.fd, 0) };
        p as u64 == at
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as self; the process is stopped while the slice is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.here, self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapping and descriptor are ours, and nothing refers to them any more.
        unsafe {
            if !self.here.is_null() {
                libc::munmap(self.here.cast(), self.len);
            }
            libc::close(self.fd);
        }
    }
}

/// The process. It belongs to the thread that made it.
pub struct Child {
    pid: i32,
    code: Shared,
    scratch: Shared,
    signals: Shared,
    segments: Segments,
    left: Segments,
    /// The whole extended state as the kernel wants it.
    state: Vec<u8>,
    _tracer: PhantomData<*mut ()>,
}

impl Child {
    /// Starts it. None where ptrace or fixed mappings are forbidden.
    pub fn new() -> Option<Child> {
        let code = Shared::new(0x1000)?;
        let scratch = Shared::new(SCRATCH_SIZE as usize)?;
        let signals = Shared::new(SIGNALS_SIZE)?;
        // SAFETY: the new process makes nothing but system calls, as one of a process with threads must.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            be_traced(&code, &scratch, &signals);
        }
        if pid < 0 {
            return None;
        }
        let mut child = Child {
            pid,
            code,
            scratch,
            signals,
            segments: Segments::LONG,
            left: Segments::LONG,
            state: Vec::new(),
            _tracer: PhantomData,
        };
        let ready = child.wait()? == libc::SIGSTOP && child.set_up();
        ready.then_some(child)
    }

    /// Chooses the segments that code runs in from now on. False where the process has none of that kind.
    pub fn enter(&mut self, segments: Segments) -> bool {
        let available = segments == Segments::LONG || compat::available(segments);
        if available {
            self.segments = segments;
        }
        available
    }

    /// The selectors after the last instruction.
    pub fn segments_left(&self) -> Segments {
        self.left
    }

    /// The data that instructions work on, with its page that is read-only to them.
    pub fn scratch(&mut self) -> &mut [u8] {
        self.scratch.bytes()
    }

    /// Runs one instruction, all iterations of a REP too, with UD2 behind it. `user` becomes what it left, or, where it
    /// faulted, what stood then.
    ///
    /// # Panics
    /// If the bytes may be a system call, or the process is gone.
    pub fn run(&mut self, bytes: &[u8], user: &mut User) -> Result<(), HostFault> {
        assert!(!may_call_system(bytes), "system calls stay out of the process: {bytes:02x?}");
        let at = (INSN - CODE) as usize;
        let code = self.code.bytes();
        code[at..at + bytes.len()].copy_from_slice(bytes);
        code[at + bytes.len()..at + bytes.len() + 2].copy_from_slice(&BEHIND);
        // What may be POPF or IRET, behind any prefixes.
        let sets_flags = bytes.iter().any(|byte| matches!(byte, 0x9d | 0xcf));
        let insn = Decoder::new(self.segments.bitness(), bytes, DecoderOptions::NONE).decode();
        let repeats = insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix());
        let most = if repeats { MOST_STEPS } else { 1 };
        let result = self.step(user, most, sets_flags);
        result.unwrap_or_else(|| panic!("the process that runs tests is gone; it ran {bytes:02x?}"))
    }

    fn step(&mut self, user: &mut User, most: u32, sets_flags: bool) -> Option<Result<(), HostFault>> {
        let before = *user;
        user.rip = self.segments.ip();
        self.set_id_flag(user.rflags & flag::ID != 0)?;
        self.put(user)?;
        let mut signal = libc::SIGTRAP;
        let mut registers = self.registers()?;
        for _ in 0..most {
            self.resume(SYSEMU_SINGLESTEP, 0)?;
            signal = self.wait()?;
            registers = self.registers()?;
            if signal != libc::SIGTRAP || registers.rip != user.rip {
                break;
            }
        }
        let trap = signal != libc::SIGTRAP || self.is_trap()?;
        self.take(&registers, user)?;
        if self.segments != Segments::LONG {
            narrow(&before, user);
        }
        if !trap {
            if sets_flags {
                self.forget_step()?;
            }
            return Some(Ok(()));
        }
        // If it faulted at POPF, the flag with which it is stepped shows.
        user.rflags = user.rflags & !flag::TF | before.rflags & flag::TF;
        // The frame of the signal, its handler not yet begun.
        self.resume(libc::PTRACE_SINGLESTEP, signal)?;
        self.wait()?;
        let frame = self.registers()?.rsp.wrapping_sub(SIGNALS) as usize;
        let gregs = frame + 8 + offset_of!(libc::ucontext_t, uc_mcontext);
        let stack = self.signals.bytes();
        let word = |index: i32| {
            let at = gregs + 8 * index as usize;
            stack.get(at..at + 8).map(|b| u64::from_le_bytes(std::array::from_fn(|k| b[k])))
        };
        let vector = word(libc::REG_TRAPNO)? as u8;
        let cr2 = if vector == 14 { word(libc::REG_CR2)? } else { 0 };
        Some(Err(HostFault { vector, error: word(libc::REG_ERR)? as u32, cr2 }))
    }

    /// Whether SIGTRAP came of INT3 or the like and not of the step.
    fn is_trap(&self) -> Option<bool> {
        // SAFETY: zeros are a valid siginfo_t, which the call fills.
        unsafe {
            let mut info: libc::siginfo_t = zeroed();
            self.trace(libc::PTRACE_GETSIGINFO, 0, (&raw mut info).cast())?;
            Some(info.si_code != libc::TRAP_TRACE)
        }
    }

    fn put(&mut self, user: &User) -> Option<()> {
        let mut area = [0; AREA];
        put_state(&mut area, user);
        let len = AREA.min(self.state.len());
        self.state[..24].copy_from_slice(&area[..24]);
        // MXCSR_MASK stays, and what the kernel keeps in the reserved bytes.
        self.state[24..28].copy_from_slice(&area[24..28]);
        self.state[32..416].copy_from_slice(&area[32..416]);
        self.state[512..len].copy_from_slice(&area[512..len]);
        self.regset(libc::PTRACE_SETREGSET)?;
        let Segments { cs, ss, ds, es } = self.segments;
        let g = &user.gpr;
        let registers = libc::user_regs_struct {
            r15: g[15],
            r14: g[14],
            r13: g[13],
            r12: g[12],
            rbp: g[5],
            rbx: g[3],
            r11: g[11],
            r10: g[10],
            r9: g[9],
            r8: g[8],
            rax: g[0],
            rcx: g[1],
            rdx: g[2],
            rsi: g[6],
            rdi: g[7],
            // No system call to restart.
            orig_rax: u64::MAX,
            rip: user.rip,
            cs: cs.into(),
            eflags: user.rflags & SETTABLE | 0x202,
            rsp: g[4],
            ss: ss.into(),
            fs_base: 0,
            gs_base: 0,
            ds: ds.into(),
            es: es.into(),
            fs: 0,
            gs: 0,
        };
        self.set_registers(&registers)
    }

    fn take(&mut self, registers: &libc::user_regs_struct, user: &mut User) -> Option<()> {
        let r = registers;
        user.gpr = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ];
        user.rip = r.rip;
        user.rflags = r.eflags;
        self.left = Segments { cs: r.cs as u16, ss: r.ss as u16, ds: r.ds as u16, es: r.es as u16 };
        self.regset(libc::PTRACE_GETREGSET)?;
        let mut area = [0; AREA];
        let len = AREA.min(self.state.len());
        area[..len].copy_from_slice(&self.state[..len]);
        take_state(&area, user);
        Some(())
    }

    /// After POPF, the kernel takes TF to be the process's own and shows it, until it delivers a signal.
    fn forget_step(&mut self) -> Option<()> {
        self.resume(libc::PTRACE_SINGLESTEP, libc::SIGTRAP)?;
        self.wait().map(drop)
    }

    /// ptrace does not change RFLAGS.ID; POPF does.
    fn set_id_flag(&mut self, wanted: bool) -> Option<()> {
        let registers = self.registers()?;
        if (registers.eflags & flag::ID != 0) == wanted {
            return Some(());
        }
        let kept: [u8; 8] = std::array::from_fn(|k| self.scratch()[k]);
        let at = (INSN - CODE) as usize;
        let byte = std::mem::replace(&mut self.code.bytes()[at], 0x9d);
        let flags = 0x202 | if wanted { flag::ID } else { 0 };
        self.scratch()[..8].copy_from_slice(&flags.to_le_bytes());
        let mut popf = registers;
        popf.rip = INSN;
        popf.cs = linux::CODE64.into();
        popf.ss = linux::DATA.into();
        (popf.ds, popf.es, popf.fs, popf.gs) = (0, 0, 0, 0);
        (popf.fs_base, popf.gs_base) = (0, 0);
        popf.rsp = SCRATCH;
        popf.eflags = 0x202;
        popf.orig_rax = u64::MAX;
        self.set_registers(&popf)?;
        self.resume(SYSEMU_SINGLESTEP, 0)?;
        self.wait()?;
        self.forget_step()?;
        self.code.bytes()[at] = byte;
        self.scratch()[..8].copy_from_slice(&kept);
        Some(())
    }

    /// Makes the process's address space empty but for what it shares.
    fn set_up(&mut self) -> bool {
        // SAFETY: EXITKILL ties the process's life to ours.
        let options = libc::PTRACE_O_EXITKILL as usize as *mut c_void;
        if self.trace(libc::PTRACE_SETOPTIONS, 0, options).is_none() {
            return false;
        }
        self.state = vec![0; 1 << 16];
        let Some(len) = self.regset(libc::PTRACE_GETREGSET) else { return false };
        self.state.truncate(len);
        if len < 576 {
            return false;
        }
        let behind = SCRATCH + SCRATCH_SIZE;
        let holes = [
            (0, CODE),
            (CODE + 0x1000, SCRATCH),
            (behind, SIGNALS),
            (SIGNALS + SIGNALS_SIZE as u64, TASK_SIZE),
        ];
        self.unregister_rseq();
        let done = holes
            .into_iter()
            .all(|(from, to)| self.system_call(libc::SYS_munmap, [from, to - from, 0, 0]) == Some(0));
        self.code.bytes().fill(0);
        done
    }

    /// The kernel writes to the registered area of restartable sequences whenever it moves the process; it must not when
    /// that is unmapped.
    fn unregister_rseq(&mut self) {
        /// Linux's struct ptrace_rseq_configuration.
        #[repr(C)]
        #[derive(Default)]
        struct Configuration {
            pointer: u64,
            size: u32,
            signature: u32,
            flags: u32,
            pad: u32,
        }
        const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        const UNREGISTER: u64 = 1;
        let mut found = Configuration::default();
        let data = (&raw mut found).cast();
        let got = self.trace(GET_RSEQ_CONFIGURATION, size_of::<Configuration>(), data);
        if got.is_some() && found.pointer != 0 {
            let arguments = [found.pointer, found.size.into(), UNREGISTER, found.signature.into()];
            self.system_call(libc::SYS_rseq, arguments);
        }
    }

    /// Makes the process call the system.
    fn system_call(&mut self, number: i64, arguments: [u64; 4]) -> Option<u64> {
        self.code.bytes()[..2].copy_from_slice(&[0x0f, 0x05]);
        let mut registers = self.registers()?;
        registers.rip = CODE;
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        self.set_registers(&registers)?;
        self.resume(libc::PTRACE_SINGLESTEP, 0)?;
        (self.wait()? == libc::SIGTRAP).then_some(())?;
        Some(self.registers()?.rax)
    }

    fn registers(&self) -> Option<libc::user_regs_struct> {
        // SAFETY: zeros are valid registers, which the call fills.
        unsafe {
            let mut registers: libc::user_regs_struct = zeroed();
            self.trace(libc::PTRACE_GETREGS, 0, (&raw mut registers).cast())?;
            Some(registers)
        }
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Option<()> {
        self.trace(libc::PTRACE_SETREGS, 0, (&raw const *registers).cast_mut().cast())
    }

    /// Reads or writes the extended state; gives its size.
    fn regset(&mut self, request: libc::c_uint) -> Option<usize> {
        let mut vector = libc::iovec { iov_base: self.state.as_mut_ptr().cast(), iov_len: self.state.len() };
        self.trace(request, XSTATE, (&raw mut vector).cast())?;
        Some(vector.iov_len)
    }

    fn resume(&self, request: libc::c_uint, signal: i32) -> Option<()> {
        self.trace(request, 0, signal as usize as *mut c_void)
    }

    fn trace(&self, request: libc::c_uint, address: usize, data: *mut c_void) -> Option<()> {
        // SAFETY: the callers give what each request reads or fills; the process is ours.
        let result = unsafe { libc::ptrace(request, self.pid, address as *mut c_void, data) };
        (result >= 0).then_some(())
    }

    /// The signal with which the process has stopped. None if it has ended.
    fn wait(&self) -> Option<i32> {
        let mut status = 0;
        // SAFETY: status lives here.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        (pid == self.pid && libc::WIFSTOPPED(status)).then(|| libc::WSTOPSIG(status) & 0x7f)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the process is ours; it is waited for, so that nothing of it stays.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, null_mut(), libc::__WALL);
        }
    }
}

/// What the process does itself: its mappings, its signal stack, and to wait for its tracer.
fn be_traced(code: &Shared, scratch: &Shared, signals: &Shared) -> ! {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: system calls alone. The handler's address is never run.
    unsafe {
        let mut good = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && code.map(CODE, libc::PROT_READ | libc::PROT_EXEC)
            && scratch.map(SCRATCH, rw)
            && signals.map(SIGNALS, rw)
            && libc::mprotect(SCRATCH_READ_ONLY as *mut c_void, 0x1000, libc::PROT_READ) == 0;
        compat::write_ldt();
        let stack = libc::stack_t { ss_sp: SIGNALS as *mut c_void, ss_flags: 0, ss_size: SIGNALS_SIZE };
        good &= libc::sigaltstack(&stack, null_mut()) == 0;
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = CODE as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            good &= libc::sigaction(signal, &action, null_mut()) == 0;
        }
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, null_mut());
        good &= libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<c_void>(), null_mut::<c_void>()) == 0;
        if good {
            libc::raise(libc::SIGSTOP);
        }
        libc::_exit(1)
    }
}

/// Whether SYSCALL, SYSENTER or INT 80h stands anywhere in the bytes, wherever an instruction may begin.
pub fn may_call_system(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| matches!(pair, [0x0f, 0x05 | 0x34] | [0xcd, 0x80]))
}
