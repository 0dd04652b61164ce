//! CPUs that share memory: locked operations on every kind of operand, the order of accesses, code that another CPU or a
//! device writes.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::{Activity, Cpu, Exit, Options, Translate};
use softmetal_cpu_testing::{Level, Machine, assemble, bus::Access, layout::*, pte, translated};
use std::thread;
use vm_memory::{Bytes, GuestAddress};

/// Data of these tests, in pages of their own.
const DATA: u64 = KERNEL_DATA;

type Code<'a> = dyn Fn(&mut CodeAssembler, usize) -> Result<(), IcedError> + 'a;

/// Runs `code` on `cpus` CPUs at once, each with its own copy; it ends with HLT. Gives the machine and each CPU's RAX.
fn together(
    cpus: usize,
    options: Options,
    prepare: impl Fn(&mut Machine),
    code: &Code<'_>,
) -> (Machine, Vec<u64>) {
    let mut machine = Machine::new(Options { cpus, ..options });
    prepare(&mut machine);
    for k in 0..cpus {
        let at = KERNEL_CODE + 0x1000 * k as u64;
        machine.write(at, &assemble(at, |a| code(a, k)));
    }
    let others: Vec<Box<Cpu>> = (1..cpus).map(|k| machine.another_cpu(k, options)).collect();
    let start = |k: usize, cpu: &mut Cpu| {
        let mut state = cpu.state();
        state.rip = KERNEL_CODE + 0x1000 * k as u64;
        cpu.set_state(&state);
    };
    let finish = |cpu: &mut Cpu| {
        assert_eq!(cpu.run(), Exit::Halted);
        assert_eq!(cpu.state().activity, Activity::Halted, "{}", cpu.state());
        let rip = cpu.state().rip;
        assert!(rip > KERNEL_CODE && rip < KERNEL_CODE + 0x1000 * cpus as u64, "it ended at {rip:#x}");
        cpu.state().gpr[0]
    };
    start(0, &mut machine.cpu);
    let results = thread::scope(|scope| {
        let threads: Vec<_> = others
            .into_iter()
            .enumerate()
            .map(|(k, mut cpu)| {
                scope.spawn(move || {
                    start(k + 1, &mut cpu);
                    finish(&mut cpu)
                })
            })
            .collect();
        let mut results = vec![finish(&mut machine.cpu)];
        results.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        results
    });
    (machine, results)
}

fn nothing(_: &mut Machine) {}

/// Interpreted, and translated.
fn engines() -> [Options; 2] {
    [Options::default(), translated(2)]
}

/// All ways to count under LOCK.
#[test]
fn locked_counters() {
    const ROUNDS: u32 = 1000;
    // Aligned, within a cache line, across two, across two pages.
    for at in [DATA, DATA + 1, DATA + 61, DATA + 0xffd, DATA + 0x2000 - 1] {
        for cpus in 2..=4 {
            for options in [Options::default(), Options { no_tlb: true, ..Options::default() }, translated(2)]
            {
                let code: &Code<'_> = &|a, _| {
                    let (mut again, mut retry) = (a.create_label(), a.create_label());
                    a.mov(rbx, at)?;
                    a.mov(ecx, ROUNDS)?;
                    a.set_label(&mut again)?;
                    a.mov(edx, 1)?;
                    a.lock().xadd(dword_ptr(rbx), edx)?;
                    a.lock().inc(qword_ptr(rbx + 0x4000))?;
                    a.lock().add(word_ptr(rbx + 0x8000), 1)?;
                    a.mov(rax, qword_ptr(rbx + 0xc000))?;
                    a.set_label(&mut retry)?;
                    a.lea(rdx, ptr(rax + 5))?;
                    a.lock().cmpxchg(qword_ptr(rbx + 0xc000), rdx)?;
                    a.jne(retry)?;
                    a.dec(ecx)?;
                    a.jne(again)?;
                    a.hlt()
                };
                let (machine, _) = together(cpus, options, nothing, code);
                let total = u64::from(ROUNDS) * cpus as u64;
                let counts = [0, 0x4000, 0x8000, 0xc000].map(|by| machine.read_u64(at + by));
                assert_eq!(counts, [total, total, total & 0xffff, 5 * total], "at {at:#x} with {cpus} CPUs");
            }
        }
    }
}

/// XCHG locks without a prefix: a spin lock that lies in two pages guards a plain counter.
#[test]
fn a_spin_lock_across_pages() {
    let lock = DATA + 0xffe;
    let code: &Code<'_> = &|a, _| {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        a.mov(rbx, lock)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut again)?;
        a.nop()?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.mov(eax, 1)?;
        a.xchg(dword_ptr(rbx), eax)?;
        a.test(eax, eax)?;
        a.jne(wait)?;
        a.inc(qword_ptr(rbx + 0x2000))?;
        // A plain store to both pages would not be one step: give it back as it was taken.
        a.xchg(dword_ptr(rbx), eax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    };
    for options in engines() {
        let (machine, _) = together(3, options, nothing, code);
        assert_eq!(machine.read_u64(lock + 0x2000), 3000);
    }
}

