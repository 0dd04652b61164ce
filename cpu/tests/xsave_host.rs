//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR against the host's own, with components 0 to 2: every subset of RFBM, headers good and
//! bad, both formats, components in their initial configuration, faults.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

use softmetal_cpu::{float::F80, testing::User};
use softmetal_cpu_testing::{Machine, Random, layout::*};
use std::{
    arch::{asm, x86_64::__cpuid},
    ffi::c_void,
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Bytes of an area with components 0 to 2, in both formats.
const AREA: usize = 832;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
const AVX: usize = 576;

/// What is done with [rdi].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Xsave,
    Xsave64,
    Xsaveopt,
    Xsaveopt64,
    Xsavec,
    Xsavec64,
    Xrstor,
    Xrstor64,
}
use Op::{Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64};

impl Op {
    fn bytes(self) -> &'static [u8] {
        match self {
            Xsave => &[0x0f, 0xae, 0x27],
            Xsave64 => &[0x48, 0x0f, 0xae, 0x27],
            Xsaveopt => &[0x0f, 0xae, 0x37],
            Xsaveopt64 => &[0x48, 0x0f, 0xae, 0x37],
            Xsavec => &[0x0f, 0xc7, 0x27],
            Xsavec64 => &[0x48, 0x0f, 0xc7, 0x27],
            Xrstor => &[0x0f, 0xae, 0x2f],
            Xrstor64 => &[0x48, 0x0f, 0xae, 0x2f],
        }
    }
}

#[repr(C, align(64))]
#[derive(Clone)]
struct Image([u8; AREA]);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|k| self.0[at + k]))
    }
    fn u128(&self, at: usize) -> u128 {
        u128::from(self.u64(at)) | u128::from(self.u64(at + 8)) << 64
    }

    /// The registers that XRSTOR makes of it, without what the two makers treat differently.
    fn registers(&self) -> User {
        let mut user = softmetal_cpu_testing::compare::blank();
        let there = self.u64(XSTATE_BV);
        if there & 1 != 0 {
            let word = |at: usize| self.u64(at) as u16;
            (user.x87.control, user.x87.status, user.x87.tags) = (word(0), word(2), self.0[4]);
            (user.x87.opcode, user.x87.ip, user.x87.dp) = (word(6) & 0x7ff, self.u64(8), self.u64(16));
            for k in 0..8 {
                let at = 32 + 16 * k;
                let r = F80 { significand: self.u64(at), sign_exponent: self.u64(at + 8) as u16 };
                user.x87.regs[user.x87.physical(k)] = r;
            }
        }
        user.mxcsr = self.u64(MXCSR) as u32;
        for k in 0..16 {
            user.xmm[k] = if there & 2 != 0 { self.u128(160 + 16 * k) } else { 0 };
            user.ymm_high[k] = if there & 4 != 0 { self.u128(AVX + 16 * k) } else { 0 };
        }
        user
    }
}

/// The registers that programs see of a state.
fn visible(user: &User) -> (softmetal_cpu::state::X87, u32, [u128; 16], [u128; 16]) {
    let mut x87 = user.x87;
    (x87.cs, x87.ds) = (0, 0);
    if !intel() {
        without_pointers(&mut x87);
    }
    (x87, user.mxcsr, user.xmm, user.ymm_high)
}

/// AMD saves and restores the opcode and the two pointers only with an exception pending (AMD64 APM 2 "FXSAVE and FXRSTOR
/// Instructions"); Intel always.
fn without_pointers(x87: &mut softmetal_cpu::state::X87) {
    (x87.opcode, x87.ip, x87.dp) = (0, 0, 0);
}

fn intel() -> bool {
    __cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}

/// Where the host's instruction stands, where it goes on after a fault, and what the fault was.
static FAULTS_AT: AtomicU64 = AtomicU64::new(0);
static GOES_ON: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

