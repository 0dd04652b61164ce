//! Nanoseconds per guest instruction on the interpreter: small integer loops with memory access (target: 1.5), and
//! straight code of some thousand different instructions (target: 4).

use criterion::{Criterion, criterion_group, criterion_main};
use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu_testing::{End, Machine, Random, assemble, layout::*};
use std::time::Duration;

/// The CPU time of this thread: other programs on the machine do not count.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time since the program's start.
#[cfg(not(target_os = "linux"))]
fn now() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// A program that runs RCX times through a loop and halts.
struct Loop {
    machine: Machine,
    /// Instructions of one time through.
    per_turn: u64,
}

impl Loop {
    fn new(body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut n = 0;
        let code = assemble(KERNEL_CODE, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            let before = a.instructions().len();
            body(a)?;
            n = (a.instructions().len() - before) as u64;
            a.dec(rcx)?;
            a.jne(again)?;
            a.hlt()
        });
        let mut machine = Machine::default();
        machine.program(&code);
        Loop { machine, per_turn: n + 2 }
    }

    /// The time that `iterations` instructions take.
    fn time(&mut self, iterations: u64) -> Duration {
        let turns = (iterations / self.per_turn).max(100_000 / self.per_turn + 1);
        let mut state = Machine::supervisor_state();
        state.gpr[1] = turns;
        state.gpr[3] = KERNEL_DATA;
        state.gpr[6] = KERNEL_DATA;
        state.gpr[7] = FRAMES;
        self.machine.cpu.set_state(&state);
        let start = now();
        let end = self.machine.run();
        assert!(matches!(end, End::Halt(_)), "the program ended with {end:?}");
        (now() - start).mul_f64(iterations as f64 / (turns * self.per_turn) as f64)
    }
}

/// Copies, sums and counts through memory.
fn loops() -> Vec<(&'static str, Loop)> {
    let sum = |a: &mut CodeAssembler| {
        a.mov(edx, ecx)?;
        a.and(edx, 0xfff)?;
        a.add(rax, qword_ptr(rsi + rdx * 8))?;
        a.mov(qword_ptr(rdi), rax)
    };
    let bytes = |a: &mut CodeAssembler| {
        let mut skip = a.create_label();
        a.movzx(eax, byte_ptr(rsi))?;
        a.inc(rsi)?;
        a.and(esi, 0x30_ffffu32 as i32)?;
        a.cmp(eax, 10)?;
        a.je(skip)?;
        a.add(r8d, eax)?;
        a.set_label(&mut skip)?;
        a.mov(byte_ptr(rdi), al)
    };
    let hash = |a: &mut CodeAssembler| {
        a.mov(edx, dword_ptr(rbx))?;
        a.imul_3(edx, edx, 0x0101_0193)?;
        a.xor(edx, ecx)?;
        a.mov(eax, edx)?;
        a.shr(eax, 16)?;
        a.xor(edx, eax)?;
        a.mov(dword_ptr(rbx), edx)
    };
    vec![("sum", Loop::new(sum)), ("bytes", Loop::new(bytes)), ("hash", Loop::new(hash))]
}

/// Some thousand instructions in a mix as compilers make it.
fn straight(n: usize) -> Loop {
    let registers = [rax, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15];
    let registers32 = [eax, edx, ebp, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];
    Loop::new(|a| {
        let mut random = Random::new(7);
        let mut left = n;
        while left > 0 {
            let (x, y) = (random.pick(&registers), random.pick(&registers));
            let (x32, y32) = (random.pick(&registers32), random.pick(&registers32));
            let displacement = 8 * random.below(256) as i32;
            left -= 1;
            match random.below(16) {
                0..3 => a.mov(x, qword_ptr(rbx + displacement))?,
                3..5 => a.mov(qword_ptr(rdi + displacement), x)?,
                5 => a.mov(x32, dword_ptr(rbx + displacement))?,
                6 => a.add(x, y)?,
                7 => a.add(x32, displacement)?,
                8 => a.lea(x, ptr(y + 16))?,
                9 => a.mov(x, y)?,
                10 => a.xor(x32, y32)?,
                11 => a.shl(x32, 3)?,
                12 => a.movzx(x32, byte_ptr(rsi + displacement))?,
                13 => a.sub(x, qword_ptr(rbx + displacement))?,
                14 => a.and(x32, 0xffff)?,
                _ => {
                    let mut skip = a.create_label();
                    a.test(x32, y32)?;
                    a.je(skip)?;
                    a.set_label(&mut skip)?;
                    a.nop()?;
                    left = left.saturating_sub(2);
                }
            }
        }
        Ok(())
    })
}

fn interpreter(c: &mut Criterion) {
    let mut group = c.benchmark_group("interpreter, per instruction");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for (name, mut program) in loops() {
        group.bench_function(format!("loop/{name}"), |b| b.iter_custom(|n| program.time(n)));
    }
    for n in [500, 1000, 2000, 4000] {
        let mut program = straight(n);
        group.bench_function(format!("straight/{n}"), |b| b.iter_custom(|k| program.time(k)));
    }
    group.finish();
}

criterion_group!(benches, interpreter);
criterion_main!(benches);