/// Halves of one value always belong together.
#[test]
fn cmpxchg16b_counts_in_two_halves() {
    for options in [Options::default(), Options { no_tlb: true, ..Options::default() }, translated(2)] {
        let code: &Code<'_> = &|a, _| {
            let (mut again, mut retry, mut torn) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(rdi, DATA)?;
            a.mov(esi, 3000)?;
            a.set_label(&mut again)?;
            a.xor(eax, eax)?;
            a.xor(edx, edx)?;
            a.set_label(&mut retry)?;
            // What was found: the second half is three times the first.
            a.lea(r8, ptr(rax + rax * 2))?;
            a.cmp(r8, rdx)?;
            a.jne(torn)?;
            a.lea(rbx, ptr(rax + 1))?;
            a.lea(rcx, ptr(rdx + 3))?;
            a.lock().cmpxchg16b(xmmword_ptr(rdi))?;
            a.jne(retry)?;
            a.dec(esi)?;
            a.jne(again)?;
            a.mov(eax, 1)?;
            a.hlt()?;
            a.set_label(&mut torn)?;
            a.xor(eax, eax)?;
            a.hlt()
        };
        let (machine, results) = together(4, options, nothing, code);
        assert_eq!(results, [1; 4], "0 is a torn value");
        assert_eq!((machine.read_u64(DATA), machine.read_u64(DATA + 8)), (12_000, 36_000));
    }
}

/// LOCK on a device: nobody comes between the read and the write.
#[test]
fn locked_device_accesses_come_in_pairs() {
    let device = 0x9000_0000u64;
    let map = |m: &mut Machine| m.map(device, 0x4000_0000, Level::Small, pte::P | pte::W);
    let code: &Code<'_> = &|a, _| {
        let mut again = a.create_label();
        a.mov(rbx, device)?;
        a.mov(ecx, 500)?;
        a.set_label(&mut again)?;
        a.lock().add(dword_ptr(rbx + 16), 1)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    };
    for options in engines() {
        let (machine, _) = together(3, options, map, code);
        let accesses = machine.bus.take();
        assert_eq!(accesses.len(), 3000);
        for pair in accesses.chunks(2) {
            assert!(matches!(pair, [Access::MmioRead(_, 4), Access::MmioWrite(_, _)]), "{pair:?}");
        }
    }
}

/// Stores are seen in their order, and a locked operation keeps a load behind an earlier store.
#[test]
fn memory_order_is_that_of_x86() {
    let code: &Code<'_> = &|a, me| {
        let (mut round, mut wait, mut bad, mut out) =
            (a.create_label(), a.create_label(), a.create_label(), a.create_label());
        let (mine, other) = (DATA + 0x1000 * me as u64, DATA + 0x1000 * (1 - me as u64));
        let notes = 0x1_0000 - 0xffc * me as i32;
        a.mov(rbx, mine)?;
        a.mov(rsi, other)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut round)?;
        a.inc(ecx)?;
        // Data, then the flag behind it.
        a.mov(dword_ptr(rbx + 0x100), ecx)?;
        a.mov(dword_ptr(rbx), ecx)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(rsi), ecx)?;
        a.jb(wait)?;
        a.cmp(dword_ptr(rsi + 0x100), ecx)?;
        a.jb(bad)?;
        // Dekker: of two that announce themselves and look, one at least sees the other.
        a.mov(dword_ptr(rbx + 0x200), ecx)?;
        if me == 0 {
            a.mfence()?
        } else {
            a.lock().or(dword_ptr(rsp), 0)?
        }
        a.mov(eax, dword_ptr(rsi + 0x200))?;
        a.mov(dword_ptr(rbx + rcx * 8 + notes), eax)?;
        a.cmp(ecx, 4000)?;
        a.jb(round)?;
        a.mov(eax, 1)?;
        a.jmp(out)?;
        a.set_label(&mut bad)?;
        a.xor(eax, eax)?;
        a.set_label(&mut out)?;
        a.hlt()
    };
    for options in engines() {
        let (machine, results) = together(2, options, nothing, code);
        assert_eq!(results, [1; 2], "0: a flag overtook its data");
        for round in 1..=4000u64 {
            let seen = [0, 4].map(|by| machine.bytes(DATA + by + 0x1_0000 + round * 8, 4));
            let seen = seen.map(|bytes| u64::from(u32::from_le_bytes(bytes.try_into().unwrap())));
            assert!(seen[0] >= round || seen[1] >= round, "round {round}: neither saw the other: {seen:?}");
        }
    }
}

