//! Nanoseconds per guest instruction on the interpreter: small integer loops with memory access (target: 1.5), and
//! straight code of some thousand different instructions (target: 4).

use criterion::{Criterion, criterion_group, criterion_main};
use softmetal_cpu_testing::workloads::{Loop, loops, straight};
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

/// The time that so many instructions of a loop take.
fn time(program: &mut Loop, instructions: u64) -> Duration {
    let per_turn = program.per_turn();
    let turns = (instructions / per_turn).max(100_000 / per_turn + 1);
    program.prepare(turns);
    let start = now();
    program.run();
    (now() - start).mul_f64(instructions as f64 / (turns * per_turn) as f64)
}

fn interpreter(c: &mut Criterion) {
    let mut group = c.benchmark_group("interpreter, per instruction");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for (name, make) in loops() {
        let mut program = make();
        group.bench_function(format!("loop/{name}"), |b| b.iter_custom(|n| time(&mut program, n)));
    }
    for n in [500, 1000, 2000, 4000] {
        let mut program = straight(n);
        group.bench_function(format!("straight/{n}"), |b| b.iter_custom(|k| time(&mut program, k)));
    }
    group.finish();
}

criterion_group!(benches, interpreter);
criterion_main!(benches);