const NO_FAULT: u64 = u64::MAX;

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a ucontext_t to handlers installed with SA_SIGINFO.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if registers[libc::REG_RIP as usize] as u64 == FAULTS_AT.load(SeqCst) {
        VECTOR.store(registers[libc::REG_TRAPNO as usize] as u64, SeqCst);
        ADDRESS.store(registers[libc::REG_CR2 as usize] as u64, SeqCst);
        registers[libc::REG_RIP as usize] = GOES_ON.load(SeqCst) as i64;
        return;
    }
    // SAFETY: restoring a default action is always allowed; the instruction then faults again and ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// One user at a time: the statics above are the handler's.
static LOCK: Mutex<()> = Mutex::new(());

/// Memory with nothing behind it.
struct Host {
    memory: *mut u8,
    _lock: MutexGuard<'static, ()>,
}

const ROOM: usize = 0x2000;

impl Host {
    /// None where the host has not all that the test needs.
    fn new() -> Option<Host> {
        if !is_x86_feature_detected!("xsavec") || !is_x86_feature_detected!("avx") {
            println!("the host has no XSAVEC, or no AVX: nothing is compared");
            return None;
        }
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: new mappings at free addresses; a handler that touches only what its comment says.
        unsafe {
            let all = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
            let memory = libc::mmap(null_mut(), ROOM + 0x1000, all, kind, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            libc::mprotect(memory.add(ROOM), 0x1000, libc::PROT_NONE);
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL] {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(signal, &action, null_mut());
            }
            Some(Host { memory: memory.cast(), _lock: lock })
        }
    }