/// SDM 3A "Handling Self- and Cross-Modifying Code": the writer stores the code, then a flag; the reader sees the flag,
/// serialises, and runs the new code.
#[test]
fn cross_modifying_code() {
    let (function, flag) = (KERNEL_CODE + 0x20_003f, DATA);
    for cpus in 2..=4 {
        let place = |m: &mut Machine| m.write(function, &[0xb8, 0, 0, 0, 0, 0xc3]);
        let code: &Code<'_> = &|a, me| {
            let (mut again, mut bad, mut delay) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(rdi, function)?;
            a.mov(rsi, flag)?;
            if me == 0 {
                a.xor(ecx, ecx)?;
                a.set_label(&mut again)?;
                a.inc(ecx)?;
                a.mov(dword_ptr(rdi + 1), ecx)?;
                a.mov(dword_ptr(rsi), ecx)?;
                a.mov(edx, ecx)?;
                a.and(edx, 63)?;
                a.set_label(&mut delay)?;
                a.dec(edx)?;
                a.jns(delay)?;
                a.cmp(ecx, 20_000)?;
                a.jne(again)?;
                a.mov(eax, 1)?;
                return a.hlt();
            }
            a.set_label(&mut again)?;
            a.mov(ebp, dword_ptr(rsi))?;
            // No branch between the flag and the code.
            a.xor(eax, eax)?;
            a.cpuid()?;
            a.call(rdi)?;
            a.cmp(eax, ebp)?;
            a.jb(bad)?;
            a.cmp(ebp, 20_000)?;
            a.jne(again)?;
            a.mov(eax, 1)?;
            a.hlt()?;
            a.set_label(&mut bad)?;
            a.xor(eax, eax)?;
            a.hlt()
        };
        for options in engines() {
            let (_, results) = together(cpus, options, place, code);
            assert_eq!(results, vec![1; cpus], "0: old code ran");
        }
    }
}

/// Pages that become code and data by turns, for all CPUs at once: each writes a function into its own granule of shared
/// pages, calls it, and looks at its result.
#[test]
fn pages_become_code_and_data_by_turns() {
    let code: &Code<'_> = &|a, me| {
        let (mut again, mut page, mut bad) = (a.create_label(), a.create_label(), a.create_label());
        let granule = 64 * me as u64;
        a.mov(ecx, 1500)?;
        a.set_label(&mut again)?;
        a.mov(rbx, KERNEL_CODE + 0x10_0000 + granule)?;
        a.set_label(&mut page)?;
        // mov eax, imm32; ret: bytes as data, then as code.
        a.mov(byte_ptr(rbx), 0xb8u32 as i32)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.mov(byte_ptr(rbx + 5), 0xc3u32 as i32)?;
        a.call(rbx)?;
        a.cmp(eax, ecx)?;
        a.jne(bad)?;
        a.lock().inc(dword_ptr(rbx - granule as i32 + 0x800))?;
        a.mov(qword_ptr(rbx), 0)?;
        a.add(rbx, 0x1000)?;
        a.test(rbx, 0x7000)?;
        a.jne(page)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.mov(eax, 1)?;
        a.hlt()?;
        a.set_label(&mut bad)?;
        a.xor(eax, eax)?;
        a.hlt()
    };
    // Translating each version at once would take too long.
    let later = Options { jit: Some(Translate::default()), ..Options::default() };
    for (cpus, options) in [(2, Options::default()), (4, Options::default()), (4, later)] {
        let (machine, results) = together(cpus, options, nothing, code);
        assert_eq!(results, vec![1; cpus], "0: a CPU ran another function than it wrote");
        for page in 0..8 {
            let count = machine.read_u64(KERNEL_CODE + 0x10_0000 + 0x1000 * page + 0x800);
            assert_eq!(count, 1500 * cpus as u64, "page {page}");
        }
    }
}

/// A device writes code that several CPUs have decoded, whole pages of it and a part.
#[test]
fn a_device_writes_code() {
    engines().into_iter().for_each(device_writes);
}

fn device_writes(options: Options) {
    let mut machine = Machine::new(Options { cpus: 1, ..options });
    let mut other = machine.another_cpu(1, options);
    let function = KERNEL_CODE + 0x1ffe;
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.call(KERNEL_CODE + 0xf00)?;
        a.hlt()
    }));
    for version in 1..50u32 {
        // It lies in two pages: mov eax, imm32; ret.
        let mut bytes = vec![0x90; 0x1800];
        let at = (function - KERNEL_CODE - 0xf00) as usize;
        bytes[at] = 0xb8;
        bytes[at + 1..at + 5].copy_from_slice(&version.to_le_bytes());
        bytes[at + 5] = 0xc3;
        let (from, bytes) = match version % 2 {
            0 => (at + 1, &bytes[at + 1..at + 5]),
            _ => (0, &bytes[..]),
        };
        let start = KERNEL_CODE + 0xf00 + from as u64;
        machine.ram().memory().write_slice(bytes, GuestAddress(start)).unwrap();
        machine.ram().written(start, bytes.len() as u64);
        for cpu in [&mut machine.cpu, &mut other] {
            let mut state = cpu.state();
            state.rip = KERNEL_CODE;
            state.activity = Activity::Active;
            cpu.set_state(&state);
            assert_eq!(cpu.run(), Exit::Halted);
            assert_eq!(cpu.state().gpr[0], u64::from(version));
        }
    }
    // Addresses that are no RAM, and the last there is.
    machine.ram().written(0x4000_0000, 0x10_0000);
    machine.ram().written(u64::MAX - 5, 100);
}
