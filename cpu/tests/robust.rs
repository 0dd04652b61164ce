//! Nothing that a guest does may panic or hang the host: random bytes and random instructions from random states, and loops
//! that only a request ends.

use iced_x86::{Code, code_asm::*};
use softmetal_cpu::{Exit, Options, Request};
use softmetal_cpu_testing::{Machine, Random, assemble, chaos, forms, layout::*, options, random::cases};
use std::time::Duration;

/// From how many states the code of a case runs: translating at once takes its time.
fn states(case: u64, options: &Options) -> u32 {
    match options.jit {
        Some(_) if !case.is_multiple_of(4) => 0,
        Some(_) => 3,
        None => 12,
    }
}

#[test]
fn random_bytes() {
    let mut random = Random::new(21);
    for n in 0..cases(600) {
        let code: Vec<u8> = (0..200).map(|_| random.next() as u8).collect();
        let options = options()[n as usize % options().len()];
        chaos::run(&mut random, &code, options, states(n, &options));
    }
}

/// Valid instructions of every kind, so that each is tried in modes and states where it must not work.
#[test]
fn random_instructions() {
    let mut random = Random::new(22);
    let codes: Vec<Code> =
        Code::values().filter(|code| code.op_code().is_instruction() && code.op_code().mode64()).collect();
    for n in 0..cases(600) {
        let mut code = Vec::new();
        while code.len() < 120 {
            let of = random.pick(&codes);
            match forms::form(of, &mut random) {
                Some(form) => code.extend(form.bytes),
                // What forms cannot make: system instructions and prefixes, in bytes.
                None => {
                    let bytes: &[&[u8]] = &[
                        &[0x0f, 0x01],
                        &[0x0f, 0x00],
                        &[0x0f, 0x20],
                        &[0x0f, 0x22],
                        &[0x0f, 0x23],
                        &[0x0f, 0xae],
                        &[0x0f, 0xc7],
                        &[0xcf],
                        &[0xcb],
                        &[0xea],
                        &[0x8e],
                        &[0xff],
                        &[0xf3],
                        &[0x66],
                        &[0x67],
                        &[0x0f, 0x30],
                        &[0x0f, 0x32],
                        &[0x9d],
                        &[0xc8],
                        &[0xe2],
                        &[0x0f, 0x05],
                        &[0x0f, 0x07],
                        &[0x0f, 0x34],
                    ];
                    code.extend(random.pick(bytes));
                    code.extend((random.next() as u32).to_le_bytes());
                }
            }
        }
        code.truncate(200);
        let options = options()[n as usize % options().len()];
        chaos::run(&mut random, &code, options, states(n, &options));
    }
}

/// Loops that only a request from another thread ends.
#[test]
fn endless_loops_end_on_request() {
    type Build = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let loops: &[(&str, Build)] = &[
        ("jmp to itself", |a| a.jmp(KERNEL_CODE)),
        ("through the jump cache", |a| {
            a.mov(rbx, KERNEL_CODE)?;
            a.jmp(rbx)
        }),
        ("calls", |a| {
            a.add(rsp, 8)?;
            a.call(KERNEL_CODE)
        }),
        ("rep", |a| {
            a.mov(rcx, u64::MAX)?;
            a.mov(rsi, KERNEL_DATA)?;
            a.mov(r8, rsi)?;
            a.rep().lodsb()?;
            a.jmp(KERNEL_CODE)
        }),
        ("code that changes itself", |a| {
            a.inc(dword_ptr(KERNEL_CODE + 0x40))?;
            a.jmp(KERNEL_CODE)
        }),
        ("interrupts", |a| {
            a.lea(rsp, ptr(rsp + 40))?;
            a.int(0x70)
        }),
    ];
    for (name, build) in loops {
        for options in options() {
            let mut m = Machine::new(options);
            m.program(&assemble(KERNEL_CODE, build));
            m.gate(0x70, KERNEL_CODE, 0, 0, 0xe);
            let attention = m.cpu.attention();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                attention.request(Request::EXIT);
            });
            let exit = m.cpu.run();
            killer.join().expect("the thread only sleeps and asks");
            assert!(exit == Exit::Requested || *name == "rep" && exit == Exit::Halted, "{name}: {exit:?}");
        }
    }
}