    /// Runs an instruction with the registers of `registers`, on what lies `offset` bytes into the memory.
    fn run(&mut self, op: Op, rfbm: u32, offset: usize, registers: &Image) -> (Image, Option<(u64, u64)>) {
        let mut saved = Image([0; AREA]);
        let mut after = Image([0; AREA]);
        VECTOR.store(NO_FAULT, SeqCst);
        macro_rules! run {
            ($bytes:literal) => {
                // SAFETY: all registers that the instructions change are saved first and brought back last; the areas are
                // as large as components 0 to 2 need, and the handler goes on behind an instruction that faults.
                unsafe {
                    asm!(
                        "lea {t}, [rip + 2f]",
                        "mov [{faults_at}], {t}",
                        "lea {t}, [rip + 3f]",
                        "mov [{goes_on}], {t}",
                        "mov eax, 7",
                        "xor edx, edx",
                        "xsave64 [{saved}]",
                        "xrstor64 [{registers}]",
                        "mov eax, {rfbm:e}",
                        "2:",
                        concat!(".byte ", $bytes),
                        "3:",
                        "mov eax, 7",
                        "xor edx, edx",
                        "xsave64 [{after}]",
                        "xrstor64 [{saved}]",
                        t = out(reg) _,
                        faults_at = in(reg) FAULTS_AT.as_ptr(),
                        goes_on = in(reg) GOES_ON.as_ptr(),
                        saved = in(reg) saved.0.as_mut_ptr(),
                        registers = in(reg) registers.0.as_ptr(),
                        after = in(reg) after.0.as_mut_ptr(),
                        rfbm = in(reg) rfbm,
                        in("rdi") self.memory.wrapping_add(offset),
                        out("rax") _,
                        out("rdx") _,
                    )
                }
            };
        }
        match op {
            Xsave => run!("0x0f, 0xae, 0x27"),
            Xsave64 => run!("0x48, 0x0f, 0xae, 0x27"),
            Xsaveopt => run!("0x0f, 0xae, 0x37"),
            Xsaveopt64 => run!("0x48, 0x0f, 0xae, 0x37"),
            Xsavec => run!("0x0f, 0xc7, 0x27"),
            Xsavec64 => run!("0x48, 0x0f, 0xc7, 0x27"),
            Xrstor => run!("0x0f, 0xae, 0x2f"),
            Xrstor64 => run!("0x48, 0x0f, 0xae, 0x2f"),
        }
        let vector = VECTOR.load(SeqCst);
        let address = ADDRESS.load(SeqCst).wrapping_sub(self.memory as u64);
        (after, (vector != NO_FAULT).then_some((vector, address)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody refers to it any more.
        unsafe {
            libc::munmap(self.memory.cast(), ROOM + 0x1000);
        }
    }
}

/// Where the machine has what the host has in its memory: two pages with nothing behind them.
const OURS: u64 = SCRATCH + SCRATCH_SIZE - 0x1000;

/// Both, side by side.
struct Pair {
    host: Host,
    machine: Machine,
    random: Random,
}

impl Pair {
    fn new(seed: u64) -> Option<Pair> {
        let host = Host::new()?;
        let mut machine = Machine::default();
        machine.cpu.set_state(&Machine::user_state());
        Some(Pair { host, machine, random: Random::new(seed) })
    }

    /// Registers with some components in their initial configuration.
    fn registers(&mut self) -> Image {
        let r = &mut self.random;
        let mut image = Image([0; AREA]);
        let there = if r.once_in(3) { 7 } else { r.below(8) };
        for at in (160..416).chain(AVX..AREA).step_by(8) {
            image.put(at, &r.operand().to_le_bytes());
        }
        for k in 0..8 {
            image.put(32 + 16 * k, &r.operand().to_le_bytes());
            image.put(40 + 16 * k, &(r.next() as u16).to_le_bytes());
        }
        // All exceptions masked, so that none is pending whatever the flags are.
        image.put(0, &(0x37f | r.next() as u16 & 0xc00).to_le_bytes());
        image.put(2, &(r.next() as u16 & 0x7f7f).to_le_bytes());
        image.put(4, &[r.next() as u8, 0]);
        image.put(6, &(r.next() as u16 & 0x7ff).to_le_bytes());
        image.put(8, &(r.next() & 0x7fff_ffff_ffff).to_le_bytes());
        image.put(16, &(r.next() & 0x7fff_ffff_ffff).to_le_bytes());
        let mxcsr = if r.once_in(3) { 0x1f80 } else { r.next() as u32 & 0xffff };
        image.put(MXCSR, &mxcsr.to_le_bytes());
        image.put(XSTATE_BV, &there.to_le_bytes());
        image
    }

    /// Runs both; gives what each has in registers and memory, and the fault.
    fn run(&mut self, op: Op, rfbm: u32, offset: usize, registers: &Image, memory: &[u8]) -> [Outcome; 2] {
        let page = ROOM - 0x1000;
        // SAFETY: the mapping has ROOM bytes, and no instruction runs meanwhile.
        let host = unsafe { std::slice::from_raw_parts_mut(self.host.memory, ROOM) };
        host[page..].copy_from_slice(memory);
        let (after, fault) = self.host.run(op, rfbm, page + offset, registers);
        let theirs = Outcome {
            registers: visible(&after.registers()),
            memory: host[page..].to_vec(),
            fault: fault
                .map(|(vector, at)| (vector, if vector == 14 { at.wrapping_sub(page as u64) } else { 0 })),
        };
        let mut user = registers.registers();
        user.gpr[0] = rfbm.into();
        user.gpr[7] = OURS + offset as u64;
        user.rip = INSN;
        user.rflags = 0x202;
        self.machine.load(op.bytes());
        self.machine.write(SCRATCH_FRAME + (OURS - SCRATCH), memory);
        let result = self.machine.run_user(&mut user);
        let ours = Outcome {
            registers: visible(&user),
            memory: self.machine.bytes(SCRATCH_FRAME + (OURS - SCRATCH), 0x1000),
            fault: result
                .err()
                .map(|f| (f.vector.into(), if f.vector == 14 { f.address.wrapping_sub(OURS) } else { 0 })),
        };
        [ours, theirs]
    }

    /// Runs both, and says what differs. A difference has to come each of a few times: where the host's kernel put the registers
    /// aside in the middle of the host's turn, more of them count as in use afterwards.
    fn compare(
        &mut self,
        op: Op,
        rfbm: u32,
        offset: usize,
        registers: &Image,
        memory: &[u8],
    ) -> ([Outcome; 2], Option<String>) {
        let mut tries = 0;
        loop {
            let both = self.run(op, rfbm, offset, registers, memory);
            let different = difference(&both, offset);
            tries += 1;
            if different.is_none() || tries == 10 {
                return (both, different);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    registers: (softmetal_cpu::state::X87, u32, [u128; 16], [u128; 16]),
    memory: Vec<u8>,
    fault: Option<(u64, u64)>,
}

/// What the makers save differently, made the same: the pointers of the x87, and MXCSR_MASK, where AMD has one more bit
/// (misaligned SSE operands).
fn alike(memory: &mut [u8], offset: usize) {
    if intel() {
        return;
    }
    // An area that ends beyond the page may have its beginning written.
    for at in 6..24 {
        memory[offset + at] = 0;
    }
    memory[offset + MXCSR_MASK + 2] &= !2;
}

fn difference(pair: &[Outcome; 2], offset: usize) -> Option<String> {
    let [mut ours, mut theirs] = pair.clone();
    alike(&mut ours.memory, offset);
    alike(&mut theirs.memory, offset);
    if ours.fault != theirs.fault {
        return Some(format!("we fault with {:x?}, the host with {:x?}", ours.fault, theirs.fault));
    }
    if ours.registers != theirs.registers {
        return Some(format!("registers: ours\n{:x?}\nthe host's\n{:x?}", ours.registers, theirs.registers));
    }
    let at = ours.memory.iter().zip(&theirs.memory).position(|(a, b)| a != b)?;
    let bytes = |o: &Outcome| o.memory[at & !7..][..8].to_vec();
    let place = (at & !7).wrapping_sub(offset) as isize;
    Some(format!("memory at {place}: ours {:02x?}, the host's {:02x?}", bytes(&ours), bytes(&theirs)))
}

const SAVES: [Op; 6] = [Xsave, Xsave64, Xsaveopt, Xsaveopt64, Xsavec, Xsavec64];
const CASES: u64 = 3000;

#[test]
fn saving() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut pair) = Pair::new(1) else { return };
    for case in 0..CASES {
        let op = pair.random.pick(&SAVES);
        let rfbm = pair.random.below(8) as u32;
        let registers = pair.registers();
        let fill = pair.random.next() as u8;
        let mut memory = vec![fill; 0x1000];
        let offset = 64 * pair.random.below(40) as usize;
        if pair.random.once_in(2) {
            // An older header, of which bits stay.
            let old = pair.random.next();
            memory[offset + XSTATE_BV..][..8].copy_from_slice(&old.to_le_bytes());
        }
        let (both, different) = pair.compare(op, rfbm, offset, &registers, &memory);
        assert_eq!(both[0].fault, None, "{op:?}");
        if let Some(what) = different {
            let there = registers.u64(XSTATE_BV);
            let mxcsr = registers.u64(MXCSR) as u32;
            panic!("case {case}: {op:?} of {rfbm:03b}, in use {there:03b}, mxcsr {mxcsr:x}: {what}");
        }
    }
}

#[test]
fn restoring() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut pair) = Pair::new(2) else { return };
    let (mut faults, mut good) = (0, 0);
    for case in 0..CASES {
        let op = pair.random.pick(&[Xrstor, Xrstor64]);
        let rfbm = pair.random.below(8) as u32;
        let registers = pair.registers();
        let mut area = pair.registers();
        let r = &mut pair.random;
        let present = if r.once_in(10) { r.pick(&[8, 16, 1 << 62, 1 << 63]) } else { r.below(8) };
        area.put(XSTATE_BV, &present.to_le_bytes());
        let format = match r.below(8) {
            0..4 => 0,
            4 => (1 << 63) | r.below(8),
            5 => (1 << 63) | 7,
            6 => (1 << 63) | present | r.below(8),
            _ => r.pick(&[1, 7, 1 << 62, (1 << 63) | 15, (1 << 63) | (1 << 62) | 7]),
        };
        area.put(XCOMP_BV, &format.to_le_bytes());
        if r.once_in(6) {
            // The rest of the header: who looks at it?
            let at = 528 + 8 * r.below(6) as usize;
            let word = 1u64 << r.below(64);
            area.put(at, &word.to_le_bytes());
        }
        if r.once_in(6) {
            let reserved = r.pick(&[0x1_0000u32, 0x4_0000, 0x8000_0000]);
            area.put(MXCSR, &(0x1f80 | reserved).to_le_bytes());
        }
        let offset = 64 * r.below(40) as usize;
        let mut memory = vec![0; 0x1000];
        memory[offset..offset + AREA].copy_from_slice(&area.0);
        let (both, different) = pair.compare(op, rfbm, offset, &registers, &memory);
        *if both[0].fault.is_some() { &mut faults } else { &mut good } += 1;
        if let Some(what) = different {
            let mxcsr = area.u64(MXCSR) as u32;
            let rest: Vec<u64> = (0..6).map(|k| area.u64(528 + 8 * k)).collect();
            panic!(
                "case {case}: {op:?} of {rfbm:03b}, XSTATE_BV {present:x}, XCOMP_BV {format:x}, {rest:x?}, mxcsr \
                 {mxcsr:x}: {what}"
            );
        }
    }
    assert!(faults > 100 && good > 1000, "{faults} {good}");
}

#[test]
fn areas_that_are_misaligned_or_end_beyond_the_last_page() {
    if !softmetal_cpu_testing::host::judges() {
        return;
    }
    let Some(mut pair) = Pair::new(3) else { return };
    let all = [Xsave, Xsave64, Xsaveopt, Xsaveopt64, Xsavec, Xsavec64, Xrstor, Xrstor64];
    for op in all {
        for rfbm in 0..8 {
            for offset in [1, 8, 16, 32, 63, 0xfc1, 0xd00 - 0x40, 0xcc0, 0xd00, 0xdc0, 0xe00, 0xfc0] {
                for there in 0..8u64 {
                    let mut registers = pair.registers();
                    registers.put(XSTATE_BV, &there.to_le_bytes());
                    let mut memory = vec![0; 0x1000];
                    // A good header for XRSTOR, where it is in the page.
                    if let Some(header) = memory.get_mut(offset + XSTATE_BV..offset + XSTATE_BV + 8) {
                        header.copy_from_slice(&there.to_le_bytes());
                    }
                    if let Some(mxcsr) = memory.get_mut(offset + MXCSR..offset + MXCSR + 4) {
                        mxcsr.copy_from_slice(&0x1f80u32.to_le_bytes());
                    }
                    let (both, different) = pair.compare(op, rfbm, offset, &registers, &memory);
                    let page = |fault: (u64, u64)| (fault.0, fault.1 & !0xfff);
                    // Which byte of the second page is touched first is the processor's business.
                    let [ours, theirs] = both.clone().map(|o| o.fault.map(page));
                    // AMD looks at the room of every component that is asked for; the manual leaves open whether a processor
                    // does that for one that is neither written nor loaded.
                    let idle = rfbm & 4 != 0 && there & 4 == 0 && !matches!(op, Xsave | Xsave64);
                    if intel() && idle && ours.is_some() && theirs.is_none() {
                        continue;
                    }
                    assert_eq!(ours, theirs, "{op:?} of {rfbm:03b} at {offset:x}, in use {there:03b}");
                    if ours.is_none() {
                        assert_eq!(different, None, "{op:?} of {rfbm:03b} at {offset:x}");
                    }
                }
            }
        }
    }
}
