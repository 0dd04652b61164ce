//! SSE with unmasked exceptions against the host CPU: when it faults, and what MXCSR then holds. Linux delivers #XM
//! as SIGFPE; the handler notes MXCSR and lets the instruction run again with everything masked.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

mod float_host;

use float_host::{Random, cases};
use softmetal_cpu::float::{self, Env, F32, F64, Format};
use std::arch::asm;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const MASKS: u32 = 0x1f80;
const NONE: u32 = u32::MAX;
/// MXCSR as the last fault found it.
static FAULT: AtomicU32 = AtomicU32::new(NONE);

extern "C" fn on_fpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context with floating-point state to a SA_SIGINFO handler.
    unsafe {
        let state = (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs;
        FAULT.store((*state).mxcsr, Relaxed);
        (*state).mxcsr |= MASKS;
    }
}

fn catch_fpe() {
    // SAFETY: the handler touches only an atomic and the context that it is given.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fpe as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Whether the instruction faults, and MXCSR at the fault or after it.
macro_rules! host {
    ($instruction:literal, $mxcsr:expr, $operands:expr) => {{
        let operands: &[[u64; 2]; 3] = $operands;
        let (usual, before): (u32, u32) = (MASKS, $mxcsr);
        let mut after = 0u32;
        FAULT.store(NONE, Relaxed);
        // SAFETY: a fault is handled by running on with exceptions masked; MXCSR is restored.
        unsafe {
            asm!(
                "movups xmm0, [{o}]",
                "movups xmm1, [{o} + 16]",
                "movups xmm2, [{o} + 32]",
                "ldmxcsr [{before}]",
                $instruction,
                "stmxcsr [{after}]",
                "ldmxcsr [{usual}]",
                o = in(reg) operands,
                before = in(reg) &raw const before,
                after = in(reg) &raw mut after,
                usual = in(reg) &raw const usual,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("rax") _,
            );
        }
        match FAULT.load(Relaxed) {
            NONE => (false, after),
            fault => (true, fault),
        }
    }};
}

type Operation<F> = fn(<F as Format>::Bits, <F as Format>::Bits, <F as Format>::Bits, &mut Env);

/// Runs `ours` on each element of packed operands under one environment.
fn elements<F: Format>(
    mxcsr: u32,
    operands: &[[u64; 2]; 3],
    count: usize,
    ours: Operation<F>,
) -> (bool, u32) {
    let width = F::SIGN.trailing_zeros() as usize + 1;
    let mut env = Env::sse(mxcsr);
    for n in 0..count {
        let element = |o: &[u64; 2]| F::from_u64(o[n * width / 64] >> (n * width % 64));
        ours(element(&operands[0]), element(&operands[1]), element(&operands[2]), &mut env);
    }
    (env.unmasked() != 0, env.mxcsr())
}

#[test]
fn unmasked_exceptions_fault_with_the_right_flags() {
    catch_fpe();
    let fma = is_x86_feature_detected!("fma");
    let mut random = Random(4711);
    let (mut faults, mut total) = (0u32, 0u32);
    for _ in 0..cases(10_000) {
        let double = random.below(2) == 0;
        let mut operands = [[0u64; 2]; 3];
        let mut other = 0;
        for o in operands.iter_mut().flatten() {
            if double {
                other = random.float(11, 52, other);
                *o = other;
            } else {
                let low = random.float(8, 23, other);
                other = random.float(8, 23, low);
                *o = low | other << 32;
            }
        }
        for unmasked in [1, 2, 4, 8, 16, 32, 63, random.below(64) as u32] {
            let mode = random.next() as u32 & 0xe040;
            let mxcsr = MASKS & !(unmasked << 7) | mode;
            macro_rules! check {
                ($instruction:literal, $format:ty, $count:literal, |$a:tt, $b:tt, $c:tt, $env:ident| $ours:expr) => {
                    let host = host!($instruction, mxcsr, &operands);
                    let ours = elements::<$format>(mxcsr, &operands, $count, |$a, $b, $c, $env| {
                        let _ = $ours;
                    });
                    faults += u32::from(host.0);
                    total += 1;
                    assert!(
                        ours == host,
                        "{} with MXCSR {mxcsr:x}, operands {operands:x?}: ours {ours:x?}, host {host:x?}",
                        $instruction
                    );
                };
            }
            use float::ToInteger::Round;
            if double {
                check!("addsd xmm0, xmm1", F64, 1, |a, b, _, env| float::add::<F64>(a, b, env));
                check!("addpd xmm0, xmm1", F64, 2, |a, b, _, env| float::add::<F64>(a, b, env));
                check!("mulsd xmm0, xmm1", F64, 1, |a, b, _, env| float::mul::<F64>(a, b, env));
                check!("mulpd xmm0, xmm1", F64, 2, |a, b, _, env| float::mul::<F64>(a, b, env));
                check!("divpd xmm0, xmm1", F64, 2, |a, b, _, env| float::div::<F64>(a, b, env));
                check!("sqrtpd xmm0, xmm0", F64, 2, |a, _, _, env| float::sqrt::<F64>(a, env));
                check!("minpd xmm0, xmm1", F64, 2, |a, b, _, env| float::min::<F64>(a, b, env));
                check!("cvtpd2ps xmm0, xmm0", F64, 2, |a, _, _, env| float::f64_to_f32(a, env));
                check!("cvtsd2si eax, xmm0", F64, 1, |a, _, _, env| float::to_i32::<F64>(a, Round, env));
                check!("comisd xmm0, xmm1", F64, 1, |a, b, _, env| float::compare::<F64>(
                    a,
                    b,
                    float::Invalid::AnyNan,
                    env
                ));
                if fma {
                    check!("vfmadd213pd xmm0, xmm1, xmm2", F64, 2, |a, b, c, env| float::fma::<F64>(
                        b, a, c, false, false, env
                    ));
                }
            } else {
                check!("addss xmm0, xmm1", F32, 1, |a, b, _, env| float::add::<F32>(a, b, env));
                check!("subps xmm0, xmm1", F32, 4, |a, b, _, env| float::sub::<F32>(a, b, env));
                check!("mulps xmm0, xmm1", F32, 4, |a, b, _, env| float::mul::<F32>(a, b, env));
                check!("divss xmm0, xmm1", F32, 1, |a, b, _, env| float::div::<F32>(a, b, env));
                check!("divps xmm0, xmm1", F32, 4, |a, b, _, env| float::div::<F32>(a, b, env));
                check!("cvtss2sd xmm0, xmm0", F32, 1, |a, _, _, env| float::f32_to_f64(a, env));
                check!("cmpltps xmm0, xmm1", F32, 4, |a, b, _, env| float::compare_predicate::<F32>(
                    a, b, 1, env
                ));
            }
        }
    }
    assert!(faults > total / 10 && faults < total, "{faults} of {total} instructions faulted");
}
